"""A fixed set of training tasks: every generation works on the same ones, as on a data set."""

from __future__ import annotations

from dataclasses import dataclass

from langgraph.runtime import Runtime

from evolvent.agents.context import Context
from evolvent.agents.evolution import Node, State
from evolvent.environments.types import Task


@dataclass(frozen=True, slots=True)
class TrainingSet:
    tasks: list[Task]
    examples: list[Task]
    """Training tasks beside them, whose solutions a prompt may show."""


def training_set(context: Context, examples: int = 0) -> TrainingSet:
    """The objective's tasks and so many more; the same whenever it is asked for."""
    asked = context.objective.tasks
    drawn = context.tasks("train", asked + examples)
    return TrainingSet(drawn[:asked], drawn[asked:])


def fixed_tasks(examples: int = 0) -> Node:
    """The node that begins a generation with the tasks of the one before."""

    async def tasks(state: State, runtime: Runtime[Context]) -> State:
        """The same tasks in every generation."""
        drawn = training_set(runtime.context, examples).tasks
        return {"generation": state["generation"] + 1, "tasks": [task.id for task in drawn]}

    return tasks
