"""Answers made in stages: what each is asked, what becomes of the replies, and what it all costs."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

from evolvent.agents.models.role import RoleModel
from evolvent.agents.models.scripted import ScriptedChatModel
from evolvent.agents.solutions.act import Policy, first_messages
from evolvent.agents.solutions.staged import Staged
from evolvent.agents.trace import Trace, read_lines
from evolvent.agents.types import CallTag
from evolvent.environments.types import Message, Observation, Task


def test_each_stage_is_asked_once_about_itself_and_the_answer_is_put_together(tmp_path: Path) -> None:
    model = ScriptedChatModel(lambda messages: str(messages[-1].text).upper())
    manner = Staged(
        ("plan", "write", "plan"),
        lambda stage, task, memory: [Message("user", "task", f"{stage} {task} {memory}")],
        lambda task, said: f"{task}: {' + '.join(said.values())}",
    )
    trace = Trace(tmp_path / "trace.jsonl")
    try:
        new = (*first_messages("Be good.", Task("t", "tale", "w"), "rule"), Message("user", "history", "Now:"))
        policy = Policy(RoleModel("scripted", model, trace))
        tag = CallTag("actor", "eval", 1, "t")
        acted = asyncio.run(manner(policy, Observation("agent", "Now:"), new, (), tag, random.Random(0)))
    finally:
        trace.close()
    assert acted.step.action.text == acted.step.reply == "tale: PLAN TALE RULE + WRITE TALE RULE"
    assert acted.step.messages == new
    assert acted.cost.calls == 2
    assert [row["purpose"] for row in read_lines(tmp_path / "trace.jsonl")] == ["plan", "write"]
