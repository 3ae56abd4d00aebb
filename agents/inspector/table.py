"""The records of one commit as columns, so that of 100,000 a page is sifted and sorted in a few milliseconds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import isfinite
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from evolvent.agents.findings import STATUSES
from evolvent.agents.inspector.library import Run
from evolvent.memory.store import Memory
from evolvent.memory.types import Interval, Kind, Record

Rows = NDArray[np.intp]
KINDS: tuple[Kind, ...] = get_args(Kind)
_TABLES = 4
"""Commits whose records are kept sorted, of each run."""


def lift_of(record: Record) -> Interval | None:
    """Its lift if it is one: a ledger that somebody edited may hold anything."""
    lift = record.lift
    if lift is None:
        return None
    ends = (lift.mean, lift.low, lift.high)
    return lift if all(isinstance(each, int | float) and isfinite(each) for each in ends) else None


@dataclass(frozen=True, slots=True)
class Sorting:
    label: str
    number: bool = False
    """Begins with the greatest."""


SORTINGS: Mapping[str, Sorting] = {
    "text": Sorting("Text"),
    "kind": Sorting("Kind"),
    "status": Sorting("Status"),
    "lift": Sorting("Lift (95 % interval)", number=True),
    "sure": Sorting("At least", number=True),
    "recalls": Sorting("Recalled", number=True),
    "generation": Sorting("Generation", number=True),
}
"""Best, most or newest first; with a `-` before the name, the other way round."""


class Table:
    """Of the records in the order given; `N` is their number."""

    def __init__(self, records: Mapping[str, Record]) -> None:
        self.all = list(records.values())
        self.kind_N = self._column(KINDS.index(each.kind) for each in self.all)
        self.status_N = self._column(STATUSES.index(each.status) for each in self.all)
        self.generation_N = self._column(each.generation for each in self.all)
        self.scopes = list(dict.fromkeys(each.scope for each in self.all))
        place = {scope: number for number, scope in enumerate(self.scopes)}
        self.scope_N = self._column(place[each.scope] for each in self.all)
        ends = [(lift.mean, lift.low) if (lift := lift_of(each)) else (np.nan, np.nan) for each in self.all]
        self.lift_N, self.sure_N = np.array(ends, float).reshape(-1, 2).T
        self._orders: dict[str, Rows] = {}

    def by(self, sort: str) -> Rows:
        """All rows in that order; where a lift is not known the record stands last, whichever way round."""
        if sort not in self._orders:
            name, turned = sort.removeprefix("-"), sort.startswith("-")
            key_N = self._key(name)
            self._orders[sort] = np.argsort(-key_N if turned else key_N, kind="stable")  # NaN comes last
        return self._orders[sort]

    def _key(self, name: str) -> NDArray[np.float64]:
        """By which rows are sorted, the least first."""
        match name:
            case "lift":
                return -self.lift_N
            case "sure":
                return -self.sure_N
            case "recalls":
                return -self._column(each.recalls for each in self.all).astype(float)
            case "generation":
                return -self.generation_N.astype(float)
            case "kind":
                return self.kind_N.astype(float)
            case "text":
                return self._rank(sorted(range(len(self.all)), key=lambda row: self.all[row].text.casefold()))
            case _:  # within a status, what surely helps most
                return self._rank(np.lexsort((-self.sure_N, self.status_N)))

    def _rank(self, order: Sequence[int] | Rows) -> NDArray[np.float64]:
        rank_N = np.empty(len(self.all))
        rank_N[np.asarray(order, np.intp)] = np.arange(len(self.all))
        return rank_N

    def _column(self, values: Iterable[int]) -> Rows:
        return np.fromiter(values, np.intp, len(self.all))

    @property
    def environments(self) -> list[str]:
        return sorted({each.environment for each in self.scopes if each.environment})

    @cached_property
    def generations(self) -> list[int]:
        return sorted({int(each) for each in np.unique(self.generation_N)}, reverse=True)


def table(run: Run, memory: Memory, commit: str) -> Table:
    """Of a commit of this run; the last few that were asked for are kept."""
    tables: dict[str, Table] = run.kept("tables", dict, files=())
    if commit not in tables:
        while len(tables) >= _TABLES:
            tables.pop(next(iter(tables)))
        tables[commit] = Table(memory.records(commit))
    return tables[commit]
