"""Dual execution agreement (CodeT, arXiv 2207.10397, §2.2): programs and tests vouch for each other.

A pure function of a pass matrix: a row for each sampled program, a column for each sampled test. Both stand in it as
often as they were sampled, so duplicates count by themselves. No model, no label, nothing is run here.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

SolutionWeight = Literal["sqrt", "count"]
"""What members weigh in a group's score: the released code takes the square root, the paper's formula the count."""


@dataclass(frozen=True, slots=True)
class Group:
    """Programs that pass exactly the same tests."""

    solutions: tuple[int, ...]
    """Places of its members."""
    tests: tuple[int, ...]
    """Places of the tests that all of them pass; at least one."""
    score: float


def agreement(passes: Sequence[Sequence[bool]], weight: SolutionWeight = "sqrt") -> list[Group]:
    """The groups, best first; of equal scores, the one seen first. A program that passes nothing is in none."""
    members: defaultdict[tuple[int, ...], list[int]] = defaultdict(list)
    for place, row in enumerate(passes):
        passed = tuple(test for test, held in enumerate(row) if held)
        if passed:
            members[passed].append(place)
    groups = [Group(tuple(found), tests, _score(len(found), len(tests), weight)) for tests, found in members.items()]
    return sorted(groups, key=lambda group: -group.score)


def best(groups: Sequence[Group]) -> tuple[int, ...]:
    """Places of the programs in the best group, and in every group that ties with it; none where there is no group."""
    return tuple(place for group in groups if group.score == groups[0].score for place in group.solutions)


def _score(solutions: int, tests: int, weight: SolutionWeight) -> float:
    return (math.sqrt(solutions) if weight == "sqrt" else solutions) * tests
