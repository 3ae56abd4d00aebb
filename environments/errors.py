"""What goes wrong in environments.

WorldError
├── UnknownEnvironmentError   no such name (LookupError)
├── BadOptionError            an option the environment does not take (ValueError)
├── MalformedPddlError        a text that is no PDDL of the subset that is read (ValueError)
├── MalformedCallError        a text that is no call of a tool (ValueError)
├── MalformedStoryboardError  a text that is no storyboard (ValueError)
├── FailedCallError           a call of a tool that came to nothing and changed nothing (ValueError)
├── MissingPackageError       the environment's package is not installed (ImportError)
├── OverwrittenPackageError   files of that package are another's by now (ImportError)
├── NoBoundaryError           nothing here can isolate a program (RuntimeError)
├── SandboxTimeoutError       a call into a worker ran past its limit and was killed (TimeoutError)
└── SandboxCrashError         a worker died (RuntimeError)
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def did_you_mean(name: object, known: Iterable[str]) -> str:
    """The end of an error about an unknown name, led by a space: the nearest one known; empty where none is near."""
    near = difflib.get_close_matches(str(name), list(known), n=1)
    return f" Did you mean {near[0]!r}?" if near else ""


class WorldError(Exception):
    """Any failure of an environment."""


class UnknownEnvironmentError(WorldError, LookupError):
    pass


class BadOptionError(WorldError, ValueError):
    pass


class MalformedPddlError(WorldError, ValueError):
    pass


class MalformedCallError(WorldError, ValueError):
    pass


class MalformedStoryboardError(WorldError, ValueError):
    pass


class FailedCallError(WorldError, ValueError):
    pass


class MissingPackageError(WorldError, ImportError):
    pass


class OverwrittenPackageError(WorldError, ImportError):
    pass


class NoBoundaryError(WorldError, RuntimeError):
    pass


class SandboxTimeoutError(WorldError, TimeoutError):
    pass


class SandboxCrashError(WorldError, RuntimeError):
    pass
