"""What an environment is: a world that deals tasks and plays them, one episode at a time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from evolvent.environments.types import Action, Observation, Split, StepResult, Task


class Environment(Protocol):
    """One world being played.

    - Same task and seed, same episode: observations and rewards are a function of (task, seed, actions).
    - `tasks` depends on its arguments alone; the three splits never share a task.
    - Rewards of an episode sum to a score in [0, 1] for each player.
    - An illegal action costs a step and is answered with a useful observation; it never raises.
    - `step` takes one entry where players take turns, several where they move together.
    - Where several compete, seats are called a, b, …, and neighbouring tasks are one deal with its chairs rotated, as
      many as there are seats: they share the tag `deal:…`, and over all of them luck cancels.
    """

    players: tuple[str, ...]
    """Seats, in turn order."""
    instructions: str
    """What every agent of this environment is told first; the same for all tasks, so that its cache is shared."""
    max_steps: int
    """Steps of one player after which the episode ends with the score so far."""

    def tasks(self, split: Split, n: int, seed: int) -> list[Task]: ...

    def reset(self, task: Task, seed: int) -> tuple[Observation, ...]: ...

    def step(self, actions: Mapping[str, Action]) -> StepResult: ...

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class EnvironmentSpec:
    """Picklable recipe of an environment; `catalog.build` makes the environment."""

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)
    """Keyword arguments of the environment's constructor, JSON-serialisable."""
