"""What memory says twice, more generally than needed to be said apart, or against itself; and what to do about it.

Everything here gives events for one commit, so reverting that commit undoes it. Words decide, not vectors: "use the
oil" and "use the glue" lie close together in any embedding, and the one must never swallow the other.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from evolvent.memory.embedding import Floats
from evolvent.memory.errors import UnlikeRecordsError
from evolvent.memory.retrieval import LIVE
from evolvent.memory.types import Event, Kind, Record, Scope, new_record

_FILLER = frozenset({"a", "an", "the", "please", "just", "simply", "always", "you", "should"})
"""Words that name neither a situation nor an answer. Short on purpose: a pair that is not merged costs a little room,
one that is merged wrongly costs an answer."""
_WORDS = re.compile(r"[-+]?\d+(?:\.\d+)*|\w+|[^\w\s.,;:!?'\"()\[\]*_`–—-]")
"""Signs count with their number, and symbols count as words: `< 3` is not `> 3`."""
_ROTATES = 4
"""Words from which a text may have its parts exchanged: "to mend rust, use oil" is "use oil to mend rust"."""
_BLOCK = 1024
"""Rows compared at once: 4 MiB of cosines."""


# -- evidence ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Proof:
    """A promotion by the gate."""

    e_value: float
    order: int
    """Position of the promotion in the ledger: a larger one came later."""


def proofs(events: Iterable[Event]) -> dict[str, Proof]:
    """The latest promotion of each record that the gate promoted; `events` as `Ledger.events` gives them."""
    return {
        event.record_id: Proof(float(event.payload["gate"]["e_value"]), order)
        for order, event in enumerate(events)
        if event.kind == "activate" and "gate" in event.payload
    }


# -- the same thing said twice -----------------------------------------------------------------------------------------


def claim(text: str) -> tuple[str, ...]:
    """What a text says, so that two texts say the same when their claims are equal.

    Case, punctuation, articles and plurals do not count; each other word does, and so does their order, but for where
    the sentence begins.
    """
    found = tuple(_singular(word) for word in _WORDS.findall(text.casefold()) if word not in _FILLER)
    if len(found) < _ROTATES:
        return found or (text,)
    return min(found[cut:] + found[:cut] for cut in range(len(found)))


def same_claim(one: Record, other: Record) -> bool:
    """Whether one of the two may stand for both: same kind and scope, no different situation, the same claim."""
    return (one.kind, one.scope) == (other.kind, other.scope) and not _apart(one, other) and _equal(one, other)


def contradict(one: Record, other: Record) -> bool:
    """Whether both answer one stated situation, and differently."""
    return bool(_situation(one)) and _situation(one) == _situation(other) and not _equal(one, other)


def may_mean_the_same(one: Record, other: Record) -> bool:
    """Whether a reader may be asked to merge the two: one who sees that "apply oil" says what "use oil" says.

    False where it is known that they differ: another situation, or another answer to the same one.
    """
    together = (one.kind, one.scope) == (other.kind, other.scope)
    return together and not _apart(one, other) and not contradict(one, other)


def near_duplicates(
    records: Sequence[Record], vectors_ND: Floats, threshold: float = 0.85, *, loose: bool = False
) -> list[tuple[Record, ...]]:
    """Groups of live records of one kind and scope, each led by the one that would stay.

    A member's cosine to its leader is at least `threshold` and both make the same claim, so that a group can be merged
    as it is. With `loose` they only may mean the same (`may_mean_the_same`): groups to ask a reader about. Leaders are
    taken in order of their evidence and nobody is in two groups, so a chain of small steps never joins its ends.

    Args:
        vectors_ND: unit vectors of `records`, in their order. Exact, with at most 1024 x 1024 cosines in memory.
    """
    places: dict[tuple[Kind, Scope, tuple[str, ...]], list[int]] = {}
    for row, record in enumerate(records):
        if record.status in LIVE:
            places.setdefault((record.kind, record.scope, () if loose else claim(record.text)), []).append(row)
    groups: list[tuple[Record, ...]] = []
    for rows in places.values():
        if len(rows) > 1:
            rows.sort(key=lambda row: _most_known_first(records[row], None))
            alike = may_mean_the_same if loose else same_claim
            groups += _led([records[row] for row in rows], vectors_ND[rows], threshold, alike)
    return groups


def merge_events(group: Sequence[Record], proofs: Mapping[str, Proof] | None = None) -> list[Event]:
    """One record stays and the others merge into it: the one of which most is known.

    They say the same, so it is the amount of evidence that counts and not how good it looks: the gate's verdict, the
    episodes behind the lift, recalls, age.

    Raises:
        UnlikeRecordsError: they do not say the same, or one is not live.
    """
    known = proofs or {}
    stays, *others = sorted(group, key=lambda record: _most_known_first(record, known.get(record.id)))
    for record in group:
        if record.status not in LIVE:
            raise UnlikeRecordsError(
                f"Record {record.id} is {record.status}; only live records are merged. Restore it first, or leave it."
            )
        if not same_claim(stays, record):
            raise UnlikeRecordsError(
                f"Records {stays.id} ({stays.text!r}) and {record.id} ({record.text!r}) are not merged: "
                f"{_difference(stays, record)}. Generalise them, or retire the one that is wrong."
            )
    return [Event("merge", each.id, payload={"into": stays.id, "reason": "near-duplicate"}) for each in others]


# -- several things said as one ----------------------------------------------------------------------------------------


def generalise(
    records: Sequence[Record],
    text: str,
    *,
    known: Mapping[str, Record] | None = None,
    parents: Sequence[str] = (),
    generation: int = 0,
) -> list[Event]:
    """One new candidate in place of several records (or a better wording of one), which stay as they are until it is
    proved: `superseded` retires them then.

    It applies wherever all of them did (`common_scope`), and its `meta["generalises"]` names them. At the gate it has
    to play against memory *without* them, or it will seem to add nothing.

    Args:
        known: memory; a candidate that is there already gains parents and generalises these too.
        parents: what else it came from, trajectories for instance.

    Raises:
        UnlikeRecordsError: no records, several kinds, or one of them has this very text and scope.
    """
    kinds = sorted({record.kind for record in records})
    if len(kinds) != 1:
        raise UnlikeRecordsError(f"Records of kinds {kinds} cannot be said as one; give some of one kind.")
    ids = [record.id for record in records]
    situations = {_situation(record) for record in records}
    situation = situations.pop() if len(situations) == 1 else ""
    new = new_record(
        records[0].kind,
        text,
        common_scope([record.scope for record in records]),
        parents=(*ids, *parents),
        meta={"situation": situation if fits(situation, text) else "", "generalises": ids},
        generation=generation,
    )
    if new.id in ids:
        raise UnlikeRecordsError(f"Record {new.id} says {text!r} already; merge the others into it instead.")
    events = [Event("add", new.id, new, payload={"generalises": ids})]
    before = known.get(new.id) if known else None
    if before is not None:
        both = list(dict.fromkeys([*before.meta.get("generalises", ()), *ids]))
        events.append(Event("update", new.id, payload={"meta": {"generalises": both}}))
    return events


def superseded(records: Mapping[str, Record]) -> list[Event]:
    """Retires what a record that is active by now generalises."""
    retired: dict[str, Event] = {}
    for record in records.values():
        if record.status != "active":
            continue
        for old in record.meta.get("generalises", ()):
            if old in records and records[old].status in LIVE:
                retired.setdefault(old, Event("retire", old, payload={"reason": "generalised", "by": record.id}))
    return list(retired.values())


def common_scope(scopes: Sequence[Scope]) -> Scope:
    """The narrowest scope that covers all of them."""
    environments, players = {scope.environment for scope in scopes}, {scope.player for scope in scopes}
    tags = tuple(tag for tag in scopes[0].tags if all(tag in scope.tags for scope in scopes))
    return Scope(environments.pop() if len(environments) == 1 else "", tags, players.pop() if len(players) == 1 else "")


# -- things said against each other ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Contradiction:
    """Active records of one kind and scope that answer one situation differently."""

    situation: str
    records: tuple[Record, ...]


@dataclass(frozen=True, slots=True)
class Settlement:
    stays: Record | None
    """None when nothing decides; then all of them are candidates again, and the gate has the next word."""
    reason: str
    """What decided: `lift`, `gate`, `recency` or `undecided`."""
    events: list[Event] = field(default_factory=list)


def contradictions(records: Iterable[Record]) -> list[Contradiction]:
    """Active records that cannot all be right, in order of their situations.

    A record of a narrower scope is an exception to the wider one and contradicts nothing. Only a stated situation
    (`meta["situation"]`) tells two answers from two questions, so records without one are never said to clash.
    """
    asked: dict[tuple[Kind, str, Scope], list[Record]] = {}
    for record in records:
        if record.status == "active" and _situation(record):
            asked.setdefault((record.kind, _situation(record), record.scope), []).append(record)
    return [
        Contradiction(situation, tuple(sorted(each, key=lambda record: record.id)))
        for (_, situation, _), each in sorted(
            asked.items(), key=lambda item: (item[0][1], item[0][0], repr(item[0][2]))
        )
        if len({claim(record.text) for record in each}) > 1
    ]


def settle(contradiction: Contradiction, proofs: Mapping[str, Proof] | None = None) -> Settlement:
    """The record that stands against each of the others stays and they retire; if there is none, all become candidates.

    Between two, the first of these that tells them apart decides:

    1. lift: the intervals do not meet. It is what both do in the same episodes now; a verdict of the gate may be old.
    2. gate: one was promoted by it and the other was not.
    3. recency: both were promoted. The later one was proved while the earlier one stood in the prompt beside it.

    Nothing is decided by age alone, nor by one e-value being larger than another from other pairs.
    """
    known = proofs or {}
    for record in contradiction.records:
        against = [each for each in contradiction.records if not _equal(record, each)]
        reasons = [_stands_against(record, each, known) for each in against]
        if all(reasons):
            reason = next(why for why in ("recency", "gate", "lift") if why in reasons)  # the weakest that was needed
            events = [
                Event("retire", each.id, payload={"reason": "contradicted", "by": record.id, "decided_by": why})
                for each, why in zip(against, reasons, strict=True)
            ]
            return Settlement(record, reason, events)
    ids = [record.id for record in contradiction.records]
    events = []
    for each in ids:
        others = [other for other in ids if other != each]
        events.append(Event("restore", each, payload={"reason": "contradicted, undecided", "by": others}))
    return Settlement(None, "undecided", events)


def _stands_against(
    one: Record, other: Record, known: Mapping[str, Proof]
) -> Literal["lift", "gate", "recency"] | None:
    """What speaks for `one` and against `other`; None when nothing does."""
    if one.lift and other.lift and (one.lift.low > other.lift.high or one.lift.high < other.lift.low):
        return "lift" if one.lift.low > other.lift.high else None
    mine, theirs = known.get(one.id), known.get(other.id)
    if mine is None or theirs is None:
        return "gate" if mine else None
    return "recency" if mine.order > theirs.order else None


# -- inside ------------------------------------------------------------------------------------------------------------


def fits(situation: str, text: str) -> bool:
    """Whether the text is an answer in the words of that situation, a frame with `{action}` open."""
    before, gap, after = situation.partition("{action}")
    long_enough = len(text) > len(before) + len(after)
    return bool(gap) and long_enough and text.startswith(before) and text.endswith(after)


def _situation(record: Record) -> str:
    return str(record.meta.get("situation", ""))


def _apart(one: Record, other: Record) -> bool:
    """Whether both state their situation, and not the same one."""
    return bool(_situation(one)) and bool(_situation(other)) and _situation(one) != _situation(other)


def _equal(one: Record, other: Record) -> bool:
    return claim(one.text) == claim(other.text)


def _difference(one: Record, other: Record) -> str:
    if one.kind != other.kind or one.scope != other.scope:
        return "they differ in kind or scope"
    if _apart(one, other):
        return "they speak of different situations"
    mine, theirs = Counter(claim(one.text)), Counter(claim(other.text))
    words = sorted((mine - theirs) + (theirs - mine))
    return f"they differ in {', '.join(map(repr, words))}" if words else "they differ in the order of their words"


def _singular(word: str) -> str:
    return word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith("ss") else word


def _most_known_first(record: Record, proof: Proof | None) -> tuple[bool, float, int, int, int, str]:
    """A key that sorts by the amount of evidence, largest first; ties go to the older record, then by id."""
    e_value, episodes = proof.e_value if proof else 0.0, record.lift.n if record.lift else 0
    return (record.status != "active", -e_value, -episodes, -record.recalls, record.generation, record.id)


def _led(
    records: Sequence[Record], vectors_ND: Floats, threshold: float, alike: Callable[[Record, Record], bool]
) -> list[tuple[Record, ...]]:
    """Groups among records of one place, which stand in the order in which they may lead."""
    free = np.ones(len(records), bool)
    members: dict[int, list[int]] = {}
    for start in range(0, len(records), _BLOCK):
        for other in range(start, len(records), _BLOCK):
            # The tile on the diagonal comes first: after it, who is still free in this block leads.
            leaders = start + np.flatnonzero(free[start : start + _BLOCK])
            tile = other + np.flatnonzero(free[other : other + _BLOCK])
            # Six decimals: the last bits of an embedding depend on its batch.
            near = np.round(vectors_ND[leaders] @ vectors_ND[tile].T, 6) >= threshold
            for leader, near_T in zip(leaders, near, strict=True):
                if not free[leader]:
                    continue
                for member in tile[near_T & free[tile] & (tile > leader)]:
                    if alike(records[leader], records[member]):
                        members.setdefault(int(leader), []).append(int(member))
                        free[member] = False
    return [tuple(records[each] for each in (leader, *joined)) for leader, joined in sorted(members.items())]
