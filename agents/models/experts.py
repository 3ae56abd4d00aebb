"""A chat model whose answers are classes: `memory/weights/experts.py` behind the interface that episodes call."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from langchain_core.callbacks import CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, convert_to_openai_messages
from langchain_core.outputs import ChatGeneration, ChatResult
from pydantic import PrivateAttr

from evolvent.agents.models.protocol import Scores
from evolvent.memory.compute import computed
from evolvent.memory.weights.dataset import Messages

if TYPE_CHECKING:
    from evolvent.memory.weights.experts import Decision, Experts

_UNKNOWN = -1000.0
"""Log-probability of what is no class yet."""


class ExpertsChatModel(BaseChatModel):
    """
    Args:
        base: folder or hub id of the frozen weights.
        experts: folders, one for each task.
        classes: names of each task's classes, in the order of its expert's outputs.
        selector: None runs all experts.
        top: how many of the selected experts run.
    """

    base: str
    experts: tuple[Path, ...]
    classes: tuple[tuple[str, ...], ...]
    selector: Path | None = None
    top: int = 1
    _loaded: Experts | None = PrivateAttr(default=None)
    _one_at_a_time: threading.Lock = PrivateAttr(default_factory=threading.Lock)

    @property
    def _llm_type(self) -> str:
        return "experts"

    def decide(self, messages: Messages) -> Decision:
        """What is selected and how likely each class is; remembered, and one prompt at a time."""
        from evolvent.memory.weights.experts import Experts

        with self._one_at_a_time:
            if self._loaded is None:
                sizes = [len(each) for each in self.classes]
                self._loaded = Experts(self.base, self.experts, sizes, selector=self.selector, top=self.top)
            return self._loaded.decide(messages)

    async def logprobs(self, messages: Sequence[BaseMessage], continuations: Sequence[str]) -> Scores:
        """One number for each continuation: that of the class of this name."""
        decision = await computed(self.decide, _plain(messages))
        names = [name for each in self.classes for name in each]
        known = dict(zip(names, decision.logprobs, strict=True))
        tokens = sum(len(str(message.text)) for message in messages) // 4
        return Scores(tuple((known.get(each, _UNKNOWN),) for each in continuations), tokens)

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        """The likeliest class of all."""
        decision = self.decide(_plain(messages))
        names = [name for each in self.classes for name in each]
        best = max(zip(decision.logprobs, names, strict=True))[1]
        return ChatResult(generations=[ChatGeneration(message=AIMessage(best))])


def _plain(messages: Sequence[BaseMessage]) -> Messages:
    sent = convert_to_openai_messages(messages)
    return tuple({"role": each["role"], "content": str(each["content"])} for each in sent)
