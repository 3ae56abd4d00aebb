"""Every view in a real browser: wide and narrow, light and dark, with a mouse and without one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from conftest import Reader
from inspected import served, views

WIDTHS = (1280, 400)
SCHEMES = ("light", "dark")
AXE = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"], "resultTypes": ["violations"]}
VIEWS = (
    *("runs", "runs compared", "systems", "a system", "overview", "episodes", "episodes filtered", "an episode"),
    *("a step", "calls", "a call", "memory", "memory sorted", "memory searched", "a record", "a record as it was"),
    *("lineage", "lineage of a trajectory", "generations", "a commit", "a difference", "an adapter"),
    *("retire a record", "revert a commit"),
)
_FITS = """() => [...document.querySelectorAll(".plot")].every(
    plot => [...plot.querySelectorAll(".main-svg")].every(svg => svg.clientWidth <= plot.clientWidth))"""
"""Figures follow the window's width, a moment later."""
_FOCUSABLE = "a[href], button, input:not([type=hidden]), select, textarea, summary, [tabindex='0']"


@pytest.fixture(scope="module")
def base(finished: Path) -> Iterator[str]:
    with served(finished, write=True) as base:  # what can be written has pages of its own
        yield base


@pytest.fixture(scope="module")
def addresses(finished: Path) -> dict[str, str]:
    found = views(finished / "lived", "lived")
    changes = {"retire a record": f"{found['a record']}/retire", "revert a commit": f"{found['a commit']}/revert"}
    return found | changes


def violations(reader: Reader) -> list[str]:
    found: dict[str, Any] = Axe().run(reader.page, options=AXE).response
    return [
        f"{each['id']}: {[node['target'] for node in each['nodes']][:3]} {each['nodes'][0]['failureSummary']}"
        for each in found["violations"]
    ]


@pytest.mark.parametrize("view", VIEWS)
def test_a_view_is_whole_and_open_to_everybody_wide_and_narrow_light_and_dark(
    reading: Callable[..., Reader], base: str, addresses: dict[str, str], view: str
) -> None:
    reader = reading(base)
    page = reader.open(addresses[view])
    assert page.locator("h1").count() == 1
    assert page.title().endswith(" · Evolvent")
    assert "Not everything here could be read" not in reader.text
    for figure in page.locator("[data-figure]").all():
        figure.locator(".main-svg").first.wait_for(state="attached")
    for width in WIDTHS:
        page.set_viewport_size({"width": width, "height": 900})
        page.wait_for_function(_FITS)
        beyond = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert beyond <= 0, f"at {width} pixels the page is {beyond} too wide"
        for scheme in SCHEMES:
            page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]  # one of two names
            assert violations(reader) == [], (width, scheme)


@pytest.mark.parametrize("view", ["overview", "memory", "lineage", "an episode", "retire a record"])
def test_the_tab_key_reaches_everything_that_can_be_used_and_shows_where_it_is(
    reading: Callable[..., Reader], base: str, addresses: dict[str, str], view: str
) -> None:
    page = reading(base).open(addresses[view])
    page.evaluate(
        """all => {
            window.reached = [];
            document.addEventListener("focusin", event => {
                window.reached.push(event.target);
                event.target.outlined = getComputedStyle(event.target).outlineStyle !== "none";
            });
            window.usable = () => [...document.querySelectorAll(all)].filter(
                each => each.checkVisibility() && !each.disabled);
        }""",
        _FOCUSABLE,
    )
    for _ in range(page.evaluate("usable().length") + 2):
        page.keyboard.press("Tab")
    missed = page.evaluate("usable().filter(each => !reached.includes(each)).map(each => each.outerHTML.slice(0, 120))")
    assert missed == []
    unseen = page.evaluate("reached.filter(each => !each.outlined).map(each => each.outerHTML.slice(0, 120))")
    assert unseen == []
    assert page.evaluate("reached[0].className") == "skip", "first of all past the navigation"


def test_the_skip_link_leads_past_the_navigation(reading: Callable[..., Reader], base: str) -> None:
    page = reading(base).open("/run/lived")
    page.keyboard.press("Tab")
    assert page.locator(".skip").is_visible()
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.closest('main') !== null")


def test_keys_open_views_search_and_a_list_of_keys(reading: Callable[..., Reader], base: str) -> None:
    page = reading(base).open("/run/lived")
    page.keyboard.press("?")
    dialog = page.get_by_role("dialog", name="Keys")
    assert dialog.is_visible()
    assert "Memory" in dialog.inner_text()
    page.keyboard.press("Escape")
    assert not dialog.is_visible()
    page.get_by_role("button", name="Keys").click()
    assert dialog.is_visible()
    dialog.get_by_role("button", name="Close").click()
    assert not dialog.is_visible()
    for key, heading in (("2", "Episodes"), ("3", "Memory"), ("4", "Generations")):
        page.keyboard.press(key)
        page.get_by_role("heading", level=1, name=heading).wait_for()
    page.keyboard.press("3")
    page.get_by_role("heading", level=1, name="Memory").wait_for()
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.name") == "q"
    page.keyboard.type("2? mend/")  # what is typed into a field is no key
    assert page.input_value("[name=q]") == "2? mend/"
    page.keyboard.press("Enter")
    page.get_by_text("found by").wait_for()


def test_without_script_every_view_says_the_same(
    reading: Callable[..., Reader], base: str, addresses: dict[str, str]
) -> None:
    reader = reading(base, java_script_enabled=False)
    for view in ("overview", "memory", "a record", "lineage", "a step", "generations"):
        reader.open(addresses[view])
        assert len(reader.text) > 200


def test_pages_that_are_not_there_say_so_like_any_other(reading: Callable[..., Reader], base: str) -> None:
    reader = reading(base)
    for path in ("/nothing", "/run/nobody", "/run/lived/memory/nothing", "/run/lived/episodes/nothing"):
        reader.open(path, 404)
        assert violations(reader) == []
        assert reader.page.locator("nav a").count() >= 2
