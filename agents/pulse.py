"""What a running job is doing, followed from the files it writes. Only reads, and reads each byte once.

Episodes, generations, records and verdicts come from the ledger, whose tables are asked for what is new; model calls
from the end of `trace.jsonl`; the node of the recipe's graph from its checkpoint; steps of a training from its curve.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections import Counter, deque
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from evolvent.agents.chronicle import RECENT_S, Chronicle, Key, Phase, Verdict, phase_key
from evolvent.agents.findings import Reading
from evolvent.agents.run import RunConfig, read_config
from evolvent.agents.tail import Tail
from evolvent.memory.ledger import Ledger
from evolvent.memory.lock import writer
from evolvent.memory.types import Interval, Record, Status

STALLED_S = 180.0
"""Without a word for so long, a job that still runs may hang: the longest call, `Limits.timeout_s`, has passed."""
_CALLS = 2000
"""Newest calls among which failed ones are counted."""


@dataclass(frozen=True, slots=True)
class Progress:
    """Of the phase that goes on: episodes, or steps of a training."""

    what: str
    generation: int
    unit: str
    done: int
    expected: int | None
    """None where nothing tells."""
    about: bool
    """Whether `expected` is only what the generation before took."""
    per_second: float | None
    """None before two of them were done."""
    score: Interval | None = None
    """So far, of the episodes that infrastructure did not fail: preliminary, until the phase is over."""

    @property
    def left_s(self) -> float | None:
        """Until the end, at that pace; None where that cannot be told."""
        if not self.expected or not self.per_second or self.done > self.expected:
            return None
        return (self.expected - self.done) / self.per_second


@dataclass(frozen=True, slots=True)
class Pulse:
    """One look at a run."""

    directory: Path
    config: RunConfig | None = None
    writer: int | None = None
    """The process that writes to its memory; None where none does."""
    ended: bool = False
    """All its generations are finished."""
    quiet_s: float = 0.0
    """Since anything was written."""
    node: str = ""
    """Of the recipe's graph, that runs now or would run next."""
    doing: str = ""
    """Role and purpose of the newest model call."""
    progress: Progress | None = None
    held_out: Mapping[int, Interval] = field(default_factory=dict)
    """Success by generation, of those that are finished."""
    episodes: int = 0
    calls: int = 0
    """In episodes."""
    tokens: int = 0
    """The same, in and out."""
    calls_per_s: float | None = None
    """Lately; None where nobody writes, or nothing has come since we look."""
    tokens_per_s: float | None = None
    failed_tries: Mapping[str, int] = field(default_factory=dict)
    """By kind of error, among the newest `looked_at` calls; most were tried again."""
    looked_at: int = 0
    failures: Mapping[str, int] = field(default_factory=dict)
    """Episodes that infrastructure failed, by kind."""
    records: Mapping[Status, int] = field(default_factory=dict)
    """What was learned, by status."""
    newest: tuple[Record, ...] = ()
    """Newest first."""
    verdicts: tuple[Verdict, ...] = ()
    """Newest first."""
    problems: tuple[str, ...] = ()

    @property
    def state(self) -> str:
        """`running`, `stalled?`, `ended` or `stopped`."""
        if self.writer is not None:
            return "running" if self.quiet_s < STALLED_S else "stalled?"
        return "ended" if self.ended else "stopped"


class Follower:
    """Looks at one run again and again."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._trace = Tail(directory / "trace.jsonl")
        self._calls: deque[Mapping[str, Any]] = deque(maxlen=_CALLS)
        self._seen: deque[tuple[float, int, int]] = deque()
        """When we looked, and the calls and tokens that had come since we began to."""
        self._node: tuple[object, str] = ((), "")
        self._told: Chronicle | None = None
        self._opened: tuple[int, int] | None = None
        """Device and inode of the ledger that is open: another file in its place is read from its beginning."""

    def look(self) -> Pulse:
        """Never raises over what the directory holds."""
        reading = Reading()
        attempt = reading.attempt
        config = attempt("The configuration", lambda: read_config(self.directory))
        process = writer(self.directory / "ledger.lock")
        attempt("The trace", self._follow_trace)
        told = attempt("The memory", lambda: self._follow_ledger(config))
        node = attempt("The checkpoints", self._at_node) or ""
        newest = self._calls[-1] if self._calls else None
        training = attempt("The training", self._training) if process is not None else None
        errors = Counter(str(row["error"]).partition(":")[0] for row in self._calls if row.get("error"))
        pulse = Pulse(
            self.directory,
            config,
            process,
            quiet_s=max(0.0, time.time() - _written(self.directory)),
            node=node,
            doing=f"{newest.get('role', '')} {newest.get('purpose', '')}".strip() if newest else "",
            progress=training,
            failed_tries=dict(errors.most_common()),
            looked_at=len(self._calls),
        )
        if told is not None:
            rates = self._rates(told) if process is not None else (None, None)
            pulse = replace(
                pulse,
                ended=config is not None and max(told.held_out, default=-1) >= config.generations,
                progress=training or attempt("The progress", lambda: _progress(told, config, newest)),
                held_out=dict(told.held_out),
                episodes=told.episodes,
                calls=told.calls,
                tokens=told.tokens,
                calls_per_s=rates[0],
                tokens_per_s=rates[1],
                failures=dict(told.failures.most_common()),
                records=told.records,
                newest=told.newest,
                verdicts=tuple(reversed(told.verdicts)),
            )
        return replace(pulse, problems=tuple(reading.problems))

    def close(self) -> None:
        if self._told is not None:
            self._told.close()
            self._told = None

    # -- inside ----------------------------------------------------------------------------------------------------

    def _follow_ledger(self, config: RunConfig | None) -> Chronicle | None:
        """None where the run has not begun: models are loaded before there is a ledger."""
        file = self.directory / "ledger.sqlite"
        there = (found.st_dev, found.st_ino) if (found := _stat(file)) else None
        if there != self._opened:
            self.close()
        if self._told is None:
            if there is None and config is not None and not (self.directory / "trace.jsonl").exists():
                return None
            self._told, self._opened = Chronicle(Ledger(file, read_only=True)), there
        try:
            self._told.follow(config)
        except (sqlite3.Error, ValueError):
            self.close()  # what is damaged is read from its beginning the next time
            raise
        return self._told

    def _follow_trace(self) -> None:
        rows = self._trace.new()
        self._calls.extend(row for row in rows if "role" in row)
        _, calls, tokens = self._seen[-1] if self._seen else (0.0, 0, 0)
        if self._seen:  # what was there at the first look tells nothing of now
            calls += len(rows)
            tokens += sum(int(row.get("tokens_in", 0)) + int(row.get("tokens_out", 0)) for row in rows)
        self._seen.append((time.monotonic(), calls, tokens))
        while self._seen[-1][0] - self._seen[0][0] > RECENT_S:
            self._seen.popleft()

    def _rates(self, told: Chronicle) -> tuple[float | None, float | None]:
        """Calls and tokens a second: as they came since we look, at the first look as the newest episodes tell."""
        first, last = (self._seen[0], self._seen[-1]) if self._seen else ((0.0, 0, 0), (0.0, 0, 0))
        if (span := last[0] - first[0]) >= 1:
            return (last[1] - first[1]) / span, (last[2] - first[2]) / span
        if len(told.lately) < 2:
            return None, None
        span = max(1.0, time.time() - told.lately[0].ended_at)
        return sum(each.calls for each in told.lately) / span, sum(each.tokens for each in told.lately) / span

    def _at_node(self) -> str:
        """Read only when the checkpoints were written to."""
        file = self.directory / "checkpoints.sqlite"
        stamp = (_stamp(file), _stamp(file.with_name(f"{file.name}-wal")))
        if stamp != self._node[0]:
            self._node = (stamp, _node(file) if stamp[0] else "")
        return self._node[1]

    def _training(self) -> Progress | None:
        """The training that writes its curve now, if one does."""
        curves = (self.directory / "training").glob("*/loss.jsonl")
        newest = max(((_written_at(each), each) for each in curves), default=None)
        if newest is None or newest[0] < _written_at(self.directory / "trace.jsonl"):
            return None
        rows = Tail(newest[1]).new()
        if not rows or rows[-1]["step"] >= rows[-1]["of"]:
            return None
        last, name = rows[-1], newest[1].parent.name
        generation = int(name.partition("-")[0]) if name.partition("-")[0].isdigit() else 0
        pace = last["step"] / last["seconds"] if last["seconds"] else None
        return Progress(name, generation, "steps", last["step"], last["of"], False, pace)


def _progress(told: Chronicle, config: RunConfig | None, newest: Mapping[str, Any] | None) -> Progress | None:
    """Of the phase of the newest call, or else of the newest episode."""
    key = _phase_of(newest) if newest else told.newest_phase
    if key is None:
        return None
    phase, generation, arm = key
    found = told.phases.get(key, Phase())
    expected, about = None, False
    before = told.phases.get((phase, generation - 1, arm))
    if phase == "eval" and not arm and config is not None:
        expected = config.evaluated
    elif before is not None:
        expected, about = before.done, True
    elif phase == "train" and config is not None:
        expected, about = config.tasks * int(getattr(config.recipe_config(), "attempts", 1)), True
    if expected is not None and found.done > expected:
        expected, about = None, False
    # At a gate play those with a candidate and those without it.
    score = told.score(key, config) if phase != "gate" else None
    what, pace = f"{phase} {arm}".strip(), found.per_second
    return Progress(what, generation, "episodes", found.done, expected, about, pace, score)


def _phase_of(call: Mapping[str, Any]) -> Key:
    place = "{phase}/{generation}/{task}/{attempt}".format(**call)
    episode = str(call["episode"])
    arm = episode.removeprefix(place).removeprefix("/") if episode.startswith(place) else ""
    return phase_key(str(call["phase"]), int(call["generation"]), arm)


def _node(file: Path) -> str:
    """The node that the newest checkpoint leads to; empty where the graph has come to its end."""
    from langgraph.checkpoint.sqlite import SqliteSaver

    uri = f"{file.resolve().as_uri()}?mode=ro"
    with closing(sqlite3.connect(uri, uri=True, check_same_thread=False)) as connection:
        saver = SqliteSaver(connection)
        saver.is_setup = True  # the setting up would write
        found = saver.get_tuple({"configurable": {"thread_id": "run"}})
    values = found.checkpoint["channel_values"] if found else {}
    return next((name.removeprefix("branch:to:") for name in values if name.startswith("branch:to:")), "")


def _written(directory: Path) -> float:
    """When anything of the run was written last; seconds since the epoch."""
    names = ("config.json", "ledger.sqlite", "ledger.sqlite-wal", "trace.jsonl", "metrics.jsonl")
    files = [directory / name for name in (*names, "checkpoints.sqlite", "checkpoints.sqlite-wal")]
    return max(map(_written_at, [*files, *(directory / "training").glob("*/*")]))


def _written_at(file: Path) -> float:
    """0 of an empty one: whoever reads a database may leave such a file beside it."""
    return found.st_mtime if (found := _stat(file)) and found.st_size else 0.0


def _stamp(file: Path) -> tuple[int, int] | None:
    return (found.st_mtime_ns, found.st_size) if (found := _stat(file)) else None


def _stat(file: Path) -> os.stat_result | None:
    try:
        return file.stat()
    except OSError:
        return None
