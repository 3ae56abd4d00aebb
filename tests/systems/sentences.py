"""Write one sentence that holds all the words of a task: the score is the share of them that it holds.

A constraint that any program can check and no prompt gives away, for recipes that write, criticise and write again.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

from evolvent.environments.solo import SEAT, written
from evolvent.environments.types import Action, Observation, Split, StepResult, Task

WORDS = (
    "amber", "bridge", "copper", "drift", "ember", "feather", "garden", "harvest", "island", "juniper", "kettle",
    "lantern", "meadow", "needle", "orchard", "pebble", "quarry", "ribbon", "saddle", "thimble", "umber", "velvet",
    "willow", "yarrow",
)  # fmt: skip
_SPLITS: tuple[Split, ...] = ("train", "validation", "test")


class Sentences:
    players = (SEAT,)
    instructions = "You write sentences."
    max_steps = 1

    def __init__(self) -> None:
        self._task: Task | None = None

    def tasks(self, split: Split, n: int, seed: int) -> list[Task]:
        rng = random.Random(f"{split}/{seed}")
        dealt = [rng.sample(WORDS, rng.randint(6, 10)) for _ in range(n)]
        return [
            Task(f"{split}-{seed}-{number}", f"One sentence with the words {', '.join(words)}.", "sentences")
            for number, words in enumerate(dealt)
        ]

    def reset(self, task: Task, seed: int) -> tuple[Observation, ...]:
        self._task = task
        return (Observation(SEAT, "Your sentence:"),)

    def step(self, actions: Mapping[str, Action]) -> StepResult:
        assert self._task is not None
        wanted, said = words_in(self._task.prompt), words_in(written(actions))
        score = len(set(wanted) & set(said)) / len(wanted)
        end = Observation(SEAT, "Thank you.", None, must_act=False)
        return StepResult((end,), {SEAT: score}, True, {"success": score == 1})

    def expert(self, task: Task) -> list[str]:
        return [sentence(words_in(task.prompt))]

    def close(self) -> None: ...


def words_in(text: str) -> list[str]:
    """Those that tasks are made of, in the order of `WORDS`."""
    return [word for word in WORDS if word in text.lower()]


def sentence(words: Sequence[str]) -> str:
    return f"We saw {' and '.join(words)}."
