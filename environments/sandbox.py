"""An environment in a worker process that can be killed.

One JSON line a call, `[method, arguments, limit]`, answered by one line, `{"value": …}` or `{"error": …, "text": …}`.
The worker keeps the pipes to itself: what third-party code prints goes nowhere, what it complains about is shown if it
dies. It lives in a process group of its own, so a kill takes its children too, and it ends with its parent: on the
end of its input at once, and, should a call hold the interpreter just then, when the kernel's timer for the call fires.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import IO, Any

from pydantic import TypeAdapter

from evolvent.environments import errors
from evolvent.environments.errors import SandboxCrashError, SandboxTimeoutError, WorldError
from evolvent.environments.protocol import Environment, EnvironmentSpec
from evolvent.environments.solo import encodable
from evolvent.environments.types import Action, Observation, Split, StepResult, Task

_GRACE_S = 2.0
"""How much later than the parent's limit the kernel's timer fires."""


@dataclass(frozen=True, slots=True)
class _About:
    """What the worker tells of its environment once it is built."""

    players: tuple[str, ...]
    instructions: str
    max_steps: int
    expert: bool


@dataclass(frozen=True, slots=True)
class _Method:
    """How a call and its answer are written as JSON."""

    arguments: TypeAdapter[Any]
    value: TypeAdapter[Any]


_METHODS = {
    "start": _Method(TypeAdapter(tuple[EnvironmentSpec]), TypeAdapter(_About)),
    "tasks": _Method(TypeAdapter(tuple[Split, int, int]), TypeAdapter(list[Task])),
    "reset": _Method(TypeAdapter(tuple[Task, int]), TypeAdapter(tuple[Observation, ...])),
    "step": _Method(TypeAdapter(tuple[dict[str, Action]]), TypeAdapter(StepResult)),
    "expert": _Method(TypeAdapter(tuple[Task]), TypeAdapter(list[str])),
}


class IsolatedEnvironment:
    """Plays an environment in a worker process. One worker serves many episodes; one call at a time.

    - A call past `timeout_s` kills the worker and raises `SandboxTimeoutError`; a worker that died raises
      `SandboxCrashError`. The episode is lost; the next `tasks`, `reset` or `expert` starts a fresh worker.
    - An exception of the environment's own arrives as the `WorldError` it was, or as a `WorldError` naming it.
    - `close` leaves no process behind, and so does dropping the object. It may be used again afterwards.
    - `expert` is None when the environment has none.
    """

    def __init__(
        self,
        spec: EnvironmentSpec,
        *,
        timeout_s: float = 60.0,
        start_timeout_s: float = 120.0,
        env_vars: Mapping[str, str] | None = None,
    ) -> None:
        """`start_timeout_s` is for building the environment; `env_vars` are added to the worker's environment."""
        self._spec = spec
        self._timeout_s = timeout_s
        self._start_timeout_s = start_timeout_s
        self._env_vars = {"PYTHONHASHSEED": "0", **(env_vars or {})}
        self._worker: _Worker | None = None
        about = self._start()
        self.players = about.players
        self.instructions = about.instructions
        self.max_steps = about.max_steps
        self.expert: Callable[[Task], list[str]] | None = self._expert if about.expert else None

    def tasks(self, split: Split, n: int, seed: int) -> list[Task]:
        tasks: list[Task] = self._call("tasks", split, n, seed)
        return tasks

    def reset(self, task: Task, seed: int) -> tuple[Observation, ...]:
        observations: tuple[Observation, ...] = self._call("reset", task, seed)
        return observations

    def step(self, actions: Mapping[str, Action]) -> StepResult:
        if self._worker is None:
            raise SandboxCrashError(f"{self._spec.name}: no episode is being played. Call reset first.")
        sendable = {player: replace(action, text=encodable(action.text)) for player, action in actions.items()}
        result: StepResult = self._call("step", sendable)
        return result

    def close(self) -> None:
        if self._worker is not None:
            self._worker.end()
            self._worker = None

    def _expert(self, task: Task) -> list[str]:
        actions: list[str] = self._call("expert", task)
        return actions

    def _start(self) -> _About:
        self._worker = _Worker(self._env_vars)
        about: _About = self._ask("start", (self._spec,), self._start_timeout_s)
        return about

    def _call(self, method: str, *arguments: Any) -> Any:
        if self._worker is None:
            self._start()
        return self._ask(method, arguments, self._timeout_s)

    def _ask(self, method: str, arguments: tuple[Any, ...], limit_s: float) -> Any:
        assert self._worker is not None
        wire = _METHODS[method]
        call = json.dumps([method, wire.arguments.dump_python(arguments, mode="json"), limit_s])
        try:
            answer = json.loads(self._worker.ask(call.encode() + b"\n", limit_s))
        except TimeoutError:
            self.close()
            raise SandboxTimeoutError(f"{self._spec.name}: {method} ran past {limit_s:g} s and was killed.") from None
        except (EOFError, OSError, ValueError):
            last_words = self._worker.last_words()
            self.close()
            raise SandboxCrashError(f"{self._spec.name}: its worker died in {method}. {last_words}".rstrip()) from None
        except BaseException:
            self.close()  # Interrupted between call and answer, the two sides would no longer be in step.
            raise
        if "error" in answer:
            if method == "start":
                self.close()
            raise _world_error(answer["error"], answer["text"])
        return wire.value.validate_python(answer["value"])


class _Worker:
    """One process, its two pipes, and a file for its complaints."""

    def __init__(self, env_vars: Mapping[str, str]) -> None:
        self._complaints = tempfile.TemporaryFile()  # noqa: SIM115 (closed by `end`)
        paths = os.pathsep.join(path or os.getcwd() for path in sys.path)
        process = subprocess.Popen(
            [sys.executable, "-P", "-c", f"from {__name__} import serve; serve()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._complaints,
            env={**os.environ, "PYTHONPATH": paths, **env_vars},
            start_new_session=True,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        self._calls, self._answers = process.stdin, process.stdout
        self._poll = select.poll()
        self._poll.register(self._answers, select.POLLIN)
        self.end = weakref.finalize(self, _end, process, self._complaints)

    def ask(self, call: bytes, limit_s: float) -> bytes:
        """The line that answers a call.

        Raises:
            TimeoutError: no answer within the limit.
            EOFError, OSError: the worker is gone.
        """
        deadline = time.monotonic() + limit_s
        self._calls.write(call)
        self._calls.flush()
        answer = bytearray()
        while not answer.endswith(b"\n"):
            left_s = deadline - time.monotonic()
            if left_s <= 0 or not self._poll.poll(left_s * 1000):
                raise TimeoutError
            chunk = os.read(self._answers.fileno(), 1 << 16)
            if not chunk:
                raise EOFError
            answer += chunk
        return bytes(answer)

    def last_words(self) -> str:
        """The last lines the worker wrote to its error stream, on one line."""
        size = self._complaints.seek(0, os.SEEK_END)
        self._complaints.seek(max(0, size - 400))
        return " ".join(self._complaints.read().decode(errors="replace").split())


def _end(process: subprocess.Popen[bytes], complaints: IO[bytes]) -> None:
    """Kill the worker with its children and reap it."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    for pipe in (process.stdin, process.stdout, complaints):
        if pipe is not None:
            with contextlib.suppress(OSError):  # What was never sent cannot be flushed any more.
                pipe.close()


def _world_error(name: str, text: str) -> WorldError:
    kind = getattr(errors, name, None)
    if isinstance(kind, type) and issubclass(kind, WorldError):
        return kind(text)
    return WorldError(f"{name}: {text}")


def serve() -> None:
    """The worker's side: answer calls until the input ends."""
    calls_in, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nowhere = os.open(os.devnull, os.O_RDWR)
    os.dup2(nowhere, 0)
    os.dup2(nowhere, 1)
    calls: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(calls_in, calls), daemon=True).start()
    environment: Environment | None = None
    while True:
        method, arguments, limit_s = json.loads(calls.get())
        signal.setitimer(signal.ITIMER_REAL, limit_s + _GRACE_S)  # SIGALRM's default is to end the process.
        try:
            values = _METHODS[method].arguments.validate_python(arguments)
            if method == "start":
                environment = _built(*values)
                value: Any = _about(environment)
            else:
                value = getattr(environment, method)(*values)
            answer = {"value": _METHODS[method].value.dump_python(value, mode="json")}
        except Exception as error:  # noqa: BLE001 (whatever an environment raises is an answer to its caller)
            answer = {"error": type(error).__name__, "text": str(error)}
        signal.setitimer(signal.ITIMER_REAL, 0)
        answers.write(json.dumps(answer).encode() + b"\n")
        answers.flush()


def _listen(calls_in: IO[bytes], calls: queue.SimpleQueue[bytes]) -> None:
    for line in calls_in:
        calls.put(line)
    os.killpg(os.getpid(), signal.SIGKILL)  # The parent is gone, and nobody is left to answer.


def _built(spec: EnvironmentSpec) -> Environment:
    from evolvent.environments.catalog import build_inline

    return build_inline(spec)


def _about(environment: Environment) -> _About:
    expert = getattr(environment, "expert", None) is not None
    return _About(environment.players, environment.instructions, environment.max_steps, expert)
