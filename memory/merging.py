"""Three-way merge of records: what two branches made of a common past becomes one state, or a list of conflicts.

Field by field: what only one side changed is taken from it, parents are joined, recalls add up. Where both changed the
same field to different values nothing is guessed: that is a `Conflict`, settled only when the caller prefers a side.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from evolvent.memory.types import Event, Record

Side = Literal["ours", "theirs"]


@dataclass(frozen=True, slots=True)
class Conflict:
    """One field of one record that both branches changed, to different values."""

    record_id: str
    field: str
    """`status`, `lift`, `meta.KEY`, or `record`: changed on one side, gone on the other."""
    base: Any
    """At the last common state; None where there was none. Of `record` all three are texts."""
    ours: Any
    theirs: Any

    def __str__(self) -> str:
        return f"{self.record_id} {self.field}: {self.base!r} became {self.ours!r} here and {self.theirs!r} there"


class _Absent:
    """No such meta key; shown as None."""


_ABSENT = _Absent()


def three_way(
    base: Mapping[str, Record], ours: Mapping[str, Record], theirs: Mapping[str, Record], prefer: Side | None
) -> tuple[dict[str, Record], list[Conflict]]:
    """The records that result, ours first, and what both sides changed differently.

    Where a conflict is, the value of the preferred side is in the result (without preference: ours).
    """
    result: dict[str, Record] = {}
    conflicts: list[Conflict] = []
    for key in dict.fromkeys((*ours, *theirs)):
        before, here, there = base.get(key), ours.get(key), theirs.get(key)
        kept: Record | None
        if there == before:
            kept = here
        elif here == before:
            kept = there
        elif here is None or there is None:
            texts = [None if each is None else each.text for each in (before, here, there)]
            conflicts.append(Conflict(key, "record", *texts))
            kept = there if prefer == "theirs" else here
        else:
            kept = _joined(before, here, there, prefer, conflicts)  # also what both changed alike: recalls add up
        if kept is not None:
            result[key] = kept
    return result, conflicts


def _joined(
    before: Record | None, here: Record, there: Record, prefer: Side | None, conflicts: list[Conflict]
) -> Record:
    def choose(field: str, old: Any, our: Any, their: Any) -> Any:
        if our == their or their == old:
            return our
        if our == old:
            return their
        conflicts.append(Conflict(here.id, field, *(None if each is _ABSENT else each for each in (old, our, their))))
        return their if prefer == "theirs" else our

    old_meta: Mapping[str, Any] = before.meta if before else {}
    meta = {
        key: choose(f"meta.{key}", *(each.get(key, _ABSENT) for each in (old_meta, here.meta, there.meta)))
        for key in dict.fromkeys((*here.meta, *there.meta))
    }
    old_parents = before.parents if before else ()
    removed = set(old_parents) - (set(here.parents) & set(there.parents))
    parents = dict.fromkeys((*here.parents, *there.parents))
    return replace(
        here,
        status=choose("status", before.status if before else "candidate", here.status, there.status),
        lift=choose("lift", before.lift if before else None, here.lift, there.lift),
        meta={key: value for key, value in meta.items() if value is not _ABSENT},
        parents=tuple(each for each in parents if each not in removed),
        recalls=here.recalls + there.recalls - (before.recalls if before else 0),
    )


def settling(replayed: Mapping[str, Record], wanted: Mapping[str, Record]) -> list[Event]:
    """Events that turn the replay of both branches' events into the wanted records; none where it is them already."""
    events: list[Event] = []
    for key in dict.fromkeys((*replayed, *wanted)):
        now, then = replayed.get(key), wanted.get(key)
        if now is None and then is not None:
            events.append(Event("add", key, then, {"as_was": True}))
        elif then is None:
            events.append(Event("forget", key, payload={"reason": "merge"}))
        elif now is not None and now != then:
            events += _settled(now, then)
    return events


def _settled(now: Record, then: Record) -> Iterable[Event]:
    facts: dict[str, Any] = {
        "meta": {k: v for k, v in then.meta.items() if k not in now.meta or now.meta[k] != v},
        "without_meta": [k for k in now.meta if k not in then.meta],
        "parents": [each for each in then.parents if each not in now.parents],
        "without_parents": [each for each in now.parents if each not in then.parents],
    }
    payload = {name: value for name, value in facts.items() if value}
    if then.status != now.status:
        payload["status"] = then.status
    if payload:
        yield Event("update", now.id, payload={**payload, "reason": "merge"})
    credit: dict[str, Any] = {}
    if then.lift != now.lift:
        credit["lift"] = asdict(then.lift) if then.lift else None
    if then.recalls != now.recalls:
        credit["recalls"] = then.recalls - now.recalls
    if credit:
        yield Event("credit", now.id, payload={**credit, "reason": "merge"})
