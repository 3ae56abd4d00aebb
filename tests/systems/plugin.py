"""Pytest plugin: keeps `agents/recipes/results.json` equal to what the tests of the systems show.

`@pytest.mark.signature("reflexion", 0)` says that a test in `tests/systems/test_reflexion.py` asserts line 0 of
Reflexion's signature. `--record-results` writes the outcomes, `--check-results` fails the session when they differ
from the committed file. Both want whole files: systems whose test file was not collected keep their entry.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest

from evolvent.agents.errors import UnknownRecipeError
from evolvent.agents.recipes import catalog

OPTIONS = ("--record-results", "--check-results")


class Line(NamedTuple):
    slug: str
    number: int
    """From 0."""


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("signature lines")
    group.addoption(OPTIONS[0], action="store_true", help="write agents/recipes/results.json from this session")
    group.addoption(OPTIONS[1], action="store_true", help="fail when this session differs from results.json")


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(SignatureResults(), "signature-results")


class SignatureResults:
    """What one session learns of signature lines."""

    def __init__(self) -> None:
        self.covered: set[Path] = set()
        self.lines: dict[str, list[Line]] = {}
        self.outcomes: dict[str, catalog.TestOutcome] = {}
        self.left_out: list[str] = []
        self.message = ""

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Runs before any selection, so that a bad marker is refused wherever it stands."""
        for item in items:
            self.covered.add(item.path)
            if lines := [_line(item, marker) for marker in item.iter_markers("signature")]:
                self.lines[item.nodeid] = sorted(set(lines))

    def pytest_deselected(self, items: Sequence[pytest.Item]) -> None:
        self.left_out += [item.nodeid for item in items if item.nodeid in self.lines]

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        option = _option(session.config)
        named = [argument for argument in session.config.args if "::" in argument]
        if option and (left_out := self.left_out or named):
            raise pytest.UsageError(f"{option} wants whole test files, without -k, -m or ::; left out: {left_out[0]}")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.nodeid not in self.lines:
            return
        outcome: catalog.TestOutcome = "skipped" if hasattr(report, "wasxfail") else report.outcome
        before = self.outcomes.get(report.nodeid, "passed")
        self.outcomes[report.nodeid] = max(before, outcome, key=("passed", "skipped", "failed").index)

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        option = _option(session.config)
        if not option or session.config.option.collectonly or session.exitstatus not in (0, 1, 5):
            return
        if not_run := sorted(self.lines.keys() - self.outcomes.keys()):
            self.message = f"{option}: {len(not_run)} tests did not run, the first is {not_run[0]}"
        else:
            text = catalog.render_results(self._results())
            if option == OPTIONS[0]:
                catalog.results_path().write_text(text, encoding="utf-8")
            elif differing := _differing(text):
                self.message = f"results.json differs from this session at {', '.join(differing)}; run `make record`"
        if self.message:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if self.message:
            terminalreporter.section("signature lines", red=True)
            terminalreporter.line(self.message, red=True)

    def _results(self) -> dict[str, catalog.Recorded]:
        found: defaultdict[str, defaultdict[int, list[catalog.LineResult]]] = defaultdict(lambda: defaultdict(list))
        for test, lines in sorted(self.lines.items()):
            for slug, number in lines:
                found[slug][number].append(catalog.LineResult(test=test, outcome=self.outcomes[test]))
        return dict(self._kept()) | {
            slug: catalog.Recorded(
                card=catalog.fingerprint(catalog.card_path(slug)),
                recipe=catalog.fingerprint(catalog.recipe_path(slug)),
                test=catalog.fingerprint(catalog.suite_path(slug)),
                lines={number: tuple(results) for number, results in lines.items()},
            )
            for slug, lines in found.items()
        }

    def _kept(self) -> Iterator[tuple[str, catalog.Recorded]]:
        for slug, recorded in catalog.read_results().items():
            suite = catalog.suite_path(slug)
            if suite.is_file() and suite not in self.covered:
                yield slug, recorded


def _option(config: pytest.Config) -> str:
    """The one of our two options that was given; recording wins."""
    return next((option for option in OPTIONS if config.getoption(option)), "")


def _line(item: pytest.Item, marker: pytest.Mark) -> Line:
    match marker.args:
        case (str() as slug, int() as number) if not marker.kwargs:
            pass
        case _:
            raise pytest.UsageError(f'{item.nodeid}: write signature("slug", line), got {marker.args}')
    try:
        lines = len(catalog.card(slug).signature)
    except UnknownRecipeError as error:
        raise pytest.UsageError(f"{item.nodeid}: {error}") from None
    if not 0 <= number < lines:
        raise pytest.UsageError(f"{item.nodeid}: the signature of {slug!r} has lines 0 to {lines - 1}, got {number}")
    if item.path != catalog.suite_path(slug):
        # Its fingerprint would not be recorded, so a change of the test would go unseen.
        raise pytest.UsageError(f"{item.nodeid}: signature tests of {slug!r} belong in {catalog.suite_path(slug).name}")
    return Line(slug, number)


def _differing(text: str) -> list[str]:
    """Slugs at which the committed file is not `text`."""
    committed = catalog.results_path().read_text(encoding="utf-8")
    if committed == text:
        return []
    now, before = catalog.parse_results(text), catalog.parse_results(committed)
    return [slug for slug in sorted(now.keys() | before.keys()) if now.get(slug) != before.get(slug)] or ["its layout"]
