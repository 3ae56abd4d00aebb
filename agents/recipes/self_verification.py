"""Large Language Models are Better Reasoners with Self-Verification (arXiv 2212.09561).

Several solutions are sampled and their answers tested backwards: with an answer held to be true, a condition of the
problem is hidden, and the answer under which the hidden numbers are recovered most often wins. One generation is one
pass over new questions, measured beside the greedy chain of thought. It costs many more calls than that: compare it
with self-consistency at as many.

Deviations from the paper and its released code:
- Numbers are masked whole and where they stand; the code masks by substring and breaks decimals apart.
- The demonstrations keep their order; the code shuffles them before every call.
- The score is the share of replies that match, not their number: calls that failed give no reply, and to count them
  as misses, as the code does, would hold a server's failure against an answer.
- A rewrite that does not name the answer, or asks again, is replaced by a plain statement.
- Of one statement the next is made only where it holds the answer once, or it would be unclear what to replace.
- True-false verification follows the paper's text; the released branch of it cannot have worked.
- A problem without a number in its conditions cannot be masked (most of reasoning_gym): its first answer is given.
  `mode=true_false` tests such a problem too.
- Where no answer can be read, the first solution is handed in as it is. The paper's three runs belong to the user.
"""

from __future__ import annotations

import json
from functools import partial
from typing import Any, Literal, NamedTuple

from langgraph.graph import StateGraph
from langgraph.runtime import Runtime
from pydantic import BaseModel, ConfigDict, Field

from evolvent.agents import answering
from evolvent.agents.context import Context
from evolvent.agents.evolution import State, cycle
from evolvent.agents.feedback import backward
from evolvent.agents.refinement.vote import final_answer
from evolvent.agents.solutions.paths import PATH, sample_paths
from evolvent.agents.solutions.scratchpad import Scratchpad
from evolvent.agents.solutions.shots import examples
from evolvent.environments.types import Message, Task

ROLES = ("actor", "rewriter", "verifier")
ENVIRONMENTS = ("word_problems", "reasoning_gym")
CARRIES_OVER = False
"""Nothing is kept from one question to the next."""


class Config(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    candidates: int = Field(3, ge=1)
    """K: forward samples of each question."""
    checks: int = Field(2, ge=1)
    """P: samples of each backward question."""
    masks: int = Field(2, ge=1)
    """Numbers of a problem that are hidden at most, each in a question of its own."""
    mode: Literal["mask", "true_false"] = "mask"
    """Whether a hidden number is recovered, or the whole is called true or false."""
    temperature: float = Field(0.3, ge=0)
    """Of forward samples."""
    backward_temperature: float = Field(0.2, ge=0)
    shots: int = Field(2, ge=0)
    """Solved examples before the question."""
    reply_tokens: int = Field(64, ge=1)
    """Of one solution, forward or backward, at most."""


PRESETS = {"small": Config(), "paper": Config(candidates=5, checks=10, masks=3, shots=8, reply_tokens=168)}


class Check(NamedTuple):
    """One backward question."""

    messages: list[Message]
    mask: backward.Masked | None
    """None where a verdict is asked for."""

    def passed(self, reply: str) -> bool:
        return backward.agrees(reply) if self.mask is None else backward.recovers(reply, self.mask)


def build(config: Config) -> StateGraph[State, Context, State, State]:
    """Per generation: tasks → sample → rewrite → verify → select → submit → evaluate."""

    async def sample(state: State, runtime: Runtime[Context]) -> State:
        """Forward solutions. Only where their answers differ is there anything to verify."""
        context, pad = runtime.context, Scratchpad(runtime.context, state)
        context.say(f"generation {state['generation']}: {config.candidates} solutions of {len(pad.tasks)} questions")
        await sample_paths(
            pad,
            config.candidates,
            shots=examples(context, config.shots),
            temperature=config.temperature,
            reply_tokens=config.reply_tokens,
        )
        return {"open": [task.id for task in pad.tasks if len(_candidates(pad, task)) > 1]}

    async def rewrite(state: State, runtime: Runtime[Context]) -> State:
        """Each answer becomes a statement: the first by a call, the others by replacement where that can be done."""
        pad = Scratchpad(runtime.context, state)
        first = [(task, 0) for task in pad.open]
        await pad.each(_rewritten(pad, task, number) for task, number in first)
        others = [(task, number) for task in pad.open for number in range(1, len(_candidates(pad, task)))]
        await pad.each(_rewritten(pad, task, number) for task, number in others)
        return {}

    async def verify(state: State, runtime: Runtime[Context]) -> State:
        """Every backward question of every answer, sampled; each on its own."""
        pad = Scratchpad(runtime.context, state)
        runtime.context.say(f"generation {state['generation']}: verifying {len(pad.open)} questions backwards")
        await pad.each(
            pad.ask(
                task,
                f"verify {candidate}/{place}",
                check.messages,
                number,
                role="verifier",
                temperature=config.backward_temperature,
                max_tokens=config.reply_tokens,
            )
            for task in pad.open
            for candidate in range(len(_candidates(pad, task)))
            for place, check in enumerate(_checks(config, pad, task, candidate))
            for number in range(config.checks)
        )
        return {}

    async def select(state: State, runtime: Runtime[Context]) -> State:
        """The answer that passed most; of a tie the earlier one, as where nothing was verified."""
        pad = Scratchpad(runtime.context, state)
        for task in pad.tasks:
            candidates = _candidates(pad, task)
            verified = task in pad.open
            scores = [_score(config, pad, task, number) for number in range(len(candidates))] if verified else []
            best = scores.index(max(scores)) if scores else 0
            told = {
                "answers": list(candidates),
                "samples": [len(places) for places in candidates.values()],
                "scores": scores,
                "chosen": list(candidates)[best] if candidates else None,
            }
            pad.note(task, "selection", json.dumps(told))
        return {}

    async def evaluate(state: State, runtime: Runtime[Context]) -> State:
        """Beside the greedy solution."""
        pad, shots = Scratchpad(runtime.context, state), examples(runtime.context, config.shots)
        selections = {task.id: _selection(pad, task) for task in pad.tasks}
        return await answering.evaluate(
            state,
            runtime,
            recall=shots,
            stop=shots.stop,
            reply_tokens=config.reply_tokens,
            more={"selections": selections},
        )

    return cycle(
        {},
        {
            "tasks": answering.tasks,
            "sample": sample,
            "rewrite": rewrite,
            "verify": verify,
            "select": select,
            "submit": partial(answering.submit, answer=_answer),
            "evaluate": evaluate,
        },
    )


async def _rewritten(pad: Scratchpad, task: Task, number: int) -> str:
    """The statement of an answer, kept."""
    answers = list(_candidates(pad, task))
    _, question = backward.conditions_and_question(task.prompt)
    text = backward.with_answer(_statement(pad, task, 0), answers[0], answers[number]) if number else None
    if text is None:
        asked = backward.rewriting(question, answers[number])
        reply = await pad.ask(task, "rewrite", asked, number, role="rewriter", max_tokens=48)
        text = backward.statement_in(reply, question, answers[number])
    return pad.note(task, "statement", text or backward.plain_statement(question, answers[number]), number)


def _candidates(pad: Scratchpad, task: Task) -> dict[str, list[int]]:
    """Different answers in the order of first sight, with the places of the solutions that end in them."""
    found: dict[str, list[int]] = {}
    for place, path in enumerate(pad.every(task, PATH)):
        if (answer := final_answer(path)) is not None:
            found.setdefault(answer, []).append(place)
    return found


def _statement(pad: Scratchpad, task: Task, number: int) -> str:
    return pad.said(task, "statement", number) or ""


def _checks(config: Config, pad: Scratchpad, task: Task, candidate: int) -> list[Check]:
    statement = _statement(pad, task, candidate)
    conditions, _ = backward.conditions_and_question(task.prompt)
    if config.mode == "true_false":
        return [Check(backward.judging(conditions, statement), None)]
    return [Check(backward.recovering(mask, statement), mask) for mask in backward.masks(conditions, config.masks)]


def _score(config: Config, pad: Scratchpad, task: Task, candidate: int) -> float:
    """Share of the replies that speak for the answer, over all of its backward questions."""
    passed = [
        check.passed(reply)
        for place, check in enumerate(_checks(config, pad, task, candidate))
        for reply in pad.every(task, f"verify {candidate}/{place}")
        if reply
    ]
    return sum(passed) / max(1, len(passed))


def _selection(pad: Scratchpad, task: Task) -> dict[str, Any]:
    told: dict[str, Any] = json.loads(pad.said(task, "selection") or "{}")
    return told


def _answer(pad: Scratchpad, task: Task) -> str:
    """The first solution that ends in the chosen answer, whole; the first one where no answer can be read."""
    chosen, paths = _selection(pad, task)["chosen"], pad.every(task, PATH)
    if chosen is None:
        return next((path for path in paths if path), "")
    return paths[_candidates(pad, task)[chosen][0]]
