"""Breeding of characters: a genome is a text of one trait a line, a child has traits of two parents, some change.

A breeder (a model) chooses what is inherited and words what is new; it sees genomes and nothing else, so it cannot know
what makes them fit (arXiv 2401.04620). What a child inherits it inherits word for word, so descent can be checked.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from evolvent.agents.solutions.medoids import cosine_distances
from evolvent.environments.types import Message
from evolvent.memory.embedding import Floats

LONGEST = 120
"""Characters of a trait."""
_BREEDER = "You invent characters. A character is a list of traits, one short sentence each."
_CROSS = (
    "One parent:\n{one}\nThe other parent:\n{other}\n"
    "Their child has {most} of these traits, some of each parent. Write the numbers of these traits and nothing else."
)
_ADD = "A person:\n{person}\nWrite one more trait that would make a difference to how this person acts. {form}"
_MODIFY = "A person:\n{person}\nPut another trait in place of this one: {trait}\n{form}"
_FORM = 'Write that one sentence alone. It begins with "I".'
_BULLET = re.compile(r"^(?:\W|\d+\s*[.):])*")


def traits_of(genome: str) -> list[str]:
    return [line for line in genome.splitlines() if line.strip()]


def genome_of(traits: Sequence[str]) -> str:
    """Each trait once, in order."""
    return "\n".join(dict.fromkeys(traits))


def roulette(fitness: Mapping[str, float], k: int, rng: random.Random) -> list[str]:
    """`k` different ones, each drawn in proportion to its fitness; evenly among those left where none has any."""
    left, drawn = dict(fitness), []
    for _ in range(min(k, len(left))):
        weights = [max(0.0, each) for each in left.values()]
        (name,) = rng.choices(list(left), weights if any(weights) else None)
        drawn.append(name)
        del left[name]
    return drawn


def crossing(one: str, other: str, most: int) -> list[Message]:
    """The request for the numbers of what a child inherits."""
    first, second = traits_of(one), traits_of(other)
    return [
        Message("system", "instructions", _BREEDER),
        Message(
            "user",
            "task",
            _CROSS.format(
                one=_numbered(first, 1), other=_numbered(second, 1 + len(first)), most=_size(first, second, most)
            ),
        ),
    ]


def crossed(one: str, other: str, reply: str, most: int, rng: random.Random) -> tuple[str, bool]:
    """(the child's genome, whether the breeder chose it). It holds a trait of each parent, and at most `most`.

    A reply that does not name traits of both is no choice: then half of the child's traits come from either side.
    """
    first, second = traits_of(one), traits_of(other)
    named = [int(number) for number in re.findall(r"\d{1,3}", reply)]
    places = list(dict.fromkeys(number - 1 for number in named if 1 <= number <= len(first) + len(second)))[:most]
    chosen = any(place < len(first) for place in places) and any(place >= len(first) for place in places)
    if not chosen:
        size = _size(first, second, most)
        here = min(len(first), (size + rng.randrange(2)) // 2)
        there = min(len(second), size - here)
        places = rng.sample(range(len(first)), here)
        places += rng.sample(range(len(first), len(first) + len(second)), there)
    both = [*first, *second]
    return genome_of([both[place] for place in sorted(places)]), chosen


@dataclass(frozen=True, slots=True)
class Mutation:
    """One trait that is to be new."""

    messages: tuple[Message, ...]
    """The request for it."""
    place: int | None
    """Of the trait that gives way; None adds one."""


def mutating(genome: str, most: int, rng: random.Random) -> Mutation:
    """A trait is added or changed, with equal probability; one is changed where there are `most` already."""
    traits = traits_of(genome)
    place = None if len(traits) < most and rng.random() < 0.5 else rng.randrange(len(traits))
    wording = _ADD if place is None else _MODIFY
    trait = "" if place is None else traits[place]
    asked = wording.format(person=_listed(traits), trait=trait, form=_FORM)
    return Mutation((Message("system", "instructions", _BREEDER), Message("user", "task", asked)), place)


def mutated(genome: str, place: int | None, reply: str) -> str:
    """With the trait that the reply gives; unchanged where it gives none, or one that is there already."""
    traits, new = traits_of(genome), _trait_in(reply)
    if not new or new in traits:
        return genome
    return genome_of([*traits, new] if place is None else [*traits[:place], new, *traits[place + 1 :]])


def diversity(vectors_ND: Floats) -> float:
    """Mean cosine distance of two different genomes' embeddings, in [0, 2]; 0 for fewer than two."""
    n = len(vectors_ND)
    return float(cosine_distances(vectors_ND).sum() / (n * (n - 1))) if n > 1 else 0.0


def _trait_in(reply: str) -> str:
    """The first line that says something, without bullet or quotes, cut at a word."""
    lines = (_BULLET.sub("", line).strip(" \"'*`") for line in reply.splitlines())
    line = next((line for line in lines if re.search(r"\w", line)), "")
    return line if len(line) <= LONGEST else line[:LONGEST].rpartition(" ")[0] or line[:LONGEST]


def _size(first: Sequence[str], second: Sequence[str], most: int) -> int:
    """Traits of a child: as many as its parents have on average, at least one of each."""
    return max(2, min(most, round((len(first) + len(second)) / 2)))


def _numbered(traits: Sequence[str], start: int) -> str:
    return "\n".join(f"{number}. {trait}" for number, trait in enumerate(traits, start))


def _listed(traits: Sequence[str]) -> str:
    return "\n".join(f"- {trait}" for trait in traits)
