from __future__ import annotations

import re
from fractions import Fraction
from typing import get_args

import pytest

from evolvent.environments import word_problems
from evolvent.environments.derivation import answer_of, equations, equations_hold, evaluate
from evolvent.environments.errors import BadOptionError
from evolvent.environments.types import Action, Split, StepResult, Task
from evolvent.environments.word_problems import TEMPLATES, WordProblems

BOXES = "Ada fills 3 boxes with 4 mugs each. How many mugs are in the boxes?"
TWELVE = Task("boxes", BOXES, "word_problems", {"answer": 12, "derivations": ["In all: <<3*4=12>>\nThe answer is 12."]})


def answered(reply: str) -> StepResult:
    world = WordProblems(steps=1)
    world.reset(TWELVE, 0)
    return world.step({"agent": Action(reply)})


# -- reading derivations -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("In all: <<3*4=12>>\nThe answer is 12.", 12),
        ("the ANSWER is: 12", 12),
        ("The answer is **1,200** mugs", 1200),
        ("The answer is <<3*4=12>>12.", 12),
        ("The answer is 3 * 4 = 12.", 12),
        ("The answer is 5. No, the answer is 12.", 12),
        ("The answer is −3.", -3),
        ("The answer is 12.0", 12),
        ("The answer is 2.5.", Fraction(5, 2)),
        ("The answer is 1/2", Fraction(1, 2)),
        ("12", None),
        ("The answer is twelve.", None),
        ("The answer is 12kg", None),
        ("The answer is 12.5x", None),
        ("The answer is 1/0", None),
        ("The answer is 2.5/2", None),
        ("The answer is " + "9" * 5000, None),
        ("", None),
    ],
)
def test_the_answer_is_the_number_behind_the_last_announcement(text: str, answer: int | Fraction | None) -> None:
    assert answer_of(text) == answer


def test_equations_keep_their_order_and_lose_their_spaces() -> None:
    one = "First << 3 × 4 = 12 >> and then\nall: <<12+1,000=1012>>"
    assert equations(one) == ("3*4=12", "12+1000=1012")
    assert equations("Other words: <<3*4=12>>, <<12+1000=1012>>") == equations(one)
    assert equations("<<12+1000=1012>><<3*4=12>>") != equations(one)
    assert equations("3*4=12") == ()


@pytest.mark.parametrize(
    ("text", "hold"),
    [
        ("<<3*4=12>>", True),
        ("<<3*4=12>> and <<12+5=17>>", True),
        ("<<2+3*4=14>> <<(2+3)*4=20>> <<8-3-2=3>> <<8/4/2=1>> <<-3+5=2>>", True),
        ("<<2+3=5=10/2>>", True),
        ("<<2+3=5=10/4>>", False),
        ("<<2+2=5>>", False),
        ("<<3*4=12>> but <<12+5=18>>", False),
        ("<<0.1+0.2=0.3>>", True),
        ("<<10/3=3.333>>", True),
        ("<<10/3=3.3>>", False),
        ("<<12>>", False),
        ("<<1/0=1/0>>", False),
        ("<<3*=12>>", False),
        ("<<x=12>>", False),
        ("<<2**3=8>>", False),
        ("<<7//2=3>>", False),
        ("<<=>>", False),
        ("nothing was written down", False),
    ],
)
def test_equations_hold_when_every_side_of_each_has_one_value(text: str, hold: bool) -> None:
    assert equations_hold(text) is hold


@pytest.mark.parametrize(
    "expression", ["__import__('os')", "9" * 101, "(" * 100, "9**9**9", "1_0", "1e9", "(1,)", "", "1 +\n1", "1 if 1"]
)
def test_what_is_no_arithmetic_is_refused_unread(expression: str) -> None:
    with pytest.raises(ValueError, match=r"arithmetic|no value|known here"):
        evaluate(expression)


# -- problems ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [1, 2, 3, 4])
def test_every_derivation_of_a_problem_is_another_path_to_its_answer(steps: int) -> None:
    tasks = WordProblems(steps=steps).tasks("train", 150, 0)
    for task in tasks:
        derivations = task.data["derivations"]
        assert len(derivations) > 1
        assert len(set(map(equations, derivations))) == len(derivations)
        assert len(equations(derivations[0])) == steps
        assert all(map(equations_hold, derivations))
        assert {answer_of(each) for each in derivations} == {task.data["answer"]}
        assert all(each.splitlines()[-1] == f"The answer is {task.data['answer']}." for each in derivations)
    assert {task.tags for task in tasks} == {(each.name,) for each in TEMPLATES if each.steps == steps}


def test_there_are_templates_enough_and_each_says_all_its_numbers() -> None:
    assert sum(template.steps > 1 for template in TEMPLATES) >= 12
    assert len({template.name for template in TEMPLATES}) == len(TEMPLATES)
    for template in TEMPLATES:
        assert set(template.numbers) <= set(re.findall(r"{(\w)}", template.text))
        assert len(template.derivations) > 1


def test_a_sum_stands_in_one_split_alone_whatever_the_names_and_the_world() -> None:
    sums = [
        {
            (task.data["template"], *task.data["numbers"].values())
            for world in (0, 1)
            for task in WordProblems(steps=1, world=world).tasks(split, 300, 0)
        }
        for split in get_args(Split)
    ]
    assert len(set.union(*sums)) == sum(map(len, sums))


def test_a_world_speaks_of_names_and_things_of_its_own() -> None:
    owners = [{task.prompt.split()[0] for task in WordProblems(world=w).tasks("train", 200, 0)} for w in (0, 1)]
    assert owners[0] != owners[1]


def test_a_split_that_is_used_up_says_how_many_problems_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(word_problems, "_IN_A_WORLD", 2)  # a whole world would take a minute to be used up
    with pytest.raises(BadOptionError, match=r"word_problems: world 0 has \d+ test problems, not 5000\. Ask for fewer"):
        WordProblems(steps=1).tasks("test", 5000, 0)


@pytest.mark.parametrize("steps", [0, 5, "two", 1.5])
def test_steps_out_of_range_are_refused(steps: int) -> None:
    with pytest.raises(BadOptionError, match=f"word_problems: steps is a whole number from 1 to 4, not {steps!r}"):
        WordProblems(steps=steps)


# -- grading -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reply", "score", "told"),
    [
        ("In all: <<3*4=12>>\nThe answer is 12.", 1.0, "12 is right."),
        ("The answer is 12.0", 1.0, "12 is right."),
        ("In all: <<3*4=13>>\nThe answer is 13.", 0.0, "13 is not right."),
        ("The answer is 1/2.", 0.0, "1/2 is not right."),
        ("Twelve mugs.", 0.0, "There was no final answer. The last line should be: The answer is N."),
        ("", 0.0, "There was no final answer. The last line should be: The answer is N."),
    ],
)
def test_a_reply_is_graded_by_its_final_answer_alone(reply: str, score: float, told: str) -> None:
    result = answered(reply)
    assert (result.rewards["agent"], result.observations[0].text) == (score, told)
    assert result.done
    assert result.info["success"] is (score == 1.0)
