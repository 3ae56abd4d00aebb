"""Invented creatures to be told apart by descriptions of which only one or two traits matter. One decision an episode.

The benchmark of in-memory learning (arXiv 2403.02757), generated: binary traits, each side with several adjectives;
classes with names that mean nothing. Which traits decide, and which creature has which, is drawn by the world's number.
"""

from __future__ import annotations

import hashlib
import itertools
import random
import re
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import get_args

from evolvent.environments.errors import BadOptionError
from evolvent.environments.solo import SEAT, encodable, refusal, said, written
from evolvent.environments.types import Action, Observation, Split, StepResult, Task

VERSION = 1
_SPLITS: tuple[Split, ...] = get_args(Split)
_FINISH = re.compile(r"finish\s*\[([^\[\]]*)\]", re.IGNORECASE)
_OPENINGS = ("This creature is", "We met a creature that is", "The creature here is", "Somebody saw a creature that is")
_IN_VAIN = 1000
"""Draws in a row that gave no new task: there are no more."""


@dataclass(frozen=True, slots=True)
class Trait:
    name: str
    sides: tuple[tuple[str, ...], tuple[str, ...]]
    """Adjectives of either side, the plainest first. No adjective stands in two traits or sides."""


TRAITS = (
    Trait("size", (("small", "tiny", "little", "dwarfish"), ("large", "big", "huge", "giant"))),
    Trait("colour", (("red", "crimson", "scarlet", "ruby"), ("blue", "azure", "navy", "cobalt"))),
    Trait("voice", (("quiet", "silent", "hushed", "mute"), ("loud", "noisy", "roaring", "shrill"))),
    Trait("speed", (("slow", "sluggish", "unhurried", "plodding"), ("fast", "quick", "swift", "speedy"))),
    Trait("skin", (("smooth", "sleek", "silky", "polished"), ("rough", "bumpy", "coarse", "scaly"))),
    Trait("temper", (("gentle", "tame", "mild", "friendly"), ("fierce", "wild", "savage", "hostile"))),
    Trait("age", (("young", "newborn", "juvenile", "youthful"), ("old", "aged", "elderly", "ancient"))),
    Trait("weight", (("light", "weightless", "airy", "feathery"), ("heavy", "weighty", "massive", "hefty"))),
    Trait("warmth", (("cold", "chilly", "icy", "frosty"), ("warm", "hot", "heated", "toasty"))),
    Trait("wetness", (("dry", "parched", "arid", "dusty"), ("wet", "damp", "soaked", "dripping"))),
)
"""A world described on `traits` traits has the first so many of these."""


def class_names(classes: int = 4) -> tuple[str, ...]:
    """Creature A, Creature B, …"""
    return tuple(f"Creature {letter}" for letter in string.ascii_uppercase[:classes])


def informative(world: int, classes: int = 4, traits: int = 10) -> tuple[str, ...]:
    """Names of the traits that decide: one where there are 2 classes, else two. An oracle.

    Raises:
        BadOptionError: a value outside its range.
    """
    return tuple(TRAITS[at].name for at in _Law(world, classes, traits).deciding)


def oracle_notes(world: int, classes: int = 4, traits: int = 10) -> str:
    """The true notes: a line on what decides, then a line for each creature. An agent that learns is never shown them.

    Raises:
        BadOptionError: a value outside its range.
    """
    law = _Law(world, classes, traits)
    names = " and ".join(TRAITS[at].name for at in law.deciding)
    lines = [f"Only {names} {'decides' if len(law.deciding) == 1 else 'decide'} which creature it is."]
    for name in class_names(classes):
        sides = law.sides_of(name)
        told = [" or ".join(TRAITS[at].sides[side]) for at, side in sides.items()]
        lines.append(f"{name} is {', and '.join(told)}.")
    return "\n".join(lines)


def finished(reply: str) -> str:
    """What stands in the last `Finish[…]` of a reply, without spaces around it; empty where there is none."""
    found = _FINISH.findall(reply)
    return found[-1].strip() if found else ""


class Creatures:
    """Descriptions, each of one creature. The score is 1 for its name and 0 for anything else; which it was is untold.

    Names are admissible actions; free text is read for `Finish[Creature A]`, and `Finish[A]` will do.
    A task's hidden data hold its `label`.

    Args:
        world: number that draws which traits decide and which creature has which.
        classes: 2 to 4. One trait decides between 2; of 3, one is told by the first trait alone; 4 are all pairs.
        traits: 4 to 10, those that decide among them.

    Raises:
        BadOptionError: a value outside its range.
    """

    players = (SEAT,)
    max_steps = 1

    def __init__(self, *, world: int = 0, classes: int = 4, traits: int = 10) -> None:
        self._law = _Law(world, classes, traits)
        self._names = class_names(classes)
        self._name = f"creatures-w{world}-{classes}-{traits}"
        self.instructions = (
            f"You tell {classes} kinds of invented creatures apart: {', '.join(self._names)}. "
            "Some of their traits decide, the others mean nothing. Answer with Finish[the creature's name]."
        )
        self._playing: Task | None = None

    def tasks(self, split: Split, n: int, seed: int) -> list[Task]:
        """`n` different descriptions, all creatures equally often; its adjectives decide a description's split.

        No two tasks of one deal, and no two splits, share all adjectives, whatever their order.

        Raises:
            BadOptionError: so few traits have fewer descriptions.
        """
        rng = random.Random(f"{self._name}/{split}/{seed}")
        dealt: dict[tuple[str, ...], Task] = {}
        turn: list[str] = []
        in_vain = 0
        while len(dealt) < n and in_vain < _IN_VAIN:
            turn = turn or rng.sample(self._names, len(self._names))
            adjectives = self._law.describe(turn[-1], rng)
            digest = hashlib.sha256(" ".join(adjectives).encode()).digest()
            if _SPLITS[digest[0] % 3] != split:
                continue
            in_vain = in_vain + 1 if adjectives in dealt else 0
            if adjectives not in dealt:
                dealt[adjectives] = self._task(split, adjectives, turn.pop(), digest, rng)
        if len(dealt) < n:
            raise BadOptionError(
                f"creatures: {self._law.traits} traits have {len(dealt)} different {split} descriptions of "
                f"{len(self._names)} creatures in turn, not {n}. Ask for fewer, or for more traits (10 at most)."
            )
        return list(dealt.values())

    def reset(self, task: Task, seed: int) -> tuple[Observation, ...]:
        """Ask for the name; the task alone decides the episode, whatever `seed` is."""
        self._playing = task
        return (Observation(SEAT, "Which creature is it?", self._names, frame="It is {action}."),)

    def step(self, actions: Mapping[str, Action]) -> StepResult:
        if self._playing is None:
            raise RuntimeError("reset comes before step")
        read = {name.lower(): name for name in self._names} | {name[-1].lower(): name for name in self._names}
        given = read.get(encodable(finished(written(actions))).lower() or said(actions), "")
        right = given == self._playing.data["label"]
        text = "Right." if right else "Wrong."
        if not given:
            text = refusal(said(actions), self._names)
        observation = Observation(SEAT, text, (), must_act=False)
        return StepResult((observation,), {SEAT: float(right)}, True, {"success": right})

    def expert(self, task: Task) -> list[str]:
        """The creature's name."""
        return [task.data["label"]]

    def close(self) -> None:
        self._playing = None

    def _task(self, split: Split, adjectives: Sequence[str], label: str, digest: bytes, rng: random.Random) -> Task:
        *most, last = rng.sample(adjectives, len(adjectives))
        return Task(
            id=f"{self._name}-{split}-{digest.hex()[:12]}",
            prompt=f"{rng.choice(_OPENINGS)} {', '.join(most)} and {last}.",
            environment="creatures",
            data={"label": label},
        )


class _Law:
    """What decides in a world."""

    def __init__(self, world: int, classes: int, traits: int) -> None:
        for option, value, low, high in (("classes", classes, 2, 4), ("traits", traits, 4, len(TRAITS))):
            if not isinstance(value, int) or not low <= value <= high:
                raise BadOptionError(f"creatures: {option} is a whole number from {low} to {high}, not {value!r}.")
        rng = random.Random(f"creatures/{world}/{classes}/{traits}")
        self.traits = traits
        self.deciding = tuple(rng.sample(range(traits), 1 if classes == 2 else 2))
        # (0,) and (1,) of two; of three the first trait's side `whole` is not divided by the second.
        combinations: list[tuple[int, ...]] = list(itertools.product((0, 1), repeat=len(self.deciding)))
        if classes == 3:
            whole = rng.randint(0, 1)
            combinations = [(whole,), *(each for each in combinations if each[0] != whole)]
        rng.shuffle(combinations)
        self._sides = dict(zip(class_names(classes), combinations, strict=True))

    def sides_of(self, name: str) -> dict[int, int]:
        """Index of each trait that decides for this creature → its side."""
        return dict(zip(self.deciding, self._sides[name], strict=False))

    def describe(self, name: str, rng: random.Random) -> tuple[str, ...]:
        """An adjective for each trait, in the order of `TRAITS`."""
        sides = self.sides_of(name)
        return tuple(
            rng.choice(trait.sides[sides.get(at, rng.randint(0, 1))]) for at, trait in enumerate(TRAITS[: self.traits])
        )
