"""A model in a role: prompt parts become turns, passing faults are tried again, every try is counted and traced."""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from langchain_core.messages import BaseMessage

from evolvent.agents.errors import ModelCallError, ModelUnavailableError
from evolvent.agents.models.role import Limits, RoleModel
from evolvent.agents.models.scripted import ScriptedChatModel, ScriptedScorer
from evolvent.agents.trace import Trace, read_lines
from evolvent.agents.types import CallTag
from evolvent.environments.types import Message, merge

TAG = CallTag("actor", "train", 1, "task-1")
HURRIED = Limits(attempts=3, backoff_s=0.0, timeout_s=0.2, max_reply_chars=50)
PROMPT = (
    Message("system", "instructions", "Mend things."),
    Message("user", "memory", ""),
    Message("user", "task", "Rust."),
    Message("user", "history", "What do you take?"),
)


@pytest.fixture
def trace(tmp_path: Path) -> Iterator[Trace]:
    trace = Trace(tmp_path / "trace.jsonl")
    yield trace
    trace.close()


def lines(trace: Trace, tmp_path: Path) -> list[dict[str, object]]:
    trace.close()
    return read_lines(tmp_path / "trace.jsonl")


def replies(*outcomes: str | Exception) -> Callable[[Sequence[BaseMessage]], str]:
    left = iter(outcomes)

    def reply(messages: Sequence[BaseMessage]) -> str:
        outcome = next(left)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    return reply


def test_neighbours_of_one_role_become_one_turn_and_empty_parts_vanish() -> None:
    assert merge(PROMPT) == [("system", "Mend things."), ("user", "Rust.\nWhat do you take?")]


async def test_a_passing_fault_is_tried_again_and_counted(trace: Trace, tmp_path: Path) -> None:
    model = RoleModel("m", ScriptedChatModel(replies(ConnectionError("gone"), TimeoutError(), "oil")), trace, HURRIED)
    assert (await model.generate(PROMPT, TAG)).text == "oil"
    assert (trace.answered, trace.retries, trace.failed_calls, trace.total.calls) == (1, 2, 0, 3)
    errors = [row.get("error", "") for row in lines(trace, tmp_path)]
    assert errors == ["ConnectionError: gone", "TimeoutError: ", ""]


async def test_a_fault_that_stays_is_an_error_after_the_last_try(trace: Trace) -> None:
    model = RoleModel("m", ScriptedChatModel(replies(*[ConnectionError("gone")] * 3)), trace, HURRIED)
    with pytest.raises(ModelCallError, match=r"Call to m failed after 3 of 3 tries: ConnectionError: gone"):
        await model.generate(PROMPT, TAG)
    assert (trace.answered, trace.retries, trace.failed_calls) == (0, 2, 1)


async def test_a_fault_that_would_come_again_is_not_tried_again(trace: Trace) -> None:
    model = RoleModel("m", ScriptedChatModel(replies(RuntimeError("a bug"))), trace, HURRIED)
    with pytest.raises(ModelCallError, match="after 1 of 3 tries"):
        await model.generate(PROMPT, TAG)
    assert trace.retries == 0


async def test_a_model_that_is_not_there_ends_the_run_and_not_the_episode(trace: Trace) -> None:
    model = RoleModel("m", ScriptedChatModel(replies(ModelUnavailableError("no weights"))), trace, HURRIED)
    with pytest.raises(ModelUnavailableError):
        await model.generate(PROMPT, TAG)


async def test_a_call_that_takes_too_long_is_cut_off(trace: Trace) -> None:
    model = RoleModel("m", ScriptedChatModel(["oil"] * 3, latency_s=10), trace, HURRIED)
    with pytest.raises(ModelCallError, match="TimeoutError"):
        await asyncio.wait_for(model.generate(PROMPT, TAG), 5)
    assert trace.retries == 2


@pytest.mark.parametrize(
    ("said", "kept"),
    [("", ""), ("word " * 10_000, "word " * 10), ("oil \ud83d\udc00", "oil ??"), ("Über\u2028🐟", "Über\u2028🐟")],
)
async def test_a_reply_is_kept_as_it_came_if_json_can_carry_it(
    trace: Trace, tmp_path: Path, said: str, kept: str
) -> None:
    reply = await RoleModel("m", ScriptedChatModel([said]), trace, HURRIED).generate(PROMPT, TAG)
    assert reply.text == kept
    assert [row["reply"] for row in lines(trace, tmp_path)] == [kept]


async def test_an_error_that_json_cannot_carry_is_cleaned_too(trace: Trace) -> None:
    model = RoleModel("m", ScriptedChatModel(replies(RuntimeError("\udc80"))), trace, HURRIED)
    with pytest.raises(ModelCallError, match=r"RuntimeError: \?"):
        await model.generate(PROMPT, TAG)


def scorer(*scores: float) -> ScriptedScorer:
    return ScriptedScorer([], score=lambda messages, options: scores)


async def test_at_temperature_zero_the_likeliest_is_chosen_and_ties_go_to_the_earlier(trace: Trace) -> None:
    model = RoleModel("m", scorer(-3.0, -1.0, -1.0), trace, HURRIED)
    choice = await model.choose(PROMPT, ["a", "b", "c"], TAG, rng=random.Random(0))
    assert choice.index == 1
    total = math.exp(-3) + 2 * math.exp(-1)
    assert choice.probabilities == pytest.approx((math.exp(-3) / total, math.exp(-1) / total, math.exp(-1) / total))


async def test_above_zero_options_are_drawn_with_the_probabilities_that_are_told(trace: Trace) -> None:
    model = RoleModel("m", scorer(math.log(0.8), math.log(0.2)), trace, HURRIED)
    rng = random.Random(0)
    drawn = [(await model.choose(PROMPT, ["a", "b"], TAG, rng=rng, temperature=1.0)).index for _ in range(400)]
    assert sum(drawn) / 400 == pytest.approx(0.2, abs=0.05)


async def test_calibration_subtracts_what_an_option_scores_without_the_situation(trace: Trace) -> None:
    def score(messages: Sequence[BaseMessage], options: Sequence[str]) -> list[float]:
        return [-1.0, -2.0] if "Rust" in messages[-1].text else [-0.5, -4.0]

    model = RoleModel("m", ScriptedScorer([], score=score), trace, HURRIED)
    neutral = (Message("user", "history", "What do you do?"),)
    choice = await model.choose(PROMPT, ["a", "b"], TAG, rng=random.Random(0), neutral=neutral)
    assert choice.index == 1


@pytest.mark.parametrize("scores", [[], [0.0], [0.0, float("nan")], [float("-inf")] * 2])
async def test_scores_that_are_no_numbers_are_a_failed_call(trace: Trace, scores: list[float]) -> None:
    model = RoleModel("m", scorer(*scores), trace, HURRIED)
    with pytest.raises(ModelCallError, match="expected one number each"):
        await model.choose(PROMPT, ["a", "b"], TAG, rng=random.Random(0))


async def test_a_model_that_cannot_score_says_so(trace: Trace) -> None:
    model = RoleModel("m", ScriptedChatModel([]), trace, HURRIED)
    assert not model.can_choose
    with pytest.raises(TypeError, match="cannot score options"):
        await model.choose(PROMPT, ["a"], TAG, rng=random.Random(0))
