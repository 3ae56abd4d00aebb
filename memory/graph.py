"""Lineage as a networkx graph: for graph tools (GraphML), and drawn.

Nodes are records, and the trajectories that something was learned from; episodes that only read memory would drown
them and are listed by `Lineage.impact`. An edge runs from what was there first to what came of it and says how:
`derived`, `merged`, or `shown` (the record stood in a prompt of that trajectory).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from evolvent.memory.errors import GraphTooLargeError
from evolvent.memory.lineage import Lineage, head, spread

if TYPE_CHECKING:
    from networkx import DiGraph

_COLOURS = {"active": "#2f7fc1", "candidate": "#d9822b", "retired": "#8a8f98", "quarantined": "#b0413e"}
_EPISODE = "#4d8b57"
_LINES = {"derived": "solid", "merged": "dashed", "shown": "dotted"}
_MOST = 300
"""Nodes in one drawing; more cannot be read."""
_ALIKE = 6
"""Episodes drawn one by one of those that only show the same records; the rest is one box."""


def graph(lineage: Lineage, *, around: str | None = None, depth: int = 2) -> DiGraph[str]:
    """The whole lineage, or what lies within `depth` edges `around` a record or a trajectory, either way.

    Node attributes, plain values all: `kind` (a record's, `episode` for a trajectory, `missing` for a name with nothing
    behind it), `status` (empty unless a record), `text` (its head), `generation`, `trust` (effective, in [0, 1]).

    Raises:
        UnknownRecordError: nothing is called `around`.
    """
    import networkx as nx

    if around is not None:
        lineage.known(around)
    nodes = dict.fromkeys([*lineage.records, *lineage.children] if around is None else _near(lineage, around, depth))
    played = lineage.ledger.played([key for key in nodes if key not in lineage.records])
    found: DiGraph[str] = nx.DiGraph()
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
    import networkx as nx

    nx.write_graphml(found, file)


def draw(found: DiGraph[str], file: str | Path) -> None:
    """The graph from left to right, causes before effects, as PNG, SVG or PDF after the file's suffix.

    Of many episodes in which a record stood and from which nothing else in the graph came, a few are drawn.

    Raises:
        GraphTooLargeError: more nodes than a reader could tell apart.
        ValueError: matplotlib knows no such format.
    """
    import matplotlib
    from matplotlib.figure import Figure

    found = _folded(found)
    if len(found) > _MOST:
        raise GraphTooLargeError(
            f"{len(found)} nodes are too many for a drawing (at most {_MOST}). Draw what is around one record, with a "
            "smaller depth, or write GraphML for a graph tool."
        )
    places = _places(found)
    columns = max((x for x, _ in places.values()), default=0) + 1
    rows = max((y for _, y in places.values()), default=0) + 1
    figure = Figure(figsize=(2.6 * columns + 0.8, 0.7 * rows + 0.8), layout="constrained")
    axes = figure.add_subplot()
    axes.set_axis_off()
    axes.set_xlim(-0.5, columns - 0.5)
    axes.set_ylim(rows - 0.4, -0.6)
    for parent, child, facts in found.edges(data=True):
        line = _LINES[facts["edge"]]
        arrow = {"arrowstyle": "->", "color": "#666666", "linestyle": line, "shrinkA": 18, "shrinkB": 18}
        axes.annotate("", places[child], places[parent], arrowprops=arrow)
    for key, facts in found.nodes(data=True):
        colour = _COLOURS.get(facts["status"], _EPISODE if facts["kind"] == "episode" else "#000000")
        box = {"boxstyle": "round", "facecolor": "white", "edgecolor": colour}
        words = f"{key}\n{head(facts['text'], 36)}".replace("$", r"\$")  # else matplotlib reads it as a formula
        axes.text(*places[key], words, ha="center", va="center", fontsize=6, color=colour, bbox=box)
    file = Path(file)
    with matplotlib.rc_context({"svg.hashsalt": "lineage", "svg.fonttype": "none"}):
        stamped = {".svg": "Date", ".pdf": "CreationDate"}.get(file.suffix)
        figure.savefig(file, dpi=150, metadata={stamped: None} if stamped else None)


def _near(lineage: Lineage, around: str, depth: int) -> list[str]:
    def beside(level: list[str]) -> Iterator[str]:
        for key in level:
            yield from lineage.children.get(key, ())
            if key in lineage.records:
                yield from lineage.records[key].parents
        yield from (record for _, record in lineage.ledger.shown_in(level) if record in lineage.records)
        yield from (trajectory for trajectory, _ in lineage.ledger.showings(level) if trajectory in lineage.children)

    return [around, *spread([around], beside, depth)]


def _folded(found: DiGraph[str]) -> DiGraph[str]:
    """The same graph with one box for the episodes that no drawing needs one by one."""
    alike: dict[tuple[str, ...], list[str]] = {}
    for key, facts in found.nodes(data=True):
        if facts.get("kind") == "episode" and not found.out_degree(key) and found.in_degree(key):
            alike.setdefault(tuple(sorted(found.predecessors(key))), []).append(key)
    folded = found.copy()
    for shown, episodes in alike.items():
        rest = sorted(episodes)[_ALIKE:]
        if len(rest) > 1:
            folded.remove_nodes_from(rest)
            name = f"{len(rest)} more episodes"
            key = name if name not in folded else f"{name} of {shown[0]}"
            folded.add_node(key, kind="episode", status="", text="in whose prompts it stood", generation=0, trust=1.0)
            folded.add_edges_from([(record, key) for record in shown], edge="shown")
    return folded


def _places(found: DiGraph[str]) -> dict[str, tuple[int, int]]:
    """(column, row) of every node: a column further right than all its causes, rows in order of id."""
    import networkx as nx

    together = nx.condensation(found)  # a rule shown in an episode that taught it again makes a circle
    places: dict[str, tuple[int, int]] = {}
    for column, groups in enumerate(nx.topological_generations(together)):
        members = sorted(key for group in groups for key in together.nodes[group]["members"])
        places |= {key: (column, row) for row, key in enumerate(members)}
    return places
