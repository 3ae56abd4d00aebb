"""Outcomes put in the wrong places: the ablation that shows whether anything was learned from them at all."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace

from evolvent.agents.context import Context
from evolvent.environments.types import Experience


def shuffled(experiences: Sequence[Experience], rng: random.Random) -> list[Experience]:
    """The same experiences with their outcomes permuted: rewards and answers among steps, scores among trajectories."""
    sound = [each for each in experiences if each.feedback.score is not None]
    steps = [step for each in sound for step in each.trajectory.steps]
    answers = [(step.reward, step.result) for step in steps]
    outcomes = [(each.trajectory.outcome, each.feedback) for each in sound]
    rng.shuffle(answers)
    rng.shuffle(outcomes)
    dealt = iter(answers)
    result = []
    for each, (outcome, feedback) in zip(sound, outcomes, strict=True):
        changed = []
        for step in each.trajectory.steps:
            reward, answer = next(dealt)
            changed.append(replace(step, reward=reward, result=answer))
        trajectory = replace(each.trajectory, steps=tuple(changed), outcome=outcome)
        result.append(Experience(each.task, trajectory, feedback))
    return result


def sign_flipped(context: Context, record: str) -> Callable[[Sequence[float]], Sequence[float]]:
    """Paired differences with signs drawn anew: which side of a pair was which is forgotten."""

    def flip(differences: Sequence[float]) -> Sequence[float]:
        rng = context.rng("flip", record)
        return [difference * rng.choice((-1, 1)) for difference in differences]

    return flip
