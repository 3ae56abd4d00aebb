"""The token budget of working memory."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evolvent.memory.types import Scored, new_record
from evolvent.memory.working import WorkingMemory


def words(text: str) -> int:
    return len(text.split())


def scored(*texts: str) -> list[Scored]:
    """Best first."""
    return [Scored(new_record("rule", text), 1 - place / 100) for place, text in enumerate(texts)]


def test_the_best_record_stands_last_nearest_the_action() -> None:
    memory = WorkingMemory(100, words)
    assert memory.text(scored("best", "second", "third")) == "third\nsecond\nbest"


def test_the_order_can_be_turned_round() -> None:
    assert WorkingMemory(100, words, order="best_first").text(scored("best", "second")) == "best\nsecond"


def test_the_budget_counts_what_stands_between_records() -> None:
    two = scored("one two three", "four five six")
    assert len(WorkingMemory(7, words).select(two)) == 2
    assert len(WorkingMemory(6, words).select(two)) == 1
    assert len(WorkingMemory(6, words, separator_tokens=0).select(two)) == 2


def test_a_record_too_long_is_left_out_whole_and_the_next_best_gets_its_place() -> None:
    chosen = WorkingMemory(4, words).select(scored("a b", "far too long for what is left", "c"))
    assert [record.text for record in chosen] == ["c", "a b"]


@pytest.mark.parametrize("budget", [0, -1])
def test_no_budget_shows_nothing(budget: int) -> None:
    assert WorkingMemory(budget, words).text(scored("best")) == ""


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.lists(st.lists(st.sampled_from("ab"), max_size=6).map(" ".join), max_size=8), st.integers(0, 20))
def test_what_is_shown_never_costs_more_than_the_budget(texts: list[str], budget: int) -> None:
    memory = WorkingMemory(budget, words)
    chosen = memory.select(scored(*texts))
    assert sum(words(record.text) for record in chosen) + max(0, len(chosen) - 1) <= budget
    assert [record.text for record in chosen if record.text not in texts] == []
