"""What four systems that train gain with a small model beside their own ablation: same seeds, tasks and steps.

    python tests/benchmarks/bench_weight_systems.py [--model smollm2] [--systems star,sdft,ssr,conpet] [--seeds 3]
        [--tasks 24] [--eval 40] [--generations 2] --out DIR

`star` is held against the frozen model on questions it was not trained on. The others learn a stream, and against plain
fine-tuning of the same stream; theirs is the success at its end on the tasks of its *earlier* skills, which is what
plain fine-tuning forgets. Differences are paired by task and seed, with a 95 % interval; where it touches zero, the
number of tasks that 80 % power would want for a difference of that size, and one diagnosis. A run that is in DIR
already is gone on with, or only read.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from evolvent.agents.evaluation.statistics import diagnose, n_for_power, paired, verdict
from evolvent.agents.recipes.catalog import load_recipe
from evolvent.agents.run import Prepared, RunConfig, create, execute, prepare
from evolvent.memory.ledger import Ledger

Scores = Mapping[str, Sequence[float]]
ABLATED: Mapping[str, Mapping[str, Any]] = {
    "sdft": {"rewrites": False},
    "ssr": {"rehearsal": 0},
    "conpet": {"version": "sequential"},
}
"""Settings that leave plain fine-tuning of the same stream."""
OPTIONS: Mapping[str, Mapping[str, Any]] = {"star": {"steps": 1}}
"""Of the recipe's first environment."""
SETTINGS: Mapping[str, Mapping[str, Any]] = {"conpet": {"batches": 12}}
"""Of both sides: in the small preset this one learns next to nothing."""


@dataclass(frozen=True, slots=True)
class Played:
    rows: Sequence[Mapping[str, Any]]
    """One a generation."""
    last: frozenset[str]
    """Held-out tasks of the skill that was learned last."""

    def earlier(self) -> Scores:
        """At the end, on the held-out tasks of every skill but the last."""
        return {task: scores for task, scores in self.rows[-1]["scores"].items() if task not in self.last}


def played(config: RunConfig, folder: Path, ready: Prepared) -> Played:
    """A run, played first where it is not there."""
    if not (folder / "config.json").exists():
        create(config, folder)
    asyncio.run(execute(folder, say=print, models=ready.models, embedder=ready.embedder))
    ledger = Ledger(folder / "ledger.sqlite", read_only=True)
    try:
        rows = [json.loads(text) for _, text in sorted(ledger.generations().items())]
        trained = ledger.episodes(phase="train", generation=config.generations)
        taught = {tag for episode in trained for tag in episode.trajectories[0].task.tags}
        judged = (episode.trajectories[0].task for episode in ledger.episodes(phase="eval", generation=0))
        return Played(rows, frozenset(task.id for task in judged if taught & set(task.tags)))
    finally:
        ledger.close()


def compared(system: str, base: RunConfig, seeds: int, out: Path, ready: Prepared) -> dict[str, Any]:
    """A system against what it is held against, over all seeds."""
    ours: dict[str, Sequence[float]] = {}
    theirs: dict[str, Sequence[float]] = {}
    shifts, learned = [], []
    for seed in range(seeds):
        config = base.model_copy(update={"seed": seed})
        found = played(config, out / f"{system}-{seed}", ready)
        if system in ABLATED:
            plain = config.model_copy(update={"settings": {**config.settings, **ABLATED[system]}})
            beside = played(plain, out / f"{system}-plain-{seed}", ready)
            one, other = found.earlier(), beside.earlier()
            shifts.append([each.rows[-1]["transfer"]["backward"] for each in (found, beside)])
            learned.append([fmean(each.rows[-1]["by_task"]) for each in (found, beside)])
        else:
            one, other = found.rows[-1]["scores"], found.rows[0]["scores"]
        ours |= {f"{seed}/{task}": score for task, score in one.items()}
        theirs |= {f"{seed}/{task}": score for task, score in other.items()}
    gain = paired(ours, theirs)
    means = [fmean(fmean(each) for each in side.values()) for side in (ours, theirs)]
    told = {"system": system, "against": "plain fine-tuning" if system in ABLATED else "frozen"}
    told |= {"ours": round(means[0], 3), "theirs": round(means[1], 3), "seeds": seeds, "verdict": verdict(gain)}
    told |= {"gain": {"mean": gain.mean, "low": gain.low, "high": gain.high, "n": gain.n}}
    if shifts:
        told["backward_transfer"] = [round(fmean(each), 3) for each in zip(*shifts, strict=True)]
        told["all_skills"] = [round(fmean(each), 3) for each in zip(*learned, strict=True)]
    if told["verdict"] == "no evidence":
        differences = [fmean(ours[task]) - fmean(theirs[task]) for task in ours.keys() & theirs.keys()]
        told["n_for_80_percent_power"] = n_for_power(differences)
        told["diagnosis"] = diagnose(*means, illegal=0.0)
    return told


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--systems", default="conpet,ssr,sdft,star")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--tasks", type=int, default=24)
    parser.add_argument("--eval", type=int, default=40)
    parser.add_argument("--generations", type=int, default=2)
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args()
    sizes = {"tasks": asked.tasks, "evaluated": asked.eval, "generations": asked.generations, "model": asked.model}
    ready = None
    for system in asked.systems.split(","):
        environment = load_recipe(system).ENVIRONMENTS[0]
        base = RunConfig(
            recipe=system,
            environment=environment,
            options=OPTIONS.get(system, {}),
            settings=SETTINGS.get(system, {}),
            **sizes,
        )
        ready = ready or prepare(base)
        print(json.dumps(compared(system, base, asked.seeds, asked.out, ready)), flush=True)


if __name__ == "__main__":
    main()
