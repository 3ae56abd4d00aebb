"""ISR-LLM: Iterative Self-Refined Large Language Model for Long-Horizon Sequential Task Planning (arXiv 2308.13724).

A frozen model puts a planning task into PDDL, plans it goal by goal, and plans again, told by a validator which action
of its last plan is the first that fails, until the validator accepts a plan or the refinements are used up. The
validator is an exact simulator or the model itself; what a plan is worth is the environment's word in either case. One
generation is one pass over new tasks, beside the plans that the model makes of the tasks in words at one go.

Deviations from the paper and its released code:
- The conversation keeps the model's own plans between the objections to them; the released code keeps objections only.
- The temperature rises with the attempts at a task; in the released code it rises with the number of the task.
- The model as validator is asked afresh of every plan, by the task itself; what it objects is told to the planner as it
  is, and a check that ends without a verdict accepts nothing.
- Unknown names count as flaws where they stand, and names may have any length.
- The last plan is not validated: nothing would come of it.
- Worked examples are validation tasks with their shortest plans, of the same domain; of the validator's, every second
  plan lacks an action.
- A translation that is empty, as after a failed call, leaves the task in words.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Literal

from langgraph.graph import StateGraph
from langgraph.runtime import Runtime
from pydantic import BaseModel, ConfigDict, Field

from evolvent.agents import answering
from evolvent.agents.context import Context
from evolvent.agents.evolution import Node, State, cycle
from evolvent.agents.feedback.plan_check import objection, simulated, validation_request
from evolvent.agents.solutions.formalize import planned, stated, translation_request
from evolvent.agents.solutions.scratchpad import Scratchpad, assistant, user
from evolvent.agents.solutions.shots import Shots
from evolvent.environments.planning import problem_of
from evolvent.environments.strips import differences
from evolvent.environments.types import Message, Task

ROLES = ("actor",)
ENVIRONMENTS = ("planning",)
CARRIES_OVER = False
"""The planner's conversation is about one task and ends with it."""

REPLAN = "Your plan fails. {objection}\nWrite a new plan for the whole task."


class Config(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    translate: bool = True
    """The planner reads the task in PDDL that the model wrote, else in words."""
    validator: Literal["external", "self", "none"] = "external"
    """The exact simulator or the model itself. With none there is one plan; without the translator, too, that is the
    paper's baseline LLM-direct."""
    replan: Literal["told", "fresh"] = "told"
    """Fresh asks for the first plan once more instead, at the same temperatures: whether the objections matter."""
    max_refinements: int = Field(10, ge=0)
    """Plans of a task at most after the first one."""
    temperature_step: float = Field(0.1, ge=0)
    """By which a task's every further plan is sampled hotter, the first one being greedy."""
    max_refine_temperature: float = Field(0.4, ge=0)
    translator_examples: int = Field(3, ge=0)
    planner_examples: int = Field(4, ge=0)
    validator_examples: int = Field(6, ge=0)
    """Worked examples before each part's question."""
    translation_tokens: int = Field(1024, ge=1)
    """Of a translation at most."""
    reply_tokens: int = Field(512, ge=1)
    """Of a plan at most."""
    check_tokens: int = Field(1024, ge=1)
    """Of the model's check of a plan at most."""


PRESETS = {
    "small": Config(
        max_refinements=2,
        translator_examples=1,
        planner_examples=1,
        validator_examples=2,
        translation_tokens=320,
        reply_tokens=96,
        check_tokens=256,
    ),
    "paper": Config(),
}


def build(config: Config) -> StateGraph[State, Context, State, State]:
    """Per generation: tasks → translate → plan → (validate → replan)* → submit → evaluate.

    Without translator or validator their nodes are not there.
    """

    async def translate(state: State, runtime: Runtime[Context]) -> State:
        """Every task in PDDL, domain and problem, in the model's own words."""
        context, pad = runtime.context, Scratchpad(runtime.context, state)
        context.say(f"generation {state['generation']}: putting {len(pad.tasks)} tasks into PDDL")
        shown = _examples(context, config.translator_examples)
        await pad.each(
            pad.ask(task, "translate", translation_request(task, shown), max_tokens=config.translation_tokens)
            for task in pad.tasks
        )
        return {}

    async def plan(state: State, runtime: Runtime[Context]) -> State:
        """The first plans, greedy."""
        runtime.context.say(f"generation {state['generation']}: planning")
        await _plan(state, runtime, 0)
        return {}

    async def validate(state: State, runtime: Runtime[Context]) -> State:
        """What is wrong with the newest plans. One that is accepted closes its task."""
        pad, number = Scratchpad(runtime.context, state), state["round"]
        if number == config.max_refinements:
            return {"open": []}
        shown = _examples(runtime.context, config.validator_examples) if config.validator == "self" else []
        said = await pad.each(_objection(pad, task, number, shown) for task in pad.open)
        return {"open": [task.id for task, text in zip(pad.open, said, strict=True) if text]}

    async def _objection(pad: Scratchpad, task: Task, number: int, shown: Sequence[Task]) -> str:
        """Noted by the number of its plan; empty for one that is accepted."""
        reply = pad.said(task, "plan", number) or ""
        if config.validator == "external":
            return pad.note(task, "objection", simulated(task, reply), number)
        asked = validation_request(task, reply, pad.said(task, "translate") or "", shown)
        analysis = await pad.ask(task, "validate", asked, number, max_tokens=config.check_tokens)
        return pad.note(task, "objection", objection(analysis), number)

    async def replan(state: State, runtime: Runtime[Context]) -> State:
        """A new plan for every task whose last one was not accepted."""
        await _plan(state, runtime, state["round"] + 1)
        return {"round": state["round"] + 1}

    async def _plan(state: State, runtime: Runtime[Context], number: int) -> None:
        context, pad = runtime.context, Scratchpad(runtime.context, state)
        shown = planned(_examples(context, config.planner_examples), in_pddl=config.translate)
        told = number if config.replan == "told" else 0
        prompts = {task.id: [*await _question(pad, task, shown), *_history(pad, task, told)] for task in pad.open}
        await pad.each(
            pad.ask(
                task,
                "plan",
                prompts[task.id],
                number,
                temperature=min(config.max_refine_temperature, config.temperature_step * number),
                max_tokens=config.reply_tokens,
            )
            for task in pad.open
        )

    async def evaluate(state: State, runtime: Runtime[Context]) -> State:
        """Beside the plans that are made of the tasks in words at one go, which without a translator are the first."""
        pad = Scratchpad(runtime.context, state)
        more: dict[str, object] = {"refinements": {task.id: len(pad.every(task, "plan")) - 1 for task in pad.tasks}}
        if config.translate:
            more["mistranslated"] = {task.id: _mistranslated(pad, task) for task in pad.tasks}
        return await answering.evaluate(
            state,
            runtime,
            direct="" if config.translate else "plan",
            recall=Shots(planned(_examples(runtime.context, config.planner_examples), in_pddl=False)),
            reply_tokens=config.reply_tokens,
            more=more,
        )

    phases: dict[str, Node] = {"tasks": answering.tasks}
    if config.translate:
        phases["translate"] = translate
    phases["plan"] = plan
    if config.validator != "none":
        phases |= {"validate": validate, "replan": replan}
    phases |= {"submit": partial(answering.submit, answer=_newest), "evaluate": evaluate}
    return cycle({}, phases, loops={} if config.validator == "none" else {"replan": "validate"})


def _examples(context: Context, n: int) -> list[Task]:
    return context.tasks("validation", n) if n else []


async def _question(pad: Scratchpad, task: Task, shown: str) -> list[Message]:
    """As the environment asks it, with the task in PDDL where there is a translation."""
    formal = pad.said(task, "translate") or task.prompt
    asked = await pad.question(task, shown)
    return [replace(message, text=formal) if message.part == "task" else message for message in asked]


def _history(pad: Scratchpad, task: Task, number: int) -> list[Message]:
    """The first so many plans, each with what was objected to it."""
    turns: list[Message] = []
    for each in range(number):
        said = pad.said(task, "objection", each) or ""
        turns += [assistant(pad.said(task, "plan", each) or ""), user(REPLAN.format(objection=said))]
    return turns


def _newest(pad: Scratchpad, task: Task) -> str:
    """The last plan that says anything."""
    return next((reply for reply in reversed(pad.every(task, "plan")) if reply), "")


def _mistranslated(pad: Scratchpad, task: Task) -> int | None:
    """Objects and facts that a translation lacks or has too much, for the report; None where it cannot be read."""
    problem = stated(pad.said(task, "translate") or "")
    return None if problem is None else len(differences(problem, problem_of(task)))
