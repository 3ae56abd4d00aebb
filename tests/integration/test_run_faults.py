"""Models and worlds that fail in every way: the run ends, with each failure recorded or each retry counted."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from chat_server import Answer, completion, first_option, http, says, serving
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import BaseMessage
from moody_world import MOODS
from workshop_scorer import learner, repeats_or_guesses

from evolvent.agents.errors import ModelUnavailableError
from evolvent.agents.models.openai import EndpointChatModel
from evolvent.agents.models.role import Limits
from evolvent.agents.models.scripted import ScriptedScorer
from evolvent.agents.run import RunConfig, create, execute, result
from evolvent.agents.trace import read_lines
from evolvent.environments.catalog import ENTRIES, Entry
from evolvent.environments.types import Trajectory
from evolvent.memory.ledger import Ledger

TIMEOUT_S = 1.0
HURRIED = Limits(attempts=4, backoff_s=0.01, timeout_s=30)


def tiny(**changes: Any) -> RunConfig:
    settings = {"attempts": 1, "candidates": 0, "trajectories": 1} | changes.pop("settings", {})
    given = {"tasks": 2, "evaluated": 4, "generations": 1, "concurrency": 4} | changes
    return RunConfig(recipe="lamarck", embedder="hash", settings=settings, **given)


async def run(directory: Path, model: BaseChatModel | str, *, limits: Limits = HURRIED) -> dict[str, Any]:
    """`model` may be a server's address."""
    actor = EndpointChatModel(model="m", base_url=model) if isinstance(model, str) else model
    await execute(directory, models={"actor": actor}, limits=limits)
    return result(directory)


def trajectories(directory: Path) -> list[Trajectory]:
    ledger = Ledger(directory / "ledger.sqlite", read_only=True)
    try:
        return [each for episode in ledger.episodes() for each in episode.trajectories]
    finally:
        ledger.close()


def totals(directory: Path) -> dict[str, Any]:
    return [row for row in read_lines(directory / "metrics.jsonl") if "event" in row][-1]


# -- models ----------------------------------------------------------------------------------------------------------


async def hangs(number: int, message: str) -> bytes:
    await asyncio.sleep(3 * TIMEOUT_S)
    return b""


def sends(answer: bytes) -> Answer:
    async def send(number: int, message: str) -> bytes:
        return answer

    return send


async def well(number: int, message: str) -> bytes:
    return first_option(message)


PASSING = {
    "garbage": sends(http(b"<html>garbage</html>", kind="text/html")),
    "nothing": sends(http(b"")),
    "half the JSON": sends(http(completion("oil")[:40])),
    "half the body": sends(http(completion("oil")[:40], length=400)),
    "malformed UTF-8": sends(http(completion("HERE").replace(b"HERE", b"\xff\xfe\xc3"))),
    "HTTP 500": sends(http(b'{"error": {"message": "boom"}}', status="500 Internal Server Error")),
    "a time-out": hangs,
    "a closed connection": sends(b""),
}


@pytest.mark.parametrize("fault", PASSING.values(), ids=PASSING)
async def test_a_fault_that_passes_is_a_counted_retry(tmp_path: Path, fault: Answer) -> None:
    async def sometimes(number: int, message: str) -> bytes:
        return await (fault if number % 4 == 2 else well)(number, message)

    directory = create(tiny(), tmp_path / "run")
    limits = replace(HURRIED, timeout_s=TIMEOUT_S) if fault is hangs else HURRIED
    async with serving(sometimes) as url:
        report = await run(directory, url, limits=limits)
    assert report["finished"]
    assert report["lost_pairs"] == 0
    traced = read_lines(directory / "trace.jsonl")
    assert totals(directory)["retries"] == sum("error" in row for row in traced) >= 3
    assert not any(each.outcome.failure for each in trajectories(directory))


SAID = {
    "garbage": "%$&!\x00 \x1b[31m",
    "nothing": "",
    "ten thousand tokens": "word " * 10_000,
    "a lone surrogate": "oil \ud83d\udc00 \udfff",
    "other ends of lines": "oil\u2028oil\x85oil\x0c",
}


@pytest.mark.parametrize("text", SAID.values(), ids=SAID)
async def test_any_text_is_an_answer_that_is_recorded_and_scored(tmp_path: Path, text: str) -> None:
    directory = create(tiny(), tmp_path / "run")
    async with serving(sends(says(text))) as url:
        report = await run(directory, url)
    assert report["finished"]
    assert report["frozen"] == {"success": 0.0, "low": 0.0, "high": 0.0, "n": 4}
    assert totals(directory)["retries"] == 0
    played = trajectories(directory)
    replies = {step.reply for each in played for step in each.steps}
    assert {row["reply"] for row in read_lines(directory / "trace.jsonl")} == replies
    assert all(len(reply) <= HURRIED.max_reply_chars for reply in replies)
    assert not any(each.outcome.failure for each in played)
    assert all(each.steps for each in played)


@pytest.mark.parametrize("fault", ["HTTP 500", "a time-out", "a closed connection"])
async def test_a_server_that_never_answers_ends_the_run_with_nothing_done_and_resume_works_once_it_is_back(
    tmp_path: Path, fault: str
) -> None:
    directory = create(tiny(), tmp_path / "run")
    async with serving(PASSING[fault]) as url:
        with pytest.raises(ModelUnavailableError, match="No model call has succeeded"):
            await run(directory, url, limits=replace(HURRIED, timeout_s=TIMEOUT_S, attempts=2))
    assert trajectories(directory) == []
    async with serving(well) as url:
        assert (await run(directory, url))["finished"]
    assert not any(each.outcome.failure for each in trajectories(directory))


def test_a_model_that_cannot_be_reached_at_all_leaves_the_run_as_it_was(tmp_path: Path) -> None:
    directory = create(tiny(concurrency=1), tmp_path / "run")
    for _ in range(2):
        with pytest.raises(ModelUnavailableError):
            asyncio.run(run(directory, "http://127.0.0.1:9/v1"))
    assert trajectories(directory) == []


def failing(pattern: str, after: int) -> ScriptedScorer:
    """Learns, but from some call on every prompt that holds the pattern breaks it for good."""
    calls = 0

    def score(messages: Sequence[BaseMessage], options: Sequence[str]) -> list[float]:
        nonlocal calls
        calls += 1
        if calls > after and any(pattern in message.text for message in messages):
            raise RuntimeError("out of memory \udc80")
        return repeats_or_guesses(messages, options)

    return ScriptedScorer(learner().replies, score=score)


@pytest.mark.parametrize(("pattern", "verdict"), [("nowhere to be found", "improved"), ("a leak", "no evidence")])
async def test_more_than_a_tenth_of_the_pairs_lost_is_no_evidence(tmp_path: Path, pattern: str, verdict: str) -> None:
    config = tiny(tasks=12, evaluated=30, seed=1, concurrency=1, settings={"attempts": 2})
    directory = create(config, tmp_path / "run")
    report = await run(directory, failing(pattern, after=5))
    lost = {each.task.id for each in trajectories(directory) if each.phase == "eval" and each.outcome.failure}
    assert report["lost_pairs"] == len(lost)
    assert (len(lost) > 3) == (verdict == "no evidence")
    assert report["verdict"] == verdict
    assert all("out of memory" in each.outcome.detail for each in trajectories(directory) if each.outcome.failure)


async def test_a_model_that_breaks_in_mid_run_is_a_recorded_failure_of_each_episode(tmp_path: Path) -> None:
    directory = create(tiny(), tmp_path / "run")
    report = await run(directory, failing("", after=12))
    assert report["finished"]
    assert report["verdict"] == "no evidence"
    played = trajectories(directory)
    assert {each.outcome.failure for each in played} == {"", "model"}
    assert totals(directory)["failed_calls"] == sum(bool(each.outcome.failure) for each in played)


@pytest.mark.parametrize("scores", [[], [0.0], [float("nan")] * 4, [float("-inf")] * 4], ids=str)
async def test_scores_that_are_no_numbers_are_a_failed_call(tmp_path: Path, scores: list[float]) -> None:
    directory = create(tiny(concurrency=1), tmp_path / "run")
    first = True

    def score(messages: Sequence[BaseMessage], options: Sequence[str]) -> list[float]:
        nonlocal first
        sound, first = first, False
        return repeats_or_guesses(messages, options) if sound else scores

    assert (await run(directory, ScriptedScorer(learner().replies, score=score)))["verdict"] == "no evidence"
    assert {each.outcome.failure for each in trajectories(directory)} == {"model"}


# -- worlds ----------------------------------------------------------------------------------------------------------


async def test_a_world_that_hangs_or_dies_is_a_recorded_failure_and_the_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "moody_world:MoodyWorld"
    config = tiny(environment=name, tasks=1, evaluated=len(MOODS), concurrency=2)
    directory = create(config, tmp_path / "run")
    entry = Entry(name, "", name, "", isolated=True, timeout_s=0.5)
    monkeypatch.setitem(ENTRIES, name, entry)
    report = await run(directory, learner())
    assert report["finished"]
    assert report["lost_pairs"] == 5
    assert report["verdict"] == "no evidence"
    failures = {each.task.data["mood"]: each.outcome for each in trajectories(directory)}
    assert {mood: outcome.failure for mood, outcome in failures.items()} == {
        "sound": "",
        "hangs": "timeout",
        "hangs at the start": "timeout",
        "dies": "environment",
        "dies at the start": "environment",
        "raises": "environment",
    }
    assert "RuntimeError: the bench broke" in failures["raises"].detail
