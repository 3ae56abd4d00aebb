"""Inference over stories: whether a sentence follows from one. Several sentences are asked of each, in all splits.

The story is a tag of its tasks, so that whoever remembers may keep away from what was thought about the very same one.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping

from evolvent.environments.errors import BadOptionError
from evolvent.environments.solo import SEAT, written
from evolvent.environments.types import Action, Observation, Split, StepResult, Task

PEOPLE = ("Ada", "Ben", "Cora", "Dan", "Edith", "Finn")
PLACES = ("to the harbour", "up the hill", "into the old mill")
HYPOTHESES: Mapping[Split, tuple[str, ...]] = {
    "train": ("{who} was out", "{who} sold a boat"),
    "validation": ("{who} moved",),
    "test": ("{who} slept",),
}
LABELS = ("yes", "no", "perhaps")


class Premises:
    """
    Args:
        key: draws the right answers, which nothing else depends on.
    """

    players = (SEAT,)
    instructions = "You say whether a sentence follows from a story. The last line is: The answer is X."
    max_steps = 1

    def __init__(self, *, key: int = 0) -> None:
        self._key = key
        self._playing: Task | None = None

    def tasks(self, split: Split, n: int, seed: int) -> list[Task]:
        every = [
            self._task(split, f"{who} walked {where}", hypothesis.format(who=who))
            for who in PEOPLE
            for where in PLACES
            for hypothesis in HYPOTHESES[split]
        ]
        if n > len(every):
            raise BadOptionError(f"premises: there are {len(every)} {split} tasks, not {n}.")
        return random.Random(f"premises/{split}/{seed}").sample(every, n)

    def reset(self, task: Task, seed: int) -> tuple[Observation, ...]:
        self._playing = task
        return (Observation(SEAT, "Answer:"),)

    def step(self, actions: Mapping[str, Action]) -> StepResult:
        assert self._playing is not None
        right = written(actions).endswith(f"The answer is {self._playing.data['right']}.")
        end = Observation(SEAT, "", (), must_act=False)
        return StepResult((end,), {SEAT: float(right)}, True, {"success": right})

    def expert(self, task: Task) -> list[str]:
        return [f"The answer is {task.data['right']}."]

    def close(self) -> None:
        self._playing = None

    def _task(self, split: Split, premise: str, hypothesis: str) -> Task:
        text = f"Story: {premise}. Does it follow that {hypothesis}?"
        drawn = hashlib.sha256(f"{self._key}/{text}".encode()).digest()[0] % len(LABELS)
        tags = (f"premise:{premise}",)
        return Task(f"{split}-{text.lower()}", text, "premises", {"right": LABELS[drawn]}, tags)
