"""How events become records: status, lift, recalls and parents are folded here and stored nowhere.

| event      | payload                                      | effect on the record                                    |
|------------|----------------------------------------------|---------------------------------------------------------|
| `add`      | –                                            | appears; known already: parents and new facts are joined |
| `update`   | `meta`: facts, `parents`: ids                | facts overwritten, parents joined                       |
| `merge`    | `into`: the id that stays                    | retired; the one that stays gains it as a parent        |
| `activate` | evidence                                     | active                                                  |
| `retire`   | evidence                                     | retired                                                 |
| `reject`   | evidence                                     | retired; learning it again does not bring it back       |
| `credit`   | `lift`: an `Interval` as JSON, `recalls`: +n | lift replaced, recalls added                            |

Payloads may hold more: it is kept as evidence and changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from evolvent.memory.errors import BadEventError, UnknownRecordError
from evolvent.memory.types import Event, Interval, Record


def apply(records: dict[str, Record], events: Iterable[Event], generation: int) -> None:
    """Change `records` by `events`, in order.

    `generation` is the one that wrote them; a record keeps that of its first `add`.

    Raises:
        UnknownRecordError: an event names a record that was never added.
        BadEventError: an event lacks what its kind needs.
    """
    for event in events:
        if event.kind == "add":
            _add(records, event, generation)
            continue
        known = _find(records, event.record_id, event)
        try:
            records[known.id] = _changed(records, known, event)
        except (KeyError, TypeError, ValueError) as error:
            raise BadEventError(
                f"Event {event.kind!r} of {event.record_id!r} has payload {dict(event.payload)!r}: "
                f"{type(error).__name__} {error}. See memory/fold.py for what each kind needs."
            ) from error


def _add(records: dict[str, Record], event: Event, generation: int) -> None:
    new = event.record
    if new is None or new.id != event.record_id:
        carried = "no record" if new is None else f"record {new.id!r}"
        raise BadEventError(f"Event 'add' of {event.record_id!r} carries {carried}; it must carry the record it names.")
    known = records.get(new.id)
    if known is None:
        parents = _joined(new.parents, ())
        records[new.id] = replace(new, parents=parents, lift=None, recalls=0, generation=generation)
    else:
        parents = _joined(known.parents, new.parents)
        records[new.id] = replace(known, parents=parents, meta={**new.meta, **known.meta})


def _changed(records: dict[str, Record], known: Record, event: Event) -> Record:
    payload = event.payload
    match event.kind:
        case "activate":
            return replace(known, status="active")
        case "retire" | "reject":
            return replace(known, status="retired")
        case "merge":
            into = _find(records, payload["into"], event)
            if into.id == known.id:
                raise ValueError("a record cannot be merged into itself")
            records[into.id] = replace(into, parents=_joined(into.parents, (known.id,)))
            return replace(known, status="retired")
        case "update":
            meta = {**known.meta, **payload.get("meta", {})}
            return replace(known, meta=meta, parents=_joined(known.parents, payload.get("parents", ())))
        case "credit":
            lift = _interval(payload["lift"]) if "lift" in payload else known.lift
            return replace(known, lift=lift, recalls=known.recalls + int(payload.get("recalls", 0)))
        case _:
            raise ValueError(f"no event is called {event.kind!r}")


def _find(records: Mapping[str, Record], record_id: str, event: Event) -> Record:
    known = records.get(record_id)
    if known is None:
        raise UnknownRecordError(f"Event {event.kind!r} names record {record_id!r}, which was never added.")
    return known


def _interval(value: Mapping[str, Any] | None) -> Interval | None:
    return None if value is None else Interval(**value)


def _joined(old: Iterable[str], new: Iterable[str]) -> tuple[str, ...]:
    """Both, each once, in order of first appearance."""
    return tuple(dict.fromkeys((*old, *new)))
