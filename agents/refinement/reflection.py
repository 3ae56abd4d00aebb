"""Verbal reflection: from a failed attempt to a lesson for the next attempt at the same task (Reflexion, §3).

The reflector reads what the agent did and what came of it, without the instructions the agent was given, and the
lessons it wrote before; it is asked for a fault and a plan, not for a summary.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from evolvent.agents.models.role import RoleModel
from evolvent.agents.solutions.act import framed
from evolvent.agents.solutions.recall import numbered
from evolvent.agents.types import CallTag, Reply
from evolvent.environments.types import Cost, Experience, Message, Step, Trajectory
from evolvent.memory.rendering import render

_INSTRUCTIONS = "You learn from your own failed attempts at a task."
_QUESTION = (
    "Do not retell the attempt. Say in a few short sentences what went wrong and what you will do instead in the next "
    "attempt at this task."
)
_CHARS_PER_TOKEN = 4
_FAULTS = 3
"""Decisions that one constrained reflection changes at most."""


async def reflect_on(
    model: RoleModel,
    failed: Experience,
    lessons: Sequence[str],
    tag: CallTag,
    *,
    constrained: bool = False,
    max_tokens: int = 256,
    attempt_tokens: int = 1600,
) -> Reply:
    """What the reflector makes of the attempt; empty when it had nothing to say.

    Args:
        lessons: those the failed attempt was shown, oldest first.
        constrained: a model that can score options chooses a plan instead of writing one, see `_plan`.
        max_tokens: of what is written.
        attempt_tokens: of the attempt as it is shown.

    Raises:
        ModelCallError: the call failed for good.
    """
    earlier = f"Your lessons from the attempts before it:\n{numbered(lessons)}" if lessons else ""
    evidence = (
        Message("system", "instructions", _INSTRUCTIONS),
        Message("user", "history", f"Your attempt:\n{told(failed.trajectory, attempt_tokens)}"),
        Message("user", "history", failed.feedback.text),
        Message("user", "memory", earlier),
    )
    faults = _faults(failed.trajectory.steps)
    if constrained and model.can_choose and faults:
        return await _plan(model, failed.trajectory.steps, faults, evidence, lessons, tag)
    reply = await model.generate((*evidence, Message("user", "task", _QUESTION)), tag, max_tokens=max_tokens)
    # A server may ignore the limit; a lesson that fills the window helps nobody.
    text = reply.text.strip()[: 2 * _CHARS_PER_TOKEN * max_tokens]
    return Reply(text, reply.cost)


async def _plan(
    model: RoleModel,
    steps: Sequence[Step],
    faults: Sequence[Step],
    evidence: tuple[Message, ...],
    lessons: Sequence[str],
    tag: CallTag,
) -> Reply:
    """A lesson by constrained decoding, worded as the world words its actions: all that a small model can follow.

    Decisions that earned a reward are kept. For each fault the model chooses another line among those the situation
    admits and no earlier lesson calls wrong.
    """
    lines: list[str] = []
    cost = Cost()
    for step in steps:
        taken = step.action.text
        if step.reward > 0 and _worded(step):
            lines.append(framed(step.observation, taken))
        if step not in faults:
            continue
        other = [action for action in step.observation.actions or () if action != taken]
        untried = [action for action in other if not any(_not(step, action) in text for text in lessons)] or other
        options = [framed(step.observation, action) for action in untried]
        line = framed(step.observation, taken)
        question = Message("user", "task", f"What will you do next time instead of this: {line}")
        # At temperature 0 nothing is drawn.
        choice = await model.choose((*evidence, question), options, tag, rng=random.Random(0))
        lines.append(_not(step, taken) + options[choice.index].removeprefix(_stem(step)))
        cost += choice.cost
    return Reply("\n".join(lines), cost)


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


def _faults(steps: Sequence[Step]) -> list[Step]:
    """Unrewarded decisions that had an alternative, one a situation; of many, those the actor was least sure of."""
    by_situation = {
        step.observation.frame: step
        for step in steps
        if step.reward <= 0 and _worded(step) and len(step.observation.actions or ()) > 1
    }
    return sorted(by_situation.values(), key=lambda step: step.logprob or 0.0)[:_FAULTS]


def _worded(step: Step) -> bool:
    """Whether the world words this situation."""
    return step.observation.frame != "{action}"


def _not(step: Step, action: str) -> str:
    """How a plan begins that calls an action wrong in a step's situation."""
    return f"Not {action}: {_stem(step)}"


def _stem(step: Step) -> str:
    return step.observation.frame.partition("{action}")[0]
