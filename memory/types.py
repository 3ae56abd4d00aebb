"""The values memory keeps and returns. Standard library, pydantic and `environments.types` only."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

Kind = Literal["trajectory", "rule", "reflection", "note", "skill", "tool", "profile", "prompt", "dataset", "adapter"]
WEIGHTS: tuple[Kind, ...] = ("dataset", "adapter")
"""On the way into weights: never text for a prompt, and found by no search that does not ask for it."""
LEARNED: tuple[Kind, ...] = tuple(kind for kind in get_args(Kind) if kind not in ("trajectory", *WEIGHTS))
"""What was made of experience, in words: neither raw trajectories nor `WEIGHTS`."""
Status = Literal["quarantined", "candidate", "active", "retired"]
"""Quarantined: it comes from text that nobody vouches for; no search finds it until it is restored."""


@dataclass(frozen=True, slots=True)
class Scope:
    """Where a record applies. An empty field applies everywhere."""

    environment: str = ""
    tags: tuple[str, ...] = ()
    """Task tags; the record applies when the task has all of them."""
    player: str = ""


@dataclass(frozen=True, slots=True)
class Interval:
    mean: float
    low: float
    high: float
    n: int = 0

    def __format__(self, spec: str) -> str:
        """`f"{lift:+.2f}"` is `+0.10 (+0.02 to +0.18)`."""
        if not spec:
            return str(self)
        return f"{self.mean:{spec}} ({self.low:{spec}} to {self.high:{spec}})"


@dataclass(frozen=True, slots=True)
class Record:
    """One thing memory holds. Identity is (kind, text, scope): learning it again adds a parent."""

    id: str
    kind: Kind
    text: str
    scope: Scope = Scope()
    parents: tuple[str, ...] = ()
    """Ids of the trajectories and records it came from."""
    meta: Mapping[str, Any] = field(default_factory=dict)
    """Kind-specific facts, JSON-serialisable (a trajectory's score, a rule's stem); not part of the identity."""
    # Folded from ledger events, never stored as truth:
    status: Status = "candidate"
    lift: Interval | None = None
    """Gain in score from having it in the prompt, in [-1, 1]; None before any evidence."""
    recalls: int = 0
    generation: int = 0
    """In which it was first added."""

    def _repr_html_(self) -> str:
        from evolvent.memory.display import record

        return record(self)

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        printer.text(f"{self.id} ({self.status}): {self.text[:200]!r}")


def record_id(kind: Kind, text: str, scope: Scope) -> str:
    """Twelve hex digits of the identity's SHA-256, led by the kind: `rule-3f2a…`."""
    key = "\x1f".join((kind, text, scope.environment, *sorted(scope.tags), scope.player))
    return f"{kind}-{hashlib.sha256(key.encode()).hexdigest()[:12]}"


def new_record(
    kind: Kind,
    text: str,
    scope: Scope = Scope(),
    *,
    parents: tuple[str, ...] = (),
    meta: Mapping[str, Any] | None = None,
    status: Status = "candidate",
    generation: int = 0,
) -> Record:
    """A record with its id derived."""
    return Record(
        record_id(kind, text, scope), kind, text, scope, parents, dict(meta or {}), status, None, 0, generation
    )


@dataclass(frozen=True, slots=True)
class Scored:
    record: Record
    score: float
    """Higher is better; comparable within one search only."""


EventKind = Literal["add", "update", "merge", "activate", "retire", "reject", "restore", "credit", "forget", "revert"]


@dataclass(frozen=True, slots=True)
class Event:
    """One change of memory. `add` carries the record; the others name it; `revert` names a commit in its payload."""

    kind: EventKind
    record_id: str
    record: Record | None = None
    payload: Mapping[str, Any] = field(default_factory=dict)
    """Evidence: the gate's pairs, the reason of a retirement, the lift's interval."""
