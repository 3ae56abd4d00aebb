"""Self-criticism: what a model is asked to say of its own answer, and how marks and a verdict are read from it.

The criticism is words of the same model that gave the answer; nothing here knows whether it is right.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal

Stop = Literal["phrase", "none", "never"]
"""When a criticism ends the work: it says "it is correct"; both of its lines, Missing and Wrong, say none; never."""

REQUEST = (
    "Criticise the answer above. Name the place of each fault, say what kind of fault it is, and what to do about it."
)
_ENDINGS: dict[Stop, str] = {
    "phrase": 'If nothing needs a change, say just "it is correct".',
    "none": 'Write two lines, "Missing: ..." and "Wrong: ...", and "none" in each where there is nothing.',
    "never": "",
}
_MARKS = "Then give marks from 0 to {most}, a line for each: {lines}."
MOST = 5
"""Best mark of one aspect."""
_PHRASE = re.compile(r"\bit is correct\b", re.IGNORECASE)
_LINES = re.compile(r"^\W*(?:missing|wrong)\W*:\W*(.*)$", re.IGNORECASE | re.MULTILINE)
_SENTENCE = "Write one sentence with these words: lamp, river, dog."
_SUM = "Ann has 3 bags of 4 nuts and eats 5. How many are left?"
_CRITICISED: tuple[tuple[str, str, dict[Stop, str]], ...] = (
    (
        _SENTENCE,
        "A dog sleeps by the river.",
        {
            "phrase": "The word lamp is missing from the sentence. Let somebody by the river carry a lamp.",
            "none": "Missing: the word lamp; let somebody by the river carry one.\nWrong: none",
        },
    ),
    (
        _SUM,
        "3 times 4 is 12, and 12 minus 5 is 8. The answer is 8.",
        {
            "phrase": "In the second step, 12 minus 5 is 7 and not 8. Put 7 there and at the end.",
            "none": "Missing: none\nWrong: in the second step, 12 minus 5 is 7; put 7 there and at the end.",
        },
    ),
    (
        "Write one sentence with these words: bread, window.",
        "Warm bread lay by the window.",
        {
            "phrase": "Both words are there and the sentence reads well: it is correct.",
            "none": "Missing: none\nWrong: none",
        },
    ),
)
"""Task, answer, and what may be said of it by the way of stopping; `never` has two of them, worded as for `phrase`."""


def request(stop: Stop, aspects: Sequence[str] = ()) -> str:
    """What is asked behind an answer."""
    lines = ", ".join(f'"{aspect}: 3/{MOST}"' for aspect in aspects)
    marks = _MARKS.format(most=MOST, lines=lines) if aspects else ""
    return " ".join(part for part in (REQUEST, _ENDINGS[stop], marks) if part)


def demonstrations(stop: Stop) -> str:
    """Answers of others with what was said of them, for a prompt that asks for criticism."""
    shown = _CRITICISED[:-1] if stop == "never" else _CRITICISED
    told = [
        f"Task: {task}\nAnswer: {answer}\nFeedback: {said['none' if stop == 'none' else 'phrase']}"
        for task, answer, said in shown
    ]
    return "\n\n".join(told) + "\n"  # so that an empty line follows, see `shots.solved`


def satisfied(criticism: str, stop: Stop) -> bool:
    """Whether it asks for no further draft."""
    if stop == "phrase":
        return _PHRASE.search(criticism) is not None
    found = [each.strip(" .*\"'`").lower() for each in _LINES.findall(criticism)]
    return stop == "none" and len(found) >= 2 and set(found) == {"none"}


def total(criticism: str, aspects: Sequence[str]) -> float | None:
    """Sum of the marks in lines `aspect: 3/5`, each in [0, `MOST`]; None where one of them cannot be read."""
    marks = [_mark(criticism, aspect) for aspect in aspects]
    return None if None in marks else sum(mark for mark in marks if mark is not None)


def _mark(criticism: str, aspect: str) -> float | None:
    line = rf"^\W*{re.escape(aspect)}\W*:\W*(\d+(?:\.\d+)?)\s*/\s*{MOST}\b"
    found = re.search(line, criticism, re.IGNORECASE | re.MULTILINE)
    return min(float(found[1]), float(MOST)) if found else None
