"""SelfEvolve: A Code Evolution Framework via Large Language Models (arXiv 2306.02907).

A model writes down what a problem needs to be known, instead of looking it up, programs with that before it, and
repairs what the interpreter complains about when the program meets the example of the statement. All three are one
frozen model. Measured beside the direct answer to the same problems.

Deviations from the paper:
- Its prompts are not published; ours follow the described routes.
- A problem is one of a library where its head imports a module that is not Python's own.
- A reply that does not define the function leaves the program as it was; the repair counts.
- Standard output beside the result of the example is not shown to the debugger.
"""

from __future__ import annotations

import ast
import re
import sys
from functools import partial
from typing import Literal

from langgraph.graph import StateGraph
from langgraph.runtime import Runtime
from pydantic import BaseModel, ConfigDict, Field

from evolvent.agents import answering
from evolvent.agents.context import Context
from evolvent.agents.evolution import State, cycle
from evolvent.agents.feedback.execution import executed, run_programs, told
from evolvent.agents.refinement.repair import PROGRAM, fenced, last_program, revise, version
from evolvent.agents.solutions.scratchpad import Scratchpad, user
from evolvent.environments.code import program_of, signature
from evolvent.environments.execution import Limits
from evolvent.environments.types import Message, Task

ROLES = ("actor",)
ENVIRONMENTS = ("code",)
CARRIES_OVER = False
"""Knowledge is written for one problem and serves no other."""

TRIAL = "Write a first attempt in one code block. It is thrown away; it only has to show what you would use."
APIS = (
    "Here is a first attempt at the task:\n{trial}\nDo not correct it and write no program. List the functions and "
    "classes of libraries that it relies on, each with its signature and what it does."
)
ALGORITHM = (
    "Write no program yet. Say in a few sentences what has to be known to solve the task: the algorithm, the rules, "
    "the cases that need care."
)
WITH_KNOWLEDGE = "What you know about this:\n{knowledge}\nNow write the program in one code block."
DEBUG = (
    "You are an expert debugger. This program was written for the task:\n{program}\nThe interpreter says:\n{told}\n"
    "Find the fault and write the whole corrected program in one code block."
)


class Config(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    knowledge: Literal["auto", "direct", "trial", "none"] = "auto"
    """Where the knowledge comes from: asked for at once, or read off a trial program; `auto` takes the trial for
    problems of a library. `none` leaves the stage out."""
    max_repairs: int = Field(1, ge=0)
    """Of one program. The paper needs about one for functions and a few for library problems; 0 leaves it out."""
    knowledge_tokens: int = Field(64, ge=1)
    """Of the knowledge at most."""
    reply_tokens: int = Field(112, ge=1)
    """Of a program at most."""
    interpreter_s: float = Field(10.0, gt=0)
    """After which the interpreter is stopped, in seconds."""


PRESETS = {"small": Config(), "paper": Config(knowledge_tokens=512, reply_tokens=1024)}


def build(config: Config) -> StateGraph[State, Context, State, State]:
    """Per generation: tasks → trial → know → generate → (execute → repair)* → submit → evaluate."""

    async def trial(state: State, runtime: Runtime[Context]) -> State:
        """Of library problems only: what the model would use."""
        pad = Scratchpad(runtime.context, state)
        tasks = [task for task in pad.tasks if _route(config, task) == "trial"]
        questions = {task.id: await pad.question(task) for task in tasks}
        await pad.each(
            pad.ask(task, "trial", [*questions[task.id], user(TRIAL)], max_tokens=config.reply_tokens) for task in tasks
        )
        return {}

    async def know(state: State, runtime: Runtime[Context]) -> State:
        """What the problem needs to be known, in the model's own words."""
        context, pad = runtime.context, Scratchpad(runtime.context, state)
        context.say(f"generation {state['generation']}: knowledge for {len(pad.tasks)} problems")
        tasks = [task for task in pad.tasks if _route(config, task) != "none"]
        questions = {task.id: await pad.question(task) for task in tasks}
        await pad.each(
            pad.ask(
                task,
                "knowledge",
                [*questions[task.id], user(_asking(pad.said(task, "trial")))],
                max_tokens=config.knowledge_tokens,
            )
            for task in tasks
        )
        return {}

    async def generate(state: State, runtime: Runtime[Context]) -> State:
        """The program, greedy, from problem and knowledge. The trial is not shown."""
        pad = Scratchpad(runtime.context, state)
        prompts = {task.id: [*await pad.question(task), *_known(pad.said(task, "knowledge"))] for task in pad.tasks}
        await pad.each(
            pad.ask(task, "generate", prompts[task.id], max_tokens=config.reply_tokens) for task in pad.tasks
        )
        for task in pad.tasks:
            revise(pad, task, pad.said(task, "generate") or "", 0)
        return {}

    async def execute(state: State, runtime: Runtime[Context]) -> State:
        """The program meets the statement's examples. One that runs clean is done, and so is one out of repairs."""
        pad, number = Scratchpad(runtime.context, state), state["round"]
        programs = {task.id: version(pad, task, number) for task in pad.open}
        ran = await run_programs(pad, programs, number, limits=Limits(wall_s=config.interpreter_s))
        unclean = [task for task, found in ran.items() if not found.passed]
        return {"open": unclean if number < config.max_repairs else []}

    async def repair(state: State, runtime: Runtime[Context]) -> State:
        """The debugger reads problem, program and message, and nothing of earlier turns."""
        pad, number = Scratchpad(runtime.context, state), state["round"]
        prompts = {task.id: [*await pad.question(task), _debugging(pad, task, number)] for task in pad.open}
        await pad.each(
            pad.ask(task, "repair", prompts[task.id], number, max_tokens=config.reply_tokens) for task in pad.open
        )
        for task in pad.open:
            revise(pad, task, pad.said(task, "repair", number) or "", number + 1)
        return {"round": number + 1}

    async def evaluate(state: State, runtime: Runtime[Context]) -> State:
        """Beside the direct answers; with what each stage did: the route, the repairs, how each version ran."""
        pad = Scratchpad(runtime.context, state)
        outcomes = {
            task.id: [
                found.outcome
                for number in range(len(pad.every(task, PROGRAM)))
                if (found := executed(pad, task, number)) is not None
            ]
            for task in pad.tasks
        }
        routes = {task.id: _route(config, task) for task in pad.tasks}
        more = {"routes": routes, "outcomes": outcomes}
        return await answering.evaluate(state, runtime, reply_tokens=config.reply_tokens, more=more)

    return cycle(
        {},
        {
            "tasks": answering.tasks,
            "trial": trial,
            "know": know,
            "generate": generate,
            "execute": execute,
            "repair": repair,
            "submit": partial(answering.submit, answer=last_program),
            "evaluate": evaluate,
        },
        loops={"repair": "execute"},
    )


def of_library(head: str) -> bool:
    """Whether a module that is not Python's own is imported before the function."""
    try:
        tree = ast.parse(re.split(r"^\s*def ", head, maxsplit=1, flags=re.MULTILINE)[0])
    except SyntaxError:
        return False
    names = [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    return any(name.partition(".")[0] not in sys.stdlib_module_names for name in names)


def _route(config: Config, task: Task) -> str:
    """How the knowledge for a task is come by."""
    if config.knowledge != "auto":
        return config.knowledge
    return "trial" if of_library(signature(task)) else "direct"


def _asking(trial: str | None) -> str:
    return ALGORITHM if trial is None else APIS.format(trial=fenced(program_of(trial)))


def _known(knowledge: str | None) -> list[Message]:
    """Nothing where the stage was left out or gave nothing."""
    return [user(WITH_KNOWLEDGE.format(knowledge=knowledge))] if knowledge else []


def _debugging(pad: Scratchpad, task: Task, number: int) -> Message:
    found = executed(pad, task, number)
    assert found is not None, "a program is repaired after it was run"
    return user(DEBUG.format(program=fenced(version(pad, task, number)), told=told(found)))
