"""Which runs there are under a directory, and one opened to be looked at. Nothing outside it is ever read."""

from __future__ import annotations

import os
import sqlite3
import threading
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from evolvent.agents.errors import AgentError, RunDirectoryError, SetupError
from evolvent.agents.findings import Reading
from evolvent.agents.memory_directory import built, embedder_name
from evolvent.agents.run import RunConfig, read_config
from evolvent.memory.embedding import Embedder, HashEmbedder
from evolvent.memory.store import Memory

T = TypeVar("T")
_FILES = ("config.json", "ledger.sqlite", "trace.jsonl", "metrics.jsonl")
_BESIDE = ("ledger.sqlite-wal", "controls", "controls/ledger.sqlite", "controls/ledger.sqlite-wal")
"""Read with a run's own files."""
_WATCHED = ("config.json", "ledger.sqlite", "ledger.sqlite-wal", "metrics.jsonl", "trace.jsonl")
_DEPTH = 3
"""Folders below DIR in which runs are looked for: a benchmark keeps its runs two below."""
_MOST = 500


class Run:
    """One run directory, read-only. Any number of threads may look at once; they take turns at its memory."""

    def __init__(self, name: str, path: Path) -> None:
        self.name = name
        self.path = path
        self._lock = threading.RLock()
        self._memory: Memory | None = None
        self._opened: tuple[int, int] | None = None
        """Device and inode of the ledger that is open: another file in its place is opened anew."""
        self._kept: dict[str, tuple[object, object]] = {}

    def config(self) -> RunConfig:
        """
        Raises:
            RunDirectoryError: there is none that can be read.
        """
        return read_config(self.path)

    @contextmanager
    def memory(self) -> Iterator[Memory]:
        """Its memory as it is now; nobody else reads it meanwhile.

        Where the ledger's embedder is none of ours, texts are compared by their words.

        Raises:
            MemoryStoreError: there is no ledger, or it cannot be read.
        """
        with self._lock:
            ledger = self.path / "ledger.sqlite"
            there = (found.st_dev, found.st_ino) if (found := _stat(ledger)) else None
            if self._memory is not None and there != self._opened:
                self.close()
            if self._memory is None:
                self._memory = Memory.open(self.path, embedder=_embedder(self.path), read_only=True)
                self._opened = there
            try:
                yield self._memory
            except (sqlite3.Error, zlib.error):
                self.close()  # what is damaged is not trusted to answer the next question
                raise

    def kept(self, key: str, make: Callable[[], T], *, files: tuple[str, ...] = _WATCHED) -> T:
        """What `make` gave when these files were as they are now: a page asks for the same many times."""
        stamp = self.stamp(files)
        with self._lock:
            known = self._kept.get(key)
            if known is None or known[0] != stamp:
                known = self._kept[key] = (stamp, make())
            return known[1]  # type: ignore[return-value]  # by key: what the same `make` gave

    def stamp(self, files: tuple[str, ...] = _WATCHED) -> tuple[tuple[int, int], ...]:
        """Differs once anything was written to one of the files."""
        found = [_stat(self.path / name) for name in files]
        return tuple((each.st_mtime_ns, each.st_size) if each else (0, 0) for each in found)

    def close(self) -> None:
        with self._lock:
            if self._memory is not None:
                self._memory.close()
                self._memory = None


@dataclass(frozen=True, slots=True)
class Look:
    """One request's look at a run: what could not be read is told on its page, and the rest is shown."""

    run: Run
    reading: Reading = field(default_factory=Reading)


class Library:
    """The runs in a directory: itself if it is one, and those below. New ones are found as they appear."""

    def __init__(self, root: Path) -> None:
        """
        Raises:
            SetupError: no such directory, or there is no run in it.
        """
        if not root.is_dir():
            raise SetupError(f"{root} is not a directory. Give a run's, or one that holds runs.")
        self.root = root.resolve()
        self._runs: dict[str, Run] = {}
        self._lock = threading.Lock()
        if not self.runs():
            raise SetupError(
                f"There is no run in {root}: no config.json and no ledger.sqlite. Start one with `evolvent run`."
            )

    def runs(self) -> list[Run]:
        """By name."""
        found = _by_name(self.root, self._found())
        with self._lock:
            for gone in self._runs.keys() - found.keys():
                self._runs.pop(gone).close()
            for name, path in found.items():
                if name not in self._runs:
                    self._runs[name] = Run(name, path)
            return [self._runs[name] for name in found]

    def run(self, name: str) -> Run:
        """
        Raises:
            RunDirectoryError: there is no such run here.
        """
        known = self._runs.get(name)
        if known is not None and _is_run(known.path, self.root):
            return known
        for each in self.runs():
            if each.name == name:
                return each
        raise RunDirectoryError(f"There is no run {name!r} in this directory.")

    def close(self) -> None:
        with self._lock:
            for run in self._runs.values():
                run.close()
            self._runs.clear()

    def _found(self) -> Iterator[Path]:
        count = 0
        for folder, below, _ in os.walk(self.root):  # follows no links
            path = Path(folder)
            if _is_run(path, self.root):
                yield path
                count += 1
                if count == _MOST:
                    return
            depth = len(path.relative_to(self.root).parts)
            below[:] = [] if depth >= _DEPTH else sorted(each for each in below if not each.startswith("."))


def _is_run(path: Path, root: Path) -> bool:
    """A run whose files, links followed, all lie under the root."""
    there = [path / name for name in _FILES if _stat(path / name)]
    read = (path, *there, *(path / name for name in _BESIDE if there))
    return bool(there) and all(file.resolve().is_relative_to(root) for file in read)


def _by_name(root: Path, paths: Iterable[Path]) -> dict[str, Path]:
    """Runs by what an address calls them, in its order: one part, whatever folders they lie in, and no two alike.

    `a/b` is `a~b`, and a folder that is itself called `a~b` is `a~.b`: no folder in which runs are looked for begins
    with a dot.
    """
    named = {}
    for path in paths:
        parts = (os.fsencode(part).decode("utf-8", "backslashreplace") for part in path.relative_to(root).parts)
        named["~".join(part.replace("~", "~.") for part in parts)] = path
    own = named.pop("", None)
    if own is not None:
        name = os.fsencode(root.name).decode("utf-8", "backslashreplace") or "root"
        named[f"~{name}" if name in named else name] = own
    return dict(sorted(named.items()))


def _embedder(path: Path) -> Embedder:
    """That of its ledger; texts are compared by their words where that is none of ours or nothing readable names it."""
    try:
        return built(embedder_name(path)) or HashEmbedder()
    except AgentError:
        return HashEmbedder()


def _stat(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except OSError:
        return None
