"""RFT's signature, line by line, through a run with two samplers of five solutions of each question.

Of the first two questions a sampler says the gold path twice in other words, another order of the same equations, a
right answer over a false equation, and a wrong answer; of the last one nothing right.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import BaseMessage
from pupil import Pupil
from systems.problems import (
    WRONG,
    adapters,
    generation_of,
    last_question,
    problems,
    rows,
    task_of,
    trained_from,
    weights,
)
from systems.runs import calls, generations, play, prompt, visited
from tiny_llama import write_base

from evolvent.agents.run import RunConfig, result
from evolvent.environments.derivation import equations, equations_hold
from evolvent.environments.types import Task
from evolvent.memory.weights.adapters import Adapters
from evolvent.memory.weights.dataset import Example, read_jsonl

ORDERS = "two sizes"
"""A kind of problem whose second derivation holds the equations of the first in another order."""


def config(**settings: Any) -> RunConfig:
    return RunConfig(
        recipe="rft",
        environment="word_problems",
        options={"steps": 3},
        tasks=3,
        evaluated=10,
        generations=2,
        settings={"samples": 5, "epochs": 8, "batch_size": 4, "learning_rate": 1e-2, **settings},
        embedder="hash",
    )


def said(task: Task, number: int) -> str:
    """The solution that a sampler writes as its n-th."""
    gold, other, *_ = task.data["derivations"]
    answer = f"The answer is {task.data['answer']}."
    return [
        f"First.\n{gold}",
        f"We count.\n{gold}",
        str(other),
        f"In all: <<2+2=5>>\n{answer}",
        WRONG,
    ][number]


def student(base: str, run: Path, asked: RunConfig) -> Pupil:
    """Solves a held-out problem in five for every three rows it was trained on."""
    training, held_out = problems(asked), problems(asked, "test")
    seen: Counter[tuple[str, str]] = Counter()

    def script(messages: Sequence[BaseMessage], adapter: str, seed: int, temperature: float) -> str:
        task = last_question(messages, [*training, *held_out])
        if task in held_out:
            trained = len(rows(run, Adapters(run).get(adapter))) if adapter else 0
            return str(task.data["derivations"][0]) if held_out.index(task) < trained else WRONG
        seen[adapter, task.id] += 1
        return WRONG if task == training[-1] else said(task, (seen[adapter, task.id] - 1) % 5)

    return Pupil(path=base, script=script)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, base: str) -> Path:
    directory = tmp_path_factory.mktemp("rft") / "run"
    return play(directory, config(), {"actor": student(base, directory, config())})


def pool(run: Path, generation: int) -> tuple[Example, ...]:
    """What that generation trained on. Two pools of the same texts make one adapter, so it is not asked."""
    return read_jsonl(run / "datasets" / generations(run)[generation]["dataset"]).examples


def texts(run: Path, generation: int, task: Task) -> list[str]:
    """Of one question's rows in that generation's pool, the gold solution left out."""
    found = [row.completion for row in pool(run, generation) if task_of(row) == task.id]
    return [text for text in found if text != task.data["derivations"][0]]


@pytest.mark.signature("rft", 0)
def test_the_same_equations_in_other_words_are_one_row_and_in_another_order_two(run: Path) -> None:
    for task in problems(config())[:2]:
        kept = texts(run, 1, task)
        assert kept == [said(task, 0), said(task, 2)]
        one, other = map(equations, kept)
        assert one != other
    sizes = next(task for task in problems(config()) if task.tags == (ORDERS,))
    one, other, *_ = (Counter(map(str, equations(text))) for text in sizes.data["derivations"])
    assert len(one & other) == 2, "the products are the same, and stand in another order"


@pytest.mark.signature("rft", 1)
def test_a_right_answer_over_a_false_equation_is_rejected(run: Path) -> None:
    for task in problems(config())[:2]:
        lucky = said(task, 3)
        assert [row for row in calls(run, phase="train", generation=1, task=task.id) if row["reply"] == lucky]
        assert lucky not in texts(run, 2, task)
    assert all(equations_hold(row.completion) for generation in (1, 2) for row in pool(run, generation))


@pytest.mark.signature("rft", 2)
def test_every_gold_solution_is_trained_on_exactly_once_also_where_the_sampler_never_succeeded(run: Path) -> None:
    *_, unsolved = training = problems(config())
    for generation in (1, 2):
        said = Counter(row.completion for row in pool(run, generation))
        assert [said[task.data["derivations"][0]] for task in training] == [1, 1, 1]
    assert texts(run, 2, unsolved) == []


@pytest.mark.signature("rft", 3)
def test_the_base_is_trained_and_not_the_sampler_and_each_question_is_sampled_k_times(
    run: Path, base: str, tmp_path: Path
) -> None:
    samplers, made = adapters(run, "sft"), adapters(run, "rft")
    for generation, sampler in enumerate(samplers, start=1):
        sampled = calls(run, phase="train", generation=generation)
        assert Counter(row["task"] for row in sampled) == {task.id: 5 for task in problems(config())}
        assert {row["model"].partition("+")[2] for row in sampled} == {sampler.full_name}
    assert {each.card.parents for each in (*samplers, *made)} == {()}
    assert trained_from(base, run, made[0], tmp_path / "again") == weights(made[0])


@pytest.mark.signature("rft", 4)
def test_two_samplers_on_one_path_leave_one_row_that_names_the_first(tmp_path: Path, base: str) -> None:
    single = config(samples=1, epochs=2).model_copy(update={"evaluated": 2})
    run = play(tmp_path / "run", single, {"actor": student(base, tmp_path / "run", single)})
    first, second = adapters(run, "sft")
    assert weights(first) != weights(second), "samplers of two seeds"
    assert {row["model"] for row in calls(run, phase="train")} == {
        f"smollm2+{each.full_name}" for each in adapters(run, "sft")
    }
    for task in problems(single)[:2]:
        pooled = [row for row in pool(run, 2) if row.completion == said(task, 0)]
        assert [generation_of(row) for row in pooled] == [{1}]
        assert texts(run, 2, task) == [said(task, 0)]


def test_one_round_is_above_supervised_training_on_the_gold_solutions(run: Path) -> None:
    for row in generations(run)[1:]:
        supervised = sum(score for (score,) in row["sft_scores"].values())
        assert supervised == 3
        assert sum(score for (score,) in row["scores"].values()) == row["rows"] == 7


def test_without_dedup_every_right_solution_is_a_row(tmp_path: Path, base: str) -> None:
    every = config(distinct=False, epochs=2).model_copy(update={"generations": 1, "evaluated": 2})
    run = play(tmp_path / "run", every, {"actor": student(base, tmp_path / "run", every)})
    for task in problems(every)[:2]:
        assert texts(run, 1, task) == [said(task, 0), said(task, 1), said(task, 2)]


def test_every_generation_goes_through_each_phase_in_turn_and_shows_no_solution_in_a_prompt(run: Path) -> None:
    once = ["tasks", "clone", "sample", "feedback", "refine", "update", "evaluate"]
    assert visited(run) == ["baseline", *once * 2]
    gold = [text for task in problems(config()) for text in task.data["derivations"]]
    assert not any(text in prompt(row) for row in calls(run) for text in gold)
    assert result(run)["finished"]
