"""One record: why it exists and whether it helps in plain words, then all that these rest on."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from evolvent.agents.inspector.library import Run
from evolvent.agents.inspector.records import scope_text, there
from evolvent.agents.inspector.respond import address, interval, look, page
from evolvent.agents.inspector.table import lift_of
from evolvent.agents.memory_directory import STANDINGS
from evolvent.agents.memory_listings import evidence_text, value_text
from evolvent.environments.display import count
from evolvent.memory.episodes import Played
from evolvent.memory.errors import UnknownRecordError
from evolvent.memory.history import Turn, turns
from evolvent.memory.ledger import Commit
from evolvent.memory.lineage import Cause, Decision, Impact, Lineage, spread
from evolvent.memory.store import Memory
from evolvent.memory.types import EventKind, Interval, Record

_CAUSES = 40
_TURNS = 100
_NAMED = 20
"""Of the records and episodes that came of one, so many are named."""
_SAID = ("lift", "recalls", "meta", "parents", "status", "without_meta", "without_parents", "as_was")
"""What a payload sets, which the history shows by field."""
_OF_OLD = "It is not in memory as it is now: this is what it was then."


# -- in plain words ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Origins:
    """Of what a record was made, by the tables alone."""

    records: int
    """That it names as parents."""
    direct: int
    """Trajectories that it names as parents."""
    episodes: int
    """Trajectories that it rests on, by way of other records too."""
    successes: int
    """Of those, with the full score."""


def origins(record: Record, lineage: Lineage) -> Origins:
    def above(level: list[str]) -> Iterator[str]:
        for key in level:
            yield from lineage.records[key].parents if key in lineage.records else ()

    beyond = spread([record.id], above)
    played: Mapping[str, Played] = lineage.ledger.played([key for key in beyond if key not in lineage.records])
    parents = [key for key in record.parents if key in lineage.records]
    direct = sum(key in played for key in record.parents)
    return Origins(len(parents), direct, len(played), sum(each.score >= 1 for each in played.values()))


def why_in_words(record: Record, found: Origins, trust: float) -> str:
    """Where it comes from, in a sentence or two."""
    verb = {"trajectory": "Kept as it was lived", "dataset": "Gathered", "adapter": "Trained"}.get(
        record.kind, "Learned" if found.direct else "Made"
    )
    said = f"{verb} in generation {record.generation}"
    if found.direct:
        said += f" from {count(found.direct, 'episode')}"
    if found.records:
        said += f" {'and' if found.direct else 'from'} {count(found.records, 'other record')}"
    if found.episodes > found.direct:
        said += f", which {'rest' if found.records != 1 else 'rests'} on {count(found.episodes, 'episode')} in all"
    if found.episodes and record.kind != "trajectory":
        said += f" ({found.successes} of them with the full score)"
    if not (found.direct or found.records):
        said += "; it names nothing that it came from" if record.kind != "trajectory" else ""
    if trust < 1:
        said += f". Trusted {trust:.2f} of 1, as the least of what it came from"
    return said + "."


@dataclass(frozen=True, slots=True)
class Help:
    """Whether a record helps: what may be said first, then on what grounds."""

    says: str
    tone: str
    """`improved`, `no-evidence` or `worse`, as verdicts are coloured."""
    grounds: Sequence[str]


def help_in_words(record: Record, decisions: Sequence[Decision]) -> Help:
    """By what the gate found, and by what training says since: the mean score with it minus without it."""
    gates = [each for each in decisions if isinstance(each.evidence.get("gate"), Mapping)]
    promoted = bool(gates) and gates[-1].verdict == "activate"
    lift, grounds = lift_of(record), []
    if gates:
        grounds.append(f"At the gate ({gates[-1].key}): {evidence(gates[-1].evidence)}.")
    else:
        grounds.append("No gate has judged it.")
    if lift is not None:
        side = "above" if lift.low > 0 else "below" if lift.high < 0 else "on both sides of"
        grounds.append(
            f"In training {interval(lift)} in score when shown, over {count(lift.n, 'episode')}; the 95 % interval "
            f"lies {side} 0."
        )
    elif record.recalls:
        times = count(record.recalls, "time")
        grounds.append(f"Training recalled it {times}, but not yet both showed and withheld it: that says nothing.")
    else:
        grounds.append("Training has not recalled it yet.")
    if lift is not None and lift.high < 0:
        says = ("It harms, training says" + (", although the gate had proved it." if promoted else "."), "worse")
    elif promoted and record.status != "active":
        says = (f"It was proved to help at the gate, and is {record.status} since.", "no-evidence")
    elif promoted and lift is not None and lift.low > 0:
        says = ("It helps: proved at the gate, and confirmed in training.", "improved")
    elif promoted:
        says = ("It helps: proved at the gate.", "improved")
    elif lift is not None and lift.low > 0:
        rest = "the gate does not." if gates else "and no gate has tried it."
        says = (f"It seems to help: training says so, {rest}", "no-evidence")
    elif gates:
        says = ("Not shown to help.", "no-evidence")
    else:
        says = ("Nobody knows yet.", "no-evidence")
    return Help(*says, grounds)


def stands_in_words(record: Record, decisions: Sequence[Decision]) -> str:
    """What its status means for agents, and the last decision that led there."""
    means = {
        "active": "Active: agents recall it",
        "candidate": "Candidate: it may be tried, and is not proved",
        "quarantined": "Quarantined: it comes from text that nobody vouches for, and waits until somebody restores it",
        "retired": "Retired: out of use, and kept",
    }[record.status]
    last = decisions[-1] if decisions else None
    if last is None:
        return f"{means}."
    grounds = evidence({key: value for key, value in last.evidence.items() if key != "gate"})
    return f"{means}. Last decided: {last.verdict} at {last.key}" + (f" ({grounds})." if grounds else ".")


def evidence(payload: Mapping[str, Any]) -> str:
    """`evidence_text`, which a payload that somebody edited by hand does not stop."""
    try:
        return evidence_text(payload)
    except (ArithmeticError, ValueError, TypeError, KeyError):
        return json.dumps(dict(payload), ensure_ascii=False, default=str)


# -- the page ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Set:
    """One line of a record's history: what an event set, and why."""

    commit: Commit
    kind: EventKind
    fields: Sequence[tuple[str, str, str]]
    """Name, before, after."""
    grounds: str


@dataclass(frozen=True, slots=True)
class Told:
    """One record, as its page shows it."""

    record: Record
    scope: str
    lift: Interval | None
    trust: float
    why: str
    helps: Help
    stands: str
    decisions: Sequence[tuple[Decision, str]]
    """With their grounds in words."""
    causes: Sequence[Cause]
    more_causes: bool
    impact: Impact
    history: Sequence[Set]
    """Newest first."""
    more_history: int
    meta: Sequence[tuple[str, str]]
    actions: Sequence[str]
    """What a reader who may write can decide about it."""
    old: str
    """Why it is shown as it was; empty where it is shown as it is."""
    done: Commit | None


def record_page(request: Request) -> Response:
    shown, name = look(request), request.path_params["record"]
    run, query = shown.run, request.query_params
    found = there(shown, "The record", lambda: _read(run, name, query.get("at", ""), query.get("done", "")))
    if isinstance(found, str):
        return RedirectResponse(found, 303)
    return page(
        request,
        "record.html",
        look=shown,
        name=name,
        told=found,
        named=_NAMED,
        undo=f"evolvent memory revert {run.path}",
    )


def _read(run: Run, name: str, at: str, done: str) -> Told | str:
    """The address of a trajectory's own page where the name is that of one.

    Raises:
        UnknownRecordError: neither a record nor a trajectory has this name.
    """
    with run.memory() as memory:
        records = memory.records(memory.resolve(at) if at else None)
        record = records.get(name)
        if record is None:
            if memory.ledger.played([name]):
                return address(run, "episodes", name)
            raise UnknownRecordError(f"No record {name!r} in this memory{f' at {at}' if at else ''}.")
        return _told(memory, records, record, done)


def _told(memory: Memory, records: Mapping[str, Record], record: Record, done: str) -> Told:
    lineage = Lineage(records, memory.ledger)
    history = [_set(turn) for turn in turns(memory.ledger, record.id)]
    decisions = lineage.decisions(record.id)
    causes = list(islice(lineage.causes(record), _CAUSES + 1))
    trust, now = lineage.trust(record.id), record.id in memory.records()
    return Told(
        record,
        scope_text(record.scope),
        lift_of(record),
        trust,
        why_in_words(record, origins(record, lineage), trust),
        help_in_words(record, decisions),
        stands_in_words(record, decisions),
        [(each, evidence(each.evidence) or "no evidence given") for each in decisions],
        causes[:_CAUSES],
        len(causes) > _CAUSES,
        lineage.impact(record.id),
        history[::-1][:_TURNS],
        max(0, len(history) - _TURNS),
        [(key, _plain(value)) for key, value in record.meta.items()],
        [verdict for verdict, of in STANDINGS.items() if now and record.status in of],
        "" if now else _OF_OLD,
        next((each for each in memory.ledger.commits() if each.id == done), None) if done else None,
    )


def _set(turn: Turn) -> Set:
    changed = [each for each in turn.fields if not each.name.startswith("parents.")]
    if turn.before is None:
        changed = [each for each in changed if each.after is not None]
    told = [(each.name, _plain(each.before), _plain(each.after)) for each in changed]
    parents = [each for each in turn.fields if each.name.startswith("parents.")]
    came = sum(bool(each.after) for each in parents)
    for says, number in (("new parents", came), ("parents that went", len(parents) - came)):
        told += [(says, "", f"{number:,}")] if number else []
    grounds = {key: value for key, value in turn.event.payload.items() if key not in _SAID}
    return Set(turn.commit, turn.event.kind, told, evidence(grounds))


def _plain(value: Any) -> str:
    try:
        return value_text(value)
    except (ValueError, TypeError):
        return str(value)


routes = [Route("/run/{run}/memory/{record:path}", record_page)]
