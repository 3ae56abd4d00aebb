"""What the README shows is run as it stands there, at a tiny size and with a scripted model."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

from evolvent.agents.cli import invoke
from evolvent.agents.recipes.catalog import systems
from evolvent.memory import cache

README = (Path(__file__).parents[2] / "README.md").read_text("utf-8")
TINY = {
    "run": "--model scripted:script.yaml --tasks 2 --eval 4 --generations 1",
    "bench": "--model scripted:script.yaml --tasks 2 --eval 4 --generations 1 --seeds 1",
}
SMALLER = {"tasks=24": "tasks=2", "evaluated=80": "evaluated=4", "generations=3": "generations=1"}
needs_embedder = pytest.mark.skipif(
    cache.find("minilm") is None, reason="the embedder is not here: `evolvent models pull minilm`"
)


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "script.yaml").write_text("{default: hammer}")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@needs_embedder
def test_every_command_of_the_readme_works_in_the_order_it_is_shown(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [shlex.split(line, comments=True) for block in blocks("bash") for line in block.splitlines()]
    shown: dict[str, str] = {}
    for program, *arguments in lines:
        assert program == "evolvent"
        if arguments[0] == "inspect":
            continue  # it serves until it is stopped: tests/e2e/test_inspect_cli.py
        if {"RECORD", "TRAJECTORY"} & set(arguments):
            assert invoke(["memory", "ls", "runs/first", "-k", "1", "--json"]) == 0
            (record,) = json.loads(capsys.readouterr().out)
            stands_for = {"RECORD": record["id"], "TRAJECTORY": record["parents"][0]}
            arguments = [stands_for.get(word, word) for word in arguments]
        code = invoke([*arguments, *shlex.split(TINY.get(arguments[0], ""))])
        shown[arguments[0]] = capsys.readouterr().out
        assert code == 0, arguments
    assert "held-out tasks" in shown["run"]
    assert "raw-retrieval" in shown["bench"]
    assert all((folder / name).exists() for name in ("report.html", "lineage.svg", "memory.jsonl"))
    table = README.split("| in a run directory | holds |")[1].split("\n\n")[0]
    named = re.findall(r"`([\w.]+/?)`", "\n".join(line.split("|")[1] for line in table.splitlines() if line))
    assert len(named) == 7
    assert all((folder / "runs" / "first" / name).exists() for name in named)


@needs_embedder
def test_the_python_example_prints_a_verdict(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (example,) = blocks("python")
    for shown, tiny in {**SMALLER, '"smollm2"': '"scripted:script.yaml"'}.items():
        assert shown in example
        example = example.replace(shown, tiny)
    exec(compile(example, "README.md", "exec"), {})
    assert "success on held-out tasks" in capsys.readouterr().out


def test_the_readme_counts_the_systems_as_the_catalogue_does() -> None:
    told = re.search(r"<!-- implemented -->(\d+) of the survey's (\d+) systems", README)
    assert told is not None
    known = systems()
    assert [int(number) for number in told.groups()] == [sum(s.status != "planned" for s in known), len(known)]


def test_folders_of_the_map_exist() -> None:
    root = Path(__file__).parents[2]
    for name in re.findall(r"^\| `(\w+/)` \|", README.split("## ")[0], re.MULTILINE):
        assert (root / name).is_dir()
