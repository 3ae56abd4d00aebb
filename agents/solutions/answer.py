"""Answers to inputs that nobody set as a task, such as made-up ones: asked as an episode of one step would ask."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

from evolvent.agents.context import Context
from evolvent.agents.errors import ModelCallError
from evolvent.agents.evolution import once
from evolvent.agents.models.role import RoleModel
from evolvent.agents.solutions.act import framed
from evolvent.agents.types import CallTag
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

        async def ask() -> str:
            tag = CallTag("actor", "train", generation, like.task.id, purpose=PURPOSE, episode=key)
            try:
                if observation.actions and model.can_choose:
                    options = [framed(observation, each) for each in observation.actions]
                    choice = await model.choose(sent, options, tag, rng=context.rng(PURPOSE, generation, number))
                    return json.dumps([options[choice.index], asdict(choice.cost)])
                reply = await model.generate(sent, tag, max_tokens=reply_tokens)
            except ModelCallError:
                return json.dumps(["", asdict(Cost(calls=1))])  # a row less; the trace has the cause
            return json.dumps([reply.text.strip(), asdict(reply.cost)])

        reply, cost = json.loads(await once(context, key, ask))
        return Answered(merge(sent)[-1][1], reply, Cost(**cost))

    return await context.rollouts.calls(one(number, text) for number, text in enumerate(inputs))


def _instead(message: Message, text: str) -> Message:
    return replace(message, text=text) if message.part == "task" else message
