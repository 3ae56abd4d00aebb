from __future__ import annotations

import pytest

from evolvent.memory.likeness import likeness

SHELF = ["I need a red mug", "I need a blue lamp", "Please buy a clock"]


def test_the_same_words_are_wholly_alike_and_none_are_not_at_all() -> None:
    assert likeness("i need a red mug!", SHELF)[0] == pytest.approx(1.0)
    assert likeness("zeppelin", SHELF) == [0.0, 0.0, 0.0]


def test_a_rare_word_makes_more_alike_than_a_common_one() -> None:
    red_mug, blue_lamp, clock = likeness("I need a lamp", SHELF)
    assert 1 > blue_lamp > red_mug > clock > 0


@pytest.mark.parametrize("query", ["mug", "mug mug mug", "a red mug of clay and of glass"])
def test_nothing_is_more_than_wholly_alike(query: str) -> None:
    assert all(0 <= each <= 1 for each in likeness(query, ["mug", "red mug", "a red mug of clay"]))


def test_without_words_or_without_texts_there_is_nothing_to_compare() -> None:
    assert likeness("!?", SHELF) == [0.0, 0.0, 0.0]
    assert likeness("a mug", []) == []
