"""The catalogue: what it lists, what it refuses, and how a status follows from files and recorded tests."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest

from evolvent.agents.errors import UnknownRecipeError
from evolvent.agents.recipes import catalog
from evolvent.agents.recipes.catalog import LineResult, Recorded, System

PHASES = {"task", "solution", "feedback", "refinement", "update", "evaluation"}


def test_the_catalogue_lists_the_90_systems_of_the_survey_and_not_our_own() -> None:
    listed = catalog.systems()
    assert len(listed) == 90
    assert [system.slug for system in listed] == sorted(catalog.cards())
    assert catalog.FLAGSHIP not in catalog.cards()


def test_every_card_is_placed_in_the_six_phases_and_says_what_to_test() -> None:
    for card in catalog.cards().values():
        assert {placement.split("/")[0] for placement in card.placements} <= PHASES, card.slug
        assert all(line.strip() for line in card.signature), card.slug
        assert card.paper.count(".") == 1, f"{card.slug}: {card.paper} names no arXiv number"


def test_a_dash_in_a_card_means_that_the_phase_is_skipped() -> None:
    assert catalog.card("spin").operators.feedback == ()
    assert catalog.card("reflexion").operators.refinement == ("verbal_reflection",)


def test_an_unknown_system_is_refused_in_one_line_with_the_nearest_name() -> None:
    with pytest.raises(UnknownRecipeError) as caught:
        catalog.card("reflexon")
    assert str(caught.value) == "No system named 'reflexon'. Did you mean 'reflexion'? `evolvent systems` lists all 90."


def test_a_row_of_the_list_is_plain_json_with_the_fixed_keys() -> None:
    row = catalog.systems()[0].as_json()
    assert list(row) == ["slug", "name", "paper", "placements", "status", "signature"]
    assert all(list(line) == ["text", "test", "passed"] for line in row["signature"])


def test_every_implemented_recipe_can_be_loaded() -> None:
    for slug in catalog.implemented():
        assert catalog.load_recipe(slug).__name__ == f"evolvent.agents.recipes.{slug.replace('-', '_')}"


def test_the_committed_results_are_in_the_layout_that_recording_writes() -> None:
    committed = catalog.results_path().read_text(encoding="utf-8")
    assert catalog.render_results(catalog.read_results()) == committed
    assert catalog.read_results().keys() <= catalog.cards().keys()


class Checkout:
    """A source checkout that holds one card, `self-refine`, and what a test puts beside it."""

    def __init__(self, root: Path) -> None:
        folder = root / "agents" / "recipes"
        (folder / "cards").mkdir(parents=True)
        (root / "tests" / "systems").mkdir(parents=True)
        shutil.copy(catalog.card_path("self-refine"), folder / "cards")
        self.lines = len(catalog.card("self-refine").signature)
        self.project = root / "pyproject.toml"
        self.card = folder / "cards" / "self-refine.yaml"
        self.recipe = folder / "self_refine.py"
        self.suite = root / "tests" / "systems" / "test_self_refine.py"
        self.results = folder / "results.json"
        self.project.touch()
        self.recipe.write_text("recipe")
        self.suite.write_text("tests")
        self.results.write_text("{}")

    def record(self, **outcomes: catalog.TestOutcome) -> None:
        """Record `line_0="passed"` and so on; every other line passes."""
        lines = {
            number: (LineResult(test=f"test_{number}", outcome=outcomes.get(f"line_{number}", "passed")),)
            for number in range(self.lines)
        }
        self.write(lines)

    def write(self, lines: Mapping[int, tuple[LineResult, ...]]) -> None:
        card, recipe, test = map(catalog.fingerprint, (self.card, self.recipe, self.suite))
        entry = Recorded(card=card, recipe=recipe, test=test, lines=lines)
        self.results.write_text(catalog.render_results({"self-refine": entry}))


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Checkout:
    made = Checkout(tmp_path)
    monkeypatch.setattr(catalog, "_FOLDER", tmp_path / "agents" / "recipes")
    monkeypatch.setattr(catalog, "_ROOT", tmp_path)
    return made


def only() -> System:
    (system,) = catalog.systems()
    return system


def test_a_system_without_a_recipe_is_planned_whatever_was_recorded(checkout: Checkout) -> None:
    checkout.record()
    checkout.recipe.unlink()
    assert only().status == "planned"


def test_a_recipe_that_no_test_has_looked_at_is_partial_with_every_line_open(checkout: Checkout) -> None:
    assert only().status == "partial"
    assert [(line.test, line.passed) for line in only().signature] == [(None, False)] * checkout.lines


def test_a_system_works_when_every_line_of_its_signature_passed(checkout: Checkout) -> None:
    checkout.record()
    assert only().status == "works"
    assert [line.test for line in only().signature] == [f"test_{number}" for number in range(checkout.lines)]
    assert all(line.passed for line in only().signature)


def test_one_open_or_skipped_line_makes_it_partial_and_one_failed_line_failing(checkout: Checkout) -> None:
    checkout.write({0: (LineResult(test="test_0", outcome="passed"),)})
    assert only().status == "partial"
    checkout.record(line_1="skipped")
    assert only().status == "partial"
    checkout.record(line_1="failed")
    assert only().status == "failing"


def test_a_line_with_two_tests_passes_only_when_both_do(checkout: Checkout) -> None:
    passed, failed = LineResult(test="a", outcome="passed"), LineResult(test="b", outcome="failed")
    checkout.write({0: (passed, failed)})
    first = only().signature[0]
    assert (first.test, first.passed) == ("a, b", False)


@pytest.mark.parametrize("changed", ["card", "recipe", "suite"])
def test_a_change_after_the_recording_shows_as_stale_and_counts_no_line(checkout: Checkout, changed: str) -> None:
    checkout.record()
    path: Path = getattr(checkout, changed)
    path.write_text(path.read_text() + "\n# edited")
    assert only().status == "stale"
    assert not any(line.passed for line in only().signature)


def test_an_installed_package_without_its_tests_still_trusts_what_was_recorded(checkout: Checkout) -> None:
    checkout.record()
    checkout.suite.unlink()
    assert only().status == "stale"
    checkout.project.unlink()
    assert only().status == "works"


def test_a_recipe_that_is_only_planned_is_refused_with_what_can_be_run(checkout: Checkout) -> None:
    assert catalog.implemented() == ["self-refine"]
    with pytest.raises(UnknownRecipeError, match="Did you mean 'self-refine'"):
        catalog.load_recipe("self-refin")
    checkout.recipe.unlink()
    with pytest.raises(UnknownRecipeError, match="'self-refine' has no recipe yet"):
        catalog.load_recipe("self-refine")
