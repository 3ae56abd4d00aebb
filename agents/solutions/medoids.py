"""A few clearly different texts out of many: duplicates collapse, and each group is stood for by its medoid.

Exact K-medoids by trying every choice of medoids: of nine texts there are 84 choices of three. Deterministic; of
equally good choices the one that comes first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

_SAME = 1e-6
"""Cosine distance up to which two vectors are one; float32 leaves that much of nothing."""


@dataclass(frozen=True, slots=True)
class Group:
    medoid: int
    """Place of the text whose summed distance to the others of its group is least."""
    members: tuple[int, ...]
    """Places of all texts in it, duplicates too, in order."""


def cosine_distances(vectors_ND: NDArray[np.float32]) -> NDArray[np.float64]:
    """`[N, N]`, in [0, 2]. The vectors are of length 1."""
    vectors = vectors_ND.astype(np.float64)
    return np.clip(1.0 - vectors @ vectors.T, 0.0, 2.0)


def groups(distances_NN: NDArray[np.float64], k: int, *, penalty_NN: NDArray[np.float64] | None = None) -> list[Group]:
    """At most `k`, the largest first, of equally large ones that whose medoid comes first.

    Args:
        distances_NN: of the texts; those without any between them are duplicates, of which the first one stays.
        penalty_NN: added to the distances of texts that are none, for a difference that wording does not show.
    """
    n = len(distances_NN)
    if not n:
        return []
    first = [next(other for other in range(n) if distances_NN[place, other] <= _SAME) for place in range(n)]
    distinct = [place for place in range(n) if first[place] == place]
    apart_NN = distances_NN if penalty_NN is None else distances_NN + penalty_NN
    # Every text counts, so that many duplicates pull a medoid towards them; each is where its first one is.
    rows = apart_NN[first]
    medoids = min(combinations(distinct, min(k, len(distinct))), key=lambda chosen: _spread(rows, chosen))
    members: dict[int, list[int]] = {medoid: [] for medoid in medoids}
    for place in range(n):
        members[min(medoids, key=lambda medoid: rows[place, medoid])].append(place)
    found = [Group(medoid, tuple(places)) for medoid, places in members.items()]
    return sorted(found, key=lambda group: (-len(group.members), group.medoid))


def _spread(rows_NN: NDArray[np.float64], chosen: Sequence[int]) -> float:
    """Summed distance of all texts to the nearest medoid, rounded so that ties are ties."""
    return round(float(rows_NN[:, list(chosen)].min(axis=1).sum()), 9)
