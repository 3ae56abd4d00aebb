"""What environments with one seat share: its name, reading its action or its free text, refusing it kindly."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from evolvent.environments.types import Action

SEAT = "agent"


def said(actions: Mapping[str, Action], seat: str = SEAT) -> str:
    """The seat's text in lower case with single spaces; empty when it said nothing that could be a move."""
    text = actions[seat].text if seat in actions else ""
    return " ".join(encodable(text).lower().split()).rstrip(".!")


def written(actions: Mapping[str, Action], seat: str = SEAT) -> str:
    """The seat's text as it stands, lines and all; empty when it said nothing."""
    return encodable(actions[seat].text).strip() if seat in actions else ""


def encodable(text: str) -> str:
    """The text with lone surrogates, which no JSON can carry, replaced."""
    return text.encode("utf-8", "replace").decode("utf-8")


def refusal(text: str, legal: Sequence[str]) -> str:
    """What an illegal action is answered: the action, cut to 40 characters, and what may be done instead."""
    shown = text if len(text) <= 40 else text[:39] + "…"
    return f'"{shown}" is not possible here. You can: {"; ".join(legal)}.'
