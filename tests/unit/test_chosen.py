"""Demonstrations that the model chooses: what is offered, how a choice is read, what a failed one comes to."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from evolvent.agents.models.role import RoleModel
from evolvent.agents.models.scripted import ScriptedChatModel
from evolvent.agents.solutions.act import Acted, Policy, first_messages
from evolvent.agents.solutions.chosen import Chosen, by_question, number_in, offered
from evolvent.agents.solutions.found import Showing
from evolvent.agents.trace import Trace
from evolvent.agents.types import CallTag
from evolvent.environments.types import Message, Observation, Task
from evolvent.memory.embedding import HashEmbedder
from evolvent.memory.store import Memory
from evolvent.memory.types import Event, Record, Scope, new_record

TASK = Task("t", "How many red apples?", "fruit", tags=("premise:a",))


def note(question: str, **meta: object) -> Record:
    return new_record("note", f"{question}\n1.", Scope("fruit"), meta={"question": question, **meta}, status="active")


NOTES = [note("How many red pears?"), note("How many green nuts?"), note("Who eats plums?")]


def answer(path: Path, reply: Callable[[str], str], **settings: int) -> tuple[Acted, list[str]]:
    """What comes of one group, and all prompts."""
    model = ScriptedChatModel(lambda messages: reply("\n".join(str(each.text) for each in messages)))
    trace = Trace(path / "trace.jsonl")
    try:
        policy = Policy(RoleModel("scripted", model, trace), written=True)
        new = (*first_messages("", TASK, offered([NOTES])), Message("user", "history", "Answer:"))
        manner = Chosen({each.id: each for each in NOTES}, **settings)
        tag = CallTag("actor", "eval", 1, "t")
        acted = asyncio.run(manner(policy, Observation("agent", "Answer:"), new, (), tag, random.Random(0)))
    finally:
        trace.close()
    return acted, ["\n".join(str(each.text) for each in request) for request in model.requests]


@pytest.mark.parametrize(
    ("reply", "number"),
    [
        ("2", 2),
        ("3.", 3),
        ("**Question 2**, for it has 5 apples", 2),
        ("The solution of question 3 helps most", 3),
        ("1 or 2", 1),
        ("either 1 or 2", None),
        ("12", None),
        ("0", None),
        ("none of them", None),
        ("", None),
        ("about 1.5", None),
    ],
)
def test_the_number_of_a_reply_is_read_whole_or_not_at_all(reply: str, number: int | None) -> None:
    assert number_in(reply, 4) == number


def test_the_question_named_is_shown_answered_and_both_calls_are_paid_for(tmp_path: Path) -> None:
    acted, prompts = answer(tmp_path, lambda text: "2" if "number alone" in text else "7")
    assert len(prompts) == acted.cost.calls == 2
    assert NOTES[1].text in prompts[1]
    assert NOTES[0].text not in prompts[1]
    assert acted.step.action.text == "7"
    assert [each.text for each in acted.step.messages if each.part == "memory"] == [f"{NOTES[1].text}\n"]


@pytest.mark.parametrize("broken", ["unreadable", "failed"])
def test_where_a_choice_fails_the_nearest_is_taken(tmp_path: Path, broken: str) -> None:
    def reply(text: str) -> str:
        if "number alone" not in text:
            return "7"
        if broken == "failed":
            raise ValueError("out of order")
        return "Hm."

    _, prompts = answer(tmp_path, reply)
    assert NOTES[0].text in prompts[-1]


def test_a_list_over_its_budget_loses_the_last_questions_but_never_the_first(tmp_path: Path) -> None:
    _, (asked, _) = answer(tmp_path, lambda text: "3", list_tokens=1)
    assert "1. How many red pears?" in asked
    assert "2. " not in asked
    _, (asked, answered) = answer(tmp_path, lambda text: "3", list_tokens=1000)
    assert "3. Who eats plums?" in asked
    assert NOTES[2].text in answered


def test_the_nearest_question_comes_first_and_what_does_not_count_or_shares_its_source_not_at_all(
    tmp_path: Path,
) -> None:
    same = note("How many red apples now?", tags=["premise:a"])
    other = note("How many red apples then?", tags=["premise:b", "fruit"])
    plain = new_record("note", "How many red apples?", Scope("fruit"), status="active")
    elsewhere = new_record("note", "Red.", Scope("cars"), meta={"question": TASK.prompt}, status="active")
    every = [*NOTES, same, other, plain, elsewhere]
    with Memory.open(tmp_path, embedder=HashEmbedder()) as memory:
        memory.commit("all", [Event("add", each.id, each) for each in every], generation=1)
        snapshot = memory.snapshot()
    found = by_question(snapshot, HashEmbedder(), TASK, kind="note")
    assert [each.id for each in found] == [each.id for each in (other, *NOTES)]
    barred = by_question(snapshot, HashEmbedder(), TASK, kind="note", showing=Showing(barred=(other.id,)))
    assert other not in barred
    anything = by_question(snapshot, HashEmbedder(), TASK, kind="note", shares=lambda task, record: False)
    assert same.id in {each.id for each in anything}
