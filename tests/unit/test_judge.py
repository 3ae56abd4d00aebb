"""How a judge's word is read, and what its verdicts say of it."""

from __future__ import annotations

import pytest

from evolvent.agents.evaluation.judge_audit import (
    Judged,
    audit,
    errors,
    position_consistency,
    prefers_first,
    single,
    verbosity_failures,
    with_filter,
    with_votes,
)
from evolvent.agents.evaluation.judge_scores import Graded, mean_score, self_preference, summary, win_rates
from evolvent.agents.feedback.judge import Both, comparison, grading, renamed, score_of, swapped, verdict_of
from evolvent.environments.judging import Pair, Verdict

PAIR = Pair("What is 2 + 2?", ("What is 2 + 2?",), ("It is 4.", "It is 5."), "4", "math")


@pytest.mark.parametrize(
    ("reply", "score"),
    [
        ("Good. Score: [[7]]", 7.0),
        ("Between [[3]] and better: [[8.5]].", 8.5),
        ("It lacks a step. [6]", 6.0),
        ("The list [1] is right. [[ 10 ]]", 10.0),
        ("Score: 7", -1.0),
        ("[[seven]]", -1.0),
        ("[[11]]", -1.0),
        ("[[0]]", -1.0),
        ("[[-4]]", -1.0),
        ("", -1.0),
    ],
)
def test_a_score_is_read_from_brackets_and_is_else_no_score(reply: str, score: float) -> None:
    assert score_of(reply) == score


@pytest.mark.parametrize(
    ("reply", "verdict"),
    [
        ("A is right. [[A]]", "A"),
        ("Not [[A]], rather [[B]].", "B"),
        ("[[C]]", "tie"),
        ("[[tie]]", "tie"),
        ("Both say it. [B]", "B"),
        ("A", None),
        ("[[D]]", None),
        ("", None),
    ],
)
def test_a_verdict_is_read_from_brackets_and_is_else_none(reply: str, verdict: str | None) -> None:
    assert verdict_of(reply) == verdict


def test_a_pair_is_shown_with_its_reference_or_without_and_in_either_order() -> None:
    shown, bare = (comparison(PAIR, reference=given)[-1].text for given in (True, False))
    assert "Right answer, which the user does not see:\n\n4" in shown
    assert "Right answer" not in bare
    assert shown.index("Answer A:\nIt is 4.") < shown.index("Answer B:\nIt is 5.")
    assert "Answer A:\nIt is 5.\n\nAnswer B:\nIt is 4." in comparison(swapped(PAIR))[-1].text
    assert [renamed(each) for each in ("A", "B", "tie", None)] == ["B", "A", "tie", None]


def test_the_request_for_a_score_holds_the_conversation_up_to_the_answer_that_is_graded() -> None:
    turns, answers = ("What is 2 + 2?", "And 3 + 3?"), ("4", "7")
    first = grading(turns[:1], answers[:1])[-1].text
    assert "And 3 + 3?" not in first
    assert "Grade this answer" in first
    second = grading(turns, answers, ("four", "six"))[-1].text
    assert all(text in second for text in (*turns, "Answer:\n4", "Answer:\n7", "four\n\nsix"))
    assert "Grade only the last answer" in second


@pytest.mark.parametrize(
    ("shown", "other", "verdict"),
    [
        ("A", "A", "A"),
        ("B", "B", "B"),
        ("A", "B", "tie"),
        ("A", "tie", "tie"),
        ("tie", "tie", "tie"),
        ("A", None, None),
    ],
)
def test_a_win_counts_only_where_both_orders_name_the_same(
    shown: Verdict, other: Verdict | None, verdict: Verdict | None
) -> None:
    assert Both(shown, other).verdict == verdict


PAIRS = {
    "right": Judged(Both("A", "A"), "A"),
    "by place": Judged(Both("A", "B"), "B"),
    "wordy": Judged(Both("B", "B"), "A", longer="B"),
    "wordy by place": Judged(Both("A", "B"), "A", longer="B"),
    "unread": Judged(Both("A", None), "A", longer="B"),
    "equal": Judged(Both("A", "tie"), "tie"),
    "with reference": Judged(Both("B", "B"), "B", bare=Both("A", "B")),
}


def test_an_audit_counts_what_was_judged() -> None:
    judged, both = list(PAIRS.values()), [each.both for each in PAIRS.values()]
    consistent = position_consistency(both)
    assert (consistent.share, consistent.n) == (0.5, 6)
    assert (prefers_first(both).share, prefers_first(both).n) == (1.0, 2)
    filtered, alone = with_filter(judged), single(judged)
    # Of five pairs with a winner, three verdicts name one, and two of those are right; the equal pair is a tie.
    assert (filtered.coverage.share, filtered.coverage.n) == (3 / 5, 5)
    assert (filtered.precision.share, filtered.precision.n) == (2 / 3, 3)
    assert (filtered.accuracy.share, filtered.accuracy.n) == (3 / 6, 6)
    # Thirteen judgements could be read; of the twelve that name a winner seven name the right one.
    assert (alone.precision.share, alone.precision.n) == (7 / 12, 12)
    assert (alone.accuracy.share, alone.accuracy.n) == (8 / 13, 13)
    assert (verbosity_failures(judged, swap=True).share, verbosity_failures(judged, swap=True).n) == (0.5, 2)
    assert (verbosity_failures(judged, swap=False).share, verbosity_failures(judged, swap=False).n) == (3 / 5, 5)
    assert errors(judged).share == pytest.approx(5 / 13)
    found = audit(PAIRS)
    assert (found["pairs"], found["dropped"]) == (7, 1)
    assert found["errors"] == {
        "with_reference": {"share": 0.0, "n": 2},
        "without_reference": {"share": 0.5, "n": 2},
    }


def test_votes_are_counted_in_two_setups() -> None:
    judged = {name: each.both for name, each in PAIRS.items()}
    votes: dict[str, tuple[Verdict, ...]] = {
        "right": ("A", "B", "tie"),
        "by place": ("tie", "B"),
        "unread": ("A",),
        "with reference": ("B",),
    }
    found = with_votes(judged, votes)
    # All: A of (A, B, tie) once; the inconsistent judge agrees with the tie; B with B.
    assert (found.all_votes.share, found.all_votes.n) == (3 / 6, 6)
    # Decided: (A, A), (A, B) and (B, B).
    assert (found.decided.share, found.decided.n) == (2 / 3, 3)


def test_a_score_that_was_not_read_is_in_no_mean_and_is_counted() -> None:
    rows = [
        Graded("one", 1, "math", 8.0, True),
        Graded("one", 2, "math", -1.0, False),
        Graded("two", 1, "stem", 5.0),
        Graded("two", 2, "stem", 2.0),
    ]
    found = summary(rows)
    assert (found["all"]["mean"], found["all"]["n"], found["all"]["dropped"]) == (5.0, 3, 1)
    assert found["all"]["drop_rate"] == 0.25
    assert found["all"]["right"] == 0.5
    assert (found["by_turn"]["2"]["mean"], found["by_turn"]["2"]["n"]) == (2.0, 1)
    assert found["by_category"]["stem"]["right"] is None
    assert summary([])["all"] == {
        "mean": 0.0, "low": 0.0, "high": 0.0, "n": 0, "dropped": 0, "drop_rate": 0.0, "right": None,
    }  # fmt: skip


def test_the_interval_of_a_mean_score_takes_questions_whole() -> None:
    both = mean_score({"a": [2.0, 2.0], "b": [9.0, 9.0], "c": [4.0, 4.0], "d": [7.0, 7.0]})
    once = mean_score({"a": [2.0], "b": [9.0], "c": [4.0], "d": [7.0]})
    assert (both.mean, both.low, both.high) == pytest.approx((once.mean, once.low, once.high))
    assert (both.n, once.n) == (8, 4)
    uneven = mean_score({"a": [1.0, 1.0, 1.0], "b": [9.0]})
    assert uneven.mean == 3.0
    assert 1.0 <= uneven.low < 3.0 < uneven.high <= 9.0


def test_win_rates_count_a_tie_as_half_where_it_is_said_and_own_answers_are_b() -> None:
    verdicts: list[Verdict | None] = ["A", "tie", None, "B", "B"]
    assert win_rates(verdicts) == {"pairs": 5, "dropped": 1, "win_rate": 0.25, "adjusted_win_rate": 0.375}
    assert self_preference(verdicts) == 0.25
    assert self_preference([None]) is None
    assert win_rates([]) == {"pairs": 0, "dropped": 0, "win_rate": None, "adjusted_win_rate": None}
