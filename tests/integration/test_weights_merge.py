"""Merging tiny models by PEFT, checked against the formulas on their tensors and what transformers computes."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from langchain_core.messages import HumanMessage
from peft import PeftModel
from peft.utils.merge_utils import ties as ties_of_peft
from safetensors.torch import load_file, save_file
from tiny_llama import write_adapter, write_base
from torch import Tensor
from transformers import AutoModelForCausalLM

from evolvent.agents.models.local import LocalChatModel
from evolvent.memory.errors import BadMergeError
from evolvent.memory.quiet import quiet_transformers
from evolvent.memory.weights.blend import Blend, Merge
from evolvent.memory.weights.layer_stack import LayerStack, write_stack
from evolvent.memory.weights.merge import blended, combine_adapters, drop_and_rescale, fold, merge
from evolvent.memory.weights.merge_search import DataFlowSpace, ParameterSpace, Search
from evolvent.memory.weights.soup import greedy_soup

IDS = torch.tensor([[5, 17, 80, 33, 120, 7, 7, 64], [9, 200, 31, 4, 55, 101, 18, 2]])


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def parents(base: str, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Of other ranks, scalings and layers."""
    folder = tmp_path_factory.mktemp("parents")
    return [
        write_adapter(base, folder / "a", seed=1, lora_alpha=1),
        write_adapter(base, folder / "b", seed=2, r=2, lora_alpha=1, use_rslora=True),
        write_adapter(base, folder / "c", seed=3, lora_alpha=1, target_modules=["q_proj", "down_proj"]),
    ]


@pytest.fixture(scope="module")
def folded(base: str, parents: list[str], tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("folded")
    return [fold(base, parent, folder / str(i)) for i, parent in enumerate(parents)]


def tensors(folder: str | Path) -> dict[str, Tensor]:
    return load_file(Path(folder) / "model.safetensors")


def change(adapter: str | Path) -> dict[str, Tensor]:
    """The folded change by the formula, from the files alone."""
    settings = json.loads((Path(adapter) / "adapter_config.json").read_text())
    rank = settings["r"]
    scale = settings["lora_alpha"] / (math.sqrt(rank) if settings["use_rslora"] else rank)
    parts = load_file(Path(adapter) / "adapter_model.safetensors")
    return {
        name.removeprefix("base_model.model.").replace("lora_B.", ""): scale * up @ parts[name.replace("_B", "_A")]
        for name, up in parts.items()
        if "lora_B" in name
    }


def weighted(parents: list[str], weights: list[float]) -> dict[str, Tensor]:
    total: dict[str, Tensor] = {}
    for parent, weight in zip(parents, weights, strict=True):
        for name, delta in change(parent).items():
            total[name] = total.get(name, torch.zeros(())) + weight * delta
    return total


def logits(folder: str | Path, adapter: str | Path | None = None) -> Tensor:
    with quiet_transformers():
        model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        if adapter is not None:
            model = PeftModel.from_pretrained(model, str(adapter))
    with torch.inference_mode():
        found = model(input_ids=IDS).logits
    assert isinstance(found, Tensor)
    return found


def same(one: str | Path, other: str | Path) -> bool:
    left, right = tensors(one), tensors(other)
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def sha256(folder: str | Path) -> dict[str, str]:
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted(Path(folder).iterdir())}


async def test_a_folded_adapter_answers_as_the_adapter_does(base: str, parents: list[str], folded: list[Path]) -> None:
    torch.testing.assert_close(logits(folded[1]), logits(base, parents[1]), atol=1e-4, rtol=1e-4)
    prompt, options = [HumanMessage("Mend the kettle.")], ["Use the oil.", "Wait."]
    served = await LocalChatModel(path=str(folded[1])).logprobs(prompt, options)
    expected = await LocalChatModel(path=base, adapter=parents[1]).logprobs(prompt, options)
    for ours, theirs in zip(served.logprobs, expected.logprobs, strict=True):
        assert ours == pytest.approx(theirs, abs=1e-4)


# Sums of adapters.


def test_adapters_are_summed_as_folded_changes_not_as_factors(base: str, parents: list[str], tmp_path: Path) -> None:
    weights = [0.5, 2.0, -1.0]
    summed = combine_adapters(base, parents, tmp_path / "sum", weights=weights)
    expected = weighted(parents, weights)
    found = change(summed)
    assert found.keys() == expected.keys()
    for name, delta in expected.items():
        torch.testing.assert_close(found[name], delta, atol=1e-6, rtol=1e-5)
    assert json.loads((summed / "adapter_config.json").read_text())["r"] == 4 + 2 + 4


@pytest.mark.parametrize("first", [0, 1])
async def test_the_uniform_soup_of_adapters_is_served_as_the_mean_of_full_weights_is(
    base: str, parents: list[str], folded: list[Path], tmp_path: Path, first: int
) -> None:
    # The first parent lends PEFT its settings, and one of the two scales by rsLoRA.
    order = [first, 1 - first]
    soup = combine_adapters(base, [parents[i] for i in order], tmp_path / "soup", weights=[0.5, 0.5])
    full = merge(base, [folded[i] for i in order], tmp_path / "full")
    torch.testing.assert_close(logits(base, soup), logits(full), atol=1e-4, rtol=1e-4)
    prompt, options = [HumanMessage("Mend the kettle.")], ["Use the oil."]
    by_adapter = await LocalChatModel(path=base, adapter=str(soup)).logprobs(prompt, options)
    by_weights = await LocalChatModel(path=str(full)).logprobs(prompt, options)
    assert by_adapter.logprobs[0] == pytest.approx(by_weights.logprobs[0], abs=1e-4)


def test_a_soup_is_the_mean_of_its_members_tensor_by_tensor(base: str, folded: list[Path], tmp_path: Path) -> None:
    soup = tensors(merge(base, folded, tmp_path / "soup"))
    members = [tensors(folder) for folder in folded]
    for name, weight in soup.items():
        torch.testing.assert_close(weight, torch.stack([each[name] for each in members]).mean(0), atol=1e-6, rtol=1e-5)


def test_a_sum_of_smaller_rank_is_the_nearest_there_is(base: str, parents: list[str], tmp_path: Path) -> None:
    small = change(combine_adapters(base, parents[:2], tmp_path / "small", weights=[0.5, 0.5], rank=3))
    for name, delta in weighted(parents[:2], [0.5, 0.5]).items():
        values = torch.linalg.svdvals(delta)  # no matrix of rank 3 is nearer than the rest of the values (Eckart-Young)
        assert float((small[name] - delta).norm()) == pytest.approx(float(values[3:].norm()), rel=1e-3)
        assert torch.linalg.matrix_rank(small[name], rtol=1e-4) == 3


def test_one_parent_is_scaled(base: str, parents: list[str], tmp_path: Path) -> None:
    half = change(combine_adapters(base, parents[1:2], tmp_path / "half", weights=[-0.5]))
    for name, delta in change(parents[1]).items():
        torch.testing.assert_close(half[name], -0.5 * delta, atol=1e-6, rtol=1e-5)


# DARE.

DELTA = torch.randn(400, 500, generator=torch.Generator().manual_seed(0)) * 0.001


@pytest.mark.parametrize("drop", [0.1, 0.5, 0.9, 0.99])
def test_dare_keeps_a_share_of_one_minus_p_and_divides_it_by_that(drop: float) -> None:
    kept = drop_and_rescale(DELTA, drop, seed="0")
    share = float((kept != 0).float().mean())
    error = math.sqrt(drop * (1 - drop) / DELTA.numel())
    assert share == pytest.approx(1 - drop, abs=4 * error)
    torch.testing.assert_close(kept[kept != 0], DELTA[kept != 0] / (1 - drop))


def test_dare_is_the_change_itself_in_expectation_and_dropping_alone_is_not() -> None:
    delta, n, drop = DELTA[:20, :20], 400, 0.8
    kept, unscaled = (
        torch.stack([drop_and_rescale(delta, drop, seed=str(i), rescale=rescale) for i in range(n)]).mean(0)
        for rescale in (True, False)
    )
    error = delta.abs() * math.sqrt(drop / (1 - drop) / n)
    assert bool(((kept - delta).abs() <= 5 * error).all())
    assert float((kept - delta).norm() / delta.norm()) == pytest.approx(math.sqrt(drop / (1 - drop) / n), rel=0.2)
    assert float(unscaled.norm() / delta.norm()) == pytest.approx(1 - drop, abs=0.02)


def test_masks_differ_by_seed_and_leave_shared_random_numbers_alone() -> None:
    before = torch.get_rng_state()
    one, again, other = (drop_and_rescale(DELTA, 0.5, seed=seed) for seed in ("a", "a", "b"))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(one, again)
    assert float(((one != 0) == (other != 0)).float().mean()) == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize("drop", [0.5, 0.9])
def test_two_dropped_changes_meet_at_one_minus_p_squared_of_the_entries(drop: float) -> None:
    one, other = (drop_and_rescale(DELTA, drop, seed=seed) != 0 for seed in ("0/0", "0/1"))
    assert float((one & other).float().mean()) == pytest.approx((1 - drop) ** 2, abs=0.005)


def test_dropping_nothing_is_the_fine_tuned_model_and_dropping_all_the_base(
    base: str, parents: list[str], folded: list[Path], tmp_path: Path
) -> None:
    assert same(merge(base, parents[:1], tmp_path / "p0", Merge(method="dare", drop=0)), folded[0])
    assert same(merge(base, parents, tmp_path / "p1", Merge(method="dare", drop=1)), base)
    assert not same(folded[0], base)


def test_masked_changes_barely_move_a_model_and_masked_weights_destroy_it(
    base: str, parents: list[str], folded: list[Path], tmp_path: Path
) -> None:
    tuned = logits(folded[0])
    dropped = merge(base, parents[:1], tmp_path / "dare", Merge(method="dare", drop=0.5))
    shutil.copytree(folded[0], tmp_path / "masked")
    masked = {name: drop_and_rescale(each, 0.5, seed=name) for name, each in tensors(folded[0]).items()}
    save_file(masked, tmp_path / "masked" / "model.safetensors", metadata={"format": "pt"})

    def off(folder: Path) -> float:
        return float((logits(folder) - tuned).square().mean().sqrt())

    assert off(dropped) < 0.5 * off(tmp_path / "masked")


def test_the_same_seed_gives_the_same_bytes_and_no_parent_is_written_to(
    base: str, parents: list[str], tmp_path: Path
) -> None:
    before = [sha256(folder) for folder in (base, *parents)]
    shared = torch.get_rng_state()
    config = Merge(method="dare_ties", drop=0.7)
    merged = [
        merge(base, parents, tmp_path / name, each)
        for name, each in (("one", config), ("again", config), ("other", config.model_copy(update={"seed": 1})))
    ]
    assert sha256(merged[0]) == sha256(merged[1])
    assert sha256(merged[0])["model.safetensors"] != sha256(merged[2])["model.safetensors"]
    soups = [combine_adapters(base, parents, tmp_path / f"s{i}", weights=[1, 1, 1]) for i in range(2)]
    assert sha256(soups[0]) == sha256(soups[1])
    assert torch.equal(torch.get_rng_state(), shared)
    assert [sha256(folder) for folder in (base, *parents)] == before
    assert {path.name for path in tmp_path.iterdir()} == {"one", "again", "other", "s0", "s1"}


# The rules.


def row(*values: float) -> Tensor:
    return torch.tensor([values], dtype=torch.float32)


def test_ties_trims_elects_a_sign_and_averages_those_that_agree() -> None:
    # By hand. Trimmed to the two largest: (3, 0, -4, 0), (2, 0, 5, 0), (-4, 1, 0, 0); signs of the sum: +, +, +.
    deltas = [row(3, 0.1, -4, 0.2), row(2, 0.1, 5, -0.3), row(-4, 1, 0.5, 0.1)]
    merged = blended(deltas, Blend((1, 1, 1), (0.5, 0.5, 0.5)), "ties", seed="")
    torch.testing.assert_close(merged, row(2.5, 1, 5, 0))


def test_with_equal_weights_ties_is_that_of_peft() -> None:
    deltas = [drop_and_rescale(DELTA, 0.3, seed=str(i)) * (i + 1) for i in range(3)]
    ours = blended(deltas, Blend((1, 1, 1), (0.75,) * 3), "ties", seed="")
    torch.testing.assert_close(ours, ties_of_peft(deltas, torch.ones(3), 0.25))


def test_a_parent_of_little_weight_has_little_say_in_ties() -> None:
    deltas = [row(1, 2, -3), row(5, -5, -5)]
    for weight in (0.0, 1e-7):
        merged = blended(deltas, Blend((1, weight), (0, 0)), "ties", seed="")
        torch.testing.assert_close(merged, deltas[0], atol=1e-5, rtol=1e-5)


def test_the_other_rules_add_what_is_kept() -> None:
    deltas = [row(4, -1, 2, 3), row(1, 2, -3, 4)]
    blend = Blend((1.0, -2.0), (0.5, 0.75))
    torch.testing.assert_close(blended(deltas, blend, "magnitude", seed=""), row(4, 0, 0, 3 - 8))
    undropped = Blend((1.0, 3.0), (0.0, 0.0))
    torch.testing.assert_close(blended(deltas, undropped, "task_arithmetic", seed=""), row(7, 5, -7, 15))
    torch.testing.assert_close(blended(deltas, undropped, "average", seed=""), row(1.75, 1.25, -1.75, 3.75))
    added = blended(deltas, blend, "dare", seed="0")
    parts = [
        drop_and_rescale(delta, drop, seed=f"0/{i}")
        for i, (delta, drop) in enumerate(zip(deltas, blend.drops, strict=True))
    ]
    torch.testing.assert_close(added, parts[0] - 2 * parts[1])


def test_task_arithmetic_in_full_weights_is_the_sum_of_adapters(base: str, parents: list[str], tmp_path: Path) -> None:
    full = merge(base, parents, tmp_path / "full", Merge(method="task_arithmetic", weights=(1, 0.5, -1)))
    summed = combine_adapters(base, parents, tmp_path / "sum", weights=[1, 0.5, -1])
    torch.testing.assert_close(logits(full), logits(base, summed), atol=1e-4, rtol=1e-4)


def test_adapters_and_full_weights_mix_and_dora_comes_in_folded(base: str, parents: list[str], tmp_path: Path) -> None:
    dora = write_adapter(base, tmp_path / "dora", use_dora=True, lora_alpha=1, target_modules=["v_proj"])
    with pytest.raises(BadMergeError, match=r"not plain LoRA, it has use_dora: .* Fold it into the base first"):
        merge(base, [dora], tmp_path / "refused")
    full = fold(base, dora, tmp_path / "full")
    mixed = tensors(merge(base, [parents[0], full], tmp_path / "mixed", Merge(largest_change=None)))
    start, of_dora, of_lora = tensors(base), tensors(full), change(parents[0])
    name = "model.layers.1.self_attn.v_proj.weight"
    torch.testing.assert_close(mixed[name], start[name] + ((of_dora[name] - start[name]) + of_lora[name]) / 2)


# Which runs make a soup.


@pytest.fixture(scope="module")
def runs(base: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Three runs that each found what `wanted` is but for errors of their own, and one that went astray."""
    folder = tmp_path_factory.mktemp("runs")
    wanted = write_adapter(base, folder / "wanted", seed=0, lora_alpha=1)
    errors = {
        name: write_adapter(base, folder / f"error-{name}", seed=i, lora_alpha=1) for i, name in enumerate("abc", 10)
    }
    found = {
        name: str(combine_adapters(base, [wanted, error], folder / name, weights=[1, 0.5]))
        for name, error in errors.items()
    }
    return {"wanted": wanted, **found, "poisoned": write_adapter(base, folder / "poisoned", seed=20, lora_alpha=64)}


def divergence(expected: Tensor, found: Tensor) -> float:
    """Mean KL in nats per token."""
    return float(
        torch.nn.functional.kl_div(found.log_softmax(-1), expected.log_softmax(-1), log_target=True, reduction="none")
        .sum(-1)
        .mean()
    )


async def test_a_poisoned_run_spoils_the_uniform_soup_and_stays_out_of_the_greedy_one(
    base: str, runs: dict[str, str], tmp_path: Path
) -> None:
    wanted = logits(base, runs["wanted"])

    async def validation(members: tuple[str, ...]) -> float:
        out = tmp_path / "-".join(members)
        soup = combine_adapters(base, [runs[name] for name in members], out, weights=[1 / len(members)] * len(members))
        return -divergence(wanted, logits(base, soup))

    names = ("a", "poisoned", "b", "c")
    soup = await greedy_soup(names, validation)
    alone = {tried.members[0]: tried.score for tried in soup.tried[:4]}
    assert set(soup.members) == {"a", "b", "c"}
    assert soup.score > max(alone.values())  # their errors cancel
    assert await validation(names) < min(alone[name] for name in "abc")


# Searching for a merge.


def test_all_of_one_source_and_nothing_of_the_others_is_that_source(
    base: str, parents: list[str], folded: list[Path], tmp_path: Path
) -> None:
    space = ParameterSpace(blocks=2, groups=2, sources=3)
    for i, parent in enumerate(folded):
        genome = tuple(
            float(source == i) if part == 0 else 1.0 for _ in range(2) for source in range(3) for part in range(2)
        )
        merged = merge(base, parents, tmp_path / f"{i}", Merge(method="dare_ties"), blend=space.blends(genome))
        assert same(merged, parent)


def test_each_group_of_layers_has_its_own_blend(
    base: str, parents: list[str], folded: list[Path], tmp_path: Path
) -> None:
    space = ParameterSpace(blocks=2, groups=2, sources=2)
    merged = tensors(
        merge(
            base, parents[:2], tmp_path / "m", Merge(method="dare_ties"), blend=space.blends((1, 1, 0, 1, 0, 1, 1, 1))
        )
    )
    first, second = tensors(folded[0]), tensors(folded[1])
    for name, weight in merged.items():
        assert torch.equal(weight, (second if "layers.1." in name else first)[name]), name


def test_a_search_beats_the_middle_of_its_space_and_its_winner_is_made_again_from_the_genome(
    base: str, runs: dict[str, str], tmp_path: Path
) -> None:
    sources = [runs["wanted"], write_adapter(base, tmp_path / "astray", seed=21, lora_alpha=4)]
    before = [sha256(folder) for folder in (base, *sources)]
    space = ParameterSpace(blocks=2, groups=1, sources=2)
    wanted = logits(base, runs["wanted"])
    config = Merge(method="dare_ties", largest_change=None, seed=5)
    made: dict[tuple[float, ...], Path] = {}

    def score(genome: tuple[float, ...]) -> float:
        out = tmp_path / str(len(made))
        made[genome] = merge(base, sources, out, config, blend=space.blends(genome))
        return -divergence(wanted, logits(out))

    search = Search(start=space.start(), bounds=(0, 1), size=4, seed=1)
    for _ in range(3):
        search = search.tell([score(genome) for genome in search.ask()])
    assert search.best is not None
    assert search.best_so_far[-1] > search.best_so_far[0]
    assert search.best_so_far[-1] > score(space.start())
    again = merge(base, sources, tmp_path / "again", config, blend=space.blends(search.best))
    assert sha256(again) == sha256(made[search.best])
    assert [sha256(folder) for folder in (base, *sources)] == before


# Stacks of layers.


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Of four and three layers."""
    folder = tmp_path_factory.mktemp("sources")
    return [write_base(folder / str(n), seed=n, num_hidden_layers=n, initializer_range=0.1) for n in (4, 3)]


def by_hand(sources: list[str], stack: LayerStack) -> Tensor:
    """The stack run by the sources' own layers, the hidden state scaled on its way."""
    with quiet_transformers():
        models: list[Any] = [AutoModelForCausalLM.from_pretrained(each, dtype=torch.float32).model for each in sources]
        head: Any = AutoModelForCausalLM.from_pretrained(sources[0], dtype=torch.float32).lm_head
    layers = [layer for model in models for layer in model.layers]
    length = IDS.shape[1]
    causal = torch.full((length, length), float("-inf")).triu(1)[None, None]
    with torch.inference_mode():
        hidden = models[0].embed_tokens(IDS)
        rotary = models[0].rotary_emb(hidden, torch.arange(length)[None])
        for number, scale in zip(stack.layers, (1.0, *stack.scales), strict=True):
            hidden = layers[number](hidden * scale, attention_mask=causal, position_embeddings=rotary)
        found = head(models[0].norm(hidden))
    assert isinstance(found, Tensor)
    return found


def test_the_first_genome_of_the_data_flow_search_is_the_first_source(sources: list[str], tmp_path: Path) -> None:
    space = DataFlowSpace((4, 3), repeats=2)
    stacked = write_stack(sources, space.stack(space.start()), tmp_path / "stack")
    assert torch.equal(logits(stacked), logits(sources[0]))
    assert same(stacked, sources[0])


STACKS: dict[str, LayerStack] = {
    "a layer twice": LayerStack((0, 2, 2, 3), (1.0, 1.0, 1.0)),
    "both sources": LayerStack((0, 5, 1, 6, 3), (1.0, 1.0, 1.0, 1.0)),
    "scaled": LayerStack((0, 1, 5, 1, 2, 3), (0.5, 1.5, 2.0, 0.7, 1.2)),
}


@pytest.mark.parametrize("name", STACKS)
def test_a_stack_runs_its_layers_in_order_each_as_often_as_it_is_in_it(
    sources: list[str], tmp_path: Path, name: str
) -> None:
    stack = STACKS[name]
    found = logits(write_stack(sources, stack, tmp_path / "stack"))
    torch.testing.assert_close(found, by_hand(sources, stack), atol=1e-3, rtol=1e-3)
    assert float((found - by_hand(sources, LayerStack((0, 1, 2, 3), (1.0,) * 3))).abs().max()) > 0.1


async def test_a_stack_is_served_and_the_sources_stay_as_they_are(sources: list[str], tmp_path: Path) -> None:
    before = [sha256(source) for source in sources]
    stacked = write_stack(sources, STACKS["scaled"], tmp_path / "stack")
    served = LocalChatModel(path=str(stacked))
    assert (await served.ainvoke([HumanMessage("Mend it.")], max_tokens=4)).text
    assert [sha256(source) for source in sources] == before


# What cannot be merged.


def test_adapters_of_different_bases_are_refused(base: str, parents: list[str], tmp_path: Path) -> None:
    other = write_base(tmp_path / "other", seed=7)
    foreign = write_adapter(other, tmp_path / "foreign", lora_alpha=1)
    for attempt in (
        lambda: merge(base, [parents[0], foreign], tmp_path / "out"),
        lambda: combine_adapters(base, [parents[0], foreign], tmp_path / "out", weights=[1, 1]),
    ):
        with pytest.raises(BadMergeError, match=r"trained on different bases: .*base.*other"):
            attempt()
    wide = write_base(tmp_path / "wide", hidden_size=24)
    with pytest.raises(BadMergeError, match=r"does not fit the base '.*wide': size mismatch"):
        merge(wide, parents[:1], tmp_path / "out")
    with pytest.raises(BadMergeError, match=r"of shape \(258, 48\); the base's has \(258, 24\)"):
        merge(wide, [base], tmp_path / "out")
    deep = write_base(tmp_path / "deep", num_hidden_layers=3)
    with pytest.raises(BadMergeError, match=r"has model\.layers\.2\.\S+, which the base has not"):
        merge(base, [deep], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_change_too_large_for_a_merge_is_refused(base: str, parents: list[str], tmp_path: Path) -> None:
    other = write_base(tmp_path / "other", seed=7)
    with pytest.raises(BadMergeError, match=r"is 1\.\d+ of the base's weights .* expected 0\.1 at most"):
        merge(base, [other], tmp_path / "out")
    large = write_adapter(base, tmp_path / "large", lora_alpha=8)
    with pytest.raises(BadMergeError, match="large' is 0"):
        merge(base, [parents[0], large], tmp_path / "out", Merge(method="dare", drop=0.9))
    assert merge(base, [large], tmp_path / "out", Merge(method="dare", drop=0.9, largest_change=None)).is_dir()


def copied(adapter: str, folder: Path, **settings: Any) -> Path:
    shutil.copytree(adapter, folder)
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **settings}))
    return folder


def test_damaged_and_diverged_parents_are_refused(
    base: str, parents: list[str], folded: list[Path], tmp_path: Path
) -> None:
    nan = copied(parents[0], tmp_path / "nan")
    parts = load_file(nan / "adapter_model.safetensors")
    save_file(
        {name: torch.full_like(part, float("nan")) for name, part in parts.items()}, nan / "adapter_model.safetensors"
    )
    with pytest.raises(BadMergeError, match="is not of numbers"):
        merge(base, [nan], tmp_path / "out")
    with pytest.raises(BadMergeError, match="Cannot fold"):
        fold(base, nan, tmp_path / "out")
    cut = tmp_path / "cut"
    shutil.copytree(folded[0], cut)
    (cut / "model.safetensors").write_bytes((folded[0] / "model.safetensors").read_bytes()[:-1])
    with pytest.raises(BadMergeError, match="cut off or damaged"):
        merge(base, [cut], tmp_path / "out")
    (nan / "adapter_model.safetensors").write_bytes(b"")
    with pytest.raises(BadMergeError, match="does not fit the base"):
        fold(base, nan, tmp_path / "out")
    assert {path.name for path in tmp_path.iterdir()} == {"nan", "cut"}


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"bias": "all"}, "bias='all'"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights='pissa'"),
        ({"peft_type": "IA3"}, "peft_type='IA3'"),
    ],
)
def test_an_adapter_that_is_more_than_its_factors_is_refused(
    base: str, parents: list[str], tmp_path: Path, settings: dict[str, Any], match: str
) -> None:
    strange = copied(parents[0], tmp_path / "strange", **settings)
    with pytest.raises(BadMergeError, match=f"not plain LoRA, it has {match}"):
        combine_adapters(base, [strange], tmp_path / "out", weights=[1])


ATTEMPTS: dict[str, tuple[Callable[[str, list[str], list[Path], Path], object], str]] = {
    "nothing": (lambda base, a, full, out: merge(base, [], out), "No parents to merge"),
    "weights": (lambda base, a, full, out: combine_adapters(base, a, out, weights=[1]), "1 weights and 3 drops for 3"),
    "full": (
        lambda base, a, full, out: combine_adapters(base, full[:1], out, weights=[1]),
        "not an adapter. Use merge",
    ),
    "rank": (lambda base, a, full, out: combine_adapters(base, a, out, weights=[1, 1, 1], rank=17), "expected 1 to 16"),
    "blend": (
        lambda base, a, full, out: merge(base, a, out, blend=lambda name: Blend((1.0,), (0.0,))),
        "1 weights and 1 drops for 3 parents",
    ),
    "there": (lambda base, a, full, out: merge(base, a, full[0]), "is there already"),
    "no model": (lambda base, a, full, out: merge(base, [out.parent], out), "No model in"),
    "no base": (lambda base, a, full, out: merge(out, a, out), "Cannot load the base"),
    "settings": (
        lambda base, a, full, out: merge(
            base, [copied(a[0], out.parent / "x", base_model_name_or_path=None, peft_type=[])], out
        ),
        r"peft_type=\[\]",
    ),
}


@pytest.mark.parametrize("name", ATTEMPTS)
def test_what_cannot_be_merged_is_said_in_one_line(
    base: str, parents: list[str], folded: list[Path], tmp_path: Path, name: str
) -> None:
    attempt, match = ATTEMPTS[name]
    with pytest.raises(BadMergeError, match=match) as caught:
        attempt(base, parents, folded, tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_stack_that_does_not_fit_its_sources_is_refused(base: str, sources: list[str], tmp_path: Path) -> None:
    out = tmp_path / "out"
    for stack, match in (
        (LayerStack((0, 7), (1.0,)), "A stack with layer 7; expected layers from 0 to 6"),
        (LayerStack((), ()), "A stack with no layer"),
        (LayerStack((0, 1), ()), "0 scales for 2 layers"),
        (LayerStack((0, 1), (0.0,)), "expected finite numbers above 0"),
    ):
        with pytest.raises(BadMergeError, match=match):
            write_stack(sources, stack, out)
    narrow = write_base(tmp_path / "narrow", intermediate_size=48)
    with pytest.raises(BadMergeError, match="has intermediate_size 48, the first source 96"):
        write_stack([base, narrow], LayerStack((0, 1), (1.0,)), out)
    config = Path(narrow) / "config.json"
    config.write_text(config.read_text().replace('"model_type": "llama"', '"model_type": "gpt_neox"'))
    with pytest.raises(BadMergeError, match="of the architecture 'gpt_neox'; expected 'llama'"):
        write_stack([narrow], LayerStack((0, 1), (1.0,)), out)
    with pytest.raises(BadMergeError, match="No sources"):
        write_stack([], LayerStack((0,), ()), out)
    assert not out.exists()
