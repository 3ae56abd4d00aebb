"""Success against failure: two attempts that did different things in one situation, and were not equally good.

The pair is what a lesson can be learned from; a single outcome is not, for it says nothing of the alternative.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations

from evolvent.environments.types import Experience, Step


@dataclass(frozen=True, slots=True)
class Contrast:
    better: Experience
    worse: Experience
    better_step: int
    worse_step: int
    margin: float
    """How much better, in (0, 1]: of the step's reward where it tells them apart, else of the whole score."""

    @property
    def good(self) -> Step:
        return self.better.trajectory.steps[self.better_step]

    @property
    def bad(self) -> Step:
        return self.worse.trajectory.steps[self.worse_step]

    @property
    def situation(self) -> str:
        """What both attempts faced: the observation's frame, or its text in a world without frames."""
        return situation(self.good)


def situation(step: Step) -> str:
    return step.observation.frame if step.observation.frame != "{action}" else step.observation.text


def contrasts(experiences: Sequence[Experience]) -> list[Contrast]:
    """All pairs of one seat's attempts at one task, and, where these leave a situation without a pair, of any tasks.

    Order is that of the experiences. Attempts that infrastructure failed take no part.
    """
    sound = [each for each in experiences if each.feedback.score is not None]
    pairs = [
        found
        for one, other in combinations(sound, 2)
        if one.task.id == other.task.id and one.trajectory.player == other.trajectory.player
        for found in _between(one, other)
    ]
    covered = {pair.situation for pair in pairs}
    for one, other in combinations(sound, 2):
        if one.task.id != other.task.id and one.trajectory.player == other.trajectory.player:
            new = [found for found in _between(one, other, whole=False) if found.situation not in covered]
            pairs += new
            covered |= {found.situation for found in new}
    return pairs


def _between(one: Experience, other: Experience, *, whole: bool = True) -> Iterable[Contrast]:
    """Contrasts of two attempts: every common situation whose reward differs, else where they first parted.

    With `whole` unset only rewards of steps count: whole scores of different tasks do not compare.
    """
    here = {situation(step): index for index, step in reversed(list(enumerate(one.trajectory.steps)))}
    there = {situation(step): index for index, step in reversed(list(enumerate(other.trajectory.steps)))}
    parted = False
    found = []
    for key, i in sorted(here.items(), key=lambda item: item[1]):
        if key not in there:
            continue
        a, b = one.trajectory.steps[i], other.trajectory.steps[there[key]]
        if a.reply == b.reply:
            continue
        if a.reward != b.reward:
            found.append(_ordered(one, other, i, there[key], a.reward - b.reward))
        elif whole and not parted and not found:
            difference = (one.feedback.score or 0.0) - (other.feedback.score or 0.0)
            unrewarded = not any(s.reward for s in (*one.trajectory.steps[:-1], *other.trajectory.steps[:-1]))
            if difference and unrewarded:
                return [_ordered(one, other, i, there[key], difference)]
        parted = True
    return found


def _ordered(one: Experience, other: Experience, i: int, j: int, difference: float) -> Contrast:
    if difference > 0:
        return Contrast(one, other, i, j, difference)
    return Contrast(other, one, j, i, -difference)
