"""The first pages: all runs, several side by side, a benchmark, and the overview of one run, over a real benchmark."""

from __future__ import annotations

import html
import json
import re
import shutil
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient
from workshop_scorer import learner

from evolvent.agents.bench import bench
from evolvent.agents.findings import read_findings
from evolvent.agents.inspector.app import application
from evolvent.agents.report import verdict_in_words
from evolvent.agents.rollout import run_sync
from evolvent.agents.run import RunConfig, result
from evolvent.memory.embedding import HashEmbedder
from evolvent.memory.lock import WriterLock
from evolvent.memory.store import Memory
from evolvent.memory.types import Event, new_record

CONFIG = RunConfig(
    recipe="lamarck",
    tasks=5,
    evaluated=6,
    generations=1,
    embedder="hash",
    settings={"candidates": 3, "gate_pairs": 20},
)
HOSTILE = '"><img src=x onerror=alert(1)><script>alert(2)</script>'


@pytest.fixture(scope="module")
def benched(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    """What `bench` said of two seeds, and the folder it left."""
    folder = tmp_path_factory.mktemp("runs") / "compared"
    found = run_sync(bench(CONFIG, 2, folder, models={"actor": learner()}, controls=("frozen", "raw-retrieval")))
    return found, folder


@pytest.fixture
def folder(benched: tuple[dict[str, Any], Path], tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(benched[1], tmp_path / "compared"))


@pytest.fixture
def client(folder: Path) -> Iterator[TestClient]:
    with TestClient(application(folder), base_url="http://127.0.0.1") as client:
        yield client


class Text(HTMLParser):
    """What a reader sees, the addresses of links with their words, and the tags."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.words: list[str] = []
        self.links: dict[str, str] = {}
        self.tags: list[str] = []
        self._to = ""
        self.feed(page)
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag == "a":
            self._to = dict(attrs).get("href") or ""

    def handle_endtag(self, tag: str) -> None:
        if tag == "a":
            self._to = ""

    def handle_data(self, data: str) -> None:
        self.words.append(data)
        if self._to:
            self.links[self._to] = self.links.get(self._to, "") + data.strip()


def read(client: TestClient, address: str) -> Text:
    answer = client.get(address)
    assert answer.status_code == 200, answer.text
    return Text(answer.text)


def figures(client: TestClient, address: str) -> dict[str, Any]:
    """What is drawn on a page, by name."""
    page = client.get(address).text
    found = re.findall(r'id="figure-([\w-]+)"[^>]*data-figure="([^"]*)"', page)
    return {name: json.loads(html.unescape(figure)) for name, figure in found}


# -- the list ------------------------------------------------------------------------------------------------------


def test_every_run_stands_in_the_list_with_what_came_of_it_and_what_it_cost(client: TestClient, folder: Path) -> None:
    page = read(client, "/")
    for seed in (0, 1):
        found = result(folder / f"seed-{seed}")
        assert f"lamarck on workshop, seed {seed}" in page.text
        assert "{success:.2f} ({low:.2f} to {high:.2f})".format(**found["generations"][-1]["held_out"]) in page.text
        assert "{mean:+.2f} ({low:+.2f} to {high:+.2f})".format(**found["gain"]) in page.text
        tokens = sum(row["tokens_in"] + row["tokens_out"] for row in found["generations"])
        assert f"{tokens:,} tokens" in page.text
        assert f"/run/seed-{seed}" in page.links
    assert "raw-retrieval" in page.text
    assert "ended" in page.text


def test_what_controls_played_is_no_run_of_its_own_but_is_led_to_from_its_run(client: TestClient) -> None:
    page = read(client, "/")
    assert "2 runs" in page.text
    assert "/run/seed-0~controls" not in page.links
    assert "/run/seed-0~controls/episodes" in read(client, "/run/seed-0").links
    assert "raw-retrieval" in read(client, "/run/seed-0").text


def test_a_directory_that_is_one_run_opens_at_its_overview(folder: Path) -> None:
    with TestClient(application(folder / "seed-0"), base_url="http://127.0.0.1") as client:
        answer = client.get("/", follow_redirects=False)
        assert (answer.status_code, answer.headers["location"]) == (303, "/run/seed-0")
        assert "lamarck on workshop" in read(client, "/").text


def test_a_run_that_somebody_writes_goes_on_and_one_that_nobody_writes_has_stopped(
    client: TestClient, folder: Path
) -> None:
    run = folder / "seed-0"
    unfinished = json.loads((run / "config.json").read_text()) | {"generations": 5}
    (run / "config.json").write_text(json.dumps(unfinished))
    assert "stopped" in read(client, "/").text
    assert f"evolvent resume {run}" in read(client, "/run/seed-0").text
    lock = WriterLock(run / "ledger.lock")
    try:
        assert "going on" in read(client, "/").text
        assert "evolvent resume" not in read(client, "/run/seed-0").text
    finally:
        lock.release()


def test_a_long_list_is_searched_and_paged(folder: Path) -> None:
    config = (folder / "seed-0" / "config.json").read_text()
    for number in range(60):
        (folder / f"more-{number:02}").mkdir()
        (folder / f"more-{number:02}" / "config.json").write_text(config)
    with TestClient(application(folder), base_url="http://127.0.0.1") as client:
        first, second = read(client, "/runs"), read(client, "/runs?page=2")
        assert "62 runs" in first.text
        assert "page 1 of 2" in first.text
        assert "/run/more-00" in first.links
        assert "/run/more-00" not in second.links
        assert "/run/seed-1" in second.links
        found = read(client, "/runs?q=SEED-1+workshop")
        assert [to for to in found.links if to.startswith("/run/")] == ["/run/seed-1"]
        assert "has not begun" in first.text


@pytest.mark.parametrize("page", ["0", "-1", "x", "99", "²", "9" * 40])
def test_a_page_that_is_none_shows_one_that_is(client: TestClient, page: str) -> None:
    assert "/run/seed-0" in read(client, f"/runs?page={page}").links


# -- several side by side ------------------------------------------------------------------------------------------


def test_chosen_runs_are_drawn_together_and_told_apart_by_what_differs(client: TestClient, folder: Path) -> None:
    address = "/runs?run=seed-0&run=seed-1"
    drawn = figures(client, address)
    assert list(drawn) == ["learning-curve", "cost"]
    named = [trace["name"] for trace in drawn["cost"]["data"]]
    assert named == ["seed-0", "seed-1"]
    found = result(folder / "seed-1")
    spent = [row["tokens_in"] + row["tokens_out"] for row in found["generations"]]
    assert drawn["cost"]["data"][1]["x"] == [spent[0], spent[0] + spent[1]]
    low = drawn["cost"]["data"][1]["error_y"]["arrayminus"]
    assert low == [each["held_out"]["success"] - each["held_out"]["low"] for each in found["generations"]]
    page = read(client, address)
    assert "options.world 0 1" in page.text
    assert "seed 0 1" in page.text
    assert "explore_temperature" not in page.text, "in that they are alike"


def test_settings_of_the_recipe_in_which_runs_differ_are_told_even_where_no_config_names_them(
    client: TestClient, folder: Path
) -> None:
    config = json.loads((folder / "seed-1" / "config.json").read_text())
    config["settings"]["minimum_lift"] = 0.5
    (folder / "seed-1" / "config.json").write_text(json.dumps(config))
    assert "lamarck.minimum_lift 0.02 0.5" in read(client, "/runs?run=seed-0&run=seed-1").text


def test_a_run_that_is_not_there_is_not_compared(client: TestClient) -> None:
    assert "Side by side" not in read(client, "/runs?run=../etc&run=seed-9").text


# -- benchmarks ----------------------------------------------------------------------------------------------------


def test_a_benchmark_says_what_the_command_said_of_arms_and_gains(
    client: TestClient, benched: tuple[dict[str, Any], Path]
) -> None:
    found, _ = benched
    assert "/benchmarks/compared" in read(client, "/").links
    page = read(client, "/benchmarks/compared")
    for name in ("lamarck", "frozen", "raw-retrieval"):
        arm = found["arms"][name]
        assert f"{name} {arm['success']:.2f} ({arm['low']:.2f} to {arm['high']:.2f}) {arm['n']}" in page.text
    for name in ("frozen", "raw-retrieval"):
        assert "{mean:+.2f} ({low:+.2f} to {high:+.2f})".format(**found["gain"][name]) in page.text
    (forest,) = figures(client, "/benchmarks/compared").values()
    assert forest["layout"]["yaxis"]["ticktext"] == ["over frozen", "over raw-retrieval"]
    assert forest["data"][0]["x"] == [found["gain"][name]["mean"] for name in ("frozen", "raw-retrieval")]
    for seed in found["seeds"]:
        assert f"{seed['success']['lamarck']:.2f}" in page.text


def test_an_arm_that_one_seed_lacks_is_not_pooled(client: TestClient, folder: Path) -> None:
    shutil.rmtree(folder / "seed-1" / "controls")
    page = read(client, "/benchmarks/compared")
    assert "frozen" in page.text
    assert "raw-retrieval" not in page.text


def test_a_seed_that_cannot_be_read_is_named_and_the_others_are_shown(client: TestClient, folder: Path) -> None:
    (folder / "seed-1" / "ledger.sqlite").write_bytes(b"no ledger at all")
    page = read(client, "/benchmarks/compared")
    assert "What seed-1 played" in page.text
    assert "1 seed, pooled" in page.text


def test_an_unknown_benchmark_is_told_so(client: TestClient) -> None:
    assert client.get("/benchmarks/other").status_code == 404


# -- the overview --------------------------------------------------------------------------------------------------


def test_the_overview_says_the_verdict_and_links_every_proved_rule_with_whether_it_helps(
    client: TestClient, folder: Path
) -> None:
    run = folder / "seed-0"
    found = read_findings(run)
    assert found.active, "else this test shows nothing"
    page = read(client, "/run/seed-0")
    assert verdict_in_words(result(run)) in page.text
    for decision in found.active:
        assert page.links[f"/run/seed-0/memory/{decision.record.id}"] == decision.record.text
        assert f"Helps: tried with and without it in generation 1, it {decision.evidence}" in page.text
    for decision in found.rejected:
        assert f"/run/seed-0/memory/{decision.record.id}" in page.links
    assert page.text.count("Not shown to help:") == len(found.rejected)


def test_from_the_first_page_a_rule_is_two_clicks_away(client: TestClient, folder: Path) -> None:
    rule = read_findings(folder / "seed-0").active[0].record
    assert "/run/seed-0" in read(client, "/").links
    assert f"/run/seed-0/memory/{rule.id}" in read(client, "/run/seed-0").links


def test_a_rule_that_left_the_prompt_is_still_told_with_the_reason(client: TestClient, folder: Path) -> None:
    rule = read_findings(folder / "seed-0").active[0].record
    with Memory.open(folder / "seed-0", embedder=HashEmbedder()) as memory:
        payload = {"reason": "absorbed", "by": "mender@0123"}
        memory.commit("1/distil", [Event("retire", rule.id, payload=payload)], generation=1)
    page = read(client, "/run/seed-0")
    assert "The weights know it now (adapter mender@0123), so it left the prompt." in page.text
    assert f"/run/seed-0/memory/{rule.id}" in page.links


def test_the_overview_tells_costs_settings_unlike_the_papers_and_versions(client: TestClient, folder: Path) -> None:
    found = read_findings(folder / "seed-0")
    page = read(client, "/run/seed-0")
    for spent in found.spent:
        cost = f"{spent.phase} {spent.episodes:,} {spent.failures} {spent.cost.calls:,} {spent.cost.tokens_in:,}"
        assert cost in page.text
    assert "candidates 3 32" in page.text
    assert found.result is not None
    assert found.result["versions"]["evolvent"] in page.text
    assert found.result["task_set_hash"] in page.text
    drawn = figures(client, "/run/seed-0")
    assert list(drawn) == ["learning-curve", "records-by-status"]
    frozen = found.result["frozen"]
    bands = [trace["y"] for trace in drawn["learning-curve"]["data"] if trace.get("fill") == "toself"]
    assert [frozen["high"]] * 2 + [frozen["low"]] * 2 in bands


def test_what_a_run_learned_without_a_gate_is_shown_too(client: TestClient, folder: Path) -> None:
    note = new_record("note", "Look at the frame first.", status="active")
    with Memory.open(folder / "seed-0", embedder=HashEmbedder()) as memory:
        memory.commit("1/notes", [Event("add", note.id, note)], generation=1)
    page = read(client, "/run/seed-0")
    assert "Kept without a gate (1)" in page.text
    assert page.links[f"/run/seed-0/memory/{note.id}"] == note.text


def test_hostile_text_is_text_on_every_page_and_in_every_figure(client: TestClient, folder: Path) -> None:
    config = json.loads((folder / "seed-0" / "config.json").read_text())
    (folder / "seed-0" / "config.json").write_text(json.dumps(config | {"model": HOSTILE}))
    rule = new_record("rule", HOSTILE, status="active")
    gate = {"wins": 9, "losses": 0, "ties": 1, "mean": 0.5, "e_value": 99.0, "level": 0.05, "verdict": HOSTILE}
    with Memory.open(folder / "seed-0", embedder=HashEmbedder()) as memory:
        memory.commit("1/notes", [Event("add", rule.id, rule)], generation=1)
        memory.commit("1/proof", [Event("activate", rule.id, payload={"gate": gate})], generation=1)
        memory.commit(
            "1/out", [Event("retire", rule.id, payload={"reason": HOSTILE, "by": HOSTILE})], generation=1, note=HOSTILE
        )
    hostile = folder / "<img src=x onerror=alert(3)>"
    shutil.copytree(folder / "seed-1", hostile)
    for address in ("/", "/run/seed-0", "/runs?run=seed-0&run=seed-1", "/benchmarks/compared", f"/runs?q={HOSTILE}"):
        page = client.get(address)
        assert page.status_code == 200
        assert "<img" not in page.text
        assert "<script>" not in page.text
        for figure in figures(client, address).values():
            assert "<img" not in json.dumps(figure)
    assert HOSTILE in read(client, "/run/seed-0").text


# -- damage --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", ["config.json", "ledger.sqlite", "metrics.jsonl", "trace.jsonl"])
@pytest.mark.parametrize("how", ["missing", "empty", "cut", "garbled"])
def test_a_damaged_run_is_shown_as_far_as_it_goes(client: TestClient, folder: Path, file: str, how: str) -> None:
    damaged = folder / "seed-0" / file
    whole = damaged.read_bytes()
    damaged.unlink()
    if how != "missing":
        damaged.write_bytes({"empty": b"", "cut": whole[: len(whole) // 2], "garbled": b"\xff\xfe\x00{[" * 99}[how])
    for address in ("/", "/runs?run=seed-0&run=seed-1", "/benchmarks/compared", "/run/seed-0"):
        assert read(client, address)
    told = read(client, "/run/seed-0").text
    if (file, how) in (("ledger.sqlite", "missing"), ("ledger.sqlite", "garbled"), ("config.json", "garbled")):
        assert "Not everything here could be read" in told
        assert "There is no result to report yet." in told
    gain = "{mean:+.2f} ({low:+.2f} to {high:+.2f})".format(**result(folder / "seed-1")["gain"])
    assert gain in read(client, "/").text, "the other seed is there"


def test_damaged_controls_are_named_and_the_run_is_shown(client: TestClient, folder: Path) -> None:
    (folder / "seed-0" / "controls" / "ledger.sqlite").write_bytes(b"no ledger at all" * 99)
    page = read(client, "/run/seed-0")
    assert "The controls: " in page.text
    assert verdict_in_words(result(folder / "seed-0")) in page.text
    assert "/run/seed-0" in read(client, "/").links


def test_a_memory_without_a_run_is_no_damage(folder: Path) -> None:
    with Memory.open(folder / "kept", embedder=HashEmbedder()) as memory:
        note = new_record("note", "Look at the frame first.", status="active")
        memory.commit("hand", [Event("add", note.id, note)], generation=0)
    with TestClient(application(folder), base_url="http://127.0.0.1") as client:
        page = read(client, "/run/kept")
        assert "This is a memory without a run" in page.text
        assert "Not everything" not in page.text
        assert page.links[f"/run/kept/memory/{note.id}"] == note.text
        assert "a memory without a run" in read(client, "/").text
