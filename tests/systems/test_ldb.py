"""LDB's signature, line by line, through whole runs."""

from __future__ import annotations

import ast
import functools
import random
import re
from collections.abc import Callable, Iterator, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import BaseMessage
from systems.problems import questions
from systems.programmers import asked, handed_in, hanging, overfitted, right, sandbox_runs, text_of, wrong
from systems.runs import calls, generations, play, prompt, visited

from evolvent.agents.feedback.runtime_trace import rendered, units
from evolvent.agents.models.scripted import ScriptedChatModel
from evolvent.agents.recipes.ldb import FIX, PRESETS, UNTRACED
from evolvent.agents.refinement.repair import fenced
from evolvent.agents.run import RunConfig, result
from evolvent.environments.code import entry_point, program_of, visible_tests
from evolvent.environments.execution import Sandbox, Trace
from evolvent.environments.types import Task

VERDICTS = "1 correct\n2 incorrect, it adds too much."
Written = Callable[[Task], str]


def config(tasks: int = 1, generations: int = 1, **settings: Any) -> RunConfig:
    return RunConfig(
        recipe="ldb",
        environment="code",
        options={"test_s": 0.3},
        tasks=tasks,
        generations=generations,
        settings={"test_s": 0.3, **settings},
        embedder="hash",
    )


def sums(task: Task) -> str:
    """Adds 7, 14, 21 whatever it is given, with a branch that is never taken."""
    return (
        f"def {entry_point(task)}(*values):\n    total = 0\n    for step in range(1, 4):\n        if step > 100:\n"
        "            total = 'far too many'\n        total += step * 7\n    return total\n"
    )


def rounds(task: Task) -> str:
    """Goes round 60 times."""
    lines = ["turn = 1000", "while turn < 1060:", "    turn += 1", "return turn"]
    return "\n    ".join([f"def {entry_point(task)}(*values):", *lines])


def models(seed: Written, *rewrites: Written, tasks: Sequence[Task] = ()) -> dict[str, ScriptedChatModel]:
    """An actor that writes the seed, and a debugger that judges and then writes each of these in turn."""
    known = tasks or questions(config())

    def debug(messages: Sequence[BaseMessage]) -> str:
        if FIX not in str(messages[-1].text):
            return VERDICTS
        done = sum(FIX in str(message.text) for message in messages) - 1
        return fenced(rewrites[done](asked(messages, known)))

    return {
        "actor": ScriptedChatModel(lambda messages: fenced(seed(asked(messages, known)))),
        "debugger": ScriptedChatModel(debug),
    }


def evidence(run: Path) -> str:
    """What the debugger is asked first."""
    return str(calls(run, purpose="verdict")[0]["messages"][-1]["content"])


@pytest.mark.signature("ldb", 0)
def test_the_verdict_is_asked_over_the_values_of_a_real_run_and_over_nothing_that_did_not_happen(
    tmp_path: Path,
) -> None:
    run = play(tmp_path / "run", config(), models(sums, right))
    blocks = evidence(run).partition("[block 1]")[2]
    totals = re.findall(r"(before|after): .*?\btotal = (\d+)", blocks)
    afters = [int(value) for when, value in totals if when == "after"]
    assert list(dict.fromkeys(afters)) == [0, 7, 21, 42]
    befores = [int(value) for when, value in totals if when == "before"]
    assert list(dict.fromkeys(befores)) == [0, 7, 21, 42]
    assert "far too many" not in blocks
    assert "far too many" in evidence(run), "in the program, which is shown whole"


@pytest.mark.signature("ldb", 1)
def test_of_a_long_run_the_first_five_and_the_last_five_visits_are_shown(tmp_path: Path) -> None:
    run = play(tmp_path / "run", config(), models(rounds, right))
    shown = [int(number) for number in re.findall(r"^\[block (\d+)\]$", evidence(run), re.MULTILINE)]
    (task,) = questions(config())
    with Sandbox() as sandbox:
        trace = sandbox.trace(rounds(task), visible_tests(task)[0])
    visits = len(trace.blocks) + trace.left_out
    assert visits >= 50
    assert shown == [1, 2, 3, 4, 5, *range(visits - 4, visits + 1)]
    assert "turn = 1060" in evidence(run)
    assert "turn = 1030" not in evidence(run)


@pytest.mark.signature("ldb", 2)
@pytest.mark.parametrize("program", [sums, rounds])
def test_an_iteration_is_one_verdict_and_one_rewrite_however_many_blocks_there_are(
    tmp_path: Path, program: Written
) -> None:
    run = play(tmp_path / "run", config(max_iterations=3), models(program, program, program, right))
    made = [row["purpose"] for row in calls(run, role="debugger")]
    assert made == ["verdict", "rewrite"] * 3
    assert [row["purpose"] for row in calls(run, role="actor")] == ["seed"], "which is the control as well"


@pytest.mark.signature("ldb", 3)
def test_a_seed_that_passes_the_visible_tests_is_not_debugged_even_if_it_is_wrong(tmp_path: Path) -> None:
    run = play(tmp_path / "run", config(tasks=3), models(overfitted, tasks=questions(config(tasks=3))))
    assert not calls(run, role="debugger")
    row = generations(run)[0]
    assert set(row["iterations"].values()) == {0}
    assert set(row["visible_tests_passed"].values()) == {True}
    assert row["solved"] == 0.0


@pytest.mark.signature("ldb", 4)
def test_one_failing_test_is_shown_an_iteration_and_hidden_ones_run_once_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (task,) = questions(config())
    with sandbox_runs(monkeypatch) as runs:
        run = play(tmp_path / "run", config(), models(sums, sums, right))
    visible = visible_tests(task)
    assert len(visible) > 1, "or showing one is no choice"
    for row in calls(run, purpose="verdict"):
        last = str(row["messages"][-1]["content"])
        assert sum(f"\n{test}\n" in last for test in visible) == 1
    hidden = [tests for tests in runs if tests != visible]
    assert runs[:3] == [visible] * 3
    assert runs[3:] == hidden
    assert len(hidden) == 2, "of the answer and of the control, which is judged after it"
    told = "\n".join(prompt(row) for row in calls(run))
    assert not any(test in told for test in hidden[0] if test not in visible)


@pytest.mark.signature("ldb", 5)
def test_a_program_that_hangs_is_told_of_without_blocks_and_debugging_goes_on(tmp_path: Path) -> None:
    run = play(tmp_path / "run", config(), models(hanging, sums, right))
    first, second = calls(run, purpose="verdict")
    assert "[block" not in prompt(first)
    assert "It ran too long and was stopped." in prompt(first)
    assert any(test in prompt(first) for test in visible_tests(questions(config())[0]))
    assert UNTRACED in prompt(first)
    assert "[block 1]" in prompt(second)
    assert generations(run)[0]["solved"] == 1.0
    assert list(generations(run)[0]["untraced"].values()) == [1]


def test_each_phase_is_a_node_and_the_loop_is_the_graph_s(tmp_path: Path) -> None:
    run = play(tmp_path / "run", config(), models(sums, right))
    loop = ["test", "trace", "judge", "rewrite"]
    assert visited(run) == ["tasks", "seed", *loop, *loop, "submit", "evaluate"]


def test_the_conversation_is_carried_into_the_next_iteration(tmp_path: Path) -> None:
    run = play(tmp_path / "run", config(), models(sums, rounds, right))
    first, second = calls(run, purpose="rewrite")
    assert [message["role"] for message in second["messages"]] == ["system", *["user", "assistant"] * 3, "user"]
    assert second["messages"][: len(first["messages"])] == first["messages"]
    assert second["messages"][len(first["messages"])]["content"] == first["reply"]


def test_a_rewrite_that_says_nothing_of_use_leaves_the_program_as_it_was(tmp_path: Path) -> None:
    script = models(overfitted)
    script["actor"] = ScriptedChatModel(lambda messages: fenced(wrong(questions(config())[0])))
    script["debugger"] = ScriptedChatModel(lambda messages: "I would rather not.")
    run = play(tmp_path / "run", config(), script)
    (task,) = questions(config())
    assert handed_in(run)[task.id].strip() == wrong(task).strip()
    assert len(calls(run, role="debugger")) == 4


@pytest.mark.parametrize(("level", "most"), [("line", 30), ("function", 30)])
def test_lines_and_whole_functions_are_the_other_levels(tmp_path: Path, level: str, most: int) -> None:
    run = play(tmp_path / "run", config(level=level, max_units=most), models(rounds, right))
    told = evidence(run)
    assert told.count("[block") == (30 if level == "line" else 1)
    if level == "function":
        assert "turn = 1060" in told
        assert "turn = 1001" not in told, "entry and exit alone"


def test_blocks_lead_to_the_planted_bug_more_often_than_the_assertion_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The card's mutation benchmark with a debugger that mends one line: where the run went wrong, or any."""
    settings = config(tasks=12, max_iterations=1)
    bugs = planted(questions(settings))
    told = {}
    for arm in ("blocks", "assertion"):
        with monkeypatch.context() as patch:
            if arm == "assertion":
                patch.setattr(Sandbox, "trace", lambda self, program, call: Trace(reason="Not looked at."))
            run = play(tmp_path / arm, settings, debugging(bugs, questions(settings)))
        told[arm] = result(run)
    blocks, assertion = (told[arm]["generations"][-1]["held_out"]["success"] for arm in ("blocks", "assertion"))
    assert blocks >= assertion + 0.15
    assert told["blocks"]["verdict"] == "improved"
    assert told["blocks"]["frozen"]["success"] == told["assertion"]["frozen"]["success"] < 0.3


def test_the_paper_preset_has_the_paper_s_figures() -> None:
    paper = PRESETS["paper"]
    assert (paper.max_iterations, paper.max_units, paper.level, paper.test_s) == (10, 10, "block", 5.0)


def planted(tasks: Sequence[Task]) -> dict[str, str]:
    """By task a program that is right but for one line, and fails a visible test; tasks without one are left out."""
    found = {}
    with Sandbox() as sandbox:
        for task in tasks:
            mutants = list(dict.fromkeys(_mutants(ast.unparse(ast.parse(right(task))))))
            random.Random(task.id).shuffle(mutants)
            ran = sandbox.run_all(mutants, visible_tests(task)[:1])
            failing = [mutant for mutant, each in zip(mutants, ran, strict=True) if each.outcome == "failed"]
            if failing:
                found[task.id] = failing[0]
    return found


def debugging(bugs: dict[str, str], tasks: Sequence[Task]) -> dict[str, ScriptedChatModel]:
    """A debugger that knows the right lines but not which one is wrong, unless the blocks show it."""

    def seed(messages: Sequence[BaseMessage]) -> str:
        task = asked(messages, tasks)
        return fenced(bugs.get(task.id, wrong(task)))

    def debug(messages: Sequence[BaseMessage]) -> str:
        if FIX not in str(messages[-1].text):
            return VERDICTS
        task = asked(messages, tasks)
        good = ast.unparse(ast.parse(right(task))).splitlines()
        bad = program_of(fenced(bugs.get(task.id, wrong(task)))).strip().splitlines()
        suspects = _suspects(task, "\n".join(good), text_of(messages)) or good[1:]
        line = random.Random(task.id).choice(suspects)
        mended = [new if new.strip() == line.strip() else old for old, new in zip_longest(bad, good, fillvalue="")]
        return fenced("\n".join(mended))

    return {"actor": ScriptedChatModel(seed), "debugger": ScriptedChatModel(debug)}


def _suspects(task: Task, good: str, text: str) -> list[str]:
    """Right lines of the first block after which the variables are not those of a right run."""
    if "[block 1]" not in text:
        return []
    test = next(each for each in visible_tests(task) if f"\n{each}\n" in text)
    seen = text[text.index("[block 1]") :].split("\n\n")
    for shown, wanted in zip(seen, _right_blocks(good, test), strict=False):
        if shown.splitlines()[-1] != wanted.splitlines()[-1]:
            return [line for line in wanted.splitlines() if line.startswith("    ")]
    return []


@functools.cache
def _right_blocks(good: str, test: str) -> list[str]:
    with Sandbox() as sandbox:
        return rendered(units(sandbox.trace(good, test), "block", 10)).split("\n\n")


def _mutants(source: str) -> Iterator[str]:
    """The program with one planted bug each: another number, comparison or sum."""
    for place, _ in enumerate(ast.walk(ast.parse(source))):
        tree = ast.parse(source)
        match [*ast.walk(tree)][place]:
            case ast.Constant(value=int()) as node:
                node.value += 1
            case ast.Compare(ops=[ast.Lt() | ast.Gt() as operator]) as node:
                node.ops = [ast.LtE() if isinstance(operator, ast.Lt) else ast.GtE()]
            case ast.Compare(ops=[ast.Eq()]) as node:
                node.ops = [ast.NotEq()]
            case ast.BinOp(op=ast.Add()) | ast.AugAssign(op=ast.Add()) as node:
                node.op = ast.Sub()
        if ast.unparse(tree) != source:
            yield ast.unparse(tree)
