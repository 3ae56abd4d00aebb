"""Model soups: averaging weights of multiple fine-tuned models improves accuracy (arXiv 2203.05482).

One generation fine-tunes the base once for each setting of a sweep, on the same demonstrations, scores each model on
validation tasks and makes one model of them: the greedy soup takes the best and adds each next one, best first, unless
that makes the average worse; the uniform soup averages all. Held-out tasks see the soup alone.

Deviations from the paper and its released code:
- Runs are LoRA adapters. What is averaged is their folded changes, so the soup is one adapter of their ranks' sum, and
  its weights are the mean of the folded models' weights. All begin as the base itself; the factor A is the seed's.
- A run is added when the average is as good, as the paper says; `margin` asks for more, as the code's `>` does.
- The sweep is a grid over learning rates and epochs instead of a random search, and learned soups are left out.
- The ensemble and shifted test sets are not measured; a run with `--shift` changes the world under the agent.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from langgraph.graph import StateGraph
from langgraph.runtime import Runtime
from pydantic import Field

from evolvent.agents import phases
from evolvent.agents.context import Context
from evolvent.agents.evolution import State, cycle, keep
from evolvent.agents.merging import check_one_base, on_trial, register_merged, scratch
from evolvent.agents.solutions.supervision import demonstrate_skill, gold
from evolvent.agents.tasks.skills import Skill, judge_skills
from evolvent.agents.weights import served, train, weights_of
from evolvent.memory.compute import computed
from evolvent.memory.types import Event
from evolvent.memory.weights.adapters import Adapter, Adapters, adapter_id
from evolvent.memory.weights.soup import greedy_soup
from evolvent.memory.weights.training import Training

ROLES = ("actor",)
ENVIRONMENTS = ("workshop", "labelled", "word_problems", "reasoning_gym")
CARRIES_OVER = True


class Config(Training):
    soup: Literal["greedy", "uniform"] = "greedy"
    learning_rates: tuple[float, ...] = Field((2e-4, 6e-4, 2e-3), min_length=1)
    """One run for each, with each of `lengths`; `learning_rate` and `epochs` are theirs."""
    lengths: tuple[float, ...] = Field((2.0,), min_length=1)
    """Epochs."""
    margin: float = Field(0.0, ge=0)
    """By which an average has to be better on validation to be taken."""
    validation: int = Field(24, ge=1)
    """Tasks that runs and averages are scored on."""
    reply_tokens: int = Field(64, ge=1)
    """Of one reply at most, where it is written."""

    def sweep(self, seed: int) -> list[Training]:
        """Settings of the runs, each with a seed of its own."""
        common = self.model_dump(include=set(Training.model_fields) - {"learning_rate", "epochs", "seed"})
        grid = [(rate, epochs) for rate in self.learning_rates for epochs in self.lengths]
        return [
            Training(**common, learning_rate=rate, epochs=epochs, seed=1000 * seed + number)
            for number, (rate, epochs) in enumerate(grid)
        ]


PRESETS = {
    "small": Config(learning_rates=(6e-4, 2e-3), lengths=(1.0,), validation=4, reply_tokens=32),
    "paper": Config(
        learning_rates=(1e-6, 2e-6, 4e-6, 7e-6, 1e-5, 2e-5, 4e-5, 7e-5, 1e-4), lengths=(4, 8, 12, 16), validation=2000
    ),
}
"""The rates of `paper` are those of full fine-tuning; an adapter wants them ten to a hundred times higher."""


def build(config: Config) -> StateGraph[State, Context, State, State]:
    """baseline, then per generation: tasks → demonstrate → finetune → validate → soup → evaluate."""

    async def demonstrate(state: State, runtime: Runtime[Context]) -> State:
        """The expert's episodes on this generation's tasks."""
        context, generation = runtime.context, state["generation"]
        return {"episodes": await demonstrate_skill(context, _whole(context, generation), generation=generation)}

    async def finetune(state: State, runtime: Runtime[Context]) -> State:
        """One model for each setting, all from the base and on the same rows."""
        context, generation = runtime.context, state["generation"]
        rows = await gold(context, _whole(context, generation), range(1, generation + 1), name="gold")
        runs = [
            await train(context, f"run-{number}", rows, generation=generation, training=training)
            for number, training in enumerate(config.sweep(context.seed))
        ]
        return {"proposals": [{"adapter": each.full_name} for each in runs]}

    async def validate(state: State, runtime: Runtime[Context]) -> State:
        """Each model alone on the validation tasks."""
        context, generation = runtime.context, state["generation"]
        names = [each["adapter"] for each in state["proposals"]]
        return {"scores": {name: await _score(context, config, (name,), generation) for name in names}}

    async def stir(state: State, runtime: Runtime[Context]) -> State:
        """Which runs are averaged; the average becomes what the generation acts with."""
        context, generation = runtime.context, state["generation"]
        alone = {name: score for name, score in state["scores"].items() if score is not None}
        if config.soup == "uniform":
            members = tuple(alone)
            tried = [[list(members), await _score(context, config, members, generation)]]
        else:

            async def score(names: tuple[str, ...]) -> float:
                return await _score(context, config, names, generation)

            known = {frozenset((name,)): each for name, each in alone.items()}
            found = await greedy_soup(list(alone), score, margin=config.margin, known=known)
            members = found.members
            tried = [[list(each.members), each.score] for each in found.tried[len(alone) :]]
        how = {"rule": config.soup, "alone": alone, "tried": tried, "members": list(members)}
        name = await _made(context, members, generation)
        left_out = {"reason": "left out of the soup", "by": name}
        reject = [Event("reject", adapter_id(each), payload=left_out) for each in alone if each not in members]
        keep(context, "soup", generation, [each for each in reject if _stands(context, each.record_id)])
        return {"adapter": name, "proposals": [how]}

    async def evaluate(state: State, runtime: Runtime[Context]) -> State:
        (how,) = state["proposals"]
        return await phases.evaluate(state, runtime, more={"soup": how})

    return cycle(
        {"baseline": phases.baseline},
        {
            "tasks": phases.tasks,
            "demonstrate": demonstrate,
            "finetune": finetune,
            "validate": validate,
            "soup": stir,
            "evaluate": evaluate,
        },
    )


def average(base: str, members: Sequence[Adapter], out: Path) -> Path:
    """The mean of the members' folded changes, as one adapter.

    Raises:
        BadMergeError: members of different bases.
    """
    from evolvent.memory.weights.merge import combine_adapters

    check_one_base(members)
    share = 1 / len(members)
    return combine_adapters(base, [each.folder for each in members], out, weights=[share] * len(members))


def _whole(context: Context, generation: int) -> Skill:
    """The environment as it is."""
    return Skill("all", context.objective.environment_at(generation))


async def _score(context: Context, config: Config, names: tuple[str, ...], generation: int) -> float:
    """Mean score of the average of these adapters on the validation tasks; played once."""
    registry = Adapters(context.directory)
    members = [registry.get(name) for name in sorted(names)]
    arm = f"soup-{'+'.join(each.full_name for each in members)}"
    if len(members) == 1:
        model = await served(context, members[0])
    else:
        folder = scratch(context, f"{generation}-tried")
        await computed(average, weights_of(context), members, folder)
        model = await on_trial(context, arm, folder)
    judged = await judge_skills(
        context,
        model,
        [_whole(context, generation)],
        "validation",
        config.validation,
        phase="gate",
        generation=generation,
        arm=arm,
        reply_tokens=config.reply_tokens,
    )
    return judged.whole.success.mean


async def _made(context: Context, names: Sequence[str], generation: int) -> str:
    """Full name of the soup in the registry; of one ingredient it is that."""
    if len(names) == 1:
        return names[0]
    registry = Adapters(context.directory)
    members = [registry.get(name) for name in names]
    folder = scratch(context, f"{generation}-soup")
    await computed(average, weights_of(context), members, folder)
    how = {"rule": "average", "members": list(names)}
    soup = await register_merged(context, "soup", folder, generation=generation, parents=members, how=how)
    shutil.rmtree(folder.parent, ignore_errors=True)
    return soup.full_name


def _stands(context: Context, record: str) -> bool:
    """Whether a candidate has not been rejected yet, for having learned nothing."""
    known = context.memory.records().get(record)
    return known is not None and known.status == "candidate"
