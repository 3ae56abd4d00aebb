"""Reflexion: Language Agents with Verbal Reinforcement Learning (arXiv 2303.11366).

One generation is one trial over the tasks that are still unsolved. A failed attempt is turned into a short lesson, and
the next attempt at the same task reads the last few lessons of that task before the task itself. Nothing passes
between tasks and no weights change, so it is measured on its own tasks, beside as many attempts without the mechanism.
Where programs are asked for, the trials of a task lie within one generation and its own tests stand in for the
environment's word (`solutions/self_tested.py`); a generation is then a pass over new tasks, beside the first programs.

Deviations from the paper and its released code:
- Whether a task is solved is the environment's own all-or-nothing flag, never a mere end of the episode.
- A small model may choose its lesson among the lines the world admits (`constrained`, off in the preset `paper`).
- No few-shot examples: the environment's instructions are all that every prompt shares.
- In the code variant the reflector sees the newest program alone, as in the released code, and several self-written
  tests are kept in both presets, as in the paper; the released script keeps one.
- The paper's number of trials (10), of tasks (134) and the step limit (49) belong to the run and the environment.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Literal

from langgraph.graph import START, StateGraph
from langgraph.runtime import Runtime
from pydantic import BaseModel, ConfigDict, Field

from evolvent.agents.context import Context
from evolvent.agents.episode import Job
from evolvent.agents.errors import ModelCallError
from evolvent.agents.evaluation.held_out import Evaluation
from evolvent.agents.evaluation.statistics import interval
from evolvent.agents.evolution import State, add_cycle, experiences, finish_generation, keep, once
from evolvent.agents.refinement.reflection import reflect_on, told
from evolvent.agents.rollout import Episode
from evolvent.agents.solutions.act import Policy
from evolvent.agents.solutions.recall import NO_RECALL, Lessons, Recall
from evolvent.agents.solutions.self_tested import LOOPS, SelfTesting, phases
from evolvent.agents.types import CallTag
from evolvent.environments.types import Cost, Experience, Task
from evolvent.memory.rendering import recall_events, trajectory_record
from evolvent.memory.types import Event, Record, Scope, new_record

ROLES = ("actor", "reflector")
ENVIRONMENTS = ("workshop", "blackjack", "textworld", "textcraft", "household", "code")
CARRIES_OVER = False
"""A lesson serves the task it came from and no other, so success is that of the run's own tasks."""


class Config(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    strategy: Literal["none", "last_attempt", "reflection", "last_attempt_and_reflection"] = "reflection"
    """What the next attempt is shown; with both, only the newest lesson. Without reflection no reflector is called."""
    reflections_shown: int = Field(3, ge=0)
    """Ω: the last so many lessons of a task are shown, all are kept."""
    temperature: float = Field(1.0, ge=0)
    """Of acting. Above 0, or the control only repeats itself."""
    stop_on_repeat: bool = False
    """An action that repeats the one before it ends the attempt as failed."""
    constrained: bool = True
    """A reflector that can score options chooses its plan among the lines the world admits, instead of writing freely:
    a small model can neither write a lesson nor follow one that is not worded like its actions."""
    reflection_tokens: int = Field(64, ge=1)
    """Of one lesson at most, where it is written."""
    scratchpad_tokens: int = Field(400, ge=1)
    """Of an attempt as the reflector or the next attempt reads it."""
    self_tests: int = Field(3, ge=1)
    """Code: tests that the model writes itself and that decide whether it tries again."""
    iterations: int = Field(2, ge=0)
    """Code: new programs after the first at most."""
    program_tokens: int = Field(128, ge=1)
    """Code: of one program, or of all its tests, at most."""


PRESETS = {
    "small": Config(),
    "paper": Config(
        temperature=0.0,
        stop_on_repeat=True,
        constrained=False,
        reflection_tokens=256,
        scratchpad_tokens=1600,
        self_tests=5,
        iterations=10,
        program_tokens=1024,
    ),
}


def build(config: Config) -> StateGraph[State, Context, State, State]:
    """Per trial: tasks → solve → feedback → reflect → remember → evaluate.

    Where programs are asked for, per generation: draw → write_tests → implement → (run_tests → reflect_on_tests →
    implement_again)* → submit → compare.
    """
    reflecting = config.strategy in ("reflection", "last_attempt_and_reflection")

    async def tasks(state: State, runtime: Runtime[Context]) -> State:
        """The same tasks in every trial, without those already solved."""
        solved = state.get("solved", [])
        unsolved = [task.id for task in _tasks(runtime.context) if task.id not in solved]
        return {"generation": state["generation"] + 1, "tasks": unsolved}

    async def solve(state: State, runtime: Runtime[Context]) -> State:
        """One fresh attempt at every unsolved task, with what is remembered of the earlier ones."""
        context, trial = runtime.context, state["generation"]
        context.say(f"trial {trial}: attempting {len(state['tasks'])} tasks")
        unsolved = [task for task in _tasks(context) if task.id in state["tasks"]]
        recall = _memory(context, config, unsolved, trial)
        jobs = [_attempt(context, config, task, trial, recall) for task in unsolved]
        await context.rollouts.run(context.objective.environment_at(trial), jobs)
        return {"episodes": [job.key for job in jobs]}

    async def feedback(state: State, runtime: Runtime[Context]) -> State:
        """The environment's word on each attempt; what it calls a success is not tried again."""
        found = experiences(runtime.context, state["episodes"])
        failed = {each.task.id for each in found if not each.trajectory.outcome.success}
        won = {each.task.id for each in found} - failed
        scores = {each.trajectory.id: each.feedback.score for each in found}
        return {"scores": scores, "solved": sorted({*state.get("solved", []), *won})}

    async def reflect(state: State, runtime: Runtime[Context]) -> State:
        """A lesson from every attempt that failed for want of skill."""
        context, trial = runtime.context, state["generation"]
        failed = [
            each
            for each in experiences(context, state["episodes"])
            if reflecting and each.task.id not in state["solved"] and each.feedback.score is not None
        ]
        context.say(f"trial {trial}: reflecting on {len(failed)} failed attempts")
        lessons = _memory(context, config, [each.task for each in failed], trial)
        replies = await context.rollouts.calls(_reflection(context, config, each, lessons) for each in failed)
        return {"proposals": list(replies)}

    async def remember(state: State, runtime: Runtime[Context]) -> State:
        """Attempts and lessons enter memory. A lesson is used unproved, as the paper does, so it is active at once."""
        context, trial = runtime.context, state["generation"]
        found = experiences(context, state["episodes"])
        sound = [each.trajectory for each in found if each.feedback.score is not None]
        texts = {each["trajectory"]: each["text"] for each in state["proposals"] if each["text"]}
        records = [trajectory_record(trajectory) for trajectory in sound]
        records += [_lesson(each, texts[each.trajectory.id]) for each in found if each.trajectory.id in texts]
        keep(context, "remember", trial, [Event("add", each.id, each) for each in records] + recall_events(sound))
        return {}

    async def evaluate(state: State, runtime: Runtime[Context]) -> State:
        """Success of all tasks up to this trial, beside plain retries of their own with equal attempts."""
        context, trial = runtime.context, state["generation"]
        episodes = _last_attempts(context, config, trial)
        evaluation = _evaluation(context, episodes.values())
        replies = [Cost(**each["cost"]) for each in state["proposals"]]
        played = [each.trajectory.cost for each in experiences(context, state["episodes"])]
        frozen = evaluation
        if config.strategy != "none":
            await _retry(context, config, trial)
            frozen = _evaluation(context, _last_attempts(context, config, trial, control=True).values())
        finish_generation(
            context,
            trial,
            evaluation,
            spent=sum([*played, *replies], Cost()),
            asked=context.objective.tasks,
            frozen_scores={task: list(scores) for task, scores in frozen.scores.items()},
            frozen_solved=frozen.solved,
            reflections=len(replies),
        )
        return {"episodes": [], "proposals": [], "scores": {}, "tasks": []}

    graph = StateGraph(State, context_schema=Context)
    trials = add_cycle(
        graph,
        {},
        {
            "tasks": tasks,
            "solve": solve,
            "feedback": feedback,
            "reflect": reflect,
            "remember": remember,
            "evaluate": evaluate,
        },
    )
    programs = add_cycle(graph, {}, phases(_self_testing(config)), loops=LOOPS)

    def way(state: State, runtime: Runtime[Context]) -> str:
        return programs if runtime.context.objective.environment.name == "code" else trials

    graph.add_conditional_edges(START, way, [trials, programs])
    return graph


def _self_testing(config: Config) -> SelfTesting:
    return SelfTesting(
        config.self_tests,
        config.iterations,
        show_attempt=config.strategy != "none",
        reflect=config.strategy in ("reflection", "last_attempt_and_reflection"),
        temperature=config.temperature,
        reply_tokens=config.program_tokens,
        reflection_tokens=config.reflection_tokens,
    )


def _tasks(context: Context) -> list[Task]:
    return context.tasks("train", context.objective.tasks)


def _attempt(context: Context, config: Config, task: Task, trial: int, recall: Recall, *, control: bool = False) -> Job:
    """The episode of one trial. Both arms draw the same random numbers, and the first trial is one and the same."""
    policy = Policy(
        context.model("actor"), recall, temperature=config.temperature, stop_on_repeat=config.stop_on_repeat
    )
    if control and trial > 1:
        return Job(task, {"": policy}, "control", trial, trial - 1, arm="retry", seed=context.seed)
    return Job(task, {"": policy}, "train", trial, trial - 1, seed=context.seed)


def _memory(context: Context, config: Config, tasks: Sequence[Task], trial: int) -> Lessons:
    """What attempts of this trial are shown of these tasks."""
    both = config.strategy == "last_attempt_and_reflection"
    attempts: dict[tuple[str, str], str] = {}
    if both or config.strategy == "last_attempt":
        for episode in _last_attempts(context, config, trial - 1, among=tasks).values():
            sound = [each for each in episode if not each.outcome.failure]
            attempts |= {(each.task.id, each.player): told(each, config.scratchpad_tokens) for each in sound}
    return Lessons(
        _kept(context, trial), min(1, config.reflections_shown) if both else config.reflections_shown, attempts
    )


def _kept(context: Context, trial: int) -> Mapping[tuple[str, str], list[Record]]:
    """Lessons written before a trial, by task and seat, in the order they were written, each as often as it was."""
    records = context.memory.records()
    kept: dict[tuple[str, str], list[Record]] = {}
    for event in context.memory.ledger.events():
        lesson = event.record if event.kind == "add" else None
        if lesson is None or lesson.kind != "reflection":
            continue
        if lesson.id not in records or records[lesson.id].status != "active":
            continue  # retired or forgotten by hand
        if lesson.meta["trial"] < trial:
            kept.setdefault((lesson.meta["task"], lesson.scope.player), []).append(lesson)
    return kept


async def _reflection(context: Context, config: Config, failed: Experience, lessons: Lessons) -> dict[str, object]:
    """{trajectory, text, cost} of one call; text is empty when the call failed or gave nothing."""
    trajectory, task = failed.trajectory, failed.task
    key = f"{trajectory.generation}/reflect/{trajectory.id}"
    tag = CallTag(
        "reflector", "train", trajectory.generation, task.id, trajectory.attempt, trajectory.id, purpose="reflect"
    )

    async def ask() -> str:
        try:
            reply = await reflect_on(
                context.model("reflector"),
                failed,
                [record.text for record in lessons.newest(task, trajectory.player)],
                tag,
                constrained=config.constrained,
                max_tokens=config.reflection_tokens,
                attempt_tokens=config.scratchpad_tokens,
            )
        except ModelCallError:
            return json.dumps({"text": "", "cost": asdict(Cost())})
        return json.dumps({"text": reply.text, "cost": asdict(reply.cost)})

    found: dict[str, object] = json.loads(await once(context, key, ask))
    return {"trajectory": trajectory.id, **found}


def _lesson(failed: Experience, text: str) -> Record:
    """Its scope holds the task as a tag that no task has, so no search ever finds it for another one."""
    trajectory = failed.trajectory
    return new_record(
        "reflection",
        text,
        Scope(failed.task.environment, (f"task:{failed.task.id}",), trajectory.player),
        parents=(trajectory.id,),
        meta={"task": failed.task.id, "trial": trajectory.generation},
        status="active",
        generation=trajectory.generation,
    )


def _last_attempts(
    context: Context, config: Config, trial: int, *, control: bool = False, among: Sequence[Task] | None = None
) -> dict[str, Episode]:
    """The last attempt at each task up to a trial. A solved one has not been run again: its success stands."""
    found: dict[str, Episode] = {}
    for task in _tasks(context) if among is None else among:
        for number in range(trial, 0, -1):
            episode = context.memory.ledger.episode(
                _attempt(context, config, task, number, NO_RECALL, control=control).key
            )
            if episode is not None:
                found[task.id] = episode
                break
    return found


async def _retry(context: Context, config: Config, trial: int) -> None:
    """The control: an attempt at what its own earlier attempts left unsolved, remembering nothing."""
    last = _last_attempts(context, config, trial - 1, control=True)
    solved = {task for task, episode in last.items() if _success(episode)}
    jobs = [
        _attempt(context, config, task, trial, NO_RECALL, control=True)
        for task in _tasks(context)
        if task.id not in solved
    ]
    await context.rollouts.run(context.objective.environment_at(trial), jobs)


def _evaluation(context: Context, episodes: Iterable[Episode]) -> Evaluation:
    """Scores of last attempts; those that infrastructure failed are left out and counted."""
    every = list(episodes)
    sound = [episode for episode in every if not any(each.outcome.failure for each in episode)]
    scores = {episode[0].task.id: (sum(each.outcome.score for each in episode) / len(episode),) for episode in sound}
    cost = sum((each.cost for episode in every for each in episode), Cost())
    solved = sum(_success(episode) for episode in sound) / max(1, len(sound))
    return Evaluation(scores, interval(scores, seed=context.seed), solved, cost, len(every) - len(sound))


def _success(episode: Episode) -> bool:
    return all(each.outcome.success for each in episode)
