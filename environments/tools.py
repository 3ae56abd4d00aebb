"""AgentDojo's user tasks (arXiv 2406.13352): requests fulfilled by calls of tools on mails, files, bookings, accounts.

Without its attacks and without a judge: each task checks the final state and the answer. What differs, and why:

- Five banking tasks are left out, for their checks pass an agent that does nothing.
- A parameter that a tool does not have is told; the package would drop it without a word.
- A call beside the tools is answered with what would be one, and costs a step.
"""

from __future__ import annotations

import difflib
import functools
import hashlib
import random
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import yaml
from pydantic import ValidationError
from pydantic_core import to_jsonable_python

from evolvent.environments.errors import BadOptionError, MalformedCallError
from evolvent.environments.solo import SEAT, written
from evolvent.environments.tool_calls import read_call, write_call
from evolvent.environments.types import Action, Observation, Split, StepResult, Task, ToolCall

VERSION = 1
Suite = Literal["mixed", "workspace", "travel", "banking", "slack"]
_SPLITS: tuple[Split, ...] = get_args(Split)
_BENCHMARK = "v1.2.2"
"""The package's newest edition of its tasks."""
FREE = ("banking-5", "banking-6", "banking-8", "banking-9", "banking-10")
"""Tasks that nobody has to do anything for."""
_ANSWER = re.compile(r"answer\s*:(.*)", re.IGNORECASE | re.DOTALL)
_FORMS = 'Write one call, like name(text="x", number=2), or answer: TEXT.'


class Tools:
    """An assistant with tools. A step is one call, or the answer, which ends the episode.

    A call is `Action.tool`, or a text that `tool_calls.read_call` reads. Score 1 when the task's own check passes on
    what the calls left behind and on the answer (none, when the steps ran out); else 0. The info's `legal` says whether
    the step was a call that ran without an error, or an answer.
    A task's hidden data: `suite`, and `task`, the package's name of it.

    Args:
        suite: `mixed`, or one of `workspace`, `travel`, `banking`, `slack`.
        result_chars: characters shown of what a tool returns, 200 or more; the rest is cut off. The list of all files,
            which the reference solutions of four tasks ask for, has 28,000.

    Raises:
        BadOptionError: an option outside its range.
    """

    players = (SEAT,)
    instructions = (
        "You are the assistant of Emma Johnson at Blue Sparrow Tech and fulfil her request with tools. Each step, "
        'write one call and nothing else, in the form tool(name="text", other=2), and read what it returns. Look up '
        "what you do not know, the current day too. When all is done, write answer: and what she asked to know."
    )
    max_steps = 20  # the longest reference solution takes 19

    def __init__(self, *, suite: Suite = "mixed", result_chars: int = 4000) -> None:
        if suite not in get_args(Suite):
            raise BadOptionError(f"tools: suite is one of {', '.join(get_args(Suite))}, not {suite!r}.")
        if not isinstance(result_chars, int) or result_chars < 200:
            raise BadOptionError(f"tools: result_chars is a number of characters from 200, not {result_chars!r}.")
        self._suites = [each for each in get_args(Suite)[1:] if suite in ("mixed", each)]
        self._result_chars = result_chars
        self._game: _Game | None = None
        self._steps = 0

    def tasks(self, split: Split, n: int, seed: int) -> list[Task]:
        """`n` different tasks of a split, in an order drawn with `seed`; a task's split is decided by its id.

        Raises:
            BadOptionError: there are fewer.
        """
        own = [task for suite in self._suites for task in _tasks(suite) if _split_of(task) == split]
        if len(own) < n:
            raise BadOptionError(f"tools: there are {len(own)} {split} tasks in these suites, not {n}. Ask for fewer.")
        return random.Random(f"tools/{split}/{seed}").sample(own, n)

    def reset(self, task: Task, seed: int) -> tuple[Observation, ...]:
        """Start the task from its first state; the task alone decides it, whatever `seed` is."""
        self._steps = 0
        self._game = _begun(task)
        return (Observation(SEAT, f"Your tools:\n{_told_tools(task.data['suite'])}"),)

    def step(self, actions: Mapping[str, Action]) -> StepResult:
        if self._game is None:
            raise RuntimeError("reset comes before step")
        self._steps += 1
        tool = actions[SEAT].tool if SEAT in actions else None
        answer = _ANSWER.fullmatch(written(actions)) if tool is None else None
        if answer is not None:
            return self._ended("", answer[1].strip(), legal=True)
        try:
            told = self._run(read_call(written(actions)) if tool is None else tool)
            legal = True
        except MalformedCallError as error:
            told, legal = f"That is no call. {error} {_FORMS}", False
        except _CallFailedError as error:
            told, legal = str(error), False
        if self._steps >= self.max_steps:
            return self._ended(f"{told}\nYou have no step left.\n", "", legal=legal)
        return StepResult((Observation(SEAT, told),), {SEAT: 0.0}, False, {"legal": legal})

    def expert(self, task: Task) -> list[str]:
        """The package's reference calls, then its answer."""
        game = _begun(task)
        calls = [ToolCall(call.function, dict(call.args)) for call in game.task.ground_truth(game.before)]
        return [*map(write_call, calls), f"answer: {game.task.GROUND_TRUTH_OUTPUT or 'Done.'}"]

    def close(self) -> None:
        self._game = None

    def _run(self, call: ToolCall) -> str:
        """Carries a call out; what the tool returned.

        Raises:
            _CallFailedError: nothing was done; its text is what the agent is told.
        """
        assert self._game is not None
        function = self._game.functions.get(call.name)
        if function is None:
            known = list(self._game.functions)
            near = difflib.get_close_matches(call.name, known, n=3)
            hint = f"Did you mean {' or '.join(near)}?" if near else f"There are {', '.join(known)}."
            raise _CallFailedError(f"There is no tool {_short(call.name)}. {hint}")
        unknown = [name for name in call.arguments if name not in function.parameters.model_fields]
        if unknown:
            raise _CallFailedError(f"{call.name} takes no {_short(unknown[0])}. It is {_signature(function)}.")
        try:
            function.parameters.model_validate(call.arguments)
        except ValidationError as error:
            faults = (f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors()[:3])
            raise _CallFailedError(f"{'; '.join(map(_short, faults))}. The tool is {_signature(function)}.") from error
        self._game.called.append(call)
        result, fault = self._game.runtime.run_function(self._game.state, call.name, call.arguments)
        if fault is not None:
            raise _CallFailedError(f"{call.name} failed. {_short(fault)}")
        text = _text(result)
        cut = len(text) - self._result_chars
        return text if cut <= 0 else f"{text[: self._result_chars]}…\n({cut} more characters are not shown.)"

    def _ended(self, told: str, answer: str, *, legal: bool) -> StepResult:
        assert self._game is not None
        success = self._game.is_done(answer)
        result = "That was right." if success else "That was not what was asked for."
        end = Observation(SEAT, told + result, None, must_act=False)
        return StepResult((end,), {SEAT: float(success)}, True, {"legal": legal, "success": success})


class _CallFailedError(Exception):
    """A call that came to nothing; its text is what the agent is told."""


@dataclass(frozen=True, slots=True)
class _Game:
    """One task being played. The package has types, but is not there where ours are checked."""

    task: Any
    runtime: Any
    before: Any
    state: Any
    called: list[ToolCall]
    """Every call of a tool with arguments that it takes, in order."""

    @property
    def functions(self) -> dict[str, Any]:
        functions: dict[str, Any] = self.runtime.functions
        return functions

    def is_done(self, answer: str) -> bool:
        from agentdojo.functions_runtime import FunctionCall

        try:
            calls = [FunctionCall(function=call.name, args=dict(call.arguments)) for call in self.called]
            verdict = self.task.utility_from_traces(answer, self.before, self.state, calls)
            return bool(self.task.utility(answer, self.before, self.state) if verdict is None else verdict)
        except Exception:  # noqa: BLE001 (the checks index into states that an agent may have emptied)
            return False


@functools.cache
def _suite(name: str) -> tuple[Any, Any]:
    """A suite of the package and its first state, which takes half a second to read."""
    from agentdojo.task_suite.load_suites import get_suites

    suite = get_suites(_BENCHMARK)[name]
    return suite, suite.load_and_inject_default_environment({})


def _tasks(suite: str) -> list[Task]:
    tasks = []
    for name, each in _suite(suite)[0].user_tasks.items():
        key = f"{suite}-{name.removeprefix('user_task_')}"
        if key not in FREE:
            tasks.append(Task(key, each.PROMPT, "tools", {"suite": suite, "task": name}, (suite,)))
    return tasks


def _split_of(task: Task) -> Split:
    return _SPLITS[int.from_bytes(hashlib.sha256(task.id.encode()).digest()[:4]) % len(_SPLITS)]


def _begun(task: Task) -> _Game:
    from agentdojo.functions_runtime import FunctionsRuntime

    suite, first = _suite(task.data["suite"])
    each = suite.user_tasks[task.data["task"]]
    state = each.init_environment(first.model_copy(deep=True))
    return _Game(each, FunctionsRuntime(suite.tools), state.model_copy(deep=True), state, [])


@functools.cache
def _told_tools(suite: str) -> str:
    return "\n".join(map(_line, _suite(suite)[0].tools))


def _line(function: Any) -> str:
    """A tool in one line: its signature and the first sentence of its description."""
    words = " ".join(function.description.split())
    first = re.match(r".+?\.(?= [A-Z]|$)", words)
    return f"{_signature(function)}: {first[0] if first else words}"


def _signature(function: Any) -> str:
    """Name and parameters; those with a question mark may be left out."""
    schema = function.parameters.model_json_schema()
    required = schema.get("required", ())
    parts = (
        f"{name}{'' if name in required else '?'}: {_kind(each, schema.get('$defs', {}))}"
        for name, each in schema.get("properties", {}).items()
    )
    return f"{function.name}({', '.join(parts)})"


def _kind(schema: Mapping[str, Any], definitions: Mapping[str, Any]) -> str:
    """A parameter's type in JSON's words."""
    if "$ref" in schema:
        return _kind(definitions[schema["$ref"].rsplit("/")[-1]], definitions)
    if "enum" in schema:
        return " or ".join(map(repr, schema["enum"]))
    if "anyOf" in schema:
        return " or ".join(_kind(each, definitions) for each in schema["anyOf"] if each != {"type": "null"})
    return f"[{_kind(schema['items'], definitions)}]" if schema["type"] == "array" else str(schema["type"])


def _text(result: Any) -> str:
    """What a tool returned, as YAML unless it is text."""
    plain = to_jsonable_python(result)
    if isinstance(plain, dict | list):
        return yaml.safe_dump(plain, sort_keys=False, allow_unicode=True, width=1000).strip()
    return "Done." if plain is None else str(plain) or "It returned an empty text."


def _short(text: str) -> str:
    return text if len(text) <= 300 else text[:299] + "…"
