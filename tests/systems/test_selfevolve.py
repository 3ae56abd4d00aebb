"""SelfEvolve's signature, line by line, through whole runs."""

from __future__ import annotations

from collections.abc import Sequence
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

from evolvent.agents.models.scripted import ScriptedChatModel
from evolvent.agents.recipes.selfevolve import ALGORITHM, TRIAL, WITH_KNOWLEDGE, of_library
from evolvent.agents.refinement.repair import fenced
from evolvent.agents.run import RunConfig, result
from evolvent.environments.code import visible_tests

KNOWING = WITH_KNOWLEDGE.partition("{")[0].strip()
RunResult = dict[str, Any]
DEBUGGING = "The interpreter says:"
RECALLING = "Do not correct it"


def config(tasks: int = 2, generations: int = 1, environment: str = "code", **settings: Any) -> RunConfig:
    return RunConfig(
        recipe="selfevolve",
        environment=environment,
        tasks=tasks,
        generations=generations,
        settings=settings,
        embedder="hash",
    )


def programmer(settings: RunConfig, *versions: Program, trial: str = "x = 1") -> ScriptedChatModel:
    """Who knows `Fact N` of the N-th task and writes these versions of its program; a direct answer is the first."""
    tasks = questions(settings)

    def reply(messages: Sequence[BaseMessage]) -> str:
        ending, task = str(messages[-1].text), asked(messages, tasks)
        if ending.endswith(TRIAL):
            return fenced(trial)
        if ending.endswith(ALGORITHM) or RECALLING in ending:
            return f"Fact {tasks.index(task)}."
        if DEBUGGING not in ending:
            return fenced(versions[0](task))
        shown = [fenced(version(task)) in ending for version in versions]
        return fenced(versions[shown.index(True) + 1](task))

    return ScriptedChatModel(reply)


def purposes(run: Path, task: str) -> list[str]:
    return [row["purpose"] for row in calls(run, phase="train", task=task)]


@pytest.mark.signature("selfevolve", 0)
def test_the_program_is_written_from_knowledge_that_the_same_model_wrote_before(tmp_path: Path) -> None:
    asking = config()
    run = play(tmp_path / "run", asking, {"actor": programmer(asking, right)})
    for number, task in enumerate(questions(asking)):
        assert purposes(run, task.id) == ["knowledge", "generate"]
        (written,) = calls(run, purpose="generate", task=task.id)
        assert f"{KNOWING}\nFact {number}." in prompt(written)
        (direct,) = calls(run, phase="control", task=task.id)
        assert "Fact" not in prompt(direct)
    assert {row["role"] for row in calls(run)} == {"actor"}
    assert not any(message.get("part") == "memory" for row in calls(run) for message in row["messages"])


@pytest.mark.signature("selfevolve", 1)
def test_of_a_library_problem_knowledge_is_read_off_a_trial_that_the_program_never_sees(tmp_path: Path) -> None:
    asking = config(environment="systems.programmers:OfLibrary")
    run = play(tmp_path / "run", asking, {"actor": programmer(asking, right, trial="trial_only = 12345")})
    for number, task in enumerate(questions(asking)):
        assert purposes(run, task.id) == ["trial", "knowledge", "generate"]
        (recalled,), (written,) = (calls(run, purpose=each, task=task.id) for each in ("knowledge", "generate"))
        assert "trial_only" in prompt(recalled)
        assert "trial_only" not in prompt(written)
        assert f"Fact {number}." in prompt(written)
    assert set(generations(run)[0]["routes"].values()) == {"trial"}


@pytest.mark.signature("selfevolve", 2)
def test_a_program_that_runs_clean_on_the_example_is_not_debugged_though_hidden_tests_fail(tmp_path: Path) -> None:
    asking = config(max_repairs=3)
    run = play(tmp_path / "run", asking, {"actor": programmer(asking, overfitted)})
    assert not calls(run, purpose="repair")
    (row,) = generations(run)
    assert list(row["outcomes"].values()) == [["passed"]] * 2
    assert row["solved"] == 0


@pytest.mark.signature("selfevolve", 3)
def test_the_debugger_reads_the_failing_program_and_the_last_line_of_the_error_word_for_word(tmp_path: Path) -> None:
    asking = config(max_repairs=2)
    run = play(tmp_path / "run", asking, {"actor": programmer(asking, crashing, wrong, right)})
    for task in questions(asking):
        crashed, failed = (prompt(row) for row in calls(run, purpose="repair", task=task.id))
        assert fenced(crashing(task)) in crashed
        assert f"\n{CRASH}\n" in crashed
        assert fenced(wrong(task)) in failed
        assert visible_tests(task)[0] in failed
        assert f"Observed value: {NONSENSE!r}\nAssertionError" in failed
        assert CRASH not in failed, "each repair is a prompt of its own"
    assert handed_in(run) == {task.id: right(task) for task in questions(asking)}


@pytest.mark.signature("selfevolve", 4)
def test_hidden_tests_run_once_and_after_the_loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asking = config(max_repairs=1)
    visible = {visible_tests(task) for task in questions(asking)}
    with sandbox_runs(monkeypatch) as runs:
        play(tmp_path / "run", asking, {"actor": programmer(asking, wrong, crashing)})
    loop, judged = runs[:4], runs[4:]
    assert set(loop) == visible, "two versions of two programs"
    assert len(judged) == 2 + 2, "each answer, and each direct answer beside it"
    assert not visible & set(judged)


@pytest.mark.signature("selfevolve", 5)
def test_the_order_of_the_problems_changes_nothing(tmp_path: Path) -> None:
    found = []
    for environment in ("code", "systems.programmers:Backwards"):
        asking = config(tasks=6, environment=environment, max_repairs=2)
        actor = simulated(questions(asking), lambda text: None if text.endswith(ALGORITHM) else 0.4)
        run = play(tmp_path / environment.partition(":")[0], asking, {"actor": actor})
        prompts = {task.id: [prompt(row) for row in calls(run, task=task.id)] for task in questions(asking)}
        found.append((handed_in(run), generations(run)[0]["scores"], prompts))
        with memory_of(run) as memory:
            assert not memory.records()
            assert not memory.ledger.commits()
        assert {(row["model"]["adapter"], row["model"]["base"]) for row in generations(run)} == {("", "smollm2")}
    assert found[0] == found[1]
    assert len(set(found[0][0].values())) > 1


def test_each_phase_is_a_node_and_the_loop_is_the_graph_s(tmp_path: Path) -> None:
    asking = config()
    run = play(tmp_path / "run", asking, {"actor": programmer(asking, wrong, right)})
    before = ["tasks", "trial", "know", "generate", "execute", "repair", "execute"]
    assert visited(run) == [*before, "repair", "submit", "evaluate"]


def test_without_the_stages_the_system_is_the_direct_answer(tmp_path: Path) -> None:
    asking = config(knowledge="none", max_repairs=0)
    run = play(tmp_path / "run", asking, {"actor": programmer(asking, wrong)})
    for task in questions(asking):
        (own,), (direct,) = (calls(run, phase=phase, task=task.id) for phase in ("train", "control"))
        assert own["messages"] == direct["messages"]


def test_a_debugger_who_only_talks_leaves_the_program_as_it_was(tmp_path: Path) -> None:
    asking = config()
    run = play(tmp_path / "run", asking, {"actor": programmer(asking, crashing, lambda task: "I see no fault.")})
    assert handed_in(run) == {task.id: crashing(task).strip() for task in questions(asking)}


@pytest.mark.parametrize(
    ("head", "library"),
    [
        ("import toolshed\n\n\ndef f(x):\n    ...", True),
        ("from typing import List\nimport math\n\ndef f(x: List[int]):\n    ...", False),
        ('def f(x):\n    """\nimport things\n    """', False),
        ("from toolshed.saws import cut\n\ndef f(x):", True),
        ("import )\ndef f(x):", False),
    ],
)
def test_a_problem_whose_head_imports_what_is_not_python_s_own_is_of_a_library(head: str, library: bool) -> None:
    assert of_library(head) is library


@pytest.fixture(scope="module")
def arms(tmp_path_factory: pytest.TempPathFactory) -> dict[str, RunResult]:
    """The card's comparison: knowledge makes a first program likelier to be right, the debugger mends crashes."""
    settings = {"knowledge": {"max_repairs": 0}, "repair": {"knowledge": "none"}, "both": {}}

    def chance(text: str) -> float | None:
        if text.endswith((TRIAL, ALGORITHM)) or RECALLING in text:
            return None
        if DEBUGGING in text:
            return 0.8 if CRASH in text else 0.3
        return 0.6 if KNOWING in text else 0.3

    found = {}
    for arm, chosen in settings.items():
        asking = config(tasks=40, **chosen)
        actor = simulated(questions(asking), chance, bugs=(crashing, crashing, wrong))
        run = play(tmp_path_factory.mktemp("arms") / arm, asking, {"actor": actor})
        found[arm] = {**result(run), "row": generations(run)[0]}
    return found


def test_both_stages_together_reach_more_than_each_alone_and_than_the_direct_answer(arms: dict[str, RunResult]) -> None:
    reached = {arm: told["row"]["solved"] for arm, told in arms.items()}
    assert reached["both"] >= max(reached["knowledge"], reached["repair"])
    assert min(reached.values()) > arms["both"]["row"]["frozen_solved"]
    assert arms["both"]["verdict"] == "improved"


def test_repair_turns_crashes_into_passes(arms: dict[str, RunResult]) -> None:
    outcomes = arms["both"]["row"]["outcomes"].values()
    first, last = (sum(found[place] == "exception" for found in outcomes) for place in (0, -1))
    assert last < first / 2
    assert any(found == ["exception", "passed"] for found in outcomes)
