"""A query in, scored records out. Knows nothing of ledgers, indexes or prompts.

Three ways by name: `dense` (cosine of embeddings), `bm25` (shared words), `hybrid` (reciprocal rank fusion of the two).
Scope filters first: a record that does not apply is never ranked, so it takes no place and changes no rank.
Search is exact; a corpus remembers what it derived per scope, because all steps of an episode ask within one.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from threading import RLock
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from evolvent.memory.embedding import Embedder, Floats, words
from evolvent.memory.errors import UnknownRetrieverError
from evolvent.memory.types import Kind, Record, Scope, Scored, Status

Rows = NDArray[np.intp]
LIVE: tuple[Status, ...] = ("candidate", "active")
FUSION_K = 60
"""Of "Reciprocal Rank Fusion outperforms Condorcet and individual Rank Learning Methods" (Cormack, Clarke and Büttcher
2009): score = Σ 1 / (60 + rank), ranks from 1."""


class Retriever(Protocol):
    """One way of finding records.

    - At most `k` records, best first; ties break by id. An empty store answers [].
    - `scope` is where the asker stands (environment, all its task's tags, its seat); None asks everywhere.
    - None for `kinds` means all of them. Retired records come only when `statuses` says so.
    """

    def search(
        self,
        query: str,
        *,
        k: int,
        scope: Scope | None = None,
        kinds: Collection[Kind] | None = None,
        statuses: Collection[Status] = LIVE,
    ) -> list[Scored]: ...


def applies(record: Scope, asker: Scope) -> bool:
    """Whether a record of that scope may be shown to an agent standing there."""
    return (
        record.environment in ("", asker.environment)
        and record.player in ("", asker.player)
        and set(record.tags) <= set(asker.tags)
    )


@dataclass(frozen=True, slots=True, eq=False)
class Hits:
    """Scores of the records that matched: `rows_H` of the corpus ascending, `scores_H` beside them."""

    rows_H: Rows
    scores_H: Floats

    def best(self, k: int) -> Rows:
        """Positions of the k best, best first. Rows are in order of id, and a stable sort keeps it in ties."""
        scores = self.scores_H
        if not 0 < k < len(scores):
            return np.argsort(-scores, kind="stable")[:k]
        threshold = np.partition(scores, len(scores) - k)[len(scores) - k]
        contenders = np.flatnonzero(scores >= threshold)
        order: Rows = contenders[np.argsort(-scores[contenders], kind="stable")][:k]
        return order


class Corpus:
    """Records as of one commit, ready to be searched. Rows are in order of id; nothing is computed early."""

    def __init__(self, records: Mapping[str, Record], embed: Callable[[Sequence[Record]], Floats]) -> None:
        self._records = records
        self._embed = embed
        """Gives `[N, D]` unit vectors; called once, with all records."""
        self._rows: dict[tuple[Scope | None, frozenset[Kind] | None, frozenset[Status]], Rows] = {}
        self._threads = RLock()

    @cached_property
    def ordered(self) -> list[Record]:
        return [self._records[key] for key in sorted(self._records)]

    @cached_property
    def vectors_ND(self) -> Floats:
        return self._embed(self.ordered)

    @cached_property
    def words(self) -> Words:
        return Words([words(record.text) for record in self.ordered])

    @cached_property
    def _groups(self) -> dict[tuple[Scope, Kind, Status], Rows]:
        """Rows by what filters look at: there are few scopes and many records."""
        groups: dict[tuple[Scope, Kind, Status], list[int]] = {}
        for row, record in enumerate(self.ordered):
            groups.setdefault((record.scope, record.kind, record.status), []).append(row)
        return {key: np.array(rows) for key, rows in groups.items()}

    def rows(self, scope: Scope | None, kinds: Collection[Kind] | None, statuses: Collection[Status]) -> Rows:
        """Rows that apply, ascending."""
        wanted = (scope, None if kinds is None else frozenset(kinds), frozenset(statuses))
        with self._threads:
            if wanted not in self._rows:
                parts = [
                    rows
                    for (where, kind, status), rows in self._groups.items()
                    if status in wanted[2]
                    and (wanted[1] is None or kind in wanted[1])
                    and (scope is None or applies(where, scope))
                ]
                self._rows[wanted] = np.sort(np.concatenate(parts)) if parts else np.zeros(0, np.int64)
            return self._rows[wanted]


class Words:
    """BM25 (Lucene's variant, k1 1.5, b 0.75) over tokenised documents."""

    def __init__(self, documents: Sequence[list[str]]) -> None:
        self._known = {word for document in documents for word in document}
        self._size = len(documents)
        self._bm25 = None
        if self._known:
            import bm25s

            self._bm25 = bm25s.BM25()
            self._bm25.index(documents, show_progress=False)

    def scores(self, query: Sequence[str]) -> Floats:
        """One score per document, 0 where no word is shared."""
        known = [word for word in query if word in self._known]
        if self._bm25 is None or not known:
            return np.zeros(self._size, np.float32)
        scores: Floats = self._bm25.get_scores(known)
        return scores


class Ranked:
    """A `Retriever` made of a corpus and a way to score its rows."""

    def __init__(self, corpus: Corpus, rank: Callable[[str, Rows], Hits]) -> None:
        self._corpus = corpus
        self._rank = rank

    def search(
        self,
        query: str,
        *,
        k: int,
        scope: Scope | None = None,
        kinds: Collection[Kind] | None = None,
        statuses: Collection[Status] = LIVE,
    ) -> list[Scored]:
        rows = self._corpus.rows(scope, kinds, statuses)
        if k <= 0 or not len(rows):
            return []
        hits = self._rank(query, rows)
        return [Scored(self._corpus.ordered[hits.rows_H[i]], float(hits.scores_H[i])) for i in hits.best(k)]


def _dense(corpus: Corpus, embedder: Embedder) -> Callable[[str, Rows], Hits]:
    def rank(query: str, rows: Rows) -> Hits:
        vector_D = embedder.embed([query])[0]
        everything = len(rows) == len(corpus.vectors_ND)
        vectors_HD = corpus.vectors_ND if everything else corpus.vectors_ND[rows]
        # Six decimals: the last bits of an embedding depend on its batch, and must not decide a rank.
        return Hits(rows, np.round(vectors_HD @ vector_D, 6))

    return rank


def _bm25(corpus: Corpus, embedder: Embedder) -> Callable[[str, Rows], Hits]:
    def rank(query: str, rows: Rows) -> Hits:
        scores = corpus.words.scores(words(query))[rows]
        matched = scores > 0
        return Hits(rows[matched], scores[matched])

    return rank


def _hybrid(corpus: Corpus, embedder: Embedder) -> Callable[[str, Rows], Hits]:
    ways = (_dense(corpus, embedder), _bm25(corpus, embedder))

    def rank(query: str, rows: Rows) -> Hits:
        fused = np.zeros(len(rows), np.float32)
        for way in ways:
            hits = way(query, rows)
            order = np.argsort(-hits.scores_H, kind="stable")
            positions = np.searchsorted(rows, hits.rows_H[order])
            fused[positions] += 1.0 / (FUSION_K + 1 + np.arange(len(order)))
        return Hits(rows, fused)

    return rank


RETRIEVERS: Mapping[str, Callable[[Corpus, Embedder], Callable[[str, Rows], Hits]]] = {
    "dense": _dense,
    "bm25": _bm25,
    "hybrid": _hybrid,
}


def retriever(mode: str, corpus: Corpus, embedder: Embedder) -> Retriever:
    """The way of searching called `mode`.

    Raises:
        UnknownRetrieverError: no such way.
    """
    if mode not in RETRIEVERS:
        raise UnknownRetrieverError(f"No retriever named {mode!r}. Known: {', '.join(sorted(RETRIEVERS))}.")
    return Ranked(corpus, RETRIEVERS[mode](corpus, embedder))
