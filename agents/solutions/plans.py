"""Plans in words: goals in order with what became of each. A plan stands in the prompts as a message of its own, so a
trajectory holds every version of it, and `course` reads from it which goal each call was made for.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, cast

from evolvent.agents.refinement.pipeline import Call
from evolvent.environments.types import Message, Step

Status = Literal["open", "at work", "met", "failed"]
"""Met and failed in the word of the one that acts."""
_HEAD = "Plan:"
_LINE = re.compile(r"(\d+)\. (.+) \[(open|at work|met|failed)(?: as in (\S+))?\]")
_LISTED = re.compile(r"^\W*(?:(?:goal|step)\s*)?\d+\s*[.):]\W*(\w.*)$", re.IGNORECASE | re.MULTILINE)
_MARK = re.compile(r"\s*\[[^\]]*\]\s*$")
_LONGEST_GOAL = 300
"""Characters of a goal; the rest of a runaway is cut."""


@dataclass(frozen=True, slots=True)
class Goal:
    text: str
    status: Status = "open"
    way: str = ""
    """Id of the record after which it is met without asking; empty where somebody has to act."""


Plan = tuple[Goal, ...]
"""In the order they are gone for; those behind the first open one are all open."""


@dataclass(frozen=True, slots=True)
class Leaf:
    """A goal, and the calls that were made for it."""

    goal: Goal
    calls: tuple[Call, ...] = ()


@dataclass(frozen=True, slots=True)
class Course:
    """How an episode went, as its steps tell."""

    plans: tuple[Plan, ...] = ()
    """Every version, the last one as it stood at the end."""
    leaves: tuple[Leaf, ...] = ()
    """The goals of the last version, each with its calls."""
    calls: tuple[Call, ...] = ()
    """All of them, in order; also those after the last goal."""

    @property
    def plan(self) -> Plan:
        return self.plans[-1] if self.plans else ()


def course(steps: Sequence[Step], call_of: Callable[[Step], Call]) -> Course:
    """What the steps so far tell of plan and calls."""
    plans: list[Plan] = []
    made: list[tuple[int | None, Call]] = []
    for step in steps:
        plans += plans_in(step.messages)
        made.append((at_work(plans[-1]) if plans else None, call_of(step)))
    # Goals that ended keep their places, whatever becomes of those behind them.
    last = plans[-1] if plans else ()
    leaves = (Leaf(goal, tuple(call for place, call in made if place == at)) for at, goal in enumerate(last))
    return Course(tuple(plans), tuple(leaves), tuple(call for _, call in made))


def told(plan: Plan, then: str) -> Message:
    """A plan as the one that acts is told it, and what to do now.

    It is part of the task: observations, which may say anything, are no plans.
    """
    lines = [
        f"{number}. {goal.text} [{goal.status}{f' as in {goal.way}' if goal.way else ''}]"
        for number, goal in enumerate(plan, 1)
    ]
    return Message("user", "task", "\n".join([_HEAD, *lines, then]))


def plans_in(messages: Sequence[Message]) -> list[Plan]:
    return [
        tuple(Goal(text, cast(Status, status), way) for _, text, status, way in _LINE.findall(message.text))
        for message in messages
        if message.part == "task" and message.text.startswith(f"{_HEAD}\n")
    ]


def goals_in(reply: str, most: int) -> list[str]:
    """Numbered lines of a reply, the first `most` of them."""
    found = (" ".join(_MARK.sub("", line).split()).strip(" *_")[:_LONGEST_GOAL] for line in _LISTED.findall(reply))
    return [text for text in found if text][:most]


def at_work(plan: Plan) -> int | None:
    """Place of the goal that is worked on."""
    return next((at for at, goal in enumerate(plan) if goal.status == "at work"), None)


def changed(plan: Plan, at: int, goal: Goal) -> Plan:
    return (*plan[:at], goal, *plan[at + 1 :])


def revised(plan: Plan, goals: Sequence[str]) -> Plan:
    """With other goals in place of the open ones; what has been met is not gone for again."""
    past = tuple(goal for goal in plan if goal.status != "open")
    met = {goal.text.casefold() for goal in past if goal.status == "met"}
    return (*past, *(Goal(text) for text in goals if text.casefold() not in met))


def begun(plan: Plan, way_for: Callable[[str], str]) -> Plan:
    """With the first open goal at work; the same where none is open."""
    at = next((at for at, goal in enumerate(plan) if goal.status == "open"), None)
    if at is None:
        return plan
    return changed(plan, at, replace(plan[at], status="at work", way=way_for(plan[at].text)))
