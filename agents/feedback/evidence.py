"""Provenance: which words of a text are quoted for each item of a list, and whether the quotes hold.

Lists and items are those of the environment `extraction`; nothing here knows which items belong in a list.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from evolvent.environments.extraction import key, label_of, locate, parse_items
from evolvent.environments.types import Task

NONE = "no evidence"
"""What is written in the place of a quote that cannot be given."""
REQUEST = (
    f'For every item of the list quote the words of the text that show it, or write "{NONE}" where there are none, '
    "one item a line, as in the example.\nThe evidence:"
)
EXAMPLES = {
    "medications": (
        "Takes quinapril daily. Denies chest pain.\nThe list:\n- quinapril: active\n- timolol: active\nThe evidence:\n"
        f'- quinapril (active): "Takes quinapril daily."\n- timolol (active): {NONE}'
    ),
    "trial_arms": (
        "40 women were given yoga lessons, and 41 were on a waiting list.\nThe list:\n- yoga lessons\n- timolol\n"
        f'The evidence:\n- yoga lessons: "40 women were given yoga lessons"\n- timolol: {NONE}'
    ),
}
"""By kind of list; each with one item that is shown and one that is not."""
_QUOTED = re.compile(r"[\"“](.*)[\"”]")
_NOTHING = re.compile(rf"\b{NONE}\b|^(?:none|n/a)$", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Evidence:
    label: str
    """Of the item; empty where there is none."""
    quote: str
    """Empty for no evidence."""


def parse_evidence(reply: str) -> dict[str, Evidence]:
    """By `key` of the item, from lines like `- aspirin (active): "Takes aspirin."`, with or without quotation marks.

    Of two lines about one item the last holds. A line that ends with the item's label quotes nothing, and so says
    nothing of evidence: it is passed over.
    """
    found: dict[str, Evidence] = {}
    for line in reply.splitlines():
        quoted = _QUOTED.search(line)
        head, _, rest = (line[: quoted.start()], "", quoted[1]) if quoted else line.rpartition(":")
        if label_of(rest) == key(rest):
            continue
        for name, label in parse_items(head).items():
            found[key(name)] = Evidence(label, "" if _NOTHING.search(rest.strip(" .")) else rest.strip())
    return found


def supported(task: Task, items: Mapping[str, str], reply: str, *, check_quotes: bool = False) -> dict[str, Evidence]:
    """The items, as they are spelled, that the text names and the reply quotes it for; each with its label.

    A reply that says nothing of any item quotes for each what the text calls it.

    Args:
        check_quotes: a quote counts only where it stands in the text word for word and names the item.
    """
    told, named = parse_evidence(reply), in_text(task, items)
    if told.keys().isdisjoint(map(key, items)):
        return {name: Evidence(label, _mention(task, name)) for name, label in named.items()}
    found = {name: told[key(name)] for name in named if key(name) in told}
    return {
        name: Evidence(each.label or items[name], each.quote)
        for name, each in found.items()
        if each.quote and (not check_quotes or (locate(task.prompt, each.quote) and locate(each.quote, key(name))))
    }


def in_text(task: Task, items: Mapping[str, str]) -> dict[str, str]:
    """Those items that the text names."""
    return {name: label for name, label in items.items() if locate(task.prompt, key(name))}


def _mention(task: Task, name: str) -> str:
    return task.prompt[slice(*locate(task.prompt, key(name))[0])]
