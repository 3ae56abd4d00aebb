"""What training may cost: the tasks a model could do before it, and how well it still expects ordinary prose.

Measure before and after on the same items, then compare them pair by pair. A loss that was not ruled out counts as one.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import fsum
from typing import Literal

from langchain_core.messages import HumanMessage, convert_to_messages

from evolvent.agents.context import Context
from evolvent.agents.episode import Job
from evolvent.agents.evaluation.statistics import paired
from evolvent.agents.models.protocol import Scorer
from evolvent.agents.models.role import RoleModel
from evolvent.agents.solutions.act import Policy
from evolvent.environments.catalog import build_inline
from evolvent.environments.protocol import EnvironmentSpec
from evolvent.memory.types import Interval
from evolvent.memory.weights.dataset import Example

MARGIN = 0.05
"""A loss that is tolerated: in success, or in nats per token."""
_REQUEST = "Write one paragraph."
"""What the prose is scored as an answer to: it says nothing of the subject."""
_AT_ONCE = 8
"""Texts scored together."""
_PROSE = re.compile(r"[A-Z][\w\s.,;:'’\"“”()—–?!-]*[.:]")


@dataclass(frozen=True, slots=True)
class Ability:
    """How well a model does one thing, item by item."""

    items: Mapping[str, float]
    """By task or text."""
    better: Literal["higher", "lower"] = "higher"


def forgetting(before: Mapping[str, Ability], after: Mapping[str, Ability], *, seed: int = 0) -> dict[str, Interval]:
    """What each ability gained by the training: below zero is forgotten, whichever way the ability is counted.

    Means over the items that both measurements have, with 95 % bootstrap intervals.

    Raises:
        ValueError: the two measured different abilities.
    """
    if {name: each.better for name, each in before.items()} != {name: each.better for name, each in after.items()}:
        raise ValueError(f"Before: {', '.join(before)}. After: {', '.join(after)}. Measure the same abilities twice.")
    changes = {}
    for name, ability in before.items():
        was, now = (_as_scores(each) for each in (ability, after[name]))
        changes[name] = paired(was, now, seed=seed) if ability.better == "lower" else paired(now, was, seed=seed)
    return changes


def kept(change: Interval, *, margin: float = MARGIN) -> bool:
    """Whether a loss of `margin` or more is ruled out. Not shown is not kept, nor is what one item says."""
    return change.n >= 2 and change.low > -margin


async def success(
    context: Context, model: RoleModel, environment: EnvironmentSpec, *, n: int, arm: str, generation: int = 0
) -> Ability:
    """All-or-nothing success of greedy play without memory, on `n` test tasks. Episodes that failed for reasons of
    infrastructure are left out.

    Args:
        arm: tells this model's episodes from those of others: an episode that the ledger holds is not played again.
    """
    world = build_inline(environment)
    try:
        tasks = world.tasks("test", n, context.seed * 1000)
    finally:
        world.close()
    options = ",".join(f"{name}={value}" for name, value in sorted(environment.options.items()))
    seats = {"": Policy(model)}
    jobs = [
        Job(task, seats, "control", generation, arm=f"{arm}/{environment.name}:{options}", seed=context.seed)
        for task in tasks
    ]
    episodes = await context.rollouts.run(environment, jobs)
    return Ability(
        {
            job.task.id: float(all(seat.outcome.success for seat in episode))
            for job, episode in zip(jobs, episodes, strict=True)
            if not any(seat.outcome.failure for seat in episode)
        }
    )


async def perplexity(model: Scorer, texts: Sequence[str]) -> Ability:
    """Mean negative log-likelihood of each text, in nats per token: the logarithm of its perplexity."""
    nats: dict[str, float] = {}
    for start in range(0, len(texts), _AT_ONCE):
        some = texts[start : start + _AT_ONCE]
        answers = await asyncio.gather(*(model.logprobs([HumanMessage(_REQUEST)], [text]) for text in some))
        for text, answer in zip(some, answers, strict=True):
            (logprobs,) = answer.logprobs
            nats[_digest(text)] = -fsum(logprobs) / len(logprobs)
    return Ability(nats, better="lower")


async def surprise(model: Scorer, examples: Sequence[Example]) -> Ability:
    """Mean negative log-likelihood of each example's completion after its prompt, in nats per token; by prompt."""
    nats: dict[str, float] = {}
    for start in range(0, len(examples), _AT_ONCE):
        some = examples[start : start + _AT_ONCE]
        sent = [convert_to_messages(list(each.messages)) for each in some]
        answers = await asyncio.gather(
            *(model.logprobs(turns, [each.completion]) for turns, each in zip(sent, some, strict=True))
        )
        for each, answer in zip(some, answers, strict=True):
            (logprobs,) = answer.logprobs
            nats[_digest(json.dumps(each.messages))] = -fsum(logprobs) / len(logprobs)
    return Ability(nats, better="lower")


def prose(n: int = 100) -> tuple[str, ...]:
    """`n` paragraphs of 40 to 120 words, those with the fewest names of code: from the reference that comes with Python
    (`pydoc_data`, PSF licence). The same ones always, for one version of Python.

    Raises:
        ValueError: there are not that many.
    """
    from pydoc_data.topics import topics

    paragraphs = (" ".join(each.split()) for text in topics.values() for each in re.split(r"\n\s*\n", text))
    plain = {re.sub(r"\*{1,2}([^*]+)\*{1,2}", r"\1", each) for each in paragraphs}
    found = [each for each in plain if 40 <= len(each.split()) <= 120 and _PROSE.fullmatch(each)]
    if n > len(found):
        raise ValueError(f"This Python's reference has {len(found)} paragraphs of plain prose, not {n}. Ask for fewer.")
    return tuple(sorted(found, key=lambda text: (text.count("_") + text.count('"'), _digest(text)))[:n])


def _as_scores(ability: Ability) -> dict[str, list[float]]:
    return {item: [value] for item, value in ability.items.items()}


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]
