"""The toolbox: near-duplicate errands, each a chain of three or four tool calls whose arguments come from one another.

A goal in words lists its subgoals ("First …, then …"). All errands of a family take the same chain with other
arguments; some are in the goal, the others in what earlier calls returned. The directory belongs to the world, files
and tables to the task. In a renamed world one tool has another name, so what was learned by heart fails halfway.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, get_args

from evolvent.environments.errors import BadOptionError, FailedCallError, MalformedCallError
from evolvent.environments.solo import SEAT, written
from evolvent.environments.splits import game_seed
from evolvent.environments.tool_calls import read_call, write_call
from evolvent.environments.toolbox_errands import ERRANDS, FAMILIES, Family, Subgoal, directory_of
from evolvent.environments.toolbox_tools import TOOLS, Desk, Tool, call, fields, shown, signature
from evolvent.environments.types import Action, Observation, Split, StepResult, Task, ToolCall

VERSION = 1
SUBMIT = "submit"
"""The call that ends a task; not one of the tools."""
RENAMED = ("lookup", "consult")
"""The tool that a renamed world calls otherwise, and how."""
_PATHS = 300
"""Numbers of paths and tables in one split."""
_FORMS = 'Write one call, like read_file(path="a.txt"), or submit(answer="…").'
_ANSWER = re.compile(r"answer\s*:(.*)", re.IGNORECASE | re.DOTALL)
_FAILED = "Error: "
_MET = re.compile(r"^Subgoal \d+ was (not )?met\.$", re.MULTILINE)


def tool_names(*, renamed: bool = False) -> tuple[str, ...]:
    """The eight tools as a world calls them, without `SUBMIT`."""
    return tuple(_tools(renamed))


def destructive(tool: str) -> bool:
    """Whether what the tool does cannot be undone: it overwrites or sends. False for a name that is no tool's."""
    return tool in TOOLS and TOOLS[tool].destructive


def failed(observation_text: str) -> bool:
    """Whether an observation answers a call that failed, or a text that was no call; both change nothing."""
    return observation_text.startswith(_FAILED)


def subgoals(task: Task) -> tuple[str, ...]:
    """The leaf goals in order, word for word as the prompt says them."""
    return tuple(goal["text"] for goal in task.data["subgoals"])


def met(observation_text: str) -> tuple[bool, ...]:
    """Which subgoals the last observation says were met, in order; empty for any other observation."""
    return tuple(not missed for missed in _MET.findall(observation_text))


class Toolbox:
    """Errands with tools. A step is one call, as `Action.tool` or as a text that `tool_calls.read_call` reads.

    `submit(answer="…")` ends the episode (so does `answer: …`). Score 1 when files, notes and the answer are as asked
    for and nothing else was changed. Else the share of parts done, at the submission or when the steps run out: each
    subgoal is a part, and the right answer with nothing else changed is one more. The info's `legal` says whether a
    step's call ran. A family's tasks come in turn, so `6 · k` tasks hold `k` of each. No path or table of one split
    is found in another.

    Args:
        world: number that draws the directory, the same for all tasks.
        family: `order`, `sum`, `parcel`, `cargo`, `lightest` or `letter`; empty for all.
        renamed: the tool `lookup` is called `consult` (see `RENAMED`).
        max_steps: from 5, which the longest errand takes, to 100.

    Raises:
        BadOptionError: an option outside its range.
    """

    players = (SEAT,)
    instructions = (
        'You run errands with tools. Each step, write one call and nothing else, in the form tool(name="text", '
        "other=2), and read what it returns. Look up what you do not know. A call that fails changes nothing. "
        'When all is done, write submit(answer="…").'
    )

    def __init__(self, *, world: int = 0, family: str = "", renamed: bool = False, max_steps: int = 12) -> None:
        if family and family not in FAMILIES:
            raise BadOptionError(f"toolbox: family is empty or one of {', '.join(FAMILIES)}, not {family!r}.")
        if not isinstance(renamed, bool):
            raise BadOptionError(f"toolbox: renamed is true or false, not {renamed!r}.")
        if not isinstance(max_steps, int) or not 5 <= max_steps <= 100:
            raise BadOptionError(f"toolbox: max_steps is a whole number from 5 to 100, not {max_steps!r}.")
        self._world, self._renamed, self.max_steps = world, renamed, max_steps
        self._families = tuple(each for each in FAMILIES if family in ("", each))
        self._tools = _tools(renamed)
        self._directory = directory_of(world)
        self._game: _Game | None = None

    def tasks(self, split: Split, n: int, seed: int) -> list[Task]:
        dealt: dict[str, Task] = {}
        index = 0
        while len(dealt) < n:
            family = self._families[len(dealt) % len(self._families)]
            task = self._task(family, split, game_seed(f"toolbox/{self._world}", split, seed, index))
            dealt.setdefault(task.id, task)
            index += 1
        return list(dealt.values())

    def reset(self, task: Task, seed: int) -> tuple[Observation, ...]:
        """Lay the desk; the task alone decides the episode, whatever `seed` is."""
        self._game = _Game(task, Desk(self._directory, dict(task.data["files"]), _tables(task)))
        tools = [f"{signature(name, tool)}: {tool.does}" for name, tool in self._tools.items()]
        told = "\n".join(["Your tools:", *tools, f"{SUBMIT}(answer: text): Ends the task."])
        return (Observation(SEAT, told),)

    def step(self, actions: Mapping[str, Action]) -> StepResult:
        game = self._game
        if game is None:
            raise RuntimeError("reset comes before step")
        game.steps += 1
        tool = actions[SEAT].tool if SEAT in actions else None
        try:
            wanted = _read(written(actions)) if tool is None else tool
            if wanted.name == SUBMIT:
                return game.ended("", _answer(wanted), legal=True)
            told = call(game.desk, self._tools, wanted)
            game.found |= set(fields(told).values())
            legal = True
        except MalformedCallError as error:
            told, legal = f"{_FAILED}That is no call. {error} {_FORMS}", False
        except FailedCallError as error:
            told, legal = f"{_FAILED}{error}", False
        if game.steps >= self.max_steps:
            return game.ended(f"{told}\nYou have no step left.\n", None, legal=legal)
        return StepResult((Observation(SEAT, told),), {SEAT: 0.0}, False, {"legal": legal})

    def expert(self, task: Task) -> list[str]:
        """The calls of the shortest way, then the submission."""
        names = dict([RENAMED]) if self._renamed else {}
        calls = [ToolCall(names.get(each["name"], each["name"]), each["arguments"]) for each in task.data["calls"]]
        return [*map(write_call, calls), write_call(ToolCall(SUBMIT, {"answer": task.data["answer"]}))]

    def close(self) -> None:
        self._game = None

    def _task(self, family: Family, split: Split, key: int) -> Task:
        rng = random.Random(f"toolbox/{self._world}/{family}/{key}")
        # Numbers are split three ways, so no path or table can stand in two splits.
        number = 3 * rng.randrange(_PATHS) + get_args(Split).index(split) + 100
        errand = ERRANDS[family](rng, number, self._directory)
        listed = ", then ".join(goal.text for goal in errand.subgoals)
        return Task(
            id=f"toolbox-w{self._world}-{family}-{split}-{key}",
            prompt=f"First {listed}. Submit {errand.submit}.",
            environment="toolbox",
            data={
                "family": family,
                "subgoals": [asdict(goal) for goal in errand.subgoals],
                "answer": errand.answer,
                "calls": [{"name": each.name, "arguments": dict(each.arguments)} for each in errand.calls],
                "files": dict(errand.files),
                "tables": dict(errand.tables),
            },
            tags=(family,),
        )


class _Game:
    """One task being played."""

    def __init__(self, task: Task, desk: Desk) -> None:
        self.desk, self.steps = desk, 0
        self.found: set[str] = set()
        """Every value that a field of a result had."""
        self._task = task
        self._goals = tuple(Subgoal(**goal) for goal in task.data["subgoals"])

    def ended(self, told: str, answer: str | None, *, legal: bool) -> StepResult:
        reached = [self._is_met(goal) for goal in self._goals]
        right, clean = answer is not None and _same(answer, self._task.data["answer"]), self._is_clean()
        lines = [f"Subgoal {at} was {'' if was else 'not '}met." for at, was in enumerate(reached, 1)]
        lines.append(
            f"The answer was {'' if right else 'not '}right." if answer is not None else "There was no answer."
        )
        if not clean:
            lines.append("Something was changed or sent that nobody asked for.")
        parts = [*reached, right and clean]
        end = Observation(SEAT, told + "\n".join(lines), None, must_act=False)
        return StepResult((end,), {SEAT: sum(parts) / len(parts)}, True, {"legal": legal, "success": all(parts)})

    def _is_met(self, goal: Subgoal) -> bool:
        if goal.kind == "found":
            return any(_same(value, goal.value) for value in self.found)
        if goal.kind == "file":
            return _same(self.desk.files.get(goal.target, ""), goal.value)
        return any(to == goal.target and _same(text, goal.value) for to, text in self.desk.notes)

    def _is_clean(self) -> bool:
        """Whether files and notes hold nothing but what was there and what was asked for, once."""
        files = {path: text for path, text in self.desk.files.items() if self._task.data["files"].get(path) != text}
        asked = [(goal.target, goal.value) for goal in self._goals if goal.kind == "note"]
        for goal in self._goals:
            if goal.kind == "file" and _same(files.get(goal.target, ""), goal.value):
                del files[goal.target]
        for to, text in self.desk.notes:
            wanted = next((each for each in asked if each[0] == to and _same(each[1], text)), None)
            if wanted is None:
                return False
            asked.remove(wanted)
        return not files


def _tools(renamed: bool) -> dict[str, Tool]:
    names = dict([RENAMED]) if renamed else {}
    return {names.get(name, name): tool for name, tool in TOOLS.items()}


def _tables(task: Task) -> dict[str, tuple[Mapping[str, str], ...]]:
    return {name: tuple(rows) for name, rows in task.data["tables"].items()}


def _read(text: str) -> ToolCall:
    answer = _ANSWER.fullmatch(text)
    return ToolCall(SUBMIT, {"answer": answer[1].strip()}) if answer else read_call(text)


def _answer(submission: ToolCall) -> str:
    """What was submitted.

    Raises:
        FailedCallError: not one answer.
    """
    answer: Any = submission.arguments.get("answer")
    if submission.arguments.keys() != {"answer"} or not isinstance(answer, str | int | float):
        raise FailedCallError('submit takes one answer, as in submit(answer="12").')
    return str(answer)


def _same(one: str, other: str) -> bool:
    """Whether two texts say the same number to the second decimal, or the same in any case."""
    plain = [text.strip(" \t\n\"'.").casefold() for text in (one, other)]
    try:
        return shown(float(plain[0])) == shown(float(plain[1]))
    except (ValueError, OverflowError):
        return plain[0] == plain[1]
