"""Credit by rule dropout: the issue's coverage figures by simulation, and the arithmetic by hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import ttest_ind

from evolvent.environments.types import Outcome, Phase, Recalled, Task, Trajectory
from evolvent.memory.betting import log_wealth
from evolvent.memory.credit import Exposure, anytime, credit_events, exposures, lift, pseudo_outcomes
from evolvent.memory.errors import BadExposureError
from evolvent.memory.fold import apply
from evolvent.memory.ledger import Ledger
from evolvent.memory.types import Event, Record, new_record

SHOWN = 0.75
RUNS = 1000

WORLDS = {
    "useful": (0.45, 0.80, 0.35),
    "harmful": (0.45, 0.20, 0.35),
    "useless-binary": (0.10, 0.10, 1.0),
    "useful-binary": (0.45, 0.80, 1.0),
}
"""Mean outcome without and with the record, and the spread; a spread of 1 makes outcomes 0 or 1."""


@dataclass(frozen=True)
class Simulated:
    lift: float
    runs: list[list[Exposure]]


@pytest.fixture(scope="module", params=WORLDS.values(), ids=WORLDS.keys())
def simulated(request: pytest.FixtureRequest) -> Simulated:
    """1,000 runs of 400 episodes."""
    without, with_it, spread = request.param
    rng = np.random.default_rng(3)
    return Simulated(with_it - without, [play(rng, without, with_it, spread, 400) for _ in range(RUNS)])


def outcomes(rng: np.random.Generator, mean: np.ndarray, spread: float) -> np.ndarray:
    """In [0, 1], of these means and this standard deviation (beta), or as near to it as 0 and 1 allow."""
    size = mean * (1 - mean) / np.minimum(spread**2, 0.999 * mean * (1 - mean)) - 1
    return (rng.random(mean.shape) < mean).astype(float) if spread >= 1 else rng.beta(mean * size, (1 - mean) * size)


def play(rng: np.random.Generator, without: float, with_it: float, spread: float, episodes: int) -> list[Exposure]:
    shown = rng.random(episodes) < SHOWN
    scores = outcomes(rng, np.where(shown, with_it, without), spread)
    return [Exposure("r", s, SHOWN, y) for s, y in zip(shown.tolist(), scores.tolist(), strict=True)]


def covered(runs: Sequence[Sequence[Exposure]], truth: float) -> float:
    found = [lift(run) for run in runs]
    return float(np.mean([each is not None and each.low <= truth <= each.high for each in found]))


# -- the ordinary interval ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("episodes", [100, 400])
def test_the_ordinary_interval_covers_the_lift_as_often_as_it_says(simulated: Simulated, episodes: int) -> None:
    assert 0.93 <= covered([run[:episodes] for run in simulated.runs], simulated.lift) <= 0.97


def test_the_ordinary_interval_covers_when_probabilities_differ() -> None:
    """Shown more often where tasks are easy: only the weights keep that from passing for lift."""
    rng = np.random.default_rng(4)
    runs = []
    for _ in range(RUNS):
        easy = rng.random(200) < 0.5
        p = np.where(easy, 0.85, 0.6)
        shown = rng.random(200) < p
        scores = outcomes(rng, np.where(easy, 0.6, 0.3) + 0.2 * shown, 0.3)
        runs.append([Exposure("r", *each) for each in zip(shown.tolist(), p.tolist(), scores.tolist(), strict=True)])
    assert 0.93 <= covered(runs, 0.2) <= 0.97
    naive = np.mean([np.mean([e.outcome for e in run if e.shown]) for run in runs]) - np.mean(
        [np.mean([e.outcome for e in run if not e.shown]) for run in runs]
    )
    assert naive > 0.25
    assert np.mean([found.mean for run in runs if (found := lift(run))]) == pytest.approx(0.2, abs=0.01)


def test_strata_narrow_the_interval_and_leave_it_right() -> None:
    rng = np.random.default_rng(5)
    ease = np.array([0.05, 0.2, 0.4, 0.6, 0.75])
    with_strata, without_strata = [], []
    for _ in range(RUNS // 2):
        stratum, shown = rng.integers(0, 5, 150), rng.random(150) < SHOWN
        scores = outcomes(rng, ease[stratum] + 0.2 * shown, 0.2).tolist()
        rows = list(zip(shown.tolist(), scores, stratum.tolist(), strict=True))
        with_strata.append([Exposure("r", s, SHOWN, y, str(g)) for s, y, g in rows])
        without_strata.append([Exposure("r", s, SHOWN, y) for s, y, _ in rows])
    assert covered(with_strata, 0.2) == pytest.approx(0.95, abs=0.03)  # three standard errors of 500 runs

    def width(runs: list[list[Exposure]]) -> float:
        return float(np.mean([found.high - found.low for run in runs if (found := lift(run))]))

    assert width(with_strata) < 0.75 * width(without_strata)


def test_with_many_episodes_the_interval_is_welchs() -> None:
    run = play(np.random.default_rng(0), 0.4, 0.6, 0.3, 20_000)
    scores = [[each.outcome for each in run if each.shown is shown] for shown in (True, False)]
    expected = ttest_ind(*scores, equal_var=False).confidence_interval(0.95)
    found = lift(run)
    assert found is not None
    assert found.mean == pytest.approx(np.mean(scores[0]) - np.mean(scores[1]), abs=1e-12)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-4)


def test_outcomes_that_never_varied_do_not_pass_for_certain() -> None:
    found = lift([Exposure("r", shown, SHOWN, float(shown)) for shown in [True] * 9 + [False] * 3])
    assert found is not None
    assert (found.mean, found.n) == (1.0, 12)
    assert found.low < 0.7


def test_a_record_that_was_never_withheld_has_no_lift() -> None:
    always = [Exposure("r", True, 1.0, 0.8)] * 50
    assert lift(always) is None
    assert lift([*always, Exposure("r", True, SHOWN, 0.8)]) is None
    assert lift([]) is None


def test_episodes_in_which_it_could_not_be_withheld_are_left_out() -> None:
    run = play(np.random.default_rng(0), 0.4, 0.6, 0.3, 40)
    forced = [Exposure("r", True, 1.0, 0.0), Exposure("r", False, 0.0, 1.0)] * 20
    assert lift(run + forced) == lift(run)
    assert anytime(run + forced) == anytime(run)


# -- the memory-reward trap --------------------------------------------------------------------------------------------


def test_a_useless_record_that_always_rides_with_a_useful_one_is_estimated_near_zero() -> None:
    """RoMeRL, arXiv 2608.02508. A third of the episodes recall neither, so a mean while shown can look like lift."""
    rng = np.random.default_rng(6)
    rider, useful, naive = [], [], []
    for _ in range(RUNS):
        found = rng.random(300) < 2 / 3
        useful_shown, rider_shown = (found & (rng.random(300) < SHOWN) for _ in range(2))
        scores = outcomes(rng, 0.45 + 0.35 * useful_shown, 0.35)
        naive.append(scores[rider_shown].mean() - scores[~found].mean())
        for runs, shown in ((rider, rider_shown), (useful, useful_shown)):
            rows = zip(shown[found].tolist(), scores[found].tolist(), strict=True)
            runs.append([Exposure("r", s, SHOWN, y) for s, y in rows])
    lifts = np.array([found.mean for run in rider if (found := lift(run))])
    assert abs(lifts.mean()) < 0.01
    assert 0.93 <= covered(rider, 0.0) <= 0.97
    assert 0.93 <= covered(useful, 0.35) <= 0.97
    assert np.mean(naive) > 0.2


# -- the interval that may be looked at any time -----------------------------------------------------------------------


def test_the_anytime_interval_covers_the_lift_after_every_one_of_400_episodes(simulated: Simulated) -> None:
    truth, missed = simulated.lift, 0
    for run in simulated.runs:
        pseudo = pseudo_outcomes(run)
        below_T = log_wealth(pseudo.value_T, pseudo.floor_T, truth)
        above_T = log_wealth(-pseudo.value_T, -pseudo.ceiling_T, -truth)
        missed += bool(max(below_T.max(), above_T.max()) > np.log(2 / 0.05))  # where `anytime` leaves the truth out
    assert missed <= 0.05 * RUNS


@pytest.mark.parametrize("episodes", [60, 400])
def test_an_edge_of_the_anytime_interval_is_where_the_bets_reach_the_level(episodes: int) -> None:
    run = play(np.random.default_rng(1), 0.45, 0.6, 0.35, episodes)
    found, pseudo = anytime(run), pseudo_outcomes(run)
    assert log_wealth(pseudo.value_T, pseudo.floor_T, found.low)[-1] == pytest.approx(np.log(40), abs=1e-3)
    assert log_wealth(-pseudo.value_T, -pseudo.ceiling_T, -found.high)[-1] == pytest.approx(np.log(40), abs=1e-3)


def test_the_ordinary_interval_does_not_survive_peeking_and_the_anytime_one_does() -> None:
    rng = np.random.default_rng(8)
    runs = [play(rng, 0.45, 0.45, 0.35, 400) for _ in range(60)]
    looks = range(15, 401, 15)
    ordinary = [all(covered([run[:look]], 0.0) for look in looks) for run in runs]
    always = [all(each.low <= 0.0 <= each.high for look in looks for each in [anytime(run[:look])]) for run in runs]
    assert np.mean(ordinary) < 0.85
    assert np.mean(always) >= 0.95


def test_the_anytime_interval_is_less_than_twice_as_wide_as_the_ordinary_one() -> None:
    rng = np.random.default_rng(9)
    for episodes in (100, 400):
        run = play(rng, 0.45, 0.8, 0.35, episodes)
        ordinary, always = lift(run), anytime(run)
        assert ordinary is not None
        assert ordinary.high - ordinary.low < always.high - always.low < 2 * (ordinary.high - ordinary.low)


def test_without_evidence_any_lift_is_possible() -> None:
    for nothing in ([], [Exposure("r", True, 1.0, 0.5)]):
        found = anytime(nothing)
        assert (found.low, found.high, found.n) == (-1.0, 1.0, 0)


def test_pseudo_outcomes_stay_within_the_bounds_that_the_past_implies() -> None:
    rng = np.random.default_rng(10)
    run = [
        Exposure("r", bool(rng.random() < p), float(p), float(rng.random() < 0.5), str(rng.integers(3)))
        for p in rng.uniform(0.05, 0.95, 500)
    ]
    pseudo = pseudo_outcomes(run)
    assert np.all((pseudo.floor_T - 1e-9 <= pseudo.value_T) & (pseudo.value_T <= pseudo.ceiling_T + 1e-9))
    changed = pseudo_outcomes([*run[:-1], Exposure("r", True, 0.5, 0.25, "new")])
    assert np.array_equal(changed.floor_T[:-1], pseudo.floor_T[:-1])


# -- from episodes and into the ledger ---------------------------------------------------------------------------------

RUST = new_record("rule", "To mend the rust, use the oil.")
SOOT = new_record("rule", "To mend the soot, use the brush.")


def trajectory(
    name: str, score: float, shown: bool, *, phase: Phase = "train", player: str = "smith", failed: bool = False
) -> Trajectory:
    return Trajectory(
        name,
        Task("clock-1", "Mend the clock.", "workshop", tags=("soot", "rust")),
        player,
        (),
        Outcome(score, score == 1.0, "timeout" if failed else ""),
        phase=phase,
        recalled=(Recalled(RUST.id, shown, SHOWN), Recalled("trajectory-1", True)),
    )


def test_exposures_are_those_of_training_episodes_with_the_seats_own_score(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.sqlite")
    client = trajectory("b", 0.25, False, player="client")
    ledger.add_episode("1", [trajectory("a", 1.0, True), client])
    ledger.add_episode("2", [trajectory("c", 0.5, False, phase="eval")])
    ledger.add_episode("3", [trajectory("d", 0.5, False, phase="gate")])
    ledger.add_episode("4", [trajectory("e", 0.0, False)])
    found = exposures(ledger.episodes())
    ledger.close()
    stratum = "workshop/rust/soot"
    assert found[RUST.id] == [
        Exposure(RUST.id, True, SHOWN, 1.0, stratum),
        Exposure(RUST.id, False, SHOWN, 0.25, stratum),
        Exposure(RUST.id, False, SHOWN, 0.0, stratum),
    ]
    assert set(found) == {RUST.id, "trajectory-1"}


def test_an_episode_in_which_infrastructure_failed_counts_for_no_seat(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.sqlite")
    ledger.add_episode("1", [trajectory("a", 1.0, True), trajectory("b", 0.0, True, player="client", failed=True)])
    assert exposures(ledger.episodes()) == {}
    ledger.close()


def test_credit_events_put_the_lift_on_records_whose_estimate_changed() -> None:
    run = play(np.random.default_rng(0), 0.4, 0.6, 0.3, 40)
    records = {RUST.id: RUST, SOOT.id: SOOT}
    found = {SOOT.id: [Exposure(SOOT.id, True, SHOWN, 1.0)], RUST.id: run, "rule-forgotten": run}
    events = credit_events(found, records)
    assert [event.record_id for event in events] == [RUST.id]
    assert set(events[0].payload["lift"]) == {"mean", "low", "high", "n"}

    folded: dict[str, Record] = {}
    apply(folded, [Event("add", RUST.id, RUST), *events], 1)
    assert folded[RUST.id].lift == lift(run)
    assert credit_events({RUST.id: run}, folded) == []


@pytest.mark.parametrize(("probability", "outcome"), [(1.5, 0.5), (0.5, -1.0), (float("nan"), 0.5)])
def test_a_probability_or_outcome_out_of_range_is_refused_by_name(probability: float, outcome: float) -> None:
    with pytest.raises(BadExposureError, match=r"'r' has (probability|outcome) (1\.5|-1\.0|nan)"):
        Exposure("r", True, probability, outcome)
