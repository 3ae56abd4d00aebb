"""The line to a commit: everything that led to it, in the order in which it is folded, and what of it is reverted.

Commits form a graph: each has a parent, a merge commit has a second one. Pure functions over ids; knows no tables.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

Parents = Mapping[str, tuple[str, str]]
"""Commit → (parent, second parent or ""). An id that is no key is where every line begins."""


def line_to(commit: str, parents: Parents) -> list[str]:
    """`commit` and all its ancestors, oldest first: the line to its parent, what only its second parent brings, itself.

    So the line to a commit begins with the line to its parent, and folding can go on where it stopped.
    """
    seen: dict[str, None] = {}
    _walk(commit, parents, seen)
    return list(seen)


def _walk(commit: str, parents: Parents, seen: dict[str, None]) -> None:
    chain = []
    while commit in parents and commit not in seen:
        chain.append(commit)
        commit = parents[commit][0]
    for each in reversed(chain):
        if parents[each][1]:
            _walk(parents[each][1], parents, seen)
        seen[each] = None


def brought(commit: str, parents: Parents) -> list[str]:
    """What a merge commit took over from its second parent; nothing for any other commit."""
    parent, merged = parents[commit]
    if not merged:
        return []
    seen = dict.fromkeys(line_to(parent, parents))
    before = len(seen)
    _walk(merged, parents, seen)
    return list(seen)[before:]


def reverted(line: Iterable[str], parents: Parents, reverts: Mapping[str, str]) -> dict[str, str]:
    """Commits of a line that do not count, each with the commit that reverted it.

    `reverts`: reverting commit → the one it reverts. A revert that is itself reverted does not count either; reverting
    a merge reverts what it brought.
    """
    gone: dict[str, str] = {}
    for commit in reversed(list(line)):  # who reverts stands after what it reverts
        target = reverts.get(commit)
        if target is None or commit in gone:
            continue
        for each in (target, *(brought(target, parents) if target in parents else ())):
            gone.setdefault(each, commit)
    return gone
