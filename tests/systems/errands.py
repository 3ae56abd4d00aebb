"""Scripted runners of toolbox errands: they plan and act from the conversation alone, as well as they are told to."""

from __future__ import annotations

import re
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache
from typing import get_args

from evolvent.agents.models.scripted import Messages, ScriptedChatModel
from evolvent.environments.errors import MalformedCallError
from evolvent.environments.tool_calls import read_call, write_call
from evolvent.environments.toolbox import Toolbox, subgoals
from evolvent.environments.types import Split, Task

CALLS = {"order": (3, 1), "sum": (3, 1), "parcel": (2, 2), "cargo": (2, 2), "lightest": (1, 2), "letter": (2, 1, 1)}
"""By family: how many of the chain's calls each subgoal takes."""
Way = Callable[[Task, str, list[str]], Sequence[str]]
"""(task, goal, the right calls for it) -> what is written for it, one after the other."""


@cache
def tasks(split: Split, seed: int = 0, family: str = "") -> list[Task]:
    """The first of what a run with this seed, or in a generation of this number, may draw."""
    return Toolbox(family=family).tasks(split, 160 if split == "validation" else 24, seed)


def right(task: Task, *, renamed: bool = False) -> dict[str, list[str]]:
    """The calls for each subgoal, and under "" the one that hands in."""
    *chain, last = Toolbox(renamed=renamed).expert(task)
    found: dict[str, list[str]] = {}
    for goal, count in zip(subgoals(task), CALLS[task.data["family"]], strict=True):
        found[goal], chain = chain[:count], chain[count:]
    return {**found, "": [last]}


def runner(
    *,
    way: Way = lambda task, goal, calls: [*calls, "done"],
    plan: Callable[[Task, str], Sequence[str]] = lambda task, shown: subgoals(task),
    revise: Callable[[Task, str], Sequence[str]] = lambda task, said: (),
    skill: float = 1.0,
    yes: bool = True,
    branch: str = "1",
) -> ScriptedChatModel:
    """
    Args:
        plan: by task and whole prompt; `revise` gives the goals that are left, none of them for an unchanged plan.
        skill: probability that it writes a call, or that a goal is done, rather than muse.
        yes: what it says when it is asked to confirm a call; `branch` when it is asked which call comes next.
    """

    def reply(messages: Messages) -> str:
        said = [str(message.text) for message in messages]
        whole, last = "\n".join(said), said[-1]
        task = _task(whole)
        calls = right(task, renamed="consult(" in said[1])
        if "Do not act yet" in last:
            return _listed(plan(task, whole))
        if last.endswith("or: unchanged"):
            return _listed(revise(task, last)) or "unchanged"
        if asked := re.search(r'For the goal "(.+)" the next call is (\w+)\. What is its (\w+)\?', last):
            return _value(calls.get(asked[1], []), asked[2], asked[3])
        if "which cannot be undone" in last or "Reply with its number" in last:
            return branch if "number" in last else "yes" if yes else "no"
        goal = _goal(whole)
        written = way(task, goal, calls.get(goal, [])) if goal else calls[""]
        own = [str(message.text) for message in messages if message.type == "ai"]
        if zlib.crc32(f"{task.id} {len(own)}".encode()) % 1000 >= 1000 * skill:
            return "Let me think about that."
        return _next(written, own)

    return ScriptedChatModel(reply)


def _task(whole: str) -> Task:
    (prompt,) = set(re.findall(r"^First .+\. Submit .+\.$", whole, re.MULTILINE))
    places = ((split, seed, family) for family in ("", *CALLS) for split in get_args(Split) for seed in range(3))
    return next(task for place in places for task in tasks(*place) if task.prompt == prompt)


def _goal(whole: str) -> str:
    """The goal at work; empty where none is left."""
    _, _, plan = whole.rpartition("Plan:\n")
    found = re.search(r"^\d+\. (.+) \[at work", plan, re.MULTILINE)
    return found[1] if found else ""


def _next(written: Sequence[str], own: Sequence[str]) -> str:
    """The first thing that was not written yet."""
    made = Counter(map(_plain, own))
    for text in written:
        if not made[_plain(text)] or text == "done":
            return text
        made[_plain(text)] -= 1
    return "done"


def _plain(text: str) -> str:
    try:
        return write_call(read_call(text))
    except MalformedCallError:
        return text


def _value(calls: Sequence[str], tool: str, slot: str) -> str:
    same = {"consult": "lookup"}
    made = [read_call(text) for text in calls]
    of_tool = [call.arguments for call in made if same.get(call.name, call.name) == same.get(tool, tool)]
    return str(of_tool[0][slot]) if of_tool else "nobody knows"


def _listed(goals: Sequence[str]) -> str:
    return "\n".join(f"{number}. {goal}" for number, goal in enumerate(goals, 1))
