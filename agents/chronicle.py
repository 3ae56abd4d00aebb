"""What a growing ledger has told so far: episodes by phase, generations, what was learned and what was decided.

Nothing is read twice but a line of commits that has changed.
"""

from __future__ import annotations

import json
import time
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

from evolvent.agents.findings import STATUSES
from evolvent.agents.run import RunConfig
from evolvent.memory.episodes import Ended
from evolvent.memory.ledger import Ledger
from evolvent.memory.types import LEARNED, Event, EventKind, Interval, Record, Status

RECENT_S = 60.0
"""Back to which rates are counted."""
_LAST = 64
"""Episodes of a phase by which its pace is told."""
_NEWEST = 5
_COMMITS = 20
"""Newest ones in which verdicts are looked for at first."""
_VERDICTS: tuple[EventKind, ...] = ("activate", "reject", "retire", "restore")

Key = tuple[str, int, str]
"""Phase, generation and arm."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was decided about a record."""

    kind: EventKind
    record: str
    """Its id."""
    text: str
    generation: int
    evidence: Mapping[str, Any]


@dataclass
class Phase:
    """Episodes of one phase of one generation, and of one arm where arms follow each other."""

    done: int = 0
    scores: dict[str, list[float]] = field(default_factory=dict)
    """By task; episodes that infrastructure failed are left out."""
    last: deque[float] = field(default_factory=lambda: deque(maxlen=_LAST))
    """When they ended; before the first of them, when the episode before it did."""

    @property
    def per_second(self) -> float | None:
        """Of the newest ones; None where nothing tells. Episodes end by the handful, so the wait before them counts."""
        span = self.last[-1] - self.last[0] if self.last else 0.0
        return (len(self.last) - 1) / span if span > 0 else None


class Chronicle:
    """Of one open ledger, which it closes."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._since = 0
        self._before: float | None = None
        """When the newest episode ended."""
        self._head = ""
        self._known: list[str] = []
        """Commits whose verdicts were read."""
        self._measured: tuple[object, Interval] = (None, Interval(0.0, 0.0, 0.0))
        """Of what, and what came out: an interval takes thousands of resamples."""
        self.episodes = self.calls = self.tokens = 0
        self.phases: dict[Key, Phase] = {}
        self.newest_phase: Key | None = None
        self.lately: deque[Ended] = deque()
        """Of the last `RECENT_S` seconds."""
        self.failures: Counter[str] = Counter()
        self.held_out: dict[int, Interval] = {}
        """Success by generation, of those that are finished."""
        self.records: Mapping[Status, int] = {}
        self.newest: tuple[Record, ...] = ()
        self.verdicts: deque[Verdict] = deque(maxlen=_NEWEST)
        """Newest last."""

    def follow(self, config: RunConfig | None) -> None:
        """Read what is new."""
        self._follow_episodes(opponent=config is not None and "opponent" in config.roles)
        self._follow_memory()
        for number, payload in self._ledger.generations().items():
            if number not in self.held_out:
                self.held_out[number] = _interval(json.loads(payload)["scores"], config)

    def score(self, key: Key, config: RunConfig | None) -> Interval | None:
        """Of a phase so far, by task; None before two episodes."""
        found = self.phases.get(key)
        if found is None or found.done < 2:
            return None
        if self._measured[0] != (key, found.done):
            self._measured = ((key, found.done), _interval(found.scores, config))
        return self._measured[1]

    def close(self) -> None:
        self._ledger.close()

    # -- inside ----------------------------------------------------------------------------------------------------

    def _follow_episodes(self, *, opponent: bool) -> None:
        before = self._before
        for each in self._ledger.ended(self._since):
            self._since = each.seq
            self.episodes += 1
            self.calls += each.calls
            self.tokens += each.tokens
            self.newest_phase = phase_key(each.phase, each.generation, each.arm)
            phase = self.phases.setdefault(self.newest_phase, Phase())
            if not phase.done and before is not None:
                phase.last.append(before)
            phase.done += 1
            phase.last.append(before := each.ended_at)
            self.lately.append(each)
            if each.failure:
                self.failures[each.failure] += 1
            else:  # beside an opponent only the last seat learns, see `solutions.seats`
                phase.scores.setdefault(each.task, []).append(each.scores[-1] if opponent else fmean(each.scores))
        self._before = before
        while self.lately and self.lately[0].ended_at < time.time() - RECENT_S:
            self.lately.popleft()

    def _follow_memory(self) -> None:
        if (head := self._ledger.head()) == self._head:
            return
        records, line, gone = self._ledger.records(), self._ledger.commits(), self._ledger.reverted()
        learned = [each for each in records.values() if each.kind in LEARNED]
        counts = Counter(each.status for each in learned)
        self.records = {status: counts[status] for status in STATUSES if counts[status]}
        self.newest = tuple(reversed(learned[-_NEWEST:]))
        # After a revert, or on another branch, what was decided is told anew.
        grown = [each.id for each in line[: len(self._known)]] == self._known and not gone
        if not grown:
            self.verdicts.clear()
        for commit in line[len(self._known) if grown else 0 :][-_COMMITS:]:
            for event in self._ledger.events_of(commit.id) if commit.id not in gone else ():
                if _tells(event, records):
                    self.verdicts.append(_verdict(event, records, commit.generation))
        self._head, self._known = head, [each.id for each in line]


def phase_key(phase: str, generation: int, arm: str) -> Key:
    """Arms of a gate are played in turn; those of an evaluation one after another."""
    return phase, generation, "" if phase == "gate" else arm.partition("/")[0]


def _interval(scores: Mapping[str, Sequence[float]], config: RunConfig | None) -> Interval:
    from evolvent.agents.evaluation.statistics import interval

    return interval(scores, seed=config.seed if config else 0)


def _tells(event: Event, records: Mapping[str, Record]) -> bool:
    """A verdict. Raw trajectories leave the prompt by the hundred, and nobody judged them."""
    known = records.get(event.record_id)
    return event.kind in _VERDICTS and (known is None or known.kind != "trajectory")


def _verdict(event: Event, records: Mapping[str, Record], generation: int) -> Verdict:
    known = records.get(event.record_id)
    text = known.text if known else event.record_id
    return Verdict(event.kind, event.record_id, text, generation, event.payload)
