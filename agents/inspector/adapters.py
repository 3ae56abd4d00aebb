"""What a run distilled into weights: adapters with where they come from, what proved them and what they cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from evolvent.agents.findings import Reading
from evolvent.agents.forgotten import forgotten
from evolvent.agents.inspector.figures import loss_curve
from evolvent.agents.inspector.library import Library, Run
from evolvent.agents.inspector.respond import library, look, page
from evolvent.agents.listings import plain
from evolvent.agents.memory_listings import evidence_text
from evolvent.memory.errors import AdapterDamagedError, UnknownAdapterError, UnknownRecordError
from evolvent.memory.ledger import Commit, Ledger
from evolvent.memory.types import Event, Interval, Record
from evolvent.memory.weights import canaries
from evolvent.memory.weights.adapters import Adapter, Adapters, adapter_id, differences
from evolvent.memory.weights.training import Step, read_curve

_UNKNOWN = "unknown"
"""Standing of an adapter of which the ledger knows nothing, or nothing any more."""


@dataclass(frozen=True, slots=True)
class Listed:
    """One adapter in a list."""

    adapter: Adapter
    record: Record | None
    """As memory knows it; None where the ledger knows nothing of it."""
    verdict: str
    """The last decision about it, and on what evidence; empty where there is none."""

    @property
    def name(self) -> str:
        return self.adapter.full_name

    @property
    def status(self) -> str:
        return self.record.status if self.record else _UNKNOWN


@dataclass(frozen=True, slots=True)
class Verified:
    """What its canaries say."""

    count: int
    apart: float
    """From the nearest rival, in nats per token, by the canary that shows it best."""
    rivals: Sequence[str]


def listed(run: Run, runs: Library, reading: Reading) -> list[Listed]:
    """Those of a run, oldest first. One whose files lie outside the library is not there."""
    found = reading.attempt("The adapters", lambda: _adapters(run, runs))
    if not found:
        return []
    adapters, damaged = found
    reading.problems += [f"The adapter {name}: its card cannot be read." for name in damaged]
    told = reading.attempt("What memory knows of the adapters", lambda: _known(run, adapters)) or {}
    return [Listed(each, *told.get(each.full_name, (None, ""))) for each in adapters]


def forgetting(run: Run, reading: Reading) -> Mapping[str, Mapping[str, Interval]]:
    """Change of each ability by adapter; empty where none was measured."""

    def read() -> dict[str, dict[str, Interval]]:
        config = reading.attempt("The configuration", run.config)
        with run.memory() as memory:
            return forgotten(memory.ledger, seed=config.seed if config else 0)

    files = ("ledger.sqlite", "ledger.sqlite-wal")
    return reading.attempt("What was forgotten", lambda: run.kept("forgotten", read, files=files)) or {}


def adapter(request: Request) -> Response:
    shown = look(request)
    run, reading = shown.run, shown.reading
    everything = listed(run, library(request), reading)
    name = request.path_params["adapter"]
    found = next((each for each in everything if each.name == name), None)
    if found is None:
        raise UnknownRecordError(f"There is no adapter {name!r} in this run that can be read.")
    by_name = {each.name: each for each in everything}
    parents = [by_name.get(each) for each in found.adapter.card.parents]
    curve: Sequence[Step] = reading.attempt("The loss curve", lambda: read_curve(found.adapter.folder)) or ()
    events = reading.attempt("Decisions about it", lambda: _about(run, found.adapter)) or []
    return page(
        request,
        "adapter.html",
        look=shown,
        found=found,
        card=found.adapter.card,
        parents=found.adapter.card.parents,
        known=by_name.keys(),
        children=[each.name for each in everything if name in each.adapter.card.parents],
        unlike=[
            (parent.name, [(key, _shown(was), _shown(now)) for key, (was, now) in unlike.items()])
            for parent in parents
            if parent is not None and (unlike := differences(parent.adapter, found.adapter))
        ],
        problem=_checked(run, found.adapter),
        verified=reading.attempt("Its canaries", lambda: _verified(found.adapter)),
        decisions=[
            (commit, event.kind, evidence_text(_grounds(event.payload)))
            for commit, event in events
            if event.kind in ("activate", "reject", "retire", "restore")
        ],
        absorbed=len(_absorbed(run, found, reading)),
        without_memory=next(filter(None, (_without_memory(event) for _, event in reversed(events))), None),
        forgetting=forgetting(run, reading).get(name, {}),
        config=[(key, _shown(value)) for key, value in found.adapter.card.config.items()],
        metrics=[(key, _shown(value)) for key, value in found.adapter.card.metrics.items()],
        figures=[loss_curve(curve)] if curve else [],
    )


# -- inside --------------------------------------------------------------------------------------------------------


def _adapters(run: Run, runs: Library) -> tuple[list[Adapter], list[str]]:
    """Those that can be read, and the names of those that cannot."""
    registry = Adapters(run.path)
    if not registry.folder.is_dir() or not _inside(registry.folder, runs.root):
        return [], []
    there = [each for each in registry.folder.iterdir() if "@" in each.name and not each.name.startswith(".")]
    ours = {each.name for each in there if _inside(each, runs.root)}
    found = [each for each in registry.ls() if each.folder.name in ours and each.full_name == each.folder.name]
    return found, sorted(ours - {each.folder.name for each in found})


def _inside(folder: Path, root: Path) -> bool:
    files = folder.iterdir() if folder.is_dir() else ()
    return all(each.resolve().is_relative_to(root) for each in (folder, *files))


def _known(run: Run, adapters: Sequence[Adapter]) -> dict[str, tuple[Record | None, str]]:
    told: dict[str, tuple[Record | None, str]] = {}
    with run.memory() as memory:
        records = memory.records()
        for each in adapters:
            decided = [event for _, event in _events(memory.ledger, each) if event.kind in ("activate", "reject")]
            evidence = evidence_text(_grounds(decided[-1].payload)) if decided else ""
            told[each.full_name] = (records.get(adapter_id(each.full_name)), evidence)
    return told


def _about(run: Run, shown: Adapter) -> list[tuple[Commit, Event]]:
    with run.memory() as memory:
        return _events(memory.ledger, shown)


def _events(ledger: Ledger, shown: Adapter) -> list[tuple[Commit, Event]]:
    known = adapter_id(shown.full_name)
    return [(commit, event) for commit, event in ledger.events_about(known) if event.record_id == known]


def _grounds(payload: Mapping[str, Any]) -> dict[str, Any]:
    """A decision's evidence without what the page shows apart."""
    return {key: value for key, value in payload.items() if key != "without_memory"}


def _absorbed(run: Run, found: Listed, reading: Reading) -> Sequence[str]:
    """Records that left the prompt because this adapter knows them, as the ledger says now."""

    def read() -> list[str]:
        with run.memory() as memory:
            return [
                event.record_id
                for event in memory.ledger.events()
                if event.kind == "retire"
                and event.payload.get("reason") == "absorbed"
                and event.payload.get("by") == found.name
            ]

    files = ("ledger.sqlite", "ledger.sqlite-wal")
    return reading.attempt("What it absorbed", lambda: run.kept(f"absorbed {found.name}", read, files=files)) or ()


def _checked(run: Run, shown: Adapter) -> str:
    """What is wrong with its files; empty where they are what was registered. They are read through, once."""
    registry = Adapters(run.path)
    files = tuple(f"{shown.folder.relative_to(run.path)}/{name}" for name in ("card.json", *shown.card.files))

    def check() -> str:
        try:
            registry.check(shown)
        except (AdapterDamagedError, UnknownAdapterError) as error:
            return str(error)
        except (OSError, ValueError) as error:
            return f"{shown.folder} cannot be checked: {error}"
        return ""

    return run.kept(f"check {shown.full_name}", check, files=files)


def _verified(shown: Adapter) -> Verified | None:
    if not (shown.folder / canaries.FILE).exists():
        return None
    found = canaries.read(shown.folder)
    rivals = sorted({name for each in found for name in each.rivals})
    return Verified(len(found), canaries.separation(found), rivals)


def _without_memory(decision: Event) -> Interval | None:
    """What playing without memory changed, with the adapter in place; None where it was not tried."""
    told = decision.payload.get("without_memory")
    return Interval(**told) if isinstance(told, Mapping) else None


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else "none" if value is None else plain(value) or "none"


routes = [Route("/run/{run}/adapters/{adapter}", adapter)]
