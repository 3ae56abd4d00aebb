"""Of texts that nearly say the same one is enough: a filter by the cosine of their embeddings."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from evolvent.agents.solutions.medoids import cosine_distances
from evolvent.memory.embedding import Floats


def without_near_duplicates(
    texts: Sequence[str], embed: Callable[[Sequence[str]], Floats], *, limit: float
) -> list[str]:
    """Those whose cosine to none that is kept before them is above `limit`, in order; the first is always kept.

    Args:
        embed: gives a vector of length 1 for each text.
    """
    if not texts:
        return []
    cosines_NN = 1.0 - cosine_distances(embed(texts))
    kept: list[int] = []
    for place in range(len(texts)):
        if all(cosines_NN[place, other] <= limit for other in kept):
            kept.append(place)
    return [texts[place] for place in kept]
