"""A world that breaks where its task says so: it hangs, dies, raises, or is simply played."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping

from evolvent.environments.types import Action, Observation, Split, StepResult, Task

MOODS = (
    "sound",
    "hangs",
    "sound",
    "dies",
    "sound",
    "raises",
    "sound",
    "hangs at the start",
    "sound",
    "dies at the start",
)


class MoodyWorld:
    def __init__(self, *, moods: list[str] | None = None) -> None:
        self.players = ("agent",)
        self.instructions = "Say yes or no."
        self.max_steps = 2
        self._moods = moods or list(MOODS)
        self._task: Task | None = None

    def tasks(self, split: Split, n: int, seed: int) -> list[Task]:
        moods = [self._moods[number % len(self._moods)] for number in range(n)]
        return [
            Task(f"{split}-{seed}-{number}", f"Question {number}.", "moody", {"mood": mood})
            for number, mood in enumerate(moods)
        ]

    def reset(self, task: Task, seed: int) -> tuple[Observation, ...]:
        self._task = task
        self._break(" at the start")
        return (Observation("agent", "Yes or no?", ("yes", "no")),)

    def step(self, actions: Mapping[str, Action]) -> StepResult:
        self._break("")
        right = actions["agent"].text == "yes"
        return StepResult(
            (Observation("agent", "Over.", (), False),), {"agent": float(right)}, True, {"success": right}
        )

    def close(self) -> None: ...

    def _break(self, when: str) -> None:
        assert self._task is not None
        mood = self._task.data["mood"]
        if mood == f"hangs{when}":
            time.sleep(60)
        if mood == f"dies{when}":
            os._exit(3)
        if mood == f"raises{when}":
            raise RuntimeError("the bench broke")
