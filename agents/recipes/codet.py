"""CodeT: Code Generation with Generated Tests (arXiv 2207.10397).

The model writes programs and, apart from them, tests; every program is run on every test. Programs that pass the same
tests form a group, and the best group has many members and many passed tests. One generation is one pass over new
tasks, measured beside a random sample: the first program of each task.

Deviations from the paper:
- A program is what the environment reads out of a reply; it is not cut at a second definition, `if` or `print`, which
  would lose helper functions.
- A chat model is asked for tests by a user's turn that ends in an opening `assert`; there is no nucleus sampling.
- Examples are found in the docstring by their form (`>>>`, or a line that calls the function), not by hand.
- One program is handed in, so pass@1 is measured and pass@k is not.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import Any

from langgraph.graph import StateGraph
from langgraph.runtime import Runtime
from pydantic import BaseModel, ConfigDict, Field

from evolvent.agents import answering
from evolvent.agents.context import Context
from evolvent.agents.evolution import State, cycle
from evolvent.agents.feedback.written_tests import assertions, question
from evolvent.agents.refinement.agreement import SolutionWeight, agreement, best
from evolvent.agents.solutions.scratchpad import Scratchpad
from evolvent.environments.code import entry_point, program_of, signature
from evolvent.environments.execution import Limits, Sandbox
from evolvent.environments.types import Task

ROLES = ("actor", "tester")
ENVIRONMENTS = ("code",)
CARRIES_OVER = False
"""Programs and tests serve the task they were sampled for."""

_START_S = 10.0
"""By the clock, for the sandbox to start; its tests come on top."""
_HEADING = re.compile(r"\W*(for )?(e\.g|examples?)\W*", re.IGNORECASE)
_QUOTES = re.compile(r"\"\"\"|'''")


class Config(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    solutions: int = Field(4, ge=1)
    """Programs sampled for a task."""
    test_samples: int = Field(3, ge=1)
    """Replies sampled with tests in them."""
    tests_per_sample: int = Field(5, ge=1)
    """The first so many assertions of a reply are taken."""
    temperature: float = Field(0.8, ge=0)
    """Of both."""
    reply_tokens: int = Field(80, ge=1)
    """Of one program, or one reply with tests, at most."""
    test_s: float = Field(0.1, gt=0)
    """CPU seconds that one assertion may take."""
    solution_weight: SolutionWeight = "sqrt"
    """How members count in a group's score: `sqrt` as in the released code, `count` as in the paper's formula."""


PRESETS = {"small": Config(), "paper": Config(solutions=100, test_samples=100, reply_tokens=300)}


def build(config: Config) -> StateGraph[State, Context, State, State]:
    """Per generation: tasks → sample → write_tests → execute → agree → submit → evaluate."""

    async def sample(state: State, runtime: Runtime[Context]) -> State:
        """Independent programs from one and the same prompt, which shows no example."""
        context, pad = runtime.context, Scratchpad(runtime.context, state)
        context.say(f"generation {state['generation']}: sampling {config.solutions} programs of {len(pad.tasks)} tasks")
        plain = {task.id: replace(task, prompt=without_examples(task.prompt, entry_point(task))) for task in pad.tasks}
        prompts = {task.id: await pad.question(plain[task.id]) for task in pad.tasks}
        await pad.each(
            pad.ask(
                task,
                "solution",
                prompts[task.id],
                number,
                temperature=config.temperature,
                max_tokens=config.reply_tokens,
            )
            for task in pad.tasks
            for number in range(config.solutions)
        )
        return {}

    async def write_tests(state: State, runtime: Runtime[Context]) -> State:
        """Assertions about the same function. The tester never sees a program."""
        pad = Scratchpad(runtime.context, state)
        heads = {task.id: without_examples(signature(task), entry_point(task)) for task in pad.tasks}
        await pad.each(
            pad.ask(
                task,
                "tests",
                question(heads[task.id], entry_point(task)),
                number,
                role="tester",
                temperature=config.temperature,
                max_tokens=config.reply_tokens,
            )
            for task in pad.tasks
            for number in range(config.test_samples)
        )
        return {}

    async def execute(state: State, runtime: Runtime[Context]) -> State:
        """Every different program meets every different assertion."""
        context, pad = runtime.context, Scratchpad(runtime.context, state)
        context.say(f"generation {state['generation']}: running programs on the tests written for them")

        async def run(task: Task) -> str:
            programs, tests = list(dict.fromkeys(_programs(pad, task))), list(dict.fromkeys(_tests(pad, task, config)))
            # A test may take four times its CPU seconds by the clock.
            limits = Limits(wall_s=_START_S + 4 * config.test_s * len(tests), test_s=config.test_s)

            async def tool() -> str:
                if not tests:
                    return "{}"
                with Sandbox(limits=limits) as sandbox:
                    ran = await asyncio.to_thread(sandbox.run_all, programs, tests)
                passed = [[each.test for each in execution.tests if each.passed] for execution in ran]
                return json.dumps(dict(zip(programs, passed, strict=True)))

            return await pad.run(task, "passed", tool)

        await pad.each(run(task) for task in pad.tasks)
        return {}

    async def agree(state: State, runtime: Runtime[Context]) -> State:
        """One program of the best group, by lot; of all programs where none passes anything."""
        context, pad = runtime.context, Scratchpad(runtime.context, state)
        for task in pad.tasks:
            groups = agreement(_passes(pad, task, config), config.solution_weight)
            said = [place for place, reply in enumerate(pad.every(task, "solution")) if reply] or [0]
            rng = context.rng("codet", state["generation"], task.id)
            told = {"chosen": rng.choice(best(groups) or said), "groups": [asdict(group) for group in groups]}
            pad.note(task, "agreement", json.dumps(told))
        return {}

    async def evaluate(state: State, runtime: Runtime[Context]) -> State:
        """Beside a random sample."""
        pad = Scratchpad(runtime.context, state)
        tests = {task.id: len(_tests(pad, task, config)) for task in pad.tasks}
        groups = {task.id: _agreement(pad, task)["groups"] for task in pad.tasks}
        more = {"tests": tests, "groups": groups, "solution_weight": config.solution_weight}
        return await answering.evaluate(state, runtime, direct="solution", more=more)

    return cycle(
        {},
        {
            "tasks": answering.tasks,
            "sample": sample,
            "write_tests": write_tests,
            "execute": execute,
            "agree": agree,
            "submit": partial(answering.submit, answer=_answer),
            "evaluate": evaluate,
        },
    )


def without_examples(text: str, name: str) -> str:
    """The task or the head of the function without lines that show what it returns.

    Such are `>>>` lines with the value below them, other lines that say what a call gives, and a heading above them.
    """
    says = re.compile(rf"(?<!def )\b{re.escape(name)}\(.*\).*(=|->|➞|→|\bis\b|\breturns?\b)")
    kept: list[str] = []
    shown = False
    for line in text.splitlines():
        shown = line.lstrip().startswith(">>>") or (shown and bool(line.strip()))
        if not (shown or says.search(line) or _HEADING.fullmatch(line)):
            kept.append(line)
        elif quotes := _QUOTES.findall(line):  # the docstring's own stay
            kept.append(line[: len(line) - len(line.lstrip())] + "".join(quotes))
            shown = False
    return "\n".join(kept)


def _programs(pad: Scratchpad, task: Task) -> list[str]:
    """Of the samples, in order; a reply that says nothing is a program that defines nothing."""
    return [program_of(reply, task) for reply in pad.every(task, "solution")]


def _tests(pad: Scratchpad, task: Task, config: Config) -> list[str]:
    """Of all samples, in order and with duplicates."""
    replies = pad.every(task, "tests")
    return [text for reply in replies for text in assertions(reply, entry_point(task), config.tests_per_sample)]


def _passes(pad: Scratchpad, task: Task, config: Config) -> Sequence[Sequence[bool]]:
    """A row a sampled program, a column a sampled test."""
    passed: dict[str, list[str]] = json.loads(pad.said(task, "passed") or "{}")
    tests = _tests(pad, task, config)
    return [[test in passed.get(program, ()) for test in tests] for program in _programs(pad, task)]


def _agreement(pad: Scratchpad, task: Task) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(pad.said(task, "agreement") or "{}")
    return found


def _answer(pad: Scratchpad, task: Task) -> str:
    """The chosen reply, whole."""
    chosen: int = _agreement(pad, task)["chosen"]
    return pad.every(task, "solution")[chosen]
