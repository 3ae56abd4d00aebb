"""Consolidation: what says the same merges, another answer never does, and evidence settles contradictions."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from evolvent.environments.workshop import FLAWS, TOOLS, Law, Workshop
from evolvent.memory.consolidation import (
    Contradiction,
    Proof,
    claim,
    contradictions,
    fits,
    generalise,
    may_mean_the_same,
    merge_events,
    near_duplicates,
    proofs,
    same_claim,
    settle,
    superseded,
)
from evolvent.memory.embedding import HashEmbedder
from evolvent.memory.errors import UnlikeRecordsError
from evolvent.memory.fold import apply
from evolvent.memory.ledger import Ledger
from evolvent.memory.types import Event, Interval, Record, Scope, Status, new_record

RUST = "To mend rust, use the {action}."
HERE = Scope("workshop", ("rust",))


def rule(text: str, *, situation: str = "", scope: Scope = HERE, status: Status = "active") -> Record:
    return new_record("rule", text, scope, parents=("t1",), meta={"situation": situation}, status=status)


def law_record(law: Law) -> Record:
    return rule(law.text, situation=law.frame, scope=Scope("workshop", law.flaws))


def near(records: Sequence[Record], threshold: float = 0.0, *, loose: bool = False) -> list[tuple[Record, ...]]:
    return near_duplicates(records, HashEmbedder().embed([each.text for each in records]), threshold, loose=loose)


def after(records: Sequence[Record], events: Sequence[Event]) -> dict[str, Record]:
    folded = {record.id: record for record in records}
    apply(folded, events, 1)
    return folded


# -- the same thing said twice -----------------------------------------------------------------------------------------


def test_no_two_laws_of_the_workshop_make_the_same_claim() -> None:
    cures = [f"To mend {flaw}, use the {tool}." for flaw in FLAWS for tool in TOOLS]
    pairs = itertools.combinations(sorted(FLAWS), 2)
    orders = [f"With {one} and {other}, first mend {each}." for one, other in pairs for each in (one, other)]
    assert len({claim(text) for text in (*cures, *orders)}) == len(cures) + len(orders)


@pytest.mark.parametrize("world", range(5))
def test_laws_are_never_near_duplicates_however_near_they_lie(world: int) -> None:
    laws = Workshop(world=world, cures=16, orders=8, tools=16, flaws=2).laws()
    in_one_place = [rule(law.text, scope=Scope("workshop")) for law in laws]
    assert near(in_one_place) == []
    assert near([law_record(law) for law in laws]) == []


@pytest.mark.parametrize(
    "other",
    [
        "to mend rust use the oil",
        "To mend the rust, please use oil!",
        "Use the oil to mend rust.",
        "**To mend rust, you should always use the oils.**",
    ],
)
def test_wording_alone_makes_no_other_claim(other: str) -> None:
    one, again = rule("To mend rust, use the oil."), rule(other)
    assert same_claim(one, again)
    assert near([one, again], 0.3) == [tuple(sorted((one, again), key=lambda record: record.id))]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("To mend rust, use the oil.", "To mend rust, use the glue."),
        ("To mend rust, use the oil.", "To mend rot, use the oil."),
        ("To mend rust, use the oil.", "To mend rust, never use the oil."),
        ("To mend rust, use the oil.", "To mend rust, use the oil if it is dry."),
        ("To mend rust, use the oil.", "To mend rust, use the oil and the glue."),
        ("Put the salt in before the oil.", "Put the oil in before the salt."),
        ("Salt melts the ice quickly.", "Ice melts the salt quickly."),
        ("Wait until it shows -5 degrees.", "Wait until it shows 5 degrees."),
        ("Bet when the count is < 3.", "Bet when the count is > 3."),
        ("Heat it to 1.5 bar.", "Heat it to 15 bar."),
        ("Write it in C++ today.", "Write it in C today."),
        ("You can open the box.", "You can't open the box."),
    ],
)
def test_another_answer_or_condition_is_another_claim(one: str, other: str) -> None:
    assert not same_claim(rule(one), rule(other))
    with pytest.raises(UnlikeRecordsError, match="are not merged: they differ in"):
        merge_events([rule(one), rule(other)])


def test_records_of_another_scope_kind_or_situation_never_stand_for_each_other() -> None:
    one = rule("To mend rust, use the oil.", situation=RUST)
    text = "to mend rust use the oil"
    assert same_claim(one, rule(text))
    assert same_claim(one, rule(text, situation=RUST))
    apart = [
        rule(text, scope=Scope("workshop")),
        rule(text, situation="To clean rust, use the {action}."),
        new_record("note", text, HERE),
    ]
    assert [same_claim(one, other) for other in apart] == [False] * 3
    assert near([one, *apart]) == []


def test_only_live_records_are_merged() -> None:
    one, other = rule("Use the oil on rust."), rule("use oil on rust", status="retired")
    stranger = rule("USE OIL ON RUST", status="quarantined")
    assert near([one, other, stranger]) == []
    with pytest.raises(UnlikeRecordsError, match="is quarantined; only live records"):
        merge_events([one, stranger])


def test_the_vectors_have_a_say_too() -> None:
    pair = [rule("Use the oil on rust."), rule("use oil on rust")]
    assert near_duplicates(pair, np.eye(2, dtype=np.float32), 0.5) == []


def test_the_record_of_which_most_is_known_stays_whatever_the_order() -> None:
    words = ("Use the oil on rust.", "use oil on rust", "Use oil on rust!", "USE OIL ON RUST", "Use oil on the rust")
    proved, measured, recalled, old, young = (rule(text) for text in words)
    proved = replace(proved, generation=5)
    measured = replace(measured, generation=5, lift=Interval(-0.1, -0.2, 0.0, 40))
    recalled = replace(recalled, generation=5, recalls=9)
    young = replace(young, generation=5)
    known = {proved.id: Proof(31.0, 7)}
    rest = [young, old, recalled, measured, proved]
    while len(rest) > 1:
        random.Random(len(rest)).shuffle(rest)
        events = merge_events(rest, known)
        best = min(rest, key=[proved, measured, recalled, old, young].index)
        assert {event.payload["into"] for event in events} == {best.id}
        folded = after(rest, events)
        assert [record.id for record in folded.values() if record.status == "active"] == [best.id]
        assert set(folded[best.id].parents) == {"t1", *(record.id for record in rest if record.id != best.id)}
        rest.remove(best)


def test_an_active_record_never_merges_into_a_candidate() -> None:
    proved, candidate = rule("Use the oil on rust."), rule("use oil on rust", status="candidate")
    events = merge_events([replace(candidate, recalls=99), proved])
    assert [(event.record_id, event.payload["into"]) for event in events] == [(candidate.id, proved.id)]


def test_a_chain_of_small_steps_does_not_join_its_ends() -> None:
    records = [replace(rule(f"wording {name}"), generation=age) for age, name in enumerate("abc")]
    angles = np.deg2rad([0.0, 25.0, 50.0])
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    assert near_duplicates(records, vectors, 0.9, loose=True) == [(records[0], records[1])]


def test_loosely_near_records_exclude_those_known_to_differ() -> None:
    oil, glue = (rule(f"To mend rust, use the {tool}.", situation=RUST) for tool in ("oil", "glue"))
    wording = rule("Oil mends rust.")
    assert not may_mean_the_same(oil, glue)
    assert may_mean_the_same(oil, wording)
    groups = near([oil, glue, wording], -1.0, loose=True)
    assert [len(group) for group in groups] == [2]
    assert wording in groups[0]


def test_comparing_by_blocks_gives_what_comparing_one_by_one_gives() -> None:
    rng = np.random.default_rng(0)
    records = [replace(rule(f"wording {number}"), recalls=int(rng.integers(50))) for number in range(2500)]
    vectors = rng.normal(size=(len(records), 4)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    order = sorted(range(len(records)), key=lambda row: (-records[row].recalls, records[row].id))
    free = dict.fromkeys(order)
    naive = []
    while free:
        leader = next(iter(free))
        del free[leader]
        rest = np.array(list(free), dtype=int)
        joined = rest[np.round(vectors[rest] @ vectors[leader], 6) >= 0.98].tolist()
        for each in joined:
            del free[each]
        naive += [tuple(records[row] for row in (leader, *joined))] if joined else []
    assert near_duplicates(records, vectors, 0.98, loose=True) == naive
    assert len(naive) > 100


# -- several things said as one ----------------------------------------------------------------------------------------


def test_a_generalisation_is_a_candidate_and_what_it_generalises_stays_until_it_is_proved() -> None:
    rust = rule("Rust wants oil.", scope=Scope("workshop", ("iron", "rust")))
    squeak = rule("A squeak wants oil.", scope=Scope("workshop", ("iron", "squeak")))
    events = generalise([rust, squeak], "Iron wants oil.", parents=("t9",))
    folded = after([rust, squeak], events)
    new = folded[events[0].record_id]
    assert (new.status, new.scope) == ("candidate", Scope("workshop", ("iron",)))
    assert new.parents == (rust.id, squeak.id, "t9")
    assert [folded[record.id].status for record in (rust, squeak)] == ["active", "active"]
    assert superseded(folded) == []
    apply(folded, [Event("activate", new.id)], 2)
    retired = superseded(folded)
    assert [(event.record_id, event.payload) for event in retired] == [
        (record.id, {"reason": "generalised", "by": new.id}) for record in (rust, squeak)
    ]
    apply(folded, retired, 2)
    assert superseded(folded) == []


def test_a_generalisation_known_already_generalises_the_others_too() -> None:
    one, two, three = (rule(f"{what} wants oil.") for what in ("Rust", "A squeak", "A hinge"))
    folded = after([one, two, three], generalise([one, two], "Iron wants oil."))
    more = generalise([three], "Iron wants oil.", known=folded)
    apply(folded, more, 2)
    assert folded[more[0].record_id].meta["generalises"] == [one.id, two.id, three.id]


def test_a_better_wording_keeps_the_situation_only_if_it_answers_it() -> None:
    old = rule("To mend rust, use the oil.", situation=RUST)
    worded = [generalise([old], text)[0].record for text in ("To mend rust, use the fine oil.", "Oil, for rust.")]
    assert [record.meta["situation"] for record in worded if record] == [RUST, ""]
    assert not fits(RUST, "To mend rust, use the .")
    assert not fits("no gap", "no gap at all")


def test_nothing_is_generalised_from_no_records_two_kinds_or_its_own_text() -> None:
    one = rule("Rust wants oil.")
    with pytest.raises(UnlikeRecordsError, match="kinds \\['note', 'rule'\\]"):
        generalise([one, new_record("note", "It rained.")], "Oil it.")
    with pytest.raises(UnlikeRecordsError, match="kinds \\[\\]"):
        generalise([], "Oil it.")
    with pytest.raises(UnlikeRecordsError, match=r"'Rust wants oil[.]' already"):
        generalise([one], "Rust wants oil.")


# -- things said against each other ------------------------------------------------------------------------------------

OIL, GLUE, WAX = (rule(f"To mend rust, use the {tool}.", situation=RUST) for tool in ("oil", "glue", "wax"))


def test_a_contradiction_is_one_situation_of_one_scope_with_two_answers() -> None:
    exception = rule("To mend rust, use the wax.", situation=RUST, scope=Scope("workshop", ("frost", "rust")))
    same = rule("to mend rust, use the oil", situation=RUST)
    other = rule("To mend rot, use the glue.", situation="To mend rot, use the {action}.")
    unstated = rule("Glue mends rust.")
    retired = replace(WAX, status="retired")
    found = contradictions([OIL, GLUE, exception, same, other, unstated, retired])
    assert [(each.situation, {record.id for record in each.records}) for each in found] == [
        (RUST, {OIL.id, GLUE.id, same.id})
    ]
    assert contradictions([OIL, same]) == []


def settled(*records: Record, known: dict[str, Proof] | None = None) -> tuple[str | None, str, dict[str, str]]:
    settlement = settle(Contradiction(RUST, tuple(records)), known)
    folded = after(records, settlement.events)
    stays = settlement.stays.text if settlement.stays else None
    return stays, settlement.reason, {record.text: record.status for record in folded.values()}


def test_the_lift_measured_now_weighs_more_than_an_old_verdict() -> None:
    stale = replace(OIL, lift=Interval(-0.25, -0.3, -0.2, 200))
    fresh = replace(GLUE, lift=Interval(0.35, 0.2, 0.5, 60))
    for pair in ((stale, fresh), (fresh, stale)):
        assert settled(*pair, known={OIL.id: Proof(1000.0, 3)}) == (
            GLUE.text,
            "lift",
            {OIL.text: "retired", GLUE.text: "active"},
        )


def test_what_the_gate_promoted_stays_against_what_it_never_saw() -> None:
    overlapping = replace(GLUE, lift=Interval(0.3, -0.1, 0.7, 12))
    stays, reason, _ = settled(
        replace(OIL, lift=Interval(0.2, 0.0, 0.4, 30)), overlapping, known={OIL.id: Proof(25, 3)}
    )
    assert (stays, reason) == (OIL.text, "gate")


def test_of_two_that_the_gate_promoted_the_later_stays() -> None:
    assert settled(OIL, GLUE, known={OIL.id: Proof(500.0, 3), GLUE.id: Proof(21.0, 9)})[:2] == (GLUE.text, "recency")


def test_undecided_contradictions_go_back_to_the_gate() -> None:
    everybody = {OIL.text: "candidate", GLUE.text: "candidate"}
    assert settled(OIL, replace(GLUE, generation=9, recalls=99)) == (None, "undecided", everybody)


def test_one_of_three_stays_only_if_it_stands_against_each_of_the_others() -> None:
    low, high = Interval(-0.2, -0.3, -0.1, 50), Interval(0.3, 0.2, 0.4, 50)
    stays, _, statuses = settled(replace(OIL, lift=low), replace(GLUE, lift=high), replace(WAX, lift=low))
    assert (stays, statuses[OIL.text], statuses[WAX.text]) == (GLUE.text, "retired", "retired")
    assert settled(replace(OIL, lift=low), replace(GLUE, lift=high), WAX)[0] is None


def test_who_stays_keeps_those_that_say_the_same() -> None:
    same = rule("to mend rust, use the oil", situation=RUST)
    stays, _, statuses = settled(OIL, same, GLUE, known={OIL.id: Proof(30.0, 1)})
    assert (stays, statuses) == (OIL.text, {OIL.text: "active", same.text: "active", GLUE.text: "retired"})


def test_proofs_are_read_from_the_promotions_of_the_ledger() -> None:
    events = [
        Event("add", OIL.id, OIL),
        Event("activate", OIL.id, payload={"gate": {"e_value": 22.0}}),
        Event("reject", GLUE.id, payload={"gate": {"e_value": 0.1}}),
        Event("activate", WAX.id),
        Event("activate", OIL.id, payload={"gate": {"e_value": 40.0}}),
    ]
    assert proofs(events) == {OIL.id: Proof(40.0, 4)}


def test_reverting_the_commit_undoes_each_of_them(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.sqlite")
    twin = rule("to mend rust use oil", situation=RUST)
    start = [OIL, GLUE, twin]
    ledger.commit("start", [Event("add", record.id, record) for record in start], generation=1)
    before = dict(ledger.records())
    changes = {
        "merge": merge_events([OIL, twin]),
        "generalise": generalise([OIL, twin], "Rust wants oil."),
        "settle": settle(Contradiction(RUST, (OIL, GLUE)), {OIL.id: Proof(30.0, 1)}).events,
        "undecided": settle(Contradiction(RUST, (OIL, GLUE))).events,
    }
    for name, events in changes.items():
        commit = ledger.commit(name, events, generation=2)
        assert ledger.records() != before
        ledger.revert(commit)
        assert ledger.records() == before
    ledger.close()
