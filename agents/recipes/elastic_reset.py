"""Elastic Reset: Language Model Alignment with Elastic Reset (arXiv 2312.07551).

A policy is trained by PPO on the verifier's reward, with a penalty for leaving the initial model. Every so many updates
it becomes the moving average of itself, and the average begins again from the initial model; critic and optimizer stay
as they are. A generation is a part of that one training, after which the policy is judged for reward and for drift.

Deviations from the paper and its released code:
- The reward is the environment's verifier of a single reply instead of a reward model.
- The reference, the critic's features and the start of the average are the base without the adapter.
- No dropout in the adapter's path, no early stop at a target KL; the learning rate falls linearly after a warm-up.
- The released configurations give PPO ten times the KL coefficient of elastic reset. Here `reset_every=0` is PPO with
  the same one. The released script ends before its first update, so its defaults are taken from its configuration.
- The curve of reward and KL is that of each update's own replies; held-out success and perplexity are measured once a
  generation, so just before a reset and after it only where `updates` says so.
"""

from __future__ import annotations

import json
from functools import partial
from statistics import fmean
from typing import Any

from langgraph.graph import StateGraph
from langgraph.runtime import Runtime
from pydantic import BaseModel, ConfigDict, Field

from evolvent.agents import phases
from evolvent.agents.context import Context
from evolvent.agents.errors import SetupError
from evolvent.agents.evaluation.forgetting import perplexity, prose
from evolvent.agents.evolution import State, cycle, experiences, once
from evolvent.agents.feedback.verifier import Verifier, key
from evolvent.agents.models.protocol import Scorer
from evolvent.agents.solutions.sample import prompted, sample, sampled
from evolvent.agents.tasks.fixed import fixed_tasks, training_set
from evolvent.agents.weights import reinforce, served
from evolvent.memory.weights.adapters import Adapters
from evolvent.memory.weights.examples import asked
from evolvent.memory.weights.training import Training

ROLES = ("actor",)
ENVIRONMENTS = ("reasoning_gym", "word_problems")
CARRIES_OVER = True


class Config(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    updates: int = Field(6, ge=1)
    """Of the policy in a generation, each from one batch of fresh replies."""
    reset_every: int = Field(5, ge=0)
    """Updates between two resets, n; 0 never resets, which is plain PPO."""
    decay: float = Field(0.77, ge=0, lt=1)
    """Of the moving average with each update, η: a reset keeps about 1 − ηⁿ of what a window has learned."""
    kl: float = Field(0.02, ge=0)
    """Coefficient of the penalty, in reward per nat of a token."""
    epochs: int = Field(1, ge=1)
    """Passes over a batch of replies."""
    minibatch: int = Field(4, ge=1)
    """Replies of one step of the optimizer."""
    batch_size: int = Field(4, ge=1)
    """Replies of one update."""
    reply_tokens: int = Field(8, ge=1)
    learning_rate: float = Field(2e-4, gt=0)
    rank: int = Field(16, ge=1)
    alpha: int = Field(32, ge=1)
    prose: int = Field(8, ge=0)
    """Paragraphs whose perplexity is measured as drift."""


PRESETS = {
    "small": Config(),
    "paper": Config(
        updates=200,
        reset_every=260,
        decay=0.995,
        epochs=4,
        minibatch=16,
        batch_size=16,
        reply_tokens=128,
        learning_rate=1.41e-5,
        prose=200,
    ),
}


def build(config: Config) -> StateGraph[State, Context, State, State]:
    """baseline, then per generation: tasks → solve → feedback → optimise → evaluate."""
    seats = partial(prompted, reply_tokens=config.reply_tokens)

    async def baseline(state: State, runtime: Runtime[Context]) -> State:
        return await phases.baseline(state, runtime, seats=seats)

    async def solve(state: State, runtime: Runtime[Context]) -> State:
        """A sampled reply to each training task by the policy of now; the first show the prompts of all updates."""
        context, generation = runtime.context, state["generation"]
        context.say(f"generation {generation}: sampling replies")
        model = await served(context, phases.adapter_of(context, state))
        policies = seats(context, model, temperature=1.0)
        return {"episodes": await sample(context, training_set(context).tasks, policies, generation=generation)}

    async def optimise(state: State, runtime: Runtime[Context]) -> State:
        """So many updates more of the one training by PPO, in which the resets fall due."""
        from evolvent.memory.weights.ppo_step import Ppo
        from evolvent.memory.weights.regularize import Elastic

        context, generation = runtime.context, state["generation"]
        keys = sampled(training_set(context).tasks, generation=1, k=1)
        first = [each.trajectory for each in experiences(context, keys)]
        dataset = asked(first, name="elastic-reset")
        tasks = {f"{each.task.environment}/{each.task.id}": each.task for each in first}
        training = Training(
            steps=config.updates * context.objective.generations,
            batch_size=config.batch_size,
            learning_rate=config.learning_rate,
            rank=config.rank,
            alpha=config.alpha,
            seed=context.seed,
        )
        async with context.rollouts.pool.use(context.objective.environment_at(generation)) as environment:
            behind = {key(each.messages): tasks[each.task] for each in dataset.examples}
            adapter = await reinforce(
                context,
                "elastic-reset",
                dataset,
                generation=generation,
                reward=Verifier(environment, behind, context.seed),
                training=training,
                settings=Ppo(
                    beta=config.kl,
                    epochs=config.epochs,
                    minibatch=config.minibatch,
                    reply_tokens=config.reply_tokens,
                ),
                elastic=Elastic(decay=config.decay, every=config.reset_every) if config.reset_every else None,
                until=config.updates * generation,
                before=phases.adapter_of(context, state),
            )
        return {"adapter": adapter.full_name}

    async def evaluate(state: State, runtime: Runtime[Context]) -> State:
        """Held-out success, the curve of reward and KL since the last generation, and what general text costs now."""
        context = runtime.context
        more = {"curve": _curve(context, config, state), "drift": await _drift(context, config, state)}
        return await phases.evaluate(state, runtime, seats=seats, more=more)

    return cycle(
        {"baseline": baseline},
        {
            "tasks": fixed_tasks(),
            "solve": solve,
            "feedback": phases.feedback,
            "optimise": optimise,
            "evaluate": evaluate,
        },
    )


def _curve(context: Context, config: Config, state: State) -> list[dict[str, Any]]:
    """Reward and KL of each update's replies, and whether the policy was reset after it."""
    from evolvent.memory.weights.metrics import read_metrics

    measured = read_metrics(Adapters(context.directory).get(state["adapter"]).folder)[-config.updates :]
    return [
        {"update": int(each["step"]), "reward": each["reward"], "kl": each["kl"], "reset": bool(each.get("reset"))}
        for each in measured
    ]


async def _drift(context: Context, config: Config, state: State) -> dict[str, float]:
    """Nats per token of prose, by the policy and by the frozen model; empty where it is not measured."""
    if not config.prose:
        return {}
    policy, frozen = await served(context, Adapters(context.directory).get(state["adapter"])), context.model("actor")

    async def unchanged() -> str:
        return json.dumps(await _nats(frozen.model, config.prose))

    return {
        "nats": await _nats(policy.model, config.prose),
        "frozen_nats": json.loads(await once(context, "0/drift", unchanged)),
    }


async def _nats(model: object, paragraphs: int) -> float:
    if not isinstance(model, Scorer):
        raise SetupError("This model cannot score text, so its drift is not to be measured. Set prose=0.")
    return fmean((await perplexity(model, prose(paragraphs))).items.values())
