"""LoRA: Low-Rank Adaptation of Large Language Models (arXiv 2106.09685).

The weights stay as they are; beside chosen layers a product of two small matrices is learned, here from the expert's
episodes. Each generation trains one adapter of the base on the demonstrations of all generations so far, and acts with
it: on top of the base, or worked into its weights.

Deviations from the paper and its released code:
- The expert of the environment stands for the labelled data set, one example for each of its steps.
- No dropout in the adapter's path. The learning rate falls linearly after a warm-up of 5 %.
- Figures for GPT-2 are the preset `paper`; `targets=()` with `variant=rslora` is what later work recommends.
- Full fine-tuning, which the paper compares with, is not trained here: a row tells parameters, bytes and memory.
"""

from __future__ import annotations

from typing import Any

from langgraph.graph import StateGraph
from langgraph.runtime import Runtime
from pydantic import Field

from evolvent.agents import phases
from evolvent.agents.context import Context
from evolvent.agents.evolution import State, cycle
from evolvent.agents.merging import keep_weights, scratch
from evolvent.agents.solutions.supervision import demonstrate_skill, gold
from evolvent.agents.tasks.skills import Skill
from evolvent.agents.weights import train, weights_of
from evolvent.memory.compute import computed
from evolvent.memory.weights.adapters import Adapter, Adapters
from evolvent.memory.weights.training import Training

ROLES = ("actor",)
ENVIRONMENTS = ("workshop", "labelled", "word_problems", "reasoning_gym")
CARRIES_OVER = True


class Config(Training):
    rank: int = Field(8, ge=1)
    alpha: int = Field(8, ge=1)
    """The update is B·A times alpha over rank: whoever changes the rank alone changes the step as well."""
    targets: tuple[str, ...] = ("q_proj", "v_proj")
    learning_rate: float | None = Field(1e-3, gt=0)
    merged: bool = False
    """Act with the adapter worked into the weights, which costs a folder as large as the base."""


PRESETS = {
    "small": Config(),
    "paper": Config(rank=4, alpha=32, learning_rate=2e-4),
}


def build(config: Config) -> StateGraph[State, Context, State, State]:
    """baseline, then per generation: tasks → demonstrate → train → deploy → evaluate."""

    async def demonstrate(state: State, runtime: Runtime[Context]) -> State:
        """The expert's episodes on this generation's tasks."""
        context, generation = runtime.context, state["generation"]
        return {"episodes": await demonstrate_skill(context, _whole(context, generation), generation=generation)}

    async def update(state: State, runtime: Runtime[Context]) -> State:
        """One adapter of the base on all demonstrations so far."""
        context, generation = runtime.context, state["generation"]
        rows = await gold(context, _whole(context, generation), range(1, generation + 1), name="gold")
        training = Training(**config.model_dump(include=set(Training.model_fields)))
        adapter = await train(context, "lora", rows, generation=generation, training=training)
        return {"adapter": adapter.full_name, "proposals": [_costs(adapter)]}

    async def deploy(state: State, runtime: Runtime[Context]) -> State:
        """The adapter beside the weights, or worked into them."""
        context, generation = runtime.context, state["generation"]
        if not config.merged:
            return {}
        adapter = Adapters(context.directory).get(state["adapter"])
        out = scratch(context, f"{generation}-folded")
        await computed(_fold, weights_of(context), adapter, out)
        how = {"rule": "fold"}
        merged = await keep_weights(context, "lora-folded", out, generation=generation, parents=[adapter], how=how)
        return {"adapter": merged.full_name}

    async def evaluate(state: State, runtime: Runtime[Context]) -> State:
        """Held-out success, and what the adapter cost."""
        (costs,) = state["proposals"]
        return await phases.evaluate(state, runtime, more={"trained": costs})

    return cycle(
        {"baseline": phases.baseline},
        {
            "tasks": phases.tasks,
            "demonstrate": demonstrate,
            "train": update,
            "deploy": deploy,
            "evaluate": evaluate,
        },
    )


def _whole(context: Context, generation: int) -> Skill:
    """The environment as it is."""
    return Skill("all", context.objective.environment_at(generation))


def _costs(adapter: Adapter) -> dict[str, Any]:
    card = adapter.card
    measured = {name: card.metrics[name] for name in ("loss", "seconds", "peak_bytes")}
    return {"adapter": adapter.full_name, "parameters": card.parameters, "bytes": card.bytes, **measured}


def _fold(base: str, adapter: Adapter, out: Any) -> None:
    from evolvent.memory.weights.merge import fold

    fold(base, adapter.folder, out)
