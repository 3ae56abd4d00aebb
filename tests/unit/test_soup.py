"""Which runs a greedy soup takes, by scores that are written down."""

from __future__ import annotations

import pytest

from evolvent.memory.errors import BadMergeError
from evolvent.memory.weights.soup import Tried, greedy_soup


class Validation:
    """Scores by member set; keeps what it was asked, in order."""

    def __init__(self, scores: dict[str, float]) -> None:
        self._scores = {frozenset(members): score for members, score in scores.items()}
        self.asked: list[tuple[str, ...]] = []

    async def __call__(self, members: tuple[str, ...]) -> float:
        self.asked.append(members)
        return self._scores[frozenset(members)]


ALONE = {"a": 0.5, "b": 0.8, "c": 0.7, "d": 0.1}


async def test_candidates_join_best_first_while_the_average_is_not_worse() -> None:
    validation = Validation({**ALONE, "bc": 0.85, "bca": 0.85, "bcad": 0.2})
    soup = await greedy_soup("abcd", validation)
    assert soup.members == ("b", "c", "a")
    assert soup.score == 0.85
    assert validation.asked == [*(("a",), ("b",), ("c",), ("d",)), ("b", "c"), ("b", "c", "a"), ("b", "c", "a", "d")]


async def test_a_candidate_that_was_refused_is_not_part_of_the_next_average() -> None:
    validation = Validation({**ALONE, "bc": 0.79, "ba": 0.9, "bad": 0.9})
    soup = await greedy_soup("abcd", validation)
    assert soup.members == ("b", "a", "d")
    assert ("b", "c", "a") not in validation.asked


@pytest.mark.parametrize("together", [0.0, 0.79, 0.8, 1.0])
async def test_the_soup_is_never_below_the_best_candidate_alone(together: float) -> None:
    soup = await greedy_soup("ab", Validation({**ALONE, "ab": together}))
    assert soup.score == max(0.8, together)


async def test_each_set_is_scored_once_and_k_minus_one_beyond_the_candidates() -> None:
    validation = Validation({**ALONE, "bc": 0.9, "bca": 0.7, "bcd": 0.7})
    soup = await greedy_soup("abcd", validation)
    assert len(validation.asked) == len(set(map(frozenset, validation.asked))) == 4 + 3
    assert [tried.members for tried in soup.tried] == validation.asked
    assert soup.tried[4] == Tried(("b", "c"), 0.9)


async def test_a_margin_keeps_out_what_is_only_as_good() -> None:
    scores = {"a": 0.5, "b": 0.5, "ab": 0.5}
    assert (await greedy_soup("ab", Validation(scores))).members == ("a", "b")
    assert (await greedy_soup("ab", Validation(scores), margin=1e-9)).members == ("a",)
    assert (await greedy_soup("ab", Validation({**scores, "ab": 0.55}), margin=0.1)).score == 0.5


async def test_a_soup_that_was_cut_off_goes_on_without_scoring_again() -> None:
    scores = {**ALONE, "bc": 0.85, "bca": 0.85, "bcad": 0.2}
    whole = await greedy_soup("abcd", Validation(scores))
    again = Validation(scores)
    known = {frozenset(tried.members): tried.score for tried in whole.tried[:5]}
    assert await greedy_soup("abcd", again, known=known) == whole
    assert again.asked == [("b", "c", "a"), ("b", "c", "a", "d")]


async def test_one_candidate_is_its_own_soup() -> None:
    assert (await greedy_soup("a", Validation(ALONE))).members == ("a",)


async def test_candidates_and_scores_that_mean_nothing_are_refused() -> None:
    for candidates in ("", "aa"):
        with pytest.raises(BadMergeError, match="expected one or more, each once"):
            await greedy_soup(candidates, Validation(ALONE))
    with pytest.raises(BadMergeError, match=r"A margin of -0\.1; expected 0 or more"):
        await greedy_soup("ab", Validation(ALONE), margin=-0.1)
    with pytest.raises(BadMergeError, match=r"score of \['b'\] is nan"):
        await greedy_soup("ab", Validation({"a": 0.5, "b": float("nan")}))
