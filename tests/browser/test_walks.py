"""What readers come for, step by step in a real browser."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import PATIENCE_MS, Reader
from inspected import copied, served
from playwright.sync_api import expect

from evolvent.memory.embedding import HashEmbedder
from evolvent.memory.retrieval import RETRIEVERS
from evolvent.memory.store import Memory

TESTS = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def _patience() -> None:
    expect.set_options(timeout=PATIENCE_MS)


@pytest.fixture(scope="module")
def base(finished: Path) -> Iterator[str]:
    with served(finished) as base:
        yield base


def rule_of(run: Path) -> tuple[str, str]:
    """Id and text of a rule that the gate proved."""
    with Memory.open(run, embedder=HashEmbedder(), read_only=True) as memory:
        return next((each.id, each.text) for each in memory.records().values() if each.status == "active" and each.lift)


def test_a_newcomer_learns_within_three_clicks_why_a_rule_exists_and_whether_it_helps(
    reading: Callable[..., Reader], finished: Path, tmp_path: Path
) -> None:
    folder = copied(finished, tmp_path / "runs")
    copied(folder / "lived", folder / "other")
    _, text = rule_of(folder / "lived")
    with served(folder) as base:
        reader = reading(base)
        page = reader.open("/")
        clicks = 0
        for link in ("lived", text):
            page.get_by_role("main").get_by_role("link", name=re.compile(re.escape(link))).first.click()
            clicks += 1
        expect(page.get_by_role("heading", name="Why does it exist?")).to_be_visible()
        expect(page.get_by_role("heading", name="Does it help?")).to_be_visible()
        assert clicks <= 3
        said = reader.text
        assert "Learned in generation" in said
        assert re.search(r"It helps|seems to help|proved to help", said)
        page.get_by_role("link", name="See its lineage").click()
        expect(page.locator("svg a").first).to_be_visible()


def test_records_are_found_in_every_mode_and_filtered(reading: Callable[..., Reader], base: str) -> None:
    page = reading(base).open("/run/lived/memory")
    for mode in RETRIEVERS:
        page.get_by_label("Search").fill("mend rust")
        page.get_by_label("How").select_option(mode)
        page.get_by_role("button", name="Show").click()
        expect(page.get_by_text(f"found by {mode}")).to_be_visible()
        assert page.get_by_role("region", name="Records").locator("tbody tr").count() > 0
        assert f"mode={mode}" in page.url
    page.go_back()
    expect(page.get_by_text(f"found by {[*RETRIEVERS][-2]}")).to_be_visible()
    page.goto(f"{base}/run/lived/memory")
    page.locator("select[name=status]").select_option("retired")
    page.get_by_role("button", name="Show").click()
    badges = page.get_by_role("region", name="Records").locator("tbody .badge")
    expect(badges.first).to_have_text("retired")
    assert {*badges.all_inner_texts()} == {"retired"}
    page.goto(f"{base}/run/lived/memory")
    page.get_by_role("link", name="Lift").click()
    expect(page.locator("[aria-sort]")).to_have_attribute("aria-sort", "descending")
    page.get_by_role("link", name="Lift").click()
    expect(page.locator("[aria-sort]")).to_have_attribute("aria-sort", "ascending")


def test_a_point_of_the_forest_plot_leads_to_its_record(reading: Callable[..., Reader], base: str) -> None:
    page = reading(base).open("/run/lived/memory")
    point = page.locator("#figure-lifts .scatterlayer .point").first
    point.wait_for(state="attached")
    point.scroll_into_view_if_needed()
    box = point.bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.wait_for_url(re.compile(r"/run/lived/memory/rule-"))


def test_an_episode_is_walked_through_by_arrow_keys(reading: Callable[..., Reader], base: str) -> None:
    page = reading(base).open("/run/lived/episodes?phase=train")
    page.get_by_role("region", name="Trajectories").locator("tbody a").first.click()
    expect(page.get_by_role("heading", name="Step 0")).to_be_visible()
    page.keyboard.press("ArrowRight")
    expect(page.get_by_role("heading", name="Step 1")).to_be_visible()
    page.keyboard.press("ArrowLeft")
    expect(page.get_by_role("heading", name="Step 0")).to_be_visible()
    page.keyboard.press("End")
    expect(page).not_to_have_url(re.compile("step=0"))
    page.keyboard.press("Home")
    expect(page.get_by_role("heading", name="Step 0")).to_be_visible()
    page.go_back()
    expect(page.get_by_role("heading", name="Step 0")).not_to_be_visible()


def test_episodes_are_filtered_by_outcome_and_task(reading: Callable[..., Reader], base: str) -> None:
    page = reading(base).open("/run/lived/episodes")
    page.get_by_label("Outcome").select_option("success")
    page.get_by_role("button", name="Show").click()
    badges = page.get_by_role("region", name="Trajectories").locator("tbody .badge")
    expect(badges.first).to_have_text("success")
    assert {*badges.all_inner_texts()} == {"success"}
    page.get_by_label("Task contains").fill("no such task")
    page.get_by_role("button", name="Show").click()
    expect(page.get_by_text("No trajectory is all that")).to_be_visible()


def test_lineage_is_walked_by_keyboard_from_node_to_node(
    reading: Callable[..., Reader], base: str, finished: Path
) -> None:
    rule, _ = rule_of(finished / "lived")
    page = reading(base).open(f"/run/lived/lineage/{rule}")
    node = page.locator("svg a[href]").first
    to = node.get_attribute("href")
    assert to is not None
    node.focus()
    page.keyboard.press("Enter")
    page.wait_for_url(f"{base}{to}")
    expect(page.locator("svg a").first).to_be_visible()


def test_a_record_is_retired_and_the_commit_reverted_with_confirmation(
    reading: Callable[..., Reader], finished: Path, tmp_path: Path
) -> None:
    folder = copied(finished, tmp_path / "runs")
    rule, _ = rule_of(folder / "lived")

    def status() -> str:
        with Memory.open(folder / "lived", embedder=HashEmbedder(), read_only=True) as memory:
            return memory.records()[rule].status

    with served(folder, write=True) as base:
        page = reading(base).open(f"/run/lived/memory/{rule}")
        page.get_by_role("link", name="Retire it").click()
        expect(page.get_by_role("heading", level=1)).to_contain_text("Retire")
        assert status() == "active", "asking changes nothing"
        page.get_by_label("reason").or_(page.get_by_label("Why")).first.fill("a test says so <b>")
        page.get_by_role("main").get_by_role("button").click()
        expect(page.locator(".badge.retired").first).to_be_visible()
        expect(page.get_by_text("a test says so <b>").first).to_be_visible()
        assert status() == "retired"
        page.reload()
        assert status() == "retired"
        page.keyboard.press("4")
        page.get_by_role("region", name="Commits").locator("tbody a").first.click()
        page.get_by_role("link", name="Revert").first.click()
        expect(page.get_by_role("heading", level=1)).to_contain_text("Revert commit")
        assert status() == "retired", "asking changes nothing"
        page.get_by_role("main").get_by_role("button").click()
        expect(page.locator(".done")).to_be_visible()
        assert status() == "active"


def test_a_page_follows_a_run_as_it_goes_on(reading: Callable[..., Reader], tmp_path: Path) -> None:
    """In a process of its own, as it is in life; the page is never loaded again."""
    config = {"recipe": "lamarck", "tasks": 2, "evaluated": 2, "generations": 3, "embedder": "hash"}
    settings = {"candidates": 1, "gate_pairs": 2, "trajectories": 1}
    code = (
        "import sys, json; from pathlib import Path\n"
        "from systems.runs import resume; from workshop_scorer import learner\n"
        "from evolvent.agents.run import RunConfig, create\n"
        "create(RunConfig(**json.loads(sys.argv[1])), Path(sys.argv[2])); print('made', flush=True)\n"
        "sys.stdin.readline(); resume(Path(sys.argv[2]), {'actor': learner(latency_s=0.2)})"
    )
    line = [sys.executable, "-c", code, json.dumps({**config, "settings": settings}), str(tmp_path / "runs" / "live")]
    process = subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=TESTS)
    try:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "made\n"
        with served(tmp_path / "runs") as base:
            reader = reading(base)
            page = reader.open("/run/live")
            page.evaluate("window.sameFromBegin = true")
            expect(page.locator("#live-state")).to_have_text("live")
            assert "evolvent resume" in reader.text
            process.stdin.write("\n")
            process.stdin.flush()
            expect(page.get_by_text("A process is writing it")).to_be_visible(timeout=3 * PATIENCE_MS)
            expect(page.locator("#figure-learning-curve .main-svg").first).to_be_attached(timeout=3 * PATIENCE_MS)
            told = page.locator("#figure-learning-curve")
            expect(told).to_have_attribute("aria-label", re.compile("generation 3"), timeout=3 * PATIENCE_MS)
            expect(page.locator("#live-state")).to_contain_text("as of")
            assert process.wait(timeout=180) == 0
            expect(page.locator("#overview")).to_contain_text("ended", timeout=PATIENCE_MS)
            assert page.evaluate("window.sameFromBegin") is True
    finally:
        process.kill()
        process.communicate()


def test_a_reader_at_work_is_not_disturbed_when_the_run_goes_on(
    reading: Callable[..., Reader], finished: Path, tmp_path: Path
) -> None:
    folder = copied(finished, tmp_path / "runs")
    with served(folder) as base:
        page = reading(base).open("/run/lived/memory")
        expect(page.locator("#live-state")).to_have_text("live")
        page.get_by_label("Search").fill("half a word")
        page.locator("#growth-table summary").click()
        (folder / "lived" / "metrics.jsonl").touch()
        expect(page.locator("#live-state")).to_contain_text("as of")
        assert page.input_value("[name=q]") == "half a word"
        assert page.locator("#growth-table").get_attribute("open") is not None
