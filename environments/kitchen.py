"""Two cooks in one kitchen: onions into a pot, a dish, a soup, the serving hatch. They move together, and win together.

The rules are Overcooked's (`kitchen_grid`), the kitchens our own: a drawing gives the walls, and every deal of a task
shuffles what stands in them, as far as the same cooks still reach the same things, and draws where the cooks begin.
Partners that are shipped are in `kitchen_bots`, the skills a cook has in `kitchen_skills`.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping, Sequence
from typing import get_args

from evolvent.environments.errors import BadOptionError
from evolvent.environments.kitchen_bots import BOTS, Bot, served_by_greedy_pair
from evolvent.environments.kitchen_grid import (
    COOKING,
    COUNTER,
    DISHES,
    FLOOR,
    MOVES,
    ONIONS,
    POT,
    SERVING,
    STAY,
    Cell,
    Cook,
    Grid,
    Pot,
    Scene,
    after,
    arrays_of,
    grid_of,
    opening,
)
from evolvent.environments.seats import bots_seated
from evolvent.environments.solo import refusal, said
from evolvent.environments.types import Action, Observation, Split, StepResult, Task

VERSION = 1
SEATS = ("a", "b")
LAYOUTS: Mapping[str, tuple[str, ...]] = {
    "cramped": ("XXPXX", "O   S", "X   X", "XDXOX"),
    "ring": ("XXXPX", "X   X", "O X S", "X   X", "XOXDX"),
    "forced": ("XXXXX", "O X P", "D X X", "O X S", "XXXXX"),
    "sides": ("XXXXXXX", "O  X  S", "S  P  O", "D  X  D", "XXXXXXX"),
    "circuit": ("XXXPXXX", "O     X", "X XXX S", "X     D", "XXXOXXX"),
}
"""Blank is floor, X a counter, O onions, D dishes, P a pot, S the serving hatch."""
_SPLITS: tuple[Split, ...] = get_args(Split)
_IN_VAIN = 5000
"""Draws in a row that gave no new deal: the layout has no more."""
_NAMES = {
    FLOOR: "the floor", COUNTER: "a counter", ONIONS: "onions", DISHES: "dishes", POT: "a pot", SERVING: "the hatch",
}  # fmt: skip


class Kitchen:
    """An episode of `horizon` steps. Both seats have one score: the soups served, as a share of those that two greedy
    bots serve from the same start in the same time, and 1 at most. Success is to have served `soups`.

    A task's hidden data hold the kitchen's `rows` and the cells at which `starts` put a and b.

    Args:
        layout: `cramped`, `ring`, `forced` (who has the onions has no pot), `sides` (each has all, with a pot between
            them) or `circuit`; `all` deals them in turn.
        horizon: steps, from 60 to 2000.
        soups: served for a success, from 1 to 100.
        bots: seat → `greedy`, `onion-only`, `random` or `blocks-pot`, for one seat at most.

    Raises:
        BadOptionError: an option outside its range.
    """

    instructions = (
        "You are one of two cooks. Three onions in a pot cook by themselves for "
        f"{COOKING} steps; then, with a dish in hand, take the soup out and serve it at the hatch. "
        "A move towards what is no floor turns you to it; interact uses what you face. "
        "Serve as many soups as you can."
    )

    def __init__(
        self, *, layout: str = "cramped", horizon: int = 120, soups: int = 1, bots: Mapping[str, str] | None = None
    ) -> None:
        if layout not in (*LAYOUTS, "all"):
            raise BadOptionError(f"kitchen: layout is one of {', '.join(LAYOUTS)} or all, not {layout!r}.")
        _check("horizon", horizon, 60, 2000)
        _check("soups", soups, 1, 100)
        self._bots, self.players = bots_seated("kitchen", bots, SEATS, BOTS, game="the kitchen")
        self._layouts = tuple(LAYOUTS) if layout == "all" else (layout,)
        self._soups = soups
        self.max_steps = horizon
        self._scene: Scene | None = None
        self._par = 1
        self._seated: dict[str, Bot] = {}

    def tasks(self, split: Split, n: int, seed: int) -> list[Task]:
        """`n` different tasks, two of a deal: in the second the cooks have changed places.

        The kitchen and the two starts decide the split, so no two splits share a deal.

        Raises:
            BadOptionError: there are fewer.
        """
        rng = random.Random(f"kitchen/{'/'.join(self._layouts)}/{split}/{seed}")
        tasks: dict[str, Task] = {}
        in_vain = 0
        while len(tasks) < n and in_vain < _IN_VAIN:
            in_vain += 1
            layout = self._layouts[len(tasks) // 2 % len(self._layouts)]
            grid, starts = _dealt(LAYOUTS[layout], rng)
            digest = hashlib.sha256(repr((grid.rows, sorted(starts))).encode()).hexdigest()
            if _SPLITS[int(digest, 16) % len(_SPLITS)] != split or f"{layout}-{split}-{digest[:12]}-0" in tasks:
                continue
            in_vain = 0
            for chairs, placed in enumerate((starts, starts[::-1])):
                task = Task(
                    id=f"{layout}-{split}-{digest[:12]}-{chairs}",
                    prompt=_described(grid),
                    environment="kitchen",
                    data={"rows": list(grid.rows), "starts": [list(cell) for cell in placed]},
                    tags=(layout, f"deal:{digest[:12]}"),
                )
                tasks[task.id] = task
        if len(tasks) < n:
            raise BadOptionError(f"kitchen: {self._layouts[0]} has {len(tasks)} {split} tasks, not {n}. Ask for fewer.")
        return list(tasks.values())[:n]

    def reset(self, task: Task, seed: int) -> tuple[Observation, ...]:
        rows: tuple[str, ...] = tuple(task.data["rows"])
        (ax, ay), (bx, by) = task.data["starts"]
        starts = ((ax, ay), (bx, by))
        self._scene = opening(grid_of(rows), starts)
        self._par = max(1, served_by_greedy_pair(rows, starts, self.max_steps))
        self._seated = {
            seat: BOTS[name](random.Random(f"kitchen/{task.id}/{seed}/{seat}")) for seat, name in self._bots.items()
        }
        return self._seen(self._scene, {}, done=False)

    def step(self, actions: Mapping[str, Action]) -> StepResult:
        if self._scene is None:
            raise RuntimeError("reset comes before step")
        before = self._scene
        words = {seat: said(actions, seat) for seat in self.players}
        refused = {seat: refusal(word, MOVES) for seat, word in words.items() if word not in MOVES}
        moves = {seat: STAY if seat in refused else words[seat] for seat in self.players}
        moves |= {seat: bot(_view(before, seat)) for seat, bot in self._seated.items()}
        scene = self._scene = after(before, (moves["a"], moves["b"]))
        done = scene.step >= self.max_steps
        gained = (min(scene.served, self._par) - min(before.served, self._par)) / self._par
        info = {"success": scene.served >= self._soups} if done else {}
        return StepResult(
            self._seen(scene, refused, done=done),
            dict.fromkeys(self.players, gained),
            done,
            {**info, "served": scene.served, "par": self._par},
        )

    def close(self) -> None:
        self._scene = None

    def _seen(self, scene: Scene, refused: Mapping[str, str], *, done: bool) -> tuple[Observation, ...]:
        return tuple(
            Observation(
                seat,
                f"{refused.get(seat, '')} {self._told(_view(scene, seat))}".strip(),
                None if done else MOVES,
                must_act=not done,
                arrays=arrays_of(_view(scene, seat)),
            )
            for seat in self.players
        )

    def _told(self, scene: Scene) -> str:
        """The scene in words, as the first cook sees it."""
        me, partner = scene.cooks
        pots = " ".join(f"The pot at {_at(cell)} {_contents(pot)}." for cell, pot in scene.pots.items())
        lying = ", ".join(f"{_a(thing)} at {_at(cell)}" for cell, thing in sorted(scene.counters.items()))
        return (
            f"Step {scene.step} of {self.max_steps}, soups served: {scene.served}. "
            f"You hold {_a(me.held)} and stand at {_placed(me, scene)}. "
            f"Your partner holds {_a(partner.held)} and stands at {_placed(partner, scene)}. "
            f"{pots} On the counters: {lying or 'nothing'}."
        )


def _dealt(drawing: Sequence[str], rng: random.Random) -> tuple[Grid, tuple[Cell, Cell]]:
    """The drawing with its stations shuffled among places that the same cooks can use, and two starts.

    Where the floor is in two parts there is a start in each.
    """
    grid = grid_of(tuple(drawing))
    letters = dict(grid.cells)
    users = {cell: grid.beside(cell) for cell in grid.cells if cell not in grid.floor}
    for reach in sorted(set(users.values()) - {frozenset()}, key=sorted):
        places = [cell for cell, zones in users.items() if zones == reach]
        letters |= zip(places, rng.sample([grid.cells[cell] for cell in places], len(places)), strict=True)
    rows = tuple("".join(letters[x, y] for x in range(len(row))) for y, row in enumerate(drawing))
    floors = [sorted(zone) for zone in grid.zones]
    one, other = rng.sample(floors[0], 2) if len(floors) == 1 else map(rng.choice, rng.sample(floors, 2))
    return grid_of(rows), (one, other)


def _described(grid: Grid) -> str:
    where = {letter: " and ".join(map(_at, grid.stations[letter])) for letter in (ONIONS, DISHES, POT, SERVING)}
    between = [cell for cell in grid.stations[COUNTER] if len(grid.beside(cell)) > 1]
    parts = f" The floor is in two parts; things pass over the counters at {', '.join(map(_at, between))}."
    return (
        f"The kitchen has {len(grid.rows[0])} columns and {len(grid.rows)} rows; (0, 0) is its north-west corner, "
        f"(1, 0) lies east of it. Onions are at {where[ONIONS]}, dishes at {where[DISHES]}, a pot is at {where[POT]}, "
        f"the serving hatch at {where[SERVING]}." + (parts if between else "")
    )


def _view(scene: Scene, seat: str) -> Scene:
    return scene if seat == "a" else scene.other


def _placed(cook: Cook, scene: Scene) -> str:
    return f"{_at(cook.at)}, facing {cook.facing} to {_NAMES[scene.grid.cells.get(cook.target, COUNTER)]}"


def _contents(pot: Pot) -> str:
    if pot.left is None:
        return f"holds {pot.onions} of 3 onions"
    return "has a soup that is ready" if pot.left == 0 else f"cooks a soup, ready in {pot.left} steps"


def _at(cell: Cell) -> str:
    return f"({cell[0]}, {cell[1]})"


def _a(thing: str) -> str:
    return {"": "nothing", "onion": "an onion"}.get(thing, f"a {thing}")


def _check(name: str, value: int, low: int, high: int) -> None:
    if not isinstance(value, int) or not low <= value <= high:
        raise BadOptionError(f"kitchen: {name} must be a whole number from {low} to {high}, not {value!r}.")
