from __future__ import annotations

from functools import cache

from hypothesis import given
from hypothesis import strategies as st

from evolvent.agents.refinement.distinct import distinct_paths, edit_distance

WORDS = st.text("ab<=3", max_size=70)


def by_definition(one: str, other: str) -> int:
    """Levenshtein's recurrence, as it is written down."""

    @cache
    def distance(i: int, j: int) -> int:
        if not i or not j:
            return i + j
        swapped = distance(i - 1, j - 1) + (one[i - 1] != other[j - 1])
        return min(swapped, distance(i - 1, j) + 1, distance(i, j - 1) + 1)

    return distance(len(one), len(other))


@given(WORDS, WORDS)
def test_the_edit_distance_is_that_of_its_definition(one: str, other: str) -> None:
    assert edit_distance(one, other) == by_definition(one, other)


def test_the_first_solution_of_a_path_stays_when_no_other_path_is_there_to_be_far_from() -> None:
    assert distinct_paths(["<<1+2=3>>", "So, after much thought: <<1+2=3>>"]) == [0]


def test_a_later_solution_takes_the_place_of_the_first_when_it_is_farther_from_the_other_paths() -> None:
    one, other, farther = "We add: <<1+2=3>>", "We add: <<2+1=3>>", "Altogether there must be <<1+2=3>>"
    assert distinct_paths([one, other, farther]) == [2, 1]
    assert distinct_paths([farther, other, one]) == [0, 1]


def test_the_same_equations_in_another_order_are_another_path() -> None:
    assert distinct_paths(["<<1+2=3>><<3*2=6>>", "<<3*2=6>><<1+2=3>>", "<<1+2=3>><<3*2=6>>"]) == [0, 1]
    assert len(distinct_paths(["<<1+2=3>><<3*2=6>>", "<<3*2=6>><<1+2=3>>", "<<1 + 2=3>> then <<3*2=6>>"])) == 2
