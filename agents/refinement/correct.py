"""Rejection sampling: what the environment calls right is kept, so much of it, and handed on as a data set."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import replace

from evolvent.agents.context import Context
from evolvent.agents.evolution import State
from evolvent.environments.types import Experience, Trajectory
from evolvent.memory.weights.dataset import DataSet, Example, read_jsonl, write_jsonl


def correct(found: Iterable[Experience]) -> list[Trajectory]:
    """The attempts that succeeded, all or nothing, in their order."""
    return [each.trajectory for each in found if each.trajectory.outcome.success]


def wrong(found: Iterable[Experience]) -> list[Trajectory]:
    """The attempts that failed for want of skill, in their order."""
    return [
        each.trajectory for each in found if each.feedback.score is not None and not each.trajectory.outcome.success
    ]


def by_task(trajectories: Iterable[Trajectory]) -> dict[str, list[Trajectory]]:
    """By task id, in their order."""
    found: dict[str, list[Trajectory]] = defaultdict(list)
    for each in trajectories:
        found[each.task.id].append(each)
    return dict(found)


def capped(trajectories: Iterable[Trajectory], most: int, rng: Callable[[str], random.Random]) -> list[Trajectory]:
    """At most so many of each task, drawn without replacement, so that easy tasks do not outweigh the others.

    Args:
        rng: of a task's id.
    """
    kept: list[Trajectory] = []
    for task, tried in by_task(trajectories).items():
        kept += tried if len(tried) <= most else rng(task).sample(tried, most)
    return kept


def as_often(dataset: DataSet) -> DataSet:
    """The same rows, each weighing as many as the attempts that said just this."""
    return DataSet(
        dataset.name,
        tuple(
            replace(item, weight=float(len(item.origins))) if isinstance(item, Example) else item
            for item in dataset.items
        ),
    )


def keep_rows(context: Context, dataset: DataSet) -> State:
    """Write what a generation trains on to the run's folder, for the node that trains."""
    full = f"{dataset.name}@{dataset.hash}"
    write_jsonl(dataset, context.directory / "datasets" / full)
    context.say(f"{len(dataset)} rows are kept")
    return {"dataset": full}


def kept_rows(context: Context, state: State) -> DataSet:
    """What `keep_rows` wrote."""
    return read_jsonl(context.directory / "datasets" / state["dataset"])
