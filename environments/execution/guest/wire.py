"""What travels between candidate, judge, supervisor and host: JSON lines of plain data."""

from __future__ import annotations

import json
import os

TYPE_CHECKING = False
if TYPE_CHECKING:  # `typing` takes longer to import than a program to run
    from collections.abc import Callable
    from typing import Any

CUT = 200
"""Longest value and message that is shown, in characters."""
SHOWN_STDOUT = 2000
_SMALL = 2**62


class Line:
    """JSON lines over a socket or a pipe, each at most so long."""

    def __init__(self, fd: int, most: int, before: Callable[[int], None] | None = None) -> None:
        """`before` is called with the descriptor ahead of each read, and may give up by raising."""
        self.fd, self._most, self._before, self._rest = fd, most, before, b""

    def write(self, value: Any) -> None:
        text = json.dumps(value).encode() + b"\n"
        if len(text) > self._most:
            raise OverflowError(f"{len(text)} bytes are more than may leave the sandbox")
        view = memoryview(text)
        while view:
            view = view[os.write(self.fd, view) :]

    def read(self) -> Any:
        """The next value.

        Raises:
            EOFError: the other side is gone.
            OverflowError: it wrote more than may be read.
            ValueError: what it wrote is no JSON.
        """
        parts = [self._rest]
        size = len(self._rest)
        while b"\n" not in parts[-1]:
            if size > self._most:
                raise OverflowError("more than may leave the sandbox")
            if self._before is not None:
                self._before(self.fd)
            part = os.read(self.fd, 1 << 16)
            if not part:
                raise EOFError
            parts.append(part)
            size += len(part)
        line, _, self._rest = b"".join(parts).partition(b"\n")
        return json.loads(line)


class Thing:
    """An object of the candidate's that is no plain data. It can be called and asked; it equals nothing."""

    __hash__ = None  # type: ignore[assignment]  # such an object is no key: two of them cannot be told apart

    def __init__(self, ask: Callable[..., Any], key: int, shown: str) -> None:
        self._ask, self._key, self._shown = ask, key, shown

    def __eq__(self, other: object) -> bool:
        return False

    def __repr__(self) -> str:
        return self._shown

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._ask(do="call", of=self._key, args=args, kwargs=kwargs)

    def __getattr__(self, name: str) -> Any:
        return self._ask(do="attribute", of=self._key, name=name)


def pack(value: Any, keep: Callable[[Any], int] | None = None) -> Any:
    """Plain data as JSON; anything else as the number under which `keep` has it.

    Raises:
        TypeError: there is something else and no `keep`.
    """
    if value is None or value is True or value is False:
        return value
    kind = type(value)
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int):
        whole = int.__int__(value)
        return whole if -_SMALL < whole < _SMALL else {"int": hex(whole)}
    if isinstance(value, float):
        return float.__float__(value)
    if isinstance(value, complex):
        return {"complex": [value.real, value.imag]}
    if isinstance(value, bytes | bytearray):
        return {"bytes": bytes(value).hex()}
    if kind is range:
        return {"range": [value.start, value.stop, value.step]}
    if isinstance(value, dict):
        return {"dict": [[pack(key, keep), pack(each, keep)] for key, each in dict.items(value)]}
    for name, plain in (("list", list), ("tuple", tuple), ("set", set), ("frozenset", frozenset)):
        if isinstance(value, plain):
            return {name: [pack(each, keep) for each in plain.__iter__(value)]}  # type: ignore[arg-type]  # it is one
    if hasattr(kind, "__next__") or kind in (type({}.keys()), type({}.values()), type({}.items())):
        return {"list": [pack(each, keep) for each in value]}
    if keep is None:
        raise TypeError(f"a {kind.__name__} cannot travel between program and test")
    return {"thing": keep(value), "shown": cut(repr(value), CUT)}


def unpack(value: Any, ask: Callable[..., Any] | None = None) -> Any:
    """What `pack` packed: exact built-in types, so that nothing of the sender's decides a comparison."""
    if not isinstance(value, dict):
        return value
    ((name, inner),) = ((name, each) for name, each in value.items() if name != "shown")
    if name == "int":
        return int(inner, 16)
    if name == "complex":
        return complex(*inner)
    if name == "bytes":
        return bytes.fromhex(inner)
    if name == "range":
        return range(*inner)
    if name == "dict":
        return {unpack(key, ask): unpack(each, ask) for key, each in inner}
    if name == "thing":
        if ask is None:
            raise TypeError("no such value here")
        return Thing(ask, int(inner), str(value.get("shown", "")))
    parts = (unpack(each, ask) for each in inner)
    return {"list": list, "tuple": tuple, "set": set, "frozenset": frozenset}[name](parts)


def cut(text: str, most: int) -> str:
    """The first and the last half of a longer text."""
    half = most // 2
    return text if len(text) <= most else text[:half] + "…" + text[-half + 1 :]


def last_line(error: BaseException) -> str:
    """As the end of a traceback has it."""
    try:
        said = str(error)
    except BaseException:  # noqa: BLE001 (the error is the program's, and so is its __str__)
        said = ""
    name = type(error).__name__
    lines = said.strip().splitlines()
    return cut(f"{name}: {lines[-1]}" if lines else name, 2 * CUT)
