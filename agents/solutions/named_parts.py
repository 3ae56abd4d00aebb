"""A reply in parts, each led by its name and a colon: what models write when they are asked for several things."""

from __future__ import annotations

import re


def named(*names: str) -> re.Pattern[str]:
    """Finds these names where a line begins, whatever a model puts round them: numbers, stars, hashes.

    Args:
        names: regular expressions without groups.
    """
    return re.compile(rf"^[\s*_#>\d.)-]*({'|'.join(names)})[ *_]*:[ *_]*", re.IGNORECASE | re.MULTILINE)


def named_parts(reply: str, names: re.Pattern[str]) -> dict[str, str]:
    """By name, in lower case; of a name that comes twice the first counts, because models run on.

    Args:
        names: with one group, the name.
    """
    _, *rest = names.split(reply)
    parts: dict[str, str] = {}
    for name, said in zip(rest[::2], rest[1::2], strict=True):
        parts.setdefault(name.lower(), said.strip())
    return parts
