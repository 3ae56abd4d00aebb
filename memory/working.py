"""Working memory: which of the recalled records fit into the prompt, and in what order they stand there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from evolvent.memory.types import Record, Scored

Order = Literal["best_last", "best_first"]


@dataclass(frozen=True, slots=True)
class WorkingMemory:
    """A token budget for what memory adds to one prompt. Records are whole: none is ever split."""

    budget_tokens: int
    count: Callable[[str], int]
    """Tokens of a text, as the acting model counts them."""
    order: Order = "best_last"
    """Best last puts the best record nearest the action."""
    separator_tokens: int = 1
    """What stands between two records, a line break as a rule."""

    def select(self, scored: Sequence[Scored]) -> list[Record]:
        """The records that fit, filled best first and given in display order.

        One that is too long is left out and the next best is tried: a short rule is not lost behind a long trajectory.
        """
        chosen: list[Record] = []
        left = self.budget_tokens
        for each in scored:
            need = self.count(each.record.text) + (self.separator_tokens if chosen else 0)
            if need <= left:
                chosen.append(each.record)
                left -= need
        return chosen[::-1] if self.order == "best_last" else chosen

    def text(self, scored: Sequence[Scored], separator: str = "\n") -> str:
        """The selected records as one block, empty when there are none."""
        return separator.join(record.text for record in self.select(scored))
