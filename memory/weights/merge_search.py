"""Searching for a merge by evolution (arXiv 2403.13187): CMA-ES over genomes, and what a genome stands for.

Scoring a genome is the caller's business. The search is a value that goes from generation to generation and into JSON:
it holds the scores so far, from which the same seed leads to the same next generation.
"""

from __future__ import annotations

import hashlib
import itertools
import math
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from evolvent.memory.errors import BadMergeError
from evolvent.memory.weights.blend import Blend
from evolvent.memory.weights.layer_stack import LayerStack

Genome = tuple[float, ...]

_WIDE = 500
"""Numbers in a genome from which on only variances are adapted: a full covariance would not be learned in time."""
_SMALLEST_SCALE = 0.1
_BLOCK = re.compile(r"(?:^|\.)(?:layers|h|blocks)\.(\d+)\.")


class Search(BaseModel):
    """A CMA-ES that looks for the genome of the highest score, between two generations."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    start: Genome = Field(min_length=2)
    """The mean of the first generation."""
    sigma: float = Field(1 / 6, gt=0)
    """Its standard deviation in each number."""
    bounds: tuple[float, float] | None = None
    """Of every number in a genome; None leaves them free."""
    size: int | None = Field(None, ge=2)
    """Genomes of one generation; None takes 4 + ⌊3 ln n⌋ for n numbers."""
    seed: int = Field(0, ge=0)
    scores: tuple[tuple[float, ...], ...] = ()
    """Of each generation so far, in the order of `ask`."""
    best: Genome | None = None
    """Of all so far; the first among equals. None before the first generation."""

    @property
    def population(self) -> int:
        return self.size or 4 + int(3 * math.log(len(self.start)))

    @property
    def evaluations(self) -> int:
        return sum(map(len, self.scores))

    @property
    def best_so_far(self) -> tuple[float, ...]:
        """The highest score seen by the end of each generation."""
        return tuple(itertools.accumulate(map(max, self.scores), max))

    def ask(self) -> tuple[Genome, ...]:
        """The genomes of the next generation; the same however often it is asked."""
        with _shared_randomness_kept():
            return self._replayed()

    def tell(self, scores: Sequence[float]) -> Search:
        """The search after a generation, whose genomes scored so in the order of `ask`; higher is better.

        Raises:
            BadMergeError: scores of another number than the population, or that are not finite.
        """
        if len(scores) != self.population or not all(map(math.isfinite, scores)):
            raise BadMergeError(
                f"Scores {list(scores)} for a generation of {self.population}; expected a finite number for each."
            )
        update: dict[str, Any] = {"scores": (*self.scores, tuple(map(float, scores)))}
        if not self.scores or max(scores) > self.best_so_far[-1]:
            update["best"] = self.ask()[max(range(len(scores)), key=scores.__getitem__)]
        return self.model_copy(update=update)

    def _replayed(self) -> tuple[Genome, ...]:
        """The next generation, by an optimizer that was told all scores so far.

        To repeat them costs milliseconds, and no pickled optimizer has to be kept.
        """
        import cma

        random = np.random.default_rng(int.from_bytes(hashlib.sha256(f"merge/{self.seed}".encode()).digest()[:8]))
        options: dict[str, Any] = {
            "popsize": self.population,
            "bounds": list(self.bounds) if self.bounds else [None, None],
            "CMA_diagonal": len(self.start) > _WIDE,
            "randn": lambda *shape: random.standard_normal(shape),
            "seed": math.nan,  # it leaves the shared generator alone
            "verbose": -9,
        }
        optimizer = cma.CMAEvolutionStrategy(list(self.start), self.sigma, options)
        for scores in self.scores:
            optimizer.tell(optimizer.ask(), [-score for score in scores])  # it minimises
        return tuple(tuple(map(float, genome)) for genome in optimizer.ask())


@dataclass(frozen=True, slots=True)
class ParameterSpace:
    """Genomes for a merge by `dare_ties`: for each group of layers and each source a weight and a density, in [0, 1].

    A group is a run of blocks of about equal length. Unlike in the paper, what comes before the blocks belongs to the
    first group and what comes behind to the last: adapters do not change it.
    """

    blocks: int
    """Of the base."""
    groups: int
    sources: int

    def __post_init__(self) -> None:
        if not (1 <= self.groups <= self.blocks and self.sources >= 1):
            raise BadMergeError(
                f"{self.groups} groups of {self.blocks} blocks from {self.sources} sources; expected 1 to "
                f"{self.blocks} groups and one source or more."
            )

    def start(self) -> Genome:
        """The middle, where the paper begins."""
        return (0.5,) * (2 * self.groups * self.sources)

    def blends(self, genome: Genome) -> Callable[[str], Blend]:
        """What `merge` asks for by a tensor's name.

        Raises:
            BadMergeError: a genome of another length, or with a number outside [0, 1].
        """
        _check_length(genome, len(self.start()))
        if not all(0 <= gene <= 1 for gene in genome):
            raise BadMergeError(
                f"A genome from {min(genome)} to {max(genome)}; expected weights and densities in [0, 1]."
            )
        per_group = 2 * self.sources
        blends = [
            Blend(part[0::2], tuple(1 - density for density in part[1::2]))
            for part in (genome[at : at + per_group] for at in range(0, len(genome), per_group))
        ]
        return lambda name: blends[self.group(name)]

    def group(self, name: str) -> int:
        """Of a tensor in the base.

        Raises:
            BadMergeError: the base has more blocks than the space.
        """
        match = _BLOCK.search(name)
        if match:
            if int(match[1]) >= self.blocks:
                raise BadMergeError(f"{name} in a space of {self.blocks} blocks; expected as many as the base has.")
            return int(match[1]) * self.groups // self.blocks
        return 0 if "embed" in name or "wte" in name or "wpe" in name else self.groups - 1


@dataclass(frozen=True, slots=True)
class DataFlowSpace:
    """Genomes for a stack of layers: which run, and what is scaled between them.

    With M layers in all sources, the first M·r numbers say whether layer t mod M runs at place t: it does where the
    number is above 0. The other M² say by how much the hidden state is scaled on its way from layer i to j: 1 plus the
    number, at least 0.1. The first source's first and last layer always run, at the ends.
    """

    layers: tuple[int, ...]
    """How many each source has."""
    repeats: int = 1

    def __post_init__(self) -> None:
        if not self.layers or min(self.layers) < 2 or self.repeats < 1:
            raise BadMergeError(
                f"Sources of {self.layers} layers, {self.repeats} times; expected two layers or more in each, once or "
                "more often."
            )

    @property
    def size(self) -> int:
        return self._places + sum(self.layers) ** 2

    @property
    def _places(self) -> int:
        return sum(self.layers) * self.repeats

    def start(self) -> Genome:
        """The first source as it is: its inner layers run once, the others do not, nothing is scaled."""
        runs = [1 <= place < self.layers[0] - 1 for place in range(self._places)]
        return (*(0.5 if run else -0.5 for run in runs), *[0.0] * sum(self.layers) ** 2)

    def stack(self, genome: Genome) -> LayerStack:
        """
        Raises:
            BadMergeError: a genome of another length.
        """
        _check_length(genome, self.size)
        total = sum(self.layers)
        inner = [place % total for place in range(self._places) if genome[place] > 0]
        layers = (0, *inner, self.layers[0] - 1)
        hops = (genome[self._places + i * total + j] for i, j in itertools.pairwise(layers))
        return LayerStack(layers, tuple(max(_SMALLEST_SCALE, 1 + hop) for hop in hops))


def _check_length(genome: Genome, expected: int) -> None:
    if len(genome) != expected:
        raise BadMergeError(f"A genome of {len(genome)} numbers; expected {expected}. Is it of another space?")


@contextmanager
def _shared_randomness_kept() -> Iterator[None]:
    """cma draws from numpy's shared generator when it checks itself."""
    state = np.random.get_state()
    try:
        yield
    finally:
        np.random.set_state(state)
