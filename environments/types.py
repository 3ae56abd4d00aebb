"""The values every environment speaks in, and the evidence an episode leaves behind.

Frozen and JSON-serialisable (see `dump` and `load`); no behaviour beyond derived properties.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import PlainSerializer, PlainValidator, TypeAdapter

Split = Literal["train", "validation", "test"]
Phase = Literal["train", "gate", "eval", "control"]
Part = Literal["instructions", "memory", "task", "history"]
Role = Literal["system", "user", "assistant"]
EVALUATION_ONLY = "evaluation-only"
"""Tag of tasks whose data nobody may learn from: no episode of theirs gets into a training set."""


def _array_to_json(array: NDArray[Any]) -> dict[str, Any]:
    return {"dtype": str(array.dtype), "shape": list(array.shape), "data": array.ravel().tolist()}


def _array_from_json(value: Any) -> NDArray[Any]:
    if isinstance(value, np.ndarray):
        return value
    return np.array(value["data"], dtype=value["dtype"]).reshape(value["shape"])


Array = Annotated[NDArray[Any], PlainValidator(_array_from_json), PlainSerializer(_array_to_json)]
"""A numpy array that survives JSON: pixels, joint vectors."""


@dataclass(frozen=True, slots=True)
class Task:
    id: str
    """Unique within its environment and stable across processes."""
    prompt: str
    """What the agent reads first."""
    environment: str
    data: Mapping[str, Any] = field(default_factory=dict)
    """Hidden from the agent: what the environment needs to play and score the task."""
    tags: tuple[str, ...] = ()
    parents: tuple[str, ...] = ()
    """Ids of the tasks or trajectories it was evolved from."""


@dataclass(frozen=True, slots=True)
class Observation:
    """What one player sees; private to that player."""

    player: str
    text: str
    actions: tuple[str, ...] | None = None
    """Admissible action texts, or None when any text may be tried."""
    must_act: bool = True
    frame: str = "{action}"
    """The sentence an action completes here, e.g. "To mend the rust, use the {action}."

    Actions and lessons are worded with it. It repeats what the observation says and never says which action is right.
    """
    arrays: Mapping[str, Array] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ToolCall:
    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Action:
    """One of text, a tool call or an array."""

    text: str = ""
    tool: ToolCall | None = None
    array: Array | None = None


@dataclass(frozen=True, slots=True)
class StepResult:
    observations: tuple[Observation, ...]
    """One per player, in the order of `Environment.players`."""
    rewards: Mapping[str, float]
    """By player. Over an episode each player's rewards sum to a score in [0, 1]."""
    done: bool
    info: Mapping[str, Any] = field(default_factory=dict)
    """`success` once done, all-or-nothing: a bool, or one by player where one wins what another loses. Never shown."""


@dataclass(frozen=True, slots=True)
class Message:
    """One named part of a prompt."""

    role: Role
    part: Part
    text: str


@dataclass(frozen=True, slots=True)
class Sampling:
    """How an action was chosen."""

    temperature: float = 0.0
    method: Literal["generate", "choose"] = "generate"
    options: tuple[str, ...] = ()
    probabilities: tuple[float, ...] = ()
    """Of `options`, after temperature and calibration; empty when the action was generated."""


@dataclass(frozen=True, slots=True)
class Step:
    player: str
    observation: Observation
    messages: tuple[Message, ...]
    """What this step added to the conversation, in order; `Trajectory.prompt` gives the whole of it."""
    reply: str
    """Raw, as the model wrote it."""
    action: Action
    logprob: float | None = None
    """Of the action under the acting policy, in nats, where known."""
    sampling: Sampling = Sampling()
    reward: float = 0.0
    result: str = ""
    """What the environment answered; empty when the next observation says it all."""
    history_from: int = 0
    """Index of the first earlier step still in the prompt; later than 0 once the window overflowed."""


@dataclass(frozen=True, slots=True)
class Recalled:
    """A record that retrieval found for an episode. Drawn once per episode."""

    record: str
    shown: bool
    probability: float = 1.0
    """With which it was shown, in (0, 1]; below 1 only under rule dropout."""


@dataclass(frozen=True, slots=True)
class Cost:
    tokens_in: int = 0
    tokens_out: int = 0
    calls: int = 0
    seconds: float = 0.0

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.tokens_in + other.tokens_in,
            self.tokens_out + other.tokens_out,
            self.calls + other.calls,
            self.seconds + other.seconds,
        )


Failure = Literal["", "model", "environment", "timeout"]


@dataclass(frozen=True, slots=True)
class Outcome:
    score: float
    """Sum of the seat's rewards, in [0, 1]; 0 after a failure."""
    success: bool
    """All-or-nothing, by the environment's own rule."""
    failure: Failure = ""
    """Why the episode could not be finished: infrastructure, not skill. Empty in an ordinary episode."""
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Trajectory:
    """What one seat saw and did in one episode. Immutable evidence."""

    id: str
    task: Task
    player: str
    steps: tuple[Step, ...]
    outcome: Outcome
    phase: Phase = "train"
    generation: int = 0
    attempt: int = 0
    seed: int = 0
    recalled: tuple[Recalled, ...] = ()
    model: str = ""
    """Name of the whole model: base + adapter + memory commit."""
    cost: Cost = Cost()

    def prompt(self, step: int) -> tuple[Message, ...]:
        """The prompt of one step, as it was sent."""
        current = self.steps[step]
        return conversation(self.steps[:step], current.messages, current.history_from)

    def _repr_html_(self) -> str:
        from evolvent.environments.display import trajectory

        return trajectory(self)

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        printer.text(f"{self.id}: score {self.outcome.score:.2f} in {len(self.steps)} steps")


def conversation(earlier: Sequence[Step], new: tuple[Message, ...], history_from: int = 0) -> tuple[Message, ...]:
    """A seat's prompt: the turns of its earlier steps from `history_from` on, then the new messages.

    Where turns were left out, the first step's head (all but its history part) still leads.
    """
    messages: list[Message] = []
    if history_from:
        messages += [message for message in earlier[0].messages if message.part != "history"]
    for step in earlier[history_from:]:
        messages += [*step.messages, Message("assistant", "history", step.reply)]
    return (*messages, *new)


def merge(messages: Sequence[Message]) -> list[tuple[Role, str]]:
    """(role, text) turns as they are sent: neighbours of one role become one turn, a line apart; empty parts vanish."""
    turns: list[tuple[Role, str]] = []
    for message in messages:
        if not message.text:
            continue
        if turns and turns[-1][0] == message.role:
            turns[-1] = (message.role, f"{turns[-1][1]}\n{message.text}")
        else:
            turns.append((message.role, message.text))
    return turns


@dataclass(frozen=True, slots=True)
class Feedback:
    score: float | None
    """In [0, 1], or None when there is only text."""
    verdict: str = ""
    text: str = ""
    source: str = "environment"
    """`environment` or the judge's name."""


@dataclass(frozen=True, slots=True)
class Experience:
    task: Task
    trajectory: Trajectory
    feedback: Feedback


@dataclass(frozen=True, slots=True)
class Preference:
    task: Task
    chosen: Trajectory
    rejected: Trajectory
    margin: float
    """Score of chosen minus score of rejected, in [0, 1]."""
    source: str = "environment"


T = TypeVar("T")


_ADAPTERS: dict[type[Any], TypeAdapter[Any]] = {}


def _adapter(kind: type[Any]) -> TypeAdapter[Any]:
    """Made once for a type: building one takes longer than using it."""
    if kind not in _ADAPTERS:
        _ADAPTERS[kind] = TypeAdapter(kind)
    return _ADAPTERS[kind]


def dump(value: Any) -> str:
    """JSON text of any value of this module, on one line."""
    return _adapter(type(value)).dump_json(value).decode()


def load(kind: type[T], text: str | bytes) -> T:
    """The value that `dump` wrote.

    Raises:
        pydantic.ValidationError: the text is no such value.
    """
    value: T = _adapter(kind).validate_json(text)
    return value
