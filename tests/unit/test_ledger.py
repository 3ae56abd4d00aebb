"""The ledger: commits, folding, episodes, memos; one writer and any readers."""

from __future__ import annotations

import sqlite3
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from evolvent.environments.types import (
    Action,
    Cost,
    Message,
    Observation,
    Outcome,
    Recalled,
    Step,
    Task,
    Trajectory,
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
from evolvent.memory.ledger import ROOT, Ledger
from evolvent.memory.types import Event, Interval, Record, Scope, new_record

FILE = new_record("rule", "To mend the rust, use the file.", Scope("workshop", ("rust",)), parents=("t1",))
CLAMP = new_record("rule", "To mend the crack, use the clamp.", Scope("workshop", ("crack",)), parents=("t2",))


def add(record: Record) -> Event:
    return Event("add", record.id, record)


def trajectory(name: str, *, score: float = 1.0, phase: str = "train", player: str = "smith") -> Trajectory:
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
        phase=phase,  # type: ignore[arg-type]
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
        (Event("forget", FILE.id), BadEventError, "not JSON"),  # type: ignore[arg-type]
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


def test_a_ledger_of_a_newer_version_is_refused(ledger: Ledger) -> None:
    ledger.close()
    db = sqlite3.connect(ledger.path)
    db.execute("PRAGMA user_version = 99")
    db.close()
    with pytest.raises(LedgerUnreadableError, match="version 99"):
        Ledger(ledger.path)


class LedgerBesideDict(RuleBasedStateMachine):
    """Random histories: the fold must say what a plain dict, changed by hand, says."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.ledger = Ledger(Path(self.folder.name) / "ledger.sqlite")
        self.expected: dict[str, dict[str, object]] = {}
        self.past: dict[str, dict[str, dict[str, object]]] = {ROOT: {}}
        self.pending: list[Event] = []

    @rule(text=st.sampled_from("abcdef"), parent=st.sampled_from(["t1", "t2", "t3"]))
    def learn(self, text: str, parent: str) -> None:
        record = new_record("rule", text, parents=(parent,))
        self.pending.append(add(record))
        known = self.expected.setdefault(record.id, {"parents": [], "status": "candidate", "recalls": 0})
        known["parents"] = list(dict.fromkeys([*known["parents"], parent]))  # type: ignore[misc]

    @precondition(lambda self: self.expected)
    @rule(data=st.data(), kind=st.sampled_from(["activate", "retire", "reject"]))
    def judge(self, data: st.DataObject, kind: str) -> None:
        name = data.draw(st.sampled_from(sorted(self.expected)))
        self.pending.append(Event(kind, name, payload={"why": "pairs"}))  # type: ignore[arg-type]
        self.expected[name]["status"] = "active" if kind == "activate" else "retired"

    @precondition(lambda self: self.expected)
    @rule(data=st.data(), times=st.integers(0, 3))
    def recall(self, data: st.DataObject, times: int) -> None:
        name = data.draw(st.sampled_from(sorted(self.expected)))
        self.pending.append(Event("credit", name, payload={"recalls": times}))
        self.expected[name]["recalls"] += times  # type: ignore[operator]

    @precondition(lambda self: len(self.expected) > 1)
    @rule(data=st.data())
    def merge(self, data: st.DataObject) -> None:
        gone, stays = data.draw(st.lists(st.sampled_from(sorted(self.expected)), min_size=2, max_size=2, unique=True))
        self.pending.append(Event("merge", gone, payload={"into": stays}))
        self.expected[gone]["status"] = "retired"
        kept = self.expected[stays]
        kept["parents"] = list(dict.fromkeys([*kept["parents"], gone]))  # type: ignore[misc]

    @rule()
    def commit(self) -> None:
        commit = self.ledger.commit(f"step {len(self.past)}", self.pending, generation=0)
        self.pending = []
        self.past[commit] = {name: dict(known) for name, known in self.expected.items()}

    @rule()
    def reopen(self) -> None:
        self.ledger.close()
        self.ledger = Ledger(self.ledger.path)

    @rule(data=st.data())
    def replay(self, data: st.DataObject) -> None:
        step = data.draw(st.integers(1, len(self.past)))
        if step < len(self.past):
            self.ledger.commit(f"step {step}", [add(new_record("rule", "never written"))], generation=0)

    @rule(data=st.data())
    def look_back(self, data: st.DataObject) -> None:
        commit = data.draw(st.sampled_from(list(self.past)))
        assert self.shown(commit) == self.past[commit]

    @invariant()
    def the_head_shows_what_was_committed(self) -> None:
        assert self.ledger.head() == list(self.past)[-1]
        assert self.shown(None) == list(self.past.values())[-1]

    def shown(self, at: str | None) -> dict[str, dict[str, object]]:
        return {
            name: {"parents": list(record.parents), "status": record.status, "recalls": record.recalls}
            for name, record in self.ledger.records(at).items()
        }

    def teardown(self) -> None:
        self.ledger.close()
        self.folder.cleanup()


LedgerBesideDict.TestCase.settings = settings(max_examples=25, stateful_step_count=20, deadline=None, derandomize=True)
TestLedgerBesideDict = LedgerBesideDict.TestCase
