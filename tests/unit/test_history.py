"""Versions of memory: branches, revert, merge, names of commits; log, diff and blame over them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from evolvent.environments.types import dump
from evolvent.memory.errors import (
    BranchError,
    CannotRevertError,
    DuplicateKeyError,
    LedgerUnwritableError,
    MergeConflictError,
    UnknownCommitError,
    UnknownRecordError,
)
from evolvent.memory.history import Field, blame, by_status, diff, log, turns
from evolvent.memory.ledger import ROOT, Ledger, commit_id
from evolvent.memory.merging import Side
from evolvent.memory.types import Event, Interval, Record, Scope, new_record

FILE = new_record("rule", "To mend the rust, use the file.", Scope("workshop", ("rust",)), parents=("t1",))
CLAMP = new_record("rule", "To mend the crack, use the clamp.", Scope("workshop", ("crack",)), parents=("t2",))
LIFT: dict[str, Any] = {"mean": 0.2, "low": 0.1, "high": 0.3, "n": 40}


def add(*records: Record) -> list[Event]:
    return [Event("add", record.id, record) for record in records]


def fact(record: Record, **meta: object) -> Event:
    return Event("update", record.id, payload={"meta": meta})


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    ledger = Ledger(tmp_path / "ledger.sqlite")
    yield ledger
    ledger.close()


def forked(ledger: Ledger, ours: list[Event], theirs: list[Event]) -> None:
    """FILE on both; then `theirs` on branch `try` and `ours` on `main`, where we are."""
    ledger.commit("base", add(FILE), generation=1)
    ledger.make_branch("try")
    ledger.checkout("try")
    ledger.commit("theirs", theirs, generation=3)
    ledger.checkout("main")
    ledger.commit("ours", ours, generation=2)


# -- branches --------------------------------------------------------------------------------------------------------


def test_a_branch_goes_its_own_way_and_is_still_current_after_reopening(ledger: Ledger) -> None:
    base = ledger.commit("base", add(FILE), generation=1)
    assert ledger.make_branch("try") == base
    assert ledger.checkout("try") == base
    tried = ledger.commit("tried", add(CLAMP), generation=2)
    assert ledger.branches() == {"main": base, "try": tried}
    ledger.close()
    again = Ledger(ledger.path)
    assert (again.branch, again.head()) == ("try", tried)
    assert list(again.records()) == [FILE.id, CLAMP.id]
    assert again.checkout("main") == base
    assert list(again.records()) == [FILE.id]
    again.close()


def test_a_branch_may_begin_before_the_first_commit_and_main_is_kept_without_any(ledger: Ledger) -> None:
    ledger.make_branch("try")
    ledger.checkout("try")
    first = ledger.commit("first", add(FILE), generation=1)
    assert ledger.branches() == {"main": ROOT, "try": first}
    assert ledger.checkout("main") == ROOT
    assert dict(ledger.records()) == {}


@pytest.mark.parametrize("name", ["", "two words", "HEAD", "a~1", "0123456789abcdef"])
def test_a_branch_name_that_could_mean_something_else_is_refused(ledger: Ledger, name: str) -> None:
    with pytest.raises(BranchError, match="no name for a branch"):
        ledger.make_branch(name)


def test_a_taken_name_and_an_unknown_branch_are_named_with_the_way_out(ledger: Ledger) -> None:
    ledger.make_branch("try")
    with pytest.raises(BranchError, match=r"'try' is there already.*checkout\('try'\)"):
        ledger.make_branch("try")
    with pytest.raises(BranchError, match=r"No branch 'tri'.*main, try.*make_branch"):
        ledger.checkout("tri")


def test_the_same_commit_on_two_branches_is_one_commit(ledger: Ledger) -> None:
    ledger.make_branch("try")
    one = ledger.commit("a", add(FILE), generation=1)
    ledger.checkout("try")
    assert ledger.commit("a", add(FILE), generation=1) == one
    assert ledger.branches() == {"main": one, "try": one}
    ledger.make_branch("third", ROOT)
    ledger.checkout("third")
    with pytest.raises(DuplicateKeyError, match="'a'"):
        ledger.commit("a", add(FILE), generation=2)
    assert ledger.head() == ROOT


def test_a_reader_follows_the_branch_and_cannot_leave_it(ledger: Ledger) -> None:
    reader = Ledger(ledger.path, read_only=True)
    forked(ledger, add(CLAMP), [Event("retire", FILE.id)])
    assert (reader.branch, reader.records()) == ("main", ledger.records())
    assert reader.records(reader.resolve("try"))[FILE.id].status == "retired"
    assert reader.resolve("try~1") == reader.resolve("base")
    ledger.merge("try")
    assert reader.records() == ledger.records()
    ledger.checkout("try")
    assert (reader.branch, reader.records()) == ("try", ledger.records())
    for refused in (
        lambda: reader.checkout("main"),
        lambda: reader.make_branch("b"),
        lambda: reader.revert("HEAD"),
        lambda: reader.merge("main"),
    ):
        with pytest.raises(LedgerUnwritableError, match="read_only"):
            refused()
    reader.close()


# -- names of commits ------------------------------------------------------------------------------------------------


def test_a_commit_is_found_by_head_branch_id_step_and_first_digits(ledger: Ledger) -> None:
    first = ledger.commit("1/gate", add(FILE), generation=1)
    second = ledger.commit("2/gate", add(CLAMP), generation=2)
    names = {"HEAD": second, "main": second, first: first, "1/gate": first, first[:4]: first, ROOT: ROOT}
    names |= {"HEAD~1": first, "HEAD~": first, "main~2": ROOT, "2/gate~1": first, "HEAD~0": second}
    assert {name: ledger.resolve(name) for name in names} == names


def test_of_several_steps_with_one_key_the_last_on_the_line_is_meant(ledger: Ledger) -> None:
    forked(ledger, [fact(FILE, seen=1)], [fact(FILE, tried=1)])
    ledger.revert("ours")
    by = ledger.head()
    ledger.revert("HEAD")
    again = ledger.revert("ours")
    assert ledger.resolve(f"revert/{ledger.resolve('ours')}") == again != by
    assert ledger.resolve("theirs") == ledger.branches()["try"], "a step of another branch, where ours has none"


def test_a_name_that_nothing_has_says_what_is_near(ledger: Ledger) -> None:
    ledger.commit("1/gate", add(FILE), generation=1)
    with pytest.raises(UnknownCommitError, match=r"'1/gates'.*Did you mean '1/gate'"):
        ledger.resolve("1/gates")
    for name in ("HEAD~2", "HEAD~x", ledger.head()[:3], "~1", ""):
        with pytest.raises(UnknownCommitError):
            ledger.resolve(name)


def test_digits_that_begin_several_ids_are_refused_with_the_ids(ledger: Ledger) -> None:
    seen: dict[str, str] = {}
    for step in range(2000):  # among 2,000 ids two begin alike for sure enough; the ids are always the same
        commit = commit_id(ROOT, f"step {step}", [])
        if commit[:4] in seen:
            break
        seen[commit[:4]] = f"step {step}"
    for key in (seen[commit[:4]], f"step {step}"):
        ledger.make_branch(key.replace(" ", "-"), ROOT)
        ledger.checkout(key.replace(" ", "-"))
        ledger.commit(key, [], generation=0)
    with pytest.raises(UnknownCommitError, match=rf"{commit}.*more digits"):
        ledger.resolve(commit[:4])


# -- revert ----------------------------------------------------------------------------------------------------------


def test_after_a_revert_records_are_those_of_the_line_without_the_commit(tmp_path: Path, ledger: Ledger) -> None:
    steps: list[list[Event]] = [
        add(FILE),
        [fact(FILE, stem="rust"), Event("activate", FILE.id)],
        [*add(CLAMP), Event("credit", FILE.id, payload={"recalls": 2, "lift": LIFT})],
        [fact(FILE, stem="oxide")],
    ]
    for number, events in enumerate(steps):
        ledger.commit(f"step {number}", events, generation=number)
    ledger.revert("step 1")
    other = Ledger(tmp_path / "other.sqlite")
    for number in (0, 2, 3):
        other.commit(f"step {number}", steps[number], generation=number)
    replayed = [dump(record) for record in other.records().values()]
    other.close()
    assert [dump(record) for record in ledger.records().values()] == replayed
    ledger.close()
    again = Ledger(ledger.path)
    assert [dump(record) for record in again.records().values()] == replayed
    again.close()


def test_a_revert_can_be_reverted(ledger: Ledger) -> None:
    ledger.commit("a", add(FILE, CLAMP), generation=1)
    before = dict(ledger.records())
    ledger.commit("b", [Event("forget", FILE.id), Event("retire", CLAMP.id)], generation=2)
    after = dict(ledger.records())
    undo = ledger.revert("b", note="a slip")
    assert dict(ledger.records()) == before
    assert ledger.commits()[-1].note == "a slip"
    assert list(ledger.records()) == [FILE.id, CLAMP.id], "where they stood"
    ledger.revert(undo)
    assert dict(ledger.records()) == after
    assert dict(ledger.reverted()) == {undo: ledger.head()}


def test_a_commit_on_which_later_ones_build_is_not_reverted_before_them(ledger: Ledger) -> None:
    ledger.commit("a", add(FILE), generation=1)
    second = ledger.commit("b", [Event("activate", FILE.id)], generation=2)
    third = ledger.commit("c", [*add(CLAMP), Event("merge", CLAMP.id, payload={"into": FILE.id})], generation=3)
    head, records = ledger.head(), dict(ledger.records())
    with pytest.raises(CannotRevertError, match=rf"Revert these first: {third} \('c'\), {second} \('b'\)\."):
        ledger.revert("a")
    assert (ledger.head(), dict(ledger.records())) == (head, records)
    for step in ("c", "b", "a"):
        ledger.revert(step)
    assert dict(ledger.records()) == {}


def test_what_was_learned_again_or_forgotten_later_does_not_hold_a_revert_up(ledger: Ledger) -> None:
    ledger.commit("a", add(FILE, CLAMP), generation=1)
    ledger.commit("b", [*add(replace(FILE, parents=("t9",))), Event("activate", FILE.id)], generation=2)
    ledger.commit("c", [Event("forget", CLAMP.id)], generation=3)
    ledger.revert("a")
    assert ledger.records() == {FILE.id: replace(FILE, parents=("t9",), status="active", generation=2)}


@pytest.mark.parametrize(
    ("target", "says"), [(ROOT, "nothing to revert"), ("gone", "reverted already, by"), ("theirs", "not on branch")]
)
def test_what_cannot_be_reverted_says_why(ledger: Ledger, target: str, says: str) -> None:
    forked(ledger, [fact(FILE, seen=1)], [fact(FILE, tried=1)])
    ledger.commit("gone", add(CLAMP), generation=3)
    ledger.revert("gone")
    head = ledger.head()
    with pytest.raises(CannotRevertError, match=says):
        ledger.revert(target)
    assert ledger.head() == head


def test_replaying_a_step_that_was_reverted_does_not_bring_it_back(ledger: Ledger) -> None:
    step = ledger.commit("1/reflect", add(FILE), generation=1)
    ledger.revert(step)
    assert ledger.commit("1/reflect", add(FILE), generation=1) == step
    assert dict(ledger.records()) == {}
    assert ledger.events() == []
    assert [event.kind for event in ledger.events_of(step)] == ["add"]


# -- merge -----------------------------------------------------------------------------------------------------------


def test_a_merge_takes_what_only_one_side_changed_joins_parents_and_adds_recalls_up(ledger: Ledger) -> None:
    ours = [Event("activate", FILE.id), Event("credit", FILE.id, payload={"recalls": 2})]
    theirs = [
        *add(CLAMP, replace(FILE, parents=("t5",))),
        fact(FILE, stem="rust"),
        Event("credit", FILE.id, payload={"recalls": 3, "lift": LIFT}),
    ]
    forked(ledger, ours, theirs)
    main, other = ledger.head(), ledger.branches()["try"]
    merge = ledger.merge("try")
    assert ledger.records() == {
        FILE.id: replace(
            FILE,
            parents=("t1", "t5"),
            meta={"stem": "rust"},
            status="active",
            lift=Interval(**LIFT),
            recalls=5,
            generation=1,
        ),
        CLAMP.id: replace(CLAMP, generation=3),
    }
    assert [commit.key for commit in ledger.commits()] == ["base", "ours", "theirs", "merge/try"]
    assert (ledger.commits()[-1].parent, ledger.commits()[-1].merged) == (main, other)
    assert ledger.events_of(merge) == [], "nothing had to be settled"


def test_a_step_done_on_a_merged_branch_is_not_done_again(ledger: Ledger) -> None:
    forked(ledger, [], add(CLAMP))
    ledger.merge("try")
    assert ledger.commit("theirs", add(CLAMP), generation=3) == ledger.branches()["try"]


def test_a_conflict_is_reported_whole_and_nothing_is_written(ledger: Ledger) -> None:
    lift = {**LIFT, "mean": 0.15}
    ours = [Event("activate", FILE.id), fact(FILE, stem="a", same=1), Event("credit", FILE.id, payload={"lift": LIFT})]
    theirs = [Event("retire", FILE.id), fact(FILE, stem="b", same=1), Event("credit", FILE.id, payload={"lift": lift})]
    forked(ledger, ours, theirs)
    head = ledger.head()
    with pytest.raises(MergeConflictError, match="'candidate' became 'active' here and 'retired' there") as found:
        ledger.merge("try")
    assert [(each.field, each.base, each.ours, each.theirs) for each in found.value.conflicts] == [
        ("meta.stem", None, "a", "b"),
        ("status", "candidate", "active", "retired"),
        ("lift", None, Interval(**LIFT), Interval(**lift)),
    ]
    assert {each.record_id for each in found.value.conflicts} == {FILE.id}
    assert ledger.head() == head


@pytest.mark.parametrize("side", ["ours", "theirs"])
def test_a_preferred_side_settles_conflicts_and_only_them(ledger: Ledger, side: Side) -> None:
    ours = [Event("activate", FILE.id), fact(FILE, stem="ours", only_ours=1)]
    theirs = [Event("reject", FILE.id), fact(FILE, stem="theirs", only_theirs=1)]
    forked(ledger, ours, theirs)
    ledger.merge("try", prefer=side)
    record = ledger.records()[FILE.id]
    assert record.meta == {"stem": side, "only_ours": 1, "only_theirs": 1}
    assert record.status == {"ours": "active", "theirs": "retired"}[side]


@pytest.mark.parametrize("side", ["ours", "theirs"])
def test_a_record_changed_here_and_forgotten_there_is_a_conflict_about_its_being(ledger: Ledger, side: Side) -> None:
    change = [Event("activate", FILE.id), Event("credit", FILE.id, payload={"recalls": 3, "lift": LIFT})]
    forked(ledger, change, [Event("forget", FILE.id)])
    changed = ledger.records()[FILE.id]
    with pytest.raises(MergeConflictError) as found:
        ledger.merge("try")
    assert [(each.field, each.ours, each.theirs) for each in found.value.conflicts] == [("record", FILE.text, None)]
    ledger.merge("try", prefer=side)
    assert dict(ledger.records()) == ({FILE.id: changed} if side == "ours" else {})


def test_what_a_merge_settled_stands_whatever_before_it_is_reverted(ledger: Ledger) -> None:
    forked(ledger, [Event("forget", FILE.id)], [Event("activate", FILE.id), fact(FILE, stem="theirs")])
    ledger.merge("try", prefer="theirs")
    settled = dict(ledger.records())
    ledger.revert("ours")
    assert (
        ledger.records() == settled == {FILE.id: replace(FILE, status="active", meta={"stem": "theirs"}, generation=1)}
    )


def test_where_ours_has_nothing_new_the_head_moves_forward(ledger: Ledger) -> None:
    ledger.commit("base", add(FILE), generation=1)
    ledger.make_branch("try")
    ledger.checkout("try")
    tried = ledger.commit("tried", add(CLAMP), generation=2)
    ledger.checkout("main")
    assert ledger.merge("try") == tried
    assert ledger.branches() == {"main": tried, "try": tried}
    assert list(ledger.records()) == [FILE.id, CLAMP.id]


def test_merging_what_is_there_already_changes_nothing_and_says_so(
    ledger: Ledger, caplog: pytest.LogCaptureFixture
) -> None:
    forked(ledger, add(CLAMP), [fact(FILE, tried=1)])
    merged = ledger.merge("try")
    with caplog.at_level("INFO", logger="evolvent.memory.ledger"):
        assert ledger.merge("try") == merged
    assert caplog.messages == ["try is in branch main already: nothing to merge"]


def test_a_revert_on_a_branch_is_merged_too(ledger: Ledger) -> None:
    ledger.commit("poison", add(CLAMP), generation=0)
    forked(ledger, [Event("activate", FILE.id)], [])
    ledger.checkout("try")
    ledger.revert("poison")
    ledger.checkout("main")
    ledger.merge("try")
    assert {key: record.status for key, record in ledger.records().items()} == {FILE.id: "active"}


def test_reverting_a_merge_takes_out_what_it_brought_and_back(ledger: Ledger) -> None:
    forked(ledger, [Event("activate", FILE.id)], [*add(CLAMP), Event("retire", FILE.id)])
    before = dict(ledger.records())
    ledger.merge("try", prefer="theirs")
    after = dict(ledger.records())
    undo = ledger.revert("merge/try")
    assert dict(ledger.records()) == before
    with pytest.raises(CannotRevertError, match="reverted already"):
        ledger.revert("theirs")
    ledger.revert(undo)
    assert dict(ledger.records()) == after


def test_a_second_merge_starts_from_the_first(ledger: Ledger) -> None:
    forked(ledger, [Event("credit", FILE.id, payload={"recalls": 1})], [fact(FILE, x=1)])
    ledger.merge("try")
    ledger.checkout("try")
    ledger.commit("more", [fact(FILE, x=2), Event("credit", FILE.id, payload={"recalls": 10})], generation=4)
    ledger.checkout("main")
    ledger.merge("try")
    assert (ledger.records()[FILE.id].meta, ledger.records()[FILE.id].recalls) == ({"x": 2}, 11)
    ledger.checkout("try")
    assert ledger.merge("main") == ledger.branches()["main"]


# -- reading ---------------------------------------------------------------------------------------------------------


def test_diff_names_what_was_added_removed_and_changed_field_by_field(ledger: Ledger) -> None:
    ledger.commit("a", add(FILE, CLAMP), generation=1)
    before = ledger.records()
    other = new_record("rule", "To mend the dent, use the hammer.")
    events = [
        *(Event("forget", CLAMP.id), Event("activate", FILE.id), fact(FILE, stem="rust")),
        Event("update", FILE.id, payload={"parents": ["t9"], "without_parents": ["t1"]}),
        Event("credit", FILE.id, payload={"recalls": 2, "lift": LIFT}),
        *add(other),
    ]
    ledger.commit("b", events, generation=2)
    changes = diff(before, ledger.records())
    assert [(each.kind, each.record.id) for each in changes] == [
        ("changed", FILE.id),
        ("removed", CLAMP.id),
        ("added", other.id),
    ]
    assert set(changes[0].fields) == {
        Field("status", "candidate", "active"),
        Field("lift", None, Interval(**LIFT)),
        Field("recalls", 0, 2),
        Field("meta.stem", None, "rust"),
        Field("parents.t1", True, None),
        Field("parents.t9", None, True),
    }
    assert diff(before, before) == []


def test_log_tells_commits_newest_first_with_counts_branches_and_who_reverted(ledger: Ledger) -> None:
    forked(ledger, [*add(CLAMP), Event("activate", FILE.id), Event("activate", CLAMP.id)], [fact(FILE, x=1)])
    undo = ledger.revert("ours")
    ledger.merge("try")
    assert [(each.commit.key, dict(each.counts), each.branches, each.reverted_by) for each in log(ledger)] == [
        ("merge/try", {}, ("main",), ""),
        ("theirs", {"update": 1}, ("try",), ""),
        (f"revert/{ledger.resolve('ours')}", {"revert": 1}, (), ""),
        ("ours", {"add": 1, "activate": 2}, (), undo),
        ("base", {"add": 1}, (), ""),
    ]
    assert [each.commit.key for each in log(ledger, ledger.resolve("try"))] == ["theirs", "base"]


def test_blame_names_for_each_field_the_commit_and_event_that_set_it(ledger: Ledger) -> None:
    ledger.commit("a", [*add(replace(FILE, meta={"stem": "rust"}), CLAMP), Event("activate", FILE.id)], generation=1)
    ledger.commit("b", [fact(FILE, seen=1), Event("retire", FILE.id)], generation=2)
    ledger.commit("c", [Event("merge", CLAMP.id, payload={"into": FILE.id})], generation=3)
    ledger.commit("d", [Event("credit", FILE.id, payload={"recalls": 1}), fact(FILE, seen=1)], generation=4)
    origins = {each.field: (each.commit.key, each.event.kind) for each in blame(ledger, FILE.id)}
    assert origins == {
        "added": ("a", "add"),
        "lift": ("a", "add"),
        "generation": ("a", "add"),
        "meta.stem": ("a", "add"),
        "parents.t1": ("a", "add"),
        "meta.seen": ("b", "update"),
        "status": ("b", "retire"),
        f"parents.{CLAMP.id}": ("c", "merge"),
        "recalls": ("d", "credit"),
    }
    ledger.revert("b")
    origins = {each.field: (each.commit.key, each.event.kind) for each in blame(ledger, FILE.id)}
    assert (origins["status"], origins["meta.seen"]) == (("a", "activate"), ("d", "update"))


def test_blame_of_a_record_that_was_forgotten_and_learned_again_begins_with_the_second_time(ledger: Ledger) -> None:
    ledger.commit("a", add(FILE), generation=1)
    ledger.commit("b", [Event("forget", FILE.id)], generation=2)
    with pytest.raises(UnknownRecordError, match=FILE.id):
        blame(ledger, FILE.id)
    ledger.commit("c", add(FILE), generation=3)
    assert {each.commit.key for each in blame(ledger, FILE.id)} == {"c"}


def test_turns_tell_what_each_event_made_of_a_record(ledger: Ledger) -> None:
    ledger.commit("1/add", add(FILE), generation=1)
    gone = ledger.commit("1/note", [fact(FILE, seen=1)], generation=1)
    ledger.commit(
        "2/gate", [Event("activate", FILE.id), Event("credit", FILE.id, payload={"lift": LIFT})], generation=2
    )
    ledger.revert(gone)
    ledger.commit("3/forget", [Event("forget", FILE.id)], generation=3)
    added, proved, credited, forgotten = turns(ledger, FILE.id)
    assert (added.before, forgotten.after) == (None, None)
    assert Field("status", None, "candidate") in added.fields
    assert proved.fields == (Field("status", "candidate", "active"),)
    assert credited.fields == (Field("lift", None, Interval(**LIFT)),)
    assert Field("status", "active", None) in forgotten.fields
    assert list(turns(ledger, "rule-nobody")) == []


def test_records_are_counted_by_status_at_the_end_of_each_generation_by_what_counts_now(ledger: Ledger) -> None:
    ledger.commit("1/add", add(FILE), generation=1)
    ledger.commit("1/gate", [Event("activate", FILE.id)], generation=1)
    taken_back = ledger.commit("2/add", add(CLAMP), generation=2)
    ledger.commit("3/gate", [Event("retire", FILE.id)], generation=3)
    assert by_status(ledger, ["rule"]) == {
        1: {"active": 1},
        2: {"active": 1, "candidate": 1},
        3: {"retired": 1, "candidate": 1},
    }
    ledger.revert(taken_back)
    assert by_status(ledger, ["rule"]) == {1: {"active": 1}, 2: {"active": 1}, 3: {"retired": 1}}
    assert by_status(ledger, ["note"]) == {1: {}, 2: {}, 3: {}}
