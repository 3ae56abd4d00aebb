"""A generation that holds several models: individuals whose genome is text, born of others, kept while they are fit.

An individual is a record of its own. Its name stands in the scope as the player it is, so two with the same words are
two records; its parents are the records it was bred from. So memory holds the population with its whole descent:
`evolvent memory ls|show|why` reads it, and every individual that ever lived can be made to act again.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from evolvent.agents.context import Context
from evolvent.agents.evolution import keep
from evolvent.agents.types import Model
from evolvent.memory.types import Event, Kind, Record, Scope, new_record


@dataclass(frozen=True, slots=True)
class Birth:
    """An individual that is to be."""

    genome: str
    parents: tuple[str, ...] = ()
    """Ids of the records it was bred from; empty for one of the first."""
    meta: dict[str, Any] = field(default_factory=dict)
    """JSON values: the operator that made it, what belongs to the genome and is no text."""


def members(context: Context, kind: Kind) -> list[Record]:
    """Those alive, the oldest first, in the order of their birth."""
    alive = [
        record for record in context.memory.records().values() if record.kind == kind and record.status == "active"
    ]
    return sorted(alive, key=_birth)


def replace_members(
    context: Context,
    kind: Kind,
    phase: str,
    generation: int,
    *,
    dead: Iterable[str],
    born: Sequence[Birth],
    evidence: dict[str, Any] | None = None,
) -> list[Record]:
    """Those that are born, in order; the dead are retired in the same commit. Done once for a phase of a generation.

    Args:
        dead: ids of records.
        evidence: why the dead had to go, fitness for one; kept with their retirement.
    """
    environment = context.objective.environment.name
    records = [
        new_record(
            kind,
            birth.genome,
            Scope(environment, player=f"{generation}.{number}"),
            parents=birth.parents,
            meta=birth.meta,
            status="active",
            generation=generation,
        )
        for number, birth in enumerate(born)
    ]
    gone = [Event("retire", each, payload=evidence or {"reason": "replaced"}) for each in dead]
    keep(context, phase, generation, [*gone, *(Event("add", record.id, record) for record in records)])
    return records


def models(context: Context, individuals: Sequence[Record], adapter: str = "") -> list[Model]:
    """Each of them as the whole model that it is; any can be named again by its record."""
    whole = context.whole_model(context.memory.ledger.head(), adapter)
    return [replace(whole, individual=each.id) for each in individuals]


def _birth(record: Record) -> tuple[int, int]:
    generation, _, number = record.scope.player.partition(".")
    return int(generation), int(number)
