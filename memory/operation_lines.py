"""Changes of memory as lines of text, for models too small to write JSON; strings in, operations out.

    ADD rule: To mend rust, use the oil.
    UPDATE 2: To mend a crack, use the clamp.
    MERGE 1, 3: Wet things want the sponge.
    RETIRE 4: it failed three times
    KEEP 5
    NOTHING

A record is named by its number in the list that was shown, its id, or the beginning of its id. What small models do to
such lines is repaired: bullets, case, quotes, code fences, a missing colon, other verbs, JSON in place of lines. What
cannot be read is rejected with a reason. Nothing vanishes: each line of a reply is one of the two.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from evolvent.environments.solo import encodable
from evolvent.memory.operations import VERBS, Operation, Rejected, Verb
from evolvent.memory.types import WEIGHTS, Kind

MOST_CHARS = 1000
"""Of one statement. A longer one is rejected, not cut: half a rule may say the opposite."""

_SYNONYMS: dict[str, Verb] = {
    **{verb: verb for verb in VERBS},
    **dict.fromkeys(("create", "new", "insert"), "add"),
    **dict.fromkeys(("edit", "change", "modify", "rewrite", "revise"), "update"),
    **dict.fromkeys(("combine", "join"), "merge"),
    **dict.fromkeys(("delete", "remove", "drop", "forget"), "retire"),
    **dict.fromkeys(("none", "noop", "no_op", "no change", "no changes"), "nothing"),
}
_KINDS: dict[str, Kind] = {
    **{kind: kind for kind in get_args(Kind) if kind not in WEIGHTS},
    **dict.fromkeys(("lesson", "insight"), "rule"),
    **dict.fromkeys(("fact", "memory"), "note"),
}


@dataclass(frozen=True, slots=True)
class Parsed:
    operations: tuple[Operation, ...] = ()
    repaired: tuple[str, ...] = ()
    """Lines, as they were written, that were read only after a repair."""
    rejected: tuple[Rejected, ...] = ()


class _UnreadableError(ValueError):
    """Why a line is no operation."""


def parse(reply: str, shown: Sequence[str], *, verbs: Collection[Verb] = VERBS) -> Parsed:
    """The operations a reply asks for. Never raises.

    Args:
        shown: ids of the records the model was shown, in the order of their numbers, from 1.
        verbs: what it was allowed to ask for.
    """
    operations, repaired, rejected = [], [], []
    for piece in _pieces(encodable(reply)):
        written = encodable(piece if isinstance(piece, str) else json.dumps(piece, ensure_ascii=False))
        try:
            operation, canonical = _read(written if isinstance(piece, str) else encodable(_line(piece)), shown)
            if operation.verb not in verbs:
                raise _UnreadableError(f"{operation.verb.upper()} is not asked for here")
            operations.append(operation)
            if canonical != written.strip():
                repaired.append(written)
        except _UnreadableError as error:
            rejected.append(Rejected(written, str(error)))
    return Parsed(tuple(operations), tuple(repaired), tuple(rejected))


_FENCE = re.compile(r"\s*(?:```|~~~)\w*\s*")
_OBJECT = re.compile(r"^[ \t\[,*-]*+(?=\{\s*[\"'])", re.MULTILINE)
"""Before a JSON object: it begins a line, or follows another one."""
_WRAPPER = re.compile(r"\{\s*[\"']\w+[\"']\s*:\s*\[\s*(?=\{)")
_VERB = re.compile(
    r"[^A-Za-z]*+(?:(?:operation|action|op|step)\b *\d* *[:.)-][^A-Za-z]*+)?"
    rf"({'|'.join(sorted(_SYNONYMS, key=len, reverse=True))})(?![A-Za-z])[*_`\"'\])]*",
    re.IGNORECASE,
)
_KIND = re.compile(rf"[\W_]*(?:an?\s+|new\s+)*({'|'.join(_KINDS)})\b[*_`\"'\])>]*", re.IGNORECASE)
_NAME = re.compile(
    r"[\s#\[(\"'`<*]*(?:\b(?:ids?|rules?|records?|numbers?|no|items?|memory|line)\b[\s.:#\[(\"'`<*]*)?"
    r"([a-z]+-[0-9a-f]+|[0-9a-f]{4,12}|[0-9]+)(?![\w-]|\.\d)[\])\"'`>*]*",
    re.IGNORECASE,
)
_BETWEEN = re.compile(r"\s*(?:[,&+;/|]\s*(?:and\b)?|and\b|with\b|into\b)", re.IGNORECASE)
_COLON = re.compile(r"\s*(?:\.?\s*(?::|->|=>|=|—|–|-(?=\s))|\.(?=\s))\s*(?:\*+\s+)?")
_ANOTHER = re.compile(r"\b(?:(?:UPDATE|MERGE|RETIRE|KEEP)\s+[#\[(]?(?:[0-9]|[a-z]+-[0-9a-f])|ADD\s+[a-z]+\s*:)")
"""A second operation, further on in the line."""
_QUOTES = (("**", "**"), ("*", "*"), ("`", "`"), ('"', '"'), ("'", "'"), ("“", "”"), ("«", "»"), ("<", ">"))


def _pieces(reply: str) -> Iterator[str | dict[str, Any]]:
    """The lines of a reply, and the JSON objects in it."""
    text = "\n".join(line for line in reply.splitlines() if not _FENCE.fullmatch(line))
    try:
        whole = json.loads(text)
    except (ValueError, RecursionError):
        whole = None
    if isinstance(whole, list | dict):
        yield from _elements(whole)
        return
    while found := _OBJECT.search(text):
        yield from _lines(text[: found.start()])
        text = text[found.end() :]
        if wrapper := _WRAPPER.match(text):
            text = text[wrapper.end() :]  # it does not close, or holds an element that is broken: one by one
        value, end = _object(text)
        if isinstance(value, dict):
            yield from _elements(value)
        else:
            yield value
        text = re.sub(r"\A[ \t]*[,\]}]*[ \t]*(?=$|\{)", "", text[end:], count=1, flags=re.MULTILINE)
    yield from _lines(text)


def _lines(text: str) -> Iterator[str]:
    for line in text.splitlines():
        if line.strip() and line.strip(" \t[]{},"):
            yield line


def _object(text: str) -> tuple[Any, int]:
    """The value of the object that the text begins with and where it ends; where it is none, its text, to be rejected.

    An object that was cut off is not completed: nobody knows what it was going to say.
    """
    try:
        return json.JSONDecoder().raw_decode(text)
    except (ValueError, RecursionError):
        end = next((match.end() for match in re.finditer(r"\}|\n(?=[ \t]*+[^\s}\"'])", text)), len(text))
    body = re.sub(r",\s*\}", "}", text[:end].strip())
    # Single quotes, as Python prints a dict, where no apostrophe can be taken for one.
    quoted = re.sub(r"(?<=[{,:\[\s])'([^'\"]*)'(?=\s*[:,}\]])", r'"\1"', body)
    for attempt in (body, quoted):
        try:
            value = json.loads(attempt)
        except (ValueError, RecursionError):
            continue
        if isinstance(value, dict):
            return value, end
    return " ".join(text[:end].split()), end


def _elements(value: list[Any] | dict[str, Any], depth: int = 0) -> Iterator[str | dict[str, Any]]:
    """What a JSON reply holds: an object is one operation unless all it has is a list of them."""
    if isinstance(value, dict):
        inner = next((each for each in value.values() if isinstance(each, list)), None)
        if len(value) == 1 and inner is not None and depth == 0:
            yield from _elements(inner, depth + 1)
        else:
            yield value
        return
    for each in value:
        if isinstance(each, dict):
            yield from _elements(each, depth + 1)
        else:
            yield each if isinstance(each, str) and each.strip() else json.dumps(each)


def _line(piece: Mapping[str, Any]) -> str:
    """The line that says what a JSON object says."""
    fields = {key.lower(): value for key, value in piece.items()}

    def first(*keys: str) -> Any:
        return next((fields[key] for key in keys if fields.get(key) not in (None, "", [])), "")

    said = first("operation", "op", "action", "event", "verb", "type")
    verb = _SYNONYMS.get(str(said).strip().lower())
    if verb is None:
        raise _UnreadableError(f"it names no operation; expected one of {_choices(VERBS)}")
    if isinstance(fields.get("text", ""), dict | list):
        raise _UnreadableError("its text is no string")
    named = first("ids", "id", "records", "record", "target", "targets", "record_id", "memory_id", "number", "index")
    names = ", ".join(str(each) for each in (named if isinstance(named, list) else [named])) if named != "" else ""
    text = first("text", "new_text", "content", "memory", "statement", "rule", "fact", "data", "value", "reason")
    text = " ".join(str(text).split())
    if verb == "nothing":
        return f"NOTHING: {text}"
    if verb == "add":
        kind = str(first("kind", "type")).strip().lower()
        return f"ADD {kind if kind in _KINDS else 'rule'}: {text}"
    return f"{verb.upper()} {names}: {text}" if text else f"{verb.upper()} {names}"


def _read(line: str, shown: Sequence[str]) -> tuple[Operation, str]:
    """The operation of one line, and the line as it should have been written."""
    line = " ".join(line.split())
    if line.startswith("{"):
        raise _UnreadableError("it is not JSON that can be read; expected one operation a line")
    found = _VERB.match(line)
    if not found:
        raise _UnreadableError(f"it begins with no operation; expected one of {_choices(VERBS)}")
    verb, rest = _SYNONYMS[found[1].lower()], line[found.end() :]
    if line[-1] in "`*\"'" and line[-1] in line[: found.start(1)]:
        rest = rest.rstrip(line[-1])  # a mark round the whole line
    if _ANOTHER.search(rest):
        raise _UnreadableError("it holds two operations; expected one a line")
    loud = found[1].isupper()
    if verb == "nothing":
        return _read_nothing(rest)
    if verb == "add":
        return _read_add(rest, loud)
    names, rest = _names(verb, rest)
    ids = tuple(dict.fromkeys(_resolve(name, shown) for name in names))
    if not ids:
        raise _UnreadableError(f"it names no record; expected a number from 1 to {len(shown)} after {verb.upper()}")
    if verb == "merge" and len(ids) < 2:
        raise _UnreadableError("it names one record; a merge takes two or more")
    colon = _COLON.match(rest)
    text = _plain(rest[colon.end() :] if colon else rest.lstrip(" ,;."))
    if text and not (colon or (loud and verb != "merge") or found[1].lower() in ("retire", "keep")):
        # "Drop 2 coins into the box" is advice, and what follows "MERGE 1, 2" may be a reason.
        raise _UnreadableError(f"it has no colon; expected {verb.upper()} {names[0]}: TEXT")
    if verb == "update" and not text:
        raise _UnreadableError(f"it has no text; expected UPDATE {names[0]}: TEXT")
    _check_length(text)
    canonical = f"{verb.upper()} {', '.join(names)}"
    return Operation(verb, ids, text), f"{canonical}: {text}" if text or verb == "retire" else canonical


def _read_nothing(rest: str) -> tuple[Operation, str]:
    colon = _COLON.match(rest)
    text = _plain(rest[colon.end() :] if colon else rest)
    if len(text.split()) > 6 and not colon:
        # "None of these helped when the lamp went out" is advice as well.
        raise _UnreadableError("it says more than NOTHING; expected the word alone")
    return Operation("nothing", text=text), "NOTHING"


def _read_add(rest: str, loud: bool) -> tuple[Operation, str]:
    kind = _KIND.match(rest)
    colon = _COLON.match(rest, kind.end() if kind else 0)
    if not (colon or loud):
        raise _UnreadableError("it has no colon; expected ADD rule: TEXT")
    text = _plain(rest[colon.end() :] if colon else rest[kind.end() :] if kind else rest)
    if not text:
        raise _UnreadableError("it has no text; expected ADD rule: TEXT")
    _check_length(text)
    known = _KINDS[kind[1].lower()] if kind else "rule"
    return Operation("add", text=text, kind=known), f"ADD {known}: {text}"


def _names(verb: Verb, rest: str) -> tuple[list[str], str]:
    """How the line names its records, and what follows. Only a merge may leave out the commas."""
    names: list[str] = []
    while name := _NAME.match(rest):
        names.append(name[1])
        rest = rest[name.end() :]
        between = _BETWEEN.match(rest)
        if verb == "update" or not (between or verb == "merge"):
            break
        if between and _NAME.match(rest, between.end()):
            rest = rest[between.end() :]
        elif between:
            break
    return names, rest


def _resolve(name: str, shown: Sequence[str]) -> str:
    """The id of a record by its number in the list, its id or the beginning of that."""
    if name.isdecimal() and len(name) < 4 and 1 <= int(name) <= len(shown):
        return shown[int(name) - 1]
    lower = name.lower()
    found = [
        each for each in dict.fromkeys(shown) if each.startswith(lower) or each.partition("-")[2].startswith(lower)
    ]
    if name.isdecimal() and len(name) < 4:
        found = []  # a number out of range is not the beginning of an id
    if len(found) > 1:
        raise _UnreadableError(f"{name!r} begins the ids of {len(found)} records; write more of it")
    if not found:
        raise _UnreadableError(f"no record {name!r} was shown; expected a number from 1 to {len(shown)}")
    return found[0]


def _plain(text: str) -> str:
    """The text without quotes or stars round it; empty when it has neither letter nor number."""
    plain = text.strip()
    for opening, closing in _QUOTES:
        inner = plain[len(opening) : -len(closing)]
        if plain == opening + inner + closing and opening[0] not in inner and closing[0] not in inner:
            plain = inner.strip()
    return plain if any(each.isalnum() for each in plain) else ""


def _check_length(text: str) -> None:
    if len(text) > MOST_CHARS:
        raise _UnreadableError(f"its text has {len(text)} characters; expected one statement of at most {MOST_CHARS}")


def _choices(verbs: Collection[Verb]) -> str:
    return ", ".join(verb.upper() for verb in verbs)
