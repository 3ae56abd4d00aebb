"""What exploring adds to cloning: one iteration of ETO beside an under-trained clone, on a tiny model and the workshop.

    PYTHONPATH=tests python tests/benchmarks/bench_eto.py [SEEDS]

Each seed has a world and a random model of its own. `longer` is the control: cloning alone, with as many further steps
as ETO takes, on twice the rows because a pair holds two episodes. About two minutes a seed on one core.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from statistics import fmean

from systems.runs import generations, play
from tiny_llama import write_base

from evolvent.agents.models.local import LocalChatModel
from evolvent.agents.run import RunConfig

STEPS, EXTRA = 12, 20


def measure(seed: int, folder: Path) -> dict[str, float]:
    """Mean scores on held-out tasks."""
    base = write_base(folder / "base", seed=seed, initializer_range=0.15)
    training = {"learning_rate": 5e-3, "batch_size": 8, "rank": 8}
    short, more = {**training, "steps": STEPS}, {**training, "steps": EXTRA}
    config = RunConfig(
        recipe="eto",
        options={"world": seed},
        tasks=16,
        evaluated=24,
        generations=2,
        seed=seed,
        settings={"cloning": short, "contrasting": more},
        embedder="hash",
    )
    eto = play(folder / "eto", config, {"actor": LocalChatModel(path=base)})
    frozen, cloned, explored = [fmean(score for (score,) in row["scores"].values()) for row in generations(eto)]
    longer = {**training, "steps": STEPS + 2 * EXTRA}
    control = config.model_copy(update={"generations": 1, "settings": {"cloning": longer}})
    alone = generations(play(folder / "longer", control, {"actor": LocalChatModel(path=base)}))[-1]
    scores = {"frozen": frozen, "clone": cloned, "eto": explored}
    scores["longer"] = fmean(score for (score,) in alone["scores"].values())
    return {name: round(score, 3) for name, score in scores.items()}


if __name__ == "__main__":
    for number in range(int(sys.argv[1]) if len(sys.argv) > 1 else 3):
        with tempfile.TemporaryDirectory() as scratch:
            print(json.dumps({"seed": number, **measure(number, Path(scratch))}), flush=True)
