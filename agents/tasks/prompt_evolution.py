"""Nine ways to breed a prompt from others, with a model that writes and evolved instructions for how it is to write.

Promptbreeder (arXiv 2309.16797, §3.2). A genome holds two task-prompts, of which a mutation changes one. An operator
whose call fails, says nothing or says what was there before leaves the genome as it is.
"""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol, get_args

from evolvent.agents.refinement.near_duplicates import without_near_duplicates
from evolvent.agents.tasks.genome import COPY, Bred, Genome
from evolvent.memory.embedding import Floats

Operator = Literal[
    "zero_order",
    "first_order",
    "eda",
    "eda_rank",
    "lineage",
    "hyper_zero",
    "hyper_first",
    "lamarckian",
    "crossover",
]
OPERATORS: tuple[Operator, ...] = get_args(Operator)
HYPERMUTATIONS: tuple[Operator, ...] = ("hyper_zero", "hyper_first")

WRITER = "You write instructions for somebody who solves problems. You do not solve the problems yourself."
_MUTATE = "{how}\nInstruction: {instruction}\nWrite the new instruction alone."
_HINTS = "Problem: {problem}\nList hints that help with every problem of this kind, one a line.\n1."
_NEXT = "Write the next one of the list alone."
_LISTED = "Problem: {problem}\nInstructions for it, each unlike the others:\n{listed}\n{next}"
_RANKED = (
    "Problem: {problem}\nInstructions for it, in descending order of quality, the best one first:\n{listed}\n{next}"
)
_LINEAGE = (
    "Problem: {problem}\nInstructions for it, each found later than the one before it and better:\n{listed}\n{next}"
)
_NEW_REQUEST = (
    "Problem: {problem}\n{style}\nIn this spirit, write one sentence that asks somebody to change an instruction for "
    "such problems."
)
_BETTER_REQUEST = "Summarise this request and improve it. Write the new request alone.\nRequest: {request}"
_INFER = (
    "Somebody was given an instruction and then worked like this, with the right result:\n{working}\n"
    "What was the instruction? Write it alone."
)
_LABEL = re.compile(r"^\W*(?:(?:the |a |an )?(?:new |next |better )?(?:instruction|request|hint)\s*(?:is)?\s*:)", re.I)
_NUMBER = re.compile(r"^\W*(?:\d+\s*[.):]\s*)+")
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")


class Ask(Protocol):
    """A call of the writing model for one purpose; empty where it failed."""

    def __call__(self, purpose: str, request: str) -> Awaitable[str]: ...


@dataclass(frozen=True, slots=True)
class Other:
    """Another individual, of which something may be taken over."""

    id: str
    genome: Genome
    fitness: float


@dataclass(frozen=True, slots=True)
class Breeding:
    """What an operator may draw on."""

    problem: str
    """Description of the problems, in words."""
    parent: Genome
    place: int
    """Of the task-prompt that is changed, from 0."""
    population: Sequence[str]
    """The task-prompts at that place, by increasing fitness."""
    lineage: Sequence[str]
    """Those of the parent and of its ancestors, all of which won, the oldest first."""
    workings: Mapping[str, str]
    """Correct workings of the parent, by trajectory id."""
    others: Sequence[Other]
    ask: Ask
    embed: Callable[[Sequence[str]], Floats]
    cosine_limit: float
    """Prompts that are more alike than this stand in a list once."""
    styles: Sequence[str]
    rng: random.Random

    @property
    def prompt(self) -> str:
        return self.parent.task_prompts[self.place]


async def breed(operator: Operator, given: Breeding) -> Bred:
    """A child by that operator. Without a correct working to learn from, `lamarckian` falls back to `zero_order`."""
    if operator == "lamarckian" and not given.workings:
        operator = "zero_order"
    return await _BY_NAME[operator](given) or Bred(given.parent)


def crossover(genome: Genome, place: int, others: Sequence[Other], rng: random.Random) -> Bred | None:
    """The task-prompt of another, drawn in proportion to fitness; of any where none is fit at all."""
    strangers = [each for each in others if each.genome.task_prompts[place] != genome.task_prompts[place]]
    if not strangers:
        return None
    weights = [each.fitness for each in strangers]
    (donor,) = rng.choices(strangers, weights if any(weights) else None)
    return Bred(genome.having(place, donor.genome.task_prompts[place]), "crossover", (donor.id,))


def crossed(child: Bred, place: int, others: Sequence[Other], rng: random.Random) -> Bred:
    """A child with the task-prompt of another beside what it has; a copy is then no copy any more."""
    found = crossover(child.genome, place, others, rng)
    if found is None:
        return child
    operator = found.operator if child.operator == COPY else child.operator
    return Bred(found.genome, operator, (*child.also, *found.also))


def first_prompt(how: str, style: str, problem: str) -> str:
    """The request for a task-prompt of somebody who has none yet: as of a mutation, of the problem's description."""
    return rewriting(f"{how} {style}", problem)


def rewriting(how: str, instruction: str) -> str:
    """The request for an instruction changed as the mutation-prompt `how` says."""
    return _MUTATE.format(how=how, instruction=instruction)


def renewed(
    examples: Sequence[str], correct: Sequence[str], rng: random.Random, *, most: int, resample: float
) -> tuple[str, ...]:
    """Worked examples after a child's birth: one is new, or with probability `resample` all are.

    Args:
        correct: correct workings to draw from; where none of them is new nothing changes.
        most: examples at most. As long as there are fewer, the new one is added.
    """
    if correct and (not examples or rng.random() < resample):
        return tuple(rng.sample(correct, min(len(correct), most)))
    fresh = [text for text in correct if text not in examples]
    if not fresh:
        return tuple(examples)
    kept = list(examples)
    if len(kept) == most:
        kept.pop(rng.randrange(most))
    return (*kept, rng.choice(fresh))


def instruction_in(reply: str) -> str:
    """A reply as an instruction: on one line, each sentence once, since a small model may say one thing for ever.

    Empty where it says nothing.
    """
    line = " ".join(_LABEL.sub("", _NUMBER.sub("", reply)).split()).strip(" \"'*`")
    return " ".join(dict.fromkeys(_SENTENCE_END.split(line))) if re.search(r"\w", line) else ""


async def _zero_order(given: Breeding) -> Bred | None:
    """The first of some hints that nobody's prompt is yet; the parent's is not looked at."""
    reply = await given.ask("zero_order", _HINTS.format(problem=given.problem))
    return _child(given, "zero_order", _first_new(reply, given.population))


async def _first_order(given: Breeding) -> Bred | None:
    """The task-prompt as the mutation-prompt wants it rewritten."""
    prompt = await _rewritten(given, "first_order", given.parent.mutation_prompt)
    return _child(given, "first_order", prompt)


async def _eda(given: Breeding) -> Bred | None:
    """One more like those that there are, in random order."""
    listed = await _distinct(given)
    given.rng.shuffle(listed)
    return await _continued(given, "eda", _LISTED, listed)


async def _eda_rank(given: Breeding) -> Bred | None:
    """The worst first, while the model is told that the best come first: it would rather repeat the last one."""
    return await _continued(given, "eda_rank", _RANKED, await _distinct(given))


async def _lineage(given: Breeding) -> Bred | None:
    """What comes after the parent in the line of its ancestors."""
    return await _continued(given, "lineage", _LINEAGE, list(dict.fromkeys(given.lineage)))


async def _hyper_zero(given: Breeding) -> Bred | None:
    """A new mutation-prompt from the problem and a style of thinking, used at once."""
    style = given.rng.choice(given.styles)
    reply = await given.ask("hyper_zero", _NEW_REQUEST.format(problem=given.problem, style=style))
    return await _hypermutated(given, "hyper_zero", reply)


async def _hyper_first(given: Breeding) -> Bred | None:
    """A better mutation-prompt than the parent's, used at once."""
    reply = await given.ask("hyper_first", _BETTER_REQUEST.format(request=given.parent.mutation_prompt))
    return await _hypermutated(given, "hyper_first", reply)


async def _lamarckian(given: Breeding) -> Bred | None:
    """The instruction that a correct working seems to have followed."""
    trajectory = given.rng.choice(sorted(given.workings))
    reply = await given.ask("lamarckian", _INFER.format(working=given.workings[trajectory]))
    child = _child(given, "lamarckian", instruction_in(reply))
    return child and replace(child, also=(trajectory,))


async def _crossover(given: Breeding) -> Bred | None:
    return crossover(given.parent, given.place, given.others, given.rng)


_BY_NAME: Mapping[Operator, Callable[[Breeding], Awaitable[Bred | None]]] = {
    "zero_order": _zero_order,
    "first_order": _first_order,
    "eda": _eda,
    "eda_rank": _eda_rank,
    "lineage": _lineage,
    "hyper_zero": _hyper_zero,
    "hyper_first": _hyper_first,
    "lamarckian": _lamarckian,
    "crossover": _crossover,
}


def _child(given: Breeding, operator: Operator, prompt: str) -> Bred | None:
    return Bred(given.parent.having(given.place, prompt), operator) if prompt not in ("", given.prompt) else None


async def _hypermutated(given: Breeding, operator: Operator, reply: str) -> Bred | None:
    """The child whose task-prompt the new mutation-prompt made; it has both or neither."""
    mutation_prompt = instruction_in(reply)
    if mutation_prompt in ("", given.parent.mutation_prompt):
        return None
    child = _child(given, operator, await _rewritten(given, f"{operator}_used", mutation_prompt))
    return child and replace(child, genome=replace(child.genome, mutation_prompt=mutation_prompt))


async def _rewritten(given: Breeding, purpose: str, how: str) -> str:
    return instruction_in(await given.ask(purpose, rewriting(how, given.prompt)))


async def _continued(given: Breeding, operator: Operator, wording: str, listed: Sequence[str]) -> Bred | None:
    numbered = "\n".join(f"{number}. {prompt}" for number, prompt in enumerate(listed, 1))
    reply = await given.ask(operator, wording.format(problem=given.problem, listed=numbered, next=_NEXT))
    return _child(given, operator, _first_new(reply, listed))


async def _distinct(given: Breeding) -> list[str]:
    """The population's prompts by increasing fitness; of those that are nearly one, the fittest."""
    fittest_first = [*reversed(given.population)]
    kept = await asyncio.to_thread(without_near_duplicates, fittest_first, given.embed, limit=given.cosine_limit)
    return kept[::-1]


def _first_new(reply: str, known: Sequence[str]) -> str:
    """The first line of a list that is not known; empty where there is none."""
    lines = (instruction_in(line) for line in reply.splitlines())
    return next((line for line in lines if line and line not in known), "")
