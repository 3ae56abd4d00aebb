"""A function's run, line by line and block by block."""

from __future__ import annotations

import _ast as ast
import sys

from evolvent.environments.execution.guest.judge import parsed, walk
from evolvent.environments.execution.guest.wire import CUT, cut, last_line

TYPE_CHECKING = False
if TYPE_CHECKING:  # `typing` takes longer to import than a program to run
    from typing import Any

KEPT_BLOCKS = 200
"""At either end of a trace."""


def trace(namespace: dict[str, Any], program: str, text: str) -> dict[str, Any]:
    """Blocks of the outermost run of the function that the first call in `text` names. See `types.Trace`."""
    import dis
    import inspect

    nothing = {"blocks": [], "left_out": 0, "outcome": "passed", "returned": ""}
    calls = [each for each in walk(parsed(text)) if isinstance(each, ast.Call) and isinstance(each.func, ast.Name)]
    calls = [each for each in calls if each.func.id in namespace]  # type: ignore[attr-defined]  # the line above saw it
    if not calls:
        return {**nothing, "outcome": "unsupported", "reason": "The text calls no function of the program."}
    call = min(calls, key=lambda each: (each.lineno, each.col_offset))
    name: str = call.func.id  # type: ignore[attr-defined]  # likewise
    code = getattr(inspect.unwrap(namespace[name]), "__code__", None)
    if code is None:
        return {**nothing, "outcome": "unsupported", "reason": f"{name} is no function written in Python."}
    if code.co_flags & (inspect.CO_GENERATOR | inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR):
        return {**nothing, "outcome": "unsupported", "reason": f"{name} is a generator or a coroutine."}
    follows = straight(code, dis)
    source = program.splitlines()
    first: list[Any] = []
    last: list[Any] = []
    blocks = 0
    frame_seen: list[Any] = []
    open_block: dict[str, Any] = {}
    at: list[int] = []
    broken_off: list[bool] = []

    def values(frame: Any) -> dict[str, str]:
        return {key: cut(repr(each), 100) for key, each in frame.f_locals.items()}

    def close_line(frame: Any) -> None:
        if at:
            number = at.pop()
            shown = source[number - 1].strip() if number <= len(source) else ""
            open_block["lines"].append([number, shown, values(frame)])

    def close_block() -> None:
        nonlocal blocks
        if open_block and open_block["lines"]:
            (first if blocks < KEPT_BLOCKS else last).append({**open_block})
            if len(last) > KEPT_BLOCKS:
                del last[0]
            blocks += 1

    def local(frame: Any, event: str, argument: Any) -> Any:
        if event == "line":
            came_from = at[0] if at else 0
            close_line(frame)
            if not open_block or broken_off or (came_from, frame.f_lineno) not in follows:
                close_block()
                open_block.update(before=values(frame), lines=[])
            broken_off.clear()
            at.append(frame.f_lineno)
        elif event == "exception":
            broken_off.append(True)
        elif event == "return":
            close_line(frame)
            close_block()
        return local

    def enter(frame: Any, event: str, argument: Any) -> Any:
        if frame.f_code is not code or frame_seen:
            return None
        frame_seen.append(frame)
        return local

    outcome, compiled = "passed", compile(ast.Expression(call), "test.py", "eval")
    sys.settrace(enter)
    try:
        returned = eval(compiled, namespace)
    except BaseException as error:  # noqa: BLE001 (the program's, SystemExit included)
        sys.settrace(None)
        outcome, shown = "exception", last_line(error)
    else:
        sys.settrace(None)
        shown = cut(repr(returned), CUT)
    reason = "" if frame_seen else f"{name} was never entered."
    return {
        "blocks": first + last,
        "left_out": blocks - len(first) - len(last),
        "outcome": outcome,
        "returned": shown,
        "reason": reason,
    }


def straight(code: Any, dis: Any) -> set[tuple[int, int]]:
    """Pairs of lines of a function of which the second always follows the first: both in one basic block.

    A block begins where a jump may land and after an instruction that may jump, returns or raises.
    """
    instructions = list(dis.get_instructions(code))
    jumps = {*dis.hasjrel, *dis.hasjabs}
    leaves = {"RETURN_VALUE", "RETURN_CONST", "RAISE_VARARGS", "RERAISE"}
    starts = [(offset, line) for offset, line in dis.findlinestarts(code) if line is not None]
    joined: set[tuple[int, int]] = set()
    broken: set[tuple[int, int]] = set()
    for (begin, line), (end, following) in zip(starts, starts[1:]):  # noqa: B905, RUF007 (itertools would be one more import)
        within = [each for each in instructions if begin <= each.offset < end]
        splits = any(each.opcode in jumps or each.opname in leaves for each in within)
        lands = any(each.is_jump_target for each in instructions if begin < each.offset <= end)
        (broken if splits or lands else joined).add((line, following))
    return joined - broken
