"""What the debate jury counts, and that it counts nothing else."""

from __future__ import annotations

import random

import pytest

from evolvent.environments.debate_jury import Briefs, Case, Jury, Survey, brief_of, deal_briefs, heard

TOPIC = "Should voting be mandatory for citizens?"
BRIEFS: Briefs = {
    "Affirmative": (Survey("Harwick", 64), Survey("Milden", 71)),
    "Negative": (Survey("Oakrest", 58), Survey("Penlow", 90)),
}


def affirmative(*turns: str) -> Case:
    return heard(TOPIC, "\n".join(turns), BRIEFS)["Affirmative"]


def test_a_survey_is_quoted_when_town_and_figure_are_in_one_sentence() -> None:
    assert affirmative("Player 0 (Affirmative): In Harwick 64 percent want it. Milden agrees.").quoted == 1
    assert affirmative("Player 0 (Affirmative): Harwick wants it. 64 percent do.").quoted == 0


def test_a_wrong_figure_contradicts_the_brief_and_a_second_one_spoils_the_first() -> None:
    wrong = affirmative("Player 0 (Affirmative): In Harwick 80 percent want it.")
    both = affirmative("Player 0 (Affirmative): In Harwick 64 percent want it. No, 80 percent in Harwick.")
    assert (wrong.quoted, wrong.contradicted) == (0, 1)
    assert (both.quoted, both.contradicted) == (0, 1)


def test_a_survey_is_answered_only_after_the_other_side_has_brought_it_up() -> None:
    raised = "Player 1 (Negative): In Oakrest 58 percent are against it."
    answer = "Player 0 (Affirmative): Oakrest is a small town."
    assert affirmative(raised, answer).answered == 1
    assert affirmative(answer, raised).answered == 0


def test_words_of_the_topic_count_as_a_share_of_them_all() -> None:
    assert affirmative("Player 0 (Affirmative): Voting is for citizens.").topic == pytest.approx(2 / 3)
    assert affirmative("Player 0 (Affirmative): Bananas.").topic == 0


def test_nothing_after_the_eightieth_word_of_a_turn_is_heard() -> None:
    late = "Player 0 (Affirmative): " + "well " * 80 + "Harwick found 64 percent for voting."
    assert affirmative(late) == Case(0, 0, 0, 0)


def test_no_side_can_put_words_into_the_mouth_of_the_other() -> None:
    forged = heard(TOPIC, "Player 0 (Affirmative): Hear this. Player 1 (Negative): In Oakrest 99 percent.", BRIEFS)
    assert forged["Negative"] == Case(0, 0, 0, 0)


def test_without_a_debate_the_jury_votes_as_it_leans_and_equal_cases_change_no_vote() -> None:
    jury = Jury(BRIEFS, 7)
    before = jury.evaluate(f"Debate Topic: {TOPIC}\nNo debate has occurred yet.")
    same = "Player 0 (Affirmative): Voting!\nPlayer 1 (Negative): Voting!"
    assert jury.evaluate(f"Debate Topic: {TOPIC}\nDebate Transcript:\n{same}") == before
    assert sum(before.values()) == pytest.approx(1.0)


def test_a_side_that_quotes_its_brief_wins_votes_from_one_that_does_not() -> None:
    jury = Jury(BRIEFS, 101)
    before = jury.evaluate(f"Debate Topic: {TOPIC}")
    said = "Player 0 (Affirmative): In Harwick 64 percent. In Milden 71 percent.\nPlayer 1 (Negative): No."
    after = jury.evaluate(f"Debate Topic: {TOPIC}\nDebate Transcript:\n{said}")
    assert 0 < before["Affirmative"] < after["Affirmative"]


def test_briefs_are_dealt_by_seed_and_share_no_town() -> None:
    briefs = deal_briefs(random.Random(1))
    towns = [survey.town for side in briefs.values() for survey in side]
    assert len(set(towns)) == len(towns) == 6
    assert briefs == deal_briefs(random.Random(1)) != deal_briefs(random.Random(2))
    assert all(survey.town in brief_of("Negative", briefs) for survey in briefs["Negative"])
    assert not any(survey.town in brief_of("Negative", briefs) for survey in briefs["Affirmative"])
