"""A memory as text: exported, imported, cut off, changed; and the records of a stranger."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evolvent.environments.types import Action, Observation, Outcome, Recalled, Step, Task, Trajectory
from evolvent.memory.embedding import HashEmbedder
from evolvent.memory.errors import BadImportError, LedgerUnwritableError
from evolvent.memory.fsck import check_ledger, fsck
from evolvent.memory.ledger import Ledger
from evolvent.memory.rendering import trajectory_record
from evolvent.memory.store import Memory
from evolvent.memory.transfer import export_jsonl, export_records, import_jsonl, import_records
from evolvent.memory.types import Event, Record, Scope, new_record

ODD = 'Quote " and \\ and \u2028 and ☃ and\nlines\x00, {"end": 1}'
FILE = new_record(
    "rule", "Use the file.", Scope("workshop", ("rust",)), parents=("t1",), meta={"z": 1, "a": [0.1, ODD]}
)
OIL = new_record("rule", ODD, Scope("workshop"), parents=(FILE.id, "t1"), meta={"tiny": 1e-7, "big": 1e22})


def add(*records: Record) -> list[Event]:
    return [Event("add", record.id, record) for record in records]


def played(name: str) -> Trajectory:
    pixels = np.arange(6, dtype=np.float32).reshape(2, 3) / 7
    steps = (
        Step("smith", Observation("smith", ODD, arrays={"camera": pixels}), (), ODD, Action(array=pixels)),
        Step("smith", Observation("smith", "Then."), (), "", Action("file"), logprob=-1e-9, reward=1 / 3),
    )
    recalled = (Recalled(FILE.id, True, 0.75), Recalled(OIL.id, False, 0.75))
    task = Task("hinge", ODD, "workshop", {"tuple": (1, 2)})
    return Trajectory(name, task, "smith", steps, Outcome(1 / 3, False), recalled=recalled)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two branches and a merge, a revert, episodes, memos, generations."""
    folder = tmp_path_factory.mktemp("made")
    with Memory.open(folder, embedder=HashEmbedder(64)) as memory:
        first = memory.commit("0/remember", add(FILE), generation=0, note=ODD)
        memory.add_episode("train/0/t1", [played("t1")])
        memory.make_branch("side", first)
        memory.commit("1/gate", [Event("activate", FILE.id, payload={"gate": {"e_value": 61.5}})], generation=1)
        memory.checkout("side")
        memory.commit("1/side", [*add(OIL, trajectory_record(played("t1")))], generation=1)
        memory.checkout("main")
        memory.merge("side")
        memory.revert(memory.commit("2/wrong", [Event("retire", FILE.id)], generation=2))
        memory.ledger.add_memo("0/reflect/0", ODD)
        memory.ledger.add_generation(0, '{"eval": 0.5}')
        memory.checkout("side")
    return folder


@pytest.fixture
def memory(made: Path) -> Iterator[Memory]:
    with Memory.open(made, embedder=HashEmbedder(64), read_only=True) as memory:
        yield memory


# -- histories -------------------------------------------------------------------------------------------------------


def test_a_history_is_the_same_bytes_after_it_was_imported(memory: Memory, tmp_path: Path) -> None:
    lines = export_jsonl(memory.ledger, tmp_path / "one.jsonl")
    path = import_jsonl(tmp_path / "one.jsonl", tmp_path / "deep" / "again")
    with closing(Ledger(path)) as again:
        export_jsonl(again, tmp_path / "two.jsonl")
        assert again.branch == "side"
        assert again.branches() == memory.branches()
        assert again.commits(again.resolve("main")) == memory.ledger.commits(memory.resolve("main"))
        assert dict(again.records(again.resolve("main"))) == dict(memory.records(memory.resolve("main")))
        assert repr(again.episode("train/0/t1")) == repr(memory.ledger.episode("train/0/t1"))
        assert again.showings([FILE.id, OIL.id]) == [("t1", FILE.id)]
        assert (again.memo("0/reflect/0"), again.generations()) == (ODD, {0: '{"eval": 0.5}'})
    exported = (tmp_path / "one.jsonl").read_bytes()
    assert exported == (tmp_path / "two.jsonl").read_bytes()
    assert exported.count(b"\n") == lines


def test_every_line_is_json_and_bodies_are_letter_for_letter(memory: Memory, tmp_path: Path) -> None:
    export_jsonl(memory.ledger, tmp_path / "file.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "file.jsonl").read_text(encoding="utf-8").split("\n")[:-1]]
    assert lines[0] == {"format": "evolvent-history", "version": 1}
    assert [line["events"]["kind"] for line in lines if "events" in line][:2] == ["add", "activate"]
    assert next(line["trajectories"]["body"] for line in lines if "trajectories" in line)["task"]["prompt"] == ODD


def test_an_imported_history_is_sound_and_goes_on(memory: Memory, tmp_path: Path) -> None:
    export_jsonl(memory.ledger, tmp_path / "file.jsonl")
    (tmp_path / "empty").mkdir()
    import_jsonl(tmp_path / "file.jsonl", tmp_path / "empty")
    with Memory.open(tmp_path / "empty", embedder=HashEmbedder(64)) as again:
        assert fsck(again) == []
        again.commit("3", [Event("activate", OIL.id)], generation=3)
        assert again.records()[OIL.id].status == "active"


def test_an_empty_ledger_is_exported_and_imported_too(tmp_path: Path) -> None:
    with closing(Ledger(tmp_path / "ledger.sqlite")) as ledger:
        assert export_jsonl(ledger, tmp_path / "file.jsonl") == 3
    assert check_ledger(import_jsonl(tmp_path / "file.jsonl", tmp_path / "again")) == []


def cut(at: int) -> Callable[[bytes], bytes]:
    return lambda text: b"".join(text.splitlines(keepends=True)[:at])


def swapped(old: bytes, new: bytes) -> Callable[[bytes], bytes]:
    def change(text: bytes) -> bytes:
        assert old in text
        return text.replace(old, new, 1)

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (cut(0), "cut off after line 0"),
        (cut(3), "cut off after line 3"),
        (lambda text: text[:-40], r"line \d+: "),
        (lambda text: text[:300], r"line \d: "),
        (lambda text: text + b"{}\n", r"line \d+: there is something after the last line"),
        (swapped(b"evolvent-history", b"something-else"), "line 1: expected the header"),
        (swapped(b'"version":1', b'"version":7'), "line 1: it has format version 7; this Evolvent reads 1"),
        (swapped(b"Use the file", b"Use the fist"), r"line \d+: .* the checksum differs"),
        (swapped(b'{"memos":{', b'{"memoirs":{'), r"line \d+: 'memoirs' is not a row of a ledger; expected one of"),
        (swapped(b'"note":', b'"remark":'), "line 2: 'commits' is not a row of a ledger; expected columns"),
        (swapped(b'"generation":0', b'"generation":"none"'), "line 2: commits.generation is 'none'; expected integer"),
        (swapped(b'"kind":"rule"', b'"kind":"ruler"'), r"line \d+: record.kind: Input should be"),
        (swapped(b"\n", b"\n\n"), "line 2: "),
        (lambda text: b"\xff\xfe" + text, "line 1: "),
        (lambda text: b"PK\x03\x04", "line 1: "),
    ],
)
def test_a_file_that_is_not_what_was_exported_is_one_error_and_leaves_nothing(
    memory: Memory, tmp_path: Path, change: Callable[[bytes], bytes], message: str
) -> None:
    file = tmp_path / "file.jsonl"
    export_jsonl(memory.ledger, file)
    file.write_bytes(change(file.read_bytes()))
    before = set(tmp_path.iterdir())
    with pytest.raises(BadImportError, match=message):
        import_jsonl(file, tmp_path / "again")
    assert set(tmp_path.iterdir()) == before


def test_a_history_that_was_made_up_is_refused_though_its_checksum_is_right(memory: Memory, tmp_path: Path) -> None:
    file = tmp_path / "file.jsonl"
    export_jsonl(memory.ledger, file)
    *lines, _ = file.read_text(encoding="utf-8").replace("Use the file", "Use the fist").split("\n")[:-1]
    file.write_text("".join(_closed_again(lines)), encoding="utf-8")
    with pytest.raises(BadImportError, match="is no sound history: ledger: id is not that of the content"):
        import_jsonl(file, tmp_path / "again")
    assert not (tmp_path / "again").exists()


def _closed_again(lines: list[str]) -> Iterator[str]:
    text = "".join(f"{line}\n" for line in lines)
    end = {"lines": len(lines), "sha256": hashlib.sha256(text.encode()).hexdigest()}
    yield text
    yield json.dumps({"end": end}, separators=(",", ":")) + "\n"


def test_a_place_that_is_taken_or_cannot_be_written_is_one_clear_error(memory: Memory, tmp_path: Path) -> None:
    export_jsonl(memory.ledger, tmp_path / "file.jsonl")
    with pytest.raises(LedgerUnwritableError, match="is there already and not an empty directory"):
        import_jsonl(tmp_path / "file.jsonl", memory.ledger.path.parent)
    with pytest.raises(LedgerUnwritableError, match="Not a directory"):
        import_jsonl(tmp_path / "file.jsonl", tmp_path / "file.jsonl" / "sub")
    with pytest.raises(LedgerUnwritableError, match=r"Cannot write .*: No such file or directory"):
        export_jsonl(memory.ledger, tmp_path / "missing" / "file.jsonl")
    with pytest.raises(BadImportError, match=r"Cannot read .*: No such file or directory"):
        import_jsonl(tmp_path / "missing.jsonl", tmp_path / "again")
    assert {path.name for path in tmp_path.iterdir()} == {"file.jsonl"}


texts = st.text(st.characters(codec="utf-8"))


@settings(max_examples=10, deadline=None)
@given(
    text=st.text(st.characters(codec="utf-8"), min_size=1),
    facts=st.dictionaries(
        st.text(st.characters(codec="utf-8")),
        st.one_of(
            st.floats(allow_nan=False, allow_infinity=False), st.integers(), st.text(st.characters(codec="utf-8"))
        ),
        max_size=4,
    ),
)
def test_any_text_and_facts_come_through(
    tmp_path_factory: pytest.TempPathFactory, text: str, facts: dict[str, object]
) -> None:
    folder = tmp_path_factory.mktemp("any")
    record = new_record("note", text, meta=facts)
    with closing(Ledger(folder / "ledger.sqlite")) as ledger:
        ledger.commit(text, add(record), generation=0, note=text)
        export_jsonl(ledger, folder / "one.jsonl")
    with closing(Ledger(import_jsonl(folder / "one.jsonl", folder / "again"))) as again:
        export_jsonl(again, folder / "two.jsonl")
    assert (folder / "one.jsonl").read_bytes() == (folder / "two.jsonl").read_bytes()


# -- records ---------------------------------------------------------------------------------------------------------


def test_reverting_any_commit_gives_the_bytes_of_a_replay_without_it(tmp_path: Path) -> None:
    rules = [new_record("rule", f"rule {number}", meta={"n": number}) for number in range(6)]
    draw = random.Random(0)
    steps: list[tuple[str, list[Event]]] = [(f"add {n}", add(each)) for n, each in enumerate(rules)]
    for number in range(12):
        chosen = draw.choice(rules).id
        change = draw.choice(
            [
                Event("activate", chosen),
                Event("retire", chosen),
                Event("update", chosen, payload={"meta": {"seen": number}, "parents": [f"t{number}"]}),
                Event("credit", chosen, payload={"recalls": number}),
            ]
        )
        steps.append((f"change {number}", [change]))
    for reverted, _ in steps[len(rules) :: 4]:
        files = []
        for name, without in ((f"{reverted} reverted", None), (f"{reverted} left out", reverted)):
            with closing(Ledger(tmp_path / f"{name}.sqlite")) as ledger:
                commits = {key: ledger.commit(key, events, generation=0) for key, events in steps if key != without}
                if without is None:
                    ledger.revert(commits[reverted])
                files.append(tmp_path / f"{name}.jsonl")
                export_records(ledger.records(), files[-1])
        assert files[0].read_bytes() == files[1].read_bytes()


@pytest.fixture
def theirs(memory: Memory, tmp_path: Path) -> Path:
    export_records(memory.records(memory.resolve("main")), tmp_path / "theirs.jsonl")
    return tmp_path / "theirs.jsonl"


def test_a_strangers_records_start_quarantined_and_are_found_by_no_search(theirs: Path, tmp_path: Path) -> None:
    with Memory.open(tmp_path / "mine", embedder=HashEmbedder(64)) as mine:
        imported = import_records(theirs, mine)
        assert imported.commit == mine.ledger.head()
        assert set(imported.added) == mine.records().keys() >= {FILE.id, OIL.id}
        assert {record.status for record in mine.records().values()} == {"quarantined"}
        assert mine.search("Use the file.", k=5) == []
        assert mine.records()[OIL.id].parents == (FILE.id,), "t1 names an episode of theirs"
        assert mine.records()[OIL.id].meta["foreign_parents"] == ["t1"]
        learned = new_record("rule", "Learned from it.", parents=(OIL.id,))
        mine.commit("1", add(learned), generation=1)
        assert mine.records()[learned.id].status == "quarantined"


def test_records_of_a_friend_come_as_candidates_and_have_to_be_proved_here(theirs: Path, tmp_path: Path) -> None:
    with Memory.open(tmp_path / "mine", embedder=HashEmbedder(64)) as mine:
        import_records(theirs, mine, trust=0.9)
        assert {record.status for record in mine.records().values()} == {"candidate"}
        assert {record.meta["trust"] for record in mine.records().values()} == {0.9}


def test_what_memory_has_already_stays_as_it_is(theirs: Path, tmp_path: Path) -> None:
    with Memory.open(tmp_path / "mine", embedder=HashEmbedder(64)) as mine:
        mine.commit("0", [*add(replace(FILE, meta={})), Event("activate", FILE.id)], generation=0)
        before = mine.records()[FILE.id]
        imported = import_records(theirs, mine)
        assert imported.known == (FILE.id,)
        assert mine.records()[FILE.id] == before
        again = import_records(theirs, mine)
        assert (again.commit, again.added) == (imported.commit, ())


def test_a_changed_or_foreign_file_of_records_adds_nothing(theirs: Path, memory: Memory, tmp_path: Path) -> None:
    export_jsonl(memory.ledger, tmp_path / "history.jsonl")
    text = theirs.read_bytes()
    (tmp_path / "changed.jsonl").write_bytes(text.replace(b"Use the file", b"Use the fist"))
    (tmp_path / "cut.jsonl").write_bytes(text.splitlines(keepends=True)[0])
    with Memory.open(tmp_path / "mine", embedder=HashEmbedder(64)) as mine:
        for name, message in (
            ("history", "line 1: expected the header of an 'evolvent-records' file"),
            ("changed", r"line \d: id .* is not that of its kind, text and scope"),
            ("cut", "cut off after line 1"),
        ):
            with pytest.raises(BadImportError, match=message):
                import_records(tmp_path / f"{name}.jsonl", mine)
        with pytest.raises(BadImportError, match="Trust is 2; expected"):
            import_records(theirs, mine, trust=2)
        assert dict(mine.records()) == {}
