"""One episode as a LangGraph graph: recall → move → move → … → finish, with any number of seats.

The graph is compiled once for the process; what an episode needs arrives as its runtime context.
A model that fails or a world that hangs ends the episode with the cause recorded; nothing is raised.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any, Literal, TypedDict

from langchain_core.runnables.config import var_child_runnable_config
from langgraph.graph import END, START, StateGraph
from langgraph.graph.state import CompiledStateGraph
from langgraph.runtime import Runtime
from langgraph.types import Command

from evolvent.agents.errors import ModelCallError
from evolvent.agents.solutions.act import Acted, Policy, act, first_messages
from evolvent.agents.solutions.recall import Fixed, Recollection
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


@dataclass(frozen=True, slots=True)
class Seat:
    """How far one seat has come."""

    recollection: Recollection = field(default_factory=Fixed)
    """Drawn once, when the episode begins."""
    steps: tuple[Step, ...] = ()
    cost: Cost = field(default_factory=Cost)
    score: float = 0.0
    """Sum of what it was rewarded, also where it had nothing to decide."""
    success: bool = False


# A superstep is paid for by the number of channels too: what changes together is one value.
class EpisodeState(TypedDict, total=False):
    started: float
    observations: tuple[Observation, ...]
    seats: dict[str, Seat]
    failure: Failure
    detail: str
    trajectories: tuple[Trajectory, ...]


Next = Command[Literal["move", "finish"]]
"""What a node changes and where the episode goes from there: an edge that read the state again would cost as much as
half a superstep."""


async def recall(state: EpisodeState, runtime: Runtime[EpisodeContext]) -> Next:
    """Begin the episode and draw, once, what each seat remembers in it."""
    context = runtime.context
    job, environment = context.job, context.environment
    update: EpisodeState = {
        "started": time.perf_counter(),
        "seats": dict.fromkeys(environment.players, Seat()),
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
        return Command(update=update | _failed(error), goto="finish")
    for player in environment.players:
        rng = derive_rng(job.seed, "recall", job.generation, job.task.id, job.attempt, player)
        update["seats"][player] = Seat(job.policy(player).recall(job.task, player, rng))
    return Command(update=update, goto="move")


async def move(state: EpisodeState, runtime: Runtime[EpisodeContext]) -> Next:
    """Every seat on turn acts, those that move together asked together; unless one gives up, the environment answers.

    One node, because a superstep takes as long as half a model's call that is answered at once.
    """
    context, seats = runtime.context, dict(state["seats"])
    works = [_act(seen, seats[seen.player], context) for seen in state["observations"] if seen.must_act]
    try:
        acted = [await works[0]] if len(works) == 1 else await asyncio.gather(*works)  # alone it needs no task
    except ModelCallError as error:
        return Command(update={"failure": "model", "detail": str(error)[:500]}, goto="finish")
    for each in acted:
        seat = seats[each.step.player]
        seats[each.step.player] = replace(seat, cost=seat.cost + each.cost)
    for each in acted:
        seat = seats[each.step.player]
        if stop := _repeats(each.step, seat, context.job) or each.gave_up:
            seats[each.step.player] = replace(seat, steps=(*seat.steps, each.step))
            return Command(update={"seats": seats, "detail": stop}, goto="finish")
    try:
        result = await _step(context, {each.step.player: each.step.action for each in acted})
    except WorldError as error:
        return Command(update={"seats": seats} | _failed(error), goto="finish")
    seats = _answered(seats, {each.step.player: each.step for each in acted}, result)
    done = result.done or any(len(seat.steps) >= _longest(context, player) for player, seat in seats.items())
    return Command(update={"observations": result.observations, "seats": seats}, goto="finish" if done else "move")


async def finish(state: EpisodeState, runtime: Runtime[EpisodeContext]) -> EpisodeState:
    """One trajectory per seat."""
    job = runtime.context.job
    failure = state["failure"]
    seconds = time.perf_counter() - state["started"]
    trajectories = []
    for player, seat in state["seats"].items():
        score = 0.0 if failure else min(1.0, max(0.0, seat.score))
        trajectories.append(
            Trajectory(
                id=job.key if len(state["seats"]) == 1 else f"{job.key}/{player}",
                task=job.task,
                player=player,
                steps=seat.steps,
                outcome=Outcome(score, seat.success and not failure, failure, state["detail"]),
                phase=job.phase,
                generation=job.generation,
                attempt=job.attempt,
                seed=job.seed,
                recalled=seat.recollection.recalled,
                model=job.policy(player).model.name,
                cost=replace(seat.cost, seconds=seconds),
            )
        )
    return {"trajectories": tuple(trajectories)}


@cache
def episode_graph() -> CompiledStateGraph[EpisodeState, EpisodeContext, EpisodeState, EpisodeState]:
    """The graph of every episode."""
    graph = StateGraph(EpisodeState, context_schema=EpisodeContext)
    graph.add_node("recall", recall)
    graph.add_node("move", move)
    graph.add_node("finish", finish)
    graph.add_edge(START, "recall")
    graph.add_edge("finish", END)
    return graph.compile()


async def play(job: Job, environment: Environment, *, in_thread: bool = False) -> tuple[Trajectory, ...]:
    """One episode from beginning to end: a trajectory per seat, in the environment's order of players."""
    context = EpisodeContext(job, environment, in_thread)
    # A superstep per move of a seat, and some for the ends.
    limit = environment.max_steps * len(environment.players) + 10
    # No subgraph of the loop that has it played: it is kept whole by the ledger, never checkpointed step by step.
    outer = var_child_runnable_config.set(None)
    try:
        # The second version of its answer, because for the first every superstep tells its updates too.
        final: Any = await episode_graph().ainvoke(
            {}, context=context, config={"recursion_limit": limit}, output_keys="trajectories", version="v2"
        )
    finally:
        var_child_runnable_config.reset(outer)
    trajectories: tuple[Trajectory, ...] = final.value
    return trajectories


async def _act(observation: Observation, seat: Seat, context: EpisodeContext) -> Acted:
    job, player, earlier = context.job, observation.player, seat.steps
    head = () if earlier else first_messages(context.environment.instructions, job.task, seat.recollection.head)
    hint = seat.recollection.hint(observation)
    tag = CallTag("actor", job.phase, job.generation, job.task.id, job.attempt, job.key)
    rng = derive_rng(job.seed, "act", job.generation, job.task.id, job.attempt, player, len(earlier))
    return await act(job.policy(player), observation, head, hint, earlier, tag, rng)


def _repeats(step: Step, seat: Seat, job: Job) -> str:
    """Why the episode ends with a step that repeats the seat's last one; empty where it does not, or may."""
    if seat.steps and seat.steps[-1].reply == step.reply and job.policy(step.player).stop_on_repeat:
        return "The action repeated the one before it."
    return ""


async def _step(context: EpisodeContext, actions: Mapping[str, Action]) -> StepResult:
    if context.in_thread:
        return await asyncio.to_thread(context.environment.step, actions)
    return context.environment.step(actions)


def _answered(seats: Mapping[str, Seat], acted: Mapping[str, Step], result: StepResult) -> dict[str, Seat]:
    """The seats with what the environment answered them; the steps they took are complete."""
    answers = {observation.player: observation.text for observation in result.observations}
    won = result.info.get("success", False)
    success = won if isinstance(won, Mapping) else dict.fromkeys(seats, bool(won))
    found = {}
    for player, seat in seats.items():
        steps, reward = seat.steps, result.rewards.get(player, 0.0)
        if player in acted:
            steps = (*steps, replace(acted[player], reward=reward, result=answers.get(player, "")))
        elif steps and (reward or result.done):
            last = steps[-1]
            told = f"{last.result}\n{answers.get(player, '')}".strip() if result.done else last.result
            steps = (*steps[:-1], replace(last, reward=last.reward + reward, result=told))
        found[player] = replace(seat, steps=steps, score=seat.score + reward, success=success.get(player, False))
    return found


def _longest(context: EpisodeContext, player: str) -> int:
    """Steps after which the seat's episode ends."""
    longest = context.environment.max_steps
    return min(context.job.policy(player).max_steps or longest, longest)


def _failed(error: WorldError) -> EpisodeState:
    cause: Failure = "timeout" if isinstance(error, SandboxTimeoutError) else "environment"
    return {"failure": cause, "detail": str(error)[:500]}
