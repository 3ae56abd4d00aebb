"""The first page of one run: what came of it, what it learned and whether that helps, what it cost, how it was made."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from evolvent.agents.findings import Decision, Findings, Reading, read_findings, strongest
from evolvent.agents.inspector.figures import Figure, learning_curve, records_by_status
from evolvent.agents.inspector.library import Run
from evolvent.agents.inspector.respond import interval, library, look, page
from evolvent.agents.inspector.summaries import beside, controls_of, result_of, summary
from evolvent.agents.listings import plain
from evolvent.agents.recipes.catalog import load_recipe
from evolvent.agents.report import verdict_in_words
from evolvent.agents.run import RunConfig
from evolvent.memory.types import WEIGHTS, Interval, Record

SHOWN = 5
"""Of each list at first; more are folded, and memory holds them all."""
_FOLDED = 100
_NO_RESULT = "There is no result to report yet."
_NO_RUN = "This is a memory without a run: nothing was measured here."
_OF_A_RUN = ("The configuration", "The result", "The costs by phase")
"""What only a run has."""


@dataclass(frozen=True, slots=True)
class Judged:
    """A record that the gate has judged, in words a newcomer understands."""

    record: Record
    proof: str
    """What the gate saw."""
    worth: str
    """What showing it in training was worth; empty where it was not measured."""
    since: str
    """Why it is not in use any more; empty while it is."""


@dataclass(frozen=True, slots=True)
class Setting:
    name: str
    here: str
    paper: str


def overview(request: Request) -> Response:
    shown = look(request)
    run, reading = shown.run, shown.reading
    short = summary(run, Reading())
    # A reading of its own inside: what it could not read is told below, once.
    known = result_of(run, Reading())
    found = run.kept("findings", lambda: _findings(run, known))
    without_run = not (run.path / "config.json").exists()
    reading.problems += [each for each in found.problems if not (without_run and each.startswith(_OF_A_RUN))]
    final = {each.record.id: each for each in found.decisions}
    reasons = reading.attempt("Why records were retired", lambda: _reasons(run, list(final))) or {}
    judged = [(each, _judged(each, reasons.get(each.record.id, {}))) for each in strongest(final.values())]
    rules = [(each, told) for each, told in judged if each.record.kind not in WEIGHTS]
    config = found.config
    return page(
        request,
        "run.html",
        look=shown,
        found=found,
        short=short,
        said=verdict_in_words(found.result) if found.result else _NO_RUN if without_run else _NO_RESULT,
        proved=[told for each, told in rules if each.promoted],
        turned_away=[told for each, told in rules if not each.promoted],
        weights=[(each, told) for each, told in judged if each.record.kind in WEIGHTS],
        beside=() if without_run else beside(run, reading),
        controls=controls_of(run, library(request)),
        settings=(reading.attempt("The settings", lambda: _settings(config)) if config else None) or [],
        configuration=[(name, plain(value)) for name, value in config.model_dump(mode="json").items()]
        if config
        else [],
        figures=_figures(found),
        resume=shlex.quote(str(run.path)),
        shown=SHOWN,
        folded=_FOLDED,
    )


def _findings(run: Run, known: Mapping[str, Any] | None) -> Findings:
    def read() -> Findings:
        with run.memory() as memory:
            return read_findings(run.path, known, with_origins=False, memory=memory)

    # Where memory cannot be opened the findings say so themselves.
    return Reading().attempt("The memory", read) or read_findings(run.path, known, with_origins=False)


def _figures(found: Findings) -> list[Figure]:
    figures = []
    if found.result:
        figures.append(learning_curve({str(found.result["recipe"]): found.result}))
    if any(count for each in found.by_status.values() for count in each.values()):
        figures.append(records_by_status(found.by_status))
    return figures


def _judged(decision: Decision, reason: Mapping[str, Any]) -> Judged:
    mean = float(decision.gate.get("mean", 0))
    claim = "Helps" if decision.promoted else "Not shown to help"
    proof = (
        f"{claim}: tried with and without it in generation {decision.generation}, it {decision.evidence} "
        f"({mean:+.2f} on average; e-value {decision.strength} needed)."
    )
    record = decision.record
    since = _gone(record, reason) if decision.promoted and record.status != "active" else ""
    return Judged(record, proof, _worth(record.lift), since)


def _worth(lift: Interval | None) -> str:
    """The estimate from withholding it at random in training."""
    if lift is None:
        return ""
    claim = "better" if lift.low > 0 else "worse" if lift.high < 0 else "no difference is shown yet"
    return f"In training since, shown against withheld: {interval(lift)} over {lift.n} episodes, {claim}."


def _gone(record: Record, reason: Mapping[str, Any]) -> str:
    by, why = str(reason.get("by", "")), str(reason.get("reason", ""))
    if why == "absorbed":
        return f"The weights know it now (adapter {by}), so it left the prompt."
    if why == "replaced":
        return f"Replaced by {by}."
    return f"It is {record.status} now" + (f": {why}." if why else ".")


def _reasons(run: Run, ids: Sequence[str]) -> dict[str, Mapping[str, Any]]:
    """What was said of the last retirement of each of these records."""
    with run.memory() as memory:
        events = {each: memory.ledger.events_about(each) for each in ids[:_FOLDED]}
    retired = {
        each: [event.payload for _, event in about if event.kind == "retire" and event.record_id == each]
        for each, about in events.items()
    }
    return {each: payloads[-1] for each, payloads in retired.items() if payloads}


def _settings(config: RunConfig) -> list[Setting]:
    """The recipe's settings that are not those of its paper."""
    here, presets = config.recipe_config(), load_recipe(config.recipe).PRESETS
    if "paper" not in presets:
        return []
    paper = presets["paper"].model_dump(mode="json")
    ours = here.model_dump(mode="json")
    return [Setting(name, plain(ours[name]), plain(paper.get(name))) for name in ours if ours[name] != paper.get(name)]


routes = [Route("/run/{run}", overview)]
