"""Everything a run directory can tell, read piece by piece: what is damaged is named, the rest is still there."""

from __future__ import annotations

import sqlite3
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from evolvent.agents.errors import AgentError
from evolvent.agents.run import RunConfig, read_config, result
from evolvent.agents.trace import read_lines
from evolvent.environments.errors import WorldError
from evolvent.environments.types import Cost
from evolvent.memory.embedding import HashEmbedder
from evolvent.memory.errors import MemoryStoreError
from evolvent.memory.ledger import Ledger
from evolvent.memory.rendering import render
from evolvent.memory.store import Memory
from evolvent.memory.types import LEARNED, Record, Status

T = TypeVar("T")
STATUSES: tuple[Status, ...] = ("active", "candidate", "quarantined", "retired")
_VERDICTS = {"activate", "reject", "retire", "restore"}
"""Kinds of events that a gate's evidence may stand in."""
_DAMAGE = (
    *(AgentError, WorldError, MemoryStoreError),
    *(sqlite3.Error, zlib.error, OSError, ValueError, LookupError, TypeError, AttributeError),
)
"""What reading a half-written or damaged file may raise."""


@dataclass(frozen=True, slots=True)
class Decision:
    """A record the gate has judged, and on what evidence."""

    record: Record
    promoted: bool
    gate: Mapping[str, Any]
    """wins, losses, ties, mean, e_value, level, verdict; see `memory.gate.Evidence`."""
    generation: int

    @property
    def evidence(self) -> str:
        """The paired episodes in words."""
        return "won {wins}, lost {losses}, tied {ties}".format(**defaultdict(int, self.gate))

    @property
    def strength(self) -> str:
        """The e-value beside the one it needed."""
        e_value, level = float(self.gate.get("e_value", 0)), float(self.gate.get("level", 0))
        return _rounded(e_value) + (f" of {_rounded(1 / level)}" if level else "")


@dataclass(frozen=True, slots=True)
class Spent:
    """Episodes of one phase, by the run's metrics; or, with none, what was thought about answers before they were
    given."""

    phase: str
    episodes: int
    failures: int
    cost: Cost


@dataclass
class Reading:
    """Reads piece by piece: what is damaged is told, and the rest is still there."""

    problems: list[str] = field(default_factory=list)
    """What could not be read, one line each."""

    def attempt(self, what: str, read: Callable[[], T]) -> T | None:
        """What `read` gives; None, and one more problem, where it meets damage."""
        try:
            return read()
        except _DAMAGE as error:
            told = " ".join(str(error).split()) or type(error).__name__
            if not any(problem.endswith(told) for problem in self.problems):
                self.problems.append(f"{what}: {told}")
            return None


@dataclass(frozen=True, slots=True)
class Findings:
    directory: Path
    config: RunConfig | None = None
    result: Mapping[str, Any] | None = None
    decisions: tuple[Decision, ...] = ()
    """In the order they were made; a record judged again stands here again."""
    undecided: tuple[Record, ...] = ()
    """What was learned (of the kinds `LEARNED`) and no gate has judged, newest first."""
    by_status: Mapping[int, Mapping[Status, int]] = field(default_factory=dict)
    """Records of the kinds `LEARNED` by generation and status, as they were at its end."""
    origins: Mapping[str, str] = field(default_factory=dict)
    """What happened in the trajectories that records come from, by id, as text."""
    spent: tuple[Spent, ...] = ()
    problems: tuple[str, ...] = ()
    """What could not be read, one line each."""

    @property
    def active(self) -> list[Decision]:
        """Promoted and still active, strongest evidence first."""
        final = {each.record.id: each for each in self.decisions}
        return strongest([each for each in final.values() if each.promoted and each.record.status == "active"])

    @property
    def withdrawn(self) -> list[Decision]:
        """Promoted and not active any more, strongest evidence first: weights know it now, or it ceased to help."""
        final = {each.record.id: each for each in self.decisions}
        return strongest([each for each in final.values() if each.promoted and each.record.status != "active"])

    @property
    def rejected(self) -> list[Decision]:
        """Turned away and not active, strongest evidence first."""
        final = {each.record.id: each for each in self.decisions}
        return strongest([each for each in final.values() if not each.promoted and each.record.status != "active"])


def read_findings(
    directory: Path,
    known: Mapping[str, Any] | None = None,
    *,
    with_origins: bool = True,
    memory: Memory | None = None,
) -> Findings:
    """All that can be read in a run directory; never raises over what it holds.

    Args:
        known: the run's `result`, when the caller has it already.
        with_origins: without them no trajectory is read.
        memory: the run's, when the caller has it open already.
    """
    reading = Reading()
    attempt, problems = reading.attempt, reading.problems
    config = attempt("The configuration", lambda: read_config(directory))
    found = known if known is not None else attempt("The result", lambda: result(directory))
    spent = attempt("The costs by phase", lambda: _spent(directory)) or ()
    opened = memory or attempt("The memory", lambda: Memory.open(directory, embedder=HashEmbedder(), read_only=True))
    if opened is None:
        return Findings(directory, config, found, spent=spent, problems=tuple(problems))
    with nullcontext(opened) if memory else opened:
        ledger = opened.ledger
        decisions = attempt("The gate's decisions", lambda: _decisions(ledger)) or ()
        undecided = attempt("The records", lambda: _undecided(ledger, decisions)) or ()
        by_status = attempt("The records by status", lambda: _by_status(ledger)) or {}
        spent += attempt("The calls outside episodes", lambda: _thought(ledger)) or ()
        learned = [*(each.record for each in decisions), *undecided] if with_origins else []
        origins = {}
        for source in sorted({parent for record in learned for parent in record.parents}):
            origins[source] = attempt(f"The origin {source}", partial(_origin, ledger, source)) or ""
    return Findings(
        directory,
        config,
        found,
        decisions,
        undecided,
        by_status,
        {source: text for source, text in origins.items() if text},
        spent,
        tuple(problems),
    )


def _decisions(ledger: Ledger) -> tuple[Decision, ...]:
    """Of records that memory still has, by commits that still count."""
    records, reverted = ledger.records(), ledger.reverted()
    judging = {commit for commit, kinds in ledger.event_counts().items() if _VERDICTS & kinds.keys()}
    return tuple(
        Decision(records[event.record_id], event.kind == "activate", event.payload["gate"], commit.generation)
        for commit in ledger.commits()
        if commit.id in judging and commit.id not in reverted
        for event in ledger.events_of(commit.id)
        if "gate" in event.payload and event.record_id in records
    )


def _undecided(ledger: Ledger, decisions: tuple[Decision, ...]) -> tuple[Record, ...]:
    judged = {each.record.id for each in decisions}
    kept = [each for each in ledger.records().values() if each.kind in LEARNED and each.id not in judged]
    return tuple(sorted(kept, key=lambda record: -record.generation))


def _by_status(ledger: Ledger) -> dict[int, dict[Status, int]]:
    last = {commit.generation: commit.id for commit in ledger.commits()}
    counts: dict[int, dict[Status, int]] = {}
    for generation, commit in sorted(last.items()):
        kept = Counter(each.status for each in ledger.records(commit).values() if each.kind in LEARNED)
        counts[generation] = {status: kept[status] for status in STATUSES}
    return counts


def _origin(ledger: Ledger, source: str) -> str:
    trajectory = ledger.trajectory(source)
    if trajectory is not None:
        return render(trajectory)
    record = ledger.records().get(source)
    return record.text if record is not None else ""


def _spent(directory: Path) -> tuple[Spent, ...]:
    if not (directory / "metrics.jsonl").exists():
        raise FileNotFoundError("there is no metrics.jsonl.")
    by_phase: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for row in read_lines(directory / "metrics.jsonl"):
        if isinstance(row, dict) and "phase" in row:
            by_phase[str(row["phase"])].append(row)
    return tuple(
        Spent(
            phase,
            len({row.get("episode") for row in rows}),
            len({row.get("episode") for row in rows if row.get("failure")}),
            sum((_cost(row) for row in rows), Cost()),
        )
        for phase, rows in by_phase.items()
    )


def _thought(ledger: Ledger) -> tuple[Spent, ...]:
    from evolvent.agents.solutions.scratchpad import thought  # loads what thinking needs; not every reader asks this

    costs = [thought(ledger, generation) for generation in ledger.generations()]
    total = sum(costs, Cost())
    return (Spent("thinking", 0, 0, total),) if total.calls else ()


def _cost(row: Mapping[str, Any]) -> Cost:
    return Cost(*(row.get(each.name, 0) for each in fields(Cost)))


def strongest(decisions: Iterable[Decision]) -> list[Decision]:
    """By the evidence at the gate."""
    return sorted(decisions, key=lambda each: (-float(each.gate.get("e_value", 0)), each.record.id))


def _rounded(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"
