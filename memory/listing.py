"""Trajectories as a list: filtered, sorted and cut into pages by SQL, over the columns of the ledger's tables alone.

A list of 100,000 reads no body: what a page shows stands in columns, and what it counts is counted in one pass.
"""

from __future__ import annotations

import json
import sqlite3
from dataclasses import dataclass
from typing import Literal, NamedTuple

from evolvent.environments.types import Failure, Phase

Result = Literal["success", "no success", "failed"]
"""Failed: infrastructure, not skill, ended the episode."""
Column = Literal["added", "task", "score", "tokens", "calls", "seconds"]
"""What a list can be sorted by; `added` is the order in which episodes ended."""

_PREFIX = "e.phase || '/' || e.generation || '/' || e.task || '/' || e.attempt || '/'"
_ARM = f"CASE WHEN instr(e.key, {_PREFIX}) = 1 THEN substr(e.key, length({_PREFIX}) + 1) ELSE '' END"
"""The rest of a key `phase/generation/task/attempt/arm`."""
_RESULT = "CASE WHEN t.failure <> '' THEN 'failed' WHEN t.success THEN 'success' ELSE 'no success' END"
_SORTED: dict[Column, str] = {
    "added": "t.seq",
    "task": "e.task",
    "score": "t.score",
    "tokens": "t.tokens_in + t.tokens_out",
    "calls": "t.calls",
    "seconds": "t.seconds",
}
_FROM = "FROM trajectories t JOIN episodes e ON e.seq = t.episode"


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which trajectories: those that have all that is given."""

    id: str = ""
    task: str = ""
    """Exactly this one."""
    task_has: str = ""
    """Part of the task's id; capital and small letters from A to Z are alike."""
    phase: str = ""
    generation: int | None = None
    result: str = ""
    player: str = ""
    arm: str = ""


@dataclass(frozen=True, slots=True)
class Listed:
    """A trajectory in a list."""

    id: str
    episode: str
    phase: Phase
    generation: int
    environment: str
    task: str
    attempt: int
    arm: str
    """Side of a comparison; empty where nothing was compared."""
    player: str
    score: float
    """In [0, 1]."""
    result: Result
    failure: Failure
    tokens: int
    """In and out."""
    calls: int
    seconds: float
    ended_at: float
    """Seconds since the epoch."""
    shown: int
    """Records that stood in its prompts."""
    withheld: int
    """Records that were found and left out by rule dropout."""


class Group(NamedTuple):
    """What a list can be narrowed to."""

    phase: str
    generation: int
    result: str
    player: str
    arm: str


def page(db: sqlite3.Connection, wanted: Wanted, by: Column, descending: bool, limit: int, offset: int) -> list[Listed]:
    where, values = _where(wanted)
    way = "DESC" if descending else "ASC"
    query = (
        f"SELECT t.seq, t.id, e.key, e.phase, e.generation, e.environment, e.task, e.attempt, {_ARM}, t.player, "
        f"t.score, {_RESULT}, t.failure, t.tokens_in + t.tokens_out, t.calls, t.seconds, e.created_at "
        f"{_FROM} {where} ORDER BY {_SORTED[by]} {way}, t.seq DESC LIMIT ? OFFSET ?"
    )
    rows = db.execute(query, [*values, limit, offset]).fetchall()
    counted = (
        "SELECT trajectory, SUM(shown <> 0), SUM(shown = 0) FROM recalls "
        "WHERE trajectory IN (SELECT value FROM json_each(?)) GROUP BY trajectory"
    )
    recalled = {row[0]: row[1:] for row in db.execute(counted, (json.dumps([row[0] for row in rows]),))}
    return [Listed(*row[1:], *recalled.get(row[0], (0, 0))) for row in rows]


def tally(db: sqlite3.Connection, task_has: str) -> dict[Group, int]:
    where, values = _where(Wanted(task_has=task_has))
    query = (
        f"SELECT e.phase, e.generation, {_RESULT}, t.player, {_ARM}, COUNT(*) {_FROM} {where} GROUP BY 1, 2, 3, 4, 5"
    )
    return {Group(*row[:5]): row[5] for row in db.execute(query, values)}


def _where(wanted: Wanted) -> tuple[str, list[str | int]]:
    asked: dict[str, str | int | None] = {
        "t.id = ?": wanted.id or None,
        "e.task = ?": wanted.task or None,
        "instr(lower(e.task), lower(?))": wanted.task_has or None,
        "e.phase = ?": wanted.phase or None,
        "e.generation = ?": wanted.generation,
        f"{_RESULT} = ?": wanted.result or None,
        "t.player = ?": wanted.player or None,
        f"{_ARM} = ?": wanted.arm or None,
    }
    given = {test: value for test, value in asked.items() if value is not None}
    return ("WHERE " + " AND ".join(given) if given else ""), list(given.values())
