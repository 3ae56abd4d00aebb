"""One writer: an operating-system lock on a file, released by the system when its holder dies."""

from __future__ import annotations

import fcntl
import os
import time
import weakref
from contextlib import suppress
from pathlib import Path

from evolvent.memory.errors import LedgerLockedError, LedgerUnwritableError

_POLL_S = 0.05


class WriterLock:
    """Held from construction to `release`; waits up to `wait_s` seconds for who holds it now.

    Raises:
        LedgerLockedError: somebody else still holds it; names the process.
        LedgerUnwritableError: the lock file cannot be made.
    """

    def __init__(self, path: Path, wait_s: float = 0) -> None:
        try:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise LedgerUnwritableError(
                f"Cannot write memory in {path.parent}: {error.strerror}. "
                "Open it with read_only=True, or choose a directory you may write to."
            ) from error
        deadline = time.monotonic() + wait_s
        while not self._taken():
            if time.monotonic() >= deadline:
                holder = os.read(self._file, 32).decode(errors="replace").strip() or "unknown"
                os.close(self._file)
                raise LedgerLockedError(
                    f"Memory in {path.parent} is open for writing by process {holder}; one writer at a time. "
                    "Wait for it to end, or open with read_only=True."
                )
            time.sleep(_POLL_S)
        os.ftruncate(self._file, 0)
        os.pwrite(self._file, str(os.getpid()).encode(), 0)
        _held.add(self)

    def _taken(self) -> bool:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def release(self) -> None:
        """At once, also where a child that was just forked has not let go of it yet."""
        if self._file >= 0:
            fcntl.flock(self._file, fcntl.LOCK_UN)
            self.let_go()

    def let_go(self) -> None:
        """Of the file alone: the lock stays with whoever else has it open."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


def writer(path: Path) -> int | None:
    """Id of the process that holds the lock of this file; None where nobody on this machine does.

    Only looks: asking for the lock itself could turn away a writer that asks at the same moment.
    """
    try:
        process = int(path.read_text("utf-8", errors="replace"))
        if process <= 0:
            return None
        os.kill(process, 0)
    except PermissionError:  # it lives, and is another user's
        return process
    except (OSError, ValueError, OverflowError):
        return None
    return process if _has_open(process, path) else None


def _has_open(process: int, path: Path) -> bool:
    """Whether it has the file open, as far as the system tells: a number may have gone to another process since."""
    try:
        wanted = path.stat()
        for name in os.listdir(f"/proc/{process}/fd"):
            with suppress(FileNotFoundError):  # closed since
                if os.path.samestat(wanted, os.stat(f"/proc/{process}/fd/{name}")):
                    return True
    except OSError:
        return True
    return False


# A forked child shares its parent's lock and would keep it alive after the parent was killed.
_held: weakref.WeakSet[WriterLock] = weakref.WeakSet()


def _let_go() -> None:
    for lock in list(_held):
        lock.let_go()


os.register_at_fork(after_in_child=_let_go)
