"""A directory with a memory, as the command line opens it, with the embedder it was written with, and decides in it."""

from __future__ import annotations

import re
import sqlite3
import zlib
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from evolvent.agents.errors import SetupError

if TYPE_CHECKING:
    from evolvent.memory.embedding import Embedder, MiniLM
    from evolvent.memory.store import Memory
    from evolvent.memory.types import EventKind, Record, Status

STANDINGS: Mapping[EventKind, tuple[Status, ...]] = {
    "retire": ("quarantined", "candidate", "active"),
    "restore": ("retired", "quarantined"),
}
"""Of which standing a record may be for each decision by hand."""


@contextmanager
def opened(directory: Path, *, writing: bool = False, embedding: bool = False) -> Iterator[Memory]:
    """The memory of a run, or of any directory that holds a ledger.

    Args:
        embedding: texts will be embedded or vectors compared, so only the right embedder will do; so it is for writing.

    Raises:
        SetupError: the right embedder is none of ours.
        MemoryStoreError: see `Memory.open`; nothing is made where there is no ledger, and damage is told as such.
    """
    from pydantic import ValidationError

    from evolvent.memory.embedding import HashEmbedder
    from evolvent.memory.errors import LedgerUnreadableError
    from evolvent.memory.store import Memory

    try:
        name = embedder_name(directory)
        embedder = built(name)
        if embedder is None and (writing or embedding):
            raise SetupError(
                f"{directory} was written with the embedder {name!r}, which is none of ours (minilm, hash). "
                "Open it in Python: Memory.open(DIR, embedder=...)."
            )
        with Memory.open(directory, embedder=embedder or HashEmbedder(), read_only=not writing) as memory:
            yield memory
    except (sqlite3.DatabaseError, zlib.error, ValidationError) as error:
        what = str(error).splitlines()[0]
        raise LedgerUnreadableError(
            f"{directory / 'ledger.sqlite'} is damaged: {what}. `evolvent memory fsck {directory}` says where."
        ) from error


def decided(directory: Path, verdict: EventKind, record_id: str, reason: str) -> str:
    """The commit of a decision by hand about a record that must be there, in one of `STANDINGS`.

    Raises:
        UnknownRecordError, SetupError: there is no such record, or it stands elsewhere.
        LedgerLockedError: a run is writing; nothing was changed.
    """
    from evolvent.memory.errors import UnknownRecordError

    with opened(directory, writing=True) as memory:
        record = memory.records().get(record_id)
        if record is None:
            raise UnknownRecordError(
                f"No record {record_id!r} in {directory}. `evolvent memory ls {directory}` lists the ids."
            )
        if record.status not in STANDINGS[verdict]:
            raise SetupError(
                f"{record_id} is {record.status}; expected one that is {' or '.join(STANDINGS[verdict])}. "
                f"`evolvent memory show {directory} {record_id}` says why."
            )
        return decide(memory, verdict, record, reason)


def decide(memory: Memory, verdict: EventKind, record: Record, reason: str) -> str:
    """The commit of a decision by hand about a record, which is added first where memory lacks it."""
    from evolvent.memory.types import Event

    commits = memory.ledger.commits()
    added = [] if record.id in memory.records() else [Event("add", record.id, record)]
    payload = {"by": "hand", **({"reason": reason} if reason else {})}
    key = f"{verdict}/{record.id}@{memory.ledger.head()}"  # of its own: a decision may be taken again after a revert
    generation = commits[-1].generation if commits else 0
    return memory.commit(key, [*added, Event(verdict, record.id, payload=payload)], generation=generation, note=reason)


def embedder_name(directory: Path) -> str:
    """That of most vectors in the ledger; without any, what the run is configured with; without a run, `minilm`."""
    from evolvent.agents.run import read_config
    from evolvent.memory.episodes import Episodes

    with closing(Episodes(directory / "ledger.sqlite", read_only=True)) as file:
        names = file.embedders()
    if names:
        return names[0]
    return read_config(directory).embedder if (directory / "config.json").exists() else "minilm"


def built(name: str) -> Embedder | None:
    """The embedder called so on the command line or in a ledger, None if it is none of ours. Loads no weights."""
    from evolvent.memory.embedding import HashEmbedder, MiniLM

    if name in ("minilm", MiniLM.name):
        return _minilm()
    hashing = re.fullmatch(r"hash(?:-(\d+))?", name)
    return HashEmbedder(*map(int, filter(None, hashing.groups()))) if hashing else None


@cache
def _minilm() -> MiniLM:
    """One for the process, whatever directories it opens: its weights take 90 MB."""
    from evolvent.memory.embedding import MiniLM

    return MiniLM()
