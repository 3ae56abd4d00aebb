"""A program is written against tests that its writer wrote itself, with a reflection between two versions of it.

The code variant of Reflexion (arXiv 2303.11366, §4.3), as phases for a graph. What stops the loop are the model's own
tests; the environment judges what is handed in, after the loop and once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType

from langgraph.runtime import Runtime

from evolvent.agents import answering
from evolvent.agents.context import Context
from evolvent.agents.evolution import Node, State
from evolvent.agents.feedback.execution import came, executed, run_programs, told
from evolvent.agents.feedback.written_tests import assertions, question
from evolvent.agents.refinement.repair import PROGRAM, fenced, last_program, revise, version
from evolvent.agents.solutions.scratchpad import Scratchpad, user
from evolvent.environments.code import entry_point, signature
from evolvent.environments.execution import Execution, Limits, TestResult
from evolvent.environments.types import Message, Task

LOOPS: Mapping[str, str] = MappingProxyType({"implement_again": "run_tests"})
"""For `cycle`, with the phases."""

REFLECTOR = "You learn from your own programs that failed their tests."
REFLECT = (
    "Do not write a program now. Say in a few short sentences what is wrong with this one and how the next one should "
    "differ."
)
PREVIOUS = "Your previous program was:"
AGAIN = "Write the whole program again, better, in one code block."


@dataclass(frozen=True, slots=True)
class SelfTesting:
    tests: int
    """Self-written ones that are kept."""
    iterations: int
    """New implementations of one task at most."""
    show_attempt: bool
    """A new implementation is written from the one before it and from what its tests said."""
    reflect: bool
    """And from a reflection on both."""
    temperature: float
    """Of implementations."""
    reply_tokens: int
    """Of an implementation, or of a reply with tests, at most."""
    reflection_tokens: int
    test_s: float = 5.0
    """CPU seconds that one self-written test may take."""


def phases(setting: SelfTesting) -> dict[str, Node]:
    """Per generation: draw → write_tests → implement → (run_tests → reflect_on_tests → implement_again)* → …"""

    async def write_tests(state: State, runtime: Runtime[Context]) -> State:
        """Before there is a program."""
        pad = Scratchpad(runtime.context, state)
        await pad.each(
            pad.ask(task, "tests", question(signature(task), entry_point(task)), max_tokens=setting.reply_tokens)
            for task in pad.tasks
        )
        return {}

    async def implement(state: State, runtime: Runtime[Context]) -> State:
        """The first programs."""
        context, pad = runtime.context, Scratchpad(runtime.context, state)
        context.say(f"generation {state['generation']}: writing {len(pad.tasks)} programs and tests for them")
        await _implement(state, runtime, 0)
        return {}

    async def run_tests(state: State, runtime: Runtime[Context]) -> State:
        """The latest programs meet their writer's tests. One that passes is done; after the last iteration all are."""
        pad, number = Scratchpad(runtime.context, state), state["round"]
        programs = {task.id: version(pad, task, number) for task in pad.open}
        limits = Limits(test_s=setting.test_s, wall_s=4 * setting.test_s * (setting.tests + 1))
        ran = await run_programs(pad, programs, number, tests=lambda task: own_tests(pad, task, setting), limits=limits)
        failing = [task for task, found in ran.items() if not found.passed]
        return {"open": [] if number == setting.iterations else failing}

    async def reflect_on_tests(state: State, runtime: Runtime[Context]) -> State:
        """What is wrong with a program, in words."""
        pad, number = Scratchpad(runtime.context, state), state["round"]
        await pad.each(
            pad.ask(
                task,
                "reflect",
                (
                    Message("system", "instructions", REFLECTOR),
                    user(task.prompt),
                    user(_attempt(pad, task, number)),
                    user(REFLECT),
                ),
                number,
                role="reflector",
                max_tokens=setting.reflection_tokens,
            )
            for task in (pad.open if setting.reflect else [])
        )
        return {}

    async def implement_again(state: State, runtime: Runtime[Context]) -> State:
        """The next version, from the one before it, from what its tests said, and from the reflection on both."""
        await _implement(state, runtime, state["round"] + 1)
        return {"round": state["round"] + 1}

    async def _implement(state: State, runtime: Runtime[Context], number: int) -> None:
        pad = Scratchpad(runtime.context, state)
        prompts = {task.id: [*await pad.question(task), *_seen(pad, task, number)] for task in pad.open}
        await pad.each(
            pad.ask(
                task,
                "implement",
                prompts[task.id],
                number,
                temperature=setting.temperature,
                max_tokens=setting.reply_tokens,
            )
            for task in pad.open
        )
        for task in pad.open:
            revise(pad, task, pad.said(task, "implement", number) or "", number)

    def _seen(pad: Scratchpad, task: Task, number: int) -> list[Message]:
        """What stands behind the task in the prompt of that version."""
        if not number or not setting.show_attempt:
            return []
        reflection = pad.said(task, "reflect", number - 1)
        shown = [_attempt(pad, task, number - 1), f"Your reflection on it:\n{reflection}" if reflection else "", AGAIN]
        return [user(text) for text in shown]

    async def compare(state: State, runtime: Runtime[Context]) -> State:
        """Beside the first programs, with what the self-written tests said of the last: they may well be wrong."""
        pad = Scratchpad(runtime.context, state)
        again = {task.id: len(pad.every(task, PROGRAM)) - 1 for task in pad.tasks}
        ran = {task.id: executed(pad, task, again[task.id]) for task in pad.tasks}
        more = {
            "reflections": sum(len(pad.every(task, "reflect")) for task in pad.tasks),
            "implemented_again": again,
            "own_tests": {task.id: len(own_tests(pad, task, setting)) for task in pad.tasks},
            "own_tests_passed": {task: found.passed for task, found in ran.items() if found is not None},
        }
        return await answering.evaluate(state, runtime, direct="implement", more=more)

    return {
        "draw": answering.tasks,
        "write_tests": write_tests,
        "implement": implement,
        "run_tests": run_tests,
        "reflect_on_tests": reflect_on_tests,
        "implement_again": implement_again,
        "submit": partial(answering.submit, answer=last_program),
        "compare": compare,
    }


def own_tests(pad: Scratchpad, task: Task, setting: SelfTesting) -> tuple[str, ...]:
    """Those of the model's words that are tests of the function; may be empty, and then a program only has to load."""
    return assertions(pad.said(task, "tests") or "", entry_point(task), setting.tests)


def _attempt(pad: Scratchpad, task: Task, number: int) -> str:
    ran = executed(pad, task, number)
    assert ran is not None, "a version is run before it is talked about"
    return f"{PREVIOUS}\n{fenced(version(pad, task, number))}\n{_results(ran)}"


def _results(ran: Execution) -> str:
    """Every self-written test with what came of it."""
    if not ran.tests:
        return told(ran)
    said = [
        each.test + "  # " + ("passes" if each.passed else "; ".join(came(each).splitlines())) for each in ran.tests
    ]
    return "\n".join(["Your tests of it:", *said])


def _came(result: TestResult) -> str:
    return "passes" if result.passed else "; ".join(came(result).splitlines())
