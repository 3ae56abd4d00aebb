"""The rules of the kitchen: what one step of two cooks changes, how a cook gets somewhere, and a scene as arrays.

The rules are those of Overcooked (arXiv 1910.05789) in its older form: what is interacted with changes first, that of
the first cook before that of the second; then both move at once; then pots cook. Three onions begin to cook by
themselves. Two cooks who want one cell, or each other's, stay where they are and only turn.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

Cell = tuple[int, int]
"""Column and row, counted from 0 at the top left."""
FLOOR, COUNTER, ONIONS, DISHES, POT, SERVING = " XODPS"
DIRECTIONS: Mapping[str, Cell] = {"north": (0, -1), "south": (0, 1), "east": (1, 0), "west": (-1, 0)}
STAY, INTERACT = "stay", "interact"
MOVES = (*DIRECTIONS, STAY, INTERACT)
THINGS = ("", "onion", "dish", "soup")
"""What a hand or a counter holds; nothing is the empty string."""
FULL = 3
"""Onions of a soup."""
COOKING = 20
"""Steps from the one that put the third onion in to the one that may take the soup out."""
_FACINGS = tuple(DIRECTIONS)
_TERRAIN = (FLOOR, COUNTER, ONIONS, DISHES, POT, SERVING)


@dataclass(frozen=True)
class Grid:
    """A kitchen as it is built."""

    rows: tuple[str, ...]

    @cached_property
    def cells(self) -> dict[Cell, str]:
        return {(x, y): letter for y, row in enumerate(self.rows) for x, letter in enumerate(row)}

    @cached_property
    def floor(self) -> frozenset[Cell]:
        return frozenset(cell for cell, letter in self.cells.items() if letter == FLOOR)

    @cached_property
    def stations(self) -> dict[str, tuple[Cell, ...]]:
        """Cells by letter."""
        return {letter: tuple(c for c, found in self.cells.items() if found == letter) for letter in _TERRAIN}

    @cached_property
    def zones(self) -> tuple[frozenset[Cell], ...]:
        """The floor in its connected parts, in reading order: nobody walks from one to another."""
        found: list[frozenset[Cell]] = []
        for start in sorted(self.floor, key=lambda cell: (cell[1], cell[0])):
            if any(start in zone for zone in found):
                continue
            zone, edge = {start}, [start]
            while edge:
                near = [cell for cell in around(edge.pop()) if cell in self.floor and cell not in zone]
                zone.update(near)
                edge += near
            found.append(frozenset(zone))
        return tuple(found)

    def beside(self, cell: Cell) -> frozenset[int]:
        """Numbers of the zones from which something at a cell can be used."""
        return frozenset(n for n, zone in enumerate(self.zones) if any(near in zone for near in around(cell)))

    def zone(self, cell: Cell) -> int:
        return next(number for number, zone in enumerate(self.zones) if cell in zone)


@dataclass(frozen=True, slots=True)
class Cook:
    at: Cell
    facing: str = "north"
    held: str = ""

    @property
    def target(self) -> Cell:
        """The cell that interacting would use."""
        return step_from(self.at, self.facing)


@dataclass(frozen=True, slots=True)
class Pot:
    onions: int = 0
    left: int | None = None
    """Steps until the soup is ready, 0 when it is; None while nothing cooks."""


@dataclass(frozen=True, slots=True)
class Scene:
    """All there is to know at one step. The first cook is the one who looks, the second is the partner."""

    grid: Grid
    cooks: tuple[Cook, Cook]
    pots: Mapping[Cell, Pot]
    counters: Mapping[Cell, str]
    """What lies where; empty counters are left out."""
    served: int = 0
    """Soups so far, by either."""
    step: int = 0

    @property
    def other(self) -> Scene:
        """The same as the partner sees it."""
        return replace(self, cooks=self.cooks[::-1])


@dataclass(frozen=True, slots=True)
class Way:
    move: str
    """The first move of a shortest way; `interact` where nothing is left to walk or turn."""
    steps: int
    """Moves before the one that interacts."""


@lru_cache(maxsize=256)
def grid_of(rows: tuple[str, ...]) -> Grid:
    """One object for one drawing, so that what is worked out of it is worked out once."""
    return Grid(rows)


def opening(grid: Grid, starts: tuple[Cell, Cell]) -> Scene:
    """An empty kitchen with a cook on each of two cells."""
    return Scene(grid, (Cook(starts[0]), Cook(starts[1])), {cell: Pot() for cell in grid.stations[POT]}, {})


def after(scene: Scene, moves: tuple[str, str]) -> Scene:
    """The scene one step later."""
    pots, counters, served = dict(scene.pots), dict(scene.counters), scene.served
    cooks = list(scene.cooks)
    for seat, move in enumerate(moves):
        if move == INTERACT:
            held, delivered = _used(cooks[seat], scene.grid, pots, counters)
            cooks[seat] = replace(cooks[seat], held=held)
            served += delivered
    wanted = [_moved(cook, move, scene.grid) for cook, move in zip(cooks, moves, strict=True)]
    if wanted[0].at == wanted[1].at or (wanted[0].at, wanted[1].at) == (cooks[1].at, cooks[0].at):
        wanted = [replace(new, at=old.at) for new, old in zip(wanted, cooks, strict=True)]
    for cell, pot in pots.items():
        left = COOKING if pot.left is None and pot.onions == FULL else pot.left
        if left:
            pots[cell] = replace(pot, left=left - 1)
    return Scene(scene.grid, (wanted[0], wanted[1]), pots, counters, served, scene.step + 1)


def way(grid: Grid, cook: Cook, targets: Collection[Cell], blocked: Cell | None = None) -> Way | None:
    """A shortest way to stand beside one of the targets and face it; None where there is none.

    Args:
        blocked: a cell that cannot be entered, the partner's.
    """
    start = (cook.at, cook.facing)
    if step_from(*start) in targets:
        return Way(INTERACT, 0)
    seen = {start}
    edge = deque((state, move, 1) for state, move in _turns(grid, start, blocked))
    while edge:
        state, first, steps = edge.popleft()
        if state in seen:
            continue
        seen.add(state)
        if step_from(*state) in targets:
            return Way(first, steps)
        edge.extend((following, first, steps + 1) for following, _ in _turns(grid, state, blocked))
    return None


def arrays_of(scene: Scene) -> dict[str, NDArray[Any]]:
    """A scene as small whole numbers; `scene_in` reads it back.

    - `terrain` [row, column]: 0 floor, 1 counter, 2 onions, 3 dishes, 4 pot, 5 serving.
    - `things` [row, column]: on a counter 0 nothing, 1 onion, 2 dish, 3 soup; in a pot its onions.
    - `cooking` [row, column]: steps until the soup is ready, -1 where nothing cooks.
    - `cooks` [2, 4]: column, row, facing (0 north, 1 south, 2 east, 3 west) and thing held; oneself first.
    - `clock` [2]: steps so far, soups served so far.
    """
    shape = (len(scene.grid.rows), len(scene.grid.rows[0]))
    things, cooking = np.zeros(shape, np.int16), np.full(shape, -1, np.int16)
    for (x, y), thing in scene.counters.items():
        things[y, x] = THINGS.index(thing)
    for (x, y), pot in scene.pots.items():
        things[y, x], cooking[y, x] = pot.onions, -1 if pot.left is None else pot.left
    cooks = [(*cook.at, _FACINGS.index(cook.facing), THINGS.index(cook.held)) for cook in scene.cooks]
    return {
        "terrain": np.array([[_TERRAIN.index(letter) for letter in row] for row in scene.grid.rows], np.int16),
        "things": things,
        "cooking": cooking,
        "cooks": np.array(cooks, np.int16),
        "clock": np.array([scene.step, scene.served], np.int16),
    }


def scene_in(arrays: Mapping[str, NDArray[Any]]) -> Scene:
    """The scene of `arrays_of`."""
    grid = grid_of(tuple("".join(_TERRAIN[code] for code in row) for row in arrays["terrain"].tolist()))
    things, cooking = arrays["things"].tolist(), arrays["cooking"].tolist()
    pots = {(x, y): Pot(things[y][x], None if cooking[y][x] < 0 else cooking[y][x]) for x, y in grid.stations[POT]}
    counters = {(x, y): THINGS[things[y][x]] for x, y in grid.stations[COUNTER] if things[y][x]}
    me, partner = (Cook((x, y), _FACINGS[facing], THINGS[held]) for x, y, facing, held in arrays["cooks"].tolist())
    step, served = arrays["clock"].tolist()
    return Scene(grid, (me, partner), pots, counters, served, step)


def step_from(cell: Cell, direction: str) -> Cell:
    """The neighbour of a cell."""
    by_x, by_y = DIRECTIONS[direction]
    return cell[0] + by_x, cell[1] + by_y


def around(cell: Cell) -> Iterator[Cell]:
    """Its four neighbours."""
    return (step_from(cell, direction) for direction in DIRECTIONS)


def _moved(cook: Cook, move: str, grid: Grid) -> Cook:
    if move not in DIRECTIONS:
        return cook
    there = step_from(cook.at, move)
    return Cook(there if there in grid.floor else cook.at, move, cook.held)


def _turns(grid: Grid, state: tuple[Cell, str], blocked: Cell | None) -> Iterator[tuple[tuple[Cell, str], str]]:
    """Where each direction leads from a cell and a facing."""
    cell, _ = state
    for direction in DIRECTIONS:
        there = step_from(cell, direction)
        yield ((there if there in grid.floor and there != blocked else cell), direction), direction


def _used(cook: Cook, grid: Grid, pots: dict[Cell, Pot], counters: dict[Cell, str]) -> tuple[str, bool]:
    """(what a cook holds after using what it faces, whether that served a soup). Pots and counters change."""
    cell, held = cook.target, cook.held
    letter = grid.cells.get(cell, COUNTER)
    if letter == COUNTER:
        if held and cell not in counters:
            counters[cell] = held
            return "", False
        return held or counters.pop(cell, ""), False
    if letter in (ONIONS, DISHES):
        return held or ("onion" if letter == ONIONS else "dish"), False
    if letter == SERVING and held == "soup":
        return "", True
    if letter == POT and held == "onion" and pots[cell].onions < FULL:
        pots[cell] = Pot(pots[cell].onions + 1)
        return "", False
    if letter == POT and held == "dish" and pots[cell].left == 0:
        pots[cell] = Pot()
        return "soup", False
    return held, False
