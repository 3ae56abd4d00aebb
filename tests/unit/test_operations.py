"""Operations on memory: what small models write is read or rejected with a reason, and becomes events that fold."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from evolvent.memory.consolidation import superseded
from evolvent.memory.fold import apply
from evolvent.memory.ledger import Ledger
from evolvent.memory.operation_lines import MOST_CHARS, parse
from evolvent.memory.operations import VERBS, Operation, line, to_events
from evolvent.memory.types import Event, Kind, Record, Scope, Status, new_record

IDS = ("rule-3f2a00000001", "rule-3f2b00000002", "note-abcdef123456")
ONE, TWO, THREE = IDS
OIL = Operation("add", text="Use oil on rust.")


def read(reply: str) -> list[Operation]:
    """What is read from a reply of which nothing is rejected."""
    parsed = parse(reply, IDS)
    assert parsed.rejected == ()
    return list(parsed.operations)


def reasons(reply: str) -> list[str]:
    """Why each line of a reply of which nothing is read was rejected."""
    parsed = parse(reply, IDS)
    assert parsed.operations == ()
    return [each.reason for each in parsed.rejected]


# -- reading -----------------------------------------------------------------------------------------------------------


def test_the_line_format_is_read_without_a_repair() -> None:
    reply = """\
ADD rule: Use oil on rust.
ADD skill: Oil it, then wait.
UPDATE 2: Use glue: two drops.
MERGE 1, 2: Use it.
MERGE 1, 3
RETIRE 3: it failed three times
KEEP rule-3f2a00000001
NOTHING
"""
    assert read(reply) == [
        OIL,
        Operation("add", text="Oil it, then wait.", kind="skill"),
        Operation("update", (TWO,), "Use glue: two drops."),
        Operation("merge", (ONE, TWO), "Use it."),
        Operation("merge", (ONE, THREE)),
        Operation("retire", (THREE,), "it failed three times"),
        Operation("keep", (ONE,)),
        Operation("nothing"),
    ]
    assert parse(reply, IDS).repaired == ()


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("add rule: Use oil on rust.", OIL),
        ("ADD: Use oil on rust.", OIL),
        ("ADD Use oil on rust.", OIL),
        ("ADD rule Use oil on rust.", OIL),
        ("- **ADD rule:** Use oil on rust.", OIL),
        ('1. ADD rule: "Use oil on rust."', OIL),
        ("* `ADD rule: Use oil on rust.`", OIL),
        ("Operation 1: ADD a rule - Use oil on rust.", OIL),
        ("CREATE lesson: “Use oil on rust.”", OIL),
        ("ADD  rule :  Use   oil on rust.", OIL),
        ("UPDATE [2] -> Use glue.", Operation("update", (TWO,), "Use glue.")),
        ("Change rule #2: Use glue.", Operation("update", (TWO,), "Use glue.")),
        ("UPDATE 2 Use glue.", Operation("update", (TWO,), "Use glue.")),
        ("UPDATE 2: 10 drops of oil", Operation("update", (TWO,), "10 drops of oil")),
        ("UPDATE 2: -5 is too cold", Operation("update", (TWO,), "-5 is too cold")),
        ("MERGE 1 and 3: Use it.", Operation("merge", (ONE, THREE), "Use it.")),
        ("MERGE 1 2: Use it.", Operation("merge", (ONE, TWO), "Use it.")),
        ("Combine (1) with (2) => Use it.", Operation("merge", (ONE, TWO), "Use it.")),
        ("RETIRE 3. wrong", Operation("retire", (THREE,), "wrong")),
        ("retire 3 wrong", Operation("retire", (THREE,), "wrong")),
        ("DELETE 3", Operation("retire", (THREE,))),
        ("Remove records 1 & 2: stale", Operation("retire", (ONE, TWO), "stale")),
        ("RETIRE 3F2B: stale", Operation("retire", (TWO,), "stale")),
        ("keep note-ab", Operation("keep", (THREE,))),
        ("KEEP 1, 1", Operation("keep", (ONE,))),
        ("None.", Operation("nothing")),
        ("No changes", Operation("nothing")),
    ],
)
def test_what_small_models_do_to_a_line_is_repaired(written: str, meant: Operation) -> None:
    assert read(written) == [meant]


def test_repairs_are_counted() -> None:
    parsed = parse("KEEP 1\n- keep 2\n```text\nKEEP 3\n```\nADD rule: 'Use oil'", IDS)
    assert parsed.repaired == ("- keep 2", "ADD rule: 'Use oil'")


@pytest.mark.parametrize(
    ("written", "reason"),
    [
        ("Sure! Here is what I would do:", "begins with no operation"),
        ("To mend rust, use the oil.", "begins with no operation"),
        ("Add some oil to the hinge first", "has no colon"),
        ("Drop 2 coins into the box", "has no colon"),
        ("MERGE 1, 2 because they are alike", "has no colon"),
        ("None of these helped me when the lamp went out", "says more than NOTHING"),
        ("Keep in mind that rust spreads", "names no record"),
        ("RETIRE: it is wrong", "names no record"),
        ("MERGE 1: Use it.", "names one record"),
        ("UPDATE 2:", "has no text"),
        ("ADD rule: ...", "has no text"),
        ("RETIRE 9: wrong", "no record '9' was shown; expected a number from 1 to 3"),
        ("RETIRE 0", "no record '0' was shown"),
        ("KEEP rule-ffff", "no record 'rule-ffff' was shown"),
        ("KEEP rule-3f2", "'rule-3f2' begins the ids of 2 records"),
        ("KEEP 1, RETIRE 2: wrong", "two operations"),
        ("ADD rule: oil RETIRE 2: wrong", "two operations"),
        ("ADD rule: " + "oil " * 400, f"has 1599 characters; expected one statement of at most {MOST_CHARS}"),
        ("{KEEP 1}", "not JSON"),
    ],
)
def test_what_cannot_be_read_is_rejected_with_a_reason(written: str, reason: str) -> None:
    (said,) = reasons(written)
    assert reason in said


def test_an_operation_that_was_not_asked_for_is_rejected() -> None:
    parsed = parse("RETIRE 1: wrong\nKEEP 2", IDS, verbs=("keep",))
    assert [each.reason for each in parsed.rejected] == ["RETIRE is not asked for here"]
    assert parsed.operations == (Operation("keep", (TWO,)),)


@pytest.mark.parametrize(
    "reply",
    [
        '{"op": "ADD", "kind": "rule", "text": "Use oil on rust."}\n{"op": "RETIRE", "id": 2, "reason": "wrong"}',
        '[{"operation": "add", "text": "Use oil on rust."}, {"operation": "delete", "id": "2", "reason": "wrong"}]',
        '```json\n{"operations": [{"action": "ADD", "content": "Use oil on rust."},\n'
        '{"action": "RETIRE", "ids": [2], "reason": "wrong"}]}\n```',
        '{"memory": [{"id": "0", "text": "Use oil on rust.", "event": "ADD"},\n'
        '{"id": "2", "event": "DELETE", "reason": "wrong"}',
        "[{'op': 'ADD', 'text': 'Use oil on rust.',}, {'op': 'RETIRE', 'id': 'rule-3f2b', 'reason': 'wrong'}]",
        '["ADD rule: Use oil on rust.", "RETIRE 2: wrong"]',
    ],
)
def test_json_in_place_of_lines_is_read(reply: str) -> None:
    assert read(reply) == [OIL, Operation("retire", (TWO,), "wrong")]


def test_json_that_was_cut_off_loses_only_the_object_that_was_cut() -> None:
    whole = json.dumps({"operations": [{"op": "ADD", "text": "Use oil on rust."}, {"op": "ADD", "text": "To mend a"}]})
    for cut in range(whole.index("To mend") + 3, len(whole) - 3):
        parsed = parse(whole[:cut], IDS)
        assert parsed.operations == (OIL,), cut
        assert [each.line for each in parsed.rejected] == [whole[whole.rindex("{") : cut].strip()]


def test_json_that_says_too_little_is_rejected_as_it_was_written() -> None:
    reply = '[{"text": "Use oil"}, {"op": "ADD", "text": ["a", "b"]}, {"op": "ADD", "text": "\\ud800"}, 7]'
    parsed = parse(reply, IDS)
    assert [each.line for each in parsed.rejected] == [
        '{"text": "Use oil"}',
        '{"op": "ADD", "text": ["a", "b"]}',
        '{"op": "ADD", "text": "?"}',
        "7",
    ]


WORDS = [*VERBS, *(verb.upper() for verb in VERBS), "DELETE", "1", "2", "9", "3f2", ONE, "rule", "note", "and", "oil"]
MARKS = [
    *':,."`*-#[]{}()',
    "->",
    "```",
    "```json",
    "\n",
    " ",
    '{"op": "ADD", "text": "x"}',
    '{"op": "',
    "'",
    "\t",
    "\u2028",
]
fragments = st.sampled_from([*WORDS, *MARKS])
scrambled = st.lists(fragments, max_size=30).map(" ".join) | st.lists(fragments, max_size=30).map("".join)


@given(st.text() | scrambled)
@example("\ud800")
@example("[" * 5000)
@example('{"a":' * 3000)
def test_no_reply_makes_the_parser_raise_and_no_line_is_lost(reply: str) -> None:
    parsed = parse(reply, IDS)
    json.dumps([each.line for each in parsed.rejected], ensure_ascii=False).encode()
    if "{" in reply or "[" in reply:
        return  # objects are not lines: see the next test
    lines = [each for each in reply.splitlines() if each.strip(" \t,]}") and each.strip()]
    lines = [each for each in lines if not re.fullmatch(r"\s*(```|~~~)\w*\s*", each)]
    assert len(parsed.operations) + len(parsed.rejected) == len(lines)
    rejected = {each.line for each in parsed.rejected}
    assert rejected | set(parsed.repaired) <= {each.encode("utf-8", "replace").decode() for each in lines}


plain = st.from_regex(r"[a-z]{2,8}( [a-z]{2,8}){0,5}[.!]?", fullmatch=True)
values = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
objects = st.dictionaries(
    st.sampled_from(["op", "event", "id", "ids", "text", "kind", "reason", "x"]),
    values | st.lists(values, max_size=2) | st.sampled_from([*VERBS, "DELETE", 1, "2", [1, 2]]),
    min_size=2,
)


@given(st.lists(objects, max_size=5), st.booleans())
def test_each_object_of_a_json_reply_is_an_operation_or_rejected(found: list[dict[str, Any]], wrapped: bool) -> None:
    parsed = parse(json.dumps({"operations": found} if wrapped else found), IDS)
    assert len(parsed.operations) + len(parsed.rejected) == len(found)
    apart = parse("\n".join(map(json.dumps, found)), IDS)
    assert (apart.operations, apart.rejected) == (parsed.operations, parsed.rejected)


@given(st.lists(objects.map(json.dumps) | plain | st.just("KEEP 1"), max_size=6))
def test_objects_and_lines_may_be_mixed(found: list[str]) -> None:
    parsed = parse("\n".join(found), IDS)
    assert len(parsed.operations) + len(parsed.rejected) == len(found)


operations = st.one_of(
    st.builds(lambda text, kind: Operation("add", text=text, kind=kind), plain, st.sampled_from(["rule", "skill"])),
    st.builds(lambda id_, text: Operation("update", (id_,), text), st.sampled_from(IDS), plain),
    st.builds(lambda ids, text: Operation("merge", tuple(ids), text), st.permutations(IDS), plain | st.just("")),
    st.builds(lambda id_, text: Operation("retire", (id_,), text), st.sampled_from(IDS), plain | st.just("")),
    st.builds(lambda id_: Operation("keep", (id_,)), st.sampled_from(IDS)),
    st.just(Operation("nothing")),
)


@given(st.lists(operations, max_size=6))
def test_an_operation_written_as_a_line_is_read_back(meant: list[Operation]) -> None:
    assert read("\n".join(map(line, meant))) == meant


# -- applying ----------------------------------------------------------------------------------------------------------

HERE = Scope("workshop", ("rust",))
RUST = "To mend rust, use the {action}."


def rule(text: str, status: Status = "candidate", *, situation: str = "", kind: Kind = "rule") -> Record:
    return new_record(kind, text, HERE, meta={"situation": situation}, status=status)


def done(
    records: Sequence[Record], *asked: Operation, parents: tuple[str, ...] = ()
) -> tuple[dict[str, Record], list[str]]:
    """Memory afterwards, and why what was rejected was."""
    known = {record.id: record for record in records}
    applied = to_events(asked, known, scope=HERE, parents=parents, generation=4)
    apply(known, applied.events, 4)
    return known, [each.reason for each in applied.rejected]


def statuses(records: dict[str, Record]) -> dict[str, str]:
    return {record.text: record.status for record in records.values()}


def test_what_is_added_is_a_candidate_of_the_given_scope_and_parents() -> None:
    records, rejected = done([], OIL, Operation("add", text="It rained.", kind="note"), parents=("t1",))
    assert rejected == []
    assert [(each.kind, each.status, each.scope, each.parents, each.generation) for each in records.values()] == [
        ("rule", "candidate", HERE, ("t1",), 4),
        ("note", "candidate", HERE, ("t1",), 4),
    ]


def test_an_updated_candidate_merges_into_its_new_text() -> None:
    old = rule("Use oil.")
    records, rejected = done([old], Operation("update", (old.id,), "Use fine oil."), parents=("t1",))
    assert (statuses(records), rejected) == ({"Use oil.": "retired", "Use fine oil.": "candidate"}, [])
    assert list(records.values())[1].parents == (old.id, "t1")


def test_an_updated_active_record_stays_until_its_new_text_is_proved() -> None:
    old = rule("Use oil.", "active")
    records, _ = done([old], Operation("update", (old.id,), "Use fine oil."))
    assert statuses(records) == {"Use oil.": "active", "Use fine oil.": "candidate"}
    apply(records, [Event("activate", list(records)[1])], 5)
    apply(records, superseded(records), 5)
    assert statuses(records) == {"Use oil.": "retired", "Use fine oil.": "active"}


def test_candidates_merge_into_one_new_text_and_active_ones_wait() -> None:
    olds = [rule("Oil rust."), rule("Apply oil to rust.", "active"), rule("Rust: oil!")]
    records, rejected = done(olds, Operation("merge", tuple(each.id for each in olds), "Rust wants oil."))
    assert rejected == []
    assert statuses(records) == {
        "Oil rust.": "retired",
        "Apply oil to rust.": "active",
        "Rust: oil!": "retired",
        "Rust wants oil.": "candidate",
    }
    assert records[list(records)[-1]].parents == tuple(each.id for each in olds)


def test_a_merge_that_keeps_a_text_takes_the_same_claims_only() -> None:
    one, same, other = rule("Oil the rust."), rule("oil rust", "active"), rule("Glue the rust.")
    records, rejected = done([one, same, other], Operation("merge", (one.id, same.id), one.text))
    assert (statuses(records)[one.text], statuses(records)[same.text], rejected) == ("retired", "active", [])
    records, rejected = done([one, same, other], Operation("merge", (one.id, other.id)))
    assert "they differ in 'glue', 'oil'" in rejected[0]
    assert statuses(records) == statuses({each.id: each for each in (one, same, other)})


def test_two_answers_to_one_situation_are_not_merged_into_a_third() -> None:
    oil, glue = (rule(f"To mend rust, use the {tool}.", situation=RUST) for tool in ("oil", "glue"))
    records, rejected = done([oil, glue], Operation("merge", (oil.id, glue.id), "To mend rust, use oil or glue."))
    assert rejected == [f"{oil.id} and {glue.id} contradict each other: retire the one that is wrong"]
    assert list(records) == [oil.id, glue.id]


def test_retiring_keeps_the_reason_and_keeping_changes_nothing() -> None:
    old, kept = rule("Use oil.", "active"), rule("Use glue.")
    known = {each.id: each for each in (old, kept)}
    asked = [Operation("retire", (old.id,), "it failed"), Operation("keep", (kept.id,)), Operation("nothing")]
    applied = to_events(asked, known)
    assert [(event.kind, event.record_id, event.payload["reason"]) for event in applied.events] == [
        ("retire", old.id, "it failed")
    ]
    assert applied.rejected == ()


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        (Operation("retire", ("rule-ffff",)), "memory holds no record rule-ffff"),
        (Operation("update", ("{retired}",), "New."), "is retired"),
        (Operation("update", ("{live}",), "Use oil."), "says so already"),
        (Operation("retire", ("{trajectory}",)), "raw evidence is not rewritten"),
        (Operation("add", text="x", kind="trajectory"), "only episodes add them"),
        (Operation("add", text="Use wax."), "says so and is retired; restore it"),
        (Operation("update", ("{live}",), "Use wax."), "says so and is retired; restore it"),
        (Operation("merge", ("{live}", "{note}"), "New."), "kinds ['note', 'rule'] cannot be said as one"),
    ],
)
def test_what_cannot_be_done_is_rejected_with_a_reason(asked: Operation, reason: str) -> None:
    named = {
        "live": rule("Use oil."),
        "retired": rule("Use wax.", "retired"),
        "note": rule("It rained.", kind="note"),
        "trajectory": rule("Task: mend it.", "active", kind="trajectory"),
    }
    ids = tuple(key.format(**{name: record.id for name, record in named.items()}) for key in asked.ids)
    records, rejected = done(list(named.values()), replace(asked, ids=ids))
    assert len(rejected) == 1
    assert reason in rejected[0]
    assert statuses(records) == statuses({each.id: each for each in named.values()})


def test_the_first_operation_that_names_a_record_counts() -> None:
    one = rule("Use oil.")
    records, rejected = done(
        [one], Operation("keep", (one.id,)), Operation("retire", (one.id,)), OIL, Operation("add", text=OIL.text)
    )
    assert rejected == [f"{one.id} was named by an operation before", "an operation before says the same"]
    assert statuses(records) == {"Use oil.": "candidate", OIL.text: "candidate"}


texts = st.sampled_from(["Use oil.", "use oil", "Use glue.", "Use wax.", "To mend rust, use the oil."])
held = st.builds(
    rule,
    texts,
    st.sampled_from(["quarantined", "candidate", "active", "retired"]),
    situation=st.sampled_from(["", RUST]),
    kind=st.sampled_from(["rule", "note", "trajectory"]),
)


@given(st.lists(held, max_size=6), st.data())
def test_whatever_is_asked_folds_and_touches_no_proved_record_but_to_retire_or_merge_its_like(
    found: list[Record], data: st.DataObject
) -> None:
    known = {record.id: record for record in found}
    some = st.sampled_from([*known, "rule-ffff"])
    asked = data.draw(
        st.lists(
            st.builds(
                Operation,
                st.sampled_from(VERBS),
                st.lists(some, min_size=1, max_size=3, unique=True).map(tuple),
                texts,
                st.sampled_from(["rule", "note", "trajectory"]),
            ).map(lambda each: replace(each, ids=()) if each.verb in ("add", "nothing") else each),
            max_size=5,
        )
    )
    applied = to_events(asked, known, scope=HERE)
    after = dict(known)
    apply(after, applied.events, 1)
    for key, record in known.items():
        if record.kind == "trajectory":
            assert after[key].status == record.status
        if record.status != after[key].status:
            assert record.status in ("candidate", "active")
            assert any(key in operation.ids for operation in asked)


def test_reverting_the_commit_undoes_what_was_asked(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.sqlite")
    one, two = rule("Use oil."), rule("Use glue.", "active")
    ledger.commit("start", [Event("add", each.id, each) for each in (one, two)], generation=1)
    before = dict(ledger.records())
    asked = [Operation("update", (one.id,), "Use fine oil."), Operation("retire", (two.id,), "wrong"), OIL]
    commit = ledger.commit("asked", to_events(asked, before).events, generation=2)
    assert len(ledger.records()) == 4
    ledger.revert(commit)
    assert ledger.records() == before
    ledger.close()
