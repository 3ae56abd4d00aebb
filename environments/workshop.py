"""The workshop: a procedural text world with hidden laws that all tasks of a world share.

Which tool cures which flaw, and which of two flaws must be seen to first, is drawn by the world's number; nothing in
the words gives it away, so what an agent knows of it, it learned here. `laws` says what a perfect memory would hold.

Each thing to mend has two flaws or more; each flaw is one decision, and so is the order where a law governs it. Some
pairs of flaws are never met together before the test split: half of its tasks are made of them.
"""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from evolvent.environments.errors import BadOptionError
from evolvent.environments.solo import SEAT, refusal, said
from evolvent.environments.types import Action, Observation, Split, StepResult, Task

VERSION = 1
FLAWS = (
    "rust", "rot", "mould", "a crack", "a dent", "a leak", "soot", "a warp",
    "a tear", "a stain", "woodworm", "a squeak", "a loose joint", "a burn", "frost", "a scratch",
)  # fmt: skip
TOOLS = (
    "oil", "wax", "file", "clamp", "brush", "glue", "lamp", "chalk",
    "salt", "thread", "hammer", "sponge", "saw", "resin", "bellows", "pliers",
)  # fmt: skip
ITEMS = (
    "clock",
    "chair",
    "kettle",
    "drum",
    "lantern",
    "cart",
    "violin",
    "bucket",
    "cradle",
    "plough",
    "mirror",
    "harp",
)
OWNERS = (
    "Ada", "Ben", "Cora", "Dan", "Edith", "Finn", "Greta", "Hugo", "Ida", "Jonas", "Kit", "Lena", "Max", "Nora", "Otto",
    "Pia", "Quinn", "Rosa", "Sven", "Tilda", "Ugo", "Vera", "Wim", "Xenia", "Yann", "Zoe", "Abel", "Bea",
    "Carl", "Dora",
)  # fmt: skip
NOISE = (
    "It is raining outside.", "The apprentice is late.", "A cat sleeps on the bench.", "The market closes early today.",
    "Someone left the window open.", "The bell of the tower strikes.", "A cart rolls past.", "The stove is warm.",
)  # fmt: skip
_IN_VAIN = 1000
"""Draws in a row that gave no new task: the world has no more."""
SPARE_STEPS = 2
"""Illegal actions a task forgives."""


@dataclass(frozen=True, slots=True)
class Law:
    """One hidden truth: in this situation, this action is right."""

    frame: str
    """As observations word it, with `{action}` open."""
    action: str
    flaws: tuple[str, ...]

    @property
    def text(self) -> str:
        """The lesson a perfect memory would hold, word for word."""
        return self.frame.replace("{action}", self.action)


class Workshop:
    """One world of the workshop. The score of a task is the share of its decisions that were right.

    Args:
        world: number that draws the laws.
        cures: laws that name the tool for a flaw, from 2 to 16.
        orders: laws that say which of two flaws comes first, from 0 to `cures // 2`.
        tools: on the bench, from 2 to 16.
        flaws: of one thing, from 2 to 6; with an order law this makes up to 8 decisions.
        distractors: sentences of no consequence in a task, from 0 to 6.
        epoch: how often the laws have drifted.
        drift: cure laws redrawn at each epoch.
        seats: 1, or 2 for a client who knows the flaws and a mender who knows the tools, each with a goal of its own.

    Raises:
        BadOptionError: a value outside its range.
    """

    def __init__(
        self,
        *,
        world: int = 0,
        cures: int = 5,
        orders: int = 1,
        tools: int = 4,
        flaws: int = 2,
        distractors: int = 0,
        epoch: int = 0,
        drift: int = 0,
        seats: int = 1,
    ) -> None:
        _check("cures", cures, 2, len(FLAWS))
        _check("orders", orders, 0, cures // 2)
        _check("tools", tools, 2, len(TOOLS))
        _check("flaws", flaws, 2, min(6, cures))
        _check("distractors", distractors, 0, 6)
        _check("epoch", epoch, 0, 1_000_000)
        _check("drift", drift, 0, cures)
        _check("seats", seats, 1, 2)
        self.world, self.epoch, self._flaws_each, self._distractors = world, epoch, flaws, distractors
        self.players = (SEAT,) if seats == 1 else ("client", "mender")
        self.instructions = "You mend things in a workshop. Every flaw has one right tool."
        self.max_steps = 2 * flaws + SPARE_STEPS
        rng = random.Random(f"workshop/{world}")
        self.flaws = tuple(rng.sample(FLAWS, cures))
        self.tools = tuple(rng.sample(TOOLS, tools))
        self._cures = {flaw: rng.choice(self.tools) for flaw in self.flaws}
        shuffled = rng.sample(self.flaws, cures)
        self._orders = {_pair(a, b): a for a, b in zip(shuffled[::2], shuffled[1::2], strict=False)}
        self._orders = dict(itertools.islice(self._orders.items(), orders))
        for turn in range(epoch):
            self._drift(random.Random(f"workshop/{world}/epoch/{turn}"), drift)
        self._met = self._pairs_met(random.Random(f"workshop/{world}/pairs"))
        self._play: _Play | _TwoSeatPlay | None = None

    def laws(self) -> tuple[Law, ...]:
        """What holds in this world at this epoch: what a perfect memory would hold."""
        cures = [Law(_cure_frame(flaw), tool, (flaw,)) for flaw, tool in self._cures.items()]
        orders = [Law(_order_frame(*pair), first, pair) for pair, first in self._orders.items()]
        return (*cures, *orders)

    def tasks(self, split: Split, n: int, seed: int) -> list[Task]:
        """`n` different tasks. In `test` every second one combines flaws that no other split brings together."""
        splits: tuple[Split, ...] = ("train", "validation", "test")
        rng = random.Random(f"workshop/{self.world}/{split}/{seed}")
        # Owners are split three ways, so no task can stand in two splits.
        owners = OWNERS[splits.index(split) :: 3]
        every = list(itertools.combinations(self.flaws, 2))
        novel = [pair for pair in every if _pair(*pair) not in self._met]
        met = [pair for pair in every if _pair(*pair) in self._met]
        ruled = [pair for pair in met if _pair(*pair) in self._orders]
        # An order law is met twice as often as its pair would be, or it could hardly be learned.
        decks = _deal([*met, *ruled], rng), _deal(novel or met, rng)
        tasks: dict[str, Task] = {}
        in_vain = 0
        while len(tasks) < n and in_vain < _IN_VAIN:
            wants_novel = split == "test" and len(tasks) % 2 == 1 and bool(novel)
            pair = next(decks[wants_novel])
            rest = rng.sample([flaw for flaw in self.flaws if flaw not in pair], self._flaws_each - 2)
            flaws = rng.sample((*pair, *rest), self._flaws_each)
            task = self._task(split, rng.choice(owners), rng.choice(ITEMS), tuple(flaws), wants_novel, rng)
            in_vain = in_vain + 1 if task.id in tasks else 0
            tasks.setdefault(task.id, task)
        if len(tasks) < n:
            raise BadOptionError(f"This world has {len(tasks)} {split} tasks, not {n}. Ask for fewer, or add cures.")
        return list(tasks.values())

    def reset(self, task: Task, seed: int) -> tuple[Observation, ...]:
        flaws = tuple(task.data["flaws"])
        if len(self.players) == 2:
            self._play = _TwoSeatPlay(self, task, flaws, random.Random(f"workshop/{task.id}/{seed}"))
        else:
            self._play = _Play(self, flaws)
        return self._play.observe("")

    def step(self, actions: Mapping[str, Action]) -> StepResult:
        if self._play is None:
            raise RuntimeError("reset comes before step")
        return self._play.step(actions)

    def expert(self, task: Task) -> list[str]:
        """The right action of every decision, in order (one-seat form)."""
        return [right for _, _, right in self._decisions(tuple(task.data["flaws"]))]

    def close(self) -> None:
        self._play = None

    def _task(
        self, split: Split, owner: str, item: str, flaws: tuple[str, ...], novel: bool, rng: random.Random
    ) -> Task:
        noise = " ".join(rng.sample(NOISE, self._distractors))
        named = " and ".join(flaws) if len(flaws) == 2 else f"{', '.join(flaws[:-1])} and {flaws[-1]}"
        slug = "-".join(flaw.replace("a ", "").replace(" ", "") for flaw in flaws)
        return Task(
            id=f"w{self.world}-{split}-{owner}-{item}-{slug}".lower(),
            prompt=f"{owner}'s {item} has {named}." + (f" {noise}" if noise else ""),
            environment="workshop",
            data={"flaws": list(flaws), "novel": novel},
            tags=tuple(sorted(flaws)),
        )

    def _decisions(self, flaws: Sequence[str]) -> list[tuple[str, tuple[str, ...], str]]:
        """(frame, options, right option) of a task, in the order they are put."""
        decisions: list[tuple[str, tuple[str, ...], str]] = [
            (_order_frame(*pair), pair, self._orders[pair])
            for pair in itertools.combinations(sorted(flaws), 2)
            if pair in self._orders
        ]
        decisions += [(_cure_frame(flaw), self.tools, self._cures[flaw]) for flaw in flaws]
        return decisions

    def _pairs_met(self, rng: random.Random) -> set[tuple[str, ...]]:
        """Half of all pairs, those under an order law among them, spread so that every flaw is met about as often."""
        every = [_pair(*pair) for pair in itertools.combinations(self.flaws, 2)]
        rng.shuffle(every)
        met = set(self._orders)
        while len(met) < (len(every) + 1) // 2:
            often = Counter(flaw for pair in met for flaw in pair)
            left = [pair for pair in every if pair not in met]
            met.add(min(left, key=lambda pair: (max(often[flaw] for flaw in pair), sum(often[flaw] for flaw in pair))))
        return met

    def _drift(self, rng: random.Random, count: int) -> None:
        for flaw in rng.sample(self.flaws, count):
            self._cures[flaw] = rng.choice([tool for tool in self.tools if tool != self._cures[flaw]])


class _Play:
    """One episode of the one-seat form."""

    def __init__(self, world: Workshop, flaws: tuple[str, ...]) -> None:
        self._decisions = world._decisions(flaws)
        self._at = self._right = self._steps = 0
        self._limit = len(self._decisions) + SPARE_STEPS

    def observe(self, result: str) -> tuple[Observation, ...]:
        if self._at == len(self._decisions):
            return (Observation(SEAT, result, (), must_act=False),)
        frame, options, _ = self._decisions[self._at]
        text = f"{result} {_question(frame)}".strip()
        return (Observation(SEAT, text, options, frame=frame),)

    def step(self, actions: Mapping[str, Action]) -> StepResult:
        chosen = said(actions)
        _, options, right = self._decisions[self._at]
        self._steps += 1
        reward = 0.0
        if chosen not in options:
            result = refusal(chosen, options)
        else:
            reward = float(chosen == right) / len(self._decisions)
            self._right += chosen == right
            self._at += 1
            result = "It worked." if chosen == right else "It did not work."
        done = self._at == len(self._decisions) or self._steps >= self._limit
        info: dict[str, Any] = {"success": self._right == len(self._decisions)} if done else {}
        return StepResult(self.observe(result), {SEAT: reward}, done, info)


class _TwoSeatPlay:
    """One episode of the two-seat form: the client names a flaw, the mender takes a tool, until all flaws were tried.

    Half of the client's score is that the flaw it privately cares for was named first, half that flaws were mended.
    The mender privately wants to spare one tool: a cure with it counts three quarters.
    """

    def __init__(self, world: Workshop, task: Task, flaws: tuple[str, ...], rng: random.Random) -> None:
        self._world, self._task, self._left, self._n = world, task, list(flaws), len(flaws)
        self._wanted, self._spared = rng.choice(flaws), rng.choice(world.tools)
        self._asked: str | None = None
        self._right = self._steps = 0
        self._limit = 2 * self._n + SPARE_STEPS

    def observe(self, result: str) -> tuple[Observation, ...]:
        over = not self._left and self._asked is None
        wish = f"You want {self._wanted} mended first. " if len(self._left) == self._n else ""
        client = Observation(
            "client",
            f"{result} {wish}What do you ask for?".strip() if self._asked is None and not over else result,
            tuple(self._left) if self._asked is None else (),
            must_act=self._asked is None and not over,
            frame="Please mend {action}.",
        )
        if self._asked is None:
            return client, Observation("mender", result, (), must_act=False)
        frame = _cure_frame(self._asked)
        goal = f"You would rather spare the {self._spared}."
        text = f"{result} The client asks to mend {self._asked}. {goal} {_question(frame)}".strip()
        return client, Observation("mender", text, self._world.tools, frame=frame)

    def step(self, actions: Mapping[str, Action]) -> StepResult:
        self._steps += 1
        rewards = {"client": 0.0, "mender": 0.0}
        if self._asked is None:
            chosen = said(actions, "client")
            if chosen in self._left:
                if len(self._left) == self._n:
                    rewards["client"] = 0.5 * (chosen == self._wanted)
                self._left.remove(chosen)
                self._asked, result = chosen, ""
            else:
                result = refusal(chosen, self._left)
        else:
            chosen = said(actions, "mender")
            if chosen in self._world.tools:
                right = chosen == self._world._cures[self._asked]
                self._right += right
                rewards["client"] = 0.5 * right / self._n
                rewards["mender"] = right * (0.75 if chosen == self._spared else 1.0) / self._n
                self._asked, result = None, "It worked." if right else "It did not work."
            else:
                result = refusal(chosen, self._world.tools)
        done = (not self._left and self._asked is None) or self._steps >= self._limit
        info: dict[str, Any] = {"success": self._right == self._n} if done else {}
        return StepResult(self.observe(result), rewards, done, info)


def _deal(pairs: Sequence[tuple[str, str]], rng: random.Random) -> Iterator[tuple[str, str]]:
    """The pairs again and again, shuffled anew each round, so that all are met about equally often."""
    while True:
        yield from rng.sample(pairs, len(pairs))


def _cure_frame(flaw: str) -> str:
    return f"To mend {flaw}, use the {{action}}."


def _order_frame(one: str, other: str) -> str:
    return f"With {one} and {other}, first mend {{action}}."


def _question(frame: str) -> str:
    """The frame as a question, so that the observation says what has to be decided."""
    if frame.startswith("With"):
        return f"{frame.split(',')[0]}, what do you mend first?"
    return f"How do you mend {frame.removeprefix('To mend ').split(', use')[0]}?"


def _pair(one: str, other: str) -> tuple[str, ...]:
    return tuple(sorted((one, other)))


def _check(name: str, value: int, low: int, high: int) -> None:
    if not isinstance(value, int) or not low <= value <= high:
        raise BadOptionError(f"workshop: {name} must be a whole number from {low} to {high}, not {value!r}.")
