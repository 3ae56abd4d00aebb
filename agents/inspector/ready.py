"""What a large memory's pages need and takes seconds to make.

The largest ledger is read before the server answers. Indexes, embeddings and counts are made in a thread of their own
once somebody looks at a run; a page that comes too early waits, or says what is still to come.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from threading import Lock, Thread
from time import sleep
from typing import Any

from evolvent.agents.findings import Reading
from evolvent.agents.inspector.library import Library, Run
from evolvent.agents.memory_directory import built, embedder_name
from evolvent.memory.cache import find
from evolvent.memory.embedding import MiniLM
from evolvent.memory.history import by_status
from evolvent.memory.ledger import Ledger
from evolvent.memory.retrieval import RETRIEVERS
from evolvent.memory.types import LEARNED, Status

LARGE = 5_000
"""Records from which on the growth of a memory is counted in the background, and its search made ready there."""
_LARGE_BYTES = 20_000_000
"""A ledger that is read when the server starts, and not when somebody looks at it first."""
_LET_PAGE_S = 1.0
"""The page that found something missing is made and drawn first."""

Growth = Mapping[int, Mapping[Status, int]]


@dataclass
class Ready:
    """Of one run, as far as it has come."""

    search: bool = False
    growth: Growth | None = None
    of: str = ""
    """The commit that the growth leads to."""
    _busy: bool = False
    _lock: Lock = field(default_factory=Lock)

    def begin(self, work: Callable[[], Any], *, wait_s: float = 0) -> None:
        """Do it in the background, unless something is being done there already; begins after a while."""
        with self._lock:
            if self._busy:
                return
            self._busy = True

        def worked() -> None:
            sleep(wait_s)
            Reading().attempt("", work)  # what is damaged is told by the page that shows it
            self._busy = False

        Thread(target=worked, daemon=True).start()


def ready(run: Run, head: str, records: int) -> Ready:
    """How far it is, with what is missing begun. Of a small memory nothing is: it is quick enough when it is asked."""
    state = run.kept("ready", Ready, files=())
    large = records >= LARGE
    loads = isinstance(built(embedder(run)), MiniLM) and find("minilm") is not None
    if not large and not loads:
        state.search = True
    if not state.search or (large and state.of != head):
        state.begin(lambda: _prepare(run, state, head, large), wait_s=_LET_PAGE_S)
    return state


def unusable(run: Run) -> str:
    """Why nothing can be compared by meaning in this memory; empty where it can."""
    name = embedder(run)
    known = built(name)
    if known is None:
        return f"Its texts were embedded by {name!r}, which is none of ours (minilm, hash)."
    if isinstance(known, MiniLM) and find("minilm") is None:
        return "The weights of its embedder are not on this machine; `evolvent models pull minilm` fetches them."
    return ""


def embedder(run: Run) -> str:
    """See `embedder_name`; it never changes in a run."""
    return run.kept("embedder", lambda: embedder_name(run.path), files=("config.json",))


def read_largest(library: Library) -> None:
    """Read the largest ledger, if it is large: seconds before the server answers, and not while somebody waits."""
    sizes = {run: ledger.stat().st_size for run in library.runs() if (ledger := run.path / "ledger.sqlite").exists()}
    run = max(sizes, key=lambda each: sizes[each], default=None)
    if run is None or sizes[run] < _LARGE_BYTES:
        return

    def read() -> None:
        with run.memory() as memory:
            memory.records()

    Reading().attempt("", read)  # what is damaged is told by the page that shows it


def _prepare(run: Run, state: Ready, head: str, large: bool) -> None:
    if not state.search:
        with run.memory() as memory:
            embeds = memory.embedder
            snapshot = memory.snapshot() if large else None
        modes = ["bm25"] if unusable(run) else list(RETRIEVERS)
        if "dense" in modes:
            embeds.embed(["ready"])  # loads the model
        for mode in modes if snapshot else ():
            assert snapshot is not None
            snapshot.search("ready", k=1, mode=mode)
        state.search = True
    if large:
        # With a connection of its own: nobody waits meanwhile.
        with closing(Ledger(run.path / "ledger.sqlite", read_only=True)) as ledger:
            of = ledger.head()
            state.growth = by_status(ledger, LEARNED)
            state.of = of
