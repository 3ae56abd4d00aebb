"""A stream of tasks: generation g learns the g-th, and all that were learned before it are to be kept.

A task of the stream is a skill: the run's environment with options of its own.
"""

from __future__ import annotations

from collections.abc import Sequence

from langgraph.runtime import Runtime

from evolvent.agents.context import Context
from evolvent.agents.errors import SetupError
from evolvent.agents.evolution import Node, State
from evolvent.agents.tasks.skills import Options, Skill, skill_tasks, skills
from evolvent.environments.errors import BadOptionError
from evolvent.environments.labelled import FAMILIES, Family
from evolvent.environments.labelled import stream as labelled_stream


def task_stream(
    context: Context, options: Sequence[Options] = (), families: Sequence[Family] = FAMILIES
) -> list[Skill]:
    """As many tasks as the run has generations, in the order in which they are learned.

    Args:
        options: of each task; without any `labelled` has a stream of its own, and other environments have the number
            of steps of a problem, from 1.
        families: of `labelled`'s own stream.

    Raises:
        SetupError: fewer tasks than generations, or an option that the environment refuses.
    """
    spec, wanted = context.objective.environment, context.objective.generations
    try:
        if not options and spec.name == "labelled":
            own = {key: value for key, value in spec.options.items() if key in ("world", "labels")}
            options = labelled_stream(wanted, families=families, **own)
        found = skills(context, options or [{"steps": number} for number in range(1, wanted + 1)])
        for skill in found[:wanted]:
            skill_tasks(context, skill, "train", 1)
    except BadOptionError as error:
        raise SetupError(f"No stream of {wanted} tasks: {error} Ask for fewer generations.") from error
    if len(found) < wanted:
        raise SetupError(f"A stream of {len(found)} tasks for {wanted} generations. Name more, or ask for fewer.")
    return list(found[:wanted])


def next_task(options: Sequence[Options] = (), families: Sequence[Family] = FAMILIES) -> Node:
    """The node that begins a generation with training tasks of the next task in the stream."""

    async def task(state: State, runtime: Runtime[Context]) -> State:
        """The next task of the stream."""
        context, generation = runtime.context, state["generation"] + 1
        skill = task_stream(context, options, families)[generation - 1]
        drawn = skill_tasks(context, skill, "train", context.objective.tasks, generation)
        return {"generation": generation, "tasks": [each.id for each in drawn]}

    return task
