"""Marks for two answers in two lines at the end of a message, and what they add up to (ChatEval, arXiv 2308.07201).

A message without both lines gives no marks. That is no tie, and no vote for either answer.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from evolvent.agents.feedback.judge import HIGHEST, LOWEST
from evolvent.environments.judging import Verdict

Marks = tuple[float, float]
"""Of two answers, each from 1 to 10."""

LINES = "Score of answer 1: X\nScore of answer 2: Y"
ASKED = f"end with exactly these two lines, a number from {LOWEST} to {HIGHEST} in place of X and Y:\n{LINES}"
ASKED_AGAIN = f"The two lines with the scores could not be read. Write these two lines alone, with numbers:\n{LINES}"
_LINE = re.compile(
    r"\bscore\s+(?:of|for)\s+(?:the\s+)?(?:answer|assistant)\s*#?\s*([12])\b[\s*_]*(?:is|:|=)[\s*_\[]*(-?\d+(?:\.\d+)?)",
    re.IGNORECASE,
)


def marks_in(message: str) -> Marks | None:
    """The last marks that a message gives each answer, in the order shown; notes may follow them.

    None where one is missing, or lies outside 1 to 10.
    """
    found = {answer: float(score) for answer, score in _LINE.findall(message)}
    marks = found.get("1", 0.0), found.get("2", 0.0)
    return marks if all(LOWEST <= mark <= HIGHEST for mark in marks) else None


def by_total(marks: Sequence[Marks]) -> Verdict:
    """Whose marks are more in all, A's standing first; equal is a tie."""
    lead = round(sum(first - second for first, second in marks), 6)  # marks may have decimals
    return "A" if lead > 0 else "B" if lead < 0 else "tie"


def by_majority(verdicts: Sequence[Verdict]) -> Verdict:
    """The verdict that most gave; a tie where no single one leads."""
    (most, votes), *rest = Counter(verdicts).most_common() or [("tie", 0)]
    return "tie" if rest and rest[0][1] == votes else most
