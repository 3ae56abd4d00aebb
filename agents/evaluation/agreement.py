"""How far a judge agrees with the truth, or with another judge."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Agreement:
    share: float
    """Of the items on which both say the same."""
    kappa: float | None
    """Cohen's (1960): 1 is full agreement, 0 what two who guess by their own habits come to. None where each of them
    said one and the same thing of every item."""
    n: int
    """Items on which both said something."""


def agreement(one: Mapping[str, str], other: Mapping[str, str]) -> Agreement:
    """Of verdicts by item; whatever is no verdict counts as one of its own kind."""
    both = sorted(set(one) & set(other))
    if not both:
        return Agreement(0.0, None, 0)
    n, same = len(both), sum(one[item] == other[item] for item in both)
    habits, others = Counter(one[item] for item in both), Counter(other[item] for item in both)
    by_chance = sum(habits[verdict] * others[verdict] for verdict in habits) / n**2
    kappa = None if by_chance == 1 else (same / n - by_chance) / (1 - by_chance)
    return Agreement(same / n, kappa, n)
