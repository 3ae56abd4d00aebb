"""What the command line lists, as tables for a terminal: systems, worlds, weights. Records are in `memory_listings`."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
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

_STATUS_STYLE = {
    **{"works": "green", "partial": "yellow", "failing": "red", "stale": "magenta", "planned": "dim"},
    **{"active": "green", "candidate": "yellow", "retired": "dim", "quarantined": "red"},
}


# -- systems -------------------------------------------------------------------------------------------------------


def systems_table(systems: Sequence[System]) -> RenderableType:
    """All systems, one a row, with how much of each signature is shown."""
    table = new_table("system", "status", "shown", "arXiv", "placements")
    for system in systems:
        shown = sum(line.passed for line in system.signature)
        placements = Text("\n".join(system.placements), overflow="fold")
        signature = f"{shown} of {len(system.signature)}"
        table.add_row(Text(system.slug), status_text(system.status), signature, _arxiv(system.paper), placements)
    counts: Counter[str] = Counter(system.status for system in systems)
    told = ", ".join(f"{counts[status]} {status}" for status in _STATUS_STYLE if counts[status])
    return Group(table, Text(f"\n{len(systems)} systems: {told}. One in full: evolvent systems show SLUG"))


def system_page(system: System, card: Card, presets: Mapping[str, BaseModel]) -> RenderableType:
    """One card, the presets of its recipe if there is one, and what tests have shown of its signature."""
    facts = pairs(
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
        pairs(card.hyperparameters),
    ]
    if presets:
        table = new_table("setting", *presets)
        settings = [preset.model_dump() for preset in presets.values()]
        for setting in settings[0]:
            table.add_row(setting, *(Text(plain(values[setting])) for values in settings))
        parts += [Text("\nPresets of the recipe", style="bold"), table]
    parts += [Text("\nSignature", style="bold")]
    for line in system.signature:
        mark = "✓" if line.passed else "✗" if line.test else "·"
        parts += [Text(f"{mark} {line.text}"), Text(f"    {line.test or 'open: no test yet'}", style="dim")]
    return Group(*parts)


# -- environments and models ---------------------------------------------------------------------------------------


def environments_table(listings: Iterable[Listing]) -> RenderableType:
    table = new_table("environment", "what", "players", "version", "license")
    for each in listings:
        version = Text(each.version) if each.installed else Text(each.install, style="yellow")
        table.add_row(each.name, Text(each.summary), ", ".join(each.players), version, each.license)
    return table


def models_table(entries: Iterable[ModelEntry], forms: Sequence[str]) -> RenderableType:
    table = new_table("weights", "what", "to fetch", "license", "on this machine")
    for each in entries:
        place = Text(str(each.path), overflow="fold") if each.path else Text(f"no: evolvent models pull {each.name}")
        table.add_row(each.name, Text(each.what), f"{each.bytes / 1e6:.0f} MB", each.license, place)
    return Group(table, Text(f"\n--model takes: {', '.join(forms)}"))


# -- parts ---------------------------------------------------------------------------------------------------------


def new_table(*columns: str) -> Table:
    """Empty; the first column is never broken."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for index, column in enumerate(columns):
        table.add_column(column, no_wrap=index == 0)
    return table


def pairs(facts: Mapping[str, Any]) -> Table:
    """Names and values, one pair a row."""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="cyan")
    table.add_column()
    for key, value in facts.items():
        table.add_row(Text(key), Text(plain(value)))
    return table


def _arxiv(paper: str) -> str:
    """The bare number; some cards write the archive's name before it."""
    return paper.removeprefix("arXiv").strip(" :")


def status_text(status: str) -> Text:
    return Text(status, style=_STATUS_STYLE.get(status, ""))


def plain(value: Any) -> str:
    """Text as it is, texts with commas between, anything else as JSON."""
    if isinstance(value, str):
        return value
    if isinstance(value, list | tuple) and all(isinstance(each, str) for each in value):
        return ", ".join(value)
    return json.dumps(value, ensure_ascii=False)
