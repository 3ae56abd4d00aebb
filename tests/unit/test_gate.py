"""The gate's error rates, by simulation, and its arithmetic against independent calculations."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import beta

from evolvent.memory.gate import Evidence, e_value, judge, level

MOST = 48


@pytest.mark.parametrize(("wins", "losses"), [(0, 0), (5, 0), (8, 3), (2, 9), (30, 12)])
def test_the_e_value_is_the_likelihood_ratio_mixed_over_the_prior(wins: int, losses: int) -> None:
    prior = beta(10, 4)
    mass = 1 - prior.cdf(0.5)

    def integrand(p: float) -> float:
        return float(prior.pdf(p) / mass * (2 * p) ** wins * (2 * (1 - p)) ** losses)

    assert e_value(wins, losses) == pytest.approx(quad(integrand, 0.5, 1)[0], rel=1e-6)


def test_ties_are_no_evidence() -> None:
    assert judge([0.0] * 5, at=0.05, most=MOST).e_value == pytest.approx(1.0)


def test_levels_of_a_run_without_promotions_add_up_to_the_bound() -> None:
    total = sum(level(t, 0) for t in range(1, 100_001))
    assert total < 0.05
    assert total == pytest.approx(0.05, rel=0.01)


def test_a_promotion_raises_the_level_of_later_candidates() -> None:
    assert level(4, 2) == pytest.approx(3 * level(4, 0))


def _play(rng: np.random.Generator, better: float, worse: float, at: float, most: int = MOST) -> Evidence:
    """A candidate whose gate is asked after every pair."""
    outcomes: list[float] = []
    for draw in rng.random(most):
        outcomes.append(1.0 if draw < better else -1.0 if draw < better + worse else 0.0)
        evidence = judge(outcomes, at=at, most=most)
        if evidence.verdict != "open":
            break
    return evidence


def test_useless_candidates_alone_are_promoted_in_at_most_five_percent_of_runs() -> None:
    rng = np.random.default_rng(0)
    runs = 1000
    bad = sum(
        any(_play(rng, 0.2, 0.2, level(t, 0), most=100).verdict == "promoted" for t in range(1, 11))
        for _ in range(runs)
    )
    assert bad <= 0.05 * runs


def test_fifteen_points_are_found_within_200_pairs_four_times_in_five() -> None:
    rng = np.random.default_rng(1)
    trials = [_play(rng, 0.25, 0.10, level(1, 0), most=200) for _ in range(1500)]
    assert np.mean([trial.verdict == "promoted" for trial in trials]) >= 0.78  # 0.80 less two standard errors


def test_junk_among_the_promoted_stays_under_the_bound_when_one_candidate_in_ten_is_true() -> None:
    rng = np.random.default_rng(2)
    shares = []
    for _ in range(60):
        promoted = false = 0
        for turn in range(1, 31):
            true = turn % 10 == 0
            trial = _play(rng, *((0.5, 0.05) if true else (0.2, 0.2)), level(turn, promoted), most=100)
            promoted += trial.verdict == "promoted"
            false += trial.verdict == "promoted" and not true
        shares.append(false / max(1, promoted))
    assert np.mean(shares) <= 0.05


def test_a_rule_that_cures_is_promoted_nearly_always() -> None:
    rng = np.random.default_rng(1)
    promoted = sum(_play(rng, 0.6, 0.05, level(3, 1)).verdict == "promoted" for _ in range(200))
    assert promoted / 200 >= 0.9


def test_a_harmful_candidate_is_given_up_early() -> None:
    evidence = _play(np.random.default_rng(0), 0.0, 1.0, at=0.05)
    assert evidence.verdict == "futile"
    assert evidence.pairs <= 5


def test_a_candidate_that_changes_nothing_is_given_up_but_not_at_once() -> None:
    evidence = _play(np.random.default_rng(0), 0.0, 0.0, at=0.05)
    assert evidence.verdict == "futile"
    assert 15 <= evidence.pairs <= 30


def test_a_test_ends_when_winning_every_pair_left_could_not_promote() -> None:
    assert judge([0.0, 0.0, 0.0], at=0.01, most=6).verdict == "futile"


def test_no_validation_task_in_scope_promotes_nothing() -> None:
    assert judge([], at=0.05, most=0).verdict == "futile"
