"""Systems that improve an answer while they solve it: what their graphs share at both ends.

One generation is one pass over tasks that no generation before it had; nothing is learned and no weight changes, so a
system is measured on its own tasks, beside the direct answer to the same tasks. In between, a recipe thinks on a
`Scratchpad`; what it settles on is handed in as an episode, and only there does the environment judge.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from langgraph.runtime import Runtime

from evolvent.agents.context import Context
from evolvent.agents.episode import Job
from evolvent.agents.evaluation.held_out import Evaluation, evaluation
from evolvent.agents.evaluation.transitions import transitions
from evolvent.agents.evolution import State, finish_generation
from evolvent.agents.solutions.act import Policy
from evolvent.agents.solutions.recall import NO_RECALL, Recall
from evolvent.agents.solutions.scratchpad import Scratchpad, tasks_of
from evolvent.environments.types import Phase, Task, Trajectory

Answer = Callable[[Scratchpad, Task], str]
"""What a task is answered with, read from what was thought about it. Empty is no answer."""

Seat = Callable[[Scratchpad, Task], Policy]
"""Who plays a task, after what was thought about it."""

DIRECT = "direct"
"""The arm of the control: the answer without the system."""


async def tasks(state: State, runtime: Runtime[Context]) -> State:
    """The next generation begins: new tasks, all of them open."""
    generation = state["generation"] + 1
    names = [task.id for task in tasks_of(runtime.context, generation)]
    return {"generation": generation, "tasks": names, "episodes": [], "open": names, "round": 0}


async def submit(state: State, runtime: Runtime[Context], *, answer: Answer) -> State:
    """Every task is answered, once. A task that the model's failures left without an answer is not."""
    context, pad = runtime.context, Scratchpad(runtime.context, state)
    found = {task.id: answer(pad, task) for task in pad.tasks}
    answered = [task for task in pad.tasks if found[task.id] or not pad.failed(task)]
    jobs = await _hand_in(context, answered, found, "train", state["generation"])
    return {"episodes": [job.key for job in jobs], "open": []}


async def perform(state: State, runtime: Runtime[Context], *, seat: Seat) -> State:
    """Every task is played by a seat of its own, where a world wants more than one answer."""
    context, pad = runtime.context, Scratchpad(runtime.context, state)
    jobs = [_job(context, task, seat(pad, task), "train", state["generation"]) for task in pad.tasks]
    await context.rollouts.run(context.objective.environment_at(state["generation"]), jobs)
    return {"episodes": [job.key for job in jobs], "open": []}


async def evaluate(
    state: State,
    runtime: Runtime[Context],
    *,
    direct: str = "",
    seat: Seat | None = None,
    recall: Recall = NO_RECALL,
    stop: tuple[str, ...] = (),
    reply_tokens: int = 256,
    more: Mapping[str, Any] = {},
    later: Callable[[], Mapping[str, Any]] = dict,
) -> State:
    """Success on all tasks so far, beside the direct answers to them.

    Args:
        direct: purpose of the call whose first reply is the direct answer, for a system that begins with one.
        seat: who plays the direct episodes otherwise. By default the model is asked once more, greedily, as in an
            ordinary episode: with `recall`, `stop` and at most `reply_tokens`.
        more: fields of the generation's row beside its scores.
        later: gives more of them, once all answers are in.
    """
    context, generation = runtime.context, state["generation"]
    context.say(f"generation {generation}: comparing with direct answers")
    pad = Scratchpad(context, state)
    if direct:
        drafts = {task.id: text for task in pad.tasks if (text := pad.said(task, direct)) is not None}
        answered = [task for task in pad.tasks if task.id in drafts and (drafts[task.id] or not pad.failed(task))]
        await _hand_in(context, answered, drafts, "control", generation)
    else:
        plain = Policy(context.model("actor"), recall, max_reply_tokens=reply_tokens, stop=stop, written=True)
        jobs = [_job(context, task, seat(pad, task) if seat else plain, "control", generation) for task in pad.tasks]
        await context.rollouts.run(context.objective.environment_at(generation), jobs)
    own, control = (_so_far(context, generation, phase) for phase in ("train", "control"))
    finish_generation(
        context,
        generation,
        own,
        spent=sum((trajectory.cost for trajectory in _acted(context, state)), pad.cost()),
        asked=len({task.id for number in range(1, generation + 1) for task in tasks_of(context, number)}),
        control=DIRECT,
        direct=direct,
        frozen_scores={task: list(scores) for task, scores in control.scores.items()},
        frozen_solved=control.solved,
        transitions=transitions(control.scores, own.scores),
        **more,
        **later(),
    )
    return {"episodes": [], "tasks": [], "round": 0}


async def _hand_in(
    context: Context, tasks: Sequence[Task], answers: Mapping[str, str], phase: Phase, generation: int
) -> list[Job]:
    model = context.model("actor")
    jobs = [_job(context, task, Policy(model, demonstrated=(answers[task.id],)), phase, generation) for task in tasks]
    await context.rollouts.run(context.objective.environment_at(generation), jobs)
    return jobs


def _job(context: Context, task: Task, policy: Policy, phase: Phase, generation: int) -> Job:
    return Job(task, {"": policy}, phase, generation, arm=DIRECT if phase == "control" else "", seed=context.seed)


def _acted(context: Context, state: State) -> list[Trajectory]:
    """This generation's episodes; those that only hand in an answer cost nothing."""
    episodes = [context.memory.ledger.episode(key) for key in state["episodes"]]
    return [trajectory for episode in episodes for trajectory in episode or ()]


def _so_far(context: Context, generation: int, phase: Phase) -> Evaluation:
    """Of the answers to all tasks of this generation and those before it."""
    every = [
        _job(context, task, Policy(context.model("actor")), phase, number)
        for number in range(1, generation + 1)
        for task in tasks_of(context, number)
    ]
    played = [(job, episode) for job in every if (episode := context.memory.ledger.episode(job.key)) is not None]
    found = evaluation([job for job, _ in played], [episode for _, episode in played], seed=context.seed)
    missing = len(every) - len(played)
    return Evaluation(found.scores, found.success, found.solved, found.cost, found.dropped + missing)
