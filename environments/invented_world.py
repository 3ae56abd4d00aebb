"""A knowledge base that no model has read: invented people, towns, rivers, crafts, guilds and ships; one a world.

Facts out, as passages to be searched and as questions with their answers. Knows nothing of tasks or replies.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

PEOPLE, TOWNS, RIVERS, CRAFTS, GUILDS, SHIPS = 140, 60, 20, 20, 30, 40
"""How many of each a world has. There is one passage for each: 310 in all."""
_TOOLS = ("a bone needle", "a copper bowl", "a long fork", "a wet cord", "a slate disc", "a hot blade", "a glass rod")
_STUFFS = ("reed", "resin", "horn", "moss", "shell", "clay", "bark", "wax", "salt", "felt")
_BIRDS = ("a heron", "an owl", "a swift", "a crane", "a wren", "a raven", "a gull", "a kestrel")
_ONSETS, _VOWELS, _CODAS = "bdfgklmnprstvz", "aeiou", ("", "l", "n", "r", "s", "m")


@dataclass(frozen=True, slots=True)
class Evidence:
    """A passage of the knowledge base."""

    title: str
    """Name of what it is about; no two passages share it."""
    text: str
    """Two sentences, below 400 characters."""


@dataclass(frozen=True, slots=True)
class Question:
    text: str
    answers: tuple[str, ...]
    """The shortest first, then with its kind: "Gosel", "the river Gosel"."""
    support: tuple[str, ...]
    """Titles of the passages from which it follows: one for each hop."""

    @property
    def hops(self) -> int:
        return len(self.support)


@dataclass(frozen=True, slots=True)
class InventedWorld:
    passages: tuple[Evidence, ...]
    questions: tuple[Question, ...]
    """One and two hops; texts are unique."""


@dataclass(frozen=True, slots=True)
class _Relation:
    """What a passage says of its thing."""

    told: str
    """End of a sentence whose subject is the thing."""
    asked: str
    """A question about {}."""
    of: str
    """Kind of the value; `year`, `bird` … where it is no thing with a passage of its own."""
    phrase: str = ""
    """The value by way of {}, where a second question can follow it."""


_CALLED: Mapping[str, str] = {
    "person": "{}",
    "town": "{}",
    "river": "the river {}",
    "craft": "{}",
    "guild": "the guild of {}",
    "ship": "the ship {}",
    "lake": "Lake {}",
}
"""How a thing of each kind is spoken of."""
_COUNTS: Mapping[str, int] = {
    "person": PEOPLE,
    "town": TOWNS,
    "river": RIVERS,
    "craft": CRAFTS,
    "guild": GUILDS,
    "ship": SHIPS,
}
_RELATIONS: Mapping[str, tuple[_Relation, ...]] = {
    "person": (
        _Relation("was born in {}", "In which town was {} born?", "town", "the town where {} was born"),
        _Relation("was taught by {}", "Who taught {}?", "person", "the teacher of {}"),
        _Relation("practised {}", "Which craft did {} practise?", "craft", "the craft that {} practised"),
        _Relation("died in the year {}", "In which year did {} die?", "year"),
    ),
    "town": (
        _Relation("lies on {}", "On which river does {} lie?", "river", "the river on which {} lies"),
        _Relation("was founded by {}", "Who founded {}?", "person", "the founder of {}"),
        _Relation("has {} on its arms", "Which bird is on the arms of {}?", "bird"),
        _Relation("dates from the year {}", "From which year does {} date?", "year"),
    ),
    "river": (
        _Relation("was first bridged by {}", "Who first bridged {}?", "person", "the first to bridge {}"),
        _Relation("flows into {}", "Into which lake does {} flow?", "lake"),
        _Relation("is {} miles long", "How many miles long is {}?", "number"),
    ),
    "craft": (
        _Relation("began in {}", "In which town did {} begin?", "town", "the town where {} began"),
        _Relation("needs {}", "Which tool does {} need?", "tool"),
        _Relation("works in {}", "Which material does {} work in?", "stuff"),
    ),
    "guild": (
        _Relation("has its seat in {}", "In which town does {} have its seat?", "town", "the seat of {}"),
        _Relation("was first led by {}", "Who first led {}?", "person", "the first leader of {}"),
        _Relation("keeps the secrets of {}", "Of which craft does {} keep the secrets?", "craft", "the craft of {}"),
    ),
    "ship": (
        _Relation("was built by {}", "Who built {}?", "person", "the builder of {}"),
        _Relation("has its home port in {}", "Which town is the home port of {}?", "town", "the home port of {}"),
        _Relation("carries {} masts", "How many masts does {} carry?", "masts"),
    ),
}


@functools.lru_cache(maxsize=16)
def invented_world(world: int) -> InventedWorld:
    """The knowledge base of this number."""
    rng = random.Random(f"invented world/{world}")
    unused = names(rng)
    things = {kind: [next(unused) for _ in range(count)] for kind, count in _COUNTS.items()}
    things["person"] = [f"{first} {next(unused)}" for first in things["person"]]
    things["craft"] = [f"{name.lower()}ry" for name in things["craft"]]

    def value(relation: _Relation, of: str) -> str:
        match relation.of:
            case "year":
                return str(rng.randint(1100, 1899))
            case "number":
                return str(rng.randint(20, 400))
            case "masts":
                return str(rng.randint(2, 9))
            case "lake":
                return next(unused)
            case "bird" | "tool" | "stuff":
                return rng.choice({"bird": _BIRDS, "tool": _TOOLS, "stuff": _STUFFS}[relation.of])
        return rng.choice([name for name in things[relation.of] if name != of])

    known = {
        name: [_Fact(relation, value(relation, name)) for relation in _RELATIONS[kind]]
        for kind, names_of_kind in things.items()
        for name in names_of_kind
    }
    kinds = {name: kind for kind, names_of_kind in things.items() for name in names_of_kind}
    passages = [_passage(_called(name, kinds[name]), name, facts) for name, facts in known.items()]
    rng.shuffle(passages)
    questions = {question.text: question for name in known for question in _questions(name, kinds[name], known)}
    return InventedWorld(tuple(passages), tuple(questions.values()))


@dataclass(frozen=True, slots=True)
class _Fact:
    relation: _Relation
    value: str


def _questions(name: str, kind: str, known: Mapping[str, list[_Fact]]) -> Iterator[Question]:
    """All questions that begin at a thing; none whose answer is that thing itself."""
    called = _called(name, kind)
    for fact in known[name]:
        yield Question(fact.relation.asked.format(called), _answers(fact), (name,))
        if not fact.relation.phrase:
            continue
        via = fact.relation.phrase.format(called)
        for second in known[fact.value]:
            if second.value != name:
                yield Question(second.relation.asked.format(via), _answers(second), (name, fact.value))


def _answers(fact: _Fact) -> tuple[str, ...]:
    return tuple(dict.fromkeys((fact.value, _called(fact.value, fact.relation.of))))


def _passage(called: str, title: str, facts: list[_Fact]) -> Evidence:
    told = [fact.relation.told.format(_called(fact.value, fact.relation.of)) for fact in facts]
    subject = called[0].upper() + called[1:]
    sentences = [f"{subject} {' and '.join(pair)}." for pair in (told[:2], told[2:]) if pair]
    return Evidence(title, " ".join(sentences))


def _called(name: str, kind: str) -> str:
    return _CALLED.get(kind, "{}").format(name)


def names(rng: random.Random) -> Iterator[str]:
    """Names that no two things share, without end."""
    seen: set[str] = set()
    while True:
        syllables = [rng.choice(_ONSETS) + rng.choice(_VOWELS) for _ in range(2)]
        name = ("".join(syllables) + rng.choice(_CODAS)).title()
        if name not in seen:
            seen.add(name)
            yield name
