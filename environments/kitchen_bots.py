"""Partners of known skill: one who does what is most useful next, one who only brings onions, two who are a burden.

A bot is a function of what it sees and of its own random draws.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Protocol

from evolvent.environments.kitchen_grid import (
    FULL,
    MOVES,
    POT,
    STAY,
    Cell,
    Scene,
    after,
    around,
    grid_of,
    opening,
    way,
)
from evolvent.environments.kitchen_skills import Skill, next_move, stroll, targets

ONION, DISH, SOUP = (Skill("pickup", thing) for thing in ("onion", "dish", "soup"))
PUT, FILL, DELIVER, PLACE = (Skill(n) for n in ("put_onion_in_pot", "fill_dish", "deliver_soup", "place_on_counter"))
_IDLE = 0.25
"""Share of idle steps in which a bot strolls, if it does not stand at a pot: there it always does."""


class Bot(Protocol):
    """Plays one seat for one episode; the scene is the seat's own, with itself first."""

    def __call__(self, scene: Scene) -> str: ...


class Errands:
    """A bot that goes about one skill after the other, chosen anew at every step; idle, it strolls now and then."""

    def __init__(self, choose: Callable[[Scene], Skill | None], rng: random.Random) -> None:
        self._choose, self._rng = choose, rng
        self._trail: list[Cell] = []

    def __call__(self, scene: Scene) -> str:
        skill = self._choose(scene)
        if skill is not None:
            move = next_move(skill, scene, self._trail, self._rng)
        else:
            in_the_way = any(near in scene.pots for near in around(scene.cooks[0].at))
            move = stroll(scene, self._rng) if in_the_way or self._rng.random() < _IDLE else STAY
        self._trail.append(scene.cooks[0].at)
        return move


class Wanderer:
    """Any move at all."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng

    def __call__(self, scene: Scene) -> str:
        return self._rng.choice(MOVES)


def in_front_of_the_pot(scene: Scene) -> str:
    """Walks to the nearest pot and stays there, with empty hands."""
    me, partner = scene.cooks
    found = way(scene.grid, me, scene.grid.stations[POT], partner.at)
    return found.move if found is not None and found.steps else STAY


def most_useful(scene: Scene) -> Skill | None:
    """What a cook does next who knows the rules and counts on the partner for what that one has in hand; None: idle."""
    me, partner = scene.cooks
    cooking = [pot for pot in scene.pots.values() if pot.left is not None]
    ready = any(pot.left == 0 for pot in cooking)
    at_pot, dishes_near = _near_a_pot(scene), _within_reach(DISH, scene)
    lying = [] if at_pot else list(scene.counters.values())  # on its way to the partner
    dishes = (partner.held == "dish") + lying.count("dish")
    onions = (partner.held == "onion") + lying.count("onion")
    missing = sum(FULL - pot.onions for pot in scene.pots.values() if pot.left is None) - onions
    if me.held == "soup":
        return DELIVER if _within_reach(DELIVER, scene) else PLACE
    if me.held == "dish":
        if _within_reach(FILL, scene):
            return FILL
        return PLACE if not at_pot or missing > 0 else None
    if me.held == "onion":
        if _within_reach(PUT, scene):
            return PUT
        lacking = dishes_near and not dishes and (ready or partner.held == "onion")
        return PLACE if not at_pot or lacking else None
    if _within_reach(SOUP, scene) and _within_reach(DELIVER, scene):
        return SOUP
    if len(cooking) > dishes:
        if dishes_near and (ready or not at_pot or _nearer(DISH, scene)):
            return DISH
        if at_pot and not _near_a_pot(scene.other):
            return None  # Nobody else could use the dish that is to come.
    # While a soup cooks, onions for the next one are fetched. A counter stays free for a dish.
    spare = missing if missing > 0 or not cooking else FULL - onions
    if spare > 0 and _within_reach(ONION, scene) and (at_pot or len(targets(PLACE, scene)) > 1):
        return ONION
    return DISH if not dishes and dishes_near else None


def onions_only(scene: Scene) -> Skill | None:
    """Onions into the pot, and nothing else; holds one while no pot takes it."""
    if scene.cooks[0].held == "onion":
        return PUT if targets(PUT, scene) else None
    return PLACE if scene.cooks[0].held else ONION


BOTS: Mapping[str, Callable[[random.Random], Bot]] = {
    "greedy": lambda rng: Errands(most_useful, rng),
    "onion-only": lambda rng: Errands(onions_only, rng),
    "random": Wanderer,
    "blocks-pot": lambda rng: in_front_of_the_pot,
}


@lru_cache(maxsize=4096)
def served_by_greedy_pair(rows: tuple[str, ...], starts: tuple[Cell, Cell], horizon: int) -> int:
    """Soups that two greedy bots serve."""
    scene = opening(grid_of(rows), starts)
    bots = [BOTS["greedy"](random.Random(seat)) for seat in range(2)]
    for _ in range(horizon):
        scene = after(scene, (bots[0](scene), bots[1](scene.other)))
    return scene.served


def _within_reach(skill: Skill, scene: Scene) -> bool:
    """Whether there is something to use, the partner aside."""
    own = scene.grid.zone(scene.cooks[0].at)
    return any(own in scene.grid.beside(cell) for cell in targets(skill, scene))


def _near_a_pot(scene: Scene) -> bool:
    own = scene.grid.zone(scene.cooks[0].at)
    return any(own in scene.grid.beside(cell) for cell in scene.pots)


def _nearer(skill: Skill, scene: Scene) -> bool:
    """Whether the partner, if free at all, has farther to go; of two as near, the one more to the north-west goes."""
    me, partner = scene.cooks
    if partner.held:
        return True
    mine, theirs = (way(scene.grid, cook, targets(skill, scene)) for cook in (me, partner))
    return mine is not None and (theirs is None or (mine.steps, me.at) < (theirs.steps, partner.at))
