"""The signature of model soups, line by line: runs over real, tiny weights, of which one has gone astray."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from systems.runs import calls, generations, memory_of, play, visited
from systems.signs import TRAINING, WIDE, known
from tiny_llama import write_adapter, write_base

from evolvent.agents.models.local import LocalChatModel
from evolvent.agents.recipes.model_soups import average
from evolvent.agents.run import RunConfig
from evolvent.memory.errors import BadMergeError
from evolvent.memory.weights.adapters import Adapters
from evolvent.memory.weights.merge import fold

RATES = [0.005, 0.004, 3.0, 0.006]
"""The third is far too large: its run is poison."""
POISONED = 2
SETTINGS: dict[str, Any] = {**TRAINING, "learning_rates": RATES, "validation": 24}


CONFIG = RunConfig(
    recipe="model-soups",
    environment="systems.signs:Signs",
    tasks=48,
    evaluated=24,
    generations=1,
    embedder="hash",
    settings=SETTINGS,
)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_base(tmp_path_factory.mktemp("base"), **WIDE)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, base: str) -> Path:
    return play(tmp_path_factory.mktemp("soup") / "run", CONFIG, {"actor": LocalChatModel(path=base)})


def soup(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = generations(run)[-1]["soup"]
    return found


def members(run: Path) -> set[str]:
    return set(soup(run)["members"])


def number(name: str) -> int:
    """Of a run, from its adapter's full name."""
    return int(name.removeprefix("run-").partition("@")[0])


@pytest.mark.signature("model-soups", 0)
def test_the_greedy_soup_is_never_worse_on_validation_than_its_best_run(run: Path) -> None:
    told = soup(run)
    scores = [max(told["alone"].values()), *(score for names, score in told["tried"] if set(names) <= members(run))]
    assert len(scores) == len(members(run)) > 1
    assert scores == sorted(scores)


@pytest.mark.signature("model-soups", 1)
def test_of_k_runs_k_minus_one_averages_are_scored_best_run_first(run: Path) -> None:
    told = soup(run)
    assert len(told["alone"]) == len(RATES)
    assert len(told["tried"]) == len(RATES) - 1
    added = [names[-1] for names, _ in told["tried"]]
    best, *rest = sorted(told["alone"], key=lambda name: -told["alone"][name])
    assert all(names[0] == best for names, _ in told["tried"])
    assert added == rest
    arms = {row["episode"].rpartition("/")[2] for row in calls(run, phase="gate")}
    assert len(arms) == 2 * len(RATES) - 1
    assert len(calls(run, phase="gate")) == len(arms) * SETTINGS["validation"]


@pytest.mark.signature("model-soups", 2)
def test_the_soup_is_the_mean_of_its_ingredients_tensor_by_tensor(run: Path, base: str, tmp_path: Path) -> None:
    registry = Adapters(run)
    made = registry.get(generations(run)[-1]["model"]["adapter"])
    assert list(made.card.parents) == soup(run)["members"]
    assert len(made.card.parents) > 1
    members = [registry.get(name) for name in made.card.parents]
    whole = load_file(fold(base, made.folder, tmp_path / "soup") / "model.safetensors")
    parts = [
        load_file(fold(base, each.folder, tmp_path / str(i)) / "model.safetensors") for i, each in enumerate(members)
    ]
    for name, weight in whole.items():
        torch.testing.assert_close(weight, torch.stack([part[name] for part in parts]).mean(0), atol=1e-5, rtol=1e-4)


@pytest.mark.signature("model-soups", 3)
async def test_a_run_gone_astray_stays_out_of_the_greedy_soup_and_spoils_the_uniform_one(
    run: Path, base: str, tmp_path: Path
) -> None:
    assert POISONED not in {number(name) for name in members(run)}
    registry = Adapters(run)
    every = [registry.get(name) for name in soup(run)["alone"]]
    sound = [each for each in every if number(each.full_name) != POISONED]
    model = LocalChatModel(path=base)
    uniform, without = [
        await known(model.with_adapter(average(base, some, tmp_path / str(len(some)))), family="letters")
        for some in (every, sound)
    ]
    assert without >= 0.9
    assert uniform <= without - 0.2
    assert generations(run)[-1]["solved"] >= without - 0.05


@pytest.mark.signature("model-soups", 4)
def test_runs_of_another_initialisation_are_refused(run: Path, base: str, tmp_path: Path) -> None:
    foreign = write_base(tmp_path / "foreign", seed=5, **WIDE)
    registry = Adapters(tmp_path)
    own = Adapters(run).get(soup(run)["members"][0])
    other = registry.register(write_adapter(foreign, tmp_path / "other"), "other", base="foreign", created="")
    with pytest.raises(BadMergeError, match="only models tuned from one base"):
        average(base, [own, other], tmp_path / "soup")
    disguised = registry.register(write_adapter(foreign, tmp_path / "two", seed=2), "two", base="smollm2", created="")
    with pytest.raises(BadMergeError, match="different bases"):
        average(base, [own, disguised], tmp_path / "soup")


@pytest.mark.signature("model-soups", 5)
def test_held_out_tasks_are_played_by_the_base_and_the_finished_soup_alone(run: Path) -> None:
    with memory_of(run) as memory:
        selected = {each.task.id for episode in memory.ledger.episodes(phase="gate") for each in episode.trajectories}
        judged = [each for episode in memory.ledger.episodes(phase="eval") for each in episode.trajectories]
    assert selected
    assert not selected & {each.task.id for each in judged}
    assert all("-validation-" in task for task in selected)
    assert {each.model for each in judged} == {"smollm2", f"smollm2+{generations(run)[-1]['model']['adapter']}"}


def test_every_generation_goes_through_each_phase_in_turn(run: Path) -> None:
    assert visited(run) == ["baseline", "tasks", "demonstrate", "finetune", "validate", "soup", "evaluate"]


def test_what_the_soup_left_out_is_rejected_and_the_soup_is_a_child_of_what_it_took(run: Path) -> None:
    with memory_of(run) as memory:
        records = {record.text: record for record in memory.records().values() if record.kind == "adapter"}
    told, name = soup(run), generations(run)[-1]["model"]["adapter"]
    assert {records[parent].id for parent in told["members"]} == set(records[name].parents)
    assert {each for each in told["alone"] if records[each].status == "retired"} == set(told["alone"]) - set(
        told["members"]
    )
    assert (Adapters(run).get(name).folder / "canaries.json").exists()
