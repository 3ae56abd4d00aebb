"""Means of scores with intervals, paired and clustered by task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

from evolvent.memory.types import Interval

RESAMPLES = 4000
Verdict = Literal["improved", "no evidence", "worse"]


def interval(scores_by_task: Mapping[str, Sequence[float]], *, seed: int = 0) -> Interval:
    """Mean over tasks of the task's mean score, with a 95 % percentile bootstrap interval over tasks.

    Tasks are the unit, so several episodes of one task do not pass for more evidence than they are.
    """
    from scipy.stats import bootstrap

    means = np.array([np.mean(scores) for _, scores in sorted(scores_by_task.items())])
    if len(means) == 0:
        return Interval(0.0, 0.0, 0.0, 0)
    mean = float(means.mean())
    if len(means) == 1 or np.ptp(means) == 0:
        return Interval(mean, mean, mean, len(means))
    found = bootstrap(
        (means,), np.mean, n_resamples=RESAMPLES, method="percentile", rng=np.random.default_rng(seed)
    ).confidence_interval
    return Interval(mean, float(found.low), float(found.high), len(means))


def paired(a: Mapping[str, Sequence[float]], b: Mapping[str, Sequence[float]], *, seed: int = 0) -> Interval:
    """Mean of a − b over the tasks that both have, with the same kind of interval; n is the number of pairs."""
    both = sorted(set(a) & set(b))
    return interval({task: [float(np.mean(a[task]) - np.mean(b[task]))] for task in both}, seed=seed)


def verdict(gain: Interval, *, lost_share: float = 0.0) -> Verdict:
    """What may be claimed: an interval that touches zero is no evidence, nor are pairs of which a tenth was lost."""
    if lost_share > 0.10 or gain.n < 2:
        return "no evidence"
    if gain.low > 0:
        return "improved"
    if gain.high < 0:
        return "worse"
    return "no evidence"


def n_for_power(differences: Sequence[float], *, power: float = 0.8, alpha: float = 0.05) -> int | None:
    """Pairs that a two-sided paired test needs to show the observed mean difference: ((z₁₋α/₂ + z_power) · sd / mean)².

    None where nothing was observed that more pairs could show: a mean of zero, or fewer than two differences.
    """
    from scipy.stats import norm

    values = np.asarray(differences, dtype=float)
    if len(values) < 2 or abs(values.mean()) < 1e-12:
        return None
    z = float(norm.ppf(1 - alpha / 2) + norm.ppf(power))
    return max(2, int(np.ceil((z * values.std(ddof=1) / values.mean()) ** 2)))


Diagnosis = Literal["ceiling", "floor", "parsing", "effect size"]


def diagnose(ours: float, theirs: float, *, illegal: float) -> Diagnosis:
    """Why a difference was not shown, in one word.

    Args:
        ours, theirs: mean success of the two sides.
        illegal: share of our actions that the environment did not admit.
    """
    if illegal > 0.10:
        return "parsing"
    if min(ours, theirs) >= 0.90:
        return "ceiling"
    if max(ours, theirs) <= 0.10:
        return "floor"
    return "effect size"
