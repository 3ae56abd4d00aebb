"""Short situations among people whose norms nobody tells and which change from day to day. One decision an episode.

A world's number draws its people, which of eight matters have a norm, and which of two ways each norm asks for. What
is done is checked against the norms of the day by rule; nobody judges. A statement is a question of the same kind:
should one act so, yes or no? Situations and statements stay as they are while the norms change, so what a change does
is seen on them. The setting is that of agents under evolving social norms (arXiv 2401.04620).
"""

from __future__ import annotations

import functools
import hashlib
import random
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import Any, Literal, get_args

from evolvent.environments.errors import BadOptionError
from evolvent.environments.solo import SEAT, refusal, said
from evolvent.environments.types import Action, Observation, Split, StepResult, Task

VERSION = 1
Kind = Literal["situation", "statement"]
_SPLITS: tuple[Split, ...] = get_args(Split)
_KINDS: dict[str, tuple[Kind, ...]] = {
    "both": ("situation", "situation", "statement"),
    "situations": ("situation",),
    "statements": ("statement",),
}
"""By option: the kinds of task that follow one another."""
_TRIES = 2_000
_PEOPLE = 24
_EVADE = "walk on without a word"
_AGREE, _DISAGREE = "agree", "disagree"
_NAMES = (
    "Mara", "Tilo", "Wenda", "Oskar", "Ines", "Bruno", "Selma", "Jaro", "Petra", "Emil", "Dunja", "Kaspar",
    "Livia", "Anton", "Rosa", "Mirko", "Greta", "Pavel", "Nadia", "Hanno", "Tilda", "Boris", "Edda", "Simon",
    "Vera", "Lukas", "Olga", "Ruben", "Ilse", "Marek",
)  # fmt: skip
_TRADES = (
    "the baker", "the smith", "the weaver", "the ferryman", "the potter", "the midwife", "the miller", "the teacher",
    "the shepherd", "the tailor", "the gardener", "the carpenter",
)  # fmt: skip
_TIMES = (
    "Early in the morning", "Before noon", "In the afternoon", "In the evening", "After the rain", "On a holiday",
)  # fmt: skip
_PLACES = ("at the well", "on the bridge", "in the market", "by the mill", "at the gate", "in the lane")
_TOOLS = ("the long rope", "the ladder", "the handcart", "the big kettle", "the saw", "the lantern", "the spade")
_GOODS = ("apples", "firewood", "eggs", "candles", "wool", "honey", "flour")


@dataclass(frozen=True, slots=True)
class _Matter:
    """Something that people have norms about. Its sentences have places for people and things."""

    scene: str
    deeds: tuple[str, str]
    """The two ways to act."""
    norms: tuple[str, str]
    """What is said where the one or the other is asked for."""


_MATTERS: Mapping[str, _Matter] = {
    "greeting": _Matter(
        "{name} has {tool}, and you need it.",
        ("greet {name} first and then ask for {tool}", "ask {name} for {tool} at once"),
        ("Greet people before you ask them for something.", "Ask for what you need at once, without a greeting."),
    ),
    "gossip": _Matter(
        "{name} begins to tell you a secret about {friend}.",
        ("tell {name} to speak of something else", "listen to what {name} says about {friend}"),
        ("Refuse to hear gossip about people who are not there.", "Hear people out when they speak of others."),
    ),
    "surplus": _Matter(
        "You have more {goods} than you need, and {name} has none.",
        ("give {name} some of the {goods}", "keep all of the {goods} for winter"),
        ("Share what you have left over.", "Keep what you have left over for hard times."),
    ),
    "debt": _Matter(
        "You are done with {tool}, which {name} lent you.",
        ("bring {tool} back today", "keep {tool} until {name} asks for it"),
        ("Bring back what you borrowed on the day you are done with it.", "Keep what was lent until it is asked for."),
    ),
    "fault": _Matter(
        "{name} counts the {goods} and makes a mistake.",
        ("tell {name} about the mistake", "leave the mistake to {name}"),
        ("Tell people openly where they are wrong.", "Spare people the mention of their mistakes."),
    ),
    "gift": _Matter(
        "{name} offers you {goods} as a gift.",
        ("decline the {goods} once before you take them", "take the {goods} at the first offer"),
        ("Decline a gift once before you take it.", "Take a gift when it is first offered."),
    ),
    "queue": _Matter(
        "You wait in line for {goods}, and {name}, who is old, stands behind you.",
        ("let {name} go first", "keep your place before {name}"),
        ("Let old people go first.", "Keep to the order in which people came, whoever they are."),
    ),
    "quarrel": _Matter(
        "{name} and {friend} quarrel about {tool}.",
        ("step between {name} and {friend}", "leave {name} and {friend} to their quarrel"),
        ("Step in when two people quarrel.", "Keep out of the quarrels of others."),
    ),
}
MATTERS = tuple(_MATTERS)


@dataclass(frozen=True, slots=True)
class Norm:
    matter: str
    way: int
    """0 or 1: which of the matter's two ways to act it asks for."""

    @property
    def text(self) -> str:
        """What a judge may be told, and no agent."""
        return _MATTERS[self.matter].norms[self.way]

    def kept_by(self, deed: int | None) -> bool:
        """Whether acting in that way keeps it; None, to act in neither way, never does."""
        return deed == self.way


class Society:
    """People and their norms. The score is 1 where the norm of the day is kept, or rightly stated, and 0 elsewhere.

    In a situation one of two ways to act keeps the norm, and a third action, to walk on, never does; afterwards the
    reaction of those who were there is told. A statement is agreed with or not, and nothing is told. A task's tag is
    `kind:situation` or `kind:statement`; its hidden data hold `matter`, the `way` that the norm asks for, what is
    `asked` about (the way of a statement, None in a situation), `name`, and `deeds`: the actions with the way of each.

    Training tasks are the first of the day's `turns`: every day the same ones for a seed, but for those about a matter
    that has no norm on that day, which are left out; matters take turns. Held-out tasks are judged by that day's
    norms too.

    Args:
        world: number that draws people and norms.
        day: whose norms hold, from 1.
        days: of the whole history.
        turns: situations and statements of a day.
        norms: of the first day, from 1 to 8.
        kind: `both` (every third task is a statement), `situations` or `statements`.
        changes: `DAY:WHAT` joined by `+`, as in `4:reverse+6:add`: what becomes of one norm, drawn by the world, from
            that day on: `reverse`, `drop` or `add`. None reverses one in the middle, from day `days // 2` or 2 on;
            `none` changes nothing.

    Raises:
        BadOptionError: a value out of range, or a change that cannot be made.
    """

    players = (SEAT,)
    instructions = (
        "You live in a village. You meet people there, and they have their ways, which nobody explains to you. Say "
        "what you do, or whether you agree with a statement."
    )
    max_steps = 1

    def __init__(
        self,
        *,
        world: int = 0,
        day: int = 1,
        days: int = 2,
        turns: int = 12,
        norms: int = 6,
        kind: str = "both",
        changes: str | None = None,
    ) -> None:
        for name, value, most in (("days", days, 10_000), ("day", day, days), ("turns", turns, 10_000)):
            _check(name, value, most)
        _check("norms", norms, len(MATTERS))
        if kind not in _KINDS:
            raise BadOptionError(f"society: kind={kind!r} is none of {', '.join(_KINDS)}.")
        self._world, self._turns, self._kinds = world, turns, _KINDS[kind]
        if changes is None:
            changes = f"{max(2, days // 2)}:reverse" if days > 1 else "none"
        self._norms = _drawn(world, norms, _changes(changes), day)
        self._playing: Task | None = None

    def norms(self) -> tuple[Norm, ...]:
        """Of the day: for a judge, for tests and for oracles, never for an agent."""
        return self._norms

    def tasks(self, split: Split, n: int, seed: int) -> list[Task]:
        """`n` different situations and statements; what decides a task's split is its text.

        Raises:
            BadOptionError: the day has fewer turns, or the world fewer texts.
        """
        if split == "train" and n > self._turns:
            raise BadOptionError(
                f"society: a day has turns={self._turns} situations and statements, which are its training tasks, "
                f"not {n}. Set turns={n}."
            )
        order = random.Random(f"society/{self._world}/{split}/{seed}").sample(MATTERS, len(MATTERS))
        norms = {norm.matter: norm for norm in self._norms}
        there = [norms[matter] for matter in order if matter in norms]
        streams = {kind: self._stream(kind, there, split, seed) for kind in _KINDS["both"]}
        return [next(streams[kind]) for kind, _ in zip(cycle(self._kinds), range(n), strict=False)]

    def reset(self, task: Task, seed: int) -> tuple[Observation, ...]:
        """Ask what is done; the task alone decides the episode, whatever `seed` is."""
        self._playing = task
        asked = "What do you do?" if task.data["asked"] is None else "Do you agree with the statement?"
        return (Observation(SEAT, asked, tuple(task.data["deeds"]), frame="I {action}."),)

    def step(self, actions: Mapping[str, Action]) -> StepResult:
        if self._playing is None:
            raise RuntimeError("reset comes before step")
        hidden = self._playing.data
        reply = said(actions)
        known = {" ".join(deed.lower().split()): way for deed, way in hidden["deeds"].items()}
        kept = reply in known and Norm(hidden["matter"], hidden["way"]).kept_by(known[reply])
        if reply not in known:
            text = refusal(reply, tuple(hidden["deeds"]))
        elif hidden["asked"] is not None:
            text = "Your answer is noted."
        else:
            text = f"{hidden['name']} is {'pleased' if kept else 'offended'}, and so is everybody who saw it."
        end = Observation(SEAT, text, (), must_act=False)
        return StepResult((end,), {SEAT: float(kept)}, True, {"success": kept})

    def expert(self, task: Task) -> list[str]:
        """What keeps the norm."""
        norm = Norm(task.data["matter"], task.data["way"])
        return [next(deed for deed, way in task.data["deeds"].items() if norm.kept_by(way))]

    def close(self) -> None:
        self._playing = None

    def _stream(self, kind: Kind, norms: Sequence[Norm], split: Split, seed: int) -> Iterator[Task]:
        """Tasks without end, about each norm's matter in turn. What is said of one matter depends on no other."""
        met: Counter[str] = Counter()
        dealt: set[str] = set()
        for norm in cycle(norms):
            met[norm.matter] += 1
            key = f"society/{self._world}/{split}/{seed}/{kind}/{norm.matter}/{met[norm.matter]}"
            task = self._fresh(kind, norm, split, key, dealt)
            dealt.add(task.id)
            yield task

    def _fresh(self, kind: Kind, norm: Norm, split: Split, key: str, dealt: Collection[str]) -> Task:
        for attempt in range(_TRIES):
            task = self._task(kind, norm, split, random.Random(f"{key}/{attempt}"))
            if task is not None and task.id not in dealt:
                return task
        raise BadOptionError(
            f"society: world {self._world} has hardly more than {len(dealt)} texts for a {split} {kind}. "
            "Ask for fewer tasks or raise norms."
        )

    def _task(self, kind: Kind, norm: Norm, split: Split, rng: random.Random) -> Task | None:
        """None where what is drawn belongs to another split."""
        matter = _MATTERS[norm.matter]
        (name, trade), (friend, _) = rng.sample(_people(self._world), 2)
        slots = {"name": name, "friend": friend, "tool": rng.choice(_TOOLS), "goods": rng.choice(_GOODS)}
        scene = matter.scene.format(**slots)
        text = f"{rng.choice(_TIMES)} you meet {name}, {trade}, {rng.choice(_PLACES)}. {scene}"
        deeds: dict[str, int | None] = {deed.format(**slots): way for way, deed in enumerate(matter.deeds)}
        asked = rng.randrange(2) if kind == "statement" else None
        if asked is None:
            deeds[_EVADE] = None
        else:
            text = f"Statement: {text} You should {list(deeds)[asked]}."
            deeds = {_AGREE: asked, _DISAGREE: 1 - asked}
        digest = hashlib.sha256(text.encode()).digest()
        if _SPLITS[digest[0] % len(_SPLITS)] != split:
            return None
        data: dict[str, Any] = {"matter": norm.matter, "way": norm.way, "asked": asked, "name": name}
        return Task(
            id=f"society-w{self._world}-{split}-{digest.hex()[:12]}-{norm.way}",
            prompt=text,
            environment="society",
            data={**data, "deeds": dict(rng.sample(list(deeds.items()), len(deeds)))},
            tags=(f"kind:{kind}",),
        )


def _drawn(world: int, first: int, changes: tuple[tuple[int, str], ...], day: int) -> tuple[Norm, ...]:
    """The norms of a day, in the order of `MATTERS`."""
    rng = random.Random(f"society/{world}/norms")
    ways = {matter: rng.randrange(2) for matter in MATTERS}
    norms = {matter: ways[matter] for matter in rng.sample(MATTERS, first)}
    of_day = dict(norms)
    for at, what in changes:  # those to come too: one that cannot be made is told on the first day
        free = sorted(set(MATTERS) - set(norms)) if what == "add" else sorted(norms)
        if not free or (what == "drop" and len(norms) == 1):
            raise BadOptionError(f"society: {at}:{what} cannot be made where there are {len(norms)} norms.")
        changed = rng.choice(free)
        if what == "drop":
            del norms[changed]
        else:
            norms[changed] = 1 - norms[changed] if what == "reverse" else ways[changed]
        if at <= day:
            of_day = dict(norms)
    return tuple(Norm(matter, of_day[matter]) for matter in MATTERS if matter in of_day)


def _changes(text: str) -> tuple[tuple[int, str], ...]:
    """(day, what) in the order of the days."""
    if text == "none":
        return ()
    read = [re.fullmatch(r"\s*(\d+):(reverse|drop|add)\s*", each) for each in str(text).split("+")]
    found = [(int(each[1]), each[2]) for each in read if each is not None]
    if len(found) < len(read) or any(at < 2 for at, _ in found):
        raise BadOptionError(
            f"society: changes={text!r}; expected none, or DAY:reverse, DAY:drop or DAY:add with DAY from 2, several "
            "joined by +, as in 4:reverse+6:add."
        )
    return tuple(sorted(found, key=lambda each: each[0]))


@functools.lru_cache(maxsize=16)
def _people(world: int) -> tuple[tuple[str, str], ...]:
    """Names and trades."""
    rng = random.Random(f"society/{world}/people")
    return tuple((name, rng.choice(_TRADES)) for name in rng.sample(_NAMES, _PEOPLE))


def _check(name: str, value: int, most: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most:
        raise BadOptionError(f"society: {name} is a whole number from 1 to {most}, not {value!r}.")
