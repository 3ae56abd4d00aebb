"""`evolvent top` as a person types it: over a run that goes on, that was killed, that has ended, that is damaged."""

from __future__ import annotations

import hashlib
import os
import pty
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from command_line import Evolvent

from evolvent.agents.findings import read_findings
from evolvent.agents.run import RunConfig, create, result
from evolvent.memory.embedding import HashEmbedder
from evolvent.memory.store import Memory
from evolvent.memory.types import Event, new_record

TESTS = Path(__file__).parents[1]
SLOW = f"""
import sys
sys.path.insert(0, {str(TESTS)!r})
from pathlib import Path
from workshop_scorer import learner
from evolvent.agents.rollout import run_sync
from evolvent.agents.run import execute
run_sync(execute(Path(sys.argv[1]), models={{"actor": learner(latency_s=0.2)}}))
"""
_PATIENCE_S = 240


@pytest.fixture
def going_on(tmp_path: Path) -> Iterator[tuple[Path, subprocess.Popen[bytes]]]:
    """A run of far too many tasks, played by a slow model in a process of its own."""
    config = RunConfig(
        recipe="lamarck",
        options={"world": 0},
        tasks=60,
        evaluated=6,
        generations=2,
        concurrency=3,
        embedder="hash",
    )
    directory = create(config, tmp_path / "runs" / "slow")
    with subprocess.Popen([sys.executable, "-c", SLOW, str(directory)]) as process:
        yield directory, process
        process.kill()


def digests(directory: Path) -> dict[str, str]:
    files = (each for each in directory.rglob("*") if each.is_file() and not each.name.endswith(("-shm", "-wal")))
    return {str(each): hashlib.sha256(each.read_bytes()).hexdigest() for each in files}


def test_a_run_that_goes_on_is_seen_to_move_and_one_that_was_killed_says_how_to_go_on(
    evolvent: Evolvent, going_on: tuple[Path, subprocess.Popen[bytes]]
) -> None:
    directory, process = going_on
    begun = evolvent("top", directory, "--json")
    assert begun.code == 0
    assert (begun.json["episodes"], begun.json["held_out"]) == (0, {})
    until = time.monotonic() + _PATIENCE_S
    while not ((seen := evolvent("top", directory, "--json").json)["held_out"] and seen["node"] == "solve"):
        assert process.poll() is None
        assert time.monotonic() < until, "the run does not get on"
    assert (seen["state"], seen["writer"]) == ("running", process.pid)
    assert seen["problems"] == []
    # The baseline is over; 60 tasks are attempted twice each.
    assert seen["held_out"].keys() == {"0"}
    while (seen["progress"]["what"], seen["progress"]["done"] > 1) != ("train", True):
        assert time.monotonic() < until, "no episode ends"
        seen = evolvent("top", directory, "--json").json
    told = seen["progress"]
    assert (told["generation"], told["expected"], told["unit"]) == (1, 120, "episodes")
    assert seen["episodes"] == 6 + told["done"]
    assert 0 <= told["score"]["low"] <= told["score"]["mean"] <= told["score"]["high"] <= 1
    assert told["left_s"] > 0
    page = evolvent("top", directory.parent)
    assert page.code == 0
    assert f"running as process {process.pid}" in page.out
    assert "train (preliminary)" in page.out
    assert "of about 120 episodes" in page.out
    process.kill()
    process.wait()
    stopped = evolvent("top", directory, "--once")
    assert stopped.code == 0
    assert f"go on with evolvent resume {directory}" in " ".join(stopped.out.split())
    assert "preliminary" not in stopped.out, "nothing goes on"


def test_a_run_that_has_ended_tells_its_success_what_was_decided_and_what_memory_holds(
    evolvent: Evolvent, learned: Path
) -> None:
    before = digests(learned)
    said = evolvent("top", learned)
    assert said.code == 0
    assert "ended, last written" in said.out
    report = result(learned)
    for row in report["generations"]:
        held = row["held_out"]
        assert f"gen. {row['generation']}  {held['success']:.2f} ({held['low']:.2f}–{held['high']:.2f})" in said.out
    newest = read_findings(learned).decisions[-1]
    assert f"{newest.evidence}" in said.out
    assert newest.record.text[:20] in said.out
    kept = ", ".join(f"{count} {status}" for status, count in report["records"].items() if count)
    assert f"memory: {kept}" in said.out
    told = evolvent("top", learned, "--json").json
    assert told["held_out"]["2"]["mean"] == report["generations"][2]["held_out"]["success"]
    assert told["calls"] == sum(row["calls"] for row in report["generations"]) - len(reflections(learned))
    assert (told["writer"], told["node"], told["state"]) == (None, "", "ended")
    assert digests(learned) == before


def reflections(directory: Path) -> list[str]:
    with Memory.open(directory, embedder=HashEmbedder(), read_only=True) as memory:
        return [key for number in (1, 2) for key in memory.ledger.memos(f"{number}/reflect/")]


def test_several_runs_are_one_line_each_and_their_controls_none(
    evolvent: Evolvent, learned: Path, tmp_path: Path
) -> None:
    for name in ("one", "two"):
        shutil.copytree(learned, tmp_path / name)
    with Memory.open(tmp_path / "one" / "controls", embedder=HashEmbedder()):
        pass
    create(RunConfig(recipe="lamarck", embedder="hash"), tmp_path / "new")
    said = evolvent("top", tmp_path)
    assert said.code == 0
    lines = said.out.rstrip().splitlines()
    assert [line.split()[0] for line in lines] == ["run", "new", "one", "two"]
    assert lines[1].split()[1:3] == ["stopped", "–/3"]
    assert lines[2].split()[1:3] == ["ended", "2/2"]
    told = evolvent("top", tmp_path, "--json").json
    assert [(each["run"], each["state"]) for each in told] == [("new", "stopped"), ("one", "ended"), ("two", "ended")]


@pytest.mark.parametrize("place", ["nowhere", "empty", "a-file"])
def test_what_is_no_run_is_told_in_one_line(evolvent: Evolvent, tmp_path: Path, place: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "a-file").write_text("x")
    said = evolvent("top", tmp_path / place)
    assert said.code == 2
    assert said.out == ""
    assert len(said.err.strip().splitlines()) == 1
    assert str(tmp_path / place) in said.err


@pytest.mark.parametrize("name", ["config.json", "ledger.sqlite", "trace.jsonl", "checkpoints.sqlite", "ledger.lock"])
@pytest.mark.parametrize("harm", ["gone", "garbage", "cut in half"])
def test_a_damaged_run_shows_what_can_be_read_and_names_what_cannot(
    evolvent: Evolvent, learned: Path, tmp_path: Path, name: str, harm: str
) -> None:
    file = Path(shutil.copytree(learned, tmp_path / "run")) / name
    data = file.read_bytes()
    file.unlink()
    if harm != "gone":
        file.write_bytes(b"\xff\x00 garbage\n{}\n" * 500 if harm == "garbage" else data[: len(data) // 2])
    said = evolvent("top", file.parent)
    if (name, harm) == ("config.json", "gone"):
        assert said.code == 2
        return
    assert said.code == 0
    named = {"config.json": "The configuration", "ledger.sqlite": "The memory", "checkpoints.sqlite": "The checkpoints"}
    if name in named and not (name == "checkpoints.sqlite" and harm == "gone"):
        assert f"cannot be read: {named[name]}" in said.out
    else:
        assert "cannot be read" not in said.out
    assert ("gen. 2" in said.out) == (name != "ledger.sqlite")
    assert ("lamarck on workshop" in said.out) == (name != "config.json")


def test_what_a_model_wrote_is_text_on_the_terminal(evolvent: Evolvent, learned: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(learned, tmp_path / "run"))
    evil = "\x1b]0;mine\x07\x1b[2J[bold]Use\x00 oil[/nothing]"
    record = new_record("rule", evil, generation=2)
    events = [Event("add", record.id, record), Event("reject", record.id, payload={"reason": evil})]
    with Memory.open(run, embedder=HashEmbedder()) as memory:
        memory.commit("evil", events, generation=2)
    said = evolvent("top", run)
    assert "[bold]Use oil[/nothing]" in said.out
    assert not {"\x1b", "\x07", "\x00"} & set(said.out)


def test_on_a_terminal_it_goes_on_until_ctrl_c_and_leaves_the_last_frame(learned: Path) -> None:
    words = [
        sys.executable,
        "-c",
        "from evolvent.agents.cli import main; main()",
        "top",
        str(learned),
        "--every",
        "0.2",
    ]
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "90", "LINES": "40"}

    def own_terminal() -> None:
        os.login_tty(theirs)

    with subprocess.Popen(words, env=environment, preexec_fn=own_terminal) as process:
        os.close(theirs)
        seen = b""
        until = time.monotonic() + _PATIENCE_S
        asked = False
        while select.select([ours], [], [], max(0.0, until - time.monotonic()))[0]:
            try:
                seen += os.read(ours, 65536)
            except OSError:  # the other end was closed
                break
            if not asked and seen.count(b"newest records") > 2:
                os.write(ours, b"\x03")
                asked = True
        os.close(ours)
    assert asked, "it shows frame after frame"
    assert process.returncode == 0
    assert b"Traceback" not in seen
    after = seen[seen.rindex(b"\x1b[?1049l") :]
    assert b"newest records" in after, "the last frame stands on the terminal that comes back"


def test_a_narrow_terminal_goes_without_bars(
    evolvent: Evolvent, learned: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    said = evolvent("top", learned)
    assert said.code == 0
    assert "●" not in said.out
    assert all(len(line) <= 40 for line in said.out.splitlines())
    monkeypatch.setenv("COLUMNS", "100")
    assert "●" in evolvent("top", learned).out
