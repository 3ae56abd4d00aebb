"""The ledger: commits, folding, episodes, memos; one writer and any readers."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from evolvent.environments.types import (
    Action,
    Cost,
    Message,
    Observation,
    Outcome,
    Phase,
    Recalled,
    Step,
    Task,
    Trajectory,
    dump,
)
from evolvent.memory.errors import (
    BadEventError,
    DuplicateKeyError,
    LedgerLockedError,
    LedgerUnreadableError,
    LedgerUnwritableError,
    UnknownCommitError,
    UnknownRecordError,
)
from evolvent.memory.ledger import ROOT, Ledger, commit_id
from evolvent.memory.listing import Group, Wanted
from evolvent.memory.types import Event, Interval, Record, Scope, new_record

FILE = new_record("rule", "To mend the rust, use the file.", Scope("workshop", ("rust",)), parents=("t1",))
CLAMP = new_record("rule", "To mend the crack, use the clamp.", Scope("workshop", ("crack",)), parents=("t2",))


def add(record: Record) -> Event:
    return Event("add", record.id, record)


def trajectory(name: str, *, score: float = 1.0, phase: Phase = "train", player: str = "smith") -> Trajectory:
    step = Step(
        player,
        Observation(player, "The hinge is rusty."),
        (Message("user", "task", "Mend it."),),
        "file",
        Action("file"),
    )
    return Trajectory(
        name,
        Task("hinge-1", "Mend the hinge.", "workshop", {"flaw": "rust"}, ("rust",)),
        player,
        (step,),
        Outcome(score, score == 1.0),
        phase=phase,
        recalled=(Recalled(FILE.id, True, 0.75), Recalled(CLAMP.id, False, 0.75)),
        cost=Cost(100, 3, 1, 0.5),
    )


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    ledger = Ledger(tmp_path / "ledger.sqlite")
    yield ledger
    ledger.close()


def test_a_new_ledger_is_empty(ledger: Ledger) -> None:
    assert (ledger.head(), ledger.commits(), dict(ledger.records())) == (ROOT, [], {})


def test_a_commit_is_found_again_after_closing(tmp_path: Path, ledger: Ledger) -> None:
    commit = ledger.commit("reflect/1", [add(FILE), Event("activate", FILE.id)], generation=1, note="first")
    ledger.close()
    again = Ledger(tmp_path / "ledger.sqlite")
    assert again.head() == commit
    assert [(c.key, c.parent, c.generation, c.note) for c in again.commits()] == [("reflect/1", ROOT, 1, "first")]
    assert again.records() == {FILE.id: replace(FILE, status="active", generation=1)}
    again.close()


def test_a_replayed_step_writes_nothing_and_gets_its_commit_back(ledger: Ledger) -> None:
    first = ledger.commit("reflect/1", [add(FILE)], generation=1)
    second = ledger.commit("reflect/2", [add(CLAMP)], generation=2)
    assert ledger.commit("reflect/1", [add(CLAMP)], generation=9) == first
    assert ledger.head() == second
    assert len(ledger.commits()) == 2


def test_the_same_run_gives_the_same_commit_ids(tmp_path: Path) -> None:
    ids = []
    for name in ("one", "two"):
        ledger = Ledger(tmp_path / f"{name}.sqlite")
        ledger.commit("a", [add(FILE)], generation=1)
        ids.append(ledger.commit("b", [add(CLAMP), Event("credit", FILE.id, payload={"recalls": 2})], generation=1))
        ledger.close()
    assert ids[0] == ids[1]


def test_records_can_be_read_as_of_any_commit(ledger: Ledger) -> None:
    first = ledger.commit("a", [add(FILE)], generation=1)
    before = ledger.records()
    ledger.commit("b", [Event("retire", FILE.id), add(CLAMP)], generation=2)
    assert ledger.records(first) == before == {FILE.id: replace(FILE, generation=1)}
    assert ledger.records()[FILE.id].status == "retired"
    assert ledger.records(ROOT) == {}
    assert [event.kind for event in ledger.events(since=first)] == ["retire", "add"]
    assert [event.kind for event in ledger.events(until=first)] == ["add"]
    with pytest.raises(UnknownCommitError, match="nonsense"):
        ledger.records("nonsense")


def test_learning_a_record_again_adds_parents_and_keeps_its_standing(ledger: Ledger) -> None:
    ledger.commit("a", [add(replace(FILE, meta={"stem": "rust"})), Event("reject", FILE.id)], generation=1)
    ledger.commit("b", [add(replace(FILE, parents=("t1", "t7"), meta={"stem": "?", "seen": 2}))], generation=5)
    assert ledger.records()[FILE.id] == replace(
        FILE, parents=("t1", "t7"), meta={"stem": "rust", "seen": 2}, status="retired", generation=1
    )


def test_credit_replaces_the_lift_and_adds_recalls(ledger: Ledger) -> None:
    lift = {"mean": 0.2, "low": 0.1, "high": 0.3, "n": 40}
    events = [Event("credit", FILE.id, payload={"lift": lift, "recalls": 3})]
    ledger.commit("a", [add(FILE), *events, Event("credit", FILE.id, payload={"recalls": 1})], generation=1)
    assert ledger.records()[FILE.id].lift == Interval(0.2, 0.1, 0.3, 40)
    assert ledger.records()[FILE.id].recalls == 4


def test_a_merged_record_retires_into_the_one_that_stays(ledger: Ledger) -> None:
    ledger.commit("a", [add(FILE), add(CLAMP), Event("merge", CLAMP.id, payload={"into": FILE.id})], generation=1)
    assert ledger.records()[CLAMP.id].status == "retired"
    assert ledger.records()[FILE.id].parents == ("t1", CLAMP.id)


@pytest.mark.parametrize(
    ("event", "error", "says"),
    [
        (Event("activate", "rule-unknown"), UnknownRecordError, "rule-unknown"),
        (Event("merge", FILE.id, payload={"into": "rule-unknown"}), UnknownRecordError, "rule-unknown"),
        (Event("merge", FILE.id, payload={"into": FILE.id}), BadEventError, "itself"),
        (Event("merge", FILE.id), BadEventError, "into"),
        (Event("credit", FILE.id, payload={"lift": {"mean": 1.0}}), BadEventError, "low"),
        (Event("add", CLAMP.id), BadEventError, "no record"),
        (Event("add", CLAMP.id, FILE), BadEventError, FILE.id),
        (Event("update", FILE.id, payload={"meta": {"object": object()}}), BadEventError, "JSON"),
        (Event("erase", FILE.id), BadEventError, "not JSON"),  # type: ignore[arg-type]  # no such kind
        (Event("revert", "", payload={"commit": ROOT}), BadEventError, r"use revert\(commit\)"),
        (Event("update", FILE.id, payload={"status": "gold"}), BadEventError, "gold"),
    ],
)
def test_a_bad_event_names_itself_and_leaves_nothing_behind(
    ledger: Ledger, event: Event, error: type[Exception], says: str
) -> None:
    head = ledger.commit("a", [add(FILE)], generation=1)
    with pytest.raises(error, match=says):
        ledger.commit("b", [Event("retire", FILE.id), event], generation=1)
    assert ledger.head() == head
    assert ledger.records()[FILE.id].status == "candidate"


def test_an_episode_is_kept_whole_and_found_by_key_phase_and_generation(ledger: Ledger) -> None:
    seats = (trajectory("t1"), trajectory("t2", score=0.5, player="buyer"))
    ledger.add_episode("train/0/hinge-1/0", seats)
    ledger.add_episode("eval/0/hinge-1/0", [trajectory("t3", phase="eval")])
    assert ledger.episode("train/0/hinge-1/0") == seats
    assert ledger.episode("train/0/hinge-1/1") is None
    assert ledger.trajectory("t2") == seats[1]
    assert ledger.trajectory("t9") is None
    assert [episode.key for episode in ledger.episodes()] == ["train/0/hinge-1/0", "eval/0/hinge-1/0"]
    assert [episode.trajectories for episode in ledger.episodes(phase="train", generation=0)] == [seats]
    assert list(ledger.episodes(generation=1)) == []


def test_an_episode_is_done_once(ledger: Ledger) -> None:
    ledger.add_episode("train/0/hinge-1/0", [trajectory("t1")])
    with pytest.raises(DuplicateKeyError, match="train/0/hinge-1/0"):
        ledger.add_episode("train/0/hinge-1/0", [trajectory("t2")])
    with pytest.raises(DuplicateKeyError, match=r"trajectories\.id"):
        ledger.add_episode("train/0/hinge-1/1", [trajectory("t2"), trajectory("t1")])
    assert ledger.trajectory("t2") is None, "the seat before the duplicate was rolled back with it"


def test_the_columns_of_an_episode_can_be_queried_without_reading_its_body(ledger: Ledger) -> None:
    ledger.add_episode("train/0/hinge-1/0", [trajectory("t1", score=0.5)])
    db = sqlite3.connect(ledger.path)
    columns = (
        "phase, generation, environment, task, attempt, player, score, success, failure, tokens_in, calls, seconds"
    )
    row = db.execute(f"SELECT {columns} FROM episodes e JOIN trajectories t ON t.episode = e.seq").fetchone()
    assert row == ("train", 0, "workshop", "hinge-1", 0, "smith", 0.5, 0, "", 100, 1, 0.5)
    assert db.execute("SELECT record, shown, probability FROM recalls").fetchall() == [
        (FILE.id, 1, 0.75),
        (CLAMP.id, 0, 0.75),
    ]
    db.close()


def listed_ids(ledger: Ledger, *wanted: Wanted, **asked: Any) -> list[str]:
    return [each.id for each in ledger.listed(*wanted, **asked)]


def test_trajectories_are_listed_newest_first_with_what_was_shown_and_withheld(ledger: Ledger) -> None:
    ledger.add_episode("train/0/hinge-1/0", [trajectory("t1"), trajectory("t2", score=0.5, player="buyer")])
    failed = replace(trajectory("t3", phase="gate"), outcome=Outcome(0.0, False, "model", "no answer"), recalled=())
    ledger.add_episode("gate/0/hinge-1/0/with-rule", [failed])
    assert listed_ids(ledger) == ["t3", "t2", "t1"]
    third, second, first = ledger.listed()
    assert (third.result, third.failure, third.arm, third.shown, third.withheld) == (
        "failed",
        "model",
        "with-rule",
        0,
        0,
    )
    assert (second.result, second.score, second.player, second.arm) == ("no success", 0.5, "buyer", "")
    assert (first.result, first.tokens, first.shown, first.withheld) == ("success", 103, 1, 1)
    assert (first.episode, first.task, first.environment) == ("train/0/hinge-1/0", "hinge-1", "workshop")


def test_a_list_is_sorted_and_cut_into_pages_and_of_equal_ones_the_newer_is_first(ledger: Ledger) -> None:
    for number, score in enumerate((0.5, 1.0, 0.0, 1.0)):
        ledger.add_episode(f"e{number}", [trajectory(f"t{number}", score=score)])
    assert listed_ids(ledger, by="score") == ["t3", "t1", "t0", "t2"]
    assert listed_ids(ledger, by="score", descending=False) == ["t2", "t0", "t3", "t1"]
    assert listed_ids(ledger, by="score", limit=2, offset=1) == ["t1", "t0"]
    assert listed_ids(ledger, offset=4) == []


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        (Wanted(id="t1"), ["t1"]),
        (Wanted(task="hinge-1"), ["t2", "t1"]),
        (Wanted(task_has="HINGE"), ["t3", "t2", "t1"]),
        (Wanted(task_has="%"), ["t3"]),
        (Wanted(phase="gate"), ["t2"]),
        (Wanted(generation=0, player="smith"), ["t3", "t2", "t1"]),
        (Wanted(generation=1), []),
        (Wanted(result="no success"), ["t2"]),
        (Wanted(arm="a/b"), ["t2"]),
    ],
)
def test_a_list_holds_what_is_wanted_and_takes_no_letter_for_a_wildcard(
    ledger: Ledger, wanted: Wanted, found: list[str]
) -> None:
    other = trajectory("t3")
    ledger.add_episode("train/0/hinge-1/0", [trajectory("t1")])
    ledger.add_episode("gate/0/hinge-1/0/a/b", [trajectory("t2", phase="gate", score=0.0)])
    ledger.add_episode("train/0/hinge-%/0", [replace(other, task=replace(other.task, id="hinge-%"))])
    assert listed_ids(ledger, wanted) == found


def test_trajectories_are_counted_by_what_a_list_can_be_narrowed_to(ledger: Ledger) -> None:
    ledger.add_episode("train/0/hinge-1/0", [trajectory("t1"), trajectory("t2", score=0.5, player="buyer")])
    ledger.add_episode("train/0/hinge-1/1", [trajectory("t3")])
    # A key that nobody's rule made has no arm.
    ledger.add_episode("imported, from elsewhere, by hand", [trajectory("t4")])
    assert ledger.tally() == {
        Group("train", 0, "success", "smith", ""): 3,
        Group("train", 0, "no success", "buyer", ""): 1,
    }
    assert ledger.tally("lamp") == {}


def test_the_ledger_knows_names_of_episodes_and_of_trajectories(ledger: Ledger) -> None:
    ledger.add_episode("train/0/hinge-1/0", [trajectory("t1")])
    assert ledger.known(["train/0/hinge-1/0", "t1", "t2", "1/reflect/0"]) == {"train/0/hinge-1/0", "t1"}
    assert ledger.known([]) == set()


@pytest.mark.parametrize("table", ["commits", "events", "episodes", "trajectories", "memos", "generations"])
@pytest.mark.parametrize("statement", ["DELETE FROM {}", "UPDATE {} SET rowid = rowid + 100"])
def test_history_cannot_be_rewritten_even_by_hand(ledger: Ledger, table: str, statement: str) -> None:
    ledger.commit("a", [add(FILE)], generation=1)
    ledger.add_episode("train/0/hinge-1/0", [trajectory("t1")])
    ledger.add_memo("m", "text")
    ledger.add_generation(0, "{}")
    db = sqlite3.connect(ledger.path)
    with pytest.raises(sqlite3.IntegrityError, match="append-only"):
        db.execute(statement.format(table))
    db.close()


def test_a_memo_is_written_once_and_read_back(ledger: Ledger) -> None:
    assert ledger.memo("reflect/1/hinge-1") is None
    ledger.add_memo("reflect/1/hinge-1", "Use the file.\x00")
    assert ledger.memo("reflect/1/hinge-1") == "Use the file.\x00"
    with pytest.raises(DuplicateKeyError, match="reflect/1/hinge-1"):
        ledger.add_memo("reflect/1/hinge-1", "Use the clamp.")


def test_the_first_payload_of_a_generation_stands(ledger: Ledger) -> None:
    assert ledger.add_generation(1, '{"success": 0.5}') == '{"success": 0.5}'
    assert ledger.add_generation(0, "{}") == "{}"
    assert ledger.add_generation(1, '{"success": 0.9}') == '{"success": 0.5}'
    assert ledger.generations() == {0: "{}", 1: '{"success": 0.5}'}
    assert list(ledger.generations()) == [0, 1]


def test_a_reader_follows_the_writer_and_writes_nothing(ledger: Ledger) -> None:
    ledger.commit("a", [add(FILE)], generation=1)
    reader = Ledger(ledger.path, read_only=True)
    seen = reader.records()
    ledger.commit("b", [Event("activate", FILE.id)], generation=2)
    assert reader.head() == ledger.head()
    assert reader.records() == ledger.records()
    assert seen[FILE.id].status == "candidate", "what was read before does not change under the reader"
    with pytest.raises(LedgerUnwritableError, match="read_only"):
        reader.add_memo("m", "text")
    reader.close()


def test_a_second_writer_in_the_same_process_is_refused_until_the_first_closes(ledger: Ledger) -> None:
    with pytest.raises(LedgerLockedError, match="process"):
        Ledger(ledger.path)
    ledger.close()
    Ledger(ledger.path).close()


def test_a_second_writer_may_wait_for_the_first_to_close(ledger: Ledger) -> None:
    ledger.commit("a", [add(FILE)], generation=1)
    closing = threading.Timer(0.2, ledger.close)
    closing.start()
    second = Ledger(ledger.path, wait_s=60)
    assert list(second.records()) == [FILE.id]
    with pytest.raises(LedgerLockedError, match="one writer at a time"):
        Ledger(ledger.path, wait_s=0.1)
    second.close()
    closing.join()


def test_reading_where_there_is_no_ledger_makes_none(tmp_path: Path) -> None:
    with pytest.raises(LedgerUnreadableError, match="No ledger at"):
        Ledger(tmp_path / "ledger.sqlite", read_only=True)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_no_ledger_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    path.write_bytes(b"not a database, just text that is long enough to be read as a header" * 20)
    before = path.read_bytes()
    for read_only in (False, True):
        with pytest.raises(LedgerUnreadableError, match="not a ledger"):
            Ledger(path, read_only=read_only)
    assert path.read_bytes() == before


VERSION_1 = """
CREATE TABLE commits (
    seq INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, key TEXT NOT NULL, parent TEXT NOT NULL,
    generation INTEGER NOT NULL, note TEXT NOT NULL, created_at REAL NOT NULL);
CREATE INDEX commits_by_key ON commits (key);
CREATE TABLE events (
    seq INTEGER PRIMARY KEY, commit_id TEXT NOT NULL REFERENCES commits (id),
    kind TEXT NOT NULL, record TEXT NOT NULL, body TEXT NOT NULL);
CREATE INDEX events_by_commit ON events (commit_id);
CREATE INDEX events_by_record ON events (record);
CREATE TABLE refs (name TEXT PRIMARY KEY, commit_id TEXT NOT NULL);
CREATE TABLE episodes (
    seq INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, phase TEXT NOT NULL, generation INTEGER NOT NULL,
    environment TEXT NOT NULL, task TEXT NOT NULL, attempt INTEGER NOT NULL, created_at REAL NOT NULL);
CREATE TABLE trajectories (
    seq INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, episode INTEGER NOT NULL REFERENCES episodes (seq),
    player TEXT NOT NULL, score REAL NOT NULL, success INTEGER NOT NULL, failure TEXT NOT NULL,
    tokens_in INTEGER NOT NULL, tokens_out INTEGER NOT NULL, calls INTEGER NOT NULL, seconds REAL NOT NULL,
    body BLOB NOT NULL);
CREATE TABLE recalls (
    trajectory INTEGER NOT NULL REFERENCES trajectories (seq), record TEXT NOT NULL,
    shown INTEGER NOT NULL, probability REAL NOT NULL);
CREATE TABLE memos (key TEXT PRIMARY KEY, text TEXT NOT NULL, created_at REAL NOT NULL);
CREATE TABLE generations (number INTEGER PRIMARY KEY, payload TEXT NOT NULL, created_at REAL NOT NULL);
CREATE TABLE vectors (
    record TEXT NOT NULL, embedder TEXT NOT NULL, vector BLOB NOT NULL, PRIMARY KEY (record, embedder));
CREATE TRIGGER commits_never_update BEFORE UPDATE ON commits BEGIN SELECT RAISE(ABORT, 'append-only'); END;
CREATE TRIGGER commits_never_delete BEFORE DELETE ON commits BEGIN SELECT RAISE(ABORT, 'append-only'); END;
PRAGMA journal_mode = WAL;
PRAGMA user_version = 1;
"""
"""What the first version made, as far as it matters here."""


@pytest.fixture
def old_file(tmp_path: Path) -> Path:
    path = tmp_path / "old.sqlite"
    db = sqlite3.connect(path)
    db.executescript(VERSION_1)
    parent = ROOT
    for key, event in (("a", add(FILE)), ("b", Event("activate", FILE.id))):
        commit = commit_id(parent, key, [dump(event)])
        db.execute("INSERT INTO commits VALUES (NULL, ?, ?, ?, 1, '', 0.0)", (commit, key, parent))
        db.execute("INSERT INTO events VALUES (NULL, ?, ?, ?, ?)", (commit, event.kind, event.record_id, dump(event)))
        parent = commit
    db.execute("INSERT INTO refs VALUES ('main', ?)", (parent,))
    db.commit()
    db.close()
    return path


def version(path: Path) -> int:
    db = sqlite3.connect(path)
    found: int = db.execute("PRAGMA user_version").fetchone()[0]
    db.close()
    return found


def test_a_file_of_the_first_version_is_read_as_it_is(old_file: Path) -> None:
    reader = Ledger(old_file, read_only=True)
    assert reader.records() == {FILE.id: replace(FILE, status="active", generation=1)}
    assert (reader.branch, reader.branches()) == ("main", {"main": reader.head()})
    assert [(commit.key, commit.merged) for commit in reader.commits()] == [("a", ""), ("b", "")]
    reader.close()
    assert version(old_file) == 1


def test_a_file_of_the_first_version_is_migrated_by_its_first_writer_and_keeps_its_ids(old_file: Path) -> None:
    reader = Ledger(old_file, read_only=True)
    head = reader.head()
    reader.close()
    ledger = Ledger(old_file)
    assert (version(old_file), ledger.head(), ledger.branch) == (2, head, "main")
    ledger.make_branch("try")
    ledger.checkout("try")
    ledger.commit("c", [add(CLAMP)], generation=2)
    ledger.checkout("main")
    ledger.revert("b")
    ledger.merge("try")
    records = dict(ledger.records())
    assert {key: record.status for key, record in records.items()} == {FILE.id: "candidate", CLAMP.id: "candidate"}
    ledger.close()
    for read_only in (True, False):
        again = Ledger(old_file, read_only=read_only)
        assert again.records() == records
        again.close()


def test_a_ledger_of_a_newer_version_is_refused(ledger: Ledger) -> None:
    ledger.close()
    db = sqlite3.connect(ledger.path)
    db.execute("PRAGMA user_version = 99")
    db.close()
    with pytest.raises(LedgerUnreadableError, match="version 99"):
        Ledger(ledger.path)
