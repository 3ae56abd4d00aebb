"""Merging models that were tuned from one base, without training.

Every rule works on the folded change of a weight, W - W₀, which for LoRA is its scaled product B·A; the mean of several
A and B is not the mean of their products. A weighted sum of adapters is an adapter again (`combine_adapters`). Changes
that are pruned, masked or elected by sign have full rank, so `merge` writes full weights. The rules are PEFT's; ours is
the loop over the tensors, of which one at a time is in memory beside the base and the adapters.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from peft.utils.merge_utils import (
    calculate_majority_sign_mask,
    magnitude_based_pruning,
    random_pruning,
    reshape_weight_task_tensors,
    task_arithmetic,
)
from safetensors import SafetensorError
from torch import Tensor
from transformers import AutoModelForCausalLM

from evolvent.memory.errors import BadMergeError
from evolvent.memory.quiet import quiet_transformers
from evolvent.memory.weights.blend import ELECTS, MASKS, Blend, Merge, Method
from evolvent.memory.weights.model_folder import ModelFolder, appearing, copy_tokenizer

SETTINGS, TENSORS = "adapter_config.json", "adapter_model.safetensors"
_PLAIN_STARTS = (True, False, "gaussian", "orthogonal", "eva")
"""`init_lora_weights` that leave the base as it was; PiSSA and its like train against a changed base."""


def fold(base: str | Path, adapter: str | Path, out: Path) -> Path:
    """The base with the adapter worked in, as a folder of full weights in float32 with its tokenizer.

    Any adapter that PEFT can merge: LoRA and its variants, and those that save other layers whole.

    Raises:
        BadMergeError: the adapter does not fit or is not of numbers, or `out` is there already.
    """
    model, _ = _loaded(base, [Path(adapter)])
    with appearing(out) as folder:
        try:
            merged = model.merge_and_unload(safe_merge=True)
        except ValueError as error:  # a weight that is not a number
            raise BadMergeError(f"Cannot fold {str(adapter)!r}: {_reason(error)}. Train it again.") from error
        _save(merged, base, folder)
    return out


def combine_adapters(
    base: str | Path, parents: Sequence[str | Path], out: Path, *, weights: Sequence[float], rank: int | None = None
) -> Path:
    """The weighted sum of the parents' folded changes, as one LoRA adapter; with weights of 1/n a uniform soup.

    Args:
        parents: LoRA adapters of this base, of any ranks and layers.
        weights: factors, one for each.
        rank: None keeps the sum exactly, at the sum of the ranks. A number gives the nearest change of that rank, by
            singular values.

    Raises:
        BadMergeError: parents that are not plain LoRA or of different bases, weights of another number, a rank that is
            too large, or `out` is there already.
    """
    folders = _checked(parents)
    Blend(tuple(weights), (0.0,) * len(folders)).check("task_arithmetic", len(folders))
    full = [str(folder) for folder in folders if not _is_adapter(folder)]
    if full:
        raise BadMergeError(f"{full[0]!r} holds full weights, not an adapter. Use merge, which writes full weights.")
    model, slots = _loaded(base, folders)
    shapes = [module.get_base_layer().weight.shape for _, module in _adapted(model)]
    largest = min(map(min, shapes))
    if rank is not None and not 1 <= rank <= largest:
        raise BadMergeError(f"A rank of {rank}; expected 1 to {largest}, the smaller side of the smallest layer.")
    # The sum is written unscaled, at alpha = rank; PEFT would scale it again for a first parent with rsLoRA.
    model.peft_config[slots[0]].use_rslora = False
    try:
        with _same_starts():
            model.add_weighted_adapter(
                slots,
                [float(weight) for weight in weights],
                "merged",
                combination_type="cat" if rank is None else "svd",
                svd_rank=rank,
                svd_full_matrices=False,
            )
    except ValueError as error:
        raise BadMergeError(f"PEFT cannot combine {_names(folders)}: {_reason(error)}.") from error
    with appearing(out) as folder:
        scratch = folder / "scratch"
        model.save_pretrained(scratch, selected_adapters=["merged"], save_embedding_layers=False)
        settings = json.loads((scratch / "merged" / SETTINGS).read_bytes())
        if isinstance(settings["target_modules"], list):
            settings["target_modules"].sort()  # PEFT keeps a set
        (folder / SETTINGS).write_text(json.dumps(settings, indent=1, sort_keys=True), encoding="utf-8")
        (scratch / "merged" / TENSORS).rename(folder / TENSORS)
        for path in sorted(scratch.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
        scratch.rmdir()
    return out


def merge(
    base: str | Path,
    parents: Sequence[str | Path],
    out: Path,
    config: Merge = Merge(),
    *,
    blend: Callable[[str], Blend] | None = None,
) -> Path:
    """The base with the parents' changes merged into it, as a folder of full weights in float32 with its tokenizer.

    The same arguments give the same bytes; no parent is written to.

    Args:
        parents: folders of LoRA adapters of this base, or of full weights tuned from it, in any mix.
        blend: weights and drops for the tensor of that name, instead of those of `config`.

    Raises:
        BadMergeError: parents that do not fit the base or each other, or were changed too far from it
            (`Merge.largest_change`); weights of another number; or `out` is there already.
    """
    folders = _checked(parents)
    uniform = config.blend(len(folders))
    model, slots = _loaded(base, [folder for folder in folders if _is_adapter(folder)])
    adapters = iter(slots)
    sources = [next(adapters) if _is_adapter(folder) else ModelFolder(folder) for folder in folders]
    inner = model.get_base_model() if slots else model
    weights = {_plain(name): weight for name, weight in inner.named_parameters() if "lora_" not in name}
    layers = {f"{name}.weight": layer for name, layer in _adapted(inner)}
    for source in sources:
        if isinstance(source, ModelFolder):
            _check_shapes(source, weights, known={_plain(name) for name in inner.state_dict()})
    changes = [_Size() for _ in sources]
    with torch.no_grad():
        for name, weight in weights.items():
            deltas = [_delta(source, name, weight, layers.get(name)) for source in sources]
            for size, delta in zip(changes, deltas, strict=True):
                size.add(delta, weight)
            if any(delta is not None for delta in deltas):
                chosen = blend(name) if blend else uniform
                chosen.check(config.method, len(sources))
                known = [torch.zeros_like(weight) if delta is None else delta for delta in deltas]
                weight.add_(blended(known, chosen, config.method, seed=f"{config.seed}/{name}", rescale=config.rescale))
    for folder, size in zip(folders, changes, strict=True):
        _check_size(folder, size.relative, config.largest_change)
    with appearing(out) as building:
        _save(model.unload() if slots else model, base, building)
    return out


def blended(deltas: Sequence[Tensor], blend: Blend, method: Method, *, seed: str, rescale: bool = True) -> Tensor:
    """One change from those of the parents, all of one shape.

    `ties` and `dare_ties` take the weighted mean of the entries that have the sign of the weighted sum. With equal
    weights that is PEFT's; its own divides by their number, so that a parent of weight nearly 0 would still halve the
    others.

    Args:
        seed: of the masks; each parent has another one.
    """
    kept = [
        drop_and_rescale(delta, drop, seed=f"{seed}/{i}", rescale=rescale)
        if method in MASKS
        else magnitude_based_pruning(delta, 1 - drop)
        if drop
        else delta
        for i, (delta, drop) in enumerate(zip(deltas, blend.drops, strict=True))
    ]
    weights_P = torch.tensor(blend.weights, dtype=deltas[0].dtype)
    if method == "average":
        weights_P = weights_P / weights_P.sum()
    if method not in ELECTS:
        return _tensor(task_arithmetic(kept, weights_P))
    stacked = torch.stack(kept)
    weights = reshape_weight_task_tensors(stacked, weights_P)
    agrees = calculate_majority_sign_mask(stacked * weights)
    total = (weights * agrees).sum(0)
    return torch.where(total > 0, (stacked * weights * agrees).sum(0) / total, 0.0)


def drop_and_rescale(delta: Tensor, drop: float, *, seed: str, rescale: bool = True) -> Tensor:
    """DARE (2311.03099, §3): each entry is set to zero with probability `drop`, the others divided by 1 - `drop`.

    The random numbers that others draw stay as they are.
    """
    if drop == 0:
        return delta
    if drop == 1:
        return torch.zeros_like(delta)
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(int.from_bytes(hashlib.sha256(seed.encode()).digest()[:8]) >> 1)
        return _tensor(random_pruning(delta, 1 - drop, rescale=rescale))


# -- inside ------------------------------------------------------------------------------------------------------------


class _Size:
    """How large a change is against what it changes, tensor by tensor."""

    def __init__(self) -> None:
        self._delta = self._weight = 0.0

    def add(self, delta: Tensor | None, weight: Tensor) -> None:
        if delta is not None:
            self._delta += float(delta.double().square().sum())
            self._weight += float(weight.double().square().sum())

    @property
    def relative(self) -> float:
        """Root mean square of the change over that of the weights."""
        return math.sqrt(self._delta / self._weight) if self._weight else 0.0


def _checked(parents: Sequence[str | Path]) -> list[Path]:
    """The parents' folders, once the settings of the adapters among them are found to be of one base and plain."""
    folders = [Path(parent) for parent in parents]
    if not folders:
        raise BadMergeError("No parents to merge. Give one folder or more.")
    bases: dict[str, Path] = {}
    for folder in folders:
        if not _is_adapter(folder):
            continue
        try:
            settings = json.loads((folder / SETTINGS).read_bytes())
            strange = _strange(settings)
            bases.setdefault(str(settings["base_model_name_or_path"]), folder)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise BadMergeError(f"{str(folder / SETTINGS)!r} is not PEFT's ({error}). Save it again.") from error
        if strange:
            raise BadMergeError(
                f"{str(folder)!r} is not plain LoRA, it has {', '.join(strange)}: its change is more than the product "
                "of its tensors. Fold it into the base first, and give that folder to merge."
            )
    if len(bases) > 1:
        told = ", ".join(f"{str(folder)!r} on {name!r}" for name, folder in bases.items())
        raise BadMergeError(
            f"The parents were trained on different bases: {told}. Only those of one base can be mixed."
        )
    return folders


def _strange(settings: Mapping[str, Any]) -> list[str]:
    strange = [name for name in ("use_dora", "modules_to_save", "layers_to_transform") if settings.get(name)]
    strange += [name for name in ("layer_replication", "trainable_token_indices") if settings.get(name)]
    if settings["peft_type"] != "LORA":
        strange.append(f"peft_type={settings['peft_type']!r}")
    if settings.get("bias", "none") != "none":
        strange.append(f"bias={settings['bias']!r}")
    if settings.get("init_lora_weights", True) not in _PLAIN_STARTS:
        strange.append(f"init_lora_weights={settings['init_lora_weights']!r}")
    return strange


def _loaded(base: str | Path, adapters: Sequence[Path]) -> tuple[Any, list[str]]:
    """The base in float32 with the adapters on it, and their names there; without adapters the base alone."""
    slots = [f"parent{i}" for i in range(len(adapters))]
    with quiet_transformers(), _same_starts():
        try:
            model: Any = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
        except (OSError, ValueError, SafetensorError) as error:
            raise BadMergeError(f"Cannot load the base {str(base)!r}: {_reason(error)}. Give its folder.") from error
        for i, (slot, folder) in enumerate(zip(slots, adapters, strict=True)):
            try:
                if i == 0:
                    model = PeftModel.from_pretrained(model, str(folder), adapter_name=slot)
                else:
                    model.load_adapter(str(folder), adapter_name=slot)
            except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
                raise BadMergeError(
                    f"The adapter {str(folder)!r} does not fit the base {str(base)!r}: {_reason(error)}. "
                    "Give the base it was trained on."
                ) from error
    return model, slots


@contextmanager
def _same_starts() -> Iterator[None]:
    """PEFT draws the start of every adapter it makes, and the signs of it stay when it is multiplied with zero."""
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        yield


def _adapted(model: Any) -> list[tuple[str, Any]]:
    """The layers with an adapter, by name."""
    return [(name, module) for name, module in model.named_modules() if isinstance(module, LoraLayer)]


def _plain(name: str) -> str:
    """Of a parameter, as it was before PEFT wrapped its layer."""
    return name.replace(".base_layer.", ".")


def _delta(source: str | ModelFolder, name: str, weight: Tensor, layer: Any) -> Tensor | None:
    """The parent's folded change of one tensor; None where it has none."""
    if isinstance(source, ModelFolder):
        return source.read(name) - weight
    if layer is not None and (source in layer.lora_A or source in layer.lora_embedding_A):
        return _tensor(layer.get_delta_weight(source))
    return None


def _check_shapes(source: ModelFolder, weights: Mapping[str, Tensor], known: set[str]) -> None:
    shapes = source.shapes
    for name, weight in weights.items():
        if shapes.get(name) != tuple(weight.shape):
            there = f"{name} of shape {shapes[name]}" if name in shapes else f"no {name}"
            raise BadMergeError(
                f"{str(source.folder)!r} has {there}; the base's has {tuple(weight.shape)}. Give models that were "
                "tuned from this base; where a vocabulary was extended, resize all to the same first."
            )
    extra = sorted(set(shapes) - known)
    if extra:
        raise BadMergeError(f"{str(source.folder)!r} has {extra[0]}, which the base has not. Give models of one base.")


def _check_size(folder: Path, relative: float, largest: float | None) -> None:
    if not math.isfinite(relative):
        raise BadMergeError(f"The change of {str(folder)!r} is not of numbers: its training diverged. Leave it out.")
    if largest is not None and relative > largest:
        raise BadMergeError(
            f"The change of {str(folder)!r} is {relative:.3g} of the base's weights (root mean squares); expected "
            f"{largest:g} at most. It was not tuned from this base, or too far: leave it out, or raise largest_change."
        )


def _save(model: Any, base: str | Path, folder: Path) -> None:
    with quiet_transformers():
        model.save_pretrained(folder)
    copy_tokenizer(base, folder)


def _is_adapter(folder: Path) -> bool:
    return (folder / SETTINGS).is_file()


def _tensor(tensor: Any) -> Tensor:
    """PEFT is untyped."""
    assert isinstance(tensor, Tensor)
    return tensor


def _names(folders: Sequence[Path]) -> str:
    return ", ".join(repr(str(folder)) for folder in folders)


def _reason(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return next((line.strip().rstrip(".") for line in lines if "size mismatch" in line), lines[0].rstrip("."))
