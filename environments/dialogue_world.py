"""Invented people who talk day after day: what they tell, change, correct and ask. Every wording is ours.

A turn is what one of them says: zero or more statements, a sentence each, and one question about an earlier turn.
Turns and questions out, each with its true answer and the turns that hold it. Knows nothing of tasks or replies.

What a person says follows from the world, the person and how many turns they had, so a longer history begins as a
shorter one does.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from evolvent.environments.dialogue_topics import (
    ASKED_BEFORE,
    ASKED_DAY,
    CORRECTED,
    POOLS,
    SMALL_TALK,
    STOCKS,
    TOPICS,
    Stock,
    Topic,
)
from evolvent.environments.invented_world import names

Kind = Literal["changed", "plain", "count", "before", "day", "unknown"]
"""Of a question: what holds now of what was changed or told once, a stock, what held before, when it was told, and
what was not told."""
KINDS: Mapping[Kind, int] = {"changed": 3, "plain": 3, "count": 2, "before": 1, "day": 1, "unknown": 1}
"""How often each is asked in a turn, where it can be."""
NEVER_TOLD = 3
"""Topics of the 24 that a person never speaks of."""
NOT_TOLD = (
    "I do not know", "I don't know", "unknown", "not told", "I was not told", "you did not tell me",
    "you didn't tell me", "you have not told me", "you haven't told me", "you never told me",
    "you have not told me yet", "you haven't told me yet", "that was not told", "it was not told", "not mentioned",
    "you did not say", "not known",
)  # fmt: skip
"""Right answers to what was not told."""
_STATEMENTS = (0, 1, 1, 2, 2, 3)
_SHARES = {"new": 4, "change": 3, "move": 2, "talk": 2}
_MOVES_TO_A_RECOUNT = 3
"""A stock that moved so often is counted anew, so that no answer rests on more turns than four."""
_FEWEST, _MOST = 2, 60
"""Of a stock: the plural is always right and there is always something to give away."""
WAYS = 3
"""Wordings of a question fall into so many parts, which share none."""


@dataclass(frozen=True, slots=True)
class Asked:
    text: str
    kind: Kind
    answers: tuple[str, ...]
    """What counts as right, the shortest first; `NOT_TOLD` where it was not told."""
    stale: tuple[str, ...]
    """What was right once and is not any more."""
    holders: tuple[str, ...]
    """Ids of the turns from which the answer follows; none where it was not told."""


@dataclass(frozen=True, slots=True)
class Turn:
    id: str
    """`d2t5`: the fifth turn of the second day."""
    day: int
    """From 1."""
    number: int
    """Within the day, from 1."""
    speaker: str
    statements: tuple[str, ...]
    asked: Asked


@dataclass(frozen=True, slots=True)
class History:
    days: tuple[tuple[Turn, ...], ...]
    people: tuple[_Person, ...]

    def questions(self, way: int) -> Iterator[tuple[str, tuple[Asked, ...]]]:
        """Speaker and wordings, for all that can be asked after the last day; `way` in [0, `WAYS`) picks wordings."""
        for person in self.people:
            for kind in KINDS:
                for subject in person.subjects(kind):
                    yield person.name, person.ask(kind, subject, way)


@functools.lru_cache(maxsize=8)
def history(world: int, days: int, turns: int, people: int) -> History:
    """The first days of a world: the people speak in turn, `turns` times a day between them."""
    rng = random.Random(f"dialogue/{world}")
    unused = names(rng)
    pools = {**POOLS, **{kind: [next(unused) for _ in range(24)] for kind in ("town", "dog", "friend")}}
    cast = tuple(_Person(f"{next(unused)} {next(unused)}", world, at, pools) for at in range(people))
    told = tuple(
        tuple(cast[(number - 1) % people].turn(day, number) for number in range(1, turns + 1))
        for day in range(1, days + 1)
    )
    return History(told, cast)


@dataclass(frozen=True, slots=True)
class _Told:
    value: str
    turn: str
    day: int


@dataclass(frozen=True, slots=True)
class _Count:
    total: int
    turns: tuple[str, ...]
    """Since it was last counted, that turn included."""
    earlier: tuple[int, ...] = ()
    """Other totals that held before, each once."""


Subject = tuple[str, int]
"""A topic or stock, and which of its values is meant."""


class _Person:
    """Somebody with their own facts. Says the next turn; asks about what was told so far."""

    def __init__(self, name: str, world: int, at: int, pools: Mapping[str, Sequence[str]]) -> None:
        self.name = name
        self._rng = random.Random(f"dialogue/{world}/{at}")
        every = [*TOPICS, *STOCKS]
        silent = self._rng.sample(every, NEVER_TOLD)
        self._untold = {topic: None for topic in every if topic not in silent}
        self._pools = pools
        self._unused = {
            topic: self._rng.sample(pools[what.pool], len(pools[what.pool])) for topic, what in TOPICS.items()
        }
        self._told: dict[str, list[_Told]] = {}
        self._counts: dict[str, _Count] = {}
        self._day = 0

    # -- saying --------------------------------------------------------------------------------------------------------

    def turn(self, day: int, number: int) -> Turn:
        """The next turn. The first tells three things; the first of a later day changes one."""
        turn, touched, statements = f"d{day}t{number}", set[str](), list[str]()
        first, returning = not self._day, 0 < self._day < day
        self._day = day
        kinds = ["new"] * 3 if first else ["change"] * returning
        many = max(self._rng.choice(_STATEMENTS), len(kinds))
        while len(statements) < many:
            kind = kinds.pop() if kinds else self._rng.choices([*_SHARES], [*_SHARES.values()])[0]
            statements.append(self._said(kind, turn, touched, facts_only=first))
        # What this turn speaks of is not asked in it: the answer would stand beside the question.
        return Turn(turn, day, number, self.name, tuple(statements), self._question(touched))

    def _said(self, kind: str, turn: str, touched: set[str], *, facts_only: bool) -> str:
        """One statement of this kind, or small talk where there is nothing to say of it."""
        match kind:
            case "new":
                open_to = [each for each in self._untold if each in TOPICS or not facts_only]
            case "change":
                open_to = [each for each in self._told if self._unused[each] and each not in touched]
            case "move":
                open_to = [each for each in self._counts if each not in touched]
            case _:
                open_to = []
        if not open_to:
            drawn = {pool: self._rng.choice(values) for pool, values in self._pools.items()}
            return self._rng.choice(SMALL_TALK).format(**drawn)
        name = self._rng.choice(open_to)
        touched.add(name)
        self._untold.pop(name, None)
        if name in STOCKS:
            return self._counted(STOCKS[name], turn)
        topic, value = TOPICS[name], self._unused[name].pop()
        wordings: Sequence[str] = topic.told
        if name in self._told:
            old = self._told[name][-1].value
            before, clause = topic.clause.format(old), topic.clause
            corrected = [each.format(now=clause, before=before, old=old) for each in CORRECTED]
            again = [topic.told[:1]] if topic.single else []
            wordings = self._rng.choice([topic.changed, corrected, *again])
        self._told.setdefault(name, []).append(_Told(value, turn, self._day))
        return self._rng.choice(wordings).format(value)

    def _counted(self, stock: Stock, turn: str) -> str:
        """The stock, told for the first time, moved or counted anew."""
        turns: tuple[str, ...] = (turn,)
        before = self._counts.get(stock.things)
        if before is None or len(before.turns) > _MOVES_TO_A_RECOUNT:
            wordings, told = (stock.recounted if before else stock.told), self._rng.randint(12, 40)
            total = told
        else:
            told, turns = self._rng.randint(2, 9), (*before.turns, turn)
            up = before.total - told < _FEWEST or (before.total + told <= _MOST and self._rng.random() < 0.5)
            wordings, total = (stock.up, before.total + told) if up else (stock.down, before.total - told)
        known = dict.fromkeys((*before.earlier, before.total)) if before else {}
        self._counts[stock.things] = _Count(total, turns, tuple(each for each in known if each != total))
        return self._rng.choice(wordings).format(told)

    # -- asking --------------------------------------------------------------------------------------------------------

    def _question(self, touched: set[str]) -> Asked:
        """One question that earlier turns answer, or that none does."""
        kinds = list(KINDS)
        while kinds:
            kind = self._rng.choices(kinds, [KINDS[each] for each in kinds])[0]
            subjects = [subject for subject in self.subjects(kind) if subject[0] not in touched]
            if subjects:
                return self._rng.choice(self.ask(kind, self._rng.choice(subjects), way=0))
            kinds.remove(kind)
        raise AssertionError("three topics are never told, so there is always something to ask")

    def subjects(self, kind: Kind) -> list[Subject]:
        """All that can be asked about in this way, as things stand."""
        match kind:
            case "changed" | "plain":
                return [(name, -1) for name, told in self._told.items() if (len(told) > 1) == (kind == "changed")]
            case "count":
                return [(name, -1) for name in self._counts]
            case "before":
                return [(name, at) for name, told in self._told.items() for at in range(1, len(told))]
            case "day":
                return [(name, at) for name, told in self._told.items() for at in range(len(told))]
            case "unknown":
                return [
                    (name, -1) for name in (*TOPICS, *STOCKS) if name not in self._told and name not in self._counts
                ]

    def ask(self, kind: Kind, subject: Subject, way: int) -> tuple[Asked, ...]:
        """The question in all its wordings of this way."""
        name, at = subject
        if kind == "unknown":
            every = TOPICS[name].asked if name in TOPICS else STOCKS[name].asked
            return _asked(every[way::WAYS], kind, NOT_TOLD)
        if name in STOCKS:
            stock, now = STOCKS[name], self._counts[name]
            answers, stale = _forms(stock.forms, now.total), _forms(stock.forms, *now.earlier)
            return _asked(stock.asked[way::WAYS], kind, answers, stale, now.turns)
        topic, told = TOPICS[name], self._told[name]
        meant = told[at]
        if kind == "day":
            texts = _filled(ASKED_DAY[way::WAYS], topic, meant.value)
            return _asked(texts, kind, _forms(_DAY, meant.day), (), (meant.turn,))
        wordings: Sequence[str] = topic.asked[way::WAYS]
        if kind == "before":
            wordings, at = _filled(ASKED_BEFORE[way::WAYS], topic, meant.value), at - 1
        answer, earlier = told[at], told[:at]
        stale = _forms(topic.forms, *(each.value for each in earlier))
        return _asked(wordings, kind, _forms(topic.forms, answer.value), stale, (answer.turn,))


_DAY = ("{}", "day {}", "on day {}")


def _asked(
    wordings: Sequence[str],
    kind: Kind,
    answers: tuple[str, ...],
    stale: tuple[str, ...] = (),
    holders: tuple[str, ...] = (),
) -> tuple[Asked, ...]:
    return tuple(Asked(text, kind, answers, stale, holders) for text in wordings)


def _filled(wordings: Sequence[str], topic: Topic, value: str) -> list[str]:
    clause = topic.clause.format(value)
    texts = [wording.format(clause=clause, noun=topic.noun, value=value) for wording in wordings]
    return [text[0].upper() + text[1:] for text in texts]


def _forms(forms: Sequence[str], *values: object) -> tuple[str, ...]:
    return tuple(dict.fromkeys(form.format(value) for value in values for form in forms))
