"""Wealth from bets on a bounded mean: evidence that may be looked at after every value.

A bettor starts with 1 and stakes a share of it, again and again, on the next value lying above a claimed mean. If the
claim is right the bets are fair or worse, so the wealth reaches 1/α with a chance of at most α, ever (Ville's
inequality). Confidence sequences (`credit.py`) and the tests that retire a rule (`gate.py`) are read off it.
Knows nothing of records. After Waudby-Smith and Ramdas, arXiv 2010.09686; `confseq` on PyPI has the like but is built
with a C++ compiler and Boost, and has no stakes for values whose bounds move.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_STAKES_J = np.array([1, 1 / 2, 1 / 4, 1 / 8, 1 / 16, 1 / 32])
"""Wealth is split evenly over them: δ / (variance + δ²) grows fastest where the mean lies δ off, and δ is not known."""
_SAFE = 0.95
"""Share of the stake that one bad value could ruin; what is kept lets wealth recover."""


def log_growth(values_T: Floats, floor_T: Floats | float, mean: float) -> Floats:
    """[J, T]: log of the factor by which each stake's wealth grows at each value, betting it lies above `mean`.

    Args:
        values_T: in the order they came.
        floor_T: no value could have been lower; below `mean`, and known before the value was (it may depend on
            earlier ones).
        mean: the claim, "each value's expectation given the past is at most this".

    Factors fall as `mean` rises, at any stake, so bounds on the mean are found by root search. To bet below, give all
    three negated.
    """
    stakes_JT = np.minimum(_STAKES_J[:, None], _SAFE / (mean - np.broadcast_to(floor_T, values_T.shape)))
    growth_JT: Floats = np.log1p(stakes_JT * (values_T - mean))
    return growth_JT


def log_wealth(values_T: Floats, floor_T: Floats | float, mean: float) -> Floats:
    """[T]: log wealth after each value; see `log_growth` for the arguments."""
    return log_mean(np.cumsum(log_growth(values_T, floor_T, mean), axis=1))


def log_mean(logs_JT: Floats) -> Floats:
    """[T]: log of the mean over stakes."""
    mean_T: Floats = np.logaddexp.reduce(logs_JT, axis=0) - np.log(len(logs_JT))
    return mean_T


def lower_bound(values_T: Floats, floor_T: Floats | float, *, alpha: float, least: float, most: float) -> float:
    """The lowest mean in [least, most] that the bets have not refuted at level `alpha`."""
    from scipy.optimize import brentq

    def excess(mean: float) -> float:
        return float(log_mean(log_growth(values_T, floor_T, mean).sum(axis=1, keepdims=True))[0] + np.log(alpha))

    inside = least + 1e-9  # a floor may lie at `least` itself, where no stake is safe
    if excess(inside) <= 0:
        return least
    return most if excess(most) >= 0 else float(brentq(excess, inside, most, xtol=1e-6))
