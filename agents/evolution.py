"""The outer loop as a LangGraph graph: what its nodes share, and how a recipe strings its phases together.

State holds names and numbers only; trajectories and records live in the ledger and are looked up by key. So a
checkpoint stays small, and a killed run begins again at the node where it stopped: episodes that the ledger holds are
not played again, commits that it holds are not written again.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, replace
from itertools import pairwise
from typing import Any, Literal, Protocol, TypedDict

from langgraph.graph import END, START, StateGraph
from langgraph.runtime import Runtime

from evolvent.agents.context import Context
from evolvent.agents.errors import ModelCallError
from evolvent.agents.evaluation.held_out import Evaluation
from evolvent.agents.feedback.environment import environment_feedback
from evolvent.agents.types import Reply
from evolvent.environments.types import Cost, Experience
from evolvent.memory.types import Event


class State(TypedDict, total=False):
    generation: int
    """0 is the model as it came; every turn of the loop makes the next."""
    tasks: list[str]
    """Ids of this generation's training tasks, in order."""
    episodes: list[str]
    """Ledger keys of this generation's training episodes, in order."""
    scores: dict[str, float | None]
    """Feedback by trajectory id; None where infrastructure failed."""
    population: list[str]
    """Ids of the individuals that live, the oldest first, for recipes whose generation holds several models."""
    proposals: list[dict[str, Any]]
    """What refinement suggests and no gate has seen yet."""
    asked: dict[str, Any]
    """What this generation's model calls outside episodes cost."""
    open: list[str]
    """Ids of tasks whose answer is still worked on, for recipes that improve one."""
    round: int
    """How often the open ones were gone over, from 0 on."""
    solved: list[str]
    """Ids of tasks that need no further attempt, for recipes that retry."""
    adapter: str
    """Full name of the adapter that this generation acts with, for recipes that train; empty for the base."""
    dataset: str
    """`name@hash` of what this generation trains on, in the run's folder."""
    pools: list[str]
    """The same for what is rehearsed of each earlier task of a stream, in their order."""


class Node(Protocol):
    async def __call__(self, state: State, runtime: Runtime[Context]) -> State: ...


def cycle(
    before: Mapping[str, Node], phases: Mapping[str, Node], *, loops: Mapping[str, str] = {}
) -> StateGraph[State, Context, State, State]:
    """A graph that runs `before` once and then goes round `phases` until the objective's generations are made.

    Where `before` makes generations itself, it may have made them all.

    Args:
        loops: from a phase back to an earlier one, as long as tasks are open.
    """
    graph = StateGraph(State, context_schema=Context)
    graph.add_edge(START, add_cycle(graph, before, phases, loops=loops))
    return graph


def add_cycle(
    graph: StateGraph[State, Context, State, State],
    before: Mapping[str, Node],
    phases: Mapping[str, Node],
    *,
    loops: Mapping[str, str] = {},
) -> str:
    """A `cycle` in a graph that may hold others; the name of its first node, to which something must lead."""
    names = [*before, *phases]
    for name, node in {**before, **phases}.items():
        graph.add_node(name, node)
    for here, there in (*pairwise(before), *pairwise(phases)):
        if here not in loops:
            graph.add_edge(here, there)

    def still_open(state: State) -> Literal["back", "on"]:
        return "back" if state["open"] else "on"

    for here, there in pairwise(phases):
        if here in loops:
            graph.add_conditional_edges(here, still_open, {"back": loops[here], "on": there})

    def again(state: State, runtime: Runtime[Context]) -> Literal["again", "done"]:
        return "again" if state["generation"] < runtime.context.objective.generations else "done"

    for last in {*[*before][-1:], names[-1]}:
        graph.add_conditional_edges(last, again, {"again": next(iter(phases)), "done": END})
    return names[0]


def experiences(context: Context, keys: Sequence[str]) -> list[Experience]:
    """The experiences of episodes, in order: a trajectory per seat with the environment's feedback."""
    found: list[Experience] = []
    for key in keys:
        episode = context.memory.ledger.episode(key)
        if episode is None:
            raise LookupError(f"The ledger holds no episode {key!r}: was it replaced while the run was stopped?")
        found += [environment_feedback(trajectory) for trajectory in episode]
    return found


def keep(context: Context, phase: str, generation: int, events: Sequence[Event]) -> str:
    """Commit what a phase wants remembered; a resumed phase finds its commit there already."""
    return context.memory.commit(f"{generation}/{phase}", events, generation=generation)


async def once(context: Context, key: str, ask: Callable[[], Awaitable[str]]) -> str:
    """What a keyed step that is no episode gave; a resumed run finds it in the ledger and does not ask again."""
    known = context.memory.ledger.memo(key)
    if known is None:
        known = await ask()
        context.memory.ledger.add_memo(key, known)
    return known


async def reply_once(context: Context, key: str, ask: Callable[[], Awaitable[Reply]]) -> Reply:
    """The reply of a keyed call outside episodes; empty where it failed for good: the trace has the cause."""

    async def call() -> str:
        try:
            reply = await ask()
        except ModelCallError:
            reply = Reply("", Cost(calls=1))
        return json.dumps([reply.text.strip(), asdict(reply.cost)])

    text, cost = json.loads(await once(context, key, call))
    return Reply(text, Cost(**cost))


def finish_generation(
    context: Context, generation: int, evaluation: Evaluation, *, spent: Cost, adapter: str = "", **more: Any
) -> None:
    """Keep what a report says of one generation. Its seconds are those of the clock, in this process.

    Args:
        adapter: full name of the one it acted with.
    """
    payload = {
        "generation": generation,
        "model": asdict(context.whole_model(context.memory.ledger.head(), adapter)),
        "scores": {task: list(scores) for task, scores in evaluation.scores.items()},
        "solved": evaluation.solved,
        "dropped": evaluation.dropped,
        "evaluation_cost": asdict(evaluation.cost),
        "cost": asdict(replace(spent, seconds=context.lap())),
        **more,
    }
    context.memory.ledger.add_generation(generation, json.dumps(payload, sort_keys=True))


def spent_on(context: Context, generation: int) -> Cost:
    """What a generation's episodes and memorised calls cost, evaluation included."""
    total = Cost()
    for episode in context.memory.ledger.episodes(generation=generation):
        total = sum((each.cost for each in episode.trajectories), total)
    return total
