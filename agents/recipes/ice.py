"""`ice`: plans become workflows and calls of tools become pipelines, to plan and to act by on tasks like them.

Investigate-Consolidate-Exploit (arXiv 2401.13996). A planner lists goals, an actor meets them one after the other by
calls of tools. Afterwards the plan's versions and the calls of every goal are read from the trajectory (investigate);
goals that were met, in order and without arguments, are a workflow, and a goal's calls without failed and repeated ones
are a pipeline (consolidate). A new task's planner is shown the most similar workflow, and a goal like a known one is
met by its pipeline, with a call of the model only for what cannot be copied and where ways part (exploit).

Where this differs, or where the paper's reader has to choose, for no code is public:
- A plan is a list whose open part the planner rewrites, not a tree: its leaves in order are what both stores hold.
- The actor's word "done" is not enough: its last call ran, and the environment's own list says that the subgoal is met.
- A slot keeps every place where its value stood, and a pipeline that is learned again keeps those that held it again:
  so a chance likeness is asked about and not copied. Traces that part are joined, and ways that part are asked about.
- The training tasks are met with memory as it stands, by the role `investigator`, whose model may be a stronger one.
- What a call for an abandoned goal found, and a later goal used, is found by the later goal's pipeline itself.
- After a goal that its pipeline met, the planner is not asked: nothing unforeseen has happened.
- With `prove`, a pipeline that gets another way waits beside the old one instead of taking its place.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from langgraph.graph import StateGraph
from langgraph.runtime import Runtime
from pydantic import Field, TypeAdapter

from evolvent.agents.context import Context
from evolvent.agents.evolution import State, cycle
from evolvent.agents.feedback.goal_check import call_of, calls_for, stands
from evolvent.agents.refinement.pipeline import (
    Call,
    Pipeline,
    pipeline_of,
    pruned,
    taught,
    with_needed,
    without_arguments,
)
from evolvent.agents.remembering import (
    Remembering,
    Seat,
    attempt,
    baseline_of,
    evaluation,
    experience,
    learned,
    proof,
    tasks,
    turn,
    written,
)
from evolvent.agents.solutions.act import Policy
from evolvent.agents.solutions.chosen import QUESTION, by_question
from evolvent.agents.solutions.found import Found, Showing
from evolvent.agents.solutions.plan_and_act import Apart, PlanAndAct, most_similar
from evolvent.agents.solutions.plans import Course, Leaf, course
from evolvent.agents.solutions.scratchpad import Scratchpad, tasks_of
from evolvent.environments.toolbox import destructive, met, subgoals
from evolvent.environments.types import Task
from evolvent.memory.retrieval import LIVE
from evolvent.memory.store import Snapshot
from evolvent.memory.types import Event, Record, Scope, new_record

ROLES = ("actor", "investigator")
ENVIRONMENTS = ("toolbox",)
CARRIES_OVER = True
"""What one task taught serves those like it, so it is measured on held-out tasks."""

_SHOWN = "A task much like this one was done by reaching these goals, in this order:\n{goals}"
_WORKFLOW, _PIPELINE = "workflow", "pipeline"
"""Facts of the two kinds of skills; `QUESTION` holds what each is found by."""
_COURSE: TypeAdapter[Course] = TypeAdapter(Course)
_PIPE: TypeAdapter[Pipeline] = TypeAdapter(Pipeline)


class Config(Remembering):
    workflows: int = Field(1, ge=0, le=1)
    """Shown to the planner at most; 0 for the ablation without."""
    pipelines: int = Field(16, ge=0)
    """At hand in a task, those first whose goals are most like the task; the most similar one is used for a goal. 0 for
    the ablation without."""
    threshold: float = Field(0.75, ge=-1, le=1)
    """Cosine of two goals from which on one's pipeline serves the other. To be set per embedder: with `minilm`
    the likest different goals of the toolbox lie at 0.74, half of its near-duplicates above 0.92; with `hash` at 0.51,
    and all near-duplicates above 0.71."""
    confirm: bool = False
    """A pipeline's call that cannot be undone is made only after the actor has said yes."""
    goals: int = Field(8, ge=1)
    """Of one reply of the planner."""
    calls: int = Field(8, ge=1)
    """Of the actor for one goal; beyond it the goal has failed."""
    revisions: int = Field(4, ge=0)
    """Times at most that the planner is asked once more, in a task."""
    steps: int = Field(20, ge=1)
    """Calls of tools in a task, where the environment's own limit is not nearer."""
    call_tokens: int = Field(128, ge=1)
    """Of a reply that is a call."""
    plan_tokens: int = Field(512, ge=1)
    """Of a reply that lists goals."""


PRESETS = {
    "small": Config(goals=2, calls=2, revisions=1, steps=3, call_tokens=16, plan_tokens=32),
    "paper": Config(),
}


def build(config: Config) -> StateGraph[State, Context, State, State]:
    """baseline, then per generation: tasks → (answer → investigate → consolidate … → store)* → gate → evaluate."""

    def plays(role: str) -> Seat:
        def seat(context: Context, showing: Showing) -> Policy:
            snapshot, embedder = context.memory.snapshot(), context.memory.embedder

            def workflows(snapshot: Snapshot, task: Task, showing: Showing) -> list[Record]:
                near = by_question(snapshot, embedder, task, kind="skill", showing=showing)
                return [record for record in near if _WORKFLOW in record.meta][: config.workflows]

            def pipelines(snapshot: Snapshot, task: Task, showing: Showing) -> list[Record]:
                near = by_question(snapshot, embedder, task, kind="skill", showing=showing)
                return [record for record in near if _PIPELINE in record.meta][: config.pipelines]

            manner = PlanAndAct(
                _pipelines(snapshot.records),
                embedder,
                call_of,
                config.threshold,
                confirmed=destructive if config.confirm else lambda tool: False,
                plan_tokens=config.plan_tokens,
                most_goals=config.goals,
                most_calls=config.calls,
                revisions=config.revisions,
            )
            return Policy(
                context.model(role),
                Apart(Found(snapshot, workflows, _told, showing), Found(snapshot, pipelines, _ids, showing)),
                max_reply_tokens=config.call_tokens,
                stop=("\n",),
                manner=manner,
                max_steps=config.steps,
            )

        return seat

    actor = plays("actor")

    async def investigate(state: State, runtime: Runtime[Context]) -> State:
        """Plan and calls as the trajectory tells them; of the goals those that passed the check."""
        context, pad = runtime.context, Scratchpad(runtime.context, state)
        for task in turn(context, state):
            trajectory = experience(context, state, task).trajectory
            went = course(trajectory.steps, call_of)
            told = met(trajectory.steps[-1].result) if trajectory.steps and not trajectory.outcome.failure else ()
            pad.note(task, "investigate", _COURSE.dump_json(went).decode())
            pad.note(task, "check", json.dumps([stands(leaf, subgoals(task), told) for leaf in went.leaves]))
        return {}

    async def consolidate_workflow(state: State, runtime: Runtime[Context]) -> State:
        """The goals that were met, in the order they were gone for, without what the tools were handed."""
        context, pad = runtime.context, Scratchpad(runtime.context, state)
        for task in turn(context, state):
            went, stood = _investigated(pad, task)
            goals = [_milestone(leaf, went) for leaf, holds in zip(went.leaves, stood, strict=True) if holds]
            pad.note(task, _WORKFLOW, "\n".join(f"{number}. {goal}" for number, goal in enumerate(goals, 1)))
        return {}

    async def consolidate_pipeline(state: State, runtime: Runtime[Context]) -> State:
        """The calls that met a goal: a pipeline of their own, or more of what a known one is."""
        context, pad = runtime.context, Scratchpad(runtime.context, state)
        known = _pipelines({key: record for key, record in context.memory.records().items() if record.status in LIVE})
        for task in turn(context, state):
            went, stood = _investigated(pad, task)
            found = []
            for at, leaf in enumerate(went.leaves):
                if not stood[at]:
                    continue
                calls = with_needed(calls_for(leaf), _made(went, stood, at, met=False))
                before = _made(went, stood, at, met=True)
                goals = {key: pipeline.goal for key, pipeline in known.items()}
                near = most_similar(context.memory.embedder, leaf.goal.text, goals, config.threshold)
                grown = taught(known[near], leaf.goal.text, before, calls) if near else None
                pipeline = grown or pipeline_of(leaf.goal.text, before, calls)
                if pipeline is None:
                    continue
                record = _pipeline_record(pipeline, task, state["generation"])
                if grown and near != record.id and not config.prove:
                    del known[str(near)]
                known[record.id] = pipeline
                found.append({"pipeline": _PIPE.dump_python(pipeline, mode="json"), "from": near if grown else ""})
            pad.note(task, _PIPELINE, json.dumps(found))
        return {}

    async def store(state: State, runtime: Runtime[Context]) -> State:
        """Workflows and pipelines enter memory as skills."""
        context, pad = runtime.context, Scratchpad(runtime.context, state)
        events: list[Event] = []
        for task in turn(context, state):
            trajectory = experience(context, state, task).trajectory
            if goals := pad.said(task, _WORKFLOW):
                meta = {QUESTION: task.prompt, _WORKFLOW: goals.count("\n") + 1}
                scope = Scope(task.environment)
                workflow = new_record(
                    "skill", goals, scope, parents=(trajectory.id,), meta=meta, generation=state["generation"]
                )
                events += written(context, config, [workflow])
            for row in json.loads(pad.said(task, _PIPELINE) or "[]"):
                parents = (trajectory.id, *([row["from"]] if row["from"] else []))
                record = _pipeline_record(
                    _PIPE.validate_python(row["pipeline"]), task, state["generation"], parents=parents
                )
                events += _kept(context, config, record, row["from"])
        return learned(context, state, events)

    return cycle(
        {"baseline": baseline_of(actor)},
        {
            "tasks": tasks,
            "answer": attempt(plays("investigator"), config),
            "investigate": investigate,
            "consolidate_workflow": consolidate_workflow,
            "consolidate_pipeline": consolidate_pipeline,
            "store": store,
            "gate": proof(actor, config, ("skill",)),
            "evaluate": evaluation(actor, config, _row),
        },
        loops={"store": "answer"},
    )


def _made(went: Course, stood: Sequence[bool], until: int, *, met: bool) -> list[Call]:
    """The calls for the goals ahead of one that were met, which will be made again next time, or for those that were
    not."""
    return [
        call for leaf, holds in zip(went.leaves[:until], stood, strict=False) if holds == met for call in leaf.calls
    ]


def _milestone(leaf: Leaf, went: Course) -> str:
    """A goal without what calls took as arguments, and the tools that led to it."""
    tools = ", ".join(call.tool for call in pruned(calls_for(leaf)))
    return f"{without_arguments(leaf.goal.text, pruned(went.calls))} (by {tools})"


def _investigated(pad: Scratchpad, task: Task) -> tuple[Course, list[bool]]:
    went = _COURSE.validate_json(pad.said(task, "investigate") or "{}")
    return went, json.loads(pad.said(task, "check") or "[]")


def _pipelines(records: Mapping[str, Record]) -> dict[str, Pipeline]:
    ours = {key: record for key, record in records.items() if record.kind == "skill" and _PIPELINE in record.meta}
    return {key: _PIPE.validate_python(record.meta[_PIPELINE]) for key, record in ours.items()}


def _pipeline_record(pipeline: Pipeline, task: Task, generation: int, parents: tuple[str, ...] = ()) -> Record:
    """Its text is the goal and the tools; where slots are filled from is a fact, for that is narrowed later."""
    return new_record(
        "skill",
        f"To {pipeline.goal}: {pipeline.tools()}",
        Scope(task.environment),
        parents=parents,
        meta={QUESTION: pipeline.goal, _PIPELINE: _PIPE.dump_python(pipeline, mode="json")},
        generation=generation,
    )


def _kept(context: Context, config: Config, record: Record, grown_from: str) -> list[Event]:
    """The events that put a pipeline in, or in place of the one it has grown from."""
    if grown_from == record.id:
        facts = {"meta": dict(record.meta), "parents": [key for key in record.parents if key != record.id]}
        return [Event("update", record.id, payload=facts)]
    events = written(context, config, [record])
    if grown_from and not config.prove:
        events.append(Event("merge", grown_from, payload={"into": record.id}))
    return events


def _told(workflows: Sequence[Record]) -> str:
    return _SHOWN.format(goals=workflows[0].text)


def _ids(pipelines: Sequence[Record]) -> str:
    """Read by `PlanAndAct`, and by no model."""
    return " ".join(record.id for record in pipelines)


def _row(context: Context, state: State) -> Mapping[str, Any]:
    """What memory holds, how the stretch's goals were met, and what held-out tasks cost by how near they were."""
    live = [record for record in context.memory.records().values() if record.status in LIVE and record.kind == "skill"]
    pad = Scratchpad(context, state)
    went = [_investigated(pad, task)[0] for task in tasks_of(context, state["generation"])]
    begun = [{at for plan in each.plans for at, goal in enumerate(plan) if goal.way} for each in went]
    held = [sum(leaf.goal.way != "" for leaf in each.leaves) for each in went]
    return {
        "workflows": sum(_WORKFLOW in record.meta for record in live),
        "pipelines": sum(_PIPELINE in record.meta for record in live),
        "replayed": sum(held),
        "abandoned": sum(map(len, begun)) - sum(held),
        "plans": sum(len({tuple(goal.text for goal in plan) for plan in each.plans}) for each in went),
        "calls_by_likeness": _calls_by_likeness(context, state["generation"], live),
    }


def _calls_by_likeness(context: Context, generation: int, live: Sequence[Record]) -> dict[str, list[float]]:
    """By cosine of a held-out task to the nearest one that left a workflow, to one decimal: tasks, calls per task."""
    embed = context.memory.embedder.embed
    known_ND = embed([record.meta[QUESTION] for record in live if _WORKFLOW in record.meta])
    episodes = context.memory.ledger.episodes(phase="eval", generation=generation)
    played = [episode.trajectories[0] for episode in episodes]
    found: dict[str, list[int]] = {}
    for trajectory, task_D in zip(played, embed([each.task.prompt for each in played]), strict=True):
        near = max((float(each_D @ task_D) for each_D in known_ND), default=0.0)
        found.setdefault(f"{near:.1f}", []).append(trajectory.cost.calls)
    return {near: [len(calls), sum(calls) / len(calls)] for near, calls in sorted(found.items())}
