"""The five forms of instruction that a web page takes, after RCI (arXiv 2303.17491), and reading one from a reply."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, cast

Verb = Literal["clickxpath", "clickoption", "type", "press", "movemouse"]
KEYS = ("enter", "tab", "space", "backspace", "arrowup", "arrowdown")
GRAMMAR = (
    "clickxpath XPATH",
    "clickoption XPATH",
    "type TEXT",
    f"press KEY ({', '.join(KEYS)})",
    "movemouse XPATH",
)
"""Each form as it is told to an agent."""
_FORMS = re.compile(
    rf"(?P<verb>clickxpath|clickoption|movemouse)\s+(?P<path>/\S.*)|type\s+(?P<text>\S.*)|press\s+(?P<key>{'|'.join(KEYS)})",
    re.IGNORECASE,
)
_LONGEST = 500


@dataclass(frozen=True, slots=True)
class Instruction:
    verb: Verb
    argument: str
    """An xpath, the text to type, or a key in lower case."""


def read_instruction(text: str) -> Instruction | None:
    """The one instruction a text is; None when it is none, several, or longer than 500 characters.

    Space and backticks round it are taken off, and double quotes round a text to type. Whether the xpath leads
    anywhere is for the page to say.
    """
    bare = text.strip(" \t\r\n`")
    found = _FORMS.fullmatch(bare) if len(bare) <= _LONGEST else None
    if found is None:
        return None
    if found["text"] is not None:
        typed = found["text"].strip()
        return Instruction("type", typed[1:-1] if re.fullmatch(r'"[^"]+"', typed) else typed)
    if found["key"] is not None:
        return Instruction("press", found["key"].lower())
    return Instruction(cast(Verb, found["verb"].lower()), found["path"].strip())


def grammatical(text: str) -> bool:
    """Whether a text is one instruction in one of the five forms."""
    return read_instruction(text) is not None
