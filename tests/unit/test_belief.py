"""Beliefs before an action: how a reply is read, what a model that scores is asked, and what a hand looks like."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from pathlib import Path

import pytest

from evolvent.agents.models.role import RoleModel
from evolvent.agents.models.scripted import ScriptedChatModel, ScriptedScorer
from evolvent.agents.refinement.policy_reflection import PolicyText, read_policy
from evolvent.agents.solutions.act import Acted, Policy, act
from evolvent.agents.solutions.belief import Thought, believe, read_thought, told
from evolvent.agents.trace import Trace, read_lines
from evolvent.agents.types import CallTag
from evolvent.environments.types import Action, Message, Observation, Outcome, Step, Task, Trajectory

SEEN = Observation(
    "a", "You hold a king.", ("call", "raise", "fold"), frame="With a king, the best move is to {action}."
)


def acted(model: ScriptedChatModel, folder: Path, earlier: Sequence[Step] = ()) -> Acted:
    folder.mkdir(exist_ok=True)
    trace = Trace(folder / "trace.jsonl")
    try:
        policy = Policy(RoleModel("scripted", model, trace), manner=believe)
        tag = CallTag("actor", "eval", 1, "t")
        return asyncio.run(act(policy, SEEN, (), "", earlier, tag, random.Random(0)))
    finally:
        trace.close()


@pytest.mark.parametrize(
    ("reply", "action", "malformed"),
    [
        ("Self-belief: I may call.\nWorld-belief: they fold.\nAction: Raise.", "raise", False),
        ("**Self-belief:** mine\n**World belief:** theirs\n**Action:** fold\nSelf-belief: and so on", "fold", False),
        ("I shall not fold a king.\nraise", "raise", False),
        ("Self-belief: I could raise or fold.", "call", True),
        ("Action: bet the house", "call", True),
        ("", "call", True),
    ],
)
def test_the_action_is_what_the_reply_names_and_else_the_first_that_is_possible(
    tmp_path: Path, reply: str, action: str, malformed: bool
) -> None:
    found = acted(ScriptedChatModel([reply]), tmp_path)
    assert (found.step.action.text, found.malformed) == (action, malformed)
    assert found.step.reply == reply


def test_names_are_read_in_any_dress_and_a_reply_that_runs_on_counts_once() -> None:
    assert read_thought("1. SELF BELIEF : a\n> World-Belief: b\nmore\nAction:c\nAction: d") == Thought(
        "a", "b\nmore", "c"
    )
    assert read_thought("no names, no action: none") == Thought()


def test_a_model_that_scores_options_writes_its_beliefs_first_and_weighs_the_moves_behind_them(tmp_path: Path) -> None:
    model = ScriptedScorer(
        ["Self-belief: a king is good.\nWorld-belief: they have less."],
        score=lambda messages, lines: [0.0 if "raise" in line else -5.0 for line in lines],
    )
    first = acted(model, tmp_path)
    assert first.step.action.text == "raise"
    assert first.step.reply == "With a king, the best move is to raise."
    assert first.step.sampling.options == SEEN.actions
    assert "a king is good" in str(model.requests[1][-2].text)
    assert [row["purpose"] for row in read_lines(tmp_path / "trace.jsonl")] == ["believe", "act"]
    assert first.cost.calls == 2
    again = ScriptedScorer(["Self-belief: still."], score=lambda messages, lines: [0.0] * len(lines))
    acted(again, tmp_path / "next", [first.step])
    assert "they have less" in "\n".join(str(message.text) for message in again.requests[0])


def test_a_hand_is_told_with_its_beliefs_and_with_what_was_shown_in_the_end() -> None:
    said = "Self-belief: good.\nWorld-belief: bad.\nAction: raise"
    task = Task("t", "One hand.", "cards")
    first = Step("a", SEEN, (Message("user", "history", SEEN.text),), said, Action("raise"), result="They raise.")
    last = Step("a", Observation("a", "They raise.", ("fold",)), (), "Hm.", Action("fold"), result="They held an ace.")
    assert told(Trajectory("x", task, "a", (first, last), Outcome(0.2, False))).splitlines() == [
        "One hand.",
        "You hold a king.",
        "Self-belief: good.",
        "World-belief: bad.",
        "> raise",
        "They raise.",
        "Self-belief: none",
        "World-belief: none",
        "> fold",
        "They held an ace.",
    ]


def test_a_policy_keeps_the_part_that_a_rewriting_leaves_out() -> None:
    old = PolicyText("Be careful.", "They bluff.")
    assert read_policy(str(old)) == old
    assert read_policy("## World modeling: They never bluff.", old) == PolicyText("Be careful.", "They never bluff.")
    assert read_policy("Guideline: Be bold.\nEver.", old) == PolicyText("Be bold.\nEver.", "They bluff.")
    assert read_policy("Just play well.", old) == PolicyText("Just play well.", "They bluff.")
