"""One run in a few values: what the list of runs, the comparison and the overview say of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from evolvent.agents.findings import Reading
from evolvent.agents.inspector.library import Library, Run
from evolvent.agents.report import verdict_in_words
from evolvent.agents.rivals import Standing, arms, rows_of, standings
from evolvent.agents.run import RunConfig, result
from evolvent.memory.lock import writer

State = Literal["going on", "ended", "stopped"]
_RUN = ("config.json", "ledger.sqlite", "ledger.sqlite-wal")
BESIDE = (*_RUN, "controls/ledger.sqlite", "controls/ledger.sqlite-wal")
"""What a comparison with controls is read from."""
_WRITTEN = (*BESIDE, "metrics.jsonl", "trace.jsonl")


@dataclass(frozen=True, slots=True)
class Summary:
    run: Run
    title: str
    said: str
    """The verdict in words, or why there is none."""
    state: State
    written: float
    """When its newest file was written; seconds since the epoch, 0 where nothing could be read."""
    config: RunConfig | None = None
    result: Mapping[str, Any] | None = None
    """None before its first generation, or where it cannot be read."""
    beside: Sequence[Standing] = field(default_factory=tuple)
    """The recipe first, then the frozen model and the controls that were played."""

    def spent(self, what: str) -> float:
        """Of all generations: tokens (in and out), calls or seconds."""
        if self.result is None:
            return 0
        names = ("tokens_in", "tokens_out") if what == "tokens" else (what,)
        return float(sum(row[name] for row in self.result["generations"] for name in names))

    @property
    def controls(self) -> Sequence[Standing]:
        return self.beside[2:]


def summary(run: Run, reading: Reading) -> Summary:
    """Of one run. What cannot be read of it is told to `reading`, and the rest is there."""
    written = max((at for at, _ in run.stamp(_WRITTEN)), default=0) / 1e9
    if not (run.path / "config.json").exists():
        return Summary(run, "a memory without a run", "nothing was measured", _state(run, finished=True), written)
    config = reading.attempt("The configuration", run.config)
    found = result_of(run, reading)
    state = _state(run, finished=bool(found and found["finished"]))
    if config is None or found is None:
        said = "; ".join(reading.problems) or "there is no result yet"
        title = named(config) if config else run.name
        return Summary(run, title, said, state, written, config, found)
    return Summary(run, named(config), verdict_in_words(found), state, written, config, found, beside(run, reading))


def named(config: RunConfig) -> str:
    return f"{config.recipe} on {config.environment}, seed {config.seed}"


def result_of(run: Run, reading: Reading) -> Mapping[str, Any] | None:
    """See `agents.run.result`; None where there is none or it cannot be read."""

    def read() -> Mapping[str, Any]:
        if not (run.path / "ledger.sqlite").exists():
            return result(run.path)  # says why there is none
        with run.memory() as memory:
            return result(run.path, memory)

    return reading.attempt("The result", lambda: run.kept("result", read, files=_RUN))


def beside(run: Run, reading: Reading) -> Sequence[Standing]:
    """The run beside the frozen model and its controls; empty before its first generation."""

    def read() -> list[Standing]:
        config = run.config()
        with run.memory() as memory:
            rows = rows_of(memory.ledger.generations())
        return standings(arms(rows, config, run.path), seed=config.seed) if rows else []

    return reading.attempt("The controls", lambda: run.kept("beside", read, files=BESIDE)) or ()


def listed(library: Library) -> list[Run]:
    """All runs but those that are the controls of another: they are told beside it."""
    return [run for run in library.runs() if not _is_controls(run)]


def controls_of(run: Run, library: Library) -> Run | None:
    """What its controls played, as a run of its own."""
    return next((each for each in library.runs() if each.path == run.path / "controls"), None)


def _is_controls(run: Run) -> bool:
    return run.path.name == "controls" and (run.path.parent / "config.json").exists()


def _state(run: Run, *, finished: bool) -> State:
    if writer(run.path / "ledger.lock") is not None:
        return "going on"
    return "ended" if finished else "stopped"
