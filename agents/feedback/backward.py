"""Backward verification: an answer is held to be true, and the problem is asked the other way round (arXiv 2212.09561).

The conclusion, a statement of question and answer, stands behind the problem's conditions. Then either a condition is
hidden, to be recovered from the rest, or the whole is to be called true or false. Texts in, texts out; knows no model.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from evolvent.agents.refinement.vote import final_answer, normalised
from evolvent.environments.types import Message

PLACEHOLDER = "X"

# A full stop inside a number has no space behind it, and one behind a title ends no sentence.
_END = re.compile(r"(?<=[.!?])(?<!\bMr\.)(?<!\bMrs\.)(?<!\bMs\.)(?<!\bDr\.)\s+")
_NUMBER = re.compile(r"(?<!\w)(?<!\d[.,/])-?\d+(?:,\d{3})*(?:\.\d+)?(?!\w|[.,/]\d)")
_HOW_MANY = re.compile(r"how (?:many|much)\b", re.IGNORECASE)
_AGREES = re.compile(r"\W*(?:yes|true|correct)\b", re.IGNORECASE)

_REWRITER = "You turn a question and its answer into one statement."
_RECOVERER = f"You find the number that {PLACEHOLDER} stands for in a text. Everything the text says is true."
_JUDGE = "You check whether everything that a text says can be true together. You answer yes or no."
_REWRITTEN = (
    ("How many plums are left in the bowl?", "5", "5 plums are left in the bowl."),
    ("Who lives in the green house?", "Lea", "Lea lives in the green house."),
)
"""Question, answer, statement."""
_RECOVERED = (
    (f"Tom has {PLACEHOLDER} plums and eats 2. 5 plums are left.", "Before: <<5+2=7>>\nThe answer is 7."),
    (f"Lea fills 4 jars with {PLACEHOLDER} nuts each. 24 nuts are in the jars.", "A jar: <<24/4=6>>\nThe answer is 6."),
)
_JUDGED = (
    ("Tom has 7 plums and eats 2. 5 plums are left.", "Left: <<7-2=5>>, as it says.\nThe answer is yes."),
    ("Lea fills 4 jars with 6 nuts each. 20 nuts are in the jars.", "In all: <<4*6=24>>, not 20.\nThe answer is no."),
)
_RECOVER = f"{{text}}\nWhat number is {PLACEHOLDER}?"
_JUDGING = "{text}\nIs everything in this text true together, yes or no?"


@dataclass(frozen=True, slots=True)
class Masked:
    """Conditions in which a placeholder stands for one number, in one of its places."""

    text: str
    hidden: str
    """Normalised."""


def conditions_and_question(problem: str) -> tuple[str, str]:
    """All sentences but the last, and the last one; a problem of one sentence has no conditions."""
    plain = problem.strip()
    ends = list(_END.finditer(plain))
    return (plain[: ends[-1].start()], plain[ends[-1].end() :]) if ends else ("", plain)


def masks(conditions: str, most: int) -> list[Masked]:
    """One for each number, the first `most` of them.

    Whole numbers only: the 5 of 15, of 2.5 and of 1,500 is none.
    """
    found = list(_NUMBER.finditer(conditions))[:most]
    return [
        Masked(conditions[: each.start()] + PLACEHOLDER + conditions[each.end() :], normalised(each[0]))
        for each in found
    ]


def statement_in(reply: str, question: str, answer: str) -> str | None:
    """The reply's first line, where it is a statement of that answer: it names the answer and asks nothing."""
    line = next((line.strip() for line in reply.splitlines() if line.strip()), "")
    return line if _places(line, answer) and _plain(question) not in _plain(line) and "?" not in line else None


def with_answer(statement: str, answer: str, other: str) -> str | None:
    """The statement about another answer; None where the one it has stands in no place or in several."""
    places = _places(statement, answer)
    return statement[: places[0].start()] + other + statement[places[0].end() :] if len(places) == 1 else None


def plain_statement(question: str, answer: str) -> str:
    """What is said of an answer where the model wrote no statement of it."""
    counted = _HOW_MANY.match(question)
    return f"{answer}{question[counted.end() :].rstrip('?. ')}." if counted else f"The answer is {answer}."


def rewriting(question: str, answer: str) -> list[Message]:
    """The request for a statement."""
    shown = [(f"Question: {each}\nAnswer: {given}", statement) for each, given, statement in _REWRITTEN]
    return _conversation(_REWRITER, shown, f"Question: {question}\nAnswer: {answer}")


def recovering(masked: Masked, statement: str) -> list[Message]:
    """The request for the hidden number."""
    shown = [(_RECOVER.format(text=text), reply) for text, reply in _RECOVERED]
    return _conversation(_RECOVERER, shown, _RECOVER.format(text=f"{masked.text} {statement}"))


def judging(conditions: str, statement: str) -> list[Message]:
    """The request for a verdict on the whole."""
    shown = [(_JUDGING.format(text=text), reply) for text, reply in _JUDGED]
    return _conversation(_JUDGE, shown, _JUDGING.format(text=f"{conditions} {statement}".strip()))


def recovers(reply: str, masked: Masked) -> bool:
    return final_answer(reply) == masked.hidden


def agrees(reply: str) -> bool:
    return _AGREES.match(final_answer(reply) or reply) is not None


def _places(text: str, answer: str) -> list[re.Match[str]]:
    """Where an answer stands whole: 5 in neither 15 nor 2.5 nor -5."""
    return list(re.finditer(rf"(?<![\w-])(?<!\d[.,/]){re.escape(answer)}(?!\w|[.,/]\d)", text, re.IGNORECASE))


def _plain(text: str) -> str:
    return " ".join(text.lower().split()).strip(" .?!")


def _conversation(instructions: str, shown: list[tuple[str, str]], request: str) -> list[Message]:
    turns = [Message("system", "instructions", instructions)]
    for asked, replied in shown:
        turns += [Message("user", "history", asked), Message("assistant", "history", replied)]
    return [*turns, Message("user", "task", request)]
