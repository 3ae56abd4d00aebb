"""LoRA's signature, line by line: one whole run over real, tiny weights, watched while it trains."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from systems.runs import generations, memory_of, play, visited
from tiny_llama import write_base
from torch import Tensor
from transformers import AutoModelForCausalLM

from evolvent.agents.models.local import LocalChatModel
from evolvent.agents.run import RunConfig
from evolvent.memory.quiet import quiet_transformers
from evolvent.memory.weights import sft
from evolvent.memory.weights.adapters import Adapter, Adapters
from evolvent.memory.weights.merged import MergedModels

IDS = torch.tensor([[5, 17, 80, 33, 120, 7, 7, 64], [9, 200, 31, 4, 55, 101, 18, 2]])
RANK = 4
CONFIG = RunConfig(
    recipe="lora",
    environment="systems.signs:Signs",
    tasks=24,
    evaluated=24,
    generations=2,
    embedder="hash",
    settings={"rank": RANK, "alpha": 8, "targets": ["q_proj", "v_proj", "up_proj"], "learning_rate": 0.02, "steps": 40}
    | {"merged": True},
)


@dataclass
class Watched:
    """What a training was like at its first step."""

    before: Tensor | None = None
    """Logits before it."""
    gradients: dict[str, Tensor | None] = field(default_factory=dict)
    """By parameter, after the first backward."""
    trainable: int = 0


@dataclass
class Lived:
    base: str
    hashes: dict[str, str]
    """Of the base's files before the run."""
    run: Path
    watched: Watched


def hashes(folder: str) -> dict[str, str]:
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted(Path(folder).iterdir())}


@pytest.fixture(scope="module")
def lived(tmp_path_factory: pytest.TempPathFactory) -> Lived:
    base = write_base(tmp_path_factory.mktemp("base"))
    before, watched = hashes(base), Watched()
    step: Any = sft._Trainer.training_step

    def watching(trainer: Any, model: Any, *args: Any, **kwargs: Any) -> Any:
        if watched.before is None:
            with torch.no_grad():
                watched.before = model(input_ids=IDS).logits.clone()
            watched.trainable = sum(each.numel() for each in model.parameters() if each.requires_grad)
            loss = step(trainer, model, *args, **kwargs)
            watched.gradients = {
                name: None if each.grad is None else each.grad.clone() for name, each in model.named_parameters()
            }
            return loss
        return step(trainer, model, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sft._Trainer, "training_step", watching)
        run = play(tmp_path_factory.mktemp("lora") / "run", CONFIG, {"actor": LocalChatModel(path=base)})
    return Lived(base, before, run, watched)


def adapters(lived: Lived) -> list[Adapter]:
    return Adapters(lived.run).ls()


def loaded(base: str | Path, adapter: Adapter | None = None) -> Any:
    with quiet_transformers():
        model: Any = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
        return PeftModel.from_pretrained(model, str(adapter.folder), adapter_name="one") if adapter else model


def logits(model: Any) -> Tensor:
    with torch.inference_mode():
        found = model(input_ids=IDS).logits
    assert isinstance(found, Tensor)
    return found


@pytest.mark.signature("lora", 0)
def test_before_the_first_step_the_adapted_model_says_exactly_what_the_base_says(lived: Lived) -> None:
    assert lived.watched.before is not None
    assert torch.equal(lived.watched.before, logits(loaded(lived.base)))


@pytest.mark.signature("lora", 1)
def test_the_base_has_no_gradient_and_is_the_same_bit_for_bit_after_training(lived: Lived) -> None:
    frozen = {name: gradient for name, gradient in lived.watched.gradients.items() if "lora_" not in name}
    assert frozen
    assert all(gradient is None for gradient in frozen.values())
    assert hashes(lived.base) == lived.hashes


@pytest.mark.signature("lora", 2)
def test_what_is_trained_is_rank_times_both_sides_of_every_adapted_layer(lived: Lived) -> None:
    # Of the tiny Llama: 48 wide, values 2 heads of 8, the inner layer 96 wide; two blocks.
    expected = 2 * RANK * ((48 + 48) + (48 + 16) + (48 + 96))
    assert lived.watched.trainable == expected
    assert {each.card.parameters for each in adapters(lived)} == {expected}
    assert [row["trained"]["parameters"] for row in generations(lived.run)[1:]] == [expected] * 2


@pytest.mark.signature("lora", 3)
def test_the_merged_weights_differ_by_the_rank_and_say_what_the_unmerged_ones_say(lived: Lived) -> None:
    row = generations(lived.run)[-1]
    merged = MergedModels(lived.run).get(row["model"]["adapter"])
    adapter = Adapters(lived.run).get(row["trained"]["adapter"])
    assert merged.card.parents == (adapter.full_name,)
    start, now = (load_file(Path(folder) / "model.safetensors") for folder in (lived.base, merged.folder))
    ranks = {
        name: int(torch.linalg.matrix_rank(now[name] - start[name], rtol=1e-4)) for name in start if "_proj" in name
    }
    changed = {name for name, rank in ranks.items() if rank}
    assert len(changed) == 2 * 3
    assert max(ranks.values()) <= RANK
    torch.testing.assert_close(logits(loaded(merged.folder)), logits(loaded(lived.base, adapter)), atol=1e-4, rtol=1e-4)


@pytest.mark.signature("lora", 4)
def test_without_its_adapter_the_base_is_back_and_two_adapters_are_swapped_over_one_base(lived: Lived) -> None:
    one, other = adapters(lived)
    plain = logits(loaded(lived.base))
    model = loaded(lived.base, one)
    first = logits(model)
    assert not torch.allclose(first, plain, atol=0.1)
    with model.disable_adapter():
        assert torch.equal(logits(model), plain)
    model.merge_adapter()
    model.unmerge_adapter()
    torch.testing.assert_close(logits(model), first, atol=1e-4, rtol=1e-4)
    model.load_adapter(str(other.folder), adapter_name="other")
    model.set_adapter("other")
    second = logits(model)
    assert not torch.allclose(first, second, atol=0.1)
    torch.testing.assert_close(second, logits(loaded(lived.base, other)), atol=1e-4, rtol=1e-4)
    model.set_adapter("one")
    torch.testing.assert_close(logits(model), first, atol=1e-4, rtol=1e-4)


@pytest.mark.signature("lora", 5)
def test_at_the_first_step_only_the_factor_that_is_zero_learns(lived: Lived) -> None:
    gradients = lived.watched.gradients
    first = [gradient for name, gradient in gradients.items() if "lora_A" in name]
    second = [gradient for name, gradient in gradients.items() if "lora_B" in name]
    assert len(first) == len(second) == 2 * 3
    assert all(gradient is None or not gradient.any() for gradient in first)
    assert all(gradient is not None and bool(gradient.any()) for gradient in second)


def test_every_generation_goes_through_each_phase_in_turn(lived: Lived) -> None:
    assert visited(lived.run) == ["baseline"] + ["tasks", "demonstrate", "train", "deploy", "evaluate"] * 2


def test_what_was_shown_is_learned_and_serves_held_out_tasks(lived: Lived) -> None:
    before, *_, after = generations(lived.run)
    assert before["solved"] == pytest.approx(0.5, abs=0.15)
    assert after["solved"] >= before["solved"] + 0.2


def test_the_merged_model_is_remembered_as_a_child_of_its_adapter_and_that_of_the_demonstrations(lived: Lived) -> None:
    with memory_of(lived.run) as memory:
        records = memory.records()
        merged = next(record for record in records.values() if record.meta.get("merged"))
        (adapter,) = (records[parent] for parent in merged.parents)
        (dataset,) = (records[parent] for parent in adapter.parents)
        shown = [memory.ledger.trajectory(parent) for parent in dataset.parents]
    assert all(each is not None and each.model == "expert" and each.phase == "train" for each in shown)
    assert (Adapters(lived.run).get(adapter.text).folder / "canaries.json").exists()
