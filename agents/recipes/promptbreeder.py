"""Promptbreeder: Self-Referential Self-Improvement via Prompt Evolution (arXiv 2309.16797).

A genetic algorithm over prompts, in which the model is the mutation operator and how it is asked to mutate evolves too.
An individual holds two task-prompts, used one after the other, a mutation-prompt and, if wanted, worked examples; its
fitness is the mean score on training tasks drawn anew. In each pair the fitter one stays as it is and a mutated copy of
it takes the other's place. No weights change; the fittest prompts are measured on held-out tasks.

Deviations from the paper, of which no official code is known:
- A mutation changes one of the two task-prompts, drawn at random; a prompt is kept on one line.
- A lineage's prompts are those of all ancestors: each of them won its tournament. Ties are broken at random.
- Where nothing comes of a mutation (an empty reply, the same words again) the child is a copy of the winner.
- Training tasks are new ones in each generation. Scores are the environment's own.
- In the last generation the fittest are scored again, on validation tasks that all of them share (`finalists`, 1 in the
  preset `paper`): the best of many small batches is partly luck.
- The fittest of every generation is shown on held-out tasks; nothing of that reaches the evolution.
- The first thinking styles and mutation-prompts are our own, a dozen of each. The problem is described by the
  environment's instructions, and the frozen control is the model asked once with these alone.
- The paper's 20 to 30 generations belong to the run.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from statistics import fmean
from typing import Any

from langgraph.graph import StateGraph
from langgraph.runtime import Runtime
from pydantic import BaseModel, ConfigDict, Field

from evolvent.agents import phases
from evolvent.agents.context import Context
from evolvent.agents.episode import Job
from evolvent.agents.evaluation.held_out import evaluate_held_out
from evolvent.agents.evolution import Node, State, cycle, finish_generation, keep, once, reply_once, spent_on
from evolvent.agents.feedback.environment import environment_feedback
from evolvent.agents.population import Birth, members, models, replace_members
from evolvent.agents.solutions.act import Policy
from evolvent.agents.solutions.sample import prompted
from evolvent.agents.solutions.two_stage import FirstInstruction, TwoStage, working
from evolvent.agents.tasks import prompt_evolution
from evolvent.agents.tasks.genome import FIRST, TASK_PROMPTS, Bred, Genome, genome_of
from evolvent.agents.tasks.prompt_evolution import Breeding, Operator, Other
from evolvent.agents.tasks.prompt_seeds import MUTATION_PROMPTS, THINKING_STYLES
from evolvent.agents.types import CallTag, Reply, derive_seed
from evolvent.environments.catalog import build_inline
from evolvent.environments.types import Cost, Message, Phase, Task, Trajectory, dump, load
from evolvent.memory.rendering import recall_events
from evolvent.memory.types import Kind, Record

ROLES = ("actor", "mutator")
ENVIRONMENTS = ("word_problems", "reasoning_gym", "qa")
CARRIES_OVER = True
"""Prompts bred on some tasks serve all others of their kind, so they are measured on held-out tasks."""

_KIND: Kind = "prompt"
_EXAMPLE = "An example of how to work:\n{working}\n\n"


class Config(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    population: int = Field(4, ge=2, multiple_of=2)
    fitness_batch: int = Field(3, ge=1)
    """Tasks that an individual is scored on, drawn from the generation's training tasks; all where there are fewer."""
    operators: tuple[Operator, ...] = Field(prompt_evolution.OPERATORS, min_length=1)
    """Of mutation, drawn with equal chances; an ablation leaves some out."""
    crossover_probability: float = Field(0.1, ge=0, le=1)
    """That a child takes over another's task-prompt after its mutation."""
    eda_cosine_limit: float = Field(0.95, ge=-1, le=1)
    """Prompts that are more alike are one where the model reads a list of them."""
    worked_examples: int = Field(0, ge=0)
    """Correct workings of its parent that a child is shown at most; 0 is the zero-shot version."""
    context_resample_probability: float = Field(0.1, ge=0, le=1)
    """That a child draws all its worked examples anew, instead of changing one."""
    finalists: int = Field(2, ge=1)
    """Fittest of the last generation that are scored again, before one is chosen; 1 takes the fittest as it is."""
    final_batch: int = Field(3, ge=1)
    """Validation tasks that each finalist is scored on."""
    common_batches: bool = False
    """Beyond the paper: the two of a pair are scored on the same tasks."""
    screening: int = Field(0, ge=0)
    """Beyond the paper, successive halving: all are scored on so many tasks, only the best quarter on the whole batch.
    0 scores all on the whole batch."""
    problem: str = ""
    """Description that prompts are bred from; empty takes the environment's instructions."""
    temperature: float = Field(1.0, ge=0)
    """Of mutation; tasks are worked on greedily."""
    reply_tokens: int = Field(32, ge=1)
    """Of each of the two outputs."""
    prompt_tokens: int = Field(32, ge=1)
    """Of a task-prompt or mutation-prompt as it is written."""


PRESETS = {
    "small": Config(),
    "paper": Config(population=50, fitness_batch=100, finalists=1, reply_tokens=512, prompt_tokens=256),
}


def build(config: Config) -> StateGraph[State, Context, State, State]:
    """baseline → initialise, then per generation: pair → (screen) → score → tournament → mutate → cross → replace →
    confirm → evaluate."""

    async def initialise(state: State, runtime: Runtime[Context]) -> State:
        """The first ones: a mutation-prompt and two styles of thinking make two task-prompts of the problem."""
        context = runtime.context
        context.say(f"writing the prompts of the first {config.population}")
        problem = _problem(context, config)

        async def first(number: int) -> Birth:
            rng, ask = context.rng("first", number), partial(_write, context, config, 0, number)
            how = rng.choice(MUTATION_PROMPTS)
            prompts = []
            for place in range(TASK_PROMPTS):
                style = rng.choice(THINKING_STYLES)
                reply = await ask(f"{FIRST}_{place}", prompt_evolution.first_prompt(how, style, problem))
                prompts.append(prompt_evolution.instruction_in(reply) or style)
            return Bred(Genome(tuple(prompts), how), FIRST).birth(FIRST)

        births = await context.rollouts.calls(first(number) for number in range(config.population))
        replace_members(context, _KIND, "initialise", 0, dead=(), born=births)
        return {}

    async def pair(state: State, runtime: Runtime[Context]) -> State:
        """The next generation begins: each meets another, at random."""
        context, generation = runtime.context, state["generation"] + 1
        ids = [unit.id for unit in members(context, _KIND)]
        context.rng("pairs", generation).shuffle(ids)
        pairs = [{"pair": list(each)} for each in zip(ids[::2], ids[1::2], strict=False)]
        tasks = context.tasks("train", context.objective.tasks, generation)
        return {"generation": generation, "tasks": [task.id for task in tasks], "proposals": pairs}

    async def screen(state: State, runtime: Runtime[Context]) -> State:
        """A few tasks for each."""
        batches = _batches(runtime.context, config, state)
        await _play(runtime.context, state, {unit: jobs[: config.screening] for unit, jobs in batches.items()})
        return {}

    async def score(state: State, runtime: Runtime[Context]) -> State:
        """Fitness: the mean score on a batch of its own."""
        context, batches = runtime.context, _batches(runtime.context, config, state)
        context.say(f"generation {state['generation']}: scoring {len(batches)} prompts")
        ahead = list(batches)
        if config.screening:
            ahead.sort(key=lambda unit: -_mean(context, batches[unit]))
            ahead = ahead[: max(1, len(ahead) // 4)]
        await _play(context, state, {unit: batches[unit] for unit in ahead})
        found = {unit: _mean(context, jobs) for unit, jobs in batches.items()}
        played = [each for jobs in batches.values() for each in _played(context, jobs)]
        keep(context, "score", state["generation"], recall_events(played))
        # Luck on a few tasks does not overtake those that went on.
        most = min(found[unit] for unit in ahead)
        return {"scores": {unit: mean if unit in ahead else min(mean, most) for unit, mean in found.items()}}

    async def tournament(state: State, runtime: Runtime[Context]) -> State:
        """The fitter one of each pair stays; how its child is made is drawn."""
        context, fitness = runtime.context, _fitness(state)
        rounds = []
        for number, each in enumerate(state["proposals"]):
            rng = context.rng("tournament", state["generation"], number)
            first, second = each["pair"]
            winner, loser = (first, second) if fitness[first] >= fitness[second] else (second, first)
            drawn, place = rng.choice(config.operators), rng.randrange(TASK_PROMPTS)
            rounds.append({"winner": winner, "loser": loser, "drawn": drawn, "place": place})
        return {"proposals": rounds}

    async def mutate(state: State, runtime: Runtime[Context]) -> State:
        """A child of each winner, by the operator that was drawn."""
        context, generation = runtime.context, state["generation"]
        context.say(f"generation {generation}: breeding {len(state['proposals'])} prompts")

        async def child(number: int) -> str:
            async def bred() -> str:
                given = _breeding(context, config, state, number)
                return dump(await prompt_evolution.breed(state["proposals"][number]["drawn"], given))

            return await once(context, f"{generation}/mutated/{number}", bred)

        await context.rollouts.calls(child(number) for number in range(len(state["proposals"])))
        return {}

    async def cross(state: State, runtime: Runtime[Context]) -> State:
        """Now and then a task-prompt of another; and worked examples, where they are wanted."""
        context, generation = runtime.context, state["generation"]
        for number, each in enumerate(state["proposals"]):

            async def crossed(number: int = number, each: Mapping[str, Any] = each) -> str:
                rng, child = context.rng("cross", generation, number), _child(context, generation, "mutated", number)
                if rng.random() < config.crossover_probability:
                    others = _others(context, state, each["winner"])
                    child = prompt_evolution.crossed(child, rng.randrange(TASK_PROMPTS), others, rng)
                if config.worked_examples:
                    examples = prompt_evolution.renewed(
                        child.genome.examples,
                        list(_workings(context, each["winner"]).values()),
                        rng,
                        most=config.worked_examples,
                        resample=config.context_resample_probability,
                    )
                    child = replace(child, genome=replace(child.genome, examples=examples))
                return dump(child)

            await once(context, f"{generation}/crossed/{number}", crossed)
        return {}

    async def take_over(state: State, runtime: Runtime[Context]) -> State:
        """The child takes the loser's place."""
        context, generation, rounds = runtime.context, state["generation"], state["proposals"]
        children = [_child(context, generation, "crossed", number) for number in range(len(rounds))]
        born = [child.birth(each["drawn"], each["winner"]) for child, each in zip(children, rounds, strict=True)]
        why = {"reason": "lost its tournament", "fitness": state["scores"]}
        dead = [each["loser"] for each in rounds]
        replace_members(context, _KIND, "replace", generation, dead=dead, born=born, evidence=why)
        return {}

    async def confirm(state: State, runtime: Runtime[Context]) -> State:
        """At the end the fittest are scored once more, on tasks that all of them share."""
        context, finals = runtime.context, _finals(runtime.context, config, state)
        if finals:
            context.say(f"generation {state['generation']}: scoring the {len(finals)} fittest again")
        await _play(context, state, finals)
        return {}

    async def evaluate(state: State, runtime: Runtime[Context]) -> State:
        """The fittest on held-out tasks."""
        context, generation, fitness = runtime.context, state["generation"], _fitness(state)
        context.say(f"generation {generation}: evaluating the fittest on held-out tasks")
        finals = {unit: _mean(context, jobs) for unit, jobs in _finals(context, config, state).items()}
        judged = finals or fitness
        fittest = _unit(context, max(judged, key=lambda unit: judged[unit]))
        found = await evaluate_held_out(context, {"": acting(context, config, fittest)}, generation=generation)
        finish_generation(
            context,
            generation,
            found,
            spent=spent_on(context, generation) + _written(context, generation),
            model=asdict(models(context, [fittest])[0]),
            fitness=fitness,
            finals=finals,
            operators=_operators(context, state),
            prompt_words=fmean(len(_unit(context, unit).text.split()) for unit in fitness),
        )
        return {"tasks": [], "proposals": [], "scores": {}}

    screening: dict[str, Node] = {"screen": screen} if config.screening else {}
    return cycle(
        {
            "baseline": partial(phases.baseline, seats=partial(prompted, reply_tokens=config.reply_tokens)),
            "initialise": initialise,
        },
        {
            "pair": pair,
            **screening,
            "score": score,
            "tournament": tournament,
            "mutate": mutate,
            "cross": cross,
            "replace": take_over,
            "confirm": confirm,
            "evaluate": evaluate,
        },
    )


def acting(context: Context, config: Config, unit: Record) -> Policy:
    """How an individual answers."""
    genome = genome_of(unit)
    first, second = genome.task_prompts
    shown = "".join(_EXAMPLE.format(working=example) for example in genome.examples)
    recall = FirstInstruction(shown + first, unit.id)
    return Policy(context.model("actor"), recall, max_reply_tokens=config.reply_tokens, manner=TwoStage(second))


def _unit(context: Context, name: str) -> Record:
    return context.memory.records()[name]


def _child(context: Context, generation: int, phase: str, number: int) -> Bred:
    """What a phase left of a child that is not born yet."""
    text = context.memory.ledger.memo(f"{generation}/{phase}/{number}")
    assert text is not None, "the phase before has kept it"
    return load(Bred, text)


def _fitness(state: State) -> dict[str, float]:
    """By individual, of this generation."""
    return {unit: score or 0.0 for unit, score in state["scores"].items()}


def _problem(context: Context, config: Config) -> str:
    if config.problem:
        return config.problem
    world = build_inline(context.objective.environment)
    try:
        return world.instructions
    finally:
        world.close()


def _batches(context: Context, config: Config, state: State) -> dict[str, list[Job]]:
    """The whole batch of each, before it is known who wins."""
    generation = state["generation"]
    pool = context.tasks("train", context.objective.tasks, generation)
    found = {}
    for number, each in enumerate(state["proposals"]):
        for unit in each["pair"]:
            rng = context.rng("batch", generation, number if config.common_batches else unit)
            drawn = rng.sample(pool, min(config.fitness_batch, len(pool)))
            found[unit] = _jobs(context, config, unit, drawn, "train", generation)
    return found


def _finals(context: Context, config: Config, state: State) -> dict[str, list[Job]]:
    """By individual, the fittest first; none before the last generation, or where there would be but one."""
    generation, fitness = state["generation"], _fitness(state)
    if config.finalists == 1 or generation < context.objective.generations:
        return {}
    tasks = context.tasks("validation", config.final_batch, generation)
    best = sorted(fitness, key=lambda unit: -fitness[unit])[: config.finalists]
    return {unit: _jobs(context, config, unit, tasks, "gate", generation) for unit in best}


def _jobs(
    context: Context, config: Config, unit: str, tasks: Sequence[Task], phase: Phase, generation: int
) -> list[Job]:
    policies = {"": acting(context, config, _unit(context, unit))}
    return [Job(task, policies, phase, generation, arm=unit, seed=context.seed) for task in tasks]


async def _play(context: Context, state: State, batches: Mapping[str, Sequence[Job]]) -> None:
    jobs = [job for batch in batches.values() for job in batch]
    await context.rollouts.run(context.objective.environment_at(state["generation"]), jobs)


def _played(context: Context, jobs: Sequence[Job]) -> list[Trajectory]:
    """Of those that were."""
    episodes = (context.memory.ledger.episode(job.key) for job in jobs)
    return [trajectory for episode in episodes for trajectory in episode or ()]


def _mean(context: Context, jobs: Sequence[Job]) -> float:
    """Of the scores so far; 0 where infrastructure failed all of them."""
    scores = (environment_feedback(each).feedback.score for each in _played(context, jobs))
    sound = [score for score in scores if score is not None]
    return fmean(sound) if sound else 0.0


def _workings(context: Context, unit: str) -> dict[str, str]:
    """The correct ones among an individual's training episodes, by trajectory."""
    ledger = context.memory.ledger
    shown = (ledger.trajectory(name) for name, _ in ledger.showings([unit]))
    return {each.id: working(each) for each in shown if each and each.phase == "train" and each.outcome.success}


def _breeding(context: Context, config: Config, state: State, number: int) -> Breeding:
    generation, fitness = state["generation"], _fitness(state)
    winner, place = state["proposals"][number]["winner"], state["proposals"][number]["place"]
    parent, by_fitness = _unit(context, winner), sorted(fitness, key=lambda unit: fitness[unit])
    return Breeding(
        _problem(context, config),
        genome_of(parent),
        place,
        population=[genome_of(_unit(context, unit)).task_prompts[place] for unit in by_fitness],
        lineage=[genome_of(unit).task_prompts[place] for unit in _line(context, parent)],
        workings=_workings(context, winner),
        others=_others(context, state, winner),
        ask=partial(_write, context, config, generation, number),
        embed=context.memory.embedder.embed,
        cosine_limit=config.eda_cosine_limit,
        styles=THINKING_STYLES,
        rng=context.rng("mutate", generation, number),
    )


def _others(context: Context, state: State, winner: str) -> list[Other]:
    fitness = _fitness(state)
    return [Other(unit, genome_of(_unit(context, unit)), fitness[unit]) for unit in fitness if unit != winner]


def _line(context: Context, unit: Record) -> list[Record]:
    """From the first ancestor down to the individual itself."""
    known, line = context.memory.records(), [unit]
    while line[0].parents and line[0].parents[0] in known:
        line.insert(0, known[line[0].parents[0]])
    return line


async def _write(context: Context, config: Config, generation: int, number: int, purpose: str, request: str) -> str:
    """What the mutator writes; each purpose of a child is asked for once."""
    key = f"{generation}/write/{number}/{purpose}"
    tag = CallTag("mutator", "train", generation, attempt=number, episode=key, purpose=purpose)
    messages = [Message("system", "instructions", prompt_evolution.WRITER), Message("user", "task", request)]

    async def ask() -> Reply:
        return await context.model("mutator").generate(
            messages,
            tag,
            temperature=config.temperature,
            max_tokens=config.prompt_tokens,
            seed=derive_seed(context.seed, key),
        )

    return (await reply_once(context, key, ask)).text


def _written(context: Context, generation: int) -> Cost:
    """What the mutator's calls cost; those for the first ones belong to the first generation."""
    since = (0, 1) if generation == 1 else (generation,)
    replies = [text for each in since for text in context.memory.ledger.memos(f"{each}/write/").values()]
    return sum((Cost(**json.loads(text)[1]) for text in replies), Cost())


def _operators(context: Context, state: State) -> dict[str, dict[str, int]]:
    """By operator: children born in this generation; of those before, that now had their first tournament, who won."""
    made: dict[str, Counter[str]] = defaultdict(Counter)
    for unit in members(context, _KIND):
        made[unit.meta["operator"]]["born"] += unit.generation == state["generation"]
    for each in state["proposals"]:
        for place in ("winner", "loser"):
            unit = _unit(context, each[place])
            if unit.generation == state["generation"] - 1:
                made[unit.meta["operator"]].update(met=1, won=place == "winner")
    return {name: dict(counts) for name, counts in sorted(made.items())}
