"""LoRA adapters beside one base: each row of a forward gets its own adapter's change, or none.

The base weights are shared and never written. An adapter is a value, read from a folder in PEFT's format; hooks on the
linear layers add its low-rank change to the rows that asked for it. Where all rows ask for one adapter again and again,
weights with its change folded in stand in for the base's. Knows nothing of prompts, caches or requests.
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
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

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
_PATIENCE = 16
"""Forwards for one adapter alone before it is folded: about as many as it takes the hooks to lose the time that folding
takes, so adapters that take turns are never held up by it."""
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

    def folded(self, weight_OI: Tensor) -> Tensor:
        """A weight that does the same by itself, laid out in memory as the base's. The bias stays: `shift_O` gives back
        what the gain takes from it."""
        folded_OI = torch.empty_like(weight_OI)
        weight_IO = weight_OI.t() if self.gain_O is None else weight_OI.t() * self.gain_O
        torch.addmm(weight_IO, self.down_IR, self.up_RO, out=folded_OI.t())
        return folded_OI


class Linear(NamedTuple):
    """What the base has in one linear layer, whatever stands in for it just now."""

    weight_OI: torch.nn.Parameter
    bias_O: Tensor | None


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
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
    """The adapters of one model. One thread serves them; any thread may read one.

    Rows of several adapters, or of adapters and the base, go through hooks: some 210 small products for every token of
    SmolLM2-135M. After `_PATIENCE` forwards for one adapter alone its change is folded into weights of its own, which
    stand in for the base's while such a forward lasts and are exchanged for them in less than a millisecond. Both ways
    agree within rounding.

    One adapter is folded at a time. That takes as much memory as the layers it changes (425 MB for all of
    SmolLM2-135M's), given back when another is folded or the adapter is dropped.
    """

    def __init__(self, model: Any) -> None:
        self._layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, torch.nn.Linear)}
        self._base = {name: Linear(layer.get_parameter("weight"), layer.bias) for name, layer in self._layers.items()}
        self._hooked: set[str] = set()
        self._served: list[tuple[slice, Adapter]] = []
        self._alone = (0, 0)
        """The adapter that was last served alone, by serial, and for how many forwards since another was."""
        self._folded: WeakKeyDictionary[Adapter, Mapping[str, torch.nn.Parameter]] = WeakKeyDictionary()
        """One at most."""

    def read(self, folder: str | Path) -> Adapter:
        """See `read`."""
        return read(folder, self._base)

    @contextmanager
    def serving(self, adapters_B: Sequence[Adapter | None]) -> Iterator[None]:
        """One forward within gives row b the change of `adapters_B[b]`. Rows of one adapter are best neighbours."""
        first = adapters_B[0]
        folded = self._fold(first) if first is not None and all(each is first for each in adapters_B) else None
        if folded is None:
            self._serve(adapters_B)
        else:
            self._put(folded)
        try:
            yield
        finally:
            self._served.clear()
            if folded is not None:
                self._put({name: self._base[name].weight_OI for name in folded})

    def _fold(self, adapter: Adapter) -> Mapping[str, torch.nn.Parameter] | None:
        """The weights with its change, once it was alone for long enough."""
        serial, forwards = self._alone
        self._alone = (adapter.serial, forwards + 1 if serial == adapter.serial else 1)
        if adapter not in self._folded and self._alone[1] > _PATIENCE:
            self._folded.clear()  # before, so that there are never two
            self._folded[adapter] = {
                name: torch.nn.Parameter(change.folded(self._base[name].weight_OI), requires_grad=False)
                for name, change in adapter.changes.items()
            }
        return self._folded.get(adapter)

    def _put(self, weights: Mapping[str, torch.nn.Parameter]) -> None:
        for name, weight in weights.items():
            # As torch.func.functional_call does it: assigning to the layer checks each weight, 1 ms a forward in all.
            self._layers[name]._parameters["weight"] = weight

    def _serve(self, adapters_B: Sequence[Adapter | None]) -> None:
        end = 0
        for adapter, rows in itertools.groupby(adapters_B):
            start, end = end, end + sum(1 for _ in rows)
            if adapter is not None:
                self._served.append((slice(start, end), adapter))
                self._hook(adapter)

    def _hook(self, adapter: Adapter) -> None:
        for name in adapter.changes.keys() - self._hooked:
            self._layers[name].register_forward_hook(partial(self._change, name))
            self._hooked.add(name)

    def _change(self, name: str, layer: torch.nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        for rows, adapter in self._served:
            change = adapter.changes.get(name)
            if change is not None:
                change.apply(inputs[0][rows].flatten(0, 1), output[rows].view(-1, output.shape[-1]))


def read(folder: str | Path, base: Mapping[str, Linear]) -> Adapter:
    """The adapter in `folder` (LoRA, rsLoRA or DoRA, 2402.09353), made ready for `base`, which stays as it is.

    Raises:
        BadAdapterError: a file is missing, cut off or foreign, or the adapter was trained on another base.
    """
    config = _config(Path(folder))
    parts = _parts(Path(folder))
    changes = {}
    for name, tensors in parts.items():
        if name not in base:
            raise _bad(folder, f"it changes {name}, and the base has no such linear layer", _trained_on(config))
        changes[name] = _layer_change(folder, config, name, tensors, base[name])
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
    folder: str | Path, config: Mapping[str, Any], name: str, tensors: Mapping[str, Tensor], layer: Linear
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
    features_out, features_in = layer.weight_OI.shape
    if (down_RI.shape[1], up_OR.shape[0]) != (features_in, features_out):
        raise _bad(
            folder,
            f"{name} goes from {down_RI.shape[1]} to {up_OR.shape[0]} features, the base's from "
            f"{features_in} to {features_out}",
            _trained_on(config),
        )
    alpha = _for_layer(config.get("alpha_pattern"), name, config.get("lora_alpha"))
    up_OR = up_OR * (alpha / (math.sqrt(rank) if config.get("use_rslora") else rank))
    gain_O = shift_O = None
    if "magnitude" in tensors:
        with torch.no_grad():
            gain_O = tensors["magnitude"].float() / torch.linalg.norm(layer.weight_OI + up_OR @ down_RI, dim=1)
            shift_O = None if layer.bias_O is None else layer.bias_O * (1 - gain_O)
        up_OR = up_OR * gain_O[:, None]
    return Change(down_RI.t().contiguous(), up_OR.t().contiguous(), gain_O, shift_O)


def _for_layer(patterns: Mapping[str, Any] | None, name: str, default: Any) -> Any:
    """As PEFT reads `rank_pattern` and `alpha_pattern`: the first expression that is the end of the name."""
    for pattern, value in (patterns or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", name):
            return value
    return default


def _trained_on(config: Mapping[str, Any]) -> str:
    return f"It was trained on {config.get('base_model_name_or_path')!r}: serve it on that base"


def _bad(folder: str | Path, reason: str, advice: str) -> BadAdapterError:
    return BadAdapterError(f"Cannot serve the adapter {str(folder)!r}: {reason}. {advice}.")
