"""Plays the paired validation episodes that decide about a record; `memory/gate.py` judges them.

Both sides of a pair share task, seed and random draws, and differ in one record. A candidate is recalled beside what is
active or not at all; an active rule that is tried again is recalled as ever or barred. Only tasks inside the record's
scope are played. The side that is memory as it stands is played once for all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from evolvent.agents.context import Context
from evolvent.agents.episode import Job
from evolvent.agents.rollout import Episode
from evolvent.agents.solutions.act import Policy
from evolvent.environments.types import Task
from evolvent.memory.gate import Evidence, Worth, judge, still_worth
from evolvent.memory.types import Record

BATCH = 4
"""Pairs played at once between two looks."""


@dataclass(frozen=True, slots=True)
class Side:
    """One half of every pair."""

    arm: str
    """Names its episodes; sides of one name share them."""
    seats: Mapping[str, Policy]


def tests_so_far(context: Context) -> tuple[int, int]:
    """(candidates tested, candidates promoted) in this run so far, for the bound on its false discoveries.

    A verdict that was reverted by hand still was a test; a promotion that was reverted is none.
    """
    ledger = context.memory.ledger
    tested = [e for commit in ledger.commits() for e in ledger.events_of(commit.id) if "gate" in e.payload]
    return len(tested), sum(event.kind == "activate" and "gate" in event.payload for event in ledger.events())


async def try_candidate(
    context: Context,
    record: Record,
    with_it: Side,
    without: Side,
    tasks: Sequence[Task],
    *,
    generation: int,
    level: float,
    most: int,
    differences: Callable[[Sequence[float]], Sequence[float]] = lambda outcomes: outcomes,
) -> Evidence:
    """The evidence for one candidate, stopped as soon as it is decided.

    Args:
        tasks: validation tasks; those outside the record's scope are passed over.
        differences: what becomes of the outcomes before they are judged (an ablation may shuffle them).
    """

    def look(outcomes: Sequence[float], playable: int) -> Evidence:
        dropped = len(inside) - playable
        return judge(differences(outcomes), at=level, most=playable, dropped=dropped)

    inside = _inside(record, tasks)[:most]
    outcomes: list[float] = []
    evidence = look(outcomes, len(inside))
    played = 0
    while evidence.verdict == "open":
        batch = inside[played : played + BATCH]
        outcomes += await _pairs(context, record, with_it, without, batch, generation)
        played += len(batch)
        evidence = look(outcomes, len(inside) - (played - len(outcomes)))
    return evidence


@dataclass(frozen=True, slots=True)
class Retrial:
    """What came of trying an active rule again."""

    worth: Worth
    pairs: int
    mean: float
    """Mean difference of scores, with minus without, in [-1, 1]."""


async def try_again(
    context: Context,
    record: Record,
    with_it: Side,
    without: Side,
    tasks: Sequence[Task],
    *,
    generation: int,
    minimum: float,
    most: int,
) -> Retrial:
    """Whether an active rule that dropout casts doubt on still earns its place."""
    inside = _inside(record, tasks)[:most]
    outcomes: list[float] = []
    worth: Worth = "open"
    for start in range(0, len(inside), BATCH):
        outcomes += await _pairs(context, record, with_it, without, inside[start : start + BATCH], generation)
        worth = still_worth(outcomes, minimum=minimum)
        if worth != "open":
            break
    return Retrial(worth, len(outcomes), sum(outcomes) / len(outcomes) if outcomes else 0.0)


async def _pairs(
    context: Context, record: Record, with_it: Side, without: Side, tasks: Sequence[Task], generation: int
) -> list[float]:
    """Score with minus score without, by task; a pair that infrastructure failed is left out."""
    jobs = [
        Job(task, side.seats, "gate", generation, arm=side.arm, seed=context.seed)
        for task in tasks
        for side in (with_it, without)
    ]
    episodes = await context.rollouts.run(context.objective.environment_at(generation), jobs)
    scores = [
        (_score(one, record), _score(other, record)) for one, other in zip(episodes[::2], episodes[1::2], strict=True)
    ]
    return [one - other for one, other in scores if one is not None and other is not None]


def _inside(record: Record, tasks: Sequence[Task]) -> list[Task]:
    return [task for task in tasks if set(record.scope.tags) <= set(task.tags)]


def _score(episode: Episode, record: Record) -> float | None:
    """Of the seats the record is for; None when infrastructure failed."""
    if any(each.outcome.failure for each in episode):
        return None
    seats = [each for each in episode if record.scope.player in ("", each.player)]
    return sum(each.outcome.score for each in seats) / len(seats)
