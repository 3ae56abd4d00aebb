"""Self-Consistency Improves Chain of Thought Reasoning in Language Models (arXiv 2203.11171).

Many reasoning paths are sampled for one and the same prompt, and the answer that most of them end in is given. One
generation is one pass over new questions, measured beside the greedy chain of thought.

Deviations from the paper:
- A tie goes to the answer that was seen first, and is recorded; the paper leaves it open.
- The solved examples are the environment's own, drawn from its validation tasks, which this recipe uses for nothing
  else; an environment that has no expert shows none.
- The paper's number of questions and its ten runs belong to the run.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from functools import partial
from typing import Any

from langgraph.graph import StateGraph
from langgraph.runtime import Runtime
from pydantic import BaseModel, ConfigDict, Field

from evolvent.agents import answering
from evolvent.agents.context import Context
from evolvent.agents.evolution import State, cycle
from evolvent.agents.refinement.vote import Vote, final_answer, majority
from evolvent.agents.solutions.paths import PATH, sample_paths
from evolvent.agents.solutions.scratchpad import Scratchpad
from evolvent.agents.solutions.shots import examples
from evolvent.environments.types import Task

ROLES = ("actor",)
ENVIRONMENTS = ("word_problems", "reasoning_gym")
CARRIES_OVER = False
"""Nothing is kept from one question to the next."""


class Config(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    paths: int = Field(8, ge=1)
    """m: samples of each question."""
    temperature: float = Field(0.7, ge=0)
    shots: int = Field(2, ge=0)
    """Solved examples before the question."""
    reply_tokens: int = Field(64, ge=1)
    """Of one path at most."""


PRESETS = {"small": Config(), "paper": Config(paths=40, shots=8, reply_tokens=256)}


def build(config: Config) -> StateGraph[State, Context, State, State]:
    """Per generation: tasks → sample → vote → submit → evaluate."""

    async def sample(state: State, runtime: Runtime[Context]) -> State:
        """Independent paths from one and the same prompt."""
        context, pad = runtime.context, Scratchpad(runtime.context, state)
        context.say(f"generation {state['generation']}: sampling {config.paths} paths of {len(pad.tasks)} questions")
        await sample_paths(
            pad,
            config.paths,
            shots=examples(context, config.shots),
            temperature=config.temperature,
            reply_tokens=config.reply_tokens,
        )
        return {}

    async def vote(state: State, runtime: Runtime[Context]) -> State:
        """Paths are grouped by their answers and counted."""
        pad = Scratchpad(runtime.context, state)
        for task in pad.tasks:
            pad.note(task, "vote", json.dumps(_told(_vote(pad, task))))
        return {}

    async def evaluate(state: State, runtime: Runtime[Context]) -> State:
        """Beside the greedy path."""
        pad, shots = Scratchpad(runtime.context, state), examples(runtime.context, config.shots)
        votes = {task.id: json.loads(pad.said(task, "vote") or "null") for task in pad.tasks}
        return await answering.evaluate(
            state, runtime, recall=shots, stop=shots.stop, reply_tokens=config.reply_tokens, more={"votes": votes}
        )

    return cycle(
        {},
        {
            "tasks": answering.tasks,
            "sample": sample,
            "vote": vote,
            "submit": partial(answering.submit, answer=_answer),
            "evaluate": evaluate,
        },
    )


def _vote(pad: Scratchpad, task: Task) -> Vote | None:
    return majority([final_answer(path) for path in pad.every(task, PATH)])


def _told(vote: Vote | None) -> dict[str, Any] | None:
    return None if vote is None else {**asdict(vote), "agreement": vote.agreement}


def _answer(pad: Scratchpad, task: Task) -> str:
    """The first path that supports the winner, whole; the first path where no answer can be read."""
    vote = json.loads(pad.said(task, "vote") or "null")
    return pad.every(task, PATH)[vote["supporters"][0] if vote else 0]
