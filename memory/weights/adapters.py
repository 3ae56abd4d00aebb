"""The registry of adapters: `DIR/adapters/NAME@HASH`, a folder that PEFT reads, with a card of where it comes from.

A full name stands for one content for ever: it holds a hash of the weights, it is never given again, and what it names
is checked against it. Only safetensors and text are kept, nothing that runs code when it is read. Whether an adapter is
in use is the ledger's to say: `adapter_record` is what the ledger knows it by.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from evolvent.memory.errors import AdapterDamagedError, AdapterNameError, UnknownAdapterError
from evolvent.memory.types import Record, Scope, new_record, record_id

logger = logging.getLogger(__name__)

FOLDER, REMOVED = "adapters", "removed"
WEIGHTS_FILE, CONFIG_FILE, CARD, README = "adapter_model.safetensors", "adapter_config.json", "card.json", "README.md"
_KEPT = frozenset({".safetensors", ".json", ".jsonl", ".md"})
_PLAIN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


class AdapterCard(BaseModel):
    """Where an adapter comes from and what its files hold."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    hash: str
    """Of the weights, of PEFT's configuration and of the base: the first twelve hex digits of a SHA-256."""
    base: str
    """Name of the model it was trained on and has to be served with."""
    dataset: str = ""
    """Id of its data set's record; empty for one that was merged from others."""
    dataset_hash: str = ""
    parents: tuple[str, ...] = ()
    """Full names of the adapters it was trained on from, or merged from."""
    config: dict[str, Any] = {}
    """Of the training."""
    metrics: dict[str, Any] = {}
    created: str = ""
    """As the caller dates it."""
    parameters: int = 0
    bytes: int = 0
    """Of its files on disk."""
    files: dict[str, str] = {}
    """SHA-256 by name."""


@dataclass(frozen=True, slots=True)
class Adapter:
    folder: Path
    card: AdapterCard

    @property
    def full_name(self) -> str:
        return f"{self.card.name}@{self.card.hash}"


class Adapters:
    """The adapters of one run directory.

    An entry appears by one rename, so a process that is killed leaves all of it or nothing.
    """

    def __init__(self, directory: str | Path) -> None:
        self.folder = Path(directory) / FOLDER

    def register(
        self,
        folder: str | Path,
        name: str,
        *,
        base: str,
        created: str,
        dataset: Record | None = None,
        parents: Sequence[Adapter] = (),
        config: Mapping[str, Any] | None = None,
        metrics: Mapping[str, Any] | None = None,
    ) -> Adapter:
        """Copy a finished adapter into the registry, and give the entry.

        Files that are neither safetensors nor text (`training_args.bin`, an optimizer's state) and folders are left
        behind; canaries beside the weights come along. The same content under the same name is the entry that is there
        already, card and all.

        Args:
            folder: as PEFT saved it.
            dataset: its `dataset_record`.
            config, metrics: JSON values, for the card.

        Raises:
            AdapterNameError: a malformed name, or one that was removed: names are not used again.
            AdapterDamagedError: no whole safetensors and configuration in `folder`, or the entry that is there already
                is not what its name says.
        """
        source = Path(folder)
        if not _PLAIN_NAME.fullmatch(name):
            raise AdapterNameError(f"An adapter cannot be named {name!r}; expected letters, digits, '.', '_' and '-'.")
        parameters = _parameters(source)
        full = f"{name}@{_content(source, base)}"
        if (self.folder / REMOVED / full).exists():
            raise AdapterNameError(f"{full} was removed, and a name is not used again; train it anew or rename it.")
        if (self.folder / full).exists():
            return self.check(self._read(self.folder / full))
        building = self.folder / f".{full}.registering-{os.getpid()}"
        building.mkdir(parents=True)
        try:
            for file in sorted(source.iterdir()):
                if file.is_file() and file.suffix in _KEPT and file.name not in (CARD, README):
                    shutil.copyfile(file, building / file.name)
                elif file.name not in (CARD, README):
                    logger.info("%s is left behind: only safetensors and text are registered", file)
            card = AdapterCard(
                name=name,
                hash=full.rpartition("@")[2],
                base=base,
                dataset=dataset.id if dataset else "",
                dataset_hash=str(dataset.meta.get("hash", "")) if dataset else "",
                parents=tuple(each.full_name for each in parents),
                config=dict(config or {}),
                metrics=dict(metrics or {}),
                created=created,
                parameters=parameters,
                bytes=sum(file.stat().st_size for file in building.iterdir()),
                files={file.name: _sha256(file) for file in sorted(building.iterdir())},
            )
            (building / README).write_text(model_card(card), "utf-8")
            (building / CARD).write_text(card.model_dump_json(indent=1), "utf-8")
            try:
                building.rename(self.folder / full)
            except OSError:
                if not (self.folder / full).exists():  # else another process was faster
                    raise
        finally:
            shutil.rmtree(building, ignore_errors=True)
        return self.check(self._read(self.folder / full))

    def ls(self) -> list[Adapter]:
        """All entries, oldest first; one whose card cannot be read is warned about and left out."""
        found = []
        for folder in sorted(self._entries()):
            try:
                found.append(self._read(folder))
            except AdapterDamagedError as error:
                logger.warning("%s", error)
        return sorted(found, key=lambda adapter: (adapter.card.created, adapter.full_name))

    def get(self, name: str) -> Adapter:
        """The adapter of that full name; without its hash, the only one of that name.

        Raises:
            UnknownAdapterError: none, or several.
            AdapterDamagedError: its card cannot be read.
        """
        names = sorted(folder.name for folder in self._entries())
        found = [each for each in names if name in (each, each.rpartition("@")[0])]
        if len(found) == 1:
            return self._read(self.folder / found[0])
        if found:
            raise UnknownAdapterError(f"Several adapters are named {name!r}: {', '.join(found)}. Give one of these.")
        gone = (self.folder / REMOVED / name).exists()
        why = f"{name} was removed" if gone else f"No adapter named {name!r}"
        raise UnknownAdapterError(f"{why}. Known: {', '.join(names) or 'none'}.")

    def check(self, adapter: Adapter) -> Adapter:
        """The adapter, once its files were read and found to be what its card and its name say.

        Raises:
            AdapterDamagedError: a file is missing, cut off or changed, or one was added that may run code.
        """
        card, folder = adapter.card, adapter.folder
        there = {file.name for file in folder.iterdir() if file.is_file()} if folder.is_dir() else set()
        wrong = [f"{name} is missing" for name in card.files if name not in there]
        wrong += [
            f"{name} was changed" for name, sha in card.files.items() if name in there and _sha256(folder / name) != sha
        ]
        wrong += [f"{name} may run code" for name in sorted(there) if Path(name).suffix not in _KEPT]
        if not wrong and f"{card.name}@{_content(folder, card.base)}" != folder.name:
            wrong = ["its name is that of other weights"]
        if wrong:
            raise AdapterDamagedError(
                f"{folder} is not what was registered: {', '.join(wrong)}. Do not serve it; train it again."
            )
        return adapter

    def remove(self, name: str) -> Path:
        """Move an entry away, after the ledger was told to retire it, and give its new folder. Its name stays taken.

        Raises:
            UnknownAdapterError: see `get`.
        """
        adapter = self.get(name)
        target = self.folder / REMOVED / adapter.full_name
        target.parent.mkdir(exist_ok=True)
        adapter.folder.rename(target)
        return target

    def _entries(self) -> Iterator[Path]:
        if self.folder.is_dir():
            yield from (folder for folder in self.folder.iterdir() if "@" in folder.name and folder.name[0] != ".")

    def _read(self, folder: Path) -> Adapter:
        try:
            card = AdapterCard.model_validate_json((folder / CARD).read_bytes())
        except (OSError, ValidationError) as error:
            what = error.strerror if isinstance(error, OSError) else "it is malformed"
            raise AdapterDamagedError(f"Cannot read {folder / CARD}: {what}. Register the adapter again.") from error
        return Adapter(folder, card)


def adapter_record(adapter: Adapter, *, generation: int = 0) -> Record:
    """The adapter as memory knows it: a child of its data set and of its parent adapters, a candidate until proved."""
    card = adapter.card
    return new_record(
        "adapter",
        adapter.full_name,
        parents=(*([card.dataset] if card.dataset else []), *(adapter_id(parent) for parent in card.parents)),
        meta={"base": card.base, "hash": card.hash, "bytes": card.bytes, "parameters": card.parameters},
        generation=generation,
    )


def adapter_id(full_name: str) -> str:
    """Id of the record of the adapter called so."""
    return record_id("adapter", full_name, Scope())


def differences(one: Adapter, other: Adapter) -> dict[str, tuple[Any, Any]]:
    """What the two cards say differently, by field (`config.rank`); None where one says nothing of it."""
    left, right = _facts(one.card), _facts(other.card)
    return {
        key: (left.get(key), right.get(key))
        for key in dict.fromkeys((*left, *right))
        if left.get(key) != right.get(key)
    }


def model_card(card: AdapterCard) -> str:
    """The card as a page for people, with the front matter that model hubs read."""
    facts = {
        "base": card.base,
        "data set": f"{card.dataset} ({card.dataset_hash})" if card.dataset else "none",
        "parents": ", ".join(card.parents) or "none",
        "created": card.created,
        "parameters": f"{card.parameters:,}",
        "size": f"{card.bytes:,} bytes",
    }
    table = "\n".join(f"| {name} | {value} |" for name, value in facts.items())
    blocks = "".join(
        f"\n## {title}\n\n```json\n{json.dumps(values, indent=1, sort_keys=True)}\n```\n"
        for title, values in (("Training", card.config), ("Metrics", card.metrics))
        if values
    )
    front = f"---\nbase_model: {json.dumps(card.base)}\nlibrary_name: peft\ntags: [lora, evolvent]\n---\n"
    return f"{front}\n# {card.name}@{card.hash}\n\n| | |\n|---|---|\n{table}\n{blocks}"


# -- inside ------------------------------------------------------------------------------------------------------------


def _content(folder: Path, base: str) -> str:
    """Hash of what an adapter is.

    PEFT writes the modules as a set, in any order, and the base as the path it was loaded from; neither makes another
    adapter.
    """
    config = json.loads((folder / CONFIG_FILE).read_bytes())
    plain = {key: sorted(value) if _is_set(value) else value for key, value in config.items()}
    about = json.dumps({**plain, "base_model_name_or_path": base}, sort_keys=True)
    return hashlib.sha256(f"{_sha256(folder / WEIGHTS_FILE)}\n{about}".encode()).hexdigest()[:12]


def _is_set(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(each, str) for each in value)


def _parameters(folder: Path) -> int:
    """How many there are in an adapter that is whole.

    Raises:
        AdapterDamagedError: it is not.
    """
    from safetensors import SafetensorError, safe_open

    again = "Expected what PEFT's save_pretrained writes; save it again."
    if (folder / "adapter_model.bin").exists() and not (folder / WEIGHTS_FILE).exists():
        raise AdapterDamagedError(f"{folder} holds pickled weights, which may run code when read. Save as safetensors.")
    try:
        if not isinstance(json.loads((folder / CONFIG_FILE).read_bytes()), dict):
            raise ValueError("it holds no object")
        with safe_open(folder / WEIGHTS_FILE, framework="numpy") as tensors:
            names = tensors.keys()  # the file cannot be iterated by itself
            return sum(math.prod(tensors.get_slice(name).get_shape()) for name in names)
    except OSError as error:
        missing = [name for name in (CONFIG_FILE, WEIGHTS_FILE) if not (folder / name).exists()]
        what = f"{', '.join(missing)} is missing" if missing else str(error)
        raise AdapterDamagedError(f"No adapter in {folder}: {what}. {again}") from error
    except SafetensorError as error:
        raise AdapterDamagedError(f"{folder / WEIGHTS_FILE} is cut off or damaged: {error}. {again}") from error
    except ValueError as error:
        raise AdapterDamagedError(f"{folder / CONFIG_FILE} is no configuration: {error}. {again}") from error


def _facts(card: AdapterCard) -> dict[str, Any]:
    """Fields by dotted name, but for the files, whose difference the hash tells."""
    flat: dict[str, Any] = {}
    for key, value in card.model_dump(exclude={"files"}, mode="json").items():
        flat |= {f"{key}.{inner}": each for inner, each in value.items()} if isinstance(value, dict) else {key: value}
    return flat


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
