"""The plugin that records signature lines, in real pytest sessions over a small checkout."""

from __future__ import annotations

import shutil

import pytest

from evolvent.agents.recipes import catalog

GREEN = """
    import pytest

    @pytest.mark.signature("self-refine", 0)
    @pytest.mark.signature("self-refine", 1)
    def test_two_lines_at_once(): pass

    @pytest.mark.signature("self-refine", 0)
    def test_line_0_from_another_side(): pass

    def test_unmarked(): assert False
"""


@pytest.fixture
def session(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """A checkout with two cards, no recorded results and the plugin switched on."""
    folder = pytester.mkdir("agents") / "recipes"
    (folder / "cards").mkdir(parents=True)
    for slug in ("self-refine", "spin"):
        shutil.copy(catalog.card_path(slug), folder / "cards")
    (folder / "self_refine.py").touch()
    (folder / "results.json").write_text("{}\n")
    (pytester.mkdir("tests") / "systems").mkdir()
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")  # importing them again for each session takes seconds
    monkeypatch.setattr(catalog, "_FOLDER", folder)
    monkeypatch.setattr(catalog, "_ROOT", pytester.path)
    pytester.makepyprojecttoml(
        """
        [tool.pytest.ini_options]
        # Not by name: a suite that is called the same may be loaded already.
        addopts = "--strict-markers --import-mode=importlib -p systems.plugin"
        markers = ["signature(slug, line)"]
        """
    )
    return pytester


def write_suite(session: pytest.Pytester, source: str, name: str = "self_refine") -> None:
    made = session.makepyfile(source)
    made.rename(session.path / "tests" / "systems" / f"test_{name}.py")


def recorded_lines() -> dict[int, list[str]]:
    lines = catalog.read_results()["self-refine"].lines
    return {number: [result.outcome for result in results] for number, results in lines.items()}


def test_recording_writes_each_marked_test_and_the_check_then_holds(session: pytest.Pytester) -> None:
    write_suite(session, GREEN)
    session.runpytest_inprocess("--record-results").assert_outcomes(passed=2, failed=1)
    assert recorded_lines() == {0: ["passed", "passed"], 1: ["passed"]}
    write_suite(session, GREEN.replace("assert False", "pass"))
    before = catalog.results_path().read_bytes()
    assert session.runpytest_inprocess("--record-results").ret == 0
    assert catalog.results_path().read_bytes() != before, "the fingerprint of the test file changed"
    assert session.runpytest_inprocess("--check-results").ret == 0


def test_the_check_fails_and_names_the_system_when_an_outcome_differs(session: pytest.Pytester) -> None:
    write_suite(session, GREEN.replace("assert False", "pass"))
    session.runpytest_inprocess("--record-results")
    write_suite(session, GREEN.replace("assert False", "pass").replace("side(): pass", "side(): pytest.skip()"))
    result = session.runpytest_inprocess("--check-results")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["results.json differs from this session at self-refine; run `make record`"])


def test_failures_skips_and_expected_failures_are_never_recorded_as_passed(session: pytest.Pytester) -> None:
    write_suite(
        session,
        """
        import pytest

        @pytest.fixture
        def broken(): raise RuntimeError

        @pytest.mark.signature("self-refine", 0)
        def test_breaks_in_its_fixture(broken): pass

        @pytest.mark.signature("self-refine", 1)
        @pytest.mark.xfail
        def test_passes_against_expectation(): pass

        @pytest.mark.signature("self-refine", 2)
        @pytest.mark.parametrize("value", [0, 1])
        def test_with_values(value): assert value
        """,
    )
    session.runpytest_inprocess("--record-results")
    assert recorded_lines() == {0: ["failed"], 1: ["skipped"], 2: ["failed", "passed"]}


def test_recording_one_system_keeps_the_entry_of_another_until_its_tests_are_gone(session: pytest.Pytester) -> None:
    write_suite(session, GREEN)
    write_suite(session, GREEN.replace("self-refine", "spin"), name="spin")
    session.runpytest_inprocess("--record-results")
    session.runpytest_inprocess("--record-results", "tests/systems/test_spin.py")
    assert set(catalog.read_results()) == {"self-refine", "spin"}
    (session.path / "tests" / "systems" / "test_spin.py").unlink()
    session.runpytest_inprocess("--record-results")
    assert set(catalog.read_results()) == {"self-refine"}


@pytest.mark.parametrize(
    ("marker", "message"),
    [
        ('"self-refin", 0', "*No system named 'self-refin'. Did you mean 'self-refine'*"),
        ('"self-refine", 99', "*signature of 'self-refine' has lines 0 to *, got 99*"),
        ('"self-refine"', "*write signature(*"),
        ('"spin", 0', "*belong in test_spin.py*"),
    ],
)
def test_a_marker_that_names_no_line_stops_the_session(session: pytest.Pytester, marker: str, message: str) -> None:
    write_suite(session, f"import pytest\n@pytest.mark.signature({marker})\ndef test_line(): pass")
    result = session.runpytest_inprocess()
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([message])


@pytest.mark.parametrize("selection", [("-k", "two"), ("tests/systems/test_self_refine.py::test_two_lines_at_once",)])
def test_a_selection_inside_a_file_cannot_be_recorded(session: pytest.Pytester, selection: tuple[str, ...]) -> None:
    write_suite(session, GREEN)
    result = session.runpytest_inprocess("--record-results", *selection)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert catalog.results_path().read_text() == "{}\n"


def test_a_session_that_stops_early_records_nothing(session: pytest.Pytester) -> None:
    write_suite(session, GREEN.replace("def test_two_lines_at_once(): pass", "def test_two_lines(): assert False"))
    assert session.runpytest_inprocess("--record-results", "-x").ret != 0
    assert catalog.results_path().read_text() == "{}\n"
