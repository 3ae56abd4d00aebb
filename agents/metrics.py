"""The lines of a run's `metrics.jsonl`: one for each seat of each episode, and one for each process that ends."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from evolvent.agents.trace import JsonLines, Trace, read_lines
from evolvent.environments.types import Trajectory
from evolvent.memory.store import Memory


def catch_up(metrics: JsonLines, memory: Memory) -> None:
    """Write the metrics of episodes that a killed process had kept and not yet told."""
    told = {(row.get("episode"), row.get("player")) for row in read_lines(metrics.path)}
    for episode in memory.ledger.episodes():
        for trajectory in episode.trajectories:
            if (episode.key, trajectory.player) not in told:
                metrics.write(metric(episode.key, trajectory))


def metric(key: str, trajectory: Trajectory) -> dict[str, Any]:
    outcome, cost = trajectory.outcome, trajectory.cost
    place = f"{trajectory.phase}/{trajectory.generation}/{trajectory.task.id}/{trajectory.attempt}"
    return {
        "episode": key,
        "phase": trajectory.phase,
        "generation": trajectory.generation,
        "task": trajectory.task.id,
        "attempt": trajectory.attempt,
        "arm": key.removeprefix(place).removeprefix("/"),
        "player": trajectory.player,
        "score": outcome.score,
        "success": outcome.success,
        "failure": outcome.failure,
        "steps": len(trajectory.steps),
        "recalled": sum(each.shown for each in trajectory.recalled),
        **asdict(cost),
    }


def forward_tokens(models: Mapping[str, Any]) -> int:
    """Tokens that models in this process have computed; what a server computes only the server knows."""
    each_once = {id(model): model for model in models.values()}.values()
    return sum(getattr(model, "forward_tokens", 0) for model in each_once)


def totals(trace: Trace, forward: int, core_seconds: float) -> dict[str, Any]:
    return {
        "event": "process ended",
        **asdict(trace.total),
        "forward_tokens": forward,
        "core_seconds": round(core_seconds, 3),
        "retries": trace.retries,
        "failed_calls": trace.failed_calls,
    }
