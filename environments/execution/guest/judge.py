"""How a test is put to a program in another process: by name, with plain data, and compared here."""

from __future__ import annotations

import _ast as ast
import builtins

from evolvent.environments.execution.guest.wire import CUT, Line, Thing, cut, last_line, pack, unpack

TYPE_CHECKING = False
if TYPE_CHECKING:  # `typing` takes longer to import than a program to run
    from collections.abc import Callable, Iterator
    from typing import Any


class Stopped(BaseException):
    """The candidate can answer no more. No `except Exception` of a test hides it."""

    def __init__(self, outcome: str, message: str = "") -> None:
        self.outcome, self.message = outcome, message


class Candidate:
    """The judge's end of the socket."""

    def __init__(self, fd: int, most: int, before: Callable[[int], None] | None = None) -> None:
        self._line = Line(fd, most, before)
        self.stopped: Stopped | None = None
        """Kept, for a test that swallows even this."""

    def loaded(self) -> dict[str, Any]:
        """Its first answer."""
        return self._answer()

    def resolve(self, name: str) -> Any:
        """What the program calls so: a proxy for what can be called, a copy of plain data.

        Raises:
            KeyError: nothing.
        """
        answer = self._exchange({"do": "name", "name": name})
        if "value" not in answer:
            raise KeyError(name)
        found = answer["value"]
        if "callable" in found:
            return Thing(self._ask, int(found["callable"]), name)
        return unpack(found["plain"], self._ask)

    def traced(self, call: str) -> Any:
        """See `trace`."""
        return self._ask(do="trace", call=call)

    def _ask(self, **asked: Any) -> Any:
        if asked["do"] == "call":
            try:
                asked["args"], asked["kwargs"] = pack(list(asked["args"])), pack(asked["kwargs"])
            except TypeError as error:
                raise self._stop("unsupported", str(error)) from None
        answer = self._exchange(asked)
        if "value" in answer:
            return unpack(answer["value"], self._ask)
        kind = getattr(builtins, str(answer["raised"]), Exception)
        if not (isinstance(kind, type) and issubclass(kind, Exception)):
            kind = Exception
        if kind is MemoryError:
            raise self._stop("memory", str(answer["said"]))
        try:
            same: Any = kind(str(answer["text"]))
        except TypeError:  # Some kinds, UnicodeDecodeError for one, are made of more than a text.
            same = Exception(str(answer["text"]))
        same.said = str(answer["said"])  # its last line, in which the program's own class may be named
        raise same

    def _exchange(self, asked: dict[str, Any]) -> dict[str, Any]:
        try:
            self._line.write(asked)
        except OverflowError as error:
            raise self._stop("unsupported", str(error)) from None
        except OSError:
            raise self._stop("crashed") from None
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        try:
            answer = self._line.read()
            if isinstance(answer, dict) and ("value" in answer or {"raised", "said", "text"} <= answer.keys()):
                if answer.get("raised") == "OverflowError" and "leave the sandbox" in str(answer["text"]):
                    raise self._stop("output", str(answer["text"]))
                return answer
        except OverflowError as error:
            raise self._stop("output", str(error)) from None
        except (EOFError, OSError):
            raise self._stop("crashed") from None
        except (ValueError, RecursionError):
            pass
        raise self._stop("crashed", "it answered in no form that can be read")

    def _stop(self, outcome: str, message: str = "") -> Stopped:
        self.stopped = Stopped(outcome, message)
        return self.stopped


_COMPARE: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Eq: lambda one, other: one == other, ast.NotEq: lambda one, other: one != other,
    ast.Lt: lambda one, other: one < other, ast.LtE: lambda one, other: one <= other,
    ast.Gt: lambda one, other: one > other, ast.GtE: lambda one, other: one >= other,
    ast.Is: lambda one, other: one is other, ast.IsNot: lambda one, other: one is not other,
    ast.In: lambda one, other: one in other, ast.NotIn: lambda one, other: one not in other,
}  # fmt: skip
_LITERAL = (ast.Constant, ast.List, ast.Tuple, ast.Set, ast.Dict, ast.UnaryOp, ast.USub, ast.Load)


def parsed(text: str) -> ast.Module:
    tree: Any = compile(text, "test.py", "exec", ast.PyCF_ONLY_AST, dont_inherit=True)
    module: ast.Module = tree
    return module


def walk(node: ast.AST) -> Iterator[ast.AST]:
    """The node and all below it, from above to below and from left to right."""
    yield node
    for name in node._fields:
        value = getattr(node, name, None)
        for each in value if isinstance(value, list) else (value,):
            if isinstance(each, ast.AST):
                yield from walk(each)


def of_literals(test: str) -> bool:
    """Whether a test is `assert f(…) == …` with a literal at every dot: to compare it runs no code at all."""
    try:
        body = parsed(test).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    only = body[0] if len(body) == 1 else None
    if not isinstance(only, ast.Assert) or only.msg is not None or not isinstance(only.test, ast.Compare):
        return False
    call, others = only.test.left, only.test.comparators
    if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name) or call.keywords or len(others) > 1:
        return False
    if hasattr(builtins, call.func.id):
        return False
    return all(isinstance(each, _LITERAL) for part in (*call.args, *others) for each in walk(part))


def judged(test: str, program: Candidate) -> dict[str, Any]:
    """Outcome, observed value and message of one test."""
    result: dict[str, Any] = {"observed": "", "message": ""}
    try:
        outcome = _judged(test, program, result)
    except Stopped as stop:
        outcome, result["message"] = stop.outcome, stop.message
    except MemoryError as error:
        outcome, result["message"] = "memory", last_line(error)
    except BaseException as error:  # noqa: BLE001 (whatever a test raises is its result)
        outcome, result["message"] = "exception", getattr(error, "said", "") or last_line(error)
    if program.stopped is not None and outcome == "passed":
        outcome, result["message"] = program.stopped.outcome, program.stopped.message
    return {**result, "outcome": outcome}


def _judged(test: str, program: Candidate, result: dict[str, Any]) -> str:
    loaded = program.loaded()
    if "raised" in loaded:
        result["message"] = str(loaded["said"])
        return "memory" if loaded["raised"] == "MemoryError" else "exception"
    tree = parsed(test)
    namespace: dict[str, Any] = {"__name__": "test", "__builtins__": builtins}
    for name in free_names(tree):
        try:
            namespace[name] = program.resolve(name)
        except KeyError:
            continue  # The test says NameError itself, if it ever gets there.
    if "random" in test:
        import random

        random.seed(0)
    only = tree.body[0] if len(tree.body) == 1 else None
    if not isinstance(only, ast.Assert):
        try:
            exec(compile(tree, "test.py", "exec"), namespace)
        except AssertionError as error:
            result["message"] = last_line(error)
            return "failed"
        return "passed"

    def value(node: ast.expr) -> Any:
        return eval(compile(ast.Expression(node), "test.py", "eval"), namespace)

    asked = only.test
    if isinstance(asked, ast.Compare) and len(asked.ops) == 1:
        seen = value(asked.left)
        holds = _COMPARE[type(asked.ops[0])](seen, value(asked.comparators[0]))
    else:
        seen = holds = value(asked)
    if holds:
        return "passed"
    result["observed"] = cut(repr(seen), CUT)
    said = "" if only.msg is None else str(value(only.msg)).strip()
    result["message"] = f"AssertionError: {cut(said, CUT)}" if said else "AssertionError"
    return "failed"


def free_names(tree: ast.Module) -> list[str]:
    """Names that a test reads and that neither it nor Python defines: the program's, in order of appearance."""
    names = [node for node in walk(tree) if isinstance(node, ast.Name)]
    own = {node.id for node in names if not isinstance(node.ctx, ast.Load)}
    for node in walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            own.add(node.name)
        elif isinstance(node, ast.arg):
            own.add(node.arg)
        elif isinstance(node, ast.alias):
            own.add((node.asname or node.name).split(".")[0])
        elif isinstance(node, ast.ExceptHandler) and node.name:
            own.add(node.name)
    return list(dict.fromkeys(node.id for node in names if node.id not in own and not hasattr(builtins, node.id)))
