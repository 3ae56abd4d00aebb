"""The full interpreter inside bubblewrap: a fresh set of namespaces for every run, and `guest/` in it.

Inside there are `/usr`, the interpreter's own folder and a bare `/dev`, all read-only; no `/proc`, no network, no
environment, no writable file. A host's root starts it without a user namespace and the guest steps down to `nobody`
before it reads a byte; anyone else needs unprivileged user namespaces.
"""

from __future__ import annotations

import functools
import json
import marshal
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from evolvent.environments.errors import NoBoundaryError, SandboxCrashError
from evolvent.environments.execution import guest
from evolvent.environments.execution.guest.main import NOBODY
from evolvent.environments.execution.types import Block, Execution, Limits, TestResult, Trace, TracedLine

_INSTALL = "apt install bubblewrap"
_GUEST = tuple(f"{guest.__name__}.{each}" for each in ("wire", "lock", "judge", "trace", "main"))
"""Modules that go inside, each behind those that it imports."""
_BEGIN = """
import marshal, os, sys
def take(n):
    b = b""
    while len(b) < n:
        b += os.read(0, n - len(b)) or exit()
    return b
for name, code in marshal.loads(take(int.from_bytes(take(4), "big"))):
    sys.modules[name] = module = type(sys)(name)
    exec(code, module.__dict__)
module.main()
"""
"""What the interpreter inside starts with: our own guest from the pipe, before anything else is on it."""
_START_S = 20.0
"""Longest start and end of the guest, on top of what its programs may take."""
_TRACE_BYTES = 8 * 2**20
_PROBE = """
import os
def alone():
    try:
        return not os.fork()
    except OSError:
        return True
def shut():
    try:
        open("/written", "w")
    except OSError:
        return os.getuid() != 0
"""
_WALLS = (
    *("--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts", "--unshare-cgroup-try"),
    *("--die-with-parent", "--new-session", "--clearenv", "--hostname", "sandbox"),
    *("--setenv", "PYTHONHASHSEED", "0", "--setenv", "PYTHONUTF8", "1"),
)


def missing() -> str:
    """What keeps bubblewrap from isolating here, with what to do about it; empty when it does. Found out once."""
    return _probed()[1]


def run_all(programs: Sequence[str], tests: Sequence[str], limits: Limits) -> list[Execution]:
    """See `Sandbox.run_all`. If one of several programs brings the guest down, each is run again in one of its own."""
    lines, finished = _play(_way(), {"programs": programs, "tests": tests}, limits)
    if not finished and len(programs) > 1:
        return [run_all([program], tests, limits)[0] for program in programs]
    found = {(place, number): result for place, number, result in lines}
    return [_execution(place, tests, found, finished) for place in range(len(programs))]


def trace(program: str, call: str, limits: Limits) -> Trace:
    """See `Sandbox.trace`."""
    roomy = replace(limits, output_bytes=max(limits.output_bytes, _TRACE_BYTES))
    lines, _ = _play(_way(), {"programs": [program], "tests": [], "trace": call}, roomy)
    if not lines:
        return Trace(outcome="crashed", reason="The program brought the guest down.")
    ((_, _, result),) = lines
    if "trace" not in result:
        return Trace(outcome=result["outcome"], returned=result["message"], reason=f"{result['message']}.")
    found = result["trace"]
    blocks = tuple(
        Block(tuple(TracedLine(*line) for line in block["lines"]), block["before"]) for block in found["blocks"]
    )
    return Trace(blocks, found["left_out"], found["outcome"], found["returned"], found["reason"])


def _execution(place: int, tests: Sequence[str], found: Any, finished: bool) -> Execution:
    lost = {"outcome": "timeout" if finished else "crashed", "observed": "", "stdout": ""}
    lost["message"] = "the program's time was over" if finished else "the program brought the guest down"
    load = found.get((place, -1), lost)
    results = []
    for number, test in enumerate(tests):
        answer = found.get((place, number), lost) if load["outcome"] == "passed" else load
        results.append(TestResult(test, answer["outcome"], answer["observed"], answer["message"]))
    worst = next((each for each in results if not each.passed), None)
    outcome, message = (worst.outcome, worst.message) if worst else (load["outcome"], load["message"])
    return Execution(outcome, tuple(results), message, load["stdout"], boundary="bubblewrap")


def _play(way: _Way, job: dict[str, Any], limits: Limits) -> tuple[list[Any], bool]:
    """Result lines of a job, and whether the guest came to its own end or was stopped at the deadline.

    Raises:
        SandboxCrashError: the guest never began, or could not lock a program in.
    """
    deadline_s = limits.wall_s * len(job["programs"]) + 4 * limits.test_s + _START_S
    process = subprocess.Popen(
        way.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **way.popen
    )
    stopped = False
    try:
        sent = _guest() + json.dumps({**job, "limits": asdict(limits)}).encode()
        try:
            answers, complaints = process.communicate(sent, timeout=deadline_s)
        except subprocess.TimeoutExpired:
            stopped = True
            process.kill()
            answers, complaints = process.communicate()
    finally:
        process.kill()
        process.wait()
    lines = [json.loads(line) for line in answers.split(b"\n")[:-1]]
    if not lines or any(line and line[2]["outcome"] == "broken" for line in lines[1:]):
        told = [line[2]["message"] for line in lines[1:] if line] or complaints.decode(errors="replace").split("\n")[
            -2:
        ]
        raise SandboxCrashError(f"bubblewrap: the guest could not start: {' '.join(told).strip()}")
    finished = lines[-1] is None
    return [line for line in lines[1:] if line], finished or stopped


class _Way:
    """How bubblewrap is started here."""

    def __init__(self, walls: Sequence[str], **popen: Any) -> None:
        self.command = [shutil.which("bwrap") or "bwrap", *_WALLS, *walls, *_inside()]
        self.popen: dict[str, Any] = {"cwd": "/", "env": {}, **popen}


def _ways() -> list[_Way]:
    own = ("--unshare-user", "--uid", str(NOBODY), "--gid", str(NOBODY))
    if os.getuid() != 0:
        return [_Way(own)]
    steps_down = ("--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID")
    # Root that may not make mounts, in a container, may still do it as a nobody where user namespaces are allowed.
    return [_Way(steps_down), _Way(own, user=NOBODY, group=NOBODY, extra_groups=())]


def _inside() -> list[str]:
    """The folders, and the command that runs there."""
    binds = ["--ro-bind", "/usr", "/usr"]
    for folder in ("/lib", "/lib64", "/bin"):
        if os.path.islink(folder):
            binds += ["--symlink", os.readlink(folder), folder]
        elif os.path.isdir(folder):
            binds += ["--ro-bind", folder, folder]
    home = Path(sys.base_prefix).resolve()
    python = Path(getattr(sys, "_base_executable", sys.executable)).resolve().relative_to(home)
    inside = str(home) if home.is_relative_to("/usr") else "/python"
    if inside == "/python":
        binds += ["--ro-bind", str(home), inside]
    return [
        *binds,
        *("--setenv", "LD_LIBRARY_PATH", f"{inside}/lib", "--dev", "/dev", "--remount-ro", "/dev"),
        *("--remount-ro", "/", "--chdir", "/", "--", f"{inside}/{python}", "-s", "-S", "-P", "-B", "-c", _BEGIN),
    ]


@functools.cache
def _guest() -> bytes:
    """The guest's modules compiled, behind their length; the interpreter inside is the one outside."""
    modules = []
    for name in _GUEST:
        path = Path(guest.__file__).with_name(name.rpartition(".")[2] + ".py")
        modules.append((name, compile(path.read_bytes(), path.name, "exec")))
    code = marshal.dumps(modules)
    return len(code).to_bytes(4, "big") + code


def _way() -> _Way:
    way, reason = _probed()
    if way is None:
        raise NoBoundaryError(reason)
    return way


@functools.cache
def _probed() -> tuple[_Way | None, str]:
    """The first way that runs a program, lets it start no process and write no file."""
    if not sys.platform.startswith("linux"):
        return None, f"bubblewrap needs Linux, and this is {sys.platform}"
    if shutil.which("bwrap") is None:
        return None, f"bubblewrap is not installed: {_INSTALL}"
    reasons = []
    tests = ("assert alone()", "assert shut()")
    for way in _ways():
        try:
            lines, _ = _play(way, {"programs": [_PROBE], "tests": tests}, Limits())
        except SandboxCrashError as error:
            reasons.append(str(error))
            continue
        if [result["outcome"] for _, _, result in lines] == ["passed"] * 3:
            return way, ""
        reasons.append(f"its walls have holes: {lines}")
    return None, f"bubblewrap cannot isolate here: {' '.join(reasons)}. It needs root or unprivileged user namespaces."
