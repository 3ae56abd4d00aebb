"""A simulated solver that is as good as its prompts, and a simulated writer of prompts: both of known skill.

An instruction is a few sentences of a small language, of which five help; whoever is told more of these is right more
often. Two of the five are rare: the writer thinks of them only where it is asked in a way that it was not asked before.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from typing import Any

from langchain_core.messages import BaseMessage
from systems.problems import last_question

from evolvent.agents.models.scripted import ScriptedChatModel
from evolvent.agents.tasks.prompt_seeds import MUTATION_PROMPTS
from evolvent.environments.types import Task

HELPFUL = ("Check every sum.", "Mind the units.", "Name what is asked.", "Read it twice.", "Begin at the end.")
RARE = HELPFUL[3:]
IDLE = tuple(
    f"{verb} {what}."
    for verb in ("Think of", "Speak of", "Look at")
    for what in ("the sea", "the moon", "a garden", "a bridge")
)
_LONGEST = 4
"""Sentences of an instruction; a longer one loses some."""
_ASKED = re.compile(r"New way \d+")


class Obedient(ScriptedChatModel):
    """Solver and writer in one; randomness is that of the call's seed, as a temperature would have it.

    Args:
        deaf: the solver takes no notice of its prompts.
    """

    def __init__(self, tasks: Sequence[Task], *, deaf: bool = False) -> None:
        super().__init__(self.reply)
        self._tasks, self._deaf, self._seed = list(tasks), deaf, 0

    async def _agenerate(self, messages: list[BaseMessage], *args: Any, **settings: Any) -> Any:
        self._seed = settings["seed"]  # nothing is awaited before the reply is made
        return await super()._agenerate(messages, *args, **settings)

    def reply(self, messages: Sequence[BaseMessage]) -> str:
        said = [str(message.text) for message in messages]
        return (
            write(said[-1], random.Random(self._seed)) if "You write instructions" in said[0] else self.solve(messages)
        )

    def solve(self, messages: Sequence[BaseMessage]) -> str:
        task = last_question([message for message in messages if "?" in message.text][-1:], self._tasks)
        heard = [each for each in HELPFUL if any(each in message.text for message in messages)]
        right = random.Random(f"{self._seed}/{task.id}").random() < skill("" if self._deaf else " ".join(heard))
        answer = task.data["answer"] if right else task.data["answer"] + 1
        return "\n".join([*(f"Done: {each}" for each in heard), f"The answer is {answer}."])


def skill(prompts: str) -> float:
    """How likely whoever is told so is right."""
    return 0.1 + 0.17 * sum(each in prompts for each in HELPFUL)


def write(request: str, rng: random.Random) -> str:
    """What the writer says to a request of any operator."""
    if "write one sentence that asks" in request or "Summarise this request" in request:
        return f"New way {rng.randrange(1000)} to say it."
    if "List hints" in request:
        return "\n".join(rng.sample(_known(request), 3))
    if "What was the instruction" in request:
        return " ".join(dict.fromkeys(re.findall(r"Done: (.+)", request))) or rng.choice(_known(request))
    if "next one of the list" in request:
        listed = [sentences(line) for line in re.findall(r"^\d+\. (.+)$", request, re.MULTILINE)]
        mixed = [each for line in rng.sample(listed, min(2, len(listed))) for each in line]
        return _cut([*mixed, rng.choice(_known(request))], rng)
    asked, _, instruction = request.partition("\nInstruction: ")
    own = sentences(instruction)
    if not own:  # the first prompts are made of the problem, which says nothing of the kind
        return rng.choice(_known(request))
    within = random.Random(asked).sample(_known(request), 8)  # what this way of asking brings to mind
    if rng.random() < 0.3:
        own.remove(rng.choice(own))
    return _cut([*own, rng.choice(within)], rng)


def sentences(text: str) -> list[str]:
    """Those of the language, in the order in which they stand."""
    return sorted((each for each in (*HELPFUL, *IDLE) if each in text), key=text.index)


def _known(request: str) -> list[str]:
    return [*HELPFUL, *IDLE] if _ASKED.search(request) else [each for each in (*HELPFUL, *IDLE) if each not in RARE]


def _cut(found: Sequence[str], rng: random.Random) -> str:
    distinct = list(dict.fromkeys(found))
    kept = rng.sample(distinct, min(_LONGEST, len(distinct)))
    return " ".join(sorted(kept, key=distinct.index))


assert not any(_ASKED.search(each) for each in MUTATION_PROMPTS)
