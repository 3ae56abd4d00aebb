"""STaR's signature, line by line, through a run of four iterations.

The pupil knows one kind of problem. With the answer given away it also explains the kind next to one it knows, and it
knows what it was trained on: so what it learns is decided by the rows that reached its training.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from itertools import pairwise
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
from systems.runs import calls, generations, play, prompt, resume, visited
from tiny_llama import write_base

from evolvent.agents.models.scripted import ScriptedChatModel
from evolvent.agents.recipes import star
from evolvent.agents.run import RunConfig, result
from evolvent.agents.solutions.shots import HINT
from evolvent.environments.types import Task
from evolvent.environments.word_problems import TEMPLATES, WordProblems
from evolvent.memory.weights.adapters import Adapters

KINDS = [template.name for template in TEMPLATES if template.steps == 2]
MARK = HINT.partition("{")[0]


def config(**settings: Any) -> RunConfig:
    return RunConfig(
        recipe="star",
        environment="word_problems",
        tasks=12,
        evaluated=12,
        generations=4,
        settings={"shots": 2, "start_steps": 10, "batch_size": 4, "learning_rate": 1e-2, **settings},
        embedder="hash",
    )


def scholar(base: str, run: Path, asked: RunConfig) -> Pupil:
    every = [*problems(asked, more=2), *problems(asked, "test")]

    def script(messages: Sequence[BaseMessage], adapter: str, seed: int, temperature: float) -> str:
        task = last_question(messages, every)
        known = kinds_of(run, adapter) if adapter else {KINDS[0]}
        near = known | {KINDS[min(KINDS.index(kind) + 1, len(KINDS) - 1)] for kind in known}
        hinted = MARK in str(messages[-1].text).split(task.prompt)[0].rpartition("\n\n")[2]
        return str(task.data["derivations"][0]) if task.tags[0] in (near if hinted else known) else WRONG

    return Pupil(path=base, script=script)


def kinds_of(run: Path, adapter: str) -> set[str]:
    """Which problems it was trained on."""
    kind = {task.id: task.tags[0] for task in problems(config())}
    return {kind[task_of(row)] for row in rows(run, Adapters(run).get(adapter))}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, base: str) -> Path:
    directory = tmp_path_factory.mktemp("star") / "run"
    return play(directory, config(), {"actor": scholar(base, directory, config())})


@pytest.fixture(scope="module")
def training(run: Path) -> dict[str, Task]:
    return {task.id: task for task in problems(config())}


def written(run: Path, generation: int, *, hinted: bool) -> dict[str, dict[str, Any]]:
    """Training calls of an iteration by task, each made once."""
    found = [
        row for row in calls(run, phase="train", generation=generation) if row["episode"].endswith("/hinted") == hinted
    ]
    assert len({row["task"] for row in found}) == len(found)
    return {row["task"]: row for row in found}


def right(row: dict[str, Any], task: Task) -> bool:
    return f"The answer is {task.data['answer']}." in row["reply"]


@pytest.mark.signature("star", 0)
def test_only_what_was_answered_wrong_is_asked_again_and_then_with_the_right_answer(
    run: Path, training: dict[str, Task]
) -> None:
    for generation in (1, 2, 3, 4):
        direct, again = written(run, generation, hinted=False), written(run, generation, hinted=True)
        assert set(direct) == set(training)
        assert set(again) == {task for task, row in direct.items() if not right(row, training[task])}
        for task, row in again.items():
            given = HINT.format(answer=training[task].data["answer"])
            assert prompt(row).endswith(f"{given}\n{training[task].prompt}\nAnswer:")
        assert not any(MARK in prompt(row) for row in direct.values())


@pytest.mark.signature("star", 1)
def test_what_is_trained_on_holds_the_question_as_it_was_with_neither_hint_nor_examples(
    run: Path, training: dict[str, Task]
) -> None:
    hinted = 0
    for adapter in adapters(run, "star"):
        for row in rows(run, adapter):
            hinted += any(origin.trajectory.endswith("/hinted") for origin in row.origins)
            assert MARK not in str(row.messages) + row.completion
            assert [message["content"] for message in row.messages] == [
                WordProblems.instructions,
                f"{training[task_of(row)].prompt}\nAnswer:",
            ]
    assert hinted


@pytest.mark.signature("star", 2)
def test_a_wrong_rationalisation_is_dropped_though_it_was_given_the_answer(
    run: Path, training: dict[str, Task]
) -> None:
    dropped = 0
    for generation, adapter in enumerate(adapters(run, "star"), start=1):
        kept = {task_of(row) for row in rows(run, adapter)}
        for task, row in written(run, generation, hinted=True).items():
            assert HINT.format(answer=training[task].data["answer"]) in prompt(row)
            assert (task in kept) == right(row, training[task])
            dropped += task not in kept
    assert dropped


@pytest.mark.signature("star", 3)
def test_the_original_model_is_trained_and_the_model_before_writes(run: Path, base: str, tmp_path: Path) -> None:
    made = adapters(run, "star")
    writers = [""] + [each.full_name for each in made]
    for generation in (1, 2, 3, 4):
        acting = {row["model"].partition("+")[2] for row in calls(run, phase="train", generation=generation)}
        assert acting == {writers[generation - 1]}
    for adapter in made:
        assert adapter.card.parents == ()
    assert trained_from(base, run, made[1], tmp_path / "again") == weights(made[1])
    assert len({weights(each) for each in made}) == 4


@pytest.mark.signature("star", 4)
def test_every_iteration_trains_on_its_own_rationales_alone_and_longer_than_the_one_before(run: Path) -> None:
    made = adapters(run, "star")
    for generation, adapter in enumerate(made, start=1):
        assert {one for row in rows(run, adapter) for one in generation_of(row)} == {generation}
    assert [each.card.metrics["steps"] for each in made] == [10, 12, 14, 17]
    assert [star.PRESETS["paper"].steps(generation) for generation in (1, 2, 3, 4)] == [40, 48, 57, 69]


@pytest.mark.signature("star", 5)
def test_a_question_gives_the_direct_rationale_else_the_rationalised_one_else_nothing(
    run: Path, training: dict[str, Task]
) -> None:
    for generation, adapter in enumerate(adapters(run, "star"), start=1):
        trained = rows(run, adapter)
        direct, again = written(run, generation, hinted=False), written(run, generation, hinted=True)
        expected = {task: direct[task]["reply"] for task in training if right(direct[task], training[task])}
        expected |= {task: row["reply"] for task, row in again.items() if right(row, training[task])}
        assert len(trained) == len(expected) < len(training)
        assert {task_of(row): row.completion for row in trained} == expected


def test_held_out_success_rises_with_every_iteration_and_stands_still_without_rationalisation(
    run: Path, base: str, tmp_path: Path
) -> None:
    solved = [row["solved"] for row in generations(run)]
    assert all(after > before for before, after in pairwise(solved[1:])), solved
    plain = config(rationalise=0, start_steps=2)
    alone = play(tmp_path / "run", plain, {"actor": scholar(base, tmp_path / "run", plain)})
    assert len({row["solved"] for row in generations(alone)}) == 1
    for ours, theirs in zip(generations(run)[1:], generations(alone)[1:], strict=True):
        assert sum(ours["kept"].values()) > sum(theirs["kept"].values())


def test_examples_stand_before_the_first_training_alone_and_are_none_of_the_questions(
    run: Path, training: dict[str, Task]
) -> None:
    examples = problems(config(), more=2)[12:]
    assert not {each.id for each in examples} & set(training)
    for row in calls(run):
        first = row["generation"] == 0 or (row["generation"] == 1 and row["phase"] == "train")
        assert all((each.data["derivations"][0] in prompt(row)) == first for each in examples)
    hinted = written(run, 1, hinted=True).values()
    for row in hinted:
        assert all(
            f"{HINT.format(answer=each.data['answer'])}\n{each.prompt}\nAnswer:\n" in prompt(row) for each in examples
        )


def test_every_iteration_goes_through_each_phase_in_turn(run: Path) -> None:
    once = ["tasks", "solve", "feedback", "rationalise", "refine", "update", "evaluate"]
    assert visited(run) == ["baseline", *once * 4]


def test_a_finished_run_that_is_resumed_asks_and_trains_nothing_again(run: Path, base: str, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    asked, before = len(calls(copy)), result(copy)
    resume(copy, {"actor": Pupil(path=base, script=nobody)})
    assert (len(calls(copy)), result(copy)) == (asked, before)


def nobody(*_: Any) -> str:
    raise AssertionError("nothing is left to be asked")


def test_where_no_answer_is_right_nothing_is_trained_and_the_run_ends_with_a_report(tmp_path: Path) -> None:
    hopeless = config().model_copy(update={"generations": 2})
    run = play(tmp_path / "run", hopeless, {"actor": ScriptedChatModel(lambda messages: WRONG)})
    report = result(run)
    assert report["finished"]
    assert not adapters(run, "star")
    assert [row["model"]["adapter"] for row in report["generations"]] == ["", "", ""]


def test_with_sound_equations_asked_for_a_lucky_rationale_is_dropped(tmp_path: Path, base: str) -> None:
    lucky: Callable[..., str] = lambda messages, *_: (  # noqa: E731 (a script is a function of one line)
        f"In all: <<1+1=3>>\nThe answer is {last_question(messages, problems(strict)).data['answer']}."
    )
    strict = config(check_equations=True).model_copy(update={"generations": 1, "tasks": 3, "evaluated": 2})
    run = play(tmp_path / "run", strict, {"actor": Pupil(path=base, script=lucky)})
    assert not adapters(run, "star")
    assert generations(run)[1]["kept"]["direct"] == 3
