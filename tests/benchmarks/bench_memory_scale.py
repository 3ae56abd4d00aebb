"""Search, ingest, memory and disk at size, beside bare Chroma with the same vectors.

    python tests/benchmarks/bench_memory_scale.py --work DIR [--sizes 1000 3000 10000 30000 100000] [--million]

Texts are generated and embedded with MiniLM once (a quarter of an hour of one core for 100,000; kept in DIR). Embedding
is left out on both sides: the vectors are at hand. Bare Chroma keeps vectors, texts and one field; what the same
metadata as ours would cost it is measured too. Of the records 1, 10 and 50 % lie in a scope of their own. Queries
are put to all ways in turn, so that other work on the machine slows all alike. `--million` adds 1,000,000 records of
ours: vectors are perturbed copies, the Chroma index is left out, and bare Chroma is extrapolated from the sizes run.
"""

from __future__ import annotations

import argparse
import gc
import json
import random
import re
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evolvent.memory.chroma import metadata
from evolvent.memory.embedding import Embedder, Floats, HashEmbedder, MiniLM
from evolvent.memory.ledger import Ledger
from evolvent.memory.retrieval import RETRIEVERS
from evolvent.memory.store import Memory
from evolvent.memory.types import Event, Record, Scope, new_record

SIZES = (1_000, 3_000, 10_000, 30_000, 100_000)
BATCH = 1000
QUERIES = 100
K = 10
SHARES = {"1%": range(1), "10%": range(1, 11), "50%": range(11, 61), "rest": range(61, 100)}
Facts = Callable[[Record], dict[str, Any]]
SCOPE_OF = [name for name, part in SHARES.items() for _ in part]
THINGS = (
    *("hinge", "lantern", "pump", "ledger", "kettle", "bridge", "engine", "garden", "invoice", "compass"),
    *("server", "violin", "furnace", "sail", "harvest", "cellar", "treaty", "turbine", "library", "anvil"),
)
STATES = (
    *("rusted", "leaking", "jammed", "overdue", "cracked", "flooded", "silent", "crooked", "frozen", "unlit"),
    *("overheated", "misaligned", "empty", "noisy", "locked", "torn", "missing", "brittle", "dusty", "unstable"),
)
VERBS = (
    *("file", "clamp", "oil", "measure", "label", "drain", "replace", "polish", "tighten", "weigh", "copy"),
    *("rinse", "solder", "sort", "patch", "bind", "cool", "unfold", "seal", "sharpen"),
)
TOOLS = (
    *("wrench", "brush", "ruler", "notebook", "hammer", "rope", "mirror", "chisel", "spreadsheet", "needle"),
    *("lamp", "bucket", "thermometer", "ladder", "magnet", "sieve", "key", "stencil", "crate", "glove"),
)
REASONS = (
    *("the next customer asks for it", "it saves two steps", "the score drops otherwise", "steam ruins the joint"),
    *("nobody checks it later", "the price doubles at noon", "wood swells overnight", "the guard counts them"),
    *("a late answer is worth nothing", "the first try always fails", "salt eats the surface"),
    "it was true in four of five episodes",
)


def texts(count: int, *, seed: int = 0) -> Iterator[str]:
    """Lessons, the same ones first whatever the count; each names its number."""
    draw = random.Random(seed)
    for number in range(count):
        yield (
            f"When the {draw.choice(THINGS)} is {draw.choice(STATES)}, {draw.choice(VERBS)} it with the "
            f"{draw.choice(TOOLS)} before you {draw.choice(VERBS)} the {draw.choice(THINGS)} in bay {number}, "
            f"because {draw.choice(REASONS)}."
        )


class Prepared:
    """An embedder that looks vectors up by the number in the text; past the last one it perturbs earlier ones."""

    name = "prepared"

    def __init__(self, base_ND: Floats, queries_QD: Floats) -> None:
        self.base_ND = base_ND
        self.dim = base_ND.shape[1]
        self._queries = {f"query {q}": vector for q, vector in enumerate(queries_QD)}

    def embed(self, texts: Sequence[str]) -> Floats:
        if texts and texts[0] in self._queries:
            return np.stack([self._queries[text] for text in texts])
        numbers = [int(found.group(1)) for text in texts if (found := re.search(r"in bay (\d+)", text))]
        return self.vectors(np.array(numbers))

    def vectors(self, numbers: np.ndarray[Any, np.dtype[np.intp]]) -> Floats:
        size = len(self.base_ND)
        vectors_ND = self.base_ND[numbers % size].copy()
        copies = numbers >= size
        others = (numbers * 7919 + numbers // size) % size
        vectors_ND[copies] += 0.3 * self.base_ND[others[copies]]
        vectors_ND[copies] /= np.linalg.norm(vectors_ND[copies], axis=1, keepdims=True)
        return vectors_ND


def prepared(work: Path, count: int, model: Embedder) -> Prepared:
    """Vectors of the first `count` texts, embedded when `work` does not hold them, and of queries about them."""
    kept = work / f"{model.name}-{count}.npy"
    if not kept.exists():
        everything = list(texts(count))
        parts = [model.embed(everything[start : start + BATCH]) for start in range(0, count, BATCH)]
        np.save(kept, np.concatenate(parts))
    return Prepared(np.load(kept), model.embed([text.split(" in bay")[0] for text in texts(QUERIES, seed=1)]))


def lessons(lines: Sequence[str], start: int = 0) -> list[Record]:
    return [
        new_record("rule", text, Scope(SCOPE_OF[number % 100]), parents=(f"t{number // 3}",))
        for number, text in enumerate(lines, start=start)
    ]


def ingest(memory: Memory, lines: Sequence[str], batch: int = BATCH) -> None:
    for start in range(0, len(lines), batch):
        events = [Event("add", record.id, record) for record in lessons(lines[start : start + batch], start)]
        memory.commit(f"batch/{start}", events, generation=0)


def bare_chroma(folder: Path, lines: Sequence[str], embedder: Prepared, facts: Facts) -> Any:
    import chromadb
    from chromadb.config import Settings

    client = chromadb.PersistentClient(str(folder), settings=Settings(anonymized_telemetry=False))
    collection = client.create_collection("rules", embedding_function=None, configuration={"hnsw": {"space": "cosine"}})
    for start in range(0, len(lines), BATCH):
        numbers = np.arange(start, min(start + BATCH, len(lines)))
        part = list(lines[start : start + BATCH])
        collection.add(
            ids=[f"rule-{number:012}" for number in numbers],
            embeddings=embedder.vectors(numbers),
            documents=part,
            metadatas=[facts(record) for record in lessons(part, start)],
        )
    return collection


def one_fact(record: Record) -> dict[str, Any]:
    """What a search within a scope needs."""
    return {"environment": record.scope.environment}


def all_facts(record: Record) -> dict[str, Any]:
    """What our index keeps."""
    return {key: value for key, value in metadata(record).items() if value is not None}


class Cost:
    """CPU and wall seconds, and megabytes that stayed, of what runs inside."""

    def __enter__(self) -> Cost:
        gc.collect()
        self.rss_mb = _rss_mb()
        self.wall_s, self.cpu_s = time.perf_counter(), time.process_time()
        return self

    def __exit__(self, *_: object) -> None:
        self.wall_s, self.cpu_s = time.perf_counter() - self.wall_s, time.process_time() - self.cpu_s
        gc.collect()
        self.rss_mb = _rss_mb() - self.rss_mb


def _rss_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 1e6


def _disk_mb(folder: Path) -> float:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6


def timed(ways: dict[str, Callable[[int], object]], queries: int = QUERIES) -> dict[str, dict[str, float]]:
    """p50 and p95 in milliseconds of each way; query by query, each way in turn."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for query in range(-3, queries):
        for name, ask in ways.items():
            start = time.perf_counter()
            ask(max(query, 0))
            if query >= 0:
                seconds[name].append(1000 * (time.perf_counter() - start))
    return {name: {"p50": _percentile(all_, 50), "p95": _percentile(all_, 95)} for name, all_ in seconds.items()}


def _percentile(values: Sequence[float], percent: int) -> float:
    return round(float(np.percentile(values, percent)), 3)


def recall(found: Callable[[int], Sequence[int]], vectors_ND: Floats, queries_QD: Floats) -> float:
    """Share of the ten nearest by exact search that `found` gives, ties aside."""
    hits = 0
    for query, vector_D in enumerate(queries_QD):
        scores_N = vectors_ND @ vector_D
        least = np.partition(scores_N, -K)[-K] - 2e-6
        hits += sum(scores_N[number] >= least for number in found(query))
    return round(hits / (K * len(queries_QD)), 4)


def our_ways(memory: Memory) -> dict[str, Callable[[int], object]]:
    def way(scope: str, mode: str) -> Callable[[int], object]:
        where = Scope(scope) if scope else None
        return lambda query: memory.search(f"query {query}", k=K, scope=where, mode=mode)

    dense = {f"ours {scope or '100%'}": way(scope, "dense") for scope in ("1%", "10%", "50%", "")}
    return dense | {f"ours 100% {mode}": way("", mode) for mode in RETRIEVERS if mode != "dense"}


def measure(size: int, embedder: Prepared, work: Path) -> dict[str, Any]:
    """One size: both sides in one process, one after the other for ingest and in turn for searches."""
    lines = list(texts(size))
    folder = work / f"run-{size}"
    shutil.rmtree(folder, ignore_errors=True)
    queries_QD = embedder.embed([f"query {query}" for query in range(QUERIES)])
    with Cost() as theirs:
        collection = bare_chroma(folder / "bare", lines, embedder, one_fact)
    with Cost() as alike:
        bare_chroma(folder / "alike", lines, embedder, all_facts)
    with Cost() as ours:
        memory = Memory.open(folder / "ours", embedder=embedder)
        ingest(memory, lines)
        memory.search("query 0", k=K, mode="dense")
    include = ["documents", "metadatas", "distances"]

    def chroma(query: int, **where: Any) -> Any:
        return collection.query(query_embeddings=queries_QD[query : query + 1], n_results=K, include=include, **where)

    ways = our_ways(memory)
    ways["chroma"] = chroma
    ways["chroma where 10%"] = lambda query: chroma(query, where={"environment": "10%"})
    search = timed(ways)
    few = new_record("rule", f"One more for bay {size}: in bay {size}, knock first.")
    memory.commit("one more", [Event("add", few.id, few)], generation=1)
    after: dict[str, float] = {}
    for mode in RETRIEVERS:
        start = time.perf_counter()
        memory.search("query 0", k=K, mode=mode)
        after[mode] = round(1000 * (time.perf_counter() - start), 2)
    vectors_ND = embedder.vectors(np.arange(size))
    row: dict[str, Any] = {
        "size": size,
        "search_ms": search,
        "first_search_after_a_commit_ms": after,
        "ratio_to_chroma": {
            way: round(search[f"ours {way}"]["p50"] / search["chroma"]["p50"], 2) for way in SHARES_ASKED
        },
        "recall": {
            "ours": recall(lambda query: _numbers(memory, query), vectors_ND, queries_QD),
            "chroma": recall(lambda q: [int(key[5:]) for key in chroma(q)["ids"][0]], vectors_ND, queries_QD),
        },
        "ingest_per_cpu_s": {"ours": round(size / ours.cpu_s), "chroma": round(size / theirs.cpu_s)},
        "ingest_ratio": {
            "cpu": round(theirs.cpu_s / ours.cpu_s, 3),
            "wall": round(theirs.wall_s / ours.wall_s, 3),
            "cpu, same metadata": round(alike.cpu_s / ours.cpu_s, 3),
        },
        "ram_mb": {"ours": round(ours.rss_mb, 1), "chroma": round(theirs.rss_mb, 1)},
    }
    memory.close()
    row["disk_mb"] = {name: round(_disk_mb(folder / name), 1) for name in ("ours", "bare")}
    row["disk_mb"]["our ledger"] = round((folder / "ours" / "ledger.sqlite").stat().st_size / 1e6, 1)
    shutil.rmtree(folder)
    return row


SHARES_ASKED = ("1%", "10%", "50%", "100%")


def _numbers(memory: Memory, query: int) -> list[int]:
    # The record added after the timing is not among the vectors to compare with.
    found = memory.search(f"query {query}", k=K + 1, mode="dense")
    numbers = [re.search(r"in bay (\d+), because", each.record.text) for each in found]
    return [int(number.group(1)) for number in numbers if number][:K]


def million(size: int, embedder: Prepared, work: Path) -> dict[str, Any]:
    """Ours alone, without the Chroma index; vectors past the first ones are perturbed copies."""
    folder = work / f"run-{size}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    with Cost() as ours:
        memory = Memory(Ledger(folder / "ledger.sqlite"), None, embedder)
        ingest(memory, list(texts(size)), 10 * BATCH)
        memory.search("query 0", k=K, mode="dense")
    search = timed(our_ways(memory), 20)
    memory.close()
    row = {
        "size": size,
        "index": "left out",
        "search_ms": search,
        "ingest_per_cpu_s": {"ours": round(size / ours.cpu_s)},
        "ram_mb": {"ours": round(ours.rss_mb, 1)},
        "disk_mb": {"our ledger": round(_disk_mb(folder), 1)},
    }
    shutil.rmtree(folder)
    return row


def growth(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Exponents b of figure = a · size^b, fitted to the logarithms over all sizes."""
    sizes = [row["size"] for row in rows]
    figures = {f"search {way}": [row["search_ms"][way]["p50"] for row in rows] for way in rows[0]["search_ms"]}
    for side in ("ours", "chroma"):
        figures[f"ingest {side}"] = [row["size"] / row["ingest_per_cpu_s"][side] for row in rows]
        figures[f"ram {side}"] = [max(row["ram_mb"][side], 1.0) for row in rows]
    figures["disk ours"] = [row["disk_mb"]["ours"] for row in rows]
    figures["disk chroma"] = [row["disk_mb"]["bare"] for row in rows]
    return {name: round(float(np.polyfit(np.log(sizes), np.log(values), 1)[0]), 2) for name, values in figures.items()}


def extrapolated(rows: Sequence[dict[str, Any]], size: int) -> dict[str, Any]:
    """Bare Chroma at `size`, by a line through the logarithms of its figures from 10,000 records up."""
    large = [row for row in rows if row["size"] >= 10_000]
    figures = {
        "search_ms": [row["search_ms"]["chroma"]["p50"] for row in large],
        "ingest_cpu_s": [row["size"] / row["ingest_per_cpu_s"]["chroma"] for row in large],
        "ram_mb": [row["ram_mb"]["chroma"] for row in large],
        "disk_mb": [row["disk_mb"]["bare"] for row in large],
    }
    logs = np.log([row["size"] for row in large])
    fits = {name: np.polyfit(logs, np.log(values), 1) for name, values in figures.items()}
    values = {name: round(float(np.exp(np.polyval(fit, np.log(size)))), 2) for name, fit in fits.items()}
    return {"size": size, "extrapolated from": [row["size"] for row in large], **values}


@pytest.mark.slow
def test_search_within_a_scope_costs_about_what_chroma_costs_without_one(tmp_path: Path) -> None:
    row = measure(10_000, prepared(tmp_path, 10_000, HashEmbedder(384)), tmp_path)
    assert row["recall"]["ours"] == 1
    assert row["ratio_to_chroma"]["1%"] <= 1.5
    assert row["ratio_to_chroma"]["10%"] <= 1.5
    assert row["ratio_to_chroma"]["50%"] <= 3
    assert row["ingest_ratio"]["cpu, same metadata"] >= 0.7


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--work", type=Path, required=True, help="directory for vectors and stores")
    parser.add_argument("--sizes", type=int, nargs="*", default=SIZES)
    parser.add_argument("--million", action="store_true", help="1,000,000 of ours too; needs 8 GB")
    asked = parser.parse_args()
    asked.work.mkdir(parents=True, exist_ok=True)
    embedder = prepared(asked.work, max([*asked.sizes, 1000]), MiniLM())
    rows = []
    for size in sorted(asked.sizes):
        rows.append(measure(size, embedder, asked.work))
        print(json.dumps(rows[-1]), flush=True)
    if len(rows) > 1:
        print(json.dumps({"growth exponents": growth(rows)}), flush=True)
    if asked.million:
        print(json.dumps(million(1_000_000, embedder, asked.work)), flush=True)
        if sum(row["size"] >= 10_000 for row in rows) > 1:
            print(json.dumps({"chroma": extrapolated(rows, 1_000_000)}), flush=True)


if __name__ == "__main__":
    main()
