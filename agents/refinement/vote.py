"""Majority vote over final answers (self-consistency, arXiv 2203.11171, §2): no model, no label, plain counting."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import log

_ANNOUNCED = re.compile(r"\banswer\s+is\b[\s:]*", re.IGNORECASE)
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:/\d+)?")
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_MARKS = " \t.,;:!?*`\"'$£€%()[]"


@dataclass(frozen=True, slots=True)
class Vote:
    answer: str
    """That most paths agree on, normalised; of a tie, the one that came first."""
    supporters: tuple[int, ...]
    """Places of the paths that gave it."""
    parsed: int
    """Paths with an answer; the others had no vote."""
    tie: bool

    @property
    def agreement(self) -> float:
        """Share of the voters, in (0, 1]; a confidence that costs nothing."""
        return len(self.supporters) / self.parsed


def final_answer(text: str) -> str | None:
    """What stands behind the last "answer is", normalised: `$18`, `18.0 apples` and `18` are one answer.

    A text that announces none has none, unless a number is all it says.
    """
    announced = list(_ANNOUNCED.finditer(text))
    if not announced:
        return normalised(text) if _NUMBER.fullmatch(_THOUSANDS.sub("", text.strip(_MARKS))) else None
    said = text[announced[-1].end() :].strip().split("\n", 1)[0].rpartition("=")[2]
    return normalised(said) or None


def normalised(answer: str) -> str:
    """Without units, currency, thousands' commas, case and marks; a number in its shortest form."""
    plain = _THOUSANDS.sub("", answer.replace("−", "-")).strip(_MARKS)
    number = _NUMBER.search(plain)
    if number is None:
        return " ".join(plain.lower().split())
    try:
        return str(Fraction(number[0]))
    except (ValueError, ZeroDivisionError):  # "3.5/2" and "1/0"
        return number[0]


def majority(answers: Sequence[str | None]) -> Vote | None:
    """The answer with most votes, each path one; None where no path has an answer."""
    counts = Counter(answer for answer in answers if answer is not None)  # keeps the order of first sight
    if not counts:
        return None
    winner = max(counts, key=lambda answer: counts[answer])
    supporters = tuple(place for place, answer in enumerate(answers) if answer == winner)
    tie = sum(count == counts[winner] for count in counts.values()) > 1
    return Vote(winner, supporters, counts.total(), tie)


def answer_entropy(answers: Sequence[str | None]) -> float:
    """Shannon entropy of the answers that were given, in nats (MoT, arXiv 2305.05181, §3.1): 0 where all agree.

    Paths without an answer do not count.

    Raises:
        ValueError: no path has an answer.
    """
    counts = Counter(answer for answer in answers if answer is not None)
    if not counts:
        raise ValueError("no path has an answer; expected one at least")
    shares = [count / counts.total() for count in counts.values()]
    return sum(-share * log(share) for share in shares)
