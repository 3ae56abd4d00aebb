"""Models that say what a script tells them: for tests, and for trying a recipe without any weights."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml
from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.messages.ai import UsageMetadata
from langchain_core.outputs import ChatGeneration, ChatResult
from pydantic import BaseModel, ConfigDict, PrivateAttr, ValidationError

from evolvent.agents.errors import ModelUnavailableError
from evolvent.agents.models.protocol import Scores

Messages = Sequence[BaseMessage]


class UnscriptedError(AssertionError):
    """A request the script has no reply for."""


class ScriptedChatModel(BaseChatModel):
    """Replies from a list in order or by a function of the prompt (see `by_rules`), and keeps what it was asked.

    Raises:
        UnscriptedError: from a call that is one too many for the list.
    """

    replies: Sequence[str] | Callable[[Messages], str]
    latency_s: float = 0.0
    """Waited before each reply, as a server would let one wait."""

    _requests: list[list[BaseMessage]] = PrivateAttr(default_factory=list)

    def __init__(self, replies: Sequence[str] | Callable[[Messages], str], **settings: Any) -> None:
        super().__init__(**{"replies": replies, **settings})

    @property
    def _llm_type(self) -> str:
        return "evolvent-scripted"

    @property
    def requests(self) -> list[list[BaseMessage]]:
        """The messages of every call so far, in order."""
        return self._requests

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        result = self._answer(messages)
        time.sleep(self.latency_s)
        return result

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        result = self._answer(messages)
        if self.latency_s:
            await asyncio.sleep(self.latency_s)
        return result

    def _answer(self, messages: list[BaseMessage]) -> ChatResult:
        self._requests.append(list(messages))
        reply = self._reply(messages)
        tokens_in, tokens_out = sum(len(m.text.split()) for m in messages), len(reply.split())
        usage = UsageMetadata(input_tokens=tokens_in, output_tokens=tokens_out, total_tokens=tokens_in + tokens_out)
        return ChatResult(generations=[ChatGeneration(message=AIMessage(reply, usage_metadata=usage))])

    def _reply(self, messages: Messages) -> str:
        if callable(self.replies):
            return self.replies(messages)
        turn = len(self._requests)
        if turn > len(self.replies):
            raise UnscriptedError(f"Call {turn} is one too many for {len(self.replies)} replies: {_text(messages)!r}")
        return self.replies[turn - 1]


class ScriptedScorer(ScriptedChatModel):
    """A scripted model that is a `Scorer` too: `score` gives the log-probability of each continuation, as one token."""

    score: Callable[[Messages, Sequence[str]], Sequence[float]]

    async def logprobs(self, messages: Messages, continuations: Sequence[str]) -> Scores:
        if not continuations or not all(continuations):
            raise ValueError(f"Continuations {list(continuations)!r}; expected one or more, none of them empty.")
        self._requests.append(list(messages))
        if self.latency_s:
            await asyncio.sleep(self.latency_s)
        logprobs = tuple((value,) for value in self.score(messages, continuations))
        words = sum(len(message.text.split()) for message in messages)
        return Scores(logprobs, words + sum(len(text.split()) for text in continuations))


def by_rules(rules: Sequence[tuple[str, str]], default: str | None = None) -> Callable[[Messages], str]:
    """Replies of the first rule (pattern, reply) whose pattern is found in the prompt, messages joined by newlines.

    The function raises UnscriptedError where none is found and there is no default.
    """
    compiled = [(re.compile(pattern), reply) for pattern, reply in rules]

    def reply_to(messages: Messages) -> str:
        prompt = _text(messages)
        found = next((reply for pattern, reply in compiled if pattern.search(prompt)), default)
        if found is None:
            raise UnscriptedError(f"None of {len(compiled)} rules matches the prompt: {prompt!r}")
        return found

    return reply_to


class _Rule(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    match: str
    reply: str


class _Script(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    rules: tuple[_Rule, ...] = ()
    default: str | None = None


def from_file(path: Path) -> ScriptedChatModel:
    """A model by the rules of a YAML or JSON file: `{rules: [{match: REGEX, reply: TEXT}], default: TEXT}`.

    Raises:
        ModelUnavailableError: the file cannot be read or is no such script.
    """
    try:
        script = _Script.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
        return ScriptedChatModel(by_rules([(rule.match, rule.reply) for rule in script.rules], script.default))
    except (OSError, UnicodeDecodeError, yaml.YAMLError, ValidationError, re.error) as error:
        raise ModelUnavailableError(
            f"{path} is no script: {' '.join(str(error).split())}. "
            "Expected {rules: [{match: REGEX, reply: TEXT}], default: TEXT}."
        ) from error


def _text(messages: Messages) -> str:
    return "\n".join(str(message.text) for message in messages)
