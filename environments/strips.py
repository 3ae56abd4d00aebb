"""STRIPS planning problems as values: what may be done in a state, whether a plan holds, and a search for a short one.

A state is a set of facts. An action needs facts, takes some away and adds others; nothing is needed to be false.
Texts are for `pddl.py`, tasks for `planning.py`.
"""

from __future__ import annotations

import difflib
import heapq
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

Fact = tuple[str, ...]
"""A predicate and its objects, or in a schema its variables: ("on", "red", "?y")."""
Flaw = Literal["", "nothing", "action", "arguments", "object", "precondition", "trailing", "goal"]
_FIX_STEPS = 3
"""Actions that a proposed fix may take."""
_FIX_STATES = 2_000
"""States that are looked at for it."""
_MOST_STEPS = 50_000
"""Actions with objects for their variables that are searched with; a model may write a domain with millions."""


@dataclass(frozen=True, slots=True)
class Schema:
    """An action with variables."""

    name: str
    parameters: tuple[tuple[str, str], ...]
    """(variable, type), the variable with its question mark."""
    needs: tuple[Fact, ...]
    adds: tuple[Fact, ...]
    deletes: tuple[Fact, ...]
    """Taken away before `adds` are added."""

    @property
    def form(self) -> str:
        """How it is written: (stack ?x ?y)."""
        return written((self.name, *(variable for variable, _ in self.parameters)))


@dataclass(frozen=True, slots=True)
class Domain:
    name: str
    types: Mapping[str, str]
    """Type → its parent; `object` is the root and not listed."""
    predicates: Mapping[str, tuple[str, ...]]
    """Predicate → types of its arguments."""
    actions: Mapping[str, Schema]

    def is_a(self, kind: str, wanted: str) -> bool:
        """Whether a type is another one or lies below it."""
        seen = set()
        while kind != wanted and kind in self.types and kind not in seen:
            seen.add(kind)
            kind = self.types[kind]
        return wanted in ("object", kind)


@dataclass(frozen=True, slots=True)
class Problem:
    objects: Mapping[str, str]
    """Object → its type."""
    initial: frozenset[Fact]
    goal: tuple[Fact, ...]
    """All of them, in the order in which an unmet one is named."""
    name: str = field(default="problem", compare=False)
    domain: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class Call:
    """One action of a plan, as it was written; perhaps of no action or object that there is."""

    name: str
    arguments: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        return written((self.name, *self.arguments))


Plan = tuple[Call, ...]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What an exact simulation found; about the first flaw alone, whatever comes after it."""

    flaw: Flaw
    """Empty when the plan is valid. `nothing`: there is no action; `action`, `arguments`, `object`: an unknown action,
    too many, too few or the wrong kind of arguments, an unknown object; `precondition`: it is not possible then;
    `trailing`: the goal was reached before; `goal`: every action is possible and the goal is not reached."""
    legal: int
    """Leading actions that are possible and wanted: the longest prefix worth keeping."""
    position: int | None = None
    """Of the flawed action, from 1; None where no action is to blame (`nothing`, `goal`)."""
    action: str = ""
    """Text of the flawed action."""
    reason: str = ""
    fix: str = ""
    """A concrete change that removes this flaw; empty where none is known."""

    @property
    def valid(self) -> bool:
        return not self.flaw

    @property
    def text(self) -> str:
        """The whole as one to three sentences."""
        if self.valid:
            return "The plan is valid and reaches the goal."
        blamed = "" if self.position is None else f"Action {self.position}, {_cut(self.action)}: "
        return f"{blamed}{self.reason} {self.fix}".strip()


def _cut(text: str, most: int = 60) -> str:
    """A model may write pages between two parentheses."""
    return text if len(text) <= most else f"{text[: most - 1]}…"


def written(fact: Sequence[str]) -> str:
    """A fact or an action as PDDL writes it: (on red blue)."""
    return f"({' '.join(fact)})"


def check(domain: Domain, problem: Problem, plan: Sequence[Call]) -> Verdict:
    """Plays a plan from the initial state and stops at the first flaw.

    A plan that goes on after its goal was reached is flawed there, as "goal already satisfied".
    """
    if not plan:
        return Verdict("nothing", 0, reason="There is no action to read.", fix="Write each action in parentheses.")
    state = problem.initial
    for index, call in enumerate(plan):
        if state.issuperset(problem.goal):
            kept = f"Keep only the first {index}." if index else "The empty plan would do."
            return Verdict(
                "trailing", index, index + 1, call.text, f"goal already satisfied before this action. {kept}".strip()
            )
        flaw = _flaw(domain, problem, state, call)
        if flaw is not None:
            kind, reason, fix = flaw
            return Verdict(kind, index, index + 1, call.text, reason, fix)
        state = after(domain, state, call)
    for fact in problem.goal:
        if fact not in state:
            reason = f"Every action is possible, but the goal is not reached: {written(fact)} does not hold at the end."
            return Verdict("goal", len(plan), reason=reason, fix="Add the actions that are missing.")
    return Verdict("", len(plan))


def after(domain: Domain, state: frozenset[Fact], call: Call) -> frozenset[Fact]:
    """The state that a possible action leads to."""
    schema = domain.actions[call.name]
    return (state - set(_bound(schema.deletes, schema, call))) | set(_bound(schema.adds, schema, call))


def solve(domain: Domain, problem: Problem, *, longest: int | None = None, states: int = 200_000) -> Plan | None:
    """A short plan by A*, with the number of unmet goal facts for a distance; the same one each time.

    It is a shortest one where no action adds two facts of the goal. None when there is none of at most `longest`
    actions, when none was found among that many states, or when there are more than 50,000 actions to choose from.
    """
    steps = _ground(domain, problem)
    if steps is None:
        return None
    number = {fact: place for place, fact in enumerate(_facts(problem, steps))}

    def bits(facts: Sequence[Fact] | frozenset[Fact]) -> int:
        return sum(1 << number[fact] for fact in set(facts))

    moves = [(bits(step.needs), ~bits(step.deletes), bits(step.adds), step.call) for step in steps]
    start, goal = bits(problem.initial), bits(problem.goal)
    came: dict[int, tuple[int, Call] | None] = {start: None}
    reached = {start: 0}
    queue = [((goal & ~start).bit_count(), 0, start)]
    while queue and len(reached) <= states:
        _, minus_length, state = heapq.heappop(queue)
        length = -minus_length
        if length > reached[state]:
            continue
        if state & goal == goal:
            return _traced(came, state)
        if length == longest:
            continue
        for needs, keeps, adds, call in moves:
            if state & needs == needs:
                new = state & keeps | adds
                if length + 1 < reached.get(new, length + 2):
                    reached[new], came[new] = length + 1, (state, call)
                    heapq.heappush(queue, (length + 1 + (goal & ~new).bit_count(), -length - 1, new))
    return None


def differences(mine: Problem, reference: Problem) -> tuple[str, ...]:
    """What a problem lacks and has too much beside a reference, in words; empty when they are the same."""
    parts: tuple[tuple[str, Callable[[Problem], set[str]]], ...] = (
        ("object", lambda problem: {f"{name} - {kind}" for name, kind in problem.objects.items()}),
        ("initial fact", lambda problem: set(map(written, problem.initial))),
        ("goal fact", lambda problem: set(map(written, problem.goal))),
    )
    told = []
    for noun, of in parts:
        told += [f"{noun} {each} is missing" for each in sorted(of(reference) - of(mine))]
        told += [f"{noun} {each} is too much" for each in sorted(of(mine) - of(reference))]
    return tuple(told)


# Why an action cannot be done.


def _flaw(domain: Domain, problem: Problem, state: frozenset[Fact], call: Call) -> tuple[Flaw, str, str] | None:
    schema = domain.actions.get(call.name)
    if schema is None:
        return "action", f"there is no action {_cut(call.name)!r}.", _nearest(call.name, domain.actions)
    if len(call.arguments) != len(schema.parameters):
        wanted, given = len(schema.parameters), len(call.arguments)
        return "arguments", f"{call.name} takes {wanted} object(s), not {given}.", f"Write {schema.form}."
    for argument, (variable, kind) in zip(call.arguments, schema.parameters, strict=True):
        if argument not in problem.objects:
            return "object", f"there is no object {_cut(argument)!r}.", _nearest(argument, problem.objects)
        if not domain.is_a(problem.objects[argument], kind):
            reason = f"{argument} is of type {problem.objects[argument]}, and {variable} wants the type {kind}."
            return "arguments", reason, f"Write {schema.form}."
    for fact in _bound(schema.needs, schema, call):
        if fact not in state:
            reason = f"it needs {written(fact)}, which does not hold then."
            return "precondition", reason, _fix(domain, problem, state, schema, call)
    return None


def _nearest(name: str, known: Mapping[str, object]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f"Did you mean {near[0]}?" if near else f"There are: {', '.join(known)}."


def _fix(domain: Domain, problem: Problem, state: frozenset[Fact], schema: Schema, call: Call) -> str:
    """The fewest actions that make this one possible, where a few do."""
    wanted = Problem(problem.objects, state, _bound(schema.needs, schema, call))
    first = solve(domain, wanted, longest=_FIX_STEPS, states=_FIX_STATES)
    if first is None:
        return ""
    return f"Before it, do {', then '.join(each.text for each in first)}."


# Grounding and search.


@dataclass(frozen=True, slots=True)
class _Step:
    call: Call
    needs: tuple[Fact, ...]
    adds: tuple[Fact, ...]
    deletes: tuple[Fact, ...]


def _bound(facts: Sequence[Fact], schema: Schema, call: Call) -> tuple[Fact, ...]:
    values = {variable: value for (variable, _), value in zip(schema.parameters, call.arguments, strict=True)}
    return tuple((fact[0], *(values.get(term, term) for term in fact[1:])) for fact in facts)


def _ground(domain: Domain, problem: Problem) -> list[_Step] | None:
    """The actions of a problem without variables, less those that add nothing that anybody could want.

    Leaving these out loses no plan, because nothing has to be false. None when there are too many.
    """
    fitting = {
        schema.name: [
            [name for name, kind in problem.objects.items() if domain.is_a(kind, wanted)]
            for _, wanted in schema.parameters
        ]
        for schema in domain.actions.values()
    }
    if sum(math.prod(map(len, choices)) for choices in fitting.values()) > _MOST_STEPS:
        return None
    steps = []
    for schema in domain.actions.values():
        for arguments in itertools.product(*fitting[schema.name]):
            call = Call(schema.name, arguments)
            needs, adds, deletes = (_bound(each, schema, call) for each in (schema.needs, schema.adds, schema.deletes))
            steps.append(_Step(call, needs, adds, deletes))
    wanted, useful = set(problem.goal), [False] * len(steps)
    changed = True
    while changed:
        changed = False
        for place, step in enumerate(steps):
            if not useful[place] and wanted.intersection(step.adds):
                useful[place] = changed = True
                wanted.update(step.needs)
    return list(itertools.compress(steps, useful))


def _facts(problem: Problem, steps: Sequence[_Step]) -> Iterator[Fact]:
    """Every fact that matters, once, in an order that does not depend on hashes."""
    each = (*sorted(problem.initial), *problem.goal, *(fact for step in steps for fact in _touched(step)))
    return iter(dict.fromkeys(each))


def _touched(step: _Step) -> tuple[Fact, ...]:
    return (*step.needs, *step.adds, *step.deletes)


def _traced(came: Mapping[int, tuple[int, Call] | None], state: int) -> Plan:
    plan = []
    while (before := came[state]) is not None:
        state, call = before
        plan.append(call)
    return tuple(reversed(plan))
