"""Iterative Translation Refinement with Large Language Models (arXiv 2306.03856).

The model is shown a text with its translation and asked for a better one, several times, and nobody says what is wrong
with it. One generation is one pass over new texts, measured beside their first translations. Expect chrF to fall where
a translation becomes more natural than the reference: a generation's row has both kinds of measure, round by round.

Deviations from the paper, which has no public code:
- The rounds are chosen among by what `feedback/quality_estimate.py` says, instead of COMET; it is no part of the
  score. There is no neural metric, and fluency is measured in the toy language alone, by a model of its word pairs.
- The unrelated sentence of `random` stands in for the first translation; from the second round on it goes like
  `contrast`. It is the translation of a validation text, which this recipe uses for nothing else.
- What a model puts around its translation is taken off before the next round sees it. A round without a translation
  leaves the one before it; where there is none yet, the text is translated again.
- Temperature and number of rounds are not known for sure.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from functools import partial
from statistics import fmean
from typing import Any, Literal

from langgraph.graph import StateGraph
from langgraph.runtime import Runtime
from pydantic import BaseModel, ConfigDict, Field

from evolvent.agents import answering
from evolvent.agents.context import Context
from evolvent.agents.evolution import State, cycle
from evolvent.agents.feedback.quality_estimate import quality_estimates
from evolvent.agents.solutions.scratchpad import Scratchpad, user
from evolvent.environments.translation import bleu, chrf, coverage, fluency, lexicon, reference, source, translation_of
from evolvent.environments.types import Message, Task

ROLES = ("actor",)
ENVIRONMENTS = ("translation",)
CARRIES_OVER = False
"""Translations serve the one text they are of."""

Variant = Literal["refine", "contrast", "random", "paraphrase"]
BETTER = "{shown}\nWrite a better translation of the text. Write the translation alone."
BAD = "{shown}\nThat is a bad translation. Write a better translation of the text. Write the translation alone."
PARAPHRASE = "Say this in other words of the same language. Write the new sentence alone.\n{shown}"
REQUESTS: Mapping[Variant, str] = {"refine": BETTER, "contrast": BAD, "random": BAD, "paraphrase": PARAPHRASE}
TRANSLATE, REFINE = "translate", "refine"
_VERSION = "version"
"""Of a text, by round: what was read from the reply."""
_UNRELATED = 8
"""Validation texts from which `random` draws."""


class Config(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    rounds: int = Field(2, ge=1)
    """Better translations asked for, after the first one."""
    variant: Variant = "refine"
    """What a round is told. Contrast: that the translation is bad; random: the same of an unrelated sentence, in the
    first round; paraphrase: the translation without the text, as a control."""
    first: Mapping[str, str] = {}
    """Text → its first translation, from elsewhere; a text that is not among them is translated by the model."""
    selection: Literal["estimate", "last"] = "estimate"
    """Which round is handed in: that with the best quality estimate, of equals the earliest; or the last one."""
    stop_at_fixed_point: bool = False
    """No further round for a text whose translation came back as it was. Not in the paper."""
    temperature: float = Field(0.0, ge=0)
    reply_tokens: int = Field(48, ge=1)
    """Of one translation at most."""


PRESETS = {"small": Config(), "paper": Config(rounds=4, reply_tokens=256)}


def build(config: Config) -> StateGraph[State, Context, State, State]:
    """Per generation: tasks → translate → refine, again while tasks are open → select → submit → evaluate."""

    async def translate(state: State, runtime: Runtime[Context]) -> State:
        """The first translation, unless it was supplied."""
        context, pad = runtime.context, Scratchpad(runtime.context, state)
        context.say(f"generation {state['generation']}: translating {len(pad.tasks)} texts")

        async def first(task: Task) -> str:
            if given := config.first.get(source(task), ""):
                reply = pad.note(task, TRANSLATE, given)
            else:
                reply = await _ask(pad, task, TRANSLATE, 0, await pad.question(task))
            return pad.note(task, _VERSION, translation_of(reply))

        await pad.each(first(task) for task in pad.tasks)
        return {}

    async def refine(state: State, runtime: Runtime[Context]) -> State:
        """One round: a better translation of every open text, in a prompt that knows the round before and no other."""
        context, pad, number = runtime.context, Scratchpad(runtime.context, state), state["round"] + 1
        context.say(f"generation {state['generation']}: round {number} of {config.rounds}, {len(pad.open)} texts")
        unrelated = _unrelated(context, pad, state) if config.variant == "random" and number == 1 else {}

        async def better(task: Task) -> str:
            before = pad.said(task, _VERSION, number - 1) or ""
            question = await pad.question(task)
            asked = _request(config.variant, question, unrelated.get(task.id, before)) if before else question
            reply = await _ask(pad, task, REFINE, number, asked)
            return pad.note(task, _VERSION, translation_of(reply) or before, number)

        found = await pad.each(better(task) for task in pad.open)
        going_on = [
            task.id
            for task, text in zip(pad.open, found, strict=True)
            if not (config.stop_at_fixed_point and text == pad.said(task, _VERSION, number - 1))
        ]
        return {"round": number, "open": going_on if number < config.rounds else []}

    async def _ask(pad: Scratchpad, task: Task, purpose: str, number: int, messages: tuple[Message, ...]) -> str:
        return await pad.ask(
            task, purpose, messages, number, temperature=config.temperature, max_tokens=config.reply_tokens
        )

    async def select(state: State, runtime: Runtime[Context]) -> State:
        """The round that is handed in of each text."""
        pad, embedder = Scratchpad(runtime.context, state), runtime.context.memory.embedder
        for task in pad.tasks:
            versions = pad.every(task, _VERSION)
            estimates = await asyncio.to_thread(quality_estimates, task, versions, embedder)
            best = estimates.index(max(estimates)) if config.selection == "estimate" else len(versions) - 1
            pad.note(task, "selection", json.dumps({"chosen": best, "estimates": estimates}))
        return {}

    async def evaluate(state: State, runtime: Runtime[Context]) -> State:
        """Beside the first translations."""
        pad = Scratchpad(runtime.context, state)
        selections = {task.id: _selection(pad, task) for task in pad.tasks}
        measures = [_measures(pad, number) for number in range(config.rounds + 1)]
        more = {"selections": selections, "measures": measures}
        return await answering.evaluate(state, runtime, direct=TRANSLATE, more=more)

    return cycle(
        {},
        {
            "tasks": answering.tasks,
            "translate": translate,
            "refine": refine,
            "select": select,
            "submit": partial(answering.submit, answer=_answer),
            "evaluate": evaluate,
        },
        loops={"refine": "refine"},
    )


def _request(variant: Variant, question: tuple[Message, ...], shown: str) -> tuple[Message, ...]:
    """A prompt of one turn. The question ends where the translation would stand, so the one that is shown follows."""
    instructions = question[:1]
    return (*(instructions if variant == "paraphrase" else question), user(REQUESTS[variant].format(shown=shown)))


def _unrelated(context: Context, pad: Scratchpad, state: State) -> dict[str, str]:
    """A sentence of the language for each task, which translates something else."""
    others = [reference(other) for other in context.tasks("validation", _UNRELATED, state["generation"])]
    return {task.id: context.rng("unrelated", task.id).choice(others) for task in pad.open}


def _selection(pad: Scratchpad, task: Task) -> dict[str, Any]:
    told: dict[str, Any] = json.loads(pad.said(task, "selection") or "{}")
    return told


def _answer(pad: Scratchpad, task: Task) -> str:
    chosen: int = _selection(pad, task)["chosen"]
    return pad.every(task, _VERSION)[chosen]


def _measures(pad: Scratchpad, number: int) -> dict[str, float]:
    """Of a round's translations, all tasks together: by the words of a reference, and without one.

    `bleu` and `chrf` in [0, 100]; `words` is the mean length; `adequacy` and `fluency`, of the toy language alone, are
    means in [0, 1]. A text that was not gone over so often counts with its last translation.
    """
    texts = [pad.every(task, _VERSION)[: number + 1][-1] for task in pad.tasks]
    references = [reference(task) for task in pad.tasks]
    found = {
        "bleu": bleu(texts, references),
        "chrf": chrf(texts, references),
        "words": fmean(len(text.split()) for text in texts),
    }
    if all(lexicon(task) for task in pad.tasks):
        found["adequacy"] = fmean(map(coverage, pad.tasks, texts))
        found["fluency"] = fmean(map(fluency, pad.tasks, texts))
    return found
