"""Which prompt comes when, and what a reward may give back."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest

from evolvent.memory.errors import BadTrainingError
from evolvent.memory.weights.prompts import name_of, schedule, worth

PROMPTS = [[{"role": "user", "content": text}] for text in ("a", "b")]


def lengths(prompts: object, replies: Sequence[str]) -> list[float]:
    return [len(reply) for reply in replies]


def test_every_pass_has_each_row_once_in_an_order_of_its_own() -> None:
    order = schedule(7, 24, seed=1)
    passes = [order[:7], order[7:14], order[14:21]]
    assert [sorted(each) for each in passes] == [list(range(7))] * 3
    assert len({tuple(each) for each in passes}) == 3
    assert len(order) == 24
    assert schedule(7, 30, seed=1)[:24] == order != schedule(7, 24, seed=2)


def test_rewards_are_numbers_one_for_each_reply() -> None:
    assert worth(lengths, PROMPTS, ["one", "three"]) == [3.0, 5.0]

    def forgetful(prompts: object, replies: Sequence[str]) -> list[float]:
        return lengths(prompts, replies[1:])

    with pytest.raises(BadTrainingError, match=r"forgetful gave 1 numbers for 2 replies; expected one each"):
        worth(forgetful, PROMPTS, ["", ""])


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_reward_that_is_not_finite_is_refused_with_the_reply_it_is_of(value: float) -> None:
    with pytest.raises(BadTrainingError, match=f"of the reply 'two' is {value}; expected a finite number"):
        worth(lambda prompts, replies: [1.0, value], PROMPTS, ["one", "two"])


def test_rewards_are_told_apart_by_their_names() -> None:
    class Judge:
        def __call__(self, prompts: object, replies: Sequence[str]) -> list[float]:
            return lengths(prompts, replies)

    assert name_of(lengths) == "lengths"
    assert name_of(Judge()).endswith("Judge")
