"""Whether lessons beat retries: Reflexion's direction, with players of known skill in a house of six rooms.

    PYTHONPATH=tests python tests/benchmarks/bench_reflexion.py

The actor first looks where its prompt says that things usually are, which is always wrong, and never where it has
read that the thing is not. An attempt ends with the second room searched in vain. The arms read nothing of earlier
trials, the last attempt as it was, or lessons that name the rooms searched in vain.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import pytest
from systems.runs import generations, play
from systems.searcher import reflector, searcher

from evolvent.agents.evaluation.statistics import paired
from evolvent.agents.run import RunConfig

ARMS = ("none", "last_attempt", "reflection")
TASKS, TRIALS = 20, 4
Scores = Mapping[str, list[float]]


def measure(folder: Path, seed: int) -> dict[str, list[Scores]]:
    """By arm: scores by task after each trial, a solved task keeping its success."""
    found = {}
    for arm in ARMS:
        config = RunConfig(
            recipe="reflexion",
            environment="systems.rooms:Rooms",
            tasks=TASKS,
            generations=TRIALS,
            seed=seed,
            settings={"strategy": arm, "temperature": 1.0},
            embedder="hash",
        )
        run = play(folder / f"{arm}-{seed}", config, {"actor": searcher(), "reflector": reflector()})
        found[arm] = [row["scores"] for row in generations(run)]
    return found


def pooled(folder: Path, seeds: range = range(3)) -> dict[str, list[Scores]]:
    measured = [measure(folder, seed) for seed in seeds]
    return {
        arm: [
            {
                f"{seed}/{task}": score
                for seed, one in zip(seeds, measured, strict=True)
                for task, score in one[arm][trial].items()
            }
            for trial in range(TRIALS)
        ]
        for arm in ARMS
    }


@pytest.mark.slow
def test_lessons_solve_more_tasks_than_either_kind_of_retry_and_the_first_trial_is_equal(tmp_path: Path) -> None:
    scores = pooled(tmp_path)
    assert scores["none"][0] == scores["last_attempt"][0] == scores["reflection"][0]
    for arm in ("none", "last_attempt"):
        assert paired(scores["reflection"][-1], scores[arm][-1]).low > 0


if __name__ == "__main__":
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        scores = pooled(Path(folder))
    for arm, trials in scores.items():
        print(f"{arm:14}", *(f"{sum(score for (score,) in trial.values()) / len(trial):.2f}" for trial in trials))
    for arm in ("none", "last_attempt"):
        gain = paired(scores["reflection"][-1], scores[arm][-1])
        print(f"reflection − {arm}: {gain.mean:.3f} [{gain.low:.3f}, {gain.high:.3f}], n = {gain.n}")
    print(f"{time.perf_counter() - started:.0f} s")
