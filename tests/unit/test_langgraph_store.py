"""A memory as LangGraph's store: what its own stores promise, and what only a memory can do."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import TypedDict

import pytest
from langgraph.graph import END, START, StateGraph
from langgraph.runtime import Runtime
from langgraph.store.base import (
    BaseStore,
    GetOp,
    InvalidNamespaceError,
    Item,
    ListNamespacesOp,
    MatchCondition,
    PutOp,
    SearchOp,
)
from langgraph.store.memory import InMemoryStore

from evolvent.memory.embedding import HashEmbedder
from evolvent.memory.errors import BadEventError, LedgerUnwritableError
from evolvent.memory.langgraph_store import EvolventStore
from evolvent.memory.ledger import Ledger
from evolvent.memory.store import Memory
from evolvent.memory.types import Event, Interval, Scope, new_record

ANN, BOB = ("users", "ann"), ("users", "bob")


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[Memory]:
    with Memory(Ledger(tmp_path / "ledger.sqlite"), None, HashEmbedder()) as memory:
        yield memory


@pytest.fixture
def store(memory: Memory) -> EvolventStore:
    return EvolventStore(memory)


@pytest.fixture(params=["ours", "LangGraph's"])
def either(request: pytest.FixtureRequest) -> BaseStore:
    """What holds for LangGraph's own store holds for ours."""
    if request.param == "ours":
        ours: BaseStore = request.getfixturevalue("store")
        return ours
    embedder = HashEmbedder()
    return InMemoryStore(index={"dims": 256, "embed": lambda texts: embedder.embed(texts).tolist()})


def keys(items: list[Item]) -> list[str]:
    return [item.key for item in items]


def test_what_was_put_is_got_until_it_is_deleted(either: BaseStore) -> None:
    value = {"text": "likes rust", "deep": {"list": [1, 2.5, None, True]}, "naïve": "火"}
    either.put(ANN, "k1", value)
    item = either.get(ANN, "k1")
    assert item is not None
    assert (item.namespace, item.key, item.value) == (ANN, "k1", value)
    assert item.created_at.tzinfo is not None
    assert either.get(BOB, "k1") is None
    either.delete(ANN, "k1")
    either.delete(ANN, "k1")
    assert either.get(ANN, "k1") is None


def test_putting_again_replaces_the_value_and_keeps_the_time_of_the_first(either: BaseStore) -> None:
    either.put(ANN, "k", {"n": 1})
    first = either.get(ANN, "k")
    either.put(ANN, "k", {"n": 1})
    either.put(ANN, "k", {"n": 2})
    second = either.get(ANN, "k")
    assert first is not None
    assert second is not None
    assert second.value == {"n": 2}
    assert second.updated_at >= first.updated_at
    assert len(either.search(ANN)) == 1


def test_equal_values_under_two_keys_are_two_items(either: BaseStore) -> None:
    for key in ("a", "b"):
        either.put(ANN, key, {"text": "the same"})
    either.delete(ANN, "a")
    assert keys(list(either.search(ANN))) == ["b"]


def test_search_finds_what_is_meant_under_the_prefix_only(either: BaseStore) -> None:
    either.put((*ANN, "facts"), "1", {"text": "the hinge has rust"})
    either.put((*ANN, "facts"), "2", {"text": "the door is open"})
    either.put(BOB, "3", {"text": "the hinge has rust, the hinge has rust"})
    found = either.search(ANN, query="hinge rust", limit=1)
    assert keys(list(found)) == ["1"]
    assert found[0].score is not None
    assert {item.key for item in either.search(("users",), query="hinge rust")} == {"1", "2", "3"}
    assert {item.key for item in either.search((), query="hinge rust")} == {"1", "2", "3"}
    assert either.search(("nobody",), query="hinge rust") == []


def test_search_without_a_query_lists_in_order_and_pages(either: BaseStore) -> None:
    for number in range(5):
        either.put(ANN, f"k{number}", {"n": number})
    assert keys(list(either.search(ANN, limit=2, offset=1))) == ["k1", "k2"]
    assert keys(list(either.search(ANN, limit=9, offset=4))) == ["k4"]
    assert all(item.score is None for item in either.search(ANN))


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ({"colour": "red"}, [0, 3]),
        ({"n": {"$gte": 2}}, [2, 3]),
        ({"n": {"$gt": 0, "$lt": 3}}, [1, 2]),
        ({"n": {"$lte": 1}, "colour": "red"}, [0]),
        ({"colour": {"$ne": "red"}}, [1, 2]),
        ({"n": {"$eq": 2}}, [2]),
        ({"deep": {"size": {"$gt": 2}}}, [3]),
        ({"absent": 1}, []),
    ],
)
@pytest.mark.parametrize("query", [None, "red lamp"])
def test_filters_are_langgraphs(
    either: BaseStore, query: str | None, wanted: dict[str, object], found: list[int]
) -> None:
    for number, colour in enumerate(["red", "blue", "blue", "red"]):
        either.put(ANN, str(number), {"n": number, "colour": colour, "deep": {"size": number}})
    assert sorted(int(item.key) for item in either.search(ANN, query=query, filter=wanted)) == found


def test_a_filter_that_few_items_pass_is_searched_to_the_end(store: EvolventStore) -> None:
    store.batch([PutOp(ANN, f"k{n}", {"text": "mend the rust", "last": n == 199}) for n in range(200)])
    assert keys(list(store.search(ANN, query="rust", filter={"last": True}, limit=1))) == ["k199"]


def test_an_unknown_operator_names_the_known_ones(store: EvolventStore) -> None:
    store.put(ANN, "k", {"n": 1})
    with pytest.raises(ValueError, match=r"\$near.*\$gte"):
        store.search(ANN, filter={"n": {"$near": 1}})


def test_namespaces_are_listed_by_prefix_suffix_wildcard_and_depth(either: BaseStore) -> None:
    for namespace in (("a", "b", "v1"), ("a", "b", "v2"), ("a", "c", "v1"), ("d",)):
        either.put(namespace, "k", {})
    assert either.list_namespaces() == [("a", "b", "v1"), ("a", "b", "v2"), ("a", "c", "v1"), ("d",)]
    assert either.list_namespaces(prefix=("a", "b")) == [("a", "b", "v1"), ("a", "b", "v2")]
    assert either.list_namespaces(suffix=("v1",)) == [("a", "b", "v1"), ("a", "c", "v1")]
    assert either.list_namespaces(prefix=("a", "*", "v1")) == [("a", "b", "v1"), ("a", "c", "v1")]
    assert either.list_namespaces(max_depth=2) == [("a", "b"), ("a", "c"), ("d",)]
    assert either.list_namespaces(limit=1, offset=3) == [("d",)]


def test_reads_of_a_batch_come_before_its_writes_and_the_last_write_of_a_key_counts(either: BaseStore) -> None:
    either.put(ANN, "k", {"n": 0})
    conditions = (MatchCondition("prefix", ("users",)),)
    ops = [
        PutOp(ANN, "k", {"n": 1}),
        GetOp(ANN, "k"),
        PutOp(ANN, "k", {"n": 2}),
        PutOp(BOB, "gone", {"n": 3}),
        PutOp(BOB, "gone", None),
        SearchOp(("users",)),
        ListNamespacesOp(conditions),
    ]
    results = either.batch(ops)
    assert isinstance(results[1], Item)
    assert results[1].value == {"n": 0}
    assert isinstance(results[5], list)
    assert len(results[5]) == 1
    after = either.get(ANN, "k")
    assert after is not None
    assert after.value == {"n": 2}
    assert either.get(BOB, "gone") is None


async def test_the_asynchronous_methods_do_the_same(either: BaseStore) -> None:
    await asyncio.gather(*(either.aput(ANN, f"k{n}", {"text": f"lesson {n}"}) for n in range(5)))
    item = await either.aget(ANN, "k3")
    assert item is not None
    assert item.value == {"text": "lesson 3"}
    await either.adelete(ANN, "k3")
    assert {each.key for each in await either.asearch(ANN, query="lesson")} == {"k0", "k1", "k2", "k4"}
    assert await either.alist_namespaces() == [ANN]


def test_a_graph_compiled_with_the_store_remembers_in_its_nodes(memory: Memory) -> None:
    class State(TypedDict):
        said: str
        known: list[str]

    def remember(state: State, runtime: Runtime[None]) -> State:
        assert runtime.store is not None
        known = [item.value["text"] for item in runtime.store.search(ANN, query=state["said"], limit=1)]
        runtime.store.put(ANN, state["said"], {"text": state["said"]})
        return {"said": state["said"], "known": known}

    builder = StateGraph(State)
    builder.add_node("remember", remember)
    builder.add_edge(START, "remember")
    builder.add_edge("remember", END)
    graph = builder.compile(store=EvolventStore(memory))
    graph.invoke({"said": "My hinge has rust.", "known": []})
    graph.invoke({"said": "My lamp is broken.", "known": []})
    assert graph.invoke({"said": "What of the hinge?", "known": []})["known"] == ["My hinge has rust."]


def test_what_evolvent_learned_is_there_to_look_up(memory: Memory, store: EvolventStore) -> None:
    rule = new_record("rule", "mend the rust with the file", Scope("workshop", ("rust",)))
    general = new_record("rule", "read the order first")
    old = new_record("rule", "mend the rust with oil", Scope("workshop"), status="retired")
    lift = {"mean": 0.2, "low": 0.1, "high": 0.3, "n": 9}
    events = [Event("add", each.id, each) for each in (rule, general, old)]
    memory.commit("learn", [*events, Event("credit", rule.id, payload={"lift": lift})], generation=3)
    assert memory.records()[rule.id].lift == Interval(0.2, 0.1, 0.3, 9)
    found = store.search(("workshop",), query="rust", limit=5)
    assert [(item.key, item.value["text"], item.value["lift"]) for item in found] == [(rule.id, rule.text, 0.2)]
    item = store.get(("everywhere",), general.id)
    assert item is not None
    assert item.value["kind"] == "rule"
    assert store.get(("workshop",), old.id) is None


def test_a_deleted_item_is_back_when_its_commit_is_reverted(memory: Memory, store: EvolventStore) -> None:
    store.put(ANN, "k", {"text": "likes rust"})
    store.delete(ANN, "k")
    assert memory.records() == {}
    memory.revert(memory.ledger.head())
    item = store.get(ANN, "k")
    assert item is not None
    assert item.value == {"text": "likes rust"}


def test_a_retired_note_that_is_put_again_counts_again(memory: Memory, store: EvolventStore) -> None:
    store.put(ANN, "k", {"text": "likes rust"})
    (note,) = memory.records().values()
    memory.commit("tidy", [Event("retire", note.id)], generation=1)
    assert store.get(ANN, "k") is None
    store.put(ANN, "k", {"text": "likes rust"})
    assert store.get(ANN, "k") is not None


def test_a_batch_is_one_commit_and_reading_is_none(memory: Memory, store: EvolventStore) -> None:
    store.batch([PutOp(ANN, str(number), {"n": number}) for number in range(10)])
    store.search(ANN, query="n")
    store.get(ANN, "1")
    store.delete(ANN, "unknown")
    assert len(memory.ledger.commits()) == 1


def test_only_named_fields_are_searched(memory: Memory) -> None:
    store = EvolventStore(memory, fields=["title"], mode="bm25")
    store.put(ANN, "a", {"title": "hinges", "body": "lamps"})
    store.put(ANN, "b", {"title": "doors", "body": "hinges"})
    store.put(ANN, "c", {"title": "doors", "body": "hinges"}, index=["body"])
    store.put(ANN, "d", {"title": "hinges"}, index=False)
    assert sorted(keys(list(store.search(ANN, query="hinges")))) == ["a", "c"]


def test_changing_a_value_that_was_got_changes_nothing_in_memory(store: EvolventStore) -> None:
    store.put(ANN, "k", {"list": [1]})
    item = store.get(ANN, "k")
    assert item is not None
    item.value["list"].append(2)
    again = store.get(ANN, "k")
    assert again is not None
    assert again.value == {"list": [1]}


def test_what_cannot_be_kept_is_refused_and_leaves_nothing(memory: Memory, store: EvolventStore) -> None:
    with pytest.raises(NotImplementedError, match="TTL is not supported"):
        store.put(ANN, "k", {"n": 1}, ttl=5)
    with pytest.raises(NotImplementedError, match="ttl=5"):
        store.batch([PutOp(ANN, "k", {"n": 1}, ttl=5)])
    with pytest.raises(InvalidNamespaceError):
        store.put(("users.ann",), "k", {"n": 1})
    with pytest.raises(BadEventError, match="JSON"):
        store.put(ANN, "k", {"n": object()}, index=False)
    assert memory.records() == {}


def test_a_store_over_a_memory_that_is_open_for_reading_reads_only(tmp_path: Path) -> None:
    with Memory(Ledger(tmp_path / "ledger.sqlite"), None, HashEmbedder()) as memory:
        EvolventStore(memory).put(ANN, "k", {"n": 1})
    with Memory.open(tmp_path, embedder=HashEmbedder(), read_only=True) as memory:
        store = EvolventStore(memory)
        assert store.get(ANN, "k") is not None
        with pytest.raises(LedgerUnwritableError, match="read_only"):
            store.put(ANN, "k", {"n": 2})
