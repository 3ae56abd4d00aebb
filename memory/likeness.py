"""How like a question each of some texts is, on a scale that a threshold can be set on.

BM25 scores say which text is nearest and not how near it is: their size follows from how long the question is and how
rare its words are. Over what the question itself would score they lie between 0 and 1.
"""

from __future__ import annotations

from collections.abc import Sequence

from evolvent.environments.bm25 import Bm25


def likeness(query: str, texts: Sequence[str]) -> list[float]:
    """By text, from 0 (no word is shared) to 1: its BM25 score over that of the query itself as one more text.

    A text of the same words has 1. So has a shorter one that lacks common words only: scores above 1 are cut there.
    """
    scores = Bm25([*texts, query]).scores(query)
    own = scores.get(len(texts), 1.0)  # where the query has no words there is nothing to divide
    return [min(1.0, scores.get(at, 0.0) / own) for at in range(len(texts))]
