"""Reading the history of records: what differs between two states, what was committed, who set what.

Knows nothing of Chroma or of printing; every function gives values.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from evolvent.memory.errors import UnknownRecordError
from evolvent.memory.fold import apply
from evolvent.memory.ledger import Commit, Ledger
from evolvent.memory.types import Event, EventKind, Kind, Record, Status


@dataclass(frozen=True, slots=True)
class Field:
    """One field that differs."""

    name: str
    """`status`, `lift`, `recalls`, `generation`, `meta.KEY`, or `parents.ID` (True: it is a parent)."""
    before: Any
    """None where it was not there."""
    after: Any


@dataclass(frozen=True, slots=True)
class Change:
    """How one record differs between two states."""

    kind: Literal["added", "removed", "changed"]
    record: Record
    """As it is after; of a removed one, as it was."""
    fields: tuple[Field, ...] = ()
    """Of a changed one; never empty then."""


class Changes(list[Change]):
    """A list that shows itself in a notebook."""

    def _repr_html_(self) -> str:
        from evolvent.memory.display import changes

        return changes(self)

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        printer.text(f"records that differ: {len(self)}")


def diff(before: Mapping[str, Record], after: Mapping[str, Record]) -> Changes:
    """Records that are not the same in both, in order of first appearance: those before, then new ones."""
    changes = Changes()
    for key in dict.fromkeys((*before, *after)):
        old, new = before.get(key), after.get(key)
        if new is None and old is not None:
            changes.append(Change("removed", old))
        elif old is None and new is not None:
            changes.append(Change("added", new))
        elif old is not None and new is not None and old is not new and (fields := _fields(old, new)):
            changes.append(Change("changed", new, fields))
    return changes


def _fields(old: Record, new: Record) -> tuple[Field, ...]:
    was, now = _flat(old), _flat(new)
    names = dict.fromkeys((*was, *now))
    return tuple(Field(name, was.get(name), now.get(name)) for name in names if was.get(name) != now.get(name))


def _flat(record: Record) -> dict[str, Any]:
    """Everything of a record that may change, by the names of `Field`."""
    return {
        "status": record.status,
        "lift": record.lift,
        "recalls": record.recalls,
        "generation": record.generation,
        **{f"meta.{key}": value for key, value in record.meta.items()},
        **{f"parents.{each}": True for each in record.parents},
    }


@dataclass(frozen=True, slots=True)
class Logged:
    """One commit of a line, as a log shows it."""

    commit: Commit
    counts: Mapping[EventKind, int]
    """Events by kind, in the order in which the kinds first appear."""
    branches: tuple[str, ...]
    """Whose head it is."""
    reverted_by: str
    """Commit that took it out of the line; empty while it counts."""


def log(ledger: Ledger, at: str | None = None) -> list[Logged]:
    """The line to commit `at` (default the head), newest first."""
    counts, gone = ledger.event_counts(), ledger.reverted(at)
    heads = ledger.branches().items()
    return [
        Logged(
            commit,
            counts.get(commit.id, {}),
            tuple(name for name, head in heads if head == commit.id),
            gone.get(commit.id, ""),
        )
        for commit in reversed(ledger.commits(at))
    ]


@dataclass(frozen=True, slots=True)
class Origin:
    """Which event of which commit gave a field its value."""

    field: str
    """`added`, or as in `Field`."""
    value: Any
    commit: Commit
    event: Event


def blame(ledger: Ledger, record_id: str) -> list[Origin]:
    """Where each field of a record as it is now comes from: `added` first, then the others in the order they were set.

    A field that nothing set after the record was added has the `add` as its origin.

    Raises:
        UnknownRecordError: no such record at the head.
    """
    if record_id not in ledger.records():
        raise UnknownRecordError(f"No record {record_id!r} in {ledger.path}. `evolvent memory ls` lists the ids.")
    origins: dict[str, Origin] = {}
    for turn in turns(ledger, record_id):
        if turn.after is None:
            origins.clear()
            continue
        if turn.before is None:
            origins["added"] = Origin("added", turn.after.text, turn.commit, turn.event)
        there = _flat(turn.after)
        for field in turn.fields:
            origins.pop(field.name, None)
            if field.name in there:
                origins[field.name] = Origin(field.name, field.after, turn.commit, turn.event)
    return list(origins.values())


@dataclass(frozen=True, slots=True)
class Turn:
    """What one event made of a record."""

    commit: Commit
    event: Event
    before: Record | None
    """None: it was not there."""
    after: Record | None
    """None: it was forgotten."""

    @property
    def fields(self) -> tuple[Field, ...]:
        """All of them where it came or went; never those of its identity."""
        was, now = (_flat(each) if each else {} for each in (self.before, self.after))
        names = dict.fromkeys((*was, *now))
        return tuple(
            Field(name, was.get(name), now.get(name))
            for name in names
            if (name in was) != (name in now) or was.get(name) != now.get(name)
        )


def turns(ledger: Ledger, record_id: str) -> Iterator[Turn]:
    """Everything that counts of one record at the head, in order, merges into it too; nothing for one never met."""
    records: dict[str, Record] = {}
    for commit, event in ledger.events_about(record_id):
        before = records.get(record_id)
        if before is not None and event.record_id != record_id:
            records[event.record_id] = replace(before, id=event.record_id)  # what is merged into it
        apply(records, [event], commit.generation, skipped=[])
        yield Turn(commit, event, before, records.get(record_id))


def by_status(ledger: Ledger, kinds: Collection[Kind]) -> dict[int, dict[Status, int]]:
    """How many records of these kinds there were of each status, by the end of each generation.

    By the commits that count at the head: what was reverted since is left out from the beginning. Folds each commit
    once, however many generations there are.
    """
    gone, records = ledger.reverted(), dict[str, Record]()
    counts: dict[int, dict[Status, int]] = {}
    line = ledger.commits()
    for place, commit in enumerate(line):
        if commit.id not in gone:
            apply(records, ledger.events_of(commit.id), commit.generation, skipped=[])
        if place + 1 == len(line) or line[place + 1].generation != commit.generation:
            held = Counter(each.status for each in records.values() if each.kind in kinds)
            counts[commit.generation] = dict(held)
    return dict(sorted(counts.items()))
