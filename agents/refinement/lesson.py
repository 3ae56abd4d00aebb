"""From a contrast to a candidate rule, by one traced model call.

A model that can score options chooses among the lines the situation admits (constrained decoding, so that a small
model cannot write a malformed rule); any other model writes one line that begins with `RULE:`.
"""

from __future__ import annotations

import logging
import random
from dataclasses import dataclass, field

from evolvent.agents.models.role import RoleModel
from evolvent.agents.refinement.contrast import Contrast
from evolvent.agents.solutions.act import framed
from evolvent.agents.types import CallTag
from evolvent.environments.solo import SEAT
from evolvent.environments.types import Cost, Message
from evolvent.memory.types import Scope

logger = logging.getLogger(__name__)
_INSTRUCTIONS = "You learn from what worked and what did not."


@dataclass(frozen=True, slots=True)
class Proposal:
    """A rule that nobody has proved yet."""

    text: str
    scope: Scope
    situation: str
    """The frame of the observations it speaks of; empty for a rule of free wording."""
    parents: tuple[str, ...]
    """The two trajectories it was read from."""
    cost: Cost = field(default_factory=Cost)


async def learn_lesson(model: RoleModel, contrast: Contrast, tag: CallTag, rng: random.Random) -> Proposal | None:
    """What the model takes from a contrast; None when its reply holds no rule.

    Raises:
        ModelCallError: the call failed for good.
    """
    good = contrast.good
    has_frame = good.observation.frame != "{action}"
    tags = tuple(name for name in contrast.better.task.tags if name in good.observation.frame)
    scope = Scope(contrast.better.task.environment, tags, "" if good.player == SEAT else good.player)
    parents = tuple(sorted((contrast.better.trajectory.id, contrast.worse.trajectory.id)))
    if has_frame and model.can_choose and good.observation.actions:
        lines = [framed(good.observation, action) for action in good.observation.actions]
        # The success stands last: a small model repeats what it read most recently.
        messages: tuple[Message, ...] = (
            Message("system", "instructions", _INSTRUCTIONS),
            Message("user", "history", f"What failed: {contrast.bad.reply}\nWhat worked: {good.reply}"),
            Message("user", "task", "What is the lesson?"),
        )
        choice = await model.choose(messages, lines, tag, rng=rng)
        return Proposal(lines[choice.index], scope, good.observation.frame, parents, choice.cost)
    situation = f"Situation: {good.observation.text}\n" if not has_frame else ""
    messages = (
        Message("system", "instructions", _INSTRUCTIONS),
        Message("user", "task", f"Task: {contrast.better.task.prompt}\n{situation}"),
        Message("user", "history", f"What failed: {contrast.bad.reply}\nWhat worked: {good.reply}"),
        Message("user", "task", "Write the lesson in one sentence that names the situation. Begin with RULE:"),
    )
    reply = await model.generate(messages, tag, max_tokens=48, seed=rng.getrandbits(31))
    text = read_rule(reply.text)
    if text is None:
        logger.info("a reflection gave no rule: %.60r", reply.text)
        return None
    framed_rule = has_frame and text in [framed(good.observation, a) for a in good.observation.actions or ()]
    return Proposal(text, scope, good.observation.frame if framed_rule else "", parents, reply.cost)


def read_rule(reply: str) -> str | None:
    """The first line after `RULE:`, or the only line when the marker is missing; None when there is nothing of use."""
    text = reply.split("RULE:", 1)[1] if "RULE:" in reply else reply
    lines = [line.strip(" -*\"'\t") for line in text.strip().splitlines()]
    first = next((line for line in lines if line), "")
    return first if 8 <= len(first) <= 240 else None
