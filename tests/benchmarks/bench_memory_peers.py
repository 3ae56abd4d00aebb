"""CPU per search beside langmem (its search tool over LangGraph's InMemoryStore) and mem0 (local Qdrant), offline.

    pip install -c constraints.txt 'evolvent[peers]'
    python tests/benchmarks/bench_memory_peers.py [--sizes 1000 10000]

All sides hold the same generated texts and ask the same queries for the ten best; their embedder is one table of
vectors, so that embedding costs the same nothing everywhere. CPU is that of the process, all threads.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from bench_memory_scale import QUERIES, K, Prepared, ingest, prepared, texts

from evolvent.memory.embedding import HashEmbedder
from evolvent.memory.store import Memory

SIZES = (1_000, 10_000)
PEERS = {"langmem": "langmem", "mem0ai": "mem0"}
"""Distributions and what is imported of them."""
INSTALL = "pip install -c constraints.txt 'evolvent[peers]'"

Ask = Callable[[str], Sequence[Any]]


@contextmanager
def evolvent(lines: Sequence[str], table: Prepared, folder: Path, mode: str) -> Iterator[Ask]:
    with Memory.open(folder / mode, embedder=table) as memory:
        ingest(memory, lines)
        yield lambda query: memory.search(query, k=K, mode=mode)


@contextmanager
def langmem(lines: Sequence[str], table: Prepared, folder: Path) -> Iterator[Ask]:
    from langgraph.store.memory import InMemoryStore
    from langmem import create_search_memory_tool

    store = InMemoryStore(index={"dims": table.dim, "embed": lambda some: table.embed(some).tolist()})
    for number, line in enumerate(lines):
        store.put(("memories",), str(number), {"content": line}, index=["content"])
    tool = create_search_memory_tool(("memories",), store=store)
    yield lambda query: json.loads(tool.invoke({"query": query, "limit": K}))


@contextmanager
def mem0ai(lines: Sequence[str], table: Prepared, folder: Path) -> Iterator[Ask]:
    os.environ |= {"MEM0_TELEMETRY": "False", "MEM0_DIR": str(folder / "mem0")}
    from langchain_core.embeddings import Embeddings
    from langchain_core.language_models import FakeListChatModel
    from mem0 import Memory as Mem0

    class Table(Embeddings):
        def embed_documents(self, texts: list[str]) -> list[list[float]]:
            return [[float(x) for x in vector] for vector in table.embed(texts)]

        def embed_query(self, text: str) -> list[float]:
            return self.embed_documents([text])[0]

    memory = Mem0.from_config(
        {
            "vector_store": {
                "provider": "qdrant",
                "config": {"path": str(folder / "qdrant"), "embedding_model_dims": table.dim, "on_disk": False},
            },
            "embedder": {"provider": "langchain", "config": {"model": Table()}},
            "llm": {"provider": "langchain", "config": {"model": FakeListChatModel(responses=[""])}},
            "history_db_path": str(folder / "history.db"),
        }
    )
    # Its own `add` costs 100 ms an item; what it writes for one is inserted in bulk, for only searches are timed.
    for start in range(0, len(lines), 1000):
        part = list(lines[start : start + 1000])
        memory.vector_store.insert(
            vectors=table.embed(part).tolist(),
            payloads=[{"data": line, "text_lemmatized": line.lower(), "user_id": "ann"} for line in part],
            ids=[start + number for number in range(len(part))],
        )
    yield lambda query: memory.search(query, top_k=K, filters={"user_id": "ann"}, threshold=0.0)["results"]


def cpu_ms(ask: Ask, queries: int = QUERIES) -> float:
    """Per search, after three to warm up."""
    for query in range(3):
        assert len(ask(f"query {query}")) == K
    start = time.process_time()
    for query in range(queries):
        ask(f"query {query}")
    return round(1000 * (time.process_time() - start) / queries, 3)


def missing() -> dict[str, str]:
    """Peers that are not installed, and what to do."""
    return {
        distribution: f"{distribution} is not installed: {INSTALL}"
        for distribution, module in PEERS.items()
        if find_spec(module) is None
    }


def measure(size: int, folder: Path) -> dict[str, Any]:
    table, lines = prepared(folder, size, HashEmbedder(384)), list(texts(size))
    figures: dict[str, Any] = {"size": size, "skipped": list(missing().values())}
    for mode in ("dense", "hybrid"):
        with evolvent(lines, table, folder, mode) as ask:
            figures[f"ours {mode}"] = cpu_ms(ask)
    for name, peer in (("langmem", langmem), ("mem0ai", mem0ai)):
        if name not in missing():
            with peer(lines, table, folder) as ask:
                figures[name] = cpu_ms(ask)
    return figures


@pytest.mark.slow
@pytest.mark.parametrize("peer", PEERS)
def test_a_search_takes_a_fifth_of_the_cpu_that_a_peer_takes(peer: str, tmp_path: Path) -> None:
    if peer in missing():
        pytest.skip(missing()[peer])
    figures = measure(10_000, tmp_path)
    assert figures[peer] >= 5 * figures["ours dense"]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="*", default=SIZES)
    for size in parser.parse_args().sizes:
        with tempfile.TemporaryDirectory() as folder:
            print(json.dumps(measure(size, Path(folder))), flush=True)


if __name__ == "__main__":
    main()
