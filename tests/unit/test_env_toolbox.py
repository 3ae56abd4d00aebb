"""Errands with tools: how near the duplicates are, what a call answers, and what the state check sees."""

from __future__ import annotations

import copy
import re
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evolvent.environments.errors import BadOptionError, FailedCallError
from evolvent.environments.tool_calls import read_call, write_call
from evolvent.environments.toolbox import (
    SUBMIT,
    Toolbox,
    destructive,
    failed,
    met,
    subgoals,
    tool_names,
)
from evolvent.environments.toolbox_errands import FAMILIES
from evolvent.environments.toolbox_tools import LONGEST_TEXT, TOOLS, Desk, call, fields, shown
from evolvent.environments.types import Action, Split, StepResult, Task, ToolCall


def played(world: Toolbox, task: Task, *calls: str) -> list[StepResult]:
    world.reset(task, 0)
    return [world.step({"agent": Action(text)}) for text in calls]


def told(result: StepResult) -> str:
    return result.observations[0].text


def one(family: str, **options: object) -> tuple[Toolbox, Task]:
    world = Toolbox(family=family, **options)  # type: ignore[arg-type]  # as options come from the command line
    return world, world.tasks("train", 1, 0)[0]


def desk() -> Desk:
    return Desk(
        {"lamp": {"price": "12.5", "kilograms": "3"}, "ada": {"mailbox": "box-12"}},
        {"a.txt": "count: 7\nthing: lamp"},
        {"t": ({"ship": "otter", "port": "Oslo", "load": "9"}, {"ship": "heron", "port": "Porto", "load": "30"})},
    )


# -- errands -----------------------------------------------------------------------------------------------------------


def test_errands_of_a_family_are_near_duplicates_one_chain_of_tools_with_other_arguments() -> None:
    world = Toolbox()
    tasks = world.tasks("train", 60, 0)
    chains = {family: {tuple(each["name"] for each in task.data["calls"]) for task in tasks if family in task.tags}
              for family in FAMILIES}  # fmt: skip
    assert all(len(found) == 1 for found in chains.values())
    assert {len(chain) for found in chains.values() for chain in found} == {3, 4}
    assert len(set.union(*chains.values())) == len(FAMILIES) == 6
    assert {name for found in chains.values() for chain in found for name in chain} == set(tool_names())
    assert len(tool_names()) == 8
    assert len({str(task.data["calls"]) for task in tasks}) == 60
    assert [task.data["family"] for task in tasks] == list(FAMILIES) * 10


def test_an_argument_is_in_the_goal_or_in_an_earlier_result_or_the_same_for_the_whole_family() -> None:
    world = Toolbox(max_steps=20)
    from_results = 0
    for family in FAMILIES:
        tasks = Toolbox(family=family).tasks("test", 20, 0)
        every = [[each["arguments"] for each in task.data["calls"]] for task in tasks]
        for at, task in enumerate(tasks):
            world.reset(task, 0)
            seen: list[str] = []
            for place, text in enumerate(world.expert(task)[:-1]):
                for name in read_call(text).arguments:
                    if len({str(chain[place][name]) for chain in every}) > 1:
                        written = str(every[at][place][name])
                        assert written in re.findall(r"[\w/.-]+\w", task.prompt) or written in seen
                        from_results += written in seen
                seen += fields(told(world.step({"agent": Action(text)}))).values()
    assert from_results > 6 * 20


def test_subgoals_stand_in_the_prompt_in_order_word_for_word() -> None:
    for task in Toolbox().tasks("validation", 12, 0):
        listed = subgoals(task)
        assert 2 <= len(listed) <= 3
        assert task.prompt.startswith(f"First {', then '.join(listed)}. Submit ")


def test_no_path_or_table_stands_in_two_splits() -> None:
    names = [
        {name for task in Toolbox().tasks(split, 120, 0) for name in (*task.data["files"], *task.data["tables"])}
        for split in get_args(Split)
    ]
    assert len(set.union(*names)) == sum(map(len, names))


def test_another_world_has_other_facts_in_its_directory() -> None:
    (task,) = Toolbox(family="order").tasks("train", 1, 0)
    text = Toolbox().expert(task)[1]
    answers = {told(played(Toolbox(world=world), task, text)[0]) for world in range(4)}
    assert len(answers) > 1


# -- the state check ---------------------------------------------------------------------------------------------------


def test_the_expert_meets_every_subgoal_in_every_world() -> None:
    for world in (Toolbox(), Toolbox(renamed=True), Toolbox(world=3), Toolbox(max_steps=5)):
        for task in world.tasks("test", 18, 1):
            *before, last = played(world, task, *world.expert(task))
            assert (last.done, last.rewards["agent"], last.info["success"]) == (True, 1.0, True)
            assert met(told(last)) == (True,) * len(subgoals(task))
            assert not any(failed(told(each)) or each.done or met(told(each)) for each in before)
            assert all(each.info["legal"] for each in (*before, last))


def test_the_score_is_the_share_of_parts_done_when_something_is_missing() -> None:
    world, task = one("order")
    *chain, write, submit = world.expert(task)
    last = played(world, task, *chain, submit)[-1]
    assert last.rewards["agent"] == pytest.approx(2 / 3)  # the total was found and told, but not written
    assert (last.info["success"], met(told(last))) == (False, (True, False))
    last = played(world, task, *chain, write, f'{SUBMIT}(answer="no idea")')[-1]
    assert (last.rewards["agent"], last.info["success"]) == (pytest.approx(2 / 3), False)
    assert "The answer was not right." in told(last)
    last = played(world, task, submit)[-1]
    assert last.rewards["agent"] == pytest.approx(1 / 3)  # guessed
    assert played(world, task, 'submit(answer="")')[-1].rewards["agent"] == 0


@pytest.mark.parametrize(
    "damage",
    [
        'send_note(to="{box}", text="hello")',
        'send_note(to="{box}", text="{text}")',  # the right note a second time
        'write_file(path="parcels/1.txt", text="x")',
        'write_file(path="{path}", text="x")',
    ],
)
def test_what_nobody_asked_for_costs_the_success(damage: str) -> None:
    world, task = one("parcel")
    *chain, submit = world.expert(task)
    note = read_call(chain[-1]).arguments
    (path,) = task.data["files"]
    last = played(world, task, *chain, damage.format(box=note["to"], text=note["text"], path=path), submit)[-1]
    assert (last.rewards["agent"], last.info["success"]) == (pytest.approx(2 / 3), False)
    assert "that nobody asked for" in told(last)


def test_a_file_that_was_to_be_overwritten_is_overwritten_and_kept_from_other_words() -> None:
    world, task = one("letter")
    *chain, write, submit = world.expert(task)
    assert played(world, task, *chain, write.replace('"sent"', '"Sent."'), submit)[-1].info["success"] is True
    last = played(world, task, *chain, write.replace('"sent"', '"gone"'), submit)[-1]
    assert last.rewards["agent"] == pytest.approx(2 / 4)
    assert met(told(last)) == (True, True, False)


def test_when_the_steps_run_out_what_was_done_counts() -> None:
    world, task = one("order", max_steps=5)
    *chain, submit = world.expert(task)
    last = played(world, task, *chain, chain[0])[-1]
    assert (last.done, last.rewards["agent"], last.info["success"]) == (True, pytest.approx(2 / 3), False)
    assert "You have no step left." in told(last)
    assert "There was no answer." in told(last)
    assert played(world, task, *chain, submit)[-1].info["success"] is True


def test_the_answer_may_be_a_number_and_may_be_announced_as_the_sister_world_has_it() -> None:
    world, task = one("sum")
    *chain, _ = world.expert(task)
    answer = task.data["answer"]
    for last in (f"submit(answer={answer})", f"submit(answer={answer}.00)", f"Answer: {answer}."):
        assert played(world, task, *chain, last)[-1].info["success"] is True


def test_a_call_may_come_as_a_value_or_as_json() -> None:
    world, task = one("lightest")
    world.reset(task, 0)
    for text in world.expert(task):
        result = world.step({"agent": Action(tool=read_call(text))})
    assert result.info["success"] is True
    first = read_call(world.expert(task)[0])
    as_json = '{"name": "%s", "arguments": {"table": "%s", "column": "count", "order": "rising"}}'
    assert told(played(world, task, as_json % (first.name, first.arguments["table"]))[0]).startswith("table: ")


# -- calls that fail ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("", "That is no call. Expected the name of a tool, not the end. Write one call, like"),
        ("I shall read the file", "That is no call."),
        ("open_file(path=1)", "There is no tool 'open_file'. Did you mean read_file"),
        ("zzz()", "There are read_file, write_file,"),
        ('lookup(name="lamp")', "field is missing. The tool is lookup(name: text, field: text)."),
        ('lookup(name="lamp", fact="price")', "lookup takes no 'fact'."),
        ('lookup(name="lamps", field="price")', "The directory has no 'lamps'. Did you mean lamp"),
        ('lookup(name="lamp", field="cost")', "lamp has no 'cost'. There are price, kilograms."),
        ('lookup(name=["lamp"], field="price")', "name is a text of at most 2,000 characters."),
        ('read_file(path="orders/")', "There is no file 'orders/'."),
        ('filter_table(table="fleet", column="port", equals="Oslo")', "There is no table 'fleet'."),
        ('convert(amount=3, unit="kg", to="mi")', "kg is a weight and mi a length."),
        ('convert(amount=3, unit="stone", to="kg")', "There is no unit 'stone'."),
        ('convert(amount="three", unit="kg", to="lb")', "amount is a number up to 1e12."),
        ('calculate(left=1, operator="/", right=0)', "Nothing can be divided by 0."),
        ('calculate(left=1, operator="^", right=0)', "operator is one of + - * /, not '^'."),
        ("calculate(left=1e300, operator='*', right=2)", "left is a number up to 1e12."),
        ('send_note(to="ada", text="x")', "There is no mailbox 'ada'."),
        ('write_file(path="", text="x")', "A path has at least one character"),
        ("submit()", "submit takes one answer"),
        ("submit(answer=[1])", "submit takes one answer"),
    ],
)
def test_a_call_that_fails_is_told_why_and_changes_nothing(text: str, answer: str) -> None:
    world, task = one("order", max_steps=20)
    first, *others = played(world, task, text, *world.expert(task))
    assert answer in told(first)
    assert failed(told(first))
    assert (first.info, first.done) == ({"legal": False}, False)
    assert others[-1].info["success"] is True


@pytest.mark.parametrize(
    ("wanted", "answer"),
    [
        (ToolCall("filter_table", {"table": "t", "column": "town", "equals": "Oslo"}), "t has no column 'town'"),
        (ToolCall("filter_table", {"table": "t", "column": "port", "equals": "Rome"}), "No port of t is 'Rome'"),
        (ToolCall("sort_table", {"table": "t", "column": "load", "order": "up"}), "order is rising or falling"),
        (ToolCall("calculate", {"left": 1, "operator": "/", "right": 5e-324}), "The result is too large"),
        (ToolCall("calculate", {"left": True, "operator": "+", "right": 1}), "left is a number"),
        (ToolCall("calculate", {"left": 10**400, "operator": "+", "right": 1}), "left is a number"),
        (ToolCall("calculate", {"left": "nan", "operator": "+", "right": 1}), "left is a number"),
        (ToolCall("write_file", {"path": "a.txt", "text": "x" * (LONGEST_TEXT + 1)}), "text is a text of at most"),
    ],
)
def test_a_tool_names_what_it_cannot_do(wanted: ToolCall, answer: str) -> None:
    with pytest.raises(FailedCallError, match=answer):
        call(desk(), TOOLS, wanted)


def test_a_renamed_world_knows_its_tool_by_the_new_name_alone() -> None:
    assert set(tool_names()) ^ set(tool_names(renamed=True)) == {"lookup", "consult"}
    renamed, task = one("parcel", renamed=True)
    learned = Toolbox(family="parcel").expert(task)
    results = played(renamed, task, *learned[:3])
    assert [failed(told(each)) for each in results] == [False, False, True]
    assert "There is no tool 'lookup'." in told(results[-1])
    for text in renamed.expert(task)[2:]:  # What was done before the failure still counts.
        results.append(renamed.step({"agent": Action(text)}))
    assert results[-1].info["success"] is True
    assert "consult(name: text" in renamed.reset(task, 0)[0].text


def test_tools_that_overwrite_or_send_are_destructive() -> None:
    assert [name for name in (*tool_names(), *tool_names(renamed=True), SUBMIT, "erase") if destructive(name)] == [
        "write_file",
        "send_note",
    ] * 2


# -- tools -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "result"),
    [
        ('read_file(path="a.txt")', "count: 7\nthing: lamp"),
        ('calculate(left="7", operator="*", right=12.5)', "result: 87.5"),
        ("calculate(left=1, operator='/', right=3)", "result: 0.33"),
        ("calculate(left=-0.001, operator='+', right=0)", "result: 0"),
        ('convert(amount=10, unit="km", to="mi")', "result: 6.21"),  # 10 / 1.609344
        ('convert(amount=1, unit="lb", to="g")', "result: 453.59"),
        ('lookup(name="Lamp", field="price")', "price: 12.5"),
        ('filter_table(table="t", column="port", equals="oslo")', "table: t-oslo\nrows: 1\nship | port | load\n"
         "otter | Oslo | 9"),
        ('sort_table(table="t", column="load", order="rising")', "table: t\nfirst: otter\nship | port | load\n"
         "otter | Oslo | 9\nheron | Porto | 30"),
        ('sort_table(table="t", column="port", order="falling")', "table: t\nfirst: heron\nship | port | load\n"
         "heron | Porto | 30\notter | Oslo | 9"),
        ('send_note(to="box-12", text="hello")', "sent: box-12"),
        ('write_file(path="b.txt", text=12.50)', "written: b.txt"),
    ],
)  # fmt: skip
def test_a_tool_answers_in_fields(text: str, result: str) -> None:
    assert call(desk(), TOOLS, read_call(text)) == result


def test_what_is_written_and_sent_stays() -> None:
    changed = desk()
    for text in ('write_file(path="a.txt", text=12.50)', 'send_note(to="box-12", text="x")'):
        call(changed, TOOLS, read_call(text))
    assert call(changed, TOOLS, read_call('read_file(path="a.txt")')) == "12.5"
    assert changed.notes == [("box-12", "x")]


def test_fields_of_a_result_are_read() -> None:
    assert fields("table: t-oslo\nrows: 3\nship | load\notter | 9") == {"table": "t-oslo", "rows": "3"}
    assert fields("text: meet: now") == {"text": "meet: now"}
    assert shown(3.0) == "3"
    assert shown(1e12) == "1000000000000"


WORDS = st.sampled_from(
    ["a.txt", "t", "port", "Oslo", "load", "rising", "kg", "lb", "lamp", "price", "box-12", "*", "/"]
)
VALUES = WORDS | st.text(max_size=5) | st.integers() | st.floats() | st.none() | st.booleans() | st.lists(st.none())


@settings(deadline=None, derandomize=True)
@given(st.sampled_from(tool_names()), st.data())
def test_any_arguments_are_answered_and_a_failure_leaves_the_desk_as_it_was(name: str, data: st.DataObject) -> None:
    arguments = {parameter: data.draw(VALUES) for parameter in TOOLS[name].parameters}
    before = desk()
    after = copy.deepcopy(before)
    try:
        answer = call(after, TOOLS, ToolCall(name, arguments))
    except FailedCallError as error:
        answer = str(error)
        assert after == before
    else:
        assert after == before or destructive(name) or name == "filter_table"
    assert 0 < len(answer) < 400


def test_experts_calls_survive_being_written() -> None:
    for task in Toolbox().tasks("train", 6, 0):
        assert all(write_call(read_call(text)) == text for text in Toolbox().expert(task))


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({"family": "chess"}, "family is empty or one of order, sum, .* not 'chess'"),
        ({"renamed": "yes"}, "renamed is true or false, not 'yes'"),
        ({"max_steps": 4}, "max_steps is a whole number from 5 to 100, not 4"),
    ],
)
def test_an_option_out_of_range_is_refused(options: dict[str, object], fault: str) -> None:
    with pytest.raises(BadOptionError, match=f"toolbox: {fault}"):
        Toolbox(**options)  # type: ignore[arg-type]  # what a user may type


def test_step_comes_after_reset() -> None:
    with pytest.raises(RuntimeError, match="reset comes before step"):
        Toolbox().step({})
