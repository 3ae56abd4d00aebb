"""The ledger's tables, and how its SQLite file is opened.

Version 2 (branches): `commits.merged`, the second parent of a merge commit or "", and `head`, the branch that
commits go to. A file of version 1 is migrated when it is opened for writing, in one transaction, and can be read as is.
"""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

from evolvent.memory.errors import LedgerUnreadableError, LedgerUnwritableError

_VERSION = 2
_BUSY_S = 10

_TABLES = """
CREATE TABLE commits (
    seq INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, key TEXT NOT NULL, parent TEXT NOT NULL,
    generation INTEGER NOT NULL, note TEXT NOT NULL, created_at REAL NOT NULL, merged TEXT NOT NULL DEFAULT '');
CREATE INDEX commits_by_key ON commits (key);
CREATE TABLE events (
    seq INTEGER PRIMARY KEY, commit_id TEXT NOT NULL REFERENCES commits (id),
    kind TEXT NOT NULL, record TEXT NOT NULL, body TEXT NOT NULL);
CREATE INDEX events_by_commit ON events (commit_id);
CREATE INDEX events_by_record ON events (record);
CREATE TABLE refs (name TEXT PRIMARY KEY, commit_id TEXT NOT NULL);
CREATE TABLE head (branch TEXT NOT NULL);
INSERT INTO head VALUES ('main');
CREATE TABLE episodes (
    seq INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, phase TEXT NOT NULL, generation INTEGER NOT NULL,
    environment TEXT NOT NULL, task TEXT NOT NULL, attempt INTEGER NOT NULL, created_at REAL NOT NULL);
CREATE INDEX episodes_by_phase ON episodes (phase, generation);
CREATE TABLE trajectories (
    seq INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, episode INTEGER NOT NULL REFERENCES episodes (seq),
    player TEXT NOT NULL, score REAL NOT NULL, success INTEGER NOT NULL, failure TEXT NOT NULL,
    tokens_in INTEGER NOT NULL, tokens_out INTEGER NOT NULL, calls INTEGER NOT NULL, seconds REAL NOT NULL,
    body BLOB NOT NULL);
CREATE INDEX trajectories_by_episode ON trajectories (episode);
CREATE TABLE recalls (
    trajectory INTEGER NOT NULL REFERENCES trajectories (seq), record TEXT NOT NULL,
    shown INTEGER NOT NULL, probability REAL NOT NULL);
CREATE INDEX recalls_by_record ON recalls (record);
CREATE INDEX recalls_by_trajectory ON recalls (trajectory);
CREATE TABLE memos (key TEXT PRIMARY KEY, text TEXT NOT NULL, created_at REAL NOT NULL);
CREATE TABLE generations (number INTEGER PRIMARY KEY, payload TEXT NOT NULL, created_at REAL NOT NULL);
CREATE TABLE vectors (
    record TEXT NOT NULL, embedder TEXT NOT NULL, vector BLOB NOT NULL, PRIMARY KEY (record, embedder));
"""
_FROM_1 = """
ALTER TABLE commits ADD COLUMN merged TEXT NOT NULL DEFAULT '';
CREATE INDEX recalls_by_trajectory ON recalls (trajectory);
CREATE TABLE head (branch TEXT NOT NULL);
INSERT INTO head VALUES ('main');
"""
# A file that may not be changed is read through views that say what the migration would have written.
_AS_IF_FROM_1 = """
PRAGMA temp_store = MEMORY;
CREATE TEMP VIEW commits AS SELECT seq, id, key, parent, generation, note, created_at, '' AS merged FROM main.commits;
CREATE TEMP VIEW head AS SELECT 'main' AS branch;
"""
_FROZEN = ("commits", "events", "episodes", "trajectories", "recalls", "memos", "generations")
_TRIGGERS = "".join(
    f"CREATE TRIGGER {table}_never_{verb.lower()} BEFORE {verb} ON {table} "
    f"BEGIN SELECT RAISE(ABORT, '{table} are append-only'); END;\n"
    for table in _FROZEN
    for verb in ("UPDATE", "DELETE")
)


def connect(path: Path, read_only: bool) -> sqlite3.Connection:
    """The ledger's file, made when it is opened for writing and not there yet, migrated when it is older.

    Raises:
        LedgerUnreadableError, LedgerUnwritableError: see `Ledger`.
    """
    if read_only and not path.exists():
        raise LedgerUnreadableError(f"No ledger at {path}. Give the directory of a run, one that holds ledger.sqlite.")
    db: sqlite3.Connection | None = None
    try:
        db = sqlite3.connect(
            _uri(path, read_only), uri=True, isolation_level=None, check_same_thread=False, timeout=_BUSY_S
        )
        version = db.execute("PRAGMA user_version").fetchone()[0]
        if not read_only:
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("PRAGMA synchronous = FULL")  # NORMAL would survive a killed process, but not a power cut
            if version == 0:
                db.executescript(f"BEGIN IMMEDIATE; {_TABLES} {_TRIGGERS} PRAGMA user_version = {_VERSION}; COMMIT;")
                version = _VERSION
            elif version == 1:
                db.executescript(f"BEGIN IMMEDIATE; {_FROM_1} PRAGMA user_version = {_VERSION}; COMMIT;")
                version = _VERSION
        elif version == 1:
            db.executescript(_AS_IF_FROM_1)
            version = _VERSION
        if version != _VERSION:
            raise LedgerUnreadableError(f"{path} has ledger version {version}; this Evolvent reads 1 to {_VERSION}.")
        return db
    except (sqlite3.DatabaseError, LedgerUnreadableError) as error:
        if db is not None:
            db.close()
        if isinstance(error, LedgerUnreadableError):
            raise
        if not isinstance(error, sqlite3.OperationalError):
            raise LedgerUnreadableError(
                f"{path} is not a ledger: {error}. Restore it from a copy; it is the truth."
            ) from error
        if read_only:
            raise LedgerUnreadableError(f"Cannot read {path}: {error}.") from error
        raise LedgerUnwritableError(f"Cannot write {path}: {error}.") from error


def _uri(path: Path, read_only: bool) -> str:
    if not read_only:
        return f"{path.resolve().as_uri()}?mode=rwc"
    # A WAL database wants to write beside itself even to be read. Where that is forbidden (an archive, another user's
    # directory) a ledger that was closed properly has no WAL left and can be read as it lies.
    as_it_lies = not os.access(path.parent, os.W_OK) and not path.with_name(path.name + "-wal").exists()
    return f"{path.resolve().as_uri()}?mode=ro{'&immutable=1' if as_it_lies else ''}"
