"""Training an adapter on what did better and what did worse, by TRL's own losses: DPO and KTO.

SPIN (arXiv 2401.01335) is `train_dpo` with the demonstrations as `chosen` and the previous generation's own replies as
`rejected`; that generation is the adapter `start`, and so the reference.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from trl.trainer.dpo_config import DPOConfig
from trl.trainer.dpo_trainer import DataCollatorForPreference, DPOTrainer
from trl.trainer.kto_config import KTOConfig
from trl.trainer.kto_trainer import KTOTrainer

from evolvent.memory.errors import BadTrainingError
from evolvent.memory.weights.loop import Offline, arguments, load, rows_at_once, run
from evolvent.memory.weights.training import (
    Encoded,
    Encoder,
    OnStep,
    Row,
    Trained,
    Training,
    fit,
    journal,
    longest,
    open_folder,
)


def train_dpo(
    base: str | Path,
    rows: Sequence[Row],
    out: Path,
    config: Training = Training(),
    *,
    beta: float = 0.1,
    start: Path | None = None,
    on_step: OnStep | None = None,
    resume: bool = True,
) -> Trained:
    """Direct preference optimisation (arXiv 2305.18290): make `chosen` likelier against `rejected` than it was.

    The reference is where the training starts: the base, or the adapter `start`. Resumes and repeats as `train_sft`.

    Args:
        rows: `prompt`, `chosen` and `rejected` as lists of messages. The last two may be dialogues, then the pair is
            one of whole trajectories (arXiv 2403.02502): what the assistant was told between its turns is read
            and has no part in either log-probability.
        beta: how dear it is to move away from the reference; small values allow more.

    Raises:
        BadTrainingError: rows, `base`, `start` or `out` cannot be used.
        DivergedError: a loss is not a number.
    """
    encoder = Encoder(base)

    def encode(row: Row) -> tuple[Encoded, ...]:
        return tuple(encoder.encode_dialogue(row["prompt"], row[each]) for each in ("chosen", "rejected"))

    kept = fit(rows, ("prompt", "chosen", "rejected"), encode, config)
    begun = journal({"name": "dpo", "beta": beta}, base, start, rows, len(rows) - len(kept), config)
    ended = open_folder(out, begun, resume=resume)
    if ended is not None:
        return ended
    at_once = rows_at_once(2 * max(longest(each) for _, each in kept), config)
    items = [
        {
            **{"prompt_ids": chosen.prompt, "chosen_ids": chosen.completion, "rejected_ids": rejected.completion},
            **{"chosen_said": chosen.said, "rejected_said": rejected.said},
        }
        for _, (chosen, rejected) in kept
    ]

    def build() -> Any:
        model, lora = load(base, start, config)
        settings = arguments(out, config, rows=len(items), learning_rate=2e-5, rows_at_once=at_once)
        return _Dpo(
            model=model,
            args=DPOConfig(**settings, beta=beta, max_length=None),
            data_collator=Pairs(pad_token_id=encoder.tokenizer.eos_token_id),  # any token: it is masked
            train_dataset=Dataset.from_list(items),
            processing_class=encoder.tokenizer,
            peft_config=lora,
        )

    return run(build, out, begun, on_step=on_step)


def train_kto(
    base: str | Path,
    rows: Sequence[Row],
    out: Path,
    config: Training = Training(),
    *,
    beta: float = 0.1,
    start: Path | None = None,
    on_step: OnStep | None = None,
    resume: bool = True,
) -> Trained:
    """Kahneman-Tversky optimisation (arXiv 2402.01306), for replies that are each known as good or bad.

    The rarer kind weighs more, so that both count the same (its eq. 8). The reference is where the training starts.
    Resumes and repeats as `train_sft`; rows are shuffled once, since TRL pairs neighbours to estimate the KL term.

    Args:
        config: a batch of at least two rows.
        rows: `prompt` and `completion` as lists of messages, and `label`, true for good.
        beta: how dear it is to move away from the reference; small values allow more.

    Raises:
        BadTrainingError: rows, `base`, `start` or `out` cannot be used, or all rows have the same label.
        DivergedError: a loss is not a number.
    """
    if config.batch_size < 2:
        raise BadTrainingError(
            f"batch_size is {config.batch_size}; KTO compares the rows of a batch, so give 2 or more."
        )
    encoder = Encoder(base)

    def encode(row: Row) -> tuple[Encoded, ...]:
        return (encoder.encode(row["prompt"], row["completion"]),)

    kept = fit(rows, ("prompt", "completion", "label"), encode, config)
    good = sum(bool(row["label"]) for row, _ in kept)
    bad = len(kept) - good
    if not good or not bad:
        raise BadTrainingError(f"{good} rows are labelled good and {bad} bad; expected both. Or train supervised.")
    begun = journal({"name": "kto", "beta": beta}, base, start, rows, len(rows) - len(kept), config)
    ended = open_folder(out, begun, resume=resume)
    if ended is not None:
        return ended
    at_once = rows_at_once(max(longest(each) for _, each in kept), config, at_least=2)
    random.Random(config.seed).shuffle(kept)

    def build() -> Any:
        model, lora = load(base, start, config)
        settings = arguments(out, config, rows=len(kept), learning_rate=2e-5, rows_at_once=at_once)
        return _Kto(
            model=model,
            args=KTOConfig(
                **settings,
                beta=beta,
                desirable_weight=max(1.0, bad / good),
                undesirable_weight=max(1.0, good / bad),
                max_length=None,
            ),
            train_dataset=Dataset.from_list(_beside_neighbours(kept, at_once)),
            processing_class=encoder.tokenizer,
            peft_config=lora,
        )

    return run(build, out, begun, on_step=on_step)


def _beside_neighbours(kept: Sequence[tuple[Row, tuple[Encoded, ...]]], at_once: int) -> list[dict[str, Any]]:
    """Each with the completion of the one before it in the same forward, the first with the last one's."""
    items = []
    for at in range(0, len(kept), at_once):
        group = kept[at : at + at_once]
        for i, (row, (each,)) in enumerate(group):
            (other,) = group[i - 1][1]
            items.append(
                {
                    "prompt_ids": each.prompt,
                    "completion_ids": each.completion,
                    "KL_completion_ids": other.completion,
                    "label": bool(row["label"]),
                }
            )
    return items


@dataclass
class Pairs(DataCollatorForPreference):
    """A batch of pairs, chosen before rejected; its `completion_mask` spares what the assistant did not say."""

    def torch_call(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        batch: dict[str, Any] = super().torch_call(examples)
        sides = [(each, side) for side in ("chosen", "rejected") for each in examples]
        for row, (each, side) in enumerate(sides):
            at, said = len(each["prompt_ids"]), torch.tensor(each[f"{side}_said"])
            batch["completion_mask"][row, at : at + len(said)] *= said
        return batch


class _Tokenised(Offline):
    """Rows come as token ids: TRL would write the turn with the chat template, which goes on after its end token."""

    def _prepare_dataset(self, dataset: Dataset, *args: Any, **kwargs: Any) -> Dataset:
        return dataset


class _Dpo(_Tokenised, DPOTrainer):
    pass


class _Kto(_Tokenised, KTOTrainer):
    pass
