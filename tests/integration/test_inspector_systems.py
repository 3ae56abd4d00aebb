"""The systems pages: every card, its place in the survey's frame, and what tests have shown of it."""

from __future__ import annotations

import html
import re
from collections import Counter
from collections.abc import Iterator

import pytest
from starlette.testclient import TestClient

from evolvent.agents.inspector.app import application
from evolvent.agents.inspector.systems import PHASES, arxiv
from evolvent.agents.recipes.catalog import card, cards, load_recipe, systems


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """Of a directory in which no run was begun: the pages need none."""
    folder = tmp_path_factory.mktemp("systems")
    (folder / "config.json").write_text("{}")
    with TestClient(application(folder), base_url="http://127.0.0.1") as client:
        yield client


def read(client: TestClient, address: str) -> str:
    """The words of a page."""
    answer = client.get(address)
    assert answer.status_code == 200, answer.text
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", answer.text)).split())


def listed(client: TestClient, address: str) -> list[str]:
    """Systems in the table of a page."""
    table = client.get(address).text.rpartition("<tbody>")[2]
    return re.findall(r'<a href="/systems/([^"?]+)">', table)


def test_all_systems_are_listed_with_status_and_the_share_of_their_signature_that_is_shown(client: TestClient) -> None:
    page = read(client, "/systems")
    known = systems()
    assert listed(client, "/systems") == [each.slug for each in known]
    assert f"The {len(known)} systems" in page
    for each in known:
        shown = sum(line.passed for line in each.signature)
        assert f"{each.name} {each.slug} {each.status} {shown} of {len(each.signature)}" in page
    for status, count in Counter(each.status for each in known).items():
        assert f"{status} {count}" in page


def test_every_placement_of_every_card_is_a_cell_of_the_frame_with_its_count(client: TestClient) -> None:
    page = read(client, "/systems")
    counts = Counter(place for each in systems() for place in each.placements)
    works = Counter(place for each in systems() if each.status == "works" for place in each.placements)
    assert {place.split("/")[0] for place in counts} == set(PHASES)
    for place, count in counts.items():
        family = place.partition("/")[2].replace("/", " / ")
        assert f"{family} {works[place]} of {count}" in page


def test_systems_are_filtered_by_status_place_and_name(client: TestClient) -> None:
    known = systems()
    replay = [each.slug for each in known if "update/in-weight/replay" in each.placements]
    assert listed(client, "/systems?place=update/in-weight/replay") == replay
    phase = [each.slug for each in known if any(place.startswith("feedback/") for place in each.placements)]
    assert listed(client, "/systems?place=feedback") == phase
    planned = [each.slug for each in known if each.status == "planned" and each.slug in replay]
    assert listed(client, "/systems?place=update/in-weight/replay&status=planned") == planned
    assert listed(client, "/systems?q=REFLEX") == ["reflexion"]
    assert listed(client, "/systems?place=up") == [], "a phase is not named by its first letters"
    assert "<script>" not in client.get("/systems?q=<script>&place=<script>&status=<script>").text


def test_a_system_tells_its_card_presets_and_the_test_behind_each_signature_line(client: TestClient) -> None:
    page, found = read(client, "/systems/reflexion"), card("reflexion")
    assert found.summary in page
    assert "arXiv 2303.11366" in page
    (known,) = [each for each in systems() if each.slug == "reflexion"]
    for line in known.signature:
        assert " ".join(line.text.split()) in page
        for test in (line.test or "").split(", "):
            assert test in page
    for setting in load_recipe("reflexion").PRESETS["paper"].model_dump():
        assert setting in page
    assert "reflections_shown 3" in page


def test_a_line_without_a_test_is_open_and_a_system_without_a_recipe_has_no_presets(client: TestClient) -> None:
    planned = next(each.slug for each in systems() if each.status == "planned")
    page = read(client, f"/systems/{planned}")
    assert "It has no recipe yet." in page
    assert "No test yet." in page


def test_every_system_has_a_page(client: TestClient) -> None:
    for slug in cards():
        assert client.get(f"/systems/{slug}").status_code == 200, slug
    assert "Evolvent's own recipe" in read(client, "/systems/lamarck")


@pytest.mark.parametrize("slug", ["reflexiom", "..%2fcards", "%00", "reflexion.yaml"])
def test_a_system_that_is_not_there_is_told_so(client: TestClient, slug: str) -> None:
    assert client.get(f"/systems/{slug}").status_code == 404


def test_papers_are_linked_without_telling_where_the_reader_comes_from(client: TestClient) -> None:
    page = client.get("/systems").text
    outward = re.findall(r'<a href="(https?://[^"]+)"([^>]*)>', page)
    assert len(outward) == len(cards())
    assert all(to.startswith("https://arxiv.org/abs/") and 'rel="noreferrer"' in rest for to, rest in outward)


def test_a_cards_paper_is_read_however_it_is_written() -> None:
    assert arxiv("arXiv 2305.03047 (NeurIPS 2023)") == arxiv("2305.03047") == "2305.03047"
    assert arxiv("a book") == ""
