"""Household chores of ALFWorld's six kinds, generated from what the package alfworld ships, without its download.

From the wheel come the domain, the goals, which thing fits on which furniture, and what stands in each of 120 floor
plans (rooms of ALFRED, arXiv:1912.01734; as texts in ALFWorld, arXiv:2010.03768). Where things lie is ours, and so are
the sentences: scores are not comparable with those on the published 134 games. The package is read as files, because
importing it makes a folder in the user's home.

A world is a household with habits: each kind of thing has a piece of furniture where it lies three times in four.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from evolvent.environments.errors import MissingPackageError
from evolvent.environments.types import Split


@dataclass(frozen=True, slots=True)
class Kind:
    goal: str
    """Name in ALFWorld's library of goals."""
    tool: str = ""
    """Furniture that changes the thing, by the command that is the kind's name."""
    able: str = ""
    """What the thing must be for that, in ALFWorld's words."""
    changed: str = ""
    """The thing afterwards, in ours."""


KINDS = {
    "pick": Kind("pick_and_place_simple"),
    "look": Kind("look_at_obj_in_light"),
    "clean": Kind("pick_clean_then_place_in_recep", "SinkBasin", "Cleanable", "clean"),
    "heat": Kind("pick_heat_then_place_in_recep", "Microwave", "Heatable", "hot"),
    "cool": Kind("pick_cool_then_place_in_recep", "Fridge", "Coolable", "cold"),
    "two": Kind("pick_two_obj_and_place"),
}
_COPIES = {"Cabinet": 3, "Drawer": 3, "CounterTop": 2, "Shelf": 2, "SideTable": 2, "StoveBurner": 2}
"""Of furniture that a room has more than one of; the floor plans list kinds alone."""
_OTHERS = 9
"""At most so many things besides those of the chore."""
_AT_HOME = 0.75
_LAMPS = ("DeskLamp", "FloorLamp")
_STANDS = ("Desk", "SideTable", "Dresser", "Shelf", "CoffeeTable", "DiningTable", "TVStand", "Sofa", "Bed")
"""Where a lamp is found; the wheel does not say."""
_INSIDE = {"BathtubBasin", "Cart", "CoffeeMachine", "GarbageCan", "LaundryHamper", "SinkBasin", "Toaster"}
"""Furniture one puts things in, besides what can be opened."""
_NAMED_BY_DOMAIN = {"receptacle": ("SinkBasin", "Microwave", "Fridge"), "object": ("Knife", "ButterKnife")}
"""Types that actions speak of; where a problem lacks one, the translator ends with "Undefined object"."""


@dataclass(frozen=True, slots=True)
class Game:
    prompt: str
    plan: int
    """ALFRED's number of the floor plan."""
    problem: str
    """PDDL. Every id is a name with `_` for its space: `apple_1`."""
    walk: tuple[str, ...]
    """A shortest way to the goal for who knows where everything lies."""


@dataclass(frozen=True, slots=True)
class _Place:
    """One piece of furniture, or one thing: its ALFWorld type and its id."""

    type: str
    id: str

    @property
    def name(self) -> str:
        return self.id.replace("_", " ")


def domain() -> tuple[str, str]:
    """PDDL of the actions, and the grammar that words them."""
    data = _shipped() / "data"
    return (data / "alfred.pddl").read_text(encoding="utf-8"), (data / "alfred.twl2").read_text(encoding="utf-8")


@functools.lru_cache(maxsize=1024)
def game(kind: str, split: Split, world: int, seed: int) -> Game:
    """The same arguments, the same game."""
    rng = random.Random(f"household/{kind}/{split}/{world}/{seed}")
    plan = rng.choice(plans(kind, split))
    furniture, things = _room(plan)
    chores = _chores(kind, plan)
    thing = rng.choice(sorted({thing for thing, _ in chores}))
    target = rng.choice([target for each, target in chores if each == thing])

    places = [_Place(each, f"{each.lower()}_{n}") for each in furniture for n in range(1, _COPIES.get(each, 1) + 1)]
    wanted = [_Place(thing, f"{thing.lower()}_{n}") for n in range(1, 3 if kind == "two" else 2)]
    others = [each for each in things if each != thing]
    others = rng.sample(others, min(_OTHERS, len(others)))
    lies: dict[_Place, _Place] = {}
    for each in wanted:
        lies[each] = _put_away(each.type, [place for place in places if place.type != target], world, rng)
    for other in others:
        lies[_Place(other, f"{other.lower()}_1")] = _put_away(other, places, world, rng)
    if kind == "look":
        lies[_Place(target, f"{target.lower()}_1")] = rng.choice([at for at in places if at.type in _STANDS])

    goal = _goals()[KINDS[kind].goal]["pddl"].format(obj=thing, recep=target, toggle=target).replace("#", "-")
    prompt = _prompt(kind, [each.name for each in wanted], target)
    return Game(prompt, plan, _problem(places, lies, goal), tuple(_walk(kind, wanted, target, places, lies)))


@functools.cache
def plans(kind: str, split: Split) -> tuple[int, ...]:
    """Floor plans of a split with such a chore in them: of each 30, ALFRED's six held out for its test are ours."""
    of_split = {"test": range(1, 7), "validation": range(7, 13), "train": range(13, 31)}[split]
    constants = _constants()
    rooms = sorted(constants["GOALS_VALID"][KINDS[kind].goal])
    numbered = [plan for room in rooms for plan in constants["SCENE_TYPE"][room] if plan % 100 in of_split]
    return tuple(plan for plan in numbered if _chores(kind, plan))


@functools.cache
def _chores(kind: str, plan: int) -> tuple[tuple[str, str], ...]:
    """Pairs of a thing and where it goes, or the lamp it is looked at under."""
    furniture, things = _room(plan)
    needs = KINDS[kind]
    if kind == "look":
        lamps = [lamp for lamp in _LAMPS if lamp in _layout(plan)] if set(_STANDS) & set(furniture) else []
        return tuple((thing, lamp) for thing in things for lamp in lamps)
    if needs.tool and needs.tool not in furniture:
        return ()
    able = [each for each in things if not needs.able or each in _constants()["VAL_ACTION_OBJECTS"][needs.able]]
    fitting = {thing: [place for place in furniture if _fits(thing, place)] for thing in able}
    return tuple(
        (thing, target)
        for thing, around in fitting.items()
        for target in around
        if target != needs.tool and len(around) > 1  # It has to lie somewhere else at first.
    )


@functools.cache
def _room(plan: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Types of furniture and of things that can lie about there."""
    constants = _constants()
    known = set(constants["VAL_RECEPTACLE_OBJECTS"]) - set(constants["MOVABLE_RECEPTACLES"])
    furniture = tuple(each for each in _layout(plan) if each in known)
    things = [each for each in _layout(plan) if each in constants["OBJECTS"] and each not in (*known, *_LAMPS)]
    return furniture, tuple(each for each in things if any(_fits(each, place) for place in furniture))


def _fits(thing: str, furniture: str) -> bool:
    fits: bool = thing in _constants()["VAL_RECEPTACLE_OBJECTS"][furniture]
    return fits


def _put_away(thing: str, places: Sequence[_Place], world: int, rng: random.Random) -> _Place:
    """Its home in this household, or the next best where the room has none; one time in four anywhere it fits."""
    possible = [place for place in places if _fits(thing, place.type)]
    if rng.random() < _AT_HOME:
        homes = sorted(each for each, fitting in _constants()["VAL_RECEPTACLE_OBJECTS"].items() if thing in fitting)
        random.Random(f"household/{world}/{thing}").shuffle(homes)
        home = min((place.type for place in possible), key=homes.index)
        possible = [place for place in possible if place.type == home]
    return rng.choice(possible)


def _openable(place: _Place) -> bool:
    opens: bool = place.type in _constants()["OPENABLE_CLASS_SET"]
    return opens


def _walk(
    kind: str, wanted: Sequence[_Place], target: str, places: Sequence[_Place], lies: dict[_Place, _Place]
) -> list[str]:
    commands: list[str] = []
    here: _Place | None = None

    def go(place: _Place, *, opening: bool) -> None:
        nonlocal here
        if place != here:
            commands.append(f"go to {place.name}")
            here = place
        if opening and _openable(place) and f"open {place.name}" not in commands:
            commands.append(f"open {place.name}")

    goal = next(place for place in (*places, *lies) if place.type == target)
    for thing in wanted:
        go(lies[thing], opening=True)
        commands.append(f"take {thing.name} from {lies[thing].name}")
        if tool := KINDS[kind].tool:
            changer = next(place for place in places if place.type == tool)
            go(changer, opening=False)
            commands.append(f"{kind} {thing.name} with {changer.name}")
        if kind == "look":
            go(lies[goal], opening=False)
            commands.append(f"use {goal.name}")
        else:
            go(goal, opening=True)
            commands.append(f"move {thing.name} to {goal.name}")
    return commands


def _prompt(kind: str, wanted: Sequence[str], target: str) -> str:
    thing = wanted[0].split()[0]
    if kind == "look":
        return f"Look at {_a(thing)} in the light of {_a(target.lower())}."
    inside = target in _INSIDE | _constants()["OPENABLE_CLASS_SET"]
    where = f"{'in' if inside else 'on'} {'one ' + target.lower() if kind == 'two' else _a(target.lower())}"
    if kind == "two":
        return f"Put {' and '.join(wanted)} {where}."
    return f"Put {_a(f'{KINDS[kind].changed} {thing}'.strip())} {where}."


def _a(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def _problem(places: Sequence[_Place], lies: dict[_Place, _Place], goal: str) -> str:
    able = {
        name: _constants()["VAL_ACTION_OBJECTS"][name] for name in ("Heatable", "Coolable", "Cleanable", "Sliceable")
    }
    receptacles = sorted({place.type for place in places} | set(_NAMED_BY_DOMAIN["receptacle"]))
    objects = sorted({thing.type for thing in lies} | set(_NAMED_BY_DOMAIN["object"]))
    facts = ["(= (total-cost) 0)", "(atLocation agent1 at_start)"]
    for place in places:
        facts += [f"(receptacleType {place.id} {place.type}Type)", f"(receptacleAtLocation {place.id} at_{place.id})"]
        facts += [f"(openable {place.id})"] * _openable(place)
    for thing, place in lies.items():
        facts += [f"(objectType {thing.id} {thing.type}Type)", f"(inReceptacle {thing.id} {place.id})"]
        facts += [f"(objectAtLocation {thing.id} at_{place.id})"]
        facts += [f"({'toggleable' if thing.type in _LAMPS else 'pickupable'} {thing.id})"]
        facts += [f"({name.lower()} {thing.id})" for name, things in able.items() if thing.type in things]
    facts += [
        f"(canContain {place}Type {thing}Type)"
        for place in sorted({place.type for place in places})
        for thing in objects
        if _fits(thing, place)
    ]
    declared = ["agent1 - agent", "at_start - location"]
    declared += [f"{each}Type - rtype" for each in receptacles]
    declared += [f"{each}Type - otype" for each in objects]
    declared += [f"{place.id} - receptacle at_{place.id} - location" for place in places]
    declared += [f"{thing.id} - object" for thing in lies]
    return "\n".join(
        ["(define (problem chore) (:domain alfred)", "(:objects", *declared, ")", "(:init", *facts, ")", goal]
    )


# What the wheel ships.


@functools.cache
def _layout(plan: int) -> tuple[str, ...]:
    return tuple(sorted(json.loads((_shipped() / "gen" / "layouts" / f"FloorPlan{plan}-objects.json").read_bytes())))


@functools.cache
def _constants() -> dict[str, Any]:
    return vars(_module("constants"))


@functools.cache
def _goals() -> dict[str, Any]:
    goals: dict[str, Any] = _module("goal_library").gdict
    return goals


def _module(name: str) -> ModuleType:
    """One module of the package, imported by its file: importing the package makes a folder in the user's home."""
    spec = importlib.util.spec_from_file_location(f"alfworld_{name}", _shipped() / "gen" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@functools.cache
def _shipped() -> Path:
    found = importlib.util.find_spec("alfworld")
    if found is None or not found.submodule_search_locations:
        raise MissingPackageError(
            'household needs the package "alfworld". Install it: pip install "evolvent[household]"'
        )
    return Path(found.submodule_search_locations[0])
