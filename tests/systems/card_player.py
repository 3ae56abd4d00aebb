"""A card player and a critic of known skill, for tests of systems that play: a policy in words, and what it earns."""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Sequence
from typing import Any

from evolvent.agents.models.scripted import ScriptedChatModel

STYLES = {"bold": ("raise", "call", "check"), "calm": ("check", "call"), "timid": ("check", "fold")}
"""What a policy may be, and which moves it prefers. Against `folds-to-raises` they earn +1.4, −0.1 and −0.8 chips a
hand of Leduc hold'em, over 60 hands."""
_STYLE = re.compile(r"Play it (\w+)\.")


def policy(style: str) -> str:
    return f"Play it {style}."


def player(
    critic: Callable[[str, int, str], str], *, say: Callable[[str], str] = lambda move: move
) -> ScriptedChatModel:
    """Who plays in the style of the policy, and writes policies as `critic` has it.

    Args:
        critic: (style that lost, how often it was written anew in vain, the hand) → the reply with the new policy.
        say: how an action is worded.
    """

    def reply(messages: Sequence[Any]) -> str:
        said = [str(message.text) for message in messages]
        whole = "\n".join(said)
        style = (_STYLE.findall(whole) or ["timid"])[0]
        if "whole policy anew" in said[-1]:
            return critic(style, whole.count("went no better"), whole)
        if "Go over it" in said[-1]:
            return "I misjudged the others."
        legal = re.findall(r"Answer with one of: (.*)", whole)[-1].split(" | ")
        move = next((move for move in STYLES[style] if move in legal), legal[0])
        mark = zlib.crc32(whole.encode())
        return f"Self-belief: self {mark}, my cards are fine.\nWorld-belief: world {mark}.\nAction: {say(move)}"

    return ScriptedChatModel(reply)
