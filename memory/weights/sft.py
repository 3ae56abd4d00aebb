"""Supervised training of an adapter: only the completion is in the loss, and little is spent on padding.

A row that another one begins with, as a turn begins the later turns of its episode, becomes part of that: one sequence
with several completions. A batch of sequences is cut into forwards of like length, and only positions from the first
completion on go through the output layer. Each completion is still predicted from its own prompt and nothing else.

Rehearsal may be anchored: then its rows say nothing to imitate, and at each of their tokens, prompts included, the
tuned model is held to what the base expects next. That is all the base knows of the place, where one sampled word
says little and a small model's own words are poor ones.
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
"""Of the trainer's data set: `ids` of a sequence's tokens, `weights`, what each counts in the loss (prompts: 0), and
whether it is `anchored`, so that its loss is the distance to the base."""
Forward = dict[str, Any]
"""`ids` of tokens `[B, T]`, their `mask` (None where nothing is padding), `weights` `[B, K]`: what each of the last K
tokens counts in the loss, and whether they are `anchored`."""


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
    to_imitate = [not (config.anchor and row.get("source") == "rehearsal") for row, _ in kept]
    if not any(to_imitate):
        raise BadTrainingError(
            f"All {len(kept)} rows are rehearsal, and with anchor={config.anchor:g} none is imitated."
        )
    own = [
        as_item(each, row.get("weight", 1.0))
        for (row, (each,)), imitate in zip(kept, to_imitate, strict=True)
        if imitate
    ]
    items = weighed(joined(own))
    items += [anchored(each) for (_, (each,)), imitate in zip(kept, to_imitate, strict=True) if not imitate]
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
        trainer.kl, trainer.anchor = config.kl, config.anchor
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
    return {"ids": encoded.prompt + encoded.completion, "weights": weights, "anchored": False}


def anchored(encoded: Encoded) -> Item:
    """All tokens but the first, which nothing foretells, are held to the base."""
    ids = encoded.prompt + encoded.completion
    return {"ids": ids, "weights": [0.0] + [1.0] * (len(ids) - 1), "anchored": True}


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
            longer = kept[place] = {**items[place], "weights": list(weights)}
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
        own, or the forward would be too large, or only one of the two is anchored."""
        group: list[Item] = []
        for item in sorted(items, key=lambda item: (item["anchored"], _length(item)), reverse=True):
            if group:
                longest = _length(group[0])
                full = (len(group) + 1) * longest > self.forward_tokens
                apart = item["anchored"] != group[0]["anchored"]
                if full or apart or longest - _length(item) > _FORWARD_COST:
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
        mask = mask_BT if padded else None
        return {"ids": ids_BT, "mask": mask, "weights": weights_BT[:, first:], "anchored": group[0]["anchored"]}


def _length(item: Item) -> int:
    return len(item["ids"])


def summed_loss(model: Any, forward: Forward, *, kl: float = 0.0, anchor: float = 0.0) -> Tensor:
    """Of the completions' tokens: negative log-likelihood in nats, each times its weight; the sum.

    Args:
        kl: how much a nat of KL(base ‖ tuned) at one of these tokens adds to it.
        anchor: what such a nat counts at a token of an anchored forward, where it is all there is.
    """
    ids_BT, weights_BK = forward["ids"], forward["weights"]
    counts = weights_BK.shape[1]
    output = model(input_ids=ids_BT, attention_mask=forward["mask"], use_cache=False, logits_to_keep=counts + 1)
    in_loss_BK = weights_BK > 0
    logits_NV = output.logits[:, :-1][in_loss_BK].float()
    loss: Tensor
    if forward["anchored"]:
        loss = anchor * kl_to_base(model, logits_NV, ids_BT, forward["mask"], in_loss_BK)
    else:
        nll_N = functional.cross_entropy(logits_NV, ids_BT[:, -counts:][in_loss_BK], reduction="none")
        loss = nll_N @ weights_BK[in_loss_BK]
        if kl:
            loss = loss + kl * kl_to_base(model, logits_NV, ids_BT, forward["mask"], in_loss_BK)
    return loss


class _Trainer(Offline, SFTTrainer):
    """TRL's own loss scores every position on a CPU, and takes no weights."""

    model: Any
    held_out: Sequence[Forward] = ()
    kl = anchor = 0.0

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
        return summed_loss(model, inputs, kl=self.kl, anchor=self.anchor) / num_items_in_batch

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
                total += float(summed_loss(self.model, forward))
            tokens += float(forward["weights"].sum())
        self.model.train()
        return total / tokens
