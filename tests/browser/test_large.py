"""Large memories in a real browser: 5,000 records always; 100,000, timed, where slow tests are asked for."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from conftest import Reader
from inspected import served, stored

FIRST_VIEW_S = 2.0
SEARCH_S = 1.0
_TRIES = 3


def test_five_thousand_records_are_listed_sorted_filtered_paged_and_searched(
    reading: Callable[..., Reader], tmp_path: Path
) -> None:
    with ThreadPoolExecutor(1) as elsewhere:
        elsewhere.submit(stored, tmp_path / "runs" / "large", 5_000).result()
    with served(tmp_path / "runs") as base:
        reader = reading(base)
        page = reader.open("/run/large/memory")
        rows = page.get_by_role("region", name="Records").locator("tbody tr")
        assert rows.count() == 50
        assert "of 5,000 records" in reader.text
        page.locator("#figure-lifts .main-svg").first.wait_for(state="attached")
        page.keyboard.press("n")
        page.get_by_text("page 2 of").wait_for()
        page.get_by_label("Search").fill("rusted hinge in bay 1200")
        page.get_by_role("button", name="Show").click()
        page.get_by_text("found by").wait_for()
        assert rows.count() > 10
        rows.locator("a").first.click()
        page.get_by_role("heading", name="Why does it exist?").wait_for()
        page.get_by_role("link", name="See its lineage").click()
        page.locator("svg a").first.wait_for()


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_hundred_thousand_records_open_within_two_seconds_and_are_searched_within_one(
    reading: Callable[..., Reader], tmp_path: Path
) -> None:
    """The best of three: other work on the machine only ever adds to it. Both are the server's and the browser's."""
    with ThreadPoolExecutor(1) as elsewhere:
        elsewhere.submit(stored, tmp_path / "runs" / "large", 100_000).result()
    first: list[float] = []
    searched: list[float] = []
    with served(tmp_path / "runs") as base:
        reader = reading(base)
        for _ in range(_TRIES):
            start = time.perf_counter()
            reader.open("/run/large/memory")
            assert reader.page.get_by_role("region", name="Records").locator("tbody tr").count() == 50
            first.append(time.perf_counter() - start)
        for query in ("rusted hinge", "leaking kettle in bay 77", "overdue invoice before noon"):
            reader.page.get_by_label("Search").fill(query)
            start = time.perf_counter()
            reader.page.get_by_role("button", name="Show").click()
            reader.page.get_by_text("found by").wait_for()
            searched.append(time.perf_counter() - start)
            assert reader.page.get_by_role("region", name="Records").locator("tbody tr").count() > 10
        assert "being made ready" not in reader.text
    print(f"first view {[round(each, 2) for each in first]} s, search {[round(each, 2) for each in searched]} s")
    assert min(first) < FIRST_VIEW_S, first
    assert min(searched) < SEARCH_S, searched
