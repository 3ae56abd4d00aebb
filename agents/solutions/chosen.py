"""Demonstrations that the model chooses itself: one of each group of what memory offers (MoT, arXiv 2305.05181).

Recall says what is offered, by ids, and asks nobody. The manner shows the model the questions of one group at a time,
takes the one it names, and has it answer behind those that were taken. So a record that recall withholds is never
offered, and what dropout measures is what it is worth to have a record to choose from.
"""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from evolvent.agents.errors import ModelCallError
from evolvent.agents.solutions.act import Acted, Policy, read_action, written_step
from evolvent.agents.solutions.found import Showing
from evolvent.agents.solutions.shots import END
from evolvent.agents.types import CallTag
from evolvent.environments.types import Cost, Message, Observation, Step, Task, conversation, merge
from evolvent.memory.embedding import Embedder
from evolvent.memory.store import Snapshot
from evolvent.memory.types import Kind, Record

QUESTION = "question"
"""The fact of a record that says what it answers: it is found by this, and chosen by it."""
SELECT = "select"
"""Purpose of the calls that choose."""
_WHICH = (
    "This question is to be answered:\n{question}\n\nThese questions have been answered before:\n{listed}\n\n"
    "The solution of which one would help most? Reply with its number alone."
)
_LEADING = re.compile(r"\W*(?:(?:question|number|no)\b\W*)?(\d+)\b", re.IGNORECASE)
_NUMBER = re.compile(r"(?<![\w.])\d+\b(?!\.\d)")
_CHARS_PER_TOKEN = 4
_SOURCES = ("premise:", "support:")
"""How tags begin that say what a task is drawn from."""

Shares = Callable[[Task, Record], bool]
"""Whether a record must not be shown for a task because it speaks of the same case."""


def same_source(task: Task, record: Record) -> bool:
    """Whether both are drawn from one premise or one passage: the record's `tags` and the task's have such a tag."""
    return any(tag in task.tags for tag in record.meta.get("tags", ()) if tag.startswith(_SOURCES))


def by_question(
    snapshot: Snapshot,
    embedder: Embedder,
    task: Task,
    *,
    kind: Kind,
    showing: Showing = Showing(),
    shares: Shares = same_source,
) -> list[Record]:
    """All records with a question that count in the task's environment, the nearest question first; ties by id."""
    usable = [
        record
        for record in snapshot.records.values()
        if record.kind == kind
        and QUESTION in record.meta
        and record.scope.environment in ("", task.environment)
        and set(record.scope.tags) <= set(task.tags)
        and showing.counts(record)
        and not shares(task, record)
    ]
    if not usable:
        return []
    *questions_ND, asked_D = embedder.embed([*(record.meta[QUESTION] for record in usable), task.prompt])
    # Rounded as every search is: the last bits of an embedding depend on its batch.
    near = {record.id: round(float(each_D @ asked_D), 6) for record, each_D in zip(usable, questions_ND, strict=True)}
    return sorted(usable, key=lambda record: (-near[record.id], record.id))


def offered(groups: Sequence[Sequence[Record]]) -> str:
    """What recall hands to `Chosen`: ids, a group a line, best first. No model reads it."""
    return "\n".join(" ".join(record.id for record in group) for group in groups if group)


def number_in(reply: str, highest: int) -> int | None:
    """The number from 1 to `highest` that a reply begins with, or the only one it holds; None where it names none."""
    leading = _LEADING.match(reply)
    named = {int(leading[1])} if leading else {int(each) for each in _NUMBER.findall(reply)}
    return named.pop() if len(named) == 1 and named <= set(range(1, highest + 1)) else None


@dataclass(frozen=True, slots=True)
class Chosen:
    """A manner of answering behind demonstrations, one of each group that recall `offered`.

    A group costs one call, at temperature 0, that sees questions alone. Where its reply names none of them, or the call
    fails, the group's first is taken. With nothing offered the task is asked plainly.
    """

    records: Mapping[str, Record]
    """By id: at least all that may be offered, each with its question, and a text that shows it answered."""
    ask: bool = True
    """Without it the first of each group is taken and nobody is asked."""
    number_tokens: int = 64
    """Of a reply that chooses."""
    list_tokens: int = 3300
    """Of a prompt that chooses; beyond it the last questions of its group go, all but the first."""
    prompt_tokens: int = 3600
    """Of the prompt that answers, four characters each; beyond it demonstrations go, whole ones, from the last on."""

    async def __call__(
        self,
        policy: Policy,
        observation: Observation,
        new: tuple[Message, ...],
        earlier: Sequence[Step],
        tag: CallTag,
        rng: random.Random,
    ) -> Acted:
        lines = [] if earlier else _head(new).splitlines()
        groups = [[self.records[key] for key in line.split()] for line in lines]
        question = "".join(message.text for message in new if message.part == "task")
        seeds = [rng.getrandbits(31) for _ in groups]
        choices = await asyncio.gather(
            *(self._choose(policy, question, group, tag, seed) for group, seed in zip(groups, seeds, strict=True))
        )
        told = self._that_fit([record.text for record, _ in choices], new, earlier)
        turns = new if earlier else _with_head(new, told)
        stop = (*policy.stop, END) if told else policy.stop
        reply = await policy.write(conversation(earlier, turns), tag, rng, stop=stop)
        action, known = read_action(reply.text, observation)
        step = written_step(policy, observation, turns, reply.text, action)
        return Acted(step, sum((cost for _, cost in choices), reply.cost), malformed=not known)

    async def _choose(
        self, policy: Policy, question: str, group: Sequence[Record], tag: CallTag, seed: int
    ) -> tuple[Record, Cost]:
        if not self.ask:
            return group[0], Cost()
        count = len(group)
        while count > 1 and _tokens(_which(question, group[:count])) > self.list_tokens:
            count -= 1
        asked = Message("user", "task", _which(question, group[:count]))
        try:
            reply = await policy.model.generate(
                [asked], replace(tag, purpose=SELECT), max_tokens=self.number_tokens, seed=seed
            )
        except ModelCallError:
            return group[0], Cost(calls=1)
        return group[(number_in(reply.text, count) or 1) - 1], reply.cost

    def _that_fit(self, shown: Sequence[str], new: tuple[Message, ...], earlier: Sequence[Step]) -> str:
        """The demonstrations as one text, so many of the first that the whole prompt keeps its budget."""
        for count in range(len(shown), 0, -1):
            told = END.join(shown[:count]) + "\n"  # a prompt's parts stand on lines of their own: an empty one follows
            sent = merge(conversation(earlier, _with_head(new, told)))
            if sum(_tokens(text) for _, text in sent) <= self.prompt_tokens:
                return told
        return ""


def _which(question: str, group: Sequence[Record]) -> str:
    listed = "\n".join(f"{number}. {record.meta[QUESTION]}" for number, record in enumerate(group, 1))
    return _WHICH.format(question=question, listed=listed)


def _head(new: Sequence[Message]) -> str:
    """What recall put before the task."""
    return next((message.text for message in new if message.part == "memory"), "")


def _with_head(new: Sequence[Message], told: str) -> tuple[Message, ...]:
    at = next((place for place, message in enumerate(new) if message.part == "memory"), None)
    return tuple(replace(message, text=told) if place == at else message for place, message in enumerate(new))


def _tokens(text: str) -> int:
    return len(text) // _CHARS_PER_TOKEN + 1
