"""Which of what is kept is alike: k-means over embeddings. Vectors in, the cluster of each out."""

from __future__ import annotations

import numpy as np
from scipy.cluster.vq import ClusterError, kmeans2

from evolvent.memory.embedding import Floats


def clusters(vectors_ND: Floats, k: int, *, seed: int) -> list[int]:
    """The number of each vector's cluster, from 0 on in the order in which they are first met.

    There are k of them, or fewer: as many as there are different vectors at most, and none is empty. The same vectors
    in the same order and the same seed give the same clusters.

    Raises:
        ValueError: k below 1.
    """
    if k < 1:
        raise ValueError(f"k is the number of clusters, 1 or more, not {k}.")
    # Six decimals: the last bits of an embedding depend on its batch, and must not decide a cluster.
    rounded_ND = np.round(vectors_ND.astype(np.float64), 6)
    for wanted in range(min(k, len(np.unique(rounded_ND, axis=0))), 0, -1):
        try:
            _, found_N = kmeans2(rounded_ND, wanted, minit="++", missing="raise", seed=seed % 2**32)
        except ClusterError:
            continue  # one came out empty
        numbers: dict[int, int] = {}
        return [numbers.setdefault(int(each), len(numbers)) for each in found_N]
    return []
