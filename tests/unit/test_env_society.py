"""A society whose norms change: what is right follows from the day's norms, and nothing an agent reads tells them."""

from __future__ import annotations

from collections import Counter
from typing import Any, get_args

import pytest

from evolvent.environments.errors import BadOptionError
from evolvent.environments.society import MATTERS, Norm, Society
from evolvent.environments.types import Action, Split, StepResult, Task


def answered(task: Task, text: str) -> StepResult:
    world = Society()
    world.reset(task, 0)
    return world.step({"agent": Action(text)})


def norms(**options: Any) -> dict[str, int]:
    return {norm.matter: norm.way for norm in Society(**options).norms()}


@pytest.mark.parametrize("world", range(12))
def test_what_keeps_the_norm_of_the_day_is_right_and_nothing_else_is(world: int) -> None:
    society = Society(world=world, days=4, day=3, turns=40)
    today = {norm.matter: norm for norm in society.norms()}
    for task in society.tasks("train", 40, 0):
        norm = today[task.data["matter"]]
        for deed, way in task.data["deeds"].items():
            result = answered(task, deed)
            assert result.info["success"] is norm.kept_by(way) is (result.rewards["agent"] == 1.0)
        assert sum(norm.kept_by(way) for way in task.data["deeds"].values()) == 1


def test_a_statement_is_right_to_agree_with_where_it_asks_for_what_the_norm_asks_for() -> None:
    society = Society(kind="statements", turns=60)
    for task in society.tasks("train", 60, 0):
        (norm,) = [each for each in society.norms() if each.matter == task.data["matter"]]
        right = "agree" if task.data["asked"] == norm.way else "disagree"
        assert society.expert(task) == [right]
        assert answered(task, right).observations[0].text == answered(task, "agree").observations[0].text
    assert {task.data["asked"] for task in society.tasks("train", 60, 0)} == {0, 1}


def test_the_others_are_pleased_where_a_norm_is_kept_and_offended_where_it_is_not_or_nothing_is_done() -> None:
    (task,) = Society().tasks("train", 1, 0)
    (right,) = Society().expert(task)
    for deed in task.data["deeds"]:
        word = "pleased" if deed == right else "offended"
        assert word in answered(task, deed).observations[0].text


def test_no_norm_stands_in_what_an_agent_reads() -> None:
    society = Society(turns=200)
    texts = [Norm(matter, way).text for matter in MATTERS for way in (0, 1)]
    for task in society.tasks("train", 200, 0):
        (seen,) = society.reset(task, 0)
        reactions = [answered(task, deed).observations[0].text for deed in task.data["deeds"]]
        read = "\n".join([society.instructions, task.prompt, seen.text, *(seen.actions or ()), *reactions])
        assert not [text for text in texts if text in read]


def test_a_run_as_long_as_the_card_s_reverses_one_of_six_norms_on_its_fourth_day() -> None:
    for world in range(10):
        by_day = [norms(world=world, day=day, days=8) for day in range(1, 9)]
        assert [by_day.index(each) for each in by_day] == [0, 0, 0, 3, 3, 3, 3, 3]
        assert len(by_day[0]) == 6
        assert sum(by_day[0][matter] != by_day[3][matter] for matter in by_day[0]) == 1


def test_norms_come_and_go_by_the_schedule() -> None:
    options = {"world": 1, "days": 6, "norms": 3, "changes": "2:add+4:drop+4:reverse"}
    days = [norms(**options, day=day) for day in range(1, 7)]
    assert [len(each) for each in days] == [3, 4, 4, 3, 3, 3]
    assert days[0].items() <= days[1].items()
    assert set(days[3]) < set(days[2])
    assert sum(days[2][matter] != way for matter, way in days[3].items()) == 1
    assert norms(world=1, days=6, day=6, norms=3, changes="none") == days[0]


def test_situations_stay_the_same_while_norms_change() -> None:
    before, after = (Society(days=8, day=day).tasks("train", 12, 0) for day in (3, 4))
    assert [task.prompt for task in before] == [task.prompt for task in after]
    changed = {one.data["matter"] for one, other in zip(before, after, strict=True) if one.data != other.data}
    assert len(changed) == 1
    assert {one.id != other.id for one, other in zip(before, after, strict=True)} == {True, False}


def test_a_matter_without_a_norm_is_left_out_and_the_rest_stays() -> None:
    before, after = (
        {task.prompt for task in Society(days=8, day=day, changes="2:drop", kind="situations").tasks("train", n, 0)}
        for day, n in ((1, 12), (2, 10))
    )
    assert after < before


def test_matters_take_turns_and_every_third_task_is_a_statement() -> None:
    tasks = Society(turns=36).tasks("train", 36, 0)
    assert [task.tags for task in tasks[:3]] == [("kind:situation",), ("kind:situation",), ("kind:statement",)]
    assert set(Counter(task.data["matter"] for task in tasks if task.data["asked"] is None).values()) == {4}
    assert set(Counter(task.data["matter"] for task in tasks if task.data["asked"] is not None).values()) == {2}


def test_worlds_differ_in_norms_and_people() -> None:
    assert len({tuple(norms(world=world).items()) for world in range(30)}) == 30
    firsts = {Society(world=world).tasks("train", 1, 0)[0].prompt for world in range(30)}
    assert len(firsts) == 30


def test_no_place_of_an_action_is_right_more_often_than_chance_has_it() -> None:
    society = Society(kind="situations", turns=300)
    for split in get_args(Split):
        places = Counter(
            list(task.data["deeds"]).index(society.expert(task)[0]) for task in society.tasks(split, 300, 0)
        )
        assert all(70 <= places[place] <= 130 for place in range(3))


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"day": 3}, "day is a whole number from 1 to 2, not 3"),
        ({"norms": 9}, "norms is a whole number from 1 to 8"),
        ({"kind": "songs"}, "none of both, situations, statements"),
        ({"changes": "4:swap"}, "expected none, or DAY:reverse"),
        ({"changes": "1:reverse"}, "with DAY from 2"),
        ({"norms": 8, "changes": "2:add"}, "2:add cannot be made where there are 8 norms"),
        ({"norms": 1, "changes": "2:drop"}, "2:drop cannot be made where there are 1 norms"),
    ],
)
def test_an_option_out_of_range_is_refused_with_what_is_expected(options: dict[str, Any], told: str) -> None:
    with pytest.raises(BadOptionError, match=told):
        Society(**options)


def test_more_tasks_than_a_day_has_turns_are_refused() -> None:
    with pytest.raises(BadOptionError, match="Set turns=13"):
        Society().tasks("train", 13, 0)
    with pytest.raises(BadOptionError, match="Ask for fewer tasks or raise norms"):
        Society(norms=1, kind="statements").tasks("test", 10**6, 0)
