"""Self-Contrast: Better Reflection Through Inconsistent Solving Perspectives (arXiv 2401.02009).

The model thinks of several ways to solve a task and solves it in each. A few clearly different answers are kept and
compared, the differences become a checklist, and every kept answer is revised with it. One generation is one pass over
new tasks, measured beside one direct answer; a task takes about eight calls, so compare it with self-consistency at as
many.

Deviations from the paper, of which no official code is known:
- Where the revised answers still differ the majority is taken, of a tie the one whose group was largest.
- Kept answers that all end in one result are not compared; that result is the answer.
- Answers may be grouped by their results as well as by their wording (`result_weight`, 0 in the preset `paper`).
- A revision in which no answer can be read does not replace one in which it could; without a list of perspectives the
  task is solved once, plainly; without differences or a checklist nothing is revised.
- All calls are greedy: it is the perspectives that make the answers differ.
- Which answers became right or wrong is counted from the direct answer to the final one.
"""

from __future__ import annotations

import asyncio
import json
from functools import partial
from itertools import combinations
from typing import Any

import numpy as np
from langgraph.graph import StateGraph
from langgraph.runtime import Runtime
from pydantic import BaseModel, ConfigDict, Field

from evolvent.agents import answering
from evolvent.agents.context import Context
from evolvent.agents.evolution import State, cycle
from evolvent.agents.feedback import discrepancy
from evolvent.agents.refinement.vote import final_answer, majority
from evolvent.agents.solutions import perspectives
from evolvent.agents.solutions.medoids import cosine_distances, groups
from evolvent.agents.solutions.scratchpad import Scratchpad, assistant, user
from evolvent.environments.types import Task

ROLES = ("actor",)
ENVIRONMENTS = ("word_problems", "reasoning_gym", "qa", "translation")
CARRIES_OVER = False
"""Nothing is kept from one task to the next."""

REVISE = (
    "Other answers to the same task:\n\n{others}\n\nThe differences between the answers:\n{differences}\n\n"
    "Checklist:\n{checklist}\n\nGo through the checklist and work out again the steps in which the answers are in "
    "conflict, so that the revised answers agree. Write your whole answer anew."
)


class Config(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    most_perspectives: int = Field(4, ge=perspectives.LEAST, le=12)
    """That the model may propose; how many it does is its own choice."""
    kept: int = Field(3, ge=2)
    """k: groups of answers, each of which one answer stands for."""
    result_weight: float = Field(0.5, ge=0)
    """Added to the cosine distance of two answers that end in different results."""
    reply_tokens: int = Field(64, ge=1)
    """Of an answer at most."""
    feedback_tokens: int = Field(64, ge=1)
    """Of the list of perspectives, of a comparison and of a checklist at most."""


PRESETS = {
    "small": Config(),
    "paper": Config(most_perspectives=9, result_weight=0.0, reply_tokens=512, feedback_tokens=512),
}


def build(config: Config) -> StateGraph[State, Context, State, State]:
    """Per generation: tasks → perspectives → solve → select → contrast → checklist → revise → settle → submit →
    evaluate."""

    async def propose(state: State, runtime: Runtime[Context]) -> State:
        """One call a task: in which ways could it be solved?"""
        context, pad = runtime.context, Scratchpad(runtime.context, state)
        context.say(f"generation {state['generation']}: thinking of ways to solve {len(pad.tasks)} tasks")
        await pad.each(
            pad.ask(
                task,
                "perspectives",
                perspectives.asking(task, config.most_perspectives),
                max_tokens=config.feedback_tokens,
            )
            for task in pad.tasks
        )
        return {}

    async def solve(state: State, runtime: Runtime[Context]) -> State:
        """One answer from each perspective."""
        context, pad = runtime.context, Scratchpad(runtime.context, state)
        context.say(f"generation {state['generation']}: solving {len(pad.tasks)} tasks from each perspective")
        ways = {task.id: _ways(config, pad, task) or [""] for task in pad.tasks}
        prompts = {
            task.id: [await pad.question(task, perspectives.given(way) if way else "") for way in ways[task.id]]
            for task in pad.tasks
        }
        await pad.each(
            pad.ask(task, "solve", prompt, number, max_tokens=config.reply_tokens)
            for task in pad.tasks
            for number, prompt in enumerate(prompts[task.id])
        )
        return {}

    async def select(state: State, runtime: Runtime[Context]) -> State:
        """Answers are grouped, and each group's medoid is kept. What agrees needs no contrast."""
        context, pad = runtime.context, Scratchpad(runtime.context, state)
        for task in pad.tasks:
            answers = pad.every(task, "solve")
            sound = [number for number, text in enumerate(answers) if text]
            texts = [answers[number] for number in sound]
            vectors_ND = await asyncio.to_thread(context.memory.embedder.embed, texts)
            results = [final_answer(text) for text in texts]
            differ_NN = np.array([[float(one != other) for other in results] for one in results])
            found = groups(cosine_distances(vectors_ND), config.kept, penalty_NN=config.result_weight * differ_NN)
            pad.note(task, "kept", json.dumps([sound[group.medoid] for group in found]))
        return {"open": [task.id for task in pad.tasks if _in_conflict(_kept(pad, task))]}

    async def contrast(state: State, runtime: Runtime[Context]) -> State:
        """Kept answers are compared, two by two."""
        pad = Scratchpad(runtime.context, state)
        runtime.context.say(f"generation {state['generation']}: comparing the answers to {len(pad.open)} tasks")
        await pad.each(
            pad.ask(task, "contrast", discrepancy.comparison(task, pair), number, max_tokens=config.feedback_tokens)
            for task in pad.open
            for number, pair in enumerate(combinations(_kept(pad, task), 2))
        )
        return {"open": [task.id for task in pad.open if _differences(pad, task)]}

    async def checklist(state: State, runtime: Runtime[Context]) -> State:
        """What is to be checked again, one list a task."""
        pad = Scratchpad(runtime.context, state)
        await pad.each(
            pad.ask(
                task,
                "checklist",
                discrepancy.checklist(task, _differences(pad, task)),
                max_tokens=config.feedback_tokens,
            )
            for task in pad.open
        )
        return {"open": [task.id for task in pad.open if pad.said(task, "checklist")]}

    async def revise(state: State, runtime: Runtime[Context]) -> State:
        """Every kept answer, with the others, the differences and the checklist in view."""
        pad = Scratchpad(runtime.context, state)
        prompts = {task.id: await pad.question(task) for task in pad.open}
        await pad.each(
            pad.ask(
                task,
                "revise",
                [*prompts[task.id], assistant(own), user(_revision(pad, task, number))],
                number,
                max_tokens=config.reply_tokens,
            )
            for task in pad.open
            for number, own in enumerate(_kept(pad, task))
        )
        return {}

    async def settle(state: State, runtime: Runtime[Context]) -> State:
        """The common answer, else that of the majority."""
        pad = Scratchpad(runtime.context, state)
        for task in pad.tasks:
            finals = _finals(pad, task)
            # Those of the largest group come first, and the first wins a tie.
            vote = majority([final_answer(text) for text in finals])
            pad.note(task, "answer", finals[vote.supporters[0] if vote else 0] if finals else "")
        return {}

    async def evaluate(state: State, runtime: Runtime[Context]) -> State:
        """Beside one direct answer."""
        pad = Scratchpad(runtime.context, state)
        contrasts = {task.id: _told(config, pad, task) for task in pad.tasks}
        return await answering.evaluate(state, runtime, reply_tokens=config.reply_tokens, more={"contrasts": contrasts})

    return cycle(
        {},
        {
            "tasks": answering.tasks,
            "perspectives": propose,
            "solve": solve,
            "select": select,
            "contrast": contrast,
            "checklist": checklist,
            "revise": revise,
            "settle": settle,
            "submit": partial(answering.submit, answer=lambda pad, task: pad.said(task, "answer") or ""),
            "evaluate": evaluate,
        },
    )


def _ways(config: Config, pad: Scratchpad, task: Task) -> list[str]:
    return perspectives.perspectives_in(pad.said(task, "perspectives") or "", config.most_perspectives)


def _kept(pad: Scratchpad, task: Task) -> list[str]:
    """The answers that stand for their groups, the largest group's first."""
    return [pad.said(task, "solve", number) or "" for number in json.loads(pad.said(task, "kept") or "[]")]


def _in_conflict(kept: list[str]) -> bool:
    """Whether several were kept that do not all end in one result that can be read."""
    results = {final_answer(text) for text in kept}
    return len(kept) > 1 and (len(results) > 1 or None in results)


def _differences(pad: Scratchpad, task: Task) -> list[str]:
    return [text for text in pad.every(task, "contrast") if text]


def _revision(pad: Scratchpad, task: Task, number: int) -> str:
    kept = _kept(pad, task)
    return REVISE.format(
        others=discrepancy.listed([*kept[:number], *kept[number + 1 :]]),
        differences=discrepancy.told(_differences(pad, task)),
        checklist=pad.said(task, "checklist"),
    )


def _finals(pad: Scratchpad, task: Task) -> list[str]:
    """Each kept answer as it was revised, or as it was."""
    finals = []
    for number, before in enumerate(_kept(pad, task)):
        after = pad.said(task, "revise", number) or ""
        readable = final_answer(after) is not None or final_answer(before) is None
        finals.append(after if after and readable else before)
    return finals


def _told(config: Config, pad: Scratchpad, task: Task) -> dict[str, Any]:
    """For the generation's row: how many perspectives there were, and the results at each stage."""
    return {
        "perspectives": len(_ways(config, pad, task)),
        "results": [final_answer(text) for text in pad.every(task, "solve")],
        "kept": [final_answer(text) for text in _kept(pad, task)],
        "revised": [final_answer(text) for text in pad.every(task, "revise")],
    }
