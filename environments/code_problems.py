"""Small functions to write, each a real function here: its docstring is the task, its body the reference solution.

What follows the `*` in a signature is drawn for a task and written into the text as a constant; what stands before it
are the arguments of the function that the agent writes. Expected values come from calling the function.
"""

from __future__ import annotations

import ast
import inspect
import itertools
import random
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

VISIBLE, HIDDEN = 3, 7
"""Tests of a problem. The first visible one is the docstring's example."""
_DRAWS = 40
"""Calls that the tests are taken from."""
_WORDS = (
    "amber", "bread", "cloud", "dune", "ember", "fern", "grape", "hill", "iris", "jade", "kelp", "lemon", "moss", "nut",
    "olive", "pearl", "quill", "river", "stone", "tulip", "umber", "vine", "willow", "yarrow", "level", "noon", "radar",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Template:
    solve: Callable[..., Any]
    constants: Mapping[str, Sequence[Any]]
    """Name after the `*` → what it may be."""
    draw: Callable[[random.Random], tuple[Any, ...]]
    """Arguments of one call."""

    @property
    def name(self) -> str:
        return self.solve.__name__

    def variants(self) -> list[dict[str, Any]]:
        return [dict(zip(self.constants, each, strict=True)) for each in itertools.product(*self.constants.values())]


@dataclass(frozen=True, slots=True)
class Problem:
    entry_point: str
    signature: str
    """`def` line and docstring with one example."""
    reference: str
    """The whole function."""
    visible_tests: tuple[str, ...]
    hidden_tests: tuple[str, ...]


def problem(template: Template, constants: Mapping[str, Any]) -> Problem:
    """The template with its constants. The same every time: arguments of the tests follow from name and constants."""
    rng = random.Random(f"{template.name}/{sorted(constants.items())}")
    calls: dict[str, Any] = {}
    for _ in range(_DRAWS):
        arguments = template.draw(rng)
        text = f"{template.name}({', '.join(map(repr, arguments))})"
        calls.setdefault(text, template.solve(*arguments, **constants))
    of_value: dict[str, list[str]] = {}
    for call, value in calls.items():
        of_value.setdefault(repr(value), []).append(call)
    # Value after value, so that neither the examples nor the hidden tests have all the same.
    turns = itertools.zip_longest(*of_value.values())
    order = [call for turn in turns for call in turn if call is not None][: VISIBLE + HIDDEN]
    tests = tuple(f"assert {each} == {calls[each]!r}" for each in order)
    head, body = _texts(template.solve, constants)
    example = f"    >>> {order[0]}\n    {calls[order[0]]!r}\n"
    signature = f'{head}\n    """{_described(template, constants)}\n\n{example}    """\n'
    return Problem(template.name, signature, f"{signature}{body}\n", tests[:VISIBLE], tests[VISIBLE:])


def _described(template: Template, constants: Mapping[str, Any]) -> str:
    text = inspect.getdoc(template.solve) or ""
    shown = {name: repr(value) if isinstance(value, str) else value for name, value in constants.items()}
    return textwrap.fill(text.format(**shown), 96, subsequent_indent="    ")


def _texts(solve: Callable[..., Any], constants: Mapping[str, Any]) -> tuple[str, str]:
    """`def` line and body, with the constants in their places."""
    (function,) = ast.parse(inspect.getsource(solve)).body
    assert isinstance(function, ast.FunctionDef)
    function.args.kwonlyargs, function.args.kw_defaults = [], []
    function.body = function.body[1:]
    written = ast.unparse(_Constants(constants).visit(function))
    head, _, body = written.partition("\n")
    return head, body


class _Constants(ast.NodeTransformer):
    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = values

    def visit_Name(self, node: ast.Name) -> ast.expr:
        return ast.Constant(self._values[node.id]) if node.id in self._values else node


# --- what is drawn ----------------------------------------------------------------------------------------------------


def _numbers(rng: random.Random) -> tuple[list[int]]:
    return ([rng.randint(-20, 30) for _ in range(rng.choice((0, 1, 3, 5, 8, 12)))],)


def _counts(rng: random.Random) -> tuple[list[int]]:
    return ([rng.randint(0, 12) for _ in range(rng.choice((1, 2, 4, 6, 9)))],)


def _number(rng: random.Random) -> tuple[int]:
    return (rng.randint(0, rng.choice((9, 99, 5000))),)


def _small(rng: random.Random) -> tuple[int]:
    return (rng.randint(0, 30),)


def _text(rng: random.Random) -> tuple[str]:
    words = [rng.choice(_WORDS) for _ in range(rng.randint(1, 5))]
    return (" ".join(rng.choice((word, word.title(), word.upper())) for word in words),)


def _words(rng: random.Random) -> tuple[list[str]]:
    return ([rng.choice(_WORDS) for _ in range(rng.choice((0, 2, 4, 6)))],)


# --- the problems -----------------------------------------------------------------------------------------------------


def sum_of_multiples(numbers: list[int], *, k: int, start: int) -> int:
    """Return {start} plus the sum of those numbers that are divisible by {k}."""
    return start + sum(number for number in numbers if number % k == 0)


def count_above(numbers: list[int], *, bar: int, weight: int) -> int:
    """Return how many of the numbers are greater than {bar}, multiplied by {weight}."""
    return weight * sum(1 for number in numbers if number > bar)


def clip_all(numbers: list[int], *, low: int, high: int) -> list[int]:
    """Return the numbers in their order, each below {low} replaced by {low} and each above {high} by {high}."""
    return [min(max(number, low), high) for number in numbers]


def every_kth(numbers: list[int], *, k: int, shift: int) -> list[int]:
    """Return every {k}th number, starting with the first, each increased by {shift}."""
    return [number + shift for number in numbers[::k]]


def rotate(numbers: list[int], *, k: int, factor: int) -> list[int]:
    """Return the list rotated to the left by {k} places, each number multiplied by {factor}."""
    if not numbers:
        return []
    cut = k % len(numbers)
    return [number * factor for number in numbers[cut:] + numbers[:cut]]


def largest_gap(numbers: list[int], *, least: int, factor: int) -> int:
    """Sort the numbers and return {factor} times the largest difference between neighbours, or {least} when there are
    fewer than two numbers."""
    ordered = sorted(numbers)
    gaps = [ordered[place] - ordered[place - 1] for place in range(1, len(ordered))]
    return factor * max(gaps) if gaps else least


def running_total(numbers: list[int], *, start: int, limit: int) -> list[int]:
    """Return the running totals that begin with {start} plus the first number. A total greater than {limit} falls back
    to 0."""
    totals = []
    total = start
    for number in numbers:
        total += number
        if total > limit:
            total = 0
        totals.append(total)
    return totals


def drop_near(numbers: list[int], *, centre: int, radius: int) -> list[int]:
    """Return the numbers, in their order, that differ from {centre} by more than {radius}."""
    return [number for number in numbers if abs(number - centre) > radius]


def pair_sums(numbers: list[int], *, target: int, step: int) -> int:
    """Return how many pairs of positions i < j there are whose numbers add up to {target} or to {target} + {step}."""
    pairs = 0
    for i in range(len(numbers)):
        for j in range(i + 1, len(numbers)):
            if numbers[i] + numbers[j] in (target, target + step):
                pairs += 1
    return pairs


def chunk_sums(numbers: list[int], *, size: int, modulus: int) -> list[int]:
    """Cut the list into pieces of {size} numbers, the last of which may be shorter, and return the sum of each piece
    modulo {modulus}."""
    return [sum(numbers[at : at + size]) % modulus for at in range(0, len(numbers), size)]


def weighted_alternation(numbers: list[int], *, even: int, odd: int) -> int:
    """Return the sum of the numbers, those at even positions (from 0) times {even} and those at odd ones times
    {odd}."""
    return sum(number * (odd if place % 2 else even) for place, number in enumerate(numbers))


def longest_run_below(numbers: list[int], *, bar: int, weight: int) -> int:
    """Return {weight} times the length of the longest run of neighbouring numbers that are all below {bar}."""
    best = run = 0
    for number in numbers:
        run = run + 1 if number < bar else 0
        best = max(best, run)
    return weight * best


def remainders(numbers: list[int], *, modulus: int, shift: int) -> dict[int, int]:
    """Add {shift} to each number and return how often each remainder modulo {modulus} occurs, as a dictionary in
    ascending order of the remainders."""
    counts: dict[int, int] = {}
    for number in numbers:
        key = (number + shift) % modulus
        counts[key] = counts.get(key, 0) + 1
    return {key: counts[key] for key in sorted(counts)}


def fill_between(numbers: list[int], *, gap: int, most: int) -> list[int]:
    """Return the numbers with {gap} put between each two neighbours, and of the result the first {most}."""
    filled: list[int] = []
    for number in numbers:
        if filled:
            filled.append(gap)
        filled.append(number)
    return filled[:most]


def digit_sum(number: int, *, base: int, factor: int) -> int:
    """Return {factor} times the sum of the digits that the number has in base {base}."""
    total = 0
    while number:
        total += number % base
        number //= base
    return factor * total


def in_base(number: int, *, base: int, width: int) -> str:
    """Return the number written in base {base} (from 2 to 9), filled up with zeros on the left to at least {width}
    digits."""
    digits = ""
    while number:
        digits = str(number % base) + digits
        number //= base
    return digits.rjust(width, "0")


def steps_to_zero(number: int, *, divisor: int, loss: int) -> int:
    """Count the steps until the number is 0 or less: a number divisible by {divisor} is divided by it, any other loses
    {loss}."""
    steps = 0
    while number > 0:
        number = number // divisor if number % divisor == 0 else number - loss
        steps += 1
    return steps


def recurrence(n: int, *, a: int, b: int) -> int:
    """Return x(n) of the sequence x(0) = {a}, x(1) = {b}, x(n) = x(n - 1) + x(n - 2), modulo 1000."""
    one, two = a, b
    for _ in range(n):
        one, two = two, (one + two) % 1000
    return one


def count_coprime(n: int, *, k: int, start: int) -> int:
    """Return how many whole numbers from {start} up to and including n share no divisor greater than 1 with {k}."""
    found = 0
    for number in range(start, n + 1):
        one, other = number, k
        while other:
            one, other = other, one % other
        if one == 1:
            found += 1
    return found


def triangle(n: int, *, step: int, first: int) -> list[int]:
    """Return the first n numbers of the sequence that begins with {first} and grows by {step}, then by twice
    {step}, then by three times {step}, and so on."""
    numbers = []
    value = first
    for place in range(n):
        numbers.append(value)
        value += step * (place + 1)
    return numbers


def shift_letters(text: str, *, k: int, mark: str) -> str:
    """Shift each letter by {k} places in the alphabet, from z on to a and keeping its case, and replace every space by
    {mark}."""
    shifted = ""
    for letter in text:
        if letter.isalpha():
            first = ord("a") if letter.islower() else ord("A")
            shifted += chr((ord(letter) - first + k) % 26 + first)
        else:
            shifted += mark
    return shifted


def count_letter(text: str, *, letter: str, extra: int) -> int:
    """Return how often the letter {letter} occurs in the text, small or capital, plus {extra}."""
    return text.lower().count(letter) + extra


def long_words(text: str, *, least: int, mark: str) -> str:
    """Return those words of the text that have at least {least} letters, in their order and in small letters, with
    {mark} between them."""
    return mark.join(word.lower() for word in text.split() if len(word) >= least)


def every_word_cut(text: str, *, most: int, end: str) -> str:
    """Cut each word of the text to {most} letters and put {end} behind each word that was cut."""
    return " ".join(word if len(word) <= most else word[:most] + end for word in text.split())


def mask(text: str, *, keep: int, sign: str) -> str:
    """Return the text with every character but the last {keep} replaced by {sign}."""
    hidden = max(len(text) - keep, 0)
    return sign * hidden + text[hidden:]


def word_scores(words: list[str], *, vowel: int, other: int) -> list[int]:
    """Return the score of each word: {vowel} points for each of its vowels (a, e, i, o, u) and {other} for each other
    letter."""
    return [sum(vowel if letter in "aeiou" else other for letter in word) for word in words]


def group_by_length(words: list[str], *, least: int, most: int) -> dict[int, list[str]]:
    """Return the words of {least} to {most} letters by their length: a dictionary of sorted lists, with the lengths in
    ascending order."""
    groups: dict[int, list[str]] = {}
    for length in range(least, most + 1):
        found = sorted(word for word in words if len(word) == length)
        if found:
            groups[length] = found
    return groups


def join_numbered(words: list[str], *, first: int, mark: str) -> list[str]:
    """Return each word with its number, counted from {first}, and {mark} in front of it."""
    return [f"{first + place}{mark}{word}" for place, word in enumerate(words)]


def repeat_letters(words: list[str], *, times: int, place: int) -> list[str]:
    """Return the words, in each the letter at position {place} (from 0) repeated so that it stands {times} times. A
    word without that position stays as it is."""
    return [word if len(word) <= place else word[:place] + word[place] * times + word[place + 1 :] for word in words]


_FROM_2_TO_9 = range(2, 10)
_MARKS = ("-", "_", "*", "+", "/", "=", ".", "~")
TEMPLATES = (
    Template(sum_of_multiples, {"k": _FROM_2_TO_9, "start": range(1, 8)}, _numbers),
    Template(count_above, {"bar": range(-6, 18, 3), "weight": _FROM_2_TO_9}, _numbers),
    Template(clip_all, {"low": range(-9, 1), "high": range(5, 12)}, _numbers),
    Template(every_kth, {"k": range(2, 5), "shift": range(1, 15)}, _numbers),
    Template(rotate, {"k": range(1, 6), "factor": _FROM_2_TO_9}, _numbers),
    Template(largest_gap, {"least": range(-6, 0), "factor": _FROM_2_TO_9}, _numbers),
    Template(running_total, {"start": range(1, 9), "limit": range(20, 60, 8)}, _numbers),
    Template(drop_near, {"centre": range(-4, 16, 3), "radius": _FROM_2_TO_9}, _numbers),
    Template(pair_sums, {"target": range(5, 15), "step": range(1, 6)}, _counts),
    Template(chunk_sums, {"size": range(2, 5), "modulus": range(5, 20)}, _numbers),
    Template(weighted_alternation, {"even": range(1, 8), "odd": range(-7, -1)}, _numbers),
    Template(longest_run_below, {"bar": range(0, 20, 3), "weight": _FROM_2_TO_9}, _numbers),
    Template(remainders, {"modulus": range(3, 9), "shift": range(1, 9)}, _counts),
    Template(fill_between, {"gap": range(7), "most": range(4, 11)}, _numbers),
    Template(digit_sum, {"base": range(2, 11), "factor": range(2, 7)}, _number),
    Template(in_base, {"base": range(2, 10), "width": range(3, 9)}, _number),
    Template(steps_to_zero, {"divisor": range(2, 6), "loss": range(1, 9)}, _number),
    Template(recurrence, {"a": range(1, 9), "b": range(1, 9)}, _small),
    Template(count_coprime, {"k": range(6, 16), "start": range(1, 6)}, _small),
    Template(triangle, {"step": range(1, 8), "first": range(-3, 4)}, _small),
    Template(shift_letters, {"k": range(1, 12), "mark": _MARKS}, _text),
    Template(count_letter, {"letter": tuple("aeilmnrs"), "extra": range(2, 8)}, _text),
    Template(long_words, {"least": range(4, 7), "mark": _MARKS}, _text),
    Template(every_word_cut, {"most": range(2, 5), "end": _MARKS}, _text),
    Template(mask, {"keep": range(2, 8), "sign": _MARKS}, _text),
    Template(word_scores, {"vowel": range(3, 9), "other": range(-3, 3)}, _words),
    Template(group_by_length, {"least": range(3, 5), "most": range(5, 7)}, _words),
    Template(join_numbered, {"first": range(1, 8), "mark": _MARKS}, _words),
    Template(repeat_letters, {"times": range(2, 7), "place": range(1, 5)}, _words),
)
