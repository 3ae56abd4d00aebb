"""The episodes of a run as a list: what every seat did in each, filtered, sorted and cut into pages by the ledger."""

from __future__ import annotations

from collections.abc import Mapping
from typing import get_args

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from evolvent.agents.inspector import episode
from evolvent.agents.inspector.facets import facets, whole
from evolvent.agents.inspector.library import Run
from evolvent.agents.inspector.paging import ROWS, pages
from evolvent.agents.inspector.respond import address, look, page
from evolvent.memory.listing import Column, Group, Listed, Wanted

_LEDGER = ("ledger.sqlite", "ledger.sqlite-wal")
_KEPT = 100
"""Searches whose counts are remembered."""
_COLUMNS: tuple[Column, ...] = get_args(Column)


def index(request: Request) -> Response:
    """All trajectories, or those that the filters leave."""
    shown, query = look(request), request.query_params
    run, task = shown.run, query.get("task", "")
    asked = {field: query.get(field, "") for field in Group._fields}
    kept = {"task": task, **asked, "sort": query.get("sort", "")}
    by, descending = _order(query.get("sort", "-added"))
    groups = shown.reading.attempt("The episodes", lambda: _groups(run, task)) or {}
    everything = shown.reading.attempt("The episodes", lambda: _groups(run, "")) or {}
    found = facets(groups.items(), Group._fields, asked)
    at = pages(request, found.total)
    wanted = Wanted(
        task_has=task,
        phase=asked["phase"],
        generation=whole(request, "generation"),
        result=asked["result"],
        player=asked["player"],
        arm=asked["arm"],
    )
    rows = shown.reading.attempt("The episodes", lambda: _rows(run, wanted, by, descending, at.start)) or []

    def sorted_by(column: Column) -> str:
        """What is largest first, and tasks from A; the other way round where it is sorted so already."""
        down = not descending if column == by else column != "task"
        return address(run, "episodes", **{**kept, "sort": f"-{column}" if down else column})

    return page(
        request,
        "episodes.html",
        look=shown,
        rows=rows,
        found=found,
        everything=sum(everything.values()),
        asked=kept,
        order=(by, descending),
        sorted_by=sorted_by,
        pages=at,
    )


def _order(text: str) -> tuple[Column, bool]:
    """(column, descending) of `-score`.

    Raises:
        HTTPException: there is no such column.
    """
    for column in _COLUMNS:
        if text.removeprefix("-") == column:
            return column, text.startswith("-")
    known = ", ".join(_COLUMNS)
    raise HTTPException(
        400, f"The address asks for sort {text[:40]!r}. Known: {known}; with a - before it, descending."
    )


def _groups(run: Run, task: str) -> Mapping[Group, int]:
    """Counted anew once something was written; who turns pages asks for the same again."""
    kept: dict[str, Mapping[Group, int]] = run.kept("episodes by group", dict, files=_LEDGER)
    found = kept.get(task)
    if found is None:
        if len(kept) >= _KEPT:
            kept.clear()
        with run.memory() as memory:
            found = kept[task] = memory.ledger.tally(task)
    return found


def _rows(run: Run, wanted: Wanted, by: Column, descending: bool, offset: int) -> list[Listed]:
    with run.memory() as memory:
        return memory.ledger.listed(wanted, by=by, descending=descending, limit=ROWS, offset=offset)


routes = [Route("/run/{run}/episodes", index), Route("/run/{run}/episodes/{id:path}", episode.one)]
