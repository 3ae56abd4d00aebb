"""Somebody who understands the people of `dialogue`, by its own wordings: for models of known skill."""

from __future__ import annotations

import re
from collections.abc import Iterator

from evolvent.environments.dialogue_topics import CORRECTED, STOCKS, TOPICS

Told = tuple[str, str]
"""A topic or stock and its value: `town`, `Oslo`; of a stock with a sign: `=12`, `+3` or `-2`."""


def heard(turn: str) -> list[Told]:
    """What the statements of a turn tell, in order; small talk and questions tell nothing."""
    found: list[Told] = []
    for sentence in re.split(r"(?<=[.?]) ", turn.partition(": ")[2]):
        told = [(of, sign + match[1]) for saying, of, sign in _SAYINGS if (match := saying.fullmatch(sentence))]
        found += told[:1]
    return found


def asked_about(turn: str) -> str | None:
    """Of what a turn asks how it is now; None where it asks something else."""
    return next((of for wording, of in _QUESTIONS if turn.endswith(wording)), None)


def speaker_of(turn: str) -> str:
    return turn.partition(",")[0]


def _sayings() -> Iterator[tuple[str, str, str]]:
    """Wording, of what, and the sign of the value; a * stands for anything."""
    for name, topic in TOPICS.items():
        corrected = [each.format(now=topic.clause, before="*", old="*") for each in CORRECTED]
        yield from ((wording, name, "") for wording in (*topic.told, *topic.changed, *corrected))
    for name, stock in STOCKS.items():
        for sign, wordings in (("=", (*stock.told, *stock.recounted)), ("+", stock.up), ("-", stock.down)):
            yield from ((wording, name, sign) for wording in wordings)


def _pattern(wording: str) -> re.Pattern[str]:
    parts = {"{}": "(.+)", "*": ".+"}
    text = "".join(parts.get(part, re.escape(part)) for part in re.split(r"(\{\}|\*)", wording))
    return re.compile(text, re.IGNORECASE)


_SAYINGS = [(_pattern(wording), of, sign) for wording, of, sign in _sayings()]
_QUESTIONS = [(wording, of) for every in (TOPICS, STOCKS) for of, what in every.items() for wording in what.asked]
