"""Each notebook runs from top to bottom at a tiny size, and what is committed of it is a clean, real run."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient
from tiny_llama import write_base

from evolvent.memory import cache

NOTEBOOKS = sorted((Path(__file__).parents[2] / "notebooks").glob("*.ipynb"))
SCRIPT = """
rules:
  - {match: "first\\\\?", reply: "a burn"}
default: wax
"""
SIZES = {
    "01_first_episode": {"MODEL": "scripted:script.yaml", "TASKS": "2", "EVAL": "4", "GENERATIONS": "1"},
    # The least in which a rule is proved, recalled and withheld.
    "02_memory": {"TASKS": "24", "EVAL": "2", "GENERATIONS": "2"},
    "03_distill": {"MODEL": "hf:base", "TASKS": "4", "EVAL": "2", "GENERATIONS": "1", "STEPS": "2"},
}
SHOWN = {
    "01_first_episode": ["observation"],
    "02_memory": ["**utility**", "activate at 1/gate", "live records", "hand/retire - reverted"],
    "03_distill": ["examples from 8 training episodes", "adapter alone", "nats per token off", "restored:"],
}
NEEDS_EMBEDDER = {"01_first_episode", "03_distill"}


def outputs(notebook: Any) -> str:
    """Everything the cells gave, as text."""
    given = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    return "\n".join(output.get("text", "") + str(output.get("data", "")) for output in given)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_cell_runs_at_a_tiny_size(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if path.stem in NEEDS_EMBEDDER and cache.find("minilm") is None:
        pytest.skip("the embedder is not here: `evolvent models pull minilm`")
    (tmp_path / "script.yaml").write_text(SCRIPT)
    write_base(tmp_path / "base")
    for name, value in {
        **SIZES[path.stem],
        **{"RUN": "run", "IPYTHONDIR": str(tmp_path / "ipython"), "JUPYTER_PREFER_ENV_PATH": "1"},
    }.items():
        monkeypatch.setenv(name, value)
    notebook = nbformat.read(path, as_version=4)
    resources = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(notebook, timeout=200, record_timing=False, kernel_name="python3", resources=resources).execute()
    assert (tmp_path / "run" / "ledger.sqlite").exists()
    shown = outputs(notebook)
    assert "success on held-out tasks" in shown
    assert "<svg" in shown
    for words in SHOWN[path.stem]:
        assert words in shown


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_what_is_committed_was_run_in_order_and_names_no_machine(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    shown = outputs(notebook)
    assert "<svg" in shown
    assert path.stat().st_size < 60_000
    assert "Traceback" not in shown
    assert "Warning" not in shown
    assert not re.search(r"(?<![\w.<])/(?:home|root|tmp|usr|work|Users)/", shown)
    assert not any("execution" in cell.metadata for cell in code), "times of one run are noise in every diff"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_sizes_come_from_the_environment_in_the_first_cell(path: Path) -> None:
    first = next(cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code")
    for name in (*SIZES[path.stem], "RUN"):
        assert f'os.environ.get("{name}"' in first
