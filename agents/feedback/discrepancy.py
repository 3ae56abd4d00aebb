"""Feedback by comparison: where several answers to one task differ and why, and what is to be checked again for it.

Nobody is asked whether an answer is right (Self-Contrast, arXiv 2401.02009): models judge that badly, and tell
differences well.
"""

from __future__ import annotations

from collections.abc import Sequence

from evolvent.environments.types import Message, Task

_COMPARER = "You compare answers to a task. You do not choose between them and you do not solve the task."
_DIFFERENCES = (
    "Say where these answers differ: in what they set out to find, in their steps, in their results. For each "
    "difference say in a few words where it comes from."
)
_WRITER = "You write checklists."
_POINTS = (
    "Make a checklist of these differences: one line for each point that somebody who solves the task should work out "
    "again with care. Do not solve the task."
)


def comparison(task: Task, answers: Sequence[str]) -> list[Message]:
    """The request for the differences between two answers or more."""
    request = f"Task: {task.prompt}\n\n{listed(answers)}\n\n{_DIFFERENCES}"
    return [Message("system", "instructions", _COMPARER), Message("user", "task", request)]


def checklist(task: Task, differences: Sequence[str]) -> list[Message]:
    """The request for the points to check."""
    request = f"Task: {task.prompt}\n\nDifferences between answers to it:\n{told(differences)}\n\n{_POINTS}"
    return [Message("system", "instructions", _WRITER), Message("user", "task", request)]


def listed(answers: Sequence[str]) -> str:
    return "\n\n".join(f"Answer {chr(ord('A') + number)}:\n{text}" for number, text in enumerate(answers))


def told(differences: Sequence[str]) -> str:
    return "\n\n".join(differences)
