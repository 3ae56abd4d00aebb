"""The stream of labelled tasks: what carries a class, what tasks share and what they do not."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any, get_args

import pytest

from evolvent.environments.errors import BadOptionError
from evolvent.environments.labelled import FAMILIES, Labelled, stream
from evolvent.environments.types import Action, Split, StepResult, Task
from evolvent.environments.word_questions import QUESTIONS

TASKS = [options["task"] for options in stream(6)]


def answered(world: Labelled, task: Task, text: str) -> StepResult:
    world.reset(task, 0)
    return world.step({"agent": Action(text)})


def cues(world: Labelled, n: int = 200) -> dict[str, set[str]]:
    """By label: the made-up verbs, or the first words of the made-up names, that its training prompts hold."""
    found: dict[str, set[str]] = {}
    for task in world.tasks("train", n, 0):
        name = re.search(r"\[(\w+) \w+\]", task.prompt)
        verb = re.search(r"\b(?:Please|you|to|will) (\w+) (?:the|my|a|this|our)\b", task.prompt)
        found.setdefault(task.data["reference"], set()).add((name or verb or [""])[1])
    return found


def test_a_stream_of_six_takes_turns_through_three_families() -> None:
    assert TASKS == ["intents-1", "entities-1", "instructions-1", "intents-2", "entities-2", "instructions-2"]
    assert stream(2, world=5, labels=3, families=("entities",)) == (
        {"task": "entities-1", "world": 5, "labels": 3},
        {"task": "entities-2", "world": 5, "labels": 3},
    )


def test_every_task_of_the_longest_stream_can_be_played_and_plain_is_none_of_them() -> None:
    longest = stream(20)
    for options in longest:
        world = Labelled(**options)
        (task,) = world.tasks("test", 1, 0)
        assert answered(world, task, world.expert(task)[0]).info["success"] is True
    assert len({options["task"] for options in longest}) == 20
    assert "plain" not in {options["task"] for options in longest}


@pytest.mark.parametrize("task", [*TASKS, "plain"])
def test_a_prompt_is_read_in_fewer_than_sixty_tokens(task: str) -> None:
    world = Labelled(task=task)
    for each in world.tasks("train", 50, 0):
        words = f"{world.instructions} {each.prompt} {world.reset(each, 0)[0].text}"
        assert len(words) / 3 < 60  # no tokeniser makes tokens shorter than three characters of such text


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("labels", [2, 3])
def test_each_split_holds_hundreds_of_tasks_and_no_two_splits_a_prompt(task: str, labels: int) -> None:
    world = Labelled(task=task, labels=labels)
    prompts = [{each.prompt for each in world.tasks(split, 250, 1)} for split in get_args(Split)]
    assert [len(each) for each in prompts] == [250, 250, 250]
    assert len(set.union(*prompts)) == 750


@pytest.mark.parametrize("task", ["intents-1", "entities-2"])
def test_labels_are_met_equally_often(task: str) -> None:
    often = Counter(each.data["reference"] for each in Labelled(task=task).tasks("train", 200, 0))
    assert len(often) == 4
    assert max(often.values()) - min(often.values()) <= 20  # a prompt drawn twice is dealt once


@pytest.mark.parametrize(("family", "each"), [("intents", 2), ("entities", 1)])
def test_each_class_has_cues_of_its_own_and_no_two_tasks_share_one(family: str, each: int) -> None:
    by_class: dict[str, set[str]] = {}
    for options in stream(6, families=(family,)):
        found = cues(Labelled(**options))
        assert not by_class.keys() & found.keys()
        by_class |= found
    assert len(by_class) == 24
    assert all(len(of_class) == each and "" not in of_class for of_class in by_class.values())
    assert len(set.union(*by_class.values())) == 24 * each


@pytest.mark.parametrize("task", ["intents-1", "entities-1"])
def test_the_cues_of_the_test_split_are_those_of_training(task: str) -> None:
    world = Labelled(task=task)
    learned = {cue: label for label, of_label in cues(world).items() for cue in of_label}
    for each in world.tasks("test", 50, 0):
        named = {label for cue, label in learned.items() if re.search(rf"\b{cue}\b", each.prompt)}
        assert named == {each.data["reference"]}


@pytest.mark.parametrize("task", TASKS)
def test_what_was_learned_in_one_world_is_of_no_use_in_another(task: str) -> None:
    dealt = [Labelled(task=task, world=world).tasks("train", 200, 0) for world in (0, 1)]
    one, other = ({each.prompt for each in tasks} for tasks in dealt)
    assert not one & other


def test_a_world_gives_each_of_its_instructions_another_meaning() -> None:
    def craft(task: Task) -> str:
        """The reference with the words of the prompt numbered."""
        reference = str(task.data["reference"])
        for i, word in enumerate(task.prompt.split(": ")[1].split()):
            reference = re.sub(rf"\b{word}\b", str(i), reference)
        return reference

    crafts = []
    for options in stream(8, families=("instructions",)):
        three = [each for each in Labelled(**options).tasks("train", 40, 0) if each.prompt.count(" ") == 3]
        forms = {craft(each) for each in three}
        if len(forms) == 1:
            crafts += forms
        else:
            letters = {each.data["reference"] for each in three}
            crafts.append("upper" if all(text.isupper() for text in letters) else "initials")
    assert sorted(crafts) == sorted(
        ["2", "0-1-2", "3 words", "initials", "[0]", "2, 1, 0", "from 0 to 2", "upper"],
    )


@pytest.mark.parametrize(
    ("given", "success"),
    [("{}", True), (" {}\n", True), ("{}.", False), ("The result is {}", False), ("", False), ("\ud800", False)],
)
def test_an_instruction_is_graded_by_its_trimmed_text(given: str, success: bool) -> None:
    world = Labelled(task="instructions-1")
    (task,) = world.tasks("test", 1, 0)
    result = answered(world, task, given.format(task.data["reference"]))
    assert result.info["success"] is success
    assert result.rewards == {"agent": float(success)}
    assert result.done


def test_upper_case_is_told_from_lower_case() -> None:
    tasks = [(w := Labelled(**options), w.tasks("test", 1, 0)[0]) for options in stream(8, families=("instructions",))]
    ((world, task),) = [each for each in tasks if each[1].data["reference"].isupper()]
    assert answered(world, task, task.data["reference"]).info["success"] is True
    assert answered(world, task, task.data["reference"].lower()).info["success"] is False


def test_a_label_is_read_whatever_its_case_and_a_wrong_one_scores_nothing() -> None:
    world = Labelled()
    (task,) = world.tasks("test", 1, 0)
    (seen,) = world.reset(task, 0)
    right = task.data["reference"]
    wrong = next(label for label in seen.actions or () if label != right)
    assert answered(world, task, f" {right.upper()}.").rewards == {"agent": 1.0}
    assert answered(world, task, wrong).rewards == {"agent": 0.0}
    assert answered(world, task, wrong).observations[0].text == "Wrong."


def test_no_plain_question_is_asked_in_two_splits() -> None:
    world = Labelled(task="plain")
    asked = [{task.prompt for task in world.tasks(split, 300, 0)} for split in get_args(Split)]
    assert len(set.union(*asked)) == sum(map(len, asked)) == len(QUESTIONS)


def test_plain_questions_offer_one_right_answer_of_four_of_a_kind() -> None:
    world = Labelled(task="plain")
    answers = {question.text: question.answer for question in QUESTIONS}
    assert len(answers) == len(QUESTIONS) >= 200
    for task in world.tasks("test", 100, 0):
        assert len(set(task.data["labels"])) == 4
        assert answers[task.prompt] == task.data["reference"]
        assert task.data["reference"] in task.data["labels"]


def test_a_word_with_two_opposites_is_never_offered_both() -> None:
    (right,) = [question for question in QUESTIONS if question.text == "What is the opposite of right?"]
    assert right.answer == "wrong"
    assert "left" not in right.wrong


def test_plain_questions_are_the_same_in_every_world() -> None:
    assert Labelled(task="plain").tasks("test", 20, 0) == Labelled(task="plain", world=4, labels=2).tasks("test", 20, 0)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"task": "intent-1"}, r"task must be intents-1 to intents-6, .* or plain, not 'intent-1'. Did you mean"),
        ({"task": "intents-7"}, "intents-1 to intents-6"),
        ({"task": "intents-4", "labels": 8}, "intents-1 to intents-3"),
        ({"task": "instructions-0"}, "instructions-1 to instructions-8"),
        ({"labels": 1}, "labels must be a whole number from 2 to 8, not 1"),
        ({"labels": "many"}, "not 'many'"),
    ],
)
def test_an_option_out_of_range_is_answered_with_the_range(options: dict[str, Any], said: str) -> None:
    with pytest.raises(BadOptionError, match=said):
        Labelled(**options)


@pytest.mark.parametrize(
    ("n", "families", "said"),
    [
        (21, FAMILIES, "there are 1 to 20 such tasks, not 21"),
        (0, FAMILIES, "not 0"),
        (1, ("plain",), "families must be some of intents, entities, instructions, not 'plain'"),
    ],
)
def test_a_stream_that_cannot_be_had_is_refused(n: int, families: Any, said: str) -> None:
    with pytest.raises(BadOptionError, match=said):
        stream(n, families=families)


def test_more_tasks_than_there_are_is_refused_with_their_number() -> None:
    with pytest.raises(BadOptionError, match=r"intents-1 has 288 train tasks, not 1000. Ask for fewer."):
        Labelled(labels=2).tasks("train", 1000, 0)
