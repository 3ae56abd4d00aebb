"""What the command line lists, as tables for a terminal and as plain JSON values: systems, worlds, weights, records."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from pydantic import BaseModel

    from evolvent.agents.models.catalog import ModelEntry
    from evolvent.agents.recipes.catalog import Card, System
    from evolvent.environments.catalog import Listing
    from evolvent.memory.types import Event, Record

_STATUS_STYLE = {
    **{"works": "green", "partial": "yellow", "failing": "red", "stale": "magenta", "planned": "dim"},
    **{"active": "green", "candidate": "yellow", "retired": "dim"},
}


# -- systems -------------------------------------------------------------------------------------------------------


def systems_table(systems: Sequence[System]) -> RenderableType:
    """All systems, one a row, with how much of each signature is shown."""
    table = _table("system", "status", "shown", "arXiv", "placements")
    for system in systems:
        shown = sum(line.passed for line in system.signature)
        placements = Text("\n".join(system.placements), overflow="fold")
        signature = f"{shown} of {len(system.signature)}"
        table.add_row(Text(system.slug), _status(system.status), signature, _arxiv(system.paper), placements)
    counts: Counter[str] = Counter(system.status for system in systems)
    told = ", ".join(f"{counts[status]} {status}" for status in _STATUS_STYLE if counts[status])
    return Group(table, Text(f"\n{len(systems)} systems: {told}. One in full: evolvent systems show SLUG"))


def system_page(system: System, card: Card, presets: Mapping[str, BaseModel]) -> RenderableType:
    """One card, the presets of its recipe if there is one, and what tests have shown of its signature."""
    facts = _pairs(
        {
            "paper": f"{card.title} (arXiv {_arxiv(card.paper)})",
            "code": card.code or "none published",
            "placements": "\n".join(card.placements),
            "environments": ", ".join(card.environment),
            "status": system.status,
        }
    )
    parts: list[RenderableType] = [
        Text(card.name, style="bold"),
        Padding(Text(card.summary), (0, 0, 1, 0)),
        facts,
        Text("\nHyperparameters of the paper", style="bold"),
        _pairs(card.hyperparameters),
    ]
    if presets:
        table = _table("setting", *presets)
        plain = {name: preset.model_dump() for name, preset in presets.items()}
        for setting in next(iter(plain.values())):
            table.add_row(setting, *(Text(_plain(values[setting])) for values in plain.values()))
        parts += [Text("\nPresets of the recipe", style="bold"), table]
    parts += [Text("\nSignature", style="bold")]
    for line in system.signature:
        mark = "✓" if line.passed else "✗" if line.test else "·"
        parts += [Text(f"{mark} {line.text}"), Text(f"    {line.test or 'open: no test yet'}", style="dim")]
    return Group(*parts)


# -- environments and models ---------------------------------------------------------------------------------------


def environments_table(listings: Iterable[Listing]) -> RenderableType:
    table = _table("environment", "what", "players", "version", "license")
    for each in listings:
        version = Text(each.version) if each.installed else Text(each.install, style="yellow")
        table.add_row(each.name, Text(each.summary), ", ".join(each.players), version, each.license)
    return table


def models_table(entries: Iterable[ModelEntry], forms: Sequence[str]) -> RenderableType:
    table = _table("weights", "what", "to fetch", "license", "on this machine")
    for each in entries:
        place = Text(str(each.path), overflow="fold") if each.path else Text(f"no: evolvent models pull {each.name}")
        table.add_row(each.name, Text(each.what), f"{each.bytes / 1e6:.0f} MB", each.license, place)
    return Group(table, Text(f"\n--model takes: {', '.join(forms)}"))


# -- memory --------------------------------------------------------------------------------------------------------


def record_json(record: Record, score: float | None = None) -> dict[str, Any]:
    """The keys other tools read, and how often and since when."""
    return {
        "id": record.id,
        "kind": record.kind,
        "text": record.text,
        "status": record.status,
        "scope": asdict(record.scope),
        "parents": list(record.parents),
        "score": score,
        "lift": asdict(record.lift) if record.lift else None,
        "recalls": record.recalls,
        "generation": record.generation,
    }


def records_table(records: Iterable[Mapping[str, Any]]) -> RenderableType:
    """Records as `record_json` gives them, one a row."""
    rows = list(records)
    searched = any(row["score"] is not None for row in rows)
    table = _table("id", "status", *(["score"] if searched else []), "recalled", "text")
    for row in rows:
        cells: list[RenderableType] = [Text(row["id"], no_wrap=True), _status(row["status"])]
        if searched:
            cells.append(f"{row['score']:.3f}")
        text = Text(row["text"].replace("\n", " / "), no_wrap=True, overflow="ellipsis")
        table.add_row(*cells, f"{row['recalls']}×", text)
    return Group(table, Text(f"\n{len(rows)} record{'s' * (len(rows) != 1)}"))


def record_page(record: Record, events: Sequence[Event]) -> RenderableType:
    """One record, where it applies, what it came from and why it has its status."""
    scope = {key: value for key, value in asdict(record.scope).items() if value}
    lift = record.lift
    facts: dict[str, Any] = {
        "id": record.id,
        "kind": record.kind,
        "status": record.status,
        "scope": ", ".join(f"{key} {_plain(value)}" for key, value in scope.items()) or "everywhere",
        "parents": "\n".join(record.parents) or "none",
        "lift": f"{lift.mean:+.3f} [{lift.low:+.3f}, {lift.high:+.3f}]" if lift else "no estimate yet",
        "recalled": f"{record.recalls} times since generation {record.generation}",
    }
    for event in events:
        if "gate" in event.payload:
            facts[f"gate: {event.kind}"] = gate_text(event.payload["gate"])
    return Group(Text(record.text, style="bold"), Text(""), _pairs(facts))


def gate_text(gate: Mapping[str, Any]) -> str:
    """Evidence of paired episodes in one sentence."""
    counts = "won {wins}, lost {losses}, tied {ties} of the pairs".format(**gate)
    return f"{gate['verdict']}: {counts}; e-value {gate['e_value']:.3g} against {1 / gate['level']:.3g} needed"


# -- inside --------------------------------------------------------------------------------------------------------


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for index, column in enumerate(columns):
        table.add_column(column, no_wrap=index == 0)
    return table


def _pairs(facts: Mapping[str, Any]) -> Table:
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="cyan")
    table.add_column()
    for key, value in facts.items():
        table.add_row(Text(key), Text(_plain(value)))
    return table


def _arxiv(paper: str) -> str:
    """The bare number; some cards write the archive's name before it."""
    return paper.removeprefix("arXiv").strip(" :")


def _status(status: str) -> Text:
    return Text(status, style=_STATUS_STYLE.get(status, ""))


def _plain(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, list | tuple) and all(isinstance(each, str) for each in value):
        return ", ".join(value)
    return json.dumps(value, ensure_ascii=False)
