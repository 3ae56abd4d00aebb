"""Where every model call and every metric of a run is written down, in order: `trace.jsonl` and `metrics.jsonl`."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from evolvent.agents.types import CallTag
from evolvent.environments.types import Cost


class JsonLines:
    """An append-only file with one JSON object a line; a line torn by a kill is dropped at the next opening."""

    def __init__(self, path: Path) -> None:
        self.path = path
        _drop_torn_line(path)
        self._file = path.open("a", encoding="utf-8", errors="backslashreplace")
        self._lock = threading.Lock()

    def write(self, row: Mapping[str, Any]) -> None:
        line = json.dumps(row, ensure_ascii=False, separators=(",", ":")) + "\n"
        with self._lock:
            self._file.write(line)
            self._file.flush()

    def close(self) -> None:
        self._file.close()


class Trace:
    """The one place through which every recipe's model calls are recorded."""

    def __init__(self, path: Path | None) -> None:
        self._lines = JsonLines(path) if path else None
        self.total = Cost()
        """Of all calls since this object was made, retries included."""
        self.answered = 0
        """Calls that succeeded."""
        self.retries = 0
        self.failed_calls = 0

    def call(
        self,
        tag: CallTag,
        model: str,
        messages: Sequence[tuple[str, str]],
        reply: str,
        cost: Cost,
        *,
        error: str = "",
        options: Sequence[str] = (),
        probabilities: Sequence[float] = (),
    ) -> None:
        """One model call; `messages` as (role, text), as they were sent."""
        self.total += cost
        self.answered += not error
        if self._lines is None:
            return
        row = asdict(tag) | {
            "model": model,
            "messages": [{"role": role, "content": text} for role, text in messages],
            "reply": reply,
            "tokens_in": cost.tokens_in,
            "tokens_out": cost.tokens_out,
            "seconds": round(cost.seconds, 6),
        }
        if options:
            row |= {"options": list(options), "probabilities": [round(p, 6) for p in probabilities]}
        if error:
            row["error"] = error
        self._lines.write(row)

    def close(self) -> None:
        if self._lines is not None:
            self._lines.close()


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a JSON Lines file; a torn last line is left out, an absent file is empty."""
    if not path.exists():
        return []
    rows = []
    for line in path.read_text("utf-8", errors="replace").split("\n"):  # a reply may hold other ends of lines
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return rows


def _drop_torn_line(path: Path) -> None:
    if not path.exists():
        return
    with path.open("rb+") as file:
        data = file.read()
        whole = data.rfind(b"\n") + 1
        if whole != len(data):
            file.truncate(whole)
            file.flush()
            os.fsync(file.fileno())
