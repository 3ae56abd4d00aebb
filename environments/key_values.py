"""Values under keys, some of which are keys again: nested look-ups in a store with a search. One reply an episode.

The key is all the agent is given: whoever may look things up calls `search`, or keeps the `documents`. It is the
nested key-value retrieval of MemGPT (arXiv 2310.08560) with short keys. Nothing but a look-up tells a key from a value.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_args

from evolvent.environments.bm25 import Bm25
from evolvent.environments.errors import BadOptionError
from evolvent.environments.qa import exact_match, final_answer
from evolvent.environments.solo import SEAT, written
from evolvent.environments.types import Action, Observation, Split, StepResult, Task

VERSION = 1
DEEPEST = 4
"""Hops at most, as in MemGPT."""
_SPLITS: tuple[Split, ...] = get_args(Split)


def documents(where: Task | Mapping[str, Any]) -> tuple[str, ...]:
    """A line for each pair of a store: "Key 4f1c09ab: value 9a2e77d0." The same for all tasks of one world.

    Args:
        where: a task, whose store is meant, or the options of a `KeyValues`.
    """
    return _store(where).documents


def search(where: Task | Mapping[str, Any], query: str, n: int = 5, page: int = 1) -> tuple[str, ...]:
    """At most `n` documents that share a word with the query, best first (BM25); the second page goes on with the next.

    Deterministic and local. A key finds its own pair and those whose value it is; which comes first is open.

    Args:
        page: from 1. Empty behind the last one.
    """
    store = _store(where)
    found = store.index.search(query, n * max(page, 0))
    return tuple(store.documents[at] for at in found[n * (page - 1) :]) if page > 0 else ()


class KeyValues:
    """Keys whose last value is asked for. The score is 1 for that value and 0 for any other.

    A task's hidden data hold the `answers`, the `chain` of keys that leads there, the one it is given first, and the
    `world`, `pairs` and `depth` of its store. Tasks of two splits share no key, no value and no hop.

    Args:
        world: number that draws the store.
        pairs: size of the store. Half of the keys are tasks, a third of these in each split; all with `depth=0`.
        depth: hops from a key to the last value, beside the first look-up: 0 where its value is no key.

    Raises:
        BadOptionError: a number out of range.
    """

    players = (SEAT,)
    instructions = (
        "Values are stored under keys, and some are keys again. The last line of a reply is: The answer is X."
    )
    max_steps = 1

    def __init__(self, *, world: int = 0, pairs: int = 600, depth: int = 2) -> None:
        for name, value, low, high in (("pairs", pairs, 30, 100_000), ("depth", depth, 0, DEEPEST)):
            if not isinstance(value, int) or not low <= value <= high:
                raise BadOptionError(f"key_values: {name} is a whole number from {low} to {high}, not {value!r}.")
        self.world, self.pairs, self.depth = world, pairs, depth
        self._playing: Task | None = None

    def tasks(self, split: Split, n: int, seed: int) -> list[Task]:
        """`n` different keys.

        Raises:
            BadOptionError: the store has fewer.
        """
        chains = _drawn(self.world, self.pairs, self.depth).chains[_SPLITS.index(split)]
        if n > len(chains):
            raise BadOptionError(
                f"key_values: {self.pairs} pairs have {len(chains)} {split} keys with {self.depth} hops, not {n}. "
                "Ask for fewer or raise pairs."
            )
        rng = random.Random(f"key_values/{self.world}/{self.pairs}/{self.depth}/{split}/{seed}")
        return [self._task(split, chain) for chain in rng.sample(chains, n)]

    def reset(self, task: Task, seed: int) -> tuple[Observation, ...]:
        """Ask for the value; the task alone decides the episode, whatever `seed` is."""
        self._playing = task
        return (Observation(SEAT, "Answer:"),)

    def step(self, actions: Mapping[str, Action]) -> StepResult:
        if self._playing is None:
            raise RuntimeError("reset comes before step")
        answer = final_answer(written(actions))
        right = any(exact_match(answer, each) for each in self._playing.data["answers"])
        told = f"{answer[:80]} is {'right' if right else 'not right'}." if answer else "There was no answer."
        end = Observation(SEAT, told, None, must_act=False)
        return StepResult((end,), {SEAT: float(right)}, True, {"success": right})

    def expert(self, task: Task) -> list[str]:
        """The value."""
        return [f"The answer is {task.data['answers'][0]}."]

    def close(self) -> None:
        self._playing = None

    def _task(self, split: Split, chain: tuple[str, ...]) -> Task:
        *keys, value = chain
        return Task(
            id=f"key_values-w{self.world}-{self.pairs}x{self.depth}-{split}-{keys[0]}",
            prompt=f"Look up the key {keys[0]}. If its value is a key again, look that up too, and so on. "
            "Which value comes last?",
            environment="key_values",
            data={
                "answers": [value],
                "chain": keys,
                "world": self.world,
                "pairs": self.pairs,
                "depth": self.depth,
            },
            tags=(f"{self.depth}-hop",),
        )


@dataclass(frozen=True, slots=True)
class _Store:
    documents: tuple[str, ...]
    chains: tuple[tuple[tuple[str, ...], ...], ...]
    """By split: the keys on the way from a task's key, and the last value."""
    index: Bm25


def _store(where: Task | Mapping[str, Any]) -> _Store:
    if isinstance(where, Task):
        where = {name: where.data[name] for name in ("world", "pairs", "depth")}
    world = KeyValues(**where)
    return _drawn(world.world, world.pairs, world.depth)


@functools.lru_cache(maxsize=8)
def _drawn(world: int, pairs: int, depth: int) -> _Store:
    """Trees whose leaves are the tasks' keys, all `depth` hops above their root; a root's value is no key.

    A whole tree belongs to one split.
    """
    rng = random.Random(f"key_values/{world}/{pairs}/{depth}")
    trees = pairs // (2 * depth) if depth else pairs
    words = _words(rng, pairs + trees)
    ways: list[tuple[str, ...]] = [(word,) for word in words[:trees]]
    taken = trees
    for level in range(depth + 1):
        many = pairs - taken + trees if level == depth else trees
        ways = [(words[taken + at], *ways[at % trees]) for at in range(many)]
        taken += many
    found = {way[at]: way[at + 1] for way in ways for at in range(depth + 1)}
    listed = [f"Key {key}: value {value}." for key, value in found.items()]
    rng.shuffle(listed)
    chains = tuple(
        tuple(way for at, way in enumerate(ways) if at % trees % len(_SPLITS) == split) for split in range(len(_SPLITS))
    )
    return _Store(tuple(listed), chains, Bm25(listed))


def _words(rng: random.Random, n: int) -> list[str]:
    """Different words of eight hexadecimal digits."""
    found: dict[str, None] = {}
    while len(found) < n:
        found[f"{rng.getrandbits(32):08x}"] = None
    return list(found)
