"""The first page: all runs, and those chosen side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from evolvent.agents.findings import Reading
from evolvent.agents.inspector.benchmarks import benchmarks
from evolvent.agents.inspector.figures import cost_against_success, learning_curve
from evolvent.agents.inspector.library import Run
from evolvent.agents.inspector.paging import pages
from evolvent.agents.inspector.respond import address, interval, library, number, page
from evolvent.agents.inspector.summaries import Summary, listed, summary
from evolvent.agents.listings import plain

_MOST_DRAWN = 12


@dataclass(frozen=True, slots=True)
class Difference:
    """Something in which the chosen runs differ."""

    name: str
    values: Sequence[str]
    """By run, in their order."""


def index(request: Request) -> Response:
    """All runs; those chosen with `?run=` are drawn together and told apart."""
    everything = listed(library(request))
    asked = " ".join(request.query_params.get("q", "").lower().split())
    wanted = [run for run in everything if all(word in _told(run) for word in asked.split())]
    at = pages(request, len(wanted))
    rows = [summary(run, Reading()) for run in at.cut(wanted)]
    names = request.query_params.getlist("run")[:_MOST_DRAWN]
    chosen = [summary(run, Reading()) for run in everything if run.name in names]
    drawn = {each.run.name: each.result for each in chosen if each.result is not None}

    return page(
        request,
        "runs.html",
        rows=rows,
        chosen=[each for each in chosen if each.result is not None],
        names=names,
        differences=_differences([each for each in chosen if each.result is not None]),
        figures=[learning_curve(drawn), cost_against_success(drawn)] if drawn else [],
        benchmarks=benchmarks(library(request)),
        root=library(request).root.name,
        count=len(wanted),
        asked=asked,
        pages=at,
    )


def home(request: Request) -> Response:
    """Where DIR is a single run, the first page is that run's."""
    found = listed(library(request))
    if len(found) == 1:
        return RedirectResponse(address(found[0]), 303)
    return index(request)


def _told(run: Run) -> str:
    """What a run is searched by: its name, and what it is a run of."""
    config = Reading().attempt("", run.config)
    return f"{run.name} {config.recipe} {config.environment} {config.model}".lower() if config else run.name.lower()


def _differences(chosen: Sequence[Summary]) -> list[Difference]:
    """What was measured of each, then every setting in which they are not all alike."""
    if len(chosen) < 2:
        return []
    measured = [
        Difference("success after the last generation", [_last(each) for each in chosen]),
        Difference("gain over frozen", [interval(each.result["gain"]) if each.result else "–" for each in chosen]),
        *(Difference(what, [number(each.spent(what)) for each in chosen]) for what in ("tokens", "calls", "seconds")),
        Difference("active records", [_active(each) for each in chosen]),
    ]
    settings = [_settings(each) for each in chosen]
    names = dict.fromkeys(name for each in settings for name in each)
    told = [Difference(name, [plain(each[name]) if name in each else "–" for each in settings]) for name in names]
    return [*measured, *(each for each in told if len(set(each.values)) > 1)]


def _last(shown: Summary) -> str:
    return interval(shown.result["generations"][-1]["held_out"]) if shown.result else "–"


def _active(shown: Summary) -> str:
    return str(shown.result["records"]["active"]) if shown.result else "–"


def _settings(shown: Summary) -> dict[str, Any]:
    """A run's configuration with every setting of its recipe, by dotted name."""
    config = shown.config
    if config is None:
        return {}
    known = config.model_dump(mode="json", exclude={"settings", "format"})
    flat: dict[str, Any] = {}
    for name, value in known.items():
        flat |= {f"{name}.{key}": each for key, each in value.items()} if isinstance(value, dict) else {name: value}
    recipe = Reading().attempt("", lambda: config.recipe_config().model_dump(mode="json")) or dict(config.settings)
    return {**flat, **{f"{config.recipe}.{name}": value for name, value in recipe.items()}}


routes = [Route("/", home), Route("/runs", index)]
