"""An answer in two calls, each with an instruction of its own: the second reads what the first one wrote.

Promptbreeder (arXiv 2309.16797, §3): the first instruction stands before the question, the second after its working.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

from evolvent.agents.solutions.act import Acted, Policy, history_from, read_action, written_step
from evolvent.agents.solutions.recall import Fixed, Recollection
from evolvent.agents.types import CallTag
from evolvent.environments.types import (
    Cost,
    Message,
    Observation,
    Recalled,
    Step,
    Task,
    Trajectory,
    conversation,
)

WORK = "work"
"""Purpose of the first call."""


@dataclass(frozen=True, slots=True)
class FirstInstruction:
    """A recall: what stands before the question, and the record it comes from."""

    text: str
    record: str

    def __call__(self, task: Task, player: str, rng: random.Random) -> Recollection:
        return Fixed((Recalled(self.record, True),), self.text)


@dataclass(frozen=True, slots=True)
class TwoStage:
    """A manner of acting. The first call is an ordinary one; its reply and `second` follow the bare question."""

    second: str

    async def __call__(
        self,
        policy: Policy,
        observation: Observation,
        new: tuple[Message, ...],
        earlier: Sequence[Step],
        tag: CallTag,
        rng: random.Random,
    ) -> Acted:
        start, cost = history_from(policy, earlier, new), Cost()

        async def ask(messages: tuple[Message, ...], tag: CallTag) -> str:
            nonlocal cost
            reply = await policy.write(conversation(earlier, messages, start), tag, rng)
            cost += reply.cost
            return reply.text

        worked = Message("assistant", "history", await ask(new, replace(tag, purpose=WORK)))
        bare = (message for message in new if message.part != "memory")
        turns = (*bare, worked, Message("user", "memory", self.second))
        said = await ask(turns, tag)
        action, known = read_action(said, observation)
        return Acted(written_step(policy, observation, turns, said, action, start), cost, malformed=not known)


def working(trajectory: Trajectory) -> str:
    """The question and both outputs, without the instructions that led to them."""
    outputs = [
        text
        for step in trajectory.steps
        for text in (*(each.text for each in step.messages if each.role == "assistant"), step.reply)
    ]
    return "\n".join([trajectory.task.prompt, *(text.strip() for text in outputs if text.strip())])
