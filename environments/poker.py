"""Playing cards as RLCard writes them (`SK` is the king of spades), in words, and what a hand of them makes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence

RANKS = "23456789TJQKA"
_WORDS = {"T": "10", "J": "jack", "Q": "queen", "K": "king", "A": "ace"}
_SUITS = {"S": "spades", "H": "hearts", "D": "diamonds", "C": "clubs"}
MADE = (
    "a high card", "a pair", "two pairs", "three of a kind", "a straight", "a flush", "a full house", "four of a kind",
    "a straight flush",
)  # fmt: skip


def rank(card: str) -> str:
    """`king`, `9`."""
    return _WORDS.get(card[1], card[1])


def a_rank(card: str) -> str:
    return f"{'an' if card[1] in '8A' else 'a'} {rank(card)}"


def named(card: str) -> str:
    return f"the {rank(card)} of {_SUITS[card[0]]}"


def listed(words: Sequence[str], joint: str = "and") -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} {joint} {words[-1]}"


def made(cards: Collection[str]) -> int:
    """The best that these cards make, as an index of `MADE`; of fewer than five, pairs and their like alone."""
    often = [count for _, count in Counter(card[1] for card in cards).most_common()]
    flush: set[str] = set()
    for suit in _SUITS:
        of_suit = {card[1] for card in cards if card[0] == suit}
        if len(of_suit) >= 5:
            flush = of_suit
    if _straight(flush):
        return 8
    if often[0] == 4:
        return 7
    if often[0] == 3 and len(often) > 1 and often[1] >= 2:
        return 6
    if flush:
        return 5
    if _straight({card[1] for card in cards}):
        return 4
    if often[0] == 3:
        return 3
    if often[0] == 2:
        return 2 if len(often) > 1 and often[1] == 2 else 1
    return 0


def _straight(ranks: set[str]) -> bool:
    """Five in a row; an ace stands before the 2 as well."""
    row = "A" + RANKS
    return any(set(row[low : low + 5]) <= ranks for low in range(len(row) - 4))
