"""Policy-level reflection: from a lost hand to a new text of the whole policy (Agent-Pro, arXiv 2402.17574, §3.2).

The critic reads the policy, the hand with what was believed in it, and what was shown at the end. It says what went
wrong first, and then writes the policy anew; a lesson for one action in one situation is not asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from evolvent.agents.solutions.belief import told
from evolvent.agents.solutions.named_parts import named, named_parts
from evolvent.agents.solutions.scratchpad import assistant, user
from evolvent.environments.types import Message, Trajectory

_GUIDELINE, _WORLD = "Behavioural guideline:", "World modelling:"
_REFLECT = (
    "You play many hands by one policy:\n{policy}\nHere is one that went badly, with what you believed before each "
    "action:\n{hand}{again}\nGo over it. Were your beliefs about yourself and about the others right, as it turned "
    "out? Did your actions follow from them? Were they reasonable on what you could know then? Say what went wrong, "
    "and what of it holds for other hands as well."
)
_AGAIN = "\nThen you wrote the policy like this:\n{text}\nThe same hand went no better by it:\n{hand}"
_REWRITE = (
    "Now write the whole policy anew, for all hands to come. Keep what is good in it, and name no single hand. It has "
    f"two parts:\n{_GUIDELINE} what you aim at, how you decide, a short example.\n{_WORLD} what the rules and payoffs "
    "come to, and how each of the others plays."
)
_NAMES = named("behaviou?ral guidelines?", "guidelines?", "world[ -]modell?ing")


@dataclass(frozen=True, slots=True)
class PolicyText:
    """What a policy says, as far as words go."""

    guideline: str
    """How to behave."""
    world: str
    """What the game and the others in it are like."""

    def __str__(self) -> str:
        return f"{_GUIDELINE} {self.guideline}\n{_WORLD} {self.world}"


def read_policy(reply: str, before: PolicyText | None = None) -> PolicyText:
    """The two parts of a text; one that it lacks is as it was `before`. A text without names is all guideline."""
    parts = {name[0]: said for name, said in named_parts(reply, _NAMES).items()} or {"b": reply.strip()}
    old = before or PolicyText("", "")
    return PolicyText(parts.get("b") or parts.get("g") or old.guideline, parts.get("w") or old.world)


def reflection(policy: str, hand: Trajectory, again: Sequence[tuple[str, Trajectory]] = ()) -> list[Message]:
    """What the critic is asked about a hand.

    Args:
        again: the texts that it made of this hand before, each with the hand as it was played by it.
    """
    rules = [message for message in hand.steps[0].messages if message.part == "instructions"] if hand.steps else []
    more = "".join(_AGAIN.format(text=text, hand=told(replayed)) for text, replayed in again)
    return [*rules, user(_REFLECT.format(policy=policy, hand=told(hand), again=more))]


def rewriting(asked: Sequence[Message], said: str) -> list[Message]:
    """The same conversation, in which the critic has `said` what went wrong and is asked for the new text."""
    return [*asked, assistant(said), user(_REWRITE)]
