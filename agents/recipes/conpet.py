"""ConPET: Continual Parameter-Efficient Tuning for Large Language Models (arXiv 2309.14763).

Generation g learns the classes of a stream's g-th task, with as many optimisation steps as any other. `dynamic` trains
an adapter for each task and a selector that says which of them answers; `static` trains one adapter on and on. Half of
every batch is new, the other half is drawn from earlier tasks, all equally often.

Deviations from the paper and its released code:
- The replay pool is all earlier training data, as in the paper: what is bounded is the steps, not what is stored.
- The epoch that validates best is kept, by the fifth of the budget that is not trained on; as in the released code that
  fifth is half new as well, so the newest task weighs as much as all others together.
- Options that an episode offers are compared by their probability over all classes seen so far. Where another task
  was selected they are all alike, and the first is taken.
- With one expert a case, only new cases move the newest adapter: old ones run through an adapter that is frozen.
- The learning rate is constant; the released code lowers it after the first tasks.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any, Literal

from langgraph.graph import StateGraph
from langgraph.runtime import Runtime
from pydantic import BaseModel, ConfigDict, Field

from evolvent.agents.context import Context
from evolvent.agents.errors import SetupError
from evolvent.agents.evaluation.continual import judge_stream
from evolvent.agents.evolution import State, cycle
from evolvent.agents.models.experts import ExpertsChatModel
from evolvent.agents.solutions.act import first_messages, framed, new_messages
from evolvent.agents.solutions.supervision import demonstrate_skill, gold
from evolvent.agents.tasks.skills import Skill, skill_tasks
from evolvent.agents.tasks.stream import next_task, task_stream
from evolvent.agents.weights import classify, weights_of
from evolvent.environments.catalog import build_inline
from evolvent.environments.types import merge
from evolvent.memory.compute import computed
from evolvent.memory.weights.adapters import Adapter, Adapters
from evolvent.memory.weights.dataset import Example
from evolvent.memory.weights.mixing import join
from evolvent.memory.weights.training import OnStep, Trained

if TYPE_CHECKING:
    from evolvent.memory.weights.experts import Budget, Case

ROLES = ("actor",)
ENVIRONMENTS = ("labelled",)
CARRIES_OVER = True


class Config(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    stream: tuple[dict[str, Any], ...] = ()
    """Options of the environment for each generation in turn; empty takes intents and entities by turns."""
    version: Literal["dynamic", "static", "sequential"] = "dynamic"
    """`sequential` is `static` without anything old in its batches: what forgets."""
    top: int = Field(1, ge=1)
    """Experts that run for one prompt."""
    batches: int = Field(5, ge=2)
    """Of an epoch, whatever the number of tasks."""
    train_share: float = Field(0.8, gt=0, lt=1)
    """Of these batches; the others validate."""
    epochs: int = Field(2, ge=1)
    batch_size: int = Field(4, ge=2)
    learning_rate: float = Field(1e-3, gt=0)
    rank: int = Field(4, ge=1)
    alpha: int = Field(8, ge=1)
    targets: tuple[str, ...] = ("q_proj", "v_proj")


PRESETS = {
    "small": Config(),
    "paper": Config(batches=100, epochs=20, batch_size=8, learning_rate=2e-4),
}
"""The budget of `paper` is that of TACRED and ACE; FewNERD has 2500 batches."""


def build(config: Config) -> StateGraph[State, Context, State, State]:
    """baseline, then per generation: task → demonstrate → select → specialise → evaluate."""

    def stream(context: Context) -> list[Skill]:
        return task_stream(context, config.stream, ("intents", "entities"))

    async def baseline(state: State, runtime: Runtime[Context]) -> State:
        context = runtime.context
        for skill in stream(context):
            _classes(context, skill)  # a task without classes is told before anything is played
        await judge_stream(context, context.model("actor"), stream(context), generation=0)
        return {"generation": 0, "adapter": ""}

    async def demonstrate(state: State, runtime: Runtime[Context]) -> State:
        """The expert's episodes on this task: its data."""
        context, generation = runtime.context, state["generation"]
        return {"episodes": await demonstrate_skill(context, stream(context)[generation - 1], generation=generation)}

    async def select(state: State, runtime: Runtime[Context]) -> State:
        """The selector, one task wider; the first task needs none."""
        if config.version == "dynamic" and state["generation"] > 1:
            await _fit(runtime.context, config, stream(runtime.context), "selector", state["generation"])
        return {}

    async def specialise(state: State, runtime: Runtime[Context]) -> State:
        """An expert for this task, or, static, the one adapter on all classes."""
        context, generation = runtime.context, state["generation"]
        name = "expert" if config.version == "dynamic" else "static"
        expert = await _fit(context, config, stream(context), name, generation)
        return {"adapter": (_made(context, "selector", generation) or expert).full_name}

    async def evaluate(state: State, runtime: Runtime[Context]) -> State:
        """All tasks of the stream, by whatever the selector picks."""
        context, generation = runtime.context, state["generation"]
        seen = stream(context)[:generation]
        model = _model(context, config, seen, generation)
        plain = context.model("actor")
        experts = _experts(context, config, generation)
        share = max(1, context.objective.evaluated // context.objective.generations)
        await judge_stream(
            context,
            plain.serving(f"{plain.name}+{state['adapter']}", model),
            stream(context),
            generation=generation,
            adapter=state["adapter"],
            experts=[each.full_name for each in experts],
            steps={each.card.name: each.card.metrics["steps"] for each in experts[-1:]},
            selected=await _selection(context, model, seen, share),
        )
        return {"episodes": [], "tasks": []}

    return cycle(
        {"baseline": baseline},
        {
            "task": next_task(config.stream, ("intents", "entities")),
            "demonstrate": demonstrate,
            "select": select,
            "specialise": specialise,
            "evaluate": evaluate,
        },
    )


# -- inside ------------------------------------------------------------------------------------------------------------


async def _fit(context: Context, config: Config, stream: Sequence[Skill], name: str, generation: int) -> Adapter:
    """The selector, the expert or the static adapter of that generation, trained on the budget."""
    from evolvent.memory.weights.experts import train_expert, train_selector

    seen, budget = stream[:generation], _budget(context, config)
    sizes = [len(_classes(context, skill)) for skill in seen]
    sets = [await gold(context, skill, [number], name=skill.name) for number, skill in enumerate(seen, start=1)]
    *old, new = [
        _cases(context, skill, task, rows.examples) for task, (skill, rows) in enumerate(zip(seen, sets, strict=True))
    ]
    start = _made(context, name, generation - 1) if name != "expert" else None
    how: dict[str, Any] = {"sizes": sizes}
    if name == "static":
        old = old if config.version == "static" else []
        how = {"sizes": [sum(sizes)]}
        *old, new = [
            [replace(case, task=0, label=sum(sizes[:task]) + case.label) for case in some]
            for task, some in enumerate([*old, new], start=generation - 1 - len(old))
        ]
    elif name == "expert" and old:
        how |= await computed(_earlier, context, config, sizes, [*chain(*old), *new], generation)

    def work(base: str, out: Path, on_step: OnStep) -> Trained:
        folder = start.folder if start else None
        if name == "selector":
            return train_selector(base, new, old, out, budget, start=folder, on_step=on_step)
        return train_expert(base, new, old, out, budget, start=folder, on_step=on_step, **how)

    settings = {"method": f"conpet-{name}", "sizes": sizes, **budget.model_dump(mode="json")}
    rows = join("conpet", *sets)
    return await classify(context, name, rows, work, generation=generation, start=start, config=settings)


def _budget(context: Context, config: Config) -> Budget:
    from evolvent.memory.weights.experts import Budget

    return Budget(**config.model_dump(exclude={"stream", "version", "top"}), seed=context.seed)


def _earlier(
    context: Context, config: Config, sizes: Sequence[int], cases: Sequence[Case], generation: int
) -> dict[str, Any]:
    """Which tasks run for each case in training, and what the earlier experts give those; read once for each pair."""
    from evolvent.memory.weights.experts import Experts, forced, key

    made = _experts(context, config, generation - 1)
    selector = _made(context, "selector", generation)
    assert selector is not None
    experts = Experts(weights_of(context), [each.folder for each in made], sizes[:-1], selector=selector.folder)
    selected = (
        {key(case.messages): experts.rank(case.messages)[: config.top] for case in cases} if config.top > 1 else {}
    )
    frozen: dict[tuple[int, str], list[float]] = {}
    for task, expert in enumerate(made):
        path = context.directory / "conpet" / f"{expert.full_name}.json"
        known = json.loads(path.read_text("utf-8")) if path.exists() else {}
        for case in cases:
            name = key(case.messages)
            if task in forced(selected.get(name, (case.task,)), case.task):
                if name not in known:
                    known[name] = experts.own_logits(task, case.messages)
                frozen[task, name] = known[name]
        path.parent.mkdir(exist_ok=True)
        scratch = path.with_suffix(".writing")
        scratch.write_text(json.dumps(known), encoding="utf-8")
        scratch.replace(path)
    return {"selected": selected, "frozen": frozen}


def _model(context: Context, config: Config, seen: Sequence[Skill], generation: int) -> ExpertsChatModel:
    """What the generation acts with."""
    selector = _made(context, "selector", generation)
    classes = tuple(_classes(context, skill) for skill in seen)
    registry = Adapters(context.directory)
    return ExpertsChatModel(
        base=weights_of(context),
        experts=tuple(registry.check(each).folder for each in _experts(context, config, generation)),
        classes=classes if config.version == "dynamic" else (tuple(chain(*classes)),),
        selector=registry.check(selector).folder if selector else None,
        top=config.top,
    )


def _experts(context: Context, config: Config, generation: int) -> list[Adapter]:
    """Those of all tasks so far, in their order; static, the one."""
    numbers = range(1, generation + 1) if config.version == "dynamic" else [generation]
    name = "expert" if config.version == "dynamic" else "static"
    return [made for number in numbers if (made := _made(context, name, number)) is not None]


def _made(context: Context, name: str, generation: int) -> Adapter | None:
    """What was trained under that name in that generation."""
    known = context.memory.ledger.memo(f"{generation}/train/{name}")
    return Adapters(context.directory).get(known) if known else None


async def _selection(context: Context, model: ExpertsChatModel, seen: Sequence[Skill], n: int) -> float | None:
    """Share of held-out tasks for which the right expert came first; None where nothing is selected."""
    if model.selector is None:
        return None
    right = []
    for place, skill in enumerate(seen):
        async with context.rollouts.pool.use(skill.environment) as world:
            for task in skill_tasks(context, skill, "test", n):
                (observation,) = world.reset(task, 0)
                head = first_messages(world.instructions, task, "")
                sent = merge((*head, *new_messages(observation, scored=True)))
                messages = tuple({"role": role, "content": text} for role, text in sent)
                decision = await computed(model.decide, messages)
                right.append(decision.selected[0] == place)
    return fmean(right)


def _cases(context: Context, skill: Skill, task: int, examples: Sequence[Example]) -> list[Case]:
    from evolvent.memory.weights.experts import Case

    classes = _classes(context, skill)
    return [Case(each.messages, task, classes.index(each.completion)) for each in examples]


def _classes(context: Context, skill: Skill) -> tuple[str, ...]:
    """
    Raises:
        SetupError: its tasks are answered in free text.
    """
    (task,) = skill_tasks(context, skill, "train", 1)
    world = build_inline(skill.environment)
    try:
        (observation,) = world.reset(task, 0)
    finally:
        world.close()
    if observation.actions is None:
        options = dict(skill.environment.options)
        raise SetupError(f"Tasks of {options} have no classes. Take tasks of the families intents and entities.")
    return tuple(framed(observation, each) for each in observation.actions)
