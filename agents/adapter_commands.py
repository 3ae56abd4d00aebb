"""`evolvent adapters`: what was distilled in a run, where it comes from, and whether its files are whole.

DIR is a run directory. What an adapter is comes from the registry in it, whether it is in use from its ledger.
"""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from evolvent.agents.browsing import AsJson
from evolvent.agents.errors import RunDirectoryError
from evolvent.agents.listings import new_table, pairs, plain, status_text
from evolvent.agents.memory_directory import decide, opened
from evolvent.agents.terminal import note, print_json, show

if TYPE_CHECKING:
    from collections.abc import Mapping

    from evolvent.memory.types import Record
    from evolvent.memory.weights.adapters import Adapter, Adapters

adapters_app = typer.Typer(help="Adapters: what a run has distilled into weights.", no_args_is_help=True)

Place = Annotated[Path, typer.Argument(metavar="DIR", help="A run directory.")]
Name = Annotated[str, typer.Argument(metavar="NAME", help="NAME@HASH, or NAME where only one is called so.")]
_UNKNOWN = "unknown"
"""Standing of an adapter of which the ledger knows nothing, or nothing any more."""


@adapters_app.command("ls")
def list_adapters(directory: Place, as_json: AsJson = False) -> None:
    """List the adapters of a run, oldest first, with their standing."""
    records = _records(directory)
    rows = [_row(each, records) for each in _registry(directory).ls()]
    if as_json:
        print_json(rows)
        return
    table = new_table("adapter", "status", "base", "data set", "parents", "size", "created")
    for row in rows:
        size = f"{row['bytes'] / 1e6:.2f} MB"
        about = (row["base"], row["dataset"] or "none", ", ".join(row["parents"]) or "none", size, row["created"])
        table.add_row(Text(row["adapter"]), status_text(row["status"]), *map(Text, about))
    show(table)
    note(f"{len(rows)} adapter{'s' * (len(rows) != 1)}")


@adapters_app.command("show")
def show_adapter(directory: Place, name: Name, as_json: AsJson = False) -> None:
    """Show one adapter, and check its files; exit code 1 when they are not what was registered."""
    from evolvent.memory.errors import AdapterDamagedError

    registry = _registry(directory)
    adapter = registry.get(name)
    try:
        registry.check(adapter)
        problem = ""
    except AdapterDamagedError as error:
        problem = str(error)
    row = {**_row(adapter, _records(directory)), "folder": str(adapter.folder), "problem": problem}
    card = adapter.card
    if as_json:
        print_json({**row, "config": card.config, "metrics": card.metrics, "files": card.files})
    else:
        facts = {**row, "config": card.config, "metrics": card.metrics, "files": list(card.files)}
        show(pairs({key: value for key, value in facts.items() if value not in ("", [], {})}))
    if problem:
        raise typer.Exit(1)


@adapters_app.command("diff")
def diff_adapters(
    directory: Place,
    one: Annotated[str, typer.Argument(metavar="A", help="As NAME of `show`.")],
    other: Annotated[str, typer.Argument(metavar="B", help="The same.")],
    as_json: AsJson = False,
) -> None:
    """Show what two adapters' cards say differently: base, data, settings of the training, metrics."""
    from evolvent.memory.weights.adapters import differences

    registry = _registry(directory)
    left, right = registry.get(one), registry.get(other)
    found = differences(left, right)
    if as_json:
        print_json({key: list(values) for key, values in found.items()})
        return
    table = new_table("field", left.full_name, right.full_name)
    for key, values in found.items():
        table.add_row(key, *(Text("" if value is None else plain(value)) for value in values))
    show(table)


@adapters_app.command("rm")
def remove_adapter(
    directory: Place,
    name: Name,
    reason: Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why; kept with the record.")] = "",
    as_json: AsJson = False,
) -> None:
    """Retire an adapter in the ledger, then move its files aside. Its name is never used again."""
    from evolvent.memory.weights.adapters import adapter_record

    registry = _registry(directory)
    adapter = registry.get(name)
    with opened(directory, writing=True) as memory:
        record = adapter_record(adapter)
        known = memory.records().get(record.id)
        commit = None if known and known.status == "retired" else decide(memory, "retire", record, reason)
        # Last, so that one that is killed before leaves an adapter that is retired and can be removed again.
        folder = registry.remove(adapter.full_name)
    if as_json:
        print_json({"adapter": adapter.full_name, "commit": commit, "folder": str(folder)})
        return
    print(f"Removed {adapter.full_name}" + (f": commit {commit}" if commit else ""))
    note(f"Its files are in {shlex.quote(str(folder))}; delete them there to have their room back.")


def _registry(directory: Path) -> Adapters:
    from evolvent.memory.weights.adapters import Adapters

    if not directory.is_dir():
        raise RunDirectoryError(f"{directory} is no directory; expected that of a run.")
    return Adapters(directory)


def _records(directory: Path) -> Mapping[str, Record]:
    """Of the ledger; none where there is no ledger."""
    if not (directory / "ledger.sqlite").exists():
        return {}
    with opened(directory) as memory:
        return dict(memory.records())


def _row(adapter: Adapter, records: Mapping[str, Record]) -> dict[str, Any]:
    from evolvent.memory.weights.adapters import adapter_id

    card, record = adapter.card, records.get(adapter_id(adapter.full_name))
    return {
        "adapter": adapter.full_name,
        "status": record.status if record else _UNKNOWN,
        "record": adapter_id(adapter.full_name),
        **{"base": card.base, "dataset": card.dataset, "dataset_hash": card.dataset_hash},
        **{"parents": list(card.parents), "parameters": card.parameters, "bytes": card.bytes},
        "created": card.created,
    }
