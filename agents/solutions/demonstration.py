"""Demonstrations: an environment's own expert plays training tasks, and its episodes are kept like anybody's.

So examples are made of them as of the actor's own episodes, and traced to them. They are evidence of training tasks
alone: what an expert knows of a held-out task is nobody's business.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from evolvent.agents.context import Context
from evolvent.agents.episode import Job
from evolvent.agents.errors import SetupError
from evolvent.agents.solutions.act import Policy
from evolvent.environments.protocol import EnvironmentSpec
from evolvent.environments.types import Task

EXPERT = "expert"


@runtime_checkable
class Expert(Protocol):
    """An environment that knows what is right."""

    def expert(self, task: Task) -> list[str]:
        """The right actions of an episode, in order."""
        ...


async def demonstrate(
    context: Context,
    tasks: Sequence[Task],
    *,
    generation: int,
    environment: EnvironmentSpec | None = None,
    written: bool = False,
) -> list[str]:
    """Keys of the expert's training episodes on these tasks, in their order; no model is asked.

    Their prompts are those that the actor gets, and their replies are worded as it would have to word them.

    Args:
        environment: that of the tasks; None is the generation's.
        written: in the prompts of a model that writes its actions, also where options could be scored.

    Raises:
        SetupError: the environment has no expert, or one for some of its seats only.
    """
    spec = environment or context.objective.environment_at(generation)
    plans = await right_actions(context, tasks, spec)
    actor = context.model("actor")
    model = actor.serving(EXPERT, actor.model)
    jobs = [
        Job(
            task,
            {"": Policy(model, demonstrated=tuple(plan), written=written)},
            "train",
            generation,
            arm=EXPERT,
            seed=context.seed,
        )
        for task, plan in zip(tasks, plans, strict=True)
    ]
    await context.rollouts.run(spec, jobs)
    return [job.key for job in jobs]


async def right_actions(context: Context, tasks: Sequence[Task], spec: EnvironmentSpec) -> list[list[str]]:
    """What the environment's expert would do on each task: a supervised stream's label.

    Raises:
        SetupError: as for `demonstrate`.
    """
    async with context.rollouts.pool.use(spec) as world:
        if not isinstance(world, Expert) or len(world.players) > 1:
            raise SetupError(
                f"{spec.name} has no expert for {' and '.join(world.players)} to learn from. "
                "Take an environment with one, or successes of the model's own."
            )
        # In a thread, because it may be another process that is asked.
        return [await asyncio.to_thread(world.expert, task) for task in tasks]
