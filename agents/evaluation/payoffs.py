"""What seats earn on the same hands: totals that may be compared, because cards and chairs are the same for all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from evolvent.agents.context import Context
from evolvent.agents.episode import Job
from evolvent.agents.solutions.table import learner

BREAK_EVEN = 0.5
"""Score of a hand that neither won nor lost."""

Payoffs = Mapping[str, float]
"""By task: score above break even, in [-0.5, 0.5]; hands that infrastructure failed are left out."""


async def payoffs(context: Context, generation: int, *tables: Sequence[Job]) -> list[Payoffs]:
    """What the learner earned at each of these tables; jobs of one key are one episode."""
    every = {job.key: job for jobs in tables for job in jobs}
    episodes = await context.rollouts.run(context.objective.environment_at(generation), list(every.values()))
    outcomes = {key: learner(context, episode).outcome for key, episode in zip(every, episodes, strict=True)}
    return [
        {job.task.id: outcomes[job.key].score - BREAK_EVEN for job in jobs if not outcomes[job.key].failure}
        for jobs in tables
    ]


def total(earned: Payoffs) -> float:
    return round(sum(earned.values()), 6)


def earns_more(one: Payoffs, other: Payoffs) -> bool:
    """Whether the total is higher on the hands that both finished."""
    both = sorted(one.keys() & other.keys())
    return sum(one[hand] - other[hand] for hand in both) > 1e-9  # sums of thirds are no exact numbers
