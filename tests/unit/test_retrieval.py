"""Searching records: scope before rank, ties by id, six ways by name, over a shelf that grows."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evolvent.memory.corpus import CHUNK, CROWD, Corpus, Rows, Shelf, Vectors
from evolvent.memory.embedding import Floats, HashEmbedder, words
from evolvent.memory.errors import UnknownRetrieverError
from evolvent.memory.postings import Postings
from evolvent.memory.retrieval import LIVE, RETRIEVERS, retriever
from evolvent.memory.types import Interval, Kind, Record, Scope, Scored, Status, new_record

HERE = Scope("workshop", ("rust", "hinge"), "smith")
MODES = sorted(RETRIEVERS)


class Search:
    """Records beside a hash embedder, searched by mode."""

    def __init__(self, records: Sequence[Record]) -> None:
        corpus = Corpus({r.id: r for r in records}, shelf())
        self.by_mode = {mode: retriever(mode, corpus, HashEmbedder()) for mode in MODES}

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


def shelf() -> Shelf:
    return Shelf(lambda records: HashEmbedder().embed([record.text for record in records]))


def applies(record: Scope, asker: Scope) -> bool:
    """What the shelf works out for whole groups of records, said of one."""
    return (
        record.environment in ("", asker.environment)
        and record.player in ("", asker.player)
        and set(record.tags) <= set(asker.tags)
    )


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
    assert bool(Search([new_record("rule", "Oil it.", record)])("oil", "dense", scope=HERE)) is shown


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
        retriever("sparse", Corpus({}, shelf()), HashEmbedder())


def test_mmr_puts_what_is_new_before_what_repeats() -> None:
    again = [new_record("rule", "to mend the rust use the file", Scope(tags=(tag,))) for tag in ("rust", "hinge")]
    other = new_record("rule", "to mend the crack use the clamp")
    search = Search([*again, other])
    assert {each.record.text for each in search("mend the rust", "dense", k=2)} == {again[0].text}
    assert found(search("mend the rust", "mmr", k=2)) == [again[0].text, other.text]


def test_mmr_scores_are_those_of_the_formula() -> None:
    # By hand, from Carbonell and Goldstein 1998: λ Sim1 − (1 − λ) max Sim2 with λ = 0.5 and cosines as similarities.
    texts = ["rust", "rust file", "clamp"]
    rust, file, clamp = HashEmbedder().embed(texts)
    scored = Search([new_record("rule", text) for text in texts])("rust", "mmr", k=3)
    assert found(scored) == ["rust", "rust file", "clamp"]
    second = 0.5 * rust @ file - 0.5 * file @ rust
    third = 0.5 * rust @ clamp - 0.5 * max(0, rust @ clamp, file @ clamp)
    assert [each.score for each in scored] == pytest.approx([0.5, second, third], abs=1e-6)


def proved(text: str, low: float, high: float, status: Status = "candidate") -> Record:
    return replace(new_record("rule", text), lift=Interval((low + high) / 2, low, high, 40), status=status)


def test_utility_raises_what_is_proved_to_help_and_sinks_what_harms() -> None:
    harms = proved("mend the rust with oil", -0.4, -0.2)
    unclear = proved("mend the rust with wax", -0.3, 0.3)
    helps = proved("mend the rust with a file", 0.2, 0.4)
    gated = replace(new_record("rule", "mend the rust with soap"), status="active")
    search = Search([harms, unclear, helps, gated])
    plain = {each.record.id: each.score for each in search("mend the rust", "dense")}
    scored = search("mend the rust", "utility")
    assert [each.record for each in scored] == [helps, gated, unclear, harms]
    gains = [each.score / plain[each.record.id] for each in scored]
    assert gains == pytest.approx([1.2, 1.02, 1, 0.8], abs=1e-5)


def test_no_proof_makes_an_unrelated_record_relevant() -> None:
    search = Search([proved("hit at sixteen", 0.8, 0.9), new_record("rule", "mend the rust or the crack")])
    assert search("rust", "utility", k=1)[0].record.text == "mend the rust or the crack"


def test_spreading_raises_a_record_that_shares_an_episode_with_a_hit() -> None:
    hit = new_record("rule", "mend the rust with the file", parents=("t1",))
    sibling = new_record("rule", "files hang behind the door", parents=("t1",))
    stranger = new_record("rule", "files hang under the bench", parents=("t2",))
    search = Search([hit, sibling, stranger])
    near = {each.record.text: each.score for each in search("mend the rust", "dense")}
    scored = {each.record.text: each.score for each in search("mend the rust", "spreading")}
    # By hand: half of the seed's activation reaches t1, half of that is shared by t1's two records.
    gain = 0.25 * max(0.0, near[hit.text]) / 2
    assert scored[sibling.text] == pytest.approx(near[sibling.text] + gain, abs=1e-5)
    assert scored[stranger.text] == near[stranger.text]


def test_spreading_reaches_parents_children_and_their_kin_through_retired_records() -> None:
    trajectory = new_record("trajectory", "a long story")
    merged = new_record("rule", "mend the rust", parents=("t1",), status="retired")
    stays = new_record("rule", "mend the rust with the file", parents=(merged.id, trajectory.id))
    cousin = new_record("rule", "glue holds wood", parents=("t1",))
    leaf = new_record("note", "clamps are in the shed", parents=(stays.id,))
    search = Search([trajectory, merged, stays, cousin, leaf])
    near = {each.record.text: each.score for each in search("mend the rust with the file", "dense")}
    scored = {each.record.text: each.score for each in search("mend the rust with the file", "spreading")}
    one = max(0.0, near[stays.text]) / 2 / 3
    for kin in (leaf, trajectory):
        assert scored[kin.text] >= near[kin.text] + one - 1e-5
    assert merged.text not in scored
    assert scored[cousin.text] == near[cousin.text], "three hops away"


def test_bm25_scores_are_those_of_bm25s() -> None:
    import bm25s

    draw = random.Random(1)
    documents = [draw.choices("abcdefghijklmnop", [2**-i for i in range(16)], k=draw.randint(0, 9)) for _ in range(300)]
    query = list("aabkp")
    theirs = bm25s.BM25()
    theirs.index(documents, show_progress=False)
    ours = Postings()
    ours.extend(documents[:100])
    ours.extend(documents[100:])
    everything = ours.statistics(np.ones(300, bool))
    assert ours.scores(query, everything) == pytest.approx(theirs.get_scores(query), abs=1e-5)


SCOPES = st.builds(
    Scope,
    st.sampled_from(["", "workshop", "blackjack"]),
    st.lists(st.sampled_from(["rust", "crack"]), unique=True).map(tuple),
    st.sampled_from(["", "smith"]),
)
LIFTS = st.sampled_from([None, Interval(0.3, 0.2, 0.4), Interval(-0.3, -0.4, -0.2), Interval(0.0, -0.1, 0.1)])
RECORDS = st.builds(
    lambda kind, text, scope, status, lift, parents: replace(
        new_record(kind, text, scope, parents=tuple(parents)), status=status, lift=lift
    ),
    st.sampled_from(["rule", "trajectory"]),
    st.text("abc ", max_size=8),
    SCOPES,
    st.sampled_from(["candidate", "active", "retired", "quarantined"]),
    LIFTS,
    st.lists(st.sampled_from(["t1", "t2", "t3"]), unique=True),
)
RANDOM = settings(max_examples=60, deadline=None, derandomize=True)


@RANDOM
@given(st.lists(RECORDS, max_size=12), st.text("abc ", max_size=8), SCOPES, st.integers(0, 5), st.sampled_from(MODES))
def test_search_gives_the_first_k_of_the_whole_ranking_of_what_applies(
    records: list[Record], query: str, scope: Scope, k: int, mode: str
) -> None:
    search = Search(records)
    kept = {r.id: r for r in records}
    ranking = search(query, mode, k=100, scope=scope)
    keys = [(-each.score, each.record.id) for each in ranking]
    assert keys == sorted(keys)
    allowed = {i for i, r in kept.items() if applies(r.scope, scope) and r.status in LIVE}
    assert {each.record.id for each in ranking} <= allowed
    assert mode == "bm25" or len(ranking) == len(allowed)
    assert search(query, mode, k=k, scope=scope) == ranking[:k]


def naive(records: Sequence[Record], query: str, scope: Scope | None, mode: str) -> list[tuple[str, float]]:
    """Every record that applies with its score, best first: the definitions, written out."""
    chosen = sorted((r for r in records if r.status in LIVE and (not scope or applies(r.scope, scope))), key=id_of)
    embedder = HashEmbedder()
    dense = {r.id: float(np.round(embedder.embed([r.text])[0] @ embedder.embed([query])[0], 6)) for r in chosen}
    documents = [words(record.text) for record in records]
    postings = Postings()
    postings.extend(documents)
    every = postings.scores(words(query), postings.statistics(np.ones(len(documents), bool)))
    by_id = {record.id: float(score) for record, score in zip(records, every, strict=True)}
    bm25 = {r.id: by_id[r.id] for r in chosen if by_id[r.id] > 0}
    scores = {"dense": dense, "bm25": bm25}
    if mode in scores:
        return ranked(scores[mode])
    fused = dict.fromkeys(dense, 0.0)
    for way in (dense, bm25):
        for rank, (key, _) in enumerate(ranked(way), start=1):
            fused[key] += 1 / (60 + rank)
    return ranked({key: float(np.float32(score)) for key, score in fused.items()})


def ranked(scores: dict[str, float]) -> list[tuple[str, float]]:
    return sorted(scores.items(), key=lambda item: (-item[1], item[0]))


def id_of(record: Record) -> str:
    return record.id


@RANDOM
@given(
    st.lists(st.lists(RECORDS, max_size=8), min_size=1, max_size=4),
    st.text("abc ", max_size=8),
    st.none() | SCOPES,
    st.sampled_from(["dense", "bm25", "hybrid"]),
    st.randoms(use_true_random=False),
)
def test_a_corpus_that_grew_shrank_and_changed_finds_what_a_naive_search_of_its_commit_finds(
    steps: list[list[Record]], query: str, scope: Scope | None, mode: str, draw: random.Random
) -> None:
    common, before, records = shelf(), None, dict[str, Record]()
    commits: list[tuple[Corpus, dict[str, Record]]] = []
    for step in steps:
        records = {key: record for key, record in records.items() if draw.random() < 0.8}
        records.update({record.id: record for record in step})
        before = Corpus(records, common, before)
        commits.append((before, records))
        retriever(mode, before, HashEmbedder()).search(query, k=1)
    for corpus, there in commits:
        found = retriever(mode, corpus, HashEmbedder()).search(query, k=3, scope=scope)
        expected = naive(list(there.values()), query, scope, mode)[:3]
        assert [each.score for each in found] == pytest.approx([score for _, score in expected], abs=2e-6)
        assert mode != "dense" or [each.record.id for each in found] == [key for key, _ in expected]
        assert all(each.record is there[each.record.id] for each in found)


@pytest.mark.parametrize("mode", ["dense", "bm25", "hybrid"])
def test_hybrid_and_its_parts_rank_hundreds_of_ties_as_the_definition_does(mode: str) -> None:
    # More than the 60 + 2k records whose ranks hybrid works out, and few different texts among them.
    draw = random.Random(3)
    records = [
        new_record("rule", " ".join(draw.choices("abcdef", k=2)), Scope(player=f"p{number}")) for number in range(400)
    ]
    for k in (1, 5, 40, 400):
        found = Search(records)("a b c", mode, k=k)
        assert [each.record.id for each in found] == [key for key, _ in naive(records, "a b c", None, mode)][:k]


@pytest.mark.parametrize("sizes", [[1] * 40, [7, CHUNK, 3], [2 * CHUNK + 1], [0, CROWD, CROWD]])
def test_vectors_are_found_where_they_were_put_whatever_the_batches(sizes: list[int]) -> None:
    draw = np.random.default_rng(0)
    rows_ND = draw.standard_normal((sum(sizes), 4), np.float32)
    vectors = Vectors()
    for stop, size in zip(np.cumsum(sizes), sizes, strict=True):
        vectors.extend(rows_ND[stop - size : stop])
    query_D = draw.standard_normal(4, np.float32)
    for share in (0.01, 0.5, 1):
        places: Rows = np.flatnonzero(draw.random(len(rows_ND)) < share)
        if len(places):
            assert np.array_equal(vectors.take(places), rows_ND[places])
        assert vectors.dot(query_D, places) == pytest.approx(rows_ND[places] @ query_D, abs=1e-5)


def test_a_record_is_embedded_once_however_often_memory_changes() -> None:
    seen: list[str] = []

    def embed(records: Sequence[Record]) -> Floats:
        seen.extend(record.text for record in records)
        return HashEmbedder().embed([record.text for record in records])

    common, before, records = Shelf(embed), None, dict[str, Record]()
    for number in range(2 * CROWD):
        new = new_record("rule", f"lesson {number}", Scope("workshop" if number % 2 else ""))
        records = {**records, new.id: new}
        if number % 32 == 0:
            before = Corpus(records, common, before)
            best = retriever("dense", before, HashEmbedder()).search(new.text, k=3)
            assert new in [each.record for each in best]
    assert seen == [f"lesson {number}" for number in range(2 * CROWD - 31)]


def test_ten_thousand_scopes_are_kept_in_few_arrays() -> None:
    records = [new_record("rule", f"lesson {n}", Scope("workshop", (f"order-{n // 2}",))) for n in range(10_000)]
    many = shelf()
    corpus = Corpus({record.id: record for record in records}, many)
    everything = corpus.choose(None, None, LIVE)
    assert len(many.places(everything.rows_H)) == 1
    search = retriever("dense", corpus, HashEmbedder())
    inside = search.search("lesson 7001", k=5, scope=Scope("workshop", ("order-3500",)))
    assert found(inside) == ["lesson 7001", "lesson 7000"]


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
