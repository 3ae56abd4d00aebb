"""A depth-first search over policy texts, read from the records that hold them (Agent-Pro, arXiv 2402.17574, §3.3).

A policy's children are texts that were made of it. One that earns more than its parent is accepted and the search goes
on from there; where a policy has had all its children, the search is back at its parent, whose next child is tried.
Nothing else is kept: a run that was stopped, and one in which somebody took a policy back, go on from the records.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from evolvent.agents.errors import SetupError
from evolvent.memory.types import Event, Kind, Record, Scope, new_record

_KIND: Kind = "prompt"


@dataclass(frozen=True, slots=True)
class PolicyTree:
    """The policies of one search in the order they were born, the initial one first.

    A text that did not mend the hand it was made of is none of them.
    """

    policies: tuple[Record, ...]
    breadth: int
    """Children of one policy at most."""
    depth: int
    """Accepted policies one behind the other, from which on the search is over."""

    @property
    def acting(self) -> Record:
        """The best text so far, which is what a generation plays by: the active one."""
        return next((each for each in self.policies if each.status == "active"), self.policies[0])

    @property
    def at(self) -> Record | None:
        """The policy whose children are tried; None when the search is over."""
        here: Record | None = max(self.policies, key=accepted_in)
        if here is not None and self.depth_of(here) >= self.depth:
            return None
        while here is not None and not self.waiting(here) and len(self.children(here)) >= self.breadth:
            here = self.parent(here)
        return here

    def parent(self, policy: Record) -> Record | None:
        return next((each for each in self.policies if each.id == policy.meta["of"]), None)

    def children(self, policy: Record) -> list[Record]:
        return [each for each in self.policies if each.meta["of"] == policy.id]

    def waiting(self, policy: Record) -> list[Record]:
        """Its children that were not tried yet."""
        return [each for each in self.children(policy) if each.status == "candidate"]

    def path(self, policy: Record) -> list[Record]:
        """From the initial policy to this one."""
        above = self.parent(policy)
        return [*(self.path(above) if above else []), policy]

    def depth_of(self, policy: Record) -> int:
        """0 for the initial policy."""
        return len(self.path(policy)) - 1


def policy_tree(records: Iterable[Record], *, breadth: int, depth: int) -> PolicyTree:
    """The search that these records tell of.

    Raises:
        SetupError: there is no policy among them.
    """
    found = [each for each in records if each.kind == _KIND and each.meta.get("mends")]
    if not found:
        raise SetupError("Memory holds no policy: the commit with the initial one was taken back. Begin a new run.")
    return PolicyTree(tuple(sorted(found, key=_birth)), breadth, depth)


def policy_record(
    text: str,
    environment: str,
    generation: int,
    number: int = 0,
    *,
    of: str = "",
    hands: Iterable[str] = (),
    mends: bool = True,
) -> Record:
    """A policy that is to be tried. Its place in the search stands in its scope, so that one text may be tried twice.

    Args:
        of: id of the policy that it was made of; empty for the initial one, which needs no trial.
        hands: ids of the trajectories that were reflected on.
        mends: whether the hand went better by it when it was replayed.
    """
    return new_record(
        _KIND,
        text,
        Scope(environment, player=f"{generation}.{number}"),
        parents=(of, *hands) if of else (),
        meta={"of": of, "mends": mends} if of else {"of": "", "mends": True, "accepted": generation},
        status="candidate" if of else "active",
        generation=generation,
    )


def accepted_in(policy: Record) -> int:
    """The generation that accepted it; −1 where none did."""
    return int(policy.meta.get("accepted", -1))


def accept(policy: Record, acting: Record, generation: int, evidence: Mapping[str, Any], *, best: bool) -> list[Event]:
    """The search goes on from this policy, and if it is the `best` so far, it acts instead of the one that does."""
    events = [Event("update", policy.id, payload={"meta": {"accepted": generation, **evidence}})]
    if not best:
        return [*events, Event("retire", policy.id, payload={"reason": "another earns more", **evidence})]
    return [
        *events,
        Event("activate", policy.id, payload=dict(evidence)),
        Event("retire", acting.id, payload={"reason": f"{policy.id} earns more", **evidence}),
    ]


def refuse(policy: Record, evidence: Mapping[str, Any]) -> list[Event]:
    return [
        Event("update", policy.id, payload={"meta": dict(evidence)}),
        Event("reject", policy.id, payload=dict(evidence)),
    ]


def _birth(policy: Record) -> tuple[int, int]:
    generation, _, number = policy.scope.player.partition(".")
    return int(generation), int(number)
