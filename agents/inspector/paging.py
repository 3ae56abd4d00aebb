"""Long lists in pages: which one an address asks for, and the addresses of its neighbours."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from starlette.requests import Request

from evolvent.agents.inspector.facets import whole_or

T = TypeVar("T")
ROWS = 50
"""Of a page at most."""


@dataclass(frozen=True, slots=True)
class Pages:
    number: int
    """Of the page that is shown, from 1."""
    count: int
    """At least 1."""
    to: Callable[[int], str]
    """The address of a page."""

    @property
    def start(self) -> int:
        """Of its first row, from 0."""
        return (self.number - 1) * ROWS

    def cut(self, rows: Sequence[T]) -> Sequence[T]:
        return rows[self.start : self.start + ROWS]


def pages(request: Request, total: int, *, fragment: str = "") -> Pages:
    """Of `total` rows. Another page has the address that was asked for, with its own number.

    A number that is too high asks for the last page, and what is no number for the first.
    """
    count = max(1, -(-total // ROWS))
    asked = whole_or(request.query_params.get("page", ""), 1)

    def to(number: int) -> str:
        url = request.url.include_query_params(page=number)
        url = url.remove_query_params("done")  # what was just done is told once
        return str(url.replace(scheme="", netloc="", fragment=fragment))

    return Pages(min(count, max(1, asked)), count, to)
