"""`Memory`: ledger, index, embedder and retrieval as one store, in one directory.

The ledger is written first and is the truth; the index follows it and is repaired from it. Searches run over a
snapshot, the records as of one commit, so that every episode of a batch reads the same memory.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from evolvent.environments.types import Trajectory
from evolvent.memory.chroma import ChromaIndex
from evolvent.memory.corpus import Asker, Corpus, Shelf
from evolvent.memory.embedding import Embedder, Floats, MiniLM
from evolvent.memory.errors import ForeignIndexError, LedgerUnwritableError, UnknownCommitError, VectorIndexError
from evolvent.memory.ledger import ROOT, Ledger
from evolvent.memory.lineage import Lineage
from evolvent.memory.merging import Side
from evolvent.memory.retrieval import LIVE, Retriever, retriever
from evolvent.memory.trust import quarantined
from evolvent.memory.types import Event, Kind, Record, Scored, Status

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
        scope: Asker = None,
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
        self._shelf = Shelf(self._embed_new)
        self._corpus: Corpus | None = None
        """Of the latest snapshot: the next one differs from it by little."""
        self._latest: Snapshot | None = None

    @classmethod
    def open(
        cls,
        directory: str | Path,
        *,
        embedder: Embedder | None = None,
        chroma_url: str | None = None,
        read_only: bool = False,
        wait_s: float = 0,
    ) -> Memory:
        """The memory in `directory`: `ledger.sqlite`, and `chroma/` unless `chroma_url` names a server.

        Opened for writing, it is made when missing, and an index that is behind, half-written, corrupt or gone is
        repaired from the ledger before this returns. Opened for reading it touches no index: vectors lie in the ledger.
        While another process has it open for writing, a writer waits up to `wait_s` seconds for it.

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
        ledger = Ledger(folder / "ledger.sqlite", read_only=read_only, wait_s=wait_s)
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
        """`Ledger.commit`, then the index. When this returns, both hold it.

        New records that are not to be trusted, by themselves or by what they came from, start quarantined: `trust.py`.
        """
        events = quarantined(self.ledger, events)
        into = [str(event.payload.get("into")) for event in events if event.kind == "merge"]
        return self._moved(
            lambda: self.ledger.commit(key, events, generation=generation, note=note),
            dict.fromkeys((*(event.record_id for event in events), *into)),
        )

    @property
    def branch(self) -> str:
        """See `Ledger.branch`."""
        return self.ledger.branch

    def branches(self) -> dict[str, str]:
        """See `Ledger.branches`."""
        return self.ledger.branches()

    def resolve(self, ref: str) -> str:
        """See `Ledger.resolve`."""
        return self.ledger.resolve(ref)

    def make_branch(self, name: str, at: str | None = None) -> str:
        """See `Ledger.make_branch`."""
        return self.ledger.make_branch(name, at)

    def checkout(self, name: str) -> str:
        """`Ledger.checkout`, then the index."""
        return self._moved(lambda: self.ledger.checkout(name))

    def revert(self, commit: str, note: str = "") -> str:
        """`Ledger.revert`, then the index."""
        return self._moved(lambda: self.ledger.revert(commit, note))

    def merge(self, branch: str, prefer: Side | None = None) -> str:
        """`Ledger.merge`, then the index."""
        return self._moved(lambda: self.ledger.merge(branch, prefer))

    def forget(self, node: str, note: str = "") -> str:
        """Commit the fall of a trajectory or a record, see `Lineage.forget_events`, and give the commit's id.

        Where nothing was derived from it nothing is written and that is the head. `revert` undoes it.

        Raises:
            UnknownRecordError: neither a record nor a trajectory has this id.
        """
        events, head = Lineage(self.records(), self.ledger).forget_events(node), self.ledger.head()
        if not events:
            return head
        commits = self.ledger.commits()
        return self.commit(f"forget/{node}@{head}", events, generation=commits[-1].generation, note=note)

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

    @property
    def index(self) -> ChromaIndex | None:
        """None when memory is open for reading: it needs none."""
        return self._index

    @property
    def embedder(self) -> Embedder:
        return self._embedder

    def snapshot(self, at: str | None = None) -> Snapshot:
        """Memory as of commit `at`, by default the head; the same object until something is written."""
        commit = at or self.ledger.head()
        if self._latest is None or self._latest.commit != commit:
            records = self.ledger.records(commit)
            self._corpus = Corpus(records, self._shelf, self._corpus)
            self._latest = Snapshot(commit, records, self._corpus, self._embedder)
        return self._latest

    def records(self, at: str | None = None) -> Mapping[str, Record]:
        return self.ledger.records(at)

    def search(
        self,
        query: str,
        *,
        k: int,
        scope: Asker = None,
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
        try:
            state = self._index.state()
            try:
                then = self.ledger.records(state.commit or ROOT)
                ours = True
            except UnknownCommitError:
                ours = False
            if not ours and not self._index.embedded and state.size:
                raise ForeignIndexError(
                    f"The collections at {self._index.place} belong to another memory (at commit {state.commit}). "
                    "Add /NAME to the address for a database of its own."
                )
            if state.commit is not None and ours and state.embedder == self._embedder.name:
                if state.commit != self.ledger.head():
                    self._write(then, dict.fromkeys((*then, *self.ledger.records())))
                if self._index.holds(self.ledger.records()):
                    return
        except ForeignIndexError:
            raise
        except VectorIndexError as error:
            if not self._index.embedded:
                raise
            logger.warning("%s Rebuilding it now.", error)
            self._index.close()
        self.rebuild()

    def _moved(self, move: Callable[[], str], touched: Iterable[str] | None = None) -> str:
        """Move the head, then the index; records differ in `touched` at most, None if nobody knows."""
        then, before = self.ledger.head(), self.ledger.records()
        commit = move()
        if self._index is not None and self.ledger.head() != then:
            try:
                anything = dict.fromkeys((*before, *self.ledger.records()))
                self._write(before, anything if touched is None else touched)
            except VectorIndexError as error:
                logger.warning("%s Rebuilding it now.", error)
                self.rebuild()
        return commit

    def _write(self, before: Mapping[str, Record], touched: Iterable[str]) -> None:
        assert self._index is not None
        records = self.ledger.records()
        changed = [key for key in touched if records.get(key) != before.get(key)]
        stay = [records[key] for key in changed if key in records]
        # Chroma joins new metadata with the old; a fact that is gone goes with its whole item.
        gone = [
            before[key]
            for key in changed
            if key in before and (key not in records or before[key].meta.keys() - records[key].meta.keys())
        ]
        self._index.write(stay, self._embed(stay), self.ledger.head(), gone=gone)

    def _embed(self, records: Sequence[Record]) -> Floats:
        """Vectors `[N, D]` of records."""
        return self._shelf.vectors(self._shelf.rows(records))

    def _embed_new(self, records: Sequence[Record]) -> Floats:
        """The same for records that are new to this process: from the ledger where it has them."""
        known = self.ledger.vectors(self._embedder.name, [record.id for record in records])
        new = [record for record in records if record.id not in known]
        if new:
            vectors_ND = self._embedder.embed([record.text for record in new])
            ids = [record.id for record in new]
            if not self.ledger.read_only:
                self.ledger.add_vectors(self._embedder.name, ids, vectors_ND)
            known.update(zip(ids, vectors_ND, strict=True))
        if not records:
            return np.zeros((0, self._embedder.dim), np.float32)
        return np.stack([known[record.id] for record in records])
