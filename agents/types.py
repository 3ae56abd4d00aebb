"""The values agents speak in: what a generation is, what it aims at, what a call cost. Floor of the folder."""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass

from evolvent.environments.types import Cost, Phase


@dataclass(frozen=True, slots=True)
class Model:
    """A whole generation in one value: M in the survey (arXiv 2404.14387, §2). Can be checked out again."""

    base: str
    """Model spec, e.g. `smollm2`."""
    adapter: str = ""
    """`name@hash` of a LoRA adapter; empty for the base weights."""
    memory: str = ""
    """Ledger commit it recalls from; empty for no memory."""
    individual: str = ""
    """Record that is its genome, where a generation holds several models; empty where it holds one."""

    def __str__(self) -> str:
        own = (self.base, self.adapter, self.memory and f"memory:{self.memory}", self.individual)
        return "+".join(part for part in own if part)


@dataclass(frozen=True, slots=True)
class CallTag:
    """Says of one model call whom it was for; every field stands in its trace line."""

    role: str
    phase: Phase
    generation: int
    task: str = ""
    attempt: int = 0
    episode: str = ""
    purpose: str = "act"


@dataclass(frozen=True, slots=True)
class Reply:
    text: str
    cost: Cost


@dataclass(frozen=True, slots=True)
class Choice:
    """One of several given continuations."""

    index: int
    probabilities: tuple[float, ...]
    """Over the options, after calibration and temperature; sums to 1."""
    cost: Cost

    @property
    def probability(self) -> float:
        return self.probabilities[self.index]


def derive_rng(seed: int, *key: str | int) -> random.Random:
    """Randomness from (seed, key), never from a running stream, so that any order of work gives the same draws."""
    return random.Random(derive_seed(seed, *key))


def derive_seed(seed: int, *key: str | int) -> int:
    """63 bits from (seed, key)."""
    digest = hashlib.sha256("\x1f".join(str(part) for part in (seed, *key)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
