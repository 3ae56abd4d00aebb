"""Sampling: several solutions of each task by one model, at a temperature."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from evolvent.agents.context import Context
from evolvent.agents.episode import Job
from evolvent.agents.models.role import RoleModel
from evolvent.agents.solutions.act import Policy
from evolvent.agents.solutions.recall import NO_RECALL
from evolvent.agents.solutions.seats import seated
from evolvent.agents.solutions.shots import Shots
from evolvent.environments.types import Task


def prompted(
    context: Context, model: RoleModel, shots: Shots = Shots(), *, temperature: float = 0.0, reply_tokens: int
) -> dict[str, Policy]:
    """Every seat's policy with that model in the learning seats and these solved tasks in its prompts."""
    policy = Policy(model, shots, temperature=temperature, max_reply_tokens=reply_tokens, stop=shots.stop)
    return seated(context, policy, lambda snapshot: NO_RECALL)


async def sample(
    context: Context,
    tasks: Sequence[Task],
    policies: Mapping[str, Policy],
    *,
    generation: int,
    k: int = 1,
    arm: str = "",
) -> list[str]:
    """Keys of `k` training episodes on each task, those of a task together."""
    jobs = [
        Job(task, policies, "train", generation, attempt, arm=arm, seed=context.seed)
        for task in tasks
        for attempt in range(k)
    ]
    await context.rollouts.run(context.objective.environment_at(generation), jobs)
    return [job.key for job in jobs]


def sampled(tasks: Sequence[Task], *, generation: int, k: int) -> list[str]:
    """The keys that `sample` gave in that generation."""
    return [Job(task, {}, "train", generation, attempt).key for task in tasks for attempt in range(k)]
