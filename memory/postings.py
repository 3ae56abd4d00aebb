"""Which documents hold which words, and how well they answer a query: BM25 that grows without being indexed anew."""

from __future__ import annotations

import math
from array import array
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from evolvent.memory.embedding import Floats

K1, B = 1.5, 0.75


class Statistics(NamedTuple):
    """What scores depend on beside the document: which documents are there at all."""

    present_N: NDArray[np.bool_]
    size: int
    norms_N: Floats
    """K1 (1 − B + B length / mean length), by document."""


class Postings:
    """Documents by number, in the order they came; only ever added to.

    Scores are Lucene's variant of BM25 (k1 1.5, b 0.75), the default of `bm25s`, which a test holds them to. `bm25s`
    stores finished scores, so one more document means indexing all again; here the statistics of whichever documents
    a caller sees are applied when it asks, and a list of counts is all that is kept.
    """

    def __init__(self) -> None:
        self._documents: dict[str, array[int]] = {}
        self._counts: dict[str, array[int]] = {}
        self._lengths: array[int] = array("i")

    def __len__(self) -> int:
        return len(self._lengths)

    def extend(self, documents: Iterable[Sequence[str]]) -> None:
        for words in documents:
            number = len(self._lengths)
            self._lengths.append(len(words))
            for word, count in Counter(words).items():
                if word not in self._documents:
                    self._documents[word], self._counts[word] = array("i"), array("i")
                self._documents[word].append(number)
                self._counts[word].append(count)

    def statistics(self, present_N: NDArray[np.bool_]) -> Statistics:
        """Of the first N documents, those that are `present`."""
        lengths_N = np.array(self._lengths[: len(present_N)], np.float64)
        size = int(present_N.sum())
        mean = lengths_N[present_N].mean() if size else 0.0
        norms_N = K1 * (1 - B + B * lengths_N / (mean or 1.0))
        return Statistics(present_N, size, norms_N.astype(np.float32))

    def scores(self, query: Sequence[str], seen: Statistics) -> Floats:
        """One score for each of the first N documents, 0 where no word is shared; a word asked twice counts twice."""
        scores_N = np.zeros(len(seen.present_N), np.float32)
        for word, times in Counter(query).items():
            if word not in self._documents:
                continue
            documents = np.array(self._documents[word])
            documents = documents[: np.searchsorted(documents, len(scores_N))]
            counts = np.array(self._counts[word][: len(documents)], np.float32)
            frequency = int(seen.present_N[documents].sum())
            rarity = times * math.log1p((seen.size - frequency + 0.5) / (frequency + 0.5))
            scores_N[documents] += np.float32(rarity) * counts / (counts + seen.norms_N[documents])
        return scores_N
