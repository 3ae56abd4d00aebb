"""An adapter that is served alone for long is folded into weights of its own: same answers, and an untouched base."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from langchain_core.messages import HumanMessage
from safetensors.torch import load_file, save_file
from tiny_llama import write_adapter, write_base
from torch import Tensor
from transformers import AutoModelForCausalLM

from evolvent.agents.models.local import LocalChatModel
from evolvent.agents.models.lora import Adapter, RowAdapters
from evolvent.memory.quiet import quiet_transformers

IDS = torch.tensor([[5, 80, 33, 7], [12, 90, 41, 3], [77, 8, 19, 60]])
LONG = 20
"""Forwards after which an adapter that was alone is folded for certain."""
VARIANTS: dict[str, dict[str, Any]] = {
    "lora": {},
    "rslora": {"use_rslora": True},
    "dora": {"use_dora": True},
    "some layers": {"target_modules": ["q_proj", "down_proj"]},
    "head": {"target_modules": ["v_proj", "lm_head"]},
}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    """With biases that are not zero, and a head that is the embedding."""
    folder = tmp_path_factory.mktemp("base")
    path = write_base(folder, attention_bias=True, tie_word_embeddings=True)
    weights = load_file(folder / "model.safetensors")
    random = torch.Generator().manual_seed(3)
    biased = {k: torch.randn(v.shape, generator=random) if k.endswith("bias") else v for k, v in weights.items()}
    save_file(biased, folder / "model.safetensors", metadata={"format": "pt"})
    return path


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Adapters by variant."""
    # PEFT warns of a head that is the embedding when it makes an adapter, though it changes the head alone.
    apart = write_base(tmp_path_factory.mktemp("apart"), attention_bias=True)
    return {
        name: write_adapter(apart, tmp_path_factory.mktemp("adapter"), seed=seed, **settings)
        for seed, (name, settings) in enumerate(VARIANTS.items(), start=1)
    }


class Served:
    """A model whose forwards tell its logits, and whether weights stood in for the base's."""

    def __init__(self, base: str) -> None:
        with quiet_transformers():
            self.model: Any = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval()
        self.rows = RowAdapters(self.model)
        self.own = self.weights()
        self._seen: dict[int, weakref.ref[Tensor]] = {}

    def weights(self) -> dict[str, Tensor]:
        """As they are now; one that two layers share is there twice."""
        return dict(self.model.named_parameters(remove_duplicate=False))

    @property
    def stand_ins(self) -> int:
        """Weights that stood in for the base's and are still in memory."""
        return sum(weight() is not None for weight in self._seen.values())

    def forward(self, adapters_B: Sequence[Adapter | None]) -> tuple[Tensor, bool]:
        with torch.inference_mode(), self.rows.serving(adapters_B):
            there = {name: weight for name, weight in self.weights().items() if weight is not self.own[name]}
            self._seen |= {id(weight): weakref.ref(weight) for weight in there.values()}
            return self.model(input_ids=IDS[: len(adapters_B)]).logits, bool(there)

    def alone(self, adapter: Adapter | None, *, times: int = 1) -> tuple[Tensor, bool]:
        """The last of so many forwards in which all rows have that adapter."""
        for _ in range(times - 1):
            self.forward([adapter] * len(IDS))
        return self.forward([adapter] * len(IDS))


def close(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("variant", VARIANTS)
def test_folded_weights_do_what_the_hooks_do(base: str, folders: dict[str, str], variant: str) -> None:
    served = Served(base)
    adapter = served.rows.read(folders[variant])
    plain, _ = served.alone(None)
    hooked, stood_in = served.alone(adapter)
    assert not stood_in
    folded, stood_in = served.alone(adapter, times=LONG)
    assert stood_in
    close(folded, hooked)
    assert (folded - plain).abs().max() > 0.1


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_base_is_bit_for_bit_what_it_was_after_an_adapter_was_folded(
    base: str, folders: dict[str, str], variant: str
) -> None:
    served = Served(base)
    before, _ = served.alone(None)
    copies = {name: weight.clone() for name, weight in served.own.items()}
    served.alone(served.rows.read(folders[variant]), times=LONG)
    after, stood_in = served.alone(None)
    assert not stood_in
    assert torch.equal(after, before)
    now = served.weights()
    assert all(now[name] is weight and torch.equal(weight, copies[name]) for name, weight in served.own.items())
    assert served.model.lm_head.weight is served.model.model.embed_tokens.weight


def test_a_forward_that_fails_gives_the_base_its_weights_back(base: str, folders: dict[str, str]) -> None:
    served = Served(base)
    adapter = served.rows.read(folders["lora"])
    before, _ = served.alone(None)
    served.alone(adapter, times=LONG)
    with pytest.raises(IndexError), served.rows.serving([adapter]):
        served.model(input_ids=torch.tensor([[10_000]]))
    assert torch.equal(served.alone(None)[0], before)


def test_adapters_that_take_turns_for_long_are_each_folded_and_mixed_batches_go_through_hooks(
    base: str, folders: dict[str, str]
) -> None:
    served = Served(base)
    lora, dora = (served.rows.read(folders[name]) for name in ("lora", "dora"))
    expected = {each: served.alone(each)[0] for each in (None, lora, dora)}
    for turn in (lora, dora, lora):
        folded, stood_in = served.alone(turn, times=LONG)
        assert stood_in
        close(folded, expected[turn])
        for some in ([lora, None, dora], [None, turn, turn], [turn, dora, dora]):
            mixed, stood_in = served.forward(some)
            assert not stood_in or len(set(some)) == 1
            close(mixed, torch.stack([expected[each][b] for b, each in enumerate(some)]))
        assert torch.equal(served.alone(None)[0], expected[None])


def test_adapters_that_take_turns_at_every_forward_are_not_folded(base: str, folders: dict[str, str]) -> None:
    served = Served(base)
    one, other = (served.rows.read(folders[name]) for name in ("lora", "dora"))
    assert not any(served.alone(each)[1] for _ in range(LONG) for each in (one, other))


def test_one_folded_copy_is_kept_and_none_when_its_adapter_is_dropped(base: str, folders: dict[str, str]) -> None:
    served = Served(base)
    one, other = (served.rows.read(folders[name]) for name in ("lora", "dora"))
    served.alone(one, times=LONG)
    assert served.stand_ins == len(one.changes)
    served.alone(other, times=LONG)
    assert served.stand_ins == len(other.changes)
    del other
    assert served.stand_ins == 0


def test_an_adapter_that_is_read_while_another_stands_in_is_read_against_the_base(
    base: str, folders: dict[str, str]
) -> None:
    served = Served(base)
    expected, adapter = (served.rows.read(folders[name]) for name in ("dora", "lora"))
    served.alone(adapter, times=LONG)
    with served.rows.serving([adapter]):
        found = served.rows.read(folders["dora"])
    for name, change in found.changes.items():
        gain_O, expected_O = change.gain_O, expected.changes[name].gain_O
        assert gain_O is not None
        assert expected_O is not None
        assert torch.equal(gain_O, expected_O)


async def test_a_model_answers_the_same_before_and_after_its_adapter_was_folded(
    base: str, folders: dict[str, str]
) -> None:
    model = LocalChatModel(path=base)
    asked = [HumanMessage("Mend the rusty kettle.")]
    plain = await model.logprobs(asked, ["Use the oil."])
    for name in ("dora", "lora", "dora"):
        view = model.with_adapter(folders[name])
        first = await view.logprobs(asked, ["Use the oil."])
        reply = await view.ainvoke(asked, max_tokens=2 * LONG)
        assert (await view.ainvoke(asked, max_tokens=2 * LONG)).text == reply.text
        again = await view.logprobs(asked, ["Use the oil."])
        assert again.logprobs[0] == pytest.approx(first.logprobs[0], abs=1e-4)
        assert again.logprobs[0] != pytest.approx(plain.logprobs[0], abs=1e-2)
    assert await model.logprobs(asked, ["Use the oil."]) == plain
