"""How many hands show that one card player is better than another, and whether Agent-Pro's search finds a better one.

    PYTHONPATH=tests python tests/benchmarks/bench_agent_pro.py [SEEDS]

Luck: every opponent that the environment ships plays Leduc hold'em against `cfr`, each deal from both chairs. Two of
them are then compared on deals of their own and on the same deals, from one chair and from both. The hands that each
must play for 80 % power at an effect follow from how much their differences vary.

Search: `agent-pro` plays with a scripted player and critics of known skill, and its last policy stands beside its
first on as many held-out deals as that effect asks for. A gain whose interval touches zero is no evidence.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from systems.card_player import STYLES, player, policy
from systems.runs import generations, play

from evolvent.agents.evaluation.statistics import n_for_power, paired, verdict
from evolvent.agents.run import RunConfig
from evolvent.environments.card_opponents import OPPONENTS
from evolvent.environments.cards import Cards, payoff, span
from evolvent.environments.types import Action
from evolvent.memory.types import Interval

SPAN = span("leduc", 2)
EFFECTS = (0.1, 0.25, 0.5, 1.0)
"""Chips a hand."""
EFFECT = 0.5
"""The one that the search is looked at for."""
Hands = NDArray[np.float64]
"""Chips by deal and chair."""


# -- luck --------------------------------------------------------------------------------------------------------------


def chips(mine: str, theirs: str = "cfr", *, deals: int) -> Hands:
    """What an opponent earns in the place of seat a."""
    world = Cards(bots={"b": theirs})
    won = []
    for task in world.tasks("train", 2 * deals, 0):
        observations, done = world.reset(task, 0), False
        while not done:
            moves = {seen.player: Action(world.suggest(mine)) for seen in observations if seen.must_act}
            result = world.step(moves)
            observations, done = result.observations, result.done
        won.append(result.info["chips"]["a"])
    return np.array(won, dtype=float).reshape(deals, 2)


def hands_for_power(one: Hands, other: Hands, effect: float) -> dict[str, int]:
    """Hands that each of two players must play, so that such a difference is shown with 80 % power."""
    half = len(one) // 2
    apart, together = one[:half] - other[half : 2 * half], one - other
    ways = {
        "own deals, one chair": (apart[:, 0], 1),
        "own deals, both chairs": (apart.mean(axis=1), 2),
        "same deals, one chair": (together[:, 0], 1),
        "same deals, both chairs": (together.mean(axis=1), 2),
    }
    needed = {}
    for way, (differences, hands) in ways.items():
        pairs = n_for_power((differences - differences.mean() + effect).tolist())
        assert pairs is not None
        needed[way] = hands * pairs
    return needed


# -- search ------------------------------------------------------------------------------------------------------------


def _guessing(style: str, again: int, hand: str) -> str:
    """Any other style, one after the other."""
    others = sorted(set(STYLES) - {style})
    return f"Behavioural guideline: {policy(others[again % 2])}"


def _repeating(style: str, again: int, hand: str) -> str:
    """The same in other words: there is nothing to be found."""
    return f"Behavioural guideline: {policy(style)} {'Think twice. ' * (again + 1)}"


@dataclass(frozen=True, slots=True)
class Case:
    critic: Callable[[str, int, str], str]
    opponent: str
    first: str
    """Style of the initial policy."""


CASES = {
    "a guessing critic, against folds-to-raises": Case(_guessing, "folds-to-raises", "timid"),
    "a guessing critic, against cfr": Case(_guessing, "cfr", "calm"),
    "a critic who repeats the policy, against cfr": Case(_repeating, "cfr", "calm"),
}


def gain(case: Case, folder: Path, *, seeds: range, deals: int, selection: int) -> Interval:
    """Chips a hand by which the last policy beats the first, over held-out deals of all seeds, both chairs each."""
    first: dict[str, list[float]] = {}
    last: dict[str, list[float]] = {}
    for seed in seeds:
        config = RunConfig(
            recipe="agent-pro",
            environment="cards",
            options={"bots": {"b": case.opponent}},
            tasks=6,
            evaluated=2 * deals,
            generations=3,
            seed=seed,
            settings={"guideline": policy(case.first), "selection_hands": selection},
            embedder="hash",
        )
        rows = generations(play(folder / f"{case.opponent}-{seed}", config, {"actor": player(case.critic)}))
        for found, row in ((first, rows[0]), (last, rows[-1])):
            for deal, won in by_deal(row["scores"]).items():
                found[f"{seed}/{deal}"] = won
    return paired(last, first)


def by_deal(scores: Mapping[str, list[float]]) -> dict[str, list[float]]:
    """Chips of both chairs by deal; a task's name ends with how far the chairs were turned."""
    deals: dict[str, list[float]] = {}
    for task, (score,) in scores.items():
        deals.setdefault(task.rpartition("-")[0], []).append(payoff(score, SPAN))
    return deals


@pytest.mark.slow
def test_the_same_deals_and_both_chairs_show_a_difference_with_less_than_half_the_hands() -> None:
    one, other = (chips(name, deals=600) for name in ("never-bluffs", "calls-all"))
    needed = hands_for_power(one, other, EFFECT)
    assert 2 * needed["same deals, both chairs"] < needed["own deals, one chair"]
    assert needed["own deals, both chairs"] < needed["own deals, one chair"]


@pytest.mark.slow
def test_a_weakness_that_is_there_is_found_and_no_gain_is_claimed_where_there_is_none(tmp_path: Path) -> None:
    able, unable = (
        gain(CASES[name], tmp_path / str(number), seeds=range(1), deals=60, selection=24)
        for number, name in enumerate(("a guessing critic, against folds-to-raises", list(CASES)[-1]))
    )
    assert verdict(able) == "improved"
    assert verdict(unable) == "no evidence"


def _luck(deals: int) -> int:
    """Tells what was measured, and gives the deals that the search is judged on."""
    print(f"chips a hand against cfr, {2 * deals} hands: mean and standard error; variance of a hand, of a deal's mean")
    won = {}
    for name in OPPONENTS["leduc"]:
        started = time.process_time()
        won[name] = chips(name, deals=deals)
        rate = 2 * deals / (time.process_time() - started)
        of_deals = won[name].mean(axis=1)
        error = of_deals.std(ddof=1) / np.sqrt(deals)
        print(
            f"{name:16} {of_deals.mean():+.2f} ± {error:.2f}  {won[name].var(ddof=1):5.1f} {of_deals.var(ddof=1):5.1f}"
            f"  {rate:.0f} hands/s"
        )
    deals_needed = []
    for one, other in (("never-bluffs", "calls-all"), ("never-bluffs", "cfr")):
        print(f"hands that {one} and {other} must each play for 80 % power, by effect in chips a hand")
        print(f"{'':24}", *(f"{effect:7}" for effect in EFFECTS))
        by_effect = {effect: hands_for_power(won[one], won[other], effect) for effect in EFFECTS}
        for way in by_effect[EFFECT]:
            print(f"{way:24}", *(f"{by_effect[effect][way]:7}" for effect in EFFECTS))
        deals_needed.append(by_effect[EFFECT]["same deals, both chairs"] // 2)
    return max(deals_needed)


def _search(seeds: range, deals: int) -> None:
    each = -(-deals // len(seeds))
    for name, case in CASES.items():
        for selection in (8, 48):
            with tempfile.TemporaryDirectory() as folder:
                found = gain(case, Path(folder), seeds=seeds, deals=each, selection=selection)
            said = verdict(found).replace("no evidence", "no evidence of improvement")
            told = f"{found.mean:+.2f} [{found.low:+.2f}, {found.high:+.2f}] chips a hand over {found.n} deals"
            print(f"{name}, {selection} selection hands: {said}: {told}")


if __name__ == "__main__":
    began = time.perf_counter()
    _search(range(int(sys.argv[1]) if len(sys.argv) > 1 else 4), _luck(1500))
    print(f"{time.perf_counter() - began:.0f} s")
