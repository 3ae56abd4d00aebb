"""The results contract: what any engine must share with the embedded one on the same float32 weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Protocol

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, convert_to_messages
from transformers import AutoTokenizer

from evolvent.agents.models.local import LocalChatModel
from evolvent.agents.models.protocol import Scores
from evolvent.memory.weights.canaries import Canary

PROMPTS = [
    ({"role": "user", "content": "Which metal melts first, tin or iron?"},),
    (
        {"role": "system", "content": "You play a text game. Answer with one action."},
        {"role": "user", "content": "You stand in a shed. There is a door and a rusty key."},
    ),
    ({"role": "user", "content": "Name three colours."},),
]
MESSAGES = [convert_to_messages([dict(message) for message in prompt]) for prompt in PROMPTS]
OPTIONS = ["Tin melts first.", "open the door", "Iron", " take rusty key"]
TOKENS = 16
NEAR_TIE = 0.02
"""Nats between two next tokens that rounding may put in either order."""
OFF = 0.05
"""Nats per token."""


@dataclass(frozen=True)
class Foreign:
    """An adapter that was trained on another, smaller base, and its canaries."""

    adapter: str
    canaries: tuple[Canary, ...]


class ChatScorer(Protocol):
    async def ainvoke(self, messages: list[BaseMessage], /, **settings: object) -> AIMessage: ...
    async def logprobs(self, messages: Sequence[BaseMessage], continuations: Sequence[str]) -> Scores: ...


async def assert_same_results(model: ChatScorer, embedded: LocalChatModel) -> float:
    """Gives the greatest difference of a log-probability, in nats."""
    worst = 0.0
    for messages in MESSAGES:
        await _assert_same_text(model, embedded, messages)
        ours = await embedded.logprobs(messages, OPTIONS)
        theirs = await model.logprobs(messages, OPTIONS)
        assert theirs.tokens_in == ours.tokens_in
        worst = max(worst, difference(ours, theirs))
    assert worst <= OFF
    return worst


def difference(one: Scores, other: Scores) -> float:
    """The greatest of any token."""
    pairs = zip(one.logprobs, other.logprobs, strict=True)
    return max(abs(a - b) for ours, theirs in pairs for a, b in zip(ours, theirs, strict=True))


async def _assert_same_text(model: ChatScorer, embedded: LocalChatModel, messages: list[BaseMessage]) -> None:
    ours, theirs = [await written(each, messages) for each in (embedded, model)]
    if ours == theirs:
        return
    tokenizer = AutoTokenizer.from_pretrained(embedded.path)
    one, other = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in (ours, theirs)]
    same = len(list(takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False))))
    assert same < min(len(one), len(other)), f"One stops where the other goes on: {ours!r} and {theirs!r}"
    forks = [tokenizer.decode(tokens[: same + 1]) for tokens in (one, other)]
    scores = await embedded.logprobs(messages, forks)
    apart = abs(scores.logprobs[0][-1] - scores.logprobs[1][-1])
    assert apart <= NEAR_TIE, f"They part by {apart:.3f} nats at token {same}: {ours!r} and {theirs!r}"


async def written(model: ChatScorer | BaseChatModel, messages: list[BaseMessage]) -> str:
    return str((await model.ainvoke(messages, max_tokens=TOKENS)).text)
