"""Supervised examples of a run: what the environment's expert did on the training tasks of the generations so far."""

from __future__ import annotations

from collections.abc import Sequence

from evolvent.agents.context import Context
from evolvent.agents.evolution import experiences
from evolvent.agents.solutions.demonstration import demonstrate
from evolvent.agents.tasks.skills import Skill, skill_tasks
from evolvent.agents.weights import train
from evolvent.memory.weights.adapters import Adapter
from evolvent.memory.weights.dataset import DataSet
from evolvent.memory.weights.examples import supervised
from evolvent.memory.weights.training import Training


async def demonstrate_skill(context: Context, skill: Skill, *, generation: int) -> list[str]:
    """Keys of the expert's episodes on the generation's training tasks of a skill; played once."""
    drawn = skill_tasks(context, skill, "train", context.objective.tasks, generation)
    return await demonstrate(context, drawn, generation=generation, environment=skill.environment)


async def gold(context: Context, skill: Skill, generations: Sequence[int], *, name: str) -> DataSet:
    """An example for each step of the expert in these generations."""
    keys = [key for number in generations for key in await demonstrate_skill(context, skill, generation=number)]
    return supervised((each.trajectory for each in experiences(context, keys)), name=name, only="all")


async def specialise(
    context: Context, among: Sequence[Skill], training: Training, *, generation: int, generations: Sequence[int]
) -> list[Adapter]:
    """An adapter of the base for each skill, trained on the expert's episodes in these generations and on no others."""
    found = []
    for skill in among:
        rows = await gold(context, skill, generations, name=skill.name)
        found.append(await train(context, skill.name, rows, generation=generation, training=training))
    return found
