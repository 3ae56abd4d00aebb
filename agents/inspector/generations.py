"""Generation by generation: which model it was, how well it did, what it cost, and every commit of its memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from evolvent.agents.findings import Reading
from evolvent.agents.inspector.adapters import forgetting, listed
from evolvent.agents.inspector.figures import Figure, accuracy_map, cost_against_success, forgetting_map
from evolvent.agents.inspector.library import Run
from evolvent.agents.inspector.paging import pages
from evolvent.agents.inspector.respond import library, look, page
from evolvent.agents.inspector.summaries import result_of
from evolvent.agents.listings import plain
from evolvent.agents.rivals import rows_of
from evolvent.memory.history import Logged, log
from evolvent.memory.ledger import ROOT
from evolvent.memory.types import Record

_TOLD = ("generation", "model", "scores", "frozen_scores", "solved", "dropped", "evaluation_cost", "cost")
"""Of a generation's row: shown in columns, or too long for a table."""
_INDIVIDUALS = 24


@dataclass(frozen=True, slots=True)
class Generation:
    number: int
    base: str
    adapter: str
    """Full name; empty for the base weights."""
    memory: str
    """Commit it recalled from; empty where memory was empty."""
    individuals: Sequence[tuple[str, str]]
    """(id, text) of the records that are its genomes, where a generation holds several models."""
    held_out: Mapping[str, float] | None
    solved: float
    dropped: int
    cost: Mapping[str, float]
    evaluation: Mapping[str, float]
    facts: Sequence[tuple[str, str]]
    """What its recipe kept beside these."""


@dataclass(frozen=True, slots=True)
class Stage:
    """Accuracies on the tasks of a stream after one of them was learned."""

    number: int
    accuracies: Sequence[float]
    transfer: Mapping[str, float | None]
    """average, backward, forward; empty for the frozen model."""


def generations(request: Request) -> Response:
    shown = look(request)
    run, reading = shown.run, shown.reading
    rows, records = reading.attempt("The generations", lambda: _rows(run)) or ([], {})
    result = result_of(run, Reading()) if rows else None
    held = {each["generation"]: each["held_out"] for each in result["generations"]} if result else {}
    made = [reading.attempt(f"Generation {index}", partial(_generation, row, held, records)) for index, row in rows]
    line, branches = reading.attempt("The commit log", lambda: _log(run)) or ([], {})
    at = pages(request, len(line), fragment="log")
    forgot = forgetting(run, reading)
    stages = reading.attempt("What was learned of each task", lambda: _stages([row for _, row in rows])) or []
    tasks = [f"task {index + 1}" for index in range(len(stages[0].accuracies))] if stages else []

    return page(
        request,
        "generations.html",
        look=shown,
        generations=[each for each in made if each is not None],
        most=_INDIVIDUALS,
        log=at.cut(line),
        commits=len(line),
        branches=branches,
        pages=at,
        adapters=listed(run, library(request), reading),
        forgetting=forgot,
        abilities=list(dict.fromkeys(name for each in forgot.values() for name in each)),
        stages=stages,
        tasks=tasks,
        figures=_figures(result, forgot, stages, tasks),
    )


def _rows(run: Run) -> tuple[list[tuple[int, dict[str, Any]]], Mapping[str, Record]]:
    with run.memory() as memory:
        payloads, records = memory.ledger.generations(), memory.records()
    return list(zip(sorted(payloads), rows_of(payloads), strict=True)), records


def _generation(
    row: Mapping[str, Any], held: Mapping[int, Mapping[str, float]], records: Mapping[str, Record]
) -> Generation:
    model = row["model"]
    named = [model.get("individual", ""), *(each.get("individual", "") for each in row.get("population", ()))]
    return Generation(
        row["generation"],
        model["base"],
        model["adapter"],
        "" if model["memory"] == ROOT else model["memory"],
        [(key, records[key].text if key in records else "") for key in dict.fromkeys(filter(None, named))],
        held.get(row["generation"]),
        row["solved"],
        row["dropped"],
        row["cost"],
        row["evaluation_cost"],
        [(name, plain(_rounded(value))) for name, value in row.items() if name not in (*_TOLD, "population")],
    )


def _rounded(value: Any) -> Any:
    """The same with no more digits than a reader needs."""
    if isinstance(value, float):
        return float(f"{value:.4g}")
    if isinstance(value, dict):
        return {key: _rounded(each) for key, each in value.items()}
    return [_rounded(each) for each in value] if isinstance(value, list) else value


def _log(run: Run) -> tuple[list[Logged], dict[str, str]]:
    """Newest first, and the head of each branch, the current one first."""
    with run.memory() as memory:
        heads = memory.branches()
        return log(memory.ledger), {memory.branch: heads[memory.branch]} | heads


def _stages(rows: Sequence[Mapping[str, Any]]) -> list[Stage]:
    """Of a run that learns one task after the other; empty for any other. See `evaluation.continual`."""
    return [Stage(row["generation"], row["by_task"], row.get("transfer", {})) for row in rows if "by_task" in row]


def _figures(
    result: Mapping[str, Any] | None,
    forgot: Mapping[str, Mapping[str, Any]],
    stages: Sequence[Stage],
    tasks: Sequence[str],
) -> list[Figure]:
    figures = [cost_against_success({str(result["recipe"]): result})] if result else []
    if stages:
        figures.append(accuracy_map({each.number: each.accuracies for each in stages}, tasks))
    if forgot:
        figures.append(forgetting_map(forgot))
    return figures


routes = [Route("/run/{run}/generations", generations)]
