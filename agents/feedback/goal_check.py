"""Whether a goal of a plan was met, by more than the word of the one that worked on it: for worlds of errands.

Reads what the observations of `toolbox` say, and nothing that an agent is not told.
"""

from __future__ import annotations

from collections.abc import Sequence

from evolvent.agents.refinement.pipeline import Call
from evolvent.agents.solutions.plans import Leaf
from evolvent.environments.errors import MalformedCallError
from evolvent.environments.tool_calls import read_call
from evolvent.environments.toolbox import SUBMIT, failed
from evolvent.environments.toolbox_tools import fields
from evolvent.environments.types import Step
from evolvent.memory.embedding import words

_LIKE = 0.5
"""Share of words from which on a goal of a plan is one of the task's own subgoals."""


def call_of(step: Step) -> Call:
    """What a step called and what that found; a text that was no call has failed."""
    try:
        made = read_call(step.action.text)
    except MalformedCallError:
        return Call("", failed=True)
    return Call(made.name, made.arguments, fields(step.result), failed(step.result))


def stands(leaf: Leaf, own: Sequence[str], told: Sequence[bool]) -> bool:
    """Whether a goal was met by more than the word of the one that acted: its last call ran, and the environment says
    that the subgoal it is was met; where it is none of them, that all were.

    Who hands in with a goal at work says by it that the goal is met.
    """
    calls = calls_for(leaf)
    handed_in = leaf.goal.status == "at work" and len(calls) < len(leaf.calls)
    if not (leaf.goal.status == "met" or handed_in) or not told or not calls or calls[-1].failed:
        return False
    shares = [_shared(leaf.goal.text, goal) for goal in own]
    best = max(shares, default=0.0)
    return told[shares.index(best)] if best >= _LIKE else all(told)


def _shared(one: str, other: str) -> float:
    """Share of the words of both that both hold, in [0, 1]."""
    a, b = set(words(one)), set(words(other))
    return len(a & b) / max(1, len(a | b))


def calls_for(leaf: Leaf) -> list[Call]:
    """Its calls without the one that ends the task."""
    return [call for call in leaf.calls if call.tool != SUBMIT]
