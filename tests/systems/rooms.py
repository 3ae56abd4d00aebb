"""A small house for tests of retrying: fetch a thing whose room is not where everybody would look first.

Two rooms searched in vain end an attempt, so none can search the whole house; a thing is fetched in five moves at most.
"""

from __future__ import annotations

import random
from collections.abc import Mapping

from evolvent.environments.solo import SEAT, refusal, said
from evolvent.environments.types import Action, Observation, Split, StepResult, Task

ROOMS = ("kitchen", "hall", "bedroom", "study", "attic", "cellar")
THINGS = ("lamp", "book", "coat", "cup", "key", "drum", "map", "rope", "bell", "shoe")


class Rooms:
    players = (SEAT,)
    instructions = "You fetch things in a house of six rooms. Look for the thing, take it, bring it where it is wanted."
    max_steps = 5

    def __init__(self, *, reachable: bool = True) -> None:
        """Without `reachable` the thing is nowhere, so that every attempt fails."""
        self._reachable = reachable
        self._task: Task | None = None
        self._at, self._carried, self._steps, self._vain = "", False, 0, 0

    def tasks(self, split: Split, n: int, seed: int) -> list[Task]:
        rng = random.Random(f"rooms/{split}/{seed}")
        tasks = []
        for index in range(n):
            thing, (usual, hidden, wanted) = rng.choice(THINGS), rng.sample(ROOMS, 3)
            prompt = f"Bring the {thing} to the {wanted}. It is usually in the {usual}."
            tasks.append(
                Task(f"rooms-{split}-{seed}-{index}", prompt, "rooms", {"thing": thing, "room": hidden, "to": wanted})
            )
        return tasks

    def reset(self, task: Task, seed: int) -> tuple[Observation, ...]:
        self._task = task
        self._at, self._carried, self._steps, self._vain = "", False, 0, 0
        return (self._look("You stand at the door."),)

    def step(self, actions: Mapping[str, Action]) -> StepResult:
        assert self._task is not None
        self._steps += 1
        move, thing = said(actions), self._task.data["thing"]
        won = False
        if move not in self._moves():
            text = refusal(move, self._moves())
        elif move == f"take the {thing}":
            self._carried, text = True, f"You carry the {thing}."
        elif move == f"put down the {thing}":
            won = self._at == self._task.data["to"]
            self._carried, text = False, "Done." if won else "It is not wanted here."
        else:
            self._at = move.removeprefix("go to the ")
            seen = "You see the " + thing if self._here() else f"The {thing} is not here"
            self._vain += not self._carried and not self._here()
            text = f"You are in the {self._at}." + ("" if self._carried else f" {seen}.")
        done = won or self._vain == 2 or self._steps >= self.max_steps
        info = {"success": won} if done else {}
        return StepResult((self._look(text, over=done),), {SEAT: float(won)}, done, info)

    def close(self) -> None:
        self._task = None

    def _here(self) -> bool:
        assert self._task is not None
        return self._reachable and not self._carried and self._at == self._task.data["room"]

    def _moves(self) -> tuple[str, ...]:
        assert self._task is not None
        thing = self._task.data["thing"]
        taken = (f"take the {thing}",) if self._here() else (f"put down the {thing}",) if self._carried else ()
        return (*(f"go to the {room}" for room in ROOMS if room != self._at), *taken)

    def _look(self, text: str, *, over: bool = False) -> Observation:
        return Observation(SEAT, text, () if over else self._moves(), must_act=not over)
