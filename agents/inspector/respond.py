"""How a view becomes a page: the templates, their filters, and what every page knows."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.requests import Request
from starlette.responses import HTMLResponse

from evolvent.agents.inspector.library import Library, Look, Run
from evolvent.memory.types import Interval

TEMPLATES = Path(__file__).parent / "templates"


def library(request: Request) -> Library:
    found: Library = request.app.state.library
    return found


def look(request: Request) -> Look:
    """The run that the address names.

    Raises:
        RunDirectoryError: there is no such run.
    """
    return Look(library(request).run(request.path_params["run"]))


def page(request: Request, template: str, *, status: int = 200, **values: Any) -> HTMLResponse:
    """A template filled in. Pass `look` where the page is of one run: it leads the navigation and tells problems."""
    shown: Look | None = values.pop("look", None)
    known = {
        "figures": [],
        "run": shown.run if shown else None,
        "problems": shown.reading.problems if shown else [],
        "may_write": request.app.state.write,
        "csrf": request.app.state.csrf,
        "here": request.url.path,
        "query": dict(request.query_params),
    }
    text = _TEMPLATES.get_template(template).render(known | values)
    return HTMLResponse(text.encode("utf-8", "replace"), status_code=status)  # a lone surrogate is a sign of no page


def address(run: Run, *parts: str, **query: object) -> str:
    """Of a page of a run: `address(run, "memory", record_id)`. Empty parameters are left out."""
    path = "/".join(quote(each, safe="", errors="replace") for each in (run.name, *parts))
    asked = {key: value for key, value in query.items() if value not in ("", None)}
    return f"/run/{path}" + (f"?{urlencode(asked, errors='replace')}" if asked else "")


# -- filters -------------------------------------------------------------------------------------------------------


def interval(value: Interval | Mapping[str, Any] | None) -> str:
    """`0.62 (0.50 to 0.73)`; signed for a lift or a gain."""
    if value is None:
        return "–"
    if isinstance(value, Interval):
        return f"{value:+.2f}"
    if "success" in value:
        return "{success:.2f} ({low:.2f} to {high:.2f})".format(**value)
    return "{mean:+.2f} ({low:+.2f} to {high:+.2f})".format(**value)


def number(value: float | None, places: int = 0) -> str:
    """A dash for none; what a damaged ledger holds in a number's place, as it is."""
    if not isinstance(value, int | float):
        return "–" if value is None else str(value)
    return f"{value:,.{places}f}"


def when(seconds: float) -> str:
    """Local time, to the minute; a dash for what a damaged ledger holds in its place."""
    try:
        return datetime.fromtimestamp(seconds).strftime("%Y-%m-%d %H:%M")
    except (TypeError, ValueError, OverflowError, OSError):
        return "–"


def one_line(text: str, most: int = 120) -> str:
    line = " ".join(text.split())
    return line if len(line) <= most else f"{line[: most - 1]}…"


def css_name(text: str) -> str:
    """Of a status or a verdict, as the style sheet names it."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


_TEMPLATES = Environment(
    loader=FileSystemLoader(TEMPLATES),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_TEMPLATES.filters |= {
    **{"interval": interval, "number": number, "when": when, "one_line": one_line, "css_name": css_name},
}
_TEMPLATES.globals["address"] = address
