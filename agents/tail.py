"""The end of a JSON Lines file that others still write to: every line is read once, and of a long past none."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

TAIL_BYTES = 1 << 20
"""Read at first and at most at once; what lies between is passed over."""


class Tail:
    """New whole lines, as they come."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._at = 0

    def new(self) -> list[dict[str, Any]]:
        """Lines since the last time; none of a file that is not there. What is no JSON object is left out."""
        if not self._path.exists():
            return []
        with self._path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            if size < self._at:  # a torn line was cut off, or another file lies there
                self._at = 0
            start = max(self._at, size - TAIL_BYTES)
            file.seek(start)
            data = file.read(size - start)
        whole = data.rfind(b"\n") + 1
        torn = data.find(b"\n") + 1 if start > self._at else 0  # of what is passed over the last line may stick out
        self._at = start + whole
        rows = []
        for line in data[torn:whole].split(b"\n"):
            try:
                row = json.loads(line)
            except ValueError:
                continue
            if isinstance(row, dict):
                rows.append(row)
        return rows
