"""Changes of memory that a model or a person asks for, and what becomes of them.

`operation_lines.py` reads them from text, which a person may write as well; here they become events for one commit.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from evolvent.memory.consolidation import contradict, generalise, merge_events
from evolvent.memory.errors import UnlikeRecordsError
from evolvent.memory.retrieval import LIVE
from evolvent.memory.types import WEIGHTS, Event, Kind, Record, Scope, new_record

Verb = Literal["add", "update", "merge", "retire", "keep", "nothing"]
VERBS: tuple[Verb, ...] = get_args(Verb)


@dataclass(frozen=True, slots=True)
class Operation:
    """One change a model asked for."""

    verb: Verb
    ids: tuple[str, ...] = ()
    """Of the records it names, each once: one to update, two or more to merge, one or more to retire or keep."""
    text: str = ""
    """What the new record shall say; the reason of a `retire`. Empty in a merge that keeps one of the texts."""
    kind: Kind = "rule"
    """Of the record to add."""


@dataclass(frozen=True, slots=True)
class Rejected:
    line: str
    """As it was written."""
    reason: str


@dataclass(frozen=True, slots=True)
class Applied:
    events: tuple[Event, ...] = ()
    rejected: tuple[Rejected, ...] = ()


class _RefusedError(ValueError):
    """Why an operation is not done."""


def to_events(
    operations: Sequence[Operation],
    records: Mapping[str, Record],
    *,
    scope: Scope = Scope(),
    parents: tuple[str, ...] = (),
    generation: int = 0,
) -> Applied:
    """The events of these operations on memory as it is, for one commit.

    A text is its record's identity, so a new text is a new record, a candidate with the old ones as parents. Candidates
    that it rewrites merge into it at once. Active ones stay until it is proved in their place (`generalise`,
    `superseded`), since a model that rewrites what was proved loses it. Each record is touched once: the first
    operation that names it counts.

    Args:
        records: all of memory.
        scope: of what is added; a rewritten record applies where the old ones did.
        parents: what the model was shown when it asked, the ids of trajectories for instance.
    """
    events: list[Event] = []
    rejected: list[Rejected] = []
    touched: set[str] = set()
    for operation in operations:
        try:
            olds = [_changeable(key, records, operation) for key in operation.ids]
            twice = next((old.id for old in olds if old.id in touched), None)
            if twice:
                raise _RefusedError(f"{twice} was named by an operation before")
            made = _events_of(operation, olds, records, scope, parents, generation)
            new = {event.record_id for event in made if event.kind == "add"}
            if new & touched:
                raise _RefusedError("an operation before says the same")
            touched |= {*operation.ids, *new}
            events += made
        except (_RefusedError, UnlikeRecordsError) as error:
            rejected.append(Rejected(line(operation), str(error)))
    return Applied(tuple(events), tuple(rejected))


def line(operation: Operation) -> str:
    """The operation as a line, with whole ids; `parse` reads it back."""
    verb = operation.verb.upper()
    if operation.verb == "nothing":
        return verb
    named = operation.kind if operation.verb == "add" else ", ".join(operation.ids)
    return f"{verb} {named}: {operation.text}" if operation.text or operation.verb == "retire" else f"{verb} {named}"


def _changeable(key: str, records: Mapping[str, Record], operation: Operation) -> Record:
    if key not in records:
        raise _RefusedError(f"memory holds no record {key}")
    record = records[key]
    if record.kind == "trajectory" and operation.verb != "keep":
        raise _RefusedError(f"{key} is a trajectory: raw evidence is not rewritten")
    if record.kind in WEIGHTS:
        raise _RefusedError(f"{key} is no text but a {record.kind}: a person decides about it")
    if record.status not in LIVE:
        raise _RefusedError(f"{key} is {record.status}")
    return record


def _events_of(
    operation: Operation,
    olds: Sequence[Record],
    records: Mapping[str, Record],
    scope: Scope,
    parents: tuple[str, ...],
    generation: int,
) -> list[Event]:
    match operation.verb:
        case "retire":
            reason = operation.text or "no reason given"
            return [Event("retire", old.id, payload={"reason": reason, "asked": "RETIRE"}) for old in olds]
        case "add":
            if operation.kind == "trajectory":
                raise _RefusedError("trajectories are raw evidence; only episodes add them")
            new = new_record(
                operation.kind,
                operation.text,
                scope,
                parents=parents,
                meta={"situation": ""},
                generation=generation,
            )
            _refuse_known(new.id, records)
            return [Event("add", new.id, new, payload={"asked": "ADD"})]
        case "update" | "merge":
            return _rewritten(operation, olds, records, parents, generation)
        case _:
            return []


def _rewritten(
    operation: Operation,
    olds: Sequence[Record],
    records: Mapping[str, Record],
    parents: tuple[str, ...],
    generation: int,
) -> list[Event]:
    if not operation.text or any(operation.text == old.text for old in olds):
        if len(olds) == 1:
            raise _RefusedError(f"{olds[0].id} says so already")
        return merge_events(olds)
    for one, other in itertools.combinations(olds, 2):
        if contradict(one, other):
            raise _RefusedError(f"{one.id} and {other.id} contradict each other: retire the one that is wrong")
    events = generalise(olds, operation.text, known=records, parents=parents, generation=generation)
    new = events[0].record_id
    _refuse_known(new, records)
    reason = {"into": new, "reason": "rewritten", "asked": operation.verb.upper()}
    return [*events, *(Event("merge", old.id, payload=reason) for old in olds if old.status == "candidate")]


def _refuse_known(new: str, records: Mapping[str, Record]) -> None:
    """A record that was put away does not come back because somebody says it again."""
    known = records.get(new)
    if known is not None and known.status not in LIVE:
        raise _RefusedError(f"{new} says so and is {known.status}; restore it if it shall be tried again")
