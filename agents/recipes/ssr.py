"""SSR: Mitigating Catastrophic Forgetting with Self-Synthesized Rehearsal (arXiv 2403.01244).

Generation g goes on with the adapter of the one before, on the g-th task of a stream and on what is rehearsed of every
earlier one. A task's pool is made once, right after it was learned: the frozen model makes up inputs from a few
demonstrations, a selection stands for all of them, and the newest weights answer what was selected.

Deviations from the paper and its released code:
- Selected first, answered then, as the released code does to save calls; the paper puts it the other way round.
- Inputs are sampled at a temperature, without its cut to the likeliest words and its penalty for repetition.
- A made-up input that is a real one, word for word, is dropped: neither paper nor code looks for copies.
- Embeddings are those of the run's memory. Accuracy instead of ROUGE-L; labels are chosen by their likelihood.
- No dropout in the adapter's path; the learning rate falls linearly after a warm-up in every stage.
- After the last task no pool is made, since nobody would rehearse it.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from langgraph.graph import StateGraph
from langgraph.runtime import Runtime
from pydantic import BaseModel, ConfigDict, Field

from evolvent.agents import phases
from evolvent.agents.context import Context
from evolvent.agents.evaluation.continual import judge_stream
from evolvent.agents.evolution import State, cycle, experiences
from evolvent.agents.refinement.correct import keep_rows, kept_rows
from evolvent.agents.solutions.answer import answer
from evolvent.agents.solutions.supervision import demonstrate_skill, gold
from evolvent.agents.tasks.stream import next_task, task_stream
from evolvent.agents.tasks.synthesis import Shown, central, synthesise
from evolvent.agents.weights import served, train
from evolvent.environments.types import Cost
from evolvent.memory.weights.dataset import read_jsonl
from evolvent.memory.weights.mixing import join, rehearsal
from evolvent.memory.weights.training import Training

ROLES = ("actor",)
ENVIRONMENTS = ("labelled", "word_problems")
CARRIES_OVER = True


class Config(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    stream: tuple[dict[str, Any], ...] = ()
    """Options of the environment for each generation in turn; empty takes the environment's own stream."""
    demonstrations: int = Field(4, ge=2)
    """Training tasks that are shown when inputs are made up; they are in no training set of a later task."""
    samples: int = Field(1, ge=1)
    """Calls for each ordered pair of demonstrations."""
    temperature: float = Field(0.9, ge=0)
    clusters: int = Field(6, ge=1)
    rehearsal: int = Field(12, ge=0)
    """Made-up inputs that are kept of a task, about; 0 is plain fine-tuning, one task after the other."""
    reply_tokens: int = Field(48, ge=1)
    """Of a call that makes up inputs, and of an answer, at most."""
    epochs: float = Field(3, gt=0)
    learning_rate: float = Field(1e-3, gt=0)
    batch_size: int = Field(8, ge=1)
    rank: int = Field(8, ge=1)
    alpha: int = Field(16, ge=1)
    targets: tuple[str, ...] = ("q_proj", "v_proj")


PRESETS = {
    "small": Config(),
    "paper": Config(
        demonstrations=20,
        samples=3,
        clusters=20,
        rehearsal=200,
        reply_tokens=512,
        learning_rate=2e-4,
        batch_size=32,
    ),
}


def build(config: Config) -> StateGraph[State, Context, State, State]:
    """baseline, then per generation: task → demonstrate → mix → update → synthesise → evaluate."""

    async def baseline(state: State, runtime: Runtime[Context]) -> State:
        context = runtime.context
        stream = task_stream(context, config.stream)
        await judge_stream(context, context.model("actor"), stream, generation=0, reply_tokens=config.reply_tokens)
        return {"generation": 0, "adapter": "", "pools": []}

    async def demonstrate(state: State, runtime: Runtime[Context]) -> State:
        """The expert's episodes on this task: its real data."""
        context, generation = runtime.context, state["generation"]
        skill = task_stream(context, config.stream)[generation - 1]
        return {"episodes": await demonstrate_skill(context, skill, generation=generation)}

    async def mix(state: State, runtime: Runtime[Context]) -> State:
        """The real data of this task, and the pools of all earlier ones as they are."""
        context, generation = runtime.context, state["generation"]
        skill = task_stream(context, config.stream)[generation - 1]
        real = await gold(context, skill, [generation], name="ssr")
        pools = [read_jsonl(context.directory / "datasets" / each) for each in state["pools"]]
        return keep_rows(context, join("ssr", real, *pools))

    async def update(state: State, runtime: Runtime[Context]) -> State:
        """The adapter of the stage before, trained on."""
        context, generation = runtime.context, state["generation"]
        training = Training(
            **config.model_dump(include={"epochs", "learning_rate", "batch_size", "rank", "alpha", "targets"}),
            seed=context.seed,
        )
        start = phases.adapter_of(context, state)
        rows = kept_rows(context, state)
        adapter = await train(context, "ssr", rows, generation=generation, training=training, start=start)
        return {"adapter": adapter.full_name}

    async def invent(state: State, runtime: Runtime[Context]) -> State:
        """Inputs like those of this task, by the frozen model; those that stand for all of them."""
        context, generation = runtime.context, state["generation"]
        if not _pooled(context, config, generation):
            return {"proposals": []}
        context.say(f"generation {generation}: making up inputs")
        skill = task_stream(context, config.stream)[generation - 1]
        real = [each.trajectory for each in experiences(context, state["episodes"])]
        async with context.rollouts.pool.use(skill.environment) as world:
            instructions = world.instructions
        found = await synthesise(
            context,
            context.model("actor"),
            instructions,
            [Shown(each.task.prompt, each.steps[-1].reply) for each in real[: config.demonstrations]],
            generation=generation,
            samples=config.samples,
            temperature=config.temperature,
            reply_tokens=config.reply_tokens,
            real={each.task.prompt for each in real},
        )
        context.say(f"generation {generation}: {len(found.inputs)} inputs made up, {found.dropped} dropped")
        vectors = context.memory.embedder.embed(found.inputs)
        chosen = central(vectors, clusters=config.clusters, wanted=config.rehearsal, seed=context.seed)
        return {"proposals": [{"input": found.inputs[place]} for place in chosen], "asked": asdict(found.cost)}

    async def relabel(state: State, runtime: Runtime[Context]) -> State:
        """What the newest weights answer to these inputs: the pool of this task, for good."""
        context, generation = runtime.context, state["generation"]
        if not state["proposals"]:
            return {}
        skill = task_stream(context, config.stream)[generation - 1]
        like = experiences(context, state["episodes"])[0].trajectory
        answered = await answer(
            context,
            await served(context, phases.adapter_of(context, state)),
            like,
            [each["input"] for each in state["proposals"]],
            generation=generation,
            reply_tokens=config.reply_tokens,
        )
        pool = rehearsal(
            ((each.asked, each.reply) for each in answered if each.reply),
            name=f"rehearsal-{skill.name}",
            instructions=like.prompt(0)[0].text,
        )
        if not len(pool):
            return {}
        cost = sum((each.cost for each in answered), Cost(**state["asked"]))
        return {"pools": [*state["pools"], keep_rows(context, pool)["dataset"]], "asked": asdict(cost)}

    async def evaluate(state: State, runtime: Runtime[Context]) -> State:
        """All tasks of the stream, by the new weights."""
        context = runtime.context
        await judge_stream(
            context,
            await served(context, phases.adapter_of(context, state)),
            task_stream(context, config.stream),
            generation=state["generation"],
            adapter=state["adapter"],
            asked=state.get("asked", {}),
            reply_tokens=config.reply_tokens,
            dataset=state["dataset"],
            pools=state["pools"],
        )
        return {"episodes": [], "proposals": [], "tasks": [], "asked": {}}

    return cycle(
        {"baseline": baseline},
        {
            "task": next_task(config.stream),
            "demonstrate": demonstrate,
            "mix": mix,
            "update": update,
            "synthesise": invent,
            "relabel": relabel,
            "evaluate": evaluate,
        },
    )


def _pooled(context: Context, config: Config, generation: int) -> bool:
    """Whether a later task will rehearse this one."""
    return config.rehearsal > 0 and generation < context.objective.generations
