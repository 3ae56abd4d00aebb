"""DARE: Language Models are Super Mario, Absorbing Abilities from Homologous Models (arXiv 2311.03099).

One generation fine-tunes the base once for each skill, drops most entries of each change at random, divides the rest by
what was kept, and adds the changes to the base. Drop rate and scale are searched on validation tasks of all skills, by
the worst of them; held-out tasks of all skills see the winner alone.

Deviations from the paper and its released code:
- The fine-tuned models are folded LoRA adapters, which begin with a dense change of low rank.
- Skills are settings of one environment (`skills`), where the paper has data sets of their own.
- Tensors are merged one after the other: the released code holds all models in memory.
- A change of more than `largest_change` of the base's weights is refused with a clear message, as the paper warns.
- Fisher and RegMean merging, which need data, are left out.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any, Literal

from langgraph.graph import StateGraph
from langgraph.runtime import Runtime
from pydantic import Field

from evolvent.agents.context import Context
from evolvent.agents.evolution import State, cycle
from evolvent.agents.merging import keep_weights, on_trial, scratch
from evolvent.agents.phases import tasks
from evolvent.agents.skilled import baseline, evaluate_skilled
from evolvent.agents.solutions.supervision import demonstrate_skill, specialise
from evolvent.agents.tasks.skills import Judged, Skill, judge_skills, skills
from evolvent.agents.weights import served, weights_of
from evolvent.memory.compute import computed
from evolvent.memory.weights.adapters import Adapter, Adapters
from evolvent.memory.weights.blend import Merge
from evolvent.memory.weights.training import Training

ROLES = ("actor",)
ENVIRONMENTS = ("labelled", "word_problems", "reasoning_gym")
CARRIES_OVER = True


class Config(Training):
    skills: tuple[dict[str, Any], ...] = ()
    """Options of the environment, one for each skill; empty takes two that fit the environment."""
    drops: tuple[float, ...] = Field((0.5, 0.9), min_length=1)
    """p: shares of a change's entries that are dropped, all of which are tried. 0 is the same rule without DARE."""
    scales: tuple[float, ...] = Field((1.0,), min_length=1)
    """λ: what the changes are multiplied with before they are added, all of which are tried; of `task_arithmetic`."""
    rule: Literal["task_arithmetic", "average", "ties"] = "task_arithmetic"
    """Applied to the processed changes."""
    rescale: bool = True
    """Divide what is kept by 1 - p; off, the paper's ablation."""
    mask_seed: int = Field(0, ge=0)
    largest_change: float | None = Field(0.1, gt=0)
    """See `Merge.largest_change`."""
    alone: bool = True
    """Also score each model with its own change dropped, at the largest p: it should do as well as before."""
    validation: int = Field(24, ge=1)
    """Tasks, over all skills."""
    reply_tokens: int = Field(64, ge=1)
    epochs: float = Field(3, gt=0)
    learning_rate: float | None = Field(1e-3, gt=0)

    def merge(self, drop: float, scale: float, parents: int) -> Merge:
        """Of so many parents."""
        factor = scale / parents if self.rule == "average" else scale
        return Merge(
            method="dare_ties" if self.rule == "ties" else "dare",
            weights=(factor,) * parents,
            drop=drop,
            rescale=self.rescale,
            largest_change=self.largest_change,
            seed=self.mask_seed,
        )


PRESETS = {
    "small": Config(drops=(0.9,), validation=8),
    "paper": Config(drops=(0.1, 0.2, 0.5, 0.9, 0.99), scales=(0.5, 1.0), validation=200, learning_rate=2e-4),
}


def build(config: Config) -> StateGraph[State, Context, State, State]:
    """baseline, then per generation: tasks → demonstrate → specialise → drop → merge → evaluate."""

    async def demonstrate(state: State, runtime: Runtime[Context]) -> State:
        """The expert's episodes on this generation's tasks of every skill."""
        context, generation = runtime.context, state["generation"]
        keys = [
            await demonstrate_skill(context, skill, generation=generation)
            for skill in skills(context, config.skills, generation)
        ]
        return {"episodes": [key for some in keys for key in some]}

    async def finetune(state: State, runtime: Runtime[Context]) -> State:
        """One model of the base for each skill."""
        context, generation = runtime.context, state["generation"]
        training = Training(**config.model_dump(include=set(Training.model_fields)))
        among = skills(context, config.skills, generation)
        so_far = range(1, generation + 1)
        made = await specialise(context, among, training, generation=generation, generations=so_far)
        return {"proposals": [{"adapter": each.full_name} for each in made]}

    async def drop(state: State, runtime: Runtime[Context]) -> State:
        """Each model on its own skill, as it was trained and with most of its change dropped."""
        context, generation = runtime.context, state["generation"]
        parents, rate = _parents(context, state), max(config.drops)
        if not config.alone:
            return {}
        found = {}
        for skill, parent in zip(skills(context, config.skills, generation), parents, strict=True):
            whole = await _judge(context, config, await served(context, parent), [skill], generation, parent.full_name)
            dropped = await _tried(context, config, [parent], (rate, 1.0), [skill], generation)
            found[skill.name] = {
                "adapter": parent.full_name,
                "drop": rate,
                "whole": whole.by_skill[skill.name],
                "dropped": dropped.by_skill[skill.name],
            }
        return {
            "proposals": [{**each, **alone} for each, alone in zip(state["proposals"], found.values(), strict=True)]
        }

    async def merge(state: State, runtime: Runtime[Context]) -> State:
        """The drop rate and scale that do best on validation, by the worst skill; that merge is kept."""
        context, generation = runtime.context, state["generation"]
        among, parents = skills(context, config.skills, generation), _parents(context, state)
        table = []
        for pair in product(config.drops, config.scales):
            judged = await _tried(context, config, parents, pair, among, generation)
            table.append({"drop": pair[0], "scale": pair[1], **judged.by_skill})
        best = max(table, key=lambda row: _worth([row[skill.name] for skill in among]))
        how = config.merge(best["drop"], best["scale"], len(parents)).model_dump(mode="json")
        out = scratch(context, f"{generation}-merged")
        await computed(write, weights_of(context), parents, out, config, (best["drop"], best["scale"]))
        merged = await keep_weights(context, "dare", out, generation=generation, parents=parents, how=how)
        shutil.rmtree(out.parent, ignore_errors=True)
        return {"adapter": merged.full_name, "proposals": [{"alone": state["proposals"], "table": table, "how": how}]}

    async def evaluate(state: State, runtime: Runtime[Context]) -> State:
        """The merged model on held-out tasks of every skill."""
        (told,) = state["proposals"]
        among = skills(runtime.context, config.skills, state["generation"])
        return await evaluate_skilled(state, runtime, among, reply_tokens=config.reply_tokens, more={"merge": told})

    return cycle(
        {"baseline": baseline(config.skills, config.reply_tokens)},
        {
            "tasks": tasks,
            "demonstrate": demonstrate,
            "specialise": finetune,
            "drop": drop,
            "merge": merge,
            "evaluate": evaluate,
        },
    )


def write(base: str, parents: Sequence[Adapter], out: Path, config: Config, pair: tuple[float, float]) -> Path:
    """The merge of the parents at a drop rate and scale; the same arguments give the same bytes."""
    from evolvent.memory.weights.merge import merge

    settings = config.merge(*pair, len(parents))
    return merge(base, [each.folder for each in parents], out, settings)


async def _judge(
    context: Context, config: Config, model: Any, among: Sequence[Skill], generation: int, arm: str
) -> Judged:
    """On validation tasks; a skill alone has as many as it has among the others."""
    whole = len(skills(context, config.skills, generation))
    return await judge_skills(
        context,
        model,
        among,
        "validation",
        config.validation * len(among) // whole,
        phase="gate",
        generation=generation,
        arm=arm,
        reply_tokens=config.reply_tokens,
    )


async def _tried(
    context: Context,
    config: Config,
    parents: Sequence[Adapter],
    pair: tuple[float, float],
    among: Sequence[Skill],
    generation: int,
) -> Judged:
    """Scores of one merge, whose weights are deleted again."""
    out = scratch(context, f"{generation}-tried")
    await computed(write, weights_of(context), parents, out, config, pair)
    name = "dare-{}-{}-{}".format(*pair, "+".join(each.full_name for each in parents))
    judged = await _judge(context, config, await on_trial(context, name, out), among, generation, name)
    shutil.rmtree(out, ignore_errors=True)
    return judged


def _worth(scores: Sequence[float]) -> tuple[float, float]:
    return min(scores), sum(scores)


def _parents(context: Context, state: Mapping[str, Any]) -> list[Adapter]:
    registry = Adapters(context.directory)
    return [registry.get(each["adapter"]) for each in state["proposals"]]
