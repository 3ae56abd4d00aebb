"""Recall by a system's own way of finding records and of wording them, with Evolvent's proof around it."""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass

from evolvent.agents.solutions.recall import Fixed, Recollection
from evolvent.environments.types import Recalled, Task
from evolvent.memory.retrieval import LIVE
from evolvent.memory.store import Snapshot
from evolvent.memory.types import Kind, Record, Scope


@dataclass(frozen=True, slots=True)
class Showing:
    """Which records of those that could be found count, and which of them are shown."""

    proved: bool = False
    """Only active records count; else candidates do as well."""
    beside: tuple[str, ...] = ()
    """Ids that count as though they were active: a candidate at the gate."""
    barred: tuple[str, ...] = ()
    """Ids that do not count: a record that is tried again."""
    withhold: float = 0.0
    """Probability that a found record is left out (rule dropout)."""

    def counts(self, record: Record) -> bool:
        if record.id in self.barred or record.status not in LIVE:
            return False
        return not self.proved or record.status == "active" or record.id in self.beside


Find = Callable[[Snapshot, Task, Showing], Sequence[Record]]
"""The records for a task, best first, all of which count."""
Tell = Callable[[Sequence[Record]], str]
"""Those that are shown, as the text before the task; never called with none."""


@dataclass(frozen=True, slots=True)
class Found:
    """A recall: what `find` finds, told by `tell`. `prompt` stands before it whether anything was found or not, and
    `otherwise` in its place where nothing is shown."""

    snapshot: Snapshot
    find: Find
    tell: Tell
    showing: Showing = Showing()
    prompt: str = ""
    otherwise: str = ""

    def __call__(self, task: Task, player: str, rng: random.Random) -> Recollection:
        found = self.find(self.snapshot, task, self.showing)
        share = 1.0 - self.showing.withhold
        recalled = []
        for record in found:
            likely = 1.0 if record.id in self.showing.beside else share
            recalled.append(Recalled(record.id, likely == 1.0 or rng.random() < likely, likely))
        told = [record for record, each in zip(found, recalled, strict=True) if each.shown]
        parts = [self.prompt, self.tell(told) if told else self.otherwise]
        return Fixed(tuple(recalled), "\n".join(part for part in parts if part))


def parts(records: Iterable[Record], scope: Scope, *names: str) -> list[Record]:
    """The live records of a scope whose `meta["part"]` has one of these names, in the order they were learned."""
    return [each for each in records if each.scope == scope and each.meta.get("part") in names and each.status in LIVE]


def nearest(
    snapshot: Snapshot,
    query: str,
    task: Task,
    *,
    k: int,
    kinds: Collection[Kind],
    mode: str,
    showing: Showing = Showing(),
    also: Callable[[Record], bool] = lambda record: True,
) -> list[Record]:
    """The best k records that apply to a task, count, and pass `also`; by one of `memory.retrieval.RETRIEVERS`."""
    scope, everything = Scope(task.environment, task.tags), len(snapshot.records)
    hits = snapshot.search(query, k=everything, scope=scope, kinds=kinds, statuses=LIVE, mode=mode)
    return [hit.record for hit in hits if showing.counts(hit.record) and also(hit.record)][:k]
