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
    """What may be claimed: an interval that touches zero is no evidence, nor is a run that lost over a tenth of its pairs."""
    if lost_share > 0.10 or gain.n < 2:
        return "no evidence"
    if gain.low > 0:
        return "improved"
    if gain.high < 0:
        return "worse"
    return "no evidence"
