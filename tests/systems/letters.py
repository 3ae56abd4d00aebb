"""One reply, worth the share of its characters that are plain letters and signs: a reward that any model can raise."""

from __future__ import annotations

from collections.abc import Mapping

from evolvent.environments.solo import SEAT, written
from evolvent.environments.types import Action, Observation, Split, StepResult, Task

TOKENS = 2
_SPLITS: tuple[Split, ...] = ("train", "validation", "test")


class Letters:
    players = (SEAT,)
    instructions = "Say it plainly."
    max_steps = 1

    def tasks(self, split: Split, n: int, seed: int) -> list[Task]:
        numbers = (3 * index + _SPLITS.index(split) for index in range(n))
        return [Task(f"{split}-{number}", f"Mend {number}." + " Old." * (number % 4), "letters") for number in numbers]

    def reset(self, task: Task, seed: int) -> tuple[Observation, ...]:
        return (Observation(SEAT, "Go on:"),)

    def step(self, actions: Mapping[str, Action]) -> StepResult:
        score = min(1.0, sum(character.isascii() for character in written(actions)) / TOKENS)
        end = Observation(SEAT, "Thank you.", None, must_act=False)
        return StepResult((end,), {SEAT: score}, True, {"success": score == 1})

    def close(self) -> None: ...
