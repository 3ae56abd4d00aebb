"""Asks a model what shall become of some records, in words that a small model can write (`memory/operation_lines.py`).

A model that can score options chooses one among all the lines that are possible, so it cannot write a wrong one. Any
other model writes lines; those that cannot be read are quoted back to it once. What it asks for is a proposal:
`memory.operations.to_events` says what becomes of it.
"""

from __future__ import annotations

import itertools
import logging
import random
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field

from evolvent.agents.errors import ModelCallError
from evolvent.agents.models.role import RoleModel
from evolvent.agents.types import CallTag
from evolvent.environments.types import Cost, Message
from evolvent.memory.consolidation import fits, same_claim
from evolvent.memory.operation_lines import Parsed, parse
from evolvent.memory.operations import VERBS, Operation, Rejected, Verb
from evolvent.memory.types import Record

logger = logging.getLogger(__name__)
_INSTRUCTIONS = "You look after a memory of short statements."
_FORMS: dict[Verb, str] = {
    "add": "ADD rule: a new statement",
    "update": "UPDATE 1: what statement 1 should say",
    "merge": "MERGE 1, 2: one statement in place of both",
    "retire": "RETIRE 1: why it is wrong",
    "keep": "KEEP 1",
    "nothing": "NOTHING",
}
_AGAINST = "the evidence is against it"
_QUOTED, _QUOTED_CHARS = 8, 160
"""Lines that are quoted back at most, and how much of each: a reply that ran away does not fill the next prompt."""


@dataclass(frozen=True, slots=True)
class Advice:
    """What a model asked for, and what was lost on the way."""

    operations: tuple[Operation, ...] = ()
    repaired: int = 0
    """Lines that were read only after a repair."""
    retried: int = 0
    """Lines that were quoted back because they could not be read at all."""
    rejected: tuple[Rejected, ...] = ()
    """What could not be read in the end: of the second reply, and of the first what was not quoted back."""
    cost: Cost = field(default_factory=Cost)


async def ask_operations(
    model: RoleModel,
    shown: Sequence[Record],
    evidence: str,
    tag: CallTag,
    rng: random.Random,
    *,
    statements: Sequence[str] = (),
    verbs: Collection[Verb] = VERBS,
) -> Advice:
    """What the model would do about the records shown, in the light of the evidence.

    Args:
        evidence: what happened, in words.
        statements: what may be written, for a model that chooses: the lines a situation admits. Without any it cannot
            add or update. A model that writes is free.
        verbs: what it may ask for. Leave out `retire` where only evidence retires.

    Raises:
        ModelCallError: the call failed for good. A second call that fails costs only the lines it was about.
    """
    listed = "\n".join(f"{number}. {' '.join(record.text.split())}" for number, record in enumerate(shown, 1))
    memory = Message("user", "memory", f"Memory:\n{listed or '(empty)'}")
    system = Message("system", "instructions", _INSTRUCTIONS)
    happened = Message("user", "history", evidence and f"What happened: {evidence}")
    if model.can_choose:
        options = list(possible_lines(shown, statements, verbs))
        question = Message("user", "task", "What has to be changed?")
        # Judged by what the evidence adds: a line is not right because a model likes to write it.
        neutral = (system, memory, question) if evidence else None
        choice = await model.choose((system, memory, happened, question), options, tag, rng=rng, neutral=neutral)
        return Advice(_read(options[choice.index], shown, verbs).operations, cost=choice.cost)
    forms = "\n".join(_FORMS[verb] for verb in VERBS if verb in verbs)
    question = Message("user", "task", f"Write what has to be changed, one operation a line, in these forms:\n{forms}")
    messages = (system, memory, happened, question)
    reply = await model.generate(messages, tag, max_tokens=256, seed=rng.getrandbits(31))
    first = _read(reply.text, shown, verbs)
    if not first.rejected:
        return Advice(first.operations, len(first.repaired), cost=reply.cost)
    logger.info("%d lines about memory could not be read; asking again", len(first.rejected))
    back, rest = first.rejected[:_QUOTED], first.rejected[_QUOTED:]
    quoted = "\n".join(f"{each.line[:_QUOTED_CHARS]}\n({each.reason})" for each in back)
    again = (
        *messages,
        Message("assistant", "history", reply.text),
        Message("user", "task", f"These lines cannot be read:\n{quoted}\nWrite only these lines again:\n{forms}"),
    )
    try:
        answer = await model.generate(again, tag, max_tokens=256, seed=rng.getrandbits(31))
    except ModelCallError as error:
        logger.warning("%s Its %d unread lines are lost.", error, len(first.rejected))
        return Advice(first.operations, len(first.repaired), len(back), first.rejected, reply.cost)
    second = _read(answer.text, shown, verbs)
    return Advice(
        tuple(dict.fromkeys((*first.operations, *second.operations))),
        len(first.repaired) + len(second.repaired),
        len(back),
        (*rest, *second.rejected),
        reply.cost + answer.cost,
    )


def possible_lines(shown: Sequence[Record], statements: Sequence[str], verbs: Collection[Verb]) -> Iterator[str]:
    """Every line that asks for something possible; NOTHING always is, and KEEP says no more than it.

    Merging is offered where two records say the same, updating where a statement answers the record's situation.
    """
    yield "NOTHING"
    known = {record.text for record in shown}
    new = [text for text in dict.fromkeys(statements) if text not in known]
    numbered = list(enumerate(shown, 1))
    if "add" in verbs:
        yield from (f"ADD rule: {text}" for text in new)
    for number, record in numbered:
        situation = str(record.meta.get("situation", ""))
        if "update" in verbs:
            yield from (f"UPDATE {number}: {text}" for text in new if not situation or fits(situation, text))
        if "retire" in verbs:
            yield f"RETIRE {number}: {_AGAINST}"
    if "merge" in verbs:
        for (i, one), (j, other) in itertools.combinations(numbered, 2):
            if same_claim(one, other):
                yield f"MERGE {i}, {j}"


def _read(reply: str, shown: Sequence[Record], verbs: Collection[Verb]) -> Parsed:
    return parse(reply, [record.id for record in shown], verbs={*verbs, "nothing"})
