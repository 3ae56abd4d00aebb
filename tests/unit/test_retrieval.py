"""Searching records: scope before rank, ties by id, three ways by name."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evolvent.memory.embedding import HashEmbedder
from evolvent.memory.errors import UnknownRetrieverError
from evolvent.memory.retrieval import LIVE, RETRIEVERS, Corpus, applies, retriever
from evolvent.memory.types import Kind, Record, Scope, Scored, Status, new_record

HERE = Scope("workshop", ("rust", "hinge"), "smith")
MODES = sorted(RETRIEVERS)


class Search:
    """Records beside a hash embedder, searched by mode."""

    def __init__(self, records: Sequence[Record]) -> None:
        embedder = HashEmbedder()
        corpus = Corpus({r.id: r for r in records}, lambda rows: embedder.embed([r.text for r in rows]))
        self.by_mode = {mode: retriever(mode, corpus, embedder) for mode in MODES}

    def __call__(
        self,
        query: str,
        mode: str,
        *,
        k: int = 5,
        scope: Scope | None = None,
        kinds: Sequence[Kind] | None = None,
        statuses: Sequence[Status] = LIVE,
    ) -> list[Scored]:
        return self.by_mode[mode].search(query, k=k, scope=scope, kinds=kinds, statuses=statuses)


def found(scored: Sequence[Scored]) -> list[str]:
    return [each.record.text for each in scored]


@pytest.mark.parametrize(
    ("record", "shown"),
    [
        (Scope(), True),
        (Scope("workshop"), True),
        (Scope("blackjack"), False),
        (Scope(tags=("rust",)), True),
        (Scope(tags=("rust", "hinge")), True),
        (Scope(tags=("rust", "crack")), False),
        (Scope(player="smith"), True),
        (Scope(player="buyer"), False),
    ],
)
def test_a_record_applies_where_all_it_names_is_given(record: Scope, shown: bool) -> None:
    assert applies(record, HERE) is shown


@pytest.mark.parametrize("mode", MODES)
def test_the_record_that_says_what_was_asked_comes_first(mode: str) -> None:
    texts = ["To mend the rust, use the file.", "To mend the crack, use the clamp.", "Hit at sixteen."]
    search = Search([new_record("rule", text) for text in texts])
    assert found(search("mend the crack", mode, k=1)) == ["To mend the crack, use the clamp."]


@pytest.mark.parametrize("mode", MODES)
def test_an_empty_store_answers_nothing(mode: str) -> None:
    assert Search([])("anything", mode) == []


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("query", ["", "…", "unheard of", "\x00"])
def test_a_query_without_a_known_word_is_answered_without_complaint(mode: str, query: str) -> None:
    assert len(Search([new_record("rule", "Use the file."), new_record("rule", "")])(query, mode)) <= 2


@pytest.mark.parametrize("mode", MODES)
def test_asking_for_no_record_gives_none(mode: str) -> None:
    assert Search([new_record("rule", "file")])("file", mode, k=0) == []


@pytest.mark.parametrize("mode", MODES)
def test_records_out_of_scope_take_no_place(mode: str) -> None:
    elsewhere = [new_record("rule", f"mend the rust {i}", Scope("blackjack")) for i in range(20)]
    here = new_record("rule", "file for rust, or so it seems to some", Scope("workshop", ("rust",)))
    assert found(Search([*elsewhere, here])("mend the rust", mode, k=3, scope=HERE)) == [here.text]


@pytest.mark.parametrize("mode", MODES)
def test_retired_records_come_only_when_asked_for(mode: str) -> None:
    old = new_record("rule", "mend the rust with oil", status="retired")
    new = new_record("rule", "mend the rust with the file", status="candidate")
    search = Search([old, new])
    assert found(search("mend the rust", mode)) == [new.text]
    assert found(search("mend the rust", mode, statuses=["retired"])) == [old.text]
    assert len(search("mend the rust", mode, statuses=["retired", *LIVE])) == 2


@pytest.mark.parametrize("mode", MODES)
def test_kinds_are_told_apart(mode: str) -> None:
    rule, raw = new_record("rule", "mend the rust"), new_record("trajectory", "mend the rust at length")
    search = Search([rule, raw])
    assert found(search("mend the rust", mode, kinds=["trajectory"])) == [raw.text]
    assert len(search("mend the rust", mode)) == 2


@pytest.mark.parametrize("mode", MODES)
def test_ties_break_by_id(mode: str) -> None:
    records = [new_record("rule", "use the file", Scope(tags=(tag,))) for tag in "abcdefgh"]
    for k in (3, 8):
        scored = Search(records[::-1])("use the file", mode, k=k)
        assert [each.record.id for each in scored] == sorted(r.id for r in records)[:k]


def test_hybrid_is_the_sum_of_reciprocal_ranks() -> None:
    # By hand, from the formula of Cormack et al. 2009 with k = 60: first in both lists; second in both; only in one.
    texts = ["mend the rust", "mend the rust or the crack", "hit at sixteen"]
    scored = Search([new_record("rule", text) for text in texts])("mend the rust", "hybrid")
    assert found(scored) == texts
    assert [each.score for each in scored] == pytest.approx([2 / 61, 2 / 62, 1 / 63])


def test_bm25_gives_only_records_that_share_a_word() -> None:
    search = Search([new_record("rule", "mend the rust"), new_record("rule", "hit at sixteen")])
    assert found(search("rust", "bm25")) == ["mend the rust"]


def test_an_unknown_way_of_searching_names_the_known_ones() -> None:
    with pytest.raises(UnknownRetrieverError, match="bm25, dense, hybrid"):
        retriever("sparse", Corpus({}, lambda rows: np.zeros((0, 1), np.float32)), HashEmbedder())


SCOPES = st.builds(
    Scope,
    st.sampled_from(["", "workshop", "blackjack"]),
    st.lists(st.sampled_from(["rust", "crack"]), unique=True).map(tuple),
    st.sampled_from(["", "smith"]),
)
RECORDS = st.builds(
    lambda kind, text, scope, status: replace(new_record(kind, text, scope), status=status),
    st.sampled_from(["rule", "trajectory"]),
    st.text("abc ", max_size=8),
    SCOPES,
    st.sampled_from(["candidate", "active", "retired"]),
)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.lists(RECORDS, max_size=12), st.text("abc ", max_size=8), SCOPES, st.integers(0, 5), st.sampled_from(MODES))
def test_search_gives_the_first_k_of_the_whole_ranking_of_what_applies(
    records: list[Record], query: str, scope: Scope, k: int, mode: str
) -> None:
    search = Search(records)
    kept = {r.id: r for r in records}
    ranking = search(query, mode, k=100, scope=scope)
    keys = [(-each.score, each.record.id) for each in ranking]
    assert keys == sorted(keys)
    allowed = {i for i, r in kept.items() if applies(r.scope, scope) and r.status != "retired"}
    assert {each.record.id for each in ranking} <= allowed
    assert mode == "bm25" or len(ranking) == len(allowed)
    assert search(query, mode, k=k, scope=scope) == ranking[:k]


@pytest.mark.parametrize("mode", MODES)
def test_a_thousand_records_are_searched_in_a_millisecond(mode: str) -> None:
    draw = random.Random(0)
    words = [f"word{i}" for i in range(300)]
    records = [
        new_record("rule", " ".join(draw.choices(words, k=12)), Scope(tags=(draw.choice(["rust", "crack"]),)))
        for _ in range(1000)
    ]
    search = Search(records)
    search("word1 word2 word3", mode, scope=HERE)
    best = min(_seconds(search, mode) for _ in range(20))
    assert best < 0.001


def _seconds(search: Search, mode: str) -> float:
    start = time.perf_counter()
    search("word1 word2 word3", mode, scope=HERE)
    return time.perf_counter() - start
