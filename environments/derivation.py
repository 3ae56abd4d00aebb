"""Worked solutions in calculator notation: `<<3*4=12>>` for each equation, `The answer is 12.` at the end.

Reads what a model wrote and checks its arithmetic. A reply is text and never runs.
"""

from __future__ import annotations

import ast
import operator
import re
from fractions import Fraction

TOLERANCE = Fraction(1, 1000)
"""By which the sides of an equation may differ, as in rejection-sampling fine-tuning (arXiv 2308.01825)."""
_LONGEST = 100
"""Characters of an expression; keeps its nesting far below what the parser bears."""
_EQUATION = re.compile(r"<<([^<>\n]*)>>")
_ANSWER = re.compile(r".*\banswer\s+is\b([^\n]*)", re.IGNORECASE | re.DOTALL)
# Possessive, so that a number which runs into a word ("12.5x") is no number rather than a shorter one.
_NUMBER = re.compile(r"(?<![\w.])-?\d{1,15}+(?:\.\d{1,15}+)?+(?:/\d{1,15}+)?+(?!\w)")
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3})")
_ARITHMETIC = re.compile(r"[\d.+\-*/()]+")
_SIGNS = str.maketrans({"×": "*", "÷": "/", "−": "-"})
_OPERATORS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv}


def answer_of(text: str) -> int | Fraction | None:
    """The number after the last "answer is", or None; after its last `=` where that line holds an equation."""
    announced = _ANSWER.match(text)
    if announced is None:
        return None
    said = _THOUSANDS.sub("", announced[1].translate(_SIGNS)).rpartition("=")[2]
    found = _NUMBER.search(said)
    try:
        return _plain(Fraction(found[0])) if found else None
    except (ValueError, ZeroDivisionError):  # "3.5/2" and "1/0" look like numbers
        return None


def equations(text: str) -> tuple[str, ...]:
    """The annotated equations in order, without spaces; two derivations are the same path when these are."""
    return tuple(_THOUSANDS.sub("", "".join(each.translate(_SIGNS).split())) for each in _EQUATION.findall(text))


def equations_hold(text: str) -> bool:
    """Whether there is an annotated equation and all of them are right, a chain `2+3=5=10/2` on every side.

    Text without any equation shows nothing and does not hold; the published code of RFT lets it through.
    """
    found = equations(text)
    return bool(found) and all(map(_holds, found))


def evaluate(expression: str) -> Fraction:
    """The exact value of numbers joined by + - * / and parentheses.

    Raises:
        ValueError: anything else, a division by zero, or more than 100 characters.
    """
    if len(expression) > _LONGEST or not _ARITHMETIC.fullmatch(expression):
        raise ValueError(f"{expression[:40]!r} is no arithmetic of at most {_LONGEST} characters.")
    try:
        return _value(ast.parse(expression, mode="eval").body)
    except (SyntaxError, ZeroDivisionError) as error:
        raise ValueError(f"{expression!r} has no value: {error}.") from error


def _holds(equation: str) -> bool:
    try:
        first, *others = map(evaluate, equation.split("="))
    except ValueError:
        return False
    return bool(others) and all(abs(other - first) <= TOLERANCE for other in others)


def _value(node: ast.expr) -> Fraction:
    match node:
        case ast.Constant(value=int() | float() as number):
            return Fraction(repr(number))  # 0.1 as it is written, not as the machine keeps it
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_value(operand)
        case ast.BinOp(left=left, op=sign, right=right) if type(sign) in _OPERATORS:
            value: Fraction = _OPERATORS[type(sign)](_value(left), _value(right))
            return value
    raise ValueError("Only + - * / and parentheses are known here.")


def _plain(number: Fraction) -> int | Fraction:
    return number.numerator if number.denominator == 1 else number
