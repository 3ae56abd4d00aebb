"""What searches run over: records as of one commit, on a shelf that all commits share.

A record's text, scope and kind never change, for they are its identity; so what is derived from them (its vector, its
words, where it applies) is put on the shelf once and stays. A `Corpus` only knows which rows of the shelf are there
at its commit, and their status. A commit costs what it changed, and an old corpus never notices it.
"""

from __future__ import annotations

import itertools
from array import array
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from threading import RLock
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from evolvent.memory.embedding import Floats, words
from evolvent.memory.postings import Postings, Statistics
from evolvent.memory.types import Kind, Record, Scope, Status

Rows = NDArray[np.intp]
Asker = Scope | frozenset[Scope] | None
"""Where the asker stands: all that a record's scope names must be given there. Or a set of scopes, whose very records
are meant; None for all there are."""
Embed = Callable[[Sequence[Record]], Floats]
"""Gives `[N, D]` unit vectors."""

CHUNK = 16_384
"""Rows of the largest array; 25 MB at 384 dimensions."""
CROWD = 256
"""Records of one scope and kind that get an array of their own; fewer would be arrays without end."""
REMEMBERED = 64
"""Questions of which a corpus remembers what they may see: all steps of an episode ask within one scope."""
_CODE: Mapping[Status, int] = {status: code for code, status in enumerate(get_args(Status), start=1)}


class Vectors:
    """Rows of float32 in the order they came. Chunks never move, so a reader keeps what it has seen."""

    def __init__(self) -> None:
        self._chunks: list[Floats] = []
        self._starts: list[int] = []
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def extend(self, vectors_ND: Floats) -> None:
        while len(vectors_ND):
            used = self._size - self._starts[-1] if self._chunks else 0
            if not self._chunks or used == len(self._chunks[-1]):
                capacity = min(max(self._size, len(vectors_ND), 16), CHUNK)
                self._chunks.append(np.empty((capacity, vectors_ND.shape[1]), np.float32))
                self._starts.append(self._size)
                used = 0
            part = vectors_ND[: len(self._chunks[-1]) - used]
            self._chunks[-1][used : used + len(part)] = part
            self._size += len(part)
            vectors_ND = vectors_ND[len(part) :]

    def take(self, places_M: Rows) -> Floats:
        """The rows at `places_M`, ascending."""
        return np.concatenate([chunk[inside] for chunk, inside in self._split(places_M)])

    def dot(self, query_D: Floats, places_M: Rows) -> Floats:
        """Products with the rows at `places_M`, ascending."""
        parts = []
        for chunk, inside in self._split(places_M):
            first, last = inside[0], inside[-1] + 1
            # Reading a few rows too many in one go beats copying those that are wanted.
            if last - first <= 3 * len(inside):
                products = chunk[first:last] @ query_D
                parts.append(products if len(products) == len(inside) else products[inside - first])
            else:
                parts.append(chunk[inside] @ query_D)
        return np.concatenate(parts) if parts else np.zeros(0, np.float32)

    def _split(self, places_M: Rows) -> Iterator[tuple[Floats, Rows]]:
        """Each chunk that is concerned, and the places inside it."""
        bounds = np.searchsorted(places_M, [*self._starts, self._size])
        for chunk, start, (low, high) in zip(self._chunks, self._starts, itertools.pairwise(bounds), strict=True):
            if low < high:
                yield chunk, places_M[low:high] - start


class Shelf:
    """All records that any commit showed, in order of arrival, with what is derived from their identity.

    Vectors and words are made when first asked for, in batches. Records of one scope and kind stand in one array, so
    that a search within a scope reads memory in one go; those of small scopes share a pool.
    """

    def __init__(self, embed: Embed) -> None:
        self._embed = embed
        self.threads = RLock()
        self.records: list[Record] = []
        """For their identity; the other fields are those of the first commit that showed them."""
        self._row: dict[str, int] = {}
        self._groups: dict[tuple[Scope, Kind], int] = {}
        self._where: dict[tuple[str, str], list[tuple[frozenset[str], Kind, int]]] = {}
        """Groups by environment and player, which most questions rule out."""
        self._group: array[int] = array("i")
        """By row."""
        self._postings = Postings()
        self._homes: list[Vectors] = [Vectors()]
        """The pool, then one for each crowd."""
        self._home_of: dict[int, int] = {}
        self._pooled: dict[int, list[int]] = {}
        """Rows in the pool, by group."""
        self._home: array[int] = array("i")
        self._place: array[int] = array("i")
        """Where each row's vector is; as long as there are vectors."""
        self._sorted_ids: NDArray[np.object_] = np.zeros(0, object)
        self._sorted_rows: Rows = np.zeros(0, np.intp)
        self._ranks: Rows = np.zeros(0, np.intp)

    def rows(self, records: Sequence[Record]) -> Rows:
        """Their rows; what is new is put on the shelf."""
        with self.threads:
            for record in records:
                if record.id not in self._row:
                    self._row[record.id] = len(self.records)
                    self.records.append(record)
                    self._group.append(self._group_of(record))
            return np.fromiter((self._row[record.id] for record in records), np.intp, len(records))

    def row(self, record_id: str) -> int:
        return self._row[record_id]

    def applying(self, scope: Asker, kinds: Collection[Kind] | None, count: int) -> NDArray[np.bool_]:
        """Of the first `count` rows, those whose scope and kind are asked for."""
        with self.threads:
            wanted = np.zeros(len(self._groups), bool)
            if isinstance(scope, frozenset):
                some = get_args(Kind) if kinds is None else kinds
                keys = itertools.product(scope, some)
                wanted[[self._groups[key] for key in keys if key in self._groups]] = True
            elif scope is None:
                wanted[[group for (_, kind), group in self._groups.items() if kinds is None or kind in kinds]] = True
            else:
                tags = frozenset(scope.tags)
                for seat in {(e, p) for e in ("", scope.environment) for p in ("", scope.player)}:
                    groups = self._where.get(seat, ())
                    wanted[[g for needs, kind, g in groups if (kinds is None or kind in kinds) and needs <= tags]] = (
                        True
                    )
            applying: NDArray[np.bool_] = wanted[np.array(self._group[:count])]
            return applying

    def vectors(self, rows: Rows) -> Floats:
        """`[N, D]`, in the order of `rows`."""
        with self.threads:
            parts = [(at, home.take(places)) for home, at, places in self.places(rows)]
        if not parts:
            return self._embed([])
        vectors_ND = np.empty((len(rows), parts[0][1].shape[1]), np.float32)
        for at, part in parts:
            vectors_ND[at] = part
        return vectors_ND

    def places(self, rows: Rows) -> list[tuple[Vectors, Rows, Rows]]:
        """Where the vectors of `rows` are: arrays, positions within `rows`, and places, which ascend."""
        with self.threads:
            self._embed_until(len(self.records))
            homes, places = np.array(self._home)[rows], np.array(self._place)[rows].astype(np.intp)
            order = np.lexsort((places, homes))
            bounds = np.flatnonzero(np.diff(homes[order], prepend=-1, append=-1))
            return [
                (self._homes[homes[order[low]]], order[low:high], places[order[low:high]])
                for low, high in itertools.pairwise(bounds)
            ]

    def word_statistics(self, present_N: NDArray[np.bool_]) -> Statistics:
        with self.threads:
            self._postings.extend(words(record.text) for record in self.records[len(self._postings) :])
            return self._postings.statistics(present_N)

    def word_scores(self, query: Sequence[str], seen: Statistics) -> Floats:
        with self.threads:
            return self._postings.scores(query, seen)

    def ranks(self) -> Rows:
        """By row, the place of its id among all ids in order."""
        with self.threads:
            if len(self._ranks) < len(self.records):
                fresh = sorted(range(len(self._ranks), len(self.records)), key=lambda row: self.records[row].id)
                ids = np.array([self.records[row].id for row in fresh], object)
                at = np.searchsorted(self._sorted_ids, ids)
                self._sorted_ids = np.insert(self._sorted_ids, at, ids)
                self._sorted_rows = np.insert(self._sorted_rows, at, fresh)
                self._ranks = np.empty(len(self.records), np.intp)
                self._ranks[self._sorted_rows] = np.arange(len(self.records))
            return self._ranks

    def _group_of(self, record: Record) -> int:
        key = (record.scope, record.kind)
        if key not in self._groups:
            self._groups[key] = len(self._groups)
            seat = (record.scope.environment, record.scope.player)
            entry = (frozenset(record.scope.tags), record.kind, self._groups[key])
            self._where.setdefault(seat, []).append(entry)
        return self._groups[key]

    def _embed_until(self, count: int) -> None:
        while (start := len(self._home)) < count:
            stop = min(start + CHUNK, count)
            vectors_ND = self._embed(self.records[start:stop])
            self._home.extend([0] * (stop - start))
            self._place.extend([0] * (stop - start))
            rows_by_group: dict[int, list[int]] = {}
            for row in range(start, stop):
                rows_by_group.setdefault(self._group[row], []).append(row)
            pooled: list[int] = []
            for group, rows in rows_by_group.items():
                if group not in self._home_of and len(self._pooled.get(group, ())) + len(rows) < CROWD:
                    self._pooled.setdefault(group, []).extend(rows)
                    pooled += rows
                    continue
                if group not in self._home_of:
                    self._home_of[group] = len(self._homes)
                    self._homes.append(Vectors())
                    if earlier := self._pooled.pop(group, None):
                        places = np.array([self._place[row] for row in earlier], np.intp)
                        self._put(self._home_of[group], earlier, self._homes[0].take(places))
                self._put(self._home_of[group], rows, vectors_ND[np.array(rows) - start])
            self._put(0, pooled, vectors_ND[np.array(pooled, np.intp) - start])

    def _put(self, home: int, rows: Sequence[int], vectors_ND: Floats) -> None:
        vectors = self._homes[home]
        for place, row in enumerate(rows, start=len(vectors)):
            self._home[row], self._place[row] = home, place
        vectors.extend(vectors_ND)


@dataclass(frozen=True, eq=False)
class Choice:
    """The rows that one kind of question may see, ascending."""

    shelf: Shelf
    rows_H: Rows

    @cached_property
    def _places(self) -> list[tuple[Vectors, Rows, Rows]]:
        return self.shelf.places(self.rows_H)

    def similarities(self, query_D: Floats) -> Floats:
        """Cosine with each row."""
        scores_H = np.empty(len(self.rows_H), np.float32)
        for vectors, at, places in self._places:
            scores_H[at] = vectors.dot(query_D, places)
        # Six decimals: the last bits of an embedding depend on its batch, and must not decide a rank.
        return np.round(scores_H, 6)


class Corpus:
    """Records as of one commit, ready to be searched; nothing is computed before it is asked for."""

    def __init__(self, records: Mapping[str, Record], shelf: Shelf, before: Corpus | None = None) -> None:
        """`before` is any corpus on the same shelf; the nearer, the less there is to do."""
        self.records = records
        self.shelf = shelf
        known: Mapping[str, Record] = before.records if before else {}
        fresh = [record for key, record in records.items() if known.get(key) is not record]
        rows = shelf.rows(fresh)
        self._status_N = np.zeros(len(shelf.records), np.uint8)
        if before:
            self._status_N[: len(before._status_N)] = before._status_N
            if len(records) < len(known) + len(fresh):
                self._status_N[[shelf.row(key) for key in known if key not in records]] = 0
        self._status_N[rows] = np.fromiter((_CODE[record.status] for record in fresh), np.uint8, len(fresh))
        self._choices: dict[tuple[Asker, frozenset[Kind] | None, frozenset[Status]], Choice] = {}

    @property
    def size(self) -> int:
        """Rows of the shelf that were there when it was made: scores by row are that long."""
        return len(self._status_N)

    def record(self, row: int) -> Record:
        return self.records[self.shelf.records[row].id]

    def choose(self, scope: Asker, kinds: Collection[Kind] | None, statuses: Collection[Status]) -> Choice:
        """What applies there."""
        key = (scope, None if kinds is None else frozenset(kinds), frozenset(statuses))
        with self.shelf.threads:
            choice = self._choices.pop(key, None)
            if choice is None:
                wanted = np.zeros(len(_CODE) + 1, bool)
                wanted[[_CODE[status] for status in key[2]]] = True
                there_N = wanted[self._status_N]
                if scope is not None or kinds is not None:
                    there_N &= self.shelf.applying(scope, key[1], len(there_N))
                choice = Choice(self.shelf, np.flatnonzero(there_N))
            self._choices[key] = choice
            if len(self._choices) > REMEMBERED:
                del self._choices[next(iter(self._choices))]
            return choice

    def word_scores(self, query: str) -> Floats:
        """BM25 by row; how rare a word is, is told from all records of the commit, whatever their scope or status."""
        return self.shelf.word_scores(words(query), self._word_statistics)

    @cached_property
    def _word_statistics(self) -> Statistics:
        return self.shelf.word_statistics(self._status_N > 0)
