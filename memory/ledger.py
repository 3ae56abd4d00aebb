"""The ledger: the append-only truth of a memory, in one SQLite file. Commits of events on branches are here.

Records are folded from the line of commits that leads to a head (`line.py`, `fold.py`) and never stored. Nothing is
taken back: reverting and merging append a commit, and change what is folded.
"""

from __future__ import annotations

import hashlib
import logging
import re
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

from evolvent.environments.errors import did_you_mean
from evolvent.environments.types import dump, load
from evolvent.memory.episodes import Episodes
from evolvent.memory.errors import (
    BadEventError,
    BranchError,
    CannotRevertError,
    LedgerUnreadableError,
    MergeConflictError,
    UnknownCommitError,
)
from evolvent.memory.fold import apply
from evolvent.memory.line import line_to, reverted
from evolvent.memory.merging import Side, settling, three_way
from evolvent.memory.types import Event, EventKind, Record

logger = logging.getLogger(__name__)

ROOT = "0" * 16
"""The commit before the first one: an empty memory."""


@dataclass(frozen=True, slots=True)
class Commit:
    id: str
    """See `commit_id`: the same run gives the same ids."""
    key: str
    """Of the step that wrote it; `revert/ID` and `merge/BRANCH` are those of reverts and merges."""
    parent: str
    generation: int
    note: str
    created_at: float
    """Seconds since the epoch; not part of the id."""
    merged: str = ""
    """The second parent: the head of the branch that a merge took in."""


def commit_id(parent: str, key: str, bodies: Sequence[str], merged: str = "") -> str:
    """Sixteen hex digits of the SHA-256 of the parents, the key and the events' JSON."""
    return hashlib.sha256("\n".join((parent, *([merged] if merged else []), key, *bodies)).encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class _State:
    """Memory at one commit, and what it takes to go on from there without folding everything again."""

    commit: str
    order: Mapping[str, int]
    """Commits of the line to it → their place, oldest first."""
    reverted: Mapping[str, str]
    """Commits of the line that do not count → the commit that reverted them."""
    records: dict[str, Record]
    missed: tuple[tuple[str, Event], ...] = ()
    """(commit, event) that changed nothing, because its record is not on this line any more."""


_EMPTY = _State(ROOT, {}, {}, {})
_CONFLICTS_SHOWN = 10


class Ledger(Episodes):
    """Commits on branches, beside the episodes of `Episodes`. Readers see whole commits only.

    Raises:
        LedgerLockedError: another writer has it, and still has it after `wait_s` seconds.
        LedgerUnwritableError: opened for writing where nothing can be written.
        LedgerUnreadableError: opened for reading where there is none, or the file is not a ledger.
    """

    def __init__(self, path: str | Path, *, read_only: bool = False, wait_s: float = 0) -> None:
        super().__init__(path, read_only=read_only, wait_s=wait_s)
        self._branch = ""
        self._commits: dict[str, Commit] = {}
        """All there are, of every branch, in the order they were written."""
        self._parents: dict[str, tuple[str, str]] = {}
        self._reverts: dict[str, str] = {}
        """Reverting commit → the one it reverts."""
        self._now = _EMPTY
        """At the head; replaced, never changed, when the head moves."""
        try:
            self._refresh()
        except sqlite3.DatabaseError as error:
            self.close()
            raise LedgerUnreadableError(f"{self.path} cannot be read as a ledger: {error}.") from error

    # -- commits ---------------------------------------------------------------------------------------------------

    def commit(self, key: str, events: Sequence[Event], *, generation: int, note: str = "") -> str:
        """Append `events` as one commit of the current branch and give its id.

        A key names a step of a run: when the line to the head already has a commit with this key, nothing is written
        and that commit's id is returned, whatever the events, so a resumed run may replay its steps. That holds for a
        commit that was reverted too: replaying the run does not undo the decision.

        Raises:
            UnknownRecordError, BadEventError: the events do not fold; nothing was written.
            DuplicateKeyError: another branch has the same commit in another generation.
        """
        with self._threads:
            self._refresh()
            done = next((commit for commit in self._now.order if self._commits[commit].key == key), None)
            if done is not None:
                return done
            if any(event.kind == "revert" for event in events):
                raise BadEventError(f"Commit {key!r} holds a 'revert'; use revert(commit), which checks it.")
            return self._append(key, events, generation, note)

    def head(self) -> str:
        """Id of the current branch's last commit, `ROOT` when there is none."""
        with self._threads:
            self._refresh()
            return self._now.commit

    def commits(self, at: str | None = None) -> list[Commit]:
        """The line from the first commit to commit `at` (default the head), in the order in which it is folded."""
        with self._threads:
            return [self._commits[commit] for commit in self._at(at).order]

    def reverted(self, at: str | None = None) -> Mapping[str, str]:
        """Commits of that line that do not count, each with the commit that reverted it."""
        with self._threads:
            return self._at(at).reverted

    def events(self, since: str = ROOT, until: str | None = None) -> list[Event]:
        """Events after commit `since` up to and including commit `until` (default the head), in order.

        Left out are those of commits that are reverted on this line, and the reverts. What they said is in
        `events_of`.

        Raises:
            UnknownCommitError: `since` is not `until` or before it on the line.
        """
        with self._threads:
            state = self._at(None)
            if until is not None and until not in state.order:
                state = self._at(until)
            if since != ROOT and since not in state.order:
                raise UnknownCommitError(f"No commit {since!r} on the way to {until or state.commit!r} in {self.path}.")
            first = 0 if since == ROOT else state.order[since] + 1
            last = len(state.order) if until is None else state.order.get(until, -1)
            if first > last + 1:
                raise UnknownCommitError(f"Commit {since!r} comes after {until!r} in {self.path}.")
            wanted = [each for each in list(state.order)[first : last + 1] if each not in state.reverted]
            return [event for commit in wanted for event in self._events_of(commit) if event.kind != "revert"]

    def events_of(self, commit: str) -> list[Event]:
        """All events of one commit, whether it counts or not."""
        with self._threads:
            return list(self._events_of(commit))

    def event_counts(self) -> dict[str, dict[EventKind, int]]:
        """Number of events of each kind, by commit; commits without any are left out."""
        counts: dict[str, dict[EventKind, int]] = {}
        with self._threads:
            query = "SELECT commit_id, kind, COUNT(*) FROM events GROUP BY commit_id, kind ORDER BY MIN(seq)"
            for commit, kind, count in self._db.execute(query):
                counts.setdefault(commit, {})[kind] = count
        return counts

    def events_about(self, record_id: str) -> list[tuple[Commit, Event]]:
        """What counts of one record on the line to the head, merges into it too, without reading the rest."""
        query = (
            "SELECT commit_id, seq, body FROM events WHERE record = ? UNION ALL "
            "SELECT commit_id, seq, body FROM events "
            "WHERE kind = 'merge' AND json_extract(body, '$.payload.into') = ?"
        )
        with self._threads:
            state = self._at(None)
            rows = self._db.execute(query, (record_id, record_id)).fetchall()
        counting = [row for row in rows if row[0] in state.order and row[0] not in state.reverted]
        counting.sort(key=lambda row: (state.order[row[0]], row[1]))
        return [(self._commits[commit], load(Event, body)) for commit, _, body in counting]

    def merges(self) -> set[tuple[str, str]]:
        """(record, the one it was merged into) of every merge that counts on the line to the head."""
        with self._threads:
            state = self._at(None)
            rows = self._db.execute("SELECT commit_id, body FROM events WHERE kind = 'merge'").fetchall()
        told = [load(Event, body) for commit, body in rows if commit in state.order and commit not in state.reverted]
        return {(event.record_id, event.payload["into"]) for event in told}

    def records(self, at: str | None = None) -> Mapping[str, Record]:
        """Every record by id as of commit `at` (default the head), in order of first appearance; never changes.

        Raises:
            UnknownCommitError: no such commit.
        """
        with self._threads:
            return MappingProxyType(self._at(at).records)

    # -- branches --------------------------------------------------------------------------------------------------

    @property
    def branch(self) -> str:
        """The one that commits go to; kept in the file."""
        with self._threads:
            self._refresh()
            return self._branch

    def branches(self) -> dict[str, str]:
        """Head of each branch, by name."""
        with self._threads:
            heads = dict(self._db.execute("SELECT name, commit_id FROM refs").fetchall())
            return dict(sorted({self.branch: ROOT, **heads}.items()))

    def make_branch(self, name: str, at: str | None = None) -> str:
        """Begin a branch at `at` (see `resolve`; default the head) and give that commit's id. `checkout` goes there.

        Raises:
            BranchError: the name is taken, or none that `resolve` could tell from other things.
        """
        with self._threads:
            if name in self.branches():
                raise BranchError(f"Branch {name!r} is there already. Choose another name, or checkout({name!r}).")
            if not re.fullmatch(r"[^\s~]+", name) or name == "HEAD" or re.fullmatch(r"[0-9a-f]{16}", name):
                raise BranchError(
                    f"{name!r} is no name for a branch: expected no blank, no '~', not HEAD, no commit id."
                )
            commit = self.resolve(at or "HEAD")
            with self._writing(f"Branch {name!r}"):
                self._db.execute("INSERT INTO refs VALUES (?, ?)", (name, commit))
            return commit

    def checkout(self, name: str) -> str:
        """Go to a branch and give its head; the next commit is appended there.

        Raises:
            BranchError: no such branch.
        """
        with self._threads:
            heads = self.branches()
            if name not in heads:
                raise BranchError(
                    f"No branch {name!r}. There are: {', '.join(heads)}. "
                    f"make_branch(NAME, at={name!r}) begins one at that commit."
                )
            with self._writing():
                # The branch we leave may have no commit yet, and so no row.
                self._db.execute("INSERT OR IGNORE INTO refs VALUES (?, ?)", (self._branch, ROOT))
                self._db.execute("UPDATE head SET branch = ?", (name,))
            return self.head()

    def resolve(self, ref: str) -> str:
        """Id of the commit that `ref` names: `HEAD`, a branch, an id, the key of a step, or the first digits of an id.

        In that order, so a branch hides a step of the same name. Of several steps with one key the last on the line
        counts. Of an id at least four digits are needed. `REF~2` is the grandparent by first parents.

        Raises:
            UnknownCommitError: none is called so, or several are.
        """
        with self._threads:
            self._read_commits()  # a reader follows its own branch only
            state, heads = self._at(None), self.branches()
            if ref == "HEAD":
                return state.commit
            if ref in heads:
                return heads[ref]
            if ref in self._commits or ref == ROOT:
                return ref
            steps = [commit for commit in state.order if self._commits[commit].key == ref]
            steps = steps or [each.id for each in self._commits.values() if each.key == ref]
            if steps:
                return steps[-1]
            if "~" in ref:
                return self._before(*ref.rsplit("~", 1))
            found = [each for each in (ROOT, *self._commits) if each.startswith(ref)] if len(ref) >= 4 else []
            if len(found) > 1:
                raise UnknownCommitError(f"{ref!r} begins the ids of {', '.join(found)}; give more digits.")
            if found:
                return found[0]
            hint = did_you_mean(ref, [*heads, *(each.key for each in self._commits.values())])
            raise UnknownCommitError(
                f"No commit, branch or step {ref!r} in {self.path}. Branches: {', '.join(heads)}.{hint}"
            )

    def revert(self, commit: str, note: str = "") -> str:
        """Append a commit that takes `commit` (see `resolve`) out of the line, and give its id.

        Afterwards records are what replaying the line without it gives. Reverting a merge takes out what it brought;
        reverting a revert brings back what that took out.

        Raises:
            CannotRevertError: it is the root, or reverted already, or not on this branch, or later commits change
                records that it added.
        """
        with self._threads:
            target, state = self.resolve(commit), self._at(None)
            name = f"Commit {target}" + (f" ({self._commits[target].key!r})" if target in self._commits else "")
            if target == ROOT:
                raise CannotRevertError(f"{name} is the empty memory before the first commit; nothing to revert.")
            if target not in state.order:
                raise CannotRevertError(
                    f"{name} is not on branch {self._branch!r}. Check out the branch that has it, or merge that first."
                )
            if target in state.reverted:
                by = state.reverted[target]
                raise CannotRevertError(f"{name} is reverted already, by {by}. revert({by!r}) would bring it back.")
            gone = reverted([*state.order, ""], self._parents, {**self._reverts, "": target})  # "": the commit to come
            base = self._along(list(state.order), gone)
            builders = {each: None for each, event in base.missed if (each, event) not in state.missed}
            if builders:
                named = ", ".join(f"{each} ({self._commits[each].key!r})" for each in reversed(builders))
                raise CannotRevertError(f"{name} added records that later commits change. Revert these first: {named}.")
            event = Event("revert", "", payload={"commit": target})
            return self._append(f"revert/{target}", [event], self._generation(), note, base=base)

    def merge(self, branch: str, prefer: Side | None = None) -> str:
        """Take in what `branch` (see `resolve`) has and the current branch lacks, and give the new head.

        Where ours has nothing of its own its head moves forward; where theirs has nothing new the head stays as it is
        (and the log says so). Otherwise a merge commit is appended that has theirs as second parent. What both sides
        added up to since their last common state decides: see `merging`. Recalls add up.

        Raises:
            MergeConflictError: both changed a status, a lift or a fact to different values, or one changed a record
                that the other lost. Nothing was written; `prefer` takes the value of one side wherever that is so.
        """
        with self._threads:
            theirs, ours = self.resolve(branch), self._at(None)
            if theirs == ROOT or theirs in ours.order:
                logger.info("%s is in branch %s already: nothing to merge", branch, self._branch)
                return ours.commit
            their = self._at(theirs)
            if ours.order.keys() <= their.order.keys():
                with self._writing():
                    self._point(theirs)
                self._refresh()
                return theirs
            common = [each for each in ours.order if each in their.order]
            past = self._along(common, reverted(common, self._parents, self._reverts))
            wanted, conflicts = three_way(past.records, ours.records, their.records, prefer)
            if conflicts and prefer is None:
                shown = "".join(f"\n  {each}" for each in conflicts[:_CONFLICTS_SHOWN])
                more = len(conflicts) - _CONFLICTS_SHOWN
                raise MergeConflictError(
                    f"Cannot merge {branch} into {self._branch}: both changed{shown}"
                    + (f"\n  and {more} more" if more > 0 else "")
                    + '\nNothing was written. prefer="ours" or prefer="theirs" settles them.',
                    conflicts,
                )
            line = [*ours.order, *(each for each in their.order if each not in ours.order)]
            replayed = self._along(line, reverted(line, self._parents, self._reverts))
            generation = max(self._generation(), self._commits[theirs].generation)
            events = settling(replayed.records, wanted)
            return self._append(f"merge/{branch}", events, generation, "", theirs, replayed)

    # -- inside ----------------------------------------------------------------------------------------------------

    def _refresh(self) -> None:
        """Follow the head that another process may have moved; the writer itself finds nothing new."""
        branch, head = self._db.execute(
            "SELECT branch, commit_id FROM head LEFT JOIN refs ON refs.name = head.branch"
        ).fetchone()
        self._branch = branch
        if (head or ROOT) != self._now.commit:
            self._now = self._state(head or ROOT)

    def _at(self, commit: str | None) -> _State:
        self._refresh()
        return self._now if commit in (None, self._now.commit) else self._state(str(commit))

    def _state(self, commit: str) -> _State:
        if commit == ROOT:
            return _EMPTY
        if commit not in self._commits:
            self._read_commits()
        if commit not in self._commits:
            raise UnknownCommitError(f"No commit {commit!r} in {self.path}; `resolve` knows branches and steps too.")
        line = line_to(commit, self._parents)
        return self._along(line, reverted(line, self._parents, self._reverts))

    def _along(self, line: Sequence[str], gone: Mapping[str, str]) -> _State:
        """A line folded: from the current state where that is where it comes from, else from nothing."""
        now = self._now
        known = len(now.order)
        grown = list(line[:known]) == list(now.order) and now.reverted.keys() == now.order.keys() & gone.keys()
        records, missed = (dict(now.records), list(now.missed)) if grown else ({}, [])
        for commit in line[known:] if grown else line:
            if commit not in gone:
                skipped: list[Event] = []
                apply(records, self._events_of(commit), self._commits[commit].generation, skipped=skipped)
                missed += [(commit, event) for event in skipped]
        last = line[-1] if line else ROOT
        return _State(last, {each: place for place, each in enumerate(line)}, gone, records, tuple(missed))

    def _read_commits(self) -> None:
        query = "SELECT id, key, parent, generation, note, created_at, merged FROM commits WHERE seq > ? ORDER BY seq"
        # They are numbered from 1 without gaps, because none is ever deleted.
        for row in self._db.execute(query, (len(self._commits),)).fetchall():
            commit = Commit(*row)
            if commit.parent not in self._commits:  # ROOT, or damage that `fsck` tells of and that may lead in a circle
                commit = replace(commit, parent=ROOT)
            if commit.merged and commit.merged not in self._commits:
                commit = replace(commit, merged="")
            self._commits[commit.id] = commit
            self._parents[commit.id] = (commit.parent, commit.merged)
        found = self._db.execute("SELECT commit_id, body FROM events WHERE record = '' AND kind = 'revert'").fetchall()
        self._reverts = {commit: load(Event, body).payload["commit"] for commit, body in found}

    def _append(
        self,
        key: str,
        events: Sequence[Event],
        generation: int,
        note: str,
        merged: str = "",
        base: _State | None = None,
    ) -> str:
        """Write a commit on the head, unless another branch has the very same one, and move the branch to it.

        `base` is what the events come on top of, where that is not the state at the head.
        """
        try:
            bodies = [dump(event) for event in events]
            stored = [load(Event, body) for body in bodies]  # what a later process will read, tuples turned lists
        except ValueError as error:
            raise BadEventError(f"Commit {key!r} holds an event that is not JSON: {error}") from error
        base = base or self._now
        records = dict(base.records)
        apply(records, stored, generation)
        commit = commit_id(self._now.commit, key, bodies, merged)
        with self._writing(f"Commit {key!r}"):
            if commit not in self._commits or self._commits[commit].generation != generation:
                self._db.execute(
                    "INSERT INTO commits (id, key, parent, generation, note, created_at, merged) "
                    "VALUES (?, ?, ?, ?, ?, ?, ?)",
                    (commit, key, self._now.commit, generation, note, time.time(), merged),
                )
                self._db.executemany(
                    "INSERT INTO events (commit_id, kind, record, body) VALUES (?, ?, ?, ?)",
                    [(commit, e.kind, e.record_id, body) for e, body in zip(stored, bodies, strict=True)],
                )
            self._point(commit)
        self._read_commits()
        gone = {each: by or commit for each, by in base.reverted.items()}
        self._now = _State(commit, {**base.order, commit: len(base.order)}, gone, records, base.missed)
        return commit

    def _point(self, commit: str) -> None:
        self._db.execute("INSERT OR REPLACE INTO refs VALUES (?, ?)", (self._branch, commit))

    def _generation(self) -> int:
        return self._commits[self._now.commit].generation if self._now.commit != ROOT else 0

    def _before(self, ref: str, steps: str) -> str:
        commit = self.resolve(ref)
        if not re.fullmatch(r"\d*", steps):
            raise UnknownCommitError(f"'{ref}~{steps}' is no commit: expected a number after '~'.")
        for _ in range(int(steps or 1)):
            if commit == ROOT:
                raise UnknownCommitError(f"'{ref}~{steps}' is before the first commit.")
            commit = self._commits[commit].parent
        return commit

    def _events_of(self, commit: str) -> Iterator[Event]:
        rows = self._db.execute("SELECT body FROM events WHERE commit_id = ? ORDER BY seq", (commit,)).fetchall()
        return (load(Event, row[0]) for row in rows)
