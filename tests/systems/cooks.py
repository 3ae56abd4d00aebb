"""A planner of known skill for the kitchen, which reads nothing but the newest message of its prompt."""

from __future__ import annotations

import random
import re
from typing import Any

from evolvent.agents.models.scripted import ScriptedChatModel

WRONG = ("deliver_soup()", "fill_dish()")
"""What it plans when it slips: seldom what the scene allows."""
FAILED = re.compile(r"cannot be carried out now\.(.*)")
_SCENE = re.compile(r"You hold (?P<me>[a-z ]+) and stand.*?Your partner holds (?P<partner>[a-z ]+) and stands")
_COOKS = re.compile(r"The pot at \(\d, \d\) (?:cooks|has a soup)")
_FINISHED = re.compile(r"Your partner really finished: (.*)\.$", re.MULTILINE)
_PUT = {"an onion": "put_onion_in_pot()", "a dish": "fill_dish()", "a soup": "deliver_soup()"}


def newest(messages: Any) -> str:
    return str(messages[-1].text)


def asked_why(messages: Any) -> bool:
    """Whether the explainer is asked, not the planner."""
    return "Which precondition" in newest(messages)


def right_skill(prompt: str, *, trusting: bool) -> str:
    """What the rules ask for next.

    Args:
        trusting: leaves the dishes to the partner, unless it is told what that one finished and no dish is among it.
    """
    scene, cooks, told = _SCENE.search(prompt), _COOKS.search(prompt), _FINISHED.search(prompt)
    assert scene is not None, prompt
    leaves_dishes = trusting and (told is None or "dish" in told[1])
    if scene["me"] == "nothing":
        return "pickup(dish)" if cooks and not leaves_dishes else "pickup(onion)"
    if scene["me"] == "an onion" and cooks:
        return "wait(3)" if leaves_dishes or scene["partner"] == "a dish" else "place_on_counter()"
    if scene["me"] == "a dish" and not cooks:
        return "wait(2)"
    return _PUT[scene["me"]]


def planner(wrong: float = 0.0, heeds: float = 1.0, *, trusting: bool = False, seed: int = 0) -> ScriptedChatModel:
    """Slips with probability `wrong`; told why a plan failed, it plans right with probability `heeds`.

    It expects its partner to fetch dishes, whatever it sees.
    """
    rng = random.Random(seed)

    def reply(messages: Any) -> str:
        prompt = newest(messages)
        if asked_why(messages):
            return "The hands hold the wrong thing for it."
        told = FAILED.search(prompt)
        slips = rng.random() >= heeds if told and told[1].strip() else rng.random() < wrong
        plan = rng.choice(WRONG) if slips else right_skill(prompt, trusting=trusting)
        return f"Analysis: Soup is wanted.\nIntention: pickup(dish)\nPlan: {plan}"

    return ScriptedChatModel(reply)
