"""Evolutionary Model Merge: Evolutionary Optimization of Model Merging Recipes (arXiv 2403.13187).

Before the first generation the base is fine-tuned once for each skill: the sources, which nothing changes any more. One
generation is one of CMA-ES: a population of genomes becomes candidate models, each is scored on a fitness set, and the
best genome ever seen is what the generation acts with. In parameter space a genome is a weight and a density for each
group of layers and each source of a DARE-TIES merge; in data-flow space it says which layers of which source run.

Deviations from the paper and its released code:
- No search code was released; the data-flow space is that of an author's explanation.
- Sources are fine-tuned here, and fitness is the mean score over tasks of all their skills: our environments have no
  item that needs two skills at once.
- What comes before the blocks belongs to the first group of layers, what comes behind to the last.
- The best genome so far is shown on held-out tasks after every generation; nothing of that reaches the search.
- CMA-ES is the package `cma`, with its own rates. A wide genome adapts variances alone.
- The paper's number of trials (1000) is population times generations, and belongs to the run.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from langgraph.graph import StateGraph
from langgraph.runtime import Runtime
from pydantic import Field

from evolvent.agents.context import Context
from evolvent.agents.evolution import State, cycle, once
from evolvent.agents.merging import keep_weights, on_trial, scratch
from evolvent.agents.skilled import baseline, evaluate_skilled
from evolvent.agents.solutions.supervision import demonstrate_skill, specialise
from evolvent.agents.tasks.skills import judge_skills, skills
from evolvent.agents.weights import weights_of
from evolvent.memory.compute import computed
from evolvent.memory.weights.adapters import Adapter, Adapters
from evolvent.memory.weights.blend import Merge
from evolvent.memory.weights.merge_search import DataFlowSpace, Genome, ParameterSpace, Search
from evolvent.memory.weights.merged import MergedModels
from evolvent.memory.weights.training import Training

ROLES = ("actor",)
ENVIRONMENTS = ("labelled", "word_problems", "reasoning_gym")
CARRIES_OVER = True
_BEFORE = 0
"""Generation to which the sources belong."""


class Config(Training):
    skills: tuple[dict[str, Any], ...] = ()
    """Options of the environment, one for each source; empty takes two that fit the environment."""
    groups: int = Field(3, ge=1)
    """Of layers that share a weight and a density for each source; at most as many as the base has."""
    layers_from: int = Field(0, ge=0)
    """Generation from which layers are searched, the best merge of weights among the sources; 0 never."""
    repeats: int = Field(1, ge=1)
    """r: how often each layer may run, in data-flow space."""
    population: int | None = Field(4, ge=2)
    """Genomes of one generation; None takes 4 + ⌊3 ln n⌋ for n numbers."""
    sigma: float = Field(1 / 6, gt=0)
    """Of the first generation's genomes."""
    fitness: int = Field(16, ge=1)
    """Tasks a genome is scored on, over all skills."""
    mask_seed: int = Field(0, ge=0)
    largest_change: float | None = Field(0.1, gt=0)
    """See `Merge.largest_change`."""
    reply_tokens: int = Field(64, ge=1)
    epochs: float = Field(3, gt=0)
    learning_rate: float | None = Field(1e-3, gt=0)

    def merge(self) -> Merge:
        """What every candidate in parameter space has in common."""
        return Merge(method="dare_ties", largest_change=self.largest_change, seed=self.mask_seed)

    def in_layers(self, generation: int) -> bool:
        return 0 < self.layers_from <= generation


PRESETS = {
    "small": Config(population=3, fitness=8),
    "paper": Config(groups=30, population=None, repeats=3, fitness=1069, learning_rate=2e-4),
}


def build(config: Config) -> StateGraph[State, Context, State, State]:
    """baseline, demonstrate → specialise once, then per generation: propose → score → select → evaluate."""

    async def demonstrate(state: State, runtime: Runtime[Context]) -> State:
        """The expert's episodes on training tasks of every skill."""
        context = runtime.context
        among = skills(context, config.skills)
        keys = [await demonstrate_skill(context, skill, generation=_BEFORE) for skill in among]
        return {"episodes": [key for some in keys for key in some]}

    async def finetune(state: State, runtime: Runtime[Context]) -> State:
        """The sources: one model of the base for each skill."""
        context = runtime.context
        training = Training(**config.model_dump(include=set(Training.model_fields)))
        await specialise(context, skills(context, config.skills), training, generation=_BEFORE, generations=(_BEFORE,))
        return {"episodes": []}

    async def propose(state: State, runtime: Runtime[Context]) -> State:
        """The genomes of the next generation, by their numbers: the search gives the same ones whenever it is asked."""
        context, generation = runtime.context, state["generation"] + 1
        count = _search(context, config, generation).population
        return {"generation": generation, "proposals": [{"genome": number} for number in range(count)]}

    async def score(state: State, runtime: Runtime[Context]) -> State:
        """Each genome as a model, greedily on the fitness set."""
        context, generation = runtime.context, state["generation"]
        genomes = _search(context, config, generation).ask()
        scores: dict[str, float | None] = {}
        for number, genome in enumerate(genomes):
            context.say(f"generation {generation}: candidate {number + 1} of {len(genomes)}")

            async def ask(number: int = number, genome: Genome = genome) -> str:
                return json.dumps(await _fitness(context, config, genome, generation, number))

            scores[str(number)] = json.loads(await once(context, f"{generation}/fitness/{number}", ask))
        return {"scores": scores}

    async def select(state: State, runtime: Runtime[Context]) -> State:
        """The search learns of the scores; the best genome ever seen, in this space, becomes the generation's model."""
        context, generation = runtime.context, state["generation"]
        before = _search(context, config, generation)
        scores = [score for score in state["scores"].values() if score is not None]
        search = before.tell(scores)

        async def told() -> str:
            return search.model_dump_json()

        await once(context, f"{generation}/search", told)
        assert search.best is not None
        row = {
            "space": "layers" if config.in_layers(generation) else "parameters",
            "scores": scores,
            "best_so_far": list(search.best_so_far),
            "evaluations": search.evaluations,
        }
        if search.best == before.best:
            return {"proposals": [row]}
        out = scratch(context, f"{generation}-best")
        sources = _sources(context, config, generation)
        await computed(write, weights_of(context), sources, search.best, out, config, generation=generation)
        how = {"genome": list(search.best), **row, "merge": config.merge().model_dump(mode="json")}
        name = f"evolved-{row['space']}"
        parents = _specialists(context, config)
        merged = await keep_weights(context, name, out, generation=generation, parents=parents, how=how)
        shutil.rmtree(out.parent, ignore_errors=True)
        return {"adapter": merged.full_name, "proposals": [row]}

    async def evaluate(state: State, runtime: Runtime[Context]) -> State:
        """The best genome so far on held-out tasks of every skill."""
        (row,) = state["proposals"]
        among = skills(runtime.context, config.skills, state["generation"])
        return await evaluate_skilled(state, runtime, among, reply_tokens=config.reply_tokens, more={"search": row})

    return cycle(
        {
            "baseline": baseline(config.skills, config.reply_tokens),
            "demonstrate": demonstrate,
            "specialise": finetune,
        },
        {"propose": propose, "score": score, "select": select, "evaluate": evaluate},
    )


def write(base: str, sources: Sequence[Path], genome: Genome, out: Path, config: Config, *, generation: int) -> Path:
    """The model that a genome stands for; the same arguments give the same bytes, and no source is written to.

    Args:
        sources: adapters of the base in parameter space, folders of full weights in data-flow space.
    """
    from evolvent.memory.weights.layer_stack import write_stack
    from evolvent.memory.weights.merge import merge

    if config.in_layers(generation):
        return write_stack(sources, _data_flow(config, sources).stack(genome), out)
    return merge(base, sources, out, config.merge(), blend=_parameters(base, config, len(sources)).blends(genome))


def _parameters(base: str, config: Config, sources: int) -> ParameterSpace:
    return ParameterSpace(blocks=_blocks(base), groups=min(config.groups, _blocks(base)), sources=sources)


def _data_flow(config: Config, sources: Sequence[Path]) -> DataFlowSpace:
    return DataFlowSpace(layers=tuple(_blocks(source) for source in sources), repeats=config.repeats)


def _blocks(folder: str | Path) -> int:
    from transformers import AutoConfig

    return int(AutoConfig.from_pretrained(folder).num_hidden_layers)


def _search(context: Context, config: Config, generation: int) -> Search:
    """As the generation finds it: with the scores of those before it in the same space."""
    known = context.memory.ledger.memo(f"{generation - 1}/search")
    if known is not None and generation != config.layers_from:
        return Search.model_validate_json(known)
    settings: dict[str, Any] = {"sigma": config.sigma, "size": config.population, "seed": context.seed}
    if config.in_layers(generation):
        return Search(start=_data_flow(config, _sources(context, config, generation)).start(), **settings)
    space = _parameters(weights_of(context), config, len(_specialists(context, config)))
    return Search(start=space.start(), bounds=(0, 1), **settings)


async def _fitness(context: Context, config: Config, genome: Genome, generation: int, number: int) -> float:
    """Mean score of the genome's model on the fitness set; its weights are deleted again."""
    out = scratch(context, f"{generation}-{number}")
    sources = _sources(context, config, generation)
    await computed(write, weights_of(context), sources, genome, out, config, generation=generation)
    name = f"genome-{generation}-{number}"
    judged = await judge_skills(
        context,
        await on_trial(context, name, out),
        skills(context, config.skills, generation),
        "validation",
        config.fitness,
        phase="gate",
        generation=generation,
        arm=name,
        reply_tokens=config.reply_tokens,
    )
    shutil.rmtree(out, ignore_errors=True)
    return judged.whole.success.mean


def _specialists(context: Context, config: Config) -> list[Adapter]:
    """The fine-tuned models, in the order of their skills."""
    registry, ledger = Adapters(context.directory), context.memory.ledger
    names = [ledger.memo(f"{_BEFORE}/train/{skill.name}") for skill in skills(context, config.skills)]
    return [registry.get(name) for name in names if name is not None]


def _sources(context: Context, config: Config, generation: int) -> list[Path]:
    """What is merged in that generation: the adapters; for layers the best merge of them, then each worked in."""
    adapters = [registered.folder for registered in _specialists(context, config)]
    if not config.in_layers(generation):
        return adapters
    folders = [_folded(context, each) for each in adapters]
    winner = _winner(context, config)
    return [winner, *folders] if winner is not None else folders


def _winner(context: Context, config: Config) -> Path | None:
    """The best merge in parameter space, where that was searched."""
    registry, ledger = MergedModels(context.directory), context.memory.ledger
    names = [ledger.memo(f"{number}/merge/evolved-parameters") for number in range(config.layers_from - 1, 0, -1)]
    return next((registry.get(name).folder for name in names if name is not None), None)


def _folded(context: Context, adapter: Path) -> Path:
    from evolvent.memory.weights.merge import fold

    out = context.directory / "sources" / adapter.name
    return out if out.exists() else fold(weights_of(context), adapter, out)
