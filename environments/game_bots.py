"""Opponents that ship with the games: simple, scripted, and the same in every run.

They see what a player on their seat may see: the board where it is open, and what they were told.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, reduce
from operator import xor

from evolvent.environments.game_rules import GAMES, Position, other_decision

Bot = Callable[[Position, tuple[str, ...], random.Random], str]
"""(position, its moves, its own luck) → what it says. Without moves it may say what it likes."""

_LINES = ((0, 1, 2), (3, 4, 5), (6, 7, 8), (0, 3, 6), (1, 4, 7), (2, 5, 8), (0, 4, 8), (2, 4, 6))


@dataclass(frozen=True, slots=True)
class Shipped:
    play: Bot
    games: tuple[str, ...]


def at_random(position: Position, moves: tuple[str, ...], rng: random.Random) -> str:
    return rng.choice(moves) if moves else "I have not made up my mind."


def tit_for_tat(position: Position, moves: tuple[str, ...], rng: random.Random) -> str:
    """Cooperates first, then does what the other did in the round before (Axelrod 1984)."""
    if not moves:
        return "I will do to you as you did to me."
    return "[Defect]" if other_decision(position) == "defect" else "[Cooperate]"


def nim_sum(position: Position, moves: tuple[str, ...], rng: random.Random) -> str:
    """Leaves piles whose exclusive or is 0 wherever it can (Bouton 1901), else takes one from the largest."""
    piles: list[int] = list(position.state["piles"])
    total = reduce(xor, piles)
    for pile, left in enumerate(piles):
        if left ^ total < left:
            return f"[{pile} {left - (left ^ total)}]"
    return f"[{piles.index(max(piles))} 1]"


def noughts(position: Position, moves: tuple[str, ...], rng: random.Random) -> str:
    """Never loses: looks at every way a game can go on, and takes the first of its best squares."""
    cells = "".join(cell or "." for row in position.state["board"] for cell in row)
    mark = "OX"[position.player]
    best = max(_free(cells), key=lambda cell: -_worth(_placed(cells, cell, mark), _other(mark)))
    return f"[{best}]"


def careful(position: Position, moves: tuple[str, ...], rng: random.Random) -> str:
    """Completes four where it can, else stops the other's four, else drops its disc anywhere."""
    board: list[list[str]] = position.state["board"]
    own = "XO"[position.player]
    for disc in (own, "O" if own == "X" else "X"):
        for move in moves:
            if _completes_four(board, int(move.removeprefix("[col ").rstrip("]")), disc):
                return move
    return rng.choice(moves)


def briefed(position: Position, moves: tuple[str, ...], rng: random.Random) -> str:
    """Debates by reading out its brief, one survey in each turn."""
    surveys = re.findall(r"A survey in \w+ found \d+ percent \w+ it\.", "\n".join(position.told[:2]))
    turn = len(position.state["arguments"][position.player])
    return f"{position.state['topic']} {surveys[turn % len(surveys)]}"


BOTS: dict[str, tuple[Shipped, ...]] = {
    "random": (Shipped(at_random, tuple(name for name, game in GAMES.items() if game.moves is not None)),),
    "perfect": (Shipped(nim_sum, ("Nim",)), Shipped(noughts, ("TicTacToe",))),
    "careful": (Shipped(careful, ("ConnectFour",)),),
    "tit_for_tat": (Shipped(tit_for_tat, ("IteratedPrisonersDilemma",)),),
    "briefed": (Shipped(briefed, ("Debate",)),),
}
"""By name; a name may stand for another player in another game."""


def bots_of(game: str) -> dict[str, Bot]:
    """The opponents that a game ships, by name."""
    return {name: each.play for name, shipped in BOTS.items() for each in shipped if game in each.games}


def _free(cells: str) -> list[int]:
    return [cell for cell, mark in enumerate(cells) if mark == "."]


def _placed(cells: str, cell: int, mark: str) -> str:
    return cells[:cell] + mark + cells[cell + 1 :]


def _other(mark: str) -> str:
    return "O" if mark == "X" else "X"


@cache
def _worth(cells: str, mark: str) -> int:
    """1 where the mark that is on turn wins, 0 for a draw, -1 where it loses."""
    if any(cells[a] == cells[b] == cells[c] == _other(mark) for a, b, c in _LINES):
        return -1
    return max((-_worth(_placed(cells, cell, mark), _other(mark)) for cell in _free(cells)), default=0)


def _completes_four(board: list[list[str]], column: int, disc: str) -> bool:
    row = max(row for row in range(len(board)) if board[row][column] == ".")
    return any(
        1 + _run(board, row, column, disc, down, right) + _run(board, row, column, disc, -down, -right) >= 4
        for down, right in ((0, 1), (1, 0), (1, 1), (1, -1))
    )


def _run(board: list[list[str]], row: int, column: int, disc: str, down: int, right: int) -> int:
    """How many of the disc follow on in one direction."""
    length = 0
    row, column = row + down, column + right
    while 0 <= row < len(board) and 0 <= column < len(board[0]) and board[row][column] == disc:
        length, row, column = length + 1, row + down, column + right
    return length
