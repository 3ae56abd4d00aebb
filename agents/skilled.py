"""Nodes for recipes whose generations are judged on several skills: the frozen model first, then each generation's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from langgraph.runtime import Runtime

from evolvent.agents.context import Context
from evolvent.agents.evolution import Node, State, finish_generation, spent_on
from evolvent.agents.merging import acting
from evolvent.agents.tasks.skills import Options, Skill, judge_skills, skills


def baseline(options: Sequence[Options], reply_tokens: int) -> Node:
    """The node that judges the frozen model, in the world that the last generation will meet."""

    async def node(state: State, runtime: Runtime[Context]) -> State:
        """Generation 0: the frozen model on held-out tasks of every skill."""
        among = skills(runtime.context, options, runtime.context.objective.generations)
        return await evaluate_skilled({"generation": 0, "adapter": ""}, runtime, among, reply_tokens=reply_tokens)

    return node


async def evaluate_skilled(
    state: State,
    runtime: Runtime[Context],
    among: Sequence[Skill],
    *,
    reply_tokens: int,
    more: Mapping[str, Any] = {},
) -> State:
    """The generation's weights alone, on held-out tasks of every skill.

    Args:
        more: fields of the generation's row beside its scores.
    """
    context, generation = runtime.context, state["generation"]
    context.say(f"generation {generation}: evaluating on held-out tasks of {len(among)} skills")
    model = await acting(context, state["adapter"])
    held_out = context.objective.evaluated
    judged = await judge_skills(
        context, model, among, "test", held_out, phase="eval", generation=generation, reply_tokens=reply_tokens
    )
    finish_generation(
        context,
        generation,
        judged.whole,
        spent=spent_on(context, generation),
        adapter=state["adapter"],
        by_skill=dict(judged.by_skill),
        **more,
    )
    return {"generation": generation, "adapter": state["adapter"], "episodes": [], "proposals": [], "tasks": []}
