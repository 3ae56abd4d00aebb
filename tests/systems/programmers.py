"""Scripted programmers for tests of recipes on the environment `code`: the programs they write, and simulated ones.

Their reference solutions come from the environment's expert; what they break in them is theirs.
"""

from __future__ import annotations

import ast
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import BaseMessage
from systems.runs import memory_of

from evolvent.agents.models.scripted import ScriptedChatModel
from evolvent.agents.refinement.repair import fenced
from evolvent.environments.catalog import build_inline
from evolvent.environments.code import entry_point, program_of, signature, visible_tests
from evolvent.environments.execution import Execution, Sandbox
from evolvent.environments.protocol import EnvironmentSpec
from evolvent.environments.types import Split, Task

Program = Callable[[Task], str]
"""Source text for a task."""
NONSENSE = "no such answer"
"""What a `wrong` program returns."""
CRASH = "ValueError: this is not written yet"
"""Last line of what a `crashing` program raises."""


def right(task: Task) -> str:
    """The environment's own solution."""
    world: Any = build_inline(EnvironmentSpec("code"))
    return program_of(world.expert(task)[0]).strip()


def wrong(task: Task) -> str:
    return f"def {entry_point(task)}(*values):\n    return {NONSENSE!r}\n"


def crashing(task: Task) -> str:
    return f"def {entry_point(task)}(*values):\n    raise ValueError('this is not written yet')\n"


def hanging(task: Task) -> str:
    return f"def {entry_point(task)}(*values):\n    while True:\n        pass\n"


def overfitted(task: Task) -> str:
    """Right on the visible tests, by heart, and on nothing else."""
    lines = [f"def {entry_point(task)}(*values):"]
    for test in visible_tests(task):
        statement = ast.parse(test).body[0]
        assert isinstance(statement, ast.Assert)
        assert isinstance(statement.test, ast.Compare)
        assert isinstance(statement.test.left, ast.Call)
        given = "".join(f"{ast.unparse(value)}, " for value in statement.test.left.args)
        expected = ast.unparse(statement.test.comparators[0])
        lines.append(f"    if values == ({given}):\n        return {expected}")
    return "\n".join([*lines, f"    return {NONSENSE!r}\n"])


class Backwards:
    """The environment `code` with its tasks in reverse order."""

    def __init__(self, **options: Any) -> None:
        self._world: Any = build_inline(EnvironmentSpec("code", options))

    def tasks(self, split: Split, n: int, seed: int) -> list[Task]:
        return list(reversed(self._world.tasks(split, n, seed)))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._world, name)


class OfLibrary(Backwards):
    """The environment `code` with problems that import a library nobody has heard of."""

    def tasks(self, split: Split, n: int, seed: int) -> list[Task]:
        return [
            replace(
                task,
                prompt=task.prompt.replace(signature(task), f"import toolshed\n\n\n{signature(task)}"),
                data={**task.data, "signature": f"import toolshed\n\n\n{signature(task)}"},
            )
            for task in self._world.tasks(split, n, seed)
        ]


def asked(messages: Sequence[BaseMessage], tasks: Sequence[Task]) -> Task:
    """The task that a conversation is about; solved ones that are shown belong to other splits."""
    (found,) = [task for task in tasks if task.prompt in text_of(messages)]
    return found


def text_of(messages: Sequence[BaseMessage]) -> str:
    return "\n".join(str(message.text) for message in messages)


def simulated(
    tasks: Sequence[Task],
    chance: Callable[[str], float | None],
    *,
    seed: int = 0,
    bugs: Sequence[Program] = (wrong, crashing),
) -> ScriptedChatModel:
    """A programmer of known skill, who answers a prompt always alike, as at temperature 0.

    Luck is dealt evenly: of all tasks at one stage exactly the share `chance` is got right, whichever those are.

    Args:
        chance: by what is asked of it, the probability that its program is right; None where talk is asked for.
        bugs: an equal share of each among programs that are not right.
    """

    def reply(messages: Sequence[BaseMessage]) -> str:
        text = text_of(messages)
        p = chance(text)
        if p is None:
            return "It goes through the values one after the other."
        task, order = asked(messages, tasks), sorted(each.id for each in tasks)
        random.Random(f"{seed}/{p}/{text.count('```')}").shuffle(order)
        luck = (order.index(task.id) + 0.5) / len(order)
        return fenced((right if luck < p else bugs[int((luck - p) / (1 - p) * len(bugs))])(task))

    return ScriptedChatModel(reply)


@contextmanager
def sandbox_runs(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[str, ...]]]:
    """The tests of every run of a sandbox in this process, in order; the sandbox runs them all the same."""
    runs: list[tuple[str, ...]] = []
    real = Sandbox.run_all

    def run_all(self: Sandbox, programs: Sequence[str], tests: Sequence[str]) -> list[Execution]:
        runs.extend([tuple(tests)] * len(programs))
        return real(self, programs, tests)

    with monkeypatch.context() as patch:
        patch.setattr(Sandbox, "run_all", run_all)
        yield runs


def handed_in(run: Path) -> dict[str, str]:
    """Program by task, as the environment judged it."""
    with memory_of(run) as memory:
        first = [episode.trajectories[0] for episode in memory.ledger.episodes(phase="train")]
    return {each.task.id: program_of(each.steps[0].reply).strip() for each in first}
