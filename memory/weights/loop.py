"""TRL's training loop as we run it: what is set for all methods, how it reports, resumes and ends.

TRL's defaults are for long runs on a GPU that are watched on a web page. Here nothing is printed, fetched or sent,
the loss of each step is a line of a file, and nothing is computed only to be logged.
"""

from __future__ import annotations

import json
import math
import random
import resource
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from peft import LoraConfig, PeftModel
from transformers import AutoModelForCausalLM, PrinterCallback, TrainerCallback, TrainerControl, TrainerState

from evolvent.memory.errors import BadTrainingError, DivergedError
from evolvent.memory.quiet import quiet_transformers
from evolvent.memory.weights.training import (
    CHECKPOINTS,
    CURVE,
    SETTINGS,
    TENSORS,
    Journal,
    OnStep,
    Step,
    Trained,
    Training,
    as_line,
    close_folder,
    total_steps,
)

_STATE = "trainer_state.json"
"""Written last into a checkpoint."""
_WARM_UP = 0.05


class Offline:
    """What TRL's trainers do beside training, left out: a message to their makers and a web page per checkpoint."""

    def _send_telemetry(self) -> None: ...

    def create_model_card(self, *args: Any, **kwargs: Any) -> None: ...


def load(base: str | Path, start: Path | None, config: Training) -> tuple[Any, LoraConfig | None]:
    """The base and the adapter to put on it, or the base with the adapter `start`, which is trained on.

    Raises:
        BadTrainingError: one of them cannot be read, they do not fit, or no layer is called as `config.targets` say.
    """
    dtype = torch.bfloat16 if _bf16() else torch.float32
    try:
        with quiet_transformers():
            model: Any = AutoModelForCausalLM.from_pretrained(base, dtype=dtype)
            if start is not None:
                return PeftModel.from_pretrained(model, str(start), is_trainable=True), None
    except (OSError, ValueError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0].rstrip(".")
        with_start = f" with the adapter {str(start)!r}" if start else ""
        raise BadTrainingError(f"Cannot load {str(base)!r}{with_start}: {reason}. Give folders that fit.") from error
    head = model.get_output_embeddings()
    linear = [name for name, each in model.named_modules() if isinstance(each, torch.nn.Linear) and each is not head]
    layers = sorted({name.rpartition(".")[2] for name in linear})
    unknown = sorted(set(config.targets) - set(layers))
    if unknown:
        raise BadTrainingError(f"No layer to adapt is called {unknown[0]!r}; the base has {', '.join(layers)}.")
    return model, LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,
        use_dora=config.variant == "dora",
        use_rslora=config.variant == "rslora",
        target_modules=list(config.targets) or layers,
        task_type="CAUSAL_LM",
    )


def arguments(
    out: Path, config: Training, *, rows: int, learning_rate: float, rows_at_once: int | None = None
) -> dict[str, Any]:
    """For any of TRL's configurations.

    Args:
        rows_at_once: of one forward, a divisor of the batch; None leaves the whole batch to the trainer.
    """
    steps = total_steps(rows, config)
    at_once = rows_at_once or config.batch_size
    return {
        "output_dir": str(out / CHECKPOINTS),
        "max_steps": steps,
        "per_device_train_batch_size": at_once,
        "gradient_accumulation_steps": config.batch_size // at_once,
        "learning_rate": config.learning_rate or learning_rate,
        "lr_scheduler_type": "linear",
        "warmup_steps": int(_WARM_UP * steps),  # rounded down: the first step of a warm-up learns nothing
        "max_grad_norm": 1.0,
        "seed": config.seed,
        "bf16": _bf16(),
        "use_cpu": not torch.cuda.is_available(),
        "activation_checkpointing": False,  # a quarter slower; forward_tokens bounds the memory instead
        "dataloader_pin_memory": torch.cuda.is_available(),
        "remove_unused_columns": False,
        "logging_steps": 1,
        "logging_nan_inf_filter": False,  # it reports the last good loss for one that is not a number
        "save_strategy": "steps",
        "save_steps": config.save_every,
        "save_total_limit": 2,
        "report_to": "none",
        "disable_tqdm": True,
    }


def rows_at_once(longest: int, config: Training, *, at_least: int = 1) -> int:
    """The largest divisor of the batch with which a forward of rows of `longest` tokens keeps to its limit."""
    divisors = [n for n in range(1, config.batch_size + 1) if config.batch_size % n == 0 and n >= at_least]
    return max((n for n in divisors if n * longest <= config.forward_tokens), default=min(divisors))


def run(build: Callable[[], Any], out: Path, begun: Journal, *, on_step: OnStep | None) -> Trained:
    """Train what `build` makes to the end, from the last checkpoint in `out` if there is one.

    The caller's random numbers go on as if nothing had been trained.

    Raises:
        DivergedError: a loss or a weight is not a number.
    """
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    with own_randomness(), quiet_transformers(), errors_only():
        trainer = build()
        trainer.remove_callback(PrinterCallback)
        report = _Report(out / CURVE, on_step)
        trainer.add_callback(report)
        checkpoint = _last_checkpoint(out / CHECKPOINTS, before=trainer.args.max_steps)
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    save_adapter(trainer.accelerator.unwrap_model(trainer.model), out)
    return close_folder(out, begun, report.curve, peak_memory())


class _Report(TrainerCallback):
    """Each step's loss, in the trainer's own state and so in its checkpoints, in a file, and told to the caller."""

    def __init__(self, path: Path, on_step: OnStep | None) -> None:
        self.curve: list[Step] = []
        self._path = path
        self._on_step = on_step
        self._before = (0, 0.0)
        self._started = 0.0

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        known = {field.name for field in fields(Step)}
        entries: Sequence[Mapping[str, Any]] = [entry for entry in state.log_history if "of" in entry]
        self.curve = [Step(**{key: entry[key] for key in known & entry.keys()}) for entry in entries]
        self._path.write_text("".join(as_line(step) + "\n" for step in self.curve), encoding="utf-8")
        self._before = (self.curve[-1].tokens, self.curve[-1].seconds) if self.curve else (0, 0.0)
        self._started = time.monotonic()

    def on_log(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        logs: Mapping[str, float] = kwargs["logs"]
        if "loss" not in logs:
            return  # the summary at the end
        if not math.isfinite(logs["loss"]):
            raise DivergedError(
                f"The loss of step {state.global_step} is {logs['loss']} at a learning rate of "
                f"{args.learning_rate:g}. Lower it, or look for rows that are out of the ordinary."
            )
        step = Step(
            step=state.global_step,
            of=state.max_steps,
            loss=logs["loss"],
            tokens=self._before[0] + int(logs["num_tokens"]),
            seconds=self._before[1] + time.monotonic() - self._started,
            validation=logs.get("validation"),
        )
        state.log_history[-1] |= {"of": step.of, "tokens": step.tokens, "seconds": step.seconds}
        self.curve.append(step)
        with self._path.open("a", encoding="utf-8") as file:
            file.write(as_line(step) + "\n")
        if self._on_step is not None:
            self._on_step(step)


def _last_checkpoint(folder: Path, *, before: int) -> Path | None:
    """The newest that was written to its end; those that were not are deleted.

    The one of the last step, `before`, is passed over: the trainer would go on from it with a step too many.
    """
    steps = {int(path.name.rpartition("-")[2]): path for path in folder.glob("checkpoint-*")}
    for step in sorted(steps, reverse=True):
        try:
            json.loads((steps[step] / _STATE).read_bytes())
        except (FileNotFoundError, ValueError):
            shutil.rmtree(steps[step])
        else:
            if step < before:
                return steps[step]
    return None


def save_adapter(model: Any, out: Path) -> None:
    """The adapter and its settings, and nothing else of what PEFT writes. The same adapter gives the same bytes.

    Raises:
        DivergedError: the last step made weights that are not numbers, which no loss has told of.
    """
    if not all(bool(weight.isfinite().all()) for weight in model.parameters() if weight.requires_grad):
        raise DivergedError("The trained weights are not numbers. Lower the learning rate.")
    scratch = out / CHECKPOINTS / "adapter"
    model.save_pretrained(scratch, selected_adapters=["default"], save_embedding_layers=False)
    settings = json.loads((scratch / SETTINGS).read_bytes())
    settings["target_modules"] = sorted(settings["target_modules"])  # PEFT keeps a set
    (scratch / SETTINGS).write_text(json.dumps(settings, indent=1, sort_keys=True), encoding="utf-8")
    for name in (SETTINGS, TENSORS):
        (scratch / name).replace(out / name)


@contextmanager
def own_randomness() -> Iterator[None]:
    """TRL seeds the generators that everybody shares."""
    states = random.getstate(), np.random.get_state()
    devices: Sequence[int] = range(torch.cuda.device_count())
    try:
        with torch.random.fork_rng(devices):
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])


@contextmanager
def errors_only() -> Iterator[None]:
    """The trainer warns of what we chose, such as how old checkpoints are found."""
    switch: Any = transformers.utils.logging  # untyped
    before = switch.get_verbosity()
    switch.set_verbosity_error()
    try:
        yield
    finally:
        switch.set_verbosity(before)


def _bf16() -> bool:
    return torch.cuda.is_available() and torch.cuda.is_bf16_supported()


def peak_memory() -> int:
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
