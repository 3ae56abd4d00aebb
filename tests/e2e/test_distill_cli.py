"""`evolvent distill` as a person types it, over a run whose model is a tiny Llama."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from command_line import Evolvent
from tiny_llama import write_base

from evolvent.memory.weights.adapters import Adapters

QUICK = (
    "--set",
    "steps=4",
    "--set",
    "learning_rate=0.01",
    "--set",
    "pairs=8",
    "--set",
    "rehearse=1",
    "--eval",
    "4",
    "--no-forgetting",
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run. Distilled once by the first test; what each later one does, it does to other settings."""
    from evolvent.agents.rollout import run_sync
    from evolvent.agents.run import RunConfig, create, execute

    base = write_base(tmp_path_factory.mktemp("base"))
    config = RunConfig(
        recipe="lamarck",
        model=f"hf:{base}",
        tasks=4,
        evaluated=4,
        generations=1,
        embedder="hash",
        settings={"candidates": 1, "gate_pairs": 4},
    )
    directory = create(config, tmp_path_factory.mktemp("run") / "run")
    run_sync(execute(directory))
    return directory


def test_it_says_what_came_of_the_adapter_and_how_to_take_it_back(evolvent: Evolvent, run: Path) -> None:
    said = evolvent("distill", run, *QUICK)
    assert said.code == 0
    (adapter,) = Adapters(run).ls()
    assert f"{adapter.full_name} was not shown to be better than what acts now" in " ".join(said.out.split())
    assert "adapter alone" in said.out
    assert f"evolvent memory revert {run}" in said.out + said.err


def test_asked_again_it_trains_nothing_and_says_the_same_as_one_line_of_json(evolvent: Evolvent, run: Path) -> None:
    (adapter,) = Adapters(run).ls()
    lines = evolvent("distill", run, *QUICK, "--json").out.strip().splitlines()
    found = json.loads(lines[-1])
    assert len(lines) == 1
    assert found["adapter"] == adapter.full_name
    assert len(Adapters(run).ls()) == 1
    assert {"with_rules", "without_rules", "base", "tokens_before", "tokens_after", "forgetting"} <= set(found)
    assert found["memory_tokens_after"] == 0
    assert found["tokens_after"] <= found["tokens_before"]
    assert found["n"] == 4


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (("--set", "epochz=2"), "epochs"),
        (("--set", "epochs=0"), "--set epochs=0: input should be greater than 0"),
        (("--method", "ppo"), "ppo"),
    ],
)
def test_a_wrong_setting_is_one_line_before_any_work(
    evolvent: Evolvent, run: Path, settings: tuple[str, ...], told: str
) -> None:
    said = evolvent("distill", run, *settings)
    assert said.code == 2
    assert told in said.err


def test_a_run_without_weights_of_its_own_cannot_be_distilled(evolvent: Evolvent, run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    script = tmp_path / "script.yaml"
    script.write_text("rules: []\ndefault: hm\n")
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "model": f"scripted:{script}"}))
    said = evolvent("distill", copy, *QUICK)
    assert said.code == 2
    assert "no weights that can be trained" in said.err


def test_a_run_that_has_not_ended_is_gone_on_with_first(evolvent: Evolvent, run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "generations": 2}))
    said = evolvent("distill", copy, *QUICK)
    assert said.code == 2
    assert f"evolvent resume {copy}" in said.err
