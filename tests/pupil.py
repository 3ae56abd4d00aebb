"""A scripted model with real weights behind it: what it says follows a script, what it is trained to is trained.

Trainings, adapters and canaries are those of a tiny Llama, so everything a recipe does with weights is done for real;
only whether an answer is right does not depend on them. The script is told which adapter speaks, and may know more with
one than without.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.messages.ai import UsageMetadata
from langchain_core.outputs import ChatGeneration, ChatResult
from pydantic import PrivateAttr

from evolvent.agents.models.local import LocalChatModel
from evolvent.agents.models.protocol import Scores


@dataclass(frozen=True)
class Asked:
    """One request, and what it got."""

    adapter: str
    """Full name of the adapter on top; empty for the base."""
    messages: tuple[tuple[str, str], ...]
    """(type, text) of each."""
    reply: str
    temperature: float
    seed: int


Script = Callable[[Sequence[BaseMessage], str, int, float], str]
"""(messages, full name of the adapter, seed, temperature) -> reply."""
Score = Callable[[Sequence[BaseMessage], Sequence[str], str], list[float]]
"""(messages, options, full name of the adapter) -> a log-probability for each."""


class Pupil(BaseChatModel):
    """
    Args:
        path: weights that `tiny_llama.write_base` wrote.
        script: what it writes.
        score: how it chooses among options; None refuses.
    """

    path: str
    script: Script
    score: Score | None = None
    adapter: str = ""
    _real: LocalChatModel = PrivateAttr()
    _asked: list[Asked] = PrivateAttr(default_factory=list)

    def model_post_init(self, context: Any, /) -> None:
        super().model_post_init(context)
        self._real = LocalChatModel(path=self.path)

    @property
    def _llm_type(self) -> str:
        return "pupil"

    @property
    def asked(self) -> list[Asked]:
        """Every request to it and to those it became, in order."""
        return self._asked

    def with_adapter(self, folder: str | Path) -> Pupil:
        view = self.model_copy(update={"adapter": Path(folder).name})
        view._real = self._real.with_adapter(folder)
        view._asked = self._asked
        return view

    async def logprobs(self, messages: Sequence[BaseMessage], continuations: Sequence[str]) -> Scores:
        """A single continuation is a canary, and scored by the weights."""
        if len(continuations) == 1:
            return await self._real.logprobs(messages, continuations)
        if self.score is None:
            raise ValueError(f"{len(continuations)} options; this pupil has no `score`.")
        scores = self.score(messages, continuations, self.adapter)
        best = max(range(len(continuations)), key=lambda i: scores[i])
        self._keep(messages, continuations[best], 0, 0.0)
        return Scores(tuple((each,) for each in scores), len(str(messages[-1].text)) // 4)

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        *,
        temperature: float = 0.0,
        seed: int = 0,
        **kwargs: Any,
    ) -> ChatResult:
        reply = self.script(messages, self.adapter, seed, temperature)
        self._keep(messages, reply, seed, temperature)
        words = len(reply.split())
        usage = UsageMetadata(input_tokens=10, output_tokens=words, total_tokens=10 + words)
        return ChatResult(generations=[ChatGeneration(message=AIMessage(reply, usage_metadata=usage))])

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        await asyncio.sleep(0)  # concurrent calls interleave, as those of a server do
        return self._generate(messages, stop, **kwargs)

    def _keep(self, messages: Sequence[BaseMessage], reply: str, seed: int, temperature: float) -> None:
        told = tuple((message.type, str(message.text)) for message in messages)
        self._asked.append(Asked(self.adapter, told, reply, temperature, seed))
