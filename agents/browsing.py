"""The commands that only look: `systems`, `envs`, `models` and `memory`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from evolvent.agents.terminal import print_json, show
from evolvent.memory.errors import UnknownRecordError
from evolvent.memory.types import Kind, Status

if TYPE_CHECKING:
    from evolvent.memory.store import Memory
    from evolvent.memory.types import Record

systems_app = typer.Typer(help="The 90 systems of the survey and what is shown of each.")
models_app = typer.Typer(help="Open weights on this machine.", no_args_is_help=True)
memory_app = typer.Typer(help="Look into the memory of a run.", no_args_is_help=True)

Directory = Annotated[Path, typer.Argument(metavar="DIR", help="A run directory.")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON document on stdout and nothing else.")]
OfKind = Annotated[Kind | None, typer.Option("--kind", help="Only this kind.")]
OfStatus = Annotated[Status | None, typer.Option("--status", help="Only this status.")]
ScopeEnv = Annotated[str, typer.Option("--scope-env", metavar="ENV", help="Only what applies in this environment.")]


# -- catalogues ----------------------------------------------------------------------------------------------------


@systems_app.callback(invoke_without_command=True)
def systems(context: typer.Context, as_json: AsJson = False) -> None:
    if context.invoked_subcommand is not None:
        return
    from evolvent.agents.listings import systems_table
    from evolvent.agents.recipes.catalog import systems as listed

    if as_json:
        print_json([system.as_json() for system in listed()])
    else:
        show(systems_table(listed()))


@systems_app.command("show")
def show_system(slug: Annotated[str, typer.Argument(metavar="SLUG")], as_json: AsJson = False) -> None:
    """One system: its card, its presets and its signature."""
    from evolvent.agents.listings import system_page
    from evolvent.agents.recipes.catalog import card, implemented, load_recipe
    from evolvent.agents.recipes.catalog import systems as listed

    found = card(slug)
    system = next(each for each in listed() if each.slug == slug)
    presets = load_recipe(slug).PRESETS if slug in implemented() else {}
    if as_json:
        plain = {name: preset.model_dump(mode="json") for name, preset in presets.items()}
        print_json({**system.as_json(), "card": found.model_dump(mode="json"), "presets": plain})
    else:
        show(system_page(system, found, presets))


def envs(as_json: AsJson = False) -> None:
    """List the environments and what each needs."""
    from evolvent.agents.listings import environments_table
    from evolvent.environments.catalog import entries

    if as_json:
        print_json([asdict(each) for each in entries()])
    else:
        show(environments_table(entries()))


@models_app.command("ls")
def list_weights(as_json: AsJson = False) -> None:
    """List the weights that can be pulled, and where those that were pulled are."""
    from evolvent.agents.listings import models_table
    from evolvent.agents.models.catalog import FORMS, list_models

    if as_json:
        print_json([{**asdict(each), "path": str(each.path) if each.path else None} for each in list_models()])
    else:
        show(models_table(list_models(), FORMS))


@models_app.command("pull")
def pull_weights(name: Annotated[str, typer.Argument(metavar="NAME", help="See `evolvent models ls`.")]) -> None:
    """Fetch weights unless they are here, and print their folder."""
    from evolvent.agents.models.catalog import progress_bar, pull

    with progress_bar(name) as progress:
        print(pull(name, progress=progress))


# -- memory --------------------------------------------------------------------------------------------------------


@memory_app.command("ls")
def list_records(
    directory: Directory,
    kind: OfKind = None,
    status: OfStatus = None,
    scope_env: ScopeEnv = "",
    k: Annotated[int | None, typer.Option("-k", min=1, help="At most so many.")] = None,
    as_json: AsJson = False,
) -> None:
    """List what a run's memory holds, what was learned before what was lived."""
    from evolvent.agents.listings import record_json, records_table

    with _memory(directory) as memory:
        records = [record for record in memory.records().values() if _wanted(record, kind, status, scope_env)]
    records.sort(key=lambda record: record.kind == "trajectory")
    rows = [record_json(record) for record in records[:k]]
    if as_json:
        print_json(rows)
    else:
        show(records_table(rows))


@memory_app.command("show")
def show_record(
    directory: Directory,
    record_id: Annotated[str, typer.Argument(metavar="ID", help="Of a record, or of a trajectory.")],
    as_json: AsJson = False,
) -> None:
    """Show one record: where it applies, where it came from, what the gate said of it."""
    from evolvent.agents.listings import record_json, record_page
    from evolvent.environments.types import dump
    from evolvent.memory.rendering import render

    with _memory(directory) as memory:
        record = memory.records().get(record_id)
        events = [event for event in memory.ledger.events() if event.record_id == record_id]
        lived = memory.ledger.trajectory(record_id) if record is None else None
    if record is not None:
        if as_json:
            told = [{"kind": event.kind, "payload": dict(event.payload)} for event in events]
            print_json({**record_json(record), "meta": dict(record.meta), "events": told})
        else:
            show(record_page(record, events))
    elif lived is not None:
        print(dump(lived) if as_json else render(lived))
    else:
        raise UnknownRecordError(
            f"No record or trajectory {record_id!r} in {directory}. `evolvent memory ls {directory}` lists the ids."
        )


@memory_app.command("search")
def search_records(
    directory: Directory,
    query: Annotated[str, typer.Argument(metavar="QUERY")],
    k: Annotated[int, typer.Option("-k", min=1, help="At most so many.")] = 5,
    mode: Annotated[Literal["dense", "bm25", "hybrid"], typer.Option("--mode", help="How to search.")] = "hybrid",
    kind: OfKind = None,
    status: OfStatus = None,
    scope_env: ScopeEnv = "",
    as_json: AsJson = False,
) -> None:
    """Search a run's memory; retired records are found only with --status retired."""
    from evolvent.agents.listings import record_json, records_table
    from evolvent.memory.retrieval import LIVE

    with _memory(directory, searching=mode != "bm25") as memory:
        everything = len(memory.records())
        found = memory.search(
            query, k=everything, kinds=[kind] if kind else None, statuses=[status] if status else LIVE, mode=mode
        )
    rows = [record_json(hit.record, hit.score) for hit in found if _wanted(hit.record, None, None, scope_env)][:k]
    if as_json:
        print_json(rows)
    else:
        show(records_table(rows))


def _memory(directory: Path, *, searching: bool = False) -> Memory:
    """A run's memory, for reading; with the embedder it was written with where a search needs one."""
    from evolvent.agents.models.catalog import pull
    from evolvent.agents.run import read_config
    from evolvent.memory.embedding import HashEmbedder, MiniLM
    from evolvent.memory.store import Memory

    dense = searching and read_config(directory).embedder == "minilm"
    if dense:
        pull("minilm")
    return Memory.open(directory, embedder=MiniLM() if dense else HashEmbedder(), read_only=True)


def _wanted(record: Record, kind: Kind | None, status: Status | None, scope_env: str) -> bool:
    return (
        (kind is None or record.kind == kind)
        and (status is None or record.status == status)
        and (not scope_env or record.scope.environment in ("", scope_env))
    )
