"""One episode as a LangGraph graph: recall → act → observe → … → finish, with any number of seats.

The graph is compiled once for the process; what an episode needs arrives as its runtime context.
A model that fails or a world that hangs ends the episode with the cause recorded; nothing is raised.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Literal, TypedDict

from langchain_core.runnables.config import var_child_runnable_config
from langgraph.graph import END, START, StateGraph
from langgraph.graph.state import CompiledStateGraph
from langgraph.runtime import Runtime

from evolvent.agents.errors import ModelCallError
from evolvent.agents.solutions.act import Acted, Policy, act, first_messages
from evolvent.agents.solutions.recall import Recollection
from evolvent.agents.types import CallTag, derive_rng, derive_seed
from evolvent.environments.errors import SandboxTimeoutError, WorldError
from evolvent.environments.protocol import Environment
from evolvent.environments.types import (
    Action,
    Cost,
    Failure,
    Observation,
    Outcome,
    Phase,
    Step,
    StepResult,
    Task,
    Trajectory,
)


@dataclass(frozen=True, slots=True)
class Job:
    """One episode to be played."""

    task: Task
    policies: Mapping[str, Policy]
    """By seat; the key "" stands for every seat that has none of its own."""
    phase: Phase
    generation: int
    attempt: int = 0
    arm: str = ""
    """Which side of a comparison it belongs to; episodes of all arms share task, seed and random draws."""
    seed: int = 0
    """Of the run."""

    @property
    def key(self) -> str:
        """Names the episode in ledger and trace: an episode is played once under its key."""
        parts = [self.phase, str(self.generation), self.task.id, str(self.attempt), self.arm]
        return "/".join(part for part in parts if part)

    def policy(self, player: str) -> Policy:
        return self.policies.get(player) or self.policies[""]


@dataclass(frozen=True, slots=True)
class EpisodeContext:
    job: Job
    environment: Environment
    in_thread: bool
    """The environment blocks (a worker process), so its calls leave the event loop."""


class EpisodeState(TypedDict, total=False):
    started: float
    observations: tuple[Observation, ...]
    recollections: dict[str, Recollection]
    acted: dict[str, Acted]
    """What the seats on turn do, before the environment has answered."""
    steps: dict[str, tuple[Step, ...]]
    costs: dict[str, Cost]
    scores: dict[str, float]
    """Sum of what each seat was rewarded, also one that had nothing to decide."""
    done: bool
    success: dict[str, bool]
    failure: Failure
    detail: str
    trajectories: tuple[Trajectory, ...]


async def recall(state: EpisodeState, runtime: Runtime[EpisodeContext]) -> EpisodeState:
    """Begin the episode and draw, once, what each seat remembers in it."""
    context = runtime.context
    job, environment = context.job, context.environment
    update: EpisodeState = {
        "started": time.perf_counter(),
        "recollections": {},
        "steps": dict.fromkeys(environment.players, ()),
        "costs": {player: Cost() for player in environment.players},
        "scores": dict.fromkeys(environment.players, 0.0),
        "done": False,
        "success": {},
        "failure": "",
        "detail": "",
    }
    seed = derive_seed(job.seed, "episode", job.task.id, job.attempt)
    try:
        if context.in_thread:
            update["observations"] = await asyncio.to_thread(environment.reset, job.task, seed)
        else:
            update["observations"] = environment.reset(job.task, seed)
    except WorldError as error:
        return update | _failed(error)
    for player in environment.players:
        rng = derive_rng(job.seed, "recall", job.generation, job.task.id, job.attempt, player)
        update["recollections"][player] = job.policy(player).recall(job.task, player, rng)
    return update


async def act_seats(state: EpisodeState, runtime: Runtime[EpisodeContext]) -> EpisodeState:
    """Every seat that is on turn acts; seats that move together are asked together."""
    on_turn = [observation for observation in state["observations"] if observation.must_act]
    works = [_act(observation, state, runtime.context) for observation in on_turn]
    try:
        acted = [await works[0]] if len(works) == 1 else await asyncio.gather(*works)  # alone it needs no task
    except ModelCallError as error:
        return {"failure": "model", "detail": str(error)[:500], "done": True}
    costs = dict(state["costs"])
    for each in acted:
        costs[each.step.player] += each.cost
    update: EpisodeState = {"acted": {each.step.player: each for each in acted}, "costs": costs}
    for each in acted:
        before = state["steps"][each.step.player][-1:]
        repeats = before and before[0].reply == each.step.reply
        stop = each.gave_up
        if repeats and runtime.context.job.policy(each.step.player).stop_on_repeat:
            stop = "The action repeated the one before it."
        if stop:
            steps = {**state["steps"], each.step.player: (*state["steps"][each.step.player], each.step)}
            return update | {"steps": steps, "done": True, "detail": stop}
    return update


async def observe(state: EpisodeState, runtime: Runtime[EpisodeContext]) -> EpisodeState:
    """The environment answers; the seats' steps are complete. It is not asked once a seat has ended the episode."""
    if state["done"]:
        return {}
    context = runtime.context
    actions = {player: each.step.action for player, each in state["acted"].items()}
    try:
        result = await _step(context, actions)
    except WorldError as error:
        return _failed(error)
    answers = {observation.player: observation.text for observation in result.observations}
    steps = dict(state["steps"])
    for player in steps:
        reward = result.rewards.get(player, 0.0)
        if player in state["acted"]:
            step = replace(state["acted"][player].step, reward=reward, result=answers.get(player, ""))
            steps[player] = (*steps[player], step)
        elif steps[player] and (reward or result.done):
            last = steps[player][-1]
            told = f"{last.result}\n{answers.get(player, '')}".strip() if result.done else last.result
            steps[player] = (*steps[player][:-1], replace(last, reward=last.reward + reward, result=told))
    longest = context.environment.max_steps
    limits = {player: context.job.policy(player).max_steps or longest for player in steps}
    done = result.done or any(len(taken) >= min(limits[player], longest) for player, taken in steps.items())
    success = result.info.get("success", False)
    return {
        "observations": result.observations,
        "steps": steps,
        "scores": {player: score + result.rewards.get(player, 0.0) for player, score in state["scores"].items()},
        "done": done,
        "success": dict(success) if isinstance(success, Mapping) else dict.fromkeys(steps, bool(success)),
    }


async def finish(state: EpisodeState, runtime: Runtime[EpisodeContext]) -> EpisodeState:
    """One trajectory per seat."""
    job = runtime.context.job
    players = runtime.context.environment.players
    seconds = time.perf_counter() - state["started"]
    trajectories = []
    for player in players:
        steps = state["steps"][player]
        score = 0.0 if state["failure"] else min(1.0, max(0.0, state["scores"][player]))
        success = state["success"].get(player, False) and not state["failure"]
        recollection = state["recollections"].get(player)
        trajectories.append(
            Trajectory(
                id=job.key if len(players) == 1 else f"{job.key}/{player}",
                task=job.task,
                player=player,
                steps=steps,
                outcome=Outcome(score, success, state["failure"], state["detail"]),
                phase=job.phase,
                generation=job.generation,
                attempt=job.attempt,
                seed=job.seed,
                recalled=recollection.recalled if recollection else (),
                model=job.policy(player).model.name,
                cost=replace(state["costs"][player], seconds=seconds),
            )
        )
    return {"trajectories": tuple(trajectories)}


# A coroutine though it never waits: LangGraph sends a plain function to a thread at every step.
async def next_move(state: EpisodeState) -> Literal["act", "finish"]:
    return "finish" if state["done"] else "act"


@cache
def episode_graph() -> CompiledStateGraph[EpisodeState, EpisodeContext, EpisodeState, EpisodeState]:
    """The graph of every episode."""
    graph = StateGraph(EpisodeState, context_schema=EpisodeContext)
    graph.add_node("recall", recall)
    graph.add_node("act", act_seats)
    graph.add_node("observe", observe)
    graph.add_node("finish", finish)
    graph.add_edge(START, "recall")
    graph.add_conditional_edges("recall", next_move)
    graph.add_edge("act", "observe")  # a second choice in every step would be a tenth of what a step costs
    graph.add_conditional_edges("observe", next_move)
    graph.add_edge("finish", END)
    return graph.compile()


async def play(job: Job, environment: Environment, *, in_thread: bool = False) -> tuple[Trajectory, ...]:
    """One episode from beginning to end: a trajectory per seat, in the environment's order of players."""
    context = EpisodeContext(job, environment, in_thread)
    # Two supersteps per move of a seat, and some for the ends.
    limit = 2 * environment.max_steps * len(environment.players) + 10
    # No subgraph of the loop that has it played: it is kept whole by the ledger, never checkpointed step by step.
    outer = var_child_runnable_config.set(None)
    try:
        final: Any = await episode_graph().ainvoke(
            {}, context=context, config={"recursion_limit": limit}, output_keys="trajectories"
        )
    finally:
        var_child_runnable_config.reset(outer)
    trajectories: tuple[Trajectory, ...] = final
    return trajectories


async def _act(observation: Observation, state: EpisodeState, context: EpisodeContext) -> Acted:
    job, player = context.job, observation.player
    earlier, recollection = state["steps"][player], state["recollections"][player]
    head = () if earlier else first_messages(context.environment.instructions, job.task, recollection.head)
    tag = CallTag("actor", job.phase, job.generation, job.task.id, job.attempt, job.key)
    rng = derive_rng(job.seed, "act", job.generation, job.task.id, job.attempt, player, len(earlier))
    return await act(job.policy(player), observation, head, recollection.hint(observation), earlier, tag, rng)


async def _step(context: EpisodeContext, actions: Mapping[str, Action]) -> StepResult:
    if context.in_thread:
        return await asyncio.to_thread(context.environment.step, actions)
    return context.environment.step(actions)


def _failed(error: WorldError) -> EpisodeState:
    cause: Failure = "timeout" if isinstance(error, SandboxTimeoutError) else "environment"
    return {"failure": cause, "detail": str(error)[:500], "done": True}
