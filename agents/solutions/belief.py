"""Acting by belief: what the seat thinks of itself, what it thinks of the others, and only then what it does.

Agent-Pro's decision (arXiv 2402.17574, §3.1). What was believed stays in the conversation, so the next decision of the
same hand is made in view of it; another hand is another conversation, and knows nothing of it.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

from evolvent.agents.solutions.act import Acted, Policy, history_from, read_action, weigh, written_step
from evolvent.agents.solutions.named_parts import named, named_parts
from evolvent.agents.solutions.scratchpad import assistant
from evolvent.agents.types import CallTag
from evolvent.environments.types import Message, Observation, Step, Trajectory, conversation

BELIEVE = "believe"
"""Purpose of the call for beliefs alone, where the action is chosen by a second one."""
_SELF = "Self-belief: what you hold, what you plan, what you risk by it, and how the others see you."
_WORLD = "World-belief: what the others may hold, how they play, and what you expect of them."
_ACTION = "Action: what you do, one of those that are possible now."
ASK = "\n".join(("Write three short lines, each beginning with its name.", _SELF, _WORLD, _ACTION))
ASK_BELIEFS = "\n".join(("Write two short lines, each beginning with its name.", _SELF, _WORLD))
ASK_ACTION = "Action:"
_NAMES = named("self[ -]?belief", "world[ -]?belief", "action")


@dataclass(frozen=True, slots=True)
class Thought:
    """What a decision was made of; a part that the reply does not name is empty."""

    own: str = ""
    """The self-belief."""
    world: str = ""
    action: str = ""


def read_thought(reply: str) -> Thought:
    """The parts of a reply, by the names before them."""
    # The first letter is enough: names are spelled in more than one way.
    parts = {name[0]: said for name, said in named_parts(reply, _NAMES).items()}
    return Thought(parts.get("s", ""), parts.get("w", ""), parts.get("a", ""))


async def believe(
    policy: Policy,
    observation: Observation,
    new: tuple[Message, ...],
    earlier: Sequence[Step],
    tag: CallTag,
    rng: random.Random,
) -> Acted:
    """A `Manner`: beliefs and action by one reply; where the model can score the options, they are weighed behind its
    beliefs by a second call. A reply without an action that is possible stands for the first that is."""
    options = observation.actions or ()
    weighed = bool(options) and policy.model.can_choose and not policy.written
    turns = (*new, _asked(ASK_BELIEFS if weighed else ASK))
    start = history_from(policy, earlier, turns)
    reply = await policy.write(
        conversation(earlier, turns, start),
        replace(tag, purpose=BELIEVE) if weighed else tag,
        rng,
        stop=(*policy.stop, ASK_ACTION) if weighed else policy.stop,
    )
    if weighed:
        turns = (*turns, assistant(reply.text), _asked(ASK_ACTION))
        acted = await weigh(policy, observation, turns, earlier, tag, rng)
        return replace(acted, cost=reply.cost + acted.cost)
    action, known = _action(reply.text, observation)
    step = written_step(policy, observation, turns, reply.text, action, start)
    return Acted(step, reply.cost, malformed=not known)


def thought_of(step: Step) -> Thought:
    """What a step of this manner was made of, the action as the environment took it."""
    said = [message.text for message in step.messages if message.role == "assistant"]
    return replace(read_thought("\n".join([*said, step.reply])), action=step.action.text)


def told(trajectory: Trajectory) -> str:
    """A hand from the seat's view, with what it believed before each action; what came at the end stands last."""
    lines = [trajectory.task.prompt]
    for step in trajectory.steps:
        thought = thought_of(step)
        if step.observation.text not in lines[-1:]:
            lines.append(step.observation.text)
        lines += [f"Self-belief: {thought.own or 'none'}", f"World-belief: {thought.world or 'none'}"]
        lines.append(f"> {thought.action}")
        if step.result:
            lines.append(step.result)
    return "\n".join(lines)


def _action(reply: str, observation: Observation) -> tuple[str, bool]:
    """(action, whether the reply names one that is possible); else the first of those, where the world lists them."""
    said = read_thought(reply).action
    if not said:
        # Without its name an action is sought in the last line alone: beliefs speak of actions too.
        said = next((line for line in reversed(reply.splitlines()) if line.strip()), "")
    action, known = read_action(said, observation)
    return (action, known) if known or not observation.actions else (observation.actions[0], False)


def _asked(text: str) -> Message:
    """Part of one step alone: only a first step's other parts lead the later ones."""
    return Message("user", "history", text)
