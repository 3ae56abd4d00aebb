"""A model of what is preferred: the base with an adapter and a head that gives one number for a prompt and a reply.

Trained by TRL on preferences, with the loss of InstructGPT (arXiv 2203.02155, eq. 1). Adapter and head are in one file
of safetensors. The number is read at the end of the reply's turn, so that it can tell a reply that goes on for ever.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model, load_peft_weights, set_peft_model_state_dict
from transformers import AutoModelForSequenceClassification
from trl.trainer.reward_config import RewardConfig
from trl.trainer.reward_trainer import RewardTrainer

from evolvent.memory.errors import BadTrainingError
from evolvent.memory.quiet import quiet_transformers
from evolvent.memory.weights.loop import Offline, arguments, load, rows_at_once, run
from evolvent.memory.weights.metrics import MetricsFile
from evolvent.memory.weights.prompts import Prompt
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

_SAVED_HEAD = "base_model.model.score.weight"
_MEASURED = ("accuracy", "margin", "validation", "validation_accuracy")


def train_reward(
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
    """Fit a reward model: the chosen reply of a pair has to score above the rejected one.

    Resumes and repeats as `train_sft`. `metrics.jsonl` has for each step the `accuracy` on its own pairs and the mean
    `margin` of their scores, and with every checkpoint the `validation` loss and `validation_accuracy`; a tie is
    wrong. The head begins at 0, so the first loss is ln 2.

    Args:
        rows: `prompt`, `chosen` and `rejected` as lists of messages.
        config: the learning rate is 1e-4 where it is None.
        start: an adapter on the same base that is trained on, of a reward model or of a policy (the paper begins from
            its supervised one).
        validation: pairs that are not trained on.

    Raises:
        BadTrainingError: rows, `base`, `start` or `out` cannot be used.
        DivergedError: a loss is not a number.
    """
    encoder = Encoder(base)

    def encode(row: Row) -> tuple[Encoded, ...]:
        return encoder.encode(row["prompt"], row["chosen"]), encoder.encode(row["prompt"], row["rejected"])

    columns = ("prompt", "chosen", "rejected")
    kept = fit(rows, columns, encode, config)
    held_out = [each for _, each in fit(validation, columns, encode, config)] if validation else []
    begun = journal({"name": "reward"}, base, start, rows, len(rows) - len(kept), config)
    ended = open_folder(out, begun, resume=resume)
    if ended is not None:
        return ended
    at_once = rows_at_once(2 * max(longest(each) for _, each in kept), config)
    items = [{"chosen_ids": _ids(chosen), "rejected_ids": _ids(rejected)} for _, (chosen, rejected) in kept]
    padding = _padding(encoder)
    encoder.tokenizer.pad_token_id = padding

    def build() -> Any:
        model, lora = _load(base, start, config, padding)
        trainer = _Trainer(
            model=model,
            args=RewardConfig(
                **arguments(out, config, rows=len(items), learning_rate=1e-4, rows_at_once=at_once),
                max_length=None,
            ),
            train_dataset=Dataset.from_list(items),
            processing_class=encoder.tokenizer,
            peft_config=lora,
        )
        trainer.held_out, trainer.forward_tokens = held_out, config.forward_tokens
        trainer.add_callback(MetricsFile(out, {name: name for name in _MEASURED}))
        return trainer

    return run(build, out, begun, on_step=on_step)


class RewardScorer:
    """What a reward model thinks of replies; a `Reward` for the trainers that want one.

    Args:
        adapter: the folder that `train_reward` left.
        forward_tokens: of one forward, padding included.

    Raises:
        BadTrainingError: `base` or `adapter` cannot be read, or the adapter is none of a reward model.
    """

    def __init__(self, base: str | Path, adapter: Path, *, forward_tokens: int = 2048) -> None:
        self._encoder = Encoder(base)
        self._padding = _padding(self._encoder)
        self._forward_tokens = forward_tokens
        causal, _ = load(base, None, Training())
        try:
            settings = PeftConfig.from_pretrained(str(adapter))
            with quiet_transformers():
                model: Any = PeftModel.from_pretrained(_with_head(causal, self._padding), str(adapter), config=settings)
        except (OSError, ValueError, RuntimeError) as error:
            raise _unreadable(base, adapter, error) from error
        if settings.task_type != "SEQ_CLS":
            raise BadTrainingError(f"{str(adapter)!r} is no reward model; expected what train_reward left.")
        self._model = model.to("cuda" if torch.cuda.is_available() else "cpu").eval()

    def __call__(self, prompts: Sequence[Prompt], replies: Sequence[str]) -> list[float]:
        """One score for each reply to its prompt, in their order; only differences have a meaning."""
        sequences = [
            _ids(self._encoder.encode(prompt, [{"role": "assistant", "content": reply}]))
            for prompt, reply in zip(prompts, replies, strict=True)
        ]
        return scores(self._model, sequences, self._padding, self._forward_tokens)


@torch.no_grad()
def scores(model: Any, sequences: Sequence[Sequence[int]], padding: int, forward_tokens: int) -> list[float]:
    """Of sequences of token ids, in their order; computed longest first, so that little is padding."""
    found = [0.0] * len(sequences)
    waiting = sorted(range(len(sequences)), key=lambda i: len(sequences[i]), reverse=True)
    while waiting:
        length = len(sequences[waiting[0]])
        at_once = max(1, forward_tokens // length)
        group, waiting = waiting[:at_once], waiting[at_once:]
        ids_BT = torch.full((len(group), length), padding)
        attended_BT = torch.zeros_like(ids_BT)
        for b, i in enumerate(group):
            ids_BT[b, : len(sequences[i])] = torch.tensor(sequences[i])
            attended_BT[b, : len(sequences[i])] = 1
        output = model(input_ids=ids_BT.to(model.device), attention_mask=attended_BT.to(model.device), use_cache=False)
        for i, score in zip(group, output.logits[:, 0].tolist(), strict=True):
            found[i] = score
    return found


# -- inside ----------------------------------------------------------------------------------------------------------


class _Trainer(Offline, RewardTrainer):
    model: Any
    held_out: Sequence[tuple[Encoded, ...]] = ()
    forward_tokens = 0

    def _prepare_dataset(self, dataset: Dataset, *args: Any, **kwargs: Any) -> Dataset:
        """Rows come as token ids: TRL would write the turn with the chat template, which goes on after its end."""
        return dataset

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        step = self.state.global_step
        measured = step % self.args.save_steps == 0 or step == self.state.max_steps
        if self.held_out and measured and "loss" in logs:
            logs |= self._validation()
        super().log(logs, start_time)

    def _validation(self) -> dict[str, float]:
        sequences = [_ids(each) for pair in self.held_out for each in pair]
        self.model.eval()
        found = scores(self.model, sequences, self.model.config.get_text_config().pad_token_id, self.forward_tokens)
        self.model.train()
        chosen, rejected = torch.tensor(found).view(-1, 2).unbind(1)
        loss = -torch.nn.functional.logsigmoid(chosen - rejected).mean()
        return {"validation": float(loss), "validation_accuracy": float((chosen > rejected).float().mean())}


def _ids(encoded: Encoded) -> list[int]:
    return encoded.prompt + encoded.completion


def _padding(encoder: Encoder) -> int:
    """A token that ends no turn: transformers takes the last one that is not padding for the end of the text."""
    return 1 if encoder.tokenizer.eos_token_id == 0 else 0


def _load(base: str | Path, start: Path | None, config: Training, padding: int) -> tuple[Any, LoraConfig | None]:
    """As `loop.load`, with a head in place of the output layer."""
    causal, lora = load(base, None, config)
    assert lora is not None
    model = _with_head(causal, padding)
    if start is None:
        lora.task_type = "SEQ_CLS"
        return model, lora
    try:
        settings = PeftConfig.from_pretrained(str(start))
        settings.task_type, settings.inference_mode = "SEQ_CLS", False
        tensors = {_SAVED_HEAD: model.score.weight.detach().clone()} | load_peft_weights(str(start), device="cpu")
        with quiet_transformers():
            tuned = get_peft_model(model, settings)
            set_peft_model_state_dict(tuned, tensors)
        return tuned, None
    except (OSError, ValueError, RuntimeError) as error:
        raise _unreadable(base, start, error) from error


def _with_head(causal: Any, padding: int) -> Any:
    """The same layers in transformers' classifier, whose head is 0."""
    causal.config.num_labels = 1
    causal.config.get_text_config().pad_token_id = padding
    auto: Any = AutoModelForSequenceClassification  # untyped
    with torch.device("meta"):  # its own layers are thrown away
        model = auto.from_config(causal.config)
    setattr(model, model.base_model_prefix, causal.base_model)
    head = torch.nn.Linear(model.score.in_features, 1, bias=False, dtype=causal.dtype)
    torch.nn.init.zeros_(head.weight)
    model.score = head
    return model


def _unreadable(base: str | Path, adapter: Path, error: Exception) -> BadTrainingError:
    reason = str(error).strip().splitlines()[0].rstrip(".")
    return BadTrainingError(f"Cannot put the adapter {str(adapter)!r} on {str(base)!r}: {reason}. Give ones that fit.")
