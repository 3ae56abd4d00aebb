"""A made-up language for each world: its words, its word order, and a small model of what sounds natural in it.

English sentences of four to nine words go in, as parts; sentences of the made-up language come out. Every content word
has a plain translation; a part of them has a second, native one that speakers prefer. Knows nothing of tasks.
"""

from __future__ import annotations

import functools
import math
import random
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

NOUNS = (
    "baker", "sailor", "teacher", "farmer", "child", "doctor", "fox", "horse", "dog", "king", "boat", "lamp", "river",
    "apple", "window", "basket", "letter", "drum", "garden", "stone", "bridge", "tower", "coat", "ring", "kettle",
    "ladder", "mirror", "barrel", "flower", "candle",
)  # fmt: skip
ADJECTIVES = (
    "old", "young", "red", "small", "large", "quiet", "heavy", "broken", "bright", "cold", "strange", "clean",
    "lonely", "proud",
)  # fmt: skip
VERBS = (
    "saw", "carried", "found", "painted", "followed", "washed", "sold", "hid", "mended", "counted", "lost", "watched",
)  # fmt: skip
IDLE_VERBS = ("slept", "waited", "laughed", "fell", "sang", "vanished")
"""Verbs without an object."""
ADVERBS = ("today", "slowly", "again", "alone", "early", "twice")
PLACES = ("near", "behind", "under")
IRREGULAR = {"child": "children", "fox": "foxes"}
NATIVE_SHARE = 0.5
"""Of the content words that have a native translation as well."""
CORPUS = 3000
"""Sentences that the model of what sounds natural has read."""
_ORDERS = ("VSO", "SOV", "VOS", "OVS")
_PATTERNS = ("nvd", "nvn", "anvn", "nvan", "anvan", "nvnd", "anvnd", "nvnpn", "anvnpn", "anvd")
"""n noun, a adjective, v verb, d adverb, p place word. No longer than nine English words."""


@dataclass(frozen=True, slots=True)
class Noun:
    word: str
    adjective: str = ""
    plural: bool = False

    @property
    def english(self) -> str:
        noun = IRREGULAR.get(self.word, self.word + "s") if self.plural else self.word
        return " ".join(filter(None, ("the", self.adjective, noun)))


@dataclass(frozen=True, slots=True)
class Sentence:
    """A sentence by its parts; an absent part is None or empty."""

    subject: Noun
    verb: str
    object: Noun | None = None
    place: str = ""
    """Place word, of which `where` is the noun."""
    where: Noun | None = None
    adverb: str = ""

    @property
    def english(self) -> str:
        parts = (
            self.subject.english,
            self.verb,
            self.object.english if self.object else "",
            f"{self.place} {self.where.english}" if self.where else "",
            self.adverb,
        )
        return " ".join(filter(None, parts))

    @property
    def content(self) -> tuple[str, ...]:
        """Its words as the dictionary lists them, in the order of the English sentence: all but "the"."""
        nouns = (self.subject, None, self.object, self.where)
        words: list[str] = []
        for noun, before in zip(nouns, ("", self.verb, "", self.place), strict=True):
            words += [before] * bool(before)
            words += filter(None, (noun.adjective, noun.word)) if noun else ()
        return (*words, *filter(None, (self.adverb,)))


@dataclass(frozen=True, slots=True)
class Language:
    name: str
    lexicon: Mapping[str, tuple[str, ...]]
    """English word → its translation, then the native one where there is one."""
    order: str
    """S, V and O, in its order."""
    adjective_first: bool
    plural: str
    """Ending of a noun of which there are several."""

    @property
    def rules(self) -> str:
        """Its grammar in plain words."""
        parts = {"S": "who does it", "V": "the verb", "O": "what it is done to"}
        first, second, third = (parts[letter] for letter in self.order)
        place = "before" if self.adjective_first else "behind"
        return (
            f"{self.name} puts first {first}, then {second}, then {third}, then where and how. Adjectives stand "
            f'{place} their noun. Several: the noun ends in -{self.plural}. There is no word for "the".'
        )

    def plain(self, sentence: Sentence) -> str:
        """The translation by the first word of each entry: the reference."""
        return self._render(sentence, native=False)

    def native(self, sentence: Sentence) -> str:
        """What a speaker would say: the same words in the same order, native ones where there are any."""
        return self._render(sentence, native=True)

    def forms(self, sentence: Sentence) -> dict[str, tuple[str, ...]]:
        """Content word → its translations as they stand in this sentence, plural endings and all."""
        nouns = (sentence.subject, sentence.object, sentence.where)
        several = {noun.word for noun in nouns if noun and noun.plural}
        return {
            word: tuple(form + (self.plural if word in several else "") for form in self.lexicon[word])
            for word in sentence.content
        }

    def _render(self, sentence: Sentence, *, native: bool) -> str:
        def word(english: str) -> str:
            return self.lexicon[english][-1 if native else 0]

        def noun(part: Noun) -> list[str]:
            words = [word(part.word) + (self.plural if part.plural else "")]
            if part.adjective:
                words.insert(0 if self.adjective_first else 1, word(part.adjective))
            return words

        parts = {
            "S": noun(sentence.subject),
            "V": [word(sentence.verb)],
            "O": noun(sentence.object) if sentence.object else [],
        }
        words = [each for letter in self.order for each in parts[letter]]
        words += [word(sentence.place), *noun(sentence.where)] if sentence.where else []
        return " ".join([*words, word(sentence.adverb)] if sentence.adverb else words)


def draw(rng: random.Random) -> Sentence:
    """A random sentence."""
    pattern = rng.choice(_PATTERNS)
    nouns = rng.sample(NOUNS, 3)

    def noun(part: str) -> Noun:
        return Noun(nouns.pop(), rng.choice(ADJECTIVES) if "a" in part else "", rng.random() < 0.3)

    subject, behind = pattern.split("v")
    thing, _, where = behind.rstrip("d").partition("p")
    return Sentence(
        subject=noun(subject),
        verb=rng.choice(VERBS if thing else IDLE_VERBS),
        object=noun(thing) if thing else None,
        place=rng.choice(PLACES) if where else "",
        where=noun(where) if where else None,
        adverb=rng.choice(ADVERBS) if behind.endswith("d") else "",
    )


@functools.lru_cache(maxsize=16)
def language(world: int) -> Language:
    """The language of a world."""
    rng = random.Random(f"toy language/{world}")
    english = (*NOUNS, *ADJECTIVES, *VERBS, *IDLE_VERBS, *ADVERBS, *PLACES)
    made: dict[str, None] = {}
    while len(made) < 2 * len(english):
        made["".join(rng.choice("bdfgklmnprstvz") + rng.choice("aeiou") for _ in range(rng.randint(2, 3)))] = None
    words = iter(made)
    lexicon = {each: (next(words), next(words)) if rng.random() < NATIVE_SHARE else (next(words),) for each in english}
    return Language(
        name="".join(rng.choice("BDKLMNRTV") + "".join(rng.choice(part) for part in ("aeiou", "lrn", "aiu"))).title(),
        lexicon=lexicon,
        order=rng.choice(_ORDERS),
        adjective_first=rng.random() < 0.5,
        plural=rng.choice(("sh", "th", "x", "ng", "ll")),
    )


@functools.lru_cache(maxsize=16)
def _read(world: int) -> tuple[Counter[str], Counter[tuple[str, str]]]:
    """How often each word, and each pair of neighbours, stands in what speakers of a world's language say."""
    rng = random.Random(f"toy language/{world}/corpus")
    words, pairs = Counter[str](), Counter[tuple[str, str]]()
    for _ in range(CORPUS):
        said = ["", *language(world).native(draw(rng)).split()]
        words.update(said)
        pairs.update(zip(said, [*said[1:], ""], strict=True))
    return words, pairs


def fluency(text: str, *, world: int = 0) -> float:
    """How natural a text sounds in the language of a world: the geometric mean of its words' probabilities, in [0, 1].

    A model of neighbouring words (half pairs, half single words with one added to each count) that has read what
    speakers say. It sees neither source nor reference; a text without words gets 0.
    """
    said = ["", *re.findall(r"\w+", text.lower())]
    if len(said) == 1:
        return 0.0
    logs = [math.log(_probability(world, *pair)) for pair in zip(said, [*said[1:], ""], strict=True)]
    return math.exp(sum(logs) / len(logs))


def _probability(world: int, before: str, word: str) -> float:
    """Of a word behind another; "" is what stands before a text and behind it. All unknown words together are one."""
    words, pairs = _read(world)
    single = (words[word] + 1) / (words.total() + len(words) + 1)
    return 0.5 * pairs[before, word] / words[before] + 0.5 * single if before in words else single
