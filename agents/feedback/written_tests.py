"""Tests that a model writes for a function it is only told of: how they are asked for, which of its words are tests.

The tester sees the head of the function with an empty body, and never a program. What it says is read as Python and
not run here; an assertion that does not parse, or does not name the function, is none.
"""

from __future__ import annotations

import ast
import re
import warnings

from evolvent.agents.solutions.scratchpad import user
from evolvent.environments.types import Message

INSTRUCTIONS = "You write tests for a Python function that is not written yet. Answer with assert statements alone."
QUESTION = (
    "{head}\n    pass\n\n# Check that {name} is right, one assert a line, with values worked out by hand:\nassert"
)
_FENCE = re.compile(r"^```.*$", re.MULTILINE)
_ASSERT = re.compile(r"^[ \t]*assert\b[ \t]*", re.MULTILINE)
_LINES = 12
"""Of one assertion at most; what follows is talk."""


def question(head: str, name: str) -> tuple[Message, ...]:
    """The prompt for tests of a function.

    Args:
        head: its imports, `def` line and docstring.
    """
    return (Message("system", "instructions", INSTRUCTIONS), user(QUESTION.format(head=head.rstrip(), name=name)))


def assertions(reply: str, name: str, limit: int = 5) -> tuple[str, ...]:
    """The first `limit` assertions of a reply that name the function, one a line, alike where they say the same.

    A reply may go on where the prompt ends: its first words are read as if `assert` stood before them.
    """
    chunks = _ASSERT.split(_FENCE.sub("", reply))
    found = [text for chunk in chunks if (text := _assertion(chunk, name)) is not None]
    return tuple(found[:limit])


def _assertion(chunk: str, name: str) -> str | None:
    """What stands behind `assert` at the head of the text, as a test; None where it is none about the function."""
    lines = chunk.strip().splitlines()[:_LINES]
    for end in range(1, len(lines) + 1):
        try:
            parsed = _parsed("assert " + "\n".join(lines[:end]))
            if parsed is not None:
                return ast.unparse(parsed) if _about(parsed, name) else None
        except (SyntaxError, ValueError, RecursionError, MemoryError):  # the last two: nested too deep
            continue
    return None


def _parsed(text: str) -> ast.Assert | None:
    """The text as one assertion. It is parsed, never compiled to run."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SyntaxWarning)  # "\d" in a model's string is not our concern
        body = ast.parse(text).body
    return body[0] if len(body) == 1 and isinstance(body[0], ast.Assert) else None


def _about(assertion: ast.Assert, name: str) -> bool:
    """Whether it names the function, and could stand outside a function itself."""
    nodes = list(ast.walk(assertion))
    named = any(isinstance(node, ast.Name) and node.id == name for node in nodes)
    return named and not any(isinstance(node, ast.Await | ast.Yield | ast.YieldFrom) for node in nodes)
