"""What Evolvent costs beside the model: CPU a step against a bare LangGraph loop, calls a second against a bare client.

    python tests/benchmarks/bench_overhead.py

Everything is a ratio of two ways that are timed in turn, so that other work on the machine slows both; each figure is
the median of several rounds. The bare loop has the same graph library, environment, model, calls and retrieval, and
keeps nothing; the bare client sends the same prompts through the same HTTP client, as many at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TypedDict

import pytest
from chat_server import says, serving
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage
from langgraph.graph import END, START, StateGraph
from langgraph.graph.state import CompiledStateGraph

from evolvent.agents.episode import Job
from evolvent.agents.models.openai import EndpointChatModel
from evolvent.agents.models.role import RoleModel
from evolvent.agents.models.scripted import ScriptedChatModel
from evolvent.agents.rollout import Rollouts
from evolvent.agents.solutions.act import Policy
from evolvent.agents.solutions.recall import NO_RECALL, FromMemory, Recall
from evolvent.agents.trace import Trace, read_lines
from evolvent.environments.protocol import EnvironmentSpec
from evolvent.environments.types import Action, Task
from evolvent.environments.workshop import Workshop
from evolvent.memory.embedding import HashEmbedder
from evolvent.memory.store import Memory
from evolvent.memory.types import Event, Scope, new_record

OPTIONS = {"cures": 16, "flaws": 6, "tools": 16, "orders": 0}
"""Episodes of six decisions."""
SPEC = EnvironmentSpec("workshop", OPTIONS)
LATENCY_S = 0.5
CONCURRENT = 64


@dataclass(frozen=True)
class Measured:
    cpu: float
    """CPU a step, memory off, as a multiple of the bare loop's."""
    cpu_with_memory: float
    ideal: float
    """Calls a second against the slow server, as a share of 64 / 0.5 s."""
    saturation: float
    """Calls a second against a server that answers at once, as a share of the bare client's."""


# -- a bare loop -----------------------------------------------------------------------------------------------------


class BareState(TypedDict, total=False):
    messages: list[BaseMessage]
    action: str
    done: bool


def bare_loop(model: BaseChatModel, world: Workshop, task: Task) -> CompiledStateGraph[Any, Any, Any, Any]:
    async def act(state: BareState) -> BareState:
        reply = await model.ainvoke(state["messages"])
        return {"messages": [*state["messages"], AIMessage(reply.text)], "action": str(reply.text)}

    async def observe(state: BareState) -> BareState:
        result = world.step({"agent": Action(state["action"])})
        (seen,) = result.observations
        asked = f"{seen.text}\nAnswer with one of: {' | '.join(seen.actions or ())}"
        return {"messages": [*state["messages"], HumanMessage(asked)], "done": result.done}

    async def after(state: BareState) -> str:
        return "done" if state["done"] else "on"

    graph = StateGraph(BareState)
    graph.add_node("act", act)
    graph.add_node("observe", observe)
    graph.add_edge(START, "act")
    graph.add_edge("act", "observe")
    graph.add_conditional_edges("observe", after, {"on": "act", "done": END})
    return graph.compile()


async def play_bare(model: BaseChatModel, tasks: Sequence[Task], recall: Recall) -> None:
    import random

    world = Workshop(**OPTIONS)
    for task in tasks:
        head = recall(task, "agent", random.Random(0)).head
        (seen,) = world.reset(task, 0)
        asked = f"{head}\n{task.prompt}\n{seen.text}\nAnswer with one of: {' | '.join(seen.actions or ())}"
        start = {"messages": [SystemMessage(world.instructions), HumanMessage(asked)]}
        await bare_loop(model, world, task).ainvoke(start, {"recursion_limit": 100})


# -- ours ------------------------------------------------------------------------------------------------------------


_batches = itertools.count()


async def play_ours(
    model: BaseChatModel, tasks: Sequence[Task], memory: Memory, trace: Trace, recall: Recall, *, concurrency: int = 1
) -> None:
    rollouts = Rollouts(memory, trace, concurrency=concurrency)
    policy = {"": Policy(RoleModel("bench", model, trace), recall)}
    batch = next(_batches)  # so that no key comes twice
    await rollouts.run(SPEC, [Job(task, policy, "train", 0, batch) for task in tasks])
    rollouts.close()


@contextlib.contextmanager
def opened() -> Iterator[tuple[Memory, Trace]]:
    with tempfile.TemporaryDirectory() as folder, Memory.open(folder, embedder=HashEmbedder()) as memory:
        rules = [
            new_record("rule", f"Rule {i} of {i % 7} tools.", Scope("workshop"), status="active") for i in range(50)
        ]
        memory.commit("rules", [Event("add", rule.id, rule) for rule in rules], generation=0)
        trace = Trace(Path(folder) / "trace.jsonl")
        try:
            yield memory, trace
        finally:
            trace.close()


def cpu_ratio(*, with_memory: bool, rounds: int = 5, episodes: int = 12) -> float:
    tasks = Workshop(**OPTIONS).tasks("train", episodes, 0)
    model = ScriptedChatModel(lambda messages: "oil")
    ratios = []
    with opened() as (memory, trace):
        recall: Recall = FromMemory(memory.snapshot(), "workshop") if with_memory else NO_RECALL
        for _ in range(rounds + 1):
            ours = cpu_of(lambda: play_ours(model, tasks, memory, trace, recall))
            asked = len(model.requests)
            bare = cpu_of(lambda: play_bare(model, tasks, recall))
            assert len(model.requests) == 2 * asked, "both make the same calls"
            model.requests.clear()
            ratios.append(ours / bare)
    return statistics.median(ratios[1:])  # the first round warms both up


def cpu_of(work: Callable[[], Awaitable[None]]) -> float:
    started = time.process_time()
    asyncio.run(work())  # type: ignore[arg-type]
    return time.process_time() - started


# -- a server --------------------------------------------------------------------------------------------------------


def serve(latency_s: float, tell: Connection) -> None:
    """In a process of its own, until it is ended."""

    async def answer(number: int, message: str) -> bytes:
        if latency_s:
            await asyncio.sleep(latency_s)
        return says("oil")

    async def forever() -> None:
        async with serving(answer) as url:
            tell.send(url)
            await asyncio.Event().wait()

    asyncio.run(forever())


@contextlib.contextmanager
def server(latency_s: float) -> Iterator[str]:
    hears, tells = multiprocessing.get_context("spawn").Pipe(duplex=False)
    process = multiprocessing.get_context("spawn").Process(target=serve, args=(latency_s, tells), daemon=True)
    process.start()
    try:
        yield hears.recv()
    finally:
        process.kill()
        process.join()


@dataclass(frozen=True)
class Rates:
    """Calls a second."""

    ours: float
    bare: float


async def rates(url: str, episodes: int, *, rounds: int) -> Rates:
    """Medians of both ways in turn: our episodes, and the same prompts sent through the same client by a bare loop."""
    tasks = Workshop(**OPTIONS).tasks("train", episodes, 0)
    model = EndpointChatModel(model="m", base_url=url)
    ours, bare = [], []
    with opened() as (memory, trace):
        for _ in range(rounds + 1):
            before = trace.answered
            started = time.perf_counter()
            await play_ours(model, tasks, memory, trace, NO_RECALL, concurrency=CONCURRENT)
            ours.append((trace.answered - before) / (time.perf_counter() - started))
            prompts = [row["messages"] for row in read_lines(Path(memory.ledger.path.parent) / "trace.jsonl")[before:]]
            started = time.perf_counter()
            await send(model, prompts)
            bare.append(len(prompts) / (time.perf_counter() - started))
    await model.hang_up()
    return Rates(statistics.median(ours[1:]), statistics.median(bare[1:]))  # the first round connects


async def send(model: BaseChatModel, prompts: Sequence[Sequence[dict[str, str]]]) -> None:
    left = iter(prompts)

    async def one() -> None:
        for prompt in left:
            await model.ainvoke([(turn["role"], turn["content"]) for turn in prompt], temperature=0.0, max_tokens=48)

    await asyncio.gather(*(one() for _ in range(CONCURRENT)))


def ideal_share(*, rounds: int = 1, episodes: int = 128) -> float:
    with server(LATENCY_S) as url:
        return asyncio.run(rates(url, episodes, rounds=rounds)).ours * LATENCY_S / CONCURRENT


def saturation_share(*, rounds: int = 3, episodes: int = 64) -> float:
    with server(0) as url:
        measured = asyncio.run(rates(url, episodes, rounds=rounds))
    return measured.ours / measured.bare


@pytest.mark.slow
def test_a_step_costs_at_most_half_more_cpu_than_in_a_bare_loop() -> None:
    assert cpu_ratio(with_memory=False) <= 1.5


@pytest.mark.slow
def test_a_step_with_memory_costs_at_most_half_more_cpu_than_in_a_bare_loop_that_recalls() -> None:
    assert cpu_ratio(with_memory=True) <= 1.5


@pytest.mark.slow
def test_64_episodes_against_a_slow_server_reach_nine_tenths_of_the_ideal_rate() -> None:
    assert ideal_share() >= 0.9


@pytest.mark.slow
def test_a_fast_server_is_used_to_at_least_six_tenths_of_what_a_bare_client_does() -> None:
    assert saturation_share() >= 0.6


if __name__ == "__main__":
    print(Measured(cpu_ratio(with_memory=False), cpu_ratio(with_memory=True), ideal_share(), saturation_share()))
