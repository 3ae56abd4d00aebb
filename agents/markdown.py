"""A prompt and a search as Markdown: what a notebook shows of them."""

from __future__ import annotations

from collections.abc import Sequence

from evolvent.environments.types import Message
from evolvent.memory.types import Scored


def prompt_table(messages: Sequence[Message]) -> str:
    """The named parts of one prompt, in the order the model reads them; empty parts are left out."""
    return _table(("role", "part", "text"), [[each.role, each.part, each.text] for each in messages if each.text])


def hits_table(hits: Sequence[Scored]) -> str:
    """What a search of memory found, best first."""
    rows = [[hit.record.kind, hit.record.status, hit.record.text, f"{hit.score:.4f}"] for hit in hits]
    return _table(("kind", "status", "text", "score"), rows)


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(_cell(value) for value in line) + " |" for line in lines)


def _cell(text: str) -> str:
    """Text on one line that neither ends its cell nor passes for HTML."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace("|", "\\|").replace("\n", "<br>")
