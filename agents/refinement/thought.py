"""Thoughts out of what a model writes: sentences that state a relation, as triples or in plain words."""

from __future__ import annotations

import re
from dataclasses import dataclass

from evolvent.memory.embedding import words

_LEAD = re.compile(r"^\W*(?:\d+\s*[.):]\s*)?(?:thought\s*\d*\s*:\s*)?", re.IGNORECASE)
_ARTICLES = frozenset({"a", "an", "the"})
_NOTHING = frozenset({"none", "nothing"})
_FEWEST_WORDS = 3
"""A head, a relation and a tail."""


@dataclass(frozen=True, slots=True)
class Thought:
    text: str
    """One sentence."""
    head: str
    """What it is about."""
    relation: str = ""
    """Empty, as the tail, where a sentence was written instead of a triple."""
    tail: str = ""


def thoughts_in(reply: str) -> list[Thought]:
    """Its lines that are thoughts, each once: `head | relation | tail`, or a sentence of three words and more.

    Numbers and bullets in front do not count. A line that begins with "none" or "nothing" is no thought.
    """
    found: dict[str, Thought] = {}
    for line in reply.splitlines():
        parts = [part.strip(" \t*_`\"'()[]<>") for part in _LEAD.sub("", line).split("|")]
        parts = [part for part in parts if words(part)]
        said = words(" ".join(parts))
        if len(said) >= _FEWEST_WORDS and said[0] not in _NOTHING:
            found.setdefault(" ".join(said), _thought(parts))
    return list(found.values())


def plain(text: str) -> str:
    """Its words alone, in lower case: texts of the same words say the same."""
    return " ".join(words(text))


def _thought(parts: list[str]) -> Thought:
    text = " ".join(parts)
    sentence = text if text[-1] in ".!?" else f"{text}."
    match parts:
        case [only]:
            return Thought(sentence, _head(only))
        case [head, relation, *tail]:
            return Thought(sentence, head, relation, " ".join(tail).rstrip("."))
    raise AssertionError("a text with words has a part")


def _head(sentence: str) -> str:
    """The name that a sentence begins with, else its first word; articles are left out."""
    said = [word for word in sentence.split() if words(word)]
    said = said[1:] if said[0].lower() in _ARTICLES and len(said) > 1 else said
    length = 1
    while said[0][0].isupper() and length < len(said) and said[length][0].isupper():
        length += 1
    return " ".join(said[:length]).rstrip(",:;").removesuffix("'s").removesuffix("’s")
