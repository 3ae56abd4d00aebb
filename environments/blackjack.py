"""One hand of blackjack against RLCard's dealer: hit or stand.

A task is a deal: its deck seed fixes the order of the shoe, so two policies that play the same task draw the same
cards. The dealer draws below 17 and pays even money; there are no splits, doubles or naturals.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from evolvent.environments.errors import BadOptionError
from evolvent.environments.solo import SEAT, refusal, said
from evolvent.environments.splits import game_seed
from evolvent.environments.types import Action, Observation, Split, StepResult, Task

VERSION = 1
_MOVES = ("hit", "stand")
_RANKS = {"A": "ace", "T": "10", "J": "jack", "Q": "queen", "K": "king"}
_VALUES = {"A": 11, "T": 10, "J": 10, "Q": 10, "K": 10}
_RESULTS = {1: "You win.", 0: "It is a tie.", -1: "You lose."}


class Blackjack:
    players = (SEAT,)
    instructions = (
        "You play blackjack. Come closer to 21 than the dealer without going over. "
        "Face cards count 10, an ace 1 or 11. Hit takes a card, stand ends your turn."
    )
    max_steps = 10

    def __init__(self, *, situation: str = "exact") -> None:
        """`situation` words the frame: `exact` names the total and the dealer's card, `banded` only their bands."""
        if situation not in ("exact", "banded"):
            raise BadOptionError(f"blackjack: situation is 'exact' or 'banded', not {situation!r}.")
        self._banded = situation == "banded"
        self._hand: list[str] = []
        self._dealer: list[str] = []
        self._game: Any = None
        self._steps = 0

    def tasks(self, split: Split, n: int, seed: int) -> list[Task]:
        tasks = []
        for index in range(n):
            deck = game_seed("blackjack", split, seed, index)
            self._deal(deck)
            tasks.append(Task(f"blackjack/{split}/{deck}", self._opening(), "blackjack", {"deck": deck}))
        return tasks

    def reset(self, task: Task, seed: int) -> tuple[Observation, ...]:
        """Deal the task's hand; the deck alone decides the episode, whatever `seed` is."""
        self._deal(task.data["deck"])
        self._steps = 0
        return (self._turn(f"You have {_hand(self._hand)}."),)

    def step(self, actions: Mapping[str, Action]) -> StepResult:
        self._steps += 1
        move = said(actions)
        legal = move in _MOVES
        if legal:
            state, _ = self._game.step(move, raw_action=True)
            self._hand, self._dealer = state["raw_obs"]["state"]
        if self._game.is_over():
            payoff = int(self._game.get_payoffs()[0])
            story = self._drawn() if move == "hit" else f"You stand on {_total(self._hand)[0]}. {self._shown()}"
            return _end(f"{story} {_RESULTS[payoff]}", (payoff + 1) / 2, success=payoff > 0)
        text = self._drawn() if legal else refusal(move, _MOVES)
        if self._steps >= self.max_steps:
            return _end(f"{text} You ran out of moves.", 0.0, success=False)
        return StepResult((self._turn(text),), {SEAT: 0.0}, False, {"legal": legal})

    def close(self) -> None:
        self._game = None

    def _deal(self, deck: int) -> None:
        import rlcard

        self._game = rlcard.make("blackjack", config={"seed": deck})
        state, _ = self._game.reset()
        self._hand, self._dealer = state["raw_obs"]["state"]

    def _opening(self) -> str:
        first, second = map(_card, self._hand)
        return f"You are dealt {first} and {second}. The dealer shows {_card(self._dealer[0])}."

    def _turn(self, text: str) -> Observation:
        situation = self._band() if self._banded else f"{_hand(self._hand)} against {_card(self._dealer[0])}"
        return Observation(SEAT, text, _MOVES, frame=f"With {situation}, the best move is to {{action}}.")

    def _band(self) -> str:
        total, soft = _total(self._hand)
        hand = "11 or less" if total <= 11 else "12 to 16" if total <= 16 else "17 or more"
        shown = "a low card" if _total(self._dealer)[0] <= 6 else "a high card"
        return f"{'soft ' if soft else ''}{hand} against {shown}"

    def _drawn(self) -> str:
        total, _ = _total(self._hand)
        outcome = f"go over with {total}" if total > 21 else f"have {_hand(self._hand)}"
        return f"You draw {_card(self._hand[-1])} and {outcome}."

    def _shown(self) -> str:
        total, _ = _total(self._dealer)
        return f"The dealer has {total}{', over 21' if total > 21 else ''}."


def _end(text: str, reward: float, *, success: bool) -> StepResult:
    return StepResult((Observation(SEAT, text, None, must_act=False),), {SEAT: reward}, True, {"success": success})


def _total(cards: list[str]) -> tuple[int, bool]:
    """Best total, and whether an ace still counts 11. A card is suit and rank, such as `S9`."""
    total = sum(_VALUES.get(card[1], 0) or int(card[1]) for card in cards)
    high_aces = sum(card[1] == "A" for card in cards)
    while total > 21 and high_aces:
        total, high_aces = total - 10, high_aces - 1
    return total, high_aces > 0


def _hand(cards: list[str]) -> str:
    total, soft = _total(cards)
    return f"soft {total}" if soft else str(total)


def _card(card: str) -> str:
    rank = _RANKS.get(card[1], card[1])
    return f"{'an' if rank in ('ace', '8') else 'a'} {rank}"
