"""Nested look-ups: whoever follows the documents from key to key ends at the answer after exactly so many hops."""

from __future__ import annotations

import re

import pytest

from evolvent.environments.errors import BadOptionError
from evolvent.environments.key_values import KeyValues, documents, search
from evolvent.environments.types import Action, StepResult, Task

_PAIR = re.compile(r"Key ([0-9a-f]{8}): value ([0-9a-f]{8})\.")
SPLITS = ("train", "validation", "test")


def answered(task: Task, reply: str) -> StepResult:
    world = KeyValues()
    world.reset(task, 0)
    return world.step({"agent": Action(reply)})


def pairs_of(task: Task) -> dict[str, str]:
    return dict(found.groups() for line in documents(task) if (found := _PAIR.fullmatch(line)))


@pytest.mark.parametrize("depth", range(5))
def test_following_the_documents_ends_at_the_answer_after_exactly_so_many_hops(depth: int) -> None:
    world = KeyValues(depth=depth, pairs=300, world=depth)
    for split in SPLITS:
        for task in world.tasks(split, 30, 0):
            pairs = pairs_of(task)
            assert len(pairs) == len(documents(task)) == 300
            (key,) = re.findall(r"[0-9a-f]{8}", task.prompt)
            chain = [key]
            while pairs[chain[-1]] in pairs:
                chain.append(pairs[chain[-1]])
            assert chain == task.data["chain"]
            assert len(chain) == depth + 1
            assert [pairs[chain[-1]]] == task.data["answers"]


@pytest.mark.parametrize("depth", range(5))
def test_tasks_of_two_splits_share_no_key_and_no_value(depth: int) -> None:
    world = KeyValues(depth=depth, pairs=60)
    met: list[set[str]] = []
    for split in SPLITS:
        tasks = world.tasks(split, 9, 0)
        met.append({word for task in tasks for word in (*task.data["chain"], *task.data["answers"])})
    assert sum(map(len, met)) == len(set.union(*met))


def test_a_search_finds_a_key_and_goes_on_by_pages() -> None:
    (task,) = KeyValues().tasks("test", 1, 0)
    for key in task.data["chain"]:
        assert any(line.startswith(f"Key {key}: ") for line in search(task, key))
        assert all(key in line for line in search(task, key))
    first, second = (search(task, "the value of a key", page=page) for page in (1, 2))
    assert len(first) == len(second) == 5
    assert first + second == search(task, "the value of a key", 10)
    assert search(task, "value", 400, page=2) == search(task, "value", 600)[400:]
    assert search(task, "value", 600, page=2) == search(task, "xyzzy") == search(task, "value", page=0) == ()


def test_the_store_is_named_by_a_task_or_by_the_options_of_its_world() -> None:
    (task,) = KeyValues(world=3, pairs=90, depth=1).tasks("test", 1, 0)
    options = {"world": 3, "pairs": 90, "depth": 1}
    assert documents(task) == documents(options)
    assert search(task, "value") == search(options, "value")
    assert documents({}) == documents(KeyValues().tasks("train", 1, 0)[0]) != documents({"world": 1})
    with pytest.raises(BadOptionError, match="depth is a whole number from 0 to 4, not 9"):
        documents({"depth": 9})


def test_only_the_last_value_is_right() -> None:
    (task,) = KeyValues().tasks("test", 1, 0)
    right = answered(task, f"It leads on twice. The answer is {task.data['answers'][0].upper()}.")
    assert (right.rewards["agent"], right.info["success"]) == (1.0, True)
    for wrong in (*task.data["chain"], "", "I do not know"):
        assert (answered(task, wrong).rewards["agent"], answered(task, wrong).info["success"]) == (0.0, False)
    assert answered(task, "").observations[0].text == "There was no answer."


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"depth": 5}, "depth is a whole number from 0 to 4, not 5"),
        ({"depth": "deep"}, "depth is a whole number from 0 to 4, not 'deep'"),
        ({"pairs": 29}, "pairs is a whole number from 30 to 100000, not 29"),
    ],
)
def test_numbers_out_of_range_are_refused(options: dict[str, int], named: str) -> None:
    with pytest.raises(BadOptionError, match=f"key_values: {named}"):
        KeyValues(**options)


def test_more_keys_than_there_are_cannot_be_dealt() -> None:
    with pytest.raises(
        BadOptionError, match=r"60 pairs have 10 test keys with 2 hops, not 11\. Ask for fewer or raise"
    ):
        KeyValues(pairs=60).tasks("test", 11, 0)


def test_step_comes_after_reset() -> None:
    with pytest.raises(RuntimeError, match="reset comes before step"):
        KeyValues().step({})
