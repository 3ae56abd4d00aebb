"""The inspector's pages about memory: what it holds, why a record exists, its lineage, and what a reader may change."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from starlette.testclient import TestClient
from systems.runs import play
from workshop_scorer import learner

from evolvent.agents.inspector.app import application
from evolvent.agents.inspector.record import help_in_words
from evolvent.agents.inspector.table import Table
from evolvent.agents.run import RunConfig
from evolvent.environments.types import Action, Observation, Outcome, Recalled, Step, Task, Trajectory
from evolvent.memory.embedding import Floats, HashEmbedder
from evolvent.memory.lineage import Decision
from evolvent.memory.retrieval import RETRIEVERS
from evolvent.memory.store import Memory
from evolvent.memory.types import Event, Interval, Record, Scope, new_record

CONFIG = RunConfig(recipe="lamarck", tasks=6, evaluated=8, generations=1, embedder="hash")
HOSTILE = "<script>alert(1)</script> \"><img src=x onerror=alert(2)> {{7*7}} {% include 'x' %} ${7*7} </textarea>"
GATE = {"wins": 9, "losses": 1, "ties": 14, "mean": 0.3, "e_value": 31.0, "level": 0.05, "verdict": "promoted"}
WORKSHOP = Scope("workshop", ("rust",))
HELPS = new_record("rule", "File the rust first.", WORKSHOP, parents=("t1",), meta={"situation": "Rust!"})
HARMS = new_record("rule", "Glue the rust.", WORKSHOP, parents=("t1",))
NEW = new_record("note", "A note from the kitchen.", Scope("kitchen"), parents=(HELPS.id,))
LIVED = new_record("trajectory", "What happened in t1.", parents=("t1",))


def trajectory(name: str, shown: Sequence[str] = ()) -> Trajectory:
    step = Step("smith", Observation("smith", "Rust!", frame="Rust!"), (), "file", Action("file"), reward=0.5)
    task = Task("hinge", "Mend the hinge.", "workshop")
    recalled = tuple(Recalled(record, True, 0.75) for record in shown)
    return Trajectory(name, task, "smith", (step,), Outcome(1.0, True), recalled=recalled)


def filled(directory: Path) -> Path:
    """A memory by hand: a proved rule, one that harms, a note made of the first, and where each was shown."""
    with Memory.open(directory, embedder=HashEmbedder()) as memory:
        memory.add_episode("train/1/hinge/0", [trajectory("t1")])
        added = [Event("add", each.id, each) for each in (LIVED, HELPS, HARMS)]
        memory.commit("1/remember", added, generation=1)
        lifts = {HELPS.id: (0.4, 0.3, 0.5), HARMS.id: (-0.3, -0.4, -0.2)}
        credit = [
            Event("credit", key, payload={"lift": {"mean": mean, "low": low, "high": high, "n": 40}, "recalls": 7})
            for key, (mean, low, high) in lifts.items()
        ]
        memory.commit("1/gate", [Event("activate", HELPS.id, payload={"gate": GATE}), *credit], generation=1)
        memory.commit("2/remember", [Event("add", NEW.id, NEW)], generation=2)
        memory.add_episode("train/2/hinge/0", [trajectory("t2", shown=[HELPS.id])])
    return directory


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return filled(tmp_path_factory.mktemp("filled") / "run")


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "run"))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return play(tmp_path_factory.mktemp("inspected") / "run", CONFIG, {"actor": learner()})


def client(directory: Path, *, write: bool = False) -> TestClient:
    return TestClient(application(directory, write=write), base_url="http://127.0.0.1")


@pytest.fixture
def reader(run: Path) -> Iterator[TestClient]:
    with client(run) as opened:
        yield opened


@pytest.fixture
def writer(run: Path) -> Iterator[TestClient]:
    with client(run, write=True) as opened:
        yield opened


def page(opened: TestClient, path: str, status: int = 200) -> str:
    answer = opened.get(path)
    assert answer.status_code == status, answer.text
    return answer.text


def text(html: str) -> str:
    """What a reader sees, on one line."""
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", html.split("<main", 1)[1])).split())


def listed(html: str) -> list[str]:
    """Texts of the records in the table, from above."""
    return [unescape(each) for each in re.findall(r'<th scope="row" class="text"><a [^>]*>([^<]*)</a>', html)]


def statuses(directory: Path) -> dict[str, str]:
    with Memory.open(directory, embedder=HashEmbedder(), read_only=True) as memory:
        return {key: record.status for key, record in memory.records().items()}


def post(opened: TestClient, path: str, **fields: str) -> Any:
    """As a reader does it: the form is opened, filled in and sent."""
    secret = re.search(r'name="csrf" value="([^"]+)"', page(opened, path))
    assert secret is not None
    return opened.post(path, data={"csrf": secret[1], **fields})


# -- what it holds -------------------------------------------------------------------------------------------------


def test_what_was_learned_is_listed_and_what_was_lived_only_when_it_is_asked_for(reader: TestClient) -> None:
    html = page(reader, "/run/run/memory")
    assert listed(html) == [HELPS.text, HARMS.text, NEW.text], "active ones first"
    assert "3 of 4 records" in text(html)
    assert "+0.40 (+0.30 to +0.50)" in html
    assert listed(page(reader, "/run/run/memory?kind=trajectory")) == [LIVED.text]
    assert len(listed(page(reader, "/run/run/memory?kind=all"))) == 4


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("status=active", [HELPS.text]),
        ("env=kitchen", [NEW.text]),
        ("generation=2", [NEW.text]),
        ("at=1/remember", [HELPS.text, HARMS.text]),
        ("kind=note", [NEW.text]),
        ("status=quarantined", []),
    ],
)
def test_a_filter_leaves_what_has_it(reader: TestClient, query: str, expected: list[str]) -> None:
    assert listed(page(reader, f"/run/run/memory?{query}")) == expected


def test_headers_sort_and_say_so_and_sort_the_other_way_round_when_asked_again(reader: TestClient) -> None:
    html = page(reader, "/run/run/memory?sort=lift")
    assert listed(html) == [HELPS.text, HARMS.text, NEW.text]
    heading = re.search(r'aria-sort="descending"><a href="([^"]+)">Lift', html)
    assert heading is not None
    turned = page(reader, unescape(heading[1]))
    assert listed(turned) == [HARMS.text, HELPS.text, NEW.text], "without an estimate stands last"
    assert 'aria-sort="ascending"' in turned
    assert listed(page(reader, "/run/run/memory?sort=text")) == [NEW.text, HELPS.text, HARMS.text]


@pytest.mark.parametrize("mode", RETRIEVERS)
def test_each_way_of_searching_finds_the_rule_and_gives_its_score(reader: TestClient, mode: str) -> None:
    html = page(reader, f"/run/run/memory?q=file+rust&mode={mode}&k=1")
    assert listed(html) == [HELPS.text]
    assert f"1 found by {mode}" in text(html)
    assert "Score" in text(html)


def test_a_search_keeps_to_the_filters(reader: TestClient) -> None:
    assert listed(page(reader, "/run/run/memory?q=rust&env=kitchen")) == [NEW.text]
    assert listed(page(reader, "/run/run/memory?q=rust&mode=bm25&status=active")) == [HELPS.text]
    assert listed(page(reader, "/run/run/memory?q=happened&kind=trajectory")) == [LIVED.text]
    assert "Search those that are retired" in text(page(reader, "/run/run/memory?q=nowhere&mode=bm25"))


def test_where_nobody_has_the_embedder_a_search_by_meaning_says_so_and_words_still_work(tmp_path: Path) -> None:
    class Theirs:
        name, dim = "theirs", 2

        def embed(self, texts: Sequence[str]) -> Floats:
            return np.tile(np.array([[1.0, 0.0]], np.float32), (len(texts), 1))

    with Memory.open(tmp_path / "run", embedder=Theirs()) as memory:
        memory.commit("1", [Event("add", HELPS.id, HELPS)], generation=1)
    with client(tmp_path / "run") as opened:
        html = page(opened, "/run/run/memory?q=rust&mode=dense")
        assert "cannot be searched by dense" in text(html)
        assert "'theirs'" in text(html)
        assert listed(html) == []
        assert listed(page(opened, "/run/run/memory?q=rust")) == [HELPS.text]


def test_what_makes_no_sense_in_an_address_is_as_if_it_were_not_there(reader: TestClient) -> None:
    usual = listed(page(reader, "/run/run/memory"))
    odd = "sort=__proto__&page=-3&k=nine&mode=magic&status=gone&kind=%00&generation=٣"
    assert listed(page(reader, f"/run/run/memory?{odd}")) == usual
    assert listed(page(reader, "/run/run/memory?page=99999")) == usual, "the last page"
    page(reader, "/run/run/memory?at=nowhere", 404)


def test_lifts_are_drawn_with_a_way_to_each_record_and_told_in_words(reader: TestClient) -> None:
    html = unescape(page(reader, "/run/run/memory"))
    assert "File the rust first.: +0.40 (+0.30 to +0.50)" in html
    assert f'"customdata": ["/run/run/memory/{HELPS.id}"' in html


def test_growth_is_counted_by_generation_and_status(reader: TestClient) -> None:
    told = text(page(reader, "/run/run/memory"))
    assert "By the end of generation active candidate quarantined retired 1 1 1 0 0 2 1 2 0 0" in told


def test_a_long_list_has_pages(tmp_path: Path) -> None:
    with Memory.open(tmp_path / "run", embedder=HashEmbedder()) as memory:
        rules = [new_record("rule", f"Rule {number:03}.") for number in range(120)]
        memory.commit("1", [Event("add", each.id, each) for each in rules], generation=1)
    with client(tmp_path / "run") as opened:
        html = page(opened, "/run/run/memory?sort=text&page=3")
        assert listed(html) == [f"Rule {number:03}." for number in range(100, 120)]
        assert 'rel="prev"' in html
        assert 'rel="next"' not in html


def test_a_lift_that_is_no_number_is_none() -> None:
    odd = replace(HELPS, lift=Interval("<b>", float("nan"), None, 3))  # type: ignore[arg-type]  # as an edited ledger has it
    table = Table({odd.id: odd, HARMS.id: replace(HARMS, lift=Interval(0.1, 0.0, 0.2, 9))})
    assert [table.all[row].id for row in table.by("lift")] == [HARMS.id, odd.id]
    assert [table.all[row].id for row in table.by("-lift")] == [HARMS.id, odd.id]


# -- one record ----------------------------------------------------------------------------------------------------


def test_a_record_says_at_once_why_it_exists_and_whether_it_helps(reader: TestClient) -> None:
    told = text(page(reader, f"/run/run/memory/{HELPS.id}"))
    assert "Learned in generation 1 from 1 episode (1 of them with the full score)." in told
    assert "It helps: proved at the gate, and confirmed in training." in told
    assert "won 9, lost 1, tied 14 of the pairs; e-value 31 against 20 needed" in told
    assert "In training +0.40 (+0.30 to +0.50) in score when shown, over 40 episodes" in told


def test_a_record_leads_to_the_steps_it_rests_on_and_to_what_came_of_it(reader: TestClient) -> None:
    html = page(reader, f"/run/run/memory/{HELPS.id}")
    assert 'href="/run/run/episodes/t1?step=0"' in html
    assert "Step 0 : Rust! → file (+0.50)" in text(html)
    assert f'href="/run/run/memory/{NEW.id}"' in html
    assert 'href="/run/run/episodes/t2"' in html, "where it was shown"
    assert f'href="/run/run/lineage/{HELPS.id}"' in html


def test_the_history_of_a_record_shows_each_field_before_and_after(reader: TestClient) -> None:
    told = text(page(reader, f"/run/run/memory/{HELPS.id}"))
    assert "status candidate → active" in told
    assert "recalls 0 → 7" in told
    assert "meta.situation Rust!" in told


def test_a_name_nobody_has_is_not_found_and_that_of_an_episode_leads_there(reader: TestClient) -> None:
    assert "No record 'rule-nothing'" in text(page(reader, "/run/run/memory/rule-nothing", 404))
    answer = reader.get("/run/run/memory/t1", follow_redirects=False)
    assert (answer.status_code, answer.headers["location"]) == (303, "/run/run/episodes/t1")


@pytest.mark.parametrize(
    ("status", "lift", "verdict", "says"),
    [
        ("active", (0.2, 0.1, 0.3), "activate", "It helps: proved at the gate, and confirmed in training."),
        ("active", (0.2, -0.1, 0.3), "activate", "It helps: proved at the gate."),
        ("active", None, "activate", "It helps: proved at the gate."),
        ("retired", (0.2, 0.1, 0.3), "activate", "It was proved to help at the gate, and is retired since."),
        ("active", (-0.2, -0.3, -0.1), "activate", "It harms, training says, although the gate had proved it."),
        ("candidate", (-0.2, -0.3, -0.1), None, "It harms, training says."),
        ("candidate", (0.2, 0.1, 0.3), None, "It seems to help: training says so, and no gate has tried it."),
        ("retired", (0.2, 0.1, 0.3), "reject", "It seems to help: training says so, the gate does not."),
        ("retired", (0.1, -0.1, 0.3), "reject", "Not shown to help."),
        ("candidate", (0.1, -0.1, 0.3), None, "Nobody knows yet."),
        ("candidate", None, None, "Nobody knows yet."),
    ],
)
def test_no_more_is_claimed_of_a_record_than_gate_and_training_allow(
    status: Any, lift: tuple[float, float, float] | None, verdict: Any, says: str
) -> None:
    record = replace(HELPS, status=status, lift=Interval(*lift, 30) if lift else None)
    decisions = [Decision("c1", "1/gate", verdict, {"gate": GATE})] if verdict else []
    assert help_in_words(record, decisions).says == says


def test_a_whole_run_is_explained_from_its_memory_to_its_episodes(finished: Path) -> None:
    with client(finished) as opened:
        html = page(opened, "/run/run/memory?status=active")
        proved = re.search(r'<th scope="row" class="text"><a href="([^"]+)">', html)
        assert proved is not None, "the run proved a rule"
        told = page(opened, proved[1])
        assert "It helps: proved at the gate" in text(told)
        assert "/episodes/train%2F1%2F" in told
        drawn = page(opened, proved[1].replace("/memory/", "/lineage/"))
        assert drawn.count('class="node episode"') >= 1


# -- lineage -------------------------------------------------------------------------------------------------------


def test_lineage_is_drawn_with_boxes_that_are_links_and_told_as_a_table(reader: TestClient) -> None:
    html = page(reader, f"/run/run/lineage/{HELPS.id}")
    drawn = html.split("<svg", 1)[1].split("</section>")[0]
    assert 'href="/run/run/lineage/t1"' in drawn
    assert f'href="/run/run/lineage/{NEW.id}" aria-label="candidate note: {NEW.text}"' in drawn
    assert 'aria-current="true"' in drawn
    assert re.search(r'class="node active here"', drawn)
    assert 'class="line derived"' in drawn
    assert "derived t1" in text(html), "in the table"
    assert f'href="/run/run/memory/{HELPS.id}"' in html


def test_a_trajectory_stands_in_the_middle_too_and_depth_reaches_further(reader: TestClient) -> None:
    near = page(reader, "/run/run/lineage/t1?depth=1")
    assert NEW.text not in near
    far = page(reader, "/run/run/lineage/t1?depth=2")
    assert NEW.text in far
    assert 'href="/run/run/episodes/t1"' in far
    assert "One step more" not in text(page(reader, "/run/run/lineage/t1?depth=99999")), "8 at most"
    page(reader, "/run/run/lineage/nothing", 404)


def test_of_too_many_boxes_the_nearest_are_drawn_and_the_rest_is_told(tmp_path: Path) -> None:
    with Memory.open(tmp_path / "run", embedder=HashEmbedder()) as memory:
        rules = [new_record("rule", f"Rule {number}.", parents=("t1",)) for number in range(400)]
        memory.commit("1", [Event("add", each.id, each) for each in rules], generation=1)
    with client(tmp_path / "run") as opened:
        html = page(opened, f"/run/run/lineage/{rules[7].id}?depth=2")
        assert html.count('class="node ') == 300
        assert "101 boxes further away are left out" in text(html)


# -- changes -------------------------------------------------------------------------------------------------------


def test_a_record_is_retired_and_the_commit_reverted_again(run: Path, writer: TestClient) -> None:
    about = f"/run/run/memory/{HELPS.id}"
    assert f'href="{about}/retire"' in page(writer, about)
    assert "1 record came of it, 1 of them of it alone" in text(page(writer, f"{about}/retire"))
    done = post(writer, f"{about}/retire", reason="it is <b>wrong</b>")
    assert done.status_code == 200, "led back to the record"
    assert statuses(run)[HELPS.id] == "retired"
    assert "reason it is <b>wrong</b>" in text(done.text)
    commit = re.search(r"/run/run/commits/([0-9a-f]{16})/revert", done.text)
    assert commit is not None
    undone = post(writer, f"/run/run/commits/{commit[1]}/revert")
    assert undone.status_code == 200
    assert statuses(run)[HELPS.id] == "active"


def test_a_retired_record_is_restored_as_a_candidate(run: Path, writer: TestClient) -> None:
    about = f"/run/run/memory/{HARMS.id}"
    post(writer, f"{about}/retire", reason="harms")
    assert f'href="{about}/retire"' not in page(writer, about)
    assert post(writer, f"{about}/restore").status_code == 200
    assert statuses(run)[HARMS.id] == "candidate"
    assert "is candidate; expected one that is" in text(page(writer, f"{about}/restore", 400)), "it is so already"


def test_retiring_needs_a_reason(run: Path, writer: TestClient) -> None:
    answer = post(writer, f"/run/run/memory/{HELPS.id}/retire", reason="  ")
    assert answer.status_code == 400
    assert "Say why" in text(answer.text)
    assert statuses(run)[HELPS.id] == "active"


def test_without_write_nothing_is_offered_and_nothing_is_done(run: Path, reader: TestClient) -> None:
    about = f"/run/run/memory/{HELPS.id}"
    assert "/retire" not in page(reader, about)
    assert "--write" in text(page(reader, f"{about}/retire", 403))
    answer = reader.post(f"{about}/retire", data={"csrf": "", "reason": "no"})
    assert answer.status_code == 403
    assert "--write" in text(answer.text)
    assert reader.post("/run/run/commits/1/gate/revert").status_code == 403
    assert statuses(run)[HELPS.id] == "active"


def test_a_form_without_our_secret_changes_nothing(run: Path, writer: TestClient) -> None:
    answer = writer.post(f"/run/run/memory/{HELPS.id}/retire", data={"csrf": "guessed", "reason": "no"})
    assert answer.status_code == 403
    assert statuses(run)[HELPS.id] == "active"


def test_while_a_run_is_writing_nothing_changes_and_the_reader_is_told(run: Path, writer: TestClient) -> None:
    with Memory.open(run, embedder=HashEmbedder()):
        answer = post(writer, f"/run/run/memory/{HELPS.id}/retire", reason="now")
        assert answer.status_code == 409
        assert "nothing was changed" in text(answer.text)
        assert post(writer, "/run/run/commits/2/remember/revert").status_code == 409
    assert statuses(run)[HELPS.id] == "active"


def test_a_commit_on_which_others_build_is_not_reverted(run: Path, writer: TestClient) -> None:
    answer = post(writer, "/run/run/commits/1/remember/revert")
    assert answer.status_code == 400
    assert "Revert these first" in text(answer.text)
    page(writer, "/run/run/commits/nowhere/revert", 404)


# -- hostile and damaged -------------------------------------------------------------------------------------------


def test_text_that_somebody_planted_is_shown_as_text(tmp_path: Path) -> None:
    name = "rule-'\"/<b>?#%"
    planted = Record(
        name,
        "rule",
        HOSTILE,
        Scope(HOSTILE, (HOSTILE,)),
        parents=("t1", HOSTILE),
        meta={HOSTILE: HOSTILE, "trust": 0.2},
    )
    with Memory.open(tmp_path / "run", embedder=HashEmbedder()) as memory:
        memory.add_episode("train/1/hinge/0", [trajectory("t1")])
        memory.commit(HOSTILE, [Event("add", name, planted)], generation=1, note=HOSTILE)
        odd = {"gate": {**GATE, "level": 0}, "reason": HOSTILE}
        memory.commit("2", [Event("activate", name, payload=odd)], generation=2)
    with client(tmp_path / "run", write=True) as opened:
        html = page(opened, "/run/run/memory")
        links = re.search(r'<th scope="row" class="text"><a href="([^"]+)">', html)
        assert links is not None
        about = links[1]
        pages = [html, page(opened, about), page(opened, about.replace("/memory/", "/lineage/", 1))]
        pages += [
            page(opened, f"{about}/retire"),
            page(opened, f"/run/run/memory?q={HOSTILE[:30]}&env=%3Cb%3E&at=HEAD"),
        ]
        commit = re.search(r"/run/run/commits/([0-9a-f]{16})", pages[1])
        assert commit is not None
        pages.append(page(opened, f"/run/run/commits/{commit[1]}/revert"))
        assert "It helps" in pages[1]
        assert HOSTILE.split("> {{")[0] in text(pages[1].replace("&lt;", "‹").replace("&gt;", "›")).replace(
            "‹", "<"
        ).replace("›", ">")
    for each in pages:
        assert "<script>alert" not in each
        assert "<img" not in each
        assert "<b>" not in each


def test_a_damaged_ledger_is_told_on_every_page(finished: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(finished, tmp_path / "run"))
    ledger = copy / "ledger.sqlite"
    ledger.write_bytes(ledger.read_bytes()[: ledger.stat().st_size // 2])
    with client(copy, write=True) as opened:
        for path in ("memory", "memory?q=rust", "memory/rule-1", "lineage/rule-1"):
            answer = opened.get(f"/run/run/{path}")
            assert answer.status_code == 200
            assert "Not everything here could be read" in answer.text


def test_a_memory_without_a_run_is_shown(run: Path, reader: TestClient) -> None:
    assert not (run / "config.json").exists()
    assert "Not everything" not in page(reader, "/run/run/memory")
