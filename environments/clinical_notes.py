"""Generated clinical notes and trial abstracts, with what they say of which drug and where. Every wording is ours.

A part of the drug names is invented for each world, and some begin with "non".
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

GENERICS = (
    "metformin", "lisinopril", "atorvastatin", "amlodipine", "omeprazole", "warfarin", "prednisone", "furosemide",
    "gabapentin", "sertraline", "levothyroxine", "allopurinol", "digoxin", "ibuprofen", "amoxicillin", "tramadol",
    "clopidogrel", "spironolactone", "hydralazine", "ranitidine", "naproxen", "codeine", "diazepam", "lithium",
)  # fmt: skip
NON_NAMES = ("nonacog alfa", "nonivamide", "nonoxynol", "nonsteroidal gel", "nonathymulin", "non-sedating loratadine")
INVENTED = 24
"""Drug names that a world makes up."""
SYMPTOMS = (
    "nausea", "dizziness", "ankle swelling", "a dry cough", "headache", "a rash", "muscle pain", "poor sleep",
    "palpitations", "heartburn", "joint pain", "fatigue",
)  # fmt: skip
DEVICES = ("a hearing aid", "a heart monitor", "a knee brace", "a back support", "an insulin pump", "a night splint")
MONTHS = ("January", "March", "April", "June", "August", "October", "November")
RELATIVES = ("mother", "father", "sister", "brother", "uncle")

SENTENCES: Mapping[str, tuple[str, ...]] = {
    "active": (
        "Takes {x} {dose} every morning.",
        "{x} {dose} was started last week and is well tolerated.",
        "{x} was paused before the operation and has been taken again since {month}.",
        "Continues on {x} {dose} as before.",
        "We began {x} today for {symptom}.",
        "Medicines brought from home are {x} and {y}.",
        "The dose of {x} was raised to {dose} in {month}.",
    ),
    "discontinued": (
        "{x} was stopped in {month} because of {symptom}.",
        "Took {x} until {month}, when it was withdrawn.",
        "{x} was started in {month} but caused {symptom} and was discontinued.",
        "Both {x} and {y} were stopped on admission.",
        "Has been off {x} since {month}.",
        "Finished a course of {x} in {month} and no longer takes it.",
    ),
    "neither": (
        "Allergic to {x}, with {symptom} as a child.",
        "We talked about {x} but decided to wait.",
        "{x} may be considered, should there be {symptom} again.",
        "Avoid {x} because of the kidneys.",
    ),
}
"""A sentence with {y} tells the same of two."""
DISTRACTORS = (
    "Denies ever having used {x}.",
    "The {relative} takes {x} for the heart.",
    "The {relative} had to stop {x} because of {symptom}.",
    "Uses {device} without trouble.",
    "Began to wear {device} in {month} and stopped because of {symptom}.",
    "Complains of {symptom} since {month}.",
    "Non-smoker, with a nonproductive cough.",
    "No {symptom} and no fever.",
)
"""None of what they name belongs in the list."""
CONDITIONS = ("migraine", "mild asthma", "low back pain", "insomnia", "knee arthritis", "high blood pressure")
ARMS = ("placebo", "usual care", "physiotherapy", "cognitive therapy", "a supervised walking programme", "sham massage")
"""What patients may be assigned to, beside drugs."""
ARM_SENTENCES = (
    "The {ordinal} group received {x} for {weeks} weeks.",
    "{n} patients were assigned to {x}.",
    "{x} was given to the {ordinal} group.",
    "In the {ordinal} arm, {n} patients had {x}.",
)
ABSTRACT_DISTRACTORS = (
    "Stable treatment with {x} was allowed in every group.",
    "An earlier trial of {x} had been inconclusive.",
    "Better control of {condition} was the main outcome.",
    "Patients who had taken {x} in the last month were excluded.",
    "The groups did not differ in {symptom}.",
)
_ORDINALS = ("first", "second", "third", "fourth")


@dataclass(frozen=True, slots=True)
class Item:
    """One thing that belongs in the list."""

    name: str
    """In lower case."""
    label: str
    """`active`, `discontinued` or `neither`; empty for the arm of a trial."""
    start: int
    """Character of the note where the sentence that shows it begins."""
    end: int
    """One behind that sentence's last character."""


@dataclass(frozen=True, slots=True)
class Note:
    text: str
    items: tuple[Item, ...]
    """In the text's order."""


@dataclass(frozen=True, slots=True)
class _Said:
    """A sentence with the items it shows."""

    text: str
    items: Mapping[str, str]
    """Name → label."""


def drug_names(world: int) -> list[str]:
    """Real names and the invented ones of this world."""
    rng = random.Random(f"extraction/{world}")
    made: dict[str, None] = {}
    while len(made) < INVENTED:
        stem = "".join(rng.choice("bdflmrtvz") + rng.choice("aeiou") for _ in range(2))
        made[stem + rng.choice(("nib", "mab", "pril", "statin", "zole", "sartan", "xaban", "gliptin"))] = None
    return [*rng.sample(GENERICS, len(GENERICS)), *made]


def medication_note(rng: random.Random, drugs: Sequence[str]) -> Note:
    """A note with 3 to 8 medications and 2 to 4 sentences about what is none of them."""
    wanted = rng.randint(3, 8)
    names = rng.sample(drugs, wanted + 4)
    if rng.random() < 0.5:
        names[rng.randrange(wanted)] = rng.choice(NON_NAMES)
    items, others = names[:wanted], names[wanted:]
    said: list[_Said] = []
    while items:
        label = rng.choices(list(SENTENCES), (5, 3, 2))[0]
        sentence = rng.choice([text for text in SENTENCES[label] if len(items) > 1 or "{y}" not in text])
        named = {"x": items.pop()}
        if "{y}" in sentence:
            named["y"] = items.pop()
        said.append(_Said(_filled(sentence, rng, **named), dict.fromkeys(named.values(), label)))
    said += [
        _Said(_filled(sentence, rng, x=others.pop()), {}) for sentence in rng.sample(DISTRACTORS, rng.randint(2, 4))
    ]
    rng.shuffle(said)
    opening = f"{rng.randint(19, 88)}-year-old {rng.choice(('woman', 'man'))} seen for {rng.choice(SYMPTOMS)}."
    return _assembled([_Said(opening, {}), *said])


def trial_abstract(rng: random.Random, drugs: Sequence[str]) -> Note:
    """An abstract with 2 to 4 arms and 2 or 3 sentences about what is none of them."""
    wanted = rng.randint(2, 4)
    names = rng.sample(drugs, wanted + 3)
    arms = [rng.choice(NON_NAMES) if rng.random() < 0.1 else names.pop() for _ in range(wanted - 1)]
    arms = [*dict.fromkeys(arms), rng.choice(ARMS)]
    rng.shuffle(arms)
    said = [
        _Said(_filled(rng.choice(ARM_SENTENCES), rng, x=arm, ordinal=_ORDINALS[at]), {arm: ""})
        for at, arm in enumerate(arms)
    ]
    for sentence in rng.sample(ABSTRACT_DISTRACTORS, rng.randint(2, 3)):
        said.insert(rng.randint(0, len(said)), _Said(_filled(sentence, rng, x=names.pop()), {}))
    opening = f"We randomised {rng.randint(40, 400)} adults with {rng.choice(CONDITIONS)} to {len(arms)} groups."
    return _assembled([_Said(opening, {}), *said])


def _filled(sentence: str, rng: random.Random, **named: str) -> str:
    text = sentence.format(
        **named,
        dose=f"{rng.choice((5, 10, 20, 40, 100, 250, 500))} mg",
        month=rng.choice(MONTHS),
        symptom=rng.choice(SYMPTOMS),
        device=rng.choice(DEVICES),
        relative=rng.choice(RELATIVES),
        condition=rng.choice(CONDITIONS),
        weeks=rng.randint(4, 24),
        n=rng.randint(20, 90),
    )
    return text[0].upper() + text[1:]


def _assembled(said: list[_Said]) -> Note:
    note, items = "", list[Item]()
    for sentence in said:
        start = len(note) + bool(note)
        note = f"{note} {sentence.text}".strip()
        items += [Item(name, label, start, len(note)) for name, label in sentence.items.items()]
    return Note(note, tuple(items))
