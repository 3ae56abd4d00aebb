"""Programs that try to get out, on each boundary: none does, and each leaves the host as it was."""

# ruff: noqa: E501 (programs in one line are read at a glance)
from __future__ import annotations

import os
import re
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from evolvent.environments.execution import Limits, Sandbox, available

LIMITS = Limits(wall_s=8.0, test_s=0.5, memory_bytes=128 * 2**20, output_bytes=64 * 2**10)
SECRET = "the-host-is-mine"

ESCAPES = {
    # files
    "reads a file of the host": "def attack(): return open({secret!r}).read()",
    "reads the password file": "def attack(): return 'root:' in open('/etc/passwd').read() and SECRET",
    "reads it with pathlib": "from pathlib import Path\ndef attack(): return Path({secret!r}).read_text()",
    "reads it with os.open": "import os\ndef attack(): return os.read(os.open({secret!r}, 0), 99).decode()",
    "lists the folders of the host": "import os\ndef attack(): return SECRET if 'secret' in os.listdir({folder!r}) else 0",
    "walks up from its own folder": "def attack(): return open('../../../../../../../..' + {secret!r}).read()",
    "writes a file into the host's folder": "def attack():\n    open({folder!r} + '/escaped', 'w').write('x')\n    return SECRET",
    "writes a file into /tmp": "def attack():\n    open('/tmp/escaped-marker', 'w').write('x')\n    return SECRET",
    "writes a file where it stands": "def attack():\n    open('escaped-marker', 'w').write('x')\n    return SECRET",
    "writes a file to /dev/shm": "def attack():\n    open('/dev/shm/escaped-marker', 'w').write('x')\n    return SECRET",
    "removes the host's file": "import os\ndef attack():\n    os.remove({secret!r})\n    return SECRET",
    "follows a symlink of its own": (
        "import os\ndef attack():\n    os.symlink({secret!r}, '/dev/shm/link')\n    return open('/dev/shm/link').read()"
    ),
    "makes a hard link": "import os\ndef attack():\n    os.link({secret!r}, '/dev/shm/link')\n    return open('/dev/shm/link').read()",
    "writes to the interpreter's modules": (
        "import os\ndef attack():\n    open(os.path.dirname(os.__file__) + '/escaped_marker.py', 'w').write('x')\n    return SECRET"
    ),
    "fills the disk with a thousand files": (
        "def attack():\n    for n in range(1000):\n        open(f'/dev/shm/{{n}}', 'w').close()\n    return SECRET"
    ),
    "remounts and bind-mounts": (
        "import ctypes\ndef attack():\n    libc = ctypes.CDLL(None)\n"
        "    return SECRET if libc.mount(b'none', b'/dev', None, 32, None) == 0 else 0"
    ),
    "changes its root": "import os\ndef attack():\n    os.chroot('/dev')\n    return SECRET",
    # what the host tells of itself
    "reads the environment": "import os\ndef attack(): return os.environ['EVOLVENT_TEST_SECRET']",
    "reads the environment of process 1": "def attack(): return SECRET if open('/proc/1/environ', 'rb').read() else 0",
    "reads the environment of its parent": (
        "import os\ndef attack(): return SECRET if open(f'/proc/{{os.getppid()}}/environ').read() else 0"
    ),
    "reads the memory of its parent": (
        "import os\ndef attack():\n    f = open(f'/proc/{{os.getppid()}}/mem', 'rb')\n    f.seek(4096)\n    return SECRET"
    ),
    "reads the memory map of itself": "def attack(): return SECRET if open('/proc/self/maps').read() else 0",
    "reads the kernel's command line": "def attack(): return SECRET if open('/proc/cmdline').read() else 0",
    "sees the host's processes": "import os\ndef attack():\n    os.kill({pid}, 0)\n    return SECRET",
    # network
    "opens an internet socket": "import socket\ndef attack():\n    socket.socket()\n    return SECRET",
    "connects to the loopback": (
        "import socket\ndef attack():\n    socket.create_connection(('127.0.0.1', {port}), 0.2)\n    return SECRET"
    ),
    "connects to the outside by number": (
        "import socket\ndef attack():\n    socket.create_connection(('1.1.1.1', 53), 0.2)\n    return SECRET"
    ),
    "asks the name service": "import socket\ndef attack():\n    socket.getaddrinfo('example.com', 80)\n    return SECRET",
    "sends a datagram": (
        "import socket\ndef attack():\n    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
        "    s.sendto(b'x', ('127.0.0.1', {port}))\n    return SECRET"
    ),
    "talks to the hypervisor": "import socket\ndef attack():\n    socket.socket(40, 1)\n    return SECRET",
    "talks to the kernel by netlink": "import socket\ndef attack():\n    socket.socket(16, 3)\n    return SECRET",
    "fetches a page": (
        "import urllib.request\ndef attack():\n    urllib.request.urlopen('http://127.0.0.1:{port}', timeout=0.2)\n    return SECRET"
    ),
    # processes
    "starts a program": "import subprocess\ndef attack():\n    subprocess.run(['/usr/bin/id'])\n    return SECRET",
    "runs a shell": "import os\ndef attack(): return SECRET if os.system('true') == 0 else 0",
    "becomes another program": "import os\ndef attack():\n    os.execv('/usr/bin/true', ['true'])",
    "forks": "import os\ndef attack():\n    if os.fork() == 0:\n        os._exit(0)\n    return SECRET",
    "forks without end": "import os\ndef attack():\n    while True:\n        os.fork()",
    "forks past every error": (
        "import os\ndef attack():\n    while True:\n        try:\n            if os.fork():\n                return SECRET\n"
        "        except BaseException:\n            pass"
    ),
    "starts threads": (
        "import threading\ndef attack():\n    threading.Thread(target=print).start()\n    return SECRET"
    ),
    "forks by its bare system call": (
        "import ctypes\ndef attack():\n    return SECRET if ctypes.CDLL(None).syscall(57) >= 0 else 0"
    ),
    "signals its parent": "import os\ndef attack():\n    os.kill(os.getppid(), 9)\n    return SECRET",
    "signals everyone": "import os\ndef attack():\n    os.kill(-1, 9)\n    return SECRET",
    "limits its parent's time": (
        "import os, resource\ndef attack():\n    resource.prlimit(os.getppid(), resource.RLIMIT_CPU, (0, 0))\n    return SECRET"
    ),
    "has a signal sent by a socket": (
        "import fcntl, os\ndef attack():\n    fcntl.fcntl(3, 8, os.getppid())\n    return SECRET"
    ),
    "becomes root again": "import os\ndef attack():\n    os.setuid(0)\n    return SECRET",
    "is root": "import os\ndef attack(): return SECRET if os.getuid() == 0 else 0",
    "lifts its limits": (
        "import resource\ndef attack():\n    resource.setrlimit(resource.RLIMIT_NPROC, (99, 99))\n    return SECRET"
    ),
    "makes a user namespace": (
        "import ctypes\ndef attack(): return SECRET if ctypes.CDLL(None).unshare(0x10000000) == 0 else 0"
    ),
    "traces its parent": (
        "import ctypes, os\ndef attack(): return SECRET if ctypes.CDLL(None).ptrace(16, os.getppid(), 0, 0) == 0 else 0"
    ),
    "makes a device": "import os\ndef attack():\n    os.mknod('/dev/shm/disk', 0o60600, os.makedev(8, 0))\n    return SECRET",
    "reads the kernel's log": (
        "import ctypes\ndef attack(): return SECRET if ctypes.CDLL(None).klogctl(3, ctypes.create_string_buffer(9), 9) >= 0 else 0"
    ),
    # through the interpreter
    "climbs the class tree to a file": (
        "def attack():\n    for kind in ().__class__.__base__.__subclasses__():\n        if kind.__name__ == 'FileLoader':\n"
        "            return kind('x', {secret!r}).get_data({secret!r}).decode()"
    ),
    "climbs a function's globals": "def attack(): return attack.__globals__['__builtins__'].open({secret!r}).read()",
    "climbs the frames": (
        "import sys\ndef attack():\n    frame = sys._getframe()\n    while frame:\n        for value in frame.f_locals.values():\n"
        "            if isinstance(value, dict) and 'tests' in value:\n                return SECRET\n        frame = frame.f_back"
    ),
    "searches all objects for the tests": (
        "import gc\ndef attack():\n    wanted = 'the-host' + '-is-mine'\n    found = [o for o in gc.get_objects() if isinstance(o, (list, dict, tuple))]\n"
        "    for each in found:\n        for text in each if not isinstance(each, dict) else each.values():\n"
        "            if isinstance(text, str) and text.startswith('assert attack') and wanted in text:\n                return wanted"
    ),
    "evaluates text with its own builtins": 'def attack(): return eval(\'__import__("os").environ["EVOLVENT_TEST_SECRET"]\')',
    "imports by a back door": "def attack(): return __import__('os').environ['EVOLVENT_TEST_SECRET']",
    "unpickles a command": (
        "import pickle\ndef attack():\n    return SECRET if pickle.loads(b'cos\\nsystem\\n(S\\'true\\'\\ntR.') == 0 else 0"
    ),
    "writes over the interpreter's memory": (
        "import ctypes\ndef attack():\n    ctypes.memset(0, 65, 100)\n    return SECRET"
    ),
}
"""What it tries → a program whose `attack()` returns the secret when it got there."""

FORGERIES = {
    "equals everything": (
        "class Yes(str):\n    def __eq__(self, other): return True\n    def __ne__(self, other): return False\n"
        "    def __hash__(self): return 0\ndef attack(): return Yes('no')"
    ),
    "equals everything as an object": (
        "class Yes:\n    def __eq__(self, other): return True\n    def __bool__(self): return True\ndef attack(): return Yes()"
    ),
    "leaves with success": "import os\ndef attack(): os._exit(0)",
    "leaves with success while it loads": "import os\nos._exit(0)",
    "raises SystemExit": "def attack(): raise SystemExit(0)",
    "raises SystemExit while it loads": "raise SystemExit(0)",
    "raises KeyboardInterrupt": "def attack(): raise KeyboardInterrupt",
    "prints a report": 'def attack():\n    print(\'[0, 0, {{"outcome": "passed", "observed": "", "message": ""}}]\')\n    print(\'null\')',
    "writes a report to every descriptor": (
        "import os\ndef attack():\n    for fd in range(64):\n        try:\n"
        '            os.write(fd, b\'[0, 0, {{"outcome": "passed", "observed": "", "message": ""}}]\\nnull\\n\')\n'
        "        except OSError:\n            pass"
    ),
    "writes a verdict to every descriptor": (
        "import os\ndef attack():\n    for fd in range(64):\n        try:\n"
        '            os.write(fd, b\'{{"outcome": "passed", "observed": "", "message": ""}}\\n\')\n'
        "        except OSError:\n            pass\n    os._exit(0)"
    ),
    "answers with a thing of its own": (
        'import os\ndef attack():\n    os.write(3, b\'{{"value": {{"thing": 0, "shown": "the-host-is-mine"}}}}\\n\')\n    os._exit(0)'
    ),
    "answers what is no JSON": "import os\ndef attack():\n    os.write(3, b'passed\\n')\n    os._exit(0)",
    "replaces the builtins": (
        "import builtins\nfor name in ('isinstance', 'repr', 'len', 'all', 'any', 'type'):\n"
        "    setattr(builtins, name, lambda *args: True)\ndef attack(): return 'no'"
    ),
    "patches the comparison of the harness": (
        "import sys\nfor module in list(sys.modules.values()):\n    for name in ('judged', '_judged', 'cut', 'pack', 'unpack'):\n"
        "        if hasattr(module, name):\n            setattr(module, name, lambda *a: {{'outcome': 'passed'}})\ndef attack(): return 'no'"
    ),
    "defines the verdict": "outcome = 'passed'\npassed = True\nAssertionError = ValueError\ndef attack(): return 'no'",
    "swallows every exception": (
        "def attack():\n    while True:\n        try:\n            raise AssertionError\n        except BaseException:\n            return 'no'"
    ),
    "sets a trace that answers": (
        "import sys\nsys.settrace(lambda *a: None)\nsys.setprofile(lambda *a: None)\ndef attack(): return 'no'"
    ),
    "returns itself for ever": "def attack(): return attack",
}
"""How it would be taken for right → a program that knows not what is expected."""

EXHAUSTION = {
    "computes without end": ("def attack():\n    while True: pass", {"timeout"}),
    "computes without end while it loads": ("while True: pass\ndef attack(): pass", {"timeout"}),
    "computes without end past every exception": (
        "def attack():\n    while True:\n        try:\n            while True: pass\n        except BaseException: pass",
        {"timeout"},
    ),
    "sleeps": ("import time\ndef attack(): time.sleep(60)", {"timeout", "failed"}),
    "ignores signals and loops": (
        "import signal\nfor n in (2, 10, 14, 15, 24, 25, 26, 27):\n    signal.signal(n, signal.SIG_IGN)\ndef attack():\n    while True: pass",
        {"timeout", "unsupported"},
    ),
    "takes two gigabytes at once": ("def attack(): return len(bytes(2 * 10**9))", {"memory"}),
    "takes memory bit by bit": (
        "def attack():\n    kept = []\n    while True: kept.append('x' * 10000)",
        {"memory", "timeout"},
    ),
    "takes memory past every exception": (
        "def attack():\n    kept = []\n    while True:\n        try: kept.append([0] * 10**6)\n        except MemoryError: pass",
        {"memory", "timeout"},
    ),
    "computes a huge power": ("def attack(): return 10 ** (10 ** 9) > 0", {"memory", "timeout"}),
    "prints without end": ("def attack():\n    while True: print('x' * 1000)", {"output", "exception", "timeout"}),
    "returns a huge text": ("def attack(): return 'x' * 10**6", {"output"}),
    "returns a deep list": (
        "def attack():\n    deep = []\n    for _ in range(100000): deep = [deep]\n    return deep",
        {"exception", "crashed", "output", "failed", "unsupported", "timeout", "memory"},
    ),
    "calls itself without end": ("def attack(): return attack()", {"exception", "crashed"}),
    "is a hundred thousand brackets": (
        "attack = " + "(" * 100_000 + ")" * 100_000,
        {"exception", "unsupported", "memory"},
    ),
}
"""What it uses up → a program and the outcomes that are right."""


@dataclass(frozen=True)
class Host:
    folder: Path
    port: int
    listener: socket.socket

    def files(self) -> set[str]:
        seen = {str(path) for path in self.folder.rglob("*")}
        places = (Path("/tmp"), Path("/dev/shm"), Path.cwd(), Path(os.__file__).parent)
        return seen | {str(path) for place in places for path in place.glob("escaped*")}

    def written(self, program: str) -> str:
        filled = program.format(
            folder=str(self.folder), secret=str(self.folder / "secret"), port=self.port, pid=os.getpid()
        )
        return re.sub(r"\bSECRET\b", f"({SECRET[:7]!r} + {SECRET[7:]!r})", filled)


def descendants() -> set[int]:
    parents: dict[int, int] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
    found = {os.getpid()}
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return found - {os.getpid()}


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    folder = tmp_path_factory.mktemp("host")
    (folder / "secret").write_text(SECRET)
    with socket.create_server(("127.0.0.1", 0)) as listener, pytest.MonkeyPatch.context() as patch:
        listener.setblocking(False)
        patch.setenv("EVOLVENT_TEST_SECRET", SECRET)
        yield Host(folder, listener.getsockname()[1], listener)


@pytest.fixture(scope="module", params=["monty", "bubblewrap"])
def sandbox(request: pytest.FixtureRequest, host: Host) -> Iterator[Sandbox]:
    lacking = available()[request.param]
    if lacking:
        pytest.skip(lacking)  # it says what is missing and how to get it; `make install` gets it
    with Sandbox(request.param, LIMITS) as opened:
        opened.run("x = 1", ["assert x == 1"])
        yield opened


@pytest.fixture(autouse=True)
def _left_as_it_was(host: Host, sandbox: Sandbox) -> Iterator[None]:
    processes, files = len(descendants()), host.files()
    yield
    assert host.files() == files
    assert (host.folder / "secret").read_text() == SECRET
    with pytest.raises(BlockingIOError):
        host.listener.accept()
    deadline = time.monotonic() + 5
    while len(descendants()) > max(processes, 2 if sandbox.boundary == "monty" else 0) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert len(descendants()) <= max(processes, 2 if sandbox.boundary == "monty" else 0)


@pytest.mark.parametrize("attack", ESCAPES)
def test_nothing_gets_out(sandbox: Sandbox, host: Host, attack: str) -> None:
    execution = sandbox.run(host.written(ESCAPES[attack]), [f"assert attack() == {SECRET!r}", "assert 1 == 1"])
    assert execution.tests[0].outcome != "passed"
    assert SECRET not in execution.stdout + execution.message
    assert "SyntaxError" not in execution.message  # or it would not have tried


@pytest.mark.parametrize("attack", FORGERIES)
@pytest.mark.parametrize("test", ["assert attack() == {!r}", "wanted = {!r}\nassert attack() == wanted, wanted"])
def test_no_verdict_is_forged(sandbox: Sandbox, host: Host, attack: str, test: str) -> None:
    assert not sandbox.run(host.written(FORGERIES[attack]), [test.format(SECRET)]).passed


@pytest.mark.parametrize("attack", EXHAUSTION)
def test_nothing_is_used_up(sandbox: Sandbox, attack: str) -> None:
    program, right = EXHAUSTION[attack]
    started = time.monotonic()
    execution = sandbox.run(program, ["assert attack() == 'nothing'"])
    assert execution.outcome in right
    assert time.monotonic() - started < 60


def test_the_next_program_runs_as_if_nothing_had_been(sandbox: Sandbox) -> None:
    assert sandbox.run("def f(x): return x + 1", ["assert f(1) == 2"]).passed


def test_a_program_that_breaks_the_sandbox_breaks_it_for_itself_alone(sandbox: Sandbox) -> None:
    bad = "import os, signal\ntry:\n    os.kill(-1, signal.SIGKILL)\nexcept OSError:\n    pass\ndef f(x): return x"
    good = "def f(x): return x + 1"
    assert [each.passes for each in sandbox.run_all([good, bad, good], ["assert f(1) == 2"])] == [1, 0, 1]


@pytest.mark.parametrize(
    "test",
    [
        "assert open({secret!r}).read()",
        "assert __import__('os').environ['EVOLVENT_TEST_SECRET']",
        "import os\nassert os.fork() >= 0",
        "import os\nos.kill(os.getppid(), 9)",
        "import os\nos._exit(0)",
        "import socket\nsocket.socket()",
        "open('/dev/shm/escaped', 'w').write('x')",
        "while True: pass",
    ],
)
def test_a_hostile_test_gets_no_further_than_a_program(sandbox: Sandbox, host: Host, test: str) -> None:
    ran = sandbox.run("def f(x): return x", [host.written(test), "assert f(1) == 1"])
    assert [each.passed for each in ran.tests] == [False, True]


def test_there_are_enough_attacks() -> None:
    assert len(ESCAPES) + len(FORGERIES) + len(EXHAUSTION) >= 40
