"""What becomes of a program and its tests behind the sandbox's boundary, and the words in which a model is told of it.

Each run is made once and kept on the scratchpad. Which tests a program meets is the recipe's to say: the visible ones,
or some that a model wrote. The hidden ones are the environment's alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence

from evolvent.agents.solutions.scratchpad import Scratchpad
from evolvent.environments.code import program_of, visible_tests
from evolvent.environments.execution import Execution, Limits, Sandbox, TestResult
from evolvent.environments.types import Task, dump, load

RAN = "run"
"""Purpose under which runs are kept where a recipe has one kind of them."""
PASSED = "The program passes all of these tests."
_STOPPED = {
    "timeout": "It ran too long and was stopped.",
    "memory": "It asked for too much memory and was stopped.",
    "output": "It gave out too much and was stopped.",
    "unsupported": "It does something that cannot be run here.",
    "crashed": "Its process ended before the test was over.",
}


async def run_programs(
    pad: Scratchpad,
    programs: Mapping[str, str],
    number: int = 0,
    *,
    purpose: str = RAN,
    tests: Callable[[Task], Sequence[str]] = visible_tests,
    limits: Limits | None = None,
) -> dict[str, Execution]:
    """What became of these programs and their tests, by task; a resumed run does not run them again.

    Args:
        programs: by id of the task, one a task.
        number: tells runs of one purpose about one task apart: the version of the program.
        tests: those that a task's program is put to.

    Raises:
        NoBoundaryError: nothing here can isolate a program.
    """
    tasks = [task for task in pad.tasks if task.id in programs]
    with Sandbox(limits=limits) as sandbox:

        async def run(task: Task) -> str:
            async def tool() -> str:
                # Under what the prompt holds above the function; only tasks of `code` have such a head.
                program = program_of(programs[task.id], task if task.environment == "code" else None)
                # In a thread: waiting for the sandbox would hold up every model call.
                return dump(await asyncio.to_thread(sandbox.run, program, tests(task)))

            return await pad.run(task, purpose, tool, number)

        ran = await pad.each(run(task) for task in tasks)
    return {task.id: load(Execution, text) for task, text in zip(tasks, ran, strict=True)}


def executed(pad: Scratchpad, task: Task, number: int = 0, *, purpose: str = RAN) -> Execution | None:
    """What `run_programs` found; None where the program was not run."""
    known = pad.said(task, purpose, number)
    return None if known is None else load(Execution, known)


def failing(execution: Execution) -> TestResult | None:
    """The first test that did not pass."""
    return next((result for result in execution.tests if not result.passed), None)


def told(execution: Execution, result: TestResult | None = None) -> str:
    """One failing test with what was observed instead, and the last line of the error, word for word.

    Args:
        result: of the test that is told of; the first failing one by default.
    """
    result = result or failing(execution)
    if result is not None:
        return f"This test does not pass:\n{result.test}\n{came(result)}"
    if execution.passed:
        return PASSED
    return f"The program does not load.\n{_words(execution.outcome, execution.message)}"


def came(result: TestResult) -> str:
    """What came of a test that did not pass, without the test."""
    observed = f"Observed value: {result.observed}\n" if result.observed else ""
    return observed + _words(result.outcome, result.message)


def _words(outcome: str, message: str) -> str:
    """A program that is stopped says nothing itself."""
    return _STOPPED.get(outcome, message)
