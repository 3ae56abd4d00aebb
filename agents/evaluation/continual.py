"""How a model that learns one task after the other does on all of them: average, and what was gained or lost by others.

The accuracies a[i][j], on task j after stage i, are one row a generation; row 0 is the frozen model. Backward and
forward transfer are those of GEM (arXiv 1706.08840), the average is over the tasks that were learned so far.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any

from evolvent.agents.context import Context
from evolvent.agents.evolution import finish_generation, spent_on
from evolvent.agents.models.role import RoleModel
from evolvent.agents.tasks.skills import Skill, judge_skills
from evolvent.environments.types import Cost


@dataclass(frozen=True, slots=True)
class Transfer:
    average: float
    """Mean accuracy over the tasks learned so far; in [0, 1]."""
    backward: float | None
    """Mean change on earlier tasks since each was learned, in [-1, 1]: below 0 is forgotten. None for one task."""
    forward: float | None
    """Mean change on later tasks of the stream, before each was learned, against the frozen model."""


def transfer(accuracies: Sequence[Sequence[float]]) -> Transfer:
    """
    Args:
        accuracies: a[i][j] with stages from 0, the frozen model, and tasks from 0: task j is learned in stage j + 1.

    Raises:
        ValueError: no stage after the frozen model.
    """
    stage = len(accuracies) - 1
    if stage < 1:
        raise ValueError("Nothing was learned yet; expected a row of the frozen model and one of each stage.")
    last = accuracies[stage]
    backward = [last[j] - accuracies[j + 1][j] for j in range(stage - 1)]
    forward = [accuracies[j][j] - accuracies[0][j] for j in range(1, stage)]
    return Transfer(fmean(last[:stage]), fmean(backward) if backward else None, fmean(forward) if forward else None)


async def judge_stream(
    context: Context,
    model: RoleModel,
    stream: Sequence[Skill],
    *,
    generation: int,
    adapter: str = "",
    asked: Mapping[str, Any] = {},
    reply_tokens: int = 64,
    written: bool = False,
    **more: Any,
) -> None:
    """The model's greedy play on held-out tasks of the whole stream, kept as the generation's row.

    The row has `by_task`, accuracies in the order of the stream, and, from the first stage on, `transfer`.

    Args:
        asked: what the generation's model calls outside episodes cost.
        written: answers are written also where options could be scored.
        more: fields of the row beside these.
    """
    context.say(f"generation {generation}: evaluating {len(stream)} tasks")
    judged = await judge_skills(
        context,
        model,
        stream,
        "test",
        context.objective.evaluated,
        phase="eval",
        generation=generation,
        reply_tokens=reply_tokens,
        written=written,
    )
    rows = {number: json.loads(text) for number, text in context.memory.ledger.generations().items()}
    before = [rows[number]["by_task"] for number in range(generation)]
    accuracies = [*before, [judged.by_skill[each.name] for each in stream]]
    told = {"transfer": asdict(transfer(accuracies))} if generation else {}
    finish_generation(
        context,
        generation,
        judged.whole,
        spent=spent_on(context, generation) + Cost(**asked),
        adapter=adapter,
        by_task=accuracies[-1],
        **told,
        **more,
    )
