"""EvolutionaryAgent: Agent Alignment in Evolving Social Norms (arXiv 2401.04620).

A generation is a period of a society whose norms change. A population of characters lives through its situations, each
with a genome of its own (traits in words) and with what it remembers of its own life, and answers a questionnaire. An
observer marks each of them by the norms of the period; the fittest survive, the others give way to children of two
survivors, whose genome is crossed and sometimes mutated and who remember nothing. No weights change.

Deviations from the paper, of which no code is known:
- Its sizes and rates and how it changes norms could not be verified; norms follow the environment's schedule here.
- The observer is by default the environment's rule (`observer`), which knows the norms of the period exactly. As a
  judge it marks each norm from 1 to 10; whom it gives no mark that can be read, has the mean of the others.
- A genome is a list of traits. The breeder chooses by number which ones a child inherits, so that they stay as they
  are, and words one new trait in a mutation; where it chooses none of one parent, half come from either.
- The first characters are drawn from a pool of opposite dispositions.
- An individual remembers the newest periods of its life, in the words in which the environment told them.
- Held-out tasks are played by the fittest survivor, with its memory. Skill is measured on word problems, by everybody.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, Literal

from langgraph.graph import StateGraph
from langgraph.runtime import Runtime
from pydantic import BaseModel, ConfigDict, Field

from evolvent.agents.context import Context
from evolvent.agents.episode import Job
from evolvent.agents.evaluation.held_out import evaluate_held_out
from evolvent.agents.evaluation.proficiency import proficiency
from evolvent.agents.evolution import State, cycle, experiences, finish_generation, keep, reply_once, spent_on
from evolvent.agents.feedback.observer import fitness_in, norms_of, observing
from evolvent.agents.phases import baseline, tasks
from evolvent.agents.population import Birth, models, replace_members
from evolvent.agents.refinement.breeding import crossed, crossing, diversity, mutated, mutating, roulette
from evolvent.agents.solutions.act import Policy
from evolvent.agents.solutions.role_play import Persona, memories, memory_of
from evolvent.agents.tasks.profiles import profiles
from evolvent.agents.types import CallTag, Reply, derive_seed
from evolvent.environments.types import Cost, Message, Task, Trajectory
from evolvent.memory.rendering import recall_events
from evolvent.memory.types import Event, Kind, Record

ROLES = ("actor", "judge", "breeder")
ENVIRONMENTS = ("society",)
CARRIES_OVER = True
"""Who is fit in one period lives on in the next, so the fittest is measured on held-out tasks."""

_KIND: Kind = "profile"
_STATEMENT = "kind:statement"
"""Tag of the tasks that make the questionnaire."""


class Config(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    population: int = Field(12, ge=3)
    """N: the same in every period."""
    survivors: float = Field(0.5, gt=0, lt=1)
    """Share of it that lives on; two individuals at least."""
    mutation_rate: float = Field(0.3, ge=0, le=1)
    """Probability that a child's genome is mutated."""
    traits: int = Field(6, ge=2)
    """Of a genome at most; the first ones have as many."""
    periods_remembered: int = Field(1, ge=0)
    """Newest periods of its own life that an individual is shown."""
    observer: Literal["rules", "judge"] = "rules"
    """Who marks: the environment's own rule, or the role `judge`, which is told the norms of the period."""
    selection: Literal["fitness", "random"] = "fitness"
    """Control: with `random` chance decides who survives, with as many model calls."""
    skill_tasks: int = Field(4, ge=0)
    """Word problems that everybody solves in every period, to see that skill is kept; 0 measures none."""
    breeder_temperature: float = Field(0.8, ge=0)
    reply_tokens: int = Field(64, ge=1)
    """Of an action or an answer."""
    breeder_tokens: int = Field(32, ge=1)
    judge_tokens: int = Field(128, ge=1)

    @property
    def surviving(self) -> int:
        return max(2, min(self.population - 1, round(self.survivors * self.population)))


PRESETS = {
    "small": Config(population=4, mutation_rate=0.5, skill_tasks=1, breeder_tokens=24),
    "paper": Config(population=10, observer="judge", reply_tokens=256, breeder_tokens=128, judge_tokens=512),
}


def build(config: Config) -> StateGraph[State, Context, State, State]:
    """initialise → baseline once, then per period: tasks → live → remember → questionnaire → observe → select →
    crossover → mutate → evaluate."""

    async def initialise(state: State, runtime: Runtime[Context]) -> State:
        """The first characters, who remember nothing."""
        context = runtime.context
        if config.observer == "judge":
            norms_of(context, 0)
        genomes = profiles(config.population, config.traits, context.rng("profiles"))
        born = replace_members(context, _KIND, "initialise", 0, dead=(), born=[Birth(genome) for genome in genomes])
        return {"population": [each.id for each in born]}

    async def live(state: State, runtime: Runtime[Context]) -> State:
        """Everybody goes through the situations of the period."""
        context = runtime.context
        situations, _ = _parts(context, state)
        context.say(f"generation {state['generation']}: {len(state['population'])} characters live through a period")
        return {"episodes": await _play(context, config, state, situations)}

    async def remember(state: State, runtime: Runtime[Context]) -> State:
        """What everybody lived through enters its own memory."""
        context, generation = runtime.context, state["generation"]
        situations, _ = _parts(context, state)
        lived = [(each, _lived(context, state, each, situations)) for each in _population(context, state)]
        notes = [memory_of(profile, some, generation) for profile, some in lived if some]
        shown = recall_events([each for _, some in lived for each in some])
        keep(context, "remember", generation, [*shown, *(Event("add", note.id, note) for note in notes)])
        return {}

    async def questionnaire(state: State, runtime: Runtime[Context]) -> State:
        """Everybody is asked what it thinks, of which it is told nothing and remembers nothing."""
        context = runtime.context
        _, statements = _parts(context, state)
        return {"episodes": [*state["episodes"], *await _play(context, config, state, statements)]}

    async def observe(state: State, runtime: Runtime[Context]) -> State:
        """The fitness of each, under the norms of this period."""
        context, generation = runtime.context, state["generation"]
        situations, statements = _parts(context, state)
        seen = {
            each.id: (_lived(context, state, each, situations), _lived(context, state, each, statements))
            for each in _population(context, state)
        }
        replies: list[Reply] = []
        if config.observer == "rules":
            marks = [_by_rule([*did, *answered]) for did, answered in seen.values()]
        else:
            norms = norms_of(context, generation)
            replies = await context.rollouts.calls(
                _ask(context, config, state, "judge", name, observing(norms, did, answered))
                for name, (did, answered) in seen.items()
            )
            marks = [fitness_in(each.text, len(norms)) for each in replies]
        known = [mark for mark in marks if mark is not None]
        otherwise = sum(known) / len(known) if known else 0.0
        scores = {name: otherwise if mark is None else mark for name, mark in zip(seen, marks, strict=True)}
        said = dict(zip(scores, [each.text for each in replies], strict=False))
        keep(
            context,
            "observe",
            generation,
            [_marked(each, generation, scores[each.id], said.get(each.id, "")) for each in _population(context, state)],
        )
        return {"scores": dict(scores), "asked": _sum(state, *(each.cost for each in replies))}

    async def select(state: State, runtime: Runtime[Context]) -> State:
        """The fittest survive, of equally fit ones the older; who is fitter is a parent more often."""
        context, generation = runtime.context, state["generation"]
        fitness = _fitness(state)
        ranked = sorted(fitness, key=lambda name: -fitness[name])
        if config.selection == "random":
            ranked = context.rng("survival", generation).sample(ranked, len(ranked))
        surviving = set(ranked[: config.surviving])
        survivors = {name: fitness[name] for name in state["population"] if name in surviving}
        pairs = [
            roulette(survivors, 2, context.rng("parents", generation, number))
            for number in range(config.population - len(survivors))
        ]
        return {"population": list(survivors), "proposals": [{"parents": pair} for pair in pairs]}

    async def crossover(state: State, runtime: Runtime[Context]) -> State:
        """Each child has traits of both its parents."""
        context = runtime.context
        replies = await context.rollouts.calls(
            _ask(context, config, state, "crossover", number, crossing(*_parents(context, each), config.traits))
            for number, each in enumerate(state["proposals"])
        )
        return {"asked": _sum(state, *(each.cost for each in replies))}

    async def mutate(state: State, runtime: Runtime[Context]) -> State:
        """Some children have a trait that is new; then all are born, in the place of those who did not survive."""
        context, generation = runtime.context, state["generation"]
        bred = await context.rollouts.calls(
            _bred(context, config, state, number) for number in range(len(state["proposals"]))
        )
        survivors = state["population"]
        dead = [name for name in state["scores"] if name not in survivors]
        forgotten = [
            note.id
            for note in context.memory.records().values()
            if note.kind == "note" and note.scope.player in dead and note.status == "active"
        ]
        born = replace_members(
            context,
            _KIND,
            "births",
            generation,
            dead=[*dead, *forgotten],
            born=[birth for birth, _ in bred],
            evidence={"reason": "not selected", "selection": config.selection},
        )
        spent = _sum(state, *(cost for _, cost in bred))
        return {"population": [*survivors, *(each.id for each in born)], "asked": spent}

    async def evaluate(state: State, runtime: Runtime[Context]) -> State:
        """The fittest survivor on held-out tasks, and what became of the population."""
        context, generation = runtime.context, state["generation"]
        context.say(f"generation {generation}: the fittest on held-out tasks")
        fitness, population = _fitness(state), _population(context, state)
        fittest = max((each for each in population if each.id in fitness), key=lambda each: fitness[each.id])
        seats = _seats(context, config, population)
        found = await evaluate_held_out(context, seats[fittest.id], generation=generation)
        vectors_ND = await asyncio.to_thread(context.memory.embedder.embed, [each.text for each in population])
        finish_generation(
            context,
            generation,
            found,
            spent=spent_on(context, generation) + Cost(**state.get("asked", {})),
            fitness=fitness,
            mean_fitness=sum(fitness.values()) / len(fitness),
            best_fitness=max(fitness.values()),
            fittest=fittest.id,
            diversity=diversity(vectors_ND),
            population=[asdict(each) for each in models(context, population)],
            skill=await proficiency(context, seats, config.skill_tasks, generation=generation),
        )
        return {"episodes": [], "proposals": [], "scores": {}, "tasks": [], "asked": {}}

    return cycle(
        {"initialise": initialise, "baseline": baseline},
        {
            "tasks": tasks,
            "live": live,
            "remember": remember,
            "questionnaire": questionnaire,
            "observe": observe,
            "select": select,
            "crossover": crossover,
            "mutate": mutate,
            "evaluate": evaluate,
        },
    )


def _population(context: Context, state: State) -> list[Record]:
    known = context.memory.records()
    return [known[name] for name in state["population"]]


def _fitness(state: State) -> dict[str, float]:
    """Of those who lived through the period, in the order of their birth."""
    return {name: score for name, score in state["scores"].items() if score is not None}


def _parts(context: Context, state: State) -> tuple[list[Task], list[Task]]:
    """The situations and the statements of the period."""
    drawn = context.tasks("train", context.objective.tasks, state["generation"])
    statements = [task for task in drawn if _STATEMENT in task.tags]
    return [task for task in drawn if task not in statements], statements


def _seats(context: Context, config: Config, population: Sequence[Record]) -> dict[str, dict[str, Policy]]:
    """By individual: who plays when it does."""
    records, model = [*context.memory.records().values()], context.model("actor")
    lives = {each.id: Persona(each, memories(records, each, config.periods_remembered)) for each in population}
    return {name: {"": Policy(model, life, max_reply_tokens=config.reply_tokens)} for name, life in lives.items()}


def _job(context: Context, state: State, task: Task, name: str, policies: Mapping[str, Policy]) -> Job:
    """An individual's episode: all of them share its task and its random draws."""
    return Job(task, policies, "train", state["generation"], arm=name, seed=context.seed)


async def _play(context: Context, config: Config, state: State, met: Sequence[Task]) -> list[str]:
    """Keys of the episodes of everybody with each of these tasks."""
    seats = _seats(context, config, _population(context, state))
    jobs = [_job(context, state, task, name, policies) for name, policies in seats.items() for task in met]
    await context.rollouts.run(context.objective.environment_at(state["generation"]), jobs)
    return [job.key for job in jobs]


def _lived(context: Context, state: State, profile: Record, met: Sequence[Task]) -> list[Trajectory]:
    """An individual's episodes with these tasks that infrastructure did not fail."""
    found = experiences(context, [_job(context, state, task, profile.id, {}).key for task in met])
    return [each.trajectory for each in found if each.feedback.score is not None]


def _by_rule(seen: Sequence[Trajectory]) -> float | None:
    """Mean score by the environment; None where there is nothing."""
    return sum(each.outcome.score for each in seen) / len(seen) if seen else None


def _marked(profile: Record, generation: int, fitness: float, reasons: str) -> Event:
    history = {**profile.meta.get("fitness", {}), str(generation): fitness}
    return Event("update", profile.id, payload={"meta": {"fitness": history}, "reasons": reasons})


def _parents(context: Context, proposal: Mapping[str, Any]) -> tuple[str, str]:
    """Their genomes."""
    known = context.memory.records()
    one, other = (known[name].text for name in proposal["parents"])
    return one, other


async def _bred(context: Context, config: Config, state: State, number: int) -> tuple[Birth, Cost]:
    """A child, and what its mutation cost."""
    generation, proposal = state["generation"], state["proposals"][number]
    one, other = _parents(context, proposal)
    # Asked before: the ledger has the reply.
    reply = await _ask(context, config, state, "crossover", number, crossing(one, other, config.traits))
    rng = context.rng("child", generation, number)
    genome, chosen = crossed(one, other, reply.text, config.traits, rng)
    meta = {"crossed": genome, "chosen": chosen, "mutated": False}
    if context.rng("mutation", generation, number).random() >= config.mutation_rate:
        return Birth(genome, tuple(proposal["parents"]), meta), Cost()
    mutation = mutating(genome, config.traits, rng)
    reply = await _ask(context, config, state, "mutation", number, mutation.messages)
    new = mutated(genome, mutation.place, reply.text)
    return Birth(new, tuple(proposal["parents"]), {**meta, "mutated": new != genome}), reply.cost


async def _ask(
    context: Context, config: Config, state: State, purpose: str, name: int | str, messages: Sequence[Message]
) -> Reply:
    """A call outside episodes, made once: of the judge about somebody, else of the breeder about a child."""
    generation, role = state["generation"], "judge" if purpose == "judge" else "breeder"

    async def call() -> Reply:
        return await context.model(role).generate(
            messages,
            CallTag(role, "train", generation, task=str(name), purpose=purpose),
            temperature=0.0 if role == "judge" else config.breeder_temperature,
            max_tokens=config.judge_tokens if role == "judge" else config.breeder_tokens,
            seed=derive_seed(context.seed, purpose, generation, name),
        )

    return await reply_once(context, f"{generation}/{purpose}/{name}", call)


def _sum(state: State, *costs: Cost) -> dict[str, Any]:
    """What was asked outside episodes so far in this generation, with these."""
    return asdict(sum(costs, Cost(**state.get("asked", {}))))
