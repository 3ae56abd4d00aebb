"""Planning: a task in words, answered by a whole plan in one reply, judged by an exact simulation.

The domains are blocksworld, ballmoving and cooking, with three or four objects. For recipes: `domain_pddl` and
`problem_pddl` say a task in PDDL, `parse_plan` reads a reply, `validate` judges it. `pddl.read_domain` and
`pddl.read_problem` read the PDDL that a model wrote; `strips.solve`, `strips.check` and `strips.differences` plan in
it, judge a plan by it and compare it.
"""

from __future__ import annotations

import functools
import hashlib
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import get_args

from evolvent.environments import pddl, strips
from evolvent.environments.errors import BadOptionError
from evolvent.environments.planning_domains import WORLDS, instruction, shape
from evolvent.environments.solo import SEAT, written
from evolvent.environments.strips import Call, Domain, Plan, Problem, Verdict
from evolvent.environments.types import Action, Observation, Split, StepResult, Task

VERSION = 1
_SPLITS: tuple[Split, ...] = get_args(Split)
_IN_VAIN = 5000
"""Draws in a row that gave no new problem: the world has no more."""
_MARK = re.compile(r"^[^\w\n]*plan[^\w\n]*:", re.IGNORECASE | re.MULTILINE)
_CALL = re.compile(r"\(([^()]*)\)")


def domain_pddl(task: Task) -> str:
    """The rules of a task's domain as PDDL; the same text for all tasks of one domain."""
    return WORLDS[task.data["domain"]].pddl


def problem_pddl(task: Task) -> str:
    """Objects, initial facts and goal of a task as PDDL: what a perfect translator of its prompt would write."""
    text: str = task.data["problem"]
    return text


def parse_plan(reply: str) -> Plan:
    """The actions of a reply, in order: whatever stands in parentheses, in lower case.

    Where a line begins with `Plan:`, only what follows the last such line counts, so that there is room to think.
    Nothing is skipped: an action that there is not is a flaw of the plan, and so is a remark in parentheses.
    """
    *_, last = _MARK.split(reply)
    groups = (re.findall(r"[^\s,]+", found.lower()) or [""] for found in _CALL.findall(last))
    return tuple(Call(name, tuple(arguments)) for name, *arguments in groups)


def validate(task: Task, plan: Sequence[Call]) -> Verdict:
    """The first flaw of a plan, or that it has none. See `strips.check`; `Verdict.text` is feedback in words."""
    return strips.check(domain_of(task), problem_of(task), plan)


def domain_of(task: Task) -> Domain:
    """`domain_pddl` as a value."""
    return _domain(task.data["domain"])


def problem_of(task: Task) -> Problem:
    """`problem_pddl` as a value."""
    return _problem(task.data["domain"], problem_pddl(task))


@functools.cache
def _domain(name: str) -> Domain:
    return pddl.read_domain(WORLDS[name].pddl)


@functools.lru_cache(maxsize=512)
def _problem(domain: str, text: str) -> Problem:
    return pddl.read_problem(text, _domain(domain))


class Planning:
    """One reply an episode: the whole plan. Score 1 for a valid one, 0 for any other.

    A task's hidden data hold its `domain` and its `problem` (PDDL). What decides a task's split is its problem without
    the names, so the same problem never stands in two splits under other names.

    Args:
        domain: `blocksworld`, `ballmoving` or `cooking`.
        objects: blocks, balls or pots of a problem, 3 or 4; balls move among four rooms, six ingredients go into pots.

    Raises:
        BadOptionError: an option outside its range.
    """

    players = (SEAT,)
    max_steps = 1

    def __init__(self, *, domain: str = "blocksworld", objects: int = 3) -> None:
        if domain not in WORLDS:
            raise BadOptionError(f"planning: domain is one of {', '.join(WORLDS)}, not {domain!r}.")
        if objects not in (3, 4) or not isinstance(objects, int):
            raise BadOptionError(f"planning: objects is 3 or 4, not {objects!r}.")
        self._domain, self._objects = domain, objects
        self.instructions = (
            "You are a planner. Answer with the whole plan: each action on its own line and in parentheses, like "
            f"{WORLDS[domain].example}. Stop where the goal is reached. If you think first, begin the plan with Plan:"
        )
        self._task: Task | None = None

    def tasks(self, split: Split, n: int, seed: int) -> list[Task]:
        """`n` different problems, none of them solved from the start.

        Raises:
            BadOptionError: there are fewer.
        """
        rng = random.Random(f"planning/{self._domain}/{self._objects}/{split}/{seed}")
        world = WORLDS[self._domain]
        tasks: dict[str, Task] = {}
        in_vain = 0
        while len(tasks) < n and in_vain < _IN_VAIN:
            in_vain += 1
            problem = world.draw(rng, self._objects)
            if problem.initial.issuperset(problem.goal) or _split_of(shape(world, problem)) != split:
                continue
            task = self._task_of(split, problem)
            if task.id not in tasks:
                tasks[task.id], in_vain = task, 0
        if len(tasks) < n:
            raise BadOptionError(
                f"planning: {self._domain} with {self._objects} objects has {len(tasks)} {split} problems, not {n}. "
                "Ask for fewer."
            )
        return list(tasks.values())

    def reset(self, task: Task, seed: int) -> tuple[Observation, ...]:
        self._task = task
        return (Observation(SEAT, "Your plan:"),)

    def step(self, actions: Mapping[str, Action]) -> StepResult:
        if self._task is None:
            raise RuntimeError("reset comes before step")
        verdict = validate(self._task, parse_plan(written(actions)))
        end = Observation(SEAT, verdict.text, None, must_act=False)
        info = {"success": verdict.valid, "flaw": verdict.flaw, "legal": verdict.legal}
        return StepResult((end,), {SEAT: float(verdict.valid)}, True, info)

    def expert(self, task: Task) -> list[str]:
        """A shortest plan, as the one reply."""
        plan = strips.solve(domain_of(task), problem_of(task))
        assert plan is not None, f"every drawn problem can be solved: {task.id}"
        return ["\n".join(call.text for call in plan)]

    def close(self) -> None:
        self._task = None

    def _task_of(self, split: Split, problem: Problem) -> Task:
        key = hashlib.sha256(pddl.write_problem(problem).encode()).hexdigest()[:12]
        named = replace(problem, name=f"{self._domain}-{key}", domain=self._domain)
        return Task(
            id=f"{self._domain}-{self._objects}-{split}-{key}",
            prompt=instruction(WORLDS[self._domain], problem),
            environment="planning",
            data={"domain": self._domain, "problem": pddl.write_problem(named)},
            tags=(self._domain,),
        )


def _split_of(shape: str) -> Split:
    digest = hashlib.sha256(shape.encode()).digest()
    return _SPLITS[int.from_bytes(digest[:4]) % len(_SPLITS)]
