"""What a seat remembers in one episode: drawn once when it begins, then only placed.

Head text stands before the task; a hint stands right after an observation, nearest the action it bears on.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from evolvent.environments.types import Observation, Recalled, Task
from evolvent.memory.store import Snapshot
from evolvent.memory.types import Kind, Record, Scope, Scored, Status
from evolvent.memory.working import WorkingMemory


class Recollection(Protocol):
    """What one episode remembers.

    - `recalled` names every record found, shown or withheld; fixed when the episode begins.
    - `head` is the same text at every step.
    - `hint` depends on the observation alone, and may be empty.
    """

    @property
    def recalled(self) -> tuple[Recalled, ...]: ...

    @property
    def head(self) -> str: ...

    def hint(self, observation: Observation) -> str: ...


class Recall(Protocol):
    """Decides what an episode remembers; `rng` belongs to the episode."""

    def __call__(self, task: Task, player: str, rng: random.Random) -> Recollection: ...


@dataclass(frozen=True, slots=True)
class Fixed:
    """A recollection that is the same at every step."""

    recalled: tuple[Recalled, ...] = ()
    head: str = ""

    def hint(self, observation: Observation) -> str:
        return ""


def NO_RECALL(task: Task, player: str, rng: random.Random) -> Recollection:
    """Remembers nothing: the frozen agent."""
    return Fixed()


@dataclass(frozen=True, slots=True)
class Lessons:
    """Working memory of single tasks: what was kept for this very task and seat, before it is told (Reflexion)."""

    kept: Mapping[tuple[str, str], Sequence[Record]] = field(default_factory=dict)
    """By task id and seat, oldest first."""
    shown: int = 3
    """The newest so many are shown, numbered from 0."""
    attempts: Mapping[tuple[str, str], str] = field(default_factory=dict)
    """By task id and seat: the last attempt as text, before the lessons."""

    def newest(self, task: Task, player: str) -> Sequence[Record]:
        return self.kept.get((task.id, player), ())[-self.shown :] if self.shown else ()

    def __call__(self, task: Task, player: str, rng: random.Random) -> Recollection:
        lessons, attempt = self.newest(task, player), self.attempts.get((task.id, player), "")
        parts = [f"Your last attempt at this task:\n{attempt}"] if attempt else []
        if lessons:
            parts.append(f"Lessons from your earlier attempts:\n{numbered([record.text for record in lessons])}")
        return Fixed(tuple(Recalled(record.id, True) for record in lessons), "\n".join(parts))


def numbered(lessons: Sequence[str]) -> str:
    return "\n".join(f"Lesson {index}: {text}" for index, text in enumerate(lessons))


_RULES: tuple[Kind, ...] = ("rule",)
_TRAJECTORIES: tuple[Kind, ...] = ("trajectory",)


@dataclass(frozen=True, slots=True)
class FromMemory:
    """Recall from a snapshot of external memory: rules where they apply, raw trajectories where no rule does.

    A rule that was learned in one situation (its `situation`, an observation's frame) is a hint when that situation
    comes back; a rule of free wording stands before the task. Trajectories do the same: a step that was rewarded in
    the same situation is a hint, and a trajectory from a world without frames stands before the task.
    """

    snapshot: Snapshot
    rules: int = 6
    """Rules recalled at most."""
    trajectories: int = 3
    """Raw trajectories recalled at most."""
    mode: str = "hybrid"
    statuses: tuple[Status, ...] = ("active",)
    forced: tuple[str, ...] = ()
    """Ids that are recalled whatever their status: a candidate before the gate."""
    barred: tuple[str, ...] = ()
    """Ids that are never recalled: a rule that is tried again."""
    budget_tokens: int = 400
    """Of the text before the task."""
    withhold: float = 0.0
    """Probability that a found rule is left out (rule dropout); logged with the trajectory. Its situation then goes
    without any hint, so that the rule is measured against nothing, and something else has a chance to be tried."""

    def __call__(self, task: Task, player: str, rng: random.Random) -> Recollection:
        scope = Scope(task.environment, task.tags, player)
        find = self.snapshot.search
        forced = [self.snapshot.records[key] for key in self.forced]
        rules = [record for record in forced if record.scope.player in ("", player)]
        if self.rules:
            hits = find(task.prompt, k=self.rules, scope=scope, kinds=_RULES, statuses=self.statuses, mode=self.mode)
            rules += [hit.record for hit in hits if hit.record.id not in (*self.forced, *self.barred)]
        shown = [record.id in self.forced or rng.random() >= self.withhold for record in rules]
        recalled = [
            Recalled(record.id, kept, 1.0 if record.id in self.forced else 1.0 - self.withhold)
            for record, kept in zip(rules, shown, strict=True)
        ]
        told = [record for record, kept in zip(rules, shown, strict=True) if kept]
        examples: list[Record] = []
        if self.trajectories:
            seat = Scope(task.environment, player=player)
            hits = find(task.prompt, k=self.trajectories, scope=seat, kinds=_TRAJECTORIES, mode=self.mode)
            examples = [hit.record for hit in hits]
            recalled += [Recalled(record.id, True) for record in examples]
        loose = [record for record in told if not record.meta.get("situation")]
        loose += [record for record in examples if not record.meta.get("framed")]
        text = WorkingMemory(self.budget_tokens, _tokens).text([Scored(record, 0.0) for record in loose])
        hints = {situation: line for record in reversed(examples) for situation, line in record.meta.get("worked", ())}
        hints |= {record.meta["situation"]: "" for record in rules if record.meta.get("situation")}
        hints |= {record.meta["situation"]: record.text for record in reversed(told) if record.meta.get("situation")}
        head = f"What you know from earlier tasks:\n{text}" if text else ""
        return _Placed(tuple(recalled), head, hints)


@dataclass(frozen=True, slots=True)
class _Placed:
    recalled: tuple[Recalled, ...]
    head: str
    hints: Mapping[str, str]
    """By situation."""

    def hint(self, observation: Observation) -> str:
        line = self.hints.get(observation.frame)
        return f"Remember: {line}" if line else ""


def _tokens(text: str) -> int:
    """Four characters a token: close enough to keep a budget, the same for every model."""
    return len(text) // 4 + 1
