"""Questions over an invented world: passages hold the answers, search finds them, and what an answer is worth."""

from __future__ import annotations

import random

import bm25s
import pytest

from evolvent.environments.bm25 import Bm25, words
from evolvent.environments.errors import BadOptionError
from evolvent.environments.invented_world import invented_world
from evolvent.environments.qa import QA, exact_match, final_answer, normal, search, token_f1
from evolvent.environments.types import Action, StepResult, Task

RIVER = Task("q", "On which river does Tarn lie?", "qa", {"answers": ["Gosel", "the river Gosel"], "world": 0})


def answered(reply: str) -> StepResult:
    world = QA()
    world.reset(RIVER, 0)
    return world.step({"agent": Action(reply)})


# -- the invented world ------------------------------------------------------------------------------------------------


def test_every_answer_stands_in_the_last_passage_and_the_way_there_in_the_first() -> None:
    world = invented_world(5)
    texts = {passage.title: passage.text for passage in world.passages}
    assert len(texts) == len(world.passages) == 310
    for question in world.questions:
        *via, last = question.support
        assert question.answers[-1] in texts[last]
        assert question.answers[0] not in question.text
        for first in via:
            assert last in texts[first]
            assert last not in question.text
            assert first in question.text
    assert len({question.text for question in world.questions}) == len(world.questions) > 3000


def test_passages_fit_into_a_prompt() -> None:
    assert all(40 < len(passage.text) <= 400 for passage in invented_world(0).passages)


def test_another_world_has_other_answers() -> None:
    zero, one = ({question.text: question.answers for question in invented_world(world).questions} for world in (0, 1))
    assert sum(zero.get(text) == answers for text, answers in one.items()) == 0


# -- search ------------------------------------------------------------------------------------------------------------


def test_a_question_finds_its_first_passage_and_what_that_says_finds_the_second() -> None:
    tasks = QA(hops=2).tasks("test", 200, 0)
    for task in tasks:
        first, second = task.data["support"]
        assert first in [evidence.title for evidence in search(task, task.prompt, 3)]
        assert second in [evidence.title for evidence in search(task, second, 2)]
    one_search = sum(task.data["support"][1] in [each.title for each in search(task, task.prompt)] for task in tasks)
    assert one_search < 20  # a second look is what the second hop is for


def test_search_is_told_a_world_or_a_task_and_gives_no_more_than_it_is_asked_for() -> None:
    assert search(RIVER, "a river", 4) == search(0, "a river", 4)
    assert search(0, "a river") != search(1, "a river")
    assert len(search(0, "a river", 4)) == 4
    assert search(0, "a river", 0) == search(0, "xyzzy") == search(0, "") == ()


def test_our_search_ranks_as_bm25s_does() -> None:
    passages = [f"{passage.title} {passage.text}" for passage in invented_world(2).passages]
    theirs = bm25s.BM25(method="lucene", k1=1.2, b=0.75)
    theirs.index([words(text) for text in passages], show_progress=False)
    ours = Bm25(passages)
    rng = random.Random(0)
    for question in rng.sample(invented_world(2).questions, 100):
        query = list(dict.fromkeys(words(question.text)))
        scores = theirs.get_scores(query)
        found = ours.search(question.text, 5)
        best = [score for score in sorted(scores, reverse=True)[:5] if score]
        assert [scores[at] for at in found] == pytest.approx(best, rel=1e-5)


# -- answers -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reply", "answer"),
    [
        ("The answer is Gosel.", "Gosel"),
        ("Tarn lies on the Gosel. So the ANSWER is: **the river Gosel**. I am sure.", "the river Gosel"),
        ("The answer is Bolum.\nNo, wait. The answer is Gosel.", "Gosel"),
        ("Answer: 'Gosel'", "Gosel"),
        ("I looked it up.\nGosel\n", "Gosel"),
        ("The answer is:\nGosel", "Gosel"),
        ("Gosel", "Gosel"),
        ("", ""),
        ("The answer is", "The answer is"),
    ],
)
def test_the_final_answer_is_what_is_announced_last_or_the_last_line(reply: str, answer: str) -> None:
    assert final_answer(reply) == answer


def test_articles_case_and_punctuation_do_not_count() -> None:
    assert normal("  A Copper-Bowl, the best!") == "copper bowl best"
    assert exact_match("The Heron.", "a heron")
    assert not exact_match("Gosel and Tarn", "Gosel")


def test_f1_is_that_of_words() -> None:
    assert token_f1("Maro Delvin", "Maro Delvin") == 1
    # One of one right, one of two found: 2 · 1 / (1 + 2).
    assert token_f1("Maro", "Maro Delvin") == pytest.approx(2 / 3)
    assert token_f1("Maro Maro Maro", "Maro Delvin") == pytest.approx(2 / 5)
    assert token_f1("", "Maro") == token_f1("the", "a") == token_f1("Tarn", "Gosel") == 0


def test_the_score_is_the_best_f1_and_success_an_exact_match() -> None:
    for reply in ("The answer is Gosel.", "The answer is the River Gosel."):
        assert (answered(reply).rewards["agent"], answered(reply).info["success"]) == (1.0, True)
    partly = answered("The answer is Gosel or Bolum.")
    assert partly.rewards["agent"] == pytest.approx(1 / 2)
    assert partly.info["success"] is False
    assert answered("").observations[0].text == "There was no answer."


# -- tasks -------------------------------------------------------------------------------------------------------------


def test_both_kinds_of_questions_come_in_turn_unless_one_is_asked_for() -> None:
    assert [task.data["hops"] for task in QA().tasks("train", 10, 0)] == [1, 2] * 5
    assert {task.data["hops"] for task in QA(hops=2).tasks("train", 50, 0)} == {2}
    assert {len(task.data["support"]) for task in QA(hops=1).tasks("train", 50, 0)} == {1}


def test_a_question_holds_none_of_its_hidden_data() -> None:
    for task in QA().tasks("validation", 200, 0):
        assert task.data["answers"][0] not in task.prompt


@pytest.mark.parametrize("hops", [3, -1, "two"])
def test_other_numbers_of_hops_are_refused(hops: object) -> None:
    with pytest.raises(BadOptionError, match=f"qa: hops is 1, 2, or 0 for both, not {hops!r}"):
        QA(hops=hops)  # type: ignore[arg-type]  # what a user may type


def test_more_questions_than_there_are_cannot_be_dealt() -> None:
    with pytest.raises(BadOptionError, match=r"qa: world 0 has \d+ test questions, not 5000\. Ask for fewer"):
        QA().tasks("test", 5000, 0)


def test_questions_about_few_passages_are_followed_from_these_and_evidence_is_read_in_training_alone() -> None:
    few = QA(about=60, evidence=True)
    within = {passage.title: passage.text for passage in invented_world(0).passages[:60]}
    training, held_out = few.tasks("train", 30, 0), few.tasks("test", 30, 0)
    for task in (*training, *held_out):
        assert set(task.data["support"]) <= set(within)
    for task in training:
        *read, question = task.prompt.splitlines()
        assert read == [within[title] for title in task.data["support"]]
        assert question.endswith("?")
    assert not any("\n" in task.prompt for task in (*held_out, *few.tasks("validation", 30, 0)))
    read_before = {title for task in training for title in task.data["support"]}
    assert any(set(task.data["support"]) <= read_before for task in held_out)


@pytest.mark.parametrize("about", [0, 311, "few"])
def test_other_numbers_of_passages_are_refused(about: object) -> None:
    with pytest.raises(BadOptionError, match=f"qa: about is a whole number of passages from 1 to 310, not {about!r}"):
        QA(about=about)  # type: ignore[arg-type]  # what a user may type


def test_step_comes_after_reset() -> None:
    with pytest.raises(RuntimeError, match="reset comes before step"):
        QA().step({})
