"""SDFT: Self-Distillation Bridges Distribution Gap in Language Model Fine-Tuning (arXiv 2402.13669).

Before it is fine-tuned, the model says every reference in its own words. Where the answer is still right it is trained
on that instead: the targets then lie where the model was already, and what it could do before is disturbed less.

All references of a stream are rewritten before the first training; then generation g fine-tunes on its g-th task, the
adapter of the one before going on. `rewrites=False` keeps every reference, which is plain fine-tuning. What is kept
is measured on earlier tasks of the stream, on plain questions, and by how well the model still expects its own replies.

Deviations from the paper and its released code:
- The paper trains on one task; that is a run of one generation.
- Rewrites are sampled at a temperature alone, without its cuts to the likeliest words.
- Whether an answer is still right is the environment's word, for decimals and fractions too. Two answers that cannot
  be read are not equal, as they are in the released code; there a decimal answer forces the reference.
- A mention of the reference anywhere, in any of a few wordings, refuses a rewrite.
- Safety on harmful requests and win rates by a judge are not measured.
- The learning rate falls linearly after a warm-up, not by a cosine.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from statistics import fmean
from typing import Any

from langgraph.graph import StateGraph
from langgraph.runtime import Runtime
from pydantic import BaseModel, ConfigDict, Field

from evolvent.agents import phases
from evolvent.agents.context import Context
from evolvent.agents.evaluation.continual import judge_stream
from evolvent.agents.evaluation.forgetting import Ability, success, surprise
from evolvent.agents.evolution import State, cycle, experiences
from evolvent.agents.models.protocol import Scorer
from evolvent.agents.models.role import RoleModel
from evolvent.agents.refinement.correct import keep_rows, kept_rows
from evolvent.agents.solutions.demonstration import demonstrate
from evolvent.agents.solutions.rehearsal import rehearsed
from evolvent.agents.solutions.rewrite import Rewrite, rewrite
from evolvent.agents.tasks.skills import skill_tasks
from evolvent.agents.tasks.stream import next_task, task_stream
from evolvent.agents.weights import served, train
from evolvent.environments.protocol import EnvironmentSpec
from evolvent.environments.types import Cost, Trajectory
from evolvent.memory.weights.examples import supervised
from evolvent.memory.weights.training import Training

ROLES = ("actor",)
ENVIRONMENTS = ("word_problems", "labelled")
CARRIES_OVER = True
_PLAIN = EnvironmentSpec("labelled", {"task": "plain"})
"""Questions that models know the answers to, untouched by the stream."""


class Config(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    stream: tuple[dict[str, Any], ...] = ()
    """Options of the environment for each generation in turn; empty takes the environment's own stream."""
    rewrites: bool = True
    """Off, every reference stays as it is: plain fine-tuning on the same tasks."""
    temperature: float = Field(0.7, ge=0)
    """Of the rewrites."""
    reply_tokens: int = Field(64, ge=1)
    """Of a rewrite, and of an answer in evaluation, at most."""
    plain: int = Field(4, ge=0)
    """Plain questions asked after each generation; 0 asks none."""
    own: int = Field(3, ge=0)
    """The frozen model's own replies, whose likelihood is measured after each generation."""
    epochs: float = Field(3, gt=0)
    learning_rate: float = Field(1e-3, gt=0)
    batch_size: int = Field(8, ge=1)
    rank: int = Field(8, ge=1)
    alpha: int = Field(16, ge=1)
    targets: tuple[str, ...] = ("q_proj", "v_proj")


PRESETS = {
    "small": Config(),
    "paper": Config(temperature=0.95, reply_tokens=512, plain=200, own=50, epochs=5, learning_rate=1e-4),
}


def build(config: Config) -> StateGraph[State, Context, State, State]:
    """baseline → rewrite, then per generation: task → refine → update → evaluate."""

    async def judge(context: Context, model: RoleModel, generation: int, adapter: str = "", **more: Any) -> None:
        """A generation's row: the whole stream, and what the model could do before it."""
        await judge_stream(
            context,
            model,
            task_stream(context, config.stream),
            generation=generation,
            adapter=adapter,
            reply_tokens=config.reply_tokens,
            written=True,
            retained=await _retained(context, config, model, generation),
            **more,
        )

    async def baseline(state: State, runtime: Runtime[Context]) -> State:
        await judge(runtime.context, runtime.context.model("actor"), 0)
        return {"generation": 0, "adapter": ""}

    async def distil(state: State, runtime: Runtime[Context]) -> State:
        """Every reference of the stream in the frozen model's own words, before anything is trained."""
        context = runtime.context
        if config.rewrites:
            for generation in range(1, context.objective.generations + 1):
                context.say(f"rewriting the references of task {generation}")
                await _rewritten(context, config, generation)
        return {}

    async def refine(state: State, runtime: Runtime[Context]) -> State:
        """One target for each task: its rewrite if that was accepted, else its reference."""
        context, generation = runtime.context, state["generation"]
        found = await _rewritten(context, config, generation) if config.rewrites else []
        targets = [each.target for each in found] or await _references(context, config, generation)
        return keep_rows(context, supervised(targets, name="sdft", only="all"))

    async def update(state: State, runtime: Runtime[Context]) -> State:
        """The adapter, trained on; the first is one of the seed weights."""
        context, generation = runtime.context, state["generation"]
        training = Training(
            **config.model_dump(include={"epochs", "learning_rate", "batch_size", "rank", "alpha", "targets"}),
            seed=context.seed,
        )
        start = phases.adapter_of(context, state)
        rows = kept_rows(context, state)
        adapter = await train(context, "sdft", rows, generation=generation, training=training, start=start)
        return {"adapter": adapter.full_name}

    async def evaluate(state: State, runtime: Runtime[Context]) -> State:
        """All tasks of the stream and what was never trained on, by the new weights."""
        context, generation = runtime.context, state["generation"]
        found = await _rewritten(context, config, generation) if config.rewrites else []
        model = await served(context, phases.adapter_of(context, state))
        told: dict[str, Any] = {
            "dataset": state["dataset"],
            "targets": {each.reference.task.id: each.verdict for each in found},
            "verdicts": Counter(each.verdict for each in found),
            "seed_nats": await _seed_nats(context, found),
        }
        asked = sum((each.cost for each in found), Cost())
        await judge(context, model, generation, state["adapter"], asked=asdict(asked), **told)
        return {"episodes": [], "tasks": []}

    return cycle(
        {"baseline": baseline, "rewrite": distil},
        {"task": next_task(config.stream), "refine": refine, "update": update, "evaluate": evaluate},
    )


# -- inside ------------------------------------------------------------------------------------------------------------


async def _references(context: Context, config: Config, generation: int) -> list[Trajectory]:
    """The expert's episodes on that generation's tasks."""
    skill = task_stream(context, config.stream)[generation - 1]
    tasks = skill_tasks(context, skill, "train", context.objective.tasks, generation)
    keys = await demonstrate(context, tasks, generation=generation, environment=skill.environment, written=True)
    return [each.trajectory for each in experiences(context, keys)]


async def _rewritten(context: Context, config: Config, generation: int) -> list[Rewrite]:
    """Asked for again, what was rewritten already."""
    return await rewrite(
        context,
        await _references(context, config, generation),
        task_stream(context, config.stream)[generation - 1].environment,
        generation=generation,
        temperature=config.temperature,
        reply_tokens=config.reply_tokens,
    )


async def _seed_nats(context: Context, found: Sequence[Rewrite]) -> dict[str, float]:
    """Nats per token, under the frozen model, of the targets and of the references; empty where it cannot score."""
    model = context.model("actor").model
    if not found or not isinstance(model, Scorer):
        return {}
    sets = {
        "targets": supervised((each.target for each in found), only="all"),
        "references": supervised((each.reference for each in found), only="all"),
    }
    return {name: _mean(await surprise(model, rows.examples)) for name, rows in sets.items()}


async def _retained(context: Context, config: Config, model: RoleModel, generation: int) -> dict[str, float]:
    """Success on plain questions, and nats per token of the frozen model's own replies."""
    kept: dict[str, float] = {}
    if config.plain:
        asked = success(context, model, _PLAIN, n=config.plain, arm="retained", generation=generation)
        kept["plain"] = _mean(await asked)
    if config.own and isinstance(model.model, Scorer):
        own = await rehearsed(context, config.own, generation=0, tokens=48)
        kept["own_nats"] = _mean(await surprise(model.model, own.examples))
    return kept


def _mean(ability: Ability) -> float:
    return fmean(ability.items.values()) if ability.items else 0.0
