"""Plays the paired validation episodes that decide about a candidate; `memory/gate.py` judges them.

Both sides of a pair share task, seed and random draws; one recalls the candidate beside the active rules, the other
does not. Only tasks inside the candidate's scope are played.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from evolvent.agents.context import Context
from evolvent.agents.episode import Job
from evolvent.agents.rollout import Episode
from evolvent.agents.solutions.act import Policy
from evolvent.environments.types import Task
from evolvent.memory.gate import Evidence, judge
from evolvent.memory.types import Record

BATCH = 4
"""Pairs played at once between two looks."""

SeatsWith = Callable[[tuple[str, ...]], Mapping[str, Policy]]
"""Policies by seat with these records forced into memory."""


async def try_candidate(
    context: Context,
    record: Record,
    seats: SeatsWith,
    tasks: Sequence[Task],
    *,
    generation: int,
    level: float,
    most: int,
    arm: str = "without",
    differences: Callable[[Sequence[float]], Sequence[float]] = lambda outcomes: outcomes,
) -> Evidence:
    """The evidence for one candidate, stopped as soon as it is decided.

    Args:
        tasks: validation tasks; those outside the record's scope are passed over.
        arm: names the side without; candidates tried against the same memory share its episodes.
        differences: what becomes of the outcomes before they are judged (an ablation may shuffle them).
    """
    inside = [task for task in tasks if set(record.scope.tags) <= set(task.tags)][:most]
    outcomes: list[float] = []
    dropped = 0
    evidence = judge(outcomes, at=level, most=len(inside))
    for start in range(0, len(inside), BATCH):
        batch = inside[start : start + BATCH]
        sides = (((record.id,), f"with-{record.id}"), ((), arm))
        jobs = [
            Job(task, seats(forced), "gate", generation, arm=side, seed=context.seed)
            for task in batch
            for forced, side in sides
        ]
        episodes = await context.rollouts.run(context.objective.environment, jobs)
        for with_it, without in zip(episodes[::2], episodes[1::2], strict=True):
            scores = _score(with_it, record), _score(without, record)
            if scores[0] is None or scores[1] is None:
                dropped += 1
            else:
                outcomes.append(scores[0] - scores[1])
        evidence = judge(differences(outcomes), at=level, most=len(inside) - dropped, dropped=dropped)
        if evidence.verdict != "open":
            break
    return evidence


def _score(episode: Episode, record: Record) -> float | None:
    """Of the seats the record is for; None when infrastructure failed."""
    if any(each.outcome.failure for each in episode):
        return None
    seats = [each for each in episode if record.scope.player in ("", each.player)]
    return sum(each.outcome.score for each in seats) / len(seats)
