"""Evolvent's own proof, for any system that keeps records: the gate before one counts, dropout and retrial after.

A record waits as a candidate until paired validation episodes, with it and without it, prove it; what is active is
withheld from training episodes now and then, and tried again once that casts doubt on it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from evolvent.agents.context import Context
from evolvent.agents.evaluation.gate import Side, tests_so_far, try_again, try_candidate
from evolvent.agents.evolution import keep
from evolvent.agents.solutions.act import Policy
from evolvent.agents.solutions.found import Showing
from evolvent.environments.errors import BadOptionError
from evolvent.environments.types import Task
from evolvent.memory.credit import credit_events, exposures
from evolvent.memory.episodes import Episode
from evolvent.memory.gate import Staleness, level, suspect
from evolvent.memory.types import Event, Record

VALIDATION_TASKS = (160, 80, 40, 20, 10)
"""Drawn once, as many as there are; those that a record bears on are played."""
_DOUBT = 200.0
"""Episodes, on average and at least, until dropout casts doubt on a rule that earns its place: it costs a few pairs."""

Seats = Callable[[Showing], Mapping[str, Policy]]
"""Every seat's policy, with memory as it is now, shown in this way."""


async def prove(
    context: Context,
    candidates: Sequence[Record],
    seats: Seats,
    bears_on: Callable[[Record, Task], bool],
    *,
    generation: int,
    pairs: int,
    false_discoveries: float,
    minimum: float,
) -> None:
    """Try candidates at the gate and doubtful records once more, and commit what came of it.

    Args:
        bears_on: whether a record would be recalled for a task; others would only show that it changes nothing.
        pairs: validation episodes with and without one record at most.
        false_discoveries: bound on the expected share of false records among the promoted, over the whole run.
        minimum: gain in score below which a record is retired.
    """
    if any(commit.key == f"{generation}/prove" for commit in context.memory.ledger.commits()):
        return  # a resumed run finds the verdicts there; the memory they were reached against is past
    tasks = validation(context, generation)
    as_it_is = Side(f"memory-{context.memory.ledger.head()[:8]}", seats(Showing(proved=True)))
    tested, promoted = tests_so_far(context)
    events: list[Event] = credit_events(exposures(trained(context)), context.memory.records())
    for number, record in enumerate(candidates, 1):
        context.say(f"generation {generation}: candidate {number} of {len(candidates)} at the gate")
        tested += 1
        evidence = await try_candidate(
            context,
            record,
            Side(f"with-{record.id}", seats(Showing(proved=True, beside=(record.id,)))),
            as_it_is,
            [task for task in tasks if bears_on(record, task)],
            generation=generation,
            level=level(tested, promoted, fdr=false_discoveries),
            most=pairs,
        )
        passed = evidence.verdict == "promoted"
        promoted += passed
        events.append(Event("activate" if passed else "reject", record.id, payload={"gate": asdict(evidence)}))
    active = {key: record for key, record in context.memory.records().items() if record.status == "active"}

    async def without(record: Record) -> Side:
        return Side(f"barred-{record.id}", seats(Showing(proved=True, barred=(record.id,))))

    def bearing(record: Record) -> list[Task]:
        return [task for task in tasks if bears_on(record, task)]

    events += await retrials(
        context, active, as_it_is, without, bearing, generation=generation, pairs=pairs, minimum=minimum
    )
    keep(context, "prove", generation, events)


async def retrials(
    context: Context,
    active: Mapping[str, Record],
    as_it_is: Side,
    without: Callable[[Record], Awaitable[Side]],
    tasks: Callable[[Record], Sequence[Task]],
    *,
    generation: int,
    pairs: int,
    minimum: float,
) -> list[Event]:
    """Records in doubt are tried again; the events say which are retired, and on what grounds the others stay."""
    events = []
    for record, doubt in doubtful(context, active, minimum=minimum):
        context.say(f"generation {generation}: trying a rule again")
        again = await try_again(
            context,
            record,
            as_it_is,
            await without(record),
            tasks(record),
            generation=generation,
            minimum=minimum,
            most=pairs,
        )
        both = {"staleness": asdict(doubt), "retrial": asdict(again)}
        if again.worth == "retire":
            events.append(retired(record.id, f"worth less than {minimum}", **both))
        else:
            events.append(Event("credit", record.id, payload=both))
    return events


def validation(context: Context, generation: int) -> list[Task]:
    """The tasks on which records are proved, the same in every generation."""
    *more, least = VALIDATION_TASKS
    for number in more:
        try:
            return context.tasks("validation", number, generation)
        except BadOptionError:
            continue  # a small world has fewer
    return context.tasks("validation", least, generation)


def trained(context: Context, after: int = 0) -> list[Episode]:
    """Training episodes of the generations after that one; in an order that does not depend on which ended first."""
    episodes = [(each.trajectories[0].generation, each) for each in context.memory.ledger.episodes(phase="train")]
    return [each for number, each in sorted(episodes, key=lambda it: (it[0], it[1].key)) if number > after]


def doubtful(context: Context, active: Mapping[str, Record], *, minimum: float) -> list[tuple[Record, Staleness]]:
    """Active records whose lift has fallen, as far as training since they were proved, or last tried again, tells."""
    since: dict[str, int] = {}
    for commit in context.memory.ledger.commits():
        for event in context.memory.ledger.events_of(commit.id):
            if event.kind == "activate" or "retrial" in event.payload:
                since[event.record_id] = commit.generation
    seen_after = {start: exposures(trained(context, start)) for start in {since.get(key, 0) for key in active}}
    found = []
    for key, record in active.items():
        seen = seen_after[since.get(key, 0)].get(key, ())
        doubt = suspect(seen, minimum=minimum, run_length=_DOUBT)
        found += [(record, doubt)] if doubt.stale else []
    return found


def retired(record: str, reason: str, **evidence: Any) -> Event:
    return Event("retire", record, payload={"reason": reason, **evidence})
