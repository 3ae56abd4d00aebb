"""What a commit changed, and what lies between any two states of a memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from evolvent.agents.inspector.paging import Pages, pages
from evolvent.agents.inspector.respond import look, page
from evolvent.agents.memory_listings import evidence_text, value_text
from evolvent.memory.errors import UnknownCommitError
from evolvent.memory.history import Change, Field, Logged, diff, log
from evolvent.memory.ledger import ROOT
from evolvent.memory.types import Event, Record

_SET = ("lift", "recalls", "meta", "parents", "status", "without_meta", "without_parents", "as_was", "commit")
"""What a payload sets, beside the grounds it gives."""
_KINDS = ("added", "removed", "changed")


@dataclass(frozen=True, slots=True)
class Told:
    """A field before and after."""

    name: str
    before: str
    after: str


@dataclass(frozen=True, slots=True)
class Row:
    """One record that differs."""

    kind: str
    record: Record
    fields: Sequence[Told]
    grounds: str
    """On what evidence; empty where none was given."""
    gone: bool
    """Memory does not hold it after the change, so it has no page."""


@dataclass(frozen=True, slots=True)
class Difference:
    """A page of the records that differ, and how many there are of each sort."""

    rows: Sequence[Row]
    counts: dict[str, int]
    """By sort of change, of what was learned."""
    lived: dict[str, int]
    """The same of raw trajectories."""
    pages: Pages
    kind: str
    """Only this sort of change; empty for all."""
    raw: bool
    """Raw trajectories are shown too."""


def commit(request: Request) -> Response:
    """One commit beside its parent."""
    shown = look(request)
    run, reading = shown.run, shown.reading
    asked = request.path_params["commit"]

    def read() -> tuple[Logged | None, list[Change], list[Event], Mapping[str, Record]] | UnknownCommitError:
        with run.memory() as memory:
            ledger = memory.ledger
            try:
                resolved = ledger.resolve(asked)
            except UnknownCommitError as error:
                return error
            lines = (log(ledger), log(ledger, resolved))  # the second is another branch's
            logged = next((each for line in lines for each in line if each.commit.id == resolved), None)
            if logged is None:
                return UnknownCommitError(f"{resolved} is the empty memory before the first commit.")
            before, after = ledger.records(logged.commit.parent), ledger.records(resolved)
            return logged, diff(before, after), ledger.events_of(resolved), memory.records()

    found = reading.attempt("The commit", read)
    if isinstance(found, UnknownCommitError):
        raise found
    logged, changes, events, now = found or (None, [], [], {})
    grounds = {event.record_id: _grounds(event) for event in events}
    return page(
        request,
        "commit.html",
        look=shown,
        asked=asked,
        logged=logged,
        root=ROOT,
        difference=_difference(request, changes, grounds, now),
        revertible=bool(logged and not logged.reverted_by and request.app.state.write),
    )


def between(request: Request) -> Response:
    """Any two states: a commit, a branch, a step (`2/gate`) or `HEAD~3`."""
    shown = look(request)
    run, reading = shown.run, shown.reading
    before, after = (request.query_params.get(end, "").strip() for end in ("from", "to"))

    def read() -> tuple[list[Change], list[str], Mapping[str, Record], tuple[str, str]] | UnknownCommitError:
        with run.memory() as memory:
            ledger = memory.ledger
            names = ["HEAD", *ledger.branches(), *dict.fromkeys(each.key for each in reversed(ledger.commits()))]
            if not (before and after):
                return [], names, {}, ("", "")
            try:
                ends = ledger.resolve(before), ledger.resolve(after)
            except UnknownCommitError as error:
                return error
            return diff(*(ledger.records(each) for each in ends)), names, memory.records(), ends

    found = reading.attempt("The difference", read)
    if isinstance(found, UnknownCommitError):
        raise found
    changes, names, now, ends = found or ([], [], {}, ("", ""))
    return page(
        request,
        "diff.html",
        look=shown,
        before=before,
        after=after,
        ends=ends,
        names=names[:200],
        difference=_difference(request, changes, {}, now) if before and after else None,
    )


# -- inside --------------------------------------------------------------------------------------------------------


def _difference(
    request: Request, changes: Sequence[Change], grounds: Mapping[str, str], now: Mapping[str, Record]
) -> Difference:
    kind = request.query_params.get("kind", "")
    raw = request.query_params.get("raw") == "1"
    learned = [each for each in changes if each.record.kind != "trajectory"]
    wanted = [each for each in (changes if raw else learned) if kind not in _KINDS or each.kind == kind]
    at = pages(request, len(wanted))
    return Difference(
        [_row(each, grounds, now) for each in at.cut(wanted)],
        dict(Counter(each.kind for each in learned)),
        dict(Counter(each.kind for each in changes if each.record.kind == "trajectory")),
        at,
        kind if kind in _KINDS else "",
        raw,
    )


def _row(change: Change, grounds: Mapping[str, str], now: Mapping[str, Record]) -> Row:
    parents = [field for field in change.fields if field.name.startswith("parents.")]
    told = [_told(field) for field in change.fields if field not in parents]
    if parents:
        came = sum(field.after is not None for field in parents)
        told.append(Told("parents", f"{len(parents) - came} fewer", f"{came} more"))
    record = change.record
    return Row(change.kind, record, told, grounds.get(record.id, ""), record.id not in now)


def _told(field: Field) -> Told:
    return Told(field.name, value_text(field.before), value_text(field.after))


def _grounds(event: Event) -> str:
    return evidence_text({key: value for key, value in event.payload.items() if key not in _SET})


routes = [Route("/run/{run}/commits/{commit}", commit), Route("/run/{run}/diff", between)]
