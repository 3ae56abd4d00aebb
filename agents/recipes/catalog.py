"""The 90 systems of the survey's reading list: their cards, their recipes, and what tests have shown of each.

A card is data (`cards/<slug>.yaml`), a recipe is a module of this folder, and `results.json` is what the test session
recorded last. A status is always derived from the three, never written down.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, JsonValue, TypeAdapter

from evolvent.agents.errors import UnknownRecipeError, unknown
from evolvent.environments.errors import did_you_mean

FLAGSHIP = "lamarck"
"""Evolvent's own recipe: it runs like the others, but the survey has no card of it."""

Status = Literal["works", "partial", "failing", "stale", "planned"]
TestOutcome = Literal["passed", "failed", "skipped"]

_FOLDER = Path(__file__).parent
_ROOT = _FOLDER.parents[1]


class _FromFile(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


Names = Annotated[tuple[str, ...], BeforeValidator(lambda value: () if value == "-" else value)]
"""A list of names; a card writes `-` for none."""


class Operators(_FromFile):
    """Names of what a system does in each phase; empty where it skips the phase."""

    task: Names
    solution: Names
    feedback: Names
    refinement: Names
    update: Names
    evaluation: Names


class Headline(_FromFile):
    """One published result."""

    claim: str
    metric: str
    dataset: str
    model: str
    value: float | str | None
    baseline: str | None
    baseline_value: JsonValue
    source: str
    unverified: bool = False


class Card(_FromFile):
    """What the literature says of one system."""

    slug: str
    """File name of the card and name on the command line."""
    name: str
    title: str
    paper: str
    """arXiv number, as cited."""
    code: str | None
    """Public reference implementation, if any."""
    placements: tuple[str, ...] = Field(min_length=1)
    """Places in the survey's taxonomy, as paths led by a phase: `feedback/environment`."""
    summary: str
    environment: tuple[str, ...]
    """Kinds of environment it was shown on."""
    models: Mapping[str, str] | tuple[str, ...]
    """Roles and what plays them; a plain list where the card names no roles."""
    algorithm: tuple[str, ...]
    operators: Operators
    state: str | tuple[str, ...]
    """What persists between generations."""
    hyperparameters: Mapping[str, JsonValue]
    signature: tuple[str, ...] = Field(min_length=1)
    """Facts that hold in any faithful run and not in a generic loop; each is asserted by a test."""
    headline: tuple[Headline, ...]
    small_scale: str
    """How to show its effect on a small machine."""
    pitfalls: tuple[str, ...]
    beyond: tuple[str, ...]


class LineResult(_FromFile):
    """What one recorded test said of one signature line."""

    test: str
    """pytest's node id."""
    outcome: TestOutcome


class Recorded(_FromFile):
    """One system's entry in `results.json`. Fingerprints tell whether the files are still those that were tested."""

    card: str
    recipe: str
    test: str
    lines: Mapping[int, tuple[LineResult, ...]]
    """By index of the signature line; a line that no test asserts is absent."""


@dataclass(frozen=True, slots=True)
class SignatureLine:
    text: str
    test: str | None
    """Node ids of the tests that assert it, joined by a comma; None while the line is open."""
    passed: bool
    """Every one of those tests passed, on the files as they are now."""


@dataclass(frozen=True, slots=True)
class System:
    """One row of `evolvent systems`."""

    slug: str
    name: str
    paper: str
    placements: tuple[str, ...]
    status: Status
    signature: tuple[SignatureLine, ...]

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def cards() -> dict[str, Card]:
    """Every card by slug, in alphabetical order."""
    return {slug: _read_card(card_path(slug)) for slug in _slugs()}


def card(slug: str) -> Card:
    """One card.

    Raises:
        UnknownRecipeError: the survey's list has no such system.
    """
    path = card_path(slug)
    if not path.is_file():
        hint = did_you_mean(slug, _slugs())
        raise UnknownRecipeError(f"No system named {slug!r}.{hint} `evolvent systems` lists all {len(_slugs())}.")
    return _read_card(path)


def systems() -> list[System]:
    """All 90 in alphabetical order, each with its status as of now."""
    recorded = read_results()
    return [_system(one, recorded.get(slug)) for slug, one in cards().items()]


def implemented() -> list[str]:
    """Names that `load_recipe` accepts: the flagship and every system that has a recipe, in alphabetical order."""
    return sorted(slug for slug in (FLAGSHIP, *_slugs()) if recipe_path(slug).is_file())


def load_recipe(slug: str) -> ModuleType:
    """Import the module of a recipe.

    Raises:
        UnknownRecipeError: no such recipe, or a system that has only its card so far.
    """
    known = implemented()
    if slug in known:
        return importlib.import_module(f"evolvent.agents.recipes.{recipe_path(slug).stem}")
    if slug in _slugs():
        raise UnknownRecipeError(
            f"{slug!r} has no recipe yet; `evolvent systems show {slug}` prints its card. Recipes: {', '.join(known)}."
        )
    raise UnknownRecipeError(unknown("recipe", slug, known))


def card_path(slug: str) -> Path:
    return _FOLDER / "cards" / f"{slug}.yaml"


def recipe_path(slug: str) -> Path:
    return _FOLDER / f"{slug.replace('-', '_')}.py"


def suite_path(slug: str) -> Path:
    """Where a source checkout keeps the tests of a system; an installed wheel has none."""
    return _ROOT / "tests" / "systems" / f"test_{slug.replace('-', '_')}.py"


def results_path() -> Path:
    return _FOLDER / "results.json"


def fingerprint(path: Path) -> str:
    """Sixteen hex digits of the file's SHA-256; empty when there is no file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16] if path.is_file() else ""


def read_results() -> dict[str, Recorded]:
    """What was recorded last, by slug."""
    return parse_results(results_path().read_text(encoding="utf-8"))


def parse_results(text: str) -> dict[str, Recorded]:
    return TypeAdapter(dict[str, Recorded]).validate_json(text)


def render_results(results: Mapping[str, Recorded]) -> str:
    """The text of `results.json`: the same results give the same bytes."""
    plain = {slug: entry.model_dump(mode="json") for slug, entry in results.items()}
    return json.dumps(plain, indent=1, sort_keys=True) + "\n"


def is_stale(slug: str, recorded: Recorded) -> bool:
    """Whether card, recipe or tests changed since they were recorded."""
    if (recorded.card, recorded.recipe) != (fingerprint(card_path(slug)), fingerprint(recipe_path(slug))):
        return True
    in_checkout = (_ROOT / "pyproject.toml").is_file()
    return in_checkout and recorded.test != fingerprint(suite_path(slug))


def _slugs() -> list[str]:
    return sorted(path.stem for path in (_FOLDER / "cards").glob("*.yaml"))


@functools.cache
def _read_card(path: Path) -> Card:
    # Ten times faster than the Python loader, which takes a second for the whole folder.
    loader: type[yaml.SafeLoader] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    plain = yaml.load(path.read_text(encoding="utf-8"), Loader=loader)
    return Card.model_validate({"slug": path.stem, **plain})


def _system(card: Card, recorded: Recorded | None) -> System:
    stale = recorded is not None and is_stale(card.slug, recorded)
    lines = tuple(
        _signature_line(text, recorded.lines.get(index, ()) if recorded else (), stale=stale)
        for index, text in enumerate(card.signature)
    )
    return System(card.slug, card.name, card.paper, card.placements, _status(card, recorded, lines, stale), lines)


def _signature_line(text: str, results: tuple[LineResult, ...], *, stale: bool) -> SignatureLine:
    if not results:
        return SignatureLine(text, None, False)
    passed = not stale and all(result.outcome == "passed" for result in results)
    return SignatureLine(text, ", ".join(result.test for result in results), passed)


def _status(card: Card, recorded: Recorded | None, lines: tuple[SignatureLine, ...], stale: bool) -> Status:
    if not recipe_path(card.slug).is_file():
        return "planned"
    if recorded is None:
        return "partial"
    if stale:
        return "stale"
    if any(result.outcome == "failed" for results in recorded.lines.values() for result in results):
        return "failing"
    return "works" if all(line.passed for line in lines) else "partial"
