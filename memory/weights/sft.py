"""Supervised training of an adapter: only the completion is in the loss, and little is spent on padding.

A batch of rows of mixed lengths is cut into forwards of rows of like length, and only positions near a completion go
through the output layer. Which rows make a batch is not changed by that, and so neither is the gradient.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor
from torch.nn import functional
from trl.trainer.sft_config import SFTConfig
from trl.trainer.sft_trainer import SFTTrainer

from evolvent.memory.errors import BadTrainingError
from evolvent.memory.weights.loop import Offline, arguments, load, run
from evolvent.memory.weights.training import Encoded, Encoder, OnStep, Row, Trained, Training, fit, journal, open_folder

_FORWARD_COST = 48
"""What a forward and its backward cost beside their tokens, in tokens."""

Item = dict[str, Any]
"""Of the trainer's data set: `prompt` and `completion` as token ids, and `weight`."""
Forward = dict[str, Tensor | None]
"""Token ids, their mask (None where nothing is padding) and what each of the last tokens weighs in the loss."""


def train_sft(
    base: str | Path,
    rows: Sequence[Row],
    out: Path,
    config: Training = Training(),
    *,
    start: Path | None = None,
    validation: Sequence[Row] = (),
    on_step: OnStep | None = None,
    resume: bool = True,
) -> Trained:
    """Fit an adapter to the rows and leave it in `out`.

    The loss is the mean over the completions' tokens, the end of the turn among them, each times its row's weight over
    the mean weight of a token. So a weight of 2 counts as much as having the row twice.

    The same arguments give the same adapter, also after a kill: with `resume`, a training goes on from its last
    checkpoint, and one that has ended is not repeated.

    Args:
        base: a folder (or hub id) with the weights, a tokenizer and a chat template.
        rows: `prompt` and `completion` as lists of messages, and `weight` (1 where it is missing).
        start: an adapter on the same base that is trained on, with its own rank and layers; None begins a new one.
        validation: rows whose mean loss is measured with every checkpoint.

    Raises:
        BadTrainingError: rows, `base`, `start` or `out` cannot be used.
        DivergedError: a loss is not a number.
    """
    encoder = Encoder(base)

    def encode(row: Row) -> tuple[Encoded, ...]:
        return (encoder.encode(row["prompt"], row["completion"]),)

    columns = ("prompt", "completion")
    kept = fit(rows, columns, encode, config)
    items = weighed([as_item(each, row.get("weight", 1.0)) for row, (each,) in kept])
    held_out = [as_item(each, 1.0) for _, (each,) in fit(validation, columns, encode, config)] if validation else []
    begun = journal({"name": "sft"}, base, start, rows, len(rows) - len(kept), config)
    ended = open_folder(out, begun, resume=resume)
    if ended is not None:
        return ended
    batches = Batches(config.forward_tokens, padding=encoder.tokenizer.eos_token_id)

    def build() -> _Trainer:
        model, lora = load(base, start, config)
        settings = arguments(out, config, rows=len(items), learning_rate=2e-4)
        trainer = _Trainer(
            model=model,
            args=SFTConfig(**settings, max_length=None, dataset_kwargs={"skip_prepare_dataset": True}),
            data_collator=batches,
            train_dataset=Dataset.from_list(items),
            processing_class=encoder.tokenizer,
            peft_config=lora,
        )
        trainer.held_out = list(batches.cut(held_out))
        return trainer

    return run(build, out, begun, on_step=on_step)


def as_item(encoded: Encoded, weight: float) -> Item:
    return {"prompt": encoded.prompt, "completion": encoded.completion, "weight": float(weight)}


def weighed(items: Sequence[Item]) -> list[Item]:
    """The same with weights whose mean over the completions' tokens is 1."""
    weights = [item["weight"] for item in items]
    if not all(math.isfinite(weight) and weight > 0 for weight in weights):
        wrong = next(weight for weight in weights if not (math.isfinite(weight) and weight > 0))
        raise BadTrainingError(f"A row weighs {wrong}; expected a number above 0. Leave out what should not count.")
    tokens = [len(item["completion"]) for item in items]
    mean = math.fsum(w * n for w, n in zip(weights, tokens, strict=True)) / sum(tokens)
    return [{**item, "weight": item["weight"] / mean} for item in items]


@dataclass(frozen=True)
class Batches:
    """Makes a batch of rows into forwards; a data collator."""

    forward_tokens: int
    """Of one forward, padding included."""
    padding: int
    """Any token id: it is masked."""

    def __call__(self, items: Sequence[Item]) -> dict[str, Any]:
        return {
            "forwards": list(self.cut(items)),
            "completion_tokens": sum(len(item["completion"]) for item in items),
            "tokens": sum(map(_length, items)),
        }

    def cut(self, items: Sequence[Item]) -> Iterator[Forward]:
        """Longest rows first. A row joins those before it unless its padding would cost more than a forward of its
        own, or the forward would be too large."""
        group: list[Item] = []
        for item in sorted(items, key=_length, reverse=True):
            if group:
                longest = _length(group[0])
                full = (len(group) + 1) * longest > self.forward_tokens
                if full or longest - _length(item) > _FORWARD_COST:
                    yield self._forward(group)
                    group = []
            group.append(item)
        if group:
            yield self._forward(group)

    def _forward(self, group: Sequence[Item]) -> Forward:
        length = _length(group[0])
        ids_BT = torch.full((len(group), length), self.padding)
        mask_BT = torch.zeros(len(group), length, dtype=torch.long)
        weights_BT = torch.zeros(len(group), length)
        for b, item in enumerate(group):
            end, begin = _length(item), len(item["prompt"])
            ids_BT[b, :end] = torch.tensor(item["prompt"] + item["completion"])
            mask_BT[b, :end] = 1
            weights_BT[b, begin:end] = item["weight"]
        first = min(len(item["prompt"]) for item in group)
        padded = _length(group[-1]) < length
        return {"ids": ids_BT, "mask": mask_BT if padded else None, "weights": weights_BT[:, first:]}


def _length(item: Item) -> int:
    return len(item["prompt"]) + len(item["completion"])


def weighted_nll(model: Any, forward: Forward) -> Tensor:
    """Of the completions' tokens, in nats, each times its weight; the sum."""
    ids_BT, weights_BK = forward["ids"], forward["weights"]
    assert ids_BT is not None
    assert weights_BK is not None
    counts = weights_BK.shape[1]
    output = model(input_ids=ids_BT, attention_mask=forward["mask"], use_cache=False, logits_to_keep=counts + 1)
    in_loss_BK = weights_BK > 0
    logits_NV = output.logits[:, :-1][in_loss_BK].float()
    nll_N = functional.cross_entropy(logits_NV, ids_BT[:, -counts:][in_loss_BK], reduction="none")
    return nll_N @ weights_BK[in_loss_BK]


class _Trainer(Offline, SFTTrainer):
    """TRL's own loss scores every position on a CPU, and takes no weights."""

    model: Any
    held_out: Sequence[Forward] = ()

    def training_step(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> Tensor:
        self._total_train_tokens += inputs["tokens"]
        self._metrics["train"]["num_tokens"] = [self._total_train_tokens]
        step: Any = super().training_step  # untyped
        losses = [step(model, forward, inputs["completion_tokens"]) for forward in inputs["forwards"]]
        return torch.stack(losses).sum()

    def compute_loss(
        self, model: Any, inputs: Forward, return_outputs: bool = False, num_items_in_batch: Tensor | int | None = None
    ) -> Tensor:
        assert num_items_in_batch is not None
        return weighted_nll(model, inputs) / num_items_in_batch

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        step = self.state.global_step
        measured = step % self.args.save_steps == 0 or step == self.state.max_steps
        if self.held_out and measured and "loss" in logs:
            logs["validation"] = self._validation()
        super().log(logs, start_time)

    @torch.no_grad()
    def _validation(self) -> float:
        self.model.eval()
        total = tokens = 0.0
        for forward in map(self._prepare_inputs, self.held_out):
            with self.compute_loss_context_manager():
                total += float(weighted_nll(self.model, forward))
            tokens += float(forward["weights"].sum())
        self.model.train()
        return total / tokens
