"""Pairs whose truth is known, as a judge meets them: both orders of each, and the truth once verdicts are handed in."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from evolvent.agents.context import Context
from evolvent.agents.evaluation.judge_audit import Judged
from evolvent.agents.feedback.judge import Both, renamed, swapped, verdict_of
from evolvent.agents.solutions.scratchpad import Scratchpad
from evolvent.environments.judging import Pair, Verdict, deal_of, flaw_of, pair_of, truth_told
from evolvent.environments.types import Phase, Task

_WORDY = ("repeated", "padded")
"""Flaws that add words alone."""


@dataclass(frozen=True, slots=True)
class Order:
    """A pair as it is shown once."""

    task: Task
    number: int
    """Under which the judge's word on it stands on the scratchpad: 1 where the task itself shows the other order."""
    pair: Pair


Orders = tuple[Order, Order]


def in_both_orders(task: Task, pair: Pair) -> Orders:
    return Order(task, 0, pair), Order(task, 1, swapped(pair))


def dealt(tasks: Iterable[Task]) -> dict[str, Orders]:
    """Every pair in both orders, by deal; where only one of them is a task, that one is judged both ways."""
    by_deal: dict[str, list[Task]] = defaultdict(list)
    for task in tasks:
        by_deal[deal_of(task)].append(task)
    return {
        name: (Order(first, 0, pair_of(first)), Order(others[0], 0, pair_of(others[0])))
        if others
        else in_both_orders(first, pair_of(first))
        for name, (first, *others) in by_deal.items()
    }


def said(pad: Scratchpad, orders: Orders, purpose: str) -> Both:
    """The judge's word on both orders, in the names of the first."""
    first, second = (verdict_of(pad.said(order.task, purpose, order.number) or "") for order in orders)
    return Both(first, renamed(second))


def verdicts(orders: Orders, both: Both) -> dict[str, Verdict | None]:
    """What stands in both orders, by task, in the names of the order that the task shows."""
    first, second = orders
    return {second.task.id: renamed(both.verdict), first.task.id: both.verdict}


def judged(context: Context, pad: Scratchpad, generation: int, *, purpose: str, bare: str) -> dict[str, Judged]:
    """By deal, all that the environment has told the truth of.

    Args:
        purpose: under which the judge was asked.
        bare: under which it was asked again without the reference.
    """
    _, truths = handed_in(context, generation, "train")
    found = {}
    for name, orders in dealt(pad.tasks).items():
        truth = _truth(orders, truths)
        if truth is not None:
            without = said(pad, orders, bare) if orders[0].pair.reference else None
            found[name] = Judged(said(pad, orders, purpose), truth, _longer(orders[0]), without)
    return found


def handed_in(context: Context, generation: int, phase: Phase) -> tuple[dict[str, str], dict[str, Verdict]]:
    """The verdicts that were handed in as episodes of one step, and the truth that came back for each; by task."""
    verdicts: dict[str, str] = {}
    truths: dict[str, Verdict] = {}
    for episode in context.memory.ledger.episodes(generation=generation, phase=phase):
        for seat in episode.trajectories:
            if not seat.outcome.failure:
                (step,) = seat.steps
                verdicts[seat.task.id], truths[seat.task.id] = step.action.text, truth_told(step.result)
    return verdicts, truths


def _truth(orders: Orders, truths: Mapping[str, Verdict]) -> Verdict | None:
    """In the names of the first order; None where no verdict came back."""
    first, second = orders
    if first.task.id in truths:
        return truths[first.task.id]
    return renamed(truths.get(second.task.id))


def _longer(order: Order) -> Verdict | None:
    first, second = map(len, order.pair.answers)
    return ("A" if first > second else "B") if flaw_of(order.task) in _WORDY else None
