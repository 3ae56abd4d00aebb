"""What an operator may reach for: models by role, memory, environments, randomness and the trace. Nothing else."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from evolvent.agents.models.role import RoleModel
from evolvent.agents.rollout import Rollouts
from evolvent.agents.trace import Trace
from evolvent.agents.types import Model, derive_rng
from evolvent.environments.catalog import build_inline
from evolvent.environments.protocol import EnvironmentSpec
from evolvent.environments.types import Split, Task
from evolvent.memory.store import Memory


@dataclass(frozen=True, slots=True)
class Objective:
    """E in the survey (arXiv 2404.14387, §2): what evolution is for."""

    text: str
    environment: EnvironmentSpec
    """As the run begins."""
    tasks: int
    """Training tasks a generation."""
    evaluated: int
    """Held-out tasks an evaluation."""
    generations: int
    difficulty: float = 0.5
    """Success rate at which a task teaches most, in [0, 1]."""
    shifts: Mapping[int, Mapping[str, Any]] = field(default_factory=dict)
    """By generation: options of the environment that hold from then on. A world that changes under the agent."""
    history: bool = False
    """The environment's training tasks are those of a `day`, which is the generation; see `environments.catalog`."""

    def environment_at(self, generation: int) -> EnvironmentSpec:
        options = dict(self.environment.options)
        if self.history:
            options = {"days": self.generations, "turns": self.tasks, "day": max(1, generation)} | options
        for at, changed in sorted(self.shifts.items()):
            if at <= generation:
                options |= changed
        return replace(self.environment, options=options)


@dataclass(frozen=True, slots=True)
class Context:
    seed: int
    objective: Objective
    models: Mapping[str, RoleModel]
    """By role; `actor` is always there and stands in for every role that is not."""
    memory: Memory
    rollouts: Rollouts
    trace: Trace
    directory: Path
    """Of the run: data sets and adapters lie in it."""
    say: Callable[[str], None] = field(default=lambda text: None)
    """Tells the user what is being done, one short phrase a phase."""
    earlier_selves: Mapping[str, int] = field(default_factory=dict)
    """Roles that are played by an earlier generation of this run (`generation:N`), and which."""
    served: dict[str, RoleModel] = field(default_factory=dict)
    """Models with adapters on top that were verified in this process, by name; see `agents/weights.py`."""
    _laps: list[float] = field(default_factory=lambda: [time.perf_counter()])

    def lap(self) -> float:
        """Seconds since the last lap, or since the run began or was resumed."""
        self._laps.append(time.perf_counter())
        return self._laps[-1] - self._laps[-2]

    @property
    def players(self) -> tuple[str, ...]:
        """Seats of the objective's environment."""
        environment = build_inline(self.objective.environment)
        try:
            return environment.players
        finally:
            environment.close()

    def model(self, role: str) -> RoleModel:
        return self.models.get(role, self.models["actor"])

    def rng(self, *key: str | int) -> random.Random:
        return derive_rng(self.seed, *key)

    def tasks(self, split: Split, n: int, generation: int = 0) -> list[Task]:
        """Tasks of the environment at that generation. Validation and test tasks stay the same while it does."""
        environment = build_inline(self.objective.environment_at(generation))
        try:
            # What goes on from day to day is one history, drawn by one seed.
            own = generation if split == "train" and not self.objective.history else 0
            return environment.tasks(split, n, self.seed * 1000 + own)
        finally:
            environment.close()

    def whole_model(self, commit: str = "", adapter: str = "") -> Model:
        """This generation of the actor, in one value."""
        return Model(self.model("actor").name, adapter, commit)
