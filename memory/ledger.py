"""The ledger: the append-only truth of a memory, in one SQLite file.

Commits of events, episodes with their trajectories, memos of keyed steps, generations. Records are folded from events
(`fold.py`) and never stored. A commit names its parent and `refs` says where a line of commits ends, so the history is
a tree already, although `main` is its only branch so far. Knows nothing of embeddings beyond keeping the vectors it is
given, so that an index is rebuilt without embedding anything again.
"""

from __future__ import annotations

import hashlib
import sqlite3
import threading
import time
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np

from evolvent.environments.types import Phase, Trajectory, dump, load
from evolvent.memory.embedding import Floats
from evolvent.memory.errors import (
    BadEventError,
    DuplicateKeyError,
    LedgerUnreadableError,
    LedgerUnwritableError,
    UnknownCommitError,
)
from evolvent.memory.fold import apply
from evolvent.memory.lock import WriterLock
from evolvent.memory.schema import connect
from evolvent.memory.types import Event, Record

ROOT = "0" * 16
"""The commit before the first one: an empty memory."""


@dataclass(frozen=True, slots=True)
class Commit:
    id: str
    """Sixteen hex digits of the SHA-256 of parent, key and events: the same run gives the same ids."""
    key: str
    parent: str
    generation: int
    note: str
    created_at: float
    """Seconds since the epoch; not part of the id."""


@dataclass(frozen=True, slots=True)
class Episode:
    key: str
    trajectories: tuple[Trajectory, ...]
    """One per seat, in the order they were added."""


class Ledger:
    """Open for writing by one process at a time; any number may read meanwhile and see whole commits only.

    What a writing method returned from is on disk: it survives the death of the process and, since every transaction
    is synced (a few milliseconds, beside episodes of seconds), a power cut too.

    Raises:
        LedgerLockedError: another writer has it.
        LedgerUnwritableError: opened for writing where nothing can be written.
        LedgerUnreadableError: opened for reading where there is none, or the file is not a ledger.
    """

    def __init__(self, path: str | Path, *, read_only: bool = False) -> None:
        self.path = Path(path)
        self.read_only = read_only
        self._threads = threading.RLock()
        self._lock = None if read_only else WriterLock(self.path.with_suffix(".lock"))
        try:
            self._db = connect(self.path, read_only)
        except BaseException:
            if self._lock:
                self._lock.release()
            raise
        self._line: dict[str, str] = {}
        """Commit id → key, from the first to the head."""
        self._records: dict[str, Record] = {}
        """Folded at the head; replaced, never changed, by a commit."""
        try:
            self._refresh()
        except sqlite3.DatabaseError as error:
            self.close()
            raise LedgerUnreadableError(f"{self.path} cannot be read as a ledger: {error}.") from error

    # -- commits ---------------------------------------------------------------------------------------------------

    def commit(self, key: str, events: Sequence[Event], *, generation: int, note: str = "") -> str:
        """Append `events` as one commit and give its id.

        A key names a step of a run: when the line to the head already has a commit with this key, nothing is written
        and that commit's id is returned, whatever the events, so a resumed run may replay its steps.

        Raises:
            UnknownRecordError, BadEventError: the events do not fold; nothing was written.
        """
        with self._threads:
            self._refresh()
            done = next((commit for commit, known in self._line.items() if known == key), None)
            if done is not None:
                return done
            try:
                bodies = [dump(event) for event in events]
                stored = [load(Event, body) for body in bodies]  # what a later process will read, tuples turned lists
            except ValueError as error:
                raise BadEventError(f"Commit {key!r} holds an event that is not JSON: {error}") from error
            records = dict(self._records)
            apply(records, stored, generation)
            parent = self._head()
            commit = hashlib.sha256("\n".join((parent, key, *bodies)).encode()).hexdigest()[:16]
            with self._writing(f"Commit {key!r}"):
                self._db.execute(
                    "INSERT INTO commits (id, key, parent, generation, note, created_at) VALUES (?, ?, ?, ?, ?, ?)",
                    (commit, key, parent, generation, note, time.time()),
                )
                self._db.executemany(
                    "INSERT INTO events (commit_id, kind, record, body) VALUES (?, ?, ?, ?)",
                    [(commit, e.kind, e.record_id, body) for e, body in zip(stored, bodies, strict=True)],
                )
                self._db.execute("INSERT OR REPLACE INTO refs VALUES ('main', ?)", (commit,))
            self._records = records
            self._line[commit] = key
            return commit

    def head(self) -> str:
        """Id of the last commit, `ROOT` when there is none."""
        with self._threads:
            self._refresh()
            return self._head()

    def commits(self) -> list[Commit]:
        """The line from the first commit to the head."""
        with self._threads:
            self._refresh()
            rows = self._db.execute("SELECT id, key, parent, generation, note, created_at FROM commits ORDER BY seq")
            return [Commit(*row) for row in rows if row[0] in self._line]

    def events(self, since: str = ROOT, until: str | None = None) -> list[Event]:
        """Events after commit `since` up to and including commit `until` (default the head), in order.

        Raises:
            UnknownCommitError: `since` is not `until` or one of its ancestors.
        """
        with self._threads:
            return [event for commit in self._path(since, until or self.head()) for event in self._events_of(commit)]

    def records(self, at: str | None = None) -> Mapping[str, Record]:
        """Every record by id as of commit `at` (default the head), in order of first appearance; never changes.

        Raises:
            UnknownCommitError: no such commit.
        """
        with self._threads:
            self._refresh()
            if at is None or at == self._head():
                return MappingProxyType(self._records)
            return MappingProxyType(self._fold({}, self._path(ROOT, at)))

    # -- episodes --------------------------------------------------------------------------------------------------

    def add_episode(self, key: str, trajectories: Sequence[Trajectory]) -> None:
        """Keep one episode, all seats in one transaction, with what each recalled.

        Raises:
            DuplicateKeyError: the key, or the id of a trajectory, is already there.
        """
        first = trajectories[0]
        with self._threads, self._writing(f"Episode {key!r}"):
            episode = self._db.execute(
                "INSERT INTO episodes (key, phase, generation, environment, task, attempt, created_at) "
                "VALUES (?, ?, ?, ?, ?, ?, ?)",
                (key, first.phase, first.generation, first.task.environment, first.task.id, first.attempt, time.time()),
            ).lastrowid
            for each in trajectories:
                outcome, cost = each.outcome, each.cost
                row = self._db.execute(
                    "INSERT INTO trajectories (episode, id, player, score, success, failure, "
                    "tokens_in, tokens_out, calls, seconds, body) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                    (
                        *(episode, each.id, each.player, outcome.score, outcome.success, outcome.failure),
                        *(cost.tokens_in, cost.tokens_out, cost.calls, cost.seconds, _pack(each)),
                    ),
                ).lastrowid
                self._db.executemany(
                    "INSERT INTO recalls (trajectory, record, shown, probability) VALUES (?, ?, ?, ?)",
                    [(row, recalled.record, recalled.shown, recalled.probability) for recalled in each.recalled],
                )

    def episode(self, key: str) -> tuple[Trajectory, ...] | None:
        """Trajectories of one episode in the order they were added, or None when it has not been played."""
        found = next(self._episodes("WHERE e.key = ?", [key]), None)
        return found.trajectories if found else None

    def episodes(self, *, phase: Phase | None = None, generation: int | None = None) -> Iterator[Episode]:
        """Episodes in the order they were added, read one at a time."""
        wanted = {"e.phase": phase, "e.generation": generation}
        given = {column: value for column, value in wanted.items() if value is not None}
        where = "WHERE " + " AND ".join(f"{column} = ?" for column in given) if given else ""
        return self._episodes(where, list(given.values()))

    def trajectory(self, trajectory_id: str) -> Trajectory | None:
        with self._threads:
            row = self._db.execute("SELECT body FROM trajectories WHERE id = ?", (trajectory_id,)).fetchone()
        return _unpack(row[0]) if row else None

    # -- memos and generations -------------------------------------------------------------------------------------

    def memo(self, key: str) -> str | None:
        """What the keyed step gave when it was done, or None when it was not."""
        with self._threads:
            row = self._db.execute("SELECT text FROM memos WHERE key = ?", (key,)).fetchone()
        return str(row[0]) if row else None

    def add_memo(self, key: str, text: str) -> None:
        """Keep the outcome of a step that is no episode, so that a resumed run does not repeat it.

        Raises:
            DuplicateKeyError: the key is already there.
        """
        with self._threads, self._writing(f"Memo {key!r}"):
            self._db.execute("INSERT INTO memos VALUES (?, ?, ?)", (key, text, time.time()))

    def add_generation(self, number: int, payload: str) -> str:
        """Close a generation with a JSON payload and give the payload that stands: the first one written."""
        with self._threads:
            known = self.generations().get(number)
            if known is None:
                with self._writing():
                    self._db.execute("INSERT INTO generations VALUES (?, ?, ?)", (number, payload, time.time()))
            return payload if known is None else known

    def generations(self) -> dict[int, str]:
        """Payloads by number, ascending."""
        with self._threads:
            return dict(self._db.execute("SELECT number, payload FROM generations ORDER BY number").fetchall())

    # -- vectors: a cache, not history ----------------------------------------------------------------------------

    def add_vectors(self, embedder: str, ids: Sequence[str], vectors_ND: Floats) -> None:
        rows = [(id_, embedder, vector.tobytes()) for id_, vector in zip(ids, vectors_ND.astype("<f4"), strict=True)]
        with self._threads, self._writing():
            self._db.executemany("INSERT OR REPLACE INTO vectors VALUES (?, ?, ?)", rows)

    def vectors(self, embedder: str) -> dict[str, Floats]:
        """Vector by record id, float32, of one embedder."""
        with self._threads:
            rows = self._db.execute("SELECT record, vector FROM vectors WHERE embedder = ?", (embedder,)).fetchall()
        return {record: np.frombuffer(vector, dtype="<f4") for record, vector in rows}

    def close(self) -> None:
        with self._threads:
            self._db.close()
            if self._lock:
                self._lock.release()

    # -- inside ----------------------------------------------------------------------------------------------------

    def _head(self) -> str:
        return next(reversed(self._line), ROOT)

    def _refresh(self) -> None:
        """Follow the head that another process may have moved; the writer itself finds nothing new."""
        row = self._db.execute("SELECT commit_id FROM refs WHERE name = 'main'").fetchone()
        head = row[0] if row else ROOT
        if head == self._head():
            return
        path = self._path(ROOT, head)
        known = list(self._line)
        ahead = path[: len(known)] == known
        new = path[len(known) :] if ahead else path
        self._records = self._fold(dict(self._records) if ahead else {}, new)
        keys = dict(self._db.execute("SELECT id, key FROM commits").fetchall())
        self._line = {commit: keys[commit] for commit in path}

    def _path(self, since: str, until: str) -> list[str]:
        """Commits after `since` up to `until`, oldest first."""
        parents = dict(self._db.execute("SELECT id, parent FROM commits").fetchall())
        path: list[str] = []
        at = until
        while at != since:
            if at not in parents:
                missing = until if not path else since
                raise UnknownCommitError(f"No commit {missing!r} on the way to {until!r} in {self.path}.")
            path.append(at)
            at = parents[at]
        return path[::-1]

    def _events_of(self, commit: str) -> Iterator[Event]:
        rows = self._db.execute("SELECT body FROM events WHERE commit_id = ? ORDER BY seq", (commit,)).fetchall()
        return (load(Event, row[0]) for row in rows)

    def _fold(self, records: dict[str, Record], commits: Iterable[str]) -> dict[str, Record]:
        generations = dict(self._db.execute("SELECT id, generation FROM commits").fetchall())
        for commit in commits:
            apply(records, self._events_of(commit), generations[commit])
        return records

    def _episodes(self, where: str, values: list[str | int]) -> Iterator[Episode]:
        with self._threads:
            found = self._db.execute(f"SELECT e.seq, e.key FROM episodes e {where} ORDER BY e.seq", values).fetchall()
        for seq, key in found:
            with self._threads:
                bodies = self._db.execute(
                    "SELECT body FROM trajectories WHERE episode = ? ORDER BY seq", (seq,)
                ).fetchall()
            yield Episode(key, tuple(_unpack(row[0]) for row in bodies))

    @contextmanager
    def _writing(self, what: str = "") -> Iterator[None]:
        """One transaction: all of it or, after any error, none."""
        if self.read_only:
            raise LedgerUnwritableError(f"{self.path} was opened with read_only=True; open it for writing.")
        try:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise
        except sqlite3.IntegrityError as error:
            raise DuplicateKeyError(f"{what} is in {self.path} already ({error}); nothing is overwritten.") from error
        except sqlite3.OperationalError as error:
            raise LedgerUnwritableError(
                f"Cannot write {self.path}: {error}. Nothing of this step was kept; free space or rights, then resume."
            ) from error


def _pack(trajectory: Trajectory) -> bytes:
    return zlib.compress(dump(trajectory).encode(), 1)


def _unpack(body: bytes) -> Trajectory:
    return load(Trajectory, zlib.decompress(body))
