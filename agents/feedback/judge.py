"""A model as the judge of answers: what it is asked, and how its word is read (MT-Bench, arXiv 2306.05685, §3).

It gives one answer a score, or says which of two is better; with a right answer beside it where the matter has one.
Nothing here knows who answered, and nothing calls a model.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from evolvent.environments.judging import Pair, Verdict
from evolvent.environments.types import Message

UNREADABLE = -1.0
"""Score of an answer that the judge gave none: no score at all, and never a low one."""
LOWEST, HIGHEST = 1, 10

_GRADER = (
    "You grade answers to a user's questions. What counts is whether an answer is right, complete and to the point. "
    "Its length, its tone and whoever may have written it do not count."
)
_JUDGE = (
    "You compare two answers to a user's question. What counts is which of them is right, complete and to the point. "
    "Their length, their tone, their order and whoever may have written them do not count."
)
_GRADE = (
    "Grade {what}. Say first in a sentence or two what is good and what is bad about it. Then end with its score from "
    "1 (useless) to 10 (perfect) in double brackets, like this: Score: [[5]]"
)
_COMPARE = (
    "Say first in a sentence or two where they differ. Then end with [[A]] if answer A is better, [[B]] if answer B "
    "is better, or [[C]] if neither is."
)
_REFERENCE = "Right answer, which the user does not see:"
_SCORES = tuple(
    re.compile(rf"{left}\s*(-?\d+(?:\.\d+)?)\s*{right}") for left, right in ((r"\[\[", r"\]\]"), ("\\[", "\\]"))
)
_VERDICTS = tuple(
    re.compile(rf"{left}\s*(A|B|C|tie)\s*{right}") for left, right in ((r"\[\[", r"\]\]"), ("\\[", "\\]"))
)


def grading(turns: Sequence[str], answers: Sequence[str], references: Sequence[str] = ()) -> list[Message]:
    """The request for the score of the last answer, with all that was said before it.

    Args:
        turns: what the user said, as many as there are answers.
        references: right answers to the same turns, in categories that have such.
    """
    told = [f"User:\n{turn}\n\nAnswer:\n{answer}" for turn, answer in zip(turns, answers, strict=True)]
    if references:
        told.append(_told(references))
    what = "this answer" if len(answers) == 1 else "only the last answer, the one to the user's last question"
    request = "\n\n".join((*told, _GRADE.format(what=what)))
    return [Message("system", "instructions", _GRADER), Message("user", "task", request)]


def comparison(pair: Pair, *, reference: bool = True) -> list[Message]:
    """The request for which answer of a pair is better.

    Args:
        reference: show the pair's right answer, if it has one.
    """
    first, second = pair.answers
    told = [f"User:\n{pair.question}"]
    if reference and pair.reference:
        told.append(_told([pair.reference]))
    told += [f"Answer A:\n{first}", f"Answer B:\n{second}", _COMPARE]
    return [Message("system", "instructions", _JUDGE), Message("user", "task", "\n\n".join(told))]


def score_of(reply: str) -> float:
    """The last `[[x]]` of a reply, else its last `[x]`, else -1; so is a number outside 1 to 10."""
    for pattern in _SCORES:
        if found := pattern.findall(reply):
            score = float(found[-1])
            return score if LOWEST <= score <= HIGHEST else UNREADABLE
    return UNREADABLE


def verdict_of(reply: str) -> Verdict | None:
    """The last `[[A]]`, `[[B]]` or `[[C]]`, which is a tie, else the same in single brackets; None without one."""
    for pattern in _VERDICTS:
        if found := pattern.findall(reply):
            named: dict[str, Verdict] = {"A": "A", "B": "B"}
            return named.get(found[-1], "tie")
    return None


def swapped(pair: Pair) -> Pair:
    """The same with the answers in the other order."""
    first, second = pair.answers
    return replace(pair, answers=(second, first))


def renamed(verdict: Verdict | None) -> Verdict | None:
    """The same verdict in the names of the other order."""
    other: dict[Verdict | None, Verdict] = {"A": "B", "B": "A", "tie": "tie"}
    return other.get(verdict)


@dataclass(frozen=True, slots=True)
class Both:
    """What a judge said of a pair in both orders, both times in the names of the first order; None is unreadable."""

    shown: Verdict | None
    swapped: Verdict | None

    @property
    def readable(self) -> bool:
        return self.shown is not None and self.swapped is not None

    @property
    def consistent(self) -> bool:
        """Whether the order made no difference."""
        return self.readable and self.shown == self.swapped

    @property
    def verdict(self) -> Verdict | None:
        """A win where both name the same answer, else a tie; None where one cannot be read."""
        if not self.readable:
            return None
        return self.shown if self.consistent else "tie"


def _told(references: Sequence[str]) -> str:
    return "\n\n".join((_REFERENCE, *references))
