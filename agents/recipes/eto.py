"""ETO: Trial and Error, Exploration-based Trajectory Optimization for LLM Agents (arXiv 2403.02502).

The first generation clones an expert's episodes. Each later one is an iteration: the policy of now plays the same
training tasks, each episode that earned less than the expert's becomes the rejected half of a pair (or the chosen one,
where it earned more), and whole episodes are told apart by DPO, from the policy of now and with it as the reference.

Deviations from the paper and its released code:
- Weights are those of an adapter; the learning rate falls linearly after a warm-up of 5 % in both trainings.
- An action is chosen by its likelihood where the model can score, and no thought precedes it: the experts of our
  worlds give none.
- The released script explores greedily while a configuration with temperature 0.7 lies beside it. `paper` takes 0.7:
  a greedy policy may repeat itself in each iteration, and then nothing is left to learn from.
- In every world the rejected episode is cut to the expert's length and five rounds; the script forgets it in one.
- Steps to success are in each run's `metrics.jsonl`; reward by step is not reported.
- The paper's number of iterations (3) and the step limits belong to the run (`--generations 4`) and the environment.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

from langgraph.graph import StateGraph
from langgraph.runtime import Runtime
from pydantic import BaseModel, ConfigDict, Field

from evolvent.agents.context import Context
from evolvent.agents.evolution import State, cycle, experiences
from evolvent.agents.phases import adapter_of, baseline, evaluate, feedback
from evolvent.agents.refinement.pairing import pair_by_reward
from evolvent.agents.solutions.act import Policy
from evolvent.agents.solutions.demonstration import demonstrate
from evolvent.agents.solutions.sample import sample
from evolvent.agents.tasks.fixed import fixed_tasks, training_set
from evolvent.agents.weights import served, train
from evolvent.environments.types import Experience, Preference, Trajectory
from evolvent.memory.weights.examples import dialogues, supervised
from evolvent.memory.weights.training import Training

ROLES = ("actor",)
ENVIRONMENTS = ("workshop", "textcraft")
CARRIES_OVER = True
"""Weights serve every task, so it is measured on held-out ones."""
CLONE = 1
"""The generation that imitates; the next one is the first iteration."""


class Config(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    experts: Literal["environment", "own"] = "environment"
    """Whose episodes are cloned and compared with: the world's expert, or the base model's own successes."""
    samples: int = Field(8, ge=1)
    """Attempts at each task to find a success of one's own."""
    explore_temperature: float = Field(1.0, ge=0)
    extra_rounds: int = Field(5, ge=0)
    """By which a rejected episode may be longer than the expert's."""
    beta: float = Field(0.1, gt=0)
    """Of DPO, in the first iteration."""
    beta_later: float = Field(0.5, gt=0)
    cloning: Training = Training(epochs=2, batch_size=4)
    contrasting: Training = Training(epochs=2, batch_size=4, learning_rate=1e-4)
    """Its learning rate is that of the first iteration; the later ones take half of it."""


PRESETS = {
    "small": Config(),
    "paper": Config(
        explore_temperature=0.7,
        cloning=Training(epochs=3, batch_size=64, learning_rate=2e-5, max_length=4096),
        contrasting=Training(epochs=3, batch_size=32, learning_rate=1e-6, max_length=4096),
    ),
}
"""The rates of `paper` are those of full fine-tuning; an adapter wants them ten to a hundred times higher."""


def build(config: Config) -> StateGraph[State, Context, State, State]:
    """baseline, tasks → demonstrate → clone → evaluate once, then per iteration: tasks → explore → feedback → pair →
    contrast → evaluate."""

    async def show(state: State, runtime: Runtime[Context]) -> State:
        """The expert's episodes, or enough of the base model's that some succeed."""
        context, generation = runtime.context, state["generation"]
        tasks = training_set(context).tasks
        context.say(f"generation {generation}: demonstrations of {len(tasks)} tasks")
        if config.experts == "environment":
            return {"episodes": await demonstrate(context, tasks, generation=generation)}
        policies = {"": Policy(context.model("actor"), temperature=config.explore_temperature)}
        return {"episodes": await sample(context, tasks, policies, generation=generation, k=config.samples)}

    async def clone(state: State, runtime: Runtime[Context]) -> State:
        """Supervised training on what the experts did."""
        context = runtime.context
        shown = [each.trajectory for each in _experts(context, config).values()]
        dataset = supervised(shown, name="eto-experts", only="all")
        training = config.cloning.model_copy(update={"seed": context.seed})
        adapter = await train(context, "eto-clone", dataset, generation=CLONE, training=training)
        return {"adapter": adapter.full_name}

    async def explore(state: State, runtime: Runtime[Context]) -> State:
        """One episode of the policy of now on every training task."""
        context, generation = runtime.context, state["generation"]
        context.say(f"generation {generation}: exploring")
        model = await served(context, adapter_of(context, state))
        policies = {"": Policy(model, temperature=config.explore_temperature)}
        tasks = training_set(context).tasks
        return {"episodes": await sample(context, tasks, policies, generation=generation)}

    async def pair(state: State, runtime: Runtime[Context]) -> State:
        """The better and the worse episode of each task on which the policy and its expert differ."""
        context = runtime.context
        explored = experiences(context, state["episodes"])
        pairs = pair_by_reward(_experts(context, config), explored, extra_rounds=config.extra_rounds)
        return {
            "proposals": [
                {
                    "task": each.task.id,
                    "chosen": each.chosen.id,
                    "rejected": each.rejected.id,
                    "rejected_rounds": len(each.rejected.steps),
                    "margin": each.margin,
                }
                for each in pairs
            ]
        }

    async def contrast(state: State, runtime: Runtime[Context]) -> State:
        """DPO over whole episodes from the policy of now, which is also the reference."""
        context, generation = runtime.context, state["generation"]
        dataset = dialogues((_pair(context, each) for each in state["proposals"]), name="eto-pairs")
        if not len(dataset):
            context.say(f"generation {generation}: no pair differs; the policy stays as it is")
            return {}
        first = generation == CLONE + 1
        rate = config.contrasting.learning_rate or _DPO_RATE
        changed = {"learning_rate": rate if first else rate / 2, "seed": context.seed}
        adapter = await train(
            context,
            "eto",
            dataset,
            generation=generation,
            method="dpo",
            training=config.contrasting.model_copy(update=changed),
            start=adapter_of(context, state),
            settings={"beta": config.beta if first else config.beta_later},
        )
        return {"adapter": adapter.full_name}

    return cycle(
        {
            "baseline": baseline,
            "expert_tasks": fixed_tasks(),
            "demonstrate": show,
            "clone": clone,
            "evaluate_clone": evaluate,
        },
        {
            "tasks": fixed_tasks(),
            "explore": explore,
            "feedback": feedback,
            "pair": pair,
            "contrast": contrast,
            "evaluate": evaluate,
        },
    )


_DPO_RATE = 2e-5
"""What `Training` takes for preferences where it says nothing."""


def _experts(context: Context, config: Config) -> dict[str, Experience]:
    """By task, its demonstration; among a model's own attempts the first success, where there is one."""
    shown = sorted(context.memory.ledger.episodes(phase="train", generation=CLONE), key=lambda each: each.key)
    found: dict[str, Experience] = {}
    for each in experiences(context, [episode.key for episode in shown]):
        if config.experts == "environment" or each.trajectory.outcome.success:
            found.setdefault(each.task.id, each)
    return found


def _pair(context: Context, proposal: Mapping[str, Any]) -> Preference:
    """The two episodes that a proposal names, the rejected one as short as it says."""
    chosen, rejected = (_trajectory(context, proposal[side]) for side in ("chosen", "rejected"))
    rejected = replace(rejected, steps=rejected.steps[: proposal["rejected_rounds"]])
    return Preference(chosen.task, chosen, rejected, proposal["margin"])


def _trajectory(context: Context, key: str) -> Trajectory:
    found = context.memory.ledger.trajectory(key)
    if found is None:
        raise LookupError(f"The ledger holds no episode {key!r}: was it replaced while the run was stopped?")
    return found
