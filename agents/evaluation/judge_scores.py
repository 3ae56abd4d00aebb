"""What a judge makes of a model: mean scores and win rates (MT-Bench, arXiv 2306.05685), with what they rest on."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from evolvent.agents.evaluation.statistics import RESAMPLES
from evolvent.agents.feedback.judge import UNREADABLE
from evolvent.environments.judging import Verdict
from evolvent.memory.types import Interval


@dataclass(frozen=True, slots=True)
class Graded:
    """One answer with its score."""

    question: str
    turn: int
    """From 1."""
    category: str
    score: float
    """From 1 to 10, or -1 where the judge gave none that could be read: that one is in no mean."""
    right: bool | None = None
    """Whether it is; None where only a judge can tell."""


def summary(answers: Sequence[Graded], *, seed: int = 0) -> dict[str, Any]:
    """Scores in all, by turn and by category, in plain values."""
    turns, categories = ({getattr(each, by): None for each in answers} for by in ("turn", "category"))
    return {
        "all": _scored(answers, seed),
        "by_turn": {str(turn): _scored([each for each in answers if each.turn == turn], seed) for turn in turns},
        "by_category": {
            name: _scored([each for each in answers if each.category == name], seed) for name in categories
        },
    }


def mean_score(by_question: Mapping[str, Sequence[float]], *, seed: int = 0) -> Interval:
    """Mean of all scores with a 95 % percentile bootstrap interval over questions; n counts the scores.

    The turns of a question come and go together, so that they do not pass for more evidence than they are.
    """
    from scipy.stats import bootstrap

    rows = [scores for _, scores in sorted(by_question.items()) if scores]
    if not rows:
        return Interval(0.0, 0.0, 0.0, 0)
    sums_Q, counts_Q = np.array([sum(row) for row in rows]), np.array([len(row) for row in rows])
    mean, n = float(sums_Q.sum() / counts_Q.sum()), int(counts_Q.sum())
    if np.ptp(sums_Q / counts_Q) == 0:
        return Interval(mean, mean, mean, n)
    found = bootstrap(
        (sums_Q, counts_Q),
        lambda sums, counts, axis: sums.sum(axis=axis) / counts.sum(axis=axis),
        paired=True,
        n_resamples=RESAMPLES,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return Interval(mean, float(found.low), float(found.high), n)


def win_rates(verdicts: Sequence[Verdict | None]) -> dict[str, Any]:
    """Of A: how often it wins, and the same with each tie as half a win; what could not be read is left out."""
    read = [verdict for verdict in verdicts if verdict is not None]
    wins, ties = read.count("A"), read.count("tie")
    return {
        "pairs": len(verdicts),
        "dropped": len(verdicts) - len(read),
        "win_rate": wins / len(read) if read else None,
        "adjusted_win_rate": (wins + ties / 2) / len(read) if read else None,
    }


def self_preference(verdicts: Sequence[Verdict | None]) -> float | None:
    """How much more often a judge names B, its own answer, than A, in [-1, 1]; None without a readable verdict.

    Args:
        verdicts: on pairs of which neither answer is better.
    """
    read = [verdict for verdict in verdicts if verdict is not None]
    return (read.count("B") - read.count("A")) / len(read) if read else None


def _scored(answers: Sequence[Graded], seed: int) -> dict[str, Any]:
    scores: dict[str, list[float]] = defaultdict(list)
    for each in answers:
        if each.score != UNREADABLE:
            scores[each.question].append(each.score)
    mean = mean_score(scores, seed=seed)
    checked = [each.right for each in answers if each.right is not None]
    dropped = len(answers) - mean.n
    return {
        **asdict(mean),
        "dropped": dropped,
        "drop_rate": dropped / len(answers) if answers else 0.0,
        "right": sum(checked) / len(checked) if checked else None,
    }
