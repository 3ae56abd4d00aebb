"""Pipelines: what a trace leaves behind, and what it makes of another goal."""

from __future__ import annotations

from dataclasses import replace

import pytest

from evolvent.agents.refinement.pipeline import (
    END,
    START,
    Call,
    Edge,
    Pipeline,
    Result,
    Words,
    copied,
    pipeline_of,
    pruned,
    reached,
    taught,
    with_needed,
    without_arguments,
)

GOAL, OTHER = "find the total of orders/7.txt in lb", "find the total of orders/81.txt in lb"
READ = Call("read", {"path": "orders/7.txt"}, {"thing": "lamp", "count": "3"})
LOOK = Call("look", {"name": "lamp", "field": "weight"}, {"weight": "2.50"})
TIMES = Call("times", {"left": 3, "right": 2.5, "to": "lb"}, {"result": "7.5"})
AGAIN = (
    Call("read", {"path": "orders/81.txt"}, {"thing": "drum", "count": "4"}),
    Call("look", {"name": "drum", "field": "weight"}, {"weight": "4"}),
)


def learned(*calls: Call, before: tuple[Call, ...] = ()) -> Pipeline:
    found = pipeline_of(GOAL, before, calls)
    assert found
    return found


def filled(pipeline: Pipeline, node: int, goal: str, *done: Call) -> dict[str, object]:
    return {slot.name: copied(slot, pipeline, goal, done) for slot in pipeline.nodes[node].slots}


def test_failed_and_repeated_calls_are_left_out() -> None:
    failed = Call("look", {"name": "lmp", "field": "weight"}, failed=True)
    assert pruned([READ, failed, READ, LOOK, READ]) == [READ, LOOK]
    assert [node.tool for node in learned(failed, READ, READ, LOOK).nodes] == ["read", "look"]
    assert pipeline_of(GOAL, (READ,), [failed]) is None


def test_edges_of_one_trace_are_a_line_without_conditions() -> None:
    assert learned(READ, LOOK).edges == (Edge(START, 0), Edge(0, 1), Edge(1, END))
    assert learned(READ, LOOK).tools() == "read, then look"


def test_slots_are_filled_from_the_new_goal_and_the_new_results() -> None:
    pipeline = learned(READ, LOOK, TIMES)
    assert filled(pipeline, 0, OTHER) == {"path": "orders/81.txt"}
    assert filled(pipeline, 1, OTHER, *AGAIN[:1]) == {"name": "drum", "field": None}  # it stood nowhere
    assert filled(pipeline, 2, OTHER, *AGAIN) == {"left": 4, "right": 4, "to": "lb"}


def test_a_number_stays_a_number_and_what_is_none_does_not_fill_its_slot() -> None:
    pipeline = learned(READ, LOOK, TIMES)
    odd = replace(AGAIN[0], found={"thing": "drum", "count": "many"})
    assert filled(pipeline, 2, OTHER, odd, AGAIN[1])["left"] is None


def test_what_an_abandoned_goal_found_is_found_again_by_the_goal_that_used_it() -> None:
    stray = Call("read", {"path": "b.txt"}, {"sheep": "41"})
    failed = replace(LOOK, failed=True)
    assert with_needed([TIMES], [READ, stray, failed, LOOK]) == [READ, LOOK, TIMES]


def test_results_of_earlier_goals_fill_slots_too() -> None:
    pipeline = learned(Call("send", {"text": "lamp"}), before=(READ,))
    assert pipeline.nodes[0].slots[0].sources == (Result("read", "thing"),)
    assert filled(pipeline, 0, "send it", *AGAIN) == {"text": "drum"}


def test_of_several_calls_of_one_tool_a_source_names_how_far_back_it_is() -> None:
    first, second = (Call("read", {"path": f"{name}.txt"}, {"count": name}) for name in ("11", "12"))
    add = learned(first, second, Call("add", {"left": 11, "right": 12})).nodes[2]
    assert [slot.sources for slot in add.slots] == [(Result("read", "count", 2),), (Result("read", "count", 1),)]


@pytest.mark.parametrize(
    "goal", ["find the sum of orders/81.txt in lb", "find the total of orders/81.txt in lb, please", OTHER.upper()]
)
def test_a_goal_in_slightly_other_words_fills_its_slots(goal: str) -> None:
    assert str(filled(learned(READ), 0, goal)["path"]).casefold() == "orders/81.txt"


def test_where_it_is_not_clear_which_words_are_meant_nothing_is_copied() -> None:
    assert filled(learned(READ), 0, "the total weight, from what is said in orders/81.txt, is wanted") == {"path": None}


def test_a_chance_likeness_is_not_copied_and_gone_after_the_next_trace() -> None:
    like = replace(READ, found={"thing": "lamp", "count": "2.5"})
    pipeline = learned(like, LOOK, replace(TIMES, arguments={"left": 2.5, "right": 2.5}))
    done = (AGAIN[0], AGAIN[1], replace(AGAIN[0], arguments={"path": "b"}, found={"count": "9"}))
    assert filled(pipeline, 2, OTHER, *done) == {"left": None, "right": None}
    narrowed = taught(pipeline, OTHER, (), [AGAIN[0], replace(AGAIN[1], found={"weight": "6"}),
                                            Call("times", {"left": 4, "right": 6})])  # fmt: skip
    assert narrowed
    assert [slot.sources for slot in narrowed.nodes[2].slots] == [
        (Result("read", "count"),),
        (Result("look", "weight"),),
    ]
    assert narrowed.edges == pipeline.edges


def test_a_trace_that_parts_adds_a_way_and_each_says_for_which_goal_it_was_gone() -> None:
    pipeline = learned(READ, LOOK)
    joined = taught(pipeline, OTHER, (), [AGAIN[0], Call("ask", {"of": "drum"})])
    assert joined
    assert joined.following(0) == [Edge(0, 1, GOAL), Edge(0, 2, OTHER)]
    assert joined.nodes[0].slots[0].sources == (Words(4, 1),)
    assert joined.tools() == "read, then (look | ask)"
    assert reached(joined, OTHER, (), [AGAIN[0], Call("ask", {"of": "drum"})]) == 2
    shorter = taught(pipeline, OTHER, (), [AGAIN[0]])
    assert shorter
    assert shorter.following(0) == [Edge(0, 1, GOAL), Edge(0, END, OTHER)]
    assert taught(shorter, OTHER, (), [AGAIN[0]]) == shorter


def test_a_trace_that_begins_otherwise_is_a_pipeline_of_its_own() -> None:
    assert taught(learned(READ, LOOK), OTHER, (), [AGAIN[1]]) is None


def test_calls_that_leave_a_pipeline_or_failed_have_reached_no_node_of_it() -> None:
    pipeline = learned(READ, LOOK)
    assert reached(pipeline, OTHER, (), []) == START
    assert reached(pipeline, OTHER, (), AGAIN) == 1
    assert reached(pipeline, OTHER, (), [Call("ask")]) is None
    assert reached(pipeline, OTHER, (), [replace(AGAIN[0], failed=True)]) is None


def test_a_goal_without_arguments_says_what_was_done_and_not_with_what() -> None:
    assert without_arguments(f"{GOAL}, now", [READ, TIMES]) == "find the total of … in …, now"
    assert without_arguments("count to ten", [Call("x", {"list": [1, 2], "none": None, "empty": ""})]) == "count to ten"
