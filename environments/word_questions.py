"""Questions about common words in plain English: what a language model knows before it has learned anything here.

Pairs in, a question with its answer and three wrong ones out. `labelled` deals them as its task `plain`.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

OPPOSITES = (
    "hot cold", "big small", "fast slow", "up down", "old young", "hard soft", "light dark", "wet dry",
    "rich poor", "early late", "happy sad", "open closed", "strong weak", "full empty", "high low", "long short",
    "good bad", "right wrong", "left right", "first last", "true false", "clean dirty", "near far", "wide narrow",
    "thick thin", "loud quiet", "day night", "black white", "inside outside", "above below", "begin end",
    "buy sell", "win lose", "push pull", "love hate", "summer winter", "north south", "east west", "always never",
    "before after",
)  # fmt: skip
CAPITALS = (
    "France Paris", "Italy Rome", "Spain Madrid", "Germany Berlin", "Japan Tokyo", "China Beijing",
    "Russia Moscow", "Egypt Cairo", "Greece Athens", "Austria Vienna", "Ireland Dublin", "Portugal Lisbon",
    "Sweden Stockholm", "Norway Oslo", "Poland Warsaw", "Hungary Budapest", "Cuba Havana", "Kenya Nairobi",
    "Canada Ottawa", "Peru Lima", "Turkey Ankara", "Finland Helsinki", "Denmark Copenhagen", "Belgium Brussels",
    "Thailand Bangkok", "Iraq Baghdad", "Iran Tehran", "Vietnam Hanoi", "Chile Santiago", "Jamaica Kingston",
)  # fmt: skip
PASTS = (
    "go went", "eat ate", "see saw", "run ran", "give gave", "take took", "write wrote", "speak spoke",
    "drive drove", "fly flew", "swim swam", "sing sang", "drink drank", "think thought", "buy bought",
    "bring brought", "teach taught", "catch caught", "find found", "know knew", "grow grew", "throw threw",
    "break broke", "wear wore", "sleep slept", "feel felt", "leave left", "meet met", "tell told", "hear heard",
)  # fmt: skip
FOLLOWERS = (
    "Monday Tuesday", "Tuesday Wednesday", "Wednesday Thursday", "Thursday Friday", "Friday Saturday",
    "Saturday Sunday", "Sunday Monday", "January February", "February March", "March April", "April May",
    "May June", "June July", "July August", "August September", "September October", "October November",
    "November December",
)  # fmt: skip
PLURALS = (
    "mouse mice", "child children", "man men", "woman women", "foot feet", "tooth teeth", "goose geese",
    "leaf leaves", "wolf wolves", "knife knives", "wife wives", "city cities", "baby babies", "lady ladies",
    "party parties", "box boxes", "church churches", "glass glasses", "bus buses", "hero heroes",
    "potato potatoes", "shelf shelves", "half halves", "life lives", "thief thieves", "loaf loaves",
    "berry berries", "story stories", "army armies", "dish dishes",
)  # fmt: skip
COMPARATIVES = (
    "good better", "bad worse", "big bigger", "happy happier", "easy easier", "hot hotter", "fast faster",
    "tall taller", "old older", "young younger", "cheap cheaper", "strong stronger", "weak weaker", "dark darker",
    "deep deeper", "heavy heavier", "early earlier", "far farther", "wide wider", "thin thinner", "warm warmer",
    "cold colder", "rich richer", "poor poorer", "late later", "long longer", "short shorter", "high higher",
    "low lower", "soft softer",
)  # fmt: skip
COUPLES = (
    "king queen", "father mother", "brother sister", "son daughter", "uncle aunt", "husband wife",
    "prince princess", "actor actress", "waiter waitress", "nephew niece", "bull cow", "boy girl",
    "grandfather grandmother", "duke duchess", "god goddess", "hero heroine", "lion lioness", "gentleman lady",
    "groom bride", "wizard witch",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class WordQuestion:
    text: str
    answer: str
    wrong: tuple[str, ...]
    """Answers to questions of the same kind, none of them right here."""


def _questions() -> tuple[WordQuestion, ...]:
    kinds = (
        ("What is the opposite of {}?", (*map(str.split, OPPOSITES), *(pair.split()[::-1] for pair in OPPOSITES))),
        ("What is the capital of {}?", tuple(map(str.split, CAPITALS))),
        ("What is the past tense of {}?", tuple(map(str.split, PASTS))),
        ("What comes after {}?", tuple(map(str.split, FOLLOWERS))),
        ("What is the plural of {}?", tuple(map(str.split, PLURALS))),
        ("What is the comparative of {}?", tuple(map(str.split, COMPARATIVES))),
        ("What is the female form of {}?", tuple(map(str.split, COUPLES))),
    )
    questions: dict[str, WordQuestion] = {}
    for text, pairs in kinds:
        for asked, answer in pairs:
            # A word with two opposites (right: wrong, left) is asked for the first, and offered the other never.
            right = {other for one, other in pairs if one == asked}
            wrong = dict.fromkeys(other for _, other in pairs if other not in right and other != asked)
            question = WordQuestion(text.format(asked), answer, tuple(wrong))
            questions.setdefault(question.text, question)
    return tuple(questions.values())


QUESTIONS = _questions()
"""In a fixed order, those of one kind together; no text twice."""


def offered(question: WordQuestion, rng: random.Random, *, wrong: int = 3) -> tuple[str, ...]:
    """The answer among `wrong` others of its kind, in any order."""
    options = [question.answer, *rng.sample(question.wrong, wrong)]
    return tuple(rng.sample(options, len(options)))
