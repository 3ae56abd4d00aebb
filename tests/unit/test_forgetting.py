"""Forgetting: each policy retires what it says, keeps what it says, tells time by the caller's clock, and is undone."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evolvent.environments.types import Outcome, Phase, Recalled, Task, Trajectory
from evolvent.memory.fold import apply
from evolvent.memory.forgetting import (
    ebbinghaus,
    ebbinghaus_by_chance,
    last_used,
    least_recently_used,
    not_worth_it,
    over_capacity,
    retention,
)
from evolvent.memory.ledger import Ledger
from evolvent.memory.retrieval import LIVE
from evolvent.memory.types import Event, Interval, Kind, Record, Scope, new_record

Policy = Callable[[Mapping[str, Record], Mapping[str, int], int], list[Event]]
POLICIES: dict[str, Policy] = {
    "ebbinghaus": ebbinghaus,
    "by chance": partial(ebbinghaus_by_chance, seed=3),
    "lru": partial(least_recently_used, capacity=3),
    "capacity": partial(over_capacity, capacity=3),
    "evidence": not_worth_it,
}


def note(name: str, kind: Kind = "note", **fields: Any) -> Record:
    return replace(new_record(kind, name, Scope("house")), **fields)


def memory(*records: Record) -> dict[str, Record]:
    return {record.id: record for record in records}


def gone(records: Mapping[str, Record], events: list[Event]) -> set[str]:
    """Texts of the records that the events retire."""
    folded = dict(records)
    apply(folded, events, 1)
    return {record.text for key, record in records.items() if folded[key].status != record.status}


lifts = st.none() | st.floats(-0.5, 0.5).map(lambda mean: Interval(mean, mean - 0.1, mean + 0.1, 20))
kept = st.builds(
    note,
    st.text("abc", min_size=1, max_size=3),
    st.sampled_from(["note", "rule", "trajectory"]),
    status=st.sampled_from(["quarantined", "candidate", "active", "retired"]),
    recalls=st.integers(0, 5),
    lift=lifts,
)
memories = st.lists(st.tuples(kept, st.integers(0, 20)), max_size=12).map(
    lambda found: ({record.id: record for record, _ in found}, {record.id: time for record, time in found})
)


# -- Ebbinghaus --------------------------------------------------------------------------------------------------------


@given(st.floats(0.1, 50), st.floats(0.1, 50), st.integers(0, 20), st.floats(0.5, 10))
def test_retention_falls_with_time_and_rises_with_strength(
    since: float, more: float, recalls: int, span: float
) -> None:
    assert retention(since + more, recalls, span=span) < retention(since, recalls, span=span) <= 1.0
    assert retention(since, recalls + 1, span=span) > retention(since, recalls, span=span)


def test_retention_has_the_values_of_the_paper_and_not_of_its_code() -> None:
    """After five days with a span of five days; exp(-t / 5 * S), as the authors coded it, gives 0.37 and then 0.14."""
    assert retention(5, 0, span=5) == pytest.approx(math.exp(-1))
    assert retention(5, 1, span=5) == pytest.approx(math.exp(-1 / 2))
    assert retention(0, 0) == 1.0


def test_a_span_of_no_time_is_refused() -> None:
    with pytest.raises(ValueError, match=r"span is 0.0; expected a time above 0"):
        retention(1, 0, span=0.0)


def test_what_is_recalled_more_or_later_is_kept_longer() -> None:
    records = memory(note("once"), note("often", recalls=5), note("lately"))
    used = dict(zip(records, (0, 0, 4), strict=True))
    forgotten = [gone(records, ebbinghaus(records, used, now, threshold=0.2)) for now in (1, 2, 6, 10)]
    assert forgotten == [set(), {"once"}, {"once", "lately"}, {"once", "lately", "often"}]


def test_by_chance_a_record_is_kept_with_a_probability_of_its_retention() -> None:
    records = memory(*(note(f"fact {number}", recalls=number % 2) for number in range(4000)))
    used = dict.fromkeys(records, 0)
    left = set(records) - {event.record_id for event in ebbinghaus_by_chance(records, used, 1, seed=7)}
    shares = [sum(records[key].recalls == recalls for key in left) / 2000 for recalls in (0, 1)]
    # Three standard errors of a share of 2,000.
    assert shares == pytest.approx([math.exp(-1), math.exp(-1 / 2)], abs=0.034)


def test_chance_comes_from_the_seed_and_the_time_alone() -> None:
    records = memory(*(note(f"fact {number}") for number in range(50)))
    used = dict.fromkeys(records, 0)
    first = ebbinghaus_by_chance(records, used, 1, seed=7)
    backwards = dict(reversed(records.items()))
    assert {event.record_id for event in ebbinghaus_by_chance(backwards, used, 1, seed=7)} == {
        event.record_id for event in first
    }
    assert first != ebbinghaus_by_chance(records, used, 1, seed=8)
    assert ebbinghaus_by_chance(records, used, 0, seed=7) == []


# -- the others --------------------------------------------------------------------------------------------------------


def test_the_least_recently_used_go_and_of_equals_those_recalled_less() -> None:
    records = memory(note("old", recalls=9), note("new"), note("middle"), note("middle too", recalls=1))
    used = dict(zip(records, (1, 8, 5, 5), strict=True))
    forgotten = [gone(records, least_recently_used(records, used, 9, capacity=most)) for most in (4, 3, 2, 1)]
    assert forgotten == [set(), {"old"}, {"old", "middle"}, {"old", "middle", "middle too"}]


def test_over_capacity_the_proved_stay_first_then_the_better_then_the_more_recalled() -> None:
    records = memory(
        note("recalled", recalls=9),
        note("harmful", lift=Interval(-0.3, -0.4, -0.2, 50), recalls=99),
        note("proved", status="active"),
        note("proved and good", status="active", lift=Interval(0.3, 0.1, 0.5, 50)),
        note("plain"),
    )
    used = dict.fromkeys(records, 0)
    order = ["proved and good", "proved", "recalled", "plain", "harmful"]
    for most in range(6):
        assert gone(records, over_capacity(records, used, 1, capacity=most)) == set(order[most:])


def test_evidence_retires_only_what_is_shown_to_gain_too_little() -> None:
    records = memory(
        note("useless", lift=Interval(0.0, -0.01, 0.01, 400)),
        note("unclear", lift=Interval(-0.1, -0.4, 0.2, 10)),
        note("unmeasured"),
        note("useful", lift=Interval(0.3, 0.2, 0.4, 100)),
    )
    assert gone(records, not_worth_it(records, {}, 1)) == {"useless"}
    assert gone(records, not_worth_it(records, {}, 1, minimum=0.25)) == {"useless", "unclear"}


def test_a_capacity_below_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="capacity is -1; expected 0 or more"):
        least_recently_used({}, {}, 1, capacity=-1)


# -- all of them -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", POLICIES)
@given(found=memories)
def test_a_policy_retires_live_distilled_records_once_and_says_why(
    name: str, found: tuple[dict[str, Record], dict[str, int]]
) -> None:
    records, used = found
    events = POLICIES[name](records, used, 20)
    assert all(event.kind == "retire" and event.payload["reason"] for event in events)
    retired = [event.record_id for event in events]
    assert len(set(retired)) == len(retired)
    assert all(records[key].status in LIVE and records[key].kind != "trajectory" for key in retired)
    folded = dict(records)
    apply(folded, events, 1)
    assert POLICIES[name](folded, used, 20) == []  # it has forgotten all that it wants to


@given(found=memories, capacity=st.integers(0, 12))
def test_a_capacity_is_filled_and_nothing_kept_is_worth_less_than_what_went(
    found: tuple[dict[str, Record], dict[str, int]], capacity: int
) -> None:
    records, used = found
    asked = {key for key, record in records.items() if record.kind == "note" and record.status in LIVE}
    for policy in (least_recently_used, over_capacity):
        lost = {event.record_id for event in policy(records, used, 20, capacity=capacity, kinds=("note",))}
        assert lost <= asked
        assert len(asked - lost) == min(capacity, len(asked))
        if policy is least_recently_used and lost and lost != asked:
            assert max(used[key] for key in lost) <= min(used[key] for key in asked - lost)


@pytest.mark.parametrize("name", POLICIES)
def test_trajectories_are_forgotten_only_when_they_are_asked_for(name: str) -> None:
    poor = Interval(-0.3, -0.4, -0.2, 50)
    records = memory(*(note(f"episode {number}", "trajectory", status="active", lift=poor) for number in range(5)))
    used = dict.fromkeys(records, 0)
    assert POLICIES[name](records, used, 20) == []
    asked: Callable[..., list[Event]] = POLICIES[name]
    assert asked(records, used, 20, kinds=("trajectory",)) != []


# -- the ledger's facts ------------------------------------------------------------------------------------------------

EARLY, LATE, NEVER = note("early"), note("late"), note("never")


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    """Two training episodes in generation 1, three in 3, and an evaluation that recalls everything."""
    ledger = Ledger(tmp_path / "ledger.sqlite")
    ledger.commit("a", [Event("add", each.id, each) for each in (EARLY, LATE)], generation=1)
    ledger.commit("b", [Event("add", NEVER.id, NEVER)], generation=2)

    def episode(name: str, phase: Phase, generation: int, *recalled: Recalled) -> None:
        task = Task(name, "Tidy up.", "house")
        seat = Trajectory(name, task, "agent", (), Outcome(1.0, True), phase, generation, recalled=recalled)
        ledger.add_episode(name, [seat])

    episode("one", "train", 1, Recalled(EARLY.id, True), Recalled(LATE.id, True))
    episode("two", "train", 1)
    episode("exam", "eval", 2, *(Recalled(each.id, True) for each in (EARLY, LATE, NEVER)))
    episode("three", "train", 3, Recalled(LATE.id, True))
    episode("four", "train", 3, Recalled(LATE.id, False, 0.75), Recalled(NEVER.id, False, 0.75))
    episode("five", "train", 3)
    yield ledger
    ledger.close()


def test_a_record_was_used_when_it_stood_in_a_training_prompt_or_was_learned(ledger: Ledger) -> None:
    records = ledger.records()
    by_generation = last_used(records, ledger)
    assert [by_generation[each.id] for each in (EARLY, LATE, NEVER)] == [1, 3, 2]
    by_episode = last_used(records, ledger, clock="episode")
    # What was withheld was not used; NEVER was learned in generation 2, when two episodes had been played.
    assert [by_episode[each.id] for each in (EARLY, LATE, NEVER)] == [2, 3, 2]
    assert ledger.episodes_until() == {1: 2, 3: 5}
    assert last_used(records, ledger, phase="eval") == dict.fromkeys(records, 2)


def test_reverting_the_commit_remembers_what_was_forgotten(ledger: Ledger) -> None:
    before = dict(ledger.records())
    events = ebbinghaus(before, last_used(before, ledger), 9)
    commit = ledger.commit("forget", events, generation=9)
    assert [record.status for record in ledger.records().values()] == ["retired"] * 3
    ledger.revert(commit)
    assert ledger.records() == before
