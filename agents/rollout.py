"""Many episodes at once: bounded concurrency, each played once, each kept in the ledger the moment it is over."""

from __future__ import annotations

import asyncio
import gc
import inspect
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from evolvent.agents.episode import Job, play
from evolvent.agents.errors import ModelUnavailableError
from evolvent.agents.trace import Trace
from evolvent.environments.catalog import build
from evolvent.environments.protocol import Environment, EnvironmentSpec
from evolvent.environments.sandbox import IsolatedEnvironment
from evolvent.environments.types import Trajectory
from evolvent.memory.compute import compute
from evolvent.memory.store import Memory

T = TypeVar("T")
Episode = tuple[Trajectory, ...]
"""One trajectory per seat."""
_NEW_OBJECTS = 50_000
"""After so many the garbage collector looks again."""


class EnvironmentPool:
    """Environments of one spec, made when needed and used by one episode at a time."""

    def __init__(self) -> None:
        self._free: dict[str, list[Environment]] = defaultdict(list)

    @asynccontextmanager
    async def use(self, spec: EnvironmentSpec) -> AsyncIterator[Environment]:
        key = repr(spec)
        environment = self._free[key].pop() if self._free[key] else await asyncio.to_thread(build, spec)
        try:
            yield environment
        finally:
            self._free[key].append(environment)

    def close(self) -> None:
        for environments in self._free.values():
            for environment in environments:
                environment.close()
        self._free.clear()


class Rollouts:
    """The engine that plays batches of episodes.

    An episode that the ledger already holds is not played again, so a resumed run goes on where it stopped.
    """

    def __init__(
        self,
        memory: Memory,
        trace: Trace,
        *,
        concurrency: int = 8,
        on_episode: Callable[[Job, Episode], None] = lambda job, episode: None,
    ) -> None:
        self._memory = memory
        self._trace = trace
        self._on_episode = on_episode
        self._gate = asyncio.Semaphore(concurrency)
        self.pool = EnvironmentPool()
        _collect_less_often()

    async def run(self, spec: EnvironmentSpec, jobs: Sequence[Job]) -> list[Episode]:
        """The episodes of `jobs`, in their order.

        Raises:
            ModelUnavailableError: not one model call of this run has succeeded; nothing was kept of these episodes.
        """
        tasks = [asyncio.create_task(self._one(spec, job)) for job in jobs]
        try:
            return await asyncio.gather(*tasks)
        finally:
            # The first to fail leaves the others running: they are called back before anybody closes the ledger.
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def calls(self, works: Iterable[Awaitable[T]]) -> list[T]:
        """The results of model calls outside episodes, in order, as many at once as episodes would be."""

        async def one(work: Awaitable[T]) -> T:
            async with self._gate:
                return await work

        given = list(works)
        try:
            return await asyncio.gather(*(one(work) for work in given))
        finally:
            for work in given:  # those that still waited when the run was stopped
                if inspect.iscoroutine(work) and inspect.getcoroutinestate(work) == inspect.CORO_CREATED:
                    work.close()

    def close(self) -> None:
        self.pool.close()

    async def _one(self, spec: EnvironmentSpec, job: Job) -> Episode:
        known = self._memory.ledger.episode(job.key)
        if known is not None:
            return known
        async with self._gate:
            async with self.pool.use(spec) as environment:
                episode = await play(job, environment, in_thread=isinstance(environment, IsolatedEnvironment))
            failed = next((each.outcome for each in episode if each.outcome.failure == "model"), None)
            if failed is not None and not self._trace.answered:
                raise ModelUnavailableError(f"No model call has succeeded yet. The last said: {failed.detail}")
            # In a thread: waiting for the disk would hold up every other episode.
            await asyncio.to_thread(self._memory.add_episode, job.key, episode)
        self._on_episode(job, episode)
        return episode


def _collect_less_often() -> None:
    """Hundreds of episodes in flight hold a hundred thousand objects, none of them garbage: looking through them after
    every 700 new ones took a fifth of the time of a match. It holds for the process, as every such setting does."""
    first, *older = gc.get_threshold()
    if 0 < first < _NEW_OBJECTS:  # 0: somebody has turned it off
        gc.set_threshold(_NEW_OBJECTS, *older)


def run_sync(work: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine, also inside a running event loop (a notebook's), where it gets a thread of its own."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    return compute(asyncio.run, work)
