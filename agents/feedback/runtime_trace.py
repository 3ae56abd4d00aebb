"""A traced call as a model reads it: units of lines that ran, with the local variables before and after each.

What stands here comes from a real run, never from a model (LDB, arXiv 2402.16906, §3.2).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

from evolvent.environments.execution import Trace, TracedLine

T = TypeVar("T")
Level = Literal["block", "line", "function"]
"""What one unit is: a visit to a basic block, one line, or the whole call."""


@dataclass(frozen=True, slots=True)
class Unit:
    number: int
    """From 1, in the order of the run; numbers of units that are not shown are left out."""
    lines: tuple[TracedLine, ...]
    before: Mapping[str, str]
    after: Mapping[str, str]


def units(trace: Trace, level: Level, most: int) -> list[Unit]:
    """The units of a trace; of more than `most`, the first half of these and the last half.

    At the level of functions there is one unit, and `most` is of its lines.
    """
    if level == "function":
        return _whole(trace, most)
    every = [
        Unit(_number(trace, place), block.lines, block.before, block.after) for place, block in enumerate(trace.blocks)
    ]
    if level == "line":
        every = [unit for block in every for unit in _lines(block)]
        every = [Unit(place, unit.lines, unit.before, unit.after) for place, unit in enumerate(every, 1)]
    return list(_ends(every, most))


def rendered(shown: Sequence[Unit]) -> str:
    """One paragraph a unit, with a word where units are missing."""
    parts: list[str] = []
    last = 0
    for unit in shown:
        if unit.number > last + 1:
            parts.append(f"(blocks {last + 1} to {unit.number - 1} are not shown)")
        ran = [f"    {line.source}" for line in unit.lines]
        parts.append("\n".join([f"[block {unit.number}]", _values("before", unit.before), *ran]))
        parts[-1] += "\n" + _values("after", unit.after)
        last = unit.number
    return "\n\n".join(parts)


def _number(trace: Trace, place: int) -> int:
    """Of a visit, the ones that the trace itself left out in its middle counted."""
    return place + 1 + (trace.left_out if place >= len(trace.blocks) / 2 else 0)


def _lines(block: Unit) -> list[Unit]:
    states = [block.before, *(line.values for line in block.lines)]
    return [Unit(0, (line,), states[place], line.values) for place, line in enumerate(block.lines)]


def _whole(trace: Trace, most: int) -> list[Unit]:
    lines = [line for block in trace.blocks for line in block.lines]
    return [Unit(1, tuple(_ends(lines, most)), trace.blocks[0].before, trace.blocks[-1].after)] if lines else []


def _ends(every: Sequence[T], most: int) -> Sequence[T]:
    """The first half of `most` and the last, the middle one to the first."""
    if len(every) <= most:
        return every
    last = most // 2
    return [*every[: most - last], *every[len(every) - last :]]


def _values(when: str, values: Mapping[str, str]) -> str:
    told = ", ".join(f"{name} = {value}" for name, value in values.items())
    return f"{when}: {told or 'nothing yet'}"
