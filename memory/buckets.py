"""Locality-sensitive hashing of vectors into buckets: what points the same way mostly falls together.

A vector is projected on a few fixed random directions, and its bucket is the direction, or the opposite of one, that it
points along most (cross-polytope hashing, arXiv 1509.02897). Its length makes no difference. What lies near a border
has neighbours beyond it, which a look into one bucket misses: see `missed`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np

from evolvent.memory.embedding import Floats


@dataclass(frozen=True, slots=True, eq=False)
class Buckets:
    """`2 * H` buckets, numbered from 0; by `projection_DH`, column h is the direction of buckets h and H + h."""

    projection_DH: Floats

    @classmethod
    def drawn(cls, count: int, dim: int, seed: int) -> Self:
        """An even number of buckets for vectors of `dim` places; the same for the same three numbers.

        Raises:
            ValueError: `count` is odd or below 2.
        """
        if count < 2 or count % 2:
            raise ValueError(f"There cannot be {count} buckets; give an even number of 2 or more.")
        drawn_DH = np.random.default_rng(seed).standard_normal((dim, count // 2))
        return cls(drawn_DH.astype(np.float32))

    def of(self, vectors_ND: Floats) -> list[int]:
        """The bucket of each vector: argmax over [xR; -xR], the first of equals."""
        along_NH = vectors_ND @ self.projection_DH
        return [int(bucket) for bucket in np.concatenate([along_NH, -along_NH], axis=1).argmax(axis=1)]


def missed(buckets: Buckets, query_D: Floats, kept_ND: Floats, k: int) -> float:
    """Share, in [0, 1], of the k unit vectors nearest to a query that lie outside its bucket.

    Raises:
        ValueError: nothing is kept, or `k` is below 1.
    """
    if k < 1 or not len(kept_ND):
        raise ValueError(f"There are no {k} nearest of {len(kept_ND)} vectors; keep one at least and ask for one.")
    nearest_K = np.argsort(-(kept_ND @ query_D), kind="stable")[:k]
    (own,) = buckets.of(query_D[None])
    return float(np.mean([bucket != own for bucket in buckets.of(kept_ND[nearest_K])]))
