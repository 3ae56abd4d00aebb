"""Self-made perspectives: the model says in how many ways, and in which, a task could be approached (arXiv 2401.02009).

Each is an instruction to a solver. How many there are is the model's choice, so it follows the task.
"""

from __future__ import annotations

import re

from evolvent.environments.types import Message, Task

LEAST = 2
_DESIGNER = "You plan how a task could be solved. You do not solve it."
_REQUEST = (
    "Task: {task}\n\nFirst think what kind of task this is. Then list between {least} and {most} ways to solve it that "
    "differ clearly: another role, another way of thinking, another notation. Take as many as the task is worth. "
    "Number them and write each in one line, as an instruction to somebody who will solve the task that way."
)
_SHOWN = (
    "Anna reads 12 pages a day and has read 4 days. The book has 100 pages. How many pages are left?",
    "1. Work it out step by step: first what was read, then what is left.\n"
    "2. Write one equation with x for the pages that are left, and solve it.\n"
    "3. Make a table of the days, with the pages left after each.",
)
"""A task and its list, for models that would rather solve what they see."""
_GIVEN = "Solve the task in this way: {perspective}"
_LINE = re.compile(r"^\W*(?:(?:way|perspective)\s*)?(?:\d+\s*[.):]|[-*•])\W*(\w.*)$", re.IGNORECASE | re.MULTILINE)


def asking(task: Task, most: int) -> list[Message]:
    """The request for perspectives."""
    shown, listed = _SHOWN
    return [
        Message("system", "instructions", _DESIGNER),
        Message("user", "history", _REQUEST.format(task=shown, least=LEAST, most=most)),
        Message("assistant", "history", listed),
        Message("user", "task", _REQUEST.format(task=task.prompt, least=LEAST, most=most)),
    ]


def perspectives_in(reply: str, most: int) -> list[str]:
    """Numbered or dashed lines, each once, the first `most` of them; none where the reply has no list."""
    return list(dict.fromkeys(line.strip(" *_") for line in _LINE.findall(reply)))[:most]


def given(perspective: str) -> str:
    """What stands before the task."""
    return _GIVEN.format(perspective=perspective)
