"""Self-Debugging's signature, line by line, through whole runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import BaseMessage
from systems.problems import questions
from systems.programmers import (
    CRASH,
    NONSENSE,
    Program,
    asked,
    crashing,
    handed_in,
    overfitted,
    right,
    sandbox_runs,
    simulated,
    wrong,
)
from systems.runs import calls, generations, memory_of, play, prompt, visited

from evolvent.agents.errors import UnknownSettingError
from evolvent.agents.models.scripted import ScriptedChatModel
from evolvent.agents.recipes.self_debug import (
    CONCLUDE,
    DEMO_RIGHT,
    DEMO_TASK,
    DEMO_WRONG,
    EXPLAIN,
    FIX,
    PRESETS,
    TRACE,
    says_wrong,
)
from evolvent.agents.refinement.repair import fenced
from evolvent.agents.run import RunConfig, result
from evolvent.environments.code import visible_tests


def config(tasks: int = 2, generations: int = 1, **settings: Any) -> RunConfig:
    return RunConfig(
        recipe="self-debug",
        environment="code",
        tasks=tasks,
        generations=generations,
        settings={"shots": 0} | settings,
        embedder="hash",
    )


def programmer(
    settings: RunConfig,
    *versions: Program,
    conclusions: Sequence[str] = (),
    account: str = "It says nothing.",
    before: Callable[[], object] = bool,
) -> ScriptedChatModel:
    """Who writes these versions of every program, and the last one again; fails on what the recipe does not ask.

    Args:
        before: is called before each reply.
    """
    tasks = questions(settings)

    def reply(messages: Sequence[BaseMessage]) -> str:
        before()
        ending, task = str(messages[-1].text), asked(messages, tasks)
        # What stands before the task is the demonstration.
        begin = next(place for place, message in enumerate(messages) if task.prompt in str(message.text))
        turns = [str(message.text) for message in messages[begin + 1 :]]
        if ending.endswith((EXPLAIN, TRACE)):
            return account
        if ending.endswith(CONCLUDE):
            return conclusions[sum(turn.endswith(CONCLUDE) for turn in turns) - 1]
        assert ending.endswith(FIX) or not turns, ending
        return fenced(versions[min(sum(turn.startswith("```") for turn in turns), len(versions) - 1)](task))

    return ScriptedChatModel(reply)


def purposes(run: Path, task: str) -> list[str]:
    return [row["purpose"] for row in calls(run, task=task)]


@pytest.mark.signature("self-debug", 0)
@pytest.mark.parametrize(("bug", "seen"), [(wrong, repr(NONSENSE)), (crashing, CRASH)])
def test_the_repair_prompt_tells_the_failing_test_and_what_came_of_it_unless_feedback_is_simple(
    tmp_path: Path, bug: Program, seen: str
) -> None:
    asking = config(feedback="tests")
    with_tests = play(tmp_path / "tests", asking, {"actor": programmer(asking, bug, right)})
    asking = config(feedback="simple")
    simple = play(tmp_path / "simple", asking, {"actor": programmer(asking, bug, right)})
    for task in questions(asking):
        (told,), (only_wrong,) = (calls(run, purpose="repair", task=task.id) for run in (with_tests, simple))
        assert visible_tests(task)[0] in told["messages"][-1]["content"]
        assert seen in told["messages"][-1]["content"]
        beside = prompt(only_wrong).replace(task.prompt, "")  # the task itself may give an example
        assert visible_tests(task)[0] not in beside
        assert seen.partition(":")[0] not in beside.replace(fenced(bug(task)), "")


@pytest.mark.signature("self-debug", 1)
def test_a_program_that_passes_the_shown_tests_is_handed_in_at_once_though_hidden_ones_fail(tmp_path: Path) -> None:
    asking = config(tests_shown=9, feedback="explanation")
    run = play(tmp_path / "run", asking, {"actor": programmer(asking, overfitted)})
    assert [row["purpose"] for row in calls(run)] == ["draft"] * 2
    (row,) = generations(run)
    assert set(row["shown_tests_passed"].values()) == {True}
    assert row["solved"] == 0


@pytest.mark.signature("self-debug", 2)
def test_an_explanation_comes_before_every_repair(tmp_path: Path) -> None:
    asking = config(feedback="explanation")
    run = play(tmp_path / "run", asking, {"actor": programmer(asking, wrong, crashing, right, account="I explain.")})
    for task in questions(asking):
        assert purposes(run, task.id) == ["draft", "account", "repair", "account", "repair"]
        assert [prompt(row).count("I explain.") for row in calls(run, purpose="repair", task=task.id)] == [1, 2]


@pytest.mark.signature("self-debug", 2)
def test_without_tests_the_model_s_own_conclusion_after_its_explanation_ends_the_dialogue(tmp_path: Path) -> None:
    asking = config(feedback="explanation", tests_shown=0, max_turns=5)
    said = ["It adds too much.\nConclusion: wrong", "Conclusion: right"]
    run = play(
        tmp_path / "run", asking, {"actor": programmer(asking, right, wrong, conclusions=said, account="I explain.")}
    )
    for task in questions(asking):
        assert purposes(run, task.id) == ["draft", *["account", "conclusion", "repair"], *["account", "conclusion"]]
        assert all("I explain." in prompt(row) for row in calls(run, purpose="conclusion", task=task.id))
        assert handed_in(run)[task.id] == wrong(task).strip(), "the conclusion was wrong, and was believed"


@pytest.mark.signature("self-debug", 3)
def test_a_trace_is_simulated_by_the_model_and_only_tests_are_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asking = config(feedback="trace", max_turns=1)
    with sandbox_runs(monkeypatch) as runs:
        run = play(tmp_path / "run", asking, {"actor": programmer(asking, wrong, right, account="x becomes 5.")})
    for task in questions(asking):
        (traced,), (repaired,) = (calls(run, purpose=purpose, task=task.id) for purpose in ("account", "repair"))
        assert traced["messages"][-1]["content"].endswith(TRACE)
        assert "x becomes 5." in prompt(repaired)
        assert runs.count(visible_tests(task)[:1]) == 2


@pytest.mark.signature("self-debug", 4)
def test_after_the_last_turn_the_last_program_is_judged_and_no_hidden_test_runs_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asking = config(max_turns=2)
    shown = {visible_tests(task)[:1] for task in questions(asking)}
    hidden: list[bool] = []
    with sandbox_runs(monkeypatch) as runs:
        actor = programmer(asking, wrong, crashing, before=lambda: hidden.append(not set(runs) <= shown))
        run = play(tmp_path / "run", asking, {"actor": actor})
    assert hidden == [False] * 6, "as each of two tasks' first programs and two repairs were asked for"
    assert not set(runs) <= shown, "and then they run"
    assert handed_in(run) == {task.id: crashing(task).strip() for task in questions(asking)}
    assert [row["purpose"] for row in calls(run)].count("repair") == 4


@pytest.mark.signature("self-debug", 5)
@pytest.mark.parametrize("feedback", ["simple", "tests", "explanation", "trace"])
def test_a_whole_repair_is_demonstrated_and_nothing_but_the_actor_and_its_dialogue_helps(
    tmp_path: Path, feedback: str
) -> None:
    asking = config(feedback=feedback, max_turns=1)
    run = play(tmp_path / "run", asking, {"actor": programmer(asking, wrong, right)})
    one, other = questions(asking)
    for row in calls(run):
        assert row["role"] == "actor"
        assert (other if row["task"] == one.id else one).prompt not in prompt(row)
    for row in calls(run, purpose="repair"):
        text = prompt(row)
        places = [text.index(part) for part in (DEMO_TASK, DEMO_WRONG, FIX, DEMO_RIGHT)]
        assert places == sorted(places)
    with memory_of(run) as memory:
        assert not memory.records()
        assert not memory.ledger.commits()


def test_each_phase_is_a_node_and_the_loop_is_the_graph_s(tmp_path: Path) -> None:
    asking = config(feedback="explanation")
    run = play(tmp_path / "run", asking, {"actor": programmer(asking, wrong, right)})
    turn = ["execute", "explain", "repair"]
    assert visited(run) == ["tasks", "draft", *turn, *turn, "submit", "evaluate"]


def test_a_reply_without_the_function_leaves_the_program_as_it_was(tmp_path: Path) -> None:
    asking = config(max_turns=1)
    run = play(tmp_path / "run", asking, {"actor": programmer(asking, crashing, lambda task: "I do not know.")})
    assert handed_in(run) == {task.id: crashing(task).strip() for task in questions(asking)}


def test_without_tests_and_without_explanations_nobody_could_judge() -> None:
    with pytest.raises(UnknownSettingError, match="feedback=explanation"):
        config(tests_shown=0).recipe_config()


@pytest.mark.parametrize(
    ("conclusion", "wrong_"),
    [
        ("Conclusion: wrong", True),
        ("Conclusion: right? No.\n**Conclusion:** the program is wrong.", True),
        ("conclusion - incorrect", True),
        ("Conclusion: correct", False),
        ("It is wrong.", False),
        ("", False),
    ],
)
def test_a_conclusion_is_read_by_its_last_word(conclusion: str, wrong_: bool) -> None:
    assert says_wrong(conclusion) is wrong_


def test_the_paper_takes_ten_turns() -> None:
    assert PRESETS["paper"].max_turns == 10


@pytest.fixture(scope="module")
def arms(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """The card's comparison at forty functions: a third of the first programs right, and repairs the likelier to be
    right the more they are told."""
    skills = {"simple": 0.1, "tests": 0.4, "explanation": 0.5}
    found = {}
    for feedback, repairs in skills.items():
        asking = config(tasks=40, feedback=feedback)

        def chance(text: str, repairs: float = repairs) -> float | None:
            if text.endswith(EXPLAIN):
                return None
            return repairs if text.endswith(FIX) else 1 / 3

        actor = simulated(questions(asking), chance, bugs=(wrong, crashing, overfitted))
        run = play(tmp_path_factory.mktemp("arms") / feedback, asking, {"actor": actor})
        found[feedback] = {**result(run), "rows": generations(run)}
    return found


def test_the_failing_test_helps_and_simple_feedback_never_more(arms: dict[str, dict[str, Any]]) -> None:
    reached = {feedback: told["generations"][-1]["held_out"]["success"] for feedback, told in arms.items()}
    assert arms["tests"]["verdict"] == "improved"
    assert reached["tests"] > arms["tests"]["frozen"]["success"] + 0.1
    assert reached["simple"] <= reached["tests"]


def test_programs_that_learn_their_test_by_heart_show_in_the_row(arms: dict[str, dict[str, Any]]) -> None:
    (row,) = arms["tests"]["rows"]
    shown = sum(row["shown_tests_passed"].values()) / 40
    assert shown > row["solved"], "overfitting to the shown test"
