"""A query in, scored records out. Knows nothing of ledgers, indexes or prompts.

| name        | best is                                                                                     |
|-------------|---------------------------------------------------------------------------------------------|
| `dense`     | what means the same: cosine of embeddings                                                    |
| `bm25`      | what shares words                                                                           |
| `hybrid`    | what is high in both lists: reciprocal rank fusion                                          |
| `mmr`       | what means the same and has not been said: maximal marginal relevance                       |
| `utility`   | what means the same and is proved to help                                                   |
| `spreading` | what means the same, or came from the same episodes as what does: activation over lineage   |

Scope filters first: a record that does not apply is never ranked, so it takes no place and changes no rank.
Search is exact: each way gives the first k of its whole ranking.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Protocol, get_args

import numpy as np
from numpy.typing import NDArray

from evolvent.memory.corpus import Asker, Choice, Corpus, Rows
from evolvent.memory.embedding import Embedder, Floats
from evolvent.memory.errors import UnknownRetrieverError
from evolvent.memory.types import WEIGHTS, Kind, Record, Scored, Status

LIVE: tuple[Status, ...] = ("candidate", "active")
TEXTS = tuple(kind for kind in get_args(Kind) if kind not in WEIGHTS)
FUSION_K = 60
"""Of "Reciprocal Rank Fusion outperforms Condorcet and individual Rank Learning Methods" (Cormack, Clarke and Büttcher
2009): score = Σ 1 / (60 + rank), ranks from 1."""
DIVERSITY = 0.5
"""1 − λ of Carbonell and Goldstein 1998."""
CANDIDATES = 64
"""Of the dense ranking, among which `mmr` chooses."""
PROVED = 0.02
"""Lift that an active record is good for before any credit: what is worth less than two points is retired."""
SEEDS = 8
DECAY = 0.5


class Retriever(Protocol):
    """One way of finding records.

    - At most `k` records, best first; ties break by id. An empty store answers [].
    - `scope` is where the asker stands (environment, all its task's tags, its seat); None asks everywhere, a set
      of scopes for the very records that have one of them.
    - None for `kinds` means all that may stand in a prompt, which is all but `WEIGHTS`. Retired records come only when
      `statuses` says so.
    """

    def search(
        self,
        query: str,
        *,
        k: int,
        scope: Asker = None,
        kinds: Collection[Kind] | None = None,
        statuses: Collection[Status] = LIVE,
    ) -> list[Scored]: ...


@dataclass(frozen=True, slots=True, eq=False)
class Hits:
    """Records that matched, by row ascending, with their scores."""

    rows_H: Rows
    scores_H: Floats

    def order(self, corpus: Corpus) -> NDArray[np.int64]:
        """One number per hit, higher is better: by score, ties by id. No two are equal."""
        bits_H = (self.scores_H + np.float32(0)).view(np.int32).astype(np.int64)  # + 0 makes −0 and 0 one number
        # Floats order like the integers of their bits, once those of negative ones are turned round.
        ascending_H = np.where(bits_H < 0, -(bits_H & 0x7FFFFFFF), bits_H)
        order_H: NDArray[np.int64] = (ascending_H << 32) - corpus.shelf.ranks()[self.rows_H]
        return order_H

    def best(self, k: int, corpus: Corpus) -> Hits:
        """The k best, best first."""
        order_H = self.order(corpus)
        top = np.argpartition(order_H, -k)[-k:] if k < len(order_H) else np.arange(len(order_H))
        top = top[np.argsort(-order_H[top])]
        return Hits(self.rows_H[top], self.scores_H[top])


Rank = Callable[[str, Choice, int], Hits]
"""Query, what may be seen, and k → hits, the k best of all among them."""


class Ranked:
    """A `Retriever` made of a corpus and a way to score its rows."""

    def __init__(self, corpus: Corpus, rank: Rank) -> None:
        self._corpus = corpus
        self._rank = rank

    def search(
        self,
        query: str,
        *,
        k: int,
        scope: Asker = None,
        kinds: Collection[Kind] | None = None,
        statuses: Collection[Status] = LIVE,
    ) -> list[Scored]:
        choice = self._corpus.choose(scope, TEXTS if kinds is None else kinds, statuses)
        if k <= 0 or not len(choice.rows_H):
            return []
        best = self._rank(query, choice, k).best(k, self._corpus)
        return [
            Scored(self._corpus.record(row), float(score))
            for row, score in zip(best.rows_H, best.scores_H, strict=True)
        ]


def _dense(corpus: Corpus, embedder: Embedder) -> Rank:
    def rank(query: str, choice: Choice, k: int) -> Hits:
        return Hits(choice.rows_H, choice.similarities(embedder.embed([query])[0]))

    return rank


def _bm25(corpus: Corpus, embedder: Embedder) -> Rank:
    def rank(query: str, choice: Choice, k: int) -> Hits:
        scores_H = corpus.word_scores(query)[choice.rows_H]
        matched = scores_H > 0
        return Hits(choice.rows_H[matched], scores_H[matched])

    return rank


def _hybrid(corpus: Corpus, embedder: Embedder) -> Rank:
    ways = (_dense(corpus, embedder), _bm25(corpus, embedder))

    def rank(query: str, choice: Choice, k: int) -> Hits:
        lists = [way(query, choice, k) for way in ways]
        # A record outside the first 60 + 2k of both lists has less than 2 / (120 + 2k) = 1 / (60 + k), which the first
        # k of the dense list have from it alone: only the others need their ranks.
        enough = FUSION_K + 2 * k
        rows_C = np.unique(np.concatenate([hits.best(enough, corpus).rows_H for hits in lists]))
        fused_C = np.zeros(len(rows_C), np.float32)
        for hits in lists:
            order_H = hits.order(corpus)
            at_C = np.searchsorted(hits.rows_H, rows_C)
            listed = np.flatnonzero(np.isin(rows_C, hits.rows_H))
            better = len(order_H) - 1 - np.searchsorted(np.sort(order_H), order_H[at_C[listed]])
            fused_C[listed] += 1.0 / (FUSION_K + 1 + better)
        return Hits(rows_C, fused_C)

    return rank


def _mmr(corpus: Corpus, embedder: Embedder) -> Rank:
    """Carbonell and Goldstein 1998 with λ = 0.5: next is the highest λ cos(query) − (1 − λ) max cos(chosen before).

    Unlike theirs a negative similarity to what was chosen counts as none: to say the opposite is no merit of its own.
    """
    dense = _dense(corpus, embedder)

    def rank(query: str, choice: Choice, k: int) -> Hits:
        found = dense(query, choice, k).best(max(k, CANDIDATES), corpus)
        vectors_CD = corpus.shelf.vectors(found.rows_H)
        relevance_C = (1 - DIVERSITY) * found.scores_H
        said_C = np.zeros_like(relevance_C)
        left_C = np.ones(len(relevance_C), bool)
        scores_C = np.zeros(len(relevance_C), np.float32)
        by_id_C = np.argsort(corpus.shelf.ranks()[found.rows_H])
        for _ in range(min(k, len(relevance_C))):
            values_C = np.where(left_C, relevance_C - DIVERSITY * said_C, -np.inf)[by_id_C]
            chosen = by_id_C[values_C.argmax()]
            scores_C[chosen], left_C[chosen] = values_C.max(), False
            said_C = np.maximum(said_C, np.round(vectors_CD @ vectors_CD[chosen], 6))
        chosen_C = np.flatnonzero(~left_C)
        return Hits(found.rows_H[chosen_C], scores_C[chosen_C])

    return rank


def _utility(corpus: Corpus, embedder: Embedder) -> Rank:
    """Cosine, raised or lowered by its own size times the lift that is beyond doubt; nothing makes a stranger near."""
    dense = _dense(corpus, embedder)
    worth_N = np.zeros(corpus.size, np.float32)
    for record in corpus.records.values():
        if amount := worth(record):
            worth_N[corpus.shelf.row(record.id)] = amount

    def rank(query: str, choice: Choice, k: int) -> Hits:
        hits = dense(query, choice, k)
        gains_H = np.abs(hits.scores_H) * worth_N[hits.rows_H]
        return Hits(hits.rows_H, np.add(hits.scores_H, gains_H, dtype=np.float32))

    return rank


def worth(record: Record) -> float:
    """The lift that is beyond doubt, in [-1, 1]: the end of its interval nearer to 0, and 0 where it spans 0."""
    least = PROVED if record.status == "active" else 0.0
    if record.lift is None:
        return least
    return record.lift.high if record.lift.high < 0 else max(record.lift.low, least)


def _spreading(corpus: Corpus, embedder: Embedder) -> Rank:
    """Cosine, plus what flows over the lineage from the eight best: two hops, half of it lost at each.

    Spreading activation of Collins and Loftus 1975; a node shares what it passes on equally among its neighbours
    (Anderson's fan effect), so that an episode that taught a hundred lessons says little of each. Links lead from
    records to their parents, trajectories or records, and back. Unlike theirs nothing flows back where it came from.
    """
    dense = _dense(corpus, embedder)
    children: dict[str, array[int]] = {}
    for record in corpus.records.values():
        for parent in record.parents:
            children.setdefault(parent, array("i")).append(corpus.shelf.row(record.id))

    def rank(query: str, choice: Choice, k: int) -> Hits:
        hits = dense(query, choice, k)
        seeds = hits.best(SEEDS, corpus)
        received_N = np.zeros(corpus.size, np.float32)
        for seed, activation in zip(seeds.rows_H, seeds.scores_H, strict=True):
            if activation > 0:
                _spread(corpus, children, int(seed), float(activation), received_N)
        received_H = np.round(received_N[hits.rows_H], 6)
        return Hits(hits.rows_H, np.add(hits.scores_H, received_H, dtype=np.float32))

    return rank


def _spread(
    corpus: Corpus, children: Mapping[str, array[int]], seed: int, activation: float, received_N: Floats
) -> None:
    """Add to `received_N` what two hops carry away from `seed`."""
    records, shelf = corpus.records, corpus.shelf
    start = corpus.record(seed).id
    near = [*records[start].parents, *(shelf.records[row].id for row in children.get(start, ()))]
    for node in near:
        first = DECAY * activation / len(near)
        parents = records[node].parents if node in records else ()
        known = [shelf.row(each) for each in parents if each in records]
        beyond = np.concatenate([np.array(known, np.intp), np.array(children.get(node, ()), np.intp)])
        if node in records:
            received_N[shelf.row(node)] += first
        neighbours = len(beyond) + len(parents) - len(known)
        received_N[beyond[beyond != seed]] += DECAY * first / neighbours


RETRIEVERS: Mapping[str, Callable[[Corpus, Embedder], Rank]] = {
    "dense": _dense,
    "bm25": _bm25,
    "hybrid": _hybrid,
    "mmr": _mmr,
    "utility": _utility,
    "spreading": _spreading,
}


def retriever(mode: str, corpus: Corpus, embedder: Embedder) -> Retriever:
    """The way of searching called `mode`.

    Raises:
        UnknownRetrieverError: no such way.
    """
    if mode not in RETRIEVERS:
        raise UnknownRetrieverError(f"No retriever named {mode!r}. Known: {', '.join(sorted(RETRIEVERS))}.")
    return Ranked(corpus, RETRIEVERS[mode](corpus, embedder))
