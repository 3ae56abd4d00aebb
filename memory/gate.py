"""Judges paired outcomes: is a candidate better with than without? Sequential, so the answer may come early.

And watches what was promoted: `suspect` notices that a record has ceased to earn its place, `still_worth` judges the
pairs in which it is then tried again.

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

from evolvent.memory.betting import log_growth, log_mean, log_wealth
from evolvent.memory.credit import Exposure, pseudo_outcomes
from evolvent.memory.errors import BadExposureError

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
    ties = len(differences) - wins - losses
    verdict: Verdict = "open"
    if value >= 1 / at:
        verdict = "promoted"
    elif left <= 0 or e_value(wins + left, losses) < 1 / at or _futile(wins, losses, ties):
        verdict = "futile"
    mean = sum(differences) / len(differences) if differences else 0.0
    return Evidence(wins, losses, ties, mean, value, at, verdict, dropped)


@lru_cache(maxsize=65536)
def _futile(wins: int, losses: int, ties: int) -> bool:
    """Whether the pairs, ties included, speak against a gain worth looking for. Costs power, never validity.

    The mirror of the test for promotion: wealth from bets that the next pair is less often better than `WORTH` says
    (Waudby-Smith and Ramdas, arXiv 2010.09686). It may be looked at after every pair, and by Ville's inequality reaches
    1/`_MISS` with at most that chance when the candidate is worth it.
    """
    log_wealth_B = (
        wins * np.log1p(-_BETS * (1 - WORTH)) + losses * np.log1p(_BETS * (1 + WORTH)) + ties * np.log1p(_BETS * WORTH)
    )
    return bool(np.exp(np.minimum(log_wealth_B, 700.0)).mean() >= 1 / _MISS)


# -- retirement --------------------------------------------------------------------------------------------------------

Worth = Literal["retire", "open", "keep"]

LEAST = 0.02
"""Lift below which an active record is not worth its place in the prompt."""


@dataclass(frozen=True, slots=True)
class Staleness:
    """Whether the lift of an active record has fallen below a minimum, as far as rule dropout shows."""

    stale: bool
    e_value: float
    """Evidence that it fell at some time; stale once this reaches the run length. At the alarm, or after all."""
    since: int
    """Index of the first exposure that speaks for a fall, so about when it happened; their number if none does."""
    episodes: int
    """Exposures looked at: up to the alarm, or all."""


def suspect(exposures: Sequence[Exposure], *, minimum: float = LEAST, run_length: float = 2000) -> Staleness:
    """Ask of the exposures since a record became active, or was last cleared, whether it still earns its place.

    A change detector: a record that was good for a thousand episodes and then turned is noticed as fast as a new one.
    At every episode a new bet is opened that from here on the lift is below `minimum`, and the wealth of all of them is
    added up: the Shiryaev-Roberts e-detector of Shin, Ramdas and Rinaldo (arXiv 2203.03532), averaged over the stakes
    of `betting.py`, on the pseudo-outcomes of `credit.py`. It may be asked as often as one likes.

    Args:
        exposures: in the order they were played.
        run_length: a record whose lift stays at `minimum` or above is called stale after so many exposures on average
            or later, and within n of them with a chance of at most n / `run_length`. Hardly ever if its lift is
            clearly above.
    """
    informative = [index for index, each in enumerate(exposures) if 0 < each.probability < 1]
    if not informative:
        return Staleness(False, 0.0, len(exposures), len(exposures))
    pseudo = pseudo_outcomes(exposures)
    growth_JT = log_growth(-pseudo.value_T, -pseudo.ceiling_T, -minimum)
    total_JT = np.cumsum(growth_JT, axis=1)
    before_JT = total_JT - growth_JT
    # Wealth at t of the bet opened at s is exp(total_t − before_s); here summed over s up to t.
    evidence_JT = total_JT + np.logaddexp.accumulate(-before_JT, axis=1)
    evidence_T = log_mean(evidence_JT)
    alarms = np.flatnonzero(evidence_T >= math.log(run_length))
    stale = len(alarms) > 0
    last = int(alarms[0]) if stale else len(informative) - 1
    stake = int(np.argmax(evidence_JT[:, last]))
    start = int(np.argmin(np.append(before_JT[stake, : last + 1], total_JT[stake, last])))
    return Staleness(
        stale,
        math.exp(min(evidence_T[last], 700.0)),
        informative[start] if start <= last else len(exposures),
        informative[last] + 1 if stale else len(exposures),
    )


def still_worth(differences: Sequence[float], *, minimum: float = LEAST, alpha: float = 0.05) -> Worth:
    """The verdict on a suspected record from the pairs in which it was tried again, in the order they were played.

    Retired when shown to be worth less than `minimum`, kept when shown to be worth more than nothing; the first of the
    two counts. May be asked after every pair: a record worth `minimum` or more is ever retired, and one worth nothing
    or less ever kept, with a chance of at most `alpha` each.

    Args:
        differences: score with the record minus score without, each in [-1, 1].

    Raises:
        BadExposureError: one of them is not.
    """
    values_T = np.asarray(differences, dtype=float)
    if np.any(wrong := ~(np.abs(values_T) <= 1 + 1e-6)):
        raise BadExposureError(
            f"Pair {np.argmax(wrong)} differs by {values_T[np.argmax(wrong)]}; scores in [0, 1] differ by at most 1. "
            "Scale the scores of the environment to that range."
        )
    below_T = log_wealth(-values_T, -1.0, -minimum) >= -math.log(alpha)
    above_T = log_wealth(values_T, -1.0, 0.0) >= -math.log(alpha)
    shown = np.flatnonzero(below_T | above_T)
    if not len(shown):
        return "open"
    return "retire" if below_T[shown[0]] else "keep"
