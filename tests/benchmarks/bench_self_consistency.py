"""What eight paths cost beside one: tokens and wall time of ten runs each against a server that takes 500 ms a call.

    PYTHONPATH=tests python tests/benchmarks/bench_self_consistency.py [RUNS]

Both sides pay for the direct answer of the control, so its tokens are left out and its call is part of both times.
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
import time
from pathlib import Path

from chat_server import says, serving
from systems.runs import calls

from evolvent.agents.models.openai import EndpointChatModel
from evolvent.agents.run import RunConfig, create, execute

DELAY_S = 0.5


async def slow(number: int, message: str) -> bytes:
    await asyncio.sleep(DELAY_S)
    return says("The answer is 12.")


async def measure(paths: int, seed: int, folder: Path) -> tuple[int, float]:
    """(tokens of the samples, seconds of the run)."""
    config = RunConfig(
        recipe="self-consistency",
        environment="word_problems",
        tasks=1,
        generations=1,
        seed=seed,
        settings={"paths": paths},
        embedder="hash",
    )
    create(config, folder)
    async with serving(slow) as url:
        started = time.perf_counter()
        await execute(folder, models={"actor": EndpointChatModel(model="m", base_url=url)})
        seconds = time.perf_counter() - started
    return sum(row["tokens_in"] + row["tokens_out"] for row in calls(folder, phase="train")), seconds


async def compare(runs: int, folder: Path) -> dict[str, float]:
    tokens, seconds = {1: 0, 8: 0}, {1: 0.0, 8: 0.0}
    for seed in range(runs):
        for paths in (1, 8):
            used, took = await measure(paths, seed, folder / f"{seed}-{paths}")
            tokens[paths] += used
            seconds[paths] += took
    return {
        "runs": runs,
        "tokens_ratio": tokens[8] / tokens[1],
        "wall_ratio": round(seconds[8] / seconds[1], 2),
        "seconds_of_one": round(seconds[1] / runs, 2),
        "seconds_of_eight": round(seconds[8] / runs, 2),
    }


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        print(json.dumps(asyncio.run(compare(int(sys.argv[1]) if len(sys.argv) > 1 else 10, Path(scratch)))))
