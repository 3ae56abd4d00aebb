"""What of a memory is junk, by id: said twice, never used, contradicted, unproven, or resting on nothing.

An audit only looks; `consolidation.py`, `forgetting.py` and the gate do something about it. Retired and quarantined
records are out of use and not counted, trajectories are evidence and need no proof. Data sets and adapters
stand in no prompt and are left to their own registry.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

import numpy as np

from evolvent.memory.consolidation import claim, contradictions, near_duplicates
from evolvent.memory.embedding import Floats
from evolvent.memory.ledger import Ledger
from evolvent.memory.retrieval import LIVE
from evolvent.memory.types import WEIGHTS, Record

NEAR = 0.95
"""Cosine from which two records of one kind and scope are near-duplicates."""

Groups = tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True)
class Orphan:
    record: str
    parents: tuple[str, ...]
    """Those that are neither a record here nor a trajectory in the ledger."""


@dataclass(frozen=True, slots=True)
class Audit:
    """Ids of records, in order of first appearance."""

    records: int
    """Live ones that were looked at."""
    duplicates: Groups
    """The same words, but for case, punctuation and articles, in one scope and situation."""
    near_duplicates: Groups
    """Cosine of at least `NEAR` to the first of the group, which is the one of which most is known. Raw trajectories
    take no part: that two episodes went alike is evidence, not junk."""
    never_recalled: tuple[str, ...]
    """Active, older than the newest generation, and never in a prompt."""
    contradictory: Groups
    """Active, and different answers to one situation in one scope."""
    unproven: tuple[str, ...]
    """Active without the gate's evidence or a measured lift."""
    orphaned: tuple[Orphan, ...]

    def counts(self) -> dict[str, int]:
        """Records concerned, by finding."""
        counts = {}
        for each in fields(self)[1:]:
            found = getattr(self, each.name)
            counts[each.name] = sum(len(one) if isinstance(one, tuple) else 1 for one in found)
        return counts

    def __str__(self) -> str:
        lines = [f"{self.records} live records"]
        for name, count in self.counts().items():
            lines.append(f"{name.replace('_', ' ')}: {count}")
            lines += [f"  {_line(each)}" for each in getattr(self, name)]
        return "\n".join(lines)


def audit(records: Mapping[str, Record], ledger: Ledger, *, vectors: Mapping[str, Floats] | None = None) -> Audit:
    """Look through the records of one commit.

    Args:
        records: `memory.records()`.
        ledger: tells what the gate decided and which trajectories there are.
        vectors: unit vectors by record id; without them no near-duplicates are sought.
    """
    live = [record for record in records.values() if record.status in LIVE and record.kind not in WEIGHTS]
    active = [record for record in live if record.status == "active" and record.kind != "trajectory"]
    newest = max((record.generation for record in records.values()), default=0)
    proved = {event.record_id for event in ledger.events() if event.kind == "activate" and "gate" in event.payload}
    return Audit(
        len(live),
        _duplicates(live),
        _near_duplicates(live, vectors or {}),
        tuple(record.id for record in active if not record.recalls and record.generation < newest),
        tuple(tuple(record.id for record in each.records) for each in contradictions(active)),
        tuple(record.id for record in active if record.id not in proved and record.lift is None),
        _orphaned(live, records, ledger),
    )


def _duplicates(live: list[Record]) -> Groups:
    said: dict[object, list[str]] = {}
    for record in live:
        same = (record.kind, record.scope, record.meta.get("situation", ""), claim(record.text))
        said.setdefault(same, []).append(record.id)
    return tuple(tuple(ids) for ids in said.values() if len(ids) > 1)


def _near_duplicates(live: list[Record], vectors: Mapping[str, Floats]) -> Groups:
    known = [record for record in live if record.id in vectors and record.kind != "trajectory"]
    if not known:
        return ()
    groups = near_duplicates(known, np.stack([vectors[record.id] for record in known]), NEAR, loose=True)
    return tuple(
        tuple(record.id for record in group) for group in groups if len({claim(record.text) for record in group}) > 1
    )


def _orphaned(live: list[Record], records: Mapping[str, Record], ledger: Ledger) -> tuple[Orphan, ...]:
    unknown = {parent for record in live for parent in record.parents if parent not in records}
    lost = unknown - ledger.played(unknown).keys()
    found = ((record.id, tuple(parent for parent in record.parents if parent in lost)) for record in live)
    return tuple(Orphan(key, parents) for key, parents in found if parents)


def _line(finding: str | tuple[str, ...] | Orphan) -> str:
    if isinstance(finding, Orphan):
        return f"{finding.record} (parents {', '.join(finding.parents)})"
    return finding if isinstance(finding, str) else ", ".join(finding)
