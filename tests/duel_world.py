"""A game for two: the higher card wins, and who grabs has one that counts three more."""

from __future__ import annotations

import random
from collections.abc import Mapping

from evolvent.environments.types import Action, Observation, Split, StepResult, Task

NAME = "duel_world:Duel"
SEATS = ("a", "b")


class Duel:
    players = SEATS
    instructions = "The higher card wins. You can: grab, rest."
    max_steps = 1

    def __init__(self) -> None:
        self._cards: dict[str, int] = {}

    def tasks(self, split: Split, n: int, seed: int) -> list[Task]:
        return [self._task(split, seed, number) for number in range(n)]

    def reset(self, task: Task, seed: int) -> tuple[Observation, ...]:
        self._cards = dict(zip(task.data["order"], task.data["cards"], strict=True))
        return tuple(Observation(seat, f"Your card is {self._cards[seat]}.", ("grab", "rest")) for seat in SEATS)

    def step(self, actions: Mapping[str, Action]) -> StepResult:
        strength = {seat: self._cards[seat] + 3 * (actions[seat].text == "grab") for seat in SEATS}
        lead = strength["a"] - strength["b"]
        won = {"a": lead > 0, "b": lead < 0}
        rewards = {seat: 0.5 if lead == 0 else float(won[seat]) for seat in SEATS}
        ends = tuple(Observation(seat, "Over.", None, must_act=False) for seat in SEATS)
        return StepResult(ends, rewards, True, {"success": won})

    def close(self) -> None: ...

    def _task(self, split: Split, seed: int, number: int) -> Task:
        deal, chair = divmod(number, 2)
        cards = random.Random(f"{split}/{seed}/{deal}").sample(range(1, 10), 2)
        order = list(SEATS if chair == 0 else SEATS[::-1])
        name = f"{split}-{seed}-{deal}"
        return Task(f"duel/{name}-{chair}", "Play.", NAME, {"cards": cards, "order": order}, tags=(f"deal:{name}",))
