"""The audit's exact ids, and fsck on ledgers and indexes that somebody damaged."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from evolvent.environments.types import Outcome, Recalled, Task, Trajectory
from evolvent.memory.audit import Audit, Orphan, audit
from evolvent.memory.embedding import HashEmbedder
from evolvent.memory.fsck import Problem, check_ledger, fsck
from evolvent.memory.history import log
from evolvent.memory.ledger import Ledger
from evolvent.memory.rendering import trajectory_record
from evolvent.memory.store import Memory
from evolvent.memory.types import Event, Record, Scope, new_record

SHOP = Scope("workshop")
RUST = {"situation": "To mend the rust, use the {action}."}


def add(*records: Record) -> list[Event]:
    return [Event("add", record.id, record) for record in records]


def rule(text: str, *, parents: tuple[str, ...] = ("t1",), **facts: object) -> Record:
    return new_record("rule", text, SHOP, parents=parents, meta=facts)


def played(name: str, *shown: str) -> Trajectory:
    recalled = tuple(Recalled(record, True) for record in shown)
    return Trajectory(name, Task(name, "Mend it.", "workshop"), "smith", (), Outcome(1.0, True), recalled=recalled)


# -- audit -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    ledger = Ledger(tmp_path / "ledger.sqlite")
    ledger.add_episode("train/0/t1", [played("t1")])
    yield ledger
    ledger.close()


def activated(*records: Record, gate: bool = True) -> list[Event]:
    return [Event("activate", record.id, payload={"gate": {"e_value": 50}} if gate else {}) for record in records]


def test_a_sound_memory_has_nothing_to_report(ledger: Ledger) -> None:
    file = rule("To mend the rust, use the file.", **RUST)
    raw = trajectory_record(played("t1"))
    recalled = Event("credit", file.id, payload={"recalls": 1})
    ledger.commit("1", [*add(file, raw), *activated(file), recalled], generation=1)
    found = audit(ledger.records(), ledger)
    assert found == Audit(2, (), (), (), (), (), ())
    assert set(found.counts().values()) == {0}


def test_each_finding_names_exactly_the_records_it_is_about(ledger: Ledger) -> None:
    file, glue = (rule(f"To mend the rust, use the {tool}.", **RUST) for tool in ("file", "glue"))
    shouted = rule("to mend rust use the FILE!", **RUST)
    elsewhere = new_record("rule", "to mend rust use the FILE!", Scope("kitchen"), parents=("t1",), meta=RUST)
    orphan = rule("From nowhere.", parents=("t1", "lost", file.id))
    events = [
        *add(file, glue, shouted, elsewhere, orphan),
        *activated(file, shouted),
        *activated(glue, gate=False),
        Event("credit", file.id, payload={"recalls": 3}),
    ]
    ledger.commit("1", events, generation=1)
    late = rule("Learned just now.")
    measured = rule("Measured since.")
    lift = {"lift": {"mean": 0.2, "low": 0.1, "high": 0.3, "n": 40}, "recalls": 1}
    events = [*add(late, measured), *activated(late), *activated(measured, gate=False)]
    ledger.commit("2", [*events, Event("credit", measured.id, payload=lift)], generation=2)
    found = audit(ledger.records(), ledger)
    assert found.records == 7
    assert found.duplicates == ((file.id, shouted.id),)
    assert found.near_duplicates == ()
    assert found.never_recalled == (glue.id, shouted.id)
    assert {frozenset(group) for group in found.contradictory} == {frozenset({file.id, glue.id, shouted.id})}
    assert found.unproven == (glue.id,)
    assert found.orphaned == (Orphan(orphan.id, ("lost",)),)
    assert found.counts() == {
        **{"duplicates": 2, "near_duplicates": 0, "never_recalled": 2, "contradictory": 3, "unproven": 1},
        "orphaned": 1,
    }
    assert f"  {orphan.id} (parents lost)" in str(found).splitlines()


def test_near_duplicates_need_vectors_and_are_sought_within_a_scope(ledger: Ledger) -> None:
    oil, grease, elsewhere = rule("Use oil on it."), rule("Oil the thing."), new_record("rule", "Oil it.", Scope("sea"))
    ledger.commit("1", add(oil, grease, elsewhere), generation=1)
    close = np.array([0.96, 0.28], np.float32)
    vectors = {oil.id: np.array([1, 0], np.float32), grease.id: close, elsewhere.id: close}
    (group,) = audit(ledger.records(), ledger, vectors=vectors).near_duplicates
    assert set(group) == {oil.id, grease.id}
    vectors[grease.id] = np.array([0.94, 0.3412], np.float32)
    assert audit(ledger.records(), ledger, vectors=vectors).near_duplicates == ()


def test_what_is_out_of_use_is_not_counted(ledger: Ledger) -> None:
    one, two = rule("Use the file.", parents=("lost",)), rule("use file", parents=("lost",))
    ledger.commit("1", [*add(one, two), Event("retire", two.id), *activated(one)], generation=1)
    ledger.commit("2", [Event("retire", one.id)], generation=2)
    assert audit(ledger.records(), ledger) == Audit(0, (), (), (), (), (), ())


# -- fsck of the ledger ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A closed memory with two commits on one branch, one on another, and an episode that recalled a record."""
    folder = tmp_path_factory.mktemp("made")
    file = rule("Use the file.")
    with Memory.open(folder, embedder=HashEmbedder(64)) as memory:
        first = memory.commit("1", add(file), generation=1)
        memory.add_episode("train/1/t1", [played("t1", file.id)])
        memory.commit("2", [*add(rule("Use the oil.")), Event("activate", file.id)], generation=2)
        memory.make_branch("other", first)
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    return shutil.copytree(made, tmp_path / "run")


def tamper(folder: Path, sql: str) -> None:
    """By somebody who has only SQLite."""
    db = sqlite3.connect(folder / "ledger.sqlite", isolation_level=None)
    triggers = db.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall()
    db.executescript("".join(f"DROP TRIGGER {name};" for (name,) in triggers) + sql)
    db.close()


def whats(problems: list[Problem]) -> set[str]:
    return {problem.what for problem in problems}


def test_a_sound_memory_has_no_problem(folder: Path) -> None:
    with Memory.open(folder, embedder=HashEmbedder(64), read_only=True) as memory:
        assert fsck(memory) == []
    with Memory.open(folder, embedder=HashEmbedder(64)) as memory:
        assert fsck(memory) == []


@pytest.mark.parametrize(
    ("sql", "what"),
    [
        ("UPDATE events SET body = replace(body, 'the file', 'the glue')", "id is not that of the content of commit"),
        ("UPDATE events SET body = 'nonsense' WHERE seq = 1", "unreadable event in commit"),
        ("UPDATE events SET record = 'rule-other' WHERE seq = 3", "event is filed under another name in commit"),
        ("UPDATE commits SET parent = 'feedfeedfeedfeed' WHERE seq = 2", "parent was not written before commit"),
        ("DELETE FROM commits WHERE seq = 2", "row without its parent"),
        ("DELETE FROM events WHERE seq = 2", "id is not that of the content of commit"),
        ("UPDATE refs SET commit_id = 'feedfeedfeedfeed' WHERE name = 'other'", "no such commit at the end of branch"),
        ("UPDATE head SET branch = 'gone'", "no such current branch"),
        ("UPDATE trajectories SET body = x'00'", "unreadable trajectory"),
        ("UPDATE trajectories SET id = 't2'", "trajectory is filed under another name"),
        ("UPDATE recalls SET shown = 0", "recalls are not those of trajectory"),
        ("PRAGMA user_version = 9", "cannot be read"),
    ],
)
def test_a_changed_ledger_is_named_and_not_touched(folder: Path, sql: str, what: str) -> None:
    tamper(folder, sql)
    before = (folder / "ledger.sqlite").read_bytes()
    problems = check_ledger(folder / "ledger.sqlite")
    assert what in whats(problems)
    assert {problem.place for problem in problems} == {"ledger"}
    assert (folder / "ledger.sqlite").read_bytes() == before


@pytest.mark.timeout(60)
@pytest.mark.parametrize("column", ["parent", "merged"])
@pytest.mark.parametrize("of", ["seq = 2", "seq = 1"])  # itself, or the commit before it
def test_commits_that_lead_in_a_circle_are_told_and_can_still_be_read(folder: Path, column: str, of: str) -> None:
    tamper(folder, f"UPDATE commits SET {column} = (SELECT id FROM commits WHERE seq = 2) WHERE {of}")
    assert "parent was not written before commit" in whats(check_ledger(folder / "ledger.sqlite"))
    with Memory.open(folder, embedder=HashEmbedder(64), read_only=True) as memory:
        assert memory.records()
        assert log(memory.ledger)
        assert memory.resolve("HEAD~1")


def test_a_torn_or_foreign_file_is_one_problem(folder: Path) -> None:
    whole = (folder / "ledger.sqlite").read_bytes()
    for damaged in (whole[: len(whole) // 2], whole[:5000] + b"\xff" * 20_000 + whole[25_000:], b"not a database" * 99):
        (folder / "ledger.sqlite").write_bytes(damaged)
        problems = check_ledger(folder / "ledger.sqlite")
        assert problems
        assert whats(problems) <= {"cannot be read", "damaged file"}
        assert (folder / "ledger.sqlite").read_bytes() == damaged


def test_an_episode_that_recalled_what_was_never_added_is_named(folder: Path) -> None:
    with Memory.open(folder, embedder=HashEmbedder(64)) as memory:
        memory.add_episode("train/1/t9", [played("t9", "rule-never")])
        assert fsck(memory) == [
            Problem("ledger", "an episode recalled what was never added", "rule-never", "t9"),
        ]


def test_the_index_is_not_judged_by_a_damaged_ledger(folder: Path) -> None:
    with Memory.open(folder, embedder=HashEmbedder(64)) as memory:
        tamper(folder, "UPDATE events SET body = replace(body, 'the file', 'the glue')")
        index = (folder / "chroma" / "chroma.sqlite3").read_bytes()
        assert {problem.place for problem in fsck(memory, repair=True)} == {"ledger"}
        assert (folder / "chroma" / "chroma.sqlite3").read_bytes() == index


# -- fsck of the index -----------------------------------------------------------------------------------------------


def reworded(memory: Memory, record: Record) -> None:
    write(memory, replace(record, text="Use the glue."))


def restated(memory: Memory, record: Record) -> None:
    write(memory, replace(record, status="retired"))


def turned(memory: Memory, record: Record) -> None:
    write(memory, record, HashEmbedder(64).embed(["elsewhere"])[0])


def added(memory: Memory, record: Record) -> None:
    write(memory, new_record("rule", "stray"))


def removed(memory: Memory, record: Record) -> None:
    assert memory.index is not None
    memory.index.write([], np.zeros((0, 64), np.float32), memory.ledger.head(), gone=[record])


def misfiled(memory: Memory, record: Record) -> None:
    removed(memory, record)
    write(memory, replace(record, kind="trajectory"))


def behind(memory: Memory, record: Record) -> None:
    assert memory.index is not None
    memory.index.write([], np.zeros((0, 64), np.float32), memory.ledger.commits()[0].id)


def write(memory: Memory, record: Record, vector: np.ndarray | None = None) -> None:
    assert memory.index is not None
    vectors_ND = HashEmbedder(64).embed([record.text]) if vector is None else vector[None]
    memory.index.write([record], vectors_ND, memory.ledger.head())


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (reworded, {"different text of record", "different vector of record"}),
        (restated, {"different metadata of record"}),
        (turned, {"different vector of record"}),
        (added, {"surplus record"}),
        (removed, {"missing record"}),
        (misfiled, {"different collection of record", "different metadata of record"}),
        (behind, {"reflects another commit"}),
    ],
)
def test_an_index_that_differs_is_named_record_by_record_and_made_anew(
    folder: Path, change: Callable[[Memory, Record], None], what: set[str]
) -> None:
    with Memory.open(folder, embedder=HashEmbedder(64)) as memory:
        record = next(iter(memory.records().values()))
        change(memory, record)
        found = fsck(memory)
        assert whats(found) == what
        assert fsck(memory, repair=True) == [replace(problem, repaired=True) for problem in found]
        assert fsck(memory) == []
        assert "– repaired" in str(replace(found[0], repaired=True))


def test_a_reader_sees_what_lies_on_disk(folder: Path) -> None:
    with Memory.open(folder, embedder=HashEmbedder(64)) as memory:
        restated(memory, next(iter(memory.records().values())))
    with Memory.open(folder, embedder=HashEmbedder(64), read_only=True) as memory:
        assert whats(fsck(memory)) == {"different metadata of record"}
    with Memory.open(folder, embedder=HashEmbedder(32), read_only=True) as memory:
        assert whats(fsck(memory)) == {"has the vectors of another embedder"}
    (folder / "chroma" / "chroma.sqlite3").write_bytes(b"garbage" * 1000)
    with Memory.open(folder, embedder=HashEmbedder(64), read_only=True) as memory:
        assert whats(fsck(memory)) == {"cannot be read"}
    shutil.rmtree(folder / "chroma")
    with Memory.open(folder, embedder=HashEmbedder(64), read_only=True) as memory:
        assert whats(fsck(memory)) == {"is not there"}
