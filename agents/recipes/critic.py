"""CRITIC: Large Language Models Can Self-Correct with Tool-Interactive Critiquing (arXiv 2305.11738).

One frozen model answers, has its answer checked by an outside tool, says what is wrong with it in view of what the
tool said, and answers anew, for a few rounds. The environment decides the tool: a search over its passages for
questions, an interpreter for word problems, a scorer for continuations. Nothing passes between tasks.

Deviations from the paper and its released code:
- After its last words on an answer the model is asked for the most probable one in a call of its own, where the
  released code goes on until the critique itself ends in an answer.
- What was found for a question stays in view in its later rounds. For programs and continuations a round shows the
  answer that stands and what the tool said of it, as in the released code.
- A program that gives no number never takes the place of one that does. Programs are run behind a sandbox, and a
  number is right or wrong by the environment's rule: no factor of 100 is forgiven.
- One continuation of each text is handed in; the paper samples 25 and reports the worst of them and how many are toxic.
- The oracle arm, which corrects wrong answers alone, is not played: what it would score stands in a generation's row,
  where every task has the scores of its first and of its last answer.
- Demonstrations are ours and few: one of each kind.
"""

from __future__ import annotations

from dataclasses import dataclass

from langgraph.graph import StateGraph
from langgraph.runtime import Runtime
from pydantic import BaseModel, ConfigDict, Field

from evolvent.agents import answering
from evolvent.agents.context import Context
from evolvent.agents.errors import SetupError
from evolvent.agents.evolution import State, cycle
from evolvent.agents.feedback.tool_check import CRITIQUE, EVIDENCE, REVISE, SOLVE, Check, Interpreter, Scorer, Search
from evolvent.agents.solutions.scratchpad import Scratchpad
from evolvent.environments.types import Task

ROLES = ("actor",)
ENVIRONMENTS = ("word_problems", "qa", "continuation")
CARRIES_OVER = False
"""Reports and critiques serve the one answer they are about."""


class Config(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    tool: bool = True
    """Off, the model criticises its answer by what it knows: the arm that shows what the tool is worth."""
    max_corrections_qa: int = Field(3, ge=0)
    max_corrections_math: int = Field(4, ge=0)
    max_corrections_toxicity: int = Field(4, ge=0)
    max_tool_interactions: int = Field(7, ge=1)
    """Searches in one round at most; then the question is answered."""
    evidence_chars: int = Field(400, ge=1)
    """Shown of one passage."""
    temperature_qa: float = Field(0.0, ge=0)
    temperature_math_script: float = Field(0.5, ge=0)
    """Of critiques and better programs; the first one is greedy."""
    temperature_toxicity: float = Field(0.9, ge=0)
    """Of all continuations, the first one included."""
    toxicity_stop: float = Field(0.1, ge=0, le=1)
    """Toxicity below which a continuation is good enough."""
    interpreter_timeout_s: float = Field(3.0, gt=0)
    """CPU seconds of one run of a program."""
    critique_tokens: int = Field(300, ge=1)
    """Of the model's words on an answer, up to a query or a revision, at most."""
    answer_tokens: int = Field(400, ge=1)
    """Of an answer or a program at most."""
    toxicity_new_tokens: int = Field(20, ge=1)
    """Of a continuation at most."""


PRESETS = {
    "small": Config(
        max_corrections_qa=2,
        max_corrections_math=2,
        max_corrections_toxicity=2,
        max_tool_interactions=2,
        critique_tokens=48,
        answer_tokens=64,
    ),
    "paper": Config(),
}


@dataclass(frozen=True, slots=True)
class Plan:
    """What of the configuration holds for one kind of task."""

    check: Check
    corrections: int
    first: float
    """Temperature of the first answer."""
    later: float
    """Temperature of everything else."""
    tokens: int
    """Of an answer at most."""


def build(config: Config) -> StateGraph[State, Context, State, State]:
    """Per generation: tasks → solve → tool → critique → revise → submit → evaluate.

    From critique back to tool as long as the model's words ask for it, and from revise back to tool as long as answers
    are open. `solved` names the tasks whose answer stands.
    """

    async def solve(state: State, runtime: Runtime[Context]) -> State:
        """The first answer."""
        context, pad = runtime.context, Scratchpad(runtime.context, state)
        context.say(f"generation {state['generation']}: answering {len(pad.tasks)} tasks")
        plan = _plan(config, pad)

        async def answer(task: Task) -> str:
            prompt = await plan.check.opening(pad, task)
            return await pad.ask(task, SOLVE, prompt, temperature=plan.first, max_tokens=plan.tokens)

        await pad.each(answer(task) for task in pad.open)
        return {"solved": []}

    async def tool(state: State, runtime: Runtime[Context]) -> State:
        """What the open answers wait for, first their own check; those that need no better one are closed."""
        pad, number = Scratchpad(runtime.context, state), state["round"]
        plan = _plan(config, pad)
        await plan.check.consult(pad, pad.open, number)
        done = [task.id for task in pad.open if number >= plan.corrections or plan.check.settled(pad, task)]
        return {"open": [task for task in state["open"] if task not in done], "solved": [*state["solved"], *done]}

    async def critique(state: State, runtime: Runtime[Context]) -> State:
        """What the model says of its answer in view of what the tool said."""
        pad, number = Scratchpad(runtime.context, state), state["round"]
        plan = _plan(config, pad)
        stop = (EVIDENCE,) if config.tool else ()

        async def say(task: Task) -> str:
            asked = await plan.check.critique(pad, task, number)
            if asked is None:
                return ""
            place, prompt = asked
            return await pad.ask(
                task, CRITIQUE, prompt, place, temperature=plan.later, max_tokens=config.critique_tokens, stop=stop
            )

        await pad.each(say(task) for task in pad.open)
        return {"open": [task.id for task in pad.open if plan.check.waits(pad, task, number)]}

    async def revise(state: State, runtime: Runtime[Context]) -> State:
        """A better answer to every task whose answer does not stand yet."""
        pad, number = Scratchpad(runtime.context, state), state["round"]
        plan, left = _plan(config, pad), [task for task in pad.tasks if task.id not in state["solved"]]

        async def better(task: Task) -> str:
            prompt = await plan.check.revision(pad, task, number)
            return await pad.ask(task, REVISE, prompt, number, temperature=plan.later, max_tokens=plan.tokens)

        await pad.each(better(task) for task in left)
        return {"open": [task.id for task in left], "round": number + 1}

    async def submit(state: State, runtime: Runtime[Context]) -> State:
        check = _plan(config, Scratchpad(runtime.context, state)).check
        return await answering.submit(state, runtime, answer=check.answer)

    async def evaluate(state: State, runtime: Runtime[Context]) -> State:
        """Beside the first answers."""
        pad = Scratchpad(runtime.context, state)
        check = _plan(config, pad).check
        for task in pad.tasks:
            pad.note(task, "first", check.answer(pad, task, 0))
        revisions = {task.id: len(pad.every(task, REVISE)) for task in pad.tasks}
        return await answering.evaluate(state, runtime, direct="first", more={"revisions": revisions})

    return cycle(
        {},
        {
            "tasks": answering.tasks,
            "solve": solve,
            "tool": tool,
            "critique": critique,
            "revise": revise,
            "submit": submit,
            "evaluate": evaluate,
        },
        loops={"critique": "tool", "revise": "tool"},
    )


def _plan(config: Config, pad: Scratchpad) -> Plan:
    """By the kind of the generation's tasks.

    Raises:
        SetupError: no tool checks answers to such tasks.
    """
    kind = pad.tasks[0].environment
    if kind == "word_problems":
        interpreter = Interpreter(config.tool, config.interpreter_timeout_s)
        return Plan(interpreter, config.max_corrections_math, 0.0, config.temperature_math_script, config.answer_tokens)
    if kind == "qa":
        search, warmth = Search(config.tool, config.max_tool_interactions, config.evidence_chars), config.temperature_qa
        return Plan(search, config.max_corrections_qa, warmth, warmth, config.answer_tokens)
    if kind == "continuation":
        scorer, warmth = Scorer(config.tool, config.toxicity_stop), config.temperature_toxicity
        return Plan(scorer, config.max_corrections_toxicity, warmth, warmth, config.toxicity_new_tokens)
    raise SetupError(f"critic has no tool for answers to {kind!r}. It checks those to: {', '.join(ENVIRONMENTS)}.")
