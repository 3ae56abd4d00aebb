"""The whole memory: ledger, Chroma and retrieval together, with real Chroma and, once, the real embedder."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import chromadb
import httpx
import numpy as np
import pytest
from chromadb.config import Settings

from evolvent.environments.types import Action, Observation, Outcome, Recalled, Step, Task, ToolCall, Trajectory
from evolvent.memory.chroma import collection_of, metadata
from evolvent.memory.embedding import HashEmbedder, MiniLM
from evolvent.memory.errors import ForeignIndexError, LedgerUnwritableError, VectorIndexError
from evolvent.memory.ledger import ROOT, Ledger
from evolvent.memory.rendering import recall_events, render, trajectory_record
from evolvent.memory.store import Memory
from evolvent.memory.types import Event, Record, Scope, new_record

FILE = new_record("rule", "To mend the rust, use the file.", Scope("workshop", ("rust",)), parents=("t1",))
CLAMP = new_record("rule", "To mend the crack, use the clamp.", Scope("workshop", ("crack",)), parents=("t2",))


def add(*records: Record) -> list[Event]:
    return [Event("add", record.id, record) for record in records]


def trajectory(name: str, *, score: float = 1.0) -> Trajectory:
    task = Task("hinge-1", "A hinge with rust.", "workshop", {"answer": "secret"}, ("rust",))
    seen = Observation("smith", "A hinge with rust.")
    steps = (
        Step("smith", seen, (), "use the oil", Action("use the oil"), result="Nothing happens."),
        Step("smith", Observation("smith", "Still rusty."), (), "", Action(tool=ToolCall("use", {"tool": "file"}))),
    )
    recalled = (Recalled(FILE.id, True, 0.75), Recalled(CLAMP.id, False, 0.75))
    return Trajectory(name, task, "smith", steps, Outcome(score, score == 1.0), generation=2, recalled=recalled)


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[Memory]:
    with Memory.open(tmp_path / "run", embedder=HashEmbedder()) as memory:
        yield memory


def chroma(memory: Memory) -> chromadb.ClientAPI:
    """What a person has who knows nothing of Evolvent."""
    folder = memory.ledger.path.parent / "chroma"
    return chromadb.PersistentClient(str(folder), settings=Settings(anonymized_telemetry=False))


def test_what_was_committed_is_found_by_search_and_after_reopening(tmp_path: Path) -> None:
    with Memory.open(tmp_path, embedder=HashEmbedder()) as memory:
        memory.commit("reflect/1", add(FILE, CLAMP), generation=1)
        before = memory.search("mend the crack", k=2)
    with Memory.open(tmp_path, embedder=HashEmbedder()) as memory:
        assert memory.search("mend the crack", k=2) == before
        assert [each.record.id for each in before] == [CLAMP.id, FILE.id]


def test_rules_and_trajectories_are_readable_with_chromadb_alone(memory: Memory) -> None:
    played = trajectory("t1")
    lift = {"mean": 0.25, "low": 0.125, "high": 0.5, "n": 30}
    events = [
        *add(FILE, trajectory_record(played)),
        Event("activate", FILE.id),
        Event("credit", FILE.id, payload={"lift": lift, "recalls": 7}),
    ]
    memory.commit("reflect/1", events, generation=2)
    client = chroma(memory)
    rules = client.get_collection("rules").get(where={"tags": {"$contains": "rust"}})
    assert rules["documents"] == ["To mend the rust, use the file."]
    assert rules["metadatas"] == [
        {
            **{"kind": "rule", "status": "active", "environment": "workshop", "tags": ["rust"], "player": ""},
            **{"parents": "t1", "generation": 2, "recalls": 7, "lift": 0.25, "lift_low": 0.125, "lift_high": 0.5},
        }
    ]
    raw = client.get_collection("trajectories").get(where={"score": {"$gte": 1.0}})
    assert raw["documents"] == [render(played)]
    assert raw["metadatas"] is not None
    assert {"task": "hinge-1", "parents": "t1", "status": "active"}.items() <= raw["metadatas"][0].items()


def test_a_change_of_standing_reaches_chroma(memory: Memory) -> None:
    memory.commit("a", add(FILE, CLAMP), generation=1)
    memory.commit("b", [Event("merge", FILE.id, payload={"into": CLAMP.id})], generation=2)
    rules = chroma(memory).get_collection("rules").get(ids=[FILE.id, CLAMP.id])
    assert rules["metadatas"] is not None
    by_id = dict(zip(rules["ids"], rules["metadatas"], strict=True))
    assert by_id[FILE.id]["status"] == "retired"
    assert by_id[CLAMP.id]["parents"] == f"t2 {FILE.id}"


def assert_index_is_the_head(memory: Memory) -> None:
    """What chromadb alone shows is exactly the records of the head."""
    client = chroma(memory)
    for name in ("rules", "trajectories"):
        kept = client.get_collection(name).get()
        assert kept["documents"] is not None
        assert kept["metadatas"] is not None
        found = dict(zip(kept["ids"], zip(kept["documents"], kept["metadatas"], strict=True), strict=True))
        assert found == {
            key: (record.text, {k: v for k, v in metadata(record).items() if v is not None})
            for key, record in memory.records().items()
            if collection_of(record.kind) == name
        }


def test_the_index_follows_reverts_branches_and_merges(memory: Memory) -> None:
    played = trajectory_record(trajectory("t1"))
    memory.commit("a", add(FILE), generation=1)
    memory.make_branch("try")
    memory.commit(
        "b", [*add(CLAMP, played), Event("update", FILE.id, payload={"meta": {"stem": "rust"}})], generation=2
    )
    assert_index_is_the_head(memory)
    memory.revert("b")
    assert_index_is_the_head(memory)
    assert "stem" not in (chroma(memory).get_collection("rules").get(ids=[FILE.id])["metadatas"] or [{}])[0]
    memory.revert("HEAD")
    memory.checkout("try")
    assert (memory.branch, list(memory.records())) == ("try", [FILE.id])
    assert_index_is_the_head(memory)
    memory.commit("c", [Event("activate", FILE.id)], generation=3)
    memory.checkout("main")
    memory.merge("try")
    assert_index_is_the_head(memory)
    memory.commit("d", [Event("forget", played.id)], generation=4)
    assert_index_is_the_head(memory)
    assert [each.record.id for each in memory.search("mend the crack", k=1)] == [CLAMP.id]


def test_a_fact_that_no_metadata_can_hold_any_more_leaves_the_index(memory: Memory) -> None:
    memory.commit("a", add(FILE), generation=1)
    for step, value in enumerate([1, [1, 2], "one", None]):
        memory.commit(f"b{step}", [Event("update", FILE.id, payload={"meta": {"seen": value}})], generation=2)
        assert_index_is_the_head(memory)


@pytest.mark.parametrize("way", ["revert", "merge", "checkout", "forget"])
def test_a_move_that_never_reached_the_index_is_made_up_for_on_opening(tmp_path: Path, way: str) -> None:
    with Memory.open(tmp_path, embedder=HashEmbedder()) as memory:
        memory.commit("a", add(FILE), generation=1)
        memory.make_branch("try")
        memory.commit("b", [*add(CLAMP), Event("update", FILE.id, payload={"meta": {"stem": "rust"}})], generation=2)
        memory.checkout("try")
        memory.commit("c", [Event("retire", FILE.id)], generation=3)
        memory.checkout("main")
    ledger = Ledger(tmp_path / "ledger.sqlite")  # a writer that dies before it comes to the index
    match way:
        case "revert":
            ledger.revert("b")
        case "merge":
            ledger.merge("try")
        case "checkout":
            ledger.checkout("try")
        case "forget":
            ledger.commit("d", [Event("forget", FILE.id)], generation=4)
    ledger.close()
    with Memory.open(tmp_path, embedder=HashEmbedder()) as memory:
        assert_index_is_the_head(memory)


def test_a_trajectory_reads_as_task_deeds_and_score_and_hides_the_answer() -> None:
    assert render(trajectory("t1", score=0.5)).splitlines() == [
        "Task: A hinge with rust.",
        "> use the oil",
        "Nothing happens.",
        "Still rusty.",
        "> use(tool='file')",
        "Score: 0.50 (no success)",
    ]


def test_episodes_that_read_the_same_are_one_record_with_both_as_parents(memory: Memory) -> None:
    twins = [trajectory_record(trajectory(name)) for name in ("t1", "t2")]
    memory.commit("a", add(*twins), generation=2)
    assert [record.parents for record in memory.records().values()] == [("t1", "t2")]


def test_only_records_that_were_shown_count_as_recalled(memory: Memory) -> None:
    memory.commit("a", add(FILE, CLAMP), generation=1)
    memory.commit("b", recall_events([trajectory("t1"), trajectory("t2")]), generation=2)
    assert {key: record.recalls for key, record in memory.records().items()} == {FILE.id: 2, CLAMP.id: 0}


def test_a_snapshot_does_not_see_what_is_written_after_it(memory: Memory) -> None:
    memory.commit("a", add(FILE), generation=1)
    snapshot = memory.snapshot()
    assert memory.snapshot() is snapshot
    memory.commit("b", [*add(CLAMP), Event("retire", FILE.id)], generation=1)
    for mode in ("dense", "bm25", "hybrid"):
        found = snapshot.search("mend the rust or the crack", k=5, mode=mode)
        assert [each.record.text for each in found] == [FILE.text]
    assert list(snapshot.records) == [FILE.id]
    assert [each.record.id for each in memory.search("mend", k=5)] == [CLAMP.id]
    assert memory.snapshot(at=snapshot.commit).records == snapshot.records


def test_replaying_a_commit_changes_neither_ledger_nor_index(memory: Memory) -> None:
    first = memory.commit("a", add(FILE), generation=1)
    assert memory.commit("a", add(CLAMP), generation=1) == first
    assert chroma(memory).get_collection("rules").count() == 1


def test_a_reader_searches_while_the_writer_writes_and_touches_no_index(memory: Memory) -> None:
    memory.commit("a", add(FILE), generation=1)
    folder = memory.ledger.path.parent
    with Memory.open(folder, embedder=HashEmbedder(), read_only=True) as reader:
        memory.commit("b", add(CLAMP), generation=1)
        assert reader.search("mend the crack", k=2) == memory.search("mend the crack", k=2)
        with pytest.raises(LedgerUnwritableError, match="read_only"):
            reader.commit("c", [], generation=1)
        with pytest.raises(LedgerUnwritableError, match="read_only"):
            reader.rebuild()


def test_a_store_larger_than_one_batch_is_written_whole_and_rebuilt_alike(memory: Memory) -> None:
    records = [new_record("rule", f"rule {i}") for i in range(2100)]
    memory.commit("a", add(*records), generation=1)
    for _ in range(2):
        with contextlib.closing(chroma(memory)) as client:  # one left open would go on looking at the old folder
            assert client.get_collection("rules").count() == 2100
        memory.rebuild()


@pytest.mark.parametrize("text", ["", "\x00", "naïve 火 🔥", "x" * 100_000])
def test_any_text_can_be_kept(memory: Memory, text: str) -> None:
    odd = {"$where": "1", "nan": float("nan"), "huge": 2**80, "nested": {"a": [1]}, "nul": "\x00"}
    record = new_record("rule", text, meta=odd)
    memory.commit("a", add(record), generation=1)
    kept = chroma(memory).get_collection("rules").get(ids=[record.id])
    assert kept["documents"] == [text]


def test_another_embedder_rebuilds_the_index_with_its_own_vectors(tmp_path: Path) -> None:
    with Memory.open(tmp_path, embedder=HashEmbedder(64)) as memory:
        memory.commit("a", add(FILE, CLAMP), generation=1)
    with Memory.open(tmp_path, embedder=HashEmbedder(32)) as memory:
        vectors = chroma(memory).get_collection("rules").get(include=["embeddings"])["embeddings"]
        assert np.asarray(vectors).shape == (2, 32)
        assert memory.search("mend the crack", k=1, mode="dense")[0].record.id == CLAMP.id


def test_minilm_finds_what_is_meant_where_no_word_is_shared(tmp_path: Path) -> None:
    cure = new_record("rule", "Corroded metal wants a file.")
    other = new_record("rule", "Stand with seventeen against a six.")
    embedder = MiniLM()
    with Memory.open(tmp_path, embedder=embedder) as memory:
        memory.commit("a", add(cure, other), generation=1)
        query = "How to get rid of rust on iron?"
        assert memory.search(query, k=1, mode="dense")[0].record.id == cure.id
        assert memory.search(query, k=1, mode="bm25") == []
    together, alone = embedder.embed([cure.text, other.text]), MiniLM().embed([cure.text])
    assert np.linalg.norm(together, axis=1) == pytest.approx([1, 1], abs=1e-5)
    assert together[0] == pytest.approx(alone[0], abs=1e-5)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real Chroma server on this machine."""
    folder = tmp_path_factory.mktemp("server")
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    command = [str(Path(sys.executable).with_name("chroma")), "run", "--path", str(folder), "--port", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    url = f"http://localhost:{port}"
    try:
        for _ in range(150):
            try:
                httpx.get(f"{url}/api/v2/heartbeat")
                break
            except httpx.HTTPError:
                time.sleep(0.1)
        yield url
    finally:
        process.kill()
        process.wait()


def test_a_chroma_server_holds_the_index_instead_of_a_folder(tmp_path: Path, server: str) -> None:
    for step in range(2):
        with Memory.open(tmp_path / "run", embedder=HashEmbedder(), chroma_url=f"{server}/one") as memory:
            memory.commit(f"step {step}", add((FILE, CLAMP)[step]), generation=1)
    collections = f"{server}/api/v2/tenants/default_tenant/databases/one/collections"
    rules = next(each["id"] for each in httpx.get(collections).json() if each["name"] == "rules")
    kept = httpx.post(f"{collections}/{rules}/get", json={"include": ["documents"]}).json()
    assert sorted(kept["documents"]) == sorted([FILE.text, CLAMP.text])
    assert not (tmp_path / "run" / "chroma").exists()


def test_the_collections_of_another_memory_on_a_server_are_left_alone(tmp_path: Path, server: str) -> None:
    with Memory.open(tmp_path / "mine", embedder=HashEmbedder(), chroma_url=f"{server}/two") as memory:
        memory.commit("a", add(FILE), generation=1)
    with pytest.raises(ForeignIndexError, match="/NAME"):
        Memory.open(tmp_path / "yours", embedder=HashEmbedder(), chroma_url=f"{server}/two")
    with Memory.open(tmp_path / "mine", embedder=HashEmbedder(), chroma_url=f"{server}/two") as memory:
        assert memory.ledger.head() != ROOT


@pytest.mark.parametrize("url", ["http://localhost:1", "localhost", "ftp://localhost:1"])
def test_a_server_that_is_not_there_is_one_clear_error_and_frees_the_ledger(tmp_path: Path, url: str) -> None:
    with pytest.raises(VectorIndexError, match="Chroma"):
        Memory.open(tmp_path, embedder=HashEmbedder(), chroma_url=url)
    Memory.open(tmp_path, embedder=HashEmbedder()).close()
