"""An answer made in stages: the model is asked once for each, about that stage alone, and what it said is put together.

The plan is given, and so is what runs it: tools as a rule, whose output no model could write in one reply.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from evolvent.agents.solutions.act import Acted, Policy, written_step
from evolvent.agents.types import CallTag
from evolvent.environments.types import Cost, Message, Observation, Step


@dataclass(frozen=True, slots=True)
class Staged:
    """A manner of acting. A stage's name is the purpose of its call."""

    stages: Sequence[str]
    """In order; one that comes twice is asked about once."""
    brief: Callable[[str, str, str], Sequence[Message]]
    """Stage, the task in words, what recall put before it → the prompt of the stage."""
    put_together: Callable[[str, Mapping[str, str]], str]
    """The task in words, stage → reply; gives the answer that is handed in."""

    async def __call__(
        self,
        policy: Policy,
        observation: Observation,
        new: tuple[Message, ...],
        earlier: Sequence[Step],
        tag: CallTag,
        rng: random.Random,
    ) -> Acted:
        task, memory = ("\n".join(each.text for each in new if each.part == part) for part in ("task", "memory"))
        said: dict[str, str] = {}
        cost = Cost()
        for stage in dict.fromkeys(self.stages):
            reply = await policy.write(self.brief(stage, task, memory), replace(tag, purpose=stage), rng)
            said[stage] = reply.text
            cost += reply.cost
        answer = self.put_together(task, said)
        return Acted(written_step(policy, observation, new, answer, answer), cost)
