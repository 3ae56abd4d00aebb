"""LoRA adapters beside one base: each row of a forward gets its own adapter's change, or none.

The base weights are shared and never written. An adapter is a value, read from a folder in PEFT's format; hooks on the
linear layers add its low-rank change to the rows that asked for it. Knows nothing of prompts, caches or requests.
"""

from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from evolvent.agents.errors import BadAdapterError

CONFIG, TENSORS = "adapter_config.json", "adapter_model.safetensors"
_KEY = re.compile(r"base_model\.model\.(.+)\.(?:lora_(A|B)\.weight|lora_(magnitude)_vector(?:\.weight)?)")
_UNSERVED = ("layer_replication", "alora_invocation_tokens", "use_qalora", "use_bdlora", "arrow_config", "kasa_config")
"""PEFT's variants of LoRA that compute something else from the same tensors."""
_PLAIN_STARTS = (True, False, "gaussian", "orthogonal", "eva")
"""`init_lora_weights` that leave the base as it was; PiSSA and its like train against a changed base."""
_serials = itertools.count(1)


@dataclass(frozen=True, slots=True, eq=False)
class Change:
    """What an adapter does to one linear layer: y becomes gain · y + shift + x · down · up."""

    down_IR: Tensor
    up_RO: Tensor
    """Scaled."""
    gain_O: Tensor | None
    """DoRA's magnitude over the norm of the changed weight; None for plain LoRA."""
    shift_O: Tensor | None
    """What keeps the layer's bias out of the gain."""

    def apply(self, x_NI: Tensor, y_NO: Tensor) -> None:
        """Write it into y."""
        if self.gain_O is not None:
            y_NO.mul_(self.gain_O)
        if self.shift_O is not None:
            y_NO.add_(self.shift_O)
        y_NO.addmm_(x_NI @ self.down_IR, self.up_RO)


@dataclass(frozen=True, slots=True, eq=False)
class Adapter:
    folder: str
    serial: int
    """Never used again in this process, even for the same folder; 0 stands for no adapter."""
    changes: Mapping[str, Change]
    """By the layer's name in the model."""

    @property
    def nbytes(self) -> int:
        tensors = ((c.down_IR, c.up_RO, c.gain_O, c.shift_O) for c in self.changes.values())
        return sum(tensor.nbytes for each in tensors for tensor in each if tensor is not None)


class RowAdapters:
    """The hooks of one model. One thread uses it."""

    def __init__(self, model: Any) -> None:
        self._layers = _linear_layers(model)
        self._hooked: set[str] = set()
        self._served: list[tuple[slice, Adapter]] = []

    @contextmanager
    def serving(self, adapters_B: Sequence[Adapter | None]) -> Iterator[None]:
        """Every forward within gives row b the change of `adapters_B[b]`. Rows of one adapter are best neighbours."""
        end = 0
        for adapter, rows in itertools.groupby(adapters_B):
            start, end = end, end + sum(1 for _ in rows)
            if adapter is not None:
                self._served.append((slice(start, end), adapter))
                self._hook(adapter)
        try:
            yield
        finally:
            self._served.clear()

    def _hook(self, adapter: Adapter) -> None:
        for name in adapter.changes.keys() - self._hooked:
            self._layers[name].register_forward_hook(partial(self._change, name))
            self._hooked.add(name)

    def _change(self, name: str, layer: torch.nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        for rows, adapter in self._served:
            change = adapter.changes.get(name)
            if change is not None:
                change.apply(inputs[0][rows].flatten(0, 1), output[rows].view(-1, output.shape[-1]))


def read(folder: str | Path, model: Any) -> Adapter:
    """The adapter in `folder` (LoRA, rsLoRA or DoRA, 2402.09353), made ready for `model`, which stays as it is.

    Raises:
        BadAdapterError: a file is missing, cut off or foreign, or the adapter was trained on another base.
    """
    config = _config(Path(folder))
    parts = _parts(Path(folder))
    layers = _linear_layers(model)
    changes = {}
    for name, tensors in parts.items():
        if name not in layers:
            raise _bad(folder, f"it changes {name}, and the base has no such linear layer", _trained_on(config))
        changes[name] = _layer_change(folder, config, name, tensors, layers[name])
    return Adapter(str(folder), next(_serials), changes)


def _config(folder: Path) -> dict[str, Any]:
    for name in (CONFIG, TENSORS):
        if not (folder / name).is_file():
            raise _bad(folder, f"there is no {name} in it", "Give a folder that PEFT saved with safetensors")
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        kind, start = config["peft_type"], config.get("init_lora_weights", True)
        strange = [name for name in _UNSERVED if config.get(name)]
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise _bad(folder, f"{CONFIG} is not PEFT's ({error})", "Save the adapter again") from error
    if kind != "LORA":
        raise _bad(folder, f"it is of kind {kind}; expected LORA", "Merge it into the base, or serve it with vLLM")
    if start not in _PLAIN_STARTS:
        strange.append(f"init_lora_weights={start!r}")
    if strange:
        raise _bad(folder, f"it needs {', '.join(strange)}", "Merge it into the base, or train plain LoRA or DoRA")
    return dict(config)


def _parts(folder: Path) -> dict[str, dict[str, Tensor]]:
    """Tensors A, B and magnitude by layer."""
    try:
        tensors = load_file(folder / TENSORS)
    except (SafetensorError, OSError) as error:
        raise _bad(folder, f"{TENSORS} is cut off or damaged ({error})", "Copy or train it again") from error
    parts: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        match = _KEY.fullmatch(key)
        if match is None:
            raise _bad(
                folder,
                f"it holds {key}; expected nothing but the LoRA tensors of linear layers",
                "Train it without modules_to_save, biases or embeddings, or merge it into the base",
            )
        parts.setdefault(match[1], {})[match[2] or match[3]] = tensor
    if not parts:
        raise _bad(folder, f"{TENSORS} holds no tensor", "Train it again")
    return parts


def _layer_change(
    folder: str | Path, config: Mapping[str, Any], name: str, tensors: Mapping[str, Tensor], layer: torch.nn.Linear
) -> Change:
    for part, other in ("AB", "BA"):
        if part not in tensors:
            raise _bad(folder, f"{name} has {other} and lacks {part}", "Copy or train it again")
    down_RI, up_OR = tensors["A"].float(), tensors["B"].float()
    rank = _for_layer(config.get("rank_pattern"), name, config.get("r"))
    if down_RI.shape[0] != rank or up_OR.shape[1] != rank:
        raise _bad(
            folder,
            f"{name} has tensors of rank {down_RI.shape[0]} and {up_OR.shape[1]}, and {CONFIG} says {rank}",
            "Files of two adapters are mixed: copy both from one",
        )
    if (down_RI.shape[1], up_OR.shape[0]) != (layer.in_features, layer.out_features):
        raise _bad(
            folder,
            f"{name} goes from {down_RI.shape[1]} to {up_OR.shape[0]} features, the base's from "
            f"{layer.in_features} to {layer.out_features}",
            _trained_on(config),
        )
    alpha = _for_layer(config.get("alpha_pattern"), name, config.get("lora_alpha"))
    up_OR = up_OR * (alpha / (math.sqrt(rank) if config.get("use_rslora") else rank))
    gain_O = shift_O = None
    if "magnitude" in tensors:
        with torch.no_grad():
            gain_O = tensors["magnitude"].float() / torch.linalg.norm(layer.weight + up_OR @ down_RI, dim=1)
            shift_O = None if layer.bias is None else layer.bias * (1 - gain_O)
        up_OR = up_OR * gain_O[:, None]
    return Change(down_RI.t().contiguous(), up_OR.t().contiguous(), gain_O, shift_O)


def _for_layer(patterns: Mapping[str, Any] | None, name: str, default: Any) -> Any:
    """As PEFT reads `rank_pattern` and `alpha_pattern`: the first expression that is the end of the name."""
    for pattern, value in (patterns or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", name):
            return value
    return default


def _linear_layers(model: Any) -> dict[str, torch.nn.Linear]:
    return {name: layer for name, layer in model.named_modules() if isinstance(layer, torch.nn.Linear)}


def _trained_on(config: Mapping[str, Any]) -> str:
    return f"It was trained on {config.get('base_model_name_or_path')!r}: serve it on that base"


def _bad(folder: str | Path, reason: str, advice: str) -> BadAdapterError:
    return BadAdapterError(f"Cannot serve the adapter {str(folder)!r}: {reason}. {advice}.")
