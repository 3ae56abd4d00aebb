"""Nodes that recipes share: the frozen model first, tasks, and the evaluation of whatever weights a generation has."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from langgraph.runtime import Runtime

from evolvent.agents.context import Context
from evolvent.agents.evaluation.held_out import evaluate_held_out
from evolvent.agents.evolution import State, experiences, finish_generation, spent_on
from evolvent.agents.merging import acting
from evolvent.agents.models.role import RoleModel
from evolvent.agents.solutions.act import Policy
from evolvent.agents.solutions.seats import bare, learning_seat
from evolvent.environments.types import Cost
from evolvent.memory.weights.adapters import Adapter, Adapters

Seats = Callable[[Context, RoleModel], Mapping[str, Policy]]
"""Every seat's policy with that model in the learning seats."""


async def baseline(state: State, runtime: Runtime[Context], *, seats: Seats = bare) -> State:
    """Generation 0: the frozen model on the held-out tasks, in the world that the last generation will meet."""
    context = runtime.context
    context.say("evaluating the frozen model")
    frozen = seats(context, context.model("actor"))
    last = context.objective.generations
    evaluation = await evaluate_held_out(context, frozen, generation=0, player=learning_seat(context), world=last)
    finish_generation(context, 0, evaluation, spent=spent_on(context, 0))
    return {"generation": 0, "adapter": ""}


async def tasks(state: State, runtime: Runtime[Context]) -> State:
    """The next generation begins, with training tasks of its own."""
    context, generation = runtime.context, state["generation"] + 1
    drawn = context.tasks("train", context.objective.tasks, generation)
    return {"generation": generation, "tasks": [task.id for task in drawn]}


async def feedback(state: State, runtime: Runtime[Context]) -> State:
    """The environment's word on each attempt."""
    found = experiences(runtime.context, state["episodes"])
    return {"scores": {each.trajectory.id: each.feedback.score for each in found}}


async def evaluate(
    state: State, runtime: Runtime[Context], *, seats: Seats = bare, more: Mapping[str, Any] = {}
) -> State:
    """The generation's weights alone, on the held-out tasks.

    Args:
        more: fields of the generation's row beside its scores.
    """
    context, generation = runtime.context, state["generation"]
    context.say(f"generation {generation}: evaluating on held-out tasks")
    policies = seats(context, await acting(context, state.get("adapter", "")))
    evaluation = await evaluate_held_out(context, policies, generation=generation, player=learning_seat(context))
    spent = spent_on(context, generation) + Cost(**state.get("asked", {}))
    finish_generation(context, generation, evaluation, spent=spent, adapter=state["adapter"], **more)
    return {"episodes": [], "proposals": [], "scores": {}, "tasks": [], "asked": {}}


def adapter_of(context: Context, state: State) -> Adapter | None:
    """What this generation acts with; None is the base."""
    name = state.get("adapter", "")
    return Adapters(context.directory).get(name) if name else None
