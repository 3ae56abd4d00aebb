"""Breeding of characters, and the observer's marks: what is read from replies, and what holds whatever they say."""

from __future__ import annotations

import random
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evolvent.agents.feedback.observer import fitness_in
from evolvent.agents.refinement.breeding import (
    LONGEST,
    crossed,
    crossing,
    diversity,
    genome_of,
    mutated,
    mutating,
    roulette,
    traits_of,
)
from evolvent.agents.tasks.profiles import DISPOSITIONS, profiles

ONE, OTHER = genome_of(["I sing.", "I swim.", "I read."]), genome_of(["I cook.", "I ride.", "I draw."])


def test_a_child_has_the_traits_whose_numbers_the_breeder_names() -> None:
    shown = crossing(ONE, OTHER, 4)[-1].text
    assert "1. I sing." in shown
    assert "6. I draw." in shown
    assert crossed(ONE, OTHER, "2, 6 and 4.", 4, random.Random(0)) == ("I swim.\nI cook.\nI draw.", True)
    assert crossed(ONE, OTHER, "1 1 4 5 6 2", 4, random.Random(0)) == ("I sing.\nI cook.\nI ride.\nI draw.", True)


@given(st.text(), st.integers(2, 6), st.integers(0, 20))
def test_whatever_the_breeder_says_a_child_has_traits_of_both_parents_and_no_others(
    reply: str, most: int, seed: int
) -> None:
    genome, _ = crossed(ONE, OTHER, reply, most, random.Random(seed))
    child = traits_of(genome)
    assert set(child) & set(traits_of(ONE))
    assert set(child) & set(traits_of(OTHER))
    assert set(child) <= {*traits_of(ONE), *traits_of(OTHER)}
    assert 2 <= len(child) <= most


@pytest.mark.parametrize("reply", ["", "none", "1, 2, 3", "4 5 6", "77, 0"])
def test_a_reply_that_leaves_a_parent_out_is_no_choice(reply: str) -> None:
    genome, chosen = crossed(ONE, OTHER, reply, 4, random.Random(1))
    assert not chosen
    assert len(traits_of(genome)) == 3


def test_a_mutation_adds_or_changes_one_trait_and_a_full_genome_is_only_changed() -> None:
    places = {mutating(ONE, 4, random.Random(seed)).place for seed in range(30)}
    assert places == {None, 0, 1, 2}
    assert None not in {mutating(ONE, 3, random.Random(seed)).place for seed in range(30)}
    assert mutated(ONE, None, '1. "I dance."\nBecause it is fun.') == f"{ONE}\nI dance."
    assert mutated(ONE, 1, "- I dance.") == "I sing.\nI dance.\nI read."


@pytest.mark.parametrize("reply", ["", "\n- \n", "I sing.", '"..."'])
def test_a_reply_without_a_new_trait_leaves_the_genome_as_it_is(reply: str) -> None:
    assert mutated(ONE, 1, reply) == ONE
    assert mutated(ONE, None, reply) == ONE


@given(st.text(max_size=400), st.none() | st.integers(0, 2))
def test_a_mutated_genome_stays_a_short_list_of_traits(reply: str, place: int | None) -> None:
    traits = traits_of(mutated(ONE, place, reply))
    assert len(traits) in (3, 4 if place is None else 3)
    assert all(len(trait) <= LONGEST for trait in traits)


def test_who_is_fitter_is_a_parent_more_often_and_parents_are_two() -> None:
    rng, drawn = random.Random(0), Counter[str]()
    for _ in range(600):
        pair = roulette({"fit": 0.6, "fair": 0.3, "unfit": 0.1}, 2, rng)
        assert len(set(pair)) == 2
        drawn[pair[0]] += 1
    assert drawn["fit"] == pytest.approx(360, abs=40)
    assert drawn["unfit"] == pytest.approx(60, abs=25)
    assert set(roulette({"a": 0.0, "b": 0.0}, 2, rng)) == {"a", "b"}


def test_diversity_is_the_mean_distance_of_two_different_genomes() -> None:
    apart, alike = np.eye(3, dtype=np.float32), np.ones((3, 1), dtype=np.float32)
    assert diversity(apart) == pytest.approx(1.0)
    assert diversity(alike) == pytest.approx(0.0)
    assert diversity(apart[:2][[0, 0, 1]]) == pytest.approx(2 / 3)
    assert diversity(apart[:1]) == 0.0


def test_first_characters_differ_and_have_one_side_of_a_pair_at_most() -> None:
    genomes = profiles(12, 6, random.Random(0))
    assert len(set(genomes)) == 12
    for genome in genomes:
        assert len(traits_of(genome)) == 6
        assert all(len({*pair} & {*traits_of(genome)}) <= 1 for pair in DISPOSITIONS)
    assert len(profiles(3, 99, random.Random(0))[0].splitlines()) == len(DISPOSITIONS)


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ("1: 10, because\n2: 1, because", 0.5),
        ("Norm 1: 7 - kind\n**2.** mark: 4", 0.5),
        ("1. 10\n1. 1", 0.0),  # the last word on a norm counts
        ("1: 10\n7: 1\n2: 11", 1.0),  # neither another norm nor a mark out of range
        ("A good person.", None),
        ("", None),
        ("12 of them, 3 times", None),
    ],
)
def test_marks_are_read_norm_by_norm(reply: str, expected: float | None) -> None:
    found = fitness_in(reply, 2)
    assert found == (None if expected is None else pytest.approx(expected))
