"""What goes wrong in agents.

AgentError
├── SetupError            bad usage or set-up, told before any work starts; exit code 2 (ValueError)
│   ├── UnknownRecipeError / UnknownModelError / UnknownSettingError
│   └── RunDirectoryError     a directory that is not a run, or already is one
├── ModelUnavailableError weights or server cannot be had (RuntimeError); exit code 2 before the run, 1 within it
│   └── BadAdapterError       an adapter that is cut off, lacks a file, cannot be served or belongs to another base
├── AdapterMismatchError  what is served is not the adapter that was trained (RuntimeError)
└── ModelCallError        one call failed for good after its retries; the episode records it (RuntimeError)
"""

from __future__ import annotations

from collections.abc import Iterable

from evolvent.environments.errors import did_you_mean


class AgentError(Exception):
    """Any failure of agents."""


class SetupError(AgentError, ValueError):
    pass


class UnknownRecipeError(SetupError):
    pass


class UnknownModelError(SetupError):
    pass


class UnknownSettingError(SetupError):
    pass


class RunDirectoryError(SetupError):
    pass


class ModelUnavailableError(AgentError, RuntimeError):
    pass


class BadAdapterError(ModelUnavailableError):
    pass


class AdapterMismatchError(AgentError, RuntimeError):
    pass


class ModelCallError(AgentError, RuntimeError):
    pass


def unknown(what: str, name: str, known: Iterable[str]) -> str:
    """One line: what was given, what is known, the nearest match."""
    names = sorted(known)
    return f"No {what} named {name!r}. Known: {', '.join(names)}.{did_you_mean(name, names)}"
