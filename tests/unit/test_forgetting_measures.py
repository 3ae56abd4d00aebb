"""What training may cost: success by greedy play, perplexity of prose, and their paired changes."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import BaseMessage
from tiny_llama import write_adapter, write_base

from evolvent.agents.context import Context, Objective
from evolvent.agents.evaluation.forgetting import Ability, forgetting, kept, perplexity, prose, success
from evolvent.agents.models.local import LocalChatModel
from evolvent.agents.models.role import Limits, RoleModel
from evolvent.agents.models.scripted import ScriptedChatModel, ScriptedScorer
from evolvent.agents.rollout import Rollouts
from evolvent.agents.trace import Trace
from evolvent.environments.labelled import Labelled
from evolvent.environments.protocol import EnvironmentSpec
from evolvent.environments.word_questions import QUESTIONS
from evolvent.memory.embedding import HashEmbedder
from evolvent.memory.store import Memory
from evolvent.memory.types import Interval

PLAIN = EnvironmentSpec("labelled", {"task": "plain"})
SPELLING = EnvironmentSpec("labelled", {"task": "instructions-1"})


@pytest.fixture
def context(tmp_path: Path) -> Iterator[Context]:
    with Memory.open(tmp_path, embedder=HashEmbedder()) as memory:
        trace = Trace(tmp_path / "trace.jsonl")
        rollouts = Rollouts(memory, trace)
        yield Context(0, Objective("", PLAIN, 1, 1, 1), {}, memory, rollouts, trace, tmp_path)
        rollouts.close()
        trace.close()


def role(context: Context, model: BaseChatModel) -> RoleModel:
    return RoleModel("m", model, context.trace, Limits(attempts=1))


def knowing(*asked: str) -> ScriptedScorer:
    """Answers questions that hold one of these words rightly, and all others wrongly."""

    def score(messages: Sequence[BaseMessage], options: Sequence[str]) -> list[float]:
        prompt = str(messages[-1].text)
        (question,) = [each for each in QUESTIONS if each.text in prompt]
        knows = any(word in prompt for word in asked)
        return [float((option == question.answer) == knows) for option in options]

    return ScriptedScorer([], score=score)


# -- success -------------------------------------------------------------------------------------------------------


async def test_success_is_the_share_of_tasks_that_greedy_play_solves(context: Context) -> None:
    measured = await success(context, role(context, knowing("opposite")), PLAIN, n=40, arm="before")
    asked = {task.id: task.prompt for task in Labelled(task="plain").tasks("test", 40, 0)}
    assert measured.items == {name: float("opposite" in prompt) for name, prompt in asked.items()}
    assert 0 < sum(measured.items.values()) < 40


async def test_free_text_is_played_too_and_nothing_is_recalled(context: Context) -> None:
    model = ScriptedChatModel(lambda messages: "no idea")
    measured = await success(context, role(context, model), SPELLING, n=5, arm="before")
    assert list(measured.items.values()) == [0.0] * 5
    assert all("lesson" not in str(request).lower() for request in model.requests)
    assert {type(message).__name__ for request in model.requests for message in request} == {
        "SystemMessage",
        "HumanMessage",
    }


async def test_each_arm_plays_for_itself_and_none_plays_twice(context: Context) -> None:
    good, bad = knowing("What"), knowing()
    before = await success(context, role(context, good), PLAIN, n=10, arm="before")
    after = await success(context, role(context, bad), PLAIN, n=10, arm="after")
    again = await success(context, role(context, bad), PLAIN, n=10, arm="before")
    assert set(before.items.values()) == {1.0}
    assert set(after.items.values()) == {0.0}
    assert again == before
    assert len(bad.requests) == 10


async def test_two_environments_of_one_name_are_told_apart(context: Context) -> None:
    blank = ScriptedScorer([], score=lambda messages, options: [0.0] * len(options))
    hands = [EnvironmentSpec("labelled", {"task": "intents-1", "world": world}) for world in (0, 1)]
    one, other = [await success(context, role(context, blank), hand, n=5, arm="before") for hand in hands]
    assert not one.items.keys() & other.items.keys()


async def test_an_episode_that_the_model_failed_is_no_evidence(context: Context) -> None:
    def score(messages: Sequence[BaseMessage], options: Sequence[str]) -> list[float]:
        if "capital" in str(messages[-1].text):
            raise ValueError("out of memory")
        return [1.0] * len(options)

    model = ScriptedScorer([], score=score)
    measured = await success(context, role(context, model), PLAIN, n=40, arm="before")
    capitals = [task.id for task in Labelled(task="plain").tasks("test", 40, 0) if "capital" in task.prompt]
    assert capitals
    assert len(measured.items) == 40 - len(capitals)
    assert not measured.items.keys() & set(capitals)


# -- perplexity ----------------------------------------------------------------------------------------------------


async def test_perplexity_is_the_mean_surprise_of_a_token_in_nats() -> None:
    model = ScriptedScorer([], score=lambda messages, texts: [-2.5 for _ in texts])
    measured = await perplexity(model, ["One text.", "Another text."])
    assert list(measured.items.values()) == [2.5, 2.5]
    assert measured.better == "lower"


async def test_an_adapter_changes_the_perplexity_of_a_real_model(tmp_path: Path) -> None:
    base = LocalChatModel(path=write_base(tmp_path / "base"))
    tuned = base.with_adapter(write_adapter(base.path, tmp_path / "adapter"))
    texts = [text[:80] for text in prose(10)]
    before, after = await perplexity(base, texts), await perplexity(tuned, texts)
    assert before.items.keys() == after.items.keys()
    assert len(before.items) == 10
    assert all(before.items[name] != after.items[name] for name in before.items)
    # Random weights over 258 tokens expect none of them much more than another.
    assert math.log(258) - 1 < sum(before.items.values()) / 10 < math.log(258) + 8
    assert await perplexity(base, texts[3:4]) == Ability(
        {name: pytest.approx(before.items[name], abs=1e-3) for name in [_digest(texts[3])]}, "lower"
    )


def test_prose_is_plain_and_the_same_every_time() -> None:
    texts = prose()
    assert texts == prose(200)[:100]
    assert len(set(texts)) == 100
    for text in texts:
        assert 40 <= len(text.split()) <= 120
        assert not set(text) & set("*`<>{}[]|\\\n=")
        assert text[0].isupper()


def test_more_prose_than_there_is_is_refused() -> None:
    with pytest.raises(ValueError, match=r"has \d+ paragraphs of plain prose, not 100000"):
        prose(100_000)


# -- change --------------------------------------------------------------------------------------------------------


def test_below_zero_is_forgotten_whichever_way_an_ability_is_counted() -> None:
    before = {
        "plain": Ability({"a": 1.0, "b": 1.0, "c": 0.0, "d": 1.0}),
        "prose": Ability({"x": 2.0, "y": 3.0}, "lower"),
    }
    after = {
        "plain": Ability({"a": 1.0, "b": 0.0, "c": 0.0, "d": 0.0}),
        "prose": Ability({"x": 2.5, "y": 3.25}, "lower"),
    }
    changes = forgetting(before, after)
    assert changes["plain"].mean == pytest.approx(-0.5)
    assert changes["prose"].mean == pytest.approx(-0.375)
    assert changes["plain"].low < -0.5 < changes["plain"].high
    assert list(changes) == ["plain", "prose"]


def test_only_items_measured_both_times_count() -> None:
    before, after = Ability({"a": 1.0, "b": 0.0, "lost": 1.0}), Ability({"a": 0.0, "b": 0.0, "new": 1.0})
    change = forgetting({"plain": before}, {"plain": after})["plain"]
    assert change.n == 2
    assert change.mean == -0.5


def test_abilities_that_differ_are_not_compared() -> None:
    one = Ability({"a": 1.0})
    with pytest.raises(ValueError, match=r"Before: plain. After: prose. Measure the same"):
        forgetting({"plain": one}, {"prose": one})
    with pytest.raises(ValueError, match="Measure the same"):
        forgetting({"plain": one}, {"plain": Ability({"a": 1.0}, "lower")})


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (Interval(0.0, -0.04, 0.04, 500), True),
        (Interval(0.1, -0.06, 0.26, 20), False),
        (Interval(-0.2, -0.3, -0.1, 500), False),
        (Interval(0.0, 0.0, 0.0, 0), False),
        (Interval(0.0, 0.0, 0.0, 1), False),
    ],
)
def test_what_was_not_shown_to_be_kept_is_not_kept(change: Interval, expected: bool) -> None:
    assert kept(change) is expected


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]
