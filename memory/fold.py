"""How events become records: status, lift, recalls and parents are folded here and stored nowhere.

| event      | payload                                      | effect on the record                                    |
|------------|----------------------------------------------|---------------------------------------------------------|
| `add`      | `as_was`: true, where a merge of branches    | appears; known already: parents and new facts are joined |
|            | settles                                      | (as it was: exactly the record carried, known or not)   |
| `update`   | `meta`: facts, `parents`: ids,               | facts overwritten, parents joined;                      |
|            | `without_meta`: keys, `without_parents`: ids | these taken out;                                        |
|            | `status`: where a merge of branches settles  | standing replaced                                       |
| `merge`    | `into`: the id that stays                    | retired; the one that stays gains it as a parent        |
| `activate` | evidence                                     | active                                                  |
| `retire`   | evidence                                     | retired                                                 |
| `reject`   | evidence                                     | retired; learning it again does not bring it back       |
| `restore`  | evidence                                     | candidate again                                         |
| `credit`   | `lift`: an `Interval` as JSON, `recalls`: +n | lift replaced, recalls added                            |
| `forget`   | reason                                       | gone, as if it had never been there                     |

`revert` changes no record by itself: the ledger leaves the reverted commit out of what it folds.
Payloads may hold more: it is kept as evidence and changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, get_args

from evolvent.memory.errors import BadEventError, UnknownRecordError
from evolvent.memory.types import Event, Interval, Record, Status


def apply(
    records: dict[str, Record], events: Iterable[Event], generation: int, *, skipped: list[Event] | None = None
) -> None:
    """Change `records` by `events`, in order.

    `generation` is the one that wrote them; a record keeps that of its first `add`. What was valid when it was written
    may name a record that a revert or another branch took away since: with `skipped` such events are put there, in
    order, and change nothing. Forgetting what is not there is no such case: it is done.

    Raises:
        UnknownRecordError: an event names a record that is not there, and `skipped` is None.
        BadEventError: an event lacks what its kind needs.
    """
    for event in events:
        try:
            _apply(records, event, generation)
        except UnknownRecordError:
            if skipped is None:
                raise
            if event.kind != "forget":
                skipped.append(event)


def _apply(records: dict[str, Record], event: Event, generation: int) -> None:
    match event.kind:
        case "revert":
            return
        case "add":
            _add(records, event, generation)
            return
    known = _find(records, event.record_id, event)
    if event.kind == "forget":
        del records[known.id]
        return
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
    if event.payload.get("as_was"):
        records[new.id] = new
    elif known is None:
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
        case "restore":
            return replace(known, status="candidate")
        case "merge":
            into = _find(records, payload["into"], event)
            if into.id == known.id:
                raise ValueError("a record cannot be merged into itself")
            records[into.id] = replace(into, parents=_joined(into.parents, (known.id,)))
            return replace(known, status="retired")
        case "update":
            dropped, orphaned = set(payload.get("without_meta", ())), set(payload.get("without_parents", ()))
            meta = {**known.meta, **payload.get("meta", {})}
            parents = _joined(known.parents, payload.get("parents", ()))
            return replace(
                known,
                meta={key: value for key, value in meta.items() if key not in dropped},
                parents=tuple(each for each in parents if each not in orphaned),
                status=_status(payload.get("status", known.status)),
            )
        case "credit":
            lift = _interval(payload["lift"]) if "lift" in payload else known.lift
            return replace(known, lift=lift, recalls=known.recalls + int(payload.get("recalls", 0)))
        case _:
            raise ValueError(f"no event is called {event.kind!r}")


def _find(records: Mapping[str, Record], record_id: str, event: Event) -> Record:
    known = records.get(record_id)
    if known is None:
        raise UnknownRecordError(
            f"Event {event.kind!r} names record {record_id!r}, which was never added (or is gone)."
        )
    return known


def _status(value: Status) -> Status:
    if value not in get_args(Status):
        raise ValueError(f"status {value!r} is none of {', '.join(get_args(Status))}")
    return value


def _interval(value: Mapping[str, Any] | None) -> Interval | None:
    return None if value is None else Interval(**value)


def _joined(old: Iterable[str], new: Iterable[str]) -> tuple[str, ...]:
    """Both, each once, in order of first appearance."""
    return tuple(dict.fromkeys((*old, *new)))
