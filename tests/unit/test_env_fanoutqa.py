"""FanOutQA's questions: what counts as contained, what the evidence is worth, and that its package is only read."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest

from evolvent.environments import fanoutqa
from evolvent.environments.errors import BadOptionError, MissingPackageError
from evolvent.environments.fanoutqa import FanOutQA, contained, stated
from evolvent.environments.types import Action, Split, StepResult, Task

HANDS = Task(
    "q",
    "Which hands do they bat with?",
    "fanoutqa",
    {"references": ["Pat Burrell", "Right", "Corey Patterson", "Left"], "answer": ""},
)


def answered(world: FanOutQA, task: Task, reply: str) -> StepResult:
    world.reset(task, 0)
    return world.step({"agent": Action(reply)})


def everything(world: FanOutQA) -> list[Task]:
    return [task for split in get_args(Split) for task in world.tasks(split, 97, 0)]


# -- what an answer is worth -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "reference", "found"),
    [
        ("It is the Beatles, I think.", "The Beatles", True),
        ("beatle", "The Beatles", False),
        ("About 1,463,000 people", "1463000", True),
        ("1463000", "1,463,000", True),
        ("61.6 inches", "61.6", True),
        ("61.6 inches", "61", False),
        ("65 inches", "65.0", True),
        ("$1.027 billion", "$1.027 billion", True),
        ("Born in 1990.", "1990", True),
        ("Nothing", "no", False),
        ("Régine Chassagne", "Régine Chassagne", True),
        ("", "no", False),
    ],
)
def test_a_reference_counts_where_it_stands_as_whole_words(answer: str, reference: str, found: bool) -> None:
    assert contained(answer, [reference]) == float(found)


def test_the_score_is_the_share_of_parts_and_success_all_of_them() -> None:
    world = FanOutQA()
    whole = answered(world, HANDS, "So. The answer is Pat Burrell: right; Corey Patterson: left.")
    half = answered(world, HANDS, "Pat Burrell is right-handed.")
    assert (whole.rewards, whole.info, whole.done) == ({"agent": 1.0}, {"success": True}, True)
    assert (half.rewards, half.info) == ({"agent": 0.5}, {"success": False})
    assert half.observations[0].text == "2 of 4 parts of the answer are there."
    assert answered(world, HANDS, "").rewards == {"agent": 0.0}


def test_an_announced_answer_is_read_alone() -> None:
    assert stated("First left, no. The answer is: right") == "right"
    assert stated("Answer: left\nThe answer is right\nand left") == "right\nand left"
    assert stated(" right ") == "right"
    assert answered(FanOutQA(), HANDS, "Pat Burrell, right, Corey Patterson, left. The answer is right.").rewards == {
        "agent": 0.25
    }


def test_references_without_a_word_are_refused() -> None:
    with pytest.raises(ValueError, match=r"References need words, and there are none in \['', 'The'\]"):
        contained("anything", ["", "The"])


# -- the questions -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("evidence", ["sub", "none"])
def test_every_question_is_solved_by_its_expert_and_by_nothing_else_at_hand(evidence: fanoutqa.Evidence) -> None:
    world = FanOutQA(evidence=evidence)
    tasks = everything(world)

    def share(reply: str | None) -> float:
        return sum(
            bool(answered(world, task, world.expert(task)[0] if reply is None else reply).info["success"])
            for task in tasks
        ) / len(tasks)

    assert share(None) == 1.0
    assert share("yes or no") < 0.02
    assert share("") == 0.0


def test_repeating_the_prompt_is_no_answer() -> None:
    world = FanOutQA()
    tasks = everything(world)
    results = [answered(world, task, task.prompt).info["success"] for task in tasks]
    assert sum(results) / len(tasks) < 0.2
    # The facts suffice all the same: they hold every reference of nearly every question.
    sufficient = [all(each.lower() in task.prompt.lower() for each in task.data["references"]) for task in tasks]
    assert sum(sufficient) / len(tasks) > 0.85


def test_evidence_is_in_the_prompt_or_not_and_the_questions_are_the_same() -> None:
    given, bare = (FanOutQA(evidence=evidence).tasks("test", 30, 1) for evidence in ("sub", "none"))
    for one, other in zip(given, bare, strict=True):
        assert one.prompt.startswith("Facts:\n- ")
        assert one.prompt.endswith(f"\nQuestion: {other.prompt}")
        assert "\n" not in other.prompt
        assert one.data == other.data
        assert one.id != other.id


def test_the_310_questions_are_all_dealt_in_one_split_each() -> None:
    world = FanOutQA(evidence="none")
    sizes = []
    for split in get_args(Split):
        with pytest.raises(BadOptionError, match=rf"there are \d+ {split} questions, not 200. Ask for fewer") as told:
            world.tasks(split, 200, 0)
        sizes.append(int(str(told.value).split("there are ")[1].split()[0]))
    prompts = {
        task.prompt for split, n in zip(get_args(Split), sizes, strict=True) for task in world.tasks(split, n, 0)
    }
    assert sum(sizes) == len(prompts) == 310


def test_other_evidence_is_refused() -> None:
    with pytest.raises(BadOptionError, match="fanoutqa: evidence is sub or none, not 'articles'"):
        FanOutQA(evidence="articles")  # type: ignore[arg-type]  # what a user may type


def test_step_comes_after_reset() -> None:
    with pytest.raises(RuntimeError, match="reset comes before step"):
        FanOutQA().step({})


# -- the package -------------------------------------------------------------------------------------------------------


def test_the_package_is_read_but_never_imported(tmp_path: Path) -> None:
    script = (
        "import sys; from evolvent.environments.fanoutqa import FanOutQA; print(len(FanOutQA().tasks('test', 5, 0)));"
        "print([name for name in sys.modules if name.split('.')[0] in ('fanoutqa', 'spacy', 'markdownify')])"
    )
    env = {"HOME": str(tmp_path), "PATH": ""}
    told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, env=env)
    assert told.stdout.split("\n")[:2] == ["5", "[]"]
    assert list(tmp_path.iterdir()) == []


def test_without_the_package_the_install_command_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    fanoutqa._questions.cache_clear()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingPackageError, match=r'pip install "evolvent\[questions\]"'):
        FanOutQA().tasks("test", 1, 0)
