"""One tool call as text, `name(arg="x", n=2)` or JSON with `name` and `arguments`: read as literals, never run."""

from __future__ import annotations

import json
import math
import re
from typing import Any

from evolvent.environments.errors import MalformedCallError
from evolvent.environments.types import ToolCall

LONGEST = 10_000
"""Characters of a call that is read."""
_DEEPEST = 20
_TOKEN = re.compile(
    r'''
    (?: (?P<string> """(?:[^\\]|\\.)*?""" | "(?:[^"\\]|\\.)*" | \'(?:[^\'\\]|\\.)*\' )
    | (?P<number> -?\d{1,30}(?:\.\d{1,30})?(?:[eE][+-]?\d{1,3})?(?!\w) )
    | (?P<word> [A-Za-z_]\w* )
    | (?P<mark> [()\[\]{},:=] ) ) \s*
    ''',
    re.VERBOSE | re.DOTALL,
)
_FENCED = re.compile(r"`{3}\w*\n(.*?)\n?`{3}", re.DOTALL)
_ESCAPE = re.compile(r"""\\(u[0-9a-fA-F]{4}|["'\\/bfnrt])""")
_ESCAPED = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}
_WORDS = {"true": True, "True": True, "false": False, "False": False, "null": None, "None": None}


def write_call(call: ToolCall) -> str:
    """The text of a call; `read_call` gives it back where its numbers are finite and under 30 digits."""
    arguments = (f"{name}={json.dumps(value, ensure_ascii=False)}" for name, value in call.arguments.items())
    return f"{call.name}({', '.join(arguments)})"


def read_call(text: str) -> ToolCall:
    """The one call that a text is; a code fence round it is taken off.

    Values are strings, numbers, lists, dictionaries, true, false and null, spelled as in JSON or in Python.

    Raises:
        MalformedCallError: it is no call, more than one, or longer than 10,000 characters; says what is wrong.
    """
    if len(text) > LONGEST:
        raise MalformedCallError(f"A call has at most {LONGEST:,} characters, not {len(text):,}.")
    bare = text.strip()
    fenced = _FENCED.fullmatch(bare)
    reader = _Reader(fenced[1] if fenced else bare.strip("`"))
    call = _from_json(reader.value()) if reader.next_is("{") else reader.call()
    reader.end()
    return call


def _from_json(read: Any) -> ToolCall:
    arguments = read.get("arguments", {})
    if not isinstance(read.get("name"), str) or not isinstance(arguments, dict) or read.keys() - {"name", "arguments"}:
        raise MalformedCallError('A call in JSON holds a "name", a text, and "arguments", an object, and nothing else.')
    return ToolCall(read["name"], arguments)


class _Reader:
    def __init__(self, text: str) -> None:
        self._tokens: list[tuple[str, str]] = []
        """(kind, text)"""
        self._at = 0
        text, place = text.strip(), 0
        while place < len(text):
            found = _TOKEN.match(text, place)
            if found is None:
                raise MalformedCallError(f"This cannot be read: {text[place : place + 20]!r}.")
            kind = str(found.lastgroup)
            self._tokens.append((kind, found[kind]))
            place = found.end()

    def next_is(self, mark: str) -> bool:
        return self._peek() == ("mark", mark)

    def call(self) -> ToolCall:
        name = self._word("the name of a tool")
        self._expect("(")
        arguments: dict[str, Any] = {}
        while not self.next_is(")"):
            parameter = self._word(f"the name of an argument, as in {name}(argument=value)")
            self._expect("=")
            if parameter in arguments:
                raise MalformedCallError(f"{parameter} is given twice.")
            arguments[parameter] = self.value()
            if not self.next_is(")"):
                self._expect(",")
        self._expect(")")
        return ToolCall(name, arguments)

    def value(self, depth: int = 0) -> Any:
        kind, text = self._peek()
        if depth > _DEEPEST:
            raise MalformedCallError(f"Lists stand in one another at most {_DEEPEST} deep.")
        if kind == "mark" and text in ("[", "{"):
            return self._items(depth) if text == "[" else self._pairs(depth)
        self._at += 1
        if kind == "string":
            return _unescaped(text)
        if kind == "number":
            number = float(text) if re.search("[.eE]", text) else int(text)
            if math.isfinite(number):
                return number
        if kind == "word" and text in _WORDS:
            return _WORDS[text]
        raise MalformedCallError(f"A value was expected, in quotes if it is text, not {_named(text)}.")

    def end(self) -> None:
        if self._at < len(self._tokens):
            raise MalformedCallError(f"One call and nothing else was expected, not {_named(self._peek()[1])} after it.")

    def _items(self, depth: int) -> list[Any]:
        self._expect("[")
        items: list[Any] = []
        while not self.next_is("]"):
            items.append(self.value(depth + 1))
            if not self.next_is("]"):
                self._expect(",")
        self._expect("]")
        return items

    def _pairs(self, depth: int) -> dict[str, Any]:
        self._expect("{")
        pairs: dict[str, Any] = {}
        while not self.next_is("}"):
            key = self.value(depth + 1)
            if not isinstance(key, str):
                raise MalformedCallError(f"A key is text in quotes, not {key!r}.")
            self._expect(":")
            pairs[key] = self.value(depth + 1)
            if not self.next_is("}"):
                self._expect(",")
        self._expect("}")
        return pairs

    def _peek(self) -> tuple[str, str]:
        return self._tokens[self._at] if self._at < len(self._tokens) else ("end", "")

    def _word(self, expected: str) -> str:
        kind, text = self._peek()
        if kind != "word":
            raise MalformedCallError(f"Expected {expected}, not {_named(text)}.")
        self._at += 1
        return text

    def _expect(self, mark: str) -> None:
        if not self.next_is(mark):
            raise MalformedCallError(f"Expected {mark!r}, not {_named(self._peek()[1])}.")
        self._at += 1


def _named(text: str) -> str:
    return repr(text if len(text) <= 20 else text[:19] + "…") if text else "the end"


def _unescaped(quoted: str) -> str:
    """What a string literal stands for. An escape of no meaning stays as it is written."""
    inner = quoted[3:-3] if quoted.startswith('"""') else quoted[1:-1]
    plain = _ESCAPE.sub(lambda found: _escaped(found[1]), inner)
    # JSON writes a sign beyond 16 bits as two escapes; one of them alone is no sign.
    return plain.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _escaped(code: str) -> str:
    return chr(int(code[1:], 16)) if len(code) == 5 else _ESCAPED.get(code, code)
