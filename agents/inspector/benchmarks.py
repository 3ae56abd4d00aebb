"""Runs of one recipe over several seeds, beside their controls: what `evolvent bench` leaves in a folder, pooled."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from evolvent.agents.errors import RunDirectoryError
from evolvent.agents.findings import Reading
from evolvent.agents.inspector.figures import Estimate, Figure, forest
from evolvent.agents.inspector.library import Library, Run
from evolvent.agents.inspector.respond import library, page
from evolvent.agents.inspector.summaries import BESIDE, listed
from evolvent.agents.rivals import Arm, Standing, arms, pooled, rows_of, standings
from evolvent.agents.run import RunConfig

_SEED = re.compile(r"seed-(\d+)(?:-(?!elsewhere$)(.+))?")


@dataclass(frozen=True, slots=True)
class Benchmark:
    name: str
    """Of its folder, as an address calls it."""
    runs: Mapping[int, Run]
    """By seed."""
    variants: Mapping[str, Mapping[int, Run]]
    """Runs with other settings (an ablation), by name and seed."""


@dataclass(frozen=True, slots=True)
class Seed:
    """One run of a benchmark."""

    run: Run
    seed: int
    success: Mapping[str, float]
    """Mean by arm."""


def benchmarks(runs: Library) -> list[Benchmark]:
    """Folders with runs called `seed-N`, of which there are several or one has controls."""
    folders: dict[Path, dict[str, dict[int, Run]]] = {}
    for run in listed(runs):
        named = _SEED.fullmatch(run.path.name)
        if named and run.path.is_relative_to(runs.root) and run.path != runs.root:
            folders.setdefault(run.path.parent, {}).setdefault(named[2] or "", {})[int(named[1])] = run
    found = []
    for folder, by_variant in sorted(folders.items()):
        seeds = by_variant.pop("", {})
        if len(seeds) > 1 or any((run.path / "controls" / "ledger.sqlite").exists() for run in seeds.values()):
            inside = folder.relative_to(runs.root).parts
            name = "~".join(inside) if inside else runs.root.name
            found.append(Benchmark(name, dict(sorted(seeds.items())), by_variant))
    return found


def benchmark(request: Request) -> Response:
    name = request.path_params["name"]
    shown = next((each for each in benchmarks(library(request)) if each.name == name), None)
    if shown is None:
        raise RunDirectoryError(f"There is no benchmark {name!r} in this directory.")
    reading = Reading()
    by_seed: dict[int, list[Arm]] = {}
    first: RunConfig | None = None
    for seed, run in shown.runs.items():
        config = reading.attempt(f"The configuration of {run.name}", run.config)
        first = first or config
        if config is None or first is None:
            continue
        if (config.recipe, config.environment) != (first.recipe, first.environment):
            reading.problems.append(f"{run.name} is of {config.recipe} on {config.environment} and is left out.")
            continue
        found = reading.attempt(f"What {run.name} played", partial(_arms, run))
        if found:
            by_seed[seed] = [*found, *_variants(shown, seed, reading)]
    told = standings(_shared(by_seed), seed=first.seed) if by_seed and first else []
    return page(
        request,
        "benchmark.html",
        benchmark=shown,
        config=first,
        standings=told,
        seeds=[_seed(shown.runs[seed], seed, each) for seed, each in by_seed.items()],
        figures=_figures(told),
        problems=reading.problems,
    )


def _arms(run: Run) -> list[Arm]:
    def read() -> list[Arm]:
        with run.memory() as memory:
            rows = rows_of(memory.ledger.generations())
        return arms(rows, run.config(), run.path) if rows else []

    return run.kept("arms", read, files=BESIDE)


def _variants(shown: Benchmark, seed: int, reading: Reading) -> list[Arm]:
    found = []
    for name, runs in shown.variants.items():
        if seed in runs:
            run = runs[seed]
            played = reading.attempt(f"What {run.name} played", partial(_arms, run))
            found += [Arm(name, played[0].scores, played[0].tokens)] if played else []
    return found


def _shared(by_seed: Mapping[int, Sequence[Arm]]) -> list[Arm]:
    """Arms that every seed has, pooled: one that some seed lacks would be compared on fewer tasks than it seems."""
    everywhere = set.intersection(*({arm.name for arm in each} for each in by_seed.values()))
    return pooled({seed: [arm for arm in each if arm.name in everywhere] for seed, each in by_seed.items()})


def _seed(run: Run, seed: int, found: Sequence[Arm]) -> Seed:
    means = {arm.name: standings([arm], seed=seed)[0].success.mean for arm in found}
    return Seed(run, seed, means)


def _figures(told: Sequence[Standing]) -> list[Figure]:
    rows = [
        Estimate(f"over {each.name}", each.gain.mean, each.gain.low, each.gain.high)
        for each in told
        if each.gain is not None
    ]
    return [forest("gains", "Gain in success over each arm", rows, axis="Gain in success")] if rows else []


routes = [Route("/benchmarks/{name}", benchmark)]
