"""Recall from memory: scope first, rules where they apply, raw experience where none does, dropout logged."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from evolvent.agents.solutions.recall import FromMemory
from evolvent.environments.types import Observation, Task
from evolvent.memory.embedding import HashEmbedder
from evolvent.memory.store import Memory
from evolvent.memory.types import Event, Record, Scope, Status, new_record

RUST, ROT = "To mend rust, use the {action}.", "To mend rot, use the {action}."
TASK = Task("t", "A clock has rust and rot.", "workshop", tags=("rot", "rust"))


def _rule(text: str, tags: tuple[str, ...] = (), situation: str = "", status: Status = "active") -> Record:
    return new_record("rule", text, Scope("workshop", tags), meta={"situation": situation}, status=status)


def _seen(frame: str) -> Observation:
    return Observation("agent", "?", ("oil", "wax"), frame=frame)


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[Memory]:
    with Memory.open(tmp_path, embedder=HashEmbedder()) as opened:
        yield opened


def _keep(memory: Memory, *records: Record) -> None:
    memory.commit(f"test/{len(memory.ledger.commits())}", [Event("add", r.id, r) for r in records], generation=1)


def _recall(memory: Memory, **more: Any) -> FromMemory:
    return FromMemory(memory.snapshot(), **more)


def test_a_rule_is_a_hint_in_its_own_situation_and_nowhere_else(memory: Memory) -> None:
    _keep(memory, _rule("To mend rust, use the oil.", ("rust",), RUST))
    found = _recall(memory)(TASK, "agent", random.Random(0))
    assert found.hint(_seen(RUST)) == "Remember: To mend rust, use the oil."
    assert found.hint(_seen(ROT)) == ""
    assert found.head == ""


def test_a_rule_outside_the_tasks_tags_is_not_recalled(memory: Memory) -> None:
    _keep(memory, _rule("To mend soot, use the oil.", ("soot",), "To mend soot, use the {action}."))
    assert _recall(memory)(TASK, "agent", random.Random(0)).recalled == ()


def test_a_rule_of_free_wording_stands_before_the_task(memory: Memory) -> None:
    _keep(memory, _rule("Rust wants oil."))
    assert "Rust wants oil." in _recall(memory)(TASK, "agent", random.Random(0)).head


def test_a_candidate_is_recalled_only_when_forced(memory: Memory) -> None:
    record = _rule("To mend rust, use the oil.", ("rust",), RUST, status="candidate")
    _keep(memory, record)
    assert _recall(memory)(TASK, "agent", random.Random(0)).recalled == ()
    forced = _recall(memory, forced=(record.id,))(TASK, "agent", random.Random(0))
    assert forced.hint(_seen(RUST)) == "Remember: To mend rust, use the oil."


def test_raw_experience_of_the_same_situation_speaks_where_no_rule_does(memory: Memory) -> None:
    raw = new_record(
        "trajectory",
        "Task: A clock has rust and rot.",
        Scope("workshop", player="agent"),
        meta={"framed": True, "worked": [[RUST, "To mend rust, use the wax."], [ROT, "To mend rot, use the wax."]]},
        status="active",
    )
    _keep(memory, raw, _rule("To mend rust, use the oil.", ("rust",), RUST))
    found = _recall(memory)(TASK, "agent", random.Random(0))
    assert found.hint(_seen(RUST)) == "Remember: To mend rust, use the oil."
    assert found.hint(_seen(ROT)) == "Remember: To mend rot, use the wax."


def test_an_attempt_that_only_failed_is_not_held_up_as_an_example(memory: Memory) -> None:
    raw = new_record(
        "trajectory",
        "Task: A clock has rust and rot.\n> wax\nIt did not work.",
        Scope("workshop", player="agent"),
        meta={"framed": True, "worked": []},
        status="active",
    )
    _keep(memory, raw)
    found = _recall(memory)(TASK, "agent", random.Random(0))
    assert (found.head, found.hint(_seen(RUST))) == ("", "")


def test_dropout_withholds_as_often_as_it_says_and_logs_the_probability(memory: Memory) -> None:
    _keep(memory, _rule("To mend rust, use the oil.", ("rust",), RUST))
    recall = _recall(memory, withhold=0.25)
    drawn = [recall(TASK, "agent", random.Random(seed)).recalled[0] for seed in range(400)]
    assert {each.probability for each in drawn} == {0.75}
    assert sum(each.shown for each in drawn) / 400 == pytest.approx(0.75, abs=0.065)  # three standard errors


def test_a_snapshot_does_not_see_what_is_learned_later(memory: Memory) -> None:
    recall = _recall(memory)
    _keep(memory, _rule("To mend rust, use the oil.", ("rust",), RUST))
    assert recall(TASK, "agent", random.Random(0)).recalled == ()


def test_text_before_the_task_keeps_its_budget(memory: Memory) -> None:
    _keep(memory, *[_rule(f"Rust rule number {index} says a thing or two about rust and rot.") for index in range(30)])
    head = _recall(memory, rules=30, budget_tokens=50)(TASK, "agent", random.Random(0)).head
    assert 0 < len(head) <= 50 * 4 + 60
