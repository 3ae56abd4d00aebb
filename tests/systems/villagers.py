"""Simulated people of `society`: who acts by its traits alone, and a breeder who knows nothing of norms."""

from __future__ import annotations

import random
import re
from typing import Any

from evolvent.agents.models.scripted import ScriptedChatModel
from evolvent.agents.tasks.profiles import DISPOSITIONS
from evolvent.environments.society import MATTERS

_SCENES = {
    "greeting": ("and you need it", "greet", "at once"),
    "gossip": ("a secret about", "something else", "listen"),
    "surplus": ("than you need, and", "give", "keep all"),
    "debt": ("lent you", "today", "until"),
    "fault": ("makes a mistake", "tell", "leave the mistake"),
    "gift": ("as a gift", "decline", "first offer"),
    "queue": ("wait in line", "go first", "keep your place"),
    "quarrel": ("quarrel about", "step between", "leave"),
}
"""By matter: what a situation says, and what the one way to act says and the other."""
_NUMBERED, _LIST = re.compile(r"^(\d+)\. (.*)$", re.MULTILINE), re.compile(r"^- (.*)$", re.MULTILINE)
OPPOSITE = {one: other for pair in DISPOSITIONS for one, other in (pair, pair[::-1])}


def way_of(traits: list[str], matter: str) -> int | None:
    """How somebody with these traits acts; the last one counts, and without one about it there is no way."""
    pair = DISPOSITIONS[MATTERS.index(matter)]
    found = [pair.index(trait) for trait in traits if trait in pair]
    return found[-1] if found else None


def acted(prompt: str) -> str:
    """What a villager replies, by its traits; sums are beyond its character."""
    if "village" not in prompt:
        return "3 times 4 is 12. The answer is 12."
    told = prompt.rpartition("You remember:")[2] if "You remember:" in prompt else prompt
    # The task is the last thing before the question, memories stand before it.
    task = next(line for line in reversed(told.splitlines()) if not line.startswith("- ") and " you meet " in line)
    matter, (_, *ways) = next((name, words) for name, words in _SCENES.items() if words[0] in task)
    person = prompt.partition("You are this person:")[2].partition("You remember:")[0]
    way = way_of(_LIST.findall(person), matter)
    if task.startswith("Statement"):
        asked = next(number for number, word in enumerate(ways) if word in task.partition("You should ")[2])
        return "agree" if asked == way else "disagree"
    options = re.findall(r"Answer with one of: (.*)", prompt)[-1].split(" | ")
    done = "walk on" if way is None else ways[way]
    return next(option for option in options if done in option)


def bred(prompt: str) -> str:
    """What a breeder replies: one number of each pair of opposites, the opposite of a trait, or one not yet there."""
    rng = random.Random(prompt)
    if "numbers" in prompt:
        numbers: dict[frozenset[str], list[str]] = {}
        for number, trait in _NUMBERED.findall(prompt):
            numbers.setdefault(frozenset((trait, OPPOSITE.get(trait, trait))), []).append(number)
        return ", ".join(rng.choice(each) for each in numbers.values())
    if replaced := re.findall(r"in place of this one: (.*)", prompt):
        return OPPOSITE.get(replaced[0], replaced[0])
    person = _LIST.findall(prompt)
    free = [trait for pair in DISPOSITIONS if not {*pair} & {*person} for trait in pair]
    return rng.choice(free or [*OPPOSITE])


def text(messages: Any) -> str:
    return "\n".join(str(message.text) for message in messages)


def villager() -> ScriptedChatModel:
    return ScriptedChatModel(lambda messages: acted(text(messages)))


def breeder() -> ScriptedChatModel:
    return ScriptedChatModel(lambda messages: bred(text(messages)))
