"""Training by TRL and PEFT of a two-layer Llama over bytes, in seconds; what it learns is checked with transformers."""

from __future__ import annotations

import math
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from tiny_llama import write_base
from transformers import AutoModelForCausalLM

from evolvent.agents.models.tokens import ChatTokenizer
from evolvent.memory.cache import cached
from evolvent.memory.errors import BadTrainingError, DivergedError
from evolvent.memory.quiet import quiet_transformers
from evolvent.memory.weights import loop
from evolvent.memory.weights.loop import rows_at_once
from evolvent.memory.weights.preference import train_dpo, train_kto
from evolvent.memory.weights.sft import Batches, as_item, joined, summed_loss, train_sft, weighed
from evolvent.memory.weights.training import Encoder, Row, Step, Trained, Training

TOOLS = ("hammer", "oil can", "file")
CONFIG = Training(steps=6, batch_size=4, rank=4, learning_rate=5e-3, save_every=2)


def message(role: str, text: str) -> dict[str, str]:
    return {"role": role, "content": text}


def prompt(i: int) -> list[dict[str, str]]:
    """Of mixed lengths, some with a turn before."""
    earlier = [message("user", "Look around."), message("assistant", "Wait.")] if i % 4 == 0 else []
    return [*earlier, message("user", f"Mend thing {i}." + " It is old." * (i % 7))]


ROWS = [{"prompt": prompt(i), "completion": [message("assistant", f"Use the {TOOLS[i % 3]}.")]} for i in range(18)]
PAIRS = [
    {"prompt": row["prompt"], "chosen": row["completion"], "rejected": [message("assistant", "Nothing.")]}
    for row in ROWS
]
LABELLED = [
    {"prompt": row["prompt"], "completion": pair, "label": good}
    for row in PAIRS
    for good, pair in ((True, row["chosen"]), (False, row["rejected"]))
]
TRAINERS: dict[str, tuple[Callable[..., Trained], list[dict[str, Any]]]] = {
    "sft": (train_sft, ROWS),
    "dpo": (train_dpo, PAIRS),
    "kto": (train_kto, LABELLED),
}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def trained(base: str, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return train_sft(base, ROWS, tmp_path_factory.mktemp("trained") / "a", CONFIG, validation=ROWS[:4])


def plain(base: str) -> Any:
    with quiet_transformers():
        return AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)


def tuned(base: str, adapter: Path) -> Any:
    with quiet_transformers():
        return PeftModel.from_pretrained(plain(base), str(adapter))


def nll(model: Any, base: str, messages: Sequence[Row], reply: Sequence[Row]) -> float:
    """Of a reply and the end of its turn, in nats, from the logits of one whole forward."""
    row = Encoder(base).encode(messages, reply)
    with torch.inference_mode():
        logprobs_TV = model(torch.tensor([row.prompt + row.completion])).logits[0].log_softmax(-1)
    scored = logprobs_TV[len(row.prompt) - 1 : -1]
    return -float(scored[torch.arange(len(row.completion)), torch.tensor(row.completion)].sum())


def margin(model: Any, base: str) -> float:
    """How much likelier the chosen replies are than the rejected ones, in nats."""
    pairs = [(nll(model, base, p["prompt"], p["rejected"]), nll(model, base, p["prompt"], p["chosen"])) for p in PAIRS]
    return sum(rejected - chosen for rejected, chosen in pairs) / len(pairs)


@pytest.mark.parametrize("which", ["tiny", pytest.param("smollm2", marks=pytest.mark.model)])
def test_exactly_the_completion_and_its_end_are_in_the_loss_tokenised_as_in_generation(which: str, base: str) -> None:
    path = base if which == "tiny" else cached("smollm2")
    if path is None:
        pytest.skip("the embedded model is not in the cache: evolvent models pull smollm2")
    ours, theirs = Encoder(path), ChatTokenizer(path)
    for row in ROWS:
        encoded = ours.encode(row["prompt"], row["completion"])
        sent = theirs.prompt([(each["role"], each["content"]) for each in row["prompt"]])
        assert encoded.prompt == [token for chunk in (*sent.chunks, sent.header) for token in chunk]
        assert tuple(encoded.completion[:-1]) == theirs.encode(row["completion"][0]["content"])
        assert set(encoded.completion[-1:]) == theirs.ends
        (forward,) = Batches(10_000, padding=0).cut([as_item(encoded, 1.0)])
        ids, weights = forward["ids"], forward["weights"]
        assert ids is not None
        assert weights is not None
        assert ids[0].tolist() == encoded.prompt + encoded.completion
        assert ids[0, -weights.shape[1] :][weights[0] > 0].tolist() == encoded.completion


@pytest.mark.parametrize("limit", [1, 200, 100_000])
def test_cutting_a_batch_into_forwards_changes_neither_loss_nor_gradient(base: str, limit: int) -> None:
    encoder, model = Encoder(base), plain(base)
    encoded = [encoder.encode(row["prompt"], row["completion"]) for row in ROWS]
    batch = Batches(limit, padding=encoder.tokenizer.eos_token_id)([as_item(each, 1.0) for each in encoded])
    shapes = [tuple(forward["ids"].shape) for forward in batch["forwards"]]
    assert sum(rows for rows, _ in shapes) == len(ROWS)
    assert all(rows == 1 or rows * tokens <= limit for rows, tokens in shapes)
    assert batch["tokens"] <= sum(rows * tokens for rows, tokens in shapes) <= 1.5 * batch["tokens"]
    loss = sum(summed_loss(model, forward) for forward in batch["forwards"])
    expected = sum(nll(model, base, row["prompt"], row["completion"]) for row in ROWS)
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    loss.backward()
    ours = model.model.layers[0].mlp.up_proj.weight.grad.clone()
    model.zero_grad()
    for each in encoded:  # row by row, by transformers' own loss
        ids = torch.tensor([each.prompt + each.completion])
        labels = ids.clone()
        labels[:, : len(each.prompt)] = -100
        (model(ids, labels=labels).loss * len(each.completion)).backward()
    assert torch.allclose(ours, model.model.layers[0].mlp.up_proj.weight.grad, rtol=1e-3, atol=1e-3)


def test_a_weight_of_two_counts_as_much_as_having_the_row_twice(base: str) -> None:
    encoder, model = Encoder(base), plain(base)
    encoded = [encoder.encode(row["prompt"], row["completion"]) for row in ROWS[:3]]
    batches = Batches(10_000, padding=0)

    def loss(rows: list[tuple[int, float]]) -> float:
        batch = batches(weighed([as_item(encoded[i], weight) for i, weight in rows]))
        return sum(summed_loss(model, each).item() for each in batch["forwards"]) / batch["completion_tokens"]

    assert loss([(0, 3), (1, 6), (2, 3)]) == pytest.approx(loss([(0, 1), (1, 1), (1, 1), (2, 1)]), rel=1e-5)
    assert loss([(0, 1), (1, 2), (2, 1)]) != pytest.approx(loss([(0, 1), (1, 1), (2, 1)]), rel=1e-3)


def test_the_turns_of_an_episode_are_one_sequence_with_the_same_loss_and_gradient(base: str) -> None:
    encoder, model = Encoder(base), plain(base)
    turns = [message("system", "Mend."), message("user", "A crack.")]
    rows = []
    for said, heard in (("Glue.", "It worked. Rust?"), ("Oil.", "It worked. Soot?"), ("Wax.", "")):
        rows.append({"prompt": list(turns), "completion": [message("assistant", said)]})
        turns += [message("assistant", said), message("user", heard)]
    rows.insert(1, {"prompt": rows[1]["prompt"], "completion": [message("assistant", "Saw.")]})
    items = [as_item(encoder.encode(row["prompt"], row["completion"]), 1.0) for row in rows]
    sequences = joined(items)
    assert [len(each["ids"]) for each in sequences] == [len(items[1]["ids"]), len(items[3]["ids"])]
    results = []
    for each in (items, sequences):
        batch = Batches(10_000, padding=0)(each)
        loss = sum(summed_loss(model, forward) for forward in batch["forwards"])
        model.zero_grad()
        loss.backward()
        results.append((loss.item(), model.model.layers[0].mlp.up_proj.weight.grad.clone()))
    assert results[0][0] == pytest.approx(results[1][0], rel=1e-5)
    assert torch.allclose(results[0][1], results[1][1], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("weight", [0, -1, math.nan, math.inf])
def test_a_weight_that_is_not_above_zero_is_refused(base: str, tmp_path: Path, weight: float) -> None:
    with pytest.raises(BadTrainingError, match="expected a number above 0"):
        train_sft(base, [{**ROWS[0], "weight": weight}], tmp_path, CONFIG)


@pytest.mark.parametrize(
    "completion", [[], [message("user", "Hi.")], [message("assistant", "A"), message("user", "B")]]
)
def test_a_completion_that_is_not_one_message_of_the_assistant_is_refused(
    base: str, tmp_path: Path, completion: list[dict[str, str]]
) -> None:
    with pytest.raises(BadTrainingError, match="then one message of the assistant"):
        train_sft(base, [{"prompt": prompt(0), "completion": completion}], tmp_path, CONFIG)


def test_the_folder_holds_the_adapter_its_settings_and_the_curve_and_nothing_pickled(
    trained: Trained, base: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    told: list[Step] = []
    again = train_sft(base, ROWS, tmp_path / "b", CONFIG, validation=ROWS[:4], on_step=told.append)
    assert capfd.readouterr() == ("", "")
    names = ["adapter_config.json", "adapter_model.safetensors", "loss.jsonl", "training.json"]
    assert sorted(path.name for path in again.folder.iterdir()) == names
    assert tuple(told) == again.curve
    assert [step.step for step in told] == [1, 2, 3, 4, 5, 6]
    assert len((again.folder / "loss.jsonl").read_text().splitlines()) == told[-1].of == 6
    assert again.tokens > 0
    assert again.peak_bytes > 0
    assert (again.rows, again.left_out) == (18, 0)
    assert [again.folder.joinpath(name).read_bytes() for name in names[:2]] == [
        trained.folder.joinpath(name).read_bytes() for name in names[:2]
    ]


def test_another_seed_gives_another_adapter_and_the_callers_random_numbers_go_on(
    trained: Trained, base: str, tmp_path: Path
) -> None:
    random.seed(5)
    torch.manual_seed(5)
    other = train_sft(base, ROWS, tmp_path / "a", CONFIG.model_copy(update={"seed": 1}))
    drawn = random.random(), torch.rand(1)
    random.seed(5)
    torch.manual_seed(5)
    assert drawn == (random.random(), torch.rand(1))
    assert other.loss != trained.loss


def test_the_validation_loss_is_measured_with_every_checkpoint_as_nats_per_token(trained: Trained, base: str) -> None:
    measured = [step.validation for step in trained.curve]
    assert [value is not None for value in measured] == [False, True] * 3
    model = tuned(base, trained.folder)
    tokens = sum(len(Encoder(base).encode(row["prompt"], row["completion"]).completion) for row in ROWS[:4])
    expected = sum(nll(model, base, row["prompt"], row["completion"]) for row in ROWS[:4]) / tokens
    assert measured[-1] == pytest.approx(expected, rel=1e-5)
    assert measured[-1] < measured[1]  # type: ignore[operator]  # neither is None, as asserted above


def test_a_price_on_leaving_the_base_keeps_the_adapter_nearer_to_it(base: str, tmp_path: Path) -> None:
    def moved(kl: float) -> float:
        done = train_sft(base, ROWS, tmp_path / str(kl), CONFIG.model_copy(update={"kl": kl}))
        rows = [(row["prompt"], row["completion"]) for row in ROWS]
        return sum(nll(plain(base), base, *row) - nll(tuned(base, done.folder), base, *row) for row in rows)

    free, near = moved(0.0), moved(20.0)
    assert free > 2 * abs(near)


def test_anchored_rehearsal_is_not_imitated_and_holds_the_model_to_its_base(base: str, tmp_path: Path) -> None:
    new, old = ROWS[:9], [{**row, "source": "rehearsal"} for row in ROWS[9:]]

    def learned(name: str, rows: list[dict[str, Any]], anchor: float) -> tuple[float, float]:
        """What the completions of the new rows and of the old ones gained in likelihood, in nats."""
        done = train_sft(base, rows, tmp_path / name, CONFIG.model_copy(update={"anchor": anchor}))
        model = tuned(base, done.folder)
        before, after = (
            [nll(each, base, row["prompt"], row["completion"]) for row in ROWS] for each in (plain(base), model)
        )
        gained = [a - b for a, b in zip(before, after, strict=True)]
        return sum(gained[:9]), sum(gained[9:])

    alone, imitated, held = (
        learned("alone", new, 5.0),
        learned("imitated", [*new, *old], 0.0),
        learned("held", [*new, *old], 5.0),
    )
    assert imitated[1] > alone[1] > 0, "the rows have much in common"
    assert abs(held[1]) < alone[1] / 2
    assert held[0] > 0


def test_rehearsal_alone_with_an_anchor_leaves_nothing_to_learn_and_is_refused(base: str, tmp_path: Path) -> None:
    old = [{**row, "source": "rehearsal"} for row in ROWS]
    with pytest.raises(BadTrainingError, match="none is imitated"):
        train_sft(base, old, tmp_path, CONFIG.model_copy(update={"anchor": 1.0}))


@pytest.mark.parametrize("variant", ["dora", "rslora"])
def test_variants_of_lora_are_trained_and_named_in_the_adapters_settings(
    base: str, tmp_path: Path, variant: str
) -> None:
    settings = {"variant": variant, "targets": ("q_proj", "up_proj"), "steps": 4}
    done = train_sft(base, ROWS, tmp_path, CONFIG.model_copy(update=settings))
    lora = tuned(base, done.folder).peft_config["default"]
    assert (lora.use_dora, lora.use_rslora) == (variant == "dora", variant == "rslora")
    assert lora.target_modules == {"q_proj", "up_proj"}


def test_a_layer_that_the_base_has_not_is_refused_with_those_it_has(base: str, tmp_path: Path) -> None:
    with pytest.raises(BadTrainingError, match=r"called 'query'; the base has down_proj, .*, v_proj\."):
        train_sft(base, ROWS, tmp_path, CONFIG.model_copy(update={"targets": ("query",)}))


def test_a_base_or_a_start_that_is_not_there_is_refused(base: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadTrainingError, match="No tokenizer in"):
        train_sft(tmp_path / "empty", ROWS, tmp_path / "a", CONFIG)
    with pytest.raises(BadTrainingError, match="with the adapter"):
        train_sft(base, ROWS, tmp_path / "b", CONFIG, start=tmp_path / "empty")


def test_a_loss_that_is_not_a_number_ends_the_training(base: str, tmp_path: Path) -> None:
    with pytest.raises(DivergedError, match="at a learning rate of 1e"):
        train_sft(base, ROWS, tmp_path, CONFIG.model_copy(update={"learning_rate": 1e38}))
    with pytest.raises(DivergedError, match="weights are not numbers"):
        train_sft(base, ROWS, tmp_path / "at_the_end", CONFIG.model_copy(update={"learning_rate": 1e39, "steps": 1}))
    left = [*tmp_path.glob("*.safetensors"), *(tmp_path / "at_the_end").glob("*.safetensors")]
    assert left == []


def test_training_on_from_an_adapter_starts_where_it_ended(trained: Trained, base: str, tmp_path: Path) -> None:
    one_step = CONFIG.model_copy(update={"steps": 1, "batch_size": len(ROWS)})
    done = train_sft(base, ROWS, tmp_path, one_step, start=trained.folder)
    model = tuned(base, trained.folder)
    tokens = sum(len(Encoder(base).encode(row["prompt"], row["completion"]).completion) for row in ROWS)
    expected = sum(nll(model, base, row["prompt"], row["completion"]) for row in ROWS) / tokens
    assert done.loss == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("method", ["dpo", "kto"])
def test_preferences_make_good_replies_likelier_than_bad_ones(base: str, tmp_path: Path, method: str) -> None:
    train, rows = TRAINERS[method]
    done = train(base, rows, tmp_path, CONFIG)
    assert margin(tuned(base, done.folder), base) > margin(plain(base), base) + 1


def test_the_reference_of_preferences_is_the_adapter_that_is_trained_on(
    trained: Trained, base: str, tmp_path: Path
) -> None:
    """Where policy and reference agree the loss of DPO is ln 2 (arXiv 2305.18290, eq. 7)."""
    done = train_dpo(base, PAIRS, tmp_path, CONFIG, start=trained.folder)
    assert done.curve[0].loss == pytest.approx(math.log(2), abs=1e-6)
    assert done.loss < 0.6
    assert sorted(path.suffix for path in done.folder.iterdir()) == [".json", ".json", ".jsonl", ".safetensors"]


def test_labels_that_are_all_the_same_are_refused(base: str, tmp_path: Path) -> None:
    with pytest.raises(BadTrainingError, match="18 rows are labelled good and 0 bad"):
        train_kto(base, LABELLED[::2], tmp_path, CONFIG)
    with pytest.raises(BadTrainingError, match="batch_size is 1"):
        train_kto(base, LABELLED, tmp_path, Training(batch_size=1))


@pytest.mark.parametrize(
    ("longest", "at_least", "rows"), [(100, 1, 8), (300, 1, 4), (600, 1, 2), (9000, 1, 1), (9000, 2, 2)]
)
def test_as_many_rows_are_computed_at_once_as_keep_to_the_limit(longest: int, at_least: int, rows: int) -> None:
    config = Training(batch_size=8, forward_tokens=1200)
    assert rows_at_once(longest, config, at_least=at_least) == rows


KILLED_AT = 5
CHILD = f"""
import os, signal, sys
from pathlib import Path
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_weights_training import CONFIG, TRAINERS
method, base, out, start = sys.argv[1:]
def die(step):
    if step.step == {KILLED_AT}:
        os.kill(os.getpid(), signal.SIGKILL)
train, rows = TRAINERS[method]
train(base, rows, Path(out), CONFIG, start=Path(start) if start else None, on_step=die)
"""


@pytest.mark.parametrize(("method", "on_from"), [("sft", False), ("dpo", True)])
def test_a_training_that_was_killed_goes_on_to_the_same_adapter(
    trained: Trained, base: str, tmp_path: Path, method: str, on_from: bool
) -> None:
    train, rows = TRAINERS[method]
    start = trained.folder if on_from else None
    whole = train(base, rows, tmp_path / "whole", CONFIG, start=start)
    out = tmp_path / "killed"
    tests = str(Path(__file__).parents[1])
    child = subprocess.run(
        [
            sys.executable,
            "-c",
            f"import sys; sys.path.insert(0, {tests!r}){CHILD}",
            method,
            base,
            str(out),
            str(start or ""),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert child.returncode == -signal.SIGKILL, child.stderr
    assert not (out / "adapter_model.safetensors").exists()
    assert len((out / "loss.jsonl").read_text().splitlines()) == KILLED_AT
    # As if the kill had come while the last checkpoint was written.
    (out / "checkpoints" / "checkpoint-4" / "trainer_state.json").write_text('{"global_')
    told: list[Step] = []
    done = train(base, rows, out, CONFIG, start=start, on_step=told.append)
    assert [step.step for step in told] == [3, 4, 5, 6]
    assert [step.loss for step in done.curve] == pytest.approx([step.loss for step in whole.curve], abs=1e-4)
    assert done.tokens == whole.tokens
    assert (out / "adapter_model.safetensors").read_bytes() == (whole.folder / "adapter_model.safetensors").read_bytes()


def test_a_training_that_was_killed_after_its_last_step_takes_no_step_too_many(
    trained: Trained, base: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*args: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(loop, "save_adapter", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train_sft(base, ROWS, tmp_path, CONFIG)
    assert (tmp_path / "checkpoints" / "checkpoint-6").is_dir()
    told: list[Step] = []
    done = train_sft(base, ROWS, tmp_path, CONFIG, on_step=told.append)
    assert [step.step for step in told] == [5, 6]
    assert [step.loss for step in done.curve] == [step.loss for step in trained.curve]
    names = ("adapter_config.json", "adapter_model.safetensors")
    assert [(tmp_path / name).read_bytes() for name in names] == [
        (trained.folder / name).read_bytes() for name in names
    ]


def test_a_training_that_has_ended_is_not_repeated_unless_asked(base: str, tmp_path: Path) -> None:
    config = CONFIG.model_copy(update={"steps": 1})
    rows = [*ROWS, {"prompt": [message("user", "x" * 3000)], "completion": ROWS[0]["completion"]}]
    told: list[Step] = []
    done = train_sft(base, rows, tmp_path, config, on_step=told.append)
    assert done.left_out == 1
    assert train_sft(base, rows, tmp_path, config, on_step=told.append) == done
    assert len(told) == 1
    again = train_sft(base, rows, tmp_path, config, on_step=told.append, resume=False)
    assert len(told) == 2
    assert again.loss == done.loss
    with pytest.raises(BadTrainingError, match="other rows"):
        train_sft(base, ROWS, tmp_path, config)
