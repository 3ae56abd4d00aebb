"""`evolvent memory`: the commands that change a memory, each by one commit that can be reverted.

They wait for nobody: while a run is writing they say so and change nothing.
"""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from evolvent.agents.browsing import AsJson
from evolvent.agents.memory_directory import built, decided, opened
from evolvent.agents.terminal import note, print_json, show
from evolvent.memory.errors import MergeConflictError

changes_app = typer.Typer()

Place = Annotated[Path, typer.Argument(metavar="DIR", help="A run directory, or any with a ledger.sqlite.")]
RecordId = Annotated[str, typer.Argument(metavar="RECORD")]
_CHANGE, _MOVE = "Change", "Versions"
_CONFLICTS_SHOWN = 5


# -- records -------------------------------------------------------------------------------------------------------


@changes_app.command("retire", rich_help_panel=_CHANGE)
def retire(
    directory: Place,
    record_id: RecordId,
    reason: Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why; kept with the record.")],
    as_json: AsJson = False,
) -> None:
    """Take a record out of use. It stays in memory and is found with --status retired."""
    commit = decided(directory, "retire", record_id, reason)
    _done(directory, commit, f"Retired {record_id}", as_json, record=record_id)


@changes_app.command("restore", rich_help_panel=_CHANGE)
def restore(
    directory: Place,
    record_id: RecordId,
    reason: Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why; kept with the record.")] = "",
    as_json: AsJson = False,
) -> None:
    """Make a retired or quarantined record a candidate again: agents may recall it, and the gate may prove it."""
    commit = decided(directory, "restore", record_id, reason)
    _done(directory, commit, f"Restored {record_id}", as_json, record=record_id)


@changes_app.command("forget", rich_help_panel=_CHANGE)
def forget(
    directory: Place,
    node: Annotated[str, typer.Argument(metavar="TRAJECTORY", help="Id of a trajectory, or of a record.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
    as_json: AsJson = False,
) -> None:
    """Forget a trajectory and all that was learned from it alone. What has other grounds stays.

    Episodes stay in the ledger as they were played: this takes them out of memory, it does not erase them.
    """
    from evolvent.agents.memory_listings import forget_json, forget_page
    from evolvent.memory.lineage import Lineage

    with opened(directory, writing=not dry_run) as memory:
        events = Lineage(memory.records(), memory.ledger).forget_events(node)
        commit = memory.forget(node, "by hand") if events and not dry_run else None
    found = forget_json(node, events)
    if not as_json:
        show(forget_page(found))
    _done(directory, commit, f"Forgot {node}" if commit else "Nothing was written", as_json, **found)


@changes_app.command("import", rich_help_panel=_CHANGE)
def import_(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="That `export` wrote.")],
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="New or empty; with --records, one that is there.")],
    only_records: Annotated[
        bool, typer.Option("--records", help="Take records in, quarantined until somebody restores them.")
    ] = False,
    embedder: Annotated[
        Literal["minilm", "hash"], typer.Option("--embedder", help="Of the new memory; hash needs no weights.")
    ] = "minilm",
    trust: Annotated[
        float,
        typer.Option(
            "--trust", help="With --records: how far you vouch for them, from 0 to 1; from 0.5 on they are candidates."
        ),
    ] = 0.0,
    as_json: AsJson = False,
) -> None:
    """Make a memory from an exported history, or take in a stranger's records."""
    from evolvent.agents.models.catalog import pull
    from evolvent.memory.store import Memory
    from evolvent.memory.transfer import import_jsonl, import_records

    if only_records:
        with opened(directory, writing=True) as memory:
            taken = import_records(file, memory, trust=trust)
            statuses = {memory.records()[key].status for key in taken.added}
        came = f"Took in {len(taken.added)} records" + (f" ({', '.join(sorted(statuses))})" if statuses else "")
        told = f"{came}, {len(taken.known)} were known"
        facts = {"added": list(taken.added), "known": list(taken.known)}
        _done(directory, taken.commit if taken.added else None, told, as_json, **facts)
        return
    if embedder == "minilm":
        pull("minilm")  # before anything is made
    import_jsonl(file, directory)
    with Memory.open(directory, embedder=built(embedder)) as memory:
        head, records = memory.ledger.head(), len(memory.records())
    if as_json:
        print_json({"directory": str(directory), "head": head, "records": records})
    else:
        print(f"{directory}: {records} records at commit {head}")


# -- versions ------------------------------------------------------------------------------------------------------


@changes_app.command("revert", rich_help_panel=_MOVE)
def revert(
    directory: Place,
    commit: Annotated[str, typer.Argument(metavar="COMMIT", help="An id, a step (2/gate), HEAD or HEAD~3.")],
    why: Annotated[str, typer.Option("--note", metavar="TEXT", help="Why; kept with the commit.")] = "",
    as_json: AsJson = False,
) -> None:
    """Take one commit out of the line, as if it had never been made. Reverting the revert brings it back."""
    with opened(directory, writing=True) as memory:
        target = memory.resolve(commit)
        made = memory.revert(target, why)
    _done(directory, made, f"Reverted {target}", as_json, reverted=target)


@changes_app.command("branch", rich_help_panel=_MOVE)
def branch(
    directory: Place,
    name: Annotated[str, typer.Argument(metavar="[NAME]", help="Of a new one.")] = "",
    at: Annotated[str, typer.Option("--at", metavar="REF", help="Where it begins.")] = "HEAD",
    as_json: AsJson = False,
) -> None:
    """List the branches, the current one marked; with NAME, begin a new one."""
    from evolvent.agents.memory_listings import branches_table

    with opened(directory, writing=bool(name)) as memory:
        begun = memory.make_branch(name, at) if name else ""
        heads, current = memory.branches(), memory.branch
    if as_json:
        print_json({"current": current, "branches": heads})
    elif name:
        print(f"Branch {name} begins at commit {begun}")
        note(f"Go there: evolvent memory checkout {_quoted(directory)} {shlex.quote(name)}")
    else:
        show(branches_table(heads, current))


@changes_app.command("checkout", rich_help_panel=_MOVE)
def checkout(directory: Place, name: Annotated[str, typer.Argument(metavar="BRANCH")], as_json: AsJson = False) -> None:
    """Go to a branch: what agents recall is what it holds, and what they learn is added there."""
    with opened(directory, writing=True) as memory:
        left, head = memory.branch, memory.checkout(name)
    if as_json:
        print_json({"branch": name, "head": head, "left": left})
    else:
        print(f"On branch {name} at commit {head}")


@changes_app.command("merge", rich_help_panel=_MOVE)
def merge(
    directory: Place,
    name: Annotated[str, typer.Argument(metavar="BRANCH")],
    prefer: Annotated[
        Literal["ours", "theirs"] | None, typer.Option("--prefer", help="Whose value stands where both changed one.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Take in what another branch learned. What both changed differently is reported, never guessed."""
    with opened(directory, writing=True) as memory:
        before, current = memory.ledger.head(), memory.branch
        try:
            head = memory.merge(name, prefer)
        except MergeConflictError as error:
            told = [str(each) for each in error.conflicts[:_CONFLICTS_SHOWN]]
            left = len(error.conflicts) - _CONFLICTS_SHOWN
            raise MergeConflictError(
                f"Cannot merge {name} into {current}: both changed {'; '.join(told)}"
                + (f"; and {left} more" if left > 0 else "")
                + ". Nothing was written; --prefer ours or --prefer theirs settles them.",
                error.conflicts,
            ) from error
        merged = next((each.merged for each in reversed(memory.ledger.commits()) if each.id == head), "")
    if head == before:
        _done(directory, None, f"Nothing to merge: {current} holds {name} already", as_json, head=head)
    elif merged:
        _done(directory, head, f"Merged {name} into {current}", as_json, head=head)
    else:
        _done(
            directory,
            None,
            f"Moved {current} on to {head}, the head of {name}: it had nothing of its own",
            as_json,
            head=head,
        )


# -- inside --------------------------------------------------------------------------------------------------------


def _done(directory: Path, commit: str | None, told: str, as_json: bool, **facts: Any) -> None:
    """What was done, by which commit, and how to undo it."""
    undo = f"evolvent memory revert {_quoted(directory)} {commit}" if commit else None
    if as_json:
        print_json({"commit": commit, "undo": undo, **facts})
        return
    print(f"{told}: commit {commit}" if commit else told)
    if undo:
        note(f"Undo: {undo}")


def _quoted(directory: Path) -> str:
    return shlex.quote(str(directory))
