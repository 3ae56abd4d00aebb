"""What TextArena's two-player games do not say by themselves: what may be done, and when a match is long enough.

The games are those that run as installed, with two players, no key and no network. Their rules, prompts and verdicts
are TextArena's; here is what an agent that chooses among options needs on top, read from the state of the game or
from the list that it shows its players.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Position:
    """A match as the player on turn meets it."""

    state: Mapping[str, Any]
    """The game's own, hidden things too: for moves and for bots that look no further than they may."""
    player: int
    """0 or 1, as TextArena counts them."""
    told: Sequence[str]
    """What this player was told so far, in order."""


@dataclass(frozen=True, slots=True)
class Game:
    steps: int
    """Of one seat, illegal ones included, after which the match is stopped as a draw."""
    moves: Callable[[Position], tuple[str, ...]] | None = None
    """What the player on turn can do: every move, but for bets, of which a few sizes; none where it may say what it
    likes. None: not cheaply told."""
    tried: bool = False
    """`moves` are candidates: those are moves that the game takes on a copy of the match."""
    frame: Callable[[Position], str] | None = None
    """The situation in one sentence around `{action}`."""
    points: Callable[[Mapping[str, Any], int], float] | None = None
    """What a player earned in the end as a share of the most there is, where the game is about more than winning."""
    lots: int = 0
    """First moves that are drawn with the deal: without them, two players who never waver would play a game that has
    no chance the same way in every deal."""
    dealt: Callable[[random.Random], dict[str, Any]] | None = None
    """What the game is set up with, drawn with the deal, to the same end."""


_LIST = re.compile(r"(?:available moves|valid moves|remaining hand|remaining money cards):(.*)", re.IGNORECASE)
_TOKEN = re.compile(r"\[[^\[\]]+\]")


def listed(position: Position) -> tuple[str, ...]:
    """The moves of the last list that the game showed this player."""
    for text in reversed(position.told):
        if lists := _LIST.findall(text):
            return tuple(dict.fromkeys(_TOKEN.findall(lists[-1])))
    return ()


def always(*moves: str) -> Callable[[Position], tuple[str, ...]]:
    return lambda position: moves


def _quantum(position: Position) -> tuple[str, ...]:
    return tuple(f"[{one},{other}]" for one in range(9) for other in range(one + 1, 9))


def _ultimate(position: Position) -> tuple[str, ...]:
    sent_to = position.state["next_micro_board"]
    return tuple(f"[{board} {cell}]" for board in (range(9) if sent_to is None else [sent_to]) for cell in range(9))


_AXES = ((0, 1), (1, 0), (1, 1), (1, -1))


def _cell(board: Sequence[Sequence[str]], row: int, column: int) -> str | None:
    """None beyond the edge."""
    return board[row][column] if 0 <= row < len(board) and 0 <= column < len(board) else None


def _squares(board: Sequence[Sequence[str]], mark: str) -> list[tuple[int, int]]:
    return [(row, column) for row, cells in enumerate(board) for column, cell in enumerate(cells) if cell == mark]


def _alquerque(position: Position) -> tuple[str, ...]:
    """Steps, and jumps of two, in every direction."""
    board = position.state["board"]
    return tuple(
        f"[{'abcde'[column]}{5 - row} {'abcde'[column + far * right]}{5 - row - far * down}]"
        for row, column in _squares(board, "RB"[position.player])
        for down, right in (*_AXES, *((-down, -right) for down, right in _AXES))
        for far in (1, 2)
        if _cell(board, row + far * down, column + far * right) is not None
    )


def _breakthrough(position: Position) -> tuple[str, ...]:
    """A step forward, straight or slanting; the board's first row is rank 1."""
    board, forward = position.state["board"], (1, -1)[position.player]
    return tuple(
        f"[{'abcdefgh'[column]}{row + 1}{'abcdefgh'[column + right]}{row + forward + 1}]"
        for row, column in _squares(board, "WB"[position.player])
        for right in (-1, 0, 1)
        if _cell(board, row + forward, column + right) is not None
    )


def _lines_of_action(position: Position) -> tuple[str, ...]:
    """Along each line, as far as there are pieces on it; the board's first row is rank 8."""
    board = position.state["board"]
    moves = []
    for row, column in _squares(board, "OX"[position.player]):
        for down, right in _AXES:
            far = sum(bool(_cell(board, row + step * down, column + step * right)) for step in range(-7, 8))
            for to, across in ((row + far * down, column + far * right), (row - far * down, column - far * right)):
                if _cell(board, to, across) is not None:
                    moves.append(f"[{'abcdefgh'[column]}{8 - row}{'abcdefgh'[across]}{8 - to}]")
    return tuple(moves)


def _nim(position: Position) -> tuple[str, ...]:
    piles = enumerate(position.state["piles"])
    return tuple(f"[{pile} {taken}]" for pile, left in piles for taken in range(1, left + 1))


def _nim_piles(rng: random.Random) -> dict[str, Any]:
    return {"piles": [rng.randint(2, 7) for _ in range(3)]}


def _nim_frame(position: Position) -> str:
    piles = ", ".join(map(str, position.state["piles"]))
    return f"With piles of {piles}, the best move is {{action}}."


def _noughts_frame(position: Position) -> str:
    rows = " / ".join("".join(cell or "." for cell in row) for row in position.state["board"])
    return f"As {'OX'[position.player]} on the board {rows}, the best move is {{action}}."


def _columns(position: Position) -> tuple[str, ...]:
    return tuple(f"[col {column}]" for column, top in enumerate(position.state["board"][0]) if top == ".")


def _santorini(position: Position) -> tuple[str, ...]:
    return tuple(_TOKEN.findall(position.state["valid_moves"]))  # Its list for Player 1 is at first that of Player 0.


def _kuhn(position: Position) -> tuple[str, ...]:
    return tuple(f"[{move}]" for move in position.state["current_legal_action_tree"])


def _kuhn_frame(position: Position) -> str:
    card = "JQK"[position.state["player_cards"][position.player]]
    bet = "call" in position.state["current_legal_action_tree"]
    return f"Holding {card} {'after a bet' if bet else 'with no bet made'}, the best move is {{action}}."


def _dilemma(position: Position) -> tuple[str, ...]:
    return ("[Cooperate]", "[Defect]") if position.state["phase"] == "decision" else ()


def _dilemma_frame(position: Position) -> str:
    last = other_decision(position)
    return f"After the other player's {last or 'first words'}, I answer {{action}}."


def _dilemma_points(state: Mapping[str, Any], player: int) -> float:
    """Points as a share of the most there are: 5 in each round, for defecting alone."""
    return float(state["scores"][player] / (5 * state["num_rounds"]))


_BATTLESHIP = tuple(f"[{row}{column}]" for row in "ABCDE" for column in range(5))
_CHOPSTICKS = (
    *(f"[attack {mine} {theirs}]" for mine in range(2) for theirs in range(2)),
    *(f"[split {left} {right}]" for left in range(5) for right in range(5)),
)
_GOLF = ("[draw]", "[take]", "[discard]", *(f"[swap {row} {column}]" for row in (1, 2) for column in (1, 2, 3)))
_DICE = ("[Call]", *(f"[Bid: {count}, {face}]" for count in range(1, 11) for face in range(1, 7)))
_BETS = ("[check]", "[call]", "[fold]", *(f"[{bet} {chips}]" for bet in ("bet", "raise") for chips in (1, 2, 4)))
_POKER = ("[Check]", "[Call]", "[Fold]", *(f"[{bet} {chips}]" for bet in ("Bet", "Raise") for chips in (20, 60, 200)))

_DECISION = re.compile(r"Both players (cooperat|defect)ed|Player 0 (cooperat|defect)ed, Player 1 (cooperat|defect)ed")


def other_decision(position: Position) -> str:
    """What the other player did in the last round of the dilemma: `cooperate`, `defect` or, before one, nothing."""
    for text in reversed(position.told):
        if found := _DECISION.search(text):
            both, *each = found.groups()
            return {"cooperat": "cooperate", "defect": "defect"}[both or each[1 - position.player]]
    return ""


GAMES: dict[str, Game] = {
    "Alquerque": Game(60, _alquerque, tried=True, lots=2),
    "Battleship": Game(60, always(*_BATTLESHIP), tried=True),
    "Breakthrough": Game(100, _breakthrough, tried=True, lots=2),
    "Briscola": Game(40, always(*(f"[play {card}]" for card in range(1, 4))), tried=True),
    "Chopsticks": Game(40, always(*_CHOPSTICKS), tried=True, lots=2),
    "ColonelBlotto": Game(20),
    "ConnectFour": Game(40, _columns, lots=2),
    "Crusade": Game(40, listed, lots=2),
    "Debate": Game(6),
    "GameOfPureStrategy": Game(30, listed),
    "GermanWhist": Game(60, always(*(f"[play {card}]" for card in range(1, 14))), tried=True),
    "Golf": Game(40, always(*_GOLF), tried=True),
    "HighSociety": Game(60, listed),
    "IndianPoker": Game(60, always(*_BETS), tried=True),
    "IteratedMatchingPennies": Game(20, always("[heads]", "[tails]")),
    "IteratedPrisonersDilemma": Game(30, _dilemma, frame=_dilemma_frame, points=_dilemma_points),
    "IteratedRockPaperScissors": Game(20, always("[rock]", "[paper]", "[scissors]")),
    "IteratedTwoThirdsAverage": Game(20),
    "IteratedUltimatumGame": Game(30),
    "KuhnPoker": Game(20, _kuhn, frame=_kuhn_frame),
    "LiarsDice": Game(60, always(*_DICE), tried=True),
    "LinesOfAction": Game(100, _lines_of_action, tried=True, lots=2),
    "MemoryGame": Game(60),
    "NewRecruit": Game(20),
    "Nim": Game(30, _nim, frame=_nim_frame, dealt=_nim_piles),
    "Othello": Game(60, listed, lots=2),
    "PigDice": Game(120, always("[roll]", "[hold]")),
    "Poker": Game(150, always(*_POKER), tried=True),
    "QuantumTicTacToe": Game(30, _quantum, tried=True, lots=2),
    "SantoriniBaseFixed": Game(60, _santorini, lots=2),
    "SimpleBlindAuction": Game(12),
    "SimpleNegotiation": Game(16),
    "SimpleTak": Game(20, listed, lots=2),
    "Snake": Game(50, always("[up]", "[down]", "[left]", "[right]")),
    "SpiteAndMalice": Game(100, listed),
    "Stratego": Game(150, listed),
    "Surround": Game(50, always("[up]", "[down]", "[left]", "[right]")),
    "Tak": Game(60),
    "TicTacToe": Game(12, listed, frame=_noughts_frame, lots=2),
    "TruthAndDeception": Game(10),
    "TwoDollar": Game(30),
    "UltimateTicTacToe": Game(60, _ultimate, tried=True, lots=2),
    "WildTicTacToe": Game(12, listed, lots=2),
}
"""By TextArena's name without its version. Left out: games for one, three or more players; those whose word lists or
scenarios are a download; and those whose source needs Python 3.12 (Chess, Checkers, ReverseTicTacToe, StagHunt)."""
