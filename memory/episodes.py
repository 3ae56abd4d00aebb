"""The ledger's file, and what it keeps as it happened: episodes with their trajectories, memos of keyed steps, closed
generations. None of it changes once it is written. Commits lie in the same file; they are `ledger.py`'s.

Knows nothing of embeddings beyond keeping the vectors it is given, so that an index is rebuilt without embedding again.
"""

from __future__ import annotations

import itertools
import json
import sqlite3
import sys
import threading
import time
import zlib
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from evolvent.environments.types import Phase, Trajectory, dump, load
from evolvent.memory.embedding import Floats
from evolvent.memory.errors import DuplicateKeyError, LedgerUnwritableError
from evolvent.memory.listing import Column, Group, Listed, Wanted, page, tally
from evolvent.memory.lock import WriterLock
from evolvent.memory.schema import connect


@dataclass(frozen=True, slots=True)
class Episode:
    key: str
    trajectories: tuple[Trajectory, ...]
    """One per seat, in the order they were added."""


@dataclass(frozen=True, slots=True)
class LastShown:
    """When a record last stood in a prompt."""

    generation: int
    episode: int
    """Its number among the episodes of the phase asked for, from 1."""


@dataclass(frozen=True, slots=True)
class Played:
    """A trajectory as the tables know it: enough to name it without unpacking it."""

    id: str
    episode: str
    phase: Phase
    generation: int
    task: str
    player: str
    score: float


@dataclass(frozen=True, slots=True)
class Ended:
    """An episode as the tables know it: how it ended, and what it cost."""

    seq: int
    """Its number, counted up in the order in which episodes ended."""
    key: str
    phase: Phase
    generation: int
    task: str
    attempt: int
    ended_at: float
    """Seconds since the epoch."""
    scores: tuple[float, ...]
    """By seat, in the order the seats were added; each in [0, 1]."""
    success: bool
    """Of every seat."""
    failure: str
    """Of infrastructure, of the first seat that had one; empty for none."""
    tokens: int
    """In and out, of all seats."""
    calls: int

    @property
    def arm(self) -> str:
        """What tells it from other episodes of the same attempt."""
        return self.key.removeprefix(f"{self.phase}/{self.generation}/{self.task}/{self.attempt}").removeprefix("/")


class Episodes:
    """One file, open for writing by one process at a time; any number may read meanwhile.

    What a writing method returned from is on disk: it survives the death of the process and, since every transaction
    is synced (a few milliseconds, beside episodes of seconds), a power cut too.
    """

    def __init__(self, path: str | Path, *, read_only: bool = False, wait_s: float = 0) -> None:
        self.path = Path(path)
        self.read_only = read_only
        self._threads = threading.RLock()
        self._lock = None if read_only else WriterLock(self.path.with_suffix(".lock"), wait_s)
        try:
            self._db = connect(self.path, read_only)
        except BaseException:
            if self._lock:
                self._lock.release()
            raise

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

    def played(self, trajectory_ids: Collection[str]) -> dict[str, Played]:
        """What the tables tell of these trajectories, by id; those that are not there are left out. Reads no body."""
        query = (
            "SELECT t.id, e.key, e.phase, e.generation, e.task, t.player, t.score FROM trajectories t "
            "JOIN episodes e ON e.seq = t.episode WHERE t.id IN (SELECT value FROM json_each(?)) ORDER BY t.seq"
        )
        with self._threads:
            rows = self._db.execute(query, (json.dumps(list(trajectory_ids)),)).fetchall()
        return {row[0]: Played(*row) for row in rows}

    def ended(self, since: int = 0) -> list[Ended]:
        """Episodes after number `since`, in the order in which they ended. Reads no body."""
        query = (
            "SELECT e.seq, e.key, e.phase, e.generation, e.task, e.attempt, e.created_at, "
            "t.score, t.success, t.failure, t.tokens_in + t.tokens_out, t.calls FROM episodes e "
            "JOIN trajectories t ON t.episode = e.seq WHERE e.seq > ? ORDER BY e.seq, t.seq"
        )
        with self._threads:
            rows = self._db.execute(query, (since,)).fetchall()
        found = []
        for about, each in itertools.groupby(rows, key=lambda row: row[:7]):
            scores, won, failures, tokens, calls = zip(*(row[7:] for row in each), strict=True)
            seq, key, phase, generation, task, attempt, ended_at = about
            failure = next(filter(None, failures), "")
            outcome = (scores, all(won), failure, sum(tokens), sum(calls))
            found.append(Ended(seq, key, phase, generation, task, attempt, ended_at, *outcome))
        return found

    def listed(
        self,
        wanted: Wanted = Wanted(),
        *,
        by: Column = "added",
        descending: bool = True,
        limit: int = 50,
        offset: int = 0,
    ) -> list[Listed]:
        """A page of the trajectories that are wanted; of equal ones the newer is first. Reads no body."""
        with self._threads:
            return page(self._db, wanted, by, descending, limit, offset)

    def tally(self, task_has: str = "") -> dict[Group, int]:
        """How many trajectories there are of each group, of tasks whose id holds `task_has`. Reads no body."""
        with self._threads:
            return tally(self._db, task_has)

    def known(self, names: Collection[str]) -> set[str]:
        """Those of the names that are of episodes or trajectories."""
        query = (
            "SELECT value FROM json_each(?) WHERE EXISTS (SELECT 1 FROM episodes WHERE key = value) "
            "OR EXISTS (SELECT 1 FROM trajectories WHERE id = value)"
        )
        with self._threads:
            return {row[0] for row in self._db.execute(query, (json.dumps(list(names)),))}

    def shown_in(self, trajectory_ids: Collection[str]) -> list[tuple[str, str]]:
        """(trajectory, record) of what stood in the prompts of these trajectories."""
        return self._shown("t.id", trajectory_ids)

    def showings(self, record_ids: Collection[str]) -> list[tuple[str, str]]:
        """(trajectory, record) of every episode in whose prompt one of these records stood."""
        return self._shown("r.record", record_ids)

    def last_shown(self, phase: Phase = "train") -> dict[str, LastShown]:
        """When each record last stood in a prompt of that phase; records that never did are left out."""
        query = (
            "SELECT r.record, MAX(e.generation), MAX(e.number) FROM recalls r "
            "JOIN trajectories t ON t.seq = r.trajectory "
            "JOIN (SELECT seq, generation, ROW_NUMBER() OVER (ORDER BY seq) AS number FROM episodes WHERE phase = ?) e "
            "ON e.seq = t.episode WHERE r.shown GROUP BY r.record ORDER BY r.record"
        )
        with self._threads:
            rows = self._db.execute(query, (phase,)).fetchall()
        return {record: LastShown(generation, number) for record, generation, number in rows}

    def episodes_until(self, phase: Phase = "train") -> dict[int, int]:
        """How many episodes of that phase there were by the end of each generation that had some, ascending."""
        query = (
            "SELECT generation, SUM(COUNT(*)) OVER (ORDER BY generation) FROM episodes WHERE phase = ? "
            "GROUP BY generation ORDER BY generation"
        )
        with self._threads:
            return dict(self._db.execute(query, (phase,)).fetchall())

    # -- memos and generations -------------------------------------------------------------------------------------

    def memo(self, key: str) -> str | None:
        """What the keyed step gave when it was done, or None when it was not."""
        with self._threads:
            row = self._db.execute("SELECT text FROM memos WHERE key = ?", (key,)).fetchone()
        return str(row[0]) if row else None

    def memos(self, prefix: str) -> dict[str, str]:
        """All that were kept under keys that begin so, by key, in the order they were written."""
        with self._threads:
            query = "SELECT key, text FROM memos WHERE key >= ? AND key < ? ORDER BY rowid"
            return dict(self._db.execute(query, (prefix, prefix + chr(sys.maxunicode))).fetchall())

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

    def vectors(self, embedder: str, ids: Sequence[str]) -> dict[str, Floats]:
        """Vector by record id, float32, of one embedder; without those of `ids` that it has not met."""
        wanted = "SELECT record, vector FROM vectors WHERE embedder = ? AND record IN (SELECT value FROM json_each(?))"
        with self._threads:
            rows = self._db.execute(wanted, (embedder, json.dumps(list(ids)))).fetchall()
        return {record: np.frombuffer(vector, dtype="<f4") for record, vector in rows}

    def embedders(self) -> list[str]:
        """Names of the embedders whose vectors are kept, that of most vectors first."""
        query = "SELECT embedder FROM vectors GROUP BY embedder ORDER BY COUNT(*) DESC, embedder"
        with self._threads:
            return [row[0] for row in self._db.execute(query)]

    def close(self) -> None:
        with self._threads:
            self._db.close()
            if self._lock:
                self._lock.release()

    # -- inside ----------------------------------------------------------------------------------------------------

    def _episodes(self, where: str, values: list[str | int]) -> Iterator[Episode]:
        with self._threads:
            found = self._db.execute(f"SELECT e.seq, e.key FROM episodes e {where} ORDER BY e.seq", values).fetchall()
        for seq, key in found:
            with self._threads:
                bodies = self._db.execute(
                    "SELECT body FROM trajectories WHERE episode = ? ORDER BY seq", (seq,)
                ).fetchall()
            yield Episode(key, tuple(_unpack(row[0]) for row in bodies))

    def _shown(self, column: str, ids: Collection[str]) -> list[tuple[str, str]]:
        query = (
            "SELECT t.id, r.record FROM recalls r JOIN trajectories t ON t.seq = r.trajectory "
            f"WHERE r.shown AND {column} IN (SELECT value FROM json_each(?)) ORDER BY t.seq, r.rowid"
        )
        with self._threads:
            return self._db.execute(query, (json.dumps(list(ids)),)).fetchall()

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
