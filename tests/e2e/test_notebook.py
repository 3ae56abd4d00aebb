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
    # With the real model, as a newcomer runs it: the least in which it proves a rule.
    "00_tour": {"MODEL": "smollm2", "TASKS": "4", "EVAL": "2", "GENERATIONS": "1"},
    "01_first_episode": {"MODEL": "scripted:script.yaml", "TASKS": "2", "EVAL": "4", "GENERATIONS": "1"},
    # The least in which a rule is proved, recalled and withheld.
    "02_memory": {"TASKS": "24", "EVAL": "2", "GENERATIONS": "2"},
    "03_distill": {"MODEL": "hf:base", "TASKS": "4", "EVAL": "2", "GENERATIONS": "1", "STEPS": "2"},
    "04_compare_systems": {"MODEL": "hf:base", "TASKS": "2", "EVAL": "4", "GENERATIONS": "1"},
}
SHOWN = {
    "00_tour": ["Came from", "lift when shown", "→ retired", "0 records differ.", "evolvent inspect run"],
    "01_first_episode": ["seen", "done", "as it was sent"],
    "02_memory": [
        *("**utility**", "activate", "at 1/gate", "would fall with it", "records differ"),
        *("live records", "hand/retire - reverted"),
    ],
    "03_distill": ["examples from 8 training episodes", "adapter alone", "nats per token off", "restored:"],
    "04_compare_systems": ["90 systems", "raw-retrieval", "shuffled", "no evidence of a difference", "retry"],
}
NEEDS = {
    "00_tour": ("minilm", "smollm2"),
    **dict.fromkeys(("01_first_episode", "03_distill", "04_compare_systems"), ("minilm",)),
}
"""Weights, where a notebook does not do without."""


def outputs(notebook: Any) -> str:
    """Everything the cells gave, as text."""
    given = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    return "\n".join(output.get("text", "") + str(output.get("data", "")) for output in given)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_cell_runs_at_a_tiny_size(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for weights in NEEDS.get(path.stem, ()):
        if cache.find(weights) is None:
            pytest.skip(f"its weights are not here: `evolvent models pull {weights}`")
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
    assert list((tmp_path / "run").rglob("ledger.sqlite"))
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
    assert path.stat().st_size < 200_000
    assert "Traceback" not in shown
    assert "Warning" not in shown
    assert not re.search(r"(?<![\w.<])/(?:home|root|tmp|usr|work|Users)/", shown)
    assert not any("execution" in cell.metadata for cell in code), "times of one run are noise in every diff"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_sizes_come_from_the_environment_in_the_first_cell(path: Path) -> None:
    first = next(cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code")
    for name in (*SIZES[path.stem], "RUN"):
        assert f'os.environ.get("{name}"' in first
