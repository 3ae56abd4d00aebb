"""Chores after ALFWorld, played for real. Their package is no development extra: `pip install -e '.[household]'`."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest

from evolvent.environments import household
from evolvent.environments.errors import BadOptionError, MissingPackageError, OverwrittenPackageError
from evolvent.environments.household import Household, overwritten
from evolvent.environments.household_games import KINDS, domain, game
from evolvent.environments.types import Action, Split, StepResult, Task

needs_alfworld = pytest.mark.skipif(
    importlib.util.find_spec("alfworld") is None or importlib.util.find_spec("fast_downward") is None,
    reason="household, which is no development extra, needs the package alfworld and its planner",
)


@pytest.fixture(scope="module")
def world() -> Iterator[Household]:
    built = Household()
    yield built
    built.close()


@pytest.fixture
def records(tmp_path: Path) -> Iterator[importlib.metadata.Distribution]:
    """A package as pip leaves it: two modules and a record of their sizes."""
    (tmp_path / "planner").mkdir()
    for name in ("search", "translate"):
        (tmp_path / "planner" / f"{name}.py").write_text("x = 1\n")
    info = tmp_path / "planner-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: planner\nVersion: 1.0\n")
    (info / "RECORD").write_text("planner/search.py,sha256=A,6\nplanner/translate.py,sha256=B,6\nplanner/x.pyc,,\n")
    household._check_simulator.cache_clear()
    yield importlib.metadata.PathDistribution(info)
    household._check_simulator.cache_clear()


def typed(world: Household, commands: list[str]) -> list[StepResult]:
    return [world.step({"agent": Action(command)}) for command in commands]


def of_kind(world: Household, kind: str, n: int, split: Split = "test") -> list[Task]:
    return [task for task in world.tasks(split, n * len(KINDS), 0) if task.tags == (kind,)]


@needs_alfworld
@pytest.mark.parametrize("kind", KINDS)
def test_the_expert_does_every_kind_of_chore_with_actions_on_offer(world: Household, kind: str) -> None:
    for task in of_kind(world, kind, 2):
        (seen,) = world.reset(task, 0)
        results: list[StepResult] = []
        for command in world.expert(task):
            assert command in (seen.actions or ())
            results += typed(world, [command])
            (seen,) = results[-1].observations
        assert [result.done for result in results] == [False] * (len(results) - 1) + [True]
        assert [result.rewards["agent"] for result in results] == [0.0] * (len(results) - 1) + [1.0]
        assert results[-1].info["success"] is True


@needs_alfworld
@pytest.mark.parametrize("kind", KINDS)
def test_the_bundled_planner_knows_a_way_too_and_none_that_is_shorter(
    world: Household, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", sys.argv)  # Called bare, the translator leaves its own there.
    from fast_downward import pddl2sas

    (task,) = of_kind(world, kind, 1)
    world.reset(task, 0)
    simulation = world._simulation
    assert simulation is not None
    _, for_search = pddl2sas(domain()[0], game(**task.data).problem, optimize=True)
    simulation._library.load_sas_replan(for_search.encode())
    plan = simulation._state.replan(simulation._entities)
    assert len(plan) >= len(world.expert(task)) > 0
    assert typed(world, plan)[-1].info == {"success": True, "legal": True}


@needs_alfworld
def test_a_thing_that_was_not_heated_is_no_hot_thing(world: Household) -> None:
    (task,) = of_kind(world, "heat", 1)
    world.reset(task, 0)
    cold = [command for command in world.expert(task) if not command.startswith("heat ")]
    assert not any(result.done for result in typed(world, cold))


@needs_alfworld
def test_kinds_take_turns_and_can_be_asked_for_alone(world: Household) -> None:
    tasks = world.tasks("validation", 18, 5)
    assert [task.tags for task in tasks] == [(kind,) for kind in KINDS] * 3
    assert len({task.id for task in tasks}) == 18
    assert world.tasks("validation", 7, 5) == tasks[:7]
    assert {task.tags for task in Household(kind="cool").tasks("train", 5, 0)} == {("cool",)}


@needs_alfworld
def test_splits_share_no_floor_plan_and_no_game(world: Household) -> None:
    dealt = [
        [game(**task.data) for seed in range(3) for task in world.tasks(split, 60, seed)] for split in get_args(Split)
    ]
    for of_split in (
        [{each.plan for each in games} for games in dealt],
        [{each.problem for each in games} for games in dealt],
    ):
        assert len(set.union(*of_split)) == sum(map(len, of_split))
    assert {plan % 100 for plan in {each.plan for each in dealt[2]}} <= set(range(1, 7))


@needs_alfworld
def test_a_household_has_habits_that_another_does_not_share() -> None:
    def tidiness(lies: dict[str, Counter[str]]) -> float:
        """How often, on average over things, a thing lies on its most common furniture."""
        often = [places for places in lies.values() if places.total() >= 20]
        return sum(max(places.values()) / places.total() for places in often) / len(often)

    def lie_about(worlds: range, n: int) -> dict[str, Counter[str]]:
        lies: dict[str, Counter[str]] = {}
        for number in worlds:
            for task in Household(kind="heat", world=number).tasks("train", n, 0):
                for thing, furniture in re.findall(r"\(inReceptacle (\w+?)_\d (\w+?)_\d\)", game(**task.data).problem):
                    lies.setdefault(thing, Counter())[furniture] += 1
        return lies

    assert tidiness(lie_about(range(1), 120)) > 0.6
    assert tidiness(lie_about(range(20), 6)) < 0.5


@needs_alfworld
def test_what_no_chore_needs_is_legal_but_not_offered(world: Household) -> None:
    (seen,) = world.reset(world.tasks("test", 1, 0)[0], 0)
    assert all(command.startswith("go to ") for command in seen.actions or ())
    looked, carried = typed(world, ["look", "Inventory."])
    assert (looked.info, carried.info) == ({"legal": True}, {"legal": True})
    assert carried.observations[0].text == "You are not carrying anything."


@needs_alfworld
def test_the_frame_tells_the_goal_the_place_and_what_is_in_hand(world: Household) -> None:
    (task,) = of_kind(world, "clean", 1)
    goal = f"To {task.prompt[0].lower()}{task.prompt[1:-1]}"
    (seen,) = world.reset(task, 0)
    assert seen.frame == f"{goal}, in the middle of the room with empty hands, {{action}}."
    walk = world.expert(task)
    taken = next(at for at, command in enumerate(walk) if command.startswith("take "))
    thing, place = walk[taken].removeprefix("take ").split(" from ")
    assert (
        typed(world, walk[: taken + 1])[-1].observations[0].frame
        == f"{goal}, at the {place} with {thing} in hand, {{action}}."
    )


@needs_alfworld
def test_an_episode_ends_after_thirty_steps_without_a_word_of_success(world: Household) -> None:
    world.reset(world.tasks("test", 1, 0)[0], 0)
    results = typed(world, ["look"] * 30)
    assert [result.done for result in results] == [False] * 29 + [True]
    assert results[-1].info["success"] is False
    assert not any(result.rewards["agent"] for result in results)


@needs_alfworld
def test_the_programs_own_arguments_survive_the_translator(world: Household) -> None:
    arguments = list(sys.argv)
    world.reset(world.tasks("train", 1, 77)[0], 0)
    assert sys.argv == arguments


@needs_alfworld
def test_an_unknown_kind_or_world_is_refused() -> None:
    with pytest.raises(BadOptionError, match=r"household: kind is one of pick, look, .* not 'cook'"):
        Household(kind="cook")
    with pytest.raises(BadOptionError, match="household: world is a whole number, not 'mine'"):
        Household(world="mine")  # type: ignore[arg-type]  # as it may come from the command line


def test_files_of_a_package_that_changed_or_went_are_found(records: importlib.metadata.Distribution) -> None:
    assert overwritten(records) == []
    Path(str(records.locate_file("planner/translate.py"))).write_text("x = 'of another package'\n")
    assert overwritten(records) == ["planner/translate.py"]
    Path(str(records.locate_file("planner/search.py"))).unlink()
    assert overwritten(records) == ["planner/search.py", "planner/translate.py"]


def test_a_planner_written_over_by_another_package_is_told_before_any_game(
    records: importlib.metadata.Distribution, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.metadata, "distribution", lambda name: records)
    Path(str(records.locate_file("planner/translate.py"))).write_text("")
    with pytest.raises(OverwrittenPackageError, match=r"1 files.*planner/translate.py.*pip install --force-reinstall"):
        Household()


def test_a_planner_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> None:
        raise importlib.metadata.PackageNotFoundError(name)

    household._check_simulator.cache_clear()
    monkeypatch.setattr(importlib.metadata, "distribution", absent)
    with pytest.raises(MissingPackageError, match=r"fast-downward-textworld.*evolvent\[household\]"):
        Household()
