"""Distinct reasoning paths: of solutions that go through the same equations one is enough (arXiv 2308.01825, §3.3)."""

from __future__ import annotations

from collections.abc import Sequence

from evolvent.environments.derivation import equations


def distinct_paths(texts: Sequence[str]) -> list[int]:
    """Places of the solutions that are kept of one task's: one for each ordered list of equations.

    The first of its list stays, unless a later one is farther, in summed edit distance, from what is kept of the
    other lists: more ways of putting it are then learned. In the order in which the lists were first met.
    """
    kept: dict[tuple[str, ...], int] = {}
    for place, text in enumerate(texts):
        path = equations(text)
        others = [texts[other] for key, other in kept.items() if key != path]
        if path not in kept or _apart(text, others) > _apart(texts[kept[path]], others):
            kept[path] = place
    return list(kept.values())


def edit_distance(one: str, other: str) -> int:
    """Levenshtein's, in characters. A column of the table is one pair of integers, a bit for each character of `one`
    (Hyyrö 2003), since a hundred samples of a question are compared with each other.
    """
    if not one:
        return len(other)
    places: dict[str, int] = {}
    for place, character in enumerate(one):
        places[character] = places.get(character, 0) | 1 << place
    everywhere, last = (1 << len(one)) - 1, 1 << (len(one) - 1)
    up, down, distance = everywhere, 0, len(one)  # where a column rises by one, where it falls, and its end
    for character in other:
        equal = places.get(character, 0)
        diagonal = (((equal & up) + up) ^ up) | equal | down
        rises, falls = down | ~(diagonal | up), up & diagonal
        distance += bool(rises & last) - bool(falls & last)
        rises, falls = rises << 1 | 1, falls << 1
        up = (falls | ~(diagonal | rises)) & everywhere
        down = rises & diagonal & everywhere
    return distance


def _apart(text: str, others: Sequence[str]) -> int:
    return sum(edit_distance(text, other) for other in others)
