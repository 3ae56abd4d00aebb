"""What memory may let go of: policies that give `retire` events for one commit, undone by reverting it.

    policy(records, last_used, now, ...) -> list[Event]

A policy looks at live records of the kinds it is told, by default all that was learned: trajectories are raw evidence
and go only when they are asked for by kind. Time is a whole number on the caller's clock, generations or episodes
played so far; `last_used` gives the other end of it. No policy reads a clock of its own, so the same memory forgets the
same.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Literal

from evolvent.environments.types import Phase
from evolvent.memory.ledger import Ledger
from evolvent.memory.retrieval import LIVE
from evolvent.memory.types import LEARNED, Event, Kind, Record

Clock = Literal["generation", "episode"]
LastUsed = Mapping[str, int]
"""Time by record id."""


def last_used(
    records: Mapping[str, Record], ledger: Ledger, *, clock: Clock = "generation", phase: Phase = "train"
) -> dict[str, int]:
    """When each record last stood in a prompt of that phase, or was learned if it never did.

    On the clock `episode`, time is the number of episodes of the phase; what was learned in a generation was learned at
    its end. Training only, because asking about memory must not change it: evaluations keep nothing alive.
    """
    shown, until = ledger.last_shown(phase), ledger.episodes_until(phase)

    def learned(record: Record) -> int:
        if clock == "generation":
            return record.generation
        return max((count for generation, count in until.items() if generation <= record.generation), default=0)

    return {
        key: max(learned(record), getattr(shown[key], clock)) if key in shown else learned(record)
        for key, record in records.items()
    }


def retention(since: float, recalls: int, *, span: float = 1.0) -> float:
    """Share of a memory that is left after `since` without recall, in [0, 1]: exp(-t / S).

    Ebbinghaus' curve as in MemoryBank (arXiv 2305.10250, section 2.3): strength S is 1 when something is learned and
    grows by 1 with each recall, which also sets t back to 0. `span` is the time in which a strength of 1 falls to 1/e.

    The authors' code computes exp(-t / 5 * S), which forgets strong memories first. Here t is divided by S, as in the
    paper: retention falls with time and rises with strength.

    Raises:
        ValueError: `span` is not above 0.
    """
    if span <= 0:
        raise ValueError(f"span is {span}; expected a time above 0, on the clock that the policy is told.")
    return math.exp(-max(since, 0.0) / (span * (1 + recalls)))


def ebbinghaus(
    records: Mapping[str, Record],
    last_used: LastUsed,
    now: int,
    *,
    threshold: float = 0.1,
    span: float = 1.0,
    kinds: Collection[Kind] = LEARNED,
) -> list[Event]:
    """Forgets what has a `retention` below `threshold`."""
    return _faded(records, last_used, now, span, kinds, lambda record: threshold)


def ebbinghaus_by_chance(
    records: Mapping[str, Record],
    last_used: LastUsed,
    now: int,
    *,
    seed: int,
    span: float = 1.0,
    kinds: Collection[Kind] = LEARNED,
) -> list[Event]:
    """Keeps each record with a probability of its `retention`, as the paper does.

    The draw comes from (seed, record, now), so a step that is repeated forgets the same. Each call is another draw, so
    it matters how often it is called; the paper's unit is a day, and a call a day.
    """
    return _faded(
        records, last_used, now, span, kinds, lambda record: random.Random(f"{seed}/{record.id}/{now}").random()
    )


def least_recently_used(
    records: Mapping[str, Record],
    last_used: LastUsed,
    now: int,
    *,
    capacity: int,
    kinds: Collection[Kind] = LEARNED,
) -> list[Event]:
    """Keeps the `capacity` records used last; of those used at the same time, the ones recalled more often."""
    return _beyond(
        capacity, _live(records, kinds), "least recently used", lambda each: (last_used[each.id], each.recalls)
    )


def over_capacity(
    records: Mapping[str, Record],
    last_used: LastUsed,
    now: int,
    *,
    capacity: int,
    kinds: Collection[Kind] = LEARNED,
) -> list[Event]:
    """Keeps the `capacity` records that are worth most: proved before unproved, then by lift, recalls and last use.

    A record without a measured lift counts as one of lift 0.
    """
    return _beyond(
        capacity,
        _live(records, kinds),
        "over capacity",
        lambda each: (
            each.status == "active",
            each.lift.mean if each.lift else 0.0,
            each.recalls,
            last_used[each.id],
        ),
    )


def not_worth_it(
    records: Mapping[str, Record],
    last_used: LastUsed,
    now: int,
    *,
    minimum: float = 0.02,
    kinds: Collection[Kind] = LEARNED,
) -> list[Event]:
    """Forgets what was shown to gain less than `minimum`: the upper end of its lift's interval is below it.

    The interval in a record is the ordinary one. To decide after every episode, use the sequential test of `gate.py`.
    """
    return [
        _retired(record, "not worth it", lift=[record.lift.low, record.lift.high], minimum=minimum)
        for record in _live(records, kinds)
        if record.lift is not None and record.lift.high < minimum
    ]


def _faded(
    records: Mapping[str, Record],
    last_used: LastUsed,
    now: int,
    span: float,
    kinds: Collection[Kind],
    least: Callable[[Record], float],
) -> list[Event]:
    left = {each.id: retention(now - last_used[each.id], each.recalls, span=span) for each in _live(records, kinds)}
    return [
        _retired(records[key], "forgotten", retention=round(share, 6), last_used=last_used[key], now=now)
        for key, share in left.items()
        if share < least(records[key])
    ]


def _beyond(
    capacity: int, records: Sequence[Record], reason: str, worth: Callable[[Record], tuple[float, ...]]
) -> list[Event]:
    """Retires all but the `capacity` records of most worth; ties go by id."""
    if capacity < 0:
        raise ValueError(f"capacity is {capacity}; expected 0 or more records to keep.")
    by_id = sorted(records, key=lambda record: record.id)
    ranked = sorted(by_id, key=worth, reverse=True)
    return [_retired(record, reason, capacity=capacity) for record in ranked[capacity:]]


def _live(records: Mapping[str, Record], kinds: Collection[Kind]) -> list[Record]:
    return [record for record in records.values() if record.status in LIVE and record.kind in kinds]


def _retired(record: Record, reason: str, **evidence: float | int | list[float]) -> Event:
    return Event("retire", record.id, payload={"reason": reason, **evidence})
