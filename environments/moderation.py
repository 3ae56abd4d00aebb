"""A stream of messages to be sorted into three queues by house rules that nobody tells. One decision an episode.

A world's number draws six rules from a pool of conditions: a made-up word in the message, its sender, its topic or the
time it came decides the queue. Each message meets exactly one rule; all else in it, wording and order included, means
nothing. What one rule decides comes in many wordings, so a rule that was learned once serves later messages.
The setting is that of tuning-free rule accumulation (arXiv 2310.15746): after a mistake the right queue is told.
"""

from __future__ import annotations

import functools
import hashlib
import random
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import get_args

from evolvent.environments.solo import SEAT, refusal, written
from evolvent.environments.types import Action, Observation, Split, StepResult, Task

VERSION = 1
LABELS = ("A", "B", "C")
RULES = 6
"""Of one world: two for each queue."""
_SPLITS: tuple[Split, ...] = get_args(Split)
_SENDERS = (
    ("a landlord", "the owner of a house to let"), ("a baker", "the owner of a bakery"),
    ("a teacher", "someone who teaches at the school"), ("a nurse", "someone who works at the hospital"),
    ("a farmer", "the owner of a farm"), ("a tourist", "someone here on holiday"),
    ("a student", "someone who studies here"), ("a bus driver", "someone who drives a bus"),
    ("a florist", "the owner of a flower shop"), ("an angler", "someone who fishes in the river"),
)  # fmt: skip
_TOPICS = (
    ("a lost parcel", "a package that never arrived"), ("a noisy neighbour", "loud music next door"),
    ("a broken street lamp", "a street that is dark at night"), ("a parking fine", "a ticket for parking"),
    ("a stray dog", "a dog without an owner"), ("a late refund", "money that was not paid back"),
    ("a blocked drain", "water that does not run off"), ("a wrong bill", "a bill with a mistake in it"),
    ("a fallen tree", "a tree that the wind blew down"), ("an old permit", "a permit that has run out"),
)  # fmt: skip
_TIMES = (
    ("before breakfast", "early in the morning"), ("at noon", "in the middle of the day"),
    ("in the afternoon", "after lunch"), ("in the evening", "after supper"),
    ("at midnight", "in the small hours"), ("at the weekend", "on a Saturday"),
)  # fmt: skip
_MARKERS = 10
"""Made-up words of a world."""
_NOISE = (
    *(f"The paper is {colour}." for colour in ("green", "blue", "yellow", "pink", "grey", "white")),
    *(f"The tone is {tone}." for tone in ("friendly", "cross", "polite", "worried", "dry", "cheerful")),
    *(f"It is {length} long." for length in ("one line", "two lines", "half a page", "a page", "two pages")),
    *(f"It is copy {number} of {number}." for number in range(1, 6)),
)
"""Sentences that decide nothing in any world."""


@dataclass(frozen=True, slots=True)
class _Kind:
    """One feature of a message."""

    condition: str
    """Of a rule; {} is the feature's value."""
    told: tuple[str, ...]
    """Sentences of a message that hold a wording of the value."""


_KINDS: Mapping[str, _Kind] = {
    "marker": _Kind(
        "the message says {}",
        ("It says {}.", "They end it with {}.", "Its first word is {}.", "The word {} is underlined."),
    ),
    "sender": _Kind(
        "the message comes from {}",
        ("It comes from {}.", "It was sent by {}.", "The sender is {}.", "We have it from {}."),
    ),
    "topic": _Kind(
        "the message is about {}",
        ("It is about {}.", "The matter is {}.", "The subject is {}.", "They write about {}."),
    ),
    "time": _Kind(
        "the message came {}",
        ("It came {}.", "It was written {}.", "It reached us {}.", "They wrote it {}."),
    ),
}
_ALONE = re.compile(r"[\W_]*(?:queue)?[\W_]*([abc])[\W_]*", re.IGNORECASE)
_FIRST = re.compile(r"[\W_]*([ABC])[).:,;\n]")
_GAP = r"[\s:*\"'“(]*"
_ANNOUNCED = re.compile(
    r"(?i:\b(?:(?:answer|queue)\s+is|answer\s*:|(?:goes|belongs|(?:send|put)\s+(?:it|this))\s+(?:to|into|in)))"
    # A capital A before a small word is an article, unless "queue" stands before it.
    rf"{_GAP}(?:(?i:queue){_GAP}(?=[ABC]\b)|(?=[BC]\b|A\b(?!\s+[a-z])))([ABC])"
)
_NAMED = re.compile(rf"(?i:\bqueue){_GAP}([ABC])\b")


@dataclass(frozen=True, slots=True)
class Rule:
    text: str
    """If …, then …"""
    label: str
    wordings: tuple[str, ...]
    """One of them stands in every message that the rule decides, and none in any other message of the world."""


def rules(world: int) -> tuple[Rule, ...]:
    """The true rules of a world; a task's hidden `rule` is an index into them. For tests, oracles and benchmarks."""
    return _house(world).rules


def rule_texts(world: int) -> tuple[str, ...]:
    """The true rules of a world as "If …, then …" sentences. An oracle: an agent that learns is never shown them."""
    return tuple(rule.text for rule in rules(world))


def label_of_reply(reply: str) -> str:
    """The queue that a reply settles on, `A`, `B` or `C`; empty where it names none, or several without a decision.

    A letter alone or in front of a reason ("B, because …"); else what the last "answer is", "goes to" or the like
    announces; else the only queue that is named. Other letters in a sentence are none: "A message …" chooses nothing.
    """
    if found := _ALONE.fullmatch(reply) or _FIRST.match(reply):
        return found[1].upper()
    if announced := _ANNOUNCED.findall(reply):
        return str(announced[-1])
    named = set(_NAMED.findall(reply))
    return str(named.pop()) if len(named) == 1 else ""


class Moderation:
    """Messages for queue A, B or C. The score is 1 for the right queue and 0 for anything else.

    A task's hidden data hold its `label` and the index of the `rule` that decides it.

    Args:
        world: number that draws the rules and the made-up words.
    """

    players = (SEAT,)
    instructions = (
        "You sort messages that reach a town office into the queues A, B and C. House rules decide, and each looks at "
        "one thing in the message. Nobody tells you the rules."
    )
    max_steps = 1

    def __init__(self, *, world: int = 0) -> None:
        self._world = world
        self._playing: Task | None = None

    def tasks(self, split: Split, n: int, seed: int) -> list[Task]:
        """`n` different messages, all rules equally often; what decides a message's split is its text."""
        house = _house(self._world)
        rng = random.Random(f"moderation/{self._world}/{split}/{seed}")
        dealt: dict[str, Task] = {}
        turn: list[int] = []
        while len(dealt) < n:
            turn = turn or rng.sample(range(RULES), RULES)
            text = house.message(turn[-1], rng)
            digest = hashlib.sha256(text.encode()).digest()
            if text not in dealt and _SPLITS[digest[0] % 3] == split:
                dealt[text] = self._task(split, text, turn.pop(), digest)
        return list(dealt.values())

    def reset(self, task: Task, seed: int) -> tuple[Observation, ...]:
        """Ask for the queue; the task alone decides the episode, whatever `seed` is."""
        self._playing = task
        return (Observation(SEAT, "Which queue does it go to, A, B or C?", LABELS, frame="It goes to queue {action}."),)

    def step(self, actions: Mapping[str, Action]) -> StepResult:
        if self._playing is None:
            raise RuntimeError("reset comes before step")
        reply, label = written(actions), self._playing.data["label"]
        given = label_of_reply(reply)
        text = "Right." if given == label else f"Wrong. It goes to queue {label}."
        if not given:
            text = f"{refusal(' '.join(reply.split()), LABELS)} It goes to queue {label}."
        observation = Observation(SEAT, text, (), must_act=False)
        return StepResult((observation,), {SEAT: float(given == label)}, True, {"success": given == label})

    def expert(self, task: Task) -> list[str]:
        """The right queue."""
        return [task.data["label"]]

    def close(self) -> None:
        self._playing = None

    def _task(self, split: Split, text: str, rule: int, digest: bytes) -> Task:
        return Task(
            id=f"moderation-w{self._world}-{split}-{digest.hex()[:12]}",
            prompt=text,
            environment="moderation",
            data={"label": _house(self._world).rules[rule].label, "rule": rule},
        )


# -- what a world draws ------------------------------------------------------------------------------------------------

_Wordings = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _House:
    rules: tuple[Rule, ...]
    kinds: tuple[str, ...]
    """Of each rule's feature."""
    idle: Mapping[str, tuple[_Wordings, ...]]
    """By kind: the values that no rule looks at."""

    def message(self, rule: int, rng: random.Random) -> str:
        """A message that meets this rule and no other."""
        told = []
        for kind, feature in _KINDS.items():
            wordings = self.rules[rule].wordings if kind == self.kinds[rule] else rng.choice(self.idle[kind])
            told.append(rng.choice(feature.told).format(rng.choice(wordings)))
        told += rng.sample(_NOISE, rng.randint(1, 2))
        return " ".join(["Message:", *rng.sample(told, len(told))])


@functools.lru_cache(maxsize=16)
def _house(world: int) -> _House:
    rng = random.Random(f"moderation/{world}")
    pool: dict[str, tuple[_Wordings, ...]] = {
        "marker": tuple((f'"{word}"',) for word in _made_up(rng)),
        "sender": _SENDERS,
        "topic": _TOPICS,
        "time": _TIMES,
    }
    kinds = (*_KINDS, *rng.sample(list(_KINDS), RULES - len(_KINDS)))
    chosen = [(kind, rng.sample(pool[kind], kinds.count(kind))) for kind in _KINDS]
    conditions = [(kind, wordings) for kind, values in chosen for wordings in values]
    labels = rng.sample(LABELS * (RULES // len(LABELS)), RULES)
    drawn = [(kind, _rule(kind, wordings, label)) for (kind, wordings), label in zip(conditions, labels, strict=True)]
    rng.shuffle(drawn)
    ruled = {wordings for _, wordings in conditions}
    idle = {kind: tuple(value for value in values if value not in ruled) for kind, values in pool.items()}
    return _House(tuple(rule for _, rule in drawn), tuple(kind for kind, _ in drawn), idle)


def _rule(kind: str, wordings: _Wordings, label: str) -> Rule:
    condition = _KINDS[kind].condition.format(" or ".join(wordings))
    return Rule(f"If {condition}, then it goes to queue {label}.", label, wordings)


def _made_up(rng: random.Random) -> list[str]:
    """Different words that no language has."""
    made: dict[str, None] = {}
    while len(made) < _MARKERS:
        syllables = [rng.choice("bdfgklmnprstvz") + rng.choice("aeiou") for _ in range(2)]
        made["".join(syllables) + rng.choice(("x", "sk", "lm", "rp", "nd"))] = None
    return list(made)
