"""Plans in words, how an episode's steps tell of them, and what counts as a goal that was met."""

from __future__ import annotations

import pytest

from evolvent.agents.feedback.goal_check import call_of, stands
from evolvent.agents.refinement.pipeline import Call
from evolvent.agents.solutions.plans import Goal, Leaf, at_work, begun, course, goals_in, plans_in, revised, told
from evolvent.environments.types import Action, Message, Observation, Step

PLAN = (Goal("find the total", "met", "skill-1"), Goal("write it [down]", "at work"), Goal("rest"))
OWN = ("find the total of the order", "write the total into a.txt")


def step(call: str, result: str, *messages: Message) -> Step:
    return Step("agent", Observation("agent", ""), messages, call, Action(call), result=result)


def test_a_plan_is_read_as_it_was_told() -> None:
    assert plans_in([told(PLAN, "Work on goal 2.")]) == [PLAN]


def test_what_an_observation_says_is_no_plan() -> None:
    said = told(PLAN, "").text
    assert plans_in([Message("user", "history", said), Message("user", "task", f"Please. {said}")]) == []


@pytest.mark.parametrize(
    ("reply", "goals"),
    [
        ("1. find it\n2) write it [open]\n", ["find it", "write it"]),
        ("Here is the plan:\nGoal 1: find it\n\n- Step 2. write it", ["find it", "write it"]),
        ("1. a\n2. b\n3. c", ["a", "b"]),
        ("unchanged", []),
        ("", []),
    ],
)
def test_goals_are_the_numbered_lines_of_a_reply(reply: str, goals: list[str]) -> None:
    assert goals_in(reply, 2) == goals


def test_a_revised_plan_keeps_what_has_ended_and_does_not_go_for_it_again() -> None:
    plan = (Goal("a", "met"), Goal("b", "failed"), Goal("c"))
    assert revised(plan, ["A", "b", "d"]) == (Goal("a", "met"), Goal("b", "failed"), Goal("b"), Goal("d"))


def test_the_first_open_goal_is_begun() -> None:
    plan = begun((Goal("a", "met"), Goal("b"), Goal("c")), lambda goal: f"way to {goal}")
    assert plan[1:] == (Goal("b", "at work", "way to b"), Goal("c"))
    assert (at_work(plan), at_work(plan[:1])) == (1, None)
    assert begun(plan[:1], str) == plan[:1]


def test_a_course_tells_for_which_goal_each_call_was_made() -> None:
    one, two = (Goal("a", "at work"), Goal("b")), (Goal("a", "met"), Goal("b", "at work"))
    steps = [
        step('read(path="x")', "count: 3", told(one, "")),
        step("hm", "Error: That is no call."),
        step("add(n=3)", "result: 4", told(two, "")),
    ]
    went = course(steps, call_of)
    assert went.plans == (one, two)
    assert [[call.tool for call in leaf.calls] for leaf in went.leaves] == [["read", ""], ["add"]]
    assert went.calls[0] == Call("read", {"path": "x"}, {"count": "3"})
    assert went.calls[1].failed


RAN, FAILED, HANDED_IN = Call("add"), Call("add", failed=True), Call("submit")


@pytest.mark.parametrize(
    ("text", "status", "calls", "told_of", "stood"),
    [
        ("find the total of the order", "met", [RAN], (True, False), True),
        ("find the order's total", "met", [RAN], (True, False), True),
        ("write the total into a.txt", "met", [RAN], (True, False), False),
        ("something else", "met", [RAN], (True, False), False),
        ("something else", "met", [RAN], (True, True), True),
        ("find the total of the order", "failed", [RAN], (True, True), False),
        ("find the total of the order", "met", [RAN, FAILED], (True, True), False),
        ("find the total of the order", "met", [], (True, True), False),
        ("find the total of the order", "met", [RAN], (), False),
        ("find the total of the order", "at work", [RAN], (True, True), False),
        ("find the total of the order", "at work", [RAN, HANDED_IN], (True, True), True),
    ],
)
def test_a_goal_stands_by_its_calls_and_by_what_the_environment_says(
    text: str, status: str, calls: list[Call], told_of: tuple[bool, ...], stood: bool
) -> None:
    leaf = Leaf(Goal(text, status), tuple(calls))  # type: ignore[arg-type]  # one of the four
    assert stands(leaf, OWN, told_of) is stood
