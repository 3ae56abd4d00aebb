"""A step as a reader follows it: its prompt part by part, and the calls of the trace that led to it."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from evolvent.agents.inspector.tracing import Call
from evolvent.environments.types import Part, Role, Step, Trajectory, merge


@dataclass(frozen=True, slots=True)
class Said:
    """One named part of a turn."""

    part: Part
    text: str
    step: int
    """Which put it into the conversation, from 0."""


@dataclass(frozen=True, slots=True)
class Turn:
    """Neighbouring parts of one role, which are sent as one message, a line apart."""

    role: Role
    said: tuple[Said, ...]

    @property
    def last_step(self) -> int:
        return max(each.step for each in self.said)


@dataclass(frozen=True, slots=True)
class Prompt:
    """The prompt of a step, cut where a reader who steps along wants it cut."""

    head: tuple[Turn, ...]
    """What stands before the first reply: instructions, memory, task."""
    earlier: tuple[Turn, ...]
    """Turns of the steps since."""
    new: tuple[Turn, ...]
    """Turns that hold what this step added."""
    left_out: int
    """Steps whose turns no longer fitted the window."""


@dataclass(frozen=True, slots=True)
class Calls:
    """The calls made in an episode."""

    by_step: dict[tuple[str, int], list[Call]]
    """By seat and step, in order. Those on the way to a step (a plan, a draft, a failed try) are its calls too."""
    after: list[Call]
    """Those that led to no step: the last tries of an episode that failed, what was said of it later."""


def asked(step: Step) -> bool:
    """Whether a model was asked for this step; what goes on by itself (a skill under way) says and is told nothing."""
    return bool(step.messages or step.reply)


def prompt(trajectory: Trajectory, step: int) -> Prompt:
    """As it was sent: joined, its turns are `merge(trajectory.prompt(step))`."""
    turns: list[Turn] = []
    for message, origin in zip(trajectory.prompt(step), _origins(trajectory, step), strict=True):
        if not message.text:
            continue
        said = Said(message.part, message.text, origin)
        if turns and turns[-1].role == message.role:
            turns[-1] = Turn(message.role, (*turns[-1].said, said))
        else:
            turns.append(Turn(message.role, (said,)))
    new = tuple(turn for turn in turns if turn.last_step == step)
    old = turns[: len(turns) - len(new)]
    head = tuple(itertools.takewhile(lambda turn: turn.role != "assistant", old))
    return Prompt(head, tuple(old[len(head) :]), new, trajectory.steps[step].history_from)


def calls_by_step(seats: Sequence[Trajectory], calls: Sequence[Call]) -> Calls:
    """Which call was made for which step.

    A call with a step's very prompt is that step's; any other one leads to the step that is answered next. An episode
    that was cut off and played again has its calls twice.
    """
    by_prompt: dict[tuple[tuple[str, str], ...], list[tuple[str, int]]] = {}
    replies: dict[tuple[str, int], str] = {}
    for seat in seats:
        for index, step in enumerate(seat.steps):
            if asked(step):
                by_prompt.setdefault(tuple(merge(seat.prompt(index))), []).append((seat.player, index))
            replies[seat.player, index] = step.reply
    by_step: dict[tuple[str, int], list[Call]] = {}
    waiting: list[Call] = []
    for call in calls:
        there = by_prompt.get(call.sent)
        if not there:
            waiting.append(call)
            continue
        at = next((each for each in there if replies[each] == call.reply), there[0])
        by_step.setdefault(at, []).extend(waiting)
        by_step[at].append(call)
        waiting = []
    return Calls(by_step, waiting)


def _origins(trajectory: Trajectory, step: int) -> list[int]:
    """Of each message of a prompt, the step that put it there; see `environments.types.conversation`."""
    current, steps = trajectory.steps[step], trajectory.steps
    head = [0 for message in steps[0].messages if message.part != "history"] if current.history_from else []
    turns = [each for each in range(current.history_from, step) for _ in (*steps[each].messages, "its reply")]
    return [*head, *turns, *(step for _ in current.messages)]
