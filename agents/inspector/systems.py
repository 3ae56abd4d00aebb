"""The 90 systems of the survey: where each stands in its frame, and what tests have shown of each."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from evolvent.agents.inspector.respond import page
from evolvent.agents.listings import plain
from evolvent.agents.recipes.catalog import FLAGSHIP, Card, Status, System, card, implemented, load_recipe
from evolvent.agents.recipes.catalog import systems as catalogue

PHASES = ("task", "solution", "feedback", "refinement", "update", "evaluation")
"""Of the survey's loop (arXiv 2404.14387), in its order: each placement is a path that begins with one."""
STATUSES: tuple[Status, ...] = get_args(Status)
_ARXIV = re.compile(r"\d{4}\.\d{4,5}")


@dataclass(frozen=True, slots=True)
class Family:
    """A place in the survey's frame: one cell of its matrix."""

    placement: str
    """As cards write it: `update/in-weight/replay`."""
    name: str
    """Without the phase."""
    systems: int
    works: int


@dataclass(frozen=True, slots=True)
class Line:
    """One fact that holds in any faithful run of a system, and what shows it."""

    text: str
    tests: Sequence[str]
    """Node ids; empty while it is open."""
    standing: str
    """`shown`, `not shown` (a test is there and did not pass, or is of older files) or `open`."""


def systems(request: Request) -> Response:
    """All of them; `?status=` and `?place=` (a phase, or a path) leave out the others, `?q=` is looked for in names."""
    everything = catalogue()
    standing, place, asked = (request.query_params.get(name, "").strip() for name in ("status", "place", "q"))
    shown = [
        each
        for each in everything
        if standing in ("", each.status)
        and (not place or any(f"{there}/".startswith(f"{place}/") for there in each.placements))
        and asked.lower() in f"{each.slug} {each.name}".lower()
    ]
    return page(
        request,
        "systems.html",
        total=len(everything),
        counts=[(each, count) for each in STATUSES if (count := Counter(one.status for one in everything)[each])],
        frame=_frame(everything),
        systems=[(each, arxiv(each.paper), sum(line.passed for line in each.signature)) for each in shown],
        standing=standing,
        place=place,
        asked=asked,
        statuses=STATUSES,
        flagship=FLAGSHIP,
    )


def system(request: Request) -> Response:
    """One of them, or the flagship, which has no card.

    Raises:
        UnknownRecipeError: neither.
    """
    slug = request.path_params["slug"]
    if slug == FLAGSHIP:
        recipe = load_recipe(slug)
        about = (recipe.__doc__ or "").strip().split("\n\n")
        return page(request, "flagship.html", slug=slug, about=about, presets=_presets(slug))
    found = card(slug)
    known = next(each for each in catalogue() if each.slug == slug)
    return page(
        request,
        "system.html",
        card=found,
        system=known,
        arxiv=arxiv(found.paper),
        facts=_facts(found),
        hyperparameters=[(name, plain(value)) for name, value in found.hyperparameters.items()],
        presets=_presets(slug) if slug in implemented() else None,
        lines=[_line(text, tests, passed) for text, tests, passed in _signature(known)],
    )


def arxiv(paper: str) -> str:
    """The bare number that a card gives, some of them with more around it; empty where it gives none."""
    found = _ARXIV.search(paper)
    return found[0] if found else ""


def _frame(everything: Sequence[System]) -> dict[str, list[Family]]:
    """Families of each phase, in the order of the alphabet."""
    there = Counter(place for each in everything for place in each.placements)
    works = Counter(place for each in everything if each.status == "works" for place in each.placements)
    return {
        phase: [
            Family(place, place.removeprefix(f"{phase}/"), count, works[place])
            for place, count in sorted(there.items())
            if place.split("/")[0] == phase
        ]
        for phase in PHASES
    }


def _facts(found: Card) -> list[tuple[str, str]]:
    models = found.models
    roles = "; ".join(f"{role}: {what}" for role, what in models.items()) if isinstance(models, Mapping) else ""
    facts = {
        "code": found.code or "none published",
        "environments": plain(found.environment),
        "models": roles or plain(models),
        "state": plain(found.state),
    }
    return list(facts.items())


def _presets(slug: str) -> tuple[list[str], list[tuple[str, list[str]]]]:
    """Names of a recipe's presets, and its settings with their value in each."""
    presets: Mapping[str, Any] = load_recipe(slug).PRESETS
    values = [preset.model_dump(mode="json") for preset in presets.values()]
    return list(presets), [(name, [plain(each[name]) for each in values]) for name in values[0]]


def _signature(known: System) -> list[tuple[str, str | None, bool]]:
    return [(line.text, line.test, line.passed) for line in known.signature]


def _line(text: str, tests: str | None, passed: bool) -> Line:
    named = tests.split(", ") if tests else []
    return Line(text, named, "shown" if passed else "not shown" if named else "open")


routes = [Route("/systems", systems), Route("/systems/{slug}", system)]
