"""Answers to inputs that nobody set as a task, such as made-up ones: asked as an episode of one step would ask."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from evolvent.agents.context import Context
from evolvent.agents.evolution import reply_once
from evolvent.agents.models.role import RoleModel
from evolvent.agents.solutions.act import framed
from evolvent.agents.types import CallTag, Reply
from evolvent.environments.types import Cost, Message, Trajectory, conversation, merge

PURPOSE = "relabel"


@dataclass(frozen=True, slots=True)
class Answered:
    asked: str
    """The whole user's turn, as it was sent."""
    reply: str
    """Empty where the call failed."""
    cost: Cost


async def answer(
    context: Context,
    model: RoleModel,
    like: Trajectory,
    inputs: Sequence[str],
    *,
    generation: int,
    reply_tokens: int,
) -> list[Answered]:
    """The model's greedy answers, in order; each asked for once in a run.

    Args:
        like: an episode of the task the inputs are of. Its prompt is taken with each input in the task's place, and
            where it had options to choose from, the answer is one of them.
    """
    observation = like.steps[0].observation

    async def one(number: int, text: str) -> Answered:
        key = f"{generation}/{PURPOSE}/{number}"
        sent = [_instead(message, text) for message in conversation((), like.steps[0].messages)]

        tag = CallTag("actor", "train", generation, like.task.id, purpose=PURPOSE, episode=key)

        async def ask() -> Reply:
            if not (observation.actions and model.can_choose):
                return await model.generate(sent, tag, max_tokens=reply_tokens)
            options = [framed(observation, each) for each in observation.actions]
            choice = await model.choose(sent, options, tag, rng=context.rng(PURPOSE, generation, number))
            return Reply(options[choice.index], choice.cost)

        reply = await reply_once(context, key, ask)
        return Answered(merge(sent)[-1][1], reply.text, reply.cost)

    return await context.rollouts.calls(one(number, text) for number, text in enumerate(inputs))


def _instead(message: Message, text: str) -> Message:
    return replace(message, text=text) if message.part == "task" else message
