"""Generated supervised tasks with references, in a stream: what continual learning learns one after the other.

Three families: `intents` (a made-up verb tells which department a request is for), `entities` (the first word of a
made-up name tells what kind of thing it is) and `instructions` (a made-up command names a way to rewrite words). What
carries the class is drawn by the world's number, so no model knows it before it was trained here. `plain` is the other
end: questions in plain English that models know already, to see what training on the stream makes them forget.

An episode is one decision. Labels are admissible actions; an instruction is answered in free text.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, get_args

from evolvent.environments.errors import BadOptionError, did_you_mean
from evolvent.environments.solo import SEAT, refusal, said, written
from evolvent.environments.types import Action, Observation, Split, StepResult, Task
from evolvent.environments.word_questions import QUESTIONS, offered

T = TypeVar("T")

VERSION = 1
Family = Literal["intents", "entities", "instructions"]
FAMILIES: tuple[Family, ...] = get_args(Family)
PLAIN = "plain"
DEPARTMENTS = (
    "music", "weather", "travel", "money", "health", "sport", "garden", "kitchen", "school", "office", "police",
    "theatre", "bank", "hotel", "farm", "church", "market", "army", "library", "museum", "station", "harbour",
    "castle", "prison",
)  # fmt: skip
KINDS = (
    "river", "city", "tool", "fruit", "bird", "ship", "song", "game", "drink", "dress", "stone", "tree", "king",
    "dance", "metal", "illness", "insect", "planet", "knife", "cheese", "horse", "wind", "bridge", "spice",
)  # fmt: skip
THINGS = (
    "clock", "chair", "kettle", "drum", "lantern", "cart", "violin", "bucket", "cradle", "plough", "mirror",
    "harp", "table", "ladder", "basket", "barrel", "candle", "carpet", "curtain", "cushion", "hammock", "helmet",
    "jacket", "kite", "letter", "locket", "needle", "paddle", "pillow", "ribbon", "saddle", "shovel", "statue",
    "ticket", "trumpet", "wagon",
)  # fmt: skip
WORDS = (
    "tin", "rope", "lamp", "door", "salt", "wood", "hand", "fish", "moon", "rain", "book", "ring", "cake", "road",
    "bell", "gold", "milk", "snow", "wall", "boat", "leaf", "sand", "fire", "star", "bone", "coat", "desk", "flag",
    "gate", "hill", "iron", "lake", "mask", "nest", "pipe", "seed",
)  # fmt: skip
REQUESTS = (
    "Please {verb} the {thing}.", "Can you {verb} my {thing}?", "I want to {verb} a {thing} today.",
    "Who will {verb} this {thing} for me?", "We have to {verb} the old {thing}.",
    "It is time to {verb} our {thing}.",
)  # fmt: skip
SENTENCES = (
    "They spoke of [{name}] all evening.", "I had never heard of [{name}] before.",
    "My aunt wrote to us about [{name}].", "There is a long story about [{name}].",
    "We shall see [{name}] tomorrow.", "Nobody here remembers [{name}].", "This picture shows [{name}].",
    "He asked me twice about [{name}].",
)  # fmt: skip
CRAFTS: tuple[Callable[[Sequence[str]], str], ...] = (
    lambda words: words[-1],
    lambda words: "-".join(words),
    lambda words: f"{len(words)} words",
    lambda words: " ".join(word[0] for word in words),
    lambda words: f"[{words[0]}]",
    lambda words: ", ".join(reversed(words)),
    lambda words: f"from {words[0]} to {words[-1]}",
    lambda words: " ".join(words).upper(),
)
"""What a command may mean."""
VERBS_EACH = 2
"""Of one department."""
_ONSETS = ("bl", "dr", "fl", "gl", "kr", "pl", "sk", "sm", "tr", "vl", "zw", "gn", "br", "st", "kl")
_VOWELS = ("a", "e", "i", "o", "u")
_MIDDLES = ("b", "d", "g", "k", "m", "n", "p", "v")
_CODAS = ("sk", "lm", "rn", "ft", "x", "nd", "rp", "lt", "sh", "mp", "nk", "zz")
_IN_VAIN = 1000
"""Draws in a row that gave no new task: there are no more."""


@dataclass(frozen=True, slots=True)
class Case:
    prompt: str
    reference: str
    labels: tuple[str, ...] | None
    """None where the answer is free text."""


@dataclass(frozen=True, slots=True)
class _Source:
    """Where the tasks of one environment come from."""

    instructions: str
    question: str
    cases: Callable[[int, random.Random], Iterator[Case]]
    """Of the split with this number, endless and with repeats. No two splits give the same prompt."""


class Labelled:
    """One task of the stream of one world. The score is 1 for the reference and 0 for anything else.

    Args:
        task: `intents-1`, `entities-1`, `instructions-1`, … (see `stream`), or `plain`.
        world: number that draws verbs, names, commands and labels. `plain` is the same in every world.
        labels: classes of an `intents` or `entities` task, from 2 to 8. No two tasks of a family share a class.

    Raises:
        BadOptionError: a value outside its range.
    """

    def __init__(self, *, task: str = "intents-1", world: int = 0, labels: int = 4) -> None:
        _check_labels(labels)
        self.task = task
        self._name = PLAIN if task == PLAIN else f"{task}-w{world}-{labels}"
        self._source = _source(task, world, labels)
        self.players = (SEAT,)
        self.instructions = self._source.instructions
        self.max_steps = 1
        self._playing: Task | None = None

    def tasks(self, split: Split, n: int, seed: int) -> list[Task]:
        """`n` different tasks, of all labels equally often."""
        rng = random.Random(f"labelled/{self._name}/{split}/{seed}")
        dealt: dict[str, Task] = {}
        in_vain = 0
        for case in self._source.cases(get_args(Split).index(split), rng):
            if len(dealt) >= n or in_vain >= _IN_VAIN:
                break
            task = self._task(split, case)
            in_vain = in_vain + 1 if task.id in dealt else 0
            dealt.setdefault(task.id, task)
        if len(dealt) < n:
            raise BadOptionError(f"{self.task} has {len(dealt)} {split} tasks, not {n}. Ask for fewer.")
        return list(dealt.values())

    def reset(self, task: Task, seed: int) -> tuple[Observation, ...]:
        """Ask the task's question; the task alone decides the episode, whatever `seed` is."""
        self._playing = task
        return (Observation(SEAT, self._source.question, _labels(task)),)

    def step(self, actions: Mapping[str, Action]) -> StepResult:
        if self._playing is None:
            raise RuntimeError("reset comes before step")
        reference, labels = self._playing.data["reference"], _labels(self._playing)
        if labels is None:
            given = written(actions)  # Letter by letter: upper case is what some instructions ask for.
        else:
            given = {label.lower(): label for label in labels}.get(said(actions), "")
        right = given == reference
        text = "Right." if right else "Wrong."
        if labels is not None and not given:
            text = refusal(said(actions), labels)
        observation = Observation(SEAT, text, (), must_act=False)
        return StepResult((observation,), {SEAT: float(right)}, True, {"success": right})

    def expert(self, task: Task) -> list[str]:
        """The reference."""
        return [task.data["reference"]]

    def close(self) -> None:
        self._playing = None

    def _task(self, split: Split, case: Case) -> Task:
        content = json.dumps([case.prompt, case.labels])
        return Task(
            id=f"{self._name}-{split}-{hashlib.sha256(content.encode()).hexdigest()[:10]}",
            prompt=case.prompt,
            environment="labelled",
            data={"reference": case.reference, "labels": None if case.labels is None else list(case.labels)},
            tags=(self.task,),
        )


def stream(
    n: int, *, world: int = 0, labels: int = 4, families: Sequence[Family] = FAMILIES
) -> tuple[dict[str, Any], ...]:
    """Options of `labelled` for `n` tasks in the order they are to be learned, the families taking turns.

    Raises:
        BadOptionError: no such family, or this world has fewer tasks.
    """
    _check_labels(labels)
    for family in families:
        if family not in FAMILIES:
            raise BadOptionError(f"labelled: families must be some of {', '.join(FAMILIES)}, not {family!r}.")
    rounds = itertools.zip_longest(*(_names(family, labels) for family in dict.fromkeys(families)))
    names = [name for turn in rounds for name in turn if name is not None]
    if not 1 <= n <= len(names):
        raise BadOptionError(f"labelled: with {labels} labels there are 1 to {len(names)} such tasks, not {n}.")
    return tuple({"task": name, "world": world, "labels": labels} for name in names[:n])


# -- where the cases come from -----------------------------------------------------------------------------------------


def _source(task: str, world: int, labels: int) -> _Source:
    if task == PLAIN:
        return _Source("You answer questions about words. Answer with one word.", "Your answer?", _plain_cases)
    makers = {"intents": _intents, "entities": _entities, "instructions": _instructions}
    for family, make in makers.items():
        names = _names(family, labels)
        if task in names:
            return make(random.Random(f"labelled/{world}/{family}"), names.index(task), labels)
    spans = [_names(family, labels) for family in FAMILIES]
    hint = did_you_mean(task, [*itertools.chain(*spans), PLAIN])
    known = ", ".join(f"{names[0]} to {names[-1]}" for names in spans)
    raise BadOptionError(f"labelled: task must be {known} or {PLAIN}, not {task!r}.{hint}")


def _names(family: str, labels: int) -> list[str]:
    """Tasks of a family in every world."""
    counts = {"intents": len(DEPARTMENTS) // labels, "entities": len(KINDS) // labels, "instructions": len(CRAFTS)}
    return [f"{family}-{at + 1}" for at in range(counts[family])]


def _intents(rng: random.Random, at: int, labels: int) -> _Source:
    names, verbs = _shuffled(DEPARTMENTS, rng), _made_up(rng, len(DEPARTMENTS) * VERBS_EACH)
    classes = tuple(names[at * labels : (at + 1) * labels])
    of_class = {name: verbs[i * VERBS_EACH :][:VERBS_EACH] for i, name in enumerate(names) if name in classes}

    def cases(split: int, rng: random.Random) -> Iterator[Case]:
        # The things are split three ways, so no request can stand in two splits.
        for name in _in_turn(classes, rng):
            request = rng.choice(REQUESTS).format(verb=rng.choice(of_class[name]), thing=rng.choice(THINGS[split::3]))
            yield Case(request, name, classes)

    return _Source("You pass requests on to the department they are for.", "Which department?", cases)


def _entities(rng: random.Random, at: int, labels: int) -> _Source:
    names = _shuffled(KINDS, rng)
    classes = tuple(names[at * labels : (at + 1) * labels])
    titles, seconds = dict(zip(names, _made_up(rng, len(KINDS)), strict=True)), _made_up(rng, 60)

    def cases(split: int, rng: random.Random) -> Iterator[Case]:
        # A name of one split is met in no other: what is learned is its first word.
        for kind in _in_turn(classes, rng):
            name = f"{titles[kind]} {rng.choice(seconds[split::3])}".title()
            yield Case(rng.choice(SENTENCES).format(name=name), kind, classes)

    return _Source("You say what kind of thing the name in brackets stands for.", "Which kind?", cases)


def _instructions(rng: random.Random, at: int, labels: int) -> _Source:
    craft, command = _shuffled(CRAFTS, rng)[at], _made_up(rng, len(CRAFTS))[at]

    def cases(split: int, rng: random.Random) -> Iterator[Case]:
        while True:
            words = rng.sample(WORDS[split::3], rng.randint(2, 4))
            yield Case(f"{command.capitalize()}: {' '.join(words)}", craft(words), None)

    return _Source("You carry out commands on words. Answer with the result alone.", "What is the result?", cases)


def _plain_cases(split: int, rng: random.Random) -> Iterator[Case]:
    for question in _in_turn(QUESTIONS[split::3], rng):
        yield Case(question.text, question.answer, offered(question, rng))


def _made_up(rng: random.Random, count: int) -> list[str]:
    """Different words that no language has."""
    made: dict[str, None] = {}
    while len(made) < count:
        made["".join(map(rng.choice, (_ONSETS, _VOWELS, _MIDDLES, _VOWELS, _CODAS)))] = None
    return list(made)


def _in_turn(items: Sequence[T], rng: random.Random) -> Iterator[T]:
    """The items again and again, shuffled anew each round."""
    while True:
        yield from _shuffled(items, rng)


def _shuffled(items: Sequence[T], rng: random.Random) -> list[T]:
    return rng.sample(items, len(items))


def _labels(task: Task) -> tuple[str, ...] | None:
    labels = task.data["labels"]
    return None if labels is None else tuple(labels)


def _check_labels(labels: int) -> None:
    if not isinstance(labels, int) or not 2 <= labels <= 8:
        raise BadOptionError(f"labelled: labels must be a whole number from 2 to 8, not {labels!r}.")
