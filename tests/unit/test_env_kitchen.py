from __future__ import annotations

import importlib.util
import random
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import pytest

from evolvent.environments import kitchen
from evolvent.environments.errors import BadOptionError
from evolvent.environments.kitchen import LAYOUTS, Kitchen
from evolvent.environments.kitchen_bots import BOTS, Bot, most_useful, served_by_greedy_pair
from evolvent.environments.kitchen_grid import (
    COOKING,
    MOVES,
    Cell,
    Cook,
    Pot,
    Scene,
    after,
    arrays_of,
    grid_of,
    opening,
    scene_in,
    step_from,
    way,
)
from evolvent.environments.kitchen_skills import LIBRARY, Skill, finished, flaw, next_move, read_skills, targets
from evolvent.environments.types import Action, Observation, StepResult, Task

CRAMPED = LAYOUTS["cramped"]


def scene_of(rows: Sequence[str], me: Cook, partner: Cook, onions: int = 0, left: int | None = None) -> Scene:
    grid = grid_of(tuple(rows))
    return Scene(grid, (me, partner), {cell: Pot(onions, left) for cell in grid.stations["P"]}, {})


def moved(scene: Scene, *moves: str) -> Scene:
    """After the first cook's moves, while the second stands still."""
    for move in moves:
        scene = after(scene, (move, "stay"))
    return scene


def played(world: Kitchen, task: Task, cook: Bot, seed: int = 0) -> list[StepResult]:
    """One episode of a bot in the only seat that is left."""
    observations, results = world.reset(task, seed), list[StepResult]()
    while not (results and results[-1].done):
        results.append(world.step({observations[0].player: Action(cook(scene_in(observations[0].arrays)))}))
        observations = results[-1].observations
    return results


# -- rules -------------------------------------------------------------------------------------------------------------


def test_a_soup_takes_three_onions_twenty_steps_a_dish_and_a_walk() -> None:
    scene = scene_of(CRAMPED, Cook((2, 1)), Cook((3, 2)), onions=2)
    scene = Scene(scene.grid, (Cook((2, 1), held="onion"), scene.cooks[1]), scene.pots, {})
    scene = moved(scene, "interact")
    assert scene.cooks[0].held == ""
    assert scene.pots == {(2, 0): Pot(3, COOKING - 1)}
    early = Scene(scene.grid, (Cook((2, 1), held="dish"), scene.cooks[1]), scene.pots, {})
    assert moved(early, *["stay"] * (COOKING - 2), "interact").cooks[0].held == "dish", "not ready"
    soup = moved(early, *["stay"] * (COOKING - 1), "interact")
    assert (soup.cooks[0].held, soup.pots) == ("soup", {(2, 0): Pot()})
    served = moved(soup, "east", "east", "interact")
    assert (served.served, served.cooks[0]) == (1, Cook((3, 1), "east"))


@pytest.mark.parametrize(
    ("held", "facing", "at", "then"),
    [
        ("", "south", (1, 2), "dish"),
        ("onion", "south", (1, 2), "onion"),
        ("", "south", (3, 2), "onion"),
        ("", "east", (3, 1), ""),
        ("onion", "east", (3, 1), "onion"),
        ("dish", "north", (2, 1), "dish"),
        ("soup", "north", (2, 1), "soup"),
        ("", "east", (1, 1), ""),
    ],
)
def test_what_cannot_be_used_leaves_everything_as_it_is(held: str, facing: str, at: Cell, then: str) -> None:
    before = scene_of(CRAMPED, Cook(at, facing, held), Cook((2, 2)))
    now = moved(before, "interact")
    assert now.cooks[0].held == then
    assert (now.pots, now.counters, now.served) == (before.pots, {}, 0)


def test_a_counter_holds_one_thing_for_whoever_takes_it_first() -> None:
    before = scene_of(CRAMPED, Cook((1, 1), "north", "onion"), Cook((2, 2), "north", "dish"))
    put = moved(before, "interact")
    assert put.counters == {(1, 0): "onion"}
    full = Scene(put.grid, (Cook((1, 1), "north", "dish"), put.cooks[1]), put.pots, put.counters)
    assert moved(full, "interact").counters == {(1, 0): "onion"}
    assert moved(put, "interact").cooks[0].held == "onion"


@pytest.mark.parametrize(
    ("one", "other", "moves", "cells"),
    [
        ((1, 1), (3, 1), ("east", "west"), ((1, 1), (3, 1))),
        ((1, 1), (2, 1), ("east", "west"), ((1, 1), (2, 1))),
        ((1, 1), (2, 1), ("east", "stay"), ((1, 1), (2, 1))),
        ((1, 1), (2, 1), ("east", "east"), ((2, 1), (3, 1))),
        ((1, 1), (2, 1), ("north", "south"), ((1, 1), (2, 2))),
    ],
)
def test_cooks_never_share_a_cell_nor_pass_through_each_other(
    one: Cell, other: Cell, moves: tuple[str, str], cells: tuple[Cell, Cell]
) -> None:
    now = after(scene_of(CRAMPED, Cook(one, "west"), Cook(other, "south")), moves)
    assert (now.cooks[0].at, now.cooks[1].at) == cells
    assert [cook.facing for cook in now.cooks] == [
        move if move != "stay" else facing for move, facing in zip(moves, ("west", "south"), strict=True)
    ]


def test_the_rules_are_those_of_the_package_overcooked() -> None:
    """Random moves of both cooks, side by side: the same cells, hands, pots, counters and soups at every step."""
    needed = ("overcooked", "gymnasium", "marlenv", "pygame", "cv2")
    missing = [name for name in needed if importlib.util.find_spec(name) is None]
    if missing:
        pytest.skip(f"the comparison, which is no development extra, needs the package overcooked and its {missing[0]}")
    from overcooked.mdp.actions import Action as Theirs
    from overcooked.mdp.actions import Direction
    from overcooked.mdp.overcooked_mdp import OvercookedGridworld

    sides = {"north": Direction.NORTH, "south": Direction.SOUTH, "east": Direction.EAST, "west": Direction.WEST}
    told = {**sides, "stay": Theirs.STAY, "interact": Theirs.INTERACT}
    names = {side: name for name, side in sides.items()}
    for name, rows in LAYOUTS.items():
        zones = [sorted(zone) for zone in grid_of(rows).zones]
        starts = (zones[0][0], zones[-1][-1])
        drawn = [list(row) for row in rows]
        for number, (x, y) in enumerate(starts, 1):
            drawn[y][x] = str(number)
        recipe = [{"ingredients": ["onion"] * 3}]
        theirs = OvercookedGridworld.from_grid(
            drawn, {"old_dynamics": True, "start_all_orders": recipe, "recipe_times": [COOKING]}
        )
        state, ours, served = theirs.get_standard_start_state(), opening(grid_of(rows), starts), 0
        cooks = [BOTS["greedy"](random.Random(seat)) for seat in range(2)]
        rng = random.Random(name)
        for _ in range(400):
            wise = (cooks[0](ours), cooks[1](ours.other))
            moves = tuple(move if rng.random() < 0.8 else rng.choice(MOVES) for move in wise)
            state, infos = theirs.get_state_transition(state, tuple(told[move] for move in moves))
            served += sum(reward > 0 for reward in infos["sparse_reward_by_agent"])
            ours = after(ours, (moves[0], moves[1]))
            assert _theirs(state, names, ours.pots) == _ours(ours)
            assert served == ours.served
        assert served, name


def _theirs(state: Any, names: Mapping[Any, str], pots: Collection[Cell]) -> tuple[Any, ...]:
    cooks = [(p.position, names[p.orientation], p.held_object.name if p.held_object else "") for p in state.players]
    inside = {cell: thing for cell, thing in state.objects.items() if cell in pots}
    cooking = {cell: COOKING - thing._cooking_tick for cell, thing in inside.items() if not thing.is_idle}
    filled = {cell: len(thing.ingredients) for cell, thing in inside.items() if thing.is_idle}
    return cooks, cooking, filled, {c: thing.name for c, thing in state.objects.items() if c not in pots}


def _ours(scene: Scene) -> tuple[Any, ...]:
    cooks = [(cook.at, cook.facing, cook.held) for cook in scene.cooks]
    pots = {cell: pot.left for cell, pot in scene.pots.items() if pot.left is not None}
    filled = {cell: pot.onions for cell, pot in scene.pots.items() if pot.left is None and pot.onions}
    return cooks, pots, filled, scene.counters


# -- ways --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_way_is_as_long_as_it_says_and_ends_in_front_of_its_target(layout: str) -> None:
    grid = grid_of(LAYOUTS[layout])
    for start in sorted(grid.floor):
        for target in (cell for cells in grid.stations.values() for cell in cells if cell not in grid.floor):
            cook, steps = Cook(start), 0
            found = way(grid, cook, [target])
            if grid.zone(start) not in grid.beside(target):
                assert found is None
                continue
            expected = found.steps if found else -1
            while found is not None and found.move != "interact":
                there = step_from(cook.at, found.move)
                cook, steps = Cook(there if there in grid.floor else cook.at, found.move), steps + 1
                found = way(grid, cook, [target])
            assert (cook.target, steps) == (target, expected)


def test_a_way_leads_round_the_partner() -> None:
    grid = grid_of(CRAMPED)
    assert way(grid, Cook((1, 1), "east"), [(4, 1)]) == way(grid, Cook((1, 1), "east"), [(4, 1)], blocked=(2, 2))
    free, round_it = (way(grid, Cook((1, 1), "east"), [(4, 1)], blocked=cell) for cell in (None, (2, 1)))
    assert free is not None
    assert round_it is not None
    assert (free.move, round_it.move) == ("east", "south")
    assert way(grid, Cook((1, 1)), [(2, 0)], blocked=(2, 1)) is None


# -- skills ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("skill", "held", "onions", "left", "why"),
    [
        ("pickup(onion)", "", 0, None, ""),
        ("pickup(onion)", "dish", 0, None, "Your hands must be empty, and you hold a dish."),
        ("pickup(soup)", "", 0, None, "Nowhere is there a soup to pick up."),
        ("place_on_counter()", "dish", 0, None, ""),
        ("place_on_counter()", "", 0, None, "You must hold something, and you hold nothing."),
        ("put_onion_in_pot()", "onion", 2, None, ""),
        ("put_onion_in_pot()", "", 2, None, "You must hold an onion, and you hold nothing."),
        ("put_onion_in_pot()", "onion", 3, 4, "No pot takes an onion now: a pot with 3 onions must be emptied first."),
        ("fill_dish()", "dish", 3, 4, ""),
        ("fill_dish()", "dish", 3, 0, ""),
        ("fill_dish()", "dish", 2, None, "No pot cooks or is ready: a pot needs 3 onions first."),
        ("fill_dish()", "onion", 3, 0, "You must hold a dish, and you hold an onion."),
        ("deliver_soup()", "soup", 0, None, ""),
        ("deliver_soup()", "dish", 0, None, "You must hold a soup, and you hold a dish."),
        ("wait(20)", "", 0, None, ""),
        ("wait(21)", "", 0, None, "A wait takes 1 to 20 steps."),
        ("wait(0)", "", 0, None, "A wait takes 1 to 20 steps."),
    ],
)
def test_a_skill_names_the_precondition_that_fails(
    skill: str, held: str, onions: int, left: int | None, why: str
) -> None:
    (wanted,) = read_skills(skill)
    assert wanted.text == skill
    assert flaw(wanted, scene_of(CRAMPED, Cook((1, 1), held=held), Cook((3, 2)), onions, left)) == why


def test_what_lies_in_the_other_part_of_the_kitchen_is_out_of_reach() -> None:
    scene = scene_of(LAYOUTS["forced"], Cook((3, 1)), Cook((1, 1)))
    assert flaw(Skill("pickup", "onion"), scene) == "There is no way to get there from your part of the kitchen."
    assert flaw(Skill("pickup", "onion"), scene.other) == ""
    lent = Scene(scene.grid, scene.cooks, scene.pots, {(2, 2): "onion"})
    assert flaw(Skill("pickup", "onion"), lent) == ""
    assert (2, 2) not in targets(Skill("pickup", "onion"), lent.other), "what was lent is not taken back"
    assert set(targets(Skill("place_on_counter"), lent)) == {(2, 1), (2, 3)}


@pytest.mark.parametrize("held", ["", "onion", "dish", "soup"])
@pytest.mark.parametrize("pot", [(0, None), (3, 5), (3, 0)])
def test_a_skill_without_a_flaw_comes_to_its_end_and_is_told_by_what_changed(
    held: str, pot: tuple[int, int | None]
) -> None:
    for text in LIBRARY:
        for argument in ("onion", "dish") if text == "pickup" else ("",):
            skill = Skill(text, argument)
            scene = scene_of(CRAMPED, Cook((1, 2), held=held), Cook((3, 2)), *pot)
            if text == "wait" or flaw(skill, scene):
                continue
            trail: list[Cell] = []
            done = None
            while done is None:
                move = next_move(skill, scene, trail, random.Random(0))
                trail.append(scene.cooks[0].at)
                before, scene = scene, moved(scene, move)
                done = finished(before, scene)
                assert len(trail) < 30
            assert done == skill
            assert finished(before.other, scene.other) is None


@pytest.mark.parametrize(
    ("text", "skills"),
    [
        ("pickup(onion)", ["pickup(onion)"]),
        ("Pick_up( Dishes )", []),
        ("pickup(onions), then put_onion_in_pot().", ["pickup(onion)", "put_onion_in_pot()"]),
        ("wait", ["wait(1)"]),
        ("wait(7)", ["wait(7)"]),
        ("I would fill_dish and DELIVER_SOUP()", ["fill_dish()", "deliver_soup()"]),
        ("pickup", []),
        ("", []),
    ],
)
def test_skills_are_read_leniently(text: str, skills: list[str]) -> None:
    assert [skill.text for skill in read_skills(text)] == skills


def test_two_who_are_in_each_other_s_way_get_past_each_other() -> None:
    rows = ("XXXXXXX", "XO   SX", "XXX XXX", "XXXXXXX")
    scene = scene_of(rows, Cook((2, 1), "east", "soup"), Cook((4, 1), "west"))
    skills = Skill("deliver_soup"), Skill("pickup", "onion")
    rngs = [random.Random(seat) for seat in range(2)]
    trails: list[list[Cell]] = [[], []]
    for _ in range(120):
        views = (scene, scene.other)
        moves = [next_move(skill, view, t, r) for skill, view, t, r in zip(skills, views, trails, rngs, strict=True)]
        for trail, cook in zip(trails, scene.cooks, strict=True):
            trail.append(cook.at)
        scene = after(scene, (moves[0], moves[1]))
    assert (scene.served, scene.cooks[1].held) == (1, "onion")


# -- tasks, observations, scores ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_deal_can_be_cooked_and_comes_twice_with_the_cooks_changed_round(layout: str) -> None:
    tasks = Kitchen(layout=layout).tasks("validation", 8, 5)
    for one, other in zip(tasks[::2], tasks[1::2], strict=True):
        assert one.tags == other.tags
        assert one.tags[1].startswith("deal:")
        assert one.data["rows"] == other.data["rows"]
        assert one.data["starts"] == other.data["starts"][::-1]
    for task in tasks:
        starts = tuple((x, y) for x, y in task.data["starts"])
        assert served_by_greedy_pair(tuple(task.data["rows"]), (starts[0], starts[1]), 120) >= 1
    assert len({tuple(task.data["rows"]) for task in tasks}) > 2


def test_shuffled_stations_stay_where_the_same_cooks_can_use_them() -> None:
    for task in Kitchen(layout="forced").tasks("train", 30, 0):
        grid = grid_of(tuple(task.data["rows"]))
        for letter, zones in (("O", {0}), ("D", {0}), ("P", {1}), ("S", {1})):
            assert all(grid.beside(cell) == zones for cell in grid.stations[letter])


def test_the_score_is_the_share_of_what_a_greedy_pair_serves() -> None:
    world = Kitchen(bots={"b": "greedy"})
    assert world.players == ("a",)
    for task in world.tasks("train", 4, 0):
        results = played(world, task, BOTS["greedy"](random.Random(3)))
        info = results[-1].info
        assert sum(result.rewards["a"] for result in results) == pytest.approx(min(1, info["served"] / info["par"]))
        assert info["success"] is (info["served"] >= 1)
        assert len(results) == 120


def test_success_asks_for_so_many_soups() -> None:
    task = Kitchen().tasks("train", 1, 0)[0]
    served = [
        played(Kitchen(bots={"b": "greedy"}, soups=soups), task, BOTS["greedy"](random.Random(3)))[-1].info
        for soups in (1, 9)
    ]
    assert served[0]["served"] == served[1]["served"]
    assert [info["success"] for info in served] == [True, False]


def test_partners_are_worth_what_they_are_said_to_be() -> None:
    soups = {}
    for name in BOTS:
        world = Kitchen(bots={"b": name}, layout="ring")
        results = [played(world, task, BOTS["greedy"](random.Random(1)))[-1] for task in world.tasks("train", 8, 0)]
        soups[name] = sum(result.info["served"] for result in results)
    assert soups["greedy"] > soups["random"] > soups["blocks-pot"]
    alone = played(Kitchen(bots={"b": "onion-only"}), Kitchen().tasks("train", 1, 0)[0], lambda scene: "stay")
    assert alone[-1].info["served"] == 0
    assert next(iter(scene_in(alone[-1].observations[0].arrays).pots.values())).left == 0, "it cooked, nobody served"


def test_both_seats_see_the_same_kitchen_each_from_its_own_side() -> None:
    world = Kitchen(layout="sides")
    task = world.tasks("train", 1, 0)[0]
    observations = world.reset(task, 0)
    rng = random.Random(0)
    for _ in range(40):
        a, b = (scene_in(seen.arrays) for seen in observations)
        assert b == a.other
        assert arrays_of(a).keys() == observations[0].arrays.keys()
        observations = world.step({"a": Action(rng.choice(MOVES)), "b": Action(rng.choice(MOVES))}).observations


def test_the_scene_is_told_in_words() -> None:
    world = Kitchen()
    rows = ["XXPXX", "O   S", "X   X", "XDXOX"]
    task = Task("t", "Cook.", "kitchen", {"rows": rows, "starts": [[1, 1], [3, 2]]})
    world.reset(task, 0)
    for move in ("west", "interact", "north", "interact"):
        seen = world.step({"a": Action(move), "b": Action("stay")}).observations
    assert [each.text for each in seen] == [
        "Step 4 of 120, soups served: 0. You hold nothing and stand at (1, 1), facing north to a counter. Your partner "
        "holds nothing and stands at (3, 2), facing north to the floor. The pot at (2, 0) holds 0 of 3 onions. On the "
        "counters: an onion at (1, 0).",
        "Step 4 of 120, soups served: 0. You hold nothing and stand at (3, 2), facing north to the floor. Your partner "
        "holds nothing and stands at (1, 1), facing north to a counter. The pot at (2, 0) holds 0 of 3 onions. On the "
        "counters: an onion at (1, 0).",
    ]


def test_a_bot_plays_the_same_game_again_and_a_random_one_another_under_another_seed() -> None:
    task = Kitchen().tasks("train", 1, 0)[0]

    def told(bot: str, seed: int) -> list[Observation]:
        return [
            each.observations[0]
            for each in played(Kitchen(bots={"a": bot}), task, BOTS["onion-only"](random.Random(0)), seed)
        ]

    for bot in BOTS:
        assert [seen.text for seen in told(bot, 1)] == [seen.text for seen in told(bot, 1)]
    assert [seen.text for seen in told("random", 1)] != [seen.text for seen in told("random", 2)]


def test_a_greedy_cook_who_is_alone_with_the_pot_waits_for_a_dish_it_can_use() -> None:
    scene = scene_of(LAYOUTS["forced"], Cook((3, 1)), Cook((1, 1)), onions=3, left=9)
    assert most_useful(scene) is None
    assert most_useful(scene.other) == Skill("pickup", "dish")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"layout": "palace"}, "layout is one of cramped, ring"),
        ({"horizon": 20}, "horizon must be a whole number from 60 to 2000, not 20"),
        ({"soups": 0}, "soups must be a whole number from 1 to 100"),
        ({"bots": {"c": "greedy"}}, "no seat in bots 'c'. Known: a, b."),
        ({"bots": {"b": "greed"}}, "no opponent in the kitchen 'greed'. .* Did you mean 'greedy'"),
        ({"bots": "greedy"}, "bots gives seats"),
        ({"bots": {"b": ["greedy"]}}, r"no opponent in the kitchen \['greedy'\]"),
        ({"bots": {"a": "greedy", "b": "greedy"}}, "bots on every seat"),
    ],
)
def test_an_option_outside_its_range_is_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(BadOptionError, match=said):
        Kitchen(**options)


def test_more_tasks_than_there_are_deals_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kitchen, "_IN_VAIN", 12)
    with pytest.raises(BadOptionError, match=r"forced has \d+ train tasks, not 4000"):
        Kitchen(layout="forced").tasks("train", 4000, 0)
