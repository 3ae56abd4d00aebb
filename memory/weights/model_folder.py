"""Folders of Hugging Face weights: read one tensor at a time, written so that they appear whole or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evolvent.memory.errors import BadMergeError

if TYPE_CHECKING:
    from torch import Tensor

CONFIG = "config.json"


class ModelFolder:
    """The tensors of a model by name; none is in memory before it is read.

    Raises:
        BadMergeError: no configuration or no whole safetensors there.
    """

    def __init__(self, folder: str | Path) -> None:
        from safetensors import SafetensorError, safe_open

        self.folder = Path(folder)
        files = sorted(self.folder.glob("*.safetensors"))
        if not files or not (self.folder / CONFIG).is_file():
            missing = "safetensors" if not files else CONFIG
            raise BadMergeError(f"No model in {str(folder)!r}: no {missing} there. Give a folder of full weights.")
        self._files: dict[str, Path] = {}
        self._shapes: dict[str, tuple[int, ...]] = {}
        for file in files:
            try:
                with safe_open(file, framework="pt") as tensors:
                    for name in tensors.keys():  # noqa: SIM118 - it is no mapping
                        self._files[name] = file
                        self._shapes[name] = tuple(tensors.get_slice(name).get_shape())
            except (SafetensorError, OSError) as error:
                raise BadMergeError(f"{str(file)!r} is cut off or damaged: {error}. Copy it again.") from error

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return dict(self._shapes)

    def read(self, name: str) -> Tensor:
        """In float32."""
        from safetensors import safe_open

        with safe_open(self._files[name], framework="pt") as tensors:
            tensor: Tensor = tensors.get_tensor(name).float()
        return tensor


@contextmanager
def appearing(out: Path) -> Iterator[Path]:
    """A folder to fill, which becomes `out` by one rename.

    Raises:
        BadMergeError: there is something at `out`; nothing is overwritten.
    """
    if out.exists():
        raise BadMergeError(f"{str(out)!r} is there already. Give a new folder, or delete it first.")
    building = out.with_name(f".{out.name}.merging-{os.getpid()}")
    shutil.rmtree(building, ignore_errors=True)
    building.mkdir(parents=True)
    try:
        yield building
        building.rename(out)
    finally:
        shutil.rmtree(building, ignore_errors=True)


def copy_tokenizer(source: str | Path, out: Path) -> None:
    """
    Raises:
        BadMergeError: `source` has none.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(source)
    except (OSError, ValueError) as error:
        raise BadMergeError(f"No tokenizer in {str(source)!r}. Copy it beside the weights.") from error
    tokenizer.save_pretrained(out)
