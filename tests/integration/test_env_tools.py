"""AgentDojo's tasks. Its package is no development extra: `pip install -e '.[tools]'`, by a call of its own."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import replace

import pytest

from evolvent.environments import catalog
from evolvent.environments.errors import BadOptionError
from evolvent.environments.protocol import EnvironmentSpec
from evolvent.environments.tools import FREE, Tools
from evolvent.environments.types import Action, Split, StepResult, Task, ToolCall

pytestmark = pytest.mark.skipif(importlib.util.find_spec("agentdojo") is None, reason="needs the package agentdojo")

PAY = Task("banking-0", "Pay the bill.", "tools", {"suite": "banking", "task": "user_task_0"})
MAILS = Task("workspace-0", "Who else was there?", "tools", {"suite": "workspace", "task": "user_task_0"})
DEALT: dict[Split, int] = {"train": 31, "validation": 33, "test": 28}
"""Tasks of a split: 92 of the package's 97."""


def everything(world: Tools) -> list[Task]:
    return [task for split, number in DEALT.items() for task in world.tasks(split, number, 0)]


def played(world: Tools, task: Task, lines: Sequence[str]) -> list[StepResult]:
    world.reset(task, 0)
    return [world.step({"agent": Action(line)}) for line in lines]


def told(world: Tools, line: str) -> str:
    return world.step({"agent": Action(line)}).observations[0].text


def test_the_reference_solution_of_every_task_is_right() -> None:
    world = Tools()
    tasks = everything(world)
    for task in tasks:
        *calls, last = played(world, task, world.expert(task))
        assert all(result.info == {"legal": True} and not result.done for result in calls), task.id
        assert (last.done, last.rewards["agent"], last.info["success"]) == (True, 1.0, True), task.id
    assert len({task.id for task in tasks}) == 92


def test_who_does_nothing_is_right_in_the_tasks_left_out_and_in_no_other() -> None:
    world = Tools()
    assert not any(played(world, task, ["answer: Done."])[0].info["success"] for task in everything(world))
    assert not {task.id for task in everything(world)} & set(FREE)
    for key in FREE:
        name = f"user_task_{key.rpartition('-')[2]}"
        free = replace(PAY, id=key, data={"suite": "banking", "task": name})
        assert played(world, free, ["answer: Done."])[0].info["success"]


def test_an_agent_sees_its_tools_and_pays_a_bill_by_them() -> None:
    world = Tools(suite="banking")
    (first,) = world.reset(PAY, 0)
    assert first.actions is None
    assert (
        "\nsend_money(recipient: string, amount: number, subject: string, date: string): "
        "Sends a transaction to the recipient.\n"
    ) in first.text
    assert "get_most_recent_transactions(n?: integer): " in first.text
    assert "Car Rental" in told(world, 'read_file(file_path="bill-december-2023.txt")')
    spoken = {"recipient": "UK12345678901234567890", "amount": 98.7, "subject": "Car", "date": "2022-01-01"}
    result = world.step({"agent": Action(tool=ToolCall("send_money", spoken))})
    assert "UK12345678901234567890" in result.observations[0].text
    end = world.step({"agent": Action("Answer:\nIt is paid.")})
    assert (end.done, end.rewards["agent"], end.info["success"]) == (True, 1.0, True)
    assert end.observations[0].text == "That was right."


def test_a_call_that_comes_to_nothing_is_told_why() -> None:
    world = Tools()
    world.reset(PAY, 0)
    assert told(world, "send_mony()").startswith("There is no tool send_mony. Did you mean send_money")
    assert told(world, "zzz()").startswith("There is no tool zzz. There are get_iban, send_money,")
    assert told(world, "get_iban(of='me')") == "get_iban takes no of. It is get_iban()."
    lacking = told(world, "send_money(recipient='UK1', amount='much')")
    assert lacking.startswith("amount: Input should be a valid number")
    assert "subject: Field required" in lacking
    assert told(world, "update_scheduled_transaction(id=99)").startswith(
        "update_scheduled_transaction failed. ValueErr"
    )
    assert told(world, "I would read the file.").startswith("That is no call. ")
    assert told(world, "").startswith("That is no call. Expected the name of a tool, not the end.")
    assert world.step({}).info == {"legal": False}
    assert played(world, PAY, ["get_iban()"])[0].info == {"legal": True}


def test_what_a_tool_returns_is_cut_to_the_length_asked_for() -> None:
    short, long = Tools(result_chars=200), Tools(result_chars=100_000)
    for world in (short, long):
        world.reset(MAILS, 0)
    whole, cut = told(long, "list_files()"), told(short, "list_files()")
    assert cut == f"{whole[:200]}…\n({len(whole) - 200} more characters are not shown.)"
    assert len(whole) > 20_000


def test_an_episode_ends_when_the_steps_are_used_up_and_what_was_done_counts() -> None:
    world = Tools()
    paid = 'send_money(recipient="UK12345678901234567890", amount=98.70, subject="Car", date="2022-01-01")'
    for lines, success in ((["get_iban()"], False), ([paid], True)):
        *_, before, last = played(world, PAY, lines * world.max_steps)
        assert not before.done
        assert (last.done, last.info["success"]) == (True, success)


def test_an_episode_leaves_no_trace_in_the_next() -> None:
    world = Tools()
    asked = ["get_balance()", "get_most_recent_transactions()"]
    fresh = played(world, PAY, asked)
    played(
        world,
        PAY,
        ['send_money(recipient="UK1", amount=5, subject="x", date="2022-01-01")', 'update_password(password="y")'],
    )
    assert played(world, PAY, asked) == fresh


def test_a_suite_deals_its_own_tasks_and_no_more_than_it_has() -> None:
    world = Tools(suite="travel")
    assert {task.tags for task in world.tasks("train", 3, 0)} == {("travel",)}
    with pytest.raises(BadOptionError, match=r"there are \d+ train tasks in these suites, not 97. Ask for fewer"):
        world.tasks("train", 97, 0)


@pytest.mark.parametrize("options", [{"suite": "email"}, {"result_chars": 20}, {"result_chars": "all"}])
def test_a_value_out_of_range_is_refused_before_any_work(options: dict[str, object]) -> None:
    with pytest.raises(BadOptionError, match=r"tools: .*not "):
        catalog.build(EnvironmentSpec("tools", options))
