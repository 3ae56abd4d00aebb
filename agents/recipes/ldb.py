"""Debug like a Human: A Large Language Model Debugger via Verifying Runtime Execution Step-by-step (arXiv 2402.16906).

A program that fails a visible test is really run on it, and the model is shown that run block by block, with the
variables before and after each. It gives its verdict on every block, then writes the program again, in one growing
conversation. One generation is one pass over new tasks, measured beside the seed programs.

Deviations from the paper and its released code:
- The trace comes from the interpreter behind the sandbox's boundary, not from rewritten source, so nested returns and
  one-line branches are traced as they ran; generators are not traced, and the assertion stands alone.
- Each value is cut to 100 characters, not each state.
- The rewrite is one turn of the conversation; the released code repeats its program in a second.
- A reply that does not define the function leaves the program as it was, and the iteration is spent.
"""

from __future__ import annotations

import asyncio
from functools import partial

from langgraph.graph import StateGraph
from langgraph.runtime import Runtime
from pydantic import BaseModel, ConfigDict, Field

from evolvent.agents import answering
from evolvent.agents.context import Context
from evolvent.agents.evolution import State, cycle
from evolvent.agents.feedback.execution import executed, run_programs, told
from evolvent.agents.feedback.runtime_trace import Level, rendered, units
from evolvent.agents.refinement.repair import PROGRAM, fenced, last_program, revise, version
from evolvent.agents.solutions.scratchpad import Scratchpad, assistant, user
from evolvent.environments.execution import Execution, Limits, Sandbox
from evolvent.environments.types import Message, Task

ROLES = ("actor", "debugger")
ENVIRONMENTS = ("code",)
CARRIES_OVER = False
"""What was said about a program ends with it."""

INSTRUCTIONS = "You debug Python programs by looking at what really happened when they ran."
FIRST = "{task}\n\nThis program was written for it:\n{program}\n\n{failure}"
AGAIN = "The program is now:\n{program}\n\n{failure}"
JUDGE = (
    "This is what really happened, block by block, with the variables before and after each:\n\n{trace}\n\n"
    'For every block write one line: its number, "correct" or "incorrect", and why.'
)
UNTRACED = "Say which part of the program is incorrect, and why."
FIX = "Now fix the code. Write the whole program in one code block."


class Config(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    max_iterations: int = Field(2, ge=0)
    """Verdicts, each followed by a rewrite, about one program at most."""
    level: Level = "block"
    """What one verdict is about; `line` and `function` are the paper's ablations."""
    max_units: int = Field(10, ge=1)
    """Blocks or lines shown, the first half of these and the last; of a whole function, its lines. The paper shows 10
    blocks, and 30 lines at the other levels."""
    test_s: float = Field(5.0, gt=0)
    """CPU seconds that one visible test may take, traced or not."""
    reply_tokens: int = Field(128, ge=1)
    """Of a program or of all verdicts at most."""


PRESETS = {"small": Config(), "paper": Config(max_iterations=10, reply_tokens=1024)}


def build(config: Config) -> StateGraph[State, Context, State, State]:
    """Per generation: tasks → seed → (test → trace → judge → rewrite)* → submit → evaluate."""
    limits = Limits(test_s=config.test_s, wall_s=10 * config.test_s)

    async def seed(state: State, runtime: Runtime[Context]) -> State:
        """The programs that are debugged."""
        context, pad = runtime.context, Scratchpad(runtime.context, state)
        context.say(f"generation {state['generation']}: writing {len(pad.tasks)} programs")
        prompts = {task.id: await pad.question(task) for task in pad.tasks}
        await pad.each(pad.ask(task, "seed", prompts[task.id], max_tokens=config.reply_tokens) for task in pad.tasks)
        for task in pad.tasks:
            revise(pad, task, pad.said(task, "seed") or "", 0)
        return {}

    async def test(state: State, runtime: Runtime[Context]) -> State:
        """The latest programs meet the visible tests. One that passes is done; after the last rewrite all are."""
        pad, number = Scratchpad(runtime.context, state), state["round"]
        programs = {task.id: version(pad, task, number) for task in pad.open}
        ran = await run_programs(pad, programs, number, limits=limits)
        failing = [task for task, found in ran.items() if not found.passed]
        return {"open": [] if number == config.max_iterations else failing}

    async def trace(state: State, runtime: Runtime[Context]) -> State:
        """One failing test of each program is run under the tracer, and what happened is written down."""
        context, pad, number = runtime.context, Scratchpad(runtime.context, state), state["round"]
        with Sandbox(limits=limits) as sandbox:

            async def evidence(task: Task) -> str:
                ran = executed(pad, task, number)
                assert ran is not None, "the test node has just run it"
                failed = [result for result in ran.tests if not result.passed]
                rng = context.rng("ldb", state["generation"], task.id, number)
                result = rng.choice(failed) if failed else None
                if result is None:  # a program without visible tests that does not load
                    return f"{told(ran)}\n\n{UNTRACED}"
                found = await asyncio.to_thread(sandbox.trace, version(pad, task, number), result.test)
                shown = rendered(units(found, config.level, config.max_units))
                return f"{told(ran, result)}\n\n{JUDGE.format(trace=shown) if shown else UNTRACED}"

            await pad.each(pad.run(task, "evidence", partial(evidence, task), number) for task in pad.open)
        return {}

    async def judge(state: State, runtime: Runtime[Context]) -> State:
        """A verdict on every block, all in one reply."""
        await _ask(state, runtime, "verdict")
        return {}

    async def rewrite(state: State, runtime: Runtime[Context]) -> State:
        """The program once more, in the light of the verdicts."""
        pad, number = Scratchpad(runtime.context, state), state["round"]
        await _ask(state, runtime, "rewrite")
        for task in pad.open:
            revise(pad, task, pad.said(task, "rewrite", number) or "", number + 1)
        return {"round": number + 1}

    async def _ask(state: State, runtime: Runtime[Context], purpose: str) -> None:
        """The debugger's next reply in each open conversation."""
        pad, number = Scratchpad(runtime.context, state), state["round"]
        await pad.each(
            pad.ask(
                task,
                purpose,
                _conversation(pad, task, number),
                number,
                role="debugger",
                max_tokens=config.reply_tokens,
            )
            for task in pad.open
        )

    async def evaluate(state: State, runtime: Runtime[Context]) -> State:
        """Beside the seed programs."""
        pad = Scratchpad(runtime.context, state)
        iterations = {task.id: len(pad.every(task, PROGRAM)) - 1 for task in pad.tasks}
        untraced = {task.id: sum(each.endswith(UNTRACED) for each in pad.every(task, "evidence")) for task in pad.tasks}
        shown = {task.id: found.passed for task in pad.tasks if (found := _last_run(pad, task)) is not None}
        more = {"iterations": iterations, "untraced": untraced, "visible_tests_passed": shown}
        return await answering.evaluate(state, runtime, direct="seed", more=more)

    return cycle(
        {},
        {
            "tasks": answering.tasks,
            "seed": seed,
            "test": test,
            "trace": trace,
            "judge": judge,
            "rewrite": rewrite,
            "submit": partial(answering.submit, answer=last_program),
            "evaluate": evaluate,
        },
        loops={"rewrite": "test"},
    )


def _conversation(pad: Scratchpad, task: Task, number: int) -> list[Message]:
    """All that was said about a program up to its version of that number, ending in the question that comes next."""
    turns = [Message("system", "instructions", INSTRUCTIONS)]
    for each in range(number + 1):
        shown = (FIRST if each == 0 else AGAIN).format(
            task=task.prompt, program=fenced(version(pad, task, each)), failure=pad.said(task, "evidence", each)
        )
        verdict, rewritten = (pad.said(task, purpose, each) for purpose in ("verdict", "rewrite"))
        turns.append(user(shown))
        if verdict is not None:
            turns += [assistant(verdict), user(FIX)]
        if rewritten is not None:
            turns.append(assistant(rewritten))
    return turns


def _last_run(pad: Scratchpad, task: Task) -> Execution | None:
    return executed(pad, task, len(pad.every(task, PROGRAM)) - 1)
