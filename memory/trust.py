"""Trust: a record is as trusted as the least trusted thing it came from.

`meta["trust"]` in [0, 1] says how far a record's own text is vouched for; nothing said is 1. What a stranger wrote
enters low and stays quarantined, and so does what was learned from it, or from an episode in whose prompt it stood.
Restoring one record does not vouch for it: raise its `trust` by an `update` for that.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from evolvent.memory.errors import BadEventError
from evolvent.memory.ledger import Ledger
from evolvent.memory.lineage import Lineage
from evolvent.memory.types import Event, Record

TRUSTED = 0.5
"""Below it a record starts quarantined."""


def quarantined(ledger: Ledger, events: Sequence[Event]) -> list[Event]:
    """The events, with each `add` of a new record that is not to be trusted made the `add` of a quarantined one.

    A record that memory has already keeps its standing, whoever says it again: text anybody may write must not be able
    to take a proved rule away.

    Raises:
        BadEventError: a stated trust is no number in [0, 1].
    """
    for event in events:
        stated = event.record.meta if event.record is not None else event.payload.get("meta")
        value = stated.get("trust", 1.0) if isinstance(stated, Mapping) else 1.0
        if not isinstance(value, int | float) or not 0 <= value <= 1:
            raise BadEventError(
                f"Event {event.kind!r} of {event.record_id!r} states trust {value!r}; expected a number from 0 (nobody "
                "vouches for it) to 1."
            )
    known = ledger.records()
    new: dict[str, Record] = {}
    for event in events:
        if event.kind == "add" and event.record is not None and event.record_id not in known:
            record = new.setdefault(event.record_id, event.record)
            parents = tuple(dict.fromkeys((*record.parents, *event.record.parents)))
            new[event.record_id] = replace(record, parents=parents, meta={**event.record.meta, **record.meta})
    if not new:
        return list(events)
    trusts = Lineage({**known, **new}, ledger).distrusted
    return [
        replace(event, record=replace(event.record, status="quarantined"))
        if event.record is not None and event.record_id in new and trusts.get(event.record_id, 1.0) < TRUSTED
        else event
        for event in events
    ]
