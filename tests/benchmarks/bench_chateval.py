"""What a debate adds to marks given alone: ChatEval's direction, with referees of known bias, sight and credulity.

    PYTHONPATH=tests python tests/benchmarks/bench_chateval.py

Every arm is a setting of the recipe, and the simulated referees are the same in all of them (see `referees.Panel`).
Both orders of a pair are tasks, so that liking a place gains nothing; intervals are over pairs, not over tasks.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest
from systems.referees import EYES, Panel, pairs
from systems.runs import generations, play

from evolvent.agents.evaluation.statistics import paired
from evolvent.agents.run import RunConfig
from evolvent.environments.judging import deal_of

ALONE = {"turns": 1, "mode": "simultaneous"}
ARMS: Mapping[str, Mapping[str, Any]] = {
    "one judge": {**ALONE, "referees": 1, "swap": False},
    "one judge, swap": {**ALONE, "referees": 1},
    "4 alone, one role": {**ALONE, "referees": 4, "roles": "same"},
    "2 alone, two roles": {**ALONE, "referees": 2},
    "4 alone, four roles": {**ALONE, "referees": 4},
    "debate, one role": {"roles": "same"},
    "debate, two roles": {},
    "debate at once": {"mode": "simultaneous"},
    "debate, summed up": {"mode": "summarized"},
    "debate of the disputed": {"only_disputed": True},
}
PANELS: Mapping[str, Mapping[str, Any]] = {
    "looks before it believes": {},
    "believes everything": {"convinced": 1.0, "fooled": 1.0},
    "believes nothing": {"convinced": 0.0, "fooled": 0.0},
    "has one pair of eyes": {"eyes": {"General Public": EYES["General Public"]}},
}
DEBATES = ("4 alone, one role", "2 alone, two roles", "debate, one role", "debate, two roles")
"""Arms of the panels after the first."""
TASKS, SEEDS = 40, range(4)
Scores = dict[str, list[float]]


def measure(folder: Path, arm: str, seed: int, panel: Mapping[str, Any]) -> tuple[Scores, dict[str, Any]]:
    """(scores by pair, in both its orders; the run's row)"""
    config = RunConfig(
        recipe="chateval",
        environment="judging",
        tasks=TASKS,
        generations=1,
        seed=seed,
        settings=dict(ARMS[arm]),
        embedder="hash",
    )
    drawn = pairs(config)
    run = play(folder / f"{arm}-{seed}", config, {"actor": Panel(drawn, seed=seed, **panel).model})
    (row,) = generations(run)
    scores: Scores = {}
    for task in drawn:
        scores.setdefault(f"{seed}/{deal_of(task)}", []).extend(row["scores"][task.id])
    return scores, row


def pooled(folder: Path, arms: Iterable[str], panel: Mapping[str, Any]) -> dict[str, tuple[Scores, dict[str, float]]]:
    """By arm: the scores of all seeds, and the means of what their rows tell."""
    found = {}
    for arm in arms:
        measured = [measure(folder, arm, seed, panel) for seed in SEEDS]
        rows = [row for _, row in measured]
        told = {
            "right": [row["agreement"]["after"]["share"] for row in rows],
            "kappa": [row["agreement"]["after"]["kappa"] for row in rows],
            "calls": [row["calls_per_pair"] for row in rows],
        }
        scores = {pair: score for one, _ in measured for pair, score in one.items()}
        found[arm] = scores, {name: sum(values) / len(values) for name, values in told.items()}
    return found


@pytest.mark.slow
def test_the_swap_gains_and_two_roles_beat_one_at_as_many_calls(tmp_path: Path) -> None:
    arms = ("one judge", "one judge, swap", "4 alone, one role", "debate, one role", "debate, two roles")
    found = {arm: scores for arm, (scores, _) in pooled(tmp_path, arms, {}).items()}
    assert paired(found["one judge, swap"], found["one judge"]).low > 0
    for arm in ("4 alone, one role", "debate, one role"):
        assert paired(found["debate, two roles"], found[arm]).low > 0


if __name__ == "__main__":
    for number, (name, panel) in enumerate(PANELS.items()):
        started = time.perf_counter()
        with tempfile.TemporaryDirectory() as scratch:
            found = pooled(Path(scratch), DEBATES if number else ARMS, panel)
        print(f"\nA panel that {name}: {len(found['debate, two roles'][0])} pairs")
        for arm, (scores, told) in found.items():
            gain = paired(scores, found["4 alone, one role"][0])
            print(
                f"{arm:24} right {told['right']:.3f}  kappa {told['kappa']:.2f}  calls {told['calls']:4.1f}"
                f"  to 4 alone, one role {gain.mean:+.3f} [{gain.low:+.3f}, {gain.high:+.3f}]"
            )
        print(f"{time.perf_counter() - started:.0f} s", flush=True)
