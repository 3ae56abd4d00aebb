"""Self-Debugging: Teaching Large Language Models to Self-Debug (arXiv 2304.05128).

A model runs its program on the tests it was shown, is told what came of it, gives an account of its own program (an
explanation or a simulated run), and repairs it, turn after turn in one dialogue that opens with a demonstration.
Without tests its own conclusion says whether the program is right. Measured beside the programs it began with.

Deviations from the paper:
- The first program is greedy. The majority vote over execution results belongs to its text-to-SQL runs.
- Explanations and traces come on top of the failing test, the paper's strongest form; without tests the model
  explains and concludes, and a reply that concludes nothing ends the dialogue as a right one does.
- A reply that does not define the function leaves the program as it was; the turn counts.
- The solved examples before the first program are the environment's own; the demonstration is ours, one for each kind
  of feedback.
"""

from __future__ import annotations

import re
from functools import partial
from typing import Literal, Self

from langgraph.graph import StateGraph
from langgraph.runtime import Runtime
from pydantic import BaseModel, ConfigDict, Field, model_validator

from evolvent.agents import answering
from evolvent.agents.context import Context
from evolvent.agents.evolution import Node, State, cycle
from evolvent.agents.feedback.execution import executed, run_programs, told
from evolvent.agents.refinement.repair import PROGRAM, fenced, last_program, revise, version
from evolvent.agents.solutions.scratchpad import Scratchpad, assistant, user
from evolvent.agents.solutions.shots import examples
from evolvent.environments.code import visible_tests
from evolvent.environments.types import Message, Task

ROLES = ("actor",)
ENVIRONMENTS = ("code",)
CARRIES_OVER = False
"""A dialogue is about one program and ends with it."""

WRONG = "The program above is wrong."
EXPLAIN = "Explain the program line by line in a few short sentences."
TRACE = "Go through the program on this test line by line and write down what each variable becomes."
CONCLUDE = (
    "Compare your explanation with what the task asks for. End with one line: "
    '"Conclusion: right" or "Conclusion: wrong".'
)
FIX = "Write the whole program again, without the fault, in one code block."
_CONCLUSION = re.compile(r"conclusion\W+(?:the program is\s+)?(right|correct|wrong|incorrect)", re.IGNORECASE)

DEMO_TASK = "Write a function total_even(numbers) that returns the sum of the even numbers in a list."
DEMO_WRONG = """\
def total_even(numbers):
    total = 0
    for number in numbers:
        if number % 2:
            total += number
    return total"""
DEMO_RIGHT = DEMO_WRONG.replace("if number % 2:", "if number % 2 == 0:")
DEMO_TOLD = "This test does not pass:\nassert total_even([1, 2, 4]) == 6\nObserved value: 1\nAssertionError"
DEMO_EXPLANATION = (
    "total begins at 0. The loop takes each number. number % 2 is 1 for an odd number, and the condition holds for 1, "
    "so odd numbers are added. The function returns the sum of the odd numbers."
)
DEMO_TRACE = (
    "numbers = [1, 2, 4], total = 0. number = 1: 1 % 2 is 1, total = 1. number = 2: 2 % 2 is 0, total stays 1. "
    "number = 4: 4 % 2 is 0, total stays 1. It returns 1; the test wants 6, the sum of 2 and 4."
)
DEMO_CONCLUSION = "The task asks for the even numbers, the program adds the odd ones.\nConclusion: wrong"
DEMO_AGAIN = "total begins at 0. number % 2 == 0 holds for even numbers. The function returns their sum."
DEMO_AGREED = "The task asks for the sum of the even numbers, and so does the program.\nConclusion: right"


class Config(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    feedback: Literal["simple", "tests", "explanation", "trace"] = "tests"
    """What a repair is made from. `simple`: that the program is wrong. `tests`: the failing test with what was observed
    instead. The others add the model's own account of the program to that."""
    tests_shown: int = Field(1, ge=0)
    """So many of a task's visible tests are run. With 0 the model judges, which wants `feedback=explanation`."""
    max_turns: int = Field(2, ge=0)
    """Repairs of one program at most."""
    shots: int = Field(1, ge=0)
    """Solved examples before the first program."""
    reply_tokens: int = Field(112, ge=1)
    """Of a program or an account of one at most."""

    @model_validator(mode="after")
    def _judged(self) -> Self:
        if not self.tests_shown and self.feedback != "explanation":
            raise ValueError("without tests the model judges by its explanation: set feedback=explanation")
        return self


PRESETS = {
    "small": Config(),
    "paper": Config(feedback="trace", max_turns=10, shots=3, reply_tokens=1024),
}


def build(config: Config) -> StateGraph[State, Context, State, State]:
    """Per generation: tasks → draft → (execute → explain → conclude → repair)* → submit → evaluate.

    There is an account of the program with feedback `explanation` and `trace`, a conclusion without tests only.
    """

    async def draft(state: State, runtime: Runtime[Context]) -> State:
        """The first program, greedy. No examples' end is a stop: programs have empty lines."""
        context, pad = runtime.context, Scratchpad(runtime.context, state)
        context.say(f"generation {state['generation']}: writing {len(pad.tasks)} programs")
        shots = examples(context, config.shots)
        prompts = {task.id: await pad.question(task, shots.text) for task in pad.tasks}
        await pad.each(pad.ask(task, "draft", prompts[task.id], max_tokens=config.reply_tokens) for task in pad.tasks)
        for task in pad.tasks:
            revise(pad, task, pad.said(task, "draft") or "", 0)
        return {}

    async def execute(state: State, runtime: Runtime[Context]) -> State:
        """The latest programs meet the tests shown. One that passes is done; after the last turn all are."""
        pad, number = Scratchpad(runtime.context, state), state["round"]
        ran = await run_programs(
            pad,
            {task.id: version(pad, task, number) for task in pad.open},
            number,
            tests=lambda task: visible_tests(task)[: config.tests_shown],
        )
        return {"open": [] if number == config.max_turns else [task for task, found in ran.items() if not found.passed]}

    async def explain(state: State, runtime: Runtime[Context]) -> State:
        """The model's own account of its program: in words, or a run in its head."""
        if state["round"] == config.max_turns:
            return {"open": []}
        await _ask(state, runtime, "account")
        return {}

    async def conclude(state: State, runtime: Runtime[Context]) -> State:
        """Without tests the model says itself whether its program is right."""
        pad, number = Scratchpad(runtime.context, state), state["round"]
        await _ask(state, runtime, "conclusion")
        return {"open": [task.id for task in pad.open if says_wrong(pad.said(task, "conclusion", number) or "")]}

    async def repair(state: State, runtime: Runtime[Context]) -> State:
        """The whole program once more, at the end of the dialogue so far."""
        pad, number = Scratchpad(runtime.context, state), state["round"]
        await _ask(state, runtime, "repair")
        for task in pad.open:
            revise(pad, task, pad.said(task, "repair", number) or "", number + 1)
        return {"round": number + 1}

    async def _ask(state: State, runtime: Runtime[Context], purpose: str) -> None:
        """The next reply of each open dialogue."""
        pad, number = Scratchpad(runtime.context, state), state["round"]
        dialogues = {task.id: await _dialogue(config, pad, task, number) for task in pad.open}
        await pad.each(
            pad.ask(task, purpose, dialogues[task.id], number, max_tokens=config.reply_tokens) for task in pad.open
        )

    async def evaluate(state: State, runtime: Runtime[Context]) -> State:
        """Beside the first programs, with what the shown tests say of the last ones: more of them pass than are right
        where a repair only pleases its test."""
        pad = Scratchpad(runtime.context, state)
        repairs = {task.id: len(pad.every(task, PROGRAM)) - 1 for task in pad.tasks}
        ran = {task.id: executed(pad, task, repairs[task.id]) for task in pad.tasks}
        shown = {task: found.passed for task, found in ran.items() if found is not None}
        return await answering.evaluate(
            state, runtime, direct="draft", more={"repairs": repairs, "shown_tests_passed": shown}
        )

    phases: dict[str, Node] = {"tasks": answering.tasks, "draft": draft}
    if config.tests_shown:
        phases["execute"] = execute
    if config.feedback in ("explanation", "trace"):
        phases["explain"] = explain
    if not config.tests_shown:
        phases["conclude"] = conclude
    phases |= {"repair": repair, "submit": partial(answering.submit, answer=last_program), "evaluate": evaluate}
    return cycle({}, phases, loops={"repair": "execute" if config.tests_shown else "explain"})


def says_wrong(conclusion: str) -> bool:
    """Whether the last word of a conclusion is that the program is wrong."""
    found = _CONCLUSION.findall(conclusion)
    return bool(found) and found[-1].lower() in ("wrong", "incorrect")


async def _dialogue(config: Config, pad: Scratchpad, task: Task, number: int) -> list[Message]:
    """All that was said about a task up to its version of that number, ending in the question that comes next."""
    instructions, *question = await pad.question(task)
    turns = [instructions, *_demonstration(config), *question]
    for each in range(number + 1):
        found = executed(pad, task, each)
        account, conclusion = (pad.said(task, purpose, each) for purpose in ("account", "conclusion"))
        turns.append(assistant(fenced(version(pad, task, each))))
        turns += _about(config, told(found) if found else "", account, conclusion)
    return turns


def _about(config: Config, failure: str, account: str | None, conclusion: str | None) -> list[Message]:
    """What is said about one version, up to the question that has no answer yet."""
    if config.feedback == "simple":
        return [user(f"{WRONG}\n{FIX}")]
    if config.feedback == "tests":
        return [user(f"{failure}\n{FIX}")]
    demand = EXPLAIN if config.feedback == "explanation" else TRACE
    turns = [user(f"{failure}\n{demand}".strip())]
    if account is None:
        return turns
    turns.append(assistant(account))
    if config.tests_shown:
        return [*turns, user(FIX)]
    turns.append(user(CONCLUDE))
    return turns if conclusion is None else [*turns, assistant(conclusion), user(FIX)]


def _demonstration(config: Config) -> list[Message]:
    """A failed program, its feedback and its repair; without tests also what a right program is told."""
    failure = DEMO_TOLD if config.tests_shown else ""
    account = DEMO_TRACE if config.feedback == "trace" else DEMO_EXPLANATION
    turns = [user(DEMO_TASK), assistant(fenced(DEMO_WRONG))]
    turns += _about(config, failure, account, DEMO_CONCLUSION)
    turns.append(assistant(fenced(DEMO_RIGHT)))
    if not config.tests_shown:
        turns += [*_about(config, "", DEMO_AGAIN, None), assistant(DEMO_AGREED)]
    return turns
