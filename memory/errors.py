"""What goes wrong in memory.

MemoryStoreError
├── LedgerError
│   ├── LedgerLockedError      another process holds the ledger open for writing (BlockingIOError)
│   ├── LedgerUnreadableError  no ledger there, not one, or a newer one than this version reads (ValueError)
│   ├── LedgerUnwritableError  read-only directory, full disk; nothing was changed (OSError)
│   ├── DuplicateKeyError      an episode, trajectory or memo that is already there (ValueError)
│   ├── BadEventError          an event that cannot be folded; nothing was written (ValueError)
│   ├── UnknownRecordError     (LookupError)
│   ├── UnknownCommitError     no commit, branch or step is called so (LookupError)
│   ├── BranchError            a name that is taken or that no branch may have, or no such branch (ValueError)
│   ├── CannotRevertError      the root, reverted already, on another branch, or later commits build on it (ValueError)
│   └── MergeConflictError     both branches changed the same field differently; nothing was written (ValueError)
├── VectorIndexError           Chroma cannot be written or rebuilt; the ledger is unharmed (RuntimeError)
│   └── ForeignIndexError      the collections on a Chroma server belong to another ledger
├── BadExposureError           a probability, an outcome or a difference of two out of range (ValueError)
├── UnlikeRecordsError         records that cannot stand for each other; they are not merged (ValueError)
├── BadImportError             a file to import that is foreign, cut off, changed or malformed (ValueError)
├── BadCanariesError           canaries that are missing, malformed or prove nothing (ValueError)
├── BadDataSetError            a data set that is foreign, cut off, changed, or of two forms at once (ValueError)
├── BadTrainingError           rows, settings, a base or a folder with which no training can begin (ValueError)
├── BadMergeError              parents, weights or scores that cannot be merged or searched with (ValueError)
├── DivergedError              a loss that is not a number (ArithmeticError)
├── AdapterError
│   ├── UnknownAdapterError    none in the registry is called so (LookupError)
│   ├── AdapterNameError       a malformed name, or one that is taken (ValueError)
│   └── AdapterDamagedError    files that are missing, cut off, changed or pickled (ValueError)
├── GraphTooLargeError         more of the lineage than a drawing can show (ValueError)
└── UnknownRetrieverError      no such way of searching (ValueError)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from evolvent.memory.merging import Conflict


class MemoryStoreError(Exception):
    """Any failure of memory."""


class LedgerError(MemoryStoreError):
    pass


class LedgerLockedError(LedgerError, BlockingIOError):
    pass


class LedgerUnreadableError(LedgerError, ValueError):
    pass


class LedgerUnwritableError(LedgerError, OSError):
    pass


class DuplicateKeyError(LedgerError, ValueError):
    pass


class BadEventError(LedgerError, ValueError):
    pass


class UnknownRecordError(LedgerError, LookupError):
    pass


class UnknownCommitError(LedgerError, LookupError):
    pass


class BranchError(LedgerError, ValueError):
    pass


class CannotRevertError(LedgerError, ValueError):
    pass


class MergeConflictError(LedgerError, ValueError):
    """`conflicts` holds all of them; the message may show the first only."""

    def __init__(self, message: str, conflicts: Sequence[Conflict]) -> None:
        super().__init__(message)
        self.conflicts = tuple(conflicts)


class VectorIndexError(MemoryStoreError, RuntimeError):
    pass


class ForeignIndexError(VectorIndexError):
    pass


class BadExposureError(MemoryStoreError, ValueError):
    pass


class UnlikeRecordsError(MemoryStoreError, ValueError):
    pass


class BadImportError(MemoryStoreError, ValueError):
    pass


class BadCanariesError(MemoryStoreError, ValueError):
    pass


class BadDataSetError(MemoryStoreError, ValueError):
    pass


class BadTrainingError(MemoryStoreError, ValueError):
    pass


class BadMergeError(MemoryStoreError, ValueError):
    pass


class DivergedError(MemoryStoreError, ArithmeticError):
    pass


class AdapterError(MemoryStoreError):
    pass


class UnknownAdapterError(AdapterError, LookupError):
    pass


class AdapterNameError(AdapterError, ValueError):
    pass


class AdapterDamagedError(AdapterError, ValueError):
    pass


class GraphTooLargeError(MemoryStoreError, ValueError):
    pass


class UnknownRetrieverError(MemoryStoreError, ValueError):
    pass
