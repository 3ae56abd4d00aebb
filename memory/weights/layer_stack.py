"""A model made of the layers of others, in any order and any number of times (arXiv 2403.13187, data-flow space).

The weights are those of the sources. Where the hidden state is scaled on its way from one layer to the next, the scale
is worked into the copies' output projections: a Llama's layers normalise what they read, so to shrink what a layer adds
is to enlarge what it adds to. So the result is an ordinary folder that any engine serves.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evolvent.memory.errors import BadMergeError
from evolvent.memory.weights.model_folder import ModelFolder, appearing, copy_tokenizer

if TYPE_CHECKING:
    from torch import Tensor

_ARCHITECTURE = "llama"
"""The only one whose layers are known to normalise what they read and nothing else."""
_SHARED = (
    *("hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads", "head_dim"),
    *("hidden_act", "rms_norm_eps", "rope_parameters", "attention_bias", "mlp_bias"),
)
"""What the sources' configurations have to agree in."""
_LAYER = re.compile(r"model\.layers\.(\d+)\.(.+)")
_WRITES = re.compile(r"(self_attn\.o_proj|mlp\.down_proj)\.(weight|bias)")
"""Parameters of a layer through which it adds to the hidden state."""


@dataclass(frozen=True, slots=True)
class LayerStack:
    layers: tuple[int, ...]
    """In the order they run, numbered through all sources: those of the first source, then those of the second …"""
    scales: tuple[float, ...]
    """What the hidden state is multiplied with between two layers, above 0: one fewer than the layers."""


def write_stack(sources: Sequence[str | Path], stack: LayerStack, out: Path) -> Path:
    """The stack as a folder of full weights in float32.

    Embedding, last norm, output layer and tokenizer are those of the first source. The scaling is exact but for the
    epsilon of the norms.

    Args:
        sources: folders of full weights of Llama's architecture, alike but for the number of layers.

    Raises:
        BadMergeError: sources that are not, a stack that does not fit them, or `out` is there already.
    """
    from transformers import AutoConfig

    folders = [ModelFolder(source) for source in sources]
    if not folders:
        raise BadMergeError("No sources for a stack. Give one folder of full weights or more.")
    configs: list[Any] = [AutoConfig.from_pretrained(source) for source in sources]
    for folder, config in zip(folders, configs, strict=True):
        _check_alike(folder, config, configs[0])
    places = [(s, i) for s, config in enumerate(configs) for i in range(config.num_hidden_layers)]
    _check_fits(stack, len(places))
    with appearing(out) as building:
        tensors = {name: folders[0].read(name) for name in folders[0].shapes if not _LAYER.fullmatch(name)}
        scale = 1.0
        for position, layer in enumerate(stack.layers):
            scale *= stack.scales[position - 1] if position else 1.0
            source, index = places[layer]
            tensors |= _copy(folders[source], index, position, scale)
        _write(tensors, configs[0], stack, building)
        copy_tokenizer(sources[0], building)
    return out


def _copy(folder: ModelFolder, index: int, position: int, scale: float) -> dict[str, Tensor]:
    """The tensors of layer `index` under the names of layer `position`, behind hops of `scale` in all."""
    copied = {}
    for name in folder.shapes:
        match = _LAYER.fullmatch(name)
        if match and int(match[1]) == index:
            tensor = folder.read(name)
            copied[f"model.layers.{position}.{match[2]}"] = tensor / scale if _WRITES.fullmatch(match[2]) else tensor
    return copied


def _write(tensors: dict[str, Tensor], config: Any, stack: LayerStack, building: Path) -> None:
    from safetensors.torch import save_file

    config.num_hidden_layers = len(stack.layers)
    config.dtype = "float32"
    config.save_pretrained(building)
    save_file(tensors, building / "model.safetensors", metadata={"format": "pt"})


def _check_alike(folder: ModelFolder, config: Any, first: Any) -> None:
    if config.model_type != _ARCHITECTURE:
        raise BadMergeError(
            f"{str(folder.folder)!r} is of the architecture {config.model_type!r}; expected {_ARCHITECTURE!r}, whose "
            "layers can be restacked."
        )
    for name in _SHARED:
        if getattr(config, name, None) != getattr(first, name, None):
            raise BadMergeError(
                f"{str(folder.folder)!r} has {name} {getattr(config, name, None)}, the first source "
                f"{getattr(first, name, None)}; expected models that differ in nothing but the number of layers."
            )


def _check_fits(stack: LayerStack, layers: int) -> None:
    wrong = [layer for layer in stack.layers if not 0 <= layer < layers]
    if not stack.layers or wrong:
        what = f"layer {wrong[0]}" if wrong else "no layer"
        raise BadMergeError(f"A stack with {what}; expected layers from 0 to {layers - 1}, those of all sources.")
    if len(stack.scales) != len(stack.layers) - 1:
        raise BadMergeError(
            f"{len(stack.scales)} scales for {len(stack.layers)} layers; expected one between each and the next."
        )
    if not all(math.isfinite(scale) and scale > 0 for scale in stack.scales):
        raise BadMergeError(f"Scales of {stack.scales}; expected finite numbers above 0.")
