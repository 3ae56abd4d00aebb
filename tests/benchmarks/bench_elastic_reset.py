"""What elastic reset saves in drift: PPO with resets, without, and with ten times the KL coefficient, on a tiny model.

    PYTHONPATH=tests python tests/benchmarks/bench_elastic_reset.py [SEEDS]

The reward is the share of plain letters in a reply of two tokens. Told are mean reward and mean KL to the initial model
(nats per token) of the updates after the first window; and of those whose reward lies in a band that all arms reach, so
that they are compared at like reward. About two minutes a seed on one core.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from systems.letters import TOKENS, Letters
from tiny_llama import write_base

from evolvent.agents.feedback.verifier import Verifier, key
from evolvent.memory.weights.metrics import read_metrics
from evolvent.memory.weights.ppo import train_ppo
from evolvent.memory.weights.ppo_step import Ppo
from evolvent.memory.weights.regularize import Elastic
from evolvent.memory.weights.training import Training

UPDATES, WINDOW = 60, 15
KEPT = 0.27
"""ηⁿ, as in the paper's largest experiment: 0.995^260."""
BAND = (0.7, 0.9)
ARMS = {
    "ppo": (0.02, None),
    "ppo, ten times the coefficient": (0.2, None),
    "elastic": (0.02, Elastic(decay=KEPT ** (1 / WINDOW), every=WINDOW)),
}


def measure(seed: int, folder: Path) -> dict[str, dict[str, float]]:
    base = write_base(folder / "base", seed=seed, initializer_range=0.1, num_hidden_layers=1)
    tasks = Letters().tasks("train", 12, seed)
    head = {"role": "system", "content": Letters.instructions}
    prompts = [[head, {"role": "user", "content": f"{task.prompt}\nGo on:"}] for task in tasks]
    reward = Verifier(Letters(), {key(asked): task for asked, task in zip(prompts, tasks, strict=True)}, seed)
    training = Training(steps=UPDATES, batch_size=64, learning_rate=1e-2, rank=4, seed=seed)
    found = {}
    for name, (beta, elastic) in ARMS.items():
        settings = Ppo(beta=beta, minibatch=16, reply_tokens=TOKENS)
        rows = [{"prompt": asked} for asked in prompts]
        done = train_ppo(base, rows, folder / name, training, reward=reward, settings=settings, elastic=elastic)
        found[name] = _summary([(each["reward"], each["kl"]) for each in read_metrics(done.folder)])
    return found


def _summary(curve: Sequence[tuple[float, float]]) -> dict[str, float]:
    late, band = curve[WINDOW:], [point for point in curve if BAND[0] <= point[0] <= BAND[1]]
    values = {
        "reward": fmean(reward for reward, _ in late),
        "kl": fmean(kl for _, kl in late),
        "kl_in_band": fmean(kl for _, kl in band),
        "reward_in_band": fmean(reward for reward, _ in band),
    }
    return {name: round(value, 3) for name, value in values.items()}


if __name__ == "__main__":
    for number in range(int(sys.argv[1]) if len(sys.argv) > 1 else 3):
        with tempfile.TemporaryDirectory() as scratch:
            print(json.dumps({"seed": number, **measure(number, Path(scratch))}), flush=True)
