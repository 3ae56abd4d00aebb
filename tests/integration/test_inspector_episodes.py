"""The pages of episodes and of model calls: over a run in which an agent learned, and over ledgers filled by hand."""

from __future__ import annotations

import re
import shutil
import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from html import unescape
from pathlib import Path
from urllib.parse import quote

import pytest
from starlette.testclient import TestClient
from systems.runs import calls, play
from workshop_scorer import learner

from evolvent.agents.inspector.app import application
from evolvent.agents.inspector.steps import calls_by_step, prompt
from evolvent.agents.inspector.tracing import TraceIndex
from evolvent.agents.run import RunConfig
from evolvent.agents.trace import Trace
from evolvent.agents.types import CallTag
from evolvent.environments.types import (
    Action,
    Cost,
    Message,
    Observation,
    Outcome,
    Phase,
    Recalled,
    Sampling,
    Step,
    Task,
    Trajectory,
    merge,
)
from evolvent.memory.embedding import HashEmbedder
from evolvent.memory.store import Memory
from evolvent.memory.types import Event, Scope, new_record

CONFIG = RunConfig(recipe="lamarck", tasks=6, evaluated=8, generations=1, embedder="hash")
RULE = new_record("rule", "To mend rust, use the file.", Scope("workshop"), status="active")
HOSTILE = '<script>window.__hit = 1</script>"><img src=x onerror=alert(1)>{{ 7 * 7 }}'


class Reader:
    """Somebody who opens pages and reads the text on them."""

    def __init__(self, root: Path) -> None:
        self.client = TestClient(application(root), base_url="http://127.0.0.1")
        self.run = f"/run/{root.name}"

    def html(self, path: str, status: int = 200) -> str:
        answer = self.client.get(self.run + path)
        assert answer.status_code == status, answer.text
        return answer.text

    def text(self, path: str, status: int = 200) -> str:
        body = self.html(path, status).partition("<main")[2]
        return " ".join(unescape(re.sub(r"<[^>]+>", " ", body)).split())

    def links(self, path: str) -> list[str]:
        return [unescape(each) for each in re.findall(r'href="([^"]+)"', self.html(path))]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return play(tmp_path_factory.mktemp("inspected") / "lived", CONFIG, {"actor": learner()})


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(finished, tmp_path / "lived"))


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "made").mkdir()
    return tmp_path / "made"


@pytest.fixture
def memory(directory: Path) -> Iterator[Memory]:
    with Memory.open(directory, embedder=HashEmbedder()) as memory:
        memory.commit("a", [Event("add", RULE.id, RULE)], generation=1)
        yield memory


@pytest.fixture
def trace(directory: Path) -> Iterator[Trace]:
    trace = Trace(directory / "trace.jsonl")
    yield trace
    trace.close()


def ids(path: Path, **wanted: str) -> list[str]:
    """Of trajectories, oldest first, by columns of the ledger."""
    where = " AND ".join(f"{column} = ?" for column in wanted) or "1"
    db = sqlite3.connect(path / "ledger.sqlite")
    query = f"SELECT t.id FROM trajectories t JOIN episodes e ON e.seq = t.episode WHERE {where} ORDER BY t.seq"
    found = [row[0] for row in db.execute(query, list(wanted.values()))]
    db.close()
    return found


def step(seen: str, done: str, *, player: str = "agent", first: bool = False, **more: object) -> Step:
    head = (Message("system", "instructions", "Mend things."), Message("user", "task", "A rusty hinge."))
    new = (*(head if first else ()), Message("user", "history", seen))
    return replace(Step(player, Observation(player, seen), new, done, Action(done)), **more)  # type: ignore[arg-type]  # fields of a step


def lived(name: str, *steps: Step, task: str = "hinge-1", player: str = "agent", phase: Phase = "train") -> Trajectory:
    return Trajectory(
        name, Task(task, "Mend the hinge.", "workshop"), player, steps, Outcome(1.0, True), phase, cost=Cost(10, 2, 1)
    )


def sent(trace: Trace, trajectory: Trajectory, index: int, reply: str, *, error: str = "", key: str = "") -> None:
    tag = CallTag("actor", "train", 0, "hinge-1", 0, key or trajectory.id)
    trace.call(tag, "scripted", merge(trajectory.prompt(index)), reply, Cost(5, 1, 1, 0.1), error=error)


# -- the list ------------------------------------------------------------------------------------------------------


def test_the_list_shows_the_newest_fifty_with_a_link_to_each_and_to_older_ones(finished: Path) -> None:
    reader, names = Reader(finished), ids(finished)
    pages = -(-len(names) // 50)
    assert pages > 1
    text = reader.text("/episodes")
    assert f"{len(names)} trajectories" in text
    assert f"page 1 of {pages}" in text
    shown = [f"{reader.run}/episodes/{quote(name, safe='')}" for name in reversed(names)]
    first, last = reader.links("/episodes"), reader.links(f"/episodes?page={pages}")
    assert [link for link in first if link in shown] == shown[:50]
    assert [link for link in last if link in shown] == shown[50 * (pages - 1) :]
    assert reader.text("/episodes?page=9999") == reader.text(f"/episodes?page={pages}")


def test_filters_count_what_they_would_leave_and_leave_it(finished: Path) -> None:
    reader = Reader(finished)
    train, held_out = len(ids(finished, phase="train")), len(ids(finished, phase="eval"))
    text = reader.text("/episodes?phase=train")
    assert f"{train} of {len(ids(finished))} trajectories" in text
    assert f"train ({train})" in text
    assert f"eval ({held_out})" in text, "what another choice would give, though this one is made"
    assert "success" in text
    won = len(ids(finished, phase="train", success="1"))
    assert f"{won} of {len(ids(finished))} trajectories" in reader.text("/episodes?phase=train&result=success")
    assert "No trajectory is all that" in reader.text("/episodes?phase=control")
    assert "No trajectory is all that" in reader.text("/episodes?task=%25"), "a percent sign is no wildcard"


def test_the_list_is_sorted_by_its_headers_and_says_so(finished: Path) -> None:
    reader = Reader(finished)
    up, down = reader.html("/episodes?sort=score&phase=train"), reader.html("/episodes?sort=-score&phase=train")
    assert 'aria-sort="ascending"' in up
    assert 'aria-sort="descending"' in down
    scores = [re.findall(r'<td class="number">(\d\.\d\d)</td>\s+<td>train', each) for each in (up, down)]
    assert scores[0] == sorted(scores[1])
    assert scores[0] != scores[1]
    assert f"{reader.run}/episodes?phase=train&sort=score" in reader.links("/episodes?sort=-score&phase=train")


def test_what_an_address_asks_wrongly_is_named(finished: Path) -> None:
    reader = Reader(finished)
    assert "known: added, task, score" in reader.text("/episodes?sort=age", 400).lower()
    assert "generation 'first'" in reader.text("/episodes?generation=first", 400)
    assert "There is no trajectory 'train/9/x'" in reader.text("/episodes/train%2F9%2Fx", 404)
    assert "step 'two'" in reader.text(f"/episodes/{quote(ids(finished)[0], safe='')}?step=two", 400)
    reader.html("/episodes?run=x&parts=y&self=z&page=2")


# -- one trajectory ------------------------------------------------------------------------------------------------


def test_every_prompt_of_a_run_is_shown_as_it_was_sent_and_every_call_stands_at_its_step(finished: Path) -> None:
    index = TraceIndex(finished / "trace.jsonl")
    index.follow()
    with Memory.open(finished, embedder=HashEmbedder(), read_only=True) as memory:
        for episode in memory.ledger.episodes():
            (lived,) = episode.trajectories
            placed = calls_by_step(episode.trajectories, index.read(index.of([episode.key])))
            assert placed.after == []
            for number, step in enumerate(lived.steps):
                cut = prompt(lived, number)
                turns = [
                    (turn.role, "\n".join(said.text for said in turn.said))
                    for turn in (*cut.head, *cut.earlier, *cut.new)
                ]
                (call,) = placed.by_step[lived.player, number]
                assert turns == merge(lived.prompt(number)) == list(call.sent)
                assert call.reply == step.reply


def test_a_step_shows_prompt_reply_odds_and_reward_and_leads_to_the_next(finished: Path) -> None:
    reader = Reader(finished)
    name = ids(finished, phase="train")[0]
    (first, second, *_) = calls(finished, episode=name)
    page = f"/episodes/{quote(name, safe='')}"
    for call, number in ((first, 0), (second, 1)):
        text = reader.text(f"{page}?step={number}")
        for message in call["messages"]:
            for line in message["content"].split("\n"):
                assert " ".join(line.split()) in text
        assert call["reply"] in text
        assert f"{max(call['probabilities']):.3f}" in text
        assert "✓ chosen" in text
    assert f"{reader.run}{page}?step=1#step" in reader.links(f"{page}?step=0")
    assert 'data-key="ArrowRight"' in reader.html(f"{page}?step=0")
    assert 'data-key="ArrowLeft"' in reader.html(f"{page}?step=1")
    assert reader.html(f"{page}?step=99") == reader.html(f"{page}?step={len(calls(finished, episode=name)) - 1}")


def test_records_shown_and_withheld_are_told_apart_with_the_odds_they_were_drawn_by(
    memory: Memory, directory: Path
) -> None:
    gone = RULE.id[:-1] + "x"
    recalled = (Recalled(RULE.id, False, 0.75), Recalled(gone, True, 0.5))
    memory.add_episode("e", [replace(lived("t1", step("Rust.", "file", first=True)), recalled=recalled)])
    reader = Reader(directory)
    text = reader.text("/episodes/t1")
    assert f"{RULE.text} withheld 0.75 active" in text
    assert f"{gone} shown 0.50 no longer in memory" in text
    assert {f"{reader.run}/memory/{RULE.id}", f"{reader.run}/lineage/t1"} <= {*reader.links("/episodes/t1")}
    assert "1 of 2" in reader.text("/episodes"), "records shown, of those recalled"


def test_turns_that_fell_out_of_the_window_are_told_and_the_head_stays(memory: Memory, directory: Path) -> None:
    steps = [step(f"Look {n}.", f"do {n}", first=n == 0) for n in range(4)]
    steps[3] = replace(steps[3], history_from=2)
    memory.add_episode("e", [lived("t1", *steps)])
    text = Reader(directory).text("/episodes/t1?step=3").partition("What came back")[0].partition("as it was sent")[2]
    assert "Steps 0 to 1 no longer fitted" in text
    assert "Mend things." in text
    assert "A rusty hinge." in text
    assert "do 2" in text
    assert "do 1" not in text


def test_tries_that_failed_and_calls_on_the_way_stand_at_the_step_they_led_to(
    memory: Memory, trace: Trace, directory: Path
) -> None:
    trajectory = lived("t1", step("Rust.", "file", first=True), step("A crack.", "clamp"))
    memory.add_episode("t1", [trajectory])
    sent(trace, trajectory, 0, "", error="TimeoutError: too slow")
    sent(trace, trajectory, 0, "file")
    trace.call(CallTag("actor", "train", 0, "hinge-1", 0, "t1", "plan"), "m", [("user", "Plan.")], "Hold it.", Cost())
    sent(trace, trajectory, 1, "clamp")
    trace.call(CallTag("reflector", "train", 0, "hinge-1", 0, "t1", "reflect"), "m", [("user", "?")], "Well.", Cost())
    reader = Reader(directory)
    first, second = (
        reader.text(f"/episodes/t1?step={n}").partition("Its calls in the trace")[2].partition("Records recalled")[0]
        for n in (0, 1)
    )
    assert "TimeoutError: too slow" in first
    assert "plan" not in first
    assert second.index("plan") < second.index("→ clamp")
    assert "Well." not in first + second
    assert "Well." in reader.text("/episodes/t1").partition("Calls after the last step")[2]


def test_seats_attempts_and_thoughts_about_the_task_are_one_link_away(
    memory: Memory, trace: Trace, directory: Path
) -> None:
    seats = [lived(f"k/{who}", step("Your turn.", who, player=who, first=True), player=who) for who in ("anna", "ben")]
    memory.add_episode("k", seats)
    memory.add_episode("k2", [replace(lived("again", step("Rust.", "saw", first=True)), attempt=1)])
    memory.add_episode("k3", [lived("other", step("Rust.", "saw", first=True), task="hinge-10")])
    for seat in seats:
        sent(trace, seat, 0, seat.player, key="k")
    trace.call(CallTag("thinker", "train", 0, "hinge-1", purpose="think"), "m", [("user", "?")], "Oil helps.", Cost())
    reader = Reader(directory)
    text, links = reader.text("/episodes/k%2Fanna"), reader.links("/episodes/k%2Fanna")
    assert {f"{reader.run}/episodes/k%2Fben", f"{reader.run}/episodes/again"} <= {*links}
    assert f"{reader.run}/episodes/other" not in links
    assert "→ anna" in text
    assert "→ ben" not in text
    assert "Oil helps." in text.partition("Calls about this task outside episodes")[2]


def test_a_step_that_no_model_was_asked_for_says_so_and_takes_no_call(
    memory: Memory, trace: Trace, directory: Path
) -> None:
    quiet = replace(step("Still frying.", ""), messages=(), action=Action("wait"), history_from=1)
    trajectory = lived("t1", step("Rust.", "fry", first=True), quiet)
    memory.add_episode("t1", [trajectory])
    sent(trace, trajectory, 1, "what stands in no step")
    text = Reader(directory).text("/episodes/t1?step=1")
    assert "Nothing was sent: no model was asked for this step." in text
    assert "no longer fitted" not in text
    assert "what stands in no step" in text.partition("Calls after the last step")[2]


def test_an_episode_that_failed_before_its_first_step_says_why(memory: Memory, directory: Path) -> None:
    memory.add_episode("e", [replace(lived("t1"), outcome=Outcome(0.0, False, "environment", "The world is gone."))])
    text = Reader(directory).text("/episodes/t1")
    assert "failed" in text
    assert "The world is gone." in text
    assert "It ended before the first step." in text


def test_an_episode_of_many_steps_lists_those_around_and_goes_to_any(memory: Memory, directory: Path) -> None:
    memory.add_episode("e", [lived("t1", *(step(f"Look {n}.", f"do {n}", first=n == 0) for n in range(300)))])
    html = Reader(directory).html("/episodes/t1?step=150")
    assert 40 <= html.count("<tr") < 60
    assert 'aria-label="Step 150"' in html
    assert '<input type="number" name="step" min="0" max="299"' in html


@pytest.mark.parametrize("name", ["a/b c", "ä?#&%", "../x", HOSTILE])
def test_any_id_has_an_address(memory: Memory, directory: Path, name: str) -> None:
    memory.add_episode("e", [lived(name, step("Rust.", "file", first=True))])
    reader = Reader(directory)
    (link,) = {each for each in reader.links("/episodes") if "/episodes/" in each}
    assert "Rust." in reader.text(link.removeprefix(reader.run))


# -- calls ---------------------------------------------------------------------------------------------------------


def test_calls_outside_episodes_are_listed_narrowed_and_shown_message_by_message(finished: Path) -> None:
    reader = Reader(finished)
    reflected = calls(finished, role="reflector")
    assert reflected
    text = reader.text("/calls?role=reflector")
    assert f"{len(reflected)} of " in text or f"{len(reflected)} calls" in text
    assert "actor act" not in reader.text("/calls"), "these were made in episodes"
    lines = [int(each) for each in re.findall(r'id="call-(\d+)"', reader.html("/calls?role=reflector"))]
    assert lines == sorted(lines, reverse=True)
    whole = reader.text(f"/calls/{lines[-1]}")
    for message in reflected[0]["messages"]:
        assert " ".join(message["content"].split()) in whole
    assert reflected[0]["reply"].split("\n")[0] in whole
    assert "no call in line 999999" in reader.text("/calls/999999", 404)
    assert "no call in line 0" in reader.text("/calls/0", 404)


def test_calls_of_an_episode_that_goes_on_are_called_so_until_it_ends(
    memory: Memory, trace: Trace, directory: Path
) -> None:
    key = "train/0/hinge-1/0"
    trajectory = lived(key, step("Rust.", "file", first=True))
    sent(trace, trajectory, 0, "file")
    reader = Reader(directory)
    assert "of an episode that is going on or was cut off" in reader.text("/calls")
    memory.add_episode(key, [trajectory])
    assert "Every call of this run was made in an episode." in reader.text("/calls")
    assert "→ file" in reader.text(f"/episodes/{quote(key, safe='')}")


def test_a_trace_is_followed_as_it_grows_and_begun_anew_when_it_is_replaced(trace: Trace, directory: Path) -> None:
    index, path = TraceIndex(directory / "trace.jsonl"), directory / "trace.jsonl"
    trace.call(CallTag("a", "train", 1, "t", episode="one"), "m", [("user", "x")], "first", Cost())
    index.follow()
    with path.open("ab") as file:
        file.write(b'{"role":"a","phase":"tr')
    index.follow()
    assert len(index) == 1, "the line is not whole yet"
    with path.open("ab") as file:
        file.write(b"nonsense\n")
    trace.call(
        CallTag("a", "train", 1, "t", episode="one"), "m", [("user", ',"messages":[')], "third", Cost(), error="e"
    )
    index.follow()
    assert [call.reply for call in index.read(index.of(["one"]))] == ["first", "third"]
    assert index.damaged == [2]
    assert [index.sort(line).outcome for line in index.outside(lambda names: set(), 1)] == ["answered", "failed"]
    assert index.outside(lambda names: {"one"}, 2) == []
    path.write_bytes(path.read_bytes().split(b"\n")[0] + b"\n")
    index.follow()
    assert (len(index), index.damaged) == (1, [])


# -- strangers and damage ------------------------------------------------------------------------------------------


def test_whatever_a_run_holds_is_shown_as_text(memory: Memory, trace: Trace, directory: Path) -> None:
    rule = new_record("rule", HOSTILE, Scope("workshop"))
    memory.commit("b", [Event("add", rule.id, rule)], generation=1)
    sampling = Sampling(0.5, "choose", (HOSTILE, "file"), (0.25, 0.75))
    trajectory = replace(
        lived(
            "t1", step(HOSTILE, HOSTILE, player=HOSTILE, first=True, sampling=sampling, result=HOSTILE), player=HOSTILE
        ),
        task=Task(HOSTILE, HOSTILE, HOSTILE, {HOSTILE: HOSTILE}, (HOSTILE,), (HOSTILE,)),
        outcome=Outcome(0.5, False, "model", HOSTILE),
        recalled=(Recalled(rule.id, True, 0.5),),
        model=HOSTILE,
    )
    memory.add_episode(f"train/0/{HOSTILE}/0/{HOSTILE}", [trajectory, replace(trajectory, id="t2", player="b")])
    tag = CallTag(HOSTILE, "train", 0, HOSTILE, 0, HOSTILE, HOSTILE)
    trace.call(tag, HOSTILE, [(HOSTILE, HOSTILE)], HOSTILE, Cost(), options=(HOSTILE, "b"), probabilities=(0.5, 0.5))
    trace.call(tag, HOSTILE, [("user", "\udc80 half a sign")], "", Cost(), error=HOSTILE)
    reader = Reader(directory)
    for path in ("/episodes", "/episodes?task=" + quote(HOSTILE), "/episodes/t1", "/calls", "/calls/1", "/calls/2"):
        html = reader.html(path)
        assert "<script>window" not in html
        assert "<img" not in html
        assert "{{ 7 * 7 }}" in html


def pages(path: Path) -> list[str]:
    name = quote(ids(path, phase="train")[0], safe="") if (path / "ledger.sqlite").exists() else "t1"
    return ["/episodes", f"/episodes/{name}", "/calls", "/calls/1"]


@pytest.mark.parametrize(
    ("file", "content", "told"),
    [
        ("ledger.sqlite", b"no database" * 1000, "The episodes: "),
        ("ledger.sqlite", b"", "The episodes: "),
        ("config.json", b"{", ""),
        ("trace.jsonl", None, "there is no trace.jsonl"),
        ("trace.jsonl", b"\xff\x00 no JSON\n" * 3, "The trace: 3 of its lines are no calls, the first is line 1"),
    ],
)
def test_what_is_damaged_is_named_and_the_rest_is_shown(run: Path, file: str, content: bytes | None, told: str) -> None:
    where = pages(run)
    damaged = run / file
    damaged.unlink()
    for beside in ("-wal", "-shm"):
        damaged.with_name(damaged.name + beside).unlink(missing_ok=True)
    if content is not None:
        damaged.write_bytes(content)
    reader = Reader(run)
    if file != "ledger.sqlite":
        assert f"{len(ids(run))} trajectories" in reader.text("/episodes")
        assert told in reader.text(where[1])
        assert "The prompt as it was sent" in reader.text(where[1])
        assert told in reader.text("/calls")
    else:
        for path in where[:3]:
            assert told in reader.text(path)
        assert "actor act" in reader.text("/calls"), "nothing says that they were made in episodes"


def test_a_trajectory_whose_body_is_damaged_still_shows_what_the_tables_know(run: Path) -> None:
    name = ids(run, phase="train")[0]
    db = sqlite3.connect(run / "ledger.sqlite")
    db.execute("DROP TRIGGER trajectories_never_update")
    db.execute("UPDATE trajectories SET body = x'00ff' WHERE id = ?", (name,))
    db.commit()
    db.close()
    text = Reader(run).text(f"/episodes/{quote(name, safe='')}")
    assert "The trajectory: " in text
    assert "train, generation 1, attempt 0" in text
    assert "Other attempts at this task" in text
    assert "could be read" not in Reader(run).text("/episodes"), "the list reads no body"
