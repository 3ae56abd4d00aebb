"""Memory as text: a whole history, or the records of one commit, as JSON lines.

A history holds everything the ledger stores but vectors, which are a cache. It is the same bytes for the same ledger,
and importing it gives a ledger that exports the same bytes: events and trajectories are copied letter for letter,
because commit ids are made of them. The last line closes the file with a count and a checksum, so one that was cut off
or changed is noticed. An import is complete or leaves nothing behind.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sqlite3
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from evolvent.environments.types import Trajectory, dump, load
from evolvent.memory.errors import BadImportError, LedgerUnwritableError
from evolvent.memory.fsck import check_ledger
from evolvent.memory.ledger import Ledger
from evolvent.memory.schema import connect
from evolvent.memory.store import Memory
from evolvent.memory.types import Event, Record, record_id

_VERSION = 1
_HISTORY, _RECORDS = "evolvent-history", "evolvent-records"
_TABLES = ("commits", "events", "refs", "head", "episodes", "trajectories", "memos", "generations")
"""In the order of the file. Recalls are in the trajectories."""
_BODIES: Mapping[str, type[Event] | type[Trajectory]] = {"events": Event, "trajectories": Trajectory}
_TYPES: Mapping[str, tuple[type, ...]] = {"INTEGER": (int,), "REAL": (int, float), "TEXT": (str,), "BLOB": (bytes,)}


@dataclass(frozen=True, slots=True)
class Imported:
    commit: str
    """The head afterwards."""
    added: tuple[str, ...]
    known: tuple[str, ...]
    """Records that were there already and stay as they were."""


def export_jsonl(ledger: Ledger, file: str | Path) -> int:
    """Write the whole history and give the number of lines. A reader's view: one transaction, whatever is written.

    Raises:
        LedgerUnwritableError: the file cannot be written; one that was there is as it was.
    """
    return _write(file, history_lines(ledger))


def history_lines(ledger: Ledger) -> Iterator[str]:
    """The lines of `export_jsonl`, each with its line break."""
    return _closed(_HISTORY, _rows(ledger.path))


def export_records(records: Mapping[str, Record], file: str | Path) -> int:
    """Write records alone, in order of id and with sorted keys: equal states give equal bytes.

    Raises:
        LedgerUnwritableError: the file cannot be written; one that was there is as it was.
    """
    return _write(file, record_lines(records))


def record_lines(records: Mapping[str, Record]) -> Iterator[str]:
    """The lines of `export_records`, each with its line break."""
    return _closed(_RECORDS, (_json(json.loads(dump(records[key]))) for key in sorted(records)))


def import_jsonl(file: str | Path, directory: str | Path) -> Path:
    """Make the ledger of a history in `directory`, new or empty, and give the ledger's path.

    Its index is made, and its texts are embedded, when the memory is next opened for writing.

    Raises:
        BadImportError: the file is foreign, cut off, changed or malformed; names the line. Nothing was made.
        LedgerUnwritableError: the directory holds something, or cannot be made.
    """
    file, directory = Path(file), Path(directory)
    if directory.exists() and not (directory.is_dir() and not any(directory.iterdir())):
        raise LedgerUnwritableError(f"{directory} is there already and not an empty directory; name a new one.")
    building = directory.with_name(f".{directory.name}.importing-{os.getpid()}")
    path = building / "ledger.sqlite"
    try:
        building.mkdir(parents=True)
        with closing(connect(path, read_only=False)) as db:
            _fill(db, file)
        problems = check_ledger(path)
        if problems:
            raise BadImportError(f"{file} is no sound history: " + " ".join(str(each) for each in problems[:5]))
        building.rename(directory)
    except (OSError, sqlite3.OperationalError) as error:
        raise LedgerUnwritableError(f"Cannot make a memory in {directory}: {error}") from error
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return directory / path.name


def import_records(file: str | Path, memory: Memory, *, trust: float = 0.0) -> Imported:
    """Take in records that somebody exported, as candidates with at most this trust; by default they start quarantined.

    What memory has already stays as it is. Their lift and recalls were earned elsewhere and do not come along, and of
    their parents only those that are in the file, because ids of episodes mean something in one ledger only; the others
    are kept in `meta["foreign_parents"]`.

    Raises:
        BadImportError: the file is foreign, cut off, changed or malformed; names the line. Nothing was added.
            The trust is outside [0, 1].
    """
    file = Path(file)
    if not 0 <= trust <= 1:
        raise BadImportError(f"Trust is {trust!r}; expected a number from 0 (nobody vouches for the records) to 1.")
    records: dict[str, Record] = {}
    for number, line in _checked(file, _RECORDS):
        with _reading(file, number):
            record = load(Record, line)
            if record.id != record_id(record.kind, record.text, record.scope):
                raise ValueError(f"id {record.id!r} is not that of its kind, text and scope")
            records[record.id] = record
    known = tuple(key for key in records if key in memory.records())
    events = [
        Event("add", key, _stranger(record, records, trust)) for key, record in records.items() if key not in known
    ]
    if not events:
        return Imported(memory.ledger.head(), (), known)
    commits = memory.ledger.commits()
    generation = commits[-1].generation if commits else 0
    digest = hashlib.sha256("\n".join(dump(event) for event in events).encode()).hexdigest()[:16]
    commit = memory.commit(f"import/{digest}", events, generation=generation, note=f"records of {file.name}")
    return Imported(commit, tuple(event.record_id for event in events), known)


def _stranger(record: Record, together: Mapping[str, Record], trust: float) -> Record:
    foreign = [parent for parent in record.parents if parent not in together]
    stated = record.meta.get("trust", 1.0)
    least = min(stated, trust) if isinstance(stated, int | float) else trust
    meta = {**record.meta, **({"foreign_parents": foreign} if foreign else {}), "trust": least}
    return replace(
        record, status="candidate", meta=meta, parents=tuple(each for each in record.parents if each in together)
    )


# -- lines -----------------------------------------------------------------------------------------------------------


def _closed(kind: str, rows: Iterable[str]) -> Iterator[str]:
    """Rows between a header and a last line that vouches for all before it."""
    digest, count = hashlib.sha256(), 0
    for row in chain([_json({"format": kind, "version": _VERSION})], rows):
        line = f"{row}\n"
        digest.update(line.encode())
        count += 1
        yield line
    yield _json({"end": {"lines": count, "sha256": digest.hexdigest()}}) + "\n"


def _checked(file: Path, kind: str) -> Iterator[tuple[int, str]]:
    """(number, line) between header and last line; raises at the first that is not what was exported."""
    digest, number, ended = hashlib.sha256(), 0, False
    try:
        with file.open("rb") as lines:
            for number, raw in enumerate(lines, 1):
                with _reading(file, number):
                    line = raw.decode()
                    if ended:
                        raise ValueError("there is something after the last line")
                    if number == 1:
                        _check_header(line, kind)
                    elif line.startswith('{"end":'):
                        ended = True
                        if json.loads(line)["end"] != {"lines": number - 1, "sha256": digest.hexdigest()}:
                            raise ValueError("the lines before are not those that were exported: the checksum differs")
                    else:
                        yield number, line.rstrip("\n")
                    digest.update(raw)
    except OSError as error:
        raise BadImportError(f"Cannot read {file}: {error.strerror}. Give a file that `export` wrote.") from error
    if not ended:
        raise BadImportError(f"{file} was cut off after line {number}: the last line is missing. Export it again.")


def _check_header(line: str, kind: str) -> None:
    header = json.loads(line)
    if not isinstance(header, dict) or header.get("format") != kind:
        raise ValueError(f"expected the header of an {kind!r} file")
    if header.get("version") != _VERSION:
        raise ValueError(f"it has format version {header.get('version')!r}; this Evolvent reads {_VERSION}")


@contextmanager
def _reading(file: Path, number: int) -> Iterator[None]:
    """What a line breaks when it is read comes out as one error that names it."""
    try:
        yield
    except (ValueError, KeyError, TypeError, zlib.error, sqlite3.IntegrityError) as error:
        if isinstance(error, BadImportError):
            raise
        first = error.errors()[0] if isinstance(error, ValidationError) else None
        what = f"{'.'.join(map(str, first['loc']))}: {first['msg']}" if first else str(error)
        raise BadImportError(f"{file}, line {number}: {what}. Nothing was imported; export it again.") from error


def _write(file: str | Path, lines: Iterable[str]) -> int:
    file = Path(file)
    part = file.with_name(f".{file.name}.part")
    count = 0
    try:
        with part.open("w", encoding="utf-8", newline="\n") as out:
            for line in lines:
                out.write(line)
                count += 1
        part.replace(file)
    except OSError as error:
        raise LedgerUnwritableError(f"Cannot write {file}: {error.strerror}. Nothing was exported.") from error
    finally:
        part.unlink(missing_ok=True)
    return count


def _json(value: Any) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"), allow_nan=False)


# -- tables ----------------------------------------------------------------------------------------------------------


def _rows(path: Path) -> Iterator[str]:
    """Each row of each table, `{"TABLE":{"COLUMN":VALUE}}`; a body stands in it as the JSON it is."""
    with closing(connect(path, read_only=True)) as db:
        db.execute("BEGIN")
        for table in _TABLES:
            columns = list(_columns(db, table))
            for values in db.execute(f"SELECT {', '.join(columns)} FROM {table} ORDER BY {_order(columns)}"):
                row = dict(zip(columns, values, strict=True))
                if table not in _BODIES:
                    yield _json({table: row})
                    continue
                body = row.pop("body")
                text = zlib.decompress(body).decode() if isinstance(body, bytes) else body
                yield f'{{"{table}":{{"body":{text},{_json(row)[1:]}}}'


def _fill(db: sqlite3.Connection, file: Path) -> None:
    """Every line into the tables of a new ledger, in one transaction."""
    columns = {table: _columns(db, table) for table in _TABLES}
    db.execute("BEGIN")
    db.execute("DELETE FROM head")
    for number, line in _checked(file, _HISTORY):
        with _reading(file, number):
            table, row = _parsed(line, columns)
            recalled = []
            if table in _BODIES:
                body = load(_BODIES[table], row["body"])
                if isinstance(body, Trajectory):
                    row["body"] = zlib.compress(row["body"].encode(), 1)
                    recalled = [(row["seq"], each.record, each.shown, each.probability) for each in body.recalled]
            names = list(row)
            marks = ", ".join("?" * len(names))
            db.execute(f"INSERT INTO {table} ({', '.join(names)}) VALUES ({marks})", [row[name] for name in names])
            db.executemany("INSERT INTO recalls (trajectory, record, shown, probability) VALUES (?, ?, ?, ?)", recalled)
    db.execute("COMMIT")


def _parsed(line: str, columns: Mapping[str, Mapping[str, str]]) -> tuple[str, dict[str, Any]]:
    """Table and row of a line, its body as the text it was."""
    value = json.loads(line)
    if not isinstance(value, dict) or len(value) != 1:
        raise ValueError("expected an object with the name of one table")
    ((table, row),) = value.items()
    if table not in columns or not isinstance(row, dict) or set(row) != set(columns[table]):
        wanted = f"columns {', '.join(columns[table])}" if table in columns else f"one of {', '.join(columns)}"
        raise ValueError(f"{table!r} is not a row of a ledger; expected {wanted}")
    if table in _BODIES:
        start = f'{{"{table}":{{"body":'
        if not line.startswith(start):
            raise ValueError("the body does not come first, so its letters cannot be kept")
        _, end = json.JSONDecoder().raw_decode(line, len(start))
        row["body"] = line[len(start) : end]
    for name, kind in columns[table].items():
        if name != "body" and (type(row[name]) not in _TYPES[kind]):
            raise ValueError(f"{table}.{name} is {row[name]!r}; expected {kind.lower()}")
    return table, row


def _columns(db: sqlite3.Connection, table: str) -> dict[str, str]:
    """Declared type of each column, in order of their names, so that a body comes first."""
    return dict(sorted((row[1], row[2]) for row in db.execute(f"PRAGMA table_info({table})")))


def _order(columns: list[str]) -> str:
    return "seq" if "seq" in columns else ", ".join(columns)
