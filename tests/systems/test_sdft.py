"""SDFT's signature, line by line, through a stream of two kinds of word problems.

Of the five references of a task the scripted model says two in words of its own, which its real weights find likelier
than the reference; of the others it gets the answer wrong, speaks of the reference, and says nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from string import ascii_lowercase
from typing import Any

import pytest
from langchain_core.messages import BaseMessage, HumanMessage
from systems.problems import adapters, rows
from systems.runs import calls, generations, play, prompt, visited
from systems.streams import Chooser, nats
from tiny_llama import write_base

from evolvent.agents.models.local import LocalChatModel
from evolvent.agents.run import RunConfig, result
from evolvent.agents.solutions.rewrite import speaks_of_rewriting
from evolvent.environments.derivation import answer_of
from evolvent.environments.types import Task
from evolvent.environments.word_problems import WordProblems
from evolvent.memory.weights.dataset import Example

STAGES, TASKS = 2, 5
QUESTION = "What is it?"
REQUEST = "Somebody solved the task above"


def config(**settings: Any) -> RunConfig:
    return RunConfig(
        recipe="sdft",
        environment="word_problems",
        tasks=TASKS,
        evaluated=4,
        generations=STAGES,
        settings={"epochs": 8, "batch_size": 4, "learning_rate": 1e-2, "plain": 3, "own": 3, "targets": (), **settings},
        embedder="hash",
    )


def tasks_of(generation: int) -> list[Task]:
    """Training tasks of that generation."""
    return WordProblems(steps=generation).tasks("train", TASKS, generation)


def gold(task: Task) -> str:
    return str(task.data["derivations"][0])


@cache
def own_words(base: str) -> str:
    """What the weights themselves would say to `QUESTION`, letter by letter."""
    said = ""
    for _ in range(20):
        longer = [said + letter for letter in ascii_lowercase]
        scores = asyncio.run(LocalChatModel(path=base).logprobs([HumanMessage(QUESTION)], longer)).logprobs
        said = max(zip(map(sum, scores), longer, strict=True))[1]
    return said


def rewrites(base: str, task: Task) -> list[str]:
    """What it makes of the five references of a task."""
    right = f"The answer is {task.data['answer']}."
    return [
        f"{own_words(base)}\n{right}",
        f"We say:\n{own_words(base)}\n{right}",
        f"{gold(task)}\nThe answer is {task.data['answer'] + 1}.",
        f"As in the reference answer:\n{gold(task)}",
        "",
    ]


def student(base: str, run: Path, trained: list[bool]) -> Chooser:
    """
    Args:
        trained: gets, for each rewrite, whether anything was trained before it was asked for.
    """
    own = own_words(base)
    problems = [(place, task) for number in range(1, STAGES + 1) for place, task in enumerate(tasks_of(number))]

    def script(messages: Sequence[BaseMessage], adapter: str, seed: int, temperature: float) -> str:
        asked = str(messages[-1].text)
        if REQUEST in asked:
            trained.append((run / "training").exists() or bool(adapter))
            place, task = next((place, task) for place, task in problems if task.prompt in asked)
            return rewrites(base, task)[place]
        if len(messages) == 1:
            return own if asked == QUESTION else QUESTION
        return "The answer is 0."

    return Chooser(path=base, script=script)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def before_training() -> list[bool]:
    return []


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, base: str, before_training: list[bool]) -> Path:
    directory = tmp_path_factory.mktemp("sdft") / "run"
    return play(directory, config(), {"actor": student(base, directory, before_training)})


def data(run: Path, generation: int) -> tuple[Example, ...]:
    return rows(run, adapters(run, "sdft")[generation - 1])


def target(run: Path, generation: int, task: Task) -> str:
    """What is trained on for a task."""
    (row,) = [row for row in data(run, generation) if row.task == f"word_problems/{task.id}"]
    return row.completion


@pytest.mark.signature("sdft", 0)
def test_the_reference_is_shown_when_it_is_rewritten_and_never_in_a_prompt_that_is_trained_on(run: Path) -> None:
    for generation in range(1, STAGES + 1):
        for task in tasks_of(generation):
            (asked,) = calls(run, purpose="rewrite", task=task.id)
            assert task.prompt in prompt(asked)
            assert gold(task) in prompt(asked)
        for row in data(run, generation):
            task = next(each for each in tasks_of(generation) if row.task.endswith(each.id))
            told = "\n".join(message["content"] for message in row.messages)
            assert task.prompt in told
            assert gold(task) not in told
            assert REQUEST not in told


@pytest.mark.signature("sdft", 1)
def test_every_task_has_one_target_in_the_order_of_the_references(run: Path, plain: Path) -> None:
    for generation in range(1, STAGES + 1):
        assert [row.task for row in data(run, generation)] == [row.task for row in data(plain, generation)]
        assert len(data(run, generation)) == TASKS
        for place, task in enumerate(tasks_of(generation)):
            (asked,) = calls(run, purpose="rewrite", task=task.id)
            assert target(run, generation, task) == (asked["reply"] if place < 2 else gold(task))
            assert target(plain, generation, task) == gold(task)


@pytest.mark.signature("sdft", 2)
def test_a_rewrite_with_another_answer_gives_way_to_the_reference_and_other_words_do_not(run: Path, base: str) -> None:
    for generation in range(1, STAGES + 1):
        verdicts = generations(run)[generation]["targets"]
        first, _, third, *_ = tasks_of(generation)
        assert (verdicts[first.id], verdicts[third.id]) == ("rewritten", "wrong")
        assert target(run, generation, first) == rewrites(base, first)[0] != gold(first)
        assert target(run, generation, third) == gold(third)


@pytest.mark.signature("sdft", 3)
def test_a_rewrite_that_speaks_of_the_reference_is_refused_though_its_answer_is_right(run: Path) -> None:
    for generation in range(1, STAGES + 1):
        fourth = tasks_of(generation)[3]
        (asked,) = calls(run, purpose="rewrite", task=fourth.id)
        assert "reference answer" in asked["reply"]
        assert answer_of(asked["reply"]) == fourth.data["answer"]
        assert generations(run)[generation]["targets"][fourth.id] == "meta"
        assert target(run, generation, fourth) == gold(fourth)


@pytest.mark.signature("sdft", 4)
def test_the_seed_weights_rewrite_everything_before_anything_is_trained(run: Path, before_training: list[bool]) -> None:
    assert before_training == [False] * (STAGES * TASKS)
    asked = calls(run, purpose="rewrite")
    assert len(asked) == STAGES * TASKS, "one for each reference, and none was asked for again"
    assert {row["model"] for row in asked} == {"smollm2"}


@pytest.mark.signature("sdft", 5)
def test_the_seed_weights_find_the_targets_likelier_than_the_references(run: Path, plain: Path, base: str) -> None:
    for generation in range(1, STAGES + 1):
        told = generations(run)[generation]["seed_nats"]
        assert told["targets"] < told["references"]
        assert told["targets"] == pytest.approx(nats(base, None, data(run, generation)), abs=1e-3)
        assert told["references"] == pytest.approx(nats(base, None, data(plain, generation)), abs=1e-3)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory, base: str) -> Path:
    """Plain fine-tuning on the same tasks."""
    directory = tmp_path_factory.mktemp("sft") / "run"
    return play(directory, config(rewrites=False), {"actor": student(base, directory, [])})


def test_plain_fine_tuning_forgets_how_the_model_spoke_and_its_own_words_keep_it(run: Path, plain: Path) -> None:
    frozen, *rewritten = (row["retained"]["own_nats"] for row in generations(run))
    same, *referenced = (row["retained"]["own_nats"] for row in generations(plain))
    assert same == frozen
    assert min(referenced) > frozen + 0.5, "it does forget on this stream"
    assert all(own < other for own, other in zip(rewritten, referenced, strict=True))


def test_every_generation_goes_through_each_phase_in_turn_and_tells_what_became_of_each_reference(run: Path) -> None:
    assert visited(run) == ["baseline", "rewrite", *["task", "refine", "update", "evaluate"] * STAGES]
    for row in generations(run)[1:]:
        assert row["verdicts"] == {"rewritten": 2, "wrong": 1, "meta": 1, "empty": 1}
        assert len(row["by_task"]) == STAGES
    assert generations(run)[STAGES]["transfer"]["backward"] is not None
    assert not calls(run, purpose="rewrite", phase="eval")
    assert result(run)["finished"]


@pytest.mark.parametrize("text", ["Your turn now: 12.", "Rewritten:\n12", "The given solution says 12."])
def test_talk_about_the_rewriting_is_recognised(text: str) -> None:
    assert speaks_of_rewriting(text)
    assert not speaks_of_rewriting("In all: <<3*4=12>>\nNow it is Ada's turn. The answer is 12.")
