"""The registry of adapters: names that are never used again, files that stay what they were, and cards of origin."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from evolvent.memory.embedding import HashEmbedder
from evolvent.memory.errors import AdapterDamagedError, AdapterNameError, UnknownAdapterError
from evolvent.memory.lineage import Lineage
from evolvent.memory.store import Memory
from evolvent.memory.types import Event, new_record
from evolvent.memory.weights.adapters import Adapter, Adapters, adapter_id, adapter_record, differences

DATA = new_record("dataset", "mender@aaaaaaaaaaaa: 2 examples", parents=("t1",), meta={"hash": "aaaaaaaaaaaa"})


@pytest.fixture
def registry(tmp_path: Path) -> Adapters:
    return Adapters(tmp_path / "run")


def saved(folder: Path, value: float = 0.5, *, modules: tuple[str, ...] = ("q_proj", "v_proj")) -> Path:
    """A folder as training leaves one: what PEFT saves, canaries, and what must not come along."""
    (folder / "checkpoints").mkdir(parents=True)
    weights = {"q.lora_A.weight": np.full((4, 8), value, np.float32), "q.lora_B.weight": np.ones((8, 4), np.float32)}
    save_file(weights, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": 4, "target_modules": list(modules), "base_model_name_or_path": str(folder)}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    (folder / "canaries.json").write_text("[]")
    (folder / "README.md").write_text("as PEFT writes it")
    (folder / "training_args.bin").write_bytes(b"\x80\x04pickle")
    return folder


def register(registry: Adapters, folder: Path, name: str = "mender", **facts: Any) -> Adapter:
    return registry.register(folder, name, **{"base": "smollm2", "created": "2026-01-01", **facts})


# -- registering -------------------------------------------------------------------------------------------------------


def test_a_registered_adapter_holds_weights_and_text_and_nothing_that_runs_code(
    registry: Adapters, tmp_path: Path
) -> None:
    entry = register(registry, saved(tmp_path / "trained"), dataset=DATA, config={"rank": 4}, metrics={"loss": 0.25})
    assert sorted(file.name for file in entry.folder.iterdir()) == [
        *("README.md", "adapter_config.json", "adapter_model.safetensors", "canaries.json", "card.json")
    ]
    card = entry.card
    assert entry.folder.name == entry.full_name == f"mender@{card.hash}"
    assert (card.base, card.dataset, card.dataset_hash, card.created) == (
        *("smollm2", DATA.id, "aaaaaaaaaaaa", "2026-01-01"),
    )
    assert (card.config, card.metrics, card.parameters) == ({"rank": 4}, {"loss": 0.25}, 64)
    assert list(card.files) == ["adapter_config.json", "adapter_model.safetensors", "canaries.json"]
    page = (entry.folder / "README.md").read_text()
    assert page.startswith('---\nbase_model: "smollm2"\nlibrary_name: peft\n')
    assert all(fact in page for fact in (entry.full_name, DATA.id, '"rank": 4', '"loss": 0.25'))
    assert sorted(each.name for each in registry.folder.iterdir()) == [entry.full_name]


def test_the_same_content_is_the_same_entry_wherever_and_however_it_was_written(
    registry: Adapters, tmp_path: Path
) -> None:
    first = register(registry, saved(tmp_path / "one"))
    again = register(registry, saved(tmp_path / "two", modules=("v_proj", "q_proj")), created="2027-01-01")
    assert again == first
    assert len(registry.ls()) == 1


def test_other_weights_another_setting_or_another_base_is_another_adapter(registry: Adapters, tmp_path: Path) -> None:
    one = saved(tmp_path / "one")
    names = {
        register(registry, one).full_name,
        register(registry, one, base="another").full_name,
        register(registry, saved(tmp_path / "two", 0.75)).full_name,
        register(registry, saved(tmp_path / "three", modules=("q_proj",))).full_name,
    }
    assert len(names) == len(registry.ls()) == 4


@pytest.mark.parametrize("name", ["", "a@b", "../up", "a/b", ".hidden", "two words"])
def test_a_malformed_name_is_refused(registry: Adapters, tmp_path: Path, name: str) -> None:
    with pytest.raises(AdapterNameError, match="cannot be named"):
        register(registry, saved(tmp_path / "trained"), name)
    assert not registry.folder.exists()


def cut_off(folder: Path) -> None:
    path = folder / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-10])


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (cut_off, "is cut off or damaged"),
        (lambda folder: (folder / "adapter_model.safetensors").unlink(), r"adapter_model\.safetensors is missing"),
        (lambda folder: (folder / "adapter_config.json").unlink(), r"adapter_config\.json is missing"),
        (lambda folder: (folder / "adapter_config.json").write_text("{"), "is no configuration"),
        (lambda folder: (folder / "adapter_config.json").write_text("[]"), "is no configuration: it holds no object"),
        (shutil.rmtree, "adapter_config.json, adapter_model.safetensors is missing"),
        (
            lambda folder: (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin"),
            "pickled weights, which may run code",
        ),
    ],
)
def test_what_is_no_whole_adapter_is_refused_and_leaves_nothing_behind(
    registry: Adapters, tmp_path: Path, damage: Callable[[Path], object], said: str
) -> None:
    folder = saved(tmp_path / "trained")
    damage(folder)
    with pytest.raises(AdapterDamagedError, match=said):
        register(registry, folder)
    assert registry.ls() == []


def test_a_registration_that_was_killed_half_way_is_no_entry_and_hinders_none(
    registry: Adapters, tmp_path: Path
) -> None:
    saved(registry.folder / ".mender@0123456789ab.registering-1")
    assert registry.ls() == []
    assert register(registry, saved(tmp_path / "trained")) in registry.ls()


# -- finding -----------------------------------------------------------------------------------------------------------


def test_an_adapter_is_found_by_its_full_name_and_by_its_name_while_it_is_the_only_one(
    registry: Adapters, tmp_path: Path
) -> None:
    one = register(registry, saved(tmp_path / "one"))
    assert registry.get("mender") == registry.get(one.full_name) == one
    two = register(registry, saved(tmp_path / "two", 0.75), created="2025-01-01")
    assert registry.ls() == [two, one], "oldest first"
    with pytest.raises(UnknownAdapterError, match=rf"Several adapters are named 'mender': .*{one.full_name}"):
        registry.get("mender")
    with pytest.raises(UnknownAdapterError, match=r"No adapter named 'nobody'\. Known: mender@"):
        registry.get("nobody")


def test_an_empty_registry_knows_nothing(registry: Adapters) -> None:
    assert registry.ls() == []
    with pytest.raises(UnknownAdapterError, match="Known: none"):
        registry.get("mender")


def test_two_adapters_differ_in_what_their_cards_say_differently(registry: Adapters, tmp_path: Path) -> None:
    one = register(registry, saved(tmp_path / "one"), config={"rank": 4, "seed": 0}, metrics={"loss": 0.5})
    two = register(registry, saved(tmp_path / "two", 0.75), config={"rank": 4, "seed": 1}, parents=[one])
    assert differences(one, one) == {}
    assert differences(one, two) == {
        "hash": (one.card.hash, two.card.hash),
        "parents": ([], [one.full_name]),
        "config.seed": (0, 1),
        "metrics.loss": (0.5, None),
    }


# -- soundness ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (cut_off, r"adapter_model\.safetensors was changed"),
        (lambda folder: (folder / "canaries.json").unlink(), r"canaries\.json is missing"),
        (lambda folder: (folder / "hook.py").write_text("import os"), r"hook\.py may run code"),
        (shutil.rmtree, r"adapter_model\.safetensors is missing"),
    ],
)
def test_files_that_are_not_what_was_registered_are_named(
    registry: Adapters, tmp_path: Path, damage: Callable[[Path], object], said: str
) -> None:
    entry = register(registry, saved(tmp_path / "trained"))
    assert registry.check(entry) == entry
    damage(entry.folder)
    with pytest.raises(AdapterDamagedError, match=said):
        registry.check(entry)


def test_weights_that_stand_under_the_name_of_others_are_noticed(registry: Adapters, tmp_path: Path) -> None:
    entry = register(registry, saved(tmp_path / "one"))
    other = register(registry, saved(tmp_path / "two", 0.75))
    shutil.rmtree(entry.folder)
    shutil.copytree(other.folder, entry.folder)
    with pytest.raises(AdapterDamagedError, match="its name is that of other weights"):
        registry.check(registry.get(entry.full_name))
    with pytest.raises(AdapterDamagedError, match="its name is that of other weights"):
        register(registry, tmp_path / "one")


def test_an_entry_without_a_readable_card_is_left_out_of_the_list_with_a_warning(
    registry: Adapters, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    entry = register(registry, saved(tmp_path / "trained"))
    (entry.folder / "card.json").write_text("{}")
    assert registry.ls() == []
    assert f"Cannot read {entry.folder / 'card.json'}" in caplog.text


def test_a_removed_adapter_is_moved_aside_and_its_name_stays_taken(registry: Adapters, tmp_path: Path) -> None:
    entry = register(registry, saved(tmp_path / "trained"))
    moved = registry.remove("mender")
    assert (moved / "adapter_model.safetensors").is_file()
    assert registry.ls() == []
    with pytest.raises(AdapterNameError, match=f"{entry.full_name} was removed, and a name is not used again"):
        register(registry, tmp_path / "trained")
    with pytest.raises(UnknownAdapterError, match=f"{entry.full_name} was removed"):
        registry.get(entry.full_name)
    assert register(registry, saved(tmp_path / "other", 0.75)).card.name == "mender"


# -- lineage and PEFT --------------------------------------------------------------------------------------------------


def test_the_ledger_knows_an_adapter_as_a_child_of_its_data_set_and_its_parents(
    registry: Adapters, tmp_path: Path
) -> None:
    one = register(registry, saved(tmp_path / "one"), dataset=DATA)
    two = register(registry, saved(tmp_path / "two", 0.75), parents=[one])
    records = [DATA, adapter_record(one), adapter_record(two, generation=2)]
    assert [each.parents for each in records] == [("t1",), (DATA.id,), (adapter_id(one.full_name),)]
    with Memory.open(tmp_path / "run", embedder=HashEmbedder(64)) as memory:
        memory.commit("2/distil", [Event("add", each.id, each) for each in records], generation=2)
        impact = Lineage(memory.records(), memory.ledger).impact("t1")
        assert impact.derived == tuple(each.id for each in records)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # PEFT asks transformers by an old name
def test_what_peft_saves_is_read_back_by_peft_from_the_registry(registry: Adapters, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft", reason="the extra `train` is not installed: pip install 'evolvent[train]'")
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    base = LlamaForCausalLM(LlamaConfig(vocab_size=32, **sizes))
    settings = peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    model = peft.get_peft_model(base, settings)
    model.save_pretrained(tmp_path / "trained")
    ids = torch.arange(8)[None]
    said = model(ids).logits
    entry = register(registry, tmp_path / "trained")
    assert entry.card.parameters == sum(p.numel() for name, p in model.named_parameters() if "lora_" in name)
    served = peft.PeftModel.from_pretrained(model.unload(), entry.folder)
    assert torch.equal(served(ids).logits, said)
