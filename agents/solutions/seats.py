"""Who plays which seat of an environment with several: the agent that learns, and whoever it meets.

Without a model for the role `opponent` the learning agent plays every seat.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace

from evolvent.agents.context import Context
from evolvent.agents.models.role import RoleModel
from evolvent.agents.solutions.act import Policy
from evolvent.agents.solutions.recall import NO_RECALL, Recall
from evolvent.memory.store import Snapshot


def learning_seat(context: Context) -> str:
    """The seat that learns: the last one when there is an opponent, else every seat ("")."""
    return context.players[-1] if "opponent" in context.models else ""


def seated(context: Context, acting: Policy, recall_from: Callable[[Snapshot], Recall]) -> dict[str, Policy]:
    """Policies by seat for one batch of episodes.

    An opponent that is an earlier self (`generation:N`) recalls what that generation knew, or the last one before it
    that this run has finished; any other opponent recalls nothing.
    """
    if "opponent" not in context.models:
        return {"": acting}
    commit = _known_at(context, context.earlier_selves["opponent"]) if "opponent" in context.earlier_selves else None
    recall = recall_from(context.memory.snapshot(commit)) if commit else NO_RECALL
    return {learning_seat(context): acting, "": replace(acting, model=context.model("opponent"), recall=recall)}


def bare(context: Context, model: RoleModel) -> dict[str, Policy]:
    """Every seat's policy with that model in the learning seats, and nothing recalled."""
    return seated(context, Policy(model), lambda snapshot: NO_RECALL)


def _known_at(context: Context, generation: int) -> str | None:
    """The commit that generation recalled from; None for generation 0, which knew nothing."""
    finished = context.memory.ledger.generations()
    number = min(generation, max(finished, default=0))
    if number == 0:
        return None
    return str(json.loads(finished[number])["model"]["memory"])
