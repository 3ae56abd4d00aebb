"""PDDL texts read and written: the subset in which `strips.py` plays (`:strips` and `:typing`).

Made for texts that a model wrote: prose, fences and comments round them are skipped, and the first thing that is wrong
is told in one line. Not read: negative, quantified and conditional expressions, equality, constants, numbers.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Literal

from evolvent.environments.errors import MalformedPddlError
from evolvent.environments.strips import Domain, Fact, Problem, Schema, written

_TOKEN = re.compile(r"[()]|[^\s()]+")
_MOST_TOKENS = 20_000
_NAME = re.compile(r"[a-z][a-z0-9_-]*")
_SECTIONS = {
    "domain": (":requirements", ":types", ":predicates", ":action"),
    "problem": (":domain", ":requirements", ":objects", ":init", ":goal"),
}
_REQUIREMENTS = (":strips", ":typing")

Tree = str | list["Tree"]


def read_domain(text: str) -> Domain:
    """The first `(define (domain …) …)` of a text.

    Raises:
        MalformedPddlError: there is none, or it is not of the subset; the message names the first fault.
    """
    name, sections = _defined(text, "domain")
    for requirement in _section(sections, ":requirements"):
        if requirement not in _REQUIREMENTS:
            raise MalformedPddlError(f"PDDL: {_shown(requirement)} is not read. Known: {', '.join(_REQUIREMENTS)}.")
    types = dict(_typed(_section(sections, ":types"), ":types"))
    predicates = {}
    for predicate in _section(sections, ":predicates"):
        head, terms = _headed(predicate, ":predicates")
        predicates[head] = tuple(kind for _, kind in _typed(terms, head, _variable))
    domain = Domain(name, types, predicates, {})
    for kind in (*types.values(), *(kind for kinds in predicates.values() for kind in kinds)):
        _known_type(kind, domain)
    actions = [_schema(section, domain) for section in sections if section[0] == ":action"]
    if not actions:
        raise MalformedPddlError(f"PDDL: the domain {name} has no (:action …).")
    return Domain(name, types, predicates, {action.name: action for action in actions})


def read_problem(text: str, domain: Domain | None = None) -> Problem:
    """The first `(define (problem …) …)` of a text, held to its domain's predicates and types where one is given.

    Raises:
        MalformedPddlError: there is none, or it is not of the subset; the message names the first fault.
    """
    name, sections = _defined(text, "problem")
    objects = dict(_typed(_section(sections, ":objects"), ":objects"))
    goal = _section(sections, ":goal")
    if len(goal) != 1:
        raise MalformedPddlError(f"PDDL: (:goal …) holds one expression, not {len(goal)}. Join several: (and …).")
    holds = [_fact(each, ":init", objects) for each in _section(sections, ":init")]
    wanted = [_fact(each, ":goal", objects) for each in _conjuncts(goal[0])]
    if not wanted:
        raise MalformedPddlError("PDDL: the goal is empty. Write (:goal (and …)) with at least one fact.")
    if domain is not None:
        for kind in objects.values():
            _known_type(kind, domain)
        for fact in (*holds, *wanted):
            _fits(fact, objects, domain)
    of = _section(sections, ":domain")
    return Problem(objects, frozenset(holds), tuple(dict.fromkeys(wanted)), name, _name(of[0], ":domain") if of else "")


def write_problem(problem: Problem) -> str:
    """A problem as PDDL that `read_problem` reads back equal; the initial facts in alphabetical order."""
    lines = [
        f"(define (problem {problem.name})",
        f"  (:domain {problem.domain})",
        f"  (:objects {' '.join(_grouped(problem.objects))})",
        "  (:init",
        *(f"    {written(fact)}" for fact in sorted(problem.initial)),
        "  )",
        "  (:goal (and",
        *(f"    {written(fact)}" for fact in problem.goal),
        "  ))",
        ")",
    ]
    return "\n".join(lines)


def _grouped(objects: Mapping[str, str]) -> Iterator[str]:
    for kind in dict.fromkeys(objects.values()):
        yield f"{' '.join(name for name, its in objects.items() if its == kind)} - {kind}"


# From text to lists.


def _defined(text: str, kind: Literal["domain", "problem"]) -> tuple[str, list[list[Tree]]]:
    """Name and sections of the first definition of a kind."""
    bare = "\n".join(line.partition(";")[0] for line in text.lower().splitlines())
    found = re.search(rf"\(\s*define\s*\(\s*{kind}\b", bare)
    if found is None:
        raise MalformedPddlError(f"PDDL: no (define ({kind} …) …) in {_shown(bare)}.")
    _, head, *sections = _tree(bare[found.start() :], kind)
    if not isinstance(head, list) or len(head) != 2 or not isinstance(head[1], str):
        raise MalformedPddlError(f"PDDL: a {kind} has one name: (define ({kind} NAME) …), not {_shown(head)}.")
    return head[1], [_checked(section, kind) for section in sections]


def _checked(section: Tree, kind: str) -> list[Tree]:
    if not isinstance(section, list) or not section or section[0] not in _SECTIONS[kind]:
        raise MalformedPddlError(
            f"PDDL: {_shown(section)} is no section of a {kind} that is read. Known: {', '.join(_SECTIONS[kind])}."
        )
    return section


def _tree(text: str, kind: str) -> list[Tree]:
    """The first expression in parentheses. Without recursion: a model may open any number of them."""
    stack: list[list[Tree]] = []
    for count, token in enumerate(_TOKEN.findall(text)):
        if count == _MOST_TOKENS:
            raise MalformedPddlError(f"PDDL: the {kind} is longer than {_MOST_TOKENS} words.")
        if token == "(":
            stack.append([])
        elif token == ")":
            done = stack.pop()
            if not stack:
                return done
            stack[-1].append(done)
        else:
            stack[-1].append(token)
    raise MalformedPddlError(f"PDDL: the {kind} lacks {len(stack)} closing parenthesis(es) at its end.")


def _section(sections: Sequence[list[Tree]], name: str) -> list[Tree]:
    """What a section holds; of one that stands twice, the whole."""
    return [each for section in sections if section[0] == name for each in section[1:]]


# From lists to values.


def _typed(items: Iterable[Tree], where: str, named: Callable[[Tree, str], str] | None = None) -> list[tuple[str, str]]:
    """(name, type) of a typed list `a b - kind c`; untyped ones are of type `object`."""
    named = named or _name
    waiting: list[str] = []
    pairs: list[tuple[str, str]] = []
    each = iter(items)
    for item in each:
        if item == "-":
            kind = next(each, None)
            if not waiting or not isinstance(kind, str):
                raise MalformedPddlError(f"PDDL: in {where}, a dash stands between names and one type.")
            pairs += [(name, kind) for name in waiting]
            waiting = []
        else:
            waiting.append(named(item, where))
    pairs += [(name, "object") for name in waiting]
    names = [name for name, _ in pairs]
    if len(set(names)) < len(names):
        twice = next(name for place, name in enumerate(names) if name in names[:place])
        raise MalformedPddlError(f"PDDL: {where} names {twice!r} twice.")
    return pairs


def _name(item: Tree, where: str) -> str:
    if not isinstance(item, str) or not _NAME.fullmatch(item):
        raise MalformedPddlError(f"PDDL: in {where}, {_shown(item)} is no name (letters, digits, - and _).")
    return item


def _variable(item: Tree, where: str) -> str:
    if not isinstance(item, str) or not (item.startswith("?") and _NAME.fullmatch(item[1:])):
        raise MalformedPddlError(f"PDDL: in {where}, {_shown(item)} is no variable; one begins with a question mark.")
    return item


def _headed(item: Tree, where: str) -> tuple[str, list[Tree]]:
    if not isinstance(item, list) or not item:
        raise MalformedPddlError(f"PDDL: in {where}, {_shown(item)} should be (name …).")
    if item[0] in ("not", "or", "forall", "exists", "when", "imply", "=", "increase"):
        raise MalformedPddlError(f"PDDL: in {where}, {_shown(item)} is not read; plain facts are.")
    return _name(item[0], where), item[1:]


def _conjuncts(item: Tree) -> list[Tree]:
    """The parts of a conjunction, nested ones too; anything else is its own only part."""
    waiting, parts = [item], []
    while waiting:
        each = waiting.pop()
        if isinstance(each, list) and each[:1] == ["and"]:
            waiting += reversed(each[1:])
        else:
            parts.append(each)
    return parts


def _fact(item: Tree, where: str, terms: Mapping[str, str]) -> Fact:
    head, arguments = _headed(item, where)
    for argument in arguments:
        if not isinstance(argument, str) or argument not in terms:
            raise MalformedPddlError(
                f"PDDL: in {where}, {_shown(item)} speaks of {_shown(argument)}, which is not declared."
            )
    return (head, *map(str, arguments))


def _schema(section: list[Tree], domain: Domain) -> Schema:
    name = _name(section[1] if len(section) > 1 else "", ":action")
    parts = {part: tree for part, tree in zip(section[2::2], section[3::2], strict=False) if isinstance(part, str)}
    known = {":parameters", ":precondition", ":effect"}
    if not {":effect"} <= set(parts) <= known or len(section) != 2 + 2 * len(parts):
        raise MalformedPddlError(f"PDDL: the action {name} should have :parameters, :precondition and :effect alone.")
    listed = parts.get(":parameters", [])
    parameters = _typed(listed if isinstance(listed, list) else [listed], name, _variable)
    terms = dict(parameters)
    for kind in terms.values():
        _known_type(kind, domain)
    needed = parts.get(":precondition", [])
    needs = [_fact(each, name, terms) for each in _conjuncts(needed)] if needed else []
    adds: list[Fact] = []
    deletes: list[Fact] = []
    for effect in _conjuncts(parts[":effect"]):
        if isinstance(effect, list) and effect[:1] == ["not"] and len(effect) == 2:
            deletes.append(_fact(effect[1], name, terms))
        else:
            adds.append(_fact(effect, name, terms))
    for fact in (*needs, *adds, *deletes):
        _fits(fact, terms, domain)
    return Schema(name, tuple(parameters), tuple(needs), tuple(adds), tuple(deletes))


def _known_type(kind: str, domain: Domain) -> None:
    if kind != "object" and kind not in domain.types:
        raise MalformedPddlError(f"PDDL: there is no type {kind!r} in the domain {domain.name}.")


def _fits(fact: Fact, terms: Mapping[str, str], domain: Domain) -> None:
    kinds = domain.predicates.get(fact[0])
    if kinds is None:
        known = ", ".join(domain.predicates)
        raise MalformedPddlError(
            f"PDDL: there is no predicate {fact[0]!r} in the domain {domain.name}. Known: {known}."
        )
    if len(kinds) != len(fact) - 1:
        raise MalformedPddlError(
            f"PDDL: {written(fact)} has {len(fact) - 1} argument(s); {fact[0]} takes {len(kinds)}."
        )
    for term, kind in zip(fact[1:], kinds, strict=True):
        if not domain.is_a(terms[term], kind):
            raise MalformedPddlError(f"PDDL: in {written(fact)}, {term} is of type {terms[term]}, not {kind}.")


def _shown(item: Tree | Sequence[Tree], most: int = 60) -> str:
    """An expression as it was written, cut."""
    text = _flat(item)
    return repr(text if len(text) <= most else text[: most - 1] + "…")


def _flat(item: Tree | Sequence[Tree]) -> str:
    """A text as it stands; a list two levels deep, for it may be nested beyond any recursion."""
    if isinstance(item, str):
        return " ".join(item.split())
    inner = (
        each if isinstance(each, str) else f"({' '.join(e if isinstance(e, str) else '…' for e in each)})"
        for each in item
    )
    return f"({' '.join(inner)})"
