"""The evolutionary search between generations, and what its genomes stand for."""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
import pytest
from pydantic import ValidationError

from evolvent.memory.errors import BadMergeError
from evolvent.memory.weights.blend import Blend, Merge
from evolvent.memory.weights.layer_stack import LayerStack
from evolvent.memory.weights.merge_search import DataFlowSpace, Genome, ParameterSpace, Search

TARGET = (0.9, 0.1, 0.6, 0.2)


def near(genome: Genome) -> float:
    """0 at the target, below elsewhere."""
    return -sum((gene - target) ** 2 for gene, target in zip(genome, TARGET, strict=True))


def evolved(search: Search, generations: int, score: Callable[[Genome], float] = near) -> Search:
    for _ in range(generations):
        search = search.tell([score(genome) for genome in search.ask()])
    return search


SEARCH = Search(start=(0.5,) * 4, bounds=(0, 1), seed=3)


def test_the_search_comes_near_what_scores_highest() -> None:
    search = evolved(SEARCH, 25)
    assert search.best == pytest.approx(TARGET, abs=0.02)
    assert near(SEARCH.start) < search.best_so_far[0] < search.best_so_far[-1]


def test_evaluations_are_population_times_generations_and_the_best_so_far_never_falls() -> None:
    asked: list[Genome] = []

    def noisy(genome: Genome) -> float:
        asked.append(genome)
        return near(genome) + random.Random(str(genome)).gauss(0, 0.5)

    search = evolved(SEARCH, 8, noisy)
    assert search.population == 4 + 4  # 4 + floor(3 ln 4)
    assert len(asked) == search.evaluations == 8 * search.population
    assert list(search.best_so_far) == sorted(search.best_so_far)
    assert any(max(b) < max(a) for a, b in zip(search.scores, search.scores[1:], strict=False))  # generations do fall
    assert search.best_so_far[-1] == noisy(search.best or ()) == max(map(max, search.scores))


def test_a_search_stored_as_json_between_generations_goes_on_as_if_it_had_not_been() -> None:
    search = SEARCH
    for _ in range(5):
        search = evolved(Search.model_validate_json(search.model_dump_json()), 1)
    assert search == evolved(SEARCH, 5)
    assert search.ask() == evolved(SEARCH, 5).ask()


def test_the_seed_alone_decides_and_shared_random_numbers_are_neither_used_nor_changed() -> None:
    # More than 500 numbers: the variant for long genomes, with which cma draws from the shared generator.
    wide = Search(start=(0.0,) * 501, size=4)
    reached = []
    for seed in (1, 2):
        np.random.seed(seed)
        random.seed(seed)
        before = np.random.get_state()[1].tolist(), random.getstate()  # type: ignore[index]  # old numpy API
        reached.append(evolved(wide, 5, sum).ask())
        assert (np.random.get_state()[1].tolist(), random.getstate()) == before  # type: ignore[index]
    assert reached[0] == reached[1]
    assert SEARCH.ask() != SEARCH.model_copy(update={"seed": 4}).ask()


def test_genomes_keep_to_the_bounds() -> None:
    search = evolved(SEARCH, 10, lambda genome: sum(genome))
    assert all(0 <= gene <= 1 for genome in search.ask() for gene in genome)
    assert sum(search.best or ()) > 3.8


def test_scores_that_are_no_generation_are_refused() -> None:
    with pytest.raises(BadMergeError, match=r"for a generation of 8; expected a finite number for each"):
        SEARCH.tell([1.0] * 7)
    with pytest.raises(BadMergeError, match="nan"):
        SEARCH.tell([1.0] * 7 + [float("nan")])


def test_a_genome_of_the_parameter_space_is_a_weight_and_a_density_for_each_group_and_source() -> None:
    space = ParameterSpace(blocks=5, groups=2, sources=2)
    assert space.start() == (0.5,) * 8
    blend = space.blends((0.1, 0.25, 0.3, 1.0, 0.5, 0.0, 0.7, 0.75))
    first, last = Blend((0.1, 0.3), (0.75, 0.0)), Blend((0.5, 0.7), (1.0, 0.25))
    for block, expected in enumerate([first, first, first, last, last]):
        assert blend(f"model.layers.{block}.mlp.up_proj.weight") == expected
    assert blend("model.embed_tokens.weight") == first
    assert blend("model.norm.weight") == blend("lm_head.weight") == last


def test_a_genome_that_does_not_fit_the_parameter_space_is_refused() -> None:
    space = ParameterSpace(blocks=2, groups=2, sources=1)
    with pytest.raises(BadMergeError, match="A genome of 3 numbers; expected 4"):
        space.blends((0.5,) * 3)
    with pytest.raises(BadMergeError, match=r"expected weights and densities in \[0, 1\]"):
        space.blends((0.5, 0.5, 0.5, 1.1))
    with pytest.raises(BadMergeError, match=r"layers\.2\.mlp in a space of 2 blocks"):
        space.group("model.layers.2.mlp")
    with pytest.raises(BadMergeError, match="3 groups of 2 blocks"):
        ParameterSpace(blocks=2, groups=3, sources=1)


def test_the_data_flow_search_begins_with_the_first_source_as_it_is() -> None:
    space = DataFlowSpace((4, 3), repeats=2)
    start = space.start()
    assert len(start) == space.size == 7 * 2 + 7 * 7
    assert space.stack(start) == LayerStack((0, 1, 2, 3), (1.0, 1.0, 1.0))


def test_a_genome_says_which_layers_run_and_how_each_hop_is_scaled() -> None:
    space = DataFlowSpace((2, 2), repeats=2)
    runs = [-1.0, 0.0, 0.1, 2.0, -1.0, -1.0, 0.3, -0.1]  # 0 is not above 0; places 2, 3 and 6: layers 2, 3 and 2
    hops = np.zeros((4, 4))
    hops[0, 2], hops[2, 3], hops[3, 2], hops[2, 1], hops[1, 1] = 0.5, -0.25, -3.0, 0.125, 9.0
    stack = space.stack((*runs, *map(float, hops.ravel())))
    assert stack == LayerStack((0, 2, 3, 2, 1), (1.5, 0.75, 0.1, 1.125))


def test_a_genome_that_does_not_fit_the_data_flow_space_is_refused() -> None:
    with pytest.raises(BadMergeError, match="A genome of 4 numbers; expected 20"):
        DataFlowSpace((2, 2)).stack((0.0,) * 4)
    with pytest.raises(BadMergeError, match=r"Sources of \(1,\) layers"):
        DataFlowSpace((1,))


def test_a_merge_says_what_is_wrong_with_it() -> None:
    with pytest.raises(ValidationError, match="average leaves nothing out; expected drop 0, or one of magnitude"):
        Merge(drop=0.5)
    for drop in (-0.1, 1.1):
        with pytest.raises(ValidationError):
            Merge(method="dare", drop=drop)
    with pytest.raises(BadMergeError, match="2 weights and 3 drops for 3 parents"):
        Merge(weights=(1, 2)).blend(3)
    with pytest.raises(BadMergeError, match=r"A weight of -1\.0 for ties, which takes a mean"):
        Merge(method="ties", weights=(1, -1)).blend(2)
    with pytest.raises(BadMergeError, match="All weights are 0"):
        Merge(weights=(0, 0)).blend(2)
    with pytest.raises(BadMergeError, match="expected finite numbers"):
        Merge(method="dare", weights=(1, float("inf"))).blend(2)
    with pytest.raises(BadMergeError, match=r"expected shares in \[0, 1\]"):
        Blend((1.0,), (1.5,)).check("dare", 1)
