"""Model calls that no episode of the ledger accounts for: what was thought, judged and evolved beside them."""

from __future__ import annotations

from collections import Counter

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from evolvent.agents.inspector.facets import facets
from evolvent.agents.inspector.library import Look
from evolvent.agents.inspector.paging import pages
from evolvent.agents.inspector.respond import look, page
from evolvent.agents.inspector.tracing import Sort, TraceIndex, damage, outside, trace
from evolvent.memory.errors import UnknownRecordError


def index(request: Request) -> Response:
    """The newest first, or those that the filters leave."""
    shown, query = look(request), request.query_params
    run, attempt = shown.run, shown.reading.attempt
    asked = {name: query.get(name, "") for name in Sort._fields}
    found = attempt("The trace", lambda: trace(run))
    lines = _outside(shown, found) if found else []
    sorts = [found.sort(line) for line in lines] if found else []
    counts = facets(Counter(sorts).items(), Sort._fields, asked)
    fit = {
        sort for sort in set(sorts) if all(asked[name] in ("", str(value)) for name, value in sort._asdict().items())
    }
    wanted = [line for line, sort in zip(lines, sorts, strict=True) if sort in fit]
    at = pages(request, len(wanted))
    chosen = at.cut(wanted[::-1])
    calls = (attempt("The trace", lambda: found.read(chosen)) or []) if found else []
    shown.reading.problems += damage(found) if found else []

    return page(
        request,
        "calls.html",
        look=shown,
        calls=calls,
        found=counts,
        everything=len(lines),
        asked=asked,
        pages=at,
    )


def one(request: Request) -> Response:
    """One call, whole."""
    shown, line = look(request), request.path_params["line"]
    found = shown.reading.attempt("The trace", lambda: trace(shown.run))
    calls = (
        shown.reading.attempt("The trace", lambda: found.read([line]) if line <= len(found) else []) if found else None
    )
    if calls is not None and not calls:
        raise UnknownRecordError(f"The trace of this run has no call in line {line}.")
    return page(request, "call.html", look=shown, call=calls[0] if calls else None, line=line)


def _outside(shown: Look, found: TraceIndex) -> list[int]:
    """Where the ledger cannot be asked, no call is known to be of an episode."""
    lines = shown.reading.attempt("The episodes", lambda: outside(shown.run, found))
    return found.outside(lambda names: set(), "no ledger") if lines is None else lines


routes = [Route("/run/{run}/calls", index), Route("/run/{run}/calls/{line:int}", one)]
