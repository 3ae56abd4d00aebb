"""Random histories against a plain model: commits, reverts, branches, checkouts, merges, reopenings.

The model keeps commits in a dict and says what memory holds by the definitions, naively: the line to a commit, which of
it counts, the fold of what counts, the three-way merge field by field. It shares no code with the ledger.
"""

from __future__ import annotations

import copy
import tempfile
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from evolvent.environments.types import dump
from evolvent.memory.chroma import ChromaIndex, collection_of, metadata
from evolvent.memory.embedding import HashEmbedder
from evolvent.memory.errors import CannotRevertError, MergeConflictError
from evolvent.memory.ledger import ROOT, Ledger
from evolvent.memory.store import Memory
from evolvent.memory.types import Event, EventKind, Kind, Record, Status, new_record

Fields = dict[str, Any]
"""status, lift, recalls, meta, parents, generation of one record."""
Fold = dict[str, Fields]
Op = tuple[Any, ...]
"""("add", id, parent, meta), ("set", id, field, value), ("meta", id, key, value), ("recalls", id, n),
("into", id, other), ("forget", id), ("drop", id, key), ("parents", id, ids), ("restore", id, fields)."""


def apply(records: Fold, op: Op, generation: int) -> bool:
    """False where the operation's record is not there."""
    kind, name = op[0], op[1]
    if kind == "restore":
        records[name] = copy.deepcopy(op[2])
        return True
    if kind == "add" and name not in records:
        fresh = {"status": "candidate", "lift": None, "recalls": 0, "meta": dict(op[3]), "parents": [op[2]]}
        records[name] = {**fresh, "generation": generation}
        return True
    if name not in records:
        return kind == "forget"
    known = records[name]
    match kind:
        case "add":
            known["parents"] += [op[2]] if op[2] not in known["parents"] else []
            known["meta"] = {**op[3], **known["meta"]}
        case "set":
            known[op[2]] = op[3]
        case "meta":
            known["meta"][op[2]] = op[3]
        case "drop":
            del known["meta"][op[2]]
        case "recalls":
            known["recalls"] += op[2]
        case "parents":
            known["parents"] = list(op[2])
        case "into":
            if op[2] not in records:
                return False
            known["status"] = "retired"
            stays = records[op[2]]["parents"]
            stays += [name] if name not in stays else []
        case "forget":
            del records[name]
    return True


@dataclass
class Node:
    parent: str
    merged: str = ""
    ops: list[Op] = field(default_factory=list)
    generation: int = 0
    reverts: str = ""


@dataclass
class Model:
    nodes: dict[str, Node] = field(default_factory=dict)
    heads: dict[str, str] = field(default_factory=lambda: {"main": ROOT})
    branch: str = "main"
    lines: dict[str, list[str]] = field(default_factory=dict)

    @property
    def head(self) -> str:
        return self.heads[self.branch]

    def line(self, commit: str) -> list[str]:
        if commit == ROOT:
            return []
        if commit not in self.lines:  # naive twice over: without remembering, exponential in the number of merges
            self.lines[commit] = [*self.line(self.nodes[commit].parent), *self.brought(commit), commit]
        return self.lines[commit]

    def brought(self, commit: str) -> list[str]:
        node = self.nodes[commit]
        before = set(self.line(node.parent))
        return [each for each in self.line(node.merged) if each not in before] if node.merged else []

    def counting(self, line: list[str]) -> list[str]:
        @cache
        def counts(place: int) -> bool:
            for later in range(place + 1, len(line)):
                target = self.nodes[line[later]].reverts
                if target and line[place] in (target, *self.brought(target)) and counts(later):
                    return False
            return True

        return [each for place, each in enumerate(line) if counts(place)]

    def fold(self, line: list[str]) -> tuple[Fold, set[tuple[str, int]]]:
        records: Fold = {}
        missed = set()
        for commit in self.counting(line):
            for number, op in enumerate(self.nodes[commit].ops):
                if not apply(records, op, self.nodes[commit].generation):
                    missed.add((commit, number))
        return records, missed

    def records(self) -> Fold:
        return self.fold(self.line(self.head))[0]


def three_way(base: Fold, ours: Fold, theirs: Fold, prefer: str | None) -> tuple[Fold, set[tuple[str, str]]]:
    """What a merge should give, and (record, field) of its conflicts."""
    result: Fold = {}
    conflicts = set()
    for name in {**ours, **theirs}:
        b, o, t = base.get(name), ours.get(name), theirs.get(name)
        if o is None or t is None:
            if b is not None and (o or t) != b:
                conflicts.add((name, "record"))
                kept = t if prefer == "theirs" else o
            else:
                kept = None if b is not None else o or t
            if kept is not None:
                result[name] = copy.deepcopy(kept)
            continue
        b = b or {"status": "candidate", "lift": None, "recalls": 0, "meta": {}, "parents": []}

        def settled(label: str, old: Any, our: Any, their: Any, name: str = name) -> Any:
            if len({repr(our), repr(their), repr(old)}) == 3:
                conflicts.add((name, label))
                return their if prefer == "theirs" else our
            return their if repr(our) == repr(old) else our

        meta = {k: settled(f"meta.{k}", *(x["meta"].get(k) for x in (b, o, t))) for k in {**o["meta"], **t["meta"]}}
        both = [*o["parents"], *(p for p in t["parents"] if p not in o["parents"])]
        result[name] = {
            **{key: settled(key, b[key], o[key], t[key]) for key in ("status", "lift")},
            "recalls": o["recalls"] + t["recalls"] - b["recalls"],
            "meta": {k: v for k, v in meta.items() if v is not None},
            "parents": [p for p in both if p not in b["parents"] or (p in o["parents"] and p in t["parents"])],
            "generation": o["generation"],
        }
    return result, conflicts


def settling(replayed: Fold, wanted: Fold) -> list[Op]:
    ops: list[Op] = []
    for name in {**replayed, **wanted}:
        if name not in wanted:
            ops.append(("forget", name))
        elif name not in replayed:
            ops.append(("restore", name, wanted[name]))
        else:
            now, then = replayed[name], wanted[name]
            ops += [("set", name, key, then[key]) for key in ("status", "lift", "recalls") if now[key] != then[key]]
            ops += [("meta", name, k, v) for k, v in then["meta"].items() if now["meta"].get(k) != v]
            ops += [("drop", name, k) for k in now["meta"] if k not in then["meta"]]
            if set(now["parents"]) != set(then["parents"]):
                kept = [p for p in now["parents"] if p in then["parents"]]
                ops.append(("parents", name, kept + [p for p in then["parents"] if p not in kept]))
    return ops


# -- drawing a commit ------------------------------------------------------------------------------------------------

LIFTS = [{"mean": mean, "low": 0.0, "high": 0.5, "n": 9} for mean in (0.1, 0.2)]
ADDED: tuple[Kind, ...] = ("rule", "trajectory")
STATUSES: dict[str, tuple[EventKind, Status]] = {
    "activate": ("activate", "active"),
    "retire": ("retire", "retired"),
    "reject": ("reject", "retired"),
    "restore": ("restore", "candidate"),
}
KINDS = ["add", *STATUSES, "lift", "recalls", "meta", "merge", "forget"]


@st.composite
def changes(draw: st.DrawFn, known: Fold) -> list[tuple[Event, Op]]:
    """Events that are valid on `known`, each with what it means to the model."""
    records = copy.deepcopy(known)
    drawn: list[tuple[Event, Op]] = []
    for kind in draw(st.lists(st.sampled_from(KINDS), min_size=1, max_size=4)):
        chosen = kind if records else "add"
        name = draw(st.sampled_from(list(records))) if records else ""
        if chosen == "add":
            record = new_record(
                draw(st.sampled_from(ADDED)),
                draw(st.sampled_from("abc")),
                parents=(draw(st.sampled_from(["t1", "t2"])),),
                meta=draw(st.sampled_from([{}, {"x": 1}, {"y": 2}])),
            )
            pair: tuple[Event, Op] = (
                Event("add", record.id, record),
                ("add", record.id, record.parents[0], dict(record.meta)),
            )
        elif chosen in STATUSES:
            event, status = STATUSES[chosen]
            pair = (Event(event, name), ("set", name, "status", status))
        elif chosen == "lift":
            lift = draw(st.sampled_from(LIFTS))
            pair = (Event("credit", name, payload={"lift": lift}), ("set", name, "lift", lift))
        elif chosen == "recalls":
            pair = (Event("credit", name, payload={"recalls": 2}), ("recalls", name, 2))
        elif chosen == "meta":
            key, value = draw(st.sampled_from("xy")), draw(st.integers(0, 2))
            pair = (Event("update", name, payload={"meta": {key: value}}), ("meta", name, key, value))
        elif chosen == "merge" and len(records) > 1:
            other = draw(st.sampled_from([each for each in records if each != name]))
            pair = (Event("merge", name, payload={"into": other}), ("into", name, other))
        else:
            pair = (Event("forget", name), ("forget", name))
        apply(records, pair[1], 0)
        drawn.append(pair)
    return drawn


def shown(record: Record) -> Fields:
    lift = record.lift
    return {
        "status": record.status,
        "lift": None if lift is None else {"mean": lift.mean, "low": lift.low, "high": lift.high, "n": lift.n},
        "recalls": record.recalls,
        "meta": dict(record.meta),
        "parents": list(record.parents),
        "generation": record.generation,
    }


# -- the machines ----------------------------------------------------------------------------------------------------


class LedgerBesideModel(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.temporary = tempfile.TemporaryDirectory()
        self.folder = Path(self.temporary.name)
        self.model = Model()
        self.steps = 0
        self.store: Ledger | Memory = self.opened()
        self.reader = Ledger(self.folder / "ledger.sqlite", read_only=True)

    def opened(self) -> Ledger | Memory:
        return Ledger(self.folder / "ledger.sqlite")

    @initialize()
    def fork(self) -> None:
        """Two branches with a common past, so that most merges have something to merge."""
        record = new_record("rule", "a", parents=("t1",))
        first = self.store.commit("step 0", [Event("add", record.id, record)], generation=0)
        self.model.nodes[first] = Node(ROOT, "", [("add", record.id, "t1", {})], 0)
        self.store.make_branch("other")
        self.model.heads = {"main": first, "other": first}

    @rule(data=st.data())
    def commit(self, data: st.DataObject) -> None:
        self.checkout(data)
        drawn = data.draw(changes(self.model.records()))
        self.steps += 1
        events, ops = [event for event, _ in drawn], [op for _, op in drawn]
        commit = self.store.commit(f"step {self.steps}", events, generation=self.steps)
        self.model.nodes[commit] = Node(self.model.head, "", ops, self.steps)
        self.model.heads[self.model.branch] = commit

    @precondition(lambda self: self.model.head != ROOT)
    @rule(data=st.data())
    def revert(self, data: st.DataObject) -> None:
        line = self.model.line(self.model.head)
        merges = [commit for commit in line if self.model.nodes[commit].merged]
        target = data.draw(st.sampled_from([*line, *merges, *merges]))
        missed = self.model.fold(line)[1]
        trial = copy.deepcopy(self.model)
        trial.nodes["trial"] = Node(self.model.head, reverts=target)
        refused = target not in self.model.counting(line) or trial.fold([*line, "trial"])[1] - missed
        if refused:
            with pytest.raises(CannotRevertError):
                self.store.revert(target)
            return
        commit = self.store.revert(target)
        self.model.nodes[commit] = Node(self.model.head, reverts=target)
        self.model.heads[self.model.branch] = commit

    @precondition(lambda self: len(self.model.heads) < 4)
    @rule(data=st.data(), switch=st.booleans())
    def make_branch(self, data: st.DataObject, switch: bool) -> None:
        name = f"branch{len(self.model.heads)}"
        at = data.draw(st.sampled_from([ROOT, *self.model.nodes]))
        self.store.make_branch(name, at)
        self.model.heads[name] = at
        if switch:
            self.store.checkout(name)
            self.model.branch = name

    @rule(data=st.data())
    def checkout(self, data: st.DataObject) -> None:
        self.model.branch = data.draw(st.sampled_from(list(self.model.heads)))
        assert self.store.checkout(self.model.branch) == self.model.head

    @rule(data=st.data(), prefer=st.sampled_from([None, "ours", "theirs"]))
    def merge(self, data: st.DataObject, prefer: Any) -> None:
        model = self.model
        others = [each for each in model.heads if each != model.branch]
        news = [each for each in others if model.heads[each] not in (ROOT, *model.line(model.head))]
        branch = data.draw(st.sampled_from(news or others))
        theirs, ours = model.line(model.heads[branch]), model.line(model.head)
        if set(theirs) <= set(ours):
            assert self.store.merge(branch, prefer) == model.head
            return
        if set(ours) <= set(theirs):
            assert self.store.merge(branch, prefer) == model.heads[branch]
            model.heads[model.branch] = model.heads[branch]
            return
        base = model.fold([each for each in ours if each in theirs])[0]
        wanted, conflicts = three_way(base, model.fold(ours)[0], model.fold(theirs)[0], prefer)
        if conflicts and prefer is None:
            with pytest.raises(MergeConflictError) as found:
                self.store.merge(branch)
            assert {(each.record_id, each.field) for each in found.value.conflicts} == conflicts
            return
        replayed = model.fold([*ours, *(each for each in theirs if each not in ours)])[0]
        commit = self.store.merge(branch, prefer)
        model.nodes[commit] = Node(model.head, model.heads[branch], settling(replayed, wanted))
        model.heads[model.branch] = commit
        merged = model.records()
        assert {name: each | {"generation": 0, "parents": set(each["parents"])} for name, each in merged.items()} == {
            name: each | {"generation": 0, "parents": set(each["parents"])} for name, each in wanted.items()
        }

    @rule()
    def reopen(self) -> None:
        before = [dump(record) for record in self.store.records().values()]
        self.store.close()
        self.store = self.opened()
        assert [dump(record) for record in self.store.records().values()] == before, "byte for byte"

    @rule(data=st.data())
    def look_back(self, data: st.DataObject) -> None:
        at = data.draw(st.sampled_from([ROOT, *self.model.nodes]))
        past = {name: shown(record) for name, record in self.store.records(at).items()}
        assert past == self.model.fold(self.model.line(at))[0]

    @invariant()
    def memory_holds_what_the_model_says(self) -> None:
        for store in (self.store, self.reader):
            assert store.branch == self.model.branch
            assert store.branches() == dict(sorted(self.model.heads.items()))
            found = [(name, shown(record)) for name, record in store.records().items()]
            assert found == list(self.model.records().items())

    def teardown(self) -> None:
        self.store.close()
        self.reader.close()
        self.temporary.cleanup()


class MemoryBesideModel(LedgerBesideModel):
    """The same with the index: after each step Chroma holds the head's records, no more and no less."""

    def opened(self) -> Memory:
        return Memory.open(self.folder, embedder=HashEmbedder(16))

    @invariant()
    def chroma_holds_the_records_of_the_head(self) -> None:
        assert isinstance(self.store, Memory)
        index = self.store._index
        assert isinstance(index, ChromaIndex)
        assert index.state().commit == self.store.ledger.head()
        records = self.store.records()
        for name in ("rules", "trajectories"):
            kept = index._opened().get_collection(name).get()
            found = dict(
                zip(kept["ids"], zip(kept["documents"] or [], kept["metadatas"] or [], strict=True), strict=True)
            )
            assert found == {
                key: (record.text, {k: v for k, v in metadata(record).items() if v is not None})
                for key, record in records.items()
                if collection_of(record.kind) == name
            }


LedgerBesideModel.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None, derandomize=True)
MemoryBesideModel.TestCase.settings = settings(max_examples=5, stateful_step_count=15, deadline=None, derandomize=True)
TestLedgerBesideModel = LedgerBesideModel.TestCase
TestMemoryBesideModel = MemoryBesideModel.TestCase
