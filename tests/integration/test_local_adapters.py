"""LoRA adapters on the embedded engine, held to PEFT; and the proof by canaries that the right one is served."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from langchain_core.messages import BaseMessage, HumanMessage, SystemMessage
from peft import PeftModel
from safetensors.torch import load_file, save_file
from tiny_llama import write_adapter, write_base
from transformers import AutoModelForCausalLM, AutoTokenizer

from evolvent.agents.errors import AdapterMismatchError, BadAdapterError
from evolvent.agents.models.local import LocalChatModel
from evolvent.agents.models.protocol import Scores
from evolvent.agents.models.verify import compare, verify
from evolvent.memory.errors import BadCanariesError
from evolvent.memory.quiet import quiet_transformers
from evolvent.memory.weights import canaries
from evolvent.memory.weights.canaries import Canary

OPTIONS = ["Use the oil.", "Use the file", "Wait"]
ROLES = {"system": "system", "human": "user", "ai": "assistant"}
TENSORS = "adapter_model.safetensors"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def adapter(base: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_adapter(base, tmp_path_factory.mktemp("adapter"))


@pytest.fixture(scope="module")
def older(base: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_adapter(base, tmp_path_factory.mktemp("older"), seed=2, target_modules=["q_proj", "down_proj"])


def prompt(task: str = "Mend the rusty kettle.") -> list[BaseMessage]:
    return [SystemMessage("You work in a shop, with care."), HumanMessage(task)]


def peft(base: str, adapter: str) -> tuple[Any, Any]:
    with quiet_transformers():
        model: Any = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
        return PeftModel.from_pretrained(model, adapter).eval(), AutoTokenizer.from_pretrained(base)


def by_peft(base: str, adapter: str, messages: Sequence[BaseMessage]) -> list[list[float]]:
    """Log-probabilities of the options by PEFT alone: one full forward for each."""
    model, tokenizer = peft(base, adapter)
    ids = encoded(tokenizer, messages)
    scores = []
    for option in OPTIONS:
        tokens = tokenizer(option, add_special_tokens=False)["input_ids"]
        with torch.inference_mode():
            logprobs = model(input_ids=torch.tensor([ids + tokens])).logits[0, len(ids) - 1 : -1].log_softmax(-1)
        scores.append([float(logprobs[i, token]) for i, token in enumerate(tokens)])
    return scores


def encoded(tokenizer: Any, messages: Sequence[BaseMessage]) -> list[int]:
    turns = [{"role": ROLES[message.type], "content": message.text} for message in messages]
    return list(tokenizer.apply_chat_template(turns, add_generation_prompt=True)["input_ids"])


def close(scores: Scores, expected: Sequence[Sequence[float]], within: float = 1e-4) -> None:
    for ours, theirs in zip(scores.logprobs, expected, strict=True):
        assert ours == pytest.approx(theirs, abs=within)


VARIANTS: dict[str, dict[str, Any]] = {
    "lora": {},
    "rslora": {"use_rslora": True},
    "dora": {"use_dora": True},
    "patterns": {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"layers.1.mlp.up_proj": 3}},
    "head": {"target_modules": ["v_proj", "lm_head"]},
}


@pytest.mark.parametrize("variant", VARIANTS)
async def test_log_probabilities_are_those_of_peft(base: str, variant: str, tmp_path: Path) -> None:
    adapter = write_adapter(base, tmp_path / variant, **VARIANTS[variant])
    scores = await LocalChatModel(path=base).with_adapter(adapter).logprobs(prompt(), OPTIONS)
    close(scores, by_peft(base, adapter, prompt()))


async def test_dora_leaves_a_bias_out_of_its_gain(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base", attention_bias=True)
    weights = load_file(Path(base) / "model.safetensors")
    random = torch.Generator().manual_seed(3)
    biased = {k: torch.randn(v.shape, generator=random) if k.endswith("bias") else v for k, v in weights.items()}
    assert any(name.endswith("bias") for name in biased)
    save_file(biased, Path(base) / "model.safetensors", metadata={"format": "pt"})
    adapter = write_adapter(base, tmp_path / "dora", use_dora=True)
    scores = await LocalChatModel(path=base, adapter=adapter).logprobs(prompt(), OPTIONS)
    close(scores, by_peft(base, adapter, prompt()))


async def test_a_greedy_reply_is_the_one_peft_writes(base: str, adapter: str) -> None:
    model, tokenizer = peft(base, adapter)
    ids = torch.tensor([encoded(tokenizer, prompt())])
    written = model.generate(
        input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=40, do_sample=False, pad_token_id=1
    )[0, ids.shape[1] :]
    served = LocalChatModel(path=base)
    reply = await served.with_adapter(adapter).ainvoke(prompt(), max_tokens=40)
    assert reply.text == tokenizer.decode(written, skip_special_tokens=True)
    assert reply.text != (await served.ainvoke(prompt(), max_tokens=40)).text


async def test_a_batch_of_several_adapters_answers_each_as_alone(base: str, adapter: str, older: str) -> None:
    model = LocalChatModel(path=base)
    served = [model, model.with_adapter(adapter), model.with_adapter(older)]
    prompts = [prompt(task) for task in ("Mend it.", "Mend the very old and rusty wheel.", "Mend it all.")]
    asked = [(each, messages) for messages in prompts for each in served]
    answers = await asyncio.gather(
        *(each.logprobs(messages, OPTIONS) for each, messages in asked),
        *(each.ainvoke(messages, max_tokens=3 + 5 * (i % 3)) for i, (each, messages) in enumerate(asked)),
    )
    for i, (each, messages) in enumerate(asked):
        alone = LocalChatModel(path=base, adapter=each.adapter)
        scores, reply = answers[i], answers[len(asked) + i]
        assert isinstance(scores, Scores)
        close(scores, (await alone.logprobs(messages, OPTIONS)).logprobs)
        assert not isinstance(reply, Scores)
        assert reply.text == (await alone.ainvoke(messages, max_tokens=3 + 5 * (i % 3))).text


async def test_the_base_answers_bit_for_bit_as_before_with_adapters_beside_it(
    base: str, adapter: str, older: str
) -> None:
    model = LocalChatModel(path=base)
    for each in (adapter, older):
        await model.with_adapter(each).logprobs(prompt(), OPTIONS)
    assert await model.logprobs(prompt(), OPTIONS) == await LocalChatModel(path=base).logprobs(prompt(), OPTIONS)


async def test_a_prefix_is_shared_under_one_adapter_and_never_across(base: str, adapter: str) -> None:
    model = LocalChatModel(path=base)
    view = model.with_adapter(adapter)
    counts = []
    for each in (model, view, view, model):
        before = model.forward_tokens
        await each.logprobs(prompt(), ["A"])
        counts.append(model.forward_tokens - before)
    whole, again = counts[0], counts[2]
    assert counts == [whole, whole, again, again]
    assert again < whole / 2
    assert view.forward_tokens == model.forward_tokens


async def test_a_removed_adapter_answers_no_more_and_the_others_do(base: str, adapter: str, older: str) -> None:
    model = LocalChatModel(path=base)
    gone, stays = model.with_adapter(adapter), model.with_adapter(older)
    gone.remove_adapter()
    lost, kept, plain = await asyncio.gather(
        *(each.logprobs(prompt(), OPTIONS) for each in (gone, stays, model)), return_exceptions=True
    )
    assert isinstance(lost, BadAdapterError)
    assert "was removed" in str(lost)
    assert isinstance(kept, Scores)
    assert isinstance(plain, Scores)
    close(await model.with_adapter(adapter).logprobs(prompt(), OPTIONS), by_peft(base, adapter, prompt()))


def test_a_model_says_which_adapter_it_serves(base: str, adapter: str, older: str) -> None:
    model = LocalChatModel(path=base, seed=3)
    view = model.with_adapter(adapter)
    assert view._identifying_params == {**model._identifying_params, "adapter": adapter}
    assert model.adapter is None
    assert view.with_adapter(older).adapter == older


def copied(adapter: str, tmp_path: Path, **config: Any) -> Path:
    folder = tmp_path / "copy"
    shutil.copytree(adapter, folder)
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **config}))
    return folder


def refused(base: str, folder: Path, match: str) -> None:
    with pytest.raises(BadAdapterError, match=match) as caught:
        LocalChatModel(path=base).with_adapter(folder)
    assert "\n" not in str(caught.value)
    assert repr(str(folder)) in str(caught.value)


def test_an_adapter_of_another_shape_names_the_base_it_was_trained_on(adapter: str, tmp_path: Path) -> None:
    shallow = write_base(tmp_path / "shallow", num_hidden_layers=1)
    with pytest.raises(BadAdapterError, match=r"layers\.1\.\S+, and the base has no such .* It was trained on '"):
        LocalChatModel(path=shallow).with_adapter(adapter)
    narrow = write_base(tmp_path / "narrow", hidden_size=24)
    with pytest.raises(BadAdapterError, match=r"from 96 to 48 features, the base's from 96 to 24. It was trained on '"):
        LocalChatModel(path=narrow).with_adapter(adapter)


def test_a_truncated_file_is_refused(base: str, adapter: str, tmp_path: Path) -> None:
    folder = copied(adapter, tmp_path)
    data = (folder / TENSORS).read_bytes()
    for keep in (0, 5, 100, len(data) // 2, len(data) - 1):
        (folder / TENSORS).write_bytes(data[:keep])
        refused(base, folder, "cut off or damaged")


@pytest.mark.parametrize("name", ["adapter_config.json", TENSORS])
def test_a_missing_file_is_named(base: str, adapter: str, tmp_path: Path, name: str) -> None:
    folder = copied(adapter, tmp_path)
    (folder / name).unlink()
    refused(base, folder, f"there is no {name}")


@pytest.mark.parametrize(
    ("config", "match"),
    [
        ({"peft_type": "IA3"}, "of kind IA3; expected LORA"),
        ({"r": 8}, "tensors of rank 4 and 4, and adapter_config.json says 8"),
        ({"init_lora_weights": "pissa"}, "needs init_lora_weights='pissa'"),
        ({"alora_invocation_tokens": [1]}, "needs alora_invocation_tokens"),
    ],
)
def test_a_config_that_means_something_else_is_refused(
    base: str, adapter: str, tmp_path: Path, config: dict[str, Any], match: str
) -> None:
    refused(base, copied(adapter, tmp_path, **config), match)


def test_what_is_not_a_config_is_refused(base: str, adapter: str, tmp_path: Path) -> None:
    folder = copied(adapter, tmp_path)
    for text in ("{", "[]", "{}"):
        (folder / "adapter_config.json").write_text(text)
        refused(base, folder, r"adapter_config\.json is not PEFT's")


def test_tensors_that_are_no_lora_of_linear_layers_are_refused(base: str, adapter: str, tmp_path: Path) -> None:
    embedding = write_adapter(base, tmp_path / "embedding", target_modules=["embed_tokens", "q_proj"])
    refused(base, Path(embedding), "lora_embedding_A; expected nothing but")
    folder = copied(adapter, tmp_path)
    tensors = load_file(folder / TENSORS)
    save_file({**tensors, "base_model.model.lm_head.weight": torch.zeros(2, 2)}, folder / TENSORS)
    refused(base, folder, r"lm_head\.weight; expected nothing but")
    first = next(name for name in tensors if "lora_B" in name)
    save_file({name: tensor for name, tensor in tensors.items() if name != first}, folder / TENSORS)
    refused(base, folder, "has A and lacks B")
    save_file({}, folder / TENSORS)
    refused(base, folder, "holds no tensor")


async def test_an_adapter_that_is_read_late_fails_its_own_calls_only(base: str, tmp_path: Path) -> None:
    with pytest.raises(BadAdapterError, match="nowhere"):
        await LocalChatModel(path=base, adapter=str(tmp_path / "nowhere")).ainvoke(prompt())


# The proof: injected faults through the real engine.

TASKS = ["Mend the rusty kettle.", "Oil the wheel.", "Name a tool.", "What comes next?"]
PROMPTS = [({"role": "system", "content": "You work in a shop."}, {"role": "user", "content": task}) for task in TASKS]


@pytest.fixture(scope="module")
def measured(base: str, adapter: str, older: str) -> tuple[Canary, ...]:
    return canaries.measure(base, adapter, PROMPTS, rivals={"skill@1": older}, keep=3, max_tokens=12)


async def test_the_trained_adapter_passes_with_a_clear_distance_to_its_rivals(
    base: str, adapter: str, measured: tuple[Canary, ...], tmp_path: Path
) -> None:
    assert len(measured) == 3
    assert all(len(canary.logprobs) == len(canary.rivals["base"]) > 0 for canary in measured)
    assert canaries.separation(measured) > canaries.CLEAR
    canaries.write(tmp_path, measured)
    verified = await verify(LocalChatModel(path=base, adapter=adapter), canaries.read(tmp_path))
    assert verified.ok
    assert verified.worst < 1e-4


async def test_completions_may_be_given(base: str, adapter: str) -> None:
    given = canaries.measure(base, adapter, PROMPTS[:2], completions=["Use the oil.", "A hammer."])
    assert {canary.completion for canary in given} == {"Use the oil.", "A hammer."}
    expected = by_peft(base, adapter, [SystemMessage("You work in a shop."), HumanMessage(TASKS[0])])[0]
    found = next(canary for canary in given if canary.completion == "Use the oil.")
    assert found.logprobs == pytest.approx(expected, abs=1e-5)


async def test_the_base_served_instead_is_caught(base: str, measured: tuple[Canary, ...]) -> None:
    with pytest.raises(AdapterMismatchError, match=r"nats per token off .* The base is served without it: load"):
        await verify(LocalChatModel(path=base), measured)


async def test_an_older_adapter_served_instead_is_caught_and_named(
    base: str, adapter: str, older: str, measured: tuple[Canary, ...]
) -> None:
    stale = LocalChatModel(path=base, adapter=older)
    with pytest.raises(AdapterMismatchError, match="The adapter 'skill@1' is served instead"):
        await verify(stale, measured)
    # Not a rival when the canaries were measured, but it has canaries of its own.
    alone = canaries.measure(base, adapter, PROMPTS, keep=2, max_tokens=8)
    theirs = canaries.measure(base, older, PROMPTS, keep=2, max_tokens=8)
    with pytest.raises(AdapterMismatchError, match="The adapter 'other@2' is served instead"):
        await verify(stale, alone, known={"other@1": alone, "other@2": theirs})


async def test_a_wrong_scale_is_caught_and_estimated(base: str, tmp_path: Path) -> None:
    # Small enough for the first-order estimate to hold.
    adapter = write_adapter(base, tmp_path / "small", lora_alpha=2, target_modules=["v_proj"])
    measured = canaries.measure(base, adapter, PROMPTS, keep=4, max_tokens=12)
    twice = copied(adapter, tmp_path, lora_alpha=4)
    with pytest.raises(AdapterMismatchError, match=r"about (1\.[6-9]|2\.[0-4]) times as much: check lora_alpha"):
        await verify(LocalChatModel(path=base, adapter=str(twice)), measured)


async def test_another_base_of_the_same_shape_is_caught(
    adapter: str, measured: tuple[Canary, ...], tmp_path: Path
) -> None:
    other = LocalChatModel(path=write_base(tmp_path / "other", seed=9))
    with pytest.raises(AdapterMismatchError, match="neither the base nor a known adapter"):
        await verify(other.with_adapter(adapter), measured)
    with pytest.raises(AdapterMismatchError, match="Without the adapter it is not the base either"):
        await verify(other.with_adapter(adapter), measured, base=other)


async def test_damaged_weights_of_the_right_size_are_caught(
    base: str, adapter: str, measured: tuple[Canary, ...], tmp_path: Path
) -> None:
    folder = copied(adapter, tmp_path)
    tensors = load_file(folder / TENSORS)
    nan = {name: torch.full_like(tensor, float("nan")) for name, tensor in tensors.items()}
    save_file(nan, folder / TENSORS)
    verified = await compare(LocalChatModel(path=base, adapter=str(folder)), measured)
    assert not verified.ok
    assert verified.worst == float("inf")
    with pytest.raises(BadCanariesError, match="training diverged"):
        canaries.measure(base, folder, PROMPTS[:1], completions=["Oil."])


async def test_an_adapter_that_changes_nothing_has_no_canaries(base: str, adapter: str, tmp_path: Path) -> None:
    faint = copied(adapter, tmp_path, lora_alpha=1e-4)
    with pytest.raises(BadCanariesError, match=r"by 0\.000 nats per token on 4 prompts; expected 0\.2"):
        canaries.measure(base, faint, PROMPTS, max_tokens=4)
