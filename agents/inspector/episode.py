"""One trajectory, step by step: what was seen, what was sent and recalled, what came back, and what it was worth."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field

from starlette.requests import Request
from starlette.responses import Response

from evolvent.agents.inspector.facets import whole
from evolvent.agents.inspector.library import Look, Run
from evolvent.agents.inspector.respond import look, page
from evolvent.agents.inspector.steps import Calls, Prompt, asked, calls_by_step, prompt
from evolvent.agents.inspector.tracing import Call, Option, damage, options, outside, trace
from evolvent.environments.display import acted
from evolvent.environments.types import Step, Trajectory, merge
from evolvent.memory.errors import UnknownRecordError
from evolvent.memory.listing import Listed, Wanted
from evolvent.memory.types import Record

_ATTEMPTS = 30
"""Other attempts at the task that are listed."""
_NEAR = 40
"""Steps that are listed beside the one that is shown."""
_ABOUT = 20
"""Calls about the task outside episodes that are listed."""


@dataclass(frozen=True, slots=True)
class Found:
    """A record that retrieval found for an episode."""

    id: str
    shown: bool
    probability: float
    """Of being shown."""
    record: Record | None
    """As memory has it now; None where it has it no more."""


@dataclass(frozen=True, slots=True)
class At:
    """One step as the page shows it."""

    index: int
    step: Step
    prompt: Prompt
    action: str
    options: tuple[Option, ...]
    """Likeliest first."""
    calls: tuple[Call, ...]
    sent: tuple[tuple[str, str], ...]
    """Its prompt as turns: a call that was sent the same need not repeat it."""
    near: range
    """Steps to be listed beside it."""

    @property
    def asked(self) -> bool:
        return asked(self.step)

    @property
    def traced(self) -> bool:
        return any(call.sent == self.sent and not call.error for call in self.calls)


@dataclass(frozen=True, slots=True)
class Traced:
    """What the trace has of an episode, and of its task outside episodes."""

    calls: Calls = field(default_factory=lambda: Calls({}, []))
    about: tuple[Call, ...] = ()
    more: int = 0
    """Calls about the task that are not listed."""


def one(request: Request) -> Response:
    """The trajectory that the address names, at the step it asks for; past the last step, at that."""
    shown, name = look(request), request.path_params["id"]
    run, attempt = shown.run, shown.reading.attempt
    step = whole(request, "step") or 0
    rows = attempt("The episodes", lambda: _listed(run, Wanted(id=name), 1) if name else [])
    if rows is None:
        return page(request, "episode.html", look=shown, row=None, name=name, trajectory=None, now=None)
    if not rows:
        raise UnknownRecordError(f"There is no trajectory {name!r} in this run.")
    row = rows[0]
    seats = attempt("The trajectory", lambda: _seats(run, row)) or ()
    trajectory = next((seat for seat in seats if seat.id == name), None)
    traced = attempt("The trace", lambda: _traced(shown, row, seats)) or Traced()
    alike = Wanted(task=row.task, phase=row.phase, generation=row.generation)
    return page(
        request,
        "episode.html",
        look=shown,
        row=row,
        name=name,
        trajectory=trajectory,
        now=_at(trajectory, step, traced.calls) if trajectory and trajectory.steps else None,
        acted=acted,
        traced=traced,
        recalled=(attempt("The records recalled", lambda: _recalled(run, trajectory)) or []) if trajectory else [],
        hidden=json.dumps(trajectory.task.data, indent=2, ensure_ascii=False, default=str) if trajectory else "",
        seats=[seat for seat in seats if seat.id != name],
        attempts=[
            each
            for each in attempt("The other attempts", lambda: _listed(run, alike, _ATTEMPTS)) or []
            if each.episode != row.episode
        ],
    )


def _at(trajectory: Trajectory, index: int, calls: Calls) -> At:
    index = min(max(index, 0), len(trajectory.steps) - 1)
    step = trajectory.steps[index]
    action = acted(step.action)
    first = max(0, min(index - _NEAR // 2, len(trajectory.steps) - _NEAR))
    return At(
        index,
        step,
        prompt(trajectory, index),
        action,
        options(step.sampling.options, step.sampling.probabilities, action),
        tuple(calls.by_step.get((trajectory.player, index), ())),
        tuple(merge(trajectory.prompt(index))),
        range(first, min(first + _NEAR, len(trajectory.steps))),
    )


def _listed(run: Run, wanted: Wanted, limit: int) -> list[Listed]:
    with run.memory() as memory:
        return memory.ledger.listed(wanted, limit=limit)


def _seats(run: Run, row: Listed) -> tuple[Trajectory, ...]:
    """All trajectories of its episode."""
    with run.memory() as memory:
        return memory.ledger.episode(row.episode) or ()


def _recalled(run: Run, trajectory: Trajectory) -> list[Found]:
    with run.memory() as memory:
        records = memory.records() if trajectory.recalled else {}
    return [Found(each.record, each.shown, each.probability, records.get(each.record)) for each in trajectory.recalled]


def _traced(shown: Look, row: Listed, seats: Sequence[Trajectory]) -> Traced:
    found = trace(shown.run)
    made = found.read(found.of({row.episode, *(seat.id for seat in seats)}))
    about = outside(shown.run, found, (row.task, row.generation))
    listed = found.read(about[:_ABOUT])
    shown.reading.problems += damage(found)
    return Traced(calls_by_step(seats, made), tuple(listed), len(about) - len(listed))
