"""What the distillations of a run made its model forget, read back from what `evolvent distill` left in the ledger."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping

from evolvent.agents.evaluation.forgetting import Ability, forgetting
from evolvent.memory.ledger import Ledger
from evolvent.memory.types import Interval

_BASE = "base"
"""What `distilled_run` calls the arm without any adapter. That module loads what training needs; a reader does not."""


def forgotten(ledger: Ledger, *, seed: int = 0) -> dict[str, dict[str, Interval]]:
    """Change of each ability by adapter, in the order in which they were measured; below zero is forgotten.

    Success is in [0, 1], prose in nats per token; see `evaluation.forgetting`. Only what was measured before and after
    stands here.
    """
    measured: dict[str, dict[str, Ability]] = defaultdict(dict)
    scores: dict[tuple[str, str], dict[str, float]] = defaultdict(dict)
    for each in ledger.ended():
        arm, _, world = each.arm.partition("/")
        if each.phase == "control" and world and not each.failure:
            scores[arm, _named(world)][each.task] = float(each.success)
    for (arm, ability), items in scores.items():
        measured[arm][ability] = Ability(items)
    for generation in ledger.generations():
        for key, text in ledger.memos(f"{generation}/prose/").items():
            arm = key.removeprefix(f"{generation}/prose/").rpartition("/")[0]
            measured[arm]["prose"] = Ability(json.loads(text), better="lower")
    base = measured.pop(_BASE, {})
    changes = {arm: _both(base, abilities, seed) for arm, abilities in measured.items()}
    return {arm: change for arm, change in changes.items() if change}


def _both(base: Mapping[str, Ability], after: Mapping[str, Ability], seed: int) -> dict[str, Interval]:
    shared = [name for name in base if name in after]
    return forgetting({name: base[name] for name in shared}, {name: after[name] for name in shared}, seed=seed)


def _named(world: str) -> str:
    """`labelled:task=plain` is called as the report of the distillation called it: plain."""
    name, _, options = world.partition(":")
    given = dict(option.partition("=")[::2] for option in options.split(","))
    return given.get("task", name)
