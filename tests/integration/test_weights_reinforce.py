"""Training by reward of a one-layer Llama over bytes: PPO, RLOO, GRPO, elastic reset and the KL to the base."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from pydantic import ValidationError
from tiny_llama import write_adapter, write_base
from torch import Tensor
from transformers import AutoModelForCausalLM

from evolvent.memory.errors import BadTrainingError
from evolvent.memory.quiet import quiet_transformers
from evolvent.memory.weights.metrics import read_metrics
from evolvent.memory.weights.ppo import Actor, Asked, train_ppo, updates
from evolvent.memory.weights.ppo_step import Ppo, Update
from evolvent.memory.weights.prompts import fit_prompts
from evolvent.memory.weights.regularize import Elastic, ElasticReset, kl_to_base
from evolvent.memory.weights.reinforce import Groups, train_grpo, train_rloo
from evolvent.memory.weights.training import Encoder, Step, Trained, Training

ROWS = [{"prompt": [{"role": "user", "content": str(i) * (1 + i % 3)}]} for i in range(6)]
LAYERS = ("o_proj", "down_proj")
CONFIG = Training(steps=10, batch_size=128, rank=4, learning_rate=5e-2, seed=1, forward_tokens=8192, targets=LAYERS)
SHORT = CONFIG.model_copy(update={"steps": 3, "batch_size": 16, "save_every": 1})
TOKENS = 2
NAMES = ("adapter_config.json", "adapter_model.safetensors")


def plain_letters(prompts: object, replies: Sequence[str]) -> list[float]:
    """Share of the tokens that are one-byte characters; half of the vocabulary is."""
    return [sum(character.isascii() for character in reply) / TOKENS for reply in replies]


Train = Callable[..., Trained]
TRAINERS: dict[str, tuple[Train, dict[str, Any]]] = {
    "ppo": (train_ppo, {"settings": Ppo(reply_tokens=TOKENS, minibatch=16)}),
    "rloo": (train_rloo, {"groups": Groups(reply_tokens=TOKENS, size=16)}),
    "grpo": (train_grpo, {"groups": Groups(reply_tokens=TOKENS, size=16)}),
}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Nearly undecided, so that replies differ."""
    return write_base(tmp_path_factory.mktemp("base"), initializer_range=0.1, num_hidden_layers=1)


@pytest.fixture(scope="module")
def start(base: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(write_adapter(base, tmp_path_factory.mktemp("start")))


def plain(base: str) -> Any:
    with quiet_transformers():
        return AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)


def tuned(base: str, adapter: Path) -> Any:
    with quiet_transformers():
        return PeftModel.from_pretrained(plain(base), str(adapter))


def weights(folder: Path) -> list[bytes]:
    return [(folder / name).read_bytes() for name in NAMES]


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


class Interrupted(Exception):
    pass


@pytest.mark.parametrize("method", TRAINERS)
def test_replies_that_are_rewarded_become_more_frequent(
    base: str, tmp_path: Path, method: str, capfd: pytest.CaptureFixture[str]
) -> None:
    train, settings = TRAINERS[method]
    config = CONFIG if method != "ppo" else CONFIG.model_copy(update={"batch_size": 32})  # its critic makes up for it
    done = train(base, ROWS, tmp_path, config, reward=plain_letters, **settings)
    assert capfd.readouterr() == ("", "")
    measured = read_metrics(done.folder)
    assert [each["step"] for each in measured] == [step.step for step in done.curve] == list(range(1, 11))
    rewards = [each["reward"] for each in measured]
    assert mean(rewards[-3:]) > mean(rewards[:3]) + 0.06
    assert measured[0]["kl"] == pytest.approx(0, abs=1e-5)
    assert measured[-1]["kl"] > 0.05
    assert all(1 <= each["tokens"] <= TOKENS for each in measured)
    assert (done.rows, done.left_out) == (6, 0)
    assert sorted(path.name for path in done.folder.iterdir()) == [
        *NAMES,
        "loss.jsonl",
        "metrics.jsonl",
        "training.json",
    ]


@pytest.mark.parametrize("method", TRAINERS)
def test_an_interrupted_training_goes_on_to_the_same_adapter_and_the_same_figures(
    base: str, start: Path, tmp_path: Path, method: str
) -> None:
    """And with the adapter it starts from as the reference, also after the interruption."""
    train, settings = TRAINERS[method]
    elastic = {"elastic": Elastic(decay=0.5, every=2)} if method == "ppo" else {}
    how = {"reward": plain_letters, "start": start, **settings, **elastic}
    whole = train(base, ROWS, tmp_path / "whole", SHORT, **how)
    measured = read_metrics(whole.folder)
    assert measured[0]["kl"] == pytest.approx(0, abs=1e-5) != measured[1]["kl"]
    assert [each.get("reset", 0) for each in measured] == ([0, 1, 0] if elastic else [0, 0, 0])

    def stop(step: Step) -> None:
        if step.step == 3:
            raise Interrupted

    out = tmp_path / "again"
    with pytest.raises(Interrupted):
        train(base, ROWS, out, SHORT, on_step=stop, **how)
    assert not (out / "adapter_model.safetensors").exists()
    told: list[Step] = []
    done = train(base, ROWS, out, SHORT, on_step=told.append, **how)
    assert [step.step for step in told] == [3]
    assert weights(done.folder) == weights(whole.folder) != weights(start)
    assert read_metrics(done.folder) == measured
    assert [step.tokens for step in done.curve] == [step.tokens for step in whole.curve]
    with pytest.raises(BadTrainingError, match="other rows, settings or base"):
        train(base, ROWS, out, SHORT, **{**how, "reward": lambda prompts, replies: [0.0] * len(replies)})


def test_groups_that_do_not_fill_a_batch_are_refused(base: str, tmp_path: Path) -> None:
    with pytest.raises(BadTrainingError, match="batch_size is 128, and a group has 3 replies; expected whole groups"):
        train_grpo(base, ROWS, tmp_path, CONFIG, reward=plain_letters, groups=Groups(size=3))


@pytest.mark.parametrize("method", TRAINERS)
def test_a_reward_that_is_no_number_ends_the_training(base: str, tmp_path: Path, method: str) -> None:
    train, settings = TRAINERS[method]
    with pytest.raises(BadTrainingError, match="is nan; expected a finite number"):
        train(base, ROWS, tmp_path, SHORT, reward=lambda prompts, replies: [float("nan")] * len(replies), **settings)


def actor_and_batches(base: str, start: Path | None = None, **changes: Any) -> tuple[Actor, list[list[Asked]]]:
    config, encoder = SHORT.model_copy(update=changes), Encoder(base)
    kept = fit_prompts(ROWS, encoder, config, TOKENS)
    asked = [(row["prompt"], ids) for row, ids in kept]
    return Actor(base, start, encoder, config, Ppo(reply_tokens=12)), [asked] * 4


@pytest.mark.parametrize("with_start", [False, True])
def test_a_rollout_holds_the_log_probabilities_of_each_reply_as_it_is_scored_alone(
    start: Path, tmp_path: Path, with_start: bool
) -> None:
    ends = [1, *range(60, 80)]
    base = write_base(tmp_path, initializer_range=0.1, num_hidden_layers=1, eos_token_id=ends)
    actor, (asked, *_) = actor_and_batches(base, start if with_start else None, forward_tokens=250)
    heard: list[str] = []

    def hear(prompts: Sequence[Any], replies: Sequence[str]) -> list[float]:
        heard.extend(replies)
        return [float(len(prompt[0]["content"])) for prompt in prompts]

    torch.manual_seed(1)
    with torch.no_grad():
        for name, each in actor.policy.items():
            if "lora_B" in name:
                each.normal_(std=0.05)  # away from the reference
    batch = asked * 2
    seen = actor.roll_out(batch, hear)
    assert seen.scores_B.tolist() == [len(prompt[0]["content"]) for prompt, _ in batch]
    lengths = seen.said_BK.sum(1).long().tolist()
    assert min(lengths) < 12 == max(lengths)  # some ended by themselves
    reference = tuned(base, start) if with_start else plain(base)
    for b, (_, prompt) in enumerate(batch):
        reply = seen.ids_BT[b, -12:][: lengths[b]].tolist()
        assert not set(reply[:-1]) & set(ends)
        assert lengths[b] == 12 or reply[-1] in ends
        assert heard[b] == Encoder(base).tokenizer.decode([token for token in reply if token > 1])
        ids = torch.tensor([prompt + reply])
        rows = torch.arange(len(reply))
        for model, found in ((actor.model, seen.logprobs_BK), (reference, seen.reference_BK)):
            with torch.no_grad():
                logprobs = model(ids).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
            torch.testing.assert_close(found[b, : len(reply)], logprobs[rows, reply], atol=2e-5, rtol=1e-4)
            assert not found[b, len(reply) :].any()
    assert (seen.logprobs_BK - seen.reference_BK).abs().max() > 1e-3


# -- elastic reset ---------------------------------------------------------------------------------------------------


def copies(tensors: Sequence[Tensor]) -> list[Tensor]:
    return [each.detach().clone() for each in tensors]


def distance(one: Sequence[Tensor], other: Sequence[Tensor]) -> float:
    return float(torch.cat([(a - b).detach().flatten() for a, b in zip(one, other, strict=True)]).norm())


def played(base: str, count: int) -> Iterator[tuple[Actor, Update]]:
    actor, batches = actor_and_batches(base)
    settings = Ppo(reply_tokens=TOKENS, minibatch=3)
    for update in itertools.islice(updates(actor, batches, plain_letters, settings, SHORT, steps=4), count):
        yield actor, update


def test_a_reset_makes_the_policy_the_average_of_its_window_and_touches_nothing_else(base: str) -> None:
    decay, every = 0.8, 2
    reset: ElasticReset | None = None
    initial = copies(list(actor_and_batches(base)[0].policy.values()))
    window: list[list[Tensor]] = []
    for number, (actor, _) in enumerate(played(base, 4), start=1):
        online = list(actor.policy.values())
        if reset is None:
            reset = ElasticReset(online, Elastic(decay=decay, every=every))
            for average, begun in zip(reset.average, initial, strict=True):  # the first update is over by now
                average.copy_(begun)
            reset.initial = copies(initial)
        window.append(copies(online))
        critic = copies(list(actor.head.parameters()))
        moments = [copies([state["exp_avg"], state["exp_avg_sq"]]) for state in actor.optimizer.state.values()]
        assert reset.after_update() == (number % every == 0)
        if number % every:
            assert distance(online, window[-1]) == 0
            continue
        first, second = window
        # Each window begins at the very start: θ0 twice forgotten, then the first update once, then the second.
        expected = [
            decay**2 * a + decay * (1 - decay) * b + (1 - decay) * c
            for a, b, c in zip(initial, first, second, strict=True)
        ]
        assert distance(online, expected) < 1e-6
        assert distance(reset.average, initial) == 0
        assert 0 < distance(online, initial) <= max(distance(each, initial) for each in window)
        assert distance(critic, list(actor.head.parameters())) == 0
        assert all(
            distance(kept, [state["exp_avg"], state["exp_avg_sq"]]) == 0
            for kept, state in zip(moments, actor.optimizer.state.values(), strict=True)
        )
        window = []


def test_without_a_reset_in_reach_the_training_is_the_same_as_without_any(base: str, tmp_path: Path) -> None:
    train, settings = TRAINERS["ppo"]
    without, unreached = (
        train(base, ROWS, tmp_path / str(elastic), SHORT, reward=plain_letters, elastic=elastic, **settings)
        for elastic in (None, Elastic(every=100))
    )
    assert weights(without.folder) == weights(unreached.folder)
    assert [each.pop("reset") for each in read_metrics(unreached.folder)] == [0] * 3


def wandered(settings: Elastic, steps: int) -> tuple[Tensor, Tensor, Tensor]:
    """Where a random walk was at its start, before its last reset and after it."""
    random = torch.Generator().manual_seed(2)
    policy = torch.randn(50, generator=random)
    initial = policy.clone()
    reset = ElasticReset([policy], settings)
    for _ in range(steps):
        policy += 0.1 * torch.randn(50, generator=random)
        before = policy.clone()
        reset.after_update()
    return initial, before, policy


def test_a_decay_of_zero_changes_nothing_and_one_near_one_forgets_all() -> None:
    _, before, after = wandered(Elastic(decay=0, every=5), 10)
    assert torch.equal(before, after)
    initial, before, after = wandered(Elastic(decay=1 - 1e-7, every=5), 10)
    assert (before - initial).norm() > 1
    assert (after - initial).norm() < 1e-4


@pytest.mark.parametrize("wrong", [{"decay": 1}, {"decay": -0.1}, {"every": 0}, {"eta": 0.9}])
def test_a_decay_or_a_period_out_of_range_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValidationError, match="1 validation error for Elastic"):
        Elastic.model_validate(wrong)


# -- KL to the base --------------------------------------------------------------------------------------------------


def test_the_kl_to_the_base_is_that_of_the_two_models_at_the_chosen_positions(base: str, start: Path) -> None:
    model = tuned(base, start)
    ids = torch.arange(2, 18).view(2, 8)
    chosen = torch.tensor([[False, True, True], [True, False, True]])
    logits = model(ids).logits[:, -4:-1][chosen].requires_grad_()
    kl = kl_to_base(model, logits, ids, None, chosen)
    with torch.no_grad():
        p, q = (each(ids).logits.log_softmax(-1) for each in (plain(base), tuned(base, start)))
    # The last three tokens, 5 to 7, are foretold at the positions 4 to 6.
    expected = sum(float((p[b, t].exp() * (p[b, t] - q[b, t])).sum()) for b, t in ((0, 5), (0, 6), (1, 4), (1, 6)))
    assert kl.item() == pytest.approx(expected, rel=1e-4)
    assert expected > 0.01
    (gradient,) = torch.autograd.grad(kl, logits)
    torch.testing.assert_close(gradient, q[chosen_positions(chosen)].exp() - p[chosen_positions(chosen)].exp())


def chosen_positions(chosen: Tensor) -> tuple[Tensor, Tensor]:
    rows, columns = chosen.nonzero(as_tuple=True)
    return rows, columns + 4
