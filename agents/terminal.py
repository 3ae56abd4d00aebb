"""How the command line speaks: results on stdout, everything for the person on stderr."""

from __future__ import annotations

import json
import logging
import sys
import traceback
from collections.abc import Callable
from typing import Any

from rich.console import Console, RenderableType


def print_json(document: Any) -> None:
    print(json.dumps(document, indent=1))


def show(renderable: RenderableType) -> None:
    Console().print(renderable)


def answer(as_json: bool, document: Any, page: Callable[[], RenderableType]) -> None:
    """For a program the document, for a person the same as a page."""
    if as_json:
        print_json(document)
    else:
        show(page())


def note(text: str) -> None:
    """Something for the person, never for the program that reads stdout."""
    Console(stderr=True).print(text, style="dim", markup=False, highlight=False, soft_wrap=True)


def told(message: str, error: BaseException, code: int) -> int:
    """One line that says what went wrong, and where it came from with --debug; gives the exit code."""
    if logging.getLogger("evolvent").isEnabledFor(logging.DEBUG):
        traceback.print_exception(error)
    print(f"evolvent: {' '.join(message.split())}", file=sys.stderr)
    return code
