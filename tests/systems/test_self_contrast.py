"""Self-Contrast's signature, line by line, through whole runs."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from systems.problems import last_question, questions
from systems.runs import calls, generations, handed_in, memory_of, play, visited

from evolvent.agents.models.scripted import ScriptedChatModel
from evolvent.agents.recipes.self_contrast import PRESETS
from evolvent.agents.run import RunConfig, result
from evolvent.agents.solutions.medoids import cosine_distances, groups
from evolvent.agents.solutions.perspectives import perspectives_in
from evolvent.environments.types import Task
from evolvent.memory.embedding import HashEmbedder

CHECKLIST = "1. Count the boxes again.\n2. Add what lies in the drawer."


def config(tasks: int = 1, generations: int = 1, environment: str = "word_problems", **settings: Any) -> RunConfig:
    return RunConfig(
        recipe="self-contrast",
        environment=environment,
        tasks=tasks,
        generations=generations,
        settings={"most_perspectives": 9} | settings,
        embedder="hash",
    )


def path(answer: object, reasoning: str = "Well.") -> str:
    return f"{reasoning}\nThe answer is {answer}."


def ways(n: int) -> str:
    return "They could be:\n" + "\n".join(f"{number + 1}. Use way {number}." for number in range(n))


def actor(
    solve: Callable[[str, int | None], str],
    revise: Callable[[str, str, str], str] = lambda question, own, request: own,
    propose: Callable[[str], str] = lambda question: ways(3),
) -> ScriptedChatModel:
    """Solves by `solve(question, way)`, None standing for no way given; revises by `revise(question, own, request)`."""

    def reply(messages: Any) -> str:
        head, asked = str(messages[0].text), str(messages[-1].text)
        if "how a task could be solved" in head:
            return propose(asked)
        if "You compare" in head:
            return f"They differ in their results, {len(re.findall('^Answer [A-C]:', asked, re.MULTILINE))} of them."
        if "checklists" in head:
            return CHECKLIST
        if len(messages) > 2:
            return revise(str(messages[1].text), str(messages[2].text), asked)
        way = re.search(r"Use way (\d)", asked)
        return solve(asked, int(way[1]) if way else None)

    return ScriptedChatModel(reply)


def saying(*answers: str) -> Callable[[str, int | None], str]:
    """The k-th way's answer is the k-th of these, the direct answer the first."""
    return lambda question, way: answers[way or 0]


def asked_for(run: Path, purpose: str) -> list[dict[str, Any]]:
    return calls(run, purpose=purpose)


def last(row: dict[str, Any]) -> str:
    return str(row["messages"][-1]["content"])


THREE = (path(10, "Boxes first."), path(11, "All at once."), path(12, "From the end."))


@pytest.fixture(scope="module")
def conflict(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One task on which five ways lead to three results; the second and third come to 11 in the end."""
    said = (*THREE, path(10, "Boxes first."), path(10, "Boxes first."))
    revised = {THREE[0]: path(11, "I see."), THREE[1]: path(11), THREE[2]: path(10, "No.")}
    model = actor(saying(*said), lambda question, own, request: revised[own], lambda question: ways(5))
    return play(tmp_path_factory.mktemp("conflict") / "run", config(), {"actor": model})


@pytest.mark.signature("self-contrast", 0)
def test_a_task_is_solved_once_from_each_perspective_that_the_model_proposed_for_it(tmp_path: Path) -> None:
    setup = config(tasks=2)
    first, second = questions(setup)
    model = actor(saying(*[path(1)] * 5), propose=lambda question: ways(2 if first.prompt in question else 5))
    run = play(tmp_path / "run", setup, {"actor": model})
    for task, n in ((first, 2), (second, 5)):
        asked = calls(run, purpose="solve", task=task.id)
        assert [re.findall(r"Use way (\d)", last(row)) for row in asked] == [[str(number)] for number in range(n)]


@pytest.mark.signature("self-contrast", 1)
def test_nobody_is_asked_whether_an_answer_is_right_and_a_comparison_shows_two(conflict: Path) -> None:
    for row in calls(conflict):
        text = "\n".join(each["content"] for each in row["messages"] if each["role"] != "assistant").lower()
        assert not re.search(r"\b(?:correct|right|wrong|mistaken?|errors?|faults?|sure)\b", text)
    compared = [{text for text in THREE if text in last(row)} for row in asked_for(conflict, "contrast")]
    assert compared == [{THREE[0], THREE[1]}, {THREE[0], THREE[2]}, {THREE[1], THREE[2]}]


@pytest.mark.signature("self-contrast", 2)
def test_at_most_three_answers_are_compared_and_duplicates_are_one(conflict: Path, tmp_path: Path) -> None:
    assert next(iter(generations(conflict)[0]["contrasts"].values()))["kept"] == ["10", "11", "12"]
    seven = [path(number, f"In the way of {word}.") for number, word in enumerate("abcdefg", 20)]
    model = actor(saying(*seven), propose=lambda question: ways(7))
    run = play(tmp_path / "seven", config(), {"actor": model})
    assert sum(any(text in last(row) for row in asked_for(run, "contrast")) for text in seven) == 3
    # The same words in another case have the same vector, so nothing is left to compare.
    model = actor(saying("Take the box", "take the BOX", "Take  the  box"))
    run = play(tmp_path / "same", config(), {"actor": model})
    assert not asked_for(run, "contrast")
    assert handed_in(run) == ["Take the box"]


@pytest.mark.signature("self-contrast", 3)
def test_every_revision_reads_the_whole_checklist_and_all_other_answers(conflict: Path) -> None:
    revisions = asked_for(conflict, "revise")
    assert [row["messages"][2]["content"] for row in revisions] == list(THREE)
    for row in revisions:
        own = row["messages"][2]["content"]
        assert CHECKLIST in last(row)
        assert [text in last(row) for text in THREE] == [text != own for text in THREE]
        assert last(row).count("They differ in their results") == 3
    assert handed_in(conflict) == [path(11, "I see.")]


@pytest.mark.signature("self-contrast", 4)
def test_answers_that_coincide_are_not_revised(tmp_path: Path) -> None:
    said = [path(7, "One way."), path("7.0", "Or quite another way."), path("$7", "Third.")]
    run = play(tmp_path / "run", config(), {"actor": actor(saying(*said), lambda *_: path(8))})
    assert {row["purpose"] for row in calls(run, phase="train")} == {"perspectives", "solve"}
    assert handed_in(run)[0] in said


@pytest.mark.signature("self-contrast", 5)
def test_nothing_is_remembered(conflict: Path) -> None:
    with memory_of(conflict) as memory:
        assert not memory.records()
        assert not memory.ledger.commits()
    assert {row["model"]["adapter"] for row in generations(conflict)} == {""}


def test_each_phase_is_a_node_of_its_own(tmp_path: Path) -> None:
    run = play(tmp_path / "run", config(generations=2), {"actor": actor(saying(*THREE))})
    phases = ["perspectives", "solve", "select", "contrast", "checklist", "revise", "settle"]
    assert visited(run) == ["tasks", *phases, "submit", "evaluate"] * 2


def test_without_a_majority_the_largest_group_wins(tmp_path: Path) -> None:
    said = (THREE[0], THREE[1], THREE[1], THREE[2])
    run = play(tmp_path / "run", config(), {"actor": actor(saying(*said), propose=lambda question: ways(4))})
    assert handed_in(run) == [THREE[1]]


@pytest.mark.parametrize("revised", ["", "I do not know."])
def test_a_revision_without_an_answer_replaces_none(tmp_path: Path, revised: str) -> None:
    run = play(tmp_path / "run", config(), {"actor": actor(saying(*THREE), lambda *_: revised)})
    assert handed_in(run) == [THREE[0]]


def test_without_a_list_of_perspectives_the_task_is_solved_plainly_once(tmp_path: Path) -> None:
    run = play(tmp_path / "run", config(), {"actor": actor(saying(*THREE), propose=lambda question: "Let me see.")})
    assert len(asked_for(run, "solve")) == 1
    assert handed_in(run) == [THREE[0]]


def test_a_text_without_a_result_to_read_is_compared_too(tmp_path: Path) -> None:
    said = ["Mira lives by the river.", "Nobody knows.", "In the hills, says the book."]
    setup = config(environment="translation")
    run = play(tmp_path / "run", setup, {"actor": actor(saying(*said), lambda *_: "By the river.")})
    assert len(asked_for(run, "contrast")) == 3
    assert handed_in(run) == ["By the river."]


# -- its effect, simulated ---------------------------------------------------------------------------------------------


class Student:
    """A simulated actor: right with p = 0.6 from each perspective, errors spread over three results.

    It judges a single answer no better than a coin would, revises a doubted one no better than it solves, and finds
    the right one of two results more often than not where it is shown both.
    """

    def __init__(self, tasks: Sequence[Task], seed: int, *, one_mind: bool = False) -> None:
        self.tasks, self.seed, self.one_mind = tasks, seed, one_mind
        self.model = actor(self.solve, self.revise, lambda question: ways(5))

    def chance(self, *key: object) -> random.Random:
        return random.Random(json.dumps([self.seed, *map(str, key)]))

    def solve(self, question: str, way: int | None) -> str:
        task = last_question([_said(question)], self.tasks)
        rng = self.chance(task.id, 0 if self.one_mind else way)
        answer = task.data["answer"]
        return path(answer if rng.random() < 0.6 else answer + rng.randint(1, 3), f"By way {way}.")

    def revise(self, question: str, own: str, request: str) -> str:
        task = last_question([_said(question)], self.tasks)
        rng, right = self.chance(task.id, own, "revise"), path(task.data["answer"], "Revised.")
        shown = re.findall(r"The answer is (\S+?)\.", f"{own}\n{request}")
        if "Checklist:" in request:
            return right if str(task.data["answer"]) in shown and rng.random() < 0.8 else own
        return own if rng.random() < 0.5 else self.solve(question, 9)

    def reflected(self, task: Task) -> bool:
        """Whether the task is solved by vanilla reflection on the direct answer: is it right? If not, revise."""
        asked = [_said(text) for text in ("Solve.", task.prompt, self.solve(task.prompt, None), "Is it right? Revise.")]
        final = str(self.model.invoke(asked).text)
        return re.findall(r"The answer is (\S+?)\.", final)[-1] == str(task.data["answer"])


def _said(text: str) -> Any:
    from langchain_core.messages import HumanMessage

    return HumanMessage(text)


def test_contrast_spoils_fewer_right_answers_than_reflection_and_solves_more_than_the_direct_answer(
    tmp_path: Path,
) -> None:
    setup = config(tasks=40)
    tasks = questions(setup)
    student = Student(tasks, seed=11)
    run = play(tmp_path / "run", setup, {"actor": student.model})
    (row,) = generations(run)
    spoiled = sum(row["frozen_scores"][task.id] == [1.0] and not student.reflected(task) for task in tasks)
    assert row["transitions"]["right_to_wrong"] < spoiled
    assert row["transitions"]["wrong_to_right"] > row["transitions"]["right_to_wrong"]
    assert sum(row["transitions"].values()) == 40
    assert result(run)["verdict"] == "improved"


def test_perspectives_that_do_not_differ_gain_nothing(tmp_path: Path) -> None:
    setup = config(tasks=20)
    run = play(tmp_path / "run", setup, {"actor": Student(questions(setup), seed=11, one_mind=True).model})
    assert not asked_for(run, "contrast")
    assert {len(set(each["results"])) for each in generations(run)[0]["contrasts"].values()} == {1}
    assert result(run)["verdict"] != "improved"


# -- its parts ---------------------------------------------------------------------------------------------------------


def test_medoids_are_the_best_of_all_choices_and_the_largest_group_comes_first() -> None:
    points = np.array([0.0, 1.0, 1.2, 1.3, 5.0, 5.2, 9.0])
    found = groups(np.abs(points[:, None] - points), 3)
    assert [(group.medoid, group.members) for group in found] == [(1, (0, 1, 2, 3)), (4, (4, 5)), (6, (6,))]


def test_duplicates_are_one_text_however_many_groups_there_may_be() -> None:
    vectors_ND = HashEmbedder().embed(["one box", "two bags", "One box!", "two bags"])
    distances_NN = cosine_distances(vectors_ND)
    expected = [(0, (0, 2)), (1, (1, 3))]
    assert [(group.medoid, group.members) for group in groups(distances_NN, 3)] == expected
    apart_NN = 1.0 - np.eye(4)
    assert [(each.medoid, each.members) for each in groups(distances_NN, 3, penalty_NN=apart_NN)] == expected
    assert groups(np.zeros((0, 0)), 3) == []


def test_results_part_what_wording_does_not() -> None:
    near_NN = 0.01 * np.abs(np.subtract.outer(np.arange(4), np.arange(4)))
    differ_NN = np.array([[float((one == 3) != (other == 3)) for other in range(4)] for one in range(4)])
    (many, one) = groups(near_NN, 2, penalty_NN=0.5 * differ_NN)
    assert (many.members, one.members) == ((0, 1, 2), (3,))


@pytest.mark.parametrize(
    ("reply", "found"),
    [
        ("1. **Draw it.**\n2) Add up.\n\n- As a clerk", ["Draw it.", "Add up.", "As a clerk"]),
        ("Way 1: Draw.\nPerspective 2. Add.", ["Draw.", "Add."]),
        ("1. Draw.\n2. Draw.\n3.\n", ["Draw."]),
        ("I would add.\n12 boxes", []),
        ("\n".join(f"{number}. Way {number}" for number in range(20)), [f"Way {number}" for number in range(9)]),
    ],
)
def test_perspectives_are_read_from_a_list(reply: str, found: list[str]) -> None:
    assert perspectives_in(reply, 9) == found


def test_paper_preset_has_the_card_s_figures() -> None:
    paper = PRESETS["paper"]
    assert (paper.most_perspectives, paper.kept, paper.result_weight) == (9, 3, 0.0)
