"""Merged models of a run: `DIR/merged/NAME@HASH`, a folder of full weights with a card of what it was made from.

A merge that prunes, masks or elects has full rank and is no adapter, so it is kept and served whole. The hash in its
name is that of its weights: the same parents, settings and seed give the same name.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from evolvent.memory.errors import AdapterDamagedError, UnknownAdapterError
from evolvent.memory.types import Record, new_record
from evolvent.memory.weights.adapters import adapter_id

FOLDER, CARD = "merged", "merge.json"
_TENSORS = "*.safetensors"


class MergeCard(BaseModel):
    """What a merged model was made from: enough to make it again."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    hash: str
    """First twelve hex digits of the SHA-256 of the weights."""
    base: str
    """Name of the model that all parents were tuned from."""
    parents: tuple[str, ...]
    """Full names of the adapters and merged models, in the order of the weights."""
    how: dict[str, Any]
    """Settings of the merge: rule, weights, drops, seed, or a genome."""
    bytes: int
    files: dict[str, str]
    """SHA-256 of the weights by file."""


@dataclass(frozen=True, slots=True)
class MergedModel:
    folder: Path
    card: MergeCard

    @property
    def full_name(self) -> str:
        return f"{self.card.name}@{self.card.hash}"


class MergedModels:
    """The merged models of one run directory; an entry appears by one rename."""

    def __init__(self, directory: str | Path) -> None:
        self.folder = Path(directory) / FOLDER

    def register(
        self, folder: Path, name: str, *, base: str, parents: Sequence[str], how: Mapping[str, Any]
    ) -> MergedModel:
        """Take a folder of full weights in, which moves there; what is there already under its name stays.

        Args:
            parents: full names.
            how: JSON values.
        """
        files = {file.name: _sha256(file) for file in sorted(folder.glob(_TENSORS))}
        digest = hashlib.sha256("\n".join(files.values()).encode()).hexdigest()[:12]
        there = self.folder / f"{name}@{digest}"
        card = MergeCard(
            name=name,
            hash=digest,
            base=base,
            parents=tuple(parents),
            how=dict(how),
            bytes=sum((folder / file).stat().st_size for file in files),
            files=files,
        )
        if there.exists():
            shutil.rmtree(folder)
        else:
            (folder / CARD).write_text(card.model_dump_json(indent=1), "utf-8")
            self.folder.mkdir(parents=True, exist_ok=True)
            folder.rename(there)
        return self.get(there.name)

    def known(self, full_name: str) -> bool:
        return bool(full_name) and (self.folder / full_name).is_dir()

    def get(self, full_name: str) -> MergedModel:
        """
        Raises:
            UnknownAdapterError: none is called so.
            AdapterDamagedError: its card cannot be read.
        """
        if not self.known(full_name):
            raise UnknownAdapterError(f"No merged model named {full_name!r} in {self.folder}.")
        folder = self.folder / full_name
        try:
            return MergedModel(folder, MergeCard.model_validate_json((folder / CARD).read_bytes()))
        except (OSError, ValidationError) as error:
            raise AdapterDamagedError(f"Cannot read {folder / CARD}. Merge the parents again.") from error

    def check(self, merged: MergedModel) -> MergedModel:
        """
        Raises:
            AdapterDamagedError: the weights are not those that were registered.
        """
        found = {file.name: _sha256(file) for file in sorted(merged.folder.glob(_TENSORS))}
        if found != merged.card.files:
            raise AdapterDamagedError(
                f"{merged.folder} is not what was registered. Do not serve it; merge the parents again."
            )
        return merged


def merged_record(merged: MergedModel, *, generation: int = 0) -> Record:
    """The merged model as memory knows it: weights like an adapter's, and a child of its parents."""
    return new_record(
        "adapter",
        merged.full_name,
        parents=tuple(adapter_id(parent) for parent in merged.card.parents),
        meta={"base": merged.card.base, "hash": merged.card.hash, "bytes": merged.card.bytes, "merged": True},
        generation=generation,
    )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
