"""Whether a population keeps a skill that its evolution has nothing to do with: sums, while it learns manners."""

from __future__ import annotations

from collections.abc import Mapping

from evolvent.agents.context import Context
from evolvent.agents.episode import Job
from evolvent.agents.solutions.act import Policy
from evolvent.environments.catalog import build_inline
from evolvent.environments.protocol import EnvironmentSpec

_WORLD = EnvironmentSpec("word_problems")
_REPLY_TOKENS = 64


async def proficiency(
    context: Context, seats: Mapping[str, Mapping[str, Policy]], n: int, *, generation: int
) -> dict[str, float] | None:
    """Mean score on `n` word problems of the `population`, and of the `frozen` model that plays nobody; None for no n.

    Args:
        seats: by individual.
    """
    if not n:
        return None
    world = build_inline(_WORLD)
    tasks = world.tasks("test", n, context.seed)
    world.close()
    plain = {"": Policy(context.model("actor"), max_reply_tokens=_REPLY_TOKENS)}
    sides = {
        "frozen": [Job(task, plain, "control", 0, arm="skill", seed=context.seed) for task in tasks],
        "population": [
            Job(task, seat, "control", generation, arm=f"skill-{name}", seed=context.seed)
            for name, seat in seats.items()
            for task in tasks
        ],
    }
    means = {}
    for side, jobs in sides.items():
        scores = [each.outcome.score for episode in await context.rollouts.run(_WORLD, jobs) for each in episode]
        means[side] = sum(scores) / len(scores)
    return means
