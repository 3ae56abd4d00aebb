"""Acting by grounding (RCI, arXiv 2303.17491, §2.3): an instruction is proposed for the task, made to fit the page, and
repaired until it is one that can be executed.

Every prompt shows the page as it is now and the instructions executed so far; earlier pages and replies are left out.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from evolvent.agents.solutions.act import Acted, Policy, written_step
from evolvent.agents.solutions.scratchpad import assistant
from evolvent.agents.types import CallTag
from evolvent.environments.types import Cost, Message, Observation, Step, conversation

EXECUTED = "Instructions executed so far: {executed}"
NONE_EXECUTED = "none executed"
NEXT = "What is the next instruction of the plan? Write that one alone."
ON_PAGE = "Write that instruction for what is on the page now, with the ids and texts that stand there. Write it alone."
REPAIR = "That cannot be executed. Write one line and nothing else, in one of these forms: {forms}."
GAVE_UP = "No instruction that can be executed was proposed."


@dataclass(frozen=True, slots=True)
class Grounded:
    """A manner of acting by free-text instructions of a fixed grammar."""

    grammatical: Callable[[str], bool]
    forms: Sequence[str]
    """What the grammar allows, as an agent is told it."""
    on_page: bool = True
    """Every proposal is made to fit the page, by a second call (state grounding)."""
    repairs: int = 1
    """Calls at most that repair a step's instruction (implicit RCI). One that still cannot be executed ends the
    episode."""

    async def __call__(
        self,
        policy: Policy,
        observation: Observation,
        new: tuple[Message, ...],
        earlier: Sequence[Step],
        tag: CallTag,
        rng: random.Random,
    ) -> Acted:
        turns = [*new, _told(f"{_executed(earlier)}\n{NEXT}")]
        cost = Cost()

        async def ask(purpose: str) -> str:
            nonlocal cost
            prompt = conversation(earlier, tuple(turns), len(earlier))
            reply = await policy.write(prompt, replace(tag, purpose=purpose), rng)
            cost += reply.cost
            return reply.text

        said = await ask("act")
        if self.on_page:
            turns += [assistant(said), _told(ON_PAGE)]
            said = await ask("ground")
        for _ in range(self.repairs):
            if self.grammatical(said):
                break
            turns += [assistant(said), _told(REPAIR.format(forms="; ".join(self.forms)))]
            said = await ask("repair")
        step = written_step(policy, observation, tuple(turns), said, said.strip(), len(earlier))
        sound = self.grammatical(said)
        return Acted(step, cost, malformed=not sound, gave_up="" if sound else GAVE_UP)


def _executed(earlier: Sequence[Step]) -> str:
    if not earlier:
        return EXECUTED.format(executed=NONE_EXECUTED)
    numbered = (f"\n{number}. {step.action.text}" for number, step in enumerate(earlier, 1))
    return EXECUTED.format(executed="".join(numbered))


def _told(text: str) -> Message:
    """Part of one step alone: only a first step's other parts lead the later ones."""
    return Message("user", "history", text)
