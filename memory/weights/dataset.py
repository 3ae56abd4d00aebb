"""Data sets: what weights are trained on, in a fixed order, with a hash of their content and the episodes behind it.

As JSON lines they have the columns that TRL's trainers take, in conversational form, and ours beside them. Where they
come from is told by `examples.py` and `mixing.py`; what is done with them is the trainers' business.

| form         | columns for TRL                 | trainers                |
|--------------|---------------------------------|-------------------------|
| `supervised` | `prompt`, `completion`          | SFT                     |
| `labelled`   | `prompt`, `completion`, `label` | KTO, unlikelihood       |
| `preference` | `prompt`, `chosen`, `rejected`  | DPO, reward models      |

Chosen and rejected may be whole dialogues: turns of the assistant with what it was told between them. DPO takes those.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from evolvent.memory.errors import BadDataSetError
from evolvent.memory.types import Record, new_record

Messages = tuple[dict[str, str], ...]
"""A prompt as it is sent: role and content of each message."""
Reply = str | Messages
"""One turn of the assistant; or several with what it was told between them, beginning and ending with its own."""
Source = Literal["episode", "replay", "rehearsal"]
Form = Literal["supervised", "labelled", "preference"]

ROWS, CARD = "data.jsonl", "dataset.json"
_ASSISTANT = "assistant"


@dataclass(frozen=True, slots=True)
class Origin:
    trajectory: str
    step: int
    """From 0."""


@dataclass(frozen=True, slots=True)
class Example:
    """One reply to imitate, or, where it is not `desired`, to grow out of. Only the completion is in the loss."""

    messages: Messages
    completion: str
    weight: float = 1.0
    """Above 0, relative to the others."""
    source: Source = "episode"
    task: str = ""
    """`ENVIRONMENT/ID`; empty where there was none."""
    origins: tuple[Origin, ...] = ()
    """All steps in which just this was said; several where equal examples were joined."""
    records: tuple[str, ...] = ()
    """Of memory, that stand in the prompt."""
    desired: bool = True


@dataclass(frozen=True, slots=True)
class Preference:
    """Two replies to one prompt, of which one did better."""

    messages: Messages
    chosen: Reply
    rejected: Reply
    margin: float
    """How much better, in (0, 1]."""
    source: Source = "episode"
    task: str = ""
    origins: tuple[Origin, ...] = ()
    """Of both replies."""
    records: tuple[str, ...] = ()


Item = Example | Preference


class Card(BaseModel):
    """What lies beside the rows, so that a file that was cut off or changed is noticed."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    hash: str
    form: Form
    rows: int


@dataclass(frozen=True)
class DataSet:
    """Examples or preferences, in the order in which they are written.

    Raises:
        BadDataSetError: it holds both.
    """

    name: str
    items: tuple[Item, ...] = ()

    def __post_init__(self) -> None:
        if len({isinstance(item, Preference) for item in self.items}) > 1:
            raise BadDataSetError(f"Data set {self.name!r} mixes examples and preferences; make one of each.")

    def __len__(self) -> int:
        return len(self.items)

    @cached_property
    def form(self) -> Form:
        if self.items and isinstance(self.items[0], Preference):
            return "preference"
        return "supervised" if all(isinstance(item, Example) and item.desired for item in self.items) else "labelled"

    @property
    def examples(self) -> tuple[Example, ...]:
        """Empty for a set of preferences."""
        return tuple(item for item in self.items if isinstance(item, Example))

    @cached_property
    def rows(self) -> tuple[dict[str, Any], ...]:
        """One for each item, with the columns of its form first."""
        return tuple(_row(item, labelled=self.form == "labelled") for item in self.items)

    @cached_property
    def hash(self) -> str:
        """Twelve hex digits of the SHA-256 of the JSON lines; the name is no part of it."""
        return hashlib.sha256(self._lines).hexdigest()[:12]

    @property
    def parents(self) -> tuple[str, ...]:
        """Ids of all trajectories, then of all records, behind it."""
        trajectories = {origin.trajectory for item in self.items for origin in item.origins}
        records = {record for item in self.items for record in item.records}
        return (*sorted(trajectories), *sorted(records))

    def split(self, validation_share: float, seed: int) -> tuple[DataSet, DataSet]:
        """(training, validation) sets that have no task in common; the share is one of tasks, rounded.

        What has no task counts as one of its own for each prompt.

        Raises:
            ValueError: a share outside [0, 1].
        """
        if not 0 <= validation_share <= 1:
            raise ValueError(f"validation_share is {validation_share!r}; expected a number from 0 to 1.")
        tasks = sorted({_task(item) for item in self.items})
        held = set(random.Random(f"split/{seed}").sample(tasks, round(validation_share * len(tasks))))
        kept = tuple(item for item in self.items if _task(item) not in held)
        out = tuple(item for item in self.items if _task(item) in held)
        return DataSet(f"{self.name}-train", kept), DataSet(f"{self.name}-validation", out)

    @cached_property
    def _lines(self) -> bytes:
        return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in self.rows).encode()


def ordered(name: str, items: Iterable[Item]) -> DataSet:
    """A data set in an order that does not depend on that of `items`, without anything said twice.

    Equal examples (prompt and completion) become one, with all their origins, the largest of their weights and the
    source of the first; so do equal preferences, with the largest margin. A completion that is desired somewhere is
    desired: what failed once and worked once is nothing to grow out of.
    """
    joined: dict[str, Item] = {}
    for item in items:
        key = said(item)
        joined[key] = _join(joined[key], item) if key in joined else item
    return DataSet(name, tuple(sorted(joined.values(), key=_place)))


def said(item: Item) -> str:
    """The prompt and the replies, as one text that is equal where they are."""
    return json.dumps([item.messages, *_replies(item)])


def first_turn(item: Item) -> str:
    """What is answered to the prompt, where the reply is a good one: the assistant's next turn."""
    reply = item.completion if isinstance(item, Example) else item.chosen
    return reply if isinstance(reply, str) else reply[0]["content"]


def write_jsonl(dataset: DataSet, folder: str | Path) -> Path:
    """Write rows and card to `folder` by one rename, and give the file of the rows.

    The same content may be written there again; `datasets.load_dataset("json", data_files=...)` reads it.

    Raises:
        BadDataSetError: the folder holds something else.
    """
    folder = Path(folder)
    if folder.exists():
        known = read_jsonl(folder)
        if (known.name, known.hash) != (dataset.name, dataset.hash):
            raise BadDataSetError(
                f"{folder} holds the data set {known.name}@{known.hash}, not {dataset.name}@{dataset.hash}; "
                "write to a new folder."
            )
        return folder / ROWS
    card = Card(name=dataset.name, hash=dataset.hash, form=dataset.form, rows=len(dataset))
    building = folder.with_name(f".{folder.name}.writing-{os.getpid()}")
    building.mkdir(parents=True)
    try:
        (building / ROWS).write_bytes(dataset._lines)
        (building / CARD).write_text(card.model_dump_json(indent=1), "utf-8")
        building.rename(folder)
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return folder / ROWS


def read_jsonl(folder: str | Path) -> DataSet:
    """The data set that `write_jsonl` wrote.

    Raises:
        BadDataSetError: none there, or it was cut off or changed since; names the line where there is one.
    """
    folder = Path(folder)
    try:
        card = Card.model_validate_json((folder / CARD).read_bytes())
        lines = (folder / ROWS).read_bytes()
    except (OSError, ValidationError) as error:
        what = error.strerror if isinstance(error, OSError) else f"{CARD} is malformed"
        raise BadDataSetError(f"No data set in {folder}: {what}. Expected {ROWS} and {CARD}.") from error
    found = hashlib.sha256(lines).hexdigest()[:12]
    if found != card.hash:
        count = lines.count(b"\n")
        raise BadDataSetError(
            f"{folder / ROWS} has {count} lines and the hash {found}; its card says {card.rows} and {card.hash}. "
            "It was cut off or changed: make it again."
        )
    items = []
    for number, line in enumerate(lines.decode().split("\n")[:-1], start=1):
        try:
            items.append(_item(json.loads(line)))
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise BadDataSetError(f"Line {number} of {folder / ROWS} is no row of a data set: {error}") from error
    return DataSet(card.name, tuple(items))


def dataset_record(dataset: DataSet, *, generation: int = 0) -> Record:
    """The data set as memory knows it: a child of everything it was made from."""
    trajectories = {origin.trajectory for item in dataset.items for origin in item.origins}
    noun = {"supervised": "example", "labelled": "labelled example", "preference": "preference"}[dataset.form]
    count = f"{_counted(len(dataset), noun)} from {_counted(len(trajectories), 'trajectory')}"
    sources = sorted({item.source for item in dataset.items})
    return new_record(
        "dataset",
        f"{dataset.name}@{dataset.hash}: {count}",
        parents=dataset.parents,
        meta={
            **{"name": dataset.name, "hash": dataset.hash, "form": dataset.form},
            **{"rows": len(dataset), "sources": sources},
        },
        generation=generation,
    )


# -- inside ----------------------------------------------------------------------------------------------------------


def _row(item: Item, *, labelled: bool) -> dict[str, Any]:
    own: dict[str, Any]
    if isinstance(item, Example):
        label = {"label": item.desired} if labelled else {}
        own = {"completion": _turns(item.completion), **label, "weight": float(item.weight)}
    else:
        own = {"chosen": _turns(item.chosen), "rejected": _turns(item.rejected), "margin": float(item.margin)}
    return {
        "prompt": list(item.messages),
        **own,
        **{"source": item.source, "task": item.task},
        **{"origins": [asdict(origin) for origin in item.origins], "records": list(item.records)},
    }


def _item(row: Mapping[str, Any]) -> Item:
    both = {key: row[key] for key in ("source", "task", "origins", "records")} | {"messages": row["prompt"]}
    if "chosen" in row:
        replies = {key: row[key] if len(row[key]) > 1 else row[key][0]["content"] for key in ("chosen", "rejected")}
        return _PREFERENCE.validate_python({**both, **replies, "margin": row["margin"]})
    own = {"completion": row["completion"][0]["content"], "desired": row.get("label", True), "weight": row["weight"]}
    return _EXAMPLE.validate_python({**both, **own})


_EXAMPLE, _PREFERENCE = TypeAdapter(Example), TypeAdapter(Preference)


def _turns(reply: Reply) -> list[dict[str, str]]:
    return list(reply) if isinstance(reply, tuple) else [{"role": _ASSISTANT, "content": reply}]


def _join(one: Item, other: Item) -> Item:
    origins = tuple(sorted({*one.origins, *other.origins}, key=lambda origin: (origin.trajectory, origin.step)))
    records = tuple(sorted({*one.records, *other.records}))
    task = min(one.task, other.task)
    if isinstance(one, Preference) and isinstance(other, Preference):
        return replace(one, margin=max(one.margin, other.margin), task=task, origins=origins, records=records)
    assert isinstance(one, Example)
    assert isinstance(other, Example)
    if one.desired != other.desired:
        return one if one.desired else other
    return replace(one, weight=max(one.weight, other.weight), task=task, origins=origins, records=records)


def _place(item: Item) -> tuple[object, ...]:
    """Where it stands: by what was played first, then by what is said."""
    first = [(origin.trajectory, origin.step) for origin in item.origins]
    replies = [each if isinstance(each, str) else json.dumps(each) for each in _replies(item)]
    return min(first, default=("", 0)), json.dumps(item.messages), replies


def _replies(item: Item) -> tuple[Reply, ...]:
    return (item.completion,) if isinstance(item, Example) else (item.chosen, item.rejected)


def _counted(count: int, noun: str) -> str:
    plural = f"{noun[:-1]}ies" if noun.endswith("y") else f"{noun}s"
    return f"{count} {noun if count == 1 else plural}"


def _task(item: Item) -> tuple[str, str]:
    return ("task", item.task) if item.task else ("prompt", json.dumps(item.messages))
