"""Invented creatures: which traits decide, what the true notes are worth, and what a reply is read for."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any, get_args

import pytest

from evolvent.environments.creatures import TRAITS, Creatures, class_names, finished, informative, oracle_notes
from evolvent.environments.errors import BadOptionError
from evolvent.environments.types import Action, Split, StepResult, Task

SIZES = [(classes, traits) for classes in (2, 3, 4) for traits in (4, 10)]
SIDES = {adjective: (trait.name, at) for trait in TRAITS for at, side in enumerate(trait.sides) for adjective in side}


def answered(world: Creatures, task: Task, text: str) -> StepResult:
    world.reset(task, 0)
    return world.step({"agent": Action(text)})


def adjectives(task: Task) -> set[str]:
    return set(re.findall(r"\w+", task.prompt)) & SIDES.keys()


def by_notes(task: Task, notes: str) -> list[str]:
    """The creatures of whose notes the description meets every part."""
    said = re.findall(r"^(Creature \w) is (.+)\.$", notes, re.MULTILINE)
    parts = {name: [set(part.split(" or ")) for part in traits.split(", and ")] for name, traits in said}
    return [name for name, wanted in parts.items() if all(part & adjectives(task) for part in wanted)]


# -- descriptions ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("classes", "traits"), SIZES)
@pytest.mark.parametrize("world", [0, 3])
def test_the_true_notes_tell_every_creature(world: int, classes: int, traits: int) -> None:
    notes = oracle_notes(world, classes, traits)
    assert len(notes.splitlines()) == classes + 1
    for task in Creatures(world=world, classes=classes, traits=traits).tasks("test", 200, 0):
        assert by_notes(task, notes) == [task.data["label"]]


def test_notes_of_another_world_are_of_little_use() -> None:
    deciding = {world: informative(world) for world in range(40)}
    other = next(world for world, names in deciding.items() if not {*names} & {*deciding[0]})
    tasks = Creatures().tasks("test", 400, 0)
    right = sum(by_notes(task, oracle_notes(other)) == [task.data["label"]] for task in tasks)
    assert right / len(tasks) < 0.35  # a quarter is chance


@pytest.mark.parametrize(("classes", "traits"), SIZES)
def test_every_trait_is_told_once_and_only_some_decide(classes: int, traits: int) -> None:
    tasks = Creatures(classes=classes, traits=traits).tasks("train", 400, 0)
    names = {trait.name for trait in TRAITS[:traits]}
    deciding = informative(0, classes, traits)
    assert len(deciding) == (1 if classes == 2 else 2)
    assert {*deciding} < names
    for task in tasks:
        told = [SIDES[adjective] for adjective in adjectives(task)]
        assert {name for name, _ in told} == names
        assert len(told) == traits
    for name in names - {*deciding}:
        low = sum((name, 0) in map(SIDES.get, adjectives(task)) for task in tasks)
        assert 140 < low < 260  # either side half the time


def test_worlds_differ_in_what_decides_and_in_who_is_who() -> None:
    assert {name for world in range(60) for name in informative(world)} == {trait.name for trait in TRAITS}
    assert len({oracle_notes(world, 2, 4) for world in range(60)}) == 8  # 4 traits, either way round


@pytest.mark.parametrize("classes", [2, 3, 4])
def test_creatures_come_equally_often(classes: int) -> None:
    often = Counter(task.data["label"] for task in Creatures(classes=classes).tasks("train", 120, 0))
    assert often == dict.fromkeys(class_names(classes), 120 // classes)


@pytest.mark.parametrize("traits", [4, 10])
def test_four_hundred_descriptions_a_split_share_no_set_of_adjectives(traits: int) -> None:
    world = Creatures(traits=traits)
    dealt = [{frozenset(adjectives(task)) for task in world.tasks(split, 400, 0)} for split in get_args(Split)]
    assert [len(each) for each in dealt] == [400, 400, 400]
    assert len(set.union(*dealt)) == 1200


def test_adjectives_of_one_side_all_occur_and_belong_to_it_alone() -> None:
    assert len(SIDES) == sum(len(side) for trait in TRAITS for side in trait.sides) == 80
    seen = {adjective for task in Creatures().tasks("train", 200, 0) for adjective in adjectives(task)}
    assert seen == SIDES.keys()


def test_more_descriptions_than_there_are_cannot_be_dealt() -> None:
    said = (
        r"creatures: 4 traits have \d{3,4} different test descriptions of 4 creatures in turn, not 3000\. Ask for fewer"
    )
    with pytest.raises(BadOptionError, match=said):
        Creatures(traits=4).tasks("test", 3000, 0)


# -- replies -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reply", "name"),
    [
        ("Finish[Creature A]", "Creature A"),
        ("It is small, so finish [ creature b ].", "creature b"),
        ("Finish[Creature A]. No: Finish[Creature B]", "Creature B"),
        ("Finish[]", ""),
        ("Creature A", ""),
        ("", ""),
    ],
)
def test_the_last_finish_of_a_reply_is_read(reply: str, name: str) -> None:
    assert finished(reply) == name


def test_a_name_counts_alone_or_in_finish_and_the_right_one_is_never_told() -> None:
    world = Creatures()
    (task,) = world.tasks("test", 1, 0)
    right = task.data["label"]
    wrong = next(name for name in class_names() if name != right)
    for text in (right, f" {right.lower()}.", f"I think so.\nFinish[{right}]", f"Finish[{right[-1]}]"):
        assert answered(world, task, text).rewards == {"agent": 1.0}
    for text in (wrong, f"{right}? Finish[{wrong}]", "Finish[Creature Z]"):
        result = answered(world, task, text)
        assert (result.rewards, result.info, result.done) == ({"agent": 0.0}, {"success": False}, True)
    assert answered(world, task, wrong).observations[0].text == "Wrong."
    assert (
        answered(world, task, "Finish[Creature Z]")
        .observations[0]
        .text.endswith("You can: Creature A; Creature B; Creature C; Creature D.")
    )


# -- options -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"classes": 1}, "creatures: classes is a whole number from 2 to 4, not 1"),
        ({"classes": 5}, "from 2 to 4, not 5"),
        ({"traits": 3}, "creatures: traits is a whole number from 4 to 10, not 3"),
        ({"traits": 11}, "from 4 to 10, not 11"),
        ({"traits": "many"}, "not 'many'"),
    ],
)
def test_an_option_out_of_range_is_answered_with_the_range(options: dict[str, Any], said: str) -> None:
    with pytest.raises(BadOptionError, match=said):
        Creatures(**options)
    with pytest.raises(BadOptionError, match=said):
        oracle_notes(0, **options)


def test_step_comes_after_reset() -> None:
    with pytest.raises(RuntimeError, match="reset comes before step"):
        Creatures().step({})
