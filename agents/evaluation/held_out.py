"""How good a policy is on tasks nobody learned from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from evolvent.agents.context import Context
from evolvent.agents.episode import Job
from evolvent.agents.evaluation.statistics import interval
from evolvent.agents.rollout import Episode
from evolvent.agents.solutions.act import Policy
from evolvent.environments.types import Cost, Phase
from evolvent.memory.types import Interval


@dataclass(frozen=True, slots=True)
class Evaluation:
    scores: Mapping[str, tuple[float, ...]]
    """By task; episodes that infrastructure failed are left out."""
    success: Interval
    solved: float
    """Share of episodes with all-or-nothing success."""
    cost: Cost
    dropped: int
    """Episodes that infrastructure failed."""

    @property
    def prompt_tokens(self) -> float:
        """Of an episode, on average."""
        return self.cost.tokens_in / max(1, len(self.scores))


async def evaluate_held_out(
    context: Context,
    policies: Mapping[str, Policy],
    *,
    generation: int,
    phase: Phase = "eval",
    arm: str = "",
    player: str = "",
    world: int | None = None,
) -> Evaluation:
    """One episode on each held-out task. The score is that of `player`, or the mean of all seats.

    The environment is that of generation `world`, by default of `generation` itself.
    """
    world = generation if world is None else world
    tasks = context.tasks("test", context.objective.evaluated, world)
    jobs = [Job(task, policies, phase, generation, arm=arm, seed=context.seed) for task in tasks]
    episodes = await context.rollouts.run(context.objective.environment_at(world), jobs)
    return evaluation(jobs, episodes, player=player, seed=context.seed)


def evaluation(jobs: Sequence[Job], episodes: Sequence[Episode], *, player: str = "", seed: int) -> Evaluation:
    """Of episodes that were played, one on each task; see `evaluate_held_out`."""
    scores: dict[str, tuple[float, ...]] = {}
    cost, dropped, solved = Cost(), 0, 0
    for job, episode in zip(jobs, episodes, strict=True):
        cost = sum((each.cost for each in episode), cost)
        if any(each.outcome.failure for each in episode):
            dropped += 1
            continue
        seats = [each.outcome.score for each in episode if player in ("", each.player)]
        scores[job.task.id] = (sum(seats) / len(seats),)
        solved += all(each.outcome.success for each in episode if player in ("", each.player))
    success = interval(scores, seed=seed)
    return Evaluation(scores, success, solved / max(1, len(scores)), cost, dropped)
