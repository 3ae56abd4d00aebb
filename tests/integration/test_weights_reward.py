"""A reward model by TRL on a one-layer Llama over bytes; its scores are checked against a forward of their own."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from tiny_llama import write_adapter, write_base
from transformers import AutoModelForCausalLM

from evolvent.memory.errors import BadTrainingError
from evolvent.memory.quiet import quiet_transformers
from evolvent.memory.weights.metrics import read_metrics
from evolvent.memory.weights.reinforce import Groups, train_rloo
from evolvent.memory.weights.reward import RewardScorer, train_reward
from evolvent.memory.weights.training import Encoder, Step, Trained, Training

CONFIG = Training(steps=6, batch_size=8, rank=4, learning_rate=2e-2, save_every=3, targets=("o_proj", "down_proj"))


def message(role: str, text: str) -> dict[str, str]:
    return {"role": role, "content": text}


def pair(i: int) -> dict[str, Any]:
    thing = f"Mend {i}." + " Old." * (i % 4)
    chosen, rejected = f"Use the file{'s' * (i % 3)}.", f"Do nothing{' now' * (i % 2)}"
    return {
        "prompt": [message("user", thing)],
        "chosen": [message("assistant", chosen)],
        "rejected": [message("assistant", rejected)],
    }


PAIRS, HELD_OUT = [pair(i) for i in range(12)], [pair(i) for i in range(12, 20)]
PROMPTS = [row["prompt"] for row in HELD_OUT]
CHOSEN, REJECTED = ([row[which][0]["content"] for row in HELD_OUT] for which in ("chosen", "rejected"))


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_base(tmp_path_factory.mktemp("base"), num_hidden_layers=1)


@pytest.fixture(scope="module")
def trained(base: str, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return train_reward(base, PAIRS, tmp_path_factory.mktemp("trained") / "a", CONFIG, validation=HELD_OUT)


def test_what_is_preferred_scores_higher_on_pairs_that_were_not_trained_on(trained: Trained, base: str) -> None:
    scorer = RewardScorer(base, trained.folder)
    better, worse = scorer(PROMPTS, CHOSEN), scorer(PROMPTS, REJECTED)
    accuracy = sum(a > b for a, b in zip(better, worse, strict=True)) / len(HELD_OUT)
    assert accuracy > 0.8
    measured = read_metrics(trained.folder)
    assert trained.curve[0].loss == pytest.approx(math.log(2), abs=1e-6)  # all scores are 0 before
    assert [("validation" in each) for each in measured] == [False, False, True] * 2
    assert measured[-1]["validation_accuracy"] == accuracy
    losses = [math.log1p(math.exp(b - a)) for a, b in zip(better, worse, strict=True)]
    assert measured[-1]["validation"] == trained.curve[-1].validation == pytest.approx(sum(losses) / 8, rel=1e-4)
    assert measured[-1]["accuracy"] > 0.8


def test_the_score_is_what_the_saved_head_makes_of_the_end_of_the_turn(trained: Trained, base: str) -> None:
    names = {path.name for path in trained.folder.iterdir()}
    assert names == {
        *("adapter_config.json", "adapter_model.safetensors"),
        *("loss.jsonl", "metrics.jsonl", "training.json"),
    }
    saved = load_file(trained.folder / "adapter_model.safetensors")
    (head,) = (tensor for name, tensor in saved.items() if "score" in name)
    with quiet_transformers():
        model: Any = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
        body: Any = PeftModel.from_pretrained(model, str(trained.folder)).get_base_model().model
    expected = []
    for messages, reply in zip(PROMPTS, CHOSEN, strict=True):
        row = Encoder(base).encode(messages, [message("assistant", reply)])
        with torch.no_grad():
            hidden_TD = body(torch.tensor([row.prompt + row.completion])).last_hidden_state[0]
        expected.append(float(head @ hidden_TD[-1]))
    for forward_tokens in (1, 100, 100_000):  # alone, a few and all at once
        found = RewardScorer(base, trained.folder, forward_tokens=forward_tokens)(PROMPTS, CHOSEN)
        assert found == pytest.approx(expected, abs=1e-4)


def test_an_interrupted_training_goes_on_to_the_same_reward_model(trained: Trained, base: str, tmp_path: Path) -> None:
    def stop(step: Step) -> None:
        if step.step == 5:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        train_reward(base, PAIRS, tmp_path, CONFIG, validation=HELD_OUT, on_step=stop)
    done = train_reward(base, PAIRS, tmp_path, CONFIG, validation=HELD_OUT)
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        assert (done.folder / name).read_bytes() == (trained.folder / name).read_bytes()
    assert read_metrics(done.folder) == read_metrics(trained.folder)


@pytest.mark.parametrize("of_a_policy", [True, False])
def test_training_goes_on_from_a_policy_with_a_new_head_or_from_a_reward_model_with_its_own(
    trained: Trained, base: str, tmp_path: Path, of_a_policy: bool
) -> None:
    start = Path(write_adapter(base, tmp_path / "policy")) if of_a_policy else trained.folder
    config = CONFIG.model_copy(update={"steps": 1, "learning_rate": 1e-9, "batch_size": len(PAIRS)})
    done = train_reward(base, PAIRS, tmp_path / "a", config, start=start)
    assert (done.loss == pytest.approx(math.log(2), abs=1e-6)) == of_a_policy
    before, after = (load_file(folder / "adapter_model.safetensors") for folder in (start, done.folder))
    for name, tensor in before.items():
        torch.testing.assert_close(after[name], tensor)


def test_an_adapter_without_a_head_is_no_reward_model(base: str, tmp_path: Path) -> None:
    with pytest.raises(BadTrainingError, match=r"is no reward model; expected what train_reward left"):
        RewardScorer(base, Path(write_adapter(base, tmp_path / "policy")))
    with pytest.raises(BadTrainingError, match=r"Cannot put the adapter .*nothing"):
        RewardScorer(base, tmp_path / "nothing")
    with pytest.raises(BadTrainingError, match=r"Cannot put the adapter .*nothing"):
        train_reward(base, PAIRS, tmp_path / "a", CONFIG, start=tmp_path / "nothing")


def test_a_reward_model_is_a_reward_to_train_by(trained: Trained, base: str, tmp_path: Path) -> None:
    scorer = RewardScorer(base, trained.folder)
    config = CONFIG.model_copy(update={"steps": 1, "batch_size": 4})
    train_rloo(base, PAIRS, tmp_path, config, reward=scorer, groups=Groups(reply_tokens=2))
    (measured,) = read_metrics(tmp_path)
    assert measured["spread"] > 0
