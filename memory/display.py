"""How memory's values show themselves in a notebook: a record, what changed, where records come from."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from html import escape
from typing import TYPE_CHECKING

from evolvent.environments.display import (
    Markup,
    bar,
    block,
    bold,
    count,
    facts,
    folded,
    paragraph,
    prose,
    soft,
    table,
    text,
)
from evolvent.memory.lineage import grounds, head
from evolvent.memory.types import Interval, Scope

if TYPE_CHECKING:
    from networkx import DiGraph

    from evolvent.memory.history import Change, Field
    from evolvent.memory.lineage import Cause, Impact, Source, Why
    from evolvent.memory.types import Record

_IDS = 6
"""In one place; the value itself has all."""
_ROWS = 100
_MARKS = {"added": "+ added", "removed": "− removed", "changed": "changed"}


def record(shown: Record) -> Markup:
    """The text, what is known of it, and where it came from."""
    known = {
        "status": _standing(shown),
        "lift when shown": _lift(shown.lift),
        "recalled": count(shown.recalls, "time"),
        "applies to": _scope(shown.scope),
        "learned from": _some(shown.parents) or "nothing that is named",
        "id": shown.id,
    }
    meta = [(name, prose(str(value))) for name, value in shown.meta.items()]
    more = [folded(count(len(meta), "fact") + " of its kind", table((), meta))] if meta else []
    return block(paragraph(bold(prose(shown.text))), facts(known), *more)


def changes(shown: Sequence[Change]) -> Markup:
    """What was learned and unlearned, a record a row; raw trajectories are counted only."""
    learned = [each for each in shown if each.record.kind != "trajectory"]
    rows = [
        (
            _MARKS[each.kind],
            text(head(each.record.text)),
            Markup("<br>".join(_fields(each)) or text(f"{each.record.kind}, {each.record.status}")),
            soft(each.record.id),
        )
        for each in learned[:_ROWS]
    ]
    lived = Counter(each.kind for each in shown if each.record.kind == "trajectory")
    words = f"{count(len(learned), 'record')} differ{'s' * (len(learned) == 1)}"
    words += f", the first {_ROWS} are shown" if len(learned) > _ROWS else ""
    if lived:
        words += f"; of the raw trajectories {', '.join(f'{number} {kind}' for kind, number in lived.items())}"
    parts = [table(("", "record", "what changed", "id"), rows)] if rows else []
    return block(*parts, paragraph(f"{words}."))


def why(shown: Why) -> Markup:
    """The record, what was decided about it on what evidence, and below what it came from, down to the steps."""
    decided = [
        (each.verdict, f"at {each.key}", text(grounds(each.evidence)), soft(each.commit)) for each in shown.decisions
    ]
    tree, left = _tree(shown.causes)
    sources = {each.id for each in shown.causes if each.source is not None}
    known = {
        "status": _standing(shown.record),
        "lift when shown": _lift(shown.record.lift),
        "trust": f"{shown.trust:.2f}",
        "id": shown.record.id,
    }
    return block(
        paragraph(bold(prose(shown.record.text))),
        facts(known),
        paragraph(bold("Decided"), "" if decided else ": nothing yet"),
        *([table((), decided)] if decided else []),
        paragraph(bold("Came from"), f": {count(len(sources), 'trajectory', 'trajectories')}"),
        tree,
        *([paragraph(soft(f"{left:,} more causes are in the value itself."))] if left else []),
    )


def impact(shown: Impact) -> Markup:
    """What came of a record or a trajectory, and what would fall with it."""
    return block(
        paragraph(bold(shown.node)),
        facts(
            {
                "derived from it": _some(shown.derived) or "nothing",
                "would fall with it": _some(shown.only) or "nothing",
                "had a say in": count(len(shown.episodes), "trajectory", "trajectories")
                + (f": {_some(shown.episodes)}" if shown.episodes else ""),
            }
        ),
    )


def lineage(shown: DiGraph[str]) -> Markup:
    """The graph from left to right, causes before effects, and the same as a list of its edges."""
    from evolvent.memory import graph

    found = graph.folded(shown)
    kinds = Counter(kind for _, kind in shown.nodes(data="kind"))
    words = f"{count(len(shown), 'node')} ({', '.join(f'{n} {kind}' for kind, n in kinds.most_common())}), "
    words += count(shown.number_of_edges(), "edge")
    if len(found) > graph.MOST:
        return block(paragraph(f"{words}: too many to draw. Draw what is around one record, with a smaller depth."))
    edges = [(cause, known["edge"], effect) for cause, effect, known in found.edges(data=True)]
    return block(
        Markup(_drawn(found, words)),
        paragraph(soft("Solid: derived. Dashed: merged. Dotted: shown in a prompt.")),
        folded(words, table(("cause", "edge", "effect"), edges)),
    )


# -- parts ---------------------------------------------------------------------------------------------------------


def _standing(shown: Record) -> str:
    return f"{shown.status} {shown.kind} since generation {shown.generation}"


def _lift(lift: Interval | None) -> str | Markup:
    if lift is None:
        return "no estimate yet"
    words = f"{lift.mean:+.2f} (95 % interval {lift.low:+.2f} to {lift.high:+.2f}, {count(lift.n, 'episode')})"
    return Markup(f"{bar(lift.low, lift.high, lift.mean, least=-1)} {text(words)}")


def _scope(scope: Scope) -> str:
    kept = {name: value for name, value in asdict(scope).items() if value}
    return ", ".join(f"{name} {value if isinstance(value, str) else ', '.join(value)}" for name, value in kept.items())


def _fields(change: Change) -> list[Markup]:
    told = [text(_field(each)) for each in change.fields if not each.name.startswith("parents.")]
    parents = sum(each.name.startswith("parents.") for each in change.fields)
    return [*told, *([text(count(parents, "parent"))] if parents else [])]


def _field(field: Field) -> str:
    return f"{field.name} {_value(field.before)} → {_value(field.after)}"


def _value(value: object) -> str:
    if isinstance(value, Interval):
        return f"{value:+.2f}"
    if isinstance(value, float):
        return f"{value:.3g}"
    return "none" if value is None else head(str(value), 60)


def _tree(causes: Sequence[Cause]) -> tuple[Markup, int]:
    """Nested lists, causes under what they caused, and how many causes were left out."""
    kept = causes[:_ROWS]
    parts: list[str] = []
    depth = 0
    for cause in kept:
        parts += ["<ul>"] * (cause.depth - depth) + ["</ul>"] * (depth - cause.depth)
        parts.append(f"<li>{_cause(cause)}</li>")
        depth = cause.depth
    return Markup("".join([*parts, "</ul>" * depth])), len(causes) - len(kept)


def _cause(cause: Cause) -> Markup:
    if cause.record is not None:
        found = cause.record
        return Markup(f"{text(head(found.text))} {soft(f'{cause.edge}, {_standing(found)}, {found.id}')}")
    if cause.source is None:
        return Markup(f"{text(cause.id)} {soft('not in this ledger')}")
    source = cause.source
    outcome = "success" if source.success else "no success"
    return folded(f"{source.id}: score {source.score:.2f} ({outcome})", Markup("".join(_source(source))))


def _source(source: Source) -> Iterator[Markup]:
    steps = [(each.index, head(each.seen), bold(each.action), f"{each.reward:+.2f}") for each in source.steps]
    if steps:
        yield table(("step", "seen", "done", "reward"), steps, numbers=(0, 3))
    yield paragraph(soft(f"Task {source.task}, generation {source.generation}."))
    if source.shown:
        yield paragraph(soft(f"In its prompts: {_some(source.shown)}."))


def _some(ids: Sequence[str]) -> str:
    left = len(ids) - _IDS
    return ", ".join(ids[:_IDS]) + (f" and {left} more" if left > 0 else "")


_WIDE, _HIGH, _GAP, _ROW = 240, 38, 48, 50
"""Of a node in the drawing, between two columns, and from row to row, in pixels."""
_DASHES = {"derived": "none", "merged": "6 3", "shown": "1 3"}


def _drawn(found: DiGraph[str], words: str) -> str:
    """One `<svg>`: lines and letters in the page's ink, a node's frame in the colour of its status."""
    from evolvent.memory.graph import COLOURS, EPISODE, layers

    placed = layers(found)
    deep = Counter(column for column, _ in placed.values())
    most = max(deep.values(), default=1)
    # Every column stands in the middle of the highest one.
    at = {
        key: (column * (_WIDE + _GAP) + 1, (2 * row + most - deep[column]) * _ROW // 2 + 1)
        for key, (column, row) in placed.items()
    }
    size = f'width="{len(deep) * (_WIDE + _GAP) - _GAP + 2}" height="{most * _ROW}"'
    parts = [f'<svg role="img" aria-label="Lineage: {escape(words)}" {size} font-size="11" fill="currentColor">']
    half, middle = _GAP // 2, _HIGH // 2
    for cause, effect, known in found.edges(data=True):
        x1, y1 = at[cause][0] + _WIDE, at[cause][1] + middle
        x2, y2 = at[effect][0], at[effect][1] + middle
        line = f"M{x1} {y1}C{x1 + half} {y1} {x2 - half} {y2} {x2 - 5} {y2}"
        dashes = f'fill="none" stroke="currentColor" opacity=".6" stroke-dasharray="{_DASHES[known["edge"]]}"'
        parts.append(f'<path d="{line}" {dashes}/><path d="M{x2} {y2}l-6 -3v6z"/>')
    for key, known in found.nodes(data=True):
        x, y = at[key]
        colour = COLOURS.get(known["status"], EPISODE if known["kind"] == "episode" else "currentColor")
        frame = f'width="{_WIDE}" height="{_HIGH}" rx="5" fill="none" stroke="{colour}" stroke-width="1.5"'
        named = f"{known['status']} {known['kind']}".strip()
        parts.append(f'<g transform="translate({x} {y})"><rect {frame}/>')
        parts.append(f'<text x="8" y="16">{_letters(known["text"])}</text>')
        parts.append(f'<text x="8" y="31" opacity=".7">{_letters(f"{named}: {key}")}</text></g>')
    return "".join([*parts, "</svg>"])


def _letters(words: str) -> str:
    """As many as a node is wide, out of the beginning and the end; a formula is as unwelcome as in `text`."""
    line = head(words)
    line = line if len(line) <= 36 else f"{line[:22]}…{line[-13:]}"
    return re.sub(r"[$\\]", r"<tspan>\g<0></tspan>", escape(line))
