"""Pipelines: the calls of tools that met a goal, in a form that meets another goal like it (ICE, arXiv 2401.13996).

A node is a tool with its slots; edges say what comes next, and on which goals where it is not always the same. A slot
holds no value to be used again but every place where its value stood: words of the goal, fields of earlier results. Of
several places those stay that also held it the next time. A value that stood nowhere has to be asked for.
Calls and texts in, calls out: knows nothing of models, environments or memory.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import SequenceMatcher
from typing import Any

from evolvent.environments.types import ToolCall

START, END = -1, -2
"""Where edges begin before the first node, and lead to after the last one."""


@dataclass(frozen=True, slots=True)
class Call:
    """A call that was made, and what came of it."""

    tool: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    found: Mapping[str, str] = field(default_factory=dict)
    """Fields of its result."""
    failed: bool = False


@dataclass(frozen=True, slots=True)
class Words:
    """Words of the pipeline's goal; of another goal, those that stand in their place."""

    start: int
    count: int


@dataclass(frozen=True, slots=True)
class Result:
    """A field of what a tool returned earlier in the task."""

    tool: str
    field: str
    back: int = 1
    """1 is the tool's latest call, 2 the one before it; failed and repeated ones do not count."""


@dataclass(frozen=True, slots=True)
class Slot:
    name: str
    example: Any
    """Its value when it was learned: what to ask by, never what to fill it with."""
    sources: tuple[Words | Result, ...] = ()
    """Every place where the value stood, each time; none where it has to be asked for."""


@dataclass(frozen=True, slots=True)
class Node:
    tool: str
    slots: tuple[Slot, ...] = ()


@dataclass(frozen=True, slots=True)
class Edge:
    start: int
    end: int
    when: str = ""
    """The goal on which this way was gone, where there are others."""


@dataclass(frozen=True, slots=True)
class Pipeline:
    goal: str
    nodes: tuple[Node, ...] = ()
    edges: tuple[Edge, ...] = ()

    def following(self, node: int) -> list[Edge]:
        return [edge for edge in self.edges if edge.start == node]

    def tools(self) -> str:
        """Names of its tools in order; ways that part stand in brackets."""
        return _way(self, START)


def pruned(calls: Sequence[Call]) -> list[Call]:
    """Without those that failed and those that had been made before."""
    kept: list[Call] = []
    for call in calls:
        made = [(each.tool, each.arguments) for each in kept]
        if not call.failed and (call.tool, call.arguments) not in made:
            kept.append(call)
    return kept


def with_needed(calls: Sequence[Call], earlier: Sequence[Call]) -> list[Call]:
    """Calls behind those earlier ones that found what they, or one of those, took as arguments."""
    kept = list(calls)
    for call in reversed(earlier):
        handed = [_text(value) for each in kept for value in each.arguments.values()]
        if not call.failed and any(_same(found, value) for found in call.found.values() for value in handed):
            kept.insert(0, call)
    return kept


def pipeline_of(goal: str, before: Sequence[Call], calls: Sequence[Call]) -> Pipeline | None:
    """What a goal was met by; None where no call of it ran.

    Args:
        before: the task's calls ahead of those for this goal: they may have found what it needed.
    """
    return taught(Pipeline(goal), goal, before, calls) if pruned(calls) else None


def taught(pipeline: Pipeline, goal: str, before: Sequence[Call], calls: Sequence[Call]) -> Pipeline | None:
    """The pipeline after one more goal like its own was met.

    Where the calls are its own, a slot keeps the places that held its value this time too; where they leave it, it
    gets another way. None where they begin otherwise: that is a pipeline of its own.
    """
    nodes, edges, here = list(pipeline.nodes), list(pipeline.edges), START
    done = list(before)
    for call in pruned(calls):
        known = pruned(done)
        ways = [edge for edge in edges if edge.start == here and edge.end != END]
        alike = {edge.end: _narrowed(nodes[edge.end], call, pipeline.goal, goal, known) for edge in ways}
        there = next((end for end, node in alike.items() if node is not None), None)
        if there is None:
            if here == START and nodes:
                return None
            there = len(nodes)
            nodes.append(_node(call, pipeline.goal, goal, known))
            edges = _with_edge(edges, here, there, pipeline.goal, goal)
        else:
            nodes[there] = alike[there] or nodes[there]
        here = there
        done.append(call)
    if Edge(here, END) not in [replace(edge, when="") for edge in edges]:
        edges = _with_edge(edges, here, END, pipeline.goal, goal)
    return Pipeline(pipeline.goal, tuple(nodes), tuple(edges))


def reached(pipeline: Pipeline, goal: str, before: Sequence[Call], calls: Sequence[Call]) -> int | None:
    """The node that calls for a goal have led to; None where they left the pipeline."""
    here, done = START, list(before)
    for call in calls:
        ways = [edge.end for edge in pipeline.following(here) if edge.end != END]
        same = [end for end in ways if pipeline.nodes[end].tool == call.tool]
        if not same or call.failed:
            return None
        known = pruned(done)
        # What was asked for may be what no place held: then the tool alone tells which way was gone.
        fit = [end for end in same if _narrowed(pipeline.nodes[end], call, pipeline.goal, goal, known) is not None]
        here = (fit or same)[0]
        done.append(call)
    return here


def copied(slot: Slot, pipeline: Pipeline, goal: str, done: Sequence[Call]) -> str | float | None:
    """What all of a slot's places hold for a goal; None where they hold nothing, or not the same.

    Args:
        done: all calls of the task so far.
    """
    held = [_held(source, pipeline.goal, goal, pruned(done)) for source in slot.sources]
    values = [value for value in held if value is not None]
    if not values or not all(_same(values[0], value) for value in values):
        return None
    return as_example(slot, values[0])


def as_example(slot: Slot, text: str) -> str | float | None:
    """A text as a value of the kind that the slot takes; None where it is none."""
    if isinstance(slot.example, str):
        return text
    return _number(text) if _is_number(slot.example) else None


def without_arguments(goal: str, calls: Sequence[Call]) -> str:
    """A goal with "…" for the words that calls took as arguments."""
    words = goal.split()
    plain = _words(goal)
    for value in (value for call in calls for value in call.arguments.values()):
        for start, count in _spans(_text(value), plain):
            for at in range(start, start + count):
                words[at] = words[at].replace(plain[at], "…") if plain[at] else words[at]
    return " ".join(words)


def _node(call: Call, learned: str, goal: str, known: Sequence[Call]) -> Node:
    return Node(
        call.tool,
        tuple(
            Slot(name, value, tuple(_places(_text(value), learned, goal, known)))
            for name, value in call.arguments.items()
        ),
    )


def _narrowed(node: Node, call: Call, learned: str, goal: str, known: Sequence[Call]) -> Node | None:
    """The node with the places that hold the call's values as well; None where it is another call."""
    if node.tool != call.tool or {slot.name for slot in node.slots} != call.arguments.keys():
        return None
    slots = []
    for slot in node.slots:
        value = _text(call.arguments[slot.name])
        held = ((source, _held(source, learned, goal, known)) for source in slot.sources)
        still = tuple(source for source, text in held if text is not None and _same(text, value))
        if slot.sources and not still:
            return None
        slots.append(replace(slot, sources=still))
    return replace(node, slots=tuple(slots))


def _places(value: str, learned: str, goal: str, known: Sequence[Call]) -> Iterator[Words | Result]:
    """Every place that holds a value, as seen from the goal that was learned first."""
    count = len(_words(value))
    for start in range(len(_words(learned)) - count + 1 if count else 0):
        held = _counterpart(Words(start, count), learned, goal)
        if held is not None and _same(held, value):
            yield Words(start, count)
    seen: dict[str, int] = {}
    for call in reversed(known):
        seen[call.tool] = seen.get(call.tool, 0) + 1
        for name, text in call.found.items():
            if value and _same(text, value):
                yield Result(call.tool, name, seen[call.tool])


def _held(source: Words | Result, learned: str, goal: str, known: Sequence[Call]) -> str | None:
    if isinstance(source, Words):
        return _counterpart(source, learned, goal)
    of_tool = [call for call in known if call.tool == source.tool]
    return of_tool[-source.back].found.get(source.field) if len(of_tool) >= source.back else None


def _counterpart(words: Words, learned: str, goal: str) -> str | None:
    """The words of a goal that stand where these stand in the goal that was learned; None where that is not clear."""
    old, new = _words(learned), _words(goal)
    first, last = words.start, words.start + words.count
    plain, other = ([word.casefold() for word in each] for each in (old, new))
    for tag, a, b, c, d in SequenceMatcher(None, plain, other, autojunk=False).get_opcodes():
        if a <= first and last <= b:
            aligned = tag == "equal" or (tag == "replace" and b - a == d - c)
            return " ".join(new[c + first - a : c + last - a]) if aligned else None
    return None


def _spans(value: str, words: Sequence[str]) -> list[tuple[int, int]]:
    """(start, count) of every stretch of words that says a value."""
    count = len(_words(value))
    starts = range(len(words) - count + 1) if count else range(0)
    return [(start, count) for start in starts if _same(" ".join(words[start : start + count]), value)]


def _with_edge(edges: Sequence[Edge], start: int, end: int, learned: str, goal: str) -> list[Edge]:
    """An edge that is alone has no condition; once it is not, each tells the goal that it was gone for."""
    if not any(edge.start == start for edge in edges):
        return [*edges, Edge(start, end)]
    told = [replace(edge, when=edge.when or learned) if edge.start == start else edge for edge in edges]
    return [*told, Edge(start, end, goal)]


def _way(pipeline: Pipeline, node: int) -> str:
    ways = []
    for edge in pipeline.following(node):
        beyond = _way(pipeline, edge.end) if edge.end != END else ""
        name = pipeline.nodes[edge.end].tool if edge.end != END else "nothing more"
        ways.append(f"{name}, then {beyond}" if beyond and beyond != "nothing more" else name)
    return ways[0] if len(ways) == 1 else f"({' | '.join(ways)})" if ways else ""


def as_call(node: Node, values: Sequence[Any]) -> ToolCall:
    return ToolCall(node.tool, {slot.name: value for slot, value in zip(node.slots, values, strict=True)})


def _words(text: str) -> list[str]:
    """As they stand between spaces, without the marks of a sentence around them."""
    return [word.strip(",.;:!?\"'()[]") for word in text.split()]


def _text(value: Any) -> str:
    """An argument as goals and results would write it; a list or a table as JSON, which neither does."""
    return value if isinstance(value, str) else json.dumps(value)


def _same(one: str, other: str) -> bool:
    plain = [" ".join(_words(text)).casefold() for text in (one, other)]
    numbers = [_number(text) for text in plain]
    return plain[0] == plain[1] or (None not in numbers and numbers[0] == numbers[1])


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except (ValueError, OverflowError):
        return None
    return int(number) if number.is_integer() and abs(number) < 2**53 else number


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
