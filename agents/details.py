"""What a page shows beside a run's findings: controls, lifts, adapters, what was forgotten, where rules come from.

Read piece by piece, as findings are: what is damaged is named, the rest is still there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evolvent.agents.findings import Decision, Findings, Reading
from evolvent.agents.forgotten import forgotten
from evolvent.agents.rivals import Standing, arms, rows_of, standings
from evolvent.memory.ledger import Ledger
from evolvent.memory.lineage import Lineage
from evolvent.memory.types import LEARNED, Interval, Record

if TYPE_CHECKING:
    from networkx import DiGraph

    from evolvent.memory.weights.adapters import Adapter

DRAWN_LINEAGES = 3
DRAWN_LIFTS = 40
_ANCESTORS, _EPISODES = 5, 4
"""Boxes on either side of a rule in a small drawing."""


@dataclass(frozen=True, slots=True)
class Distillate:
    """An adapter of the run, and what the ledger says of it."""

    adapter: Adapter
    status: str
    """Of its record; `unknown` where memory has none."""
    decision: Decision | None
    """The gate's last word."""


@dataclass(frozen=True, slots=True)
class Details:
    standings: tuple[Standing, ...] = ()
    """The run, the frozen model and its controls; empty where no control was played."""
    lifted: tuple[Record, ...] = ()
    """Records with an estimate of their lift, the farthest from 0 first."""
    adapters: tuple[Distillate, ...] = ()
    """Oldest first."""
    forgetting: Mapping[str, Mapping[str, Interval]] = field(default_factory=dict)
    """See `forgotten`."""
    lineages: tuple[tuple[Record, DiGraph[str]], ...] = ()
    """The strongest rules, each with what is next to it."""
    problems: tuple[str, ...] = ()
    """What could not be read, one line each."""


def read_details(found: Findings) -> Details:
    """Never raises over what the directory holds."""
    reading = Reading()
    attempt = reading.attempt
    directory = found.directory
    seed = found.config.seed if found.config else 0
    ledger = attempt("The memory", lambda: Ledger(directory / "ledger.sqlite", read_only=True))
    if ledger is None:
        return Details(problems=_new(reading, found))
    try:
        beside = attempt("The controls", lambda: _standings(ledger, found)) or ()
        lifted = attempt("The lifts", lambda: _lifted(ledger)) or ()
        adapters = attempt("The adapters", lambda: _adapters(directory, ledger, found)) or ()
        forgetting = attempt("What was forgotten", lambda: forgotten(ledger, seed=seed)) or {}
        proved = [each.record for each in (*found.active, *found.withdrawn) if each.record.kind in LEARNED]
        rules = proved[:DRAWN_LINEAGES]
        drawn = [(rule, attempt(f"The lineage of {rule.id}", partial(_small, ledger, rule))) for rule in rules]
    finally:
        ledger.close()
    lineages = tuple((rule, graph) for rule, graph in drawn if graph is not None)
    return Details(beside, lifted, adapters, forgetting, lineages, _new(reading, found))


def _standings(ledger: Ledger, found: Findings) -> tuple[Standing, ...]:
    rows = rows_of(ledger.generations())
    if found.config is None or not rows:
        return ()
    sides = arms(rows, found.config, found.directory)
    # The frozen model alone is in the learning curve.
    return tuple(standings(sides, seed=found.config.seed)) if len(sides) > 2 else ()


def _lifted(ledger: Ledger) -> tuple[Record, ...]:
    known = [each for each in ledger.records().values() if each.kind in LEARNED and each.lift is not None]
    return tuple(sorted(known, key=lambda each: (-abs(each.lift.mean) if each.lift else 0.0, each.id)))


def _adapters(directory: Path, ledger: Ledger, found: Findings) -> tuple[Distillate, ...]:
    from evolvent.memory.weights.adapters import Adapters, adapter_id

    records = ledger.records()
    judged = {each.record.id: each for each in found.decisions}
    distillates = []
    for adapter in Adapters(directory).ls():
        known = adapter_id(adapter.full_name)
        status = records[known].status if known in records else "unknown"
        distillates.append(Distillate(adapter, status, judged.get(known)))
    return tuple(distillates)


def _small(ledger: Ledger, rule: Record) -> DiGraph[str]:
    """What is one step away from a rule, and of many a few."""
    from evolvent.memory.graph import graph

    found = graph(Lineage(ledger.records(), ledger), around=rule.id, depth=1)
    causes, effects = sorted(found.predecessors(rule.id)), sorted(found.successors(rule.id))
    derived = [each for each in effects if found.nodes[each]["kind"] != "episode"]
    shown = [each for each in effects if found.nodes[each]["kind"] == "episode"]
    kept = dict.fromkeys([rule.id, *_some(causes, _ANCESTORS), *_some(derived, _EPISODES), *_some(shown, _EPISODES)])
    small: DiGraph[str] = found.subgraph(kept).copy()
    facts: dict[str, Any] = {"kind": "episode", "status": "", "text": "", "generation": 0, "trust": 1.0}
    for all_of_them, name in ((causes, "more causes"), (shown, "more episodes")):
        rest = [each for each in all_of_them if each not in kept]
        if rest:
            box = f"{len(rest)} {name}"
            small.add_node(box, **facts)
            ends = (box, rule.id) if all_of_them is causes else (rule.id, box)
            small.add_edge(*ends, edge="derived" if all_of_them is causes else "shown")
    return small


def _some(names: Sequence[str], most: int) -> Sequence[str]:
    return names if len(names) <= most else names[: most - 1]


def _new(reading: Reading, found: Findings) -> tuple[str, ...]:
    """Problems that the findings have not told already."""
    known = {each.partition(": ")[2] for each in found.problems}
    return tuple(each for each in reading.problems if each.partition(": ")[2] not in known)
