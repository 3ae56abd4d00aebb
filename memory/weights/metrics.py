"""What a training measures beside its loss: one line of `metrics.jsonl` for each step of the optimizer."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState

METRICS = "metrics.jsonl"

Measured = dict[str, float]
"""By name, and `step` from 1."""


def read_metrics(folder: Path) -> tuple[Measured, ...]:
    """Of a training in `folder`, in the order of its steps."""
    return tuple(json.loads(line) for line in (folder / METRICS).read_text(encoding="utf-8").splitlines())


def write_metrics(folder: Path, measured: Sequence[Measured]) -> None:
    (folder / METRICS).write_text("".join(json.dumps(each) + "\n" for each in measured), encoding="utf-8")


class MetricsFile(TrainerCallback):
    """Keeps what one of TRL's trainers logs, also that from before an interruption.

    It has to be told of a step before the loss curve is: TRL's trainers by reward count the tokens from before an
    interruption, and those are left out of the step's count here.
    """

    def __init__(self, folder: Path, names: Mapping[str, str]) -> None:
        self._folder = folder
        self._names = names
        """TRL's to ours."""
        self._tokens_before = 0

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        write_metrics(self._folder, [self._measured(entry) for entry in state.log_history if "loss" in entry])
        self._tokens_before = state.num_input_tokens_seen

    def on_log(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        logs: dict[str, Any] = kwargs["logs"]
        if "loss" not in logs:
            return  # the summary at the end
        with (self._folder / METRICS).open("a", encoding="utf-8") as file:
            file.write(json.dumps(self._measured(logs | {"step": state.global_step})) + "\n")
        logs["num_tokens"] -= self._tokens_before

    def _measured(self, logs: Mapping[str, Any]) -> Measured:
        return {"step": logs["step"]} | {ours: logs[name] for name, ours in self._names.items() if name in logs}
