"""The toolbox's eight tools over a desk in memory: files, tables, a directory of facts, notes that were sent.

A result is made of `field: value` lines, so that what a later call needs can be copied out of it. A call that fails
changes nothing, and its error says what would have worked. Knows nothing of tasks.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Literal

from evolvent.environments.errors import FailedCallError
from evolvent.environments.solo import encodable
from evolvent.environments.types import ToolCall

LONGEST_TEXT = 2_000
"""Characters of a text argument."""
_LARGEST = 1e12
_ROWS_SHOWN = 12
_UNITS: Mapping[str, tuple[str, float]] = {
    "kg": ("weight", 1.0), "g": ("weight", 0.001), "lb": ("weight", 0.45359237),
    "km": ("length", 1000.0), "m": ("length", 1.0), "mi": ("length", 1609.344),
}  # fmt: skip
"""What a unit measures, and how much of the kind's first unit it is."""

Row = Mapping[str, str]
"""Column → value; all rows of a table have the same columns, the first of which names the row."""


@dataclass(slots=True)
class Desk:
    """What the tools work on. A call changes it in place, or fails and leaves it as it was."""

    directory: Mapping[str, Mapping[str, str]]
    """Name → field → value; read only."""
    files: dict[str, str] = field(default_factory=dict)
    tables: dict[str, tuple[Row, ...]] = field(default_factory=dict)
    notes: list[tuple[str, str]] = field(default_factory=list)
    """(mailbox, text), in the order they were sent."""


@dataclass(frozen=True, slots=True)
class Tool:
    parameters: Mapping[str, Literal["text", "number"]]
    """All of them are required."""
    does: str
    run: Callable[..., str]
    """Takes the desk and the arguments, raises `FailedCallError`."""
    destructive: bool = False
    """What it did cannot be undone."""


def call(desk: Desk, tools: Mapping[str, Tool], wanted: ToolCall) -> str:
    """Carry a call out; what the tool returned. A number may come as text, and a text as a number.

    Raises:
        FailedCallError: nothing was done; says what would have worked.
    """
    tool = tools.get(wanted.name)
    if tool is None:
        raise FailedCallError(f"There is no tool {wanted.name[:40]!r}. {_instead(wanted.name, tools)}")
    shape = signature(wanted.name, tool)
    for name in wanted.arguments:
        if name not in tool.parameters:
            raise FailedCallError(f"{wanted.name} takes no {name[:40]!r}. It is {shape}.")
    missing = [name for name in tool.parameters if name not in wanted.arguments]
    if missing:
        raise FailedCallError(f"{missing[0]} is missing. The tool is {shape}.")
    values: dict[str, str | float] = {}
    for name, kind in tool.parameters.items():
        value = _text(wanted.arguments[name]) if kind == "text" else _number(wanted.arguments[name])
        if value is None:
            expected = f"text of at most {LONGEST_TEXT:,} characters" if kind == "text" else "number up to 1e12"
            raise FailedCallError(f"{name} is a {expected}. The tool is {shape}.")
        values[name] = value
    return tool.run(desk, **values)


def signature(name: str, tool: Tool) -> str:
    """Name and parameters with their kinds."""
    return f"{name}({', '.join(f'{parameter}: {kind}' for parameter, kind in tool.parameters.items())})"


def fields(result: str) -> dict[str, str]:
    """The `field: value` lines of a result, in order; of two lines with one field the last holds."""
    pairs = (line.partition(": ") for line in result.splitlines())
    return {name.strip(): value.strip() for name, mark, value in pairs if mark}


def shown(number: float) -> str:
    """A number as results write it: two decimals at most, none that are zero."""
    return f"{round(number, 2) + 0.0:.2f}".rstrip("0").rstrip(".")


def converted(amount: float, unit: str, to: str) -> float:
    """An amount in another unit of the same kind; both are among the tool's."""
    return amount * _UNITS[unit][1] / _UNITS[to][1]


# -- the tools ---------------------------------------------------------------------------------------------------------


def _read_file(desk: Desk, path: str) -> str:
    if path not in desk.files:
        raise FailedCallError(f"There is no file {path[:80]!r}. {_instead(path, desk.files)}")
    return desk.files[path] or "The file is empty."


def _write_file(desk: Desk, path: str, text: str) -> str:
    if not path:
        raise FailedCallError("A path has at least one character, as in totals/1.txt.")
    desk.files[path] = text
    return f"written: {path}"


def _filter_table(desk: Desk, table: str, column: str, equals: str) -> str:
    rows = _column(desk, table, column)
    kept = tuple(row for row in rows if row[column].casefold() == equals.casefold())
    if not kept:
        values = dict.fromkeys(row[column] for row in rows)
        raise FailedCallError(f"No {column} of {table} is {equals[:40]!r}. {_instead(equals, values)}")
    name = f"{table}-{equals.lower()}"
    desk.tables[name] = kept
    return f"table: {name}\nrows: {len(kept)}\n{_drawn(kept)}"


def _sort_table(desk: Desk, table: str, column: str, order: str) -> str:
    rows = _column(desk, table, column)
    if order not in ("rising", "falling"):
        raise FailedCallError(f"order is rising or falling, not {order[:40]!r}.")
    numbers = {row[column]: _number(row[column]) for row in rows}
    if None in numbers.values():
        ordered = sorted(rows, key=lambda row: row[column], reverse=order == "falling")
    else:
        ordered = sorted(rows, key=lambda row: numbers[row[column]] or 0.0, reverse=order == "falling")
    first = next(iter(ordered[0].values()))
    return f"table: {table}\nfirst: {first}\n{_drawn(ordered)}"


def _convert(desk: Desk, amount: float, unit: str, to: str) -> str:
    for each in (unit, to):
        if each not in _UNITS:
            raise FailedCallError(f"There is no unit {each[:40]!r}. {_instead(each, _UNITS)}")
    if _UNITS[unit][0] != _UNITS[to][0]:
        raise FailedCallError(f"{unit} is a {_UNITS[unit][0]} and {to} a {_UNITS[to][0]}.")
    return f"result: {shown(converted(amount, unit, to))}"


def _calculate(desk: Desk, left: float, operator: str, right: float) -> str:
    if operator == "/" and right == 0:
        raise FailedCallError("Nothing can be divided by 0.")
    results: Mapping[str, Callable[[], float]] = {
        "+": lambda: left + right,
        "-": lambda: left - right,
        "*": lambda: left * right,
        "/": lambda: left / right,
    }
    if operator not in results:
        raise FailedCallError(f"operator is one of + - * /, not {operator[:40]!r}.")
    result = results[operator]()
    if not math.isfinite(result):  # a tiny divisor
        raise FailedCallError("The result is too large.")
    return f"result: {shown(result)}"


def _lookup(desk: Desk, name: str, field: str) -> str:
    facts = desk.directory.get(name.lower())
    if facts is None:
        raise FailedCallError(f"The directory has no {name[:40]!r}. {_instead(name, desk.directory)}")
    if field not in facts:
        raise FailedCallError(f"{name} has no {field[:40]!r}. {_instead(field, facts)}")
    return f"{field}: {facts[field]}"


def _send_note(desk: Desk, to: str, text: str) -> str:
    boxes = {facts["mailbox"] for facts in desk.directory.values() if "mailbox" in facts}
    if to not in boxes:
        raise FailedCallError(f"There is no mailbox {to[:40]!r}. The directory tells whose is which, as in box-12.")
    desk.notes.append((to, text))
    return f"sent: {to}"


TOOLS: Mapping[str, Tool] = {
    "read_file": Tool({"path": "text"}, "What a file says.", _read_file),
    "write_file": Tool(
        {"path": "text", "text": "text"}, "Writes a file; what it said before is lost.", _write_file, destructive=True
    ),
    "filter_table": Tool(
        {"table": "text", "column": "text", "equals": "text"},
        "Makes a new table of the rows with that value, and tells its name.",
        _filter_table,
    ),
    "sort_table": Tool(
        {"table": "text", "column": "text", "order": "text"},
        "Tells the rows in rising or falling order, and which is first.",
        _sort_table,
    ),
    "convert": Tool(
        {"amount": "number", "unit": "text", "to": "text"}, f"From one of {', '.join(_UNITS)} to another.", _convert
    ),
    "calculate": Tool({"left": "number", "operator": "text", "right": "number"}, "One of + - * /.", _calculate),
    "lookup": Tool(
        {"name": "text", "field": "text"},
        "A fact from the directory: price or kilograms of a thing, mailbox of a person or a ship.",
        _lookup,
    ),
    "send_note": Tool(
        {"to": "text", "text": "text"},
        "Sends a note to a mailbox; it cannot be called back.",
        _send_note,
        destructive=True,
    ),
}


def _column(desk: Desk, table: str, column: str) -> tuple[Row, ...]:
    if table not in desk.tables:
        raise FailedCallError(f"There is no table {table[:80]!r}. {_instead(table, desk.tables)}")
    rows = desk.tables[table]
    if column not in rows[0]:
        raise FailedCallError(f"{table} has no column {column[:40]!r}. {_instead(column, rows[0])}")
    return rows


def _drawn(rows: Collection[Row]) -> str:
    lines = [" | ".join(row.values()) for row in rows][:_ROWS_SHOWN]
    return "\n".join([" | ".join(next(iter(rows))), *lines])


def _instead(text: str, known: Collection[str]) -> str:
    near = difflib.get_close_matches(text[:100], known, n=3)
    if near:
        return f"Did you mean {' or '.join(near)}?"
    listed = list(known)
    more = f" and {len(listed) - 10} more" if len(listed) > 10 else ""
    return f"There are {', '.join(listed[:10])}{more}." if listed else "There are none."


def _text(value: object) -> str | None:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return None if _number(value) is None else shown(value)
    text = encodable(value).strip() if isinstance(value, str) else None
    return text if text is not None and len(text) <= LONGEST_TEXT else None


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):  # no number; a whole number beyond all floats
        return None
    return number if abs(number) <= _LARGEST else None  # NaN is no number up to anything
