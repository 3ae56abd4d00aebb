"""The gate's error rates, by simulation, and its arithmetic against independent calculations."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import beta

from evolvent.memory.gate import e_value, judge, level

MOST = 48


@pytest.mark.parametrize(("wins", "losses"), [(0, 0), (5, 0), (8, 3), (2, 9), (30, 12)])
def test_the_e_value_is_the_likelihood_ratio_mixed_over_the_prior(wins: int, losses: int) -> None:
    prior = beta(6, 1)
    mass = 1 - prior.cdf(0.5)

    def integrand(p: float) -> float:
        return float(prior.pdf(p) / mass * (2 * p) ** wins * (2 * (1 - p)) ** losses)

    assert e_value(wins, losses) == pytest.approx(quad(integrand, 0.5, 1)[0], rel=1e-6)


def test_ties_are_no_evidence() -> None:
    assert judge([0.0] * 5, at=0.05, most=MOST).e_value == pytest.approx(1.0)


def test_levels_of_a_run_without_promotions_add_up_to_the_bound() -> None:
    total = sum(level(t, 0) for t in range(1, 200_001))
    assert total < 0.05
    assert total == pytest.approx(0.05, rel=0.01)


def test_a_promotion_raises_the_level_of_later_candidates() -> None:
    assert level(4, 2) == pytest.approx(3 * level(4, 0))


def _play(rng: np.random.Generator, better: float, worse: float, at: float) -> bool:
    """Whether a candidate is promoted when the gate is asked after every pair."""
    outcomes: list[float] = []
    for draw in rng.random(MOST):
        outcomes.append(1.0 if draw < better else -1.0 if draw < better + worse else 0.0)
        verdict = judge(outcomes, at=at, most=MOST).verdict
        if verdict != "open":
            return verdict == "promoted"
    return False


def test_useless_candidates_alone_are_promoted_in_at_most_five_percent_of_runs() -> None:
    rng = np.random.default_rng(0)
    runs, bad = 400, 0
    for _ in range(runs):
        bad += any(_play(rng, 0.3, 0.3, level(t, 0)) for t in range(1, 11))
    # Five per cent with room for three standard errors of 400 runs.
    assert bad / runs <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / runs)


def test_a_rule_that_cures_is_promoted_nearly_always() -> None:
    rng = np.random.default_rng(1)
    promoted = sum(_play(rng, 0.6, 0.05, level(3, 1)) for _ in range(200))
    assert promoted / 200 >= 0.9


def test_a_harmful_candidate_is_given_up_early() -> None:
    evidence = judge([-1.0, -1.0, -1.0], at=0.05, most=MOST)
    assert evidence.verdict == "futile"
    assert evidence.pairs == 3


def test_a_test_ends_when_winning_every_pair_left_could_not_promote() -> None:
    assert judge([0.0, 0.0, 0.0], at=0.01, most=6).verdict == "futile"


def test_no_validation_task_in_scope_promotes_nothing() -> None:
    assert judge([], at=0.05, most=0).verdict == "futile"
