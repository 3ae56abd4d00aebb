"""pydantic-monty: an interpreter of a subset of Python that has no door to the host, in worker processes it keeps warm.

Program and test live in two sessions. The test's session knows the program's functions as calls through this process,
which carry plain data and nothing else; the values are monty's own conversions, exact built-in types.
"""

from __future__ import annotations

import ast
import builtins
import importlib.util
import re
import sys
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from evolvent.environments.execution.guest.judge import free_names
from evolvent.environments.execution.guest.wire import CUT, SHOWN_STDOUT, cut, last_line
from evolvent.environments.execution.types import Execution, Limits, Outcome, TestResult

if TYPE_CHECKING:
    import pydantic_monty

_INSTALL = 'pip install "evolvent[code]"'
_AT_ONCE = 8
"""Runs at a time; each holds two workers."""
_CALLS = 100_000
"""Of one test. Each is a round trip."""
_NO_SUCH_METHOD = re.compile(r"'(\w+)' object has no attribute '(\w+)'|module '\w+' has no attribute|type object ")
_NO_SUCH_MODULE = re.compile(r"No module named '([\w.]+)'")
_NO_SUCH_NAME = re.compile(r"name '(\w+)' is not defined")
_OWN_WORDS = re.compile(r"\bmonty\b|not (?:yet )?supported|not (?:yet )?implemented", re.IGNORECASE)
_DISPLAYED = re.compile(r"<[^<>]*\b(?:function|object|method|lambda|iterator)\b.*>")
_NAME = {"__name__": "program"}
_PLAIN = (type(None), bool, int, float, complex, str, bytes, range)


def missing() -> str:
    """What keeps monty from isolating here, with what to do about it; empty when it does."""
    if importlib.util.find_spec("pydantic_monty") is None:
        return f"pydantic-monty is not installed: {_INSTALL}"
    from pydantic_monty import MontyError

    try:
        with Workers() as workers, workers.session(Limits()) as session:
            session.feed_run("1 + 1")
    except (MontyError, OSError) as error:  # A wheel without its binary, a binary for another machine.
        return f"pydantic-monty does not start here: {error}"
    return ""


class Workers:
    """The worker processes of one sandbox. Started at first use; may be used again after `close`."""

    def __init__(self) -> None:
        self._pool: pydantic_monty.Monty | None = None
        self._lock = threading.Lock()
        self.turns = threading.BoundedSemaphore(_AT_ONCE)

    def session(self, limits: Limits) -> pydantic_monty.MontySession:
        """A fresh interpreter."""
        with self._lock:
            if self._pool is None:
                from pydantic_monty import Monty

                pool = Monty(min_processes=2, max_processes=2 * _AT_ONCE)
                self._pool = pool.__enter__()
        return self._pool.checkout(
            limits={
                "max_feed_duration_secs": limits.test_s,
                "max_memory": limits.memory_bytes,
                "max_suspensions": _CALLS,
                "max_total_sleep_secs": limits.test_s,
            },
            os_policy={"random_start": {"seed": 0}},
            assert_message_annotations=False,
        )

    def close(self) -> None:
        with self._lock:
            if self._pool is not None:
                self._pool.__exit__(None, None, None)
                self._pool = None

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def run_all(workers: Workers, programs: Sequence[str], tests: Sequence[str], limits: Limits) -> list[Execution]:
    """See `Sandbox.run_all`."""
    return [_run(workers, program, tests, limits) for program in programs]


def _run(workers: Workers, program: str, tests: Sequence[str], limits: Limits) -> Execution:
    from pydantic_monty import MontyError

    with workers.turns:
        stdout = _Printed(limits)
        try:
            with workers.session(limits) as session:
                session.feed_run(program, inputs=_NAME, print_callback=stdout)
        except MontyError as error:
            outcome, message = _became(error, program, stdout)
            results = tuple(TestResult(test, outcome, "", message) for test in tests)
            return Execution(outcome, results, message, stdout.text, boundary="monty")
        results = tuple(_Judge(workers, program, limits).judged(test) for test in tests)
    worst = next((each for each in results if not each.passed), TestResult("", "passed"))
    return Execution(worst.outcome, results, worst.message, stdout.text, boundary="monty")


class _Printed:
    """What was printed, counted to its limit and kept as far as it is shown."""

    def __init__(self, limits: Limits) -> None:
        self._left = limits.output_bytes
        self._kept = ""
        self.full = False

    def __call__(self, stream: str, text: str) -> None:
        self._left -= len(text.encode("utf-8", "replace"))
        if self._left < 0:
            self.full = True
            raise MemoryError("more output than may leave the sandbox")
        if len(self._kept) <= SHOWN_STDOUT:
            self._kept += text

    @property
    def text(self) -> str:
        return cut(self._kept, SHOWN_STDOUT)


class _Unfit(Exception):
    """A value that cannot travel, or a program that can answer no more."""


class _Judge:
    """One test on a freshly loaded program."""

    def __init__(self, workers: Workers, program: str, limits: Limits) -> None:
        self._workers, self._program, self._limits = workers, program, limits
        self._ended: tuple[Outcome, str] | None = None
        """What the program came to, past any `except` of the test's; an ordinary exception is none of this."""

    def judged(self, test: str) -> TestResult:
        from pydantic_monty import MontyError

        try:
            tree = ast.parse(test)
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            return TestResult(test, "exception", "", last_line(error))
        printed = _Printed(self._limits)
        outcome: Outcome = "passed"
        observed = message = ""
        try:
            with self._workers.session(self._limits) as candidate, self._workers.session(self._limits) as judge:
                candidate.feed_run(self._program, inputs=_NAME, print_callback=printed)
                known = self._known(candidate, tree, printed)

                def value(text: str, **inputs: Any) -> Any:
                    return judge.feed_run(text, external_lookup=known, inputs=inputs, print_callback=printed)

                outcome, observed, message = _held(test, tree, value)
        except _Unfit as error:
            outcome, message = "unsupported", str(error)
        except MontyError as error:
            outcome, message = _became(error, test, printed)
        if self._ended is not None:
            outcome, message = self._ended
        return TestResult(test, outcome, observed if outcome == "failed" else "", message)

    def _known(self, candidate: pydantic_monty.MontySession, tree: ast.Module, printed: _Printed) -> dict[str, Any]:
        """What the test may call so: a call into the program for what is no plain data there."""
        from pydantic_monty import MontyRuntimeError

        known: dict[str, Any] = {}
        for name in free_names(tree):
            try:
                found = candidate.feed_run(name)
            except MontyRuntimeError:
                continue  # The test says NameError itself, if it ever gets there.
            known[name] = found if _plain(found) else self._caller(candidate, name, printed)
        return known

    def _caller(self, candidate: pydantic_monty.MontySession, name: str, printed: _Printed) -> Callable[..., Any]:
        from pydantic_monty import MontyError

        def call(*args: Any, **kwargs: Any) -> Any:
            if not _plain([args, kwargs]):
                return self._end("unsupported", "an argument cannot travel between program and test")
            given = {"_given_args": args, "_given_kwargs": kwargs}
            try:
                value = candidate.feed_run(
                    f"{name}(*_given_args, **_given_kwargs)", inputs=given, print_callback=printed
                )
            except MontyError as error:
                outcome, message = _became(error, self._program, printed)
                if outcome == "exception":
                    raise error.exception() from None
                return self._end(outcome, message)
            if not _plain(value):
                return self._end("unsupported", f"what {name} returned cannot travel between program and test")
            if len(repr(value)) > self._limits.output_bytes:
                return self._end("output", "more than may leave the sandbox")
            return value

        return call

    def _end(self, outcome: Outcome, message: str) -> None:
        self._ended = outcome, message
        raise _Unfit(message)


def _held(test: str, tree: ast.Module, value: Callable[..., Any]) -> tuple[Outcome, str, str]:
    """Outcome, observed value and message of a test whose parts `value` works out."""
    from pydantic_monty import MontyRuntimeError

    only = tree.body[0] if len(tree.body) == 1 else None
    if not isinstance(only, ast.Assert):
        try:
            value(test)
        except MontyRuntimeError as error:
            if isinstance(error.exception(), AssertionError):
                return "failed", "", _last_line(error)
            raise
        return "passed", "", ""
    asked = only.test
    if isinstance(asked, ast.Compare) and len(asked.ops) == 1:
        for name, part in (("_left", asked.left), ("_right", asked.comparators[0])):
            value(f"{name} = {ast.unparse(part)}")
        holds = value(ast.unparse(ast.Compare(ast.Name("_left"), asked.ops, [ast.Name("_right")])))
    else:
        value(f"_left = {ast.unparse(asked)}")
        holds = value("bool(_left)")
    if holds:
        return "passed", "", ""
    said = "" if only.msg is None else str(value(ast.unparse(only.msg))).strip()
    message = f"AssertionError: {cut(said, CUT)}" if said else "AssertionError"
    return "failed", cut(str(value("repr(_left)")), CUT), message


def _plain(value: Any) -> bool:
    """Whether it is data through and through. Monty shows a function, or an iterator, as a text: `<function f>`."""
    if type(value) is str:
        return _DISPLAYED.fullmatch(value) is None
    if type(value) is dict:
        return all(_plain(key) and _plain(each) for key, each in value.items())
    if type(value) in (list, tuple, set, frozenset):
        return all(_plain(each) for each in value)
    return type(value) in _PLAIN


def _became(error: pydantic_monty.MontyError, text: str, printed: _Printed) -> tuple[Outcome, str]:
    """What an error of monty's says of the program, or of the limits of monty itself."""
    from pydantic_monty import MontyCrashedError, MontySyntaxError

    message = _last_line(error)
    if isinstance(error, MontyCrashedError):
        return ("timeout" if error.timed_out else "crashed"), message
    if isinstance(error, MontySyntaxError):
        return ("unsupported" if _is_python(text) else "exception"), message
    inner = error.exception()
    if isinstance(inner, TimeoutError) and "limit exceeded" in message:
        return "timeout", message
    if isinstance(inner, MemoryError):
        return ("output" if printed.full else "memory"), message
    return ("unsupported" if _lacks(inner, message) else "exception"), message


def _lacks(error: BaseException, message: str) -> bool:
    """Whether full Python might have gone on here."""
    if isinstance(error, NotImplementedError | RuntimeError):
        return _OWN_WORDS.search(message) is not None
    if isinstance(error, ImportError):
        missing_module = _NO_SUCH_MODULE.search(message)
        return missing_module is None or missing_module[1].split(".")[0] in sys.stdlib_module_names
    if isinstance(error, NameError):
        name = _NO_SUCH_NAME.search(message)
        return name is not None and hasattr(builtins, name[1])
    if isinstance(error, AttributeError):
        found = _NO_SUCH_METHOD.search(message)
        if found is None or found[1] is None:
            return True
        kind = {"NoneType": type(None), "function": type(_lacks)}.get(found[1], getattr(builtins, found[1], None))
        return kind is not None and hasattr(kind, found[2])
    return False


def _is_python(text: str) -> bool:
    try:
        ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True


def _last_line(error: pydantic_monty.MontyError) -> str:
    return str(error) if type(error.exception()) is Exception else last_line(error.exception())
