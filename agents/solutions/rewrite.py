"""References in the model's own words: what it would have said, had it known the answer (arXiv 2402.13669).

The frozen model is shown a task and its reference and writes the solution anew. A rewrite is then played as an episode:
the environment says whether its answer is still right, and a data set is made of it as of any other episode.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from evolvent.agents.context import Context
from evolvent.agents.episode import Job
from evolvent.agents.evolution import reply_once
from evolvent.agents.solutions.act import Policy
from evolvent.agents.types import CallTag, Reply, derive_seed
from evolvent.environments.protocol import EnvironmentSpec
from evolvent.environments.types import Cost, Message, Trajectory, conversation

ARM = "rewrite"
Verdict = Literal["rewritten", "meta", "wrong", "empty"]
"""What became of a reference: rewritten, or kept because the rewrite speaks of the reference, answers something else,
or says nothing."""
_META = re.compile(
    r"\b(?:(?:reference|given|provided|sample|model) (?:answer|solution|response)|"
    r"your (?:own )?(?:answer|solution|response|words)|rewrit\w+|rephras\w+)\b|^\s*your turn\b",
    re.IGNORECASE,
)
"""Talk about the rewriting, which belongs in no answer."""
_REQUEST = (
    "Somebody solved the task above like this:\n{reference}\n\n"
    "Solve it in the way you would say it yourself, step by step where there are steps, and end with the same result. "
    "Write the solution alone."
)


@dataclass(frozen=True, slots=True)
class Rewrite:
    reference: Trajectory
    text: str
    target: Trajectory
    """An episode of the same task: of the rewrite, or, where it was refused, the reference's."""
    verdict: Verdict
    cost: Cost
    """Of the call."""


def speaks_of_rewriting(text: str) -> bool:
    """Whether it says what only somebody who was shown a reference would say."""
    return _META.search(text) is not None


async def rewrite(
    context: Context,
    references: Sequence[Trajectory],
    environment: EnvironmentSpec,
    *,
    generation: int,
    temperature: float,
    reply_tokens: int,
) -> list[Rewrite]:
    """One rewrite of each reference by the frozen model, in their order; asked for once, played once.

    Args:
        references: an expert's episodes of one step, with prompts for answers that are written.
        environment: that of their tasks.
    """
    asked = await context.rollouts.calls(
        _ask(context, each, generation=generation, temperature=temperature, reply_tokens=reply_tokens)
        for each in references
    )
    sound = {
        place: reply.text for place, reply in enumerate(asked) if reply.text and not speaks_of_rewriting(reply.text)
    }  # what is refused already need not be played
    jobs = [
        Job(
            references[place].task,
            {"": Policy(context.model("actor"), demonstrated=(text,), written=True)},
            "train",
            generation,
            arm=ARM,
            seed=context.seed,
        )
        for place, text in sound.items()
    ]
    played = dict(zip(sound, await context.rollouts.run(environment, jobs), strict=True))
    found = []
    for place, (reference, reply) in enumerate(zip(references, asked, strict=True)):
        target, verdict = reference, _refused(reply.text)
        if place in played:
            (attempt,) = played[place]
            right = attempt.outcome.success
            target, verdict = (attempt, "rewritten") if right else (reference, "wrong")
        found.append(Rewrite(reference, reply.text, target, verdict, reply.cost))
    return found


# -- inside ------------------------------------------------------------------------------------------------------------


async def _ask(
    context: Context, reference: Trajectory, *, generation: int, temperature: float, reply_tokens: int
) -> Reply:
    """The frozen model's reply; where it is empty the reference stays."""
    model, task = context.model("actor"), reference.task
    step = reference.steps[-1]
    told = conversation((), step.messages)
    request = Message("user", "task", "\n" + _REQUEST.format(reference=step.reply))
    key = f"{generation}/{ARM}/{task.id}"
    tag = CallTag("actor", "train", generation, task.id, purpose=ARM, episode=key)
    seed = derive_seed(context.seed, ARM, generation, task.id)
    return await reply_once(
        context,
        key,
        lambda: model.generate((*told, request), tag, temperature=temperature, max_tokens=reply_tokens, seed=seed),
    )


def _refused(text: str) -> Verdict:
    return "meta" if text else "empty"
