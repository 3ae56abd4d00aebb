"""A memory as LangGraph's `BaseStore`, for agents that know nothing of Evolvent:

    agent = create_agent(model, tools, store=EvolventStore(memory))

| LangGraph                       | here                                                                             |
|---------------------------------|----------------------------------------------------------------------------------|
| namespace `("users", "ann")`    | the scope's environment, `"users.ann"`; `("everywhere",)` is the empty one       |
| `put`                           | a record of kind note: what is searched is its text, the value is in its facts   |
| `put` on a key that is taken    | the old record is forgotten, the new one keeps `created_at`                       |
| `delete`                        | a forget event: `revert` brings the item back                                     |
| `search(query=…)`               | `Memory.search`, by default hybrid; scores compare within one search only         |
| one `batch`                     | its reads see memory as it was before; its writes are one commit                  |

Rules and other records that Evolvent learned are items too, under their id and with their text as value, so that an
agent may look up `("workshop",)`. Retired and quarantined records are no items. Time to live is not supported.
"""

from __future__ import annotations

import asyncio
import copy
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from operator import eq, ge, gt, le, lt, ne
from typing import Any
from uuid import uuid4

from langgraph.store.base import (
    BaseStore,
    GetOp,
    Item,
    ListNamespacesOp,
    MatchCondition,
    Op,
    PutOp,
    Result,
    SearchItem,
    SearchOp,
    get_text_at_path,
)

from evolvent.memory.retrieval import LIVE
from evolvent.memory.store import Memory, Snapshot
from evolvent.memory.types import Event, Record, Scope, new_record

EVERYWHERE = ("everywhere",)
_OPERATORS: Mapping[str, Callable[[Any, Any], bool]] = {
    **{"$eq": eq, "$ne": ne, "$gt": gt, "$gte": ge, "$lt": lt, "$lte": le}
}

Namespace = tuple[str, ...]


class EvolventStore(BaseStore):
    """Items of `memory`. Close the memory, not the store.

    Raises, from every method that writes:
        BadEventError: a value that is not JSON.
        LedgerUnwritableError: the memory was opened for reading.
    """

    supports_ttl = False

    def __init__(self, memory: Memory, *, fields: Sequence[str] = ("$",), mode: str = "hybrid") -> None:
        """`fields` are the paths of a value that are searched, `$` all of it; `mode` is one of `RETRIEVERS`."""
        self.memory = memory
        self._fields = list(fields)
        self._mode = mode
        self._latest: _Items | None = None
        self._writing = threading.Lock()

    def batch(self, ops: Iterable[Op]) -> list[Result]:
        ops = list(ops)
        puts = {(op.namespace, op.key): op for op in ops if isinstance(op, PutOp)}
        # What a write replaces is what it saw: no other thread's write comes in between.
        with self._writing if puts else nullcontext():
            items = self._items()
            answers = [self._answer(items, op) for op in ops]
            events = [event for op in puts.values() for event in self._events(items, op)]
            if events:
                commits = self.memory.ledger.commits()
                generation = commits[-1].generation if commits else 0
                self.memory.commit(f"store/{uuid4().hex}", events, generation=generation, note="LangGraph store")
        return answers

    async def abatch(self, ops: Iterable[Op]) -> list[Result]:
        return await asyncio.to_thread(self.batch, ops)

    def _items(self) -> _Items:
        snapshot = self.memory.snapshot()
        if self._latest is None or self._latest.snapshot is not snapshot:
            starts = {commit.generation: commit.created_at for commit in reversed(self.memory.ledger.commits())}
            self._latest = _Items(snapshot, {key: datetime.fromtimestamp(at, UTC) for key, at in starts.items()})
        return self._latest

    def _answer(self, items: _Items, op: Op) -> Result:
        match op:
            case GetOp():
                record = items.by_key.get((op.namespace, op.key))
                return Item(**items.fields(record)) if record else None
            case SearchOp():
                return self._search(items, op)
            case ListNamespacesOp():
                return _namespaces(items, op)
            case PutOp():
                if op.ttl is not None:  # the error of LangGraph's own `put`, which a `batch` goes around
                    raise NotImplementedError(f"EvolventStore keeps items for good: ttl={op.ttl} must be None.")
                return None
        raise ValueError(f"EvolventStore knows no operation {op!r}; expected Get, Put, Search or ListNamespaces.")

    def _search(self, items: _Items, op: SearchOp) -> list[SearchItem]:
        stop = op.offset + op.limit
        if not op.query:
            under = [record for key, record in items.by_key.items() if _under(key[0], op.namespace_prefix)]
            kept = [record for record in under if _passes(items.value(record), op.filter)]
            return [SearchItem(**items.fields(record)) for record in kept[op.offset : stop]]
        scopes = items.scopes(op.namespace_prefix)
        wanted = stop if not op.filter else 4 * stop
        while True:
            # A filter looks into values, which retrieval does not know: ask for more until enough of them pass.
            found = items.snapshot.search(op.query, k=wanted, scope=scopes, mode=self._mode)
            passed = [each for each in found if _passes(items.value(each.record), op.filter)]
            if len(passed) >= stop or len(found) < wanted:
                page = passed[op.offset : stop]
                return [SearchItem(**items.fields(each.record), score=each.score) for each in page]
            wanted *= 4

    def _events(self, items: _Items, op: PutOp) -> list[Event]:
        old = items.by_key.get((op.namespace, op.key))
        gone = [Event("forget", old.id, payload={"reason": "LangGraph store"})] if old else []
        if op.value is None:
            return gone
        now = datetime.now(UTC).isoformat()
        created_at = items.fields(old)["created_at"].isoformat() if old else now
        paths = [] if op.index is False else self._fields if op.index is None else op.index
        said = " ".join(text for path in paths for text in get_text_at_path(op.value, path))
        facts = {"key": op.key, "value": dict(op.value), "created_at": created_at, "updated_at": now}
        # The key is part of the text, for records of one text and scope are one record.
        text = f"{op.key}: {said}" if said else op.key
        record = new_record("note", text, _scope(op.namespace), meta=facts)
        if record.id in items.snapshot.records and not gone:
            gone = [Event("forget", record.id, payload={"reason": "LangGraph store"})]  # retired, and put again
        return [*gone, Event("add", record.id, record)]


@dataclass(frozen=True)
class _Items:
    """The live records of one snapshot as items."""

    snapshot: Snapshot
    starts: Mapping[int, datetime]
    """When each generation was first written: all that is known of when a record of no store was."""
    _scopes: dict[Namespace, frozenset[Scope]] = field(default_factory=dict)
    """By prefix."""

    @cached_property
    def by_key(self) -> dict[tuple[Namespace, str], Record]:
        live = (record for record in self.snapshot.records.values() if record.status in LIVE)
        return {(_namespace(record.scope), _key(record)): record for record in live}

    def scopes(self, prefix: Namespace) -> frozenset[Scope]:
        if prefix not in self._scopes:
            everywhere = {record.scope for record in self.by_key.values()}
            self._scopes[prefix] = frozenset(scope for scope in everywhere if _under(_namespace(scope), prefix))
        return self._scopes[prefix]

    def value(self, record: Record) -> Mapping[str, Any]:
        if "key" in record.meta and "value" in record.meta:
            value: Mapping[str, Any] = record.meta["value"]
            return value
        lift = record.lift.mean if record.lift else None
        return {"text": record.text, "kind": record.kind, "status": record.status, "lift": lift}

    def fields(self, record: Record) -> dict[str, Any]:
        """What an `Item` is made of; its value is the caller's to change."""
        learned = self.starts.get(record.generation, _UNKNOWN).isoformat()
        times = {at: datetime.fromisoformat(record.meta.get(at, learned)) for at in ("created_at", "updated_at")}
        return {
            "namespace": _namespace(record.scope),
            "key": _key(record),
            "value": copy.deepcopy(dict(self.value(record))),
            **times,
        }


_UNKNOWN = datetime.fromtimestamp(0, UTC)


def _key(record: Record) -> str:
    return str(record.meta.get("key", record.id))


def _scope(namespace: Namespace) -> Scope:
    # LangGraph forbids periods in labels, so that the way back is clear.
    return Scope("" if namespace == EVERYWHERE else ".".join(namespace))


def _namespace(scope: Scope) -> Namespace:
    return tuple(scope.environment.split(".")) if scope.environment else EVERYWHERE


def _under(namespace: Namespace, prefix: Sequence[str]) -> bool:
    return namespace[: len(prefix)] == tuple(prefix)


def _passes(value: Any, wanted: Any) -> bool:
    """LangGraph's filters: fields by name, nested ones too, equal or by an operator. A missing field is None."""
    if not isinstance(wanted, Mapping):
        return bool(value == wanted) if wanted is not None else True
    for key, want in wanted.items():
        if key.startswith("$"):
            if key not in _OPERATORS:
                raise ValueError(f"No filter operator {key!r}. Known: {', '.join(_OPERATORS)}.")
            if (value is None and key not in ("$eq", "$ne")) or not _OPERATORS[key](value, want):
                return False
        elif not isinstance(value, Mapping) or not _matches(value.get(key), want):
            return False
    return True


def _matches(value: Any, wanted: Any) -> bool:
    return _passes(value, wanted) if isinstance(wanted, Mapping) else bool(value == wanted)


def _namespaces(items: _Items, op: ListNamespacesOp) -> list[Namespace]:
    matching = {
        namespace
        for namespace, _ in items.by_key
        if all(_satisfies(namespace, condition) for condition in op.match_conditions or ())
    }
    return sorted({namespace[: op.max_depth] for namespace in matching})[op.offset : op.offset + op.limit]


def _satisfies(namespace: Namespace, condition: MatchCondition) -> bool:
    path = condition.path
    part = namespace[: len(path)] if condition.match_type == "prefix" else namespace[-len(path) :]
    return len(part) == len(path) and all(want in ("*", label) for label, want in zip(part, path, strict=True))
