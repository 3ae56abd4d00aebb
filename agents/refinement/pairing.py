"""Pairs of whole episodes of one task: the one that earned more before the one that earned less."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from evolvent.environments.types import Experience, Preference


def pair_by_reward(
    experts: Mapping[str, Experience], explored: Iterable[Experience], *, extra_rounds: int | None = None
) -> list[Preference]:
    """Each explored episode with the expert's of its task, where one of the two earned more (arXiv 2403.02502, §3.2).

    None where both earned the same, where one was never scored, or where one ends without a word of the agent.

    Args:
        experts: by task id.
        extra_rounds: by which an explored episode may be longer than the expert's when it is the worse one; the rest
            of it is cut off, or length would be the easiest thing to tell the two by. None cuts nothing.
    """
    pairs = []
    for tried in explored:
        expert = experts.get(tried.task.id)
        if expert is None or tried.feedback.score is None or expert.feedback.score is None:
            continue
        gained = tried.feedback.score - expert.feedback.score
        ours, theirs = tried.trajectory, expert.trajectory
        if gained < 0 and extra_rounds is not None:
            ours = replace(ours, steps=ours.steps[: len(theirs.steps) + extra_rounds])
        if not gained or not all(each.steps and each.steps[-1].reply for each in (ours, theirs)):
            continue
        chosen, rejected = (ours, theirs) if gained > 0 else (theirs, ours)
        pairs.append(Preference(tried.task, chosen, rejected, abs(gained), tried.feedback.source))
    return pairs
