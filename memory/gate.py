"""Judges paired outcomes: is a candidate better with than without? Sequential, so the answer may come early.

Knows nothing of episodes; `agents/evaluation/gate.py` runs the pairs and hands the outcomes in.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from scipy.special import betainc, betaln, zeta

Verdict = Literal["open", "promoted", "futile"]

_PRIOR_A, _PRIOR_B = 10.0, 4.0
"""Beta prior of the share of better pairs among the untied, cut to (½, 1]. Its mean, 0.71, is that of 25 % better to
10 % worse; a share of 0.9 costs it two or three pairs more than a prior made for it."""

WORTH = 0.15
"""Share of pairs better minus share worse that a candidate is looked for at. Below it a trial may end early."""
_MISS = 0.05
"""Chance, at most, that a candidate worth at least `WORTH` is given up as futile."""
_BETS = np.array([0.25, 0.5, 0.75, 0.999]) / (1 - WORTH)
"""Stakes of the bets against "worth at least `WORTH`", in equal parts; the highest just cannot be ruined."""


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


@lru_cache(maxsize=65536)
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
    t^-1.6: the first candidate is tested at nearly half of the bound, and the tenth still has a chance.
    """
    return float(fdr * (promoted + 1) / (candidate**_FALL * zeta(_FALL)))


_FALL = 1.6


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
    elif left <= 0 or e_value(wins + left, losses) < 1 / at or _futile(differences):
        verdict = "futile"
    mean = sum(differences) / len(differences) if differences else 0.0
    return Evidence(wins, losses, len(differences) - wins - losses, mean, value, at, verdict, dropped)


def _futile(differences: Sequence[float]) -> bool:
    """Whether the pairs, ties included, speak against a gain worth looking for. Costs power, never validity.

    The mirror of the test for promotion: wealth from bets that the next pair is less often better than `WORTH` says
    (Waudby-Smith and Ramdas, arXiv 2010.09686). It is looked at after every pair, and by Ville's inequality reaches
    1/`_MISS` with at most that chance when the candidate is worth it.
    """
    signs_P = np.sign(np.asarray(differences, dtype=float))
    log_wealth_BP = np.cumsum(np.log1p(-_BETS[:, None] * (signs_P - WORTH)), axis=1)
    return bool(np.any(np.exp(log_wealth_BP).mean(axis=0) >= 1 / _MISS))
