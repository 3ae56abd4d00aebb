"""The six skills of a cook: what each needs, how its next move is found, and which one a change shows was finished.

A skill is one errand that ends when what the cook holds has changed, or a wait of some steps. All of it follows from
scenes alone, so a partner's errands can be told as well as one's own.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass

from evolvent.environments.kitchen_grid import (
    COUNTER,
    DIRECTIONS,
    DISHES,
    FULL,
    INTERACT,
    ONIONS,
    SERVING,
    STAY,
    Cell,
    Scene,
    step_from,
    way,
)

LIBRARY = {
    "pickup": "pickup(onion), pickup(dish), pickup(soup): from a pile or a counter. Your hands must be empty.",
    "place_on_counter": "place_on_counter(): put down what you hold. You must hold something.",
    "put_onion_in_pot": "put_onion_in_pot(): you must hold an onion, and a pot must have fewer than 3.",
    "fill_dish": "fill_dish(): take the soup out of a pot. You must hold a dish, and a pot must cook or be ready.",
    "deliver_soup": "deliver_soup(): hand a soup over at the serving hatch. You must hold a soup.",
    "wait": "wait(N): stand still for N steps, {limit} at most.",
}
"""Each skill in a sentence with its preconditions."""
_PILES = {"onion": ONIONS, "dish": DISHES}
_NEEDS = {"put_onion_in_pot": "onion", "fill_dish": "dish", "deliver_soup": "soup"}
_SKILL = re.compile(
    r"(?P<name>pick_?up|place_on_counter|put_onion_in_pot|fill_dish|deliver_soup|wait)"
    r"(?:\s*\(\s*(?P<argument>[a-z]+|\d{1,4})?)?",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Skill:
    name: str
    """A key of `LIBRARY`."""
    argument: str = ""
    """The thing to be picked up, or the steps to wait."""

    @property
    def text(self) -> str:
        return f"{self.name}({self.argument})"

    @property
    def steps(self) -> int:
        """Of a wait; 0 for any other skill."""
        return int(self.argument) if self.name == "wait" else 0


def read_skills(text: str) -> list[Skill]:
    """All skills that a text names, in order; `wait` alone waits one step, `pickup` without a thing is none."""
    found = []
    for match in _SKILL.finditer(text):
        name, argument = match["name"].lower().replace("pick_up", "pickup"), (match["argument"] or "").lower()
        if name == "wait":
            found.append(Skill(name, argument if argument.isdigit() else "1"))
        elif name != "pickup":
            found.append(Skill(name))
        elif argument.rstrip("s") in ("onion", "soup", "dish"):
            found.append(Skill(name, argument.rstrip("s")))
    return found


def targets(skill: Skill, scene: Scene) -> list[Cell]:
    """Cells that the skill would use, wherever they are.

    Things are put down where both cooks reach them. Where that is between two parts of the floor, what lies there is
    left to the partner as long as a pile is within reach. Pots with a soup that is ready go before those that cook.
    """
    stations = scene.grid.stations
    own, theirs = (scene.grid.zone(cook.at) for cook in scene.cooks)
    if skill.name == "pickup":
        piles = stations.get(_PILES.get(skill.argument, ""), ())
        lying = [cell for cell, thing in scene.counters.items() if thing == skill.argument]
        near = [cell for cell in piles if own in scene.grid.beside(cell)]
        return near if near and own != theirs else [*piles, *lying]
    if skill.name == "place_on_counter":
        shared = [cell for cell in stations[COUNTER] if {own, theirs} <= scene.grid.beside(cell)]
        return [cell for cell in shared if cell not in scene.counters]
    if skill.name == "put_onion_in_pot":
        return [cell for cell, pot in scene.pots.items() if pot.onions < FULL]
    if skill.name == "fill_dish":
        cooking = [cell for cell, pot in scene.pots.items() if pot.left is not None]
        return [cell for cell in cooking if scene.pots[cell].left == 0] or cooking
    return list(stations[SERVING]) if skill.name == "deliver_soup" else []


def flaw(skill: Skill, scene: Scene, wait_limit: int = 20) -> str:
    """The first precondition that fails, as a sentence; empty where the skill can be begun.

    That the partner stands in the way for the moment is no flaw.
    """
    me = scene.cooks[0]
    needed = _NEEDS.get(skill.name, "")
    if skill.name == "wait":
        return "" if 1 <= skill.steps <= wait_limit else f"A wait takes 1 to {wait_limit} steps."
    if skill.name == "pickup" and me.held:
        return f"Your hands must be empty, and you hold {_a(me.held)}."
    if skill.name == "place_on_counter" and not me.held:
        return "You must hold something, and you hold nothing."
    if needed and me.held != needed:
        return f"You must hold {_a(needed)}, and you hold {_a(me.held)}."
    found = targets(skill, scene)
    if not found:
        return _MISSING[skill.name].format(thing=_a(skill.argument))
    if way(scene.grid, me, found) is None:
        return "There is no way to get there from your part of the kitchen."
    return ""


_MISSING = {
    "pickup": "Nowhere is there {thing} to pick up.",
    "place_on_counter": "No counter is free that you both reach.",
    "put_onion_in_pot": "No pot takes an onion now: a pot with 3 onions must be emptied first.",
    "fill_dish": "No pot cooks or is ready: a pot needs 3 onions first.",
    "deliver_soup": "There is no serving hatch.",
}


def next_move(skill: Skill, scene: Scene, trail: Sequence[Cell], rng: random.Random) -> str:
    """The controller: one move on a shortest way to what the skill uses, round the partner; `stay` where there is none.

    At a pot that still cooks it stays until the soup is ready. A skill that lacks its preconditions is tried all the
    same, and comes to nothing. Where the two are in each other's way, which two who plan alike may be for ever, it
    does anything else with probability one half.

    Args:
        trail: where the cook stood before, step by step; the last two count.
    """
    me, partner = scene.cooks
    cells = targets(skill, scene)
    if not cells:
        return STAY
    found = way(scene.grid, me, cells, partner.at)
    move = STAY if found is None else found.move
    if move == INTERACT and skill.name == "fill_dish" and scene.pots[me.target].left:
        return STAY
    blocked = found is None and way(scene.grid, me, cells) is not None
    bumped = move == me.facing and me.target in scene.grid.floor and [*trail[-1:]] == [me.at]
    danced = len(trail) > 1 and trail[-2] == me.at != trail[-1]
    if (blocked or bumped or danced) and rng.random() < 0.5:
        return stroll(scene, rng)
    return move


def stroll(scene: Scene, rng: random.Random) -> str:
    """Any step to a free cell, or none."""
    me, partner = scene.cooks
    free = [each for each in DIRECTIONS if step_from(me.at, each) in scene.grid.floor - {partner.at}]
    return rng.choice([*free, STAY])


def finished(before: Scene, now: Scene) -> Skill | None:
    """The errand that the first cook of two scenes, a step apart, has just ended; None where none was."""
    old, new = before.cooks[0].held, now.cooks[0].held
    if old == new:
        return None
    if not old:
        return Skill("pickup", new)
    if new == "soup":
        return Skill("fill_dish")
    if old == "soup" and now.served > before.served and before.cooks[0].target in before.grid.stations[SERVING]:
        return Skill("deliver_soup")
    return Skill("put_onion_in_pot" if before.cooks[0].target in before.pots else "place_on_counter")


def _a(thing: str) -> str:
    return {"": "nothing", "onion": "an onion", "dish": "a dish", "soup": "a soup"}.get(thing, thing)
