"""What a reader may change, with `--write`: retire and restore a record, revert a commit.

A page says what will happen and asks for a reason; the form carries it out by one commit, which can be reverted. While
a run is writing nothing is changed, and the reader is told so.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from evolvent.agents.errors import SetupError
from evolvent.agents.inspector.library import Run
from evolvent.agents.inspector.records import there
from evolvent.agents.inspector.respond import address, look, page
from evolvent.agents.inspector.security import form
from evolvent.agents.memory_directory import STANDINGS, decided, opened
from evolvent.environments.display import count
from evolvent.memory.errors import LedgerLockedError, UnknownRecordError
from evolvent.memory.history import Change, diff
from evolvent.memory.ledger import ROOT
from evolvent.memory.lineage import Lineage
from evolvent.memory.types import EventKind

_NAMED = 20
_READ_ONLY = (
    "Nothing can be changed here: the server was started without --write, or this form is not from a page that it made "
    "since. Start `evolvent inspect DIR --write` and open the page anew."
)
_WRITTEN = "A run is writing to this memory, so nothing was changed: one writer at a time. Ask again when it has ended."


@dataclass(frozen=True, slots=True)
class Plan:
    """What a reader is asked to confirm."""

    title: str
    about: str
    """The text of the record, or the commit's key and note."""
    told: Sequence[str]
    """What will happen, one sentence each."""
    changes: Sequence[Change]
    """Of a commit: what it did, which will be taken back."""
    back: str
    """Where the reader came from."""
    button: str
    reason_needed: bool


def _retire(run: Run, name: str) -> Plan:
    return _decision(
        run,
        name,
        "retire",
        "No agent recalls it any more. It stays in memory, is found by its status, and can be restored.",
    )


def _restore(run: Run, name: str) -> Plan:
    return _decision(
        run, name, "restore", "It becomes a candidate again: agents may recall it, and the gate may prove it."
    )


def _decision(run: Run, name: str, verdict: EventKind, effect: str) -> Plan:
    """
    Raises:
        UnknownRecordError, SetupError: there is no such record, or it stands where this decision makes no sense.
    """
    with run.memory() as memory:
        record = memory.records().get(name)
        if record is None:
            raise UnknownRecordError(f"No record {name!r} in this memory.")
        impact = Lineage(memory.records(), memory.ledger).impact(name)
    told = [effect]
    if impact.derived:
        told.append(
            f"{count(len(impact.derived), 'record')} came of it, {len(impact.only)} of them of it alone; they stay as "
            "they are."
        )
    told.append(f"It, or what came of it, stood in the prompts of {count(len(impact.episodes), 'episode')} so far.")
    allowed = STANDINGS[verdict]
    if record.status not in allowed:
        raise SetupError(f"{name} is {record.status}; expected one that is {' or '.join(allowed)}.")
    title = f"{verdict.capitalize()} this {record.kind}?"
    back = address(run, "memory", name)
    return Plan(title, record.text, told, (), back, verdict.capitalize(), reason_needed=verdict == "retire")


def _revert(run: Run, name: str) -> Plan:
    with run.memory() as memory:
        target = memory.resolve(name)
        known = {each.id: each for each in memory.ledger.commits()}
        if target not in known or target == ROOT:
            raise SetupError(f"Commit {target} is not on the branch that is checked out; nothing to revert.")
        commit, gone = known[target], memory.ledger.reverted()
        changes = diff(memory.records(commit.parent), memory.records(target))
    if target in gone:
        raise SetupError(f"Commit {target} is reverted already, by {gone[target]}. Revert that to bring it back.")
    counts = Counter(each.kind for each in changes)
    said = ", ".join(f"{number:,} {kind}" for kind, number in counts.items()) or "no record differs"
    told = [
        "Memory becomes what it would be had this commit never been made. Later commits stay; where they build on it, "
        "this is refused and says which to revert first.",
        f"By this commit: {said}.",
    ]
    about = f"{commit.key} (generation {commit.generation})" + (f": {commit.note}" if commit.note else "")
    back = address(run, "generations")
    return Plan(f"Revert commit {target}?", about, told, changes[:_NAMED], back, "Revert", reason_needed=False)


def _confirm(planned: Callable[[Run, str], Plan], parameter: str) -> Callable[[Request], Response]:
    """The page that asks, for one kind of change."""

    def asks(request: Request) -> Response:
        shown, name = look(request), request.path_params[parameter]
        if not request.app.state.write:
            return page(request, "error.html", status=403, told=_READ_ONLY)
        plan = there(shown, "The memory", lambda: planned(shown.run, name), beside=(SetupError,))
        return page(request, "confirm.html", look=shown, plan=plan, complaint="")

    return asks


def _carry_out(
    planned: Callable[[Run, str], Plan], parameter: str, change: Callable[[Run, str, str], str]
) -> Callable[[Request], object]:
    """What the form of that page does: `change` gives the address to go on to."""

    async def does(request: Request) -> Response:
        fields = await form(request)
        if fields is None:
            return page(request, "error.html", status=403, told=_READ_ONLY)
        shown, name = look(request), request.path_params[parameter]
        reason = fields.get("reason", "").strip()

        def done() -> Response:
            plan = there(shown, "The memory", lambda: planned(shown.run, name), beside=(SetupError,))
            if plan is None or (plan.reason_needed and not reason):
                complaint = "Say why: the reason is kept with the record."
                return page(request, "confirm.html", status=400, look=shown, plan=plan, complaint=complaint)
            try:
                return RedirectResponse(change(shown.run, name, reason), 303)
            except LedgerLockedError:
                return page(request, "error.html", status=409, told=_WRITTEN)

        return await run_in_threadpool(done)

    return does


def _decide(verdict: EventKind) -> Callable[[Run, str, str], str]:
    def change(run: Run, name: str, reason: str) -> str:
        return address(run, "memory", name, done=decided(run.path, verdict, name, reason))

    return change


def _take_back(run: Run, name: str, reason: str) -> str:
    with opened(run.path, writing=True) as memory:
        made = memory.revert(memory.resolve(name), reason)
    return address(run, "memory", done=made)


_CHANGES = (
    ("/run/{run}/memory/{record:path}/retire", "record", _retire, _decide("retire")),
    ("/run/{run}/memory/{record:path}/restore", "record", _restore, _decide("restore")),
    ("/run/{run}/commits/{commit:path}/revert", "commit", _revert, _take_back),
)
routes = [
    route
    for path, parameter, planned, change in _CHANGES
    for route in (
        Route(path, _confirm(planned, parameter), methods=["GET"]),
        Route(path, _carry_out(planned, parameter, change), methods=["POST"]),
    )
]
"""Before those of records: an id may be any text."""
