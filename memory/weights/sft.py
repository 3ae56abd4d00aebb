"""Supervised training of an adapter: only the completion is in the loss, and little is spent on padding.

A row that another one begins with, as a turn begins the later turns of its episode, becomes part of that: one sequence
with several completions. A batch of sequences is cut into forwards of like length, and only positions from the first
completion on go through the output layer. Each completion is still predicted from its own prompt and nothing else.
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
from evolvent.memory.weights.regularize import kl_to_base
from evolvent.memory.weights.training import Encoded, Encoder, OnStep, Row, Trained, Training, fit, journal, open_folder

_FORWARD_COST = 48
"""What a forward and its backward cost beside their tokens, in tokens."""

Item = dict[str, Any]
"""Of the trainer's data set: `ids` of a sequence's tokens, and `weights`, what each counts in the loss (prompts: 0)."""
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
    the mean weight of a token. So a weight of 2 counts as much as having the row twice. Rows that share their
    beginning are one sequence, and a batch has `config.batch_size` sequences.

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
    items = weighed(joined([as_item(each, row.get("weight", 1.0)) for row, (each,) in kept]))
    judged = fit(validation, columns, encode, config) if validation else []
    held_out = joined([as_item(each, 1.0) for _, (each,) in judged])
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
        trainer.kl = config.kl
        return trainer

    return run(build, out, begun, on_step=on_step)


def as_item(encoded: Encoded, weight: float) -> Item:
    """
    Raises:
        BadTrainingError: the weight is not above 0.
    """
    if not (math.isfinite(weight) and weight > 0):
        raise BadTrainingError(f"A row weighs {weight}; expected a number above 0. Leave out what should not count.")
    weights = [0.0] * len(encoded.prompt) + [float(weight)] * len(encoded.completion)
    return {"ids": encoded.prompt + encoded.completion, "weights": weights}


def joined(items: Sequence[Item]) -> list[Item]:
    """The same in fewer sequences: one that another begins with is made part of that, and its weights are added."""
    kept: dict[int, Item] = {}
    longer: Item = {"ids": [], "weights": []}
    # In the order of their tokens, what begins with a sequence follows it at once.
    for place in sorted(range(len(items)), key=lambda place: (items[place]["ids"], place), reverse=True):
        ids, weights = items[place]["ids"], items[place]["weights"]
        if longer["ids"][: len(ids)] == ids:
            for at, weight in enumerate(weights):
                longer["weights"][at] += weight
        else:
            longer = kept[place] = {"ids": ids, "weights": list(weights)}
    return [kept[place] for place in sorted(kept)]


def weighed(items: Sequence[Item]) -> list[Item]:
    """The same with weights whose mean over the completions' tokens is 1."""
    counted = [weight for item in items for weight in item["weights"] if weight]
    mean = math.fsum(counted) / len(counted)
    return [{**item, "weights": [weight / mean for weight in item["weights"]]} for item in items]


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
            "completion_tokens": sum(weight > 0 for item in items for weight in item["weights"]),
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
            end = _length(item)
            ids_BT[b, :end] = torch.tensor(item["ids"])
            mask_BT[b, :end] = 1
            weights_BT[b, :end] = torch.tensor(item["weights"])
        first = int(weights_BT.any(0).nonzero()[0])
        padded = _length(group[-1]) < length
        return {"ids": ids_BT, "mask": mask_BT if padded else None, "weights": weights_BT[:, first:]}


def _length(item: Item) -> int:
    return len(item["ids"])


def weighted_nll(model: Any, forward: Forward, *, kl: float = 0.0) -> Tensor:
    """Of the completions' tokens, in nats, each times its weight; the sum.

    Args:
        kl: how much a nat of KL(base ‖ tuned) at one of these tokens adds to it.
    """
    ids_BT, weights_BK = forward["ids"], forward["weights"]
    assert ids_BT is not None
    assert weights_BK is not None
    counts = weights_BK.shape[1]
    output = model(input_ids=ids_BT, attention_mask=forward["mask"], use_cache=False, logits_to_keep=counts + 1)
    in_loss_BK = weights_BK > 0
    logits_NV = output.logits[:, :-1][in_loss_BK].float()
    nll_N = functional.cross_entropy(logits_NV, ids_BT[:, -counts:][in_loss_BK], reduction="none")
    nll = nll_N @ weights_BK[in_loss_BK]
    return nll + kl * kl_to_base(model, logits_NV, ids_BT, forward["mask"], in_loss_BK) if kl else nll


class _Trainer(Offline, SFTTrainer):
    """TRL's own loss scores every position on a CPU, and takes no weights."""

    model: Any
    held_out: Sequence[Forward] = ()
    kl = 0.0

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
        return weighted_nll(model, inputs, kl=self.kl) / num_items_in_batch

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
