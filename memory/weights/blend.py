"""How much of each parent goes into a merge, and which of its changes: settings that load no library."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from evolvent.memory.errors import BadMergeError

Method = Literal["average", "task_arithmetic", "magnitude", "ties", "dare", "dare_ties"]
PRUNES = ("magnitude", "ties", "dare", "dare_ties")
"""The methods that leave out a part of each change before they add."""
ELECTS = ("ties", "dare_ties")
"""The methods that keep, entry by entry, only the changes that agree in sign with the weighted majority."""
MASKS = ("dare", "dare_ties")
"""The methods that choose by chance what they leave out."""


class Merge(BaseModel):
    """How to merge.

    With D the change of a parent against the base: `average` and `task_arithmetic` (2212.04089) add weighted D,
    `magnitude` and `ties` (2306.01708) first leave out the smallest entries, `dare` and `dare_ties` (2311.03099)
    leave out entries at random and rescale the rest.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    method: Method = "average"
    weights: tuple[float, ...] = ()
    """One for each parent; empty is 1 each. `average`, `ties` and `dare_ties` take them as shares of a mean, the
    others as factors: what a parent's change is multiplied with before all are added."""
    drop: float = Field(0.0, ge=0, le=1)
    """Share of each change's entries that is set to zero: DARE's p, one minus the density of TIES. At 1 the base is
    left."""
    rescale: bool = True
    """Divide what DARE keeps by 1 - drop, so that the change is the same in expectation. False is the ablation."""
    largest_change: float | None = Field(0.1, gt=0)
    """A parent whose change is larger was not tuned from this base, or so far that no rule here is sound. Root mean
    square over that of the weights changed: 40 steps of LoRA on SmolLM2 make 0.001 to 0.005; the limit of DARE's
    authors, 0.002 where weights are about 0.02, is 0.1; another initialisation makes 1.4. None accepts any."""
    seed: int = Field(0, ge=0)
    """Of the random masks."""

    @model_validator(mode="after")
    def _drops_only_where_it_prunes(self) -> Self:
        if self.drop and self.method not in PRUNES:
            raise ValueError(f"{self.method} leaves nothing out; expected drop 0, or one of {', '.join(PRUNES)}")
        return self

    def blend(self, parents: int) -> Blend:
        """The same for every tensor.

        Raises:
            BadMergeError: weights of another number than the parents, or that cannot be used.
        """
        blend = Blend(self.weights or (1.0,) * parents, (self.drop,) * parents)
        blend.check(self.method, parents)
        return blend


@dataclass(frozen=True, slots=True)
class Blend:
    """What is taken of each parent for one tensor."""

    weights: tuple[float, ...]
    drops: tuple[float, ...]
    """Shares in [0, 1]; see `Merge.drop`."""

    def check(self, method: Method, parents: int) -> None:
        """
        Raises:
            BadMergeError: not one weight and drop for each parent, or numbers out of range for the method.
        """
        if len(self.weights) != parents or len(self.drops) != parents:
            raise BadMergeError(
                f"{len(self.weights)} weights and {len(self.drops)} drops for {parents} parents; expected one each."
            )
        if not all(map(math.isfinite, self.weights)):
            raise BadMergeError(f"Weights of {self.weights}; expected finite numbers.")
        if method in (*ELECTS, "average") and min(self.weights) < 0:
            raise BadMergeError(
                f"A weight of {min(self.weights)} for {method}, which takes a mean; expected 0 or more. To take a "
                "skill away use task_arithmetic."
            )
        if method == "average" and not any(self.weights):
            raise BadMergeError("All weights are 0; expected one above it, or the mean is of nothing.")
        if not all(0 <= drop <= 1 for drop in self.drops):
            raise BadMergeError(f"Drops of {self.drops}; expected shares in [0, 1], which is one minus the density.")
