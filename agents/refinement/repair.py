"""A program is repaired in versions: what a reply makes of the version before it, and which is handed in.

The versions of a task's program are kept on the scratchpad by number, from 0 on.
"""

from __future__ import annotations

import re

from evolvent.agents.solutions.scratchpad import Scratchpad
from evolvent.environments.code import entry_point, program_of
from evolvent.environments.types import Task

PROGRAM = "program"


def fenced(program: str) -> str:
    """As a reply gives it, and as a prompt shows it."""
    return f"```python\n{program.strip()}\n```"


def revise(pad: Scratchpad, task: Task, reply: str, number: int) -> str:
    """Keep what a reply makes of the program as its version of that number, and return it.

    A reply that does not define the function asked for makes nothing of it: the version before stands.
    """
    before = pad.said(task, PROGRAM, number - 1) if number else None
    program = program_of(reply, task)
    return pad.note(task, PROGRAM, program if before is None or _defines(program, task) else before, number)


def version(pad: Scratchpad, task: Task, number: int | None = None) -> str:
    """The program of that number, the last by default; empty where there is none."""
    if number is not None:
        return pad.said(task, PROGRAM, number) or ""
    return (pad.every(task, PROGRAM) or [""])[-1]


def last_program(pad: Scratchpad, task: Task) -> str:
    """What is handed in: the last version; empty where no reply gave one."""
    program = version(pad, task)
    return fenced(program) if program.strip() else ""


def _defines(program: str, task: Task) -> bool:
    name = re.escape(entry_point(task))
    return re.search(rf"^[ \t]*(?:(?:async\s+)?def\s+{name}\b|{name}\s*=)", program, re.MULTILINE) is not None
