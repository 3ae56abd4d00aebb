"""Leduc and limit hold'em at RLCard's table, for two to four seats; shipped opponents may take some of them.

A task fixes the deck and who sits on which chair. Neighbouring tasks are one deal, everybody a chair further, so that
over a deal each seat holds every hand once and the luck of the cards cancels.

From the third seat on RLCard would ask again after a fold, until as many have called as there are chairs; here it asks
those that are left. All else is as it is there: who speaks first in a later round is who comes next.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from evolvent.environments.card_opponents import OPPONENTS, opponent
from evolvent.environments.errors import BadOptionError
from evolvent.environments.poker import MADE, RANKS, a_rank, listed, made, named, rank
from evolvent.environments.seats import among, bots_seated
from evolvent.environments.solo import refusal, said
from evolvent.environments.splits import game_seed
from evolvent.environments.types import Action, Observation, Split, StepResult, Task

VERSION = 1
SEATS = ("a", "b", "c", "d")
PATIENCE = 3
"""Illegal actions of one seat in one hand; with the last of them it folds."""
_MOVES = ("check", "call", "raise", "fold")
_BIG_BLIND = 2
"""Chips; RLCard counts payoffs in big blinds."""


@dataclass(frozen=True, slots=True)
class Game:
    title: str
    table: str
    """RLCard's name of it."""
    rules: str
    rounds: tuple[str, ...]
    """How the account of each begins, with the cards that it laid open."""
    raises: int
    """In one round at most."""
    most: int
    """Chips that one seat can come to put in."""
    seats: tuple[int, ...]


GAMES = {
    "leduc": Game(
        "Leduc hold'em",
        "leduc-holdem",
        "You play Leduc hold'em for chips. The deck is two jacks, two queens and two kings; each player holds one "
        "card. After a first round of bets one public card is dealt, and bets are doubled. A pair with the public card "
        "wins, else the higher card. At most two raises a round.",
        ("First round:", "Public card {cards}:"),
        raises=2,
        most=14,
        seats=(2,),
    ),
    "limit": Game(
        "limit Texas hold'em",
        "limit-holdem",
        "You play limit Texas hold'em for chips. Each player holds two cards; five public cards come in three steps, "
        "with a round of bets before and after each. The best five of seven cards win. Bets are doubled on the turn "
        "and the river. At most four raises a round.",
        ("Before the flop:", "Flop {cards}:", "Turn {cards}:", "River {cards}:"),
        raises=4,
        most=50,
        seats=(2, 3, 4),
    ),
}


def span(game: str, seats: int) -> int:
    """Chips: the most that can be won in a hand, which is more than can be lost from the third seat on."""
    return GAMES[game].most * (seats - 1)


def payoff(score: float, span: int) -> float:
    """Chips won, or lost below zero, of a score in [0, 1]. A task's data holds its `span`."""
    return round((2 * score - 1) * span, 6)


class Cards:
    """One hand. A score is 0.5 for breaking even, 1 for winning all that can be won; `payoff` gives the chips.

    Args:
        game: `leduc` or `limit`.
        seats: 2; in `limit` 2 to 4.
        bots: seat → name of a shipped opponent. They draw by (task, seed) and chair alone.
        reveal: whose cards everybody is told in the end: `showdown` those that were compared, `always` all.

    Raises:
        BadOptionError: an unknown game, seat or opponent, or nobody left to play.
    """

    def __init__(
        self, *, game: str = "leduc", seats: int = 2, bots: Mapping[str, str] | None = None, reveal: str = "showdown"
    ) -> None:
        among("cards", "game", game, GAMES)
        among("cards", "reveal", reveal, ("showdown", "always"))
        if not isinstance(seats, int) or seats not in GAMES[game].seats:
            raise BadOptionError(
                f"cards: {game} is played by {listed([str(n) for n in GAMES[game].seats], 'or')}, not by {seats!r}."
            )
        self._name, self._game, self._seats = game, GAMES[game], SEATS[:seats]
        self._bots, self.players = bots_seated("cards", bots, self._seats, OPPONENTS[game], game=game)
        self.instructions = self._game.rules
        self.max_steps = len(self._game.rounds) * (self._game.raises + 1) + PATIENCE
        self.span = span(game, seats)
        self._reveals_all = reveal == "always"
        self._table: Any = None
        self._play: Any = None
        self._hand = _Hand(0, 0, ())

    def tasks(self, split: Split, n: int, seed: int) -> list[Task]:
        """Deal by deal, each from all chairs; the last one from fewer where `n` is no multiple of the seats."""
        return [self._task(split, seed, *divmod(index, len(self._seats))) for index in range(n)]

    def reset(self, task: Task, seed: int) -> tuple[Observation, ...]:
        """Deal the hand and let bots play up to the first player's turn. A bot may end it before anyone has one."""
        self._deal(task.data["deck"])
        self._hand = _Hand(task.data["deck"], seed, tuple(task.data["order"]))
        stakes = {seat: self._stake(seat) for seat in self._hand.order}
        self._hand.blinds = {seat: stakes[seat] for seat in sorted(stakes, key=stakes.__getitem__) if stakes[seat]}
        self._let_bots_play()
        return self._observe({})

    def step(self, actions: Mapping[str, Action]) -> StepResult:
        legal, told = True, {}
        if not self._play.is_over():
            seat = self._on_turn()
            move, allowed = said(actions, seat), self._legal()
            legal = move in allowed
            if legal:
                self._move(move)
            else:
                told[seat] = self._refuse(seat, move, allowed)
            self._let_bots_play()
        if self._play.is_over():
            return self._end(told, legal)
        return StepResult(self._observe(told), dict.fromkeys(self.players, 0.0), False, {"legal": legal})

    def suggest(self, name: str) -> str:
        """What a shipped opponent would do in the place of the seat on turn."""
        chair = self._play.game_pointer
        key = f"cards/{self._hand.deck}/{self._hand.seed}/{chair}/{len(self._hand.moves)}"
        return opponent(self._name, name)(self._table.get_state(chair), random.Random(key))

    def payoff(self, score: float) -> float:
        """Chips won, or lost below zero."""
        return payoff(score, self.span)

    def close(self) -> None:
        self._table = None

    # The table.

    def _task(self, split: Split, seed: int, deal: int, turn: int) -> Task:
        deck = game_seed(f"cards/{self._name}/{len(self._seats)}", split, seed, deal)
        order = [*self._seats[turn:], *self._seats[:turn]]
        return Task(
            f"cards/{self._name}-{len(self._seats)}/{split}/{deck}-{turn}",
            f"One hand of {self._game.title}. Win as many chips as you can. Around the table: {', '.join(order)}.",
            "cards",
            {"deck": deck, "order": order, "span": self.span},
            tags=(f"deal:{deck}",),
        )

    def _deal(self, deck: int) -> None:
        import rlcard

        if self._table is None:
            self._table = rlcard.make(self._game.table, config={"game_num_players": len(self._seats)})
        self._table.seed(deck)
        self._table.reset()
        self._play = self._table.game

    def _let_bots_play(self) -> None:
        while not self._play.is_over() and (name := self._bots.get(self._on_turn())):
            self._move(self.suggest(name))

    def _move(self, move: str) -> None:
        number, betting = self._play.round_counter, self._play.round
        self._hand.moves.append((number, self._on_turn(), move))
        # A round ends when `not_raise_num` has reached the number of chairs: those that folded are counted with them,
        # but for the fold that ends the hand, after which no card is laid open any more.
        if move == "fold" and len(self._standing()) > 2:
            betting.not_raise_num += 1
        self._table.step(move, raw_action=True)
        if move == "raise" or self._play.round_counter > number:
            betting.not_raise_num += len(self._seats) - len(self._standing())
        if self._play.is_over():
            # Asked once: a chip that cannot be split goes to a winner by draw.
            chips = (round(_BIG_BLIND * float(each)) for each in self._table.get_payoffs())
            self._hand.won = dict(zip(self._hand.order, chips, strict=True))

    def _refuse(self, seat: str, move: str, allowed: Collection[str]) -> str:
        slips = self._hand.slips[seat] = self._hand.slips.get(seat, 0) + 1
        answer = refusal(move, tuple(allowed))
        if slips < PATIENCE:
            return answer
        self._move("fold")
        return f"{answer} That was the last time: you fold."

    def _on_turn(self) -> str:
        chair: int = self._play.game_pointer
        return self._hand.order[chair]

    def _legal(self) -> tuple[str, ...]:
        allowed = self._play.get_legal_actions()
        return tuple(move for move in _MOVES if move in allowed)

    def _end(self, told: Mapping[str, str], legal: bool) -> StepResult:
        won = self._hand.won
        rewards = {seat: 0.5 + won[seat] / (2 * self.span) for seat in self.players}
        info = {"success": {seat: won[seat] > 0 for seat in self.players}, "chips": dict(won), "legal": legal}
        return StepResult(self._observe(told), rewards, True, info)

    # What a seat is told.

    def _observe(self, told: Mapping[str, str]) -> tuple[Observation, ...]:
        return tuple(self._seen(seat, told.get(seat, "")) for seat in self.players)

    def _seen(self, seat: str, answer: str) -> Observation:
        held = listed([named(card) for card in self._cards(seat)])
        text = f"{answer} You hold {held}. {self._account(seat)}".strip()
        if self._play.is_over():
            return Observation(seat, f"{text} {self._outcome(seat)}".strip(), (), must_act=False)
        mine = self._stake(seat)
        pot = sum(player.in_chips for player in self._play.players)
        text += f" The pot holds {_chips(pot)}, {mine} of them yours."
        if seat != self._on_turn():
            return Observation(seat, f"{text} It is {_who(self._on_turn())}'s turn.", (), must_act=False)
        prices = {"call": self._to_call(), "raise": self._to_call() + self._play.round.raise_amount}
        options = [f"{move} ({_chips(prices[move])})" if move in prices else move for move in self._legal()]
        text += f" It is your turn: {listed(options, 'or')}."
        frame = f"With {self._situation(seat)} and {self._facing()}, the best move is to {{action}}."
        return Observation(seat, text, self._legal(), frame=frame)

    def _account(self, seat: str) -> str:
        """The betting so far, and the cards laid open on the way, as that seat would tell it."""
        rounds = []
        for number, opening in enumerate(self._game.rounds[: self._play.round_counter + 1]):
            begun = opening.format(cards=listed([named(card) for card in self._laid(number)])) if number else opening
            bets = [_did(who, move, seat) for at, who, move in self._hand.moves if at == number]
            if not number:
                bets = [_did(who, f"put in {chips}", seat) for who, chips in self._hand.blinds.items()] + bets
            rounds.append(f"{begun} {', '.join(bets)}." if bets else f"{begun.rstrip(':')}.")
        return " ".join(rounds)

    def _outcome(self, seat: str) -> str:
        standing = self._standing()
        shown = [who for who in self._seats if who != seat and (self._reveals_all or len(standing) > 1)]
        shown = [who for who in shown if self._reveals_all or who in standing]
        hands = [f"{_who(who)} held {listed([named(card) for card in self._cards(who)])}" for who in shown]
        told = f"{_capital('; '.join(hands))}. " if hands else ""
        results = [_won("You", "", self._hand.won[seat])]
        if len(self._seats) > 2:
            results += [_won(_capital(_who(who)), "s", self._hand.won[who]) for who in self._seats if who != seat]
        return told + " ".join(results)

    def _situation(self, seat: str) -> str:
        """The seat's cards and what they make, without their suits; the same words in every hand like it."""
        own, laid = self._cards(seat), self._public()
        if self._name == "leduc":
            if not laid:
                return f"{a_rank(own[0])}, no public card yet"
            paired = own[0][1] == laid[0][1]
            return f"a pair of {rank(own[0])}s" if paired else f"{a_rank(own[0])} against a public {rank(laid[0])}"
        if laid:
            stage = {3: "flop", 4: "turn", 5: "river"}[len(laid)]
            return f"{MADE[made([*own, *laid])]} on the {stage}"
        if own[0][1] == own[1][1]:
            return f"a pair of {rank(own[0])}s before the flop"
        suits = "one suit" if own[0][0] == own[1][0] else "two suits"
        own.sort(key=lambda card: -RANKS.index(card[1]))
        return f"{listed([a_rank(card) for card in own])} of {suits} before the flop"

    def _facing(self) -> str:
        price = self._to_call()
        return f"{_chips(price)} to call" if price else "nothing to call"

    def _to_call(self) -> int:
        betting = self._play.round
        return int(max(betting.raised) - betting.raised[self._play.game_pointer])

    def _stake(self, seat: str) -> int:
        return int(self._play.players[self._hand.order.index(seat)].in_chips)

    def _standing(self) -> list[str]:
        """Seats that have not folded."""
        return [
            seat for seat, player in zip(self._hand.order, self._play.players, strict=True) if player.status != "folded"
        ]

    def _cards(self, seat: str) -> list[str]:
        hand = self._play.players[self._hand.order.index(seat)].hand
        return [card.get_index() for card in (hand if isinstance(hand, list) else [hand])]

    def _public(self) -> list[str]:
        if self._name == "leduc":
            return [self._play.public_card.get_index()] if self._play.public_card else []
        return [card.get_index() for card in self._play.public_cards]

    def _laid(self, number: int) -> list[str]:
        """The cards that round laid open."""
        return self._public()[:3] if number == 1 else self._public()[number + 1 : number + 2]


@dataclass(slots=True)
class _Hand:
    """The hand being played, as far as RLCard does not keep it."""

    deck: int
    seed: int
    order: tuple[str, ...]
    """Seat by chair."""
    blinds: dict[str, int] = field(default_factory=dict)
    """The small one first."""
    moves: list[tuple[int, str, str]] = field(default_factory=list)
    """(round, seat, move)."""
    slips: dict[str, int] = field(default_factory=dict)
    won: dict[str, int] = field(default_factory=dict)
    """Chips by seat; empty until the hand is over."""


def _who(seat: str) -> str:
    return f"player {seat}"


def _did(who: str, move: str, seat: str) -> str:
    if who == seat:
        return f"you {move}"
    verb, _, rest = move.partition(" ")
    return f"{_who(who)} {verb}s {rest}".rstrip()


def _won(who: str, ending: str, chips: int) -> str:
    if not chips:
        return f"{who} break{ending} even."
    verb = f"win{ending}" if chips > 0 else f"lose{ending}"
    return f"{who} {verb} {_chips(abs(chips))}."


def _chips(count: int) -> str:
    return f"{count} {'chip' if count == 1 else 'chips'}"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
