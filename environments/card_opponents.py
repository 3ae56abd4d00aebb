"""Opponents at the card table: RLCard's own, and ours of known weakness. Deterministic, given their draws.

Each is a function of what RLCard shows the seat on turn. RLCard's are played from what its package ships and not by
its classes: those draw from numpy's global generator, and importing them runs `pip freeze` and imports torch (14 s).
"""

from __future__ import annotations

import importlib
import pickle
import random
import sys
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from evolvent.environments.poker import RANKS, made

Opponent = Callable[[Mapping[str, Any], random.Random], str]
"""(RLCard's state of the seat on turn, draws of this one decision) → a move, legal."""
_IDS = ("call", "raise", "fold", "check")
"""RLCard's numbers of the moves."""


def opponent(game: str, name: str) -> Opponent:
    """The one of that name, one of `OPPONENTS[game]`."""
    return _SHIPPED[game].get(name) or _OURS[name]


# -- RLCard's ------------------------------------------------------------------------------------------------------


def _cfr(state: Mapping[str, Any], rng: random.Random) -> str:
    """What RLCard found by 100 iterations of counterfactual regret minimisation (Zinkevich et al. 2007).

    No equilibrium: who raises pairs and first kings, and gives up what is beaten, wins half a chip a hand of it.
    """
    legal = list(state["legal_actions"])
    average = _average_policy().get(state["obs"].tobytes())
    weights = [1.0] * len(legal) if average is None else [float(average[move]) for move in legal]
    return _IDS[rng.choices(legal, weights if any(weights) else None)[0]]


@cache
def _average_policy() -> Mapping[bytes, Any]:
    """By observation: weights of the four moves."""
    import rlcard

    file = Path(rlcard.__file__).parent / "models" / "pretrained" / "leduc_holdem_cfr" / "average_policy.pkl"
    policy: Mapping[bytes, Any] = pickle.loads(file.read_bytes())  # It comes with the package, as its code does.
    return policy


def _rule(module: str, agent: str) -> Opponent:
    """A rule model of RLCard: no draws, the same move for the same state."""

    def play(state: Mapping[str, Any], rng: random.Random) -> str:
        move: str = getattr(_rules(module), agent).step(state)
        return _first(state, move, "check", "fold")

    return play


@cache
def _rules(module: str) -> ModuleType:
    """The module of rules, with a stand-in for its package, whose import is what takes so long."""
    import rlcard

    name = "rlcard.models"
    whole = sys.modules.get(name)
    if whole is None:
        sys.modules[name] = ModuleType(name)
        sys.modules[name].__path__ = [str(Path(rlcard.__file__).parent / "models")]
    try:
        return importlib.import_module(f"{name}.{module}")
    finally:
        if whole is None:
            del sys.modules[name]


# -- ours ----------------------------------------------------------------------------------------------------------


def _random(state: Mapping[str, Any], rng: random.Random) -> str:
    move: str = rng.choice(sorted(state["raw_legal_actions"]))
    return move


def _never_bluffs(state: Mapping[str, Any], rng: random.Random) -> str:
    """Raises with a strong hand alone, so that its raise may be believed and its check be raised."""
    held = strength(state)
    if held >= 0.7:
        return _first(state, *(("raise",) if rng.random() < 0.9 else ()), "check", "call")
    return _first(state, "check", *(("call",) if held >= 0.3 or rng.random() < 0.2 else ()), "fold")


def _calls_all(state: Mapping[str, Any], rng: random.Random) -> str:
    """Folds nothing and hardly raises: a good hand may be raised against it every time, and no bluff works."""
    return _first(state, *(("raise",) if rng.random() < 0.1 else ()), "check", "call")


def _folds_to_raises(state: Mapping[str, Any], rng: random.Random) -> str:
    """Gives up nearly every hand that is raised, so that any hand may be raised against it."""
    chips = state["raw_obs"]["all_chips"]
    raised = "call" in state["raw_legal_actions"] and max(chips) > 2  # more than the big blind
    if raised and strength(state) < 0.9 and rng.random() < 0.9:
        return "fold"
    return _first(state, *(("raise",) if rng.random() < 0.3 else ()), "check", "call")


def strength(state: Mapping[str, Any]) -> float:
    """How good the hand is, in [0, 1], by rules of thumb."""
    seen = state["raw_obs"]
    if isinstance(seen["hand"], str):
        paired = seen["public_card"] is not None and seen["public_card"][1] == seen["hand"][1]
        return 1.0 if paired else {"J": 0.1, "Q": 0.4, "K": 0.7}[seen["hand"][1]]
    hand, public = seen["hand"], seen["public_cards"]
    high = max(RANKS.index(card[1]) for card in hand) / 12
    if not public:
        return 0.5 + 0.5 * high if made(hand) else 0.7 * high
    own = made([*hand, *public]) - made(public)
    return min(1.0, 0.3 * high + 0.35 * own)


def _first(state: Mapping[str, Any], *moves: str) -> str:
    return next(move for move in moves if move in state["raw_legal_actions"])


_OURS: dict[str, Opponent] = {
    "random": _random,
    "never-bluffs": _never_bluffs,
    "calls-all": _calls_all,
    "folds-to-raises": _folds_to_raises,
}
_SHIPPED: dict[str, dict[str, Opponent]] = {
    "leduc": {
        "cfr": _cfr,
        "rule-v1": _rule("leducholdem_rule_models", "LeducHoldemRuleAgentV1"),
        # As shipped it looks for its king in the place of the suit, and folds every hand at its first turn.
        "rule-v2": _rule("leducholdem_rule_models", "LeducHoldemRuleAgentV2"),
    },
    "limit": {"rule-v1": _rule("limitholdem_rule_models", "LimitholdemRuleAgentV1")},
}
OPPONENTS: Mapping[str, tuple[str, ...]] = {game: (*shipped, *_OURS) for game, shipped in _SHIPPED.items()}
"""Names by game."""
