"""What is asked of a sandbox and what it answers. Plain values; nothing here runs anything."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

Boundary = Literal["auto", "monty", "bubblewrap"]
"""`auto`: monty, and bubblewrap for what monty says it does not support."""

Outcome = Literal["passed", "failed", "exception", "timeout", "memory", "output", "unsupported", "crashed"]
"""What became of a program or of a test.

passed       it ran to its end, and every assertion held
failed       an assertion did not hold
exception    an exception came out of it; a syntax error is one
timeout      it ran past its time and was killed
memory       it asked for more memory than there is for it
output       it printed or returned more than may leave the sandbox
unsupported  the boundary cannot run it, or a value was met that cannot travel between program and test
crashed      its process ended by itself: an exit, a signal
"""
OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)


@dataclass(frozen=True, slots=True)
class Limits:
    """What a program may use. At any setting it has no network, no file to write to and no second process or thread."""

    wall_s: float = 10.0
    """Of the whole program with all its tests."""
    test_s: float = 2.0
    """CPU seconds of one test: loading the program, its calls and its comparison. Four times as long by the clock."""
    memory_bytes: int = 256 * 2**20
    """Heap of the program (monty), address space of its process (bubblewrap)."""
    output_bytes: int = 256 * 2**10
    """Of what it prints, and of one value that it returns."""


@dataclass(frozen=True, slots=True)
class TestResult:
    """One test on one program."""

    __test__ = False  # or pytest takes it for a class of tests

    test: str
    outcome: Outcome
    observed: str = ""
    """What stood left in a failed `assert f(x) == y`, as `repr`, cut to 200 characters; else empty."""
    message: str = ""
    """Last line of the error, as Python words it: `ValueError: no such base`; empty when the test passed."""

    @property
    def passed(self) -> bool:
        return self.outcome == "passed"


@dataclass(frozen=True, slots=True)
class Execution:
    """A program and what its tests said."""

    outcome: Outcome
    """`passed` when the program loaded and passed every test; else that of the load or of the first other test."""
    tests: tuple[TestResult, ...] = ()
    """One for each test asked for, in that order, whatever went wrong."""
    message: str = ""
    """Last line of the first error; empty when all passed."""
    stdout: str = ""
    """What the program printed while it loaded, cut to 2,000 characters. A call's printing is counted and dropped."""
    seconds: float = 0.0
    """By the clock, the sandbox's start included; shared out evenly among programs that ran in one start."""
    boundary: str = ""
    """Which one ran it: `monty` or `bubblewrap`."""

    @property
    def passed(self) -> bool:
        return self.outcome == "passed"

    @property
    def passes(self) -> int:
        """How many tests passed."""
        return sum(result.passed for result in self.tests)


@dataclass(frozen=True, slots=True)
class TracedLine:
    """One line as it was run."""

    number: int
    """In the program, from 1."""
    source: str
    """Without its indentation."""
    values: Mapping[str, str] = field(default_factory=dict)
    """Local variables after the line: name → `repr`; of a longer one the first and the last 50 characters."""


@dataclass(frozen=True, slots=True)
class Block:
    """One visit to a basic block of the function: lines that always run together."""

    lines: tuple[TracedLine, ...]
    before: Mapping[str, str]
    """Local variables on entry."""

    @property
    def after(self) -> Mapping[str, str]:
        return self.lines[-1].values


@dataclass(frozen=True, slots=True)
class Trace:
    """How one call of a function went, block by block. Real values of a real run.

    The outermost call is traced; what it calls, itself included, shows in its values alone.
    """

    blocks: tuple[Block, ...] = ()
    """In the order of the run; of more than 400 the first and the last 200."""
    left_out: int = 0
    """Block visits missing in the middle of `blocks`."""
    outcome: Outcome = "passed"
    """`passed` when the call returned, `exception` when it raised; any other has no blocks."""
    returned: str = ""
    """`repr` of what it returned, cut to 200 characters, or the last line of what it raised."""
    reason: str = ""
    """Why there are no blocks, in a sentence; empty when there are."""
