"""Where in `trace.jsonl` each model call lies: one pass over the file, and later only over what was added to it.

A trace grows to a gigabyte. Kept of a line are its end, what it has in common with many others, and the episode it is
of: 24 bytes. A call itself is read from the file when a page shows it.
"""

from __future__ import annotations

import json
import os
import threading
from array import array
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, TypeAdapter

from evolvent.agents.inspector.library import Run
from evolvent.agents.types import CallTag
from evolvent.environments.types import Phase

_HEAD = b',"messages":['
"""Ends the tag of a call in its line; inside a text its quotes would be escaped."""
_FAILED = b',"error":"'
_TAG = TypeAdapter(CallTag)


class Turn(BaseModel):
    model_config = ConfigDict(frozen=True)

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Option:
    """Something that could have been done."""

    text: str
    probability: float
    chosen: bool


def options(texts: Sequence[str], probabilities: Sequence[float], chosen: str) -> tuple[Option, ...]:
    """Likeliest first."""
    pairs = zip(texts, probabilities, strict=False)  # a model that wrote its reply was given options without odds
    found = [Option(text, probability, text == chosen) for text, probability in pairs]
    return tuple(sorted(found, key=lambda option: -option.probability))


class Call(BaseModel):
    """One line of the trace: a call of a model as it was sent, and what came back."""

    model_config = ConfigDict(frozen=True)  # what a later version adds to a line is left aside

    line: int
    """Its number in the file, from 1."""
    role: str
    phase: Phase
    generation: int
    task: str
    attempt: int
    episode: str
    purpose: str
    model: str
    messages: tuple[Turn, ...]
    reply: str
    tokens_in: int = 0
    tokens_out: int = 0
    seconds: float = 0.0
    options: tuple[str, ...] = ()
    probabilities: tuple[float, ...] = ()
    """Of `options`, where one of them was chosen."""
    error: str = ""
    """Why there was no reply."""

    @property
    def sent(self) -> tuple[tuple[str, str], ...]:
        return tuple((turn.role, turn.content) for turn in self.messages)

    @property
    def chances(self) -> tuple[Option, ...]:
        return options(self.options, self.probabilities, self.reply)

    @property
    def unfinished(self) -> bool:
        """Made in an episode; where the ledger has none of that name, it goes on still or was cut off."""
        key = f"{self.phase}/{self.generation}/{self.task}/{self.attempt}"
        return self.episode == key or self.episode.startswith(f"{key}/")


class Sort(NamedTuple):
    """What many calls have in common."""

    role: str
    purpose: str
    phase: str
    generation: int
    outcome: Literal["answered", "failed"]


class TraceIndex:
    """Lines are named by their number, from 1. Any number of threads may ask; they take turns."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.RLock()
        self._begin((0, 0))

    def _begin(self, file: tuple[int, int]) -> None:
        self._file = file
        self._ends = array("Q")
        self._sort_of = array("L")
        self._sorts: list[Sort] = []
        self._sort_numbers: dict[Sort, int] = {}
        self._lines: dict[str, dict[tuple[str, int], array[int]]] = {}
        """By the name of an episode, then by (task, generation)."""
        self._inside: set[str] = set()
        self._asked: tuple[object, int] = (None, 0)
        self._damaged: set[int] = set()

    def follow(self) -> None:
        """Read on to the last whole line; from the beginning where another file lies there now.

        Raises:
            OSError: there is no trace, or it cannot be read.
        """
        with self._lock, self._path.open("rb") as file:
            found = os.fstat(file.fileno())
            if (found.st_dev, found.st_ino) != self._file or found.st_size < self._end:
                self._begin((found.st_dev, found.st_ino))
            file.seek(self._end)
            for line in file:
                if not line.endswith(b"\n"):
                    break  # it is still being written
                self._add(line)

    def __len__(self) -> int:
        """Lines, damaged ones too."""
        return len(self._ends)

    @property
    def damaged(self) -> list[int]:
        """Lines that are no calls."""
        return sorted(self._damaged)

    def of(self, names: Collection[str]) -> list[int]:
        """Calls made under these episode names, in order."""
        with self._lock:
            return sorted(line for name in names for lines in self._lines.get(name, {}).values() for line in lines)

    def outside(
        self, known: Callable[[Collection[str]], set[str]], as_of: object, about: tuple[str, int] | None = None
    ) -> list[int]:
        """Calls of no episode that the ledger has, in order; or only those about one (task, generation).

        Args:
            known: which of these names the ledger has; it is asked once about each that it has.
            as_of: another value once the ledger may have more.
        """
        with self._lock:
            if self._asked != (as_of, len(self._lines)):
                self._inside |= known([name for name in self._lines if name and name not in self._inside])
                self._asked = (as_of, len(self._lines))
            places = (each for name, each in self._lines.items() if name not in self._inside)
            found = (lines for each in places for place, lines in each.items() if about is None or place == about)
            return sorted(line for lines in found for line in lines)

    def sort(self, line: int) -> Sort:
        return self._sorts[self._sort_of[line - 1]]

    def read(self, lines: Sequence[int]) -> list[Call]:
        """These calls; without those that turn out to be damaged, which are `damaged` from now on.

        Raises:
            OSError: the file is gone.
        """
        with self._lock:
            return list(self._calls(lines))

    @property
    def _end(self) -> int:
        return self._ends[-1] if self._ends else 0

    def _add(self, line: bytes) -> None:
        self._ends.append(self._end + len(line))
        number = len(self._ends)
        head, mark, rest = line.partition(_HEAD)
        try:
            if not mark or not rest.endswith(b"}\n"):
                raise ValueError("no call")
            tag = _TAG.validate_json(head + b"}")
        except ValueError:
            self._damaged.add(number)
            self._sort_of.append(0)
            return
        outcome: Literal["answered", "failed"] = "failed" if _FAILED in rest else "answered"
        sort = Sort(tag.role, tag.purpose, tag.phase, tag.generation, outcome)
        at = self._sort_numbers.get(sort)
        if at is None:
            at = self._sort_numbers[sort] = len(self._sorts)
            self._sorts.append(sort)
        self._sort_of.append(at)
        places = self._lines.setdefault(tag.episode, {})
        place = (tag.task, tag.generation)
        if place not in places:
            places[place] = array("L")
        places[place].append(number)

    def _calls(self, lines: Sequence[int]) -> Iterator[Call]:
        with self._path.open("rb") as file:
            for line in lines:
                start = self._ends[line - 2] if line > 1 else 0
                file.seek(start)
                try:
                    row = json.loads(file.read(self._ends[line - 1] - start).decode("utf-8", "replace"))
                    # A lone surrogate goes through JSON, but into no page.
                    text = json.dumps({**row, "line": line}, ensure_ascii=False).encode("utf-8", "replace")
                    yield Call.model_validate_json(text)
                except (ValueError, TypeError, RecursionError):  # brackets in brackets, a hundred thousand deep
                    self._damaged.add(line)


def trace(run: Run) -> TraceIndex:
    """Of the run, as far as it is written now.

    Raises:
        OSError: it has none, or it cannot be read.
    """
    found = run.kept("where calls lie", lambda: TraceIndex(run.path / "trace.jsonl"), files=())
    try:
        found.follow()
    except FileNotFoundError as error:
        raise FileNotFoundError("there is no trace.jsonl.") from error
    return found


def outside(run: Run, index: TraceIndex, about: tuple[str, int] | None = None) -> list[int]:
    """See `TraceIndex.outside`, by the run's ledger.

    Raises:
        MemoryStoreError: there is no ledger, or it cannot be read.
    """

    def known(names: Collection[str]) -> set[str]:
        with run.memory() as memory:
            return memory.ledger.known(names)

    return index.outside(known, run.stamp(("ledger.sqlite", "ledger.sqlite-wal")), about)


def damage(index: TraceIndex) -> list[str]:
    """What of a trace could not be read, as a page tells it."""
    lines = index.damaged
    return [f"The trace: {len(lines)} of its lines are no calls, the first is line {lines[0]}."] if lines else []
