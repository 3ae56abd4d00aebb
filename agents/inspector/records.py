"""Memory as a table: filtered, sorted or searched, its lifts side by side and its growth."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from evolvent.agents.findings import STATUSES
from evolvent.agents.inspector.facets import whole_or
from evolvent.agents.inspector.figures import Estimate, Figure, forest, records_by_status
from evolvent.agents.inspector.library import Look, Run
from evolvent.agents.inspector.paging import Pages, pages
from evolvent.agents.inspector.ready import LARGE, Ready, ready, unusable
from evolvent.agents.inspector.respond import address, look, page
from evolvent.agents.inspector.table import KINDS, SORTINGS, Rows, Table, lift_of, table
from evolvent.memory.errors import UnknownCommitError, UnknownRecordError
from evolvent.memory.history import by_status
from evolvent.memory.ledger import Commit
from evolvent.memory.retrieval import LIVE, RETRIEVERS
from evolvent.memory.store import Memory, Snapshot
from evolvent.memory.types import LEARNED, Interval, Kind, Record, Scope, Status

T = TypeVar("T")
_MOST_FOUND = 500
_SIFTED = 1000
"""Of a search, where the generation is sifted afterwards: so many are looked through."""
_COMPARED = 30
"""Lifts in one figure."""


def there(shown: Look, what: str, read: Callable[[], T], *, beside: tuple[type[Exception], ...] = ()) -> T | None:
    """`attempt`, in which a name that nothing has is no damage; nor is what stands in `beside`.

    Raises:
        UnknownRecordError, UnknownCommitError: that the reading raised.
    """
    absent: tuple[type[Exception], ...] = (UnknownRecordError, UnknownCommitError, *beside)
    missing: list[Exception] = []

    def careful() -> T | None:
        try:
            return read()
        except absent as error:
            missing.append(error)
            return None

    found = shown.reading.attempt(what, careful)
    if missing:
        raise missing[0]
    return found


# -- what a reader asks for ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Asked:
    """The address's query, with what makes no sense left out."""

    q: str = ""
    mode: str = "hybrid"
    k: int = 50
    kind: str = ""
    """Empty for what was learned, `all`, or a kind."""
    status: str = ""
    env: str = ""
    generation: str = ""
    at: str = ""
    sort: str = "status"

    @classmethod
    def of(cls, request: Request, mode: str) -> Asked:
        """`mode` is the way of searching where none is asked for."""
        given = request.query_params
        sort = given.get("sort", "status")
        return cls(
            q=given.get("q", "").strip(),
            mode=given.get("mode", "") if given.get("mode") in RETRIEVERS else mode,
            k=min(max(whole_or(given.get("k", ""), 50), 1), _MOST_FOUND),
            kind=given.get("kind", "") if given.get("kind") in ("all", *KINDS) else "",
            status=given.get("status", "") if given.get("status") in STATUSES else "",
            env=given.get("env", ""),
            generation=str(whole_or(given.get("generation", ""), -1)).removeprefix("-1"),
            at=given.get("at", "").strip(),
            sort=sort if sort.removeprefix("-") in SORTINGS else "status",
        )

    def to(self, run: Run, **changes: Any) -> str:
        """The address that asks for this, except for the changes; what is as usual is left out."""
        new = replace(self, **changes)
        told = {name: getattr(new, name) for name in self.__slots__ if getattr(new, name) != getattr(_USUAL, name)}
        if new.q:
            told["mode"] = new.mode
        return address(run, "memory", **told)

    @property
    def kinds(self) -> Collection[Kind]:
        return (
            LEARNED if not self.kind else KINDS if self.kind == "all" else [each for each in KINDS if each == self.kind]
        )

    def applies(self, scope: Scope) -> bool:
        return not self.env or scope.environment in ("", self.env)

    @property
    def statuses(self) -> list[Status]:
        """None where any will do."""
        return [each for each in STATUSES if each == self.status]


_USUAL = Asked()


# -- the page ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Row:
    record: Record
    score: float | None = None

    @property
    def lift(self) -> Interval | None:
        return lift_of(self.record)

    @property
    def scope(self) -> str:
        return scope_text(self.record.scope)


@dataclass(frozen=True, slots=True)
class Heading:
    label: str
    to: str
    """Sorts by it; by what it is sorted already, the other way round."""
    sorted: str
    """As `aria-sort` says it; empty where it is not."""
    number: bool


@dataclass(frozen=True, slots=True)
class Listed:
    rows: Sequence[Row]
    pages: Pages | None
    """None for a search, which gives the best and no more."""
    total: int
    by_status: Mapping[Status, int]
    """Of the kinds asked for, whatever the status."""
    by_kind: Mapping[Kind, int]
    compared: Sequence[Record]
    """Those whose lifts are drawn."""
    lifts: int
    """How many have one."""
    environments: Sequence[str]
    generations: Sequence[int]
    held: int
    """Records in all, raw trajectories too."""
    head: str
    done: Commit | None = None
    """What the reader has just committed."""
    growth: Mapping[int, Mapping[Status, int]] | None = None
    """None: it is still being counted."""
    preparing: bool = False
    """The first search will take a moment."""


def memory_page(request: Request) -> Response:
    shown = look(request)
    run = shown.run
    reason = shown.reading.attempt("The embedder", lambda: unusable(run)) or ""
    asked = Asked.of(request, mode="bm25" if reason else "hybrid")
    refused = reason if asked.q and asked.mode != "bm25" else ""
    done = request.query_params.get("done", "")
    listed = there(shown, "The memory", lambda: _read(request, run, asked, refused=bool(refused), done=done))
    figures: list[Figure] = []
    if listed:
        if listed.compared:
            figures.append(_lifts(run, listed.compared))
        if listed.growth and any(sum(each.values()) for each in listed.growth.values()):
            figures.append(records_by_status(listed.growth))
    return page(
        request,
        "memory.html",
        look=shown,
        asked=asked,
        listed=listed,
        headings=[_heading(run, asked, name) for name in SORTINGS],
        to=lambda **changes: asked.to(run, **changes),
        refused=refused,
        reason=reason,
        modes=tuple(RETRIEVERS),
        statuses=STATUSES,
        kinds=KINDS,
        figures=figures,
        undo=f"evolvent memory revert {run.path}",
    )


def _lifts(run: Run, records: Sequence[Record]) -> Figure:
    rows = [
        Estimate(each.text, lift.mean, lift.low, lift.high, address(run, "memory", each.id))
        for each in records
        if (lift := lift_of(each))
    ]
    return forest(
        "lifts", "Lift of records with its 95 % interval", rows, axis="Lift (score when shown − when withheld)"
    )


def _heading(run: Run, asked: Asked, name: str) -> Heading:
    sorting, current = SORTINGS[name], asked.sort.removeprefix("-") == name
    turned = asked.sort.startswith("-")
    rises = turned if sorting.number else not turned  # numbers begin with the greatest
    other = name if turned else f"-{name}"
    return Heading(
        sorting.label,
        asked.to(run, sort=other if current else name),
        ("ascending" if rises else "descending") if current else "",
        sorting.number,
    )


def _read(request: Request, run: Run, asked: Asked, *, refused: bool, done: str) -> Listed:
    with run.memory() as memory:
        head = memory.ledger.head()
        commit = memory.resolve(asked.at) if asked.at else head
        held = table(run, memory, commit)
        state = ready(run, head, len(memory.records()))
        growth = _growth(run, memory, head, state)
        committed = _committed(memory, done)
        snapshot = memory.snapshot(commit) if asked.q and not refused else None
    inside_N = np.isin(held.scope_N, [number for number, each in enumerate(held.scopes) if asked.applies(each)])
    if asked.generation:
        inside_N &= held.generation_N == int(asked.generation)
    of_status_N = np.isin(held.status_N, [STATUSES.index(each) for each in asked.statuses or STATUSES])
    of_kind_N = np.isin(held.kind_N, [KINDS.index(each) for each in asked.kinds])
    wanted_N = inside_N & of_kind_N & of_status_N
    at = None
    if asked.q:
        rows = _found(asked, held, snapshot, wanted_N) if snapshot is not None else []
        total = len(rows)
        estimated = sorted((each.record for each in rows if each.lift), key=lambda each: -_mean(each))
        compared, lifts = _ends(estimated), len(estimated)
    else:
        chosen = _sifted(held.by(asked.sort), wanted_N)
        total = len(chosen)
        at = pages(request, total)
        rows = [Row(held.all[row]) for row in at.cut(chosen.tolist())]
        known = _sifted(held.by("lift"), wanted_N & ~np.isnan(held.lift_N))
        compared, lifts = [held.all[row] for row in _ends(known.tolist())], len(known)
    standings = np.bincount(held.status_N[inside_N & of_kind_N], minlength=len(STATUSES))
    kinds = np.bincount(held.kind_N[inside_N & of_status_N], minlength=len(KINDS))
    return Listed(
        rows,
        at,
        total,
        dict(zip(STATUSES, standings.tolist(), strict=True)),
        {kind: count for kind, count in zip(KINDS, kinds.tolist(), strict=True) if count},
        compared,
        lifts,
        held.environments,
        held.generations,
        len(held.all),
        head,
        committed,
        growth,
        not state.search,
    )


def _growth(run: Run, memory: Memory, head: str, state: Ready) -> Mapping[int, Mapping[Status, int]] | None:
    if len(memory.records()) >= LARGE:
        return state.growth
    grown: dict[str, Mapping[int, Mapping[Status, int]]] = run.kept("growth", dict, files=())
    if head not in grown:
        counted = by_status(memory.ledger, LEARNED)
        grown.clear()
        grown[head] = counted
    return grown[head]


def _committed(memory: Memory, done: str) -> Commit | None:
    """The commit that the address says was made just now, if there is one."""
    return next((each for each in reversed(memory.ledger.commits()) if each.id == done), None) if done else None


def _found(asked: Asked, held: Table, snapshot: Snapshot, wanted_N: NDArray[np.bool_]) -> list[Row]:
    """What a search finds, best first. Retired and quarantined records come only when their status is asked for."""
    statuses = asked.statuses or LIVE
    kinds: Collection[Kind] | None = asked.kinds
    live_N = np.isin(held.status_N, [STATUSES.index(each) for each in statuses])
    if not asked.kind and not (wanted_N & live_N).any():
        kinds = None  # nothing was learned yet: what was lived is searched
    found = snapshot.search(
        asked.q,
        k=_SIFTED if asked.generation else asked.k,
        scope=frozenset(each for each in held.scopes if asked.applies(each)) if asked.env else None,
        kinds=kinds,
        statuses=statuses,
        mode=asked.mode,
    )
    return [Row(hit.record, hit.score) for hit in found if asked.generation in ("", str(hit.record.generation))][
        : asked.k
    ]


def _sifted(order: Rows, wanted_N: NDArray[np.bool_]) -> Rows:
    return order[wanted_N[order]]


def _mean(record: Record) -> float:
    lift = lift_of(record)
    return lift.mean if lift else 0.0


def _ends(ordered: Sequence[T]) -> list[T]:
    """The first and the last of them; all where they are few."""
    half = _COMPARED // 2
    return list(ordered) if len(ordered) <= _COMPARED else [*ordered[:half], *ordered[-half:]]


def scope_text(scope: Scope) -> str:
    """Where a record applies, in one line."""
    parts = [scope.environment, *scope.tags, f"seat {scope.player}" if scope.player else ""]
    return ", ".join(filter(None, parts)) or "everywhere"


routes = [Route("/run/{run}/memory", memory_page)]
