"""Worlds that misbehave, played through a worker process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import pytest

from evolvent.environments.errors import BadOptionError, SandboxCrashError, SandboxTimeoutError, WorldError
from evolvent.environments.protocol import EnvironmentSpec
from evolvent.environments.sandbox import IsolatedEnvironment
from evolvent.environments.types import Action, Observation, Split, StepResult, Task

TASK = Task("moody/1", "Be yourself.", "moody")


class Moody:
    """Does what its action says: answers, sleeps, dies, raises or prints."""

    players = ("agent",)
    instructions = "Say what happens next."
    max_steps = 3

    def __init__(self, *, temper: str = "mild") -> None:
        if temper not in ("mild", "hot"):
            raise BadOptionError(f"moody: temper is 'mild' or 'hot', not {temper!r}.")
        self._steps = 0

    def tasks(self, split: Split, n: int, seed: int) -> list[Task]:
        return [Task(f"moody/{split}/{i}", f"hash {hash('a')}", "moody") for i in range(n)]

    def reset(self, task: Task, seed: int) -> tuple[Observation, ...]:
        self._steps = 0
        return (Observation("agent", str(os.getpid())),)

    def step(self, actions: Mapping[str, Action]) -> StepResult:
        self._steps += 1
        match actions["agent"].text:
            case "sleep":
                time.sleep(60)
            case "spin":
                while True:
                    pass
            case "die":
                os.kill(os.getpid(), signal.SIGKILL)
            case "complain":
                os.write(2, b"out of patience\n")
                os._exit(3)
            case "raise":
                raise ZeroDivisionError("nothing left")
            case "print":
                print('{"value": null}', flush=True)
                os.system("echo noise")
        return StepResult((Observation("agent", f"step {self._steps}"),), {"agent": 0.0}, False)

    def close(self) -> None: ...


@contextmanager
def moody(timeout_s: float = 20.0, **options: str) -> Iterator[IsolatedEnvironment]:
    world = IsolatedEnvironment(EnvironmentSpec(f"{__name__}:Moody", options), timeout_s=timeout_s)
    try:
        yield world
    finally:
        world.close()


@pytest.fixture(scope="module")
def world() -> Iterator[IsolatedEnvironment]:
    with moody() as shared:
        yield shared


def does(world: IsolatedEnvironment, text: str) -> str:
    return world.step({"agent": Action(text)}).observations[0].text


def worker_of(world: IsolatedEnvironment) -> int:
    return int(world.reset(TASK, 0)[0].text)


def gone(pid: int) -> bool:
    """Neither running nor waiting to be reaped."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def test_one_worker_serves_many_episodes(world: IsolatedEnvironment) -> None:
    assert (world.players, world.max_steps) == (("agent",), 3)
    first = worker_of(world)
    assert first != os.getpid()
    assert does(world, "go") == "step 1"
    assert worker_of(world) == first
    assert does(world, "go") == "step 1"


@pytest.mark.parametrize("trouble", ["sleep", "spin"])
def test_a_call_past_its_limit_is_killed_and_the_next_reset_starts_afresh(trouble: str) -> None:
    with moody(timeout_s=1.0) as world:
        first = worker_of(world)
        with pytest.raises(SandboxTimeoutError, match="step ran past 1 s"):
            does(world, trouble)
        assert gone(first)
        with pytest.raises(SandboxCrashError, match="Call reset first"):
            does(world, "go")
        assert worker_of(world) != first
        assert does(world, "go") == "step 1"


def test_a_worker_that_dies_is_reported_with_its_last_words() -> None:
    with moody() as world:
        first = worker_of(world)
        with pytest.raises(SandboxCrashError, match=r"died in step\. out of patience"):
            does(world, "complain")
        assert gone(first)
        worker_of(world)
        with pytest.raises(SandboxCrashError):
            does(world, "die")
        assert worker_of(world) != first


def test_an_exception_arrives_by_name_and_the_worker_lives_on(world: IsolatedEnvironment) -> None:
    first = worker_of(world)
    with pytest.raises(WorldError, match="ZeroDivisionError: nothing left"):
        does(world, "raise")
    assert worker_of(world) == first


def test_a_bad_option_arrives_as_the_error_it_was() -> None:
    with pytest.raises(BadOptionError, match="temper is 'mild' or 'hot', not 'cold'"), moody(temper="cold"):
        pass


def test_what_a_world_prints_does_not_reach_the_answers(world: IsolatedEnvironment) -> None:
    worker_of(world)
    assert [does(world, text) for text in ("print", "print", "go")] == ["step 1", "step 2", "step 3"]


def test_text_that_is_no_unicode_can_be_sent(world: IsolatedEnvironment) -> None:
    worker_of(world)
    assert does(world, "\ud800 \x00 \n") == "step 1"


def test_the_hash_seed_is_fixed(world: IsolatedEnvironment) -> None:
    with moody() as other:
        assert world.tasks("train", 2, 0) == other.tasks("train", 2, 0)


def test_closing_or_dropping_leaves_no_process() -> None:
    with moody() as world:
        closed = worker_of(world)
    assert gone(closed)
    dropped = IsolatedEnvironment(EnvironmentSpec(f"{__name__}:Moody"))
    worker = worker_of(dropped)
    del dropped
    assert gone(worker)


@pytest.mark.parametrize("busy_with", ["nothing", "spin"])
def test_the_worker_ends_when_its_parent_is_killed(busy_with: str) -> None:
    script = (
        "from test_sandbox import *; w = IsolatedEnvironment(EnvironmentSpec('test_sandbox:Moody'));"
        f"print(worker_of(w), flush=True); does(w, {busy_with!r}); time.sleep(60)"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", script],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.path.dirname(__file__)},
    )
    with parent:
        assert parent.stdout is not None
        worker = int(parent.stdout.readline())
        time.sleep(0.2)
        parent.kill()
    deadline = time.monotonic() + 10
    while not ended(worker) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert ended(worker)


def ended(pid: int) -> bool:
    """Not running. An orphan is reaped by whoever adopts it, so it may linger as a zombie that is not ours."""
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rsplit(")", 1)[1].split()[0] == "Z"
    except FileNotFoundError:
        return True
