"""Lineage as a drawing to walk in: what a record or a trajectory came from, to its left, and what came of it.

The drawing is SVG that the server makes: its nodes are links, so it works with the keyboard and without script. The
same stands below as a table.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from networkx import DiGraph
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from evolvent.agents.inspector.library import Run
from evolvent.agents.inspector.records import there
from evolvent.agents.inspector.respond import address, look, one_line, page
from evolvent.memory.graph import MOST, folded, graph, layers
from evolvent.memory.lineage import Lineage

_DEEPEST = 8
_USUAL = 1
_WIDE, _HIGH = 190, 44
"""Of a node, in CSS pixels."""
_ACROSS, _DOWN = 70, 14
"""Between nodes."""
_EDGE = 12
_LETTERS = 25
"""That fit into a node."""
_SWEEPS = 4
_WORDS = {"derived": "made of it", "merged": "merged into it", "shown": "stood in its prompt"}


@dataclass(frozen=True, slots=True)
class Node:
    id: str
    to: str
    """The same page around this node; empty where it stands for several."""
    page: str
    """Its own page; empty where it has none."""
    kind: str
    status: str
    text: str
    generation: int
    trust: float
    x: int
    y: int
    here: bool
    """Whether it is the one in the middle."""
    before: Sequence[tuple[str, str]]
    """(how, id) of what it came from."""
    after: Sequence[tuple[str, str]]
    """(how, id) of what came of it."""

    @property
    def what(self) -> str:
        """Its kind and standing in words."""
        return f"{self.status} {self.kind}".strip()

    @property
    def outline(self) -> str:
        """The path of its box: each standing has a shape of its own, for readers who tell no colours apart."""
        cut = 10 if self.status in ("retired", "quarantined") else 0
        if self.status == "quarantined":  # pointed at both sides
            middle = _HIGH / 2
            return f"M{cut},1 H{_WIDE - cut} L{_WIDE - 1},{middle} L{_WIDE - cut},{_HIGH - 1} H{cut} L1,{middle} Z"
        if cut:  # a corner is gone
            return f"M1,1 H{_WIDE - cut} L{_WIDE - 1},{cut} V{_HIGH - 1} H1 Z"
        round_ = {"active": 10, "": _HIGH / 2 - 1}.get(self.status, 0)
        right, low = _WIDE - 1 - round_, _HIGH - 1 - round_
        corner = f"a{round_},{round_} 0 0 1"
        return (
            f"M{1 + round_},1 H{right} {corner} {round_},{round_} V{low} {corner} -{round_},{round_} "
            f"H{1 + round_} {corner} -{round_},-{round_} V{1 + round_} {corner} {round_},-{round_} Z"
        )

    @property
    def lines(self) -> tuple[str, str]:
        """What stands in the box."""
        task, _, score = self.text.rpartition(", score ")
        if self.kind == "episode" and task:
            return f"episode · gen. {self.generation} · {score}", one_line(task, _LETTERS)
        above = f"{self.what} · gen. {self.generation}" if self.to else "episodes"
        return one_line(above, _LETTERS), one_line(self.text, _LETTERS)


@dataclass(frozen=True, slots=True)
class Line:
    path: str
    edge: str


@dataclass(frozen=True, slots=True)
class Drawing:
    nodes: Sequence[Node]
    """From left to right, each column from above."""
    lines: Sequence[Line]
    middle: Node
    left_out: int
    """Nodes further away than those that can be drawn."""
    folded: int
    """Episodes that one box stands for."""
    width: int = 0
    height: int = 0
    wide: int = _WIDE
    high: int = _HIGH


def lineage_page(request: Request) -> Response:
    shown, name = look(request), request.path_params["node"]
    given = request.query_params.get("depth", "")
    depth = min(int(given), _DEEPEST) if given.isascii() and given.isdigit() and len(given) < 6 else _USUAL
    drawing = there(shown, "The lineage", lambda: _read(shown.run, name, depth))
    return page(
        request,
        "lineage.html",
        look=shown,
        name=name,
        depth=depth,
        deepest=_DEEPEST,
        drawing=drawing,
        how=_WORDS,
        most=MOST,
    )


def _read(run: Run, name: str, depth: int) -> Drawing:
    with run.memory() as memory:
        found = graph(Lineage(memory.records(), memory.ledger), around=name, depth=depth)
    fewer = folded(found)
    kept = [key for key in (*found, *(key for key in fewer if key not in found)) if key in fewer]  # nearest first
    drawn: DiGraph[str] = fewer.subgraph(dict.fromkeys((name, *kept[:MOST])))
    return _drawing(run, drawn, name, depth, len(kept) - len(drawn), len(found) - sum(key in found for key in fewer))


def _drawing(run: Run, drawn: DiGraph[str], name: str, depth: int, left_out: int, stood_for: int) -> Drawing:
    places = _ordered(drawn)
    columns = max(x for x, _ in places.values()) + 1
    tallest = max(y for _, y in places.values()) + 1

    def node(key: str, facts: Mapping[str, Any]) -> Node:
        column, row = places[key]
        among = sum(x == column for x, _ in places.values())
        lower = (tallest - among) * (_HIGH + _DOWN) // 2  # a short column stands in the middle
        stands_for = facts["kind"] == "episode" and facts["text"] == "in whose prompts it stood" and key != name
        own = {"episode": "episodes", "missing": ""}.get(facts["kind"], "memory")
        return Node(
            key,
            "" if stands_for else address(run, "lineage", key, depth=depth if depth != _USUAL else None),
            address(run, own, key) if own and not stands_for else "",
            facts["kind"],
            facts["status"],
            key if stands_for else facts["text"],
            facts["generation"],
            facts["trust"],
            _EDGE + column * (_WIDE + _ACROSS),
            _EDGE + lower + row * (_HIGH + _DOWN),
            key == name,
            [(facts["edge"], other) for other, _, facts in drawn.in_edges(key, data=True)],
            [(facts["edge"], other) for _, other, facts in drawn.out_edges(key, data=True)],
        )

    nodes = {key: node(key, drawn.nodes[key]) for key in sorted(places, key=lambda key: places[key])}
    lines = [Line(_path(nodes[one], nodes[other]), facts["edge"]) for one, other, facts in drawn.edges(data=True)]
    return Drawing(
        list(nodes.values()),
        lines,
        nodes[name],
        left_out,
        stood_for,
        columns * (_WIDE + _ACROSS) - _ACROSS + 2 * _EDGE,
        tallest * (_HIGH + _DOWN) - _DOWN + 2 * _EDGE,
    )


def _ordered(drawn: DiGraph[str]) -> dict[str, tuple[int, int]]:
    """(column, row) as `layers` gives them, rows in an order in which fewer lines cross.

    Each node goes where its neighbours are on average, column by column to and fro: the barycentre method of Sugiyama,
    Tagawa and Toda 1981.
    """
    places = layers(drawn)
    columns: dict[int, list[str]] = {}
    for key, (column, _) in sorted(places.items(), key=lambda each: each[1]):
        columns.setdefault(column, []).append(key)
    row = {key: float(y) for key, (_, y) in places.items()}
    for sweep in range(_SWEEPS):
        forth = sweep % 2 == 0
        for _, members in sorted(columns.items(), reverse=not forth):
            beside = drawn.pred if forth else drawn.succ
            means = {
                key: sum(row[other] for other in beside[key]) / len(beside[key]) if beside[key] else row[key]
                for key in members
            }
            members.sort(key=lambda key: (means[key], key))
            row |= {key: place - len(members) / 2 for place, key in enumerate(members)}
    return {key: (x, y) for x, column in columns.items() for y, key in enumerate(column)}


def _path(one: Node, other: Node) -> str:
    """From the right side of one node to the left side of the other; within a column, or back, in a bow."""
    x, y = one.x + _WIDE, one.y + _HIGH / 2
    to_x, to_y = other.x, other.y + _HIGH / 2
    if to_x > x:
        bend = (to_x - x) / 2
        return f"M{x},{y} C{x + bend},{y} {to_x - bend},{to_y} {to_x - 3},{to_y}"
    to_x += _WIDE
    return f"M{x},{y} C{x + _ACROSS},{y} {to_x + _ACROSS},{to_y} {to_x + 3},{to_y}"


routes = [Route("/run/{run}/lineage/{node:path}", lineage_page)]
