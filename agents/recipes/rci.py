"""RCI, recursive criticism and improvement: Language Models can Solve Computer Tasks (arXiv 2303.17491).

A frozen model finds the faults of its own output and writes it anew, in one growing transcript. On web pages that
output is a plan, and while the plan is followed every instruction is grounded in the task, in the page and in the
grammar of what can be executed (`solutions/grounded.py`). Where one reply answers, it is the answer itself. One
generation is one pass over new tasks, beside the same model without any of this: the first plan followed with neither
grounding in the page nor repairs, or the first answer.

Deviations from the paper and its released code:
- Reasoning stops when the criticism finds nothing. The paper's figures stop at a right answer, which tells the label;
  no such arm is kept here.
- One pair of worked examples, our own, serves all kinds of pages, and the same settings do; the released code has a
  prompt folder and settings for each.
- Blank lines of a plan give no steps, and a plan that was not criticised none more than any other.
- The page of an action's prompt begins with the environment's sentence on what the last instruction did.
- An improved plan or answer that is empty, as after a failed call, replaces nothing.
"""

from __future__ import annotations

from langgraph.graph import StateGraph
from langgraph.runtime import Runtime
from pydantic import BaseModel, ConfigDict, Field

from evolvent.agents import answering
from evolvent.agents.context import Context
from evolvent.agents.evolution import State, cycle
from evolvent.agents.feedback.critique import request, satisfied
from evolvent.agents.solutions.act import Policy
from evolvent.agents.solutions.grounded import Grounded
from evolvent.agents.solutions.scratchpad import Scratchpad, assistant, user
from evolvent.agents.solutions.shots import Shots
from evolvent.environments.types import Message, Task
from evolvent.environments.web_instructions import GRAMMAR, grammatical

ROLES = ("actor",)
PAGES = ("web", "miniwob")
ENVIRONMENTS = (*PAGES, "word_problems", "reasoning_gym")
CARRIES_OVER = False
"""Plan, executed instructions and criticism end with the episode they are about."""

EXAMPLES = """\
Task: Tick lamp, then click "Done".
<body><input id="k4" type="checkbox"><label for="k4">lamp</label><button id="n1">Done</button></body>
Plan:
1. clickxpath //input[@id='k4']
2. clickxpath //button[@id='n1']

Task: Type "two keys" into the field Title, choose June from the list Month, then click "Keep".
<body><label for="f7">Title</label><input id="f7" type="text" value=""><label for="m2">Month</label>\
<select id="m2"><option>May</option><option>June</option></select><button id="n3">Keep</button></body>
Plan:
1. clickxpath //input[@id='f7']
2. type two keys
3. clickoption //option[text()='June']
4. clickxpath //button[@id='n3']
"""
"""Stand before the task where plans are made; an empty line follows."""
PLAN = "Write the plan for this task: the instructions in the order in which they are executed, numbered, one a line."
CRITICISE_PLAN = "Compare this plan with those of the examples and with the task. What is wrong with it?"
IMPROVE_PLAN = "The page is still the one above:\n{page}\nWrite the plan again, without these faults. Write it alone."
IMPROVE = "Heed this criticism and write an improved answer to the task. Write the answer alone."
FOLLOW = "Your plan:\n{plan}"


class Config(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    explicit_rci_loops: int = Field(1, ge=0)
    """E: times that a plan is criticised and written anew before it is followed."""
    implicit_rci_limit: int = Field(1, ge=0)
    """I: repairs of an instruction that cannot be executed, at most; the next one that cannot ends the episode."""
    state_grounding: bool = True
    """Every proposed instruction is made to fit the page by a call of its own."""
    default_steps: int = Field(4, ge=1)
    """Steps of an episode at most where the plan has one line; else as many as it has lines."""
    reasoning_rounds: int = Field(1, ge=0)
    """Times that an answer is criticised and written anew at most, where one reply answers."""
    temperature: float = Field(0.0, ge=0)
    reply_tokens: int = Field(64, ge=1)
    """Of a plan, a criticism or an answer at most."""
    action_tokens: int = Field(24, ge=1)
    """Of one instruction at most."""


PRESETS = {
    "small": Config(state_grounding=False),
    "paper": Config(reply_tokens=256, action_tokens=256),
}


def build(config: Config) -> StateGraph[State, Context, State, State]:
    """Per generation: tasks → propose → (criticise → improve)* → act → evaluate."""

    async def propose(state: State, runtime: Runtime[Context]) -> State:
        """The first plan, or the first answer."""
        context, pad = runtime.context, Scratchpad(runtime.context, state)
        context.say(f"generation {state['generation']}: a first go at {len(pad.tasks)} tasks")
        await _ask(state, runtime, "propose")
        return {"open": state["open"] if _rounds(context) else []}

    async def criticise(state: State, runtime: Runtime[Context]) -> State:
        """The newest output is looked through. Every plan is improved after that, an answer that has faults is."""
        said = await _ask(state, runtime, "criticise")
        if on_pages(runtime.context):
            return {}
        return {"open": [task for task, text in said.items() if text and not satisfied(text, "phrase")]}

    async def improve(state: State, runtime: Runtime[Context]) -> State:
        """It is written anew by what was found."""
        await _ask(state, runtime, "improve")
        done = state["round"] + 1 >= _rounds(runtime.context)
        return {"round": state["round"] + 1, "open": [] if done else state["open"]}

    async def act(state: State, runtime: Runtime[Context]) -> State:
        """The plan is followed, or the answer is handed in."""
        if not on_pages(runtime.context):
            return await answering.submit(state, runtime, answer=newest)
        runtime.context.say(f"generation {state['generation']}: following {len(state['tasks'])} plans")
        manner = Grounded(grammatical, GRAMMAR, config.state_grounding, config.implicit_rci_limit)
        return await answering.perform(
            state, runtime, seat=lambda pad, task: _seat(runtime.context, task, newest(pad, task), manner)
        )

    async def evaluate(state: State, runtime: Runtime[Context]) -> State:
        """Beside the first plans followed without grounding in the page and without repairs, or the first answers."""
        if not on_pages(runtime.context):
            pad = Scratchpad(runtime.context, state)
            rounds = {task.id: len(pad.every(task, "improve")) for task in pad.tasks}
            return await answering.evaluate(state, runtime, direct="propose", more={"rounds": rounds})
        plain = Grounded(grammatical, GRAMMAR, on_page=False, repairs=0)
        return await answering.evaluate(
            state,
            runtime,
            seat=lambda pad, task: _seat(runtime.context, task, pad.said(task, "propose") or "", plain),
        )

    def _rounds(context: Context) -> int:
        return config.explicit_rci_loops if on_pages(context) else config.reasoning_rounds

    async def _ask(state: State, runtime: Runtime[Context], purpose: str) -> dict[str, str]:
        """The next reply of every open transcript, by task."""
        pad, number = Scratchpad(runtime.context, state), state["round"]
        prompts = {task.id: await _transcript(runtime.context, pad, task, number, purpose) for task in pad.open}
        said = await pad.each(
            pad.ask(
                task,
                purpose,
                prompts[task.id],
                number,
                temperature=config.temperature,
                max_tokens=config.reply_tokens,
            )
            for task in pad.open
        )
        return dict(zip(prompts, said, strict=True))

    def _seat(context: Context, task: Task, plan: str, manner: Grounded) -> Policy:
        return Policy(
            context.model("actor"),
            Shots(hints={task.id: FOLLOW.format(plan=plan)}),
            temperature=config.temperature,
            max_reply_tokens=config.action_tokens,
            manner=manner,
            max_steps=steps_of(plan) or config.default_steps,
        )

    phases = {
        "tasks": answering.tasks,
        "propose": propose,
        "criticise": criticise,
        "improve": improve,
        "act": act,
        "evaluate": evaluate,
    }
    return cycle({}, phases, loops={"improve": "criticise"})


def on_pages(context: Context) -> bool:
    """Whether a task is a page to be used, by a plan, and not a question."""
    return context.objective.environment.name in PAGES


def newest(pad: Scratchpad, task: Task) -> str:
    """The last plan or answer that says anything."""
    written = [pad.said(task, "propose") or "", *pad.every(task, "improve")]
    return next((text for text in reversed(written) if text), "")


def steps_of(plan: str) -> int:
    """Lines of a plan that has several; 0 for one that has not."""
    lines = [line for line in plan.splitlines() if line.strip()]
    return len(lines) if len(lines) > 1 else 0


async def _transcript(context: Context, pad: Scratchpad, task: Task, number: int, purpose: str) -> list[Message]:
    """All that was said about a task up to the round of that number, ending in the request that `purpose` answers."""
    if on_pages(context):
        turns = [*await pad.opening(task, EXAMPLES), user(PLAN)]
        page = next(message.text for message in turns if message.part == "history")
        review, again = CRITICISE_PLAN, IMPROVE_PLAN.format(page=page)
    else:
        turns = [*await pad.question(task)]
        review, again = request("phrase"), IMPROVE
    output = pad.said(task, "propose") or ""
    for each in range(number + 1) if purpose != "propose" else ():
        turns += [assistant(output), user(review)]
        if each < number or purpose == "improve":
            turns += [assistant(pad.said(task, "criticise", each) or ""), user(again)]
        output = pad.said(task, "improve", each) or output
    return turns
