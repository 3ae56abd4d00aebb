"""What a list can be narrowed to, and how many there would be: of each value under all else that is asked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from starlette.exceptions import HTTPException
from starlette.requests import Request


@dataclass(frozen=True, slots=True)
class Facets:
    total: int
    """Of those that are all that is asked."""
    by_field: Mapping[str, Mapping[str, int]]
    """How many, by field and value, ascending; of a field that is asked for, as if it were not."""


def facets(groups: Iterable[tuple[tuple[object, ...], int]], fields: Sequence[str], asked: Mapping[str, str]) -> Facets:
    """
    Args:
        groups: (values in the order of `fields`, how many there are).
        asked: by field; empty for any.
    """
    total = 0
    counted: dict[str, Counter[str]] = {field: Counter() for field in fields}
    for values, count in groups:
        group = dict(zip(fields, map(str, values), strict=True))
        missed = [field for field in fields if asked[field] and asked[field] != group[field]]
        total += 0 if missed else count
        for field in missed if len(missed) == 1 else () if missed else fields:
            counted[field][group[field]] += count
    for field in fields:
        if asked[field]:
            counted[field][asked[field]] += 0  # what is asked for is there to be seen, and to be taken back
    return Facets(total, {field: dict(sorted(counts.items(), key=_by_size)) for field, counts in counted.items()})


def whole_or(text: str, otherwise: int) -> int:
    """The whole number from 0 that a text is; what is none is passed over."""
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else otherwise


def whole(request: Request, name: str, default: int | None = None) -> int | None:
    """The whole number that a query parameter is.

    Raises:
        HTTPException: it is something else.
    """
    text = request.query_params.get(name, "")
    if not text:
        return default
    if not text.isascii() or not text.removeprefix("-").isdigit() or len(text) > 9:
        raise HTTPException(400, f"The address asks for {name} {text[:40]!r}; it is a whole number.")
    return int(text)


def _by_size(item: tuple[str, int]) -> tuple[int, int, str]:
    """Numbers as numbers, words by their letters."""
    word = item[0]
    return (0, int(word), "") if word.isascii() and word.isdigit() else (1, 0, word)
