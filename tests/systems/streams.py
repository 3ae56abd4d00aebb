"""A pupil whose words come from a script and whose judgement is its weights', and what a stream did to those."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from langchain_core.messages import BaseMessage
from pupil import Pupil

from evolvent.agents.evaluation.forgetting import surprise
from evolvent.agents.models.local import LocalChatModel
from evolvent.agents.models.protocol import Scores
from evolvent.memory.weights.adapters import Adapter
from evolvent.memory.weights.dataset import Example


class Chooser(Pupil):
    """Writes by its script, and chooses among options by its real weights."""

    async def logprobs(self, messages: Sequence[BaseMessage], continuations: Sequence[str]) -> Scores:
        return await self._real.logprobs(messages, continuations)


def nats(base: str, adapter: Adapter | None, examples: Sequence[Example]) -> float:
    """Per token of the completions, under these weights."""
    model = LocalChatModel(path=base)
    tuned = model.with_adapter(Path(adapter.folder)) if adapter else model
    return fmean(asyncio.run(surprise(tuned, examples)).items.values())
