"""ReST-EM's signature, line by line, through a run of two iterations over four problems.

The pupil always solves the first two, each time in other words, solves the third once an iteration, and never the last.
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
from systems.runs import calls, generations, memory_of, play, prompt, visited
from tiny_llama import write_base

from evolvent.agents.models.scripted import ScriptedChatModel
from evolvent.agents.recipes import rest_em
from evolvent.agents.run import RunConfig, result
from evolvent.environments.types import Task
from evolvent.memory.weights.sft import as_item
from evolvent.memory.weights.training import Encoder

SETTINGS = {"shots": 2, "samples": 32, "cap": 10, "epochs": 2, "batch_size": 4, "learning_rate": 1e-2}
CONFIG = RunConfig(
    recipe="rest-em",
    environment="word_problems",
    tasks=4,
    evaluated=4,
    generations=2,
    settings=SETTINGS,
    embedder="hash",
)


def solver(base: str) -> Pupil:
    training = problems(CONFIG)
    every = [*training, *problems(CONFIG, "test")]
    solved: Counter[tuple[str, str]] = Counter()

    def script(messages: Sequence[BaseMessage], adapter: str, seed: int, temperature: float) -> str:
        task = last_question(messages, every)
        asked = training.index(task) if task in training else 0
        solved[adapter, task.id] += 1
        if asked == 3 or (asked == 2 and solved[adapter, task.id] > 1):
            return WRONG
        return f"Way {seed % 10**6}.\nThe answer is {task.data['answer']}."

    return Pupil(path=base, script=script)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, base: str) -> Path:
    return play(tmp_path_factory.mktemp("rest_em") / "run", CONFIG, {"actor": solver(base)})


@pytest.fixture(scope="module")
def training() -> list[Task]:
    return problems(CONFIG)


@pytest.mark.signature("rest-em", 0)
def test_every_iteration_trains_the_base_and_not_what_the_one_before_had_made(
    run: Path, base: str, tmp_path: Path
) -> None:
    first, second = adapters(run, "rest-em")
    assert first.card.parents == second.card.parents == ()
    assert weights(first) != weights(second)
    assert trained_from(base, run, second, tmp_path / "again") == weights(second)


@pytest.mark.signature("rest-em", 1)
def test_an_iteration_samples_from_the_model_that_the_one_before_made(run: Path) -> None:
    first, _ = adapters(run, "rest-em")
    for generation, sampler in ((1, ""), (2, first.full_name)):
        sampled = calls(run, phase="train", generation=generation)
        assert len(sampled) == 4 * 32
        assert {row["model"].partition("+")[2] for row in sampled} == {sampler}


@pytest.mark.signature("rest-em", 2)
def test_only_right_solutions_are_trained_on_and_at_most_ten_of_one_problem(run: Path, training: list[Task]) -> None:
    with memory_of(run) as memory:
        for adapter in adapters(run, "rest-em"):
            trained = rows(run, adapter)
            assert Counter(map(task_of, trained)) == {training[0].id: 10, training[1].id: 10, training[2].id: 1}
            for row in trained:
                sources = [memory.ledger.trajectory(origin.trajectory) for origin in row.origins]
                assert all(source is not None and source.outcome.success for source in sources)
    for row in generations(run)[1:]:
        assert row["solves"] == dict(zip([task.id for task in training], (32, 32, 1, 0), strict=True))


@pytest.mark.signature("rest-em", 3)
def test_an_unsolved_problem_gives_no_row_and_no_other_prompt_and_no_solution_of_people_is_a_target(
    run: Path, training: list[Task]
) -> None:
    *_, unsolved = training
    for generation, adapter in enumerate(adapters(run, "rest-em"), start=1):
        asked = calls(run, phase="train", generation=generation, task=unsolved.id)
        assert len(asked) == 32
        (said,) = {prompt(row) for row in asked}
        assert said.endswith(f"{unsolved.prompt}\nAnswer:")
        assert not any(text in said for text in unsolved.data["derivations"])
        trained = rows(run, adapter)
        assert unsolved.id not in map(task_of, trained)
        gold = {text for task in problems(CONFIG, more=2) for text in task.data["derivations"]}
        assert not gold & {row.completion for row in trained}


@pytest.mark.signature("rest-em", 4)
def test_the_rows_of_an_iteration_are_its_own_samples(run: Path) -> None:
    for generation, adapter in enumerate(adapters(run, "rest-em"), start=1):
        for row in rows(run, adapter):
            assert generation_of(row) == {generation}


@pytest.mark.signature("rest-em", 5)
def test_examples_and_question_are_in_the_training_input_and_only_the_solution_is_in_the_loss(
    run: Path, base: str
) -> None:
    examples = problems(CONFIG, more=2)[4:]
    encoder = Encoder(base)
    for row in adapters(run, "rest-em")[1:]:
        for example in rows(run, row):
            encoded = encoder.encode(example.messages, [{"role": "assistant", "content": example.completion}])
            item = as_item(encoded, example.weight)
            before = encoder.tokenizer.decode([i for i, w in zip(item["ids"], item["weights"], strict=True) if not w])
            inside = encoder.tokenizer.decode([i for i, w in zip(item["ids"], item["weights"], strict=True) if w])
            for shown in examples:
                assert f"{shown.prompt}\nAnswer:\n{shown.data['derivations'][0]}" in before
            assert before.endswith("<|im_start|>assistant\n")
            assert inside == f"{example.completion}<|im_end|>"


def test_a_problem_is_asked_in_evaluation_as_it_is_in_training(run: Path, training: list[Task]) -> None:
    def lead(row: dict[str, Any], task: Task) -> str:
        return prompt(row).removesuffix(f"{task.prompt}\nAnswer:")

    held_out = problems(CONFIG, "test")
    leads = {lead(row, task) for task in training for row in calls(run, phase="train", task=task.id)}
    leads |= {lead(row, task) for task in held_out for row in calls(run, phase="eval", task=task.id)}
    assert len(leads) == 1


def test_every_iteration_goes_through_each_phase_in_turn(run: Path) -> None:
    assert visited(run) == ["baseline", *["tasks", "sample", "feedback", "refine", "update", "evaluate"] * 2]


def test_what_is_said_twice_is_one_row_that_weighs_two(tmp_path: Path, base: str) -> None:
    twice = CONFIG.model_copy(
        update={"tasks": 2, "evaluated": 2, "generations": 1, "settings": {**SETTINGS, "samples": 2}}
    )
    every = problems(twice)
    solver = Pupil(path=base, script=lambda messages, *_: str(last_question(messages, every).data["derivations"][0]))
    (adapter,) = adapters(play(tmp_path / "run", twice, {"actor": solver}), "rest-em")
    assert [row.weight for row in rows(tmp_path / "run", adapter)] == [2.0, 2.0]


@pytest.mark.parametrize("environment", rest_em.ENVIRONMENTS)
def test_where_nothing_is_solved_nothing_is_trained_and_the_run_ends_with_a_report(
    tmp_path: Path, environment: str
) -> None:
    hopeless = CONFIG.model_copy(
        update={"environment": environment, "tasks": 2, "evaluated": 2, "settings": {"samples": 1}}
    )
    run = play(tmp_path / "run", hopeless, {"actor": ScriptedChatModel(lambda messages: "The answer is 12345.")})
    report = result(run)
    assert report["finished"]
    assert [row["model"]["adapter"] for row in report["generations"]] == ["", "", ""]
    assert not adapters(run, "rest-em")
