"""Where a record comes from, what comes from it, and what falls with it.

Two kinds of nodes, both named by id: records, and trajectories (what one seat did in one episode). A record is derived
from its parents; a trajectory stands under the records that were shown in its prompts. Nothing is loaded that is not
asked for: trajectories are read one at a time, recalls by index. `trust.py` and `graph.py` build on this.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

from evolvent.environments.display import acted, count
from evolvent.environments.types import Trajectory
from evolvent.memory.errors import UnknownRecordError
from evolvent.memory.ledger import Ledger
from evolvent.memory.types import WEIGHTS, Event, EventKind, Record

Edge = Literal["derived", "merged", "shown"]

_VERDICTS: tuple[EventKind, ...] = ("activate", "reject", "retire", "restore")


@dataclass(frozen=True, slots=True)
class Bearing:
    """A step that a record rests on."""

    index: int
    """From 0, in its trajectory."""
    seen: str
    """What the environment showed."""
    action: str
    reward: float


@dataclass(frozen=True, slots=True)
class Source:
    """A trajectory that a record came from."""

    id: str
    task: str
    score: float
    success: bool
    generation: int
    shown: tuple[str, ...]
    """Records that stood in its prompts."""
    steps: tuple[Bearing, ...]
    """Those in the record's situation; for a record without one, those that were rewarded."""


@dataclass(frozen=True, slots=True)
class Cause:
    id: str
    edge: Edge
    """From this to what it caused."""
    depth: int
    """1 for a parent, 2 for its parent and so on."""
    record: Record | None = None
    source: Source | None = None
    """Neither: the ledger knows the name and nothing behind it."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What was decided about a record, and on what evidence."""

    commit: str
    key: str
    verdict: EventKind
    evidence: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Why:
    record: Record
    trust: float
    """The least of all ancestors, in [0, 1]."""
    causes: tuple[Cause, ...]
    """Depth first, so that it reads as a tree; each record is followed once."""
    decisions: tuple[Decision, ...]

    def __str__(self) -> str:
        return "\n".join(_told(self))

    def _repr_html_(self) -> str:
        from evolvent.memory.display import why

        return why(self)

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        printer.text(f"{self.record.id}: {count(len(self.decisions), 'decision')}, {count(len(self.causes), 'cause')}")


@dataclass(frozen=True, slots=True)
class Impact:
    node: str
    derived: tuple[str, ...]
    """Records of any kind that descend from it, nearest first."""
    only: tuple[str, ...]
    """Those of them that have no other ground and would fall with it."""
    episodes: tuple[str, ...]
    """Trajectories in whose prompts it, or something derived from it, was shown."""

    def _repr_html_(self) -> str:
        from evolvent.memory.display import impact

        return impact(self)

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        printer.text(f"{self.node}: {len(self.derived)} derived, {count(len(self.episodes), 'episode')} touched")


@dataclass(frozen=True)
class Lineage:
    """Of the records of one commit: `Lineage(memory.records(), memory.ledger)`."""

    records: Mapping[str, Record]
    ledger: Ledger = field(repr=False)

    @cached_property
    def children(self) -> Mapping[str, list[str]]:
        """Ids of the records that name a node as parent, by that node."""
        children: dict[str, list[str]] = {}
        for record in self.records.values():
            for parent in record.parents:
                children.setdefault(parent, []).append(record.id)
        return children

    def why(self, record_id: str) -> Why:
        """Down to the trajectories, and in them to the steps that bear on the record.

        Raises:
            UnknownRecordError: no such record.
        """
        record = self.record(record_id)
        return Why(record, self.trust(record_id), tuple(self.causes(record)), tuple(self.decisions(record_id)))

    def decisions(self, record_id: str) -> list[Decision]:
        """What was decided about a record by commits that count at the head, in order."""
        return [
            Decision(commit.id, commit.key, event.kind, event.payload)
            for commit, event in self.ledger.events_about(record_id)
            if event.kind in _VERDICTS and event.record_id == record_id
        ]

    def causes(self, root: Record) -> Iterator[Cause]:
        """As in `Why`; each trajectory is read when its turn comes."""
        followed = {root.id}
        stack = [(parent, root, 1) for parent in reversed(root.parents)]
        while stack:
            key, child, depth = stack.pop()
            record = self.records.get(key)
            if record is None:
                trajectory = self.ledger.trajectory(key)
                yield Cause(key, "derived", depth, source=_source(trajectory, child) if trajectory else None)
                continue
            yield Cause(key, self.edge(key, child.id), depth, record)
            if key not in followed:
                followed.add(key)
                stack += [(parent, record, depth + 1) for parent in reversed(record.parents)]

    def impact(self, node: str) -> Impact:
        """What is derived from a trajectory or a record, and which episodes it touched.

        Raises:
            UnknownRecordError: neither a record nor a trajectory has this id.
        """
        self.known(node)
        derived = self.descendants([node])
        touched = self.ledger.showings([node, *derived])
        return Impact(
            node, tuple(derived), self._fallen(node, derived), tuple(dict.fromkeys(key for key, _ in touched))
        )

    def forget_events(self, node: str) -> list[Event]:
        """The fall of a trajectory or a record: what rests on it alone is forgotten, the rest loses it as a parent.

        The record itself, or the trajectory's own record, goes first. Data sets and adapters cannot lose a part of what
        is in them, so each that descends from it is retired, whatever else it rests on, and is unfit until it is made
        anew. Episodes stay in the ledger as they were: what is forgotten is out of memory and comes back when the
        commit is reverted.

        Raises:
            UnknownRecordError: neither a record nor a trajectory has this id.
        """
        self.known(node)
        derived = self.descendants([node])
        fallen = dict.fromkeys(self._fallen(node, derived))
        if node in self.records:
            fallen = {node: None, **fallen}
        trained = [key for key in derived if self.records[key].kind in WEIGHTS]
        for key in trained:
            fallen.pop(key, None)
        gone = {node, *fallen}
        events = [Event("forget", key, payload={"cause": node}) for key in fallen]
        events += [
            Event("retire", key, payload={"cause": node, "reason": "made from what is forgotten"})
            for key in trained
            if self.records[key].status != "retired"
        ]
        for key in derived:
            if key in trained:
                continue  # its parents stay: they say what is in it
            lost = [parent for parent in self.records[key].parents if parent in gone]
            if key not in fallen and lost:
                events.append(Event("update", key, payload={"without_parents": lost, "cause": node}))
        return events

    def trust(self, node: str) -> float:
        """The least trust stated by the record or any ancestor; a record that was shown on the way counts as one."""
        return self.distrusted.get(node, 1.0)

    @cached_property
    def distrusted(self) -> Mapping[str, float]:
        """Trust of the nodes, records and trajectories, that have less than all of it."""
        stated: dict[float, list[str]] = {}
        for record in self.records.values():
            if "trust" in record.meta and (value := stated_trust(record)) < 1:
                stated.setdefault(value, []).append(record.id)
        trusts: dict[str, float] = {}
        for value in sorted(stated, reverse=True):  # the least comes last and stands
            trusts |= dict.fromkeys([*stated[value], *self.descendants(stated[value], shown=True)], value)
        return trusts

    def record(self, record_id: str) -> Record:
        known = self.records.get(record_id)
        if known is None:
            raise UnknownRecordError(
                f"No record {record_id!r} at this commit. `evolvent memory log` names the commits, "
                "`evolvent memory show` the records."
            )
        return known

    def edge(self, parent: str, child: str) -> Edge:
        """Whether a record was merged into its child or the child was derived from it."""
        return "merged" if (parent, child) in self._merges else "derived"

    def known(self, node: str) -> None:
        """
        Raises:
            UnknownRecordError: neither a record nor a trajectory has this id.
        """
        if node not in self.records and node not in self.children and not self.ledger.played([node]):
            raise UnknownRecordError(f"Neither a record nor a trajectory is called {node!r} at this commit.")

    def descendants(self, nodes: Iterable[str], *, shown: bool = False) -> list[str]:
        """Records derived from these nodes, nearest first. With `shown`, the way through prompts counts too.

        Then the trajectories on that way are among them.
        """

        def below(level: list[str]) -> Iterator[str]:
            for key in level:
                yield from self.children.get(key, ())
            if shown:
                yield from (trajectory for trajectory, _ in self.ledger.showings(level))

        return spread(nodes, below)

    # -- inside ----------------------------------------------------------------------------------------------------

    @cached_property
    def _merges(self) -> set[tuple[str, str]]:
        return self.ledger.merges()

    def _fallen(self, node: str, derived: list[str]) -> tuple[str, ...]:
        """Those derived that nothing else holds up, in the order given.

        Ground spreads from parents outside the fall, so a circle of records that name each other falls as a whole.
        """
        falling = {node, *derived}

        def below(level: list[str]) -> Iterator[str]:
            yield from (child for key in level for child in self.children.get(key, ()) if child != node)

        held = [key for key in derived if any(parent not in falling for parent in self.records[key].parents)]
        standing = {*held, *spread(held, below)}
        return tuple(key for key in derived if key not in standing)


def stated_trust(record: Record) -> float:
    """What the record says of itself in `meta["trust"]`, 1 when it says nothing, 0 when nobody can read it."""
    value = record.meta.get("trust", 1.0)
    return float(value) if isinstance(value, int | float) and 0 <= value <= 1 else 0.0


def spread(nodes: Iterable[str], step: Callable[[list[str]], Iterable[str]], depth: int | None = None) -> list[str]:
    """What is reached from these nodes in `depth` steps (None: in any number), themselves left out, nearest first.

    A step takes a whole level, so that one query serves it.
    """
    start = dict.fromkeys(nodes)
    seen = dict(start)
    level = list(start)
    while level and depth != 0:
        level = [key for key in dict.fromkeys(step(level)) if key not in seen]
        seen.update(dict.fromkeys(level))
        depth = None if depth is None else depth - 1
    return [key for key in seen if key not in start]


def _source(trajectory: Trajectory, child: Record) -> Source:
    situation = child.meta.get("situation")
    outcome = trajectory.outcome
    return Source(
        trajectory.id,
        trajectory.task.id,
        outcome.score,
        outcome.success,
        trajectory.generation,
        tuple(each.record for each in trajectory.recalled if each.shown),
        tuple(
            Bearing(index, step.observation.text, acted(step.action), step.reward)
            for index, step in enumerate(trajectory.steps)
            if (situation in (step.observation.frame, step.observation.text) if situation else step.reward > 0)
        ),
    )


def _told(why: Why) -> Iterator[str]:
    yield from _record(why.record, f"trust {why.trust:.2f}", "")
    for decision in why.decisions:
        yield f"  {decision.verdict} at {decision.key} ({decision.commit}): {grounds(decision.evidence)}"
    for cause in why.causes:
        indent = "  " * cause.depth
        if cause.record is not None:
            yield from _record(cause.record, cause.edge, indent)
        elif cause.source is None:
            yield f"{indent}{cause.id}  not in this ledger"
        else:
            source = cause.source
            outcome = "success" if source.success else "no success"
            where = f"task {source.task}, generation {source.generation}"
            yield f"{indent}{source.id}  {where}, score {source.score:.2f} ({outcome})"
            for step in source.steps:
                yield f"{indent}  step {step.index}: {head(step.seen)} > {step.action} ({step.reward:+.2f})"
            if source.shown:
                yield f"{indent}  shown there: {', '.join(source.shown)}"


def _record(record: Record, note: str, indent: str) -> Iterator[str]:
    yield f"{indent}{record.id}  {record.status}, generation {record.generation}, {note}"
    yield f"{indent}  {head(record.text)}"


def grounds(evidence: Mapping[str, Any]) -> str:
    """On what a decision was made, in one line."""
    gate = evidence.get("gate")
    if isinstance(gate, Mapping) and {"wins", "losses", "ties", "e_value", "level"} <= gate.keys():
        pairs = f"{gate['wins']} pairs better, {gate['losses']} worse, {gate['ties']} equal"
        return f"{pairs}; e-value {gate['e_value']:.3g}, needed {1 / gate['level']:.3g}"
    return ", ".join(f"{key} {value}" for key, value in evidence.items()) or "no evidence given"


def head(text: str, most: int = 100) -> str:
    """The first line, cut to `most` characters, without any that do not print."""
    line = "".join(sign if sign.isprintable() else " " for sign in text.split("\n", 1)[0])
    return line if len(line) <= most else f"{line[: most - 1]}…"
