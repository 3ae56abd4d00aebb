"""Training an adapter by reward, with TRL's RLOO and GRPO: several replies to one prompt are each other's baseline.

Replies are sampled by transformers in this process. What they are worth is a function's to say; beside the loss, whose
value tells little here, `metrics.jsonl` has the reward, the drift from the reference and the length of the replies.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import Dataset
from pydantic import BaseModel, ConfigDict, Field
from trl.trainer.grpo_config import GRPOConfig
from trl.trainer.grpo_trainer import GRPOTrainer
from trl.trainer.rloo_config import RLOOConfig
from trl.trainer.rloo_trainer import RLOOTrainer

from evolvent.memory.errors import BadTrainingError
from evolvent.memory.weights.loop import Offline, arguments, load, rows_at_once, run
from evolvent.memory.weights.metrics import MetricsFile
from evolvent.memory.weights.prompts import Prompt, Reward, fit_prompts, name_of, schedule, worth
from evolvent.memory.weights.training import Encoder, OnStep, Row, Trained, Training, journal, open_folder, total_steps

_MEASURED = {
    "reward": "reward",
    "reward_std": "spread",
    "frac_reward_zero_std": "tied",
    "kl": "kl",
    "entropy": "entropy",
    "completions/mean_length": "tokens",
    "completions/clipped_ratio": "cut_off",
}


class Groups(BaseModel):
    """How replies are sampled and compared; the defaults are for a small model with an adapter."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    beta: float = Field(0.05, ge=0)
    """How dear it is to move away from the reference; small values allow more."""
    size: int = Field(4, ge=2)
    """Replies to one prompt."""
    reply_tokens: int = Field(32, ge=1)
    """At most, the end of the turn included."""
    temperature: float = Field(1.0, gt=0)


def train_rloo(
    base: str | Path,
    rows: Sequence[Row],
    out: Path,
    config: Training = Training(),
    *,
    reward: Reward,
    groups: Groups = Groups(),
    start: Path | None = None,
    on_step: OnStep | None = None,
    resume: bool = True,
) -> Trained:
    """REINFORCE with the mean of the other replies to the same prompt as the baseline (RLOO, arXiv 2402.14740).

    A reply's log-ratio to the reference times `beta` is taken off its reward; the reference is where the training
    starts: the base, or the adapter `start`. Resumes and repeats as `train_sft`. `metrics.jsonl` has for each step the
    mean `reward` without that penalty and its `spread` over the replies, the share of the prompts that taught nothing,
    as all replies to them were worth the same (`tied`), `kl` and `entropy` in nats per token, and the mean number of
    `tokens` of a reply and the share of those `cut_off`.

    Args:
        rows: `prompt` as a list of messages.
        config: a batch is so many replies, a multiple of `groups.size`. The learning rate is 5e-5 where it is None.
        reward: of prompts and replies. A journal knows it by its name alone.

    Raises:
        BadTrainingError: rows, `base`, `start`, `out`, the batch or what `reward` gives cannot be used.
        DivergedError: a loss is not a number.
    """
    method = _Method("rloo", _Rloo, RLOOConfig, {})
    return _train(method, base, rows, out, config, reward, groups, start, on_step, resume)


def train_grpo(
    base: str | Path,
    rows: Sequence[Row],
    out: Path,
    config: Training = Training(),
    *,
    reward: Reward,
    groups: Groups = Groups(),
    start: Path | None = None,
    on_step: OnStep | None = None,
    resume: bool = True,
) -> Trained:
    """Group relative policy optimisation (arXiv 2402.03300, eq. 3): rewards are standardised within each group.

    As `train_rloo`, but `beta` times the divergence from the reference is in the loss of each token (its eq. 4) and not
    in the reward.
    """
    method = _Method("grpo", _Grpo, GRPOConfig, {"loss_type": "grpo", "scale_rewards": "group"})
    return _train(method, base, rows, out, config, reward, groups, start, on_step, resume)


# -- inside ----------------------------------------------------------------------------------------------------------


class _Rloo(Offline, RLOOTrainer):
    pass


class _Grpo(Offline, GRPOTrainer):
    pass


@dataclass(frozen=True, slots=True)
class _Method:
    name: str
    trainer: type[Any]
    arguments: type[Any]
    own: dict[str, Any]
    """Arguments that make it what its paper says."""


def _train(
    method: _Method,
    base: str | Path,
    rows: Sequence[Row],
    out: Path,
    config: Training,
    reward: Reward,
    groups: Groups,
    start: Path | None,
    on_step: OnStep | None,
    resume: bool,
) -> Trained:
    if config.batch_size % groups.size:
        raise BadTrainingError(
            f"batch_size is {config.batch_size}, and a group has {groups.size} replies; expected whole groups."
        )
    encoder = Encoder(base)
    kept = fit_prompts(rows, encoder, config, groups.reply_tokens)
    told = {"name": method.name, "reward": name_of(reward), **groups.model_dump()}
    begun = journal(told, base, start, rows, len(rows) - len(kept), config)
    ended = open_folder(out, begun, resume=resume)
    if ended is not None:
        return ended
    at_once = rows_at_once(max(len(ids) for _, ids in kept) + groups.reply_tokens, config)
    replies = len(kept) * groups.size
    # TRL would draw an order for each pass, and after an interruption begin again with that of the first one.
    order = schedule(len(kept), total_steps(replies, config) * config.batch_size // groups.size, config.seed)
    asked = [{"prompt": list(kept[i][0]["prompt"])} for i in order]

    def rewarded(prompts: Sequence[Prompt], completions: Sequence[Sequence[Row]], **kwargs: Any) -> list[float]:
        return worth(reward, prompts, [str(completion[0]["content"]) for completion in completions])

    def build() -> Any:
        model, lora = load(base, start, config)
        trainer = method.trainer(
            model=model,
            reward_funcs=rewarded,
            args=method.arguments(
                **arguments(out, config, rows=replies, learning_rate=5e-5, rows_at_once=at_once),
                **method.own,
                beta=groups.beta,
                num_generations=groups.size,
                max_completion_length=groups.reply_tokens,
                temperature=groups.temperature,
                shuffle_dataset=False,
            ),
            train_dataset=Dataset.from_list(asked),
            processing_class=encoder.tokenizer,
            peft_config=lora,
        )
        trainer.add_callback(MetricsFile(out, _MEASURED))
        return trainer

    return run(build, out, begun, on_step=on_step)
