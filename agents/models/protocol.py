"""What a chat API cannot do, as two small protocols beside langchain-core's `BaseChatModel`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import BaseMessage


@dataclass(frozen=True, slots=True)
class Scores:
    """Answer of a `Scorer` to one request."""

    logprobs: tuple[tuple[float, ...], ...]
    """Per continuation, per token, in nats."""
    tokens_in: int
    """Prompt tokens as sent, cached or not, plus the tokens of the continuations."""


@runtime_checkable
class Scorer(Protocol):
    """Log-probabilities of given continuations of the assistant's next turn.

    - Tokenised at the boundary exactly as generation would: the prompt with its generation header, then the
      continuation from its first character, so a sum is the log-probability that the model writes just that.
    - The end-of-turn token is not scored: a continuation is a prefix of a turn.
    - The answer keeps the order of `continuations`; each is at least one token.

    Raises:
        ValueError: no continuation, an empty one, or a prompt longer than the window.
    """

    async def logprobs(self, messages: Sequence[BaseMessage], continuations: Sequence[str]) -> Scores: ...


@runtime_checkable
class Adaptable(Protocol):
    """A model whose weights can be trained apart, and that serves them with an adapter on top.

    - `path` is the folder, or the hub id, of its weights without any adapter.
    - `with_adapter` gives a model of its own and leaves this one as it is.

    Raises:
        BadAdapterError: the adapter cannot be served on these weights.
    """

    path: str

    def with_adapter(self, folder: str | Path) -> BaseChatModel: ...


@runtime_checkable
class Replaceable(Protocol):
    """A model that can run other full weights of its architecture: a merge that is no adapter.

    - `with_weights` gives a model of its own, loaded, and leaves this one as it is.

    Raises:
        ModelUnavailableError: there are no such weights in the folder.
    """

    def with_weights(self, folder: str | Path) -> BaseChatModel: ...
