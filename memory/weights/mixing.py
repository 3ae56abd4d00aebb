"""Mixing data sets, so that learning the new does not cost the old: joining, replay, rehearsal, budgets."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TypeVar

from evolvent.memory.weights.dataset import DataSet, Example, ordered, said

T = TypeVar("T")


def join(name: str, *sets: DataSet) -> DataSet:
    """All of them as one, each thing said once; see `dataset.ordered`.

    Raises:
        BadDataSetError: some are examples and some are preferences.
    """
    return ordered(name, (item for each in sets for item in each.items))


def replay(new: DataSet, old: DataSet, share: float, seed: int, *, name: str = "") -> DataSet:
    """The new set, with so many of the old as make up `share` of the whole; all of the old where there are fewer.

    Which, is drawn without replacement from those that the new set does not hold; they are tagged `replay`.

    Args:
        share: in [0, 1).
        name: by default that of the new set.

    Raises:
        ValueError: a share outside [0, 1).
        BadDataSetError: one holds examples and the other preferences.
    """
    if not 0 <= share < 1:
        raise ValueError(f"share is {share!r}; expected the replayed part of the whole, from 0 to below 1.")
    known = {said(item) for item in new.items}
    fresh = [item for item in ordered(old.name, old.items).items if said(item) not in known]
    wanted = min(round(len(new) * share / (1 - share)), len(fresh))
    drawn = random.Random(f"replay/{seed}").sample(fresh, wanted)
    return ordered(name or new.name, (*new.items, *(replace(item, source="replay") for item in drawn)))


def rehearsal(
    exchanges: Iterable[tuple[str, str]], *, name: str = "rehearsal", instructions: str = "", weight: float = 1.0
) -> DataSet:
    """What the model can do already, kept in practice: (asked, answered) texts, which no episode stands behind.

    In self-synthesized rehearsal (arXiv 2403.01244) the model itself wrote both before it was trained.
    """
    system = ({"role": "system", "content": instructions},) if instructions else ()
    return ordered(
        name,
        (
            Example((*system, {"role": "user", "content": asked}), answered, weight, source="rehearsal")
            for asked, answered in exchanges
        ),
    )


def budgeted(new: Sequence[T], old: Sequence[Sequence[T]], *, batches: int, size: int, seed: int) -> list[list[T]]:
    """So many batches however many tasks there were: half of each is new, the other half from earlier tasks.

    An old place draws a task first, all equally likely, then one of its items (ConPET, arXiv 2309.14763). New items
    come round and round in a shuffled order. Without earlier tasks all is new; of an odd size, new has one more.

    Args:
        old: items of each earlier task, none of them empty.
    """
    rng = random.Random(f"budget/{seed}")
    fresh = size - size // 2 if old else size
    round_: list[T] = []
    found = []
    for _ in range(batches):
        batch = []
        for _ in range(fresh):
            round_ = round_ or rng.sample(new, len(new))
            batch.append(round_.pop())
        found.append(batch + [rng.choice(rng.choice(old)) for _ in range(size - fresh)])
    return found
