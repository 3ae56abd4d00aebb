"""Whether a memory is what it says: the ledger against itself, then the Chroma index against the ledger.

A damaged ledger is named and never touched: it is the truth, and what would mend it is a copy of it. An index that
differs can be made anew, because it is derived.
"""

from __future__ import annotations

import math
import sqlite3
import zlib
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from evolvent.environments.types import Trajectory, load
from evolvent.memory.chroma import ChromaIndex, Item, collection_of, metadata
from evolvent.memory.errors import LedgerError, LedgerUnreadableError, VectorIndexError
from evolvent.memory.ledger import ROOT, Ledger, commit_id
from evolvent.memory.schema import connect
from evolvent.memory.store import Memory
from evolvent.memory.types import Event, Record

_FAR = 1e-4
"""Chroma stores unit vectors that it makes unit once more: the last digits of a float32 move."""


@dataclass(frozen=True, slots=True)
class Problem:
    place: Literal["ledger", "index"]
    what: str
    """In a few words, the same for all problems of one sort."""
    name: str = ""
    """Of the commit, trajectory, branch or record."""
    detail: str = ""
    repaired: bool = False

    def __str__(self) -> str:
        return " ".join(
            [f"{self.place}: {self.what}", *([self.name] if self.name else [])]
            + ([f"({self.detail})"] if self.detail else [])
            + (["– repaired"] if self.repaired else [])
        )


def fsck(memory: Memory, *, repair: bool = False) -> list[Problem]:
    """Every problem of the ledger; if there is none, every problem of the index.

    A memory that is open for writing has had its index repaired on opening as far as that was noticed; open it with
    `read_only=True` to see what lies on disk. One on a server is compared only when open for writing.

    Args:
        repair: make an index with problems anew (the memory must be open for writing); what that mended is marked.
    """
    problems = check_ledger(memory.ledger.path)
    if problems:
        return problems
    found = _check_index(memory)
    if not found or not repair:
        return found
    memory.rebuild()
    left = set(_check_index(memory))
    return [replace(each, repaired=each not in left) for each in found]


# -- the ledger ------------------------------------------------------------------------------------------------------


def check_ledger(path: str | Path) -> list[Problem]:
    """Problems of a ledger's file, which is only read: torn pages, changed commits, what does not fold."""
    path = Path(path)
    try:
        with closing(connect(path, read_only=True)) as db:
            db.execute("BEGIN")
            problems = [*_file(db)] or [*_commits(db), *_branches(db), *_episodes(db)]
        if not problems:
            problems = [*_folds(path)]
    except (LedgerUnreadableError, sqlite3.DatabaseError) as error:
        return [Problem("ledger", "cannot be read", detail=str(error))]
    return problems


def _file(db: sqlite3.Connection) -> Iterator[Problem]:
    for (told,) in db.execute("PRAGMA integrity_check"):
        if told != "ok":
            yield Problem("ledger", "damaged file", detail=told)
    for table, row, parent, _ in db.execute("PRAGMA foreign_key_check"):
        yield Problem("ledger", "row without its parent", f"{table} {row}", f"nothing like it in {parent}")


def _commits(db: sqlite3.Connection) -> Iterator[Problem]:
    earlier = {ROOT, ""}
    for commit, key, parent, merged in db.execute(
        "SELECT id, key, parent, merged FROM commits ORDER BY seq"
    ).fetchall():
        bodies = []
        for kind, record, body in db.execute(
            "SELECT kind, record, body FROM events WHERE commit_id = ? ORDER BY seq", (commit,)
        ):
            bodies.append(body)
            try:
                event = load(Event, body)
            except ValueError as error:
                yield Problem("ledger", "unreadable event in commit", commit, str(error).splitlines()[0])
                continue
            if (event.kind, event.record_id) != (kind, record):
                yield Problem("ledger", "event is filed under another name in commit", commit, f"{kind} {record}")
        if commit_id(parent, key, bodies, merged) != commit:
            yield Problem("ledger", "id is not that of the content of commit", commit, repr(key))
        for each in (parent, merged):
            if each not in earlier:
                yield Problem("ledger", "parent was not written before commit", commit, each)
        earlier.add(commit)


def _branches(db: sqlite3.Connection) -> Iterator[Problem]:
    commits = {ROOT, *(row[0] for row in db.execute("SELECT id FROM commits"))}
    refs = dict(db.execute("SELECT name, commit_id FROM refs").fetchall())
    for name, commit in refs.items():
        if commit not in commits:
            yield Problem("ledger", "no such commit at the end of branch", name, commit)
    heads = [row[0] for row in db.execute("SELECT branch FROM head")]
    if len(heads) != 1 or (heads[0] not in refs and heads != ["main"]):
        yield Problem("ledger", "no such current branch", ", ".join(heads))


def _episodes(db: sqlite3.Connection) -> Iterator[Problem]:
    known = {row[0] for row in db.execute("SELECT DISTINCT record FROM events WHERE kind = 'add'")}
    for seq, name, body in db.execute("SELECT seq, id, body FROM trajectories ORDER BY seq"):
        try:
            trajectory = load(Trajectory, zlib.decompress(body))
        except (ValueError, zlib.error) as error:
            yield Problem("ledger", "unreadable trajectory", name, str(error).splitlines()[0])
            continue
        if trajectory.id != name:
            yield Problem("ledger", "trajectory is filed under another name", name, trajectory.id)
        recalled = sorted((each.record, int(each.shown), each.probability) for each in trajectory.recalled)
        query = "SELECT record, shown, probability FROM recalls WHERE trajectory = ?"
        if recalled != sorted(db.execute(query, (seq,)).fetchall()):
            yield Problem("ledger", "recalls are not those of trajectory", name)
        for record in sorted({each.record for each in trajectory.recalled} - known):
            yield Problem("ledger", "an episode recalled what was never added", record, name)


def _folds(path: Path) -> Iterator[Problem]:
    with closing(Ledger(path, read_only=True)) as ledger:
        for name, commit in ledger.branches().items():
            try:
                ledger.records(commit)
            except LedgerError as error:
                yield Problem("ledger", "does not fold on branch", name, str(error))


# -- the index -------------------------------------------------------------------------------------------------------


def _check_index(memory: Memory) -> list[Problem]:
    index, ours = memory.index, None
    if index is None:
        folder = memory.ledger.path.parent / "chroma"
        if not folder.exists():
            return [Problem("index", "is not there", detail="opening the memory for writing makes it")]
        index = ours = ChromaIndex(folder, memory.embedder.name)
    try:
        return [*_compared(memory, index)]
    except VectorIndexError as error:
        return [Problem("index", "cannot be read", detail=str(error))]
    finally:
        if ours is not None:
            ours.close()


def _compared(memory: Memory, index: ChromaIndex) -> Iterator[Problem]:
    state, records = index.state(), memory.records()
    if state.commit != memory.ledger.head():
        yield Problem("index", "reflects another commit", state.commit or "none", f"the head is {memory.ledger.head()}")
    if state.embedder != memory.embedder.name:
        detail = f"memory was opened with {memory.embedder.name}"
        yield Problem("index", "has the vectors of another embedder", state.embedder or "none", detail)
        return
    vectors = memory.ledger.vectors(memory.embedder.name, list(records))
    missing, astray = dict.fromkeys(records), False
    for item in index.contents():
        missing.pop(item.id, None)
        astray |= item.id not in records or item.collection != collection_of(records[item.id].kind)
        if item.id not in records:
            yield Problem("index", "surplus record", item.id)
            continue
        for what in _differs(item, records[item.id]):
            yield Problem("index", f"different {what} of record", item.id)
        known = vectors.get(item.id)
        if known is not None and (len(known) != len(item.vector) or np.abs(known - item.vector).max() > _FAR):
            yield Problem("index", "different vector of record", item.id)
    for key in missing:
        yield Problem("index", "missing record", key)
    if not missing and not astray and not index.holds(records):
        yield Problem("index", "cannot be searched")


def _differs(item: Item, record: Record) -> Iterator[str]:
    if item.collection != collection_of(record.kind):
        yield "collection"
    if item.text != record.text:
        yield "text"
    if not _alike(item.metadata, {key: value for key, value in metadata(record).items() if value is not None}):
        yield "metadata"


def _alike(stored: Mapping[str, Any], ours: Mapping[str, Any]) -> bool:
    """Equal but for the last digit of a float, which Chroma does not always read as it was written."""
    return stored.keys() == ours.keys() and all(
        math.isclose(stored[key], value, rel_tol=1e-12) if isinstance(value, float) else stored[key] == value
        for key, value in ours.items()
    )
