"""What goes wrong in memory.

MemoryStoreError
├── LedgerError
│   ├── LedgerLockedError      another process holds the ledger open for writing (BlockingIOError)
│   ├── LedgerUnreadableError  no ledger there, not one, or a newer one than this version reads (ValueError)
│   ├── LedgerUnwritableError  read-only directory, full disk; nothing was changed (OSError)
│   ├── DuplicateKeyError      an episode, trajectory or memo that is already there (ValueError)
│   ├── BadEventError          an event that cannot be folded; nothing was written (ValueError)
│   ├── UnknownRecordError     (LookupError)
│   └── UnknownCommitError     (LookupError)
├── VectorIndexError           Chroma cannot be written or rebuilt; the ledger is unharmed (RuntimeError)
│   └── ForeignIndexError      the collections on a Chroma server belong to another ledger
└── UnknownRetrieverError      no such way of searching (ValueError)
"""

from __future__ import annotations


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


class VectorIndexError(MemoryStoreError, RuntimeError):
    pass


class ForeignIndexError(VectorIndexError):
    pass


class UnknownRetrieverError(MemoryStoreError, ValueError):
    pass
