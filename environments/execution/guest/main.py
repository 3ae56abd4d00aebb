"""The supervisor, the nursery and the candidate: three processes and how they come to be."""

from __future__ import annotations

import _socket as socket
import array
import builtins
import json
import os
import select
import struct
import sys
import time

from evolvent.environments.execution.guest.judge import Candidate, Stopped, judged, of_literals
from evolvent.environments.execution.guest.lock import lock, system_call_filter
from evolvent.environments.execution.guest.trace import trace
from evolvent.environments.execution.guest.wire import CUT, SHOWN_STDOUT, Line, cut, last_line, pack, unpack

TYPE_CHECKING = False
if TYPE_CHECKING:  # `typing` takes longer to import than a program to run
    from collections.abc import Callable
    from typing import Any

NOBODY = 65534
_KILL = 9
_PRELOADED = {
    *("bisect", "collections", "copy", "datetime", "decimal", "fractions", "functools", "hashlib", "heapq"),
    *("itertools", "math", "operator", "random", "re", "statistics", "string", "typing"),
}
"""Imported before the fork when a program names them, so that a hundred candidates import them once."""


def candidate(order: dict[str, Any], call: int, stdout: int, system_calls: bytes) -> None:
    """Load the program and answer on `call` until nobody asks. Never returns."""
    line = Line(call, order["limits"]["output_bytes"])
    try:
        os.dup2(stdout, 1)
        os.dup2(stdout, 2)
        spare = os.dup2(line.fd, 3)
        os.closerange(4, 1 << 10)
        line.fd = spare
        sys.stdout = open(1, "w", encoding="utf-8", errors="replace", closefd=False)  # noqa: SIM115 (lives as long)
        sys.stderr = open(2, "w", encoding="utf-8", errors="replace", closefd=False)  # noqa: SIM115 (lives as long)
        lock(order["limits"], system_calls)
    except BaseException as error:  # noqa: BLE001 (a candidate that is not locked in must not run)
        line.write({"broken": last_line(error)})
        os._exit(1)
    program = order["program"]
    namespace: dict[str, Any] = {"__name__": "program", "__builtins__": builtins}
    kept: list[Any] = []

    def keep(value: Any) -> int:
        kept.append(value)
        return len(kept) - 1

    def answered(value: Any) -> None:
        sys.stdout.flush()
        line.write({"value": pack(value, keep)})

    def raised(error: BaseException) -> None:
        said = last_line(error)
        try:
            line.write({"raised": type(error).__name__, "said": said, "text": cut(str(error), 2 * CUT)})
        except BaseException:  # noqa: BLE001 (whatever its __str__ does)
            line.write({"raised": "Exception", "said": said, "text": ""})

    try:
        if "random" in program:
            import random

            random.seed(0)
        exec(compile(program, "program.py", "exec", dont_inherit=True), namespace)
        answered(None)
    except BaseException as error:  # noqa: BLE001 (SystemExit too is only something that the program did)
        raised(error)
        os._exit(0)
    while True:
        try:
            asked = line.read()
        except EOFError:
            os._exit(0)
        try:
            do = asked["do"]
            if do == "trace":
                answered(trace(namespace, program, asked["call"]))
                continue
            if do == "name":
                found = namespace[asked["name"]]
                value = {"callable": keep(found)} if callable(found) else {"plain": pack(found, keep)}
                line.write({"value": value})
                continue
            on = kept[asked["of"]]
            if do == "attribute":
                answered(getattr(on, asked["name"]))
            else:
                args, kwargs = (unpack(asked[each], None) for each in ("args", "kwargs"))
                answered(on(*args, **kwargs))
        except BaseException as error:  # noqa: BLE001 (likewise)
            raised(error)


def nursery(orders: socket.socket, system_calls: bytes) -> None:
    """Fork a candidate for every order and end it when told to. Never returns."""
    line = Line(orders.fileno(), 1 << 30)
    while True:
        try:
            order = line.read()
        except EOFError:
            os._exit(0)
        for name in order["preload"]:
            __import__(name)
        ours, theirs = socket.socketpair()
        stdout = os.memfd_create("stdout", 0)
        pid = os.fork()
        if not pid:
            orders.close()
            ours.close()
            candidate(order, theirs.fileno(), stdout, system_calls)
        theirs.close()
        fds = array.array("i", [ours.fileno(), stdout])
        orders.sendmsg([struct.pack("i", pid)], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)])
        ours.close()
        os.close(stdout)
        line.read()
        os.kill(pid, _KILL)
        line.write(os.waitpid(pid, 0)[1])


class Supervisor:
    def __init__(self, job: dict[str, Any], orders: socket.socket, system_calls: bytes) -> None:
        self._limits = job["limits"]
        self._orders = orders
        self._line = Line(orders.fileno(), 1 << 30)
        self._system_calls = system_calls
        self._look_s = min(self._limits["test_s"] / 4, 0.05)
        self._over = f"it ran longer than {self._limits['test_s']:g} s"

    def run(self, program: str, work: Callable[[Candidate], dict[str, Any]], *, here: bool = False) -> dict[str, Any]:
        """What `work` finds with a fresh candidate. A judge does it, or where it runs nobody's code, this process."""
        preload = sorted(_PRELOADED.intersection(program.replace(".", " ").replace(",", " ").split()))
        self._line.write({"program": program, "limits": self._limits, "preload": preload})
        data, extra, _, _ = self._orders.recvmsg(4, socket.CMSG_SPACE(8))
        (pid,) = struct.unpack("i", data)
        fds = array.array("i")
        fds.frombytes(extra[0][2])
        call, stdout = fds
        try:
            result = self._here(call, pid, work) if here else self._apart(call, pid, work)
        finally:
            os.close(call)
            self._line.write("end")
            status = self._line.read()
        printed = os.fstat(stdout).st_size
        text = os.pread(stdout, 4 * SHOWN_STDOUT, 0).decode("utf-8", "replace")
        os.close(stdout)
        result["stdout"] = cut(text, SHOWN_STDOUT)
        if printed > self._limits["output_bytes"]:
            result.update(outcome="output", message=f"it printed more than {self._limits['output_bytes']} bytes")
        if result["outcome"] == "crashed" and not result["message"]:
            result["message"] = ended(status)
        return result

    def _here(self, call: int, pid: int, work: Callable[[Candidate], dict[str, Any]]) -> dict[str, Any]:
        started = time.monotonic()

        def wait(fd: int) -> None:
            while not select.select([fd], [], [], self._look_s)[0]:
                if self._late(started, pid):
                    raise Stopped("timeout", self._over)

        return work(Candidate(call, self._limits["output_bytes"], wait))

    def _apart(self, call: int, pid: int, work: Callable[[Candidate], dict[str, Any]]) -> dict[str, Any]:
        started = time.monotonic()
        results, write = os.pipe()
        judge = os.fork()
        if not judge:
            self._judge(call, write, work)
        os.close(write)
        parts: list[bytes] = []
        try:
            while True:
                if select.select([results], [], [], self._look_s)[0]:
                    parts.append(os.read(results, 1 << 16))
                    if parts[-1]:
                        continue
                    try:
                        found: dict[str, Any] = json.loads(b"".join(parts))
                    except ValueError:
                        return {"outcome": "crashed", "message": "the test ended its own process", "observed": ""}
                    return found
                if self._late(started, pid, judge):
                    return {"outcome": "timeout", "message": self._over, "observed": ""}
        finally:
            os.close(results)
            os.kill(judge, _KILL)
            os.waitpid(judge, 0)

    def _late(self, started: float, *pids: int) -> bool:
        most = self._limits["test_s"]
        return time.monotonic() - started > 4 * most or any(cpu_seconds(pid) > most for pid in pids)

    def _judge(self, call: int, write: int, work: Callable[[Candidate], dict[str, Any]]) -> None:
        """Never returns."""
        try:
            os.dup2(1, 2)
            os.dup2(call, 3)
            os.dup2(write, 4)
            os.closerange(5, 1 << 10)
            lock(self._limits, self._system_calls)
            result = work(Candidate(3, self._limits["output_bytes"]))
        except BaseException as error:  # noqa: BLE001 (a judge that is not locked in must not run)
            result = {"outcome": "broken", "message": last_line(error), "observed": ""}
        Line(4, 1 << 30).write(result)
        os._exit(0)


def cpu_seconds(pid: int) -> float:
    """Used by a process so far, by the kernel's count."""
    try:
        return time.clock_gettime(~pid << 3 | 2)
    except OSError:
        return 0.0


def ended(status: int) -> str:
    """How a process ended that could not answer any more; the supervisor's own kill says nothing."""
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        return "it ended itself" if number == _KILL else f"it was ended by signal {number}"
    return f"it left with exit status {os.WEXITSTATUS(status)}"


def loading(program: Candidate) -> dict[str, Any]:
    """Only that first answer."""
    return judged("", program)


def judging(test: str) -> Callable[[Candidate], dict[str, Any]]:
    return lambda program: judged(test, program)


def tracing(call: str) -> Callable[[Candidate], dict[str, Any]]:
    def work(program: Candidate) -> dict[str, Any]:
        result = judged("", program)
        if result["outcome"] == "passed":
            try:
                result["trace"] = program.traced(call)
            except Stopped as stop:
                result.update(outcome=stop.outcome, message=stop.message)
            except Exception as error:  # noqa: BLE001 (of the text or of the program's own objects)
                result.update(outcome="exception", message=getattr(error, "said", "") or last_line(error))
        return result

    return work


def main() -> None:
    """Read a job to the end of the input, write a line for each result, and a last line `null`."""
    if os.getuid() == 0:
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
    answers = os.dup(1)
    jobs = os.dup(0)
    nowhere = os.open(os.devnull, os.O_RDWR)
    os.dup2(nowhere, 0)
    os.dup2(nowhere, 1)
    system_calls = system_call_filter()
    ours, theirs = socket.socketpair()
    if not os.fork():
        ours.close()
        os.close(answers)
        os.close(jobs)
        nursery(theirs, system_calls)
    theirs.close()
    with open(jobs, "rb") as file:
        job = json.loads(file.read())
    supervisor = Supervisor(job, ours, system_calls)
    out = Line(answers, 1 << 30)
    out.write("ready")
    for place, program in enumerate(job["programs"]):
        if "trace" in job:
            out.write([place, -1, supervisor.run(program, tracing(job["trace"]))])
            continue
        deadline = time.monotonic() + job["limits"]["wall_s"]
        load = supervisor.run(program, loading, here=True)
        out.write([place, -1, load])
        for number, test in enumerate(job["tests"] if load["outcome"] == "passed" else ()):
            if time.monotonic() > deadline:
                break  # What is missing was not reached in time.
            out.write([place, number, supervisor.run(program, judging(test), here=of_literals(test))])
    out.write(None)
