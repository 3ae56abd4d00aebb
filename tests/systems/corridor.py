"""A corridor for tests of what is learned from whole episodes: walk so many rooms, then stop. Graded at the end.

In a corridor called `blind` the expert stops a room too early, so that one can do better than the expert.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Mapping

from evolvent.environments.solo import SEAT, said
from evolvent.environments.types import Action, Observation, Split, StepResult, Task

KINDS = ("long", "plain", "blind")
OWNERS = ("Ada", "Ben", "Cora", "Dan", "Edith", "Finn", "Greta", "Hugo", "Ida", "Jonas", "Kit", "Lena")
MOVES = ("on", "wait", "stop")
ROOMS = 2


class Corridor:
    players = (SEAT,)
    instructions = "Walk the rooms, then stop."
    max_steps = 12

    def __init__(self, *, kinds: tuple[str, ...] = KINDS) -> None:
        self._kinds = tuple(kinds)
        self._walked = self._steps = 0

    def tasks(self, split: Split, n: int, seed: int) -> list[Task]:
        """As many of each kind; the three splits have corridors of different owners."""
        owners = OWNERS[("train", "validation", "test").index(split) :: 3]
        every = [(owner, kind) for owner, kind in itertools.product(owners, self._kinds)]
        return [
            Task(f"{split}-{owner}-{kind}".lower(), f"{owner}'s {kind} corridor.", "corridor", {"kind": kind})
            for owner, kind in random.Random(f"corridor/{split}/{seed}").sample(every[:n], n)
        ]

    def expert(self, task: Task) -> list[str]:
        return ["on"] * (ROOMS - (task.data["kind"] == "blind")) + ["stop"]

    def reset(self, task: Task, seed: int) -> tuple[Observation, ...]:
        self._walked = self._steps = 0
        return (self._look(),)

    def step(self, actions: Mapping[str, Action]) -> StepResult:
        move = said(actions)
        self._steps += 1
        self._walked += move == "on"
        if move != "stop" and self._steps < self.max_steps:
            return StepResult((self._look(),), {SEAT: 0.0}, False)
        score = min(self._walked, ROOMS) / ROOMS
        end = Observation(SEAT, "It is over.", (), must_act=False)
        return StepResult((end,), {SEAT: score}, True, {"success": score == 1})

    def close(self) -> None: ...

    def _look(self) -> Observation:
        return Observation(SEAT, f"Room {self._walked}.", MOVES)
