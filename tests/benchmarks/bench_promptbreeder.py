"""Whether prompts that evolve with their mutation-prompts beat prompts that evolve without, or do not evolve at all.

    PYTHONPATH=tests python tests/benchmarks/bench_promptbreeder.py [SEEDS]

The solver and the writer are simulated (`systems.obedient`): a solver is right more often for each of five sentences in
its prompts, and two of the five occur to the writer only where it is asked in a new way. All arms spend as many fitness
evaluations; random search spends them on first prompts alone. What counts is the true skill of the prompts that a run
returns.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest
from systems.obedient import Obedient, skill
from systems.problems import problems, questions
from systems.runs import generations, memory_of, play

from evolvent.agents.run import RunConfig
from evolvent.agents.tasks.prompt_evolution import HYPERMUTATIONS, OPERATORS

POPULATION, GENERATIONS, BATCH, FINAL = 8, 10, 6, 24
ARMS: dict[str, dict[str, Any]] = {
    "full": {},
    "no hypermutation": {"operators": [each for each in OPERATORS if each not in HYPERMUTATIONS]},
    "first-order only": {"operators": ["first_order"]},
    "random search": {"population": POPULATION * GENERATIONS},
}


def measure(folder: Path, arm: str, seed: int) -> float:
    """The true skill of what one run returns, in [0, 1]."""
    settings = {"population": POPULATION, "fitness_batch": BATCH, "finalists": 3, "final_batch": FINAL} | ARMS[arm]
    config = RunConfig(
        recipe="promptbreeder",
        environment="word_problems",
        tasks=24,
        evaluated=2,
        generations=1 if arm == "random search" else GENERATIONS,
        seed=seed,
        settings=settings,
        embedder="hash",
    )
    tasks = [*questions(config), *problems(config, "test"), *problems(config, "validation", FINAL)]
    run = play(folder / f"{arm}-{seed}", config, {"actor": Obedient(tasks)})
    *_, last = generations(run)
    with memory_of(run) as memory:
        return skill(memory.records()[last["model"]["individual"]].text)


def measured(folder: Path, seeds: range) -> dict[str, list[float]]:
    return {arm: [measure(folder, arm, seed) for seed in seeds] for arm in ARMS}


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_all_operators_together_are_best_and_random_search_is_worst(tmp_path: Path) -> None:
    median = {arm: statistics.median(found) for arm, found in measured(tmp_path, range(5)).items()}
    assert median["full"] >= max(median["no hypermutation"], median["first-order only"])
    assert median.pop("random search") < min(median.values())


if __name__ == "__main__":
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        found = measured(Path(folder), range(int(sys.argv[1]) if len(sys.argv) > 1 else 10))
    for arm, skills in found.items():
        print(f"{arm:18} median {statistics.median(skills):.2f}  mean {statistics.fmean(skills):.2f} ", *skills)
    print(f"{time.perf_counter() - started:.0f} s")
