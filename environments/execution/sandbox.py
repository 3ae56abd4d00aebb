"""The one door to both boundaries: which of them is here, and which runs what."""

from __future__ import annotations

import functools
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Self, get_args

from evolvent.environments.errors import BadOptionError, NoBoundaryError
from evolvent.environments.execution import bubblewrap, monty
from evolvent.environments.execution.types import Boundary, Execution, Limits, Trace
from evolvent.environments.solo import encodable


def available() -> Mapping[str, str]:
    """Boundary → what keeps it from isolating here, with what to do about it; empty when it is ready.

    Each is tried once a process with a real program.
    """
    return {"monty": _monty_missing(), "bubblewrap": bubblewrap.missing()}


@functools.cache
def _monty_missing() -> str:
    return monty.missing()


class Sandbox:
    """Runs programs behind a boundary. Safe to use from several threads; `close` ends its worker processes.

    - A test is Python text, most often one `assert`. It sees the program's functions by name and nothing else of it.
      Tests run apart from the program: only arguments and results travel, as plain data, so a program never meets
      what is expected of it, and can pass no test but by returning the right value.
    - Each test starts with a freshly loaded program. One that fails, hangs or crashes does not touch the next.
    - Whatever a program or a test does is told in the result; only a broken sandbox raises.

    What is plain: None, bool, int, float, complex, str, bytes, range, list, tuple, set, frozenset, dict, and iterators,
    which arrive as lists. Any other object can be called and asked for attributes, and equals nothing.
    A change that a function makes to its arguments does not come back.
    """

    def __init__(self, boundary: Boundary = "auto", limits: Limits | None = None) -> None:
        """With the default `Limits` when none are given.

        Raises:
            BadOptionError: no such boundary.
            NoBoundaryError: it cannot isolate here; with `auto`, neither can.
        """
        if boundary not in get_args(Boundary):
            raise BadOptionError(f"A boundary is one of {', '.join(get_args(Boundary))}, not {boundary!r}.")
        self.boundary: Boundary = boundary
        self.limits = _checked(limits or Limits())
        lacking = available()
        wanted = [name for name in lacking if boundary in (name, "auto")]
        self._ready = [name for name in wanted if not lacking[name]]
        if not self._ready:
            reasons = " ".join(f"{lacking[name]}." for name in wanted)
            raise NoBoundaryError(f"Programs cannot be isolated here, so none is run. {reasons}")
        self._workers = monty.Workers()

    def run(self, program: str, tests: Sequence[str] = ()) -> Execution:
        """Load the program and put it to each test. Without tests it is only loaded.

        Its `__name__` is not `__main__`.

        Raises:
            SandboxCrashError: the boundary itself broke.
        """
        return self.run_all([program], tests)[0]

    def run_all(self, programs: Sequence[str], tests: Sequence[str]) -> list[Execution]:
        """The same for several programs in one start of the sandbox: every program meets every test.

        Raises:
            SandboxCrashError: the boundary itself broke.
        """
        programs, tests = [encodable(each) for each in programs], [encodable(each) for each in tests]
        ran: dict[int, Execution] = {}
        left = list(range(len(programs)))
        for name in self._ready:
            if left:
                started = time.monotonic()
                found = self._run_all(name, [programs[place] for place in left], tests)
                seconds = (time.monotonic() - started) / len(left)
                for place, execution in zip(left, found, strict=True):
                    spent = seconds + (ran[place].seconds if place in ran else 0.0)
                    ran[place] = replace(execution, seconds=spent)
                left = [place for place in left if _unsupported(ran[place])]
        return [ran[place] for place in range(len(programs))]

    def trace(self, program: str, call: str) -> Trace:
        """How `call` runs, line by line: an expression that calls a function of the program, or an assertion about one.

        The traced function is the one that the first call of the text names. Always behind bubblewrap. Untraceable are
        generators and coroutines, a call that is killed, and a text without a call: `reason` says which.

        Raises:
            NoBoundaryError: bubblewrap cannot isolate here.
            SandboxCrashError: the boundary itself broke.
        """
        return bubblewrap.trace(encodable(program), encodable(call), self.limits)

    def close(self) -> None:
        """End the worker processes. The sandbox may be used again and starts new ones."""
        self._workers.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _run_all(self, boundary: str, programs: Sequence[str], tests: Sequence[str]) -> list[Execution]:
        if boundary == "monty":
            return monty.run_all(self._workers, programs, tests, self.limits)
        return bubblewrap.run_all(programs, tests, self.limits)


def _unsupported(execution: Execution) -> bool:
    return execution.outcome == "unsupported" or any(each.outcome == "unsupported" for each in execution.tests)


def _checked(limits: Limits) -> Limits:
    for name, least in (("wall_s", 0.01), ("test_s", 0.01), ("memory_bytes", 64 * 2**20), ("output_bytes", 1024)):
        value = getattr(limits, name)
        if not value >= least:
            raise BadOptionError(f"Limits: {name} is at least {least}, not {value!r}.")
    return limits
