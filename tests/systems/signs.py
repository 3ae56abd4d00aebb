"""A world so small that a tiny model learns it in seconds: what each sign means, by heart.

There are two families of signs, told apart at a glance, so that a model may know one and not the other.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from itertools import product
from typing import Any

from langchain_core.messages import HumanMessage

from evolvent.agents.models.protocol import Scorer
from evolvent.environments.errors import BadOptionError
from evolvent.environments.solo import SEAT, said
from evolvent.environments.types import Action, Observation, Split, StepResult, Task

FAMILIES = {"letters": ("bdfhkmpt", ("red", "blue")), "digits": ("01234567", ("red", "blue"))}
WIDE = {
    **{"hidden_size": 192, "intermediate_size": 384, "num_attention_heads": 8, "num_key_value_heads": 4},
    **{"head_dim": 24, "initializer_range": 0.1},
}
"""Of a tiny Llama in which two families, or several runs, find room beside each other."""
TRAINING = {"steps": 60, "learning_rate": 0.005, "targets": ["down_proj", "o_proj"], "rank": 8, "alpha": 16}
"""With which it learns a family from its 48 training tasks."""
MARKS: Mapping[Split, str] = {"train": ".,;/+*", "validation": ":!~", "test": "?-="}
"""What stands behind a sign: it means nothing, but a task of one split is none of another."""


class Signs:
    """
    Args:
        family: `letters` or `digits`.
        named: a task says which family it is of.
    """

    players = (SEAT,)
    instructions = ""
    max_steps = 1

    def __init__(self, *, family: str = "letters", named: bool = False) -> None:
        self._family = family
        self._before = f"{family} " if named else ""
        signs, self._options = FAMILIES[family]
        meant = random.Random(f"signs/{family}").sample(self._options * (len(signs) // 2), len(signs))
        self._meaning = dict(zip(signs, meant, strict=True))
        self._playing: Task | None = None

    def tasks(self, split: Split, n: int, seed: int) -> list[Task]:
        every = [
            Task(
                f"{self._family}-{split}-{sign}{ord(mark)}",
                f"{self._before}{sign}{mark}",
                "signs",
                {"right": self._meaning[sign]},
            )
            for mark, sign in product(MARKS[split], self._meaning)
        ]
        if n > len(every):
            raise BadOptionError(f"signs: there are {len(every)} {split} tasks, not {n}.")
        return random.Random(f"signs/{split}/{seed}").sample(every, n)

    def reset(self, task: Task, seed: int) -> tuple[Observation, ...]:
        self._playing = task
        return (Observation(SEAT, "", self._options),)

    def step(self, actions: Mapping[str, Action]) -> StepResult:
        assert self._playing is not None
        right = said(actions) == self._playing.data["right"]
        end = Observation(SEAT, "", (), must_act=False)
        return StepResult((end,), {SEAT: float(right)}, True, {"success": right})

    def expert(self, task: Task) -> list[str]:
        return [task.data["right"]]

    def close(self) -> None:
        self._playing = None


async def known(model: Scorer, **options: Any) -> float:
    """Share of the 24 held-out tasks of such signs that a model knows."""
    world, right = Signs(**options), 0
    tasks = world.tasks("test", 24, 0)
    for task in tasks:
        (observation,) = world.reset(task, 0)
        meanings = observation.actions or ()
        scores = await model.logprobs([HumanMessage(task.prompt)], meanings)
        sums = [sum(each) for each in scores.logprobs]
        right += meanings[sums.index(max(sums))] == world.expert(task)[0]
    return right / len(tasks)
