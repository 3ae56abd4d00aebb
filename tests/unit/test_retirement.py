"""Retirement: how soon a record that turned bad is noticed, how seldom a good one is, and the arithmetic by hand."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest

from evolvent.memory.betting import log_growth
from evolvent.memory.credit import Exposure, pseudo_outcomes
from evolvent.memory.errors import BadExposureError
from evolvent.memory.gate import Worth, still_worth, suspect

SHOWN = 0.75
WITHOUT = 0.45
GOOD, BAD, LEAST = 0.35, -0.25, 0.02


def play(rng: np.random.Generator, *spells: tuple[float, int]) -> list[Exposure]:
    """Spells of (lift, episodes); outcomes in [0, 1] with a standard deviation of 0.35, withheld one time in four."""
    lifts = np.concatenate([np.full(episodes, lift) for lift, episodes in spells])
    shown = rng.random(len(lifts)) < SHOWN
    mean = WITHOUT + lifts * shown
    size = mean * (1 - mean) / 0.35**2 - 1
    scores = rng.beta(mean * size, (1 - mean) * size)
    return [Exposure("r", s, SHOWN, y) for s, y in zip(shown.tolist(), scores.tolist(), strict=True)]


def delay(rng: np.random.Generator, good_for: int, run_length: float, runs: int) -> float:
    """Mean exposures from the fall to the alarm."""
    delays = []
    for _ in range(runs):
        found = suspect(play(rng, (GOOD, good_for), (BAD, 400)), run_length=run_length)
        assert found.stale
        assert found.episodes > good_for
        delays.append(found.episodes - good_for)
    return float(np.mean(delays))


def test_the_evidence_is_the_wealth_of_bets_opened_at_every_episode() -> None:
    pseudo = pseudo_outcomes(run := play(np.random.default_rng(0), (0.0, 30)))
    growth_JT = np.exp(log_growth(-pseudo.value_T, -pseudo.ceiling_T, -LEAST))
    wealth = [growth_JT[:, start:].prod(axis=1).mean() for start in range(30)]
    assert suspect(run).e_value == pytest.approx(sum(wealth))


def test_a_record_that_falls_is_noticed_within_115_exposures_on_average() -> None:
    assert delay(np.random.default_rng(1), 200, 2000, runs=80) <= 115  # 94 in 150 other runs


def test_with_a_shorter_run_length_it_is_noticed_within_55() -> None:
    assert delay(np.random.default_rng(2), 200, 200, runs=80) <= 55  # 41 in 150 other runs


def test_a_record_that_was_good_for_1000_exposures_is_noticed_as_fast_as_a_new_one() -> None:
    rng = np.random.default_rng(3)
    assert delay(rng, 1000, 2000, runs=60) <= 1.2 * delay(rng, 0, 2000, runs=60)


def test_a_good_record_is_not_suspected_in_2000_exposures() -> None:
    rng = np.random.default_rng(4)
    assert not any(suspect(play(rng, (GOOD, 2000))).stale for _ in range(40))
    assert not any(suspect(play(rng, (GOOD, 2000)), run_length=200).stale for _ in range(20))


def test_a_record_at_the_minimum_is_suspected_within_n_exposures_with_a_chance_of_at_most_n_to_the_run_length() -> None:
    rng = np.random.default_rng(5)
    within = np.array([suspect(play(rng, (LEAST, 500)), run_length=1000).episodes for _ in range(300)])
    stale = [np.mean(within <= n) for n in (100, 250, 499)]
    assert stale[0] <= 0.1
    assert stale[1] <= 0.25
    assert stale[2] <= 0.5


def test_it_says_about_when_the_fall_began() -> None:
    rng = np.random.default_rng(6)
    starts = [suspect(play(rng, (GOOD, 300), (BAD, 300))).since for _ in range(60)]
    assert np.median(starts) == pytest.approx(300, abs=25)
    assert np.mean([250 <= start <= 350 for start in starts]) >= 0.75


def test_indices_count_exposures_that_could_not_have_been_withheld_too() -> None:
    run = play(np.random.default_rng(7), (GOOD, 50), (BAD, 300))
    forced = Exposure("r", True, 1.0, 0.5)
    alone, mixed = suspect(run), suspect([each for kept in run for each in (forced, kept)])
    assert alone.stale
    assert mixed.e_value == alone.e_value
    assert (mixed.since, mixed.episodes) == (2 * alone.since + 1, 2 * alone.episodes)


@pytest.mark.parametrize("nothing", [[], [Exposure("r", True, 1.0, 0.0)] * 100])
def test_a_record_that_was_never_withheld_is_not_suspected(nothing: list[Exposure]) -> None:
    found = suspect(nothing)
    assert (found.stale, found.e_value, found.since) == (False, 0.0, len(nothing))


# -- tried again in pairs ----------------------------------------------------------------------------------------------


def decide(differences: Sequence[float]) -> tuple[Worth, int]:
    """The verdict when it is asked after every pair, and the pairs it took."""
    for pairs in range(1, len(differences) + 1):
        if (verdict := still_worth(differences[:pairs])) != "open":
            return verdict, pairs
    return "open", len(differences)


def verdicts(better: float, worse: float, *, runs: int, most: int = 100) -> tuple[Counter[Worth], float]:
    rng = np.random.default_rng(8)
    found = [decide(rng.choice([1.0, 0.0, -1.0], most, p=[better, 1 - better - worse, worse])) for _ in range(runs)]
    return Counter(verdict for verdict, _ in found), float(np.mean([pairs for _, pairs in found]))


def test_a_record_worth_the_minimum_is_retired_in_at_most_five_percent_of_trials_asked_after_every_pair() -> None:
    assert verdicts(0.21, 0.19, runs=200)[0]["retire"] <= 0.05 * 200


def test_a_record_worth_nothing_is_kept_in_at_most_five_percent_of_trials_asked_after_every_pair() -> None:
    assert verdicts(0.2, 0.2, runs=200)[0]["keep"] <= 0.05 * 200


def test_a_record_that_turned_harmful_is_retired_within_60_pairs_on_average() -> None:
    """Scores of 0 and 1, the noisiest there are."""
    found, pairs = verdicts(0.1, 0.35, runs=100)
    assert found["retire"] >= 90
    assert pairs <= 60


def test_a_record_that_was_suspected_wrongly_is_kept() -> None:
    found, pairs = verdicts(0.45, 0.1, runs=100)
    assert found["keep"] >= 98
    assert pairs <= 40


def test_no_pairs_and_ties_leave_it_open_until_worthlessness_is_shown() -> None:
    assert still_worth([]) == "open"
    assert still_worth([0.0] * 30) == "open"
    assert still_worth([0.0] * 500) == "retire"


def test_a_difference_that_no_two_scores_can_have_is_refused() -> None:
    with pytest.raises(BadExposureError, match=r"Pair 1 differs by -1\.5"):
        still_worth([0.5, -1.5])
