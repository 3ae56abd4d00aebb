"""How fast an adapter is trained, against a bare PEFT loop and against padding a batch to its longest row.

    python tests/benchmarks/bench_training.py

After each step of `train_sft` the other ways compute the same batch once, with a model and an optimizer of their own,
so that other work on the machine slows all of them; what counts is the median of the steps' ratios. Prompts have 35 to
300 tokens, as those of an episode that grows, and completions about ten.

| way      | what it computes                                                                  |
|----------|-----------------------------------------------------------------------------------|
| `plain`  | our forwards, the loss by `transformers` from the logits of all positions         |
| `frugal` | our forwards and our loss, and nothing that a trainer does beside them            |
| `padded` | as `plain`, the whole batch as one forward                                        |
"""

from __future__ import annotations

import random
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import Tensor

from evolvent.memory.cache import cached
from evolvent.memory.quiet import quiet_transformers
from evolvent.memory.weights import sft
from evolvent.memory.weights.loop import load
from evolvent.memory.weights.training import Row, Step, Training

BATCH = 8
_AS_IT_IS = sft.Batches.__call__
WORDS = ["iron", "rust", "kettle", "lamp", "rope", "wheel", "door", "clay", "glass", "tin", "oil", "cloth", "wax"]


@dataclass(frozen=True)
class Measured:
    over_plain: float
    """Speed of `train_sft` as a multiple of the bare loop's."""
    over_frugal: float
    """The same, of a bare loop that spares what ours spares."""
    over_padded: float
    """Speed of our forwards as a multiple of one padded forward's, by the same bare loop."""
    seconds: float
    """Of one step of `train_sft`, the median."""
    tokens_per_second: float
    peak_bytes: int
    """Of the process, with both models."""


class Ways:
    """Each way computes every batch of `train_sft` once more and takes a step, right after it."""

    def __init__(self, base: str, config: Training) -> None:
        from peft import get_peft_model

        torch.manual_seed(config.seed)
        model, lora = load(base, None, config)
        with quiet_transformers():
            self.model: Any = get_peft_model(model, lora).train()
        trained = [weight for weight in self.model.parameters() if weight.requires_grad]
        self.optimizer = torch.optim.AdamW(trained, lr=2e-4)
        self.batches: list[dict[str, Any]] = []
        self.seconds: dict[str, list[float]] = defaultdict(list)
        self._resumed = time.perf_counter()

    def recording(self, batches: sft.Batches, items: Sequence[sft.Item]) -> dict[str, Any]:
        self.batches.append(_AS_IT_IS(batches, items))
        return self.batches[-1]

    def after(self, step: Step) -> None:
        self.seconds["ours"].append(time.perf_counter() - self._resumed)
        batch = self.batches[step.step - 1]
        count = batch["completion_tokens"]
        inputs = [labelled(forward) for forward in batch["forwards"]]
        padded = merged(inputs)
        ways: dict[str, list[Callable[[], Tensor]]] = {
            "plain": [lambda each=each: self._plain(each, count) for each in inputs],
            "frugal": [lambda each=each: sft.summed_loss(self.model, each) / count for each in batch["forwards"]],
            "padded": [lambda: self._plain(padded, count)],
        }
        for name, losses in ways.items():
            start = time.perf_counter()
            for loss in losses:
                loss().backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            self.optimizer.step()
            self.optimizer.zero_grad()
            self.seconds[name].append(time.perf_counter() - start)
        self._resumed = time.perf_counter()

    def _plain(self, inputs: dict[str, Tensor | None], count: int) -> Tensor:
        loss: Tensor = self.model(**inputs, use_cache=False, num_items_in_batch=count).loss
        return loss


def labelled(forward: sft.Forward) -> dict[str, Tensor | None]:
    """As a model of `transformers` takes it."""
    ids_BT, weights_BK = forward["ids"], forward["weights"]
    assert ids_BT is not None
    assert weights_BK is not None
    labels_BT = torch.full_like(ids_BT, -100)
    ends = slice(ids_BT.shape[1] - weights_BK.shape[1], None)
    labels_BT[:, ends] = torch.where(weights_BK > 0, ids_BT[:, ends], -100)
    return {"input_ids": ids_BT, "attention_mask": forward["mask"], "labels": labels_BT}


def merged(inputs: Sequence[dict[str, Any]]) -> dict[str, Tensor | None]:
    """All rows in one, padded to the longest."""
    width = max(each["input_ids"].shape[1] for each in inputs)

    def column(name: str, filler: int) -> Tensor:
        parts = [torch.ones_like(each["input_ids"]) if each[name] is None else each[name] for each in inputs]
        padded = [torch.nn.functional.pad(part, (0, width - part.shape[1]), value=filler) for part in parts]
        return torch.cat(padded)

    return {name: column(name, filler) for name, filler in (("input_ids", 0), ("attention_mask", 0), ("labels", -100))}


def row(rng: random.Random) -> Row:
    prompt = " ".join(rng.choices(WORDS, k=rng.randint(5, 190)))
    reply = " ".join(rng.choices(WORDS, k=6))
    return {"prompt": [{"role": "user", "content": prompt}], "completion": [{"role": "assistant", "content": reply}]}


def measure(base: str, *, steps: int = 8) -> Measured:
    """Medians over the steps but the first."""
    config = Training(steps=steps, batch_size=BATCH, save_every=10 * steps)
    rng = random.Random(0)
    ways = Ways(base, config)
    with (
        tempfile.TemporaryDirectory() as scratch,
        patch.object(sft.Batches, "__call__", lambda batches, items: ways.recording(batches, items)),
    ):
        done = sft.train_sft(
            base, [row(rng) for _ in range(BATCH * steps)], Path(scratch) / "adapter", config, on_step=ways.after
        )
    # The first step also loads the model; the ratio of each step is of times taken one after the other.
    ours, plain, frugal, padded = (ways.seconds[name][1:] for name in ("ours", "plain", "frugal", "padded"))
    tokens = [batch["tokens"] for batch in ways.batches[1:steps]]

    def ratio(slow: Sequence[float], fast: Sequence[float]) -> float:
        return statistics.median(a / b for a, b in zip(slow, fast, strict=True))

    return Measured(
        over_plain=ratio(plain, ours),
        over_frugal=ratio(frugal, ours),
        over_padded=ratio(padded, plain),
        seconds=statistics.median(ours),
        tokens_per_second=statistics.median(n / s for n, s in zip(tokens, ours, strict=True)),
        peak_bytes=done.peak_bytes,
    )


@pytest.mark.slow
@pytest.mark.model
@pytest.mark.timeout(1800)
def test_training_has_nine_tenths_of_a_bare_loops_speed_and_bucketing_a_third_more_than_padding() -> None:
    path = cached("smollm2")
    if path is None:
        pytest.skip("the embedded model is not in the cache: evolvent models pull smollm2")
    measured = measure(str(path))
    assert measured.over_plain >= 0.9
    assert measured.over_frugal >= 0.9
    assert measured.over_padded >= 1.3


if __name__ == "__main__":
    folder = cached("smollm2")
    assert folder is not None, "run `evolvent models pull smollm2` first"
    print(measure(str(folder)))
