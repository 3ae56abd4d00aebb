from __future__ import annotations

import numpy as np
import pytest

from evolvent.memory.clusters import clusters


def vectors(*directions: int) -> np.ndarray:
    """Near the corners of a simplex."""
    found = np.eye(8, dtype=np.float32)[list(directions)]
    return found + np.random.default_rng(0).normal(0, 0.01, found.shape).astype(np.float32)


def test_what_is_near_is_of_one_cluster_and_numbers_rise_as_they_are_met() -> None:
    assert clusters(vectors(5, 2, 2, 5, 7, 2), 3, seed=1) == [0, 1, 1, 0, 2, 1]


def test_the_same_vectors_and_seed_give_the_same_clusters() -> None:
    many = np.random.default_rng(3).normal(size=(50, 8)).astype(np.float32)
    assert clusters(many, 4, seed=2) == clusters(many, 4, seed=2)
    assert set(clusters(many, 4, seed=2)) == {0, 1, 2, 3}


def test_there_are_as_many_clusters_as_different_vectors_at_most_and_none_is_empty() -> None:
    same = np.tile(np.eye(1, 8, dtype=np.float32), (5, 1))
    assert clusters(same, 4, seed=0) == [0] * 5
    assert clusters(np.eye(3, 8, dtype=np.float32), 4, seed=0) == [0, 1, 2]
    assert clusters(np.zeros((0, 8), np.float32), 4, seed=0) == []


def test_no_cluster_at_all_is_refused() -> None:
    with pytest.raises(ValueError, match="1 or more, not 0"):
        clusters(vectors(1, 2), 0, seed=0)
