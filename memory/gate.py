"""Judges paired outcomes: is a candidate better with than without? Sequential, so the answer may come early.

Knows nothing of episodes; `agents/evaluation/gate.py` runs the pairs and hands the outcomes in.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from scipy.special import betainc, betaln

Verdict = Literal["open", "promoted", "futile"]

_PRIOR_A, _PRIOR_B = 6.0, 1.0
"""Beta prior of the share of better pairs among the untied, cut to (½, 1]: leans to clear effects, as rules have."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """What the pairs of one candidate said."""

    wins: int
    """Pairs in which the side with the candidate scored higher."""
    losses: int
    ties: int
    mean: float
    """Mean difference of scores, with minus without, in [-1, 1]."""
    e_value: float
    level: float
    """α at which it was tested: promoted when `e_value` reaches 1 / α."""
    verdict: Verdict
    dropped: int = 0
    """Pairs lost to failures of infrastructure."""

    @property
    def pairs(self) -> int:
        return self.wins + self.losses + self.ties


def e_value(wins: int, losses: int) -> float:
    """Evidence against "with is not more often better than worse", from untied pairs.

    A likelihood ratio against p = ½, mixed over p in (½, 1] (mixture SPRT, Robbins 1970): a test martingale at p ≤ ½,
    so by Ville's inequality it may be looked at after every pair; P(it ever reaches 1/α) ≤ α. Ties change nothing.
    """

    def log_mass(a: float, b: float) -> float:
        above_half = 1.0 - float(betainc(a, b, 0.5))
        return float(betaln(a, b)) + math.log(max(above_half, 1e-300))

    log_e = (
        (wins + losses) * math.log(2.0) + log_mass(_PRIOR_A + wins, _PRIOR_B + losses) - log_mass(_PRIOR_A, _PRIOR_B)
    )
    return math.exp(min(log_e, 700.0))


def level(candidate: int, promoted: int, *, fdr: float = 0.05) -> float:
    """α for the `candidate`-th test of a run (from 1), `promoted` promotions having come before it.

    e-LOND (Xu and Ramdas, arXiv 2311.06412): α_t = fdr · γ_t · (promotions + 1) with Σ γ_t = 1 bounds the
    false-discovery rate over the whole run at `fdr`, however the candidates depend on each other. Here γ_t falls with
    t^-1.5, slowly enough that the tenth candidate still has a chance.
    """
    return fdr * (promoted + 1) / (candidate * math.sqrt(candidate) * _ZETA_OF_1_5)


_ZETA_OF_1_5 = 2.6123753486854883
"""Σ t^-1.5 over t ≥ 1, which makes the levels' shares sum to 1."""


def judge(differences: Sequence[float], *, at: float, most: int, dropped: int = 0) -> Evidence:
    """The verdict on pairs in the order they were played.

    Args:
        differences: score with minus score without, each in [-1, 1].
        at: the level α.
        most: pairs that will be played at most; the test is futile once even winning all the rest could not promote.
    """
    wins = sum(difference > 0 for difference in differences)
    losses = sum(difference < 0 for difference in differences)
    value = e_value(wins, losses)
    left = most - len(differences)
    verdict: Verdict = "open"
    if value >= 1 / at:
        verdict = "promoted"
    elif (
        left <= 0 or e_value(wins + left, losses) < 1 / at or losses >= wins + 3 or _hopeless(wins, losses, differences)
    ):
        verdict = "futile"
    mean = sum(differences) / len(differences) if differences else 0.0
    return Evidence(wins, losses, len(differences) - wins - losses, mean, value, at, verdict, dropped)


def _hopeless(wins: int, losses: int, differences: Sequence[float]) -> bool:
    """Hardly a gain after a fair trial. Stopping early for futility costs power, never validity."""
    pairs = len(differences)
    return (pairs >= 8 and wins <= losses) or (pairs >= 20 and wins - losses <= 2)
