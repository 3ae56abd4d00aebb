"""Verbal reflection: from a failed attempt to a lesson for the next attempt at the same task (Reflexion, §3).

The reflector reads what the agent did and what came of it, without the instructions the agent was given, and the
lessons it wrote before; it is asked for a fault and a plan, not for a summary.
"""

from __future__ import annotations

from collections.abc import Sequence

from evolvent.agents.models.role import RoleModel
from evolvent.agents.solutions.recall import numbered
from evolvent.agents.types import CallTag, Reply
from evolvent.environments.types import Experience, Message, Trajectory
from evolvent.memory.rendering import render

_INSTRUCTIONS = "You learn from your own failed attempts at a task."
_QUESTION = (
    "Do not retell the attempt. Say in a few short sentences what went wrong and what you will do instead in the next "
    "attempt at this task."
)
_CHARS_PER_TOKEN = 4


async def reflect_on(
    model: RoleModel,
    failed: Experience,
    lessons: Sequence[str],
    tag: CallTag,
    *,
    max_tokens: int = 256,
    attempt_tokens: int = 1600,
) -> Reply:
    """The reflector's reply, without white space around it; empty when it had nothing to say.

    Args:
        lessons: those the failed attempt was shown, oldest first.

    Raises:
        ModelCallError: the call failed for good.
    """
    earlier = f"Your lessons from the attempts before it:\n{numbered(lessons)}" if lessons else ""
    messages = (
        Message("system", "instructions", _INSTRUCTIONS),
        Message("user", "history", f"Your attempt:\n{told(failed.trajectory, attempt_tokens)}"),
        Message("user", "history", failed.feedback.text),
        Message("user", "memory", earlier),
        Message("user", "task", _QUESTION),
    )
    reply = await model.generate(messages, tag, max_tokens=max_tokens)
    # A server may ignore the limit; a lesson that fills the window helps nobody.
    text = reply.text.strip()[: 2 * _CHARS_PER_TOKEN * max_tokens]
    return Reply(text, reply.cost)


def told(trajectory: Trajectory, tokens: int) -> str:
    """The attempt as text. Beyond the budget, its task stays and its oldest lines leave."""
    task, *lines = render(trajectory).splitlines()
    room = tokens * _CHARS_PER_TOKEN - len(task)
    kept: list[str] = []
    for line in reversed(lines):
        room -= len(line) + 1
        if room < 0:
            kept.append("…")
            break
        kept.append(line)
    return "\n".join([task, *reversed(kept)])
