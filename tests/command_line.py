"""One command line as a person types it, and what it said."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from evolvent.agents.cli import invoke


@dataclass(frozen=True)
class Said:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def last(self) -> str:
        return self.err.rstrip().splitlines()[-1]


Evolvent = Callable[..., Said]


def typing(capsys: pytest.CaptureFixture[str]) -> Evolvent:
    """A function that types one command line: `evolvent("memory", "ls", directory)`."""

    def type_in(*words: object) -> Said:
        capsys.readouterr()
        code = invoke([str(word) for word in words])
        captured = capsys.readouterr()
        return Said(code, captured.out, captured.err)

    return type_in
