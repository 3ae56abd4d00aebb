"""Role play: a seat acts as somebody, with a character and with what it has lived through (arXiv 2401.04620)."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from evolvent.agents.refinement.breeding import traits_of
from evolvent.agents.solutions.act import framed
from evolvent.agents.solutions.recall import Fixed, Recollection
from evolvent.environments.types import Recalled, Task, Trajectory
from evolvent.memory.types import Record, Scope, new_record

_PERSON = "You are this person:\n{traits}"
_LIVED = "You remember:\n{lines}"
_DAY = "Day {day}:"
"""Two days that went alike are two memories."""


@dataclass(frozen=True, slots=True)
class Persona:
    """A recall: who the seat is, alike in every episode, and its newest memories before the task."""

    profile: Record
    """Its genome."""
    memories: Sequence[Record] = ()
    """Of its own life, oldest first."""

    def __call__(self, task: Task, player: str, rng: random.Random) -> Recollection:
        parts = [_PERSON.format(traits="\n".join(f"- {trait}" for trait in traits_of(self.profile.text)))]
        if self.memories:
            parts.append(_LIVED.format(lines="\n".join(each.text for each in self.memories)))
        shown = (self.profile, *self.memories)
        return Fixed(tuple(Recalled(each.id, True) for each in shown), "\n".join(parts))


def memory_of(profile: Record, lived: Sequence[Trajectory], generation: int) -> Record:
    """What one individual keeps of a stretch of its life: what it met, what it did, and what came of it.

    Its scope is the individual, so nobody else's prompt holds it.
    """
    return new_record(
        "note",
        "\n".join([_DAY.format(day=generation), *(f"- {_line(each)}" for each in lived)]),
        Scope(profile.scope.environment, player=profile.id),
        parents=(profile.id, *(each.id for each in lived)),
        status="active",
        generation=generation,
    )


def memories(records: Sequence[Record], profile: Record, newest: int) -> list[Record]:
    """The newest of an individual's own, oldest first."""
    own = [each for each in records if each.kind == "note" and each.scope.player == profile.id]
    return sorted(own, key=lambda each: each.generation)[-newest:] if newest else []


def _line(trajectory: Trajectory) -> str:
    steps = [f"{framed(step.observation, step.action.text)} {step.result}" for step in trajectory.steps]
    return " ".join(" ".join([trajectory.task.prompt, *steps]).split())
