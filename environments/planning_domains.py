"""Three planning domains, as PDDL and in words: blocks to stack, balls to carry, pots to fill.

The domains are those of ISR-LLM (arXiv 2308.13724); their wording, names and PDDL are ours.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from evolvent.environments.strips import Fact, Problem

COLOURS = (
    "red", "blue", "green", "amber", "white", "black", "grey", "violet", "ochre", "teal", "pink", "rust",
    "dark-blue", "dark-green", "pale-grey", "off-white",
)  # fmt: skip
ROOMS = (
    "kitchen", "study", "hall", "attic", "cellar", "garage", "porch", "bedroom", "workshop", "pantry",
    "dining-room", "store-room",
)  # fmt: skip
POTS = ("iron", "copper", "clay", "steel", "tin", "brass", "glass", "enamel", "cast-iron", "stoneware")
INGREDIENTS = (
    "rice", "onion", "garlic", "carrot", "leek", "bean", "potato", "tomato", "basil", "thyme", "celery", "pepper",
    "sweet-corn", "bay-leaf",
)  # fmt: skip
_ROOMS_IN_USE = 4
_INGREDIENTS_IN_USE = 6

BLOCKSWORLD = """\
(define (domain blocksworld)
  (:requirements :strips :typing)
  (:types block)
  (:predicates (on ?x ?y - block) (on-table ?x - block) (clear ?x - block) (hand-empty) (holding ?x - block))
  (:action pick-up
    :parameters (?x - block)
    :precondition (and (clear ?x) (on-table ?x) (hand-empty))
    :effect (and (holding ?x) (not (clear ?x)) (not (on-table ?x)) (not (hand-empty))))
  (:action put-down
    :parameters (?x - block)
    :precondition (holding ?x)
    :effect (and (clear ?x) (on-table ?x) (hand-empty) (not (holding ?x))))
  (:action stack
    :parameters (?x ?y - block)
    :precondition (and (holding ?x) (clear ?y))
    :effect (and (on ?x ?y) (clear ?x) (hand-empty) (not (holding ?x)) (not (clear ?y))))
  (:action unstack
    :parameters (?x ?y - block)
    :precondition (and (on ?x ?y) (clear ?x) (hand-empty))
    :effect (and (holding ?x) (clear ?y) (not (on ?x ?y)) (not (clear ?x)) (not (hand-empty)))))
"""
BALLMOVING = """\
(define (domain ballmoving)
  (:requirements :strips :typing)
  (:types ball room)
  (:predicates (at ?b - ball ?r - room) (robot-at ?r - room) (hand-empty) (holding ?b - ball))
  (:action pick
    :parameters (?b - ball ?r - room)
    :precondition (and (at ?b ?r) (robot-at ?r) (hand-empty))
    :effect (and (holding ?b) (not (at ?b ?r)) (not (hand-empty))))
  (:action drop
    :parameters (?b - ball ?r - room)
    :precondition (and (holding ?b) (robot-at ?r))
    :effect (and (at ?b ?r) (hand-empty) (not (holding ?b))))
  (:action move
    :parameters (?from ?to - room)
    :precondition (robot-at ?from)
    :effect (and (not (robot-at ?from)) (robot-at ?to))))
"""
COOKING = """\
(define (domain cooking)
  (:requirements :strips :typing)
  (:types ingredient pot)
  (:predicates (in ?i - ingredient ?p - pot) (unused ?i - ingredient) (hand-empty) (holding ?i - ingredient))
  (:action take
    :parameters (?i - ingredient)
    :precondition (and (unused ?i) (hand-empty))
    :effect (and (holding ?i) (not (unused ?i)) (not (hand-empty))))
  (:action add
    :parameters (?i - ingredient ?p - pot)
    :precondition (holding ?i)
    :effect (in ?i ?p))
  (:action put-away
    :parameters (?i - ingredient)
    :precondition (holding ?i)
    :effect (and (hand-empty) (not (holding ?i)))))
"""


@dataclass(frozen=True, slots=True)
class World:
    """One of the domains, with what draws its problems and words them."""

    pddl: str
    rules: str
    """What may be done, in words."""
    example: str
    """How one action is written."""
    draw: Callable[[random.Random, int], Problem]
    """A problem of so many objects; its goal may hold from the start."""
    words: Mapping[str, str]
    """Predicate of the start or the goal → sentence about its objects, {0} and {1}; empty where another one says it."""
    varied: str
    """The type whose objects are told apart by nothing but their facts, in `shape`."""


def _blocks(rng: random.Random, count: int) -> Problem:
    names = rng.sample(COLOURS, count)
    before, wanted = (_piles(rng, names) for _ in range(2))
    initial: set[Fact] = {("hand-empty",)}
    for pile in before:
        initial |= {("on-table", pile[0]), ("clear", pile[-1])}
        initial |= {("on", upper, lower) for lower, upper in itertools.pairwise(pile)}
    goal = tuple(("on", upper, lower) for pile in wanted for lower, upper in itertools.pairwise(pile))
    return Problem(dict.fromkeys(names, "block"), frozenset(initial), goal)


def _piles(rng: random.Random, names: list[str]) -> list[list[str]]:
    """The names in random piles, each from the bottom up."""
    piles: list[list[str]] = []
    for name in rng.sample(names, len(names)):
        place = rng.randrange(len(piles) + 1)
        if place == len(piles):
            piles.append([])
        piles[place].append(name)
    return piles


def _balls(rng: random.Random, count: int) -> Problem:
    names, rooms = rng.sample(COLOURS, count), rng.sample(ROOMS, _ROOMS_IN_USE)
    initial = {("hand-empty",), ("robot-at", rng.choice(rooms)), *(("at", name, rng.choice(rooms)) for name in names)}
    goal = tuple(("at", name, rng.choice(rooms)) for name in names)
    return Problem(dict.fromkeys(names, "ball") | dict.fromkeys(rooms, "room"), frozenset(initial), goal)


def _pots(rng: random.Random, count: int) -> Problem:
    names, food = rng.sample(POTS, count), rng.sample(INGREDIENTS, _INGREDIENTS_IN_USE)
    initial: set[Fact] = {("hand-empty",), *(("unused", each) for each in food)}
    goal = tuple(("in", each, name) for name in names for each in rng.sample(food, rng.randint(1, 3)))
    return Problem(dict.fromkeys(food, "ingredient") | dict.fromkeys(names, "pot"), frozenset(initial), goal)


WORLDS: Mapping[str, World] = {
    "blocksworld": World(
        BLOCKSWORLD,
        "A robot arm stacks blocks and holds one at a time. (pick-up X) takes block X from the table, (put-down X) "
        "puts it onto the table, (stack X Y) puts the held block X onto block Y, (unstack X Y) takes X off Y. It can "
        "only take a block, or put one onto a block, with nothing on top of it.",
        "(stack red blue)",
        _blocks,
        {
            "on": "{0} is on {1}",
            "on-table": "{0} is on the table",
            "clear": "nothing is on {0}",
            "hand-empty": "the arm holds nothing",
        },
        "block",
    ),
    "ballmoving": World(
        BALLMOVING,
        "A robot carries balls between rooms, one at a time. (pick X R) takes ball X in room R, (drop X R) puts the "
        "held ball X down in room R, (move R S) goes from room R to room S. It picks and drops in the room it is in.",
        "(pick red kitchen)",
        _balls,
        {
            "at": "ball {0} is in the {1}",
            "robot-at": "the robot is in the {0}",
            "hand-empty": "the robot holds nothing",
        },
        "room",
    ),
    "cooking": World(
        COOKING,
        "A robot arm fills pots and holds one ingredient at a time. (take I) takes ingredient I, (add I P) adds some "
        "of the held ingredient I to pot P and may be done for several pots, (put-away I) puts it away. An ingredient "
        "can be taken only once.",
        "(add rice copper)",
        _pots,
        {
            "in": "{0} is in pot {1}",
            "unused": "",
            "hand-empty": "the arm holds nothing and no ingredient was taken yet",
        },
        "pot",
    ),
}


def instruction(world: World, problem: Problem) -> str:
    """Rules, objects, situation and goal, in words."""
    kinds = dict.fromkeys(problem.objects.values())
    objects = (f"{kind}s {_listed(n for n, its in problem.objects.items() if its == kind)}" for kind in kinds)
    now, goal = (
        _listed(text for fact in facts if (text := world.words[fact[0]].format(*fact[1:])))
        for facts in (sorted(problem.initial), problem.goal)
    )
    return f"{world.rules}\nThere are the {'; the '.join(objects)}.\nNow {now}.\nGoal: {goal}."


def _listed(texts: Iterable[str]) -> str:
    *most, last = texts
    return f"{', '.join(most)} and {last}" if most else last


def shape(world: World, problem: Problem) -> str:
    """A text that is the same for two problems that differ in nothing but names."""
    anchors = [name for name, kind in problem.objects.items() if kind == world.varied]
    return min(_shape(problem, dict(zip(order, "abcdefgh", strict=False))) for order in itertools.permutations(anchors))


def _shape(problem: Problem, letters: Mapping[str, str]) -> str:
    """The facts with the anchors by their letters; every other object by all that is said of it, without its name."""
    said: dict[str, list[str]] = {name: [] for name in problem.objects if name not in letters}
    rest: list[str] = []
    for part, facts in (("now", problem.initial), ("goal", problem.goal)):
        for fact in facts:
            others = [term for term in fact[1:] if term in said]
            text = f"{part} {' '.join(letters.get(term, '*') if place else term for place, term in enumerate(fact))}"
            (said[others[0]] if others else rest).append(text)
    return str((sorted(rest), sorted(map(sorted, said.values()))))
