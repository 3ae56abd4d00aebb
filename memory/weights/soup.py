"""Model soups (arXiv 2203.05482): which of several runs are averaged, decided by validation alone.

Knows nothing of weights: a caller makes the average of the members it is asked to score.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from evolvent.memory.errors import BadMergeError

T = TypeVar("T", bound=Hashable)


@dataclass(frozen=True, slots=True)
class Tried(Generic[T]):
    members: tuple[T, ...]
    score: float


@dataclass(frozen=True, slots=True)
class Soup(Generic[T]):
    members: tuple[T, ...]
    """The best single one first, then in the order they were added."""
    score: float
    tried: tuple[Tried[T], ...]
    """Each candidate alone, in the order given; then each average, in the order it was tried."""


async def greedy_soup(
    candidates: Sequence[T],
    score: Callable[[tuple[T, ...]], Awaitable[float]],
    *,
    margin: float = 0.0,
    known: Mapping[frozenset[T], float] = {},
) -> Soup[T]:
    """The best candidate, and each other one, best first, that does not make the average worse.

    One pass: of k candidates k are scored alone and k - 1 within an average. The soup's score is never below that of
    the best candidate alone.

    Args:
        candidates: such as the folders of adapters of one base; equal scores keep their order.
        score: of the average of the members on validation episodes, higher is better; never asked twice for one set.
        margin: by how much an average has to be better to be taken. 0 takes one that is as good, as the paper says;
            anything above it demands more, as the released code does, and guards against a small validation set.
        known: scores of earlier calls by the set of members, which are not asked for again: what was `tried` before a
            run was cut off.

    Raises:
        BadMergeError: no candidate, one twice, a negative margin, or a score that is not a number.
    """
    if not candidates or len(set(candidates)) < len(candidates):
        raise BadMergeError(f"Candidates for a soup: {list(candidates)}; expected one or more, each once.")
    if not margin >= 0:
        raise BadMergeError(f"A margin of {margin}; expected 0 or more, or the soup may be worse than its best member.")
    scores = dict(known)
    tried: list[Tried[T]] = []

    async def tried_score(members: tuple[T, ...]) -> float:
        key = frozenset(members)
        if key not in scores:
            scores[key] = await score(members)
        if not math.isfinite(scores[key]):
            raise BadMergeError(f"The score of {list(members)} is {scores[key]}; expected a finite number.")
        tried.append(Tried(members, scores[key]))
        return scores[key]

    alone = [(await tried_score((candidate,)), candidate) for candidate in candidates]
    (best, first), *rest = sorted(alone, key=lambda pair: -pair[0])
    members: tuple[T, ...] = (first,)
    for _, candidate in rest:
        with_it = await tried_score((*members, candidate))
        if with_it >= best + margin:
            members, best = (*members, candidate), with_it
    return Soup(members, best, tuple(tried))
