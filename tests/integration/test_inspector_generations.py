"""Generations, commits, differences and adapters as a reader of the page sees them."""

from __future__ import annotations

import html
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file
from starlette.testclient import TestClient
from systems.runs import play
from workshop_scorer import learner

from evolvent.agents.inspector.app import application
from evolvent.agents.run import RunConfig, result
from evolvent.environments.types import Action, Message, Observation, Outcome, Step, Task, Trajectory
from evolvent.memory.embedding import HashEmbedder
from evolvent.memory.store import Memory
from evolvent.memory.types import Event, Record, new_record
from evolvent.memory.weights import canaries
from evolvent.memory.weights.adapters import Adapter, Adapters, adapter_record
from evolvent.memory.weights.canaries import Canary

CONFIG = RunConfig(
    recipe="lamarck",
    tasks=5,
    evaluated=6,
    generations=1,
    embedder="hash",
    settings={"candidates": 3, "gate_pairs": 20},
)
HOSTILE = '"><img src=x onerror=alert(1)><script>alert(2)</script>'
GATE = {"wins": 9, "losses": 1, "ties": 4, "mean": 0.5, "e_value": 31.0, "level": 0.05, "verdict": "promoted"}
DATA = new_record("dataset", "mender@aaaaaaaaaaaa: 2 examples", meta={"hash": "aaaaaaaaaaaa"})


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return play(tmp_path_factory.mktemp("generations") / "run", CONFIG, {"actor": learner()})


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


@pytest.fixture
def client(run: Path) -> Iterator[TestClient]:
    with TestClient(application(run), base_url="http://127.0.0.1") as client:
        yield client


def read(client: TestClient, address: str) -> str:
    """The words of a page."""
    answer = client.get(address)
    assert answer.status_code == 200, answer.text
    return words(answer.text)


def words(page: str) -> str:
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", page)).split())


def links(client: TestClient, address: str) -> set[str]:
    return {html.unescape(to) for to in re.findall(r'href="([^"]*)"', client.get(address).text)}


def figures(client: TestClient, address: str) -> dict[str, Any]:
    page = client.get(address).text
    found = re.findall(r'id="figure-([\w-]+)"[^>]*data-figure="([^"]*)"', page)
    return {name: json.loads(html.unescape(figure)) for name, figure in found}


def opened(run: Path) -> Memory:
    return Memory.open(run, embedder=HashEmbedder())


# -- generations ---------------------------------------------------------------------------------------------------


def test_every_generation_is_told_with_its_model_success_and_cost(client: TestClient, run: Path) -> None:
    page, to = read(client, "/run/run/generations"), links(client, "/run/run/generations")
    first, last = result(run)["generations"]
    for row in (first, last):
        held = "{success:.2f} ({low:.2f} to {high:.2f})".format(**row["held_out"])
        assert f"{held} {100 * row['solved']:,.0f} % {row['tokens_in']:,} {row['tokens_out']:,}" in page
    assert f"{first['generation']} scripted none empty" in page.replace(first["model"]["base"], "scripted")
    assert f"/run/run/commits/{last['model']['memory']}" in to
    assert f"/run/run/memory?at={last['model']['memory']}" in to
    assert list(figures(client, "/run/run/generations")) == ["cost"]


def test_a_generation_of_several_models_names_its_individuals(client: TestClient, run: Path) -> None:
    born = [new_record("prompt", text, status="active") for text in ("Think first.", "Act at once.")]
    with opened(run) as memory:
        commit = memory.commit("2/births", [Event("add", each.id, each) for each in born], generation=2)
        whole = {"base": "smollm2", "adapter": "", "memory": commit}
        row = json.loads(memory.ledger.generations()[1]) | {
            **{"generation": 2, "fitness": {"best": 0.123456789}},
            **{"model": whole, "population": [{**whole, "individual": each.id} for each in born]},
        }
        memory.ledger.add_generation(2, json.dumps(row))
    page = read(client, "/run/run/generations")
    assert "2 individuals of generation 2 Think first. Act at once." in page
    assert f"/run/run/memory/{born[0].id}" in links(client, "/run/run/generations")
    assert "0.1235" in page
    assert "0.123456789" not in page


def test_what_is_learned_one_task_after_the_other_is_a_matrix(client: TestClient, run: Path) -> None:
    with opened(run) as memory:
        row = json.loads(memory.ledger.generations()[1])
    accuracies = [[0.1, 0.2], [0.9, 0.3], [0.6, 0.8]]
    with opened(run) as memory:
        for stage, each in enumerate(accuracies):
            told = {"transfer": {"average": 0.7, "backward": -0.3, "forward": 0.1}} if stage == 2 else {}
            memory.ledger.add_generation(stage + 2, json.dumps(row | {"generation": stage, "by_task": each} | told))
    page = read(client, "/run/run/generations")
    assert "frozen 0.10 0.20 – – –" in page
    assert "stage 2 0.60 0.80 0.70 -0.30 0.10" in page
    assert figures(client, "/run/run/generations")["continual"]["data"][0]["z"] == accuracies


# -- commits -------------------------------------------------------------------------------------------------------


def test_the_log_tells_every_commit_newest_first_with_its_events_and_what_was_reverted(
    client: TestClient, run: Path
) -> None:
    with opened(run) as memory:
        gate = memory.resolve("1/gate")
        undone = memory.revert(gate, "the gate was wrong")
        memory.make_branch("side", "1/remember")
    page = read(client, "/run/run/generations")
    assert page.index("the gate was wrong") < page.index(f"reverted by {undone[:10]}") < page.index("1/remember")
    assert "Branch main (current)" in page
    assert "Other branch: side" in page
    assert re.search(rf"{gate[:10]} 1/gate 1 [-\d: ]+ \d activate", page)


def test_a_long_log_is_paged(client: TestClient, run: Path) -> None:
    with opened(run) as memory:
        for number in range(60):
            memory.commit(f"by hand {number}", [], generation=1)
    assert "page 1 of 2" in read(client, "/run/run/generations")
    assert "by hand 59" not in read(client, "/run/run/generations?page=2")
    assert "1/remember" in read(client, "/run/run/generations?page=2")


def test_a_commit_tells_what_it_changed_and_on_what_evidence(client: TestClient, run: Path) -> None:
    with opened(run) as memory:
        gate = memory.resolve("1/gate")
        rule = next(event for event in memory.ledger.events_of(gate) if event.kind == "activate")
        record = memory.records()[rule.record_id]
    page = read(client, f"/run/run/commits/{gate}")
    assert "Commit 1/gate" in page
    proof = rule.payload["gate"]
    told = f"promoted: won {proof['wins']}, lost {proof['losses']}, tied {proof['ties']} of the pairs"
    assert f"{record.text} rule {record.id} status: candidate → active" in page
    assert told in page
    assert f"/run/run/memory/{record.id}" in links(client, f"/run/run/commits/{gate}")
    assert "~ changed" in page


def test_raw_trajectories_are_counted_and_shown_when_asked_for(client: TestClient, run: Path) -> None:
    with opened(run) as memory:
        remember = memory.resolve("1/remember")
        lived = [each for each in memory.records(remember).values() if each.kind == "trajectory"]
    address = f"/run/run/commits/{remember}"
    assert f"Of the raw trajectories {len(lived)} added" in read(client, address)
    assert lived[0].id not in read(client, address)
    assert lived[0].id in read(client, f"{address}?raw=1")
    assert "+ added" not in read(client, f"{address}?kind=changed")


def test_two_states_are_compared_by_any_name_they_have(client: TestClient, run: Path) -> None:
    note = new_record("note", "Look at the frame first.", status="active")
    with opened(run) as memory:
        memory.commit("by hand", [Event("add", note.id, note)], generation=1)
        memory.commit("once more", [Event("update", note.id, payload={"meta": {"seen": 3}})], generation=1)
    page = read(client, "/run/run/diff?from=1/gate&to=HEAD")
    assert "1 record differs: 1 added" in page
    assert "seen" not in page
    page = read(client, "/run/run/diff?from=HEAD~1&to=main")
    assert "meta.seen: none → 3" in page
    assert "- removed" in read(client, "/run/run/diff?from=main&to=1/gate").replace("−", "-")
    assert "Compare" in read(client, "/run/run/diff")


@pytest.mark.parametrize("address", ["commits/nothing", "commits/" + "0" * 16, "diff?from=nothing&to=HEAD"])
def test_a_commit_that_is_not_there_is_told_so(client: TestClient, address: str) -> None:
    answer = client.get(f"/run/run/{address}")
    assert answer.status_code == 404
    assert "This cannot be shown" in answer.text


def test_reverting_is_offered_only_where_it_is_allowed_and_makes_sense(run: Path) -> None:
    with opened(run) as memory:
        gate = memory.resolve("1/gate")
    for write in (False, True):
        with TestClient(application(run, write=write), base_url="http://127.0.0.1") as client:
            assert (f"/run/run/commits/{gate}/revert" in links(client, f"/run/run/commits/{gate}")) == write
    with opened(run) as memory:
        memory.revert(gate)
    with TestClient(application(run, write=True), base_url="http://127.0.0.1") as client:
        assert f"/run/run/commits/{gate}/revert" not in links(client, f"/run/run/commits/{gate}")
        assert "it does not count any more" in read(client, f"/run/run/commits/{gate}")


# -- adapters ------------------------------------------------------------------------------------------------------


def trained(run: Path, name: str, value: float, *, parents: tuple[Adapter, ...] = ()) -> Adapter:
    """An adapter as training leaves and registers one."""
    folder = run.parent / f"trained-{name}"
    folder.mkdir()
    save_file({"q.lora_A.weight": np.full((4, 8), value, np.float32)}, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 4}))
    losses = ((1, 0.8, None), (2, 0.5, 0.6), (3, 0.25, None))
    steps = [
        {"step": step, "of": 3, "loss": loss, "tokens": 10, "seconds": 1.0} | ({"validation": seen} if seen else {})
        for step, loss, seen in losses
    ]
    (folder / "loss.jsonl").write_text("".join(json.dumps(each) + "\n" for each in steps))
    asked = ({"role": "user", "content": "How do you mend rust?"},)
    canaries.write(folder, [Canary(asked, "With salt.", (-0.1, -0.1), {"base": (-1.6, -0.6)})])
    return Adapters(run).register(
        folder,
        name,
        base="smollm2",
        created=f"2026-01-0{1 + len(parents)}",
        dataset=None if parents else DATA,
        parents=parents,
        config={"method": "sft", "rank": 4 + len(parents)},
        metrics={"loss": 0.25},
    )


def elsewhere(task: str, arm: str, *, success: bool) -> Trajectory:
    """One episode of what forgetting is measured on."""
    step = Step(
        *("agent", Observation("agent", "2 + 2?"), (Message("user", "task", "2 + 2?"),), "4", Action("4")),
    )
    key = f"control/1/{task}/0/{arm}/labelled:task=plain"
    outcome = Outcome(float(success), success)
    return Trajectory(key, Task(task, "2 + 2?", "labelled"), "agent", (step,), outcome, phase="control", generation=1)


@pytest.fixture
def distilled(run: Path) -> tuple[Adapter, Adapter]:
    """Two adapters, the second trained on from the first; the first was promoted and measured."""
    first = trained(run, "mender", 0.5)
    second = trained(run, "better", 0.75, parents=(first,))
    records = [adapter_record(each, generation=1) for each in (first, second)]
    with opened(run) as memory:
        added: list[Record] = [DATA, *records]
        memory.commit("1/train", [Event("add", each.id, each) for each in added], generation=1)
        rule = next(each for each in memory.records().values() if each.status == "active" and each.kind == "rule")
        change = {"mean": -0.02, "low": -0.06, "high": 0.01, "n": 50}
        proof = Event("activate", records[0].id, payload={"gate": GATE, "without_memory": change})
        gone = Event("retire", rule.id, payload={"reason": "absorbed", "by": first.full_name})
        memory.commit("1/distil", [proof, gone], generation=1)
        for index in range(10):
            for arm, wins in (("base", 8), (first.full_name, 5)):
                task = f"plain-{index}"
                played = elsewhere(task, arm, success=index < wins)
                memory.add_episode(played.id, [played])
        memory.ledger.add_memo("1/prose/base/2", json.dumps({"a": 3.0, "b": 3.0}))
        memory.ledger.add_memo(f"1/prose/{first.full_name}/2", json.dumps({"a": 3.5, "b": 3.5}))
    return first, second


def test_adapters_are_listed_with_standing_lineage_and_what_proved_them(
    client: TestClient, distilled: tuple[Adapter, Adapter]
) -> None:
    first, second = distilled
    page = read(client, "/run/run/generations")
    proof = "promoted: won 9, lost 1, tied 4 of the pairs; e-value 31 against 20 needed"
    assert f"{first.full_name} active {proof} smollm2 {DATA.id} the base" in page
    assert f"{second.full_name} candidate not yet smollm2 none {first.full_name}" in page
    assert f"/run/run/memory/{DATA.id}" in links(client, "/run/run/generations")


def test_what_was_forgotten_stands_in_a_matrix_and_a_table(
    client: TestClient, distilled: tuple[Adapter, Adapter]
) -> None:
    first, _ = distilled
    drawn = figures(client, "/run/run/generations")["forgetting"]
    assert drawn["data"][0]["z"] == [[pytest.approx(-0.3), pytest.approx(-0.5)]]
    assert drawn["layout"]["xaxis"]["ticktext"] == ["plain", "prose"]
    page = read(client, "/run/run/generations")
    assert re.search(rf"{first.full_name} -0.300 \(-0.\d+ to [-+]0.\d+\) 10 items -0.500 \(-0.500 to -0.500\)", page)


def test_an_adapter_tells_where_it_comes_from_whether_it_is_whole_and_what_it_cost(
    client: TestClient, distilled: tuple[Adapter, Adapter]
) -> None:
    first, second = distilled
    address = f"/run/run/adapters/{first.full_name}"
    page = read(client, address)
    assert "Promoted: won 9, lost 1, tied 4" in page
    assert "the score changed by -0.02 (-0.06 to +0.01) over 50 tasks" in page
    assert "It took 1 record over" in page
    assert f"came of it {second.full_name}" in page
    assert "Its files are what was registered: 4 were read" in page
    assert "1 canaries" not in page
    assert "1 canary, log-probabilities that only this adapter gives, tells it by 1.00 nats per token from base" in page
    assert "plain 10 -0.300" in page
    assert "method sft rank 4" in page
    training, validation = figures(client, address)["loss"]["data"]
    assert (training["y"], validation["x"], validation["y"]) == ([0.8, 0.5, 0.25], [2], [0.6])
    page = read(client, f"/run/run/adapters/{second.full_name}")
    assert "No gate has judged it." in page
    assert "config.rank 4 5" in page
    assert "It was not measured" in page


def test_an_adapter_whose_files_were_changed_is_told_to_be_damaged(
    client: TestClient, distilled: tuple[Adapter, Adapter]
) -> None:
    first, _ = distilled
    (first.folder / "adapter_model.safetensors").write_bytes(b"other weights")
    page = read(client, f"/run/run/adapters/{first.full_name}")
    assert "adapter_model.safetensors was changed" in page
    assert "Its files are what was registered" not in page


def test_an_adapter_whose_card_cannot_be_read_is_named_and_the_others_are_shown(
    client: TestClient, distilled: tuple[Adapter, Adapter]
) -> None:
    first, second = distilled
    (first.folder / "card.json").write_text("{")
    page = read(client, "/run/run/generations")
    assert f"The adapter {first.full_name}: its card cannot be read." in page
    assert f"{second.full_name} candidate" in page
    assert client.get(f"/run/run/adapters/{first.full_name}").status_code == 404
    assert f"{first.full_name} (not there)" in read(client, f"/run/run/adapters/{second.full_name}")


def test_no_adapter_outside_the_directory_is_shown(
    client: TestClient, run: Path, distilled: tuple[Adapter, Adapter]
) -> None:
    first, _ = distilled
    outside = run.parent / "elsewhere"
    shutil.move(first.folder, outside)
    first.folder.symlink_to(outside)
    assert client.get(f"/run/run/adapters/{first.full_name}").status_code == 404
    assert "Promoted" not in read(client, "/run/run/generations")


@pytest.mark.parametrize("name", ["mender", "..%2f..%2fetc", "%00", "mender@%3Cscript%3E", "x" * 300])
def test_an_adapter_that_is_not_there_is_told_so(
    client: TestClient, distilled: tuple[Adapter, Adapter], name: str
) -> None:
    assert client.get(f"/run/run/adapters/{name}").status_code == 404


# -- hostile and damaged -------------------------------------------------------------------------------------------


def test_hostile_text_is_text_on_every_page_and_in_every_figure(client: TestClient, run: Path) -> None:
    folder = trained(run, "mender", 0.5).folder
    card = json.loads((folder / "card.json").read_text())
    card |= {"base": HOSTILE, "config": {HOSTILE: HOSTILE}, "metrics": {"loss": HOSTILE}, "parents": [HOSTILE]}
    (folder / "card.json").write_text(json.dumps(card))
    rule = new_record("rule", HOSTILE, status="active")
    with opened(run) as memory:
        memory.commit(HOSTILE, [Event("add", rule.id, rule)], generation=1, note=HOSTILE)
        commit = memory.commit(
            "1/more", [Event("update", rule.id, payload={"meta": {HOSTILE: HOSTILE}, "why": HOSTILE})], generation=1
        )
        memory.make_branch("<img/src=x/onerror=alert(3)>")
        whole = {"base": HOSTILE, "adapter": HOSTILE, "memory": commit, "individual": rule.id}
        row = json.loads(memory.ledger.generations()[1]) | {"generation": 2, "model": whole, HOSTILE: HOSTILE}
        memory.ledger.add_generation(2, json.dumps(row))
    for address in (
        *("generations", f"commits/{commit}", "diff?from=1/gate&to=HEAD"),
        f"adapters/{folder.name}",
    ):
        answer = client.get(f"/run/run/{address}")
        assert answer.status_code == 200
        assert "<img" not in answer.text
        assert "<script>" not in answer.text
        assert HOSTILE in html.unescape(answer.text)


@pytest.mark.parametrize("how", ["missing", "empty", "cut", "garbled"])
@pytest.mark.parametrize("file", ["ledger.sqlite", "config.json"])
def test_a_damaged_run_is_shown_as_far_as_it_goes(client: TestClient, run: Path, file: str, how: str) -> None:
    damaged = run / file
    whole = damaged.read_bytes()
    damaged.unlink()
    if how != "missing":
        damaged.write_bytes({"empty": b"", "cut": whole[: len(whole) // 2], "garbled": b"\xff\xfe\x00{[" * 999}[how])
    page = read(client, "/run/run/generations")
    assert "Generations" in page
    if file == "ledger.sqlite" and how in ("missing", "garbled"):
        assert "Not everything here could be read" in page
        assert client.get("/run/run/commits/1/gate").status_code == 404
        assert "Not everything here could be read" in read(client, "/run/run/commits/HEAD")
        assert "Not everything here could be read" in read(client, "/run/run/diff?from=HEAD~1&to=HEAD")
    if file == "config.json":
        assert "1/gate" in page, "the log needs no config"


def test_rows_and_files_of_adapters_that_are_damaged_leave_the_rest(
    client: TestClient, run: Path, distilled: tuple[Adapter, Adapter]
) -> None:
    first, _ = distilled
    (first.folder / "loss.jsonl").write_text('{"step": 1, "of"')
    (first.folder / "canaries.json").write_text("[")
    with opened(run) as memory:
        memory.ledger.add_generation(2, json.dumps({"generation": 2}))
    page = read(client, f"/run/run/adapters/{first.full_name}")
    assert "The loss curve: " in page
    assert "Its canaries: " in page
    assert "Promoted: won 9" in page
    page = read(client, "/run/run/generations")
    assert "Generation 2: " in page
    assert "1/gate" in page
