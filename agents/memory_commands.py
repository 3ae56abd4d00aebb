"""`evolvent memory`: the commands that look into a memory. Those that change one are in `memory_changes`.

DIR is a run directory, or any directory that holds a `ledger.sqlite`. Looking never waits for a run that is writing.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, get_args

import typer

from evolvent.agents.browsing import AsJson
from evolvent.agents.errors import SetupError
from evolvent.agents.memory_changes import Place, changes_app
from evolvent.agents.memory_directory import built, embedder_name, opened
from evolvent.agents.terminal import answer, note, print_json, show
from evolvent.memory.errors import MemoryStoreError, UnknownRecordError
from evolvent.memory.types import LEARNED, Kind, Status

if TYPE_CHECKING:
    from evolvent.memory.types import Record

memory_app = typer.Typer(help="Look into a memory, question it and change it.", no_args_is_help=True)

Mode = Literal["dense", "bm25", "hybrid", "mmr", "utility", "spreading"]
"""The names of `memory.retrieval.RETRIEVERS`, which is not imported for a `--help`."""
KINDS: tuple[Kind, ...] = get_args(Kind)
_DRAWN = (".graphml", ".png", ".svg", ".pdf")


def _known_kinds(kinds: list[str] | None) -> list[str] | None:
    """What typer does by itself for one value."""
    for each in kinds or ():
        if each not in KINDS:
            raise typer.BadParameter(f"{each!r} is not one of {', '.join(map(repr, KINDS))}.")
    return kinds


OfKind = Annotated[
    list[str] | None,
    typer.Option("--kind", callback=_known_kinds, metavar="KIND", help="Only rule, trajectory, …; may be repeated."),
]
OfStatus = Annotated[Status | None, typer.Option("--status", help="Only this status.")]
ScopeEnv = Annotated[str, typer.Option("--scope-env", metavar="ENV", help="Only what applies in this environment.")]
AtMost = Annotated[int | None, typer.Option("-k", min=1, help="At most so many.")]
At = Annotated[str, typer.Option("--at", metavar="REF", help="As of a commit, branch, step (2/gate) or HEAD~3.")]
Named = Annotated[str, typer.Argument(metavar="ID", help="Of a record, or of a trajectory.")]
_LOOK, _EXPLAIN, _KEEP = "Look", "Explain", "Keep sound"


# -- what it holds -------------------------------------------------------------------------------------------------


@memory_app.command("ls", rich_help_panel=_LOOK)
def list_records(
    directory: Place,
    kind: OfKind = None,
    status: OfStatus = None,
    scope_env: ScopeEnv = "",
    at: At = "HEAD",
    k: AtMost = None,
    as_json: AsJson = False,
) -> None:
    """List what a memory holds, what was learned before what was lived."""
    from evolvent.agents.memory_listings import record_json, records_table

    with opened(directory) as memory:
        held = memory.records(memory.resolve(at)).values()
    records = [record for record in held if _wanted(record, kind or (), [status] if status else (), scope_env)]
    records.sort(key=lambda record: record.kind == "trajectory")
    rows = [record_json(record) for record in records[:k]]
    answer(as_json, rows, lambda: records_table(rows))


@memory_app.command("search", rich_help_panel=_LOOK)
def search_records(
    directory: Place,
    query: Annotated[str, typer.Argument(metavar="QUERY")],
    k: Annotated[int, typer.Option("-k", min=1, help="At most so many.")] = 5,
    mode: Annotated[Mode, typer.Option("--mode", help="How to search.")] = "hybrid",
    kind: OfKind = None,
    status: OfStatus = None,
    scope_env: ScopeEnv = "",
    at: At = "HEAD",
    as_json: AsJson = False,
) -> None:
    """Search a memory, best first.

    What was learned is searched; raw trajectories only with --kind trajectory, or where nothing was learned. Retired
    and quarantined records are found only with --status.
    """
    from evolvent.agents.memory_listings import record_json, records_table
    from evolvent.memory.retrieval import LIVE

    statuses = [status] if status else LIVE
    with opened(directory, embedding=mode != "bm25") as memory:
        snapshot = memory.snapshot(memory.resolve(at))
        kinds = [each for each in KINDS if each in kind] if kind else None
        if not kind and any(_wanted(each, LEARNED, statuses, scope_env) for each in snapshot.records.values()):
            kinds = list(LEARNED)
        most = len(snapshot.records) if scope_env else k
        found = snapshot.search(query, k=most, kinds=kinds, statuses=statuses, mode=mode)
    rows = [record_json(hit.record, hit.score) for hit in found if _wanted(hit.record, (), (), scope_env)][:k]
    answer(as_json, rows, lambda: records_table(rows))


@memory_app.command("show", rich_help_panel=_LOOK)
def show_record(directory: Place, record_id: Named, as_json: AsJson = False) -> None:
    """Show one record: where it applies, and which commit gave it each thing it has, on what grounds."""
    from evolvent.agents.memory_listings import blame_json, record_json, record_page
    from evolvent.environments.types import dump
    from evolvent.memory.history import blame
    from evolvent.memory.rendering import render

    with opened(directory) as memory:
        record = memory.records().get(record_id)
        if record is not None:
            origins = blame(memory.ledger, record_id)
            events = [event for _, event in memory.ledger.events_about(record_id) if event.record_id == record_id]
        lived = memory.ledger.trajectory(record_id) if record is None else None
    if record is not None:
        if as_json:
            told = [{"kind": event.kind, "payload": dict(event.payload)} for event in events]
            print_json({**record_json(record), "meta": dict(record.meta), "events": told, "blame": blame_json(origins)})
        else:
            show(record_page(record, origins))
    elif lived is not None:
        print(dump(lived) if as_json else render(lived))
    else:
        raise UnknownRecordError(
            f"No record or trajectory {record_id!r} in {directory}. `evolvent memory ls {directory}` lists the ids."
        )


@memory_app.command("log", rich_help_panel=_LOOK)
def show_log(directory: Place, at: At = "HEAD", k: AtMost = None, as_json: AsJson = False) -> None:
    """List the commits, newest first: which step wrote what, and what was taken back."""
    from evolvent.agents.memory_listings import log_table, logged_json
    from evolvent.memory.history import log

    with opened(directory) as memory:
        rows, branch = log(memory.ledger, memory.resolve(at))[:k], memory.branch
    answer(as_json, [logged_json(row) for row in rows], lambda: log_table(rows, branch))


@memory_app.command("diff", rich_help_panel=_LOOK)
def show_diff(
    directory: Place,
    before: Annotated[str, typer.Argument(metavar="[A]", help="As --at of `log` takes it.")] = "HEAD~1",
    after: Annotated[str, typer.Argument(metavar="[B]", help="The same.")] = "HEAD",
    as_json: AsJson = False,
) -> None:
    """Show what differs between two commits: records that came, went or changed."""
    from evolvent.agents.memory_listings import change_json, changes_table
    from evolvent.memory.history import diff

    with opened(directory) as memory:
        one, other = memory.resolve(before), memory.resolve(after)
        changes = diff(memory.records(one), memory.records(other))
    answer(
        as_json,
        {"from": one, "to": other, "changes": [change_json(change) for change in changes]},
        lambda: changes_table(changes),
    )


# -- where it comes from -------------------------------------------------------------------------------------------


@memory_app.command("why", rich_help_panel=_EXPLAIN)
def show_why(
    directory: Place,
    record_id: Annotated[str, typer.Argument(metavar="RECORD")],
    as_json: AsJson = False,
) -> None:
    """Show why a record exists: verdicts with their evidence, and the steps of the trajectories it came from."""
    from evolvent.agents.memory_listings import why_json, why_tree
    from evolvent.memory.lineage import Lineage

    with opened(directory) as memory:
        found = Lineage(memory.records(), memory.ledger).why(record_id)
    answer(as_json, why_json(found), lambda: why_tree(found))


@memory_app.command("impact", rich_help_panel=_EXPLAIN)
def show_impact(directory: Place, node: Named, as_json: AsJson = False) -> None:
    """Show what came of a record or a trajectory: what is derived from it, what would fall, where it was shown."""
    from dataclasses import asdict

    from evolvent.agents.memory_listings import impact_page
    from evolvent.memory.lineage import Lineage

    with opened(directory) as memory:
        found = Lineage(memory.records(), memory.ledger).impact(node)
    answer(as_json, asdict(found), lambda: impact_page(found))


@memory_app.command("graph", rich_help_panel=_EXPLAIN)
def show_graph(
    directory: Place,
    around: Annotated[str, typer.Option("--around", metavar="ID", help="Only what is near this record.")] = "",
    depth: Annotated[int, typer.Option("--depth", min=0, help="How near: so many steps of lineage.")] = 2,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="Write it: .graphml, or a drawing, .png, .svg, .pdf.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """The lineage as a graph: counted, as JSON, or written for a graph tool or as a drawing."""
    from evolvent.agents.memory_listings import graph_json, graph_page
    from evolvent.memory.graph import draw, graph, write_graphml
    from evolvent.memory.lineage import Lineage

    if out and out.suffix not in _DRAWN:
        raise SetupError(f"--out {out}: expected a name that ends in one of {', '.join(_DRAWN)}.")
    with opened(directory) as memory:
        found = graph(Lineage(memory.records(), memory.ledger), around=around or None, depth=depth)
    if out:
        try:
            (write_graphml if out.suffix == ".graphml" else draw)(found, out)
        except OSError as error:
            raise SetupError(f"Cannot write {out}: {error.strerror}. Choose another place with --out.") from error
    answer(as_json, {**graph_json(found), "file": str(out) if out else None}, lambda: graph_page(found))
    if not as_json:
        note(f"{out} is written." if out else "--out FILE.svg draws it, --around ID only what is near one record.")


# -- whether it is sound -------------------------------------------------------------------------------------------


@memory_app.command("audit", rich_help_panel=_KEEP)
def show_audit(directory: Place, as_json: AsJson = False) -> None:
    """Find junk: said twice, contradicted, never recalled, unproven, resting on nothing. Changes nothing."""
    from evolvent.agents.memory_listings import audit_json, audit_table
    from evolvent.memory.audit import audit

    with opened(directory) as memory:
        embedder = built(embedder_name(directory))
        name = embedder.name if embedder else embedder_name(directory)
        records = memory.records()
        found = audit(records, memory.ledger, vectors=memory.ledger.vectors(name, list(records)))
    answer(as_json, audit_json(found), lambda: audit_table(found))


@memory_app.command("fsck", rich_help_panel=_KEEP)
def check(
    directory: Place,
    repair: Annotated[bool, typer.Option("--repair", help="Make an index that differs anew from the ledger.")] = False,
    as_json: AsJson = False,
) -> None:
    """Check the ledger against itself and the index against the ledger; exit code 1 while a problem is left."""
    from dataclasses import asdict, replace

    from evolvent.agents.memory_listings import problems_table
    from evolvent.memory.fsck import check_ledger, fsck

    try:
        with opened(directory, embedding=True) as memory:
            problems = fsck(memory)
    except MemoryStoreError:
        problems = check_ledger(directory / "ledger.sqlite") if (directory / "ledger.sqlite").exists() else []
        if not problems:
            raise
    if repair and any(each.place == "index" for each in problems):
        with opened(directory, writing=True) as memory:  # which mends what it notices
            left = [each for each in fsck(memory, repair=True) if not each.repaired]
        problems = [replace(each, repaired=each not in left) for each in problems]
    if as_json:
        print_json({"sound": all(each.repaired for each in problems), "problems": [asdict(each) for each in problems]})
    elif problems:
        show(problems_table(problems))
    else:
        print("No problem in ledger or index.")
    if not all(each.repaired for each in problems):
        raise typer.Exit(1)


@memory_app.command("export", rich_help_panel=_KEEP)
def export(
    directory: Place,
    file: Annotated[str, typer.Argument(metavar="FILE", help="- for stdout.")],
    only_records: Annotated[bool, typer.Option("--records", help="The records of the head, for others.")] = False,
    as_json: AsJson = False,
) -> None:
    """Write the whole history as JSON lines, episodes included; equal memories give equal bytes."""
    from evolvent.memory.transfer import export_jsonl, export_records, history_lines, record_lines

    if file == "-" and as_json:
        raise SetupError("--json says what was written to a FILE; with - the export itself goes to stdout.")
    with opened(directory) as memory:
        if file == "-":
            for line in record_lines(memory.records()) if only_records else history_lines(memory.ledger):
                print(line, end="")
            return
        written = export_records(memory.records(), file) if only_records else export_jsonl(memory.ledger, file)
    if as_json:
        print_json({"file": file, "lines": written})
    else:
        print(f"{file}: {written} lines")


memory_app.add_typer(changes_app)


def _wanted(record: Record, kinds: Collection[str], statuses: Collection[Status], scope_env: str) -> bool:
    return (
        (not kinds or record.kind in kinds)
        and (not statuses or record.status in statuses)
        and (not scope_env or record.scope.environment in ("", scope_env))
    )
