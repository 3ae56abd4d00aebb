"""Self-Refine: Iterative Refinement with Self-Feedback (arXiv 2303.17651).

One frozen model writes a draft, criticises it, and writes it anew with all drafts and criticisms so far in view, until
its criticism finds nothing more or the drafts are used up. One generation is one pass over new tasks.

Deviations from the paper and its released code:
- A criticism and the draft that heeds it are two calls for every kind of task; for mathematics the paper makes one.
- The last draft is criticised where marks decide which draft is handed in, and else not: nothing would come of it.
- No prompt claims that an answer has a fault. The total of the marks is our sum, not the model's.
- With marks the best draft is handed in, of equals the first; the released code loses its best score.
- A criticism without its marks is asked for again, then used as it is; the released code drops the task.
- What is scored is the draft that the loop itself hands in, never the best of all drafts in hindsight.
"""

from __future__ import annotations

from functools import partial
from typing import Literal

from langgraph.graph import StateGraph
from langgraph.runtime import Runtime
from pydantic import BaseModel, ConfigDict, Field

from evolvent.agents import answering
from evolvent.agents.context import Context
from evolvent.agents.evolution import State, cycle
from evolvent.agents.feedback.critique import Stop, demonstrations, request, satisfied, total
from evolvent.agents.solutions.scratchpad import Scratchpad, assistant, user
from evolvent.agents.solutions.shots import examples
from evolvent.environments.types import Message, Task

ROLES = ("actor",)
ENVIRONMENTS = ("word_problems", "reasoning_gym", "code", "labelled")
CARRIES_OVER = False
"""Drafts and criticisms serve the one task they are about."""

REFINE = "Write a better answer to the task. Write the answer alone."
HEEDING = "Feedback: {criticism}\nWrite a better answer to the task that heeds the feedback. Write the answer alone."
GENERIC = "Improve the answer."
"""All that the generic arm ever says."""
REFINED = (
    "Task: Write one sentence with these words: lamp, river, dog.\nAnswer: A dog sleeps by the river.\n"
    "Feedback: The word lamp is missing from the sentence. Let somebody by the river carry a lamp.\n"
    "Better answer: By the river a girl with a lamp wakes a sleeping dog.\n"
)
"""Stands before the task of a prompt that asks for a better draft."""


class Config(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    max_iterations: int = Field(4, ge=1)
    """Drafts of a task at most, the first one included."""
    feedback: Literal["specific", "generic", "none"] = "specific"
    """Generic says one and the same sentence of every draft, and none says nothing: no call is made for either."""
    stop: Stop = "phrase"
    """What a criticism says that asks for no further draft."""
    aspects: tuple[str, ...] = ()
    """What each criticism gives marks for. With any, the draft with the best total is handed in, else the last one."""
    parse_retries: int = Field(3, ge=1)
    """Times that a criticism without readable marks is asked for."""
    draft_temperature: float = Field(0.0, ge=0)
    """Of the first draft, which is the direct answer that the result is compared with."""
    temperature: float = Field(0.7, ge=0)
    """Of criticisms and later drafts."""
    shots: int = Field(1, ge=0)
    """Solved examples before the first draft."""
    reply_tokens: int = Field(64, ge=1)
    """Of one draft at most."""
    feedback_tokens: int = Field(48, ge=1)
    """Of one criticism at most."""


PRESETS = {
    "small": Config(max_iterations=3, parse_retries=1),
    "paper": Config(shots=3, reply_tokens=300, feedback_tokens=600),
}


def build(config: Config) -> StateGraph[State, Context, State, State]:
    """Per generation: tasks → generate → feedback → refine, the last two in turn while tasks are open → submit →
    evaluate."""

    async def generate(state: State, runtime: Runtime[Context]) -> State:
        """The first draft."""
        context, pad = runtime.context, Scratchpad(runtime.context, state)
        context.say(f"generation {state['generation']}: drafting answers to {len(pad.tasks)} tasks")
        shots = examples(context, config.shots)

        async def draft(task: Task) -> str:
            return await pad.ask(
                task,
                "generate",
                await pad.question(task, shots.text),
                temperature=config.draft_temperature,
                max_tokens=config.reply_tokens,
                stop=shots.stop,
            )

        await pad.each(draft(task) for task in pad.open)
        return {}

    async def feedback(state: State, runtime: Runtime[Context]) -> State:
        """What is said of the newest draft; a task whose criticism asks for no other is closed."""
        pad, number = Scratchpad(runtime.context, state), state["round"]
        last = number + 1 == config.max_iterations
        if last and not config.aspects:
            return {"open": []}
        said = await pad.each(_criticism(pad, task, number) for task in pad.open)
        done = [last or satisfied(text, config.stop) for text in said]
        return {"open": [task.id for task, closed in zip(pad.open, done, strict=True) if not closed]}

    async def _criticism(pad: Scratchpad, task: Task, number: int) -> str:
        """Noted by the number of its draft, however often it had to be asked for."""
        if config.feedback != "specific":
            return pad.note(task, "criticism", GENERIC if config.feedback == "generic" else "", number)
        asked = (
            *await pad.question(task, demonstrations(config.stop)),
            assistant(_newest(pad, task)),
            user(request(config.stop, config.aspects)),
        )
        text = ""
        for attempt in range(config.parse_retries):
            text = await pad.ask(
                task,
                "feedback",
                asked,
                number * config.parse_retries + attempt,
                temperature=config.temperature,
                max_tokens=config.feedback_tokens,
            )
            if text and total(text, config.aspects) is not None:
                break
        return pad.note(task, "criticism", text, number)

    async def refine(state: State, runtime: Runtime[Context]) -> State:
        """The next draft, by all drafts and criticisms so far."""
        pad, number = Scratchpad(runtime.context, state), state["round"]

        async def better(task: Task) -> str:
            return await pad.ask(
                task,
                "refine",
                (*await pad.question(task, REFINED), *_history(pad, task)),
                number,
                temperature=config.temperature,
                max_tokens=config.reply_tokens,
            )

        await pad.each(better(task) for task in pad.open)
        return {"round": number + 1}

    async def evaluate(state: State, runtime: Runtime[Context]) -> State:
        """Beside the first drafts."""
        pad = Scratchpad(runtime.context, state)
        told: dict[str, object] = {"drafts": {task.id: len(_drafts(pad, task)) for task in pad.tasks}}
        if config.aspects:
            told["totals"] = {task.id: _totals(pad, task, config.aspects) for task in pad.tasks}
        return await answering.evaluate(state, runtime, direct="generate", more=told)

    return cycle(
        {},
        {
            "tasks": answering.tasks,
            "generate": generate,
            "feedback": feedback,
            "refine": refine,
            "submit": partial(answering.submit, answer=partial(_chosen, aspects=config.aspects)),
            "evaluate": evaluate,
        },
        loops={"refine": "feedback"},
    )


def _drafts(pad: Scratchpad, task: Task) -> list[str]:
    """In order; an empty one is a call that failed, or a model that had nothing to say."""
    return [pad.said(task, "generate") or "", *pad.every(task, "refine")]


def _newest(pad: Scratchpad, task: Task) -> str:
    """The last draft that says something."""
    return next((draft for draft in reversed(_drafts(pad, task)) if draft), "")


def _history(pad: Scratchpad, task: Task) -> list[Message]:
    """Every draft that was criticised, each with what was said of it."""
    turns: list[Message] = []
    # Not strict: a run that was killed while it refined may have the next draft already.
    for draft, criticism in zip(_drafts(pad, task), pad.every(task, "criticism"), strict=False):
        turns += [assistant(draft), user(HEEDING.format(criticism=criticism) if criticism else REFINE)]
    return turns


def _totals(pad: Scratchpad, task: Task, aspects: tuple[str, ...]) -> list[float | None]:
    """Of each draft's marks; None where they could not be read."""
    return [total(criticism, aspects) for criticism in pad.every(task, "criticism")]


def _chosen(pad: Scratchpad, task: Task, *, aspects: tuple[str, ...]) -> str:
    """The draft with the best total, of equals the first; where nothing has marks, the newest."""
    totals = _totals(pad, task, aspects) if aspects else []
    marked = [(marks, draft) for draft, marks in zip(_drafts(pad, task), totals, strict=False) if draft and marks]
    return max(marked, key=lambda pair: pair[0])[1] if marked else _newest(pad, task)
