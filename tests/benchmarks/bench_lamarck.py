"""Does `lamarck` learn in the workshop, with the embedded model? Seed by seed, with the truth to hold it against.

    python tests/benchmarks/bench_lamarck.py [--seeds 0,1,2,3,4] [--arms reflect,count,shuffled] [--eval 80] [--out DIR]

Arms: `reflect` is the recipe as it is; `count` proposes what most often succeeded, without a model; `shuffled` permutes
outcomes before anything learns from them, and must learn nothing. A finished run in `--out` is used again.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from evolvent.agents.run import read_config, result
from evolvent.agents.trace import read_lines
from evolvent.environments.workshop import Workshop
from evolvent.memory.embedding import HashEmbedder
from evolvent.memory.store import Memory

ARMS: dict[str, list[str]] = {
    "reflect": [],
    "count": ["--set", "extractor=count"],
    "shuffled": ["--set", "shuffle_outcomes=true"],
}


def measure(arm: str, seed: int, out: Path, evaluated: int = 80) -> dict[str, Any]:
    """One run in a process of its own: its report, what it took, and its rules against the laws."""
    if not (out / "report.html").exists():
        command = [sys.executable, "-c", "from evolvent.agents.cli import main; main()"]
        if (out / "config.json").exists():
            command += ["resume", str(out)]
        else:
            command += ["run", "lamarck", "--env", "workshop", "--seed", str(seed), "--eval", str(evaluated)]
            command += ["--out", str(out), *ARMS[arm]]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    report = result(out)
    laws = {law.text for law in Workshop(**read_config(out).options).laws()}
    with Memory.open(out, embedder=HashEmbedder(), read_only=True) as memory:
        rules = [record for record in memory.records().values() if record.kind == "rule"]
    active = {record.text for record in rules if record.status == "active"}
    ends = [row for row in read_lines(out / "metrics.jsonl") if row.get("event") == "process ended"]
    return {
        "arm": arm,
        "seed": seed,
        "frozen": report["frozen"]["success"],
        "evolved": report["generations"][-1]["held_out"]["success"],
        "gain": report["gain"],
        "verdict": report["verdict"],
        "true_active": len(active & laws),
        "active": len(active),
        "laws": len(laws),
        "forward_tokens": sum(row["forward_tokens"] for row in ends),
        "core_seconds": round(sum(row["core_seconds"] for row in ends)),
    }


def line(row: dict[str, Any]) -> str:
    gain = row["gain"]
    return (
        f"{row['arm']:9} seed {row['seed']}  frozen {row['frozen']:.2f}  evolved {row['evolved']:.2f}  "
        f"gain {gain['mean']:+.2f} [{gain['low']:+.2f}, {gain['high']:+.2f}]  {row['verdict']:11}  "
        f"rules true {row['true_active']} of {row['active']} active, {row['laws']} laws  "
        f"{row['forward_tokens']} forward tokens  {row['core_seconds']} core-s"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seeds", default="0,1,2,3,4")
    parser.add_argument("--arms", default="reflect,count,shuffled")
    parser.add_argument("--eval", type=int, default=80, help="held-out tasks")
    parser.add_argument("--out", type=Path, default=Path("runs/bench-lamarck"))
    given = parser.parse_args()
    rows = []
    for arm in given.arms.split(","):
        for seed in map(int, given.seeds.split(",")):
            rows.append(measure(arm, seed, given.out / f"{arm}-{seed}", given.eval))
            print(line(rows[-1]), flush=True)
    (given.out / "summary.json").write_text(json.dumps(rows, indent=2))


if __name__ == "__main__":
    main()
