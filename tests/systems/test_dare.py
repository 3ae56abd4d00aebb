"""DARE's signature, line by line: one whole run over real, small weights, and the operator on what the run trained."""

from __future__ import annotations

import hashlib
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from systems.runs import generations, memory_of, play, visited
from systems.signs import TRAINING, WIDE, known
from tiny_llama import write_base
from torch import Tensor

from evolvent.agents.models.local import LocalChatModel
from evolvent.agents.recipes.dare import Config, write
from evolvent.agents.run import RunConfig
from evolvent.memory.errors import BadMergeError
from evolvent.memory.weights.adapters import Adapter, Adapters
from evolvent.memory.weights.merge import drop_and_rescale, fold
from evolvent.memory.weights.merged import MergedModels

FAMILIES = ({"family": "letters", "named": True}, {"family": "digits", "named": True})
SETTINGS: dict[str, Any] = {
    **TRAINING,
    **{"skills": list(FAMILIES), "drops": [0.0, 0.3], "scales": [0.5, 0.7], "validation": 48, "largest_change": None},
}
CONFIG = RunConfig(
    recipe="dare",
    environment="systems.signs:Signs",
    tasks=48,
    evaluated=48,
    generations=1,
    embedder="hash",
    settings=SETTINGS,
)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_base(tmp_path_factory.mktemp("base"), **WIDE)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, base: str) -> Path:
    return play(tmp_path_factory.mktemp("dare") / "run", CONFIG, {"actor": LocalChatModel(path=base)})


@pytest.fixture(scope="module")
def parents(run: Path) -> list[Adapter]:
    registry = Adapters(run)
    return [registry.get("skill-1"), registry.get("skill-2")]


def tensors(folder: str | Path) -> dict[str, Tensor]:
    return load_file(Path(folder) / "model.safetensors")


def changes(base: str, folder: Path) -> dict[str, Tensor]:
    """Of the layers that were tuned, entry by entry."""
    start = tensors(base)
    found = {name: weight - start[name] for name, weight in tensors(folder).items()}
    return {name: delta for name, delta in found.items() if name.endswith(("down_proj.weight", "o_proj.weight"))}


def settings(**changed: Any) -> Config:
    return Config(**{**SETTINGS, **changed})


@pytest.mark.signature("dare", 0)
def test_a_share_of_one_minus_p_is_kept_and_each_kept_entry_is_divided_by_it(
    base: str, parents: list[Adapter], tmp_path: Path
) -> None:
    drop = 0.8
    whole = changes(base, fold(base, parents[0].folder, tmp_path / "whole"))
    kept = changes(base, write(base, parents[:1], tmp_path / "kept", settings(), (drop, 1.0)))
    entries = torch.cat([delta.flatten() for delta in kept.values()])
    before = torch.cat([whole[name].flatten() for name in kept])
    share = float((entries != 0).float().mean())
    assert share == pytest.approx(1 - drop, abs=4 * math.sqrt(drop * (1 - drop) / len(entries)))
    survived = entries != 0
    torch.testing.assert_close(entries[survived], before[survived] / (1 - drop), atol=1e-6, rtol=1e-3)


@pytest.mark.signature("dare", 1)
def test_over_many_masks_the_processed_change_is_the_change_and_without_rescaling_it_is_not(
    base: str, parents: list[Adapter], tmp_path: Path
) -> None:
    whole = changes(base, fold(base, parents[0].folder, tmp_path / "whole"))
    delta = next(iter(whole.values()))[:40, :40]
    drop, masks = 0.5, 400
    means = [
        torch.stack([drop_and_rescale(delta, drop, seed=str(i), rescale=rescale) for i in range(masks)]).mean(0)
        for rescale in (True, False)
    ]
    error = math.sqrt(drop / (1 - drop) / masks)
    assert float((means[0] - delta).norm() / delta.norm()) == pytest.approx(error, rel=0.2)
    assert float(means[1].norm() / delta.norm()) == pytest.approx(1 - drop, abs=0.05)


@pytest.mark.signature("dare", 2)
def test_dropping_nothing_is_the_fine_tuned_model_and_dropping_all_is_the_base(
    base: str, parents: list[Adapter], tmp_path: Path
) -> None:
    whole = tensors(fold(base, parents[0].folder, tmp_path / "whole"))
    nothing = tensors(write(base, parents[:1], tmp_path / "nothing", settings(), (0.0, 1.0)))
    everything = tensors(write(base, parents, tmp_path / "everything", settings(), (1.0, 1.0)))
    for name, weight in tensors(base).items():
        torch.testing.assert_close(nothing[name], whole[name], atol=1e-6, rtol=1e-5)
        assert torch.equal(everything[name], weight)


@pytest.mark.signature("dare", 3)
async def test_what_is_dropped_is_of_the_change_dropping_weights_destroys_the_model(
    base: str, parents: list[Adapter], tmp_path: Path
) -> None:
    drop = 0.3
    tuned = fold(base, parents[0].folder, tmp_path / "tuned")
    dropped = write(base, parents[:1], tmp_path / "dropped", settings(), (drop, 1.0))
    masked = fold(base, parents[0].folder, tmp_path / "masked")
    weights = {name: drop_and_rescale(weight, drop, seed=name) for name, weight in tensors(tuned).items()}
    save_file(weights, masked / "model.safetensors", metadata={"format": "pt"})
    scores = [await known(LocalChatModel(path=str(folder)), **FAMILIES[0]) for folder in (tuned, dropped, masked)]
    assert scores[0] >= 0.75
    assert scores[1] >= scores[0] - 0.15
    assert scores[2] <= scores[0] - 0.25


@pytest.mark.signature("dare", 4)
def test_with_dare_two_changes_meet_at_one_minus_p_squared_of_the_entries(
    base: str, parents: list[Adapter], tmp_path: Path
) -> None:
    both = [changes(base, fold(base, each.folder, tmp_path / each.card.name)) for each in parents]
    name = next(iter(both[0]))
    assert bool((both[0][name] != 0).all() and (both[1][name] != 0).all())
    drop = 0.6
    merged = changes(base, write(base, parents, tmp_path / "merged", settings(), (drop, 1.0)))
    kept = [delta[name] / (1 - drop) for delta in both]
    untouched = float((merged[name] == 0).float().mean())
    of_both = float(torch.isclose(merged[name], kept[0] + kept[1], atol=1e-6, rtol=1e-3).float().mean())
    assert untouched == pytest.approx(drop**2, abs=0.01)
    assert of_both == pytest.approx((1 - drop) ** 2, abs=0.02)


@pytest.mark.signature("dare", 5)
def test_the_same_seed_gives_the_checkpoint_that_the_run_kept_and_another_seed_does_not(
    base: str, run: Path, parents: list[Adapter], tmp_path: Path
) -> None:
    merged = MergedModels(run).get(generations(run)[-1]["model"]["adapter"])
    pair = (0.3, 0.7)
    one, again = (write(base, parents, tmp_path / name, settings(), pair) for name in ("one", "again"))
    other = write(base, parents, tmp_path / "other", settings(mask_seed=1), pair)
    digests = [hashlib.sha256((each / "model.safetensors").read_bytes()).hexdigest() for each in (one, again, other)]
    assert digests[0] == digests[1] != digests[2]
    how = merged.card.how
    remade = write(base, parents, tmp_path / "remade", settings(), (how["drop"], how["weights"][0]))
    found = hashlib.sha256((remade / "model.safetensors").read_bytes()).hexdigest()
    assert found == merged.card.files["model.safetensors"]


def test_the_merged_model_keeps_both_skills_of_which_each_parent_has_one(run: Path) -> None:
    before, after = generations(run)
    assert all(score <= 0.65 for score in before["by_skill"].values())
    assert all(score >= 0.8 for score in after["by_skill"].values())
    assert all(row["whole"] >= 0.8 for row in after["merge"]["alone"])


def test_every_generation_goes_through_each_phase_in_turn(run: Path) -> None:
    assert visited(run) == ["baseline", "tasks", "demonstrate", "specialise", "drop", "merge", "evaluate"]


def test_the_merged_model_is_a_child_of_the_specialists_and_was_verified(run: Path) -> None:
    name = generations(run)[-1]["model"]["adapter"]
    with memory_of(run) as memory:
        records = {record.text: record for record in memory.records().values() if record.kind == "adapter"}
    merged = MergedModels(run).get(name)
    assert set(records[name].parents) == {records[parent].id for parent in merged.card.parents}
    assert (merged.folder / "canaries.json").exists()


def test_a_change_too_large_to_be_dropped_is_refused(base: str, parents: list[Adapter], tmp_path: Path) -> None:
    with pytest.raises(BadMergeError, match="raise largest_change"):
        write(base, parents, tmp_path / "refused", settings(largest_change=1e-6), (0.5, 1.0))
