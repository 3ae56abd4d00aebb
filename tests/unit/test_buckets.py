"""Hashing into buckets: where a vector falls, and what a look into one bucket misses."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evolvent.memory.buckets import Buckets, missed
from evolvent.memory.embedding import Floats

AXES = Buckets(np.eye(2, dtype=np.float32))
"""Right, up, left and down."""


def vectors(*rows: tuple[float, ...]) -> Floats:
    return np.array(rows, np.float32)


def random_vectors(count: int, dim: int = 24, seed: int = 7) -> Floats:
    drawn = np.random.default_rng(seed).standard_normal((count, dim)).astype(np.float32)
    unit: Floats = drawn / np.linalg.norm(drawn, axis=1, keepdims=True)
    return unit


def test_a_vector_falls_into_the_bucket_of_the_direction_it_points_along_most() -> None:
    assert AXES.of(vectors((3, 1), (1, 3), (-3, 1), (1, -3))) == [0, 1, 2, 3]


def test_the_same_seed_draws_the_same_buckets_and_another_seed_others() -> None:
    many = random_vectors(200)
    first, again, other = (Buckets.drawn(8, 24, seed).of(many) for seed in (5, 5, 6))
    assert first == again != other
    assert set(first) == set(range(8))


@given(st.floats(0.01, 1000), st.integers(0, 50))
def test_the_length_of_a_vector_makes_no_difference_and_its_opposite_falls_into_the_opposite_bucket(
    length: float, seed: int
) -> None:
    buckets, many = Buckets.drawn(16, 24, seed), random_vectors(20)
    assert buckets.of(many * np.float32(length)) == buckets.of(many)
    assert buckets.of(-many) == [(each + 8) % 16 for each in buckets.of(many)]


def test_no_vectors_have_no_buckets() -> None:
    assert AXES.of(np.zeros((0, 2), np.float32)) == []


@pytest.mark.parametrize("count", [0, 1, 7])
def test_an_odd_number_of_buckets_is_refused(count: int) -> None:
    with pytest.raises(ValueError, match="even number"):
        Buckets.drawn(count, 4, 0)


def test_a_near_neighbour_beyond_the_border_is_missed() -> None:
    kept = vectors((0.69, 0.72), (0.8, 0.6), (0, -1))
    assert missed(AXES, vectors((0.72, 0.69))[0], kept, 2) == 0.5
    assert missed(AXES, vectors((0.72, 0.69))[0], kept, 3) == pytest.approx(2 / 3)


def test_more_buckets_miss_more() -> None:
    kept, queries = random_vectors(300), random_vectors(40, seed=8)
    rates = [
        np.mean([missed(Buckets.drawn(count, 24, 0), query, kept, 10) for query in queries]) for count in (2, 8, 32)
    ]
    assert rates[0] < rates[1] < rates[2]


def test_nothing_kept_has_no_nearest() -> None:
    with pytest.raises(ValueError, match="keep one"):
        missed(AXES, vectors((1, 0))[0], np.zeros((0, 2), np.float32), 3)
