"""Lineage as a networkx graph: for graph tools (GraphML), and drawn.

Nodes are records, and the trajectories that something was learned from; episodes that only read memory would drown
them and are listed by `Lineage.impact`. An edge runs from what was there first to what came of it and says how:
`derived`, `merged`, or `shown` (the record stood in a prompt of that trajectory).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import networkx

from evolvent.memory.errors import GraphTooLargeError
from evolvent.memory.lineage import Lineage, head, spread

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from networkx import DiGraph

    _Graph = DiGraph[str]
else:
    _Graph = networkx.DiGraph  # takes a parameter in its stubs alone

COLOURS = {"active": "#2f7fc1", "candidate": "#d9822b", "retired": "#8a8f98", "quarantined": "#b0413e"}
EPISODE = "#4d8b57"
_LINES = {"derived": "solid", "merged": "dashed", "shown": "dotted"}
MOST = 300
"""Nodes in one drawing; more cannot be read."""
_HALF = 0.39
"""Of the width of a node, where columns are 1 apart."""
_ALIKE = 6
"""Episodes drawn one by one of those that only show the same records; the rest is one box."""


class LineageGraph(_Graph):
    """A graph that shows itself in a notebook."""

    def _repr_html_(self) -> str:
        from evolvent.memory.display import lineage

        return lineage(self)

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        printer.text(str(self))


def graph(lineage: Lineage, *, around: str | None = None, depth: int = 2) -> LineageGraph:
    """The whole lineage, or what lies within `depth` edges `around` a record or a trajectory, either way.

    Node attributes, plain values all: `kind` (a record's, `episode` for a trajectory, `missing` for a name with nothing
    behind it), `status` (empty unless a record), `text` (its head), `generation`, `trust` (effective, in [0, 1]).

    Raises:
        UnknownRecordError: nothing is called `around`.
    """
    if around is not None:
        lineage.known(around)
    nodes = dict.fromkeys([*lineage.records, *lineage.children] if around is None else _near(lineage, around, depth))
    played = lineage.ledger.played([key for key in nodes if key not in lineage.records])
    found = LineageGraph()
    for key in nodes:
        kind, status, text, generation = "missing", "", key, 0
        if key in lineage.records:
            record = lineage.records[key]
            kind, status, text, generation = record.kind, record.status, record.text, record.generation
        elif key in played:
            known = played[key]
            kind, text, generation = "episode", f"{known.task}, score {known.score:.2f}", known.generation
        found.add_node(key, kind=kind, status=status, text=head(text, 60), generation=generation)
        found.nodes[key]["trust"] = lineage.trust(key)
    for key in nodes:
        for parent in lineage.records[key].parents if key in lineage.records else ():
            if parent in nodes:
                found.add_edge(parent, key, edge=lineage.edge(parent, key))
    for trajectory, shown in lineage.ledger.shown_in(list(played)):
        if shown in nodes:
            found.add_edge(shown, trajectory, edge="shown")
    return found


def write_graphml(found: DiGraph[str], file: str | Path) -> None:
    networkx.write_graphml(found, file)


def draw(found: DiGraph[str], file: str | Path) -> None:
    """The graph from left to right, causes before effects, as PNG, SVG or PDF after the file's suffix.

    Of many episodes in which a record stood and from which nothing else in the graph came, a few are drawn.

    Raises:
        GraphTooLargeError: more nodes than a reader could tell apart.
        ValueError: matplotlib knows no such format.
    """
    import matplotlib

    figure = drawing(folded(found))
    file = Path(file)
    with matplotlib.rc_context({"svg.hashsalt": "lineage", "svg.fonttype": "none"}):
        stamped = {".svg": "Date", ".pdf": "CreationDate"}.get(file.suffix)
        figure.savefig(file, dpi=150, metadata={stamped: None} if stamped else None)


def drawing(found: DiGraph[str], *, ink: str = "", paper: str = "white") -> Figure:
    """Every node of the graph, from left to right.

    Args:
        ink: colour of words and arrows; by default words have the colour of their box.
        paper: colour inside the boxes.

    Raises:
        GraphTooLargeError: more nodes than a reader could tell apart.
    """
    from matplotlib.figure import Figure
    from matplotlib.patches import FancyBboxPatch

    if len(found) > MOST:
        raise GraphTooLargeError(
            f"{len(found)} nodes are too many for a drawing (at most {MOST}). Draw what is around one record, with a "
            "smaller depth, or write GraphML for a graph tool."
        )
    at = layers(found)
    deep = Counter(column for column, _ in at.values())
    rows = max(deep.values(), default=1)
    # Every column stands in the middle of the highest one.
    places = {key: (column, row + (rows - deep[column]) / 2) for key, (column, row) in at.items()}
    figure = Figure(figsize=(2.6 * max(1, len(deep)) + 0.2, 0.6 * rows + 0.3), layout="constrained")
    axes = figure.add_subplot()
    axes.set_axis_off()
    axes.set_xlim(-0.45, max(1, len(deep)) - 0.55)
    axes.set_ylim(rows - 0.4, -0.6)
    for parent, child, facts in found.edges(data=True):
        line = _LINES[facts["edge"]]
        arrow = {"arrowstyle": "->", "color": ink or "#666666", "linestyle": line, "shrinkA": 0, "shrinkB": 1}
        (x1, y1), (x2, y2) = places[parent], places[child]
        axes.annotate("", (x2 - _HALF, y2), (x1 + _HALF, y1), arrowprops=arrow)
    for key, facts in found.nodes(data=True):
        colour = COLOURS.get(facts["status"], EPISODE if facts["kind"] == "episode" else ink or "#000000")
        x, y = places[key]
        shape = "round,pad=0,rounding_size=0.05"
        corner, size = (x - _HALF, y - 0.32), (2 * _HALF, 0.64)
        axes.add_patch(FancyBboxPatch(corner, *size, boxstyle=shape, facecolor=paper, edgecolor=colour))
        words = f"{head(key, 38)}\n{head(facts['text'], 36)}".replace("$", r"\$")  # else matplotlib reads a formula
        axes.text(x, y, words, ha="center", va="center", fontsize=6, color=ink or colour)
    return figure


def _near(lineage: Lineage, around: str, depth: int) -> list[str]:
    def beside(level: list[str]) -> Iterator[str]:
        for key in level:
            yield from lineage.children.get(key, ())
            if key in lineage.records:
                yield from lineage.records[key].parents
        yield from (record for _, record in lineage.ledger.shown_in(level) if record in lineage.records)
        yield from (trajectory for trajectory, _ in lineage.ledger.showings(level) if trajectory in lineage.children)

    return [around, *spread([around], beside, depth)]


def folded(found: DiGraph[str]) -> DiGraph[str]:
    """The same graph with one box for the episodes that no drawing needs one by one."""
    alike: dict[tuple[str, ...], list[str]] = {}
    for key, facts in found.nodes(data=True):
        if facts.get("kind") == "episode" and not found.out_degree(key) and found.in_degree(key):
            alike.setdefault(tuple(sorted(found.predecessors(key))), []).append(key)
    fewer = found.copy()
    for shown, episodes in alike.items():
        rest = sorted(episodes)[_ALIKE:]
        if len(rest) > 1:
            fewer.remove_nodes_from(rest)
            name = f"{len(rest)} more episodes"
            key = name if name not in fewer else f"{name} of {shown[0]}"
            fewer.add_node(key, kind="episode", status="", text="in whose prompts it stood", generation=0, trust=1.0)
            fewer.add_edges_from([(record, key) for record in shown], edge="shown")
    return fewer


def layers(found: DiGraph[str]) -> dict[str, tuple[int, int]]:
    """(column, row) of every node: a column further right than all its causes, rows in order of id."""
    together = networkx.condensation(found)  # a rule shown in an episode that taught it again makes a circle
    places: dict[str, tuple[int, int]] = {}
    for column, groups in enumerate(networkx.topological_generations(together)):
        members = sorted(key for group in groups for key in together.nodes[group]["members"])
        places |= {key: (column, row) for row, key in enumerate(members)}
    return places
