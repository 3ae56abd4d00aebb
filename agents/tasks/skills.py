"""Skills: one environment with several settings, each learned by a model of its own and all judged together."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

from evolvent.agents.context import Context
from evolvent.agents.episode import Job
from evolvent.agents.errors import SetupError
from evolvent.agents.evaluation.held_out import Evaluation, evaluation
from evolvent.agents.models.role import RoleModel
from evolvent.agents.rollout import Episode
from evolvent.agents.solutions.act import Policy
from evolvent.environments.catalog import build_inline
from evolvent.environments.protocol import EnvironmentSpec
from evolvent.environments.types import Phase, Split, Task

Options = Mapping[str, Any]
"""Of an environment, over those of the run."""
PAIRS: Mapping[str, tuple[Options, ...]] = {
    "labelled": ({"task": "intents-1"}, {"task": "entities-1"}),
    "word_problems": ({"steps": 1}, {"steps": 2}),
    "reasoning_gym": ({"task": "chain_sum"}, {"task": "spell_backward"}),
}
"""What is taken where a run does not say, by environment."""


@dataclass(frozen=True, slots=True)
class Skill:
    name: str
    """`skill-1`, …"""
    environment: EnvironmentSpec


@dataclass(frozen=True, slots=True)
class Judged:
    whole: Evaluation
    """Over the tasks of all skills."""
    by_skill: Mapping[str, float]
    """Mean score by name; 0 where every episode failed for reasons of infrastructure."""


def skills(context: Context, options: Sequence[Options], generation: int = 0) -> tuple[Skill, ...]:
    """One for each of `options`; without any those of `PAIRS`, or of one skill that is the environment as it is.

    Raises:
        SetupError: the environment refuses such an option.
    """
    spec = context.objective.environment_at(generation)
    found = options or PAIRS.get(spec.name, ({},))
    return tuple(
        Skill(f"skill-{number}", replace(spec, options={**spec.options, **each}))
        for number, each in enumerate(found, start=1)
    )


def skill_tasks(context: Context, skill: Skill, split: Split, n: int, generation: int = 0) -> list[Task]:
    """Of one skill. Validation and test tasks are the same in every generation."""
    environment = build_inline(skill.environment)
    try:
        return environment.tasks(split, n, context.seed * 1000 + (generation if split == "train" else 0))
    finally:
        environment.close()


async def judge_skills(
    context: Context,
    model: RoleModel,
    among: Sequence[Skill],
    split: Split,
    n: int,
    *,
    phase: Phase,
    generation: int,
    arm: str = "",
    reply_tokens: int = 64,
    written: bool = False,
) -> Judged:
    """The model's greedy play, without memory, on `n` tasks in all, of each skill about equally many.

    Args:
        arm: tells this model's episodes from those of others: an episode that the ledger holds is not played again.
        written: actions are written also where options could be scored.
    """
    if len({str(each.environment) for each in among}) < len(among):
        raise SetupError(f"Skills {[dict(each.environment.options) for each in among]}; expected each once.")
    seats = {"": Policy(model, max_reply_tokens=reply_tokens, written=written)}
    shares = [n // len(among) + (place < n % len(among)) for place in range(len(among))]
    jobs = [
        [
            Job(task, seats, phase, generation, arm=arm, seed=context.seed)
            for task in skill_tasks(context, skill, split, share, generation)
        ]
        for skill, share in zip(among, shares, strict=True)
    ]
    played: list[list[Episode]] = await asyncio.gather(
        *(context.rollouts.run(skill.environment, each) for skill, each in zip(among, jobs, strict=True))
    )
    parts = [evaluation(some, episodes, seed=context.seed) for some, episodes in zip(jobs, played, strict=True)]
    return Judged(
        evaluation(list(chain(*jobs)), list(chain(*played)), seed=context.seed),
        {skill.name: part.success.mean if part.scores else 0.0 for skill, part in zip(among, parts, strict=True)},
    )
