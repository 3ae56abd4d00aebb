"""A run in which every text was written by somebody who means harm, in a real browser: all of it is shown as text."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import quote

import pytest
from conftest import Reader
from inspected import HOSTILE, hostile, served

from evolvent.memory.embedding import HashEmbedder
from evolvent.memory.store import Memory

STRANGE = """() => [...document.querySelectorAll(
    "img, iframe, object, embed, base, meta[http-equiv], math, video, audio, template, animate, dialog[open], "
    + "script:not([src^='/static/']), link:not([href^='/static/']), [srcdoc], [autofocus], [style*=evil]"
)].concat([...document.querySelectorAll("*")].filter(each =>
    [...each.attributes].some(({name, value}) =>
        name.startsWith("on") || (["href", "action", "src", "xlink:href", "formaction"].includes(name)
        && !value.startsWith("/") && !value.startsWith("#")))
)).map(each => each.outerHTML.slice(0, 200))"""
"""Elements that no page of ours has."""
BEYOND = """() => document.documentElement.scrollWidth <= document.documentElement.clientWidth ? [] :
    ["wider by", document.documentElement.scrollWidth - document.documentElement.clientWidth].concat(
        [...document.querySelectorAll("body *")].filter(
            each => each.getBoundingClientRect().right > document.documentElement.clientWidth + 1)
        .slice(0, 5).map(each => each.outerHTML.slice(0, 150)))"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    with ThreadPoolExecutor(1) as elsewhere:
        elsewhere.submit(hostile, folder / "meant").result()
    return folder


@pytest.fixture(scope="module")
def base(folder: Path) -> Iterator[str]:
    with served(folder, write=True) as base:
        yield base


def harmless(reader: Reader, path: str) -> None:
    page = reader.open(path)
    assert page.evaluate(STRANGE) == [], path
    assert page.evaluate("window.__hit === undefined && ({}).__hit === undefined"), path
    assert page.locator("h1").count() == 1, path
    assert page.locator("#keys").count() == 1, "the page is whole to its end"
    beyond = page.evaluate(BEYOND)
    assert beyond == [], f"{path} is too wide"
    assert "49{" not in reader.text, "a template was filled in"


def test_there_are_thirty_payloads_and_more() -> None:
    assert len({*HOSTILE.values()}) >= 50


def test_pages_that_show_many_texts_at_once_stay_whole(reading: Callable[..., Reader], base: str) -> None:
    reader = reading(base, width=400)
    here = "/run/meant"
    for path in (
        *("/runs", "/runs?run=meant", here, f"{here}/episodes", f"{here}/episodes?page=2", f"{here}/calls"),
        *(f"{here}/memory", f"{here}/memory?page=2", f"{here}/memory?kind=all&sort=lift", f"{here}/memory?page=3"),
        *(f"{here}/generations", f"{here}/generations?page=2", f"{here}/diff?from=1/gate+0&to=HEAD"),
    ):
        harmless(reader, path)
    for figure in ("lifts", "records-by-status"):
        reader.open(f"{here}/memory?sort=lift").locator(f"#figure-{figure} .main-svg").first.wait_for(state="attached")
    assert reader.page.evaluate(STRANGE) == []
    drawn = reader.page.locator("#figure-lifts svg")
    assert drawn.locator("a").count() == 0, "Plotly makes no link of a text"
    assert "<script>" in drawn.first.inner_html().replace("&lt;", "<").replace("&gt;", ">")


def test_what_a_reader_types_is_shown_as_text(reading: Callable[..., Reader], base: str) -> None:
    reader = reading(base)
    for name in ("script", "out of an attribute", "out of an attribute, single", "handler in an attribute", "template"):
        typed = quote(HOSTILE[name], safe="")
        for page in (f"/run/meant/memory?q={typed}&mode=bm25", f"/run/meant/episodes?task={typed}", f"/runs?q={typed}"):
            harmless(reader, page)
        assert HOSTILE[name] in reader.page.input_value("input[type=search]")
        for page in (f"/run/{typed}", f"/run/meant/memory/{typed}", f"/run/meant/episodes/{typed}", f"/{typed}"):
            reader.open(page, 404)
            assert reader.page.evaluate(STRANGE) == []
            assert reader.page.evaluate("window.__hit === undefined")


def test_every_payload_is_harmless_on_the_pages_of_its_record_its_episode_and_its_lineage(
    reading: Callable[..., Reader], base: str, folder: Path
) -> None:
    with Memory.open(folder / "meant", embedder=HashEmbedder(), read_only=True) as memory:
        rules = {each.text: each for each in memory.records().values() if each.kind == "rule"}
    reader = reading(base)
    for name, text in HOSTILE.items():
        rule = rules[text]
        (episode,) = rule.parents
        harmless(reader, f"/run/meant/episodes/{quote(episode, safe='')}?step=1")
        shown = reader.page.locator("#step .raw").first.inner_text()
        expected = re.findall(r"[A-Za-z]{3,}", text[:1000])[:-1]  # the last may be cut in the middle
        assert re.findall(r"[A-Za-z]{3,}", shown)[: len(expected)] == expected, name
        harmless(reader, f"/run/meant/memory/{quote(rule.id, safe='')}")
        if len(text) < 1000:
            harmless(reader, f"/run/meant/lineage/{quote(rule.id, safe='')}")
            seat = quote(f"{text}/{[*HOSTILE].index(name)}", safe="")  # an id that is the payload itself
            if text.strip() and "\n" not in text:  # an address holds no line end
                harmless(reader, f"/run/meant/episodes/{seat}")


def test_adapters_calls_and_commits_of_strangers_are_harmless(
    reading: Callable[..., Reader], base: str, folder: Path
) -> None:
    reader = reading(base)
    for adapter in sorted((folder / "meant" / "adapters").glob("*@*")):
        harmless(reader, f"/run/meant/adapters/{quote(adapter.name, safe='')}")
    with Memory.open(folder / "meant", embedder=HashEmbedder(), read_only=True) as memory:
        commits = [each.id for each in memory.ledger.commits()][:40]
        rule = next(each.id for each in memory.records().values() if each.text == HOSTILE["script"])
    for commit in commits[::4]:
        harmless(reader, f"/run/meant/commits/{commit}")
    harmless(reader, f"/run/meant/commits/{commits[0]}/revert")
    harmless(reader, f"/run/meant/memory/{rule}/retire")
    links = reader.open("/run/meant/calls").eval_on_selector_all("main a", "all => all.map(each => each.pathname)")
    for link in sorted({each for each in links if "/calls/" in each})[:20]:
        harmless(reader, link)


def test_a_text_of_a_megabyte_is_folded_and_its_pages_stay_usable(
    reading: Callable[..., Reader], base: str, folder: Path
) -> None:
    with Memory.open(folder / "meant", embedder=HashEmbedder(), read_only=True) as memory:
        rule = max((each for each in memory.records().values() if each.kind == "rule"), key=lambda each: len(each.text))
    assert len(rule.text) > 1_000_000
    reader = reading(base)
    for path in (f"/run/meant/memory/{rule.id}", f"/run/meant/lineage/{rule.id}"):
        harmless(reader, path)
        assert reader.page.evaluate("document.documentElement.scrollHeight") < 30_000, path
    (episode,) = rule.parents
    harmless(reader, f"/run/meant/episodes/{quote(episode, safe='')}")
    assert reader.page.evaluate("document.documentElement.scrollHeight") < 30_000
    assert len(reader.open("/run/meant").content()) < 5_000_000
