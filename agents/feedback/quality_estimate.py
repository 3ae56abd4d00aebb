"""How good a translation is, told without a reference.

In the toy language it is adequacy times fluency: the share of the source's words that are there, times how natural the
text sounds. For a real language it is how near the embeddings of source and translation are; that says as much as the
embedder knows of both languages, and all-MiniLM-L6-v2 knows little but English.
"""

from __future__ import annotations

from collections.abc import Sequence

from evolvent.environments.translation import coverage, fluency, lexicon, source
from evolvent.environments.types import Task
from evolvent.memory.embedding import Embedder


def quality_estimates(task: Task, translations: Sequence[str], embedder: Embedder) -> list[float]:
    """In [0, 1], 0 for an empty text; to be compared among translations of one text only."""
    if lexicon(task):
        return [coverage(task, text) * fluency(task, text) for text in translations]
    original_D, *vectors = embedder.embed([source(task), *translations])
    near = [max(0.0, float(vector_D @ original_D)) for vector_D in vectors]
    return [similarity if text else 0.0 for text, similarity in zip(translations, near, strict=True)]
