"""Search by words over a small fixed set of texts: Okapi BM25. Texts in, their places out, best first."""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Sequence

_WORD = re.compile(r"\w+")


class Bm25:
    """Okapi BM25 as Lucene has it: idf ln(1 + (N − n + ½) / (n + ½)), which is never negative, and no factor k1 + 1.

    Args:
        texts: what is searched.
        k1: how much a word's repetition counts.
        b: how much a text's length counts, from 0 to 1.
    """

    def __init__(self, texts: Sequence[str], *, k1: float = 1.2, b: float = 0.75) -> None:
        counts = [Counter(words(text)) for text in texts]
        mean = sum(count.total() for count in counts) / max(len(counts), 1)
        self._weights: defaultdict[str, dict[int, float]] = defaultdict(dict)
        for at, count in enumerate(counts):
            length = 1 - b + b * count.total() / max(mean, 1)
            for word, times in count.items():
                self._weights[word][at] = times / (times + k1 * length)
        for of in self._weights.values():
            idf = math.log(1 + (len(counts) - len(of) + 0.5) / (len(of) + 0.5))
            of.update({at: idf * weight for at, weight in of.items()})

    def search(self, query: str, n: int) -> list[int]:
        """Places of at most `n` texts that share a word with the query, best first; ties keep the texts' order."""
        scores = self.scores(query)
        return sorted(scores, key=lambda at: (-scores[at], at))[: max(n, 0)]

    def scores(self, query: str) -> dict[int, float]:
        """Above 0, by place, of the texts that share a word with the query."""
        scores: defaultdict[int, float] = defaultdict(float)
        for word in dict.fromkeys(words(query)):
            for at, weight in self._weights.get(word, {}).items():
                scores[at] += weight
        return dict(scores)


def words(text: str) -> list[str]:
    """Letters and digits in a row, in lower case."""
    return _WORD.findall(text.lower())
