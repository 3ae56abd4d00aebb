"""A whole benchmark: real runs and real controls in the workshop, with a scripted scorer that heeds what it is told."""

from __future__ import annotations

import json
import shutil
import zlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import BaseMessage

from evolvent.agents.bench import CONTROLS, bench, read_controls
from evolvent.agents.errors import RunDirectoryError, SetupError
from evolvent.agents.models.scripted import ScriptedScorer
from evolvent.agents.rollout import run_sync
from evolvent.agents.run import RunConfig
from evolvent.environments.types import Trajectory
from evolvent.memory.embedding import HashEmbedder
from evolvent.memory.store import Memory

CONFIG = RunConfig(
    recipe="lamarck",
    tasks=6,
    evaluated=10,
    generations=2,
    concurrency=4,
    embedder="hash",
    # The scripted preferences are strong; these make training episodes differ and gate episodes waver.
    settings={"explore_temperature": 60.0, "gate_temperature": 15.0, "candidates": 4, "gate_pairs": 20},
)


def heed(messages: Sequence[BaseMessage], options: Sequence[str]) -> list[float]:
    """Prefers what the last message says latest, word for word; else goes by an arbitrary liking."""
    said = str(messages[-1].content)
    latest = max(said.rfind(option) for option in options)
    liking = [zlib.crc32(option.encode()) % 100 / 100 for option in options]
    told = [50.0 * (latest >= 0 and said.rfind(option) == latest) for option in options]
    return [a + b for a, b in zip(liking, told, strict=True)]


def model() -> ScriptedScorer:
    return ScriptedScorer(lambda messages: "Use what worked before.", score=heed)


async def run_bench(
    directory: Path, config: RunConfig = CONFIG, seeds: int = 2, **more: Any
) -> tuple[dict[str, Any], ScriptedScorer]:
    actor = model()
    return await bench(config, seeds, directory, models={"actor": actor}, **more), actor


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    folder = tmp_path_factory.mktemp("bench")
    found, _ = run_sync(run_bench(folder))
    return found, folder


def trajectories(folder: Path, phase: str) -> list[Trajectory]:
    with Memory.open(folder, embedder=HashEmbedder(), read_only=True) as memory:
        return [each for episode in memory.ledger.episodes() for each in episode.trajectories if each.phase == phase]


def test_every_arm_is_reported_with_the_fixed_keys(finished: tuple[dict[str, Any], Path]) -> None:
    found, _ = finished
    assert {"recipe", "env", "model", "env_version", "task_set_hash", "arms", "gain"} <= set(found)
    assert list(found["arms"]) == ["lamarck", *CONTROLS]
    for arm in found["arms"].values():
        assert {"success", "low", "high", "n", "tokens_in", "tokens_out", "seconds"} <= set(arm)
        assert 0 <= arm["low"] <= arm["success"] <= arm["high"] <= 1
    assert list(found["gain"]) == list(CONTROLS)
    assert all({"mean", "low", "high"} <= set(gain) for gain in found["gain"].values())
    assert json.loads(json.dumps(found)) == found


def test_arms_are_pooled_over_seeds_with_seed_and_task_as_the_unit(finished: tuple[dict[str, Any], Path]) -> None:
    found, _ = finished
    for name, arm in found["arms"].items():
        assert arm["n"] == 20
        by_seed = [row["success"][name] for row in found["seeds"]]
        assert arm["success"] == pytest.approx(sum(by_seed) / 2)
    assert found["gain"]["frozen"]["n"] == 20


def test_controls_learn_from_as_many_episodes_as_the_recipe_gates_included(
    finished: tuple[dict[str, Any], Path],
) -> None:
    found, folder = finished
    for row in found["seeds"]:
        run = folder / f"seed-{row['seed']}"
        used = len(trajectories(run, "train")) + len(trajectories(run, "gate"))
        counts = row["learning_episodes"]
        assert counts["lamarck"] == counts["full-history"] == counts["raw-retrieval"] == used
        kinds = Counter(each.id.split("/")[4] for each in trajectories(run / "controls", "control"))
        assert kinds["explore"] == used


def test_every_arm_plays_the_same_held_out_tasks_and_none_of_them_before(finished: tuple[dict[str, Any], Path]) -> None:
    _, folder = finished
    for seed in (0, 1):
        held_out = {each.task.id for each in trajectories(folder / f"seed-{seed}", "eval")}
        by_arm: dict[str, set[str]] = {}
        for each in trajectories(folder / f"seed-{seed}" / "controls", "control"):
            by_arm.setdefault(each.id.split("/")[4], set()).add(each.task.id)
        assert by_arm["full-history"] == by_arm["raw-retrieval"] == by_arm["random-rules"] == held_out
        assert not held_out & (by_arm["explore"] | by_arm["k-1"])


def test_random_rules_stand_where_the_recipes_rules_stand_and_say_something_else(
    finished: tuple[dict[str, Any], Path],
) -> None:
    _, folder = finished
    for seed in (0, 1):
        run = folder / f"seed-{seed}"
        with Memory.open(run, embedder=HashEmbedder(), read_only=True) as memory:
            own = [r for r in memory.records().values() if r.kind == "rule" and r.status == "active"]
        with Memory.open(run / "controls", embedder=HashEmbedder(), read_only=True) as memory:
            shown = [r for r in memory.records().values() if r.kind == "rule"]
        assert len(own) == len(shown) > 0
        assert {r.meta["situation"] for r in own} == {r.meta["situation"] for r in shown}
        assert not {r.text for r in own} & {r.text for r in shown}


async def test_a_finished_benchmark_is_told_again_without_a_call(
    finished: tuple[dict[str, Any], Path], tmp_path: Path
) -> None:
    found, folder = finished
    again, actor = await run_bench(folder)
    assert again == found
    assert actor.requests == []


async def test_a_benchmark_cut_off_among_its_controls_ends_as_if_it_had_not_been(
    finished: tuple[dict[str, Any], Path], tmp_path: Path
) -> None:
    found, folder = finished
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    shutil.rmtree(copy / "seed-1" / "controls")
    again, actor = await run_bench(copy)
    assert len(actor.requests) > 0
    for name in found["arms"]:
        for key in ("success", "low", "high", "n", "tokens_in", "learning_episodes"):
            assert again["arms"][name][key] == found["arms"][name][key]
    assert again["gain"] == found["gain"]


async def test_a_folder_with_a_run_of_another_config_is_refused(finished: tuple[dict[str, Any], Path]) -> None:
    _, folder = finished
    with pytest.raises(RunDirectoryError, match="another config"):
        await run_bench(folder, CONFIG.model_copy(update={"tasks": 7}))


async def test_a_lone_seed_takes_random_rules_from_a_world_of_their_own(tmp_path: Path) -> None:
    found, _ = await run_bench(tmp_path, seeds=1)
    assert (tmp_path / "seed-0-elsewhere" / "config.json").exists()
    assert found["seeds"][0]["notes"]["random-rules"].endswith("rules")


async def test_without_an_active_rule_random_rules_equal_the_frozen_agent_and_say_so(tmp_path: Path) -> None:
    config = CONFIG.model_copy(update={"settings": {**CONFIG.settings, "candidates": 0}, "generations": 1})
    found, _ = await run_bench(tmp_path, config, seeds=1)
    assert found["seeds"][0]["success"]["random-rules"] == found["seeds"][0]["success"]["frozen"]
    assert "No rule was active" in found["seeds"][0]["notes"]["random-rules"]


async def test_a_variant_is_a_further_arm(tmp_path: Path) -> None:
    config = CONFIG.model_copy(update={"generations": 1})
    found, _ = await run_bench(tmp_path, config, seeds=1, variants={"counted": {"extractor": "count"}})
    assert "counted" in found["arms"]
    assert found["gain"]["counted"]["n"] == 10


async def test_controls_may_be_played_later_than_the_others(
    finished: tuple[dict[str, Any], Path], tmp_path: Path
) -> None:
    found, _ = finished
    first, _ = await run_bench(tmp_path, controls=("random-rules",))
    assert first["arms"]["full-history"] is None
    assert "--controls" in first["reasons"]["full-history"]
    assert first["gain"]["random-rules"] == found["gain"]["random-rules"]
    more, _ = await run_bench(tmp_path)
    assert more["gain"] == found["gain"]


def test_an_unknown_control_is_refused_by_name() -> None:
    with pytest.raises(SetupError, match=r"'rawretrieval'.*Known: frozen, full-history"):
        read_controls("frozen,rawretrieval")


async def test_where_nothing_carries_over_the_control_is_as_many_attempts_without_the_mechanism(tmp_path: Path) -> None:
    config = CONFIG.model_copy(update={"recipe": "reflexion", "settings": {"temperature": 20.0}})
    found, _ = await run_bench(tmp_path, config)
    assert set(found["arms"]) == {"reflexion", *CONTROLS, "retry"}
    for name in ("full-history", "raw-retrieval", "random-rules"):
        assert found["arms"][name] is found["gain"][name] is None
        assert "Nothing carries over" in found["reasons"][name]
    assert found["arms"]["retry"]["n"] == found["arms"]["reflexion"]["n"] == 12
    assert (
        found["arms"]["frozen"]["tokens_in"]
        < found["arms"]["retry"]["tokens_in"]
        < found["arms"]["reflexion"]["tokens_in"]
    )
    assert found["gain"]["retry"]["n"] == 12
