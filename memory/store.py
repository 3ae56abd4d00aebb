"""`Memory`: ledger, index, embedder and retrieval as one store, in one directory.

The ledger is written first and is the truth; the index follows it and is repaired from it. Searches run over a
snapshot, the records as of one commit, so that every episode of a batch reads the same memory.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from evolvent.environments.types import Trajectory
from evolvent.memory.chroma import ChromaIndex
from evolvent.memory.embedding import Embedder, Floats, MiniLM
from evolvent.memory.errors import ForeignIndexError, LedgerUnwritableError, VectorIndexError
from evolvent.memory.ledger import ROOT, Ledger
from evolvent.memory.retrieval import LIVE, Corpus, Retriever, retriever
from evolvent.memory.types import Event, Kind, Record, Scope, Scored, Status

logger = logging.getLogger(__name__)


class Snapshot:
    """Memory as of one commit: immutable, whatever is written later."""

    def __init__(self, commit: str, records: Mapping[str, Record], corpus: Corpus, embedder: Embedder) -> None:
        self.commit = commit
        self.records = records
        self._corpus = corpus
        self._embedder = embedder
        self._retrievers: dict[str, Retriever] = {}

    def search(
        self,
        query: str,
        *,
        k: int,
        scope: Scope | None = None,
        kinds: Collection[Kind] | None = None,
        statuses: Collection[Status] = LIVE,
        mode: str = "hybrid",
    ) -> list[Scored]:
        """See `Retriever.search`; `mode` is one of `retrieval.RETRIEVERS`."""
        if mode not in self._retrievers:
            self._retrievers[mode] = retriever(mode, self._corpus, self._embedder)
        return self._retrievers[mode].search(query, k=k, scope=scope, kinds=kinds, statuses=statuses)


class Memory:
    """What is kept between episodes. Make one with `Memory.open`; close it, or use it in a `with` block."""

    def __init__(self, ledger: Ledger, index: ChromaIndex | None, embedder: Embedder) -> None:
        self.ledger = ledger
        self._index = index
        self._embedder = embedder
        self._vectors = ledger.vectors(embedder.name)
        """By record id; only ever added to, so that snapshots may share it."""
        self._latest: Snapshot | None = None

    @classmethod
    def open(
        cls,
        directory: str | Path,
        *,
        embedder: Embedder | None = None,
        chroma_url: str | None = None,
        read_only: bool = False,
    ) -> Memory:
        """The memory in `directory`: `ledger.sqlite`, and `chroma/` unless `chroma_url` names a server.

        Opened for writing, it is made when missing, and an index that is behind, half-written, corrupt or gone is
        repaired from the ledger before this returns. Opened for reading it touches no index: vectors lie in the ledger.

        Raises:
            LedgerLockedError, LedgerUnwritableError, LedgerUnreadableError: see `Ledger`.
            VectorIndexError: the index cannot be repaired; the ledger is unharmed.
        """
        folder = Path(directory)
        if not read_only:
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise LedgerUnwritableError(f"Cannot make a memory in {folder}: {error.strerror}.") from error
        ledger = Ledger(folder / "ledger.sqlite", read_only=read_only)
        chosen = embedder or MiniLM()
        index = None if read_only else ChromaIndex(chroma_url or folder / "chroma", chosen.name)
        memory = cls(ledger, index, chosen)
        try:
            memory._repair()
        except BaseException:
            memory.close()
            raise
        return memory

    # -- writing ---------------------------------------------------------------------------------------------------

    def commit(self, key: str, events: Sequence[Event], *, generation: int, note: str = "") -> str:
        """`Ledger.commit`, then the index. When this returns, both hold it."""
        before = self.ledger.head()
        commit = self.ledger.commit(key, events, generation=generation, note=note)
        if self._index is not None and self.ledger.head() != before:
            changed = self._changed_since(before)
            vectors_ND = self._embed(changed)
            try:
                self._index.write(changed, vectors_ND, commit)
            except VectorIndexError as error:
                logger.warning("%s Rebuilding it now.", error)
                self.rebuild()
        return commit

    def add_episode(self, key: str, trajectories: Sequence[Trajectory]) -> None:
        """See `Ledger.add_episode`. To make them searchable, commit `rendering.trajectory_record`s as events."""
        self.ledger.add_episode(key, trajectories)

    def rebuild(self) -> None:
        """Make the index anew from the ledger."""
        if self._index is None:
            raise LedgerUnwritableError(f"{self.ledger.path} was opened with read_only=True; open it for writing.")
        records = list(self.ledger.records().values())
        self._index.rebuild(records, self._embed(records), self.ledger.head())

    # -- reading ---------------------------------------------------------------------------------------------------

    def snapshot(self, at: str | None = None) -> Snapshot:
        """Memory as of commit `at`, by default the head; the same object until something is written."""
        commit = at or self.ledger.head()
        if self._latest is None or self._latest.commit != commit:
            records = self.ledger.records(commit)
            self._latest = Snapshot(commit, records, Corpus(records, self._embed), self._embedder)
        return self._latest

    def records(self, at: str | None = None) -> Mapping[str, Record]:
        return self.ledger.records(at)

    def search(
        self,
        query: str,
        *,
        k: int,
        scope: Scope | None = None,
        kinds: Collection[Kind] | None = None,
        statuses: Collection[Status] = LIVE,
        mode: str = "hybrid",
    ) -> list[Scored]:
        """`Snapshot.search` at the head."""
        return self.snapshot().search(query, k=k, scope=scope, kinds=kinds, statuses=statuses, mode=mode)

    def close(self) -> None:
        if self._index is not None:
            self._index.close()
        self.ledger.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    # -- inside ----------------------------------------------------------------------------------------------------

    def _repair(self) -> None:
        """Bring the index to the head: nothing to do, only what it missed, or all of it."""
        if self._index is None:
            return
        records, head = self.ledger.records(), self.ledger.head()
        try:
            state = self._index.state()
            ours = state.commit == ROOT or any(state.commit == commit.id for commit in self.ledger.commits())
            if not ours and not self._index.embedded and state.size:
                raise ForeignIndexError(
                    f"The collections at {self._index.place} belong to another memory (at commit {state.commit}). "
                    "Add /NAME to the address for a database of its own."
                )
            if state.commit is not None and ours and state.embedder == self._embedder.name:
                if state.commit != head:
                    missed = self._changed_since(state.commit)
                    self._index.write(missed, self._embed(missed), head)
                if self._index.holds(records):
                    return
        except ForeignIndexError:
            raise
        except VectorIndexError as error:
            if not self._index.embedded:
                raise
            logger.warning("%s Rebuilding it now.", error)
            self._index.close()
        self.rebuild()

    def _changed_since(self, commit: str) -> list[Record]:
        """Records that events after `commit` touched, each once."""
        records = self.ledger.records()
        touched: dict[str, None] = {}
        for event in self.ledger.events(since=commit):
            touched[event.record_id] = None
            if event.kind == "merge":
                touched[event.payload["into"]] = None
        return [records[key] for key in touched]

    def _embed(self, records: Sequence[Record]) -> Floats:
        """Vectors `[N, D]` of records, from the ledger where it has them."""
        new = [record for record in records if record.id not in self._vectors]
        if new:
            vectors_ND = self._embedder.embed([record.text for record in new])
            ids = [record.id for record in new]
            if not self.ledger.read_only:
                self.ledger.add_vectors(self._embedder.name, ids, vectors_ND)
            self._vectors.update(zip(ids, vectors_ND, strict=True))
        if not records:
            return np.zeros((0, self._embedder.dim), np.float32)
        return np.stack([self._vectors[record.id] for record in records])
