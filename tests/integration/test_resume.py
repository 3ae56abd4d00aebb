"""Runs that are killed, at any moment and again and again: resumed, they end as if nothing had happened."""

from __future__ import annotations

import multiprocessing
import os
import random
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path
from typing import Any

import pytest
from workshop_scorer import learner

from evolvent.agents.rollout import run_sync
from evolvent.agents.run import RunConfig, create, execute, read_config, result
from evolvent.agents.trace import read_lines
from evolvent.memory.embedding import HashEmbedder
from evolvent.memory.ledger import Ledger
from evolvent.memory.store import Memory

KILLS_A_RUN = 5


def tiny(concurrency: int) -> RunConfig:
    return RunConfig(
        recipe="lamarck",
        seed=1,
        tasks=8,
        evaluated=8,
        generations=2,
        concurrency=concurrency,
        embedder="hash",
        settings={"candidates": 2, "gate_pairs": 16, "false_discoveries": 0.5, "trajectories": 1},
    )


@pytest.fixture(scope="module")
def processes() -> ForkServerContext:
    """Children forked from a server that has imported everything once: killing twenty of them is quick."""
    context = multiprocessing.get_context("forkserver")
    heavy = ["chromadb", "langgraph.checkpoint.sqlite.aio", "scipy.stats", "evolvent.agents.recipes.lamarck"]
    context.set_forkserver_preload([*heavy, __name__])
    return context


Death = tuple[type, str, object]
"""Class, method, first argument: the call after which a process dies."""


def go_on(directory: Path, acknowledged: Connection, death: Death | None = None) -> None:
    """Run, or resume, to the end or to its death; every episode is told after it was acknowledged."""
    if death is not None:
        die_after(*death)
    acknowledged.send("")
    run_sync(
        execute(directory, models={"actor": learner()}, on_episode=lambda job, episode: acknowledged.send(job.key))
    )


def die_after(owner: type, method: str, first: object) -> None:
    plain = getattr(owner, method)

    def deadly(self: object, key: object, *args: object, **kwargs: object) -> object:
        done = plain(self, key, *args, **kwargs)
        if key == first:
            os.kill(os.getpid(), signal.SIGKILL)
        return done

    setattr(owner, method, deadly)


def started(
    context: ForkServerContext, directory: Path, death: Death | None = None
) -> tuple[ForkServerProcess, Connection]:
    hears, tells = context.Pipe(duplex=False)
    child = context.Process(target=go_on, args=(directory, tells, death), daemon=True)
    child.start()
    tells.close()
    assert hears.recv() == ""
    return child, hears


def heard(pipe: Connection, most: int | None = None) -> list[str]:
    """The next `most` episodes that are told, or all there are."""
    keys: list[str] = []
    try:
        while most is None or len(keys) < most:
            keys.append(pipe.recv())
    except (EOFError, OSError):  # the end, or a word that the kill cut short
        pass
    return keys


def finish(context: ForkServerContext, directory: Path) -> list[str]:
    child, pipe = started(context, directory)
    keys = heard(pipe)
    child.join()
    assert child.exitcode == 0
    return keys


def kept(directory: Path) -> list[str]:
    if not (directory / "ledger.sqlite").exists():
        return []
    try:
        ledger = Ledger(directory / "ledger.sqlite", read_only=True)
    except ValueError:  # killed before its tables were made
        return []
    try:
        return [episode.key for episode in ledger.episodes()]
    finally:
        ledger.close()


def told(directory: Path) -> dict[str, Any]:
    """The result without what the clock and the place decide."""
    found = result(directory)
    for generation in found["generations"]:
        del generation["seconds"]
    del found["out"]
    return found


def commits(directory: Path) -> list[tuple[str, str]]:
    with Memory.open(directory, embedder=HashEmbedder(), read_only=True) as memory:
        return [(commit.key, commit.id) for commit in memory.ledger.commits()]


@pytest.fixture(scope="module")
def uninterrupted(processes: ForkServerContext, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = create(tiny(1), tmp_path_factory.mktemp("uninterrupted") / "run")
    finish(processes, directory)
    return directory


def storm(context: ForkServerContext, directory: Path, episodes: int, draw: random.Random) -> None:
    """Kill a run several times, spread over its length, then let it end; nothing kept may be lost or played again."""
    acknowledged: Counter[str] = Counter()
    for _ in range(KILLS_A_RUN):
        held, traced = set(kept(directory)), len(read_lines(directory / "trace.jsonl"))
        child, pipe = started(context, directory)
        if draw.random() < 0.25:  # while it opens: a quarter second is what that takes
            time.sleep(draw.uniform(0, 0.3))
        else:
            acknowledged.update(heard(pipe, draw.randint(1, 2 * episodes // KILLS_A_RUN)))
            time.sleep(draw.uniform(0, 0.05))
        child.kill()
        child.join()
        acknowledged.update(heard(pipe))
        assert set(acknowledged) <= set(kept(directory)), "an acknowledged episode was lost"
        again = {row["episode"] for row in read_lines(directory / "trace.jsonl")[traced:]} & held
        assert not again, "an episode that was kept was played again"
    acknowledged.update(finish(context, directory))
    assert acknowledged.most_common(1)[0][1] == 1


def assert_same(directory: Path, reference: Path) -> None:
    """The same in every word. The scripted model does not round, so this holds at any concurrency."""
    assert told(directory) == told(reference)
    assert commits(directory) == commits(reference)
    assert sorted(kept(directory)) == sorted(kept(reference))
    noted = Counter(row["episode"] for row in read_lines(directory / "metrics.jsonl") if "episode" in row)
    assert noted == Counter(kept(directory))


@pytest.mark.parametrize("concurrency", [1, 8])
@pytest.mark.parametrize("kills", [10, pytest.param(100, marks=pytest.mark.slow)])
def test_a_run_killed_at_any_moment_ends_as_an_uninterrupted_one(
    tmp_path: Path, processes: ForkServerContext, uninterrupted: Path, kills: int, concurrency: int
) -> None:
    draw = random.Random(concurrency)
    for number in range(kills // KILLS_A_RUN):
        directory = create(tiny(concurrency), tmp_path / f"run-{number}")
        storm(processes, directory, len(kept(uninterrupted)), draw)
        assert_same(directory, uninterrupted)


def test_a_run_that_dies_right_after_each_write_ends_as_an_uninterrupted_one(
    tmp_path: Path, processes: ForkServerContext, uninterrupted: Path
) -> None:
    directory = create(tiny(1), tmp_path / "run")
    for death in deaths(uninterrupted):
        child, pipe = started(processes, directory, death)
        heard(pipe)
        child.join()
        assert child.exitcode == -signal.SIGKILL, f"it never came to {death}"
    finish(processes, directory)
    assert_same(directory, uninterrupted)


def deaths(reference: Path) -> list[Death]:
    """After every commit (of the ledger, before the index has it, or of both) and generation, an episode and a memo."""
    with Memory.open(reference, embedder=HashEmbedder(), read_only=True) as memory:
        found: list[Death] = [(Ledger, "add_memo", "1/reflect/0")]
        for generation in memory.ledger.generations():
            written = [commit.key for commit in memory.ledger.commits() if commit.generation == generation]
            found += [((Ledger, Memory)[number % 2], "commit", key) for number, key in enumerate(written)]
            found.append((Ledger, "add_generation", generation))
        episodes = [episode.key for episode in memory.ledger.episodes()]
    return [(Ledger, "add_episode", episodes[0]), found[1], found[0], *found[2:]]


def vanish(chroma: Path) -> None:
    shutil.rmtree(chroma)


def garbage(chroma: Path) -> None:
    (chroma / "chroma.sqlite3").write_bytes(random.Random(0).randbytes(5000))


@pytest.mark.parametrize("broken", [vanish, garbage], ids=lambda each: each.__name__)
def test_a_run_whose_index_was_lost_while_it_stood_still_ends_as_an_uninterrupted_one(
    tmp_path: Path, processes: ForkServerContext, uninterrupted: Path, broken: Callable[[Path], None]
) -> None:
    directory = create(read_config(uninterrupted), tmp_path / "run")
    child, pipe = started(processes, directory)
    while not any(key.startswith("gate/") for key in heard(pipe, 1)):
        pass
    child.kill()
    child.join()
    broken(directory / "chroma")
    finish(processes, directory)
    assert_same(directory, uninterrupted)


def test_a_run_that_has_ended_may_be_resumed_and_stays_as_it_is(
    tmp_path: Path, processes: ForkServerContext, uninterrupted: Path
) -> None:
    directory = tmp_path / "run"
    shutil.copytree(uninterrupted, directory)
    assert finish(processes, directory) == []
    assert_same(directory, uninterrupted)


def test_metrics_that_a_kill_cut_off_are_written_by_the_resumed_run(
    tmp_path: Path, processes: ForkServerContext, uninterrupted: Path
) -> None:
    directory = tmp_path / "run"
    shutil.copytree(uninterrupted, directory)
    lines = (uninterrupted / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    (directory / "metrics.jsonl").write_bytes(b"".join(lines[:7]) + lines[7][:20])
    finish(processes, directory)

    def rows(folder: Path) -> list[dict[str, Any]]:
        return [row for row in read_lines(folder / "metrics.jsonl") if "episode" in row]

    assert rows(directory) == rows(uninterrupted)


def make_many(folder: Path, ready: Connection) -> None:
    ready.send("")
    for number in range(100_000):
        create(tiny(1), folder / f"run-{number}")


def test_a_directory_appears_whole_or_not_at_all(tmp_path: Path, processes: ForkServerContext) -> None:
    for kill in range(5):
        folder = tmp_path / str(kill)
        hears, tells = processes.Pipe(duplex=False)
        child = processes.Process(target=make_many, args=(folder, tells), daemon=True)
        child.start()
        tells.close()
        hears.recv()
        time.sleep(0.02 + 0.013 * kill)
        child.kill()
        child.join()
        made = [path for path in folder.glob("*") if not path.name.startswith(".")]
        assert all(read_config(path) == tiny(1) for path in made)
