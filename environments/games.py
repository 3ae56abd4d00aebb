"""TextArena's two-player games: board games, cards, dilemmas, negotiation and debate, played in words.

A task is a deal: its seed fixes the cards, dice and sides, and the first moves of games that have none of these. Two
neighbouring tasks are one deal with the chairs changed: seat a is the game's Player 0 in the first, seat b in the
second. What the players read is TextArena's own text, each turn's news at a time. A match ends by the game's rules, by
two illegal moves in a row, which lose it (three where the game itself goes on), or as a draw when it takes too long.

TextArena draws from the global generator: run it isolated, one match at a time. Nothing here calls a model or the
network: debates are judged by `debate_jury`, and games that would fetch something are not among those offered.
"""

from __future__ import annotations

import copy
import difflib
import importlib
import random
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from evolvent.environments.debate_jury import Jury, brief_of, deal_briefs
from evolvent.environments.errors import BadOptionError
from evolvent.environments.game_bots import bots_of
from evolvent.environments.game_rules import GAMES, Position
from evolvent.environments.seats import bots_seated
from evolvent.environments.solo import refusal, written
from evolvent.environments.splits import game_seed
from evolvent.environments.types import Action, Observation, Split, StepResult, Task

VERSION = 1
SEATS = ("a", "b")
_HEARD = 1000
"""Characters of what a player says that reach the game."""
_ILLEGAL_IN_A_ROW = 3


@dataclass(frozen=True, slots=True)
class _Verdict:
    scores: tuple[float, float]
    """In [0, 1], of players 0 and 1."""
    won: tuple[bool, bool]
    reason: str


class Games:
    instructions = (
        "You play a match against another player. You are told the rules, then what has happened since your last "
        "turn. Give your move in square brackets, as the rules write it. Where the rules let players talk, the other "
        "one hears what you write."
    )

    def __init__(self, *, game: str = "Nim", bots: Mapping[str, str] | None = None, points: bool = False) -> None:
        """`game` is TextArena's name for it; `bots` gives seats to opponents that ship with it, by name.

        A win scores 1, a draw 0.5. With `points`, a score is what the player earned, as a share of the most there is:
        in the dilemma, where nobody who cooperates can win, this is what cooperating is for.
        """
        if not isinstance(game, str) or game not in GAMES:
            names = {name.lower(): name for name in GAMES}
            near = difflib.get_close_matches(str(game).lower(), names, n=1)
            hint = f" Did you mean {names[near[0]]!r}?" if near else ""
            raise BadOptionError(f"games: no game {game!r} for two players. Known: {', '.join(GAMES)}.{hint}")
        self._name, self._game = game, GAMES[game]
        shipped = bots_of(game)
        seated, self.players = bots_seated("games", bots, SEATS, shipped, game=game)
        self._bots = {seat: shipped[name] for seat, name in seated.items()}
        if points and self._game.points is None:
            counted = ", ".join(name for name, each in GAMES.items() if each.points)
            raise BadOptionError(f"games: {game} is won or lost. Points are counted in {counted}.")
        self._points = self._game.points if points else None
        self.max_steps = self._game.steps
        self._match: Any = None
        self._chairs = SEATS
        """Seats of players 0 and 1."""
        self._luck: dict[str, random.Random] = {}
        """Of the bots, by seat."""
        self._told: dict[str, list[str]] = {}
        self._read: dict[str, int] = {}
        """How much of what a seat was told it has read."""
        self._steps: dict[str, int] = {}
        self._options: tuple[str, ...] | None = None
        self._illegal = 0
        self._verdict: _Verdict | None = None

    def tasks(self, split: Split, n: int, seed: int) -> list[Task]:
        lots = f" Its first {self._game.lots} moves were drawn by lot." if self._game.lots else ""
        prompt = f"You play a match of {self._name} against another player.{lots}"
        dealt = []
        for index in range(n):
            deal = game_seed(f"games/{self._name}", split, seed, index // 2)
            first = SEATS[index % 2]
            name, data = f"games/{self._name}/{split}/{deal}/{first}", {"deal": deal, "first": first}
            dealt.append(Task(name, prompt, "games", data, (f"deal:{self._name}/{deal}",)))
        return dealt

    def reset(self, task: Task, seed: int) -> tuple[Observation, ...]:
        """Deal the task's match. The deal decides the game's luck, the task and `seed` that of the bots."""
        deal: int = task.data["deal"]
        self._chairs = SEATS if task.data["first"] == "a" else SEATS[::-1]
        self._luck = {seat: random.Random(f"games/{task.id}/{seat}/{seed}") for seat in self._bots}
        self._told, self._read = {seat: [] for seat in SEATS}, dict.fromkeys(SEATS, 0)
        self._steps = dict.fromkeys(SEATS, 0)
        self._illegal, self._verdict = 0, None
        self._match = self._dealt(deal)
        self._hear()
        lots = random.Random(f"games/{self._name}/{deal}/lots")
        for _ in range(self._game.lots):
            moves = self._moves()
            self._play(lots.choice(moves), moves)
        self._steps = dict.fromkeys(SEATS, 0)
        self._play_bots()
        return self._observations()

    def step(self, actions: Mapping[str, Action]) -> StepResult:
        legal = True
        if self._verdict is None:  # A match that is over stays over, though bots ended it before anyone had a turn.
            seat, moves = self._on_turn, self._moves()
            said = _named(" ".join(written(actions, seat).split())[:_HEARD], moves)
            legal = self._play(said, moves)
            if not legal and moves and self._verdict is None:
                self._told[seat].append(refusal(said, moves))
            self._play_bots()
        observations = self._observations()
        if self._verdict is None:
            return StepResult(observations, dict.fromkeys(self.players, 0.0), False, {"legal": legal})
        scores, won = (dict(zip(self._chairs, each, strict=True)) for each in (self._verdict.scores, self._verdict.won))
        rewards = {player: float(scores[player]) for player in self.players}
        success = {player: bool(won[player]) for player in self.players}
        return StepResult(observations, rewards, True, {"success": success, "legal": legal})

    def close(self) -> None:
        self._match = None

    # The match.

    def _dealt(self, deal: int) -> Any:
        luck = random.Random(f"games/{self._name}/{deal}/options")
        options = self._game.dealt(luck) if self._game.dealt else {}
        briefs = deal_briefs(luck)
        if self._name == "Debate":
            options["jury_class"] = lambda jury_size, options: Jury(briefs, jury_size)
        random.seed(deal)  # Some games draw before they are reset.
        match = _textarena().make(f"{self._name}-v0-raw", **options)
        if self._name == "TwoDollar":  # It reads its roles in the disk's order.
            match.available_roles = dict(sorted(match.available_roles.items()))
        match.reset(num_players=len(SEATS), seed=deal)
        if self._name == "Debate":
            for player, side in match.state.game_state["sides"].items():
                text = brief_of(side, briefs)
                match.state.add_observation(to_id=player, message=text, observation_type=_kind("PROMPT"))
        return match

    @property
    def _player(self) -> int:
        """0 or 1, whoever is on turn."""
        return int(self._match.state.current_player_id)

    @property
    def _on_turn(self) -> str:
        return self._chairs[self._player]

    def _play(self, said: str, moves: tuple[str, ...]) -> bool:
        """The player on turn makes its move: whether it was one. The next player hears of it.

        A game that fails on what it offered itself is a draw; on anything else, the loss of who said it.
        """
        player, seat = self._player, self._on_turn
        self._steps[seat] += 1
        try:
            over, legal = _said_to(self._match, said)
        except Exception:  # noqa: BLE001 (a defect of one of forty games is no reason to lose the match's record)
            self._verdict = (
                _drawn("The game broke off.") if said in moves else _loss(player, f"Player {player} broke the game.")
            )
            return said in moves
        self._illegal = 0 if legal else self._illegal + 1
        if over:
            self._verdict = self._judged()
        elif self._illegal >= _ILLEGAL_IN_A_ROW:
            self._verdict = _loss(player, f"Player {player} made {_ILLEGAL_IN_A_ROW} illegal moves in a row.")
        elif self._steps[seat] >= self.max_steps:
            self._verdict = _drawn("The match takes too long and is stopped as a draw.")
        else:
            self._hear()
            if self._game.tried and not self._moves():
                self._verdict = _drawn("No move is left, and the game goes no further.")
        return legal

    def _play_bots(self) -> None:
        while self._verdict is None and self._on_turn in self._bots:
            seat, moves = self._on_turn, self._moves()
            self._play(self._bots[seat](self._position(), moves, self._luck[seat]), moves)

    def _judged(self) -> _Verdict:
        state = self._match.state
        rewards = [max(-1.0, min(1.0, float(state.rewards[player]))) for player in (0, 1)]
        earned = self._points
        first, second = (earned(state.game_state, player) if earned else (1 + rewards[player]) / 2 for player in (0, 1))
        reason = " ".join(str(state.game_info[0].get("reason", "")).split())
        return _Verdict((first, second), (rewards[0] > 0, rewards[1] > 0), reason)

    # What the players are told.

    def _hear(self) -> None:
        """The player on turn is told what has happened since it last was."""
        self._options = None
        player, messages = self._match.get_observation()
        self._told[self._chairs[player]] += _news(player, messages)

    def _position(self) -> Position:
        return Position(self._match.state.game_state, self._player, self._told[self._on_turn])

    def _moves(self) -> tuple[str, ...]:
        """What the player on turn can do, worked out once a turn."""
        if self._options is None:
            self._options = self._game.moves(self._position()) if self._game.moves else ()
            if self._game.tried:
                luck = random.getstate()
                self._options = tuple(move for move in self._options if self._would_take(move))
                random.setstate(luck)
        return self._options

    def _would_take(self, move: str) -> bool:
        state = self._match.state
        unheard: dict[int, Any] = {id(state.logs): [], id(state.observations): {0: [], 1: []}}  # The longest parts.
        try:
            return _said_to(copy.deepcopy(self._match, unheard), move)[1]
        except Exception:  # noqa: BLE001 (a move that would meet a defect of the game is not offered)
            return False

    def _observations(self) -> tuple[Observation, ...]:
        return tuple(self._end(seat) if self._verdict else self._turn(seat) for seat in self.players)

    def _turn(self, seat: str) -> Observation:
        if seat != self._on_turn:
            return Observation(seat, "The other player is on turn.", must_act=False)
        moves, frame = self._moves(), self._game.frame
        text = "\n".join(self._unread(seat)) or "You are on turn."
        if not moves:
            return Observation(seat, text)
        return Observation(seat, text, moves, frame=frame(self._position()) if frame else "The best move is {action}.")

    def _end(self, seat: str) -> Observation:
        assert self._verdict is not None
        player = self._chairs.index(seat)
        unheard = self._match.state.observations
        self._told[seat] += _news(player, unheard[player])
        unheard[player] = []
        won = self._verdict.won
        result = "You win." if won[player] else "You lose." if won[1 - player] else "Nobody wins."
        return Observation(seat, "\n".join([*self._unread(seat), self._verdict.reason, result]), must_act=False)

    def _unread(self, seat: str) -> list[str]:
        news = self._told[seat][self._read[seat] :]
        self._read[seat] = len(self._told[seat])
        return news


def _textarena() -> Any:
    """The package, without what its nltk would load for itself and no game here asks for: 150 MB in every worker."""
    modules: dict[str, Any] = sys.modules
    if "textarena" not in modules:
        spared = [name for name in ("sklearn", "scipy", "pandas", "matplotlib") if name not in modules]
        modules.update(dict.fromkeys(spared))  # None has an import fail, which nltk is ready for.
        try:
            importlib.import_module("textarena")
        finally:
            for name in spared:
                del modules[name]
    return modules["textarena"]


def _kind(name: str) -> Any:
    return _textarena().ObservationType[name]


def _said_to(match: Any, said: str) -> tuple[bool, bool]:
    """Whether the match is over now, and whether what was said was a legal move."""
    state = match.state
    player = state.current_player_id
    state.game_info[player]["invalid_move"] = False  # Some games leave it set for the rest of the match.
    over, _ = match.step(said)
    return bool(over), not (state.error_count or state.game_info[player]["invalid_move"])


def _loss(player: int, reason: str) -> _Verdict:
    first = float(player != 0)
    return _Verdict((first, 1 - first), (player != 0, player != 1), reason)


def _drawn(reason: str) -> _Verdict:
    return _Verdict((0.5, 0.5), (False, False), reason)


def _named(said: str, moves: tuple[str, ...]) -> str:
    """The move that was said, with or without its brackets; else what was said."""
    names = {move.strip("[]").lower(): move for move in moves}
    return names.get(said.lower().strip("[] ."), said)


def _news(player: int, messages: list[tuple[int, str, Any]]) -> list[str]:
    """What a player is told: nothing of what it said itself, and no board from before the other's last words."""
    spoken = [
        index
        for index, (speaker, _, kind) in enumerate(messages)
        if kind is _kind("PLAYER_ACTION") and speaker == 1 - player
    ]
    last = spoken[-1] if spoken else 0
    news = []
    for index, (speaker, text, kind) in enumerate(messages):
        if kind is _kind("PLAYER_ACTION") and speaker == player:
            continue
        if kind is _kind("GAME_BOARD") and index < last:
            continue
        news.append(f"Player {speaker}: {text.strip()}" if kind is _kind("PLAYER_ACTION") else text.strip())
    return [text for text in news if text]
