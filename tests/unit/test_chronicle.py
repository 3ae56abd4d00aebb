"""What a growing ledger has told: read on as it grows it says what it says to one who reads it whole."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from evolvent.agents.chronicle import Chronicle
from evolvent.agents.run import RunConfig
from evolvent.environments.types import Cost, Outcome, Task, Trajectory
from evolvent.memory.ledger import Ledger
from evolvent.memory.types import Event, Record, new_record

ALONE = RunConfig(recipe="lamarck")
AGAINST = RunConfig(recipe="lamarck", roles={"opponent": "smollm2"})


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    found = Ledger(tmp_path / "ledger.sqlite")
    yield found
    found.close()


@pytest.fixture
def reader(ledger: Ledger) -> Iterator[Chronicle]:
    found = Chronicle(Ledger(ledger.path, read_only=True))
    yield found
    found.close()


def play(ledger: Ledger, task: str, *scores: float, phase: Any = "train", arm: str = "", failure: Any = "") -> None:
    key = f"{phase}/1/{task}/0" + (f"/{arm}" if arm else "")
    seats = [
        Trajectory(
            id=f"{key}/{seat}",
            task=Task(task, "?", "workshop"),
            player=str(seat),
            steps=(),
            outcome=Outcome(score, score == 1.0, failure, ""),
            phase=phase,
            generation=1,
            attempt=0,
            seed=0,
            model="m",
            cost=Cost(10, 5, 2, 0.5),
        )
        for seat, score in enumerate(scores)
    ]
    ledger.add_episode(key, seats)


def rule(text: str) -> Record:
    return new_record("rule", text, generation=1)


def told(chronicle: Chronicle, config: RunConfig = ALONE) -> dict[str, Any]:
    chronicle.follow(config)
    return {
        **{"episodes": chronicle.episodes, "calls": chronicle.calls, "tokens": chronicle.tokens},
        "phases": {key: (phase.done, phase.scores) for key, phase in chronicle.phases.items()},
        **{"failures": dict(chronicle.failures), "records": dict(chronicle.records)},
        "newest": [each.text for each in chronicle.newest],
        "verdicts": [(each.kind, each.text) for each in chronicle.verdicts],
        "held_out": {number: asdict(each) for number, each in chronicle.held_out.items()},
    }


def whole(ledger: Ledger, config: RunConfig = ALONE) -> dict[str, Any]:
    chronicle = Chronicle(Ledger(ledger.path, read_only=True))
    try:
        return told(chronicle, config)
    finally:
        chronicle.close()


def test_read_on_it_says_what_it_says_read_whole(ledger: Ledger, reader: Chronicle) -> None:
    assert told(reader)["episodes"] == 0
    play(ledger, "a", 1.0)
    play(ledger, "b", 0.5)
    ledger.commit("1/remember", [Event("add", rule("Use oil.").id, rule("Use oil."))], generation=1)
    first = told(reader)
    assert first["phases"] == {("train", 1, ""): (2, {"a": [1.0], "b": [0.5]})}
    assert first["records"] == {"candidate": 1}
    play(ledger, "a", 0.0, phase="gate", arm="with-rule")
    play(ledger, "a", 1.0, phase="gate", arm="memory-0")
    play(ledger, "a", 0.0, phase="eval", failure="timeout")
    gate = {"wins": 3, "losses": 0, "ties": 1}
    ledger.commit("1/gate", [Event("activate", rule("Use oil.").id, payload={"gate": gate})], generation=1)
    ledger.add_generation(1, '{"scores": {"a": [1.0], "b": [0.0]}}')
    last = told(reader)
    assert last == whole(ledger)
    assert (last["episodes"], last["calls"], last["tokens"]) == (5, 10, 75)
    assert last["phases"]["gate", 1, ""][0] == 2, "both sides of a gate are one phase"
    assert last["phases"]["eval", 1, ""] == (1, {})
    assert last["failures"] == {"timeout": 1}
    assert last["verdicts"] == [("activate", "Use oil.")]
    assert last["held_out"][1]["mean"] == 0.5


def test_beside_an_opponent_the_last_seat_is_judged_and_else_the_mean_of_all(ledger: Ledger) -> None:
    play(ledger, "a", 0.25, 0.75)
    assert whole(ledger, ALONE)["phases"]["train", 1, ""][1] == {"a": [0.5]}
    assert whole(ledger, AGAINST)["phases"]["train", 1, ""][1] == {"a": [0.75]}


def test_a_verdict_that_was_reverted_is_not_told_any_more(ledger: Ledger, reader: Chronicle) -> None:
    one, two = rule("Use oil."), rule("Use glue.")
    ledger.commit("add", [Event("add", each.id, each) for each in (one, two)], generation=1)
    ledger.commit("keep", [Event("activate", one.id)], generation=1)
    out = ledger.commit("drop", [Event("retire", two.id)], generation=1)
    assert told(reader)["verdicts"] == [("activate", "Use oil."), ("retire", "Use glue.")]
    ledger.revert(out)
    assert told(reader)["verdicts"] == whole(ledger)["verdicts"] == [("activate", "Use oil.")]


def test_raw_trajectories_that_leave_the_prompt_are_no_news(ledger: Ledger, reader: Chronicle) -> None:
    raw = new_record("trajectory", "Task: a", status="active")
    ledger.commit("add", [Event("add", raw.id, raw), Event("retire", raw.id)], generation=1)
    found = told(reader)
    assert (found["verdicts"], found["newest"], found["records"]) == ([], [], {})


def test_the_pace_counts_the_wait_before_a_handful_that_ends_at_once(
    ledger: Ledger, reader: Chronicle, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter([100.0, 110.0, 110.0, 110.0])
    monkeypatch.setattr("evolvent.memory.episodes.time.time", lambda: next(clock))
    play(ledger, "a", 1.0, phase="eval")
    for task in "abc":
        play(ledger, task, 1.0)
    monkeypatch.undo()
    reader.follow(ALONE)
    assert reader.phases["train", 1, ""].per_second == pytest.approx(0.3)
    assert reader.phases["eval", 1, ""].per_second is None
