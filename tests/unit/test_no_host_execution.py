"""Nothing that a model wrote may be run by this interpreter or by a shell: read from every source file."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
INSIDE = ROOT / "environments" / "execution" / "guest"
"""What bubblewrap's walls stand around; no module outside may call what is in it to run something."""
SOURCES = sorted(path for package in ("environments", "memory", "agents") for path in (ROOT / package).rglob("*.py"))
TEXT_RUNNERS = {"exec", "eval", "__import__", "builtins.exec", "builtins.eval", "runpy.run_path", "code.interact"}
SHELLS = {
    *("os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput", "pty.spawn"),
    *("asyncio.create_subprocess_shell", "create_subprocess_shell"),
}
COMPILERS = {"environments/execution/bubblewrap.py": "our own guest, as marshalled bytes for the interpreter inside"}
"""Modules that call `compile`, and what they compile."""


def runs(source: str) -> Iterator[str]:
    """Calls that run text as Python or as a shell command, or make code of it."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        shell = [word for word in node.keywords if word.arg == "shell"]
        by_shell = any(not (isinstance(word.value, ast.Constant) and word.value.value is False) for word in shell)
        if called in TEXT_RUNNERS | SHELLS | {"compile", "builtins.compile"} or by_shell:
            yield f"{called} in line {node.lineno}"


def outside() -> list[Path]:
    return [path for path in SOURCES if INSIDE not in path.parents]


@pytest.mark.parametrize("path", outside(), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_module_runs_no_text_in_this_process_nor_in_a_shell(path: Path) -> None:
    found = list(runs(path.read_text(encoding="utf-8")))
    if path.relative_to(ROOT).as_posix() in COMPILERS:
        found = [call for call in found if not call.startswith("compile ")]
    assert found == []


def test_the_guest_is_the_one_exception_and_really_runs_programs() -> None:
    running = [path.stem for path in sorted(INSIDE.glob("*.py")) if list(runs(path.read_text(encoding="utf-8")))]
    assert running == ["judge", "main", "trace"]


def test_modules_outside_take_only_harmless_names_from_the_guest() -> None:
    taken = set()
    for path in outside():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and "execution.guest" in (node.module or ""):
                taken |= {alias.name for alias in node.names}
    assert taken == {"NOBODY", "CUT", "SHOWN_STDOUT", "cut", "last_line", "free_names"}


@pytest.mark.parametrize(
    "source",
    [
        "exec(reply)",
        "eval(reply, {})",
        "code = compile(reply, 'reply', 'exec')",
        "import os; os.system(reply)",
        "import subprocess; subprocess.run(reply, shell=True)",
        "import subprocess; subprocess.run(reply, shell=quick)",
        "__import__(reply)",
    ],
)
def test_the_search_finds_what_it_looks_for(source: str) -> None:
    assert list(runs(source))


@pytest.mark.parametrize("source", ["re.compile(reply)", "model.eval()", "subprocess.run(words, shell=False)"])
def test_the_search_finds_nothing_else(source: str) -> None:
    assert not list(runs(source))
