"""Credit by rule dropout: what having a record in the prompt is worth, from training episodes that happen anyway.

In training each recalled record is withheld at random with a probability that is logged, independently of the others.
Comparing its own episodes with and without it, weighted by the inverse of that probability, estimates its own lift
without bias, whatever rode along. (The mean outcome while shown does not: a useless record that is always found beside
a useful one earns the other's credit, the memory-reward trap of RoMeRL, arXiv 2608.02508.)

Two intervals: `lift` for reports, right at a number of episodes fixed beforehand; `anytime` for decisions, right
however often one looks.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from evolvent.memory.betting import Floats, lower_bound
from evolvent.memory.errors import BadExposureError
from evolvent.memory.types import Event, Interval, Record

if TYPE_CHECKING:
    from evolvent.memory.episodes import Episode

_ROUNDING = 1e-6
"""By which a sum of rewards may miss [0, 1]."""


@dataclass(frozen=True, slots=True)
class Exposure:
    """One episode of a seat for which retrieval found the record.

    Raises:
        BadExposureError: a probability or an outcome outside [0, 1].
    """

    record: str
    shown: bool
    probability: float
    """With which it was shown, decided before the episode, as `Recalled.probability` logs it. 0 and 1 tell nothing."""
    outcome: float
    """The seat's score, in [0, 1]."""
    stratum: str = ""
    """Tasks of about one difficulty, known before the episode. Only narrows the intervals."""

    def __post_init__(self) -> None:
        for name, value in (("probability", self.probability), ("outcome", self.outcome)):
            if not -_ROUNDING <= value <= 1 + _ROUNDING:
                raise BadExposureError(
                    f"Exposure of {self.record!r} has {name} {value!r}; it must lie in [0, 1]. "
                    "Scale the scores of the environment to that range."
                )


def exposures(episodes: Iterable[Episode]) -> dict[str, list[Exposure]]:
    """By record, in the order played. Training only; an episode in which infrastructure failed counts for no seat.

    A stratum is an environment's tasks with the same tags.
    """
    found: defaultdict[str, list[Exposure]] = defaultdict(list)
    for episode in episodes:
        if any(each.phase != "train" or each.outcome.failure for each in episode.trajectories):
            continue
        for seat in episode.trajectories:
            stratum = "/".join((seat.task.environment, *sorted(seat.task.tags)))
            for recalled in seat.recalled:
                found[recalled.record].append(
                    Exposure(recalled.record, recalled.shown, recalled.probability, seat.outcome.score, stratum)
                )
    return dict(found)


def lift(exposures: Sequence[Exposure]) -> Interval | None:
    """Mean outcome with the record minus without it, with an ordinary 95 % interval; in [-1, 1].

    The self-normalised (Hájek) estimate, after the ease of each episode's stratum was taken off its outcome. Linearised
    variance; Welch's degrees of freedom from Kish's effective sizes. Each side of the interval gains one
    pseudo-episode, half of it a failure and half a success, as in Agresti and Caffo (2000) but with half of their
    weight: scores of 0 and 1 with few on one side are covered as they should be, and a side that never varied does not
    pass for certain. The mean is not shrunk.

    None when the record was never shown or never withheld, so that there is nothing to compare. Right for a number of
    episodes that was not chosen by looking at it.
    """
    data = _informative(exposures)
    if not 0 < data.shown_T.sum() < len(data.shown_T):
        return None
    adjusted_T = data.outcome_T - _ease(data)
    with_it = _side(adjusted_T[data.shown_T], 1 / data.probability_T[data.shown_T])
    without = _side(adjusted_T[~data.shown_T], 1 / (1 - data.probability_T[~data.shown_T]))
    middle = with_it.shrunk - without.shrunk
    variance = with_it.variance + without.variance
    freedom = variance**2 / (with_it.variance**2 / with_it.freedom + without.variance**2 / without.freedom)
    half = float(stdtrit(freedom, 0.975)) * variance**0.5
    mean = float(np.clip(with_it.mean - without.mean, -1, 1))
    low, high = max(-1.0, middle - half), min(1.0, middle + half)
    return Interval(mean, min(low, mean), max(high, mean), len(adjusted_T))


def anytime(exposures: Sequence[Exposure], *, alpha: float = 0.05) -> Interval:
    """The lift with a 1 − `alpha` confidence sequence: it covers after every episode at once, so stop when you like.

    Bets (`betting.py`) on `pseudo_outcomes`, half of `alpha` on each side; nothing asymptotic. About 1.7 times as wide
    as `lift`, the price of looking. Proved for a lift that stays the same (of one that drifted, simulations found the
    mean so far covered just as well); whether it has changed asks `gate.suspect`. Without evidence it is [-1, 1] with
    n = 0.
    """
    pseudo = pseudo_outcomes(exposures)
    if not len(pseudo.value_T):
        return Interval(0.0, -1.0, 1.0, 0)
    edges = {"alpha": alpha / 2, "least": -1.0, "most": 1.0}
    low = lower_bound(pseudo.value_T, pseudo.floor_T, **edges)
    high = -lower_bound(-pseudo.value_T, -pseudo.ceiling_T, **edges)
    return Interval(float(np.clip(pseudo.value_T.mean(), low, high)), low, high, len(pseudo.value_T))


def credit_events(found: Mapping[str, Sequence[Exposure]], records: Mapping[str, Record]) -> list[Event]:
    """One `credit` event per known record whose lift is not the one it has, in order of id.

    Args:
        found: all exposures of a record so far, not only the new ones.
    """
    lifts = {key: lift(found[key]) for key in sorted(found) if key in records}
    return [
        Event("credit", key, payload={"lift": asdict(estimate)})
        for key, estimate in lifts.items()
        if estimate is not None and estimate != records[key].lift
    ]


# -- pseudo-outcomes: one unbiased guess at the lift per episode -------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PseudoOutcomes:
    value_T: Floats
    """Expectation given the past: the lift."""
    floor_T: Floats
    """Bounds of the value that the past alone implies."""
    ceiling_T: Floats


def pseudo_outcomes(exposures: Sequence[Exposure]) -> PseudoOutcomes:
    """(outcome − centre) / p when shown, −(outcome − centre) / (1 − p) when withheld, as in doubly robust estimation.

    The centre is known before the episode, so its error costs width and never validity; the best one is
    (1 − p) · mean with + p · mean without (cf. arXiv 2210.10768, whose regression is a running mean here). Exposures
    that could not have been withheld are left out.
    """
    data = _informative(exposures)
    p_T, c_T = data.probability_T, _expected(data)
    value_T = (data.outcome_T - c_T) * np.where(data.shown_T, 1 / p_T, -1 / (1 - p_T))
    ceiling_T = np.maximum((1 - c_T) / p_T, c_T / (1 - p_T))
    floor_T = -np.maximum(c_T / p_T, (1 - c_T) / (1 - p_T))
    return PseudoOutcomes(value_T, floor_T, ceiling_T)


@dataclass(frozen=True, slots=True)
class _Data:
    shown_T: NDArray[np.bool_]
    probability_T: Floats
    outcome_T: Floats
    strata: list[str]


def _informative(exposures: Sequence[Exposure]) -> _Data:
    kept = [each for each in exposures if 0 < each.probability < 1]
    return _Data(
        np.array([each.shown for each in kept], dtype=bool),
        np.array([each.probability for each in kept], dtype=float),
        np.clip(np.array([each.outcome for each in kept], dtype=float), 0, 1),
        [each.stratum for each in kept],
    )


_MEMORY = 0.98
"""Weight of an episode in the centre, relative to the next one's: half is forgotten in 34 episodes, since agents learn
and laws drift. Costs 1 % of variance where nothing changes."""
_PRIOR = 2.0
"""Episodes' worth of the overall centre in that of a stratum."""


def _expected(data: _Data) -> Floats:
    """What was to be expected of each episode before it was played, in [0, 1].

    A mean over the past of its stratum, drawn towards that of all strata, which starts at ½.
    """
    centre_T = np.empty(len(data.outcome_T))
    total, weight = 0.5, 1.0
    strata: dict[str, tuple[float, float]] = {}
    rows = zip(data.shown_T.tolist(), data.probability_T.tolist(), data.outcome_T.tolist(), data.strata, strict=True)
    for t, (shown, p, outcome, stratum) in enumerate(rows):
        overall = total / weight
        own_total, own_weight = strata.get(stratum, (0.0, 0.0))
        centre_T[t] = (_PRIOR * overall + own_total) / (_PRIOR + own_weight)
        # These weights, 1 on average, make the mean tend to the best centre: each side counts by the other's share.
        w = (1 - p) / p if shown else p / (1 - p)
        total, weight = _MEMORY * total + w * outcome, _MEMORY * weight + w
        strata[stratum] = (_MEMORY * own_total + w * outcome, _MEMORY * own_weight + w)
    return centre_T


def _ease(data: _Data) -> Floats:
    """How much more is scored in an episode's stratum than overall, judged by all other episodes; 0 on average.

    The outcome of the episode itself has no part in it: what is taken off must not depend on whether it was shown.
    """
    y_T = data.outcome_T
    _, stratum_T = np.unique(data.strata, return_inverse=True)
    others_T = np.bincount(stratum_T)[stratum_T] - 1
    total_T = np.bincount(stratum_T, weights=y_T)[stratum_T] - y_T
    overall_T = (y_T.sum() - y_T) / (len(y_T) - 1)
    raw_T = (total_T - others_T * overall_T) / (_PRIOR + others_T)
    ease_T: Floats = raw_T - raw_T.mean()
    return ease_T


# -- one side of the ordinary interval ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Side:
    mean: float
    shrunk: float
    """With the pseudo-episode, as the two below."""
    variance: float
    """Of the mean."""
    freedom: float


def _side(outcome_T: Floats, weight_T: Floats) -> _Side:
    typical = float((weight_T**2).sum() / weight_T.sum())
    ends = (0.0, 1.0)
    total = weight_T.sum() + typical
    shrunk = float((weight_T @ outcome_T + typical / 2) / total)
    square_T = np.append(weight_T**2, (typical**2 / 2, typical**2 / 2))
    variance = float(square_T @ (np.append(outcome_T, ends) - shrunk) ** 2 / total**2)
    return _Side(float(np.average(outcome_T, weights=weight_T)), shrunk, variance, float(total**2 / square_T.sum() - 1))
