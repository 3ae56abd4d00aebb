"""Intervals over tasks, and what may be claimed from them."""

from __future__ import annotations

import numpy as np
import pytest

from evolvent.agents.evaluation.statistics import interval, paired, verdict
from evolvent.memory.types import Interval


def test_the_interval_covers_the_true_mean_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for run in range(150):
        found = interval({str(task): [score] for task, score in enumerate(rng.random(40))}, seed=run)
        covered += found.low <= 0.5 <= found.high
    assert covered / 150 == pytest.approx(0.95, abs=0.055)  # three standard errors of 150 runs


def test_many_episodes_of_one_task_are_one_piece_of_evidence() -> None:
    once = interval({"a": [0.0], "b": [1.0], "c": [1.0]})
    often = interval({"a": [0.0] * 9, "b": [1.0] * 9, "c": [1.0] * 9})
    assert once == often


def test_only_tasks_that_both_sides_played_are_paired() -> None:
    gain = paired({"a": [1.0], "b": [1.0], "x": [0.0]}, {"a": [0.0], "b": [1.0], "y": [1.0]})
    assert (gain.mean, gain.n) == (0.5, 2)


def test_a_constant_difference_has_an_interval_of_no_width() -> None:
    assert interval({"a": [0.25], "b": [0.25]}) == Interval(0.25, 0.25, 0.25, 2)


def test_nothing_measured_claims_nothing() -> None:
    assert verdict(interval({})) == "no evidence"


@pytest.mark.parametrize(
    ("low", "high", "lost", "said"),
    [
        (0.01, 0.2, 0.0, "improved"),
        (-0.01, 0.2, 0.0, "no evidence"),
        (0.0, 0.2, 0.0, "no evidence"),
        (-0.2, -0.01, 0.0, "worse"),
        (0.01, 0.2, 0.11, "no evidence"),
        (0.01, 0.2, 0.10, "improved"),
    ],
)
def test_the_verdict_needs_an_interval_clear_of_zero_and_nine_pairs_in_ten(
    low: float, high: float, lost: float, said: str
) -> None:
    assert verdict(Interval((low + high) / 2, low, high, 80), lost_share=lost) == said
