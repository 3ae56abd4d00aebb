"""Reports in the terminal and as a page, over a run in which an agent learned."""

from __future__ import annotations

import json
import re
import shutil
import sqlite3
from dataclasses import asdict, replace
from html.parser import HTMLParser
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console, RenderableType
from systems.runs import memory_of, play
from workshop_scorer import learner

from evolvent.agents.evaluation.task_set import judged_tasks, task_set_hash
from evolvent.agents.findings import read_findings
from evolvent.agents.report import interval_bar, render_bench, render_report, verdict_in_words, write_html
from evolvent.agents.run import RunConfig, result
from evolvent.environments.catalog import version
from evolvent.environments.types import Task
from evolvent.environments.workshop import Workshop
from evolvent.memory.embedding import HashEmbedder
from evolvent.memory.store import Memory
from evolvent.memory.types import Event, Interval, Kind, new_record

CONFIG = RunConfig(recipe="lamarck", tasks=6, evaluated=8, generations=1, embedder="hash")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return play(tmp_path_factory.mktemp("report") / "run", CONFIG, {"actor": learner()})


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


def printed(what: RenderableType, width: int = 100) -> str:
    shown = StringIO()
    Console(width=width, file=shown).print(what)
    return shown.getvalue()


class Page(HTMLParser):
    """Tags that were left open, addresses that would be fetched, and the text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.addresses: list[str] = []
        self.tags: set[str] = set()
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href", "action")]
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.open.pop()

    def handle_data(self, data: str) -> None:
        self.text += data


def page_of(directory: Path) -> Page:
    write_html(directory, directory / "report.html")
    page = Page((directory / "report.html").read_text("utf-8"))
    assert page.open == []
    return page


def test_the_terminal_says_the_verdict_first_then_curve_rules_evidence_and_place(run: Path) -> None:
    report = result(run)
    text = printed(render_report(report, run), width=200)
    assert text.splitlines()[0] == verdict_in_words(report)
    found = read_findings(run)
    for decision in found.active:
        assert decision.record.text in text
        assert decision.evidence in text
        assert decision.record.parents[0] in text
    assert "gen. 1" in text
    assert found.rejected[0].record.text in text
    assert str(run) in text.replace("\n", "")


def test_records_are_counted_in_every_standing_and_data_sets_and_adapters_apart(run: Path) -> None:
    before, told = result(run)["records"], read_findings(run)
    kinds: tuple[Kind, ...] = ("note", "dataset", "adapter")
    with Memory.open(run, embedder=HashEmbedder()) as memory:
        added = [new_record(kind, "Of the last hour.", status="quarantined") for kind in kinds]
        memory.commit("1/distil", [Event("add", record.id, record) for record in added], generation=1)
    now = read_findings(run)
    assert result(run)["records"] == {**before, "quarantined": before["quarantined"] + 1}
    assert now.by_status[1] == {**told.by_status[1], "quarantined": told.by_status[1]["quarantined"] + 1}
    assert [record.kind for record in now.undecided if record not in told.undecided] == ["note"]
    page_of(run)
    assert "1 quarantined" in (run / "report.html").read_text("utf-8"), "said of the drawing"


def test_the_terminal_report_fits_eighty_columns(run: Path) -> None:
    lines = printed(render_report(result(run), run), width=80).splitlines()
    assert any("gen. 1" in line and "(" in line and line.rstrip()[-1].isdigit() for line in lines)


def test_words_claim_no_more_than_the_interval_allows() -> None:
    base: dict[str, Any] = {
        "frozen": {"success": 0.5},
        "generations": [{"held_out": {"success": 0.54, "n": 80}}],
        "gain": {"mean": 0.04, "low": -0.02, "high": 0.1, "n": 78},
        "verdict": "no evidence",
        "lost_pairs": 2,
        "finished": False,
    }
    assert verdict_in_words(base) == (
        "No evidence of improvement: success on held-out tasks 0.50 → 0.54, "
        "gain +0.04 (95 % interval -0.02 to +0.10) over 78 pairs. "
        "2 pairs were lost to failures of infrastructure. The run has not ended yet."
    )
    assert verdict_in_words({**base, "verdict": "worse"}).startswith("Worse: ")


@pytest.mark.parametrize(("success", "place"), [(0.0, 0), (0.5, 5), (1.0, 9)])
def test_a_bar_marks_the_success_between_nought_and_one(success: float, place: int) -> None:
    bar = interval_bar({"success": success, "low": 0.0, "high": 1.0}, width=10).plain
    assert len(bar) == 10
    assert bar.index("●") == place


def test_the_page_stands_alone_and_tells_verdict_rules_lineage_costs_config_and_versions(run: Path) -> None:
    page = page_of(run)
    report = result(run)
    assert all(address.startswith("#") for address in page.addresses)
    assert not page.tags & {"script", "link", "img", "iframe"}
    assert verdict_in_words(report) in page.text
    for decision in read_findings(run).active:
        assert decision.record.text in page.text
        assert decision.strength in page.text
        assert set(decision.record.parents) <= set(re.findall(r"train/\S+?/\d", page.text))
    assert "Task: " in page.text, "what happened in the trajectories that rules come from"
    for told in ("gate", "recipe", "lamarck", report["env_version"], report["task_set_hash"], "evolvent"):
        assert told in page.text
    assert page.tags >= {"svg", "table", "details"}
    assert "prefers-color-scheme: dark" in page.text


def test_what_a_model_wrote_stays_text_on_the_page_and_in_the_terminal(run: Path) -> None:
    evil = "<script>alert(1)</script> [bold]&amp; [/nothing]"
    record = new_record("rule", evil, generation=1)
    gate = {"wins": 9, "losses": 0, "ties": 0, "mean": 1.0, "e_value": 1e9, "level": 0.05, "verdict": "promoted"}
    with memory_for_writing(run) as memory:
        events = [Event("add", record.id, record), Event("activate", record.id, payload={"gate": gate})]
        memory.commit("extra", events, generation=1)
    page = page_of(run)
    assert evil in page.text
    assert "script" not in page.tags
    assert evil[:20] in printed(render_report(result(run), run), width=200)


def memory_for_writing(directory: Path) -> Memory:
    from evolvent.memory.embedding import HashEmbedder

    return Memory.open(directory, embedder=HashEmbedder())


def test_the_page_has_the_plots_of_the_inspector_with_their_numbers_beside_them(run: Path) -> None:
    with memory_for_writing(run) as memory:
        helps = read_findings(run).active[0].record
        lift = asdict(Interval(0.25, 0.125, 0.5, 31))
        memory.commit("lift", [Event("credit", helps.id, payload={"lift": lift})], generation=1)
    page = page_of(run)
    report = result(run)
    spent = sum(row["tokens_in"] + row["tokens_out"] for row in report["generations"])
    assert f"{spent:,} tokens" in (run / "report.html").read_text("utf-8"), "said of the drawing of costs"
    assert "+0.25 (+0.12 to +0.50)" in page.text
    assert f"{helps.text}  n=31" in page.text, "in the forest plot"
    for heading in ("Cost against success", "Does it help when it is shown?", "Where the strongest rules come from"):
        assert heading in page.text
    assert helps.id in page.text, "a box of its lineage"
    assert "Adapters" not in page.text
    assert "Beside its controls" not in page.text
    assert (run / "report.html").stat().st_size < 1_000_000


def test_controls_that_a_benchmark_played_stand_beside_the_run(run: Path) -> None:
    with memory_of(run) as memory:
        judged = [each.trajectories[0] for each in memory.ledger.episodes(phase="eval", generation=1)]
        rows = [json.loads(text) for text in memory.ledger.generations().values()]
    with Memory.open(run / "controls", embedder=HashEmbedder()) as beside:
        for each in judged:
            key = f"control/1/{each.task.id}/0/full-history"
            lost = replace(each.outcome, score=0.0, success=False)
            beside.add_episode(key, [replace(each, id=key, phase="control", outcome=lost)])
    page = page_of(run)
    mean = sum(score for scores in rows[-1]["scores"].values() for score in scores) / len(judged)
    assert mean > 0
    assert "Beside its controls" in page.text
    assert f"{mean:+.2f} (" in page.text.partition("full-history")[2]
    (run / "controls" / "ledger.sqlite").write_bytes(b"no ledger" * 200)
    damaged = page_of(run)
    assert "Beside its controls" not in damaged.text
    assert "The controls: " in damaged.text
    assert "Cost against success" in damaged.text


def test_a_rule_that_was_proved_and_left_the_prompt_is_still_told(run: Path) -> None:
    rule = read_findings(run).active[0].record
    with memory_for_writing(run) as memory:
        memory.commit("out", [Event("retire", rule.id, payload={"reason": "absorbed"})], generation=1)
    (gone,) = read_findings(run).withdrawn
    assert gone.record.id == rule.id
    assert "Proved, and out of the prompt since (1)" in page_of(run).text
    assert "proved, and out of the prompt since (1)" in printed(render_report(result(run), run), width=120)


def test_hostile_words_reach_neither_the_tags_of_the_page_nor_the_terminal(run: Path) -> None:
    evil = [
        "</svg><script>alert(1)</script>",
        '"><img src=x onerror=alert(1)>',
        "</details></table><iframe src=//x></iframe>",
        "{{7*7}} $x$ <style>*{display:none}</style>",
        "\x1b]0;mine\x07\x1b[2J\x00 gone",
    ]
    gate = {"wins": 9, "losses": 0, "ties": 0, "mean": 1.0, "e_value": 1e9, "level": 0.05, "verdict": "promoted"}
    lift = asdict(Interval(0.9, 0.8, 1.0, 40))
    with memory_for_writing(run) as memory:
        for text in evil:
            record = new_record("rule", text, generation=1, parents=(text,))
            events = [Event("add", record.id, record), Event("activate", record.id, payload={"gate": gate})]
            memory.commit(record.id, [*events, Event("credit", record.id, payload={"lift": lift})], generation=1)
    page = page_of(run)
    assert not page.tags & {"script", "img", "iframe"}
    assert all(address.startswith("#") for address in page.addresses)
    assert "<style>*" not in (run / "report.html").read_text("utf-8")
    assert all(text in page.text for text in evil[:-1])
    shown = printed(render_report(result(run), run), width=200)
    assert not {"\x1b", "\x07", "\x00"} & set(shown)


def test_a_run_without_a_finished_generation_is_shown_with_what_it_has(tmp_path: Path, run: Path) -> None:
    begun = tmp_path / "begun"
    begun.mkdir()
    shutil.copy(run / "config.json", begun)
    with memory_for_writing(begun):
        pass
    page = page_of(begun)
    assert "There is no result to report yet." in page.text
    assert "no finished generation" in page.text
    assert "there is no metrics.jsonl" in page.text
    assert "concurrency" in page.text


@pytest.mark.parametrize("name", ["config.json", "ledger.sqlite", "metrics.jsonl"])
@pytest.mark.parametrize("harm", ["gone", "garbage", "cut in half"])
def test_a_damaged_directory_still_gives_a_page_that_says_what_is_missing(run: Path, name: str, harm: str) -> None:
    file = run / name
    data = file.read_bytes()
    file.unlink()
    if harm != "gone":
        file.write_bytes(b"\xff\x00 garbage" * 100 if harm == "garbage" else data[: len(data) // 2])
    page = page_of(run)
    if name == "metrics.jsonl" and harm != "gone":
        assert verdict_in_words(result(run)) in page.text
        return
    assert "Not everything here could be read:" in page.text
    kept = {"config.json": "To mend", "ledger.sqlite": "Cost by phase", "metrics.jsonl": "To mend"}[name]
    assert kept in page.text


def test_a_trajectory_that_cannot_be_read_is_named_and_the_rest_is_shown(run: Path) -> None:
    source = read_findings(run).active[0].record.parents[0]
    with sqlite3.connect(run / "ledger.sqlite") as db:
        db.execute("DROP TRIGGER trajectories_never_update")
        db.execute("UPDATE trajectories SET body = x'00' WHERE id = ?", (source,))
    db.close()
    found = read_findings(run)
    assert source not in found.origins
    assert any(source in problem for problem in found.problems)
    assert len(found.active) >= 1


def test_an_empty_directory_is_a_page_too(tmp_path: Path) -> None:
    assert "is not a run" in page_of(tmp_path).text


def bench_of(**changes: Any) -> dict[str, Any]:
    arm = {"success": 0.8, "low": 0.7, "high": 0.9, "n": 100, "tokens_in": 5000, "tokens_out": 10, "seconds": 61.0}
    above, same = {"mean": 0.3, "low": 0.2, "high": 0.4}, {"mean": 0.01, "low": -0.03, "high": 0.05}
    return {
        **{"recipe": "lamarck", "env": "workshop", "model": "smollm2"},
        **{"env_version": "0.1.0+1", "task_set_hash": "0123456789ab"},
        "arms": {"lamarck": arm, "frozen": {**arm, "success": 0.5}, "random-rules": None},
        "gain": {"frozen": above, "raw-retrieval": same, "random-rules": None},
        **changes,
    }


def test_a_benchmark_shows_every_arm_and_what_each_gain_means() -> None:
    text = printed(render_bench(bench_of()))
    assert re.search(r"frozen\s+\+0\.30 \(95 % interval \+0\.20 to \+0\.40\)\s+above", text)
    assert re.search(r"raw-retrieval\s+.*no evidence of a difference", text)
    assert "0.1.0+1" in text
    assert "0123456789ab" in text
    assert "5,010" in text


def test_a_benchmark_says_why_an_arm_is_missing_and_how_many_tasks_would_tell() -> None:
    text = printed(
        render_bench(
            bench_of(
                reasons={"random-rules": "Nothing carries over."},
                power={"raw-retrieval": {"n": 12345, "diagnosis": "effect size"}},
                equivalence={"against": "raw-retrieval", "margin": 0.05, "low": -0.03, "not_below": True},
            )
        ),
        width=200,
    )
    assert "random-rules: Nothing carries over." in text
    assert "Against raw-retrieval: 12,345 tasks would show a difference of this size" in text
    assert "Not below raw-retrieval by a margin of 0.05: lower end -0.03." in text


def test_a_report_names_the_environment_and_the_tasks_it_is_about(run: Path) -> None:
    report = result(run)
    assert report["env_version"] == version("workshop") == report["versions"]["environment"]
    assert report["task_set_hash"] == task_set_hash(Workshop().tasks("test", CONFIG.evaluated, 0))
    assert report["judged_on"] == "held-out tasks"
    with memory_of(run) as memory:
        assert len(judged_tasks(memory.ledger)) == CONFIG.evaluated


def test_the_hash_of_a_task_set_follows_its_tasks_and_not_their_order() -> None:
    one, two = Task("1", "Mend it.", "w", {"flaws": ["rust"]}), Task("2", "Mend that.", "w")
    assert task_set_hash([one, two]) == task_set_hash([two, one, one])
    changed = Task("1", "Mend it.", "w", {"flaws": ["rot"]})
    assert task_set_hash([one, two]) != task_set_hash([changed, two])
    assert re.fullmatch("[0-9a-f]{12}", task_set_hash([one]))
