"""Scripted referees of two answers: what a request of a debate holds; referees of known bias, sight and credulity."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from langchain_core.messages import BaseMessage

from evolvent.agents.models.scripted import ScriptedChatModel
from evolvent.agents.run import RunConfig
from evolvent.agents.solutions.debate import SUMMARIZE
from evolvent.environments.catalog import build_inline
from evolvent.environments.judging import flaw_of, pair_of
from evolvent.environments.protocol import EnvironmentSpec
from evolvent.environments.types import Task

FAULT = "Answer {number} has a fault."
_MATTER = re.compile(r"Answer 1:\n(.*?)\n\nAnswer 2:\n(.*?)\n\nReferees judge", re.DOTALL)
_DIRECT = re.compile(r"Answer A:\n(.*?)\n\nAnswer B:\n(.*?)\n\nWhich answer is better", re.DOTALL)
_SPEAKER = re.compile(r"You take part as ([\w ]+)\.")


@dataclass(frozen=True, slots=True)
class Request:
    """One call of a debate, as a referee reads it."""

    speaker: str
    """Empty where somebody is to sum up, or to give a direct verdict."""
    shown: tuple[str, str]
    last: bool
    """Whether marks are asked for."""
    heard: str
    """All that a user said."""

    @property
    def summing_up(self) -> bool:
        return SUMMARIZE in self.heard


def read(messages: Sequence[BaseMessage]) -> Request:
    heard = "\n".join(str(message.text) for message in messages if message.type == "human")
    shown = _MATTER.search(heard) or _DIRECT.search(heard)
    assert shown is not None, heard
    speaker = _SPEAKER.search(heard)
    return Request(speaker[1] if speaker else "", (shown[1], shown[2]), "Score of answer 1: X" in heard, heard)


def referees(reply: Callable[[Request], str], *, direct: str = "A") -> ScriptedChatModel:
    """Who debates by `reply`, and gives one and the same direct verdict."""

    def answer(messages: Sequence[BaseMessage]) -> str:
        request = read(messages)
        return reply(request) if request.speaker or request.summing_up else direct

    return ScriptedChatModel(answer)


def marks(first: float, second: float, why: str = "Well.") -> str:
    return f"{why}\nScore of answer 1: {first}\nScore of answer 2: {second}"


def pairs(config: RunConfig, generation: int = 1) -> list[Task]:
    """The training tasks of a run's generation."""
    world = build_inline(EnvironmentSpec(config.environment, config.options))
    return world.tasks("train", config.tasks, config.seed * 1000 + generation)


EYES: Mapping[str, Collection[str]] = {
    "General Public": ("off-topic", "truncated", "repeated"),
    "Critic": ("wrong", "padded"),
    "News Author": ("truncated", "repeated", "padded"),
    "Psychologist": ("repeated", "padded"),
}
"""The flaws that a role has an eye for. What it has none for it overlooks each time."""


class Panel:
    """Simulated referees, in all arms the same: what differs is who is asked, how often, and who hears whom.

    - Whoever judges likes the answer shown first by `liking` marks more, and takes three off for a fault that it sees.
    - A flaw that its role has an eye for is noticed four times in five; other roles than those of `eyes` have the eyes
      of the first.
    - With a chance of `seeing_things` a judgement finds a fault in an answer drawn at random.
    - A fault that others name is looked at, and believed with `convinced` where it is there and `fooled` where not.
    """

    def __init__(
        self,
        tasks: Sequence[Task],
        *,
        seed: int = 0,
        liking: float = 4,
        seeing_things: float = 0.3,
        convinced: float = 0.8,
        fooled: float = 0.15,
        eyes: Mapping[str, Collection[str]] = EYES,
    ) -> None:
        self._worse = {frozenset(pair_of(task).answers): _worse(task) for task in tasks}
        self._flaw = {frozenset(pair_of(task).answers): flaw_of(task) for task in tasks}
        self._seed, self._liking, self._seeing_things = seed, liking, seeing_things
        self._convinced, self._fooled, self._eyes = convinced, fooled, eyes
        self.model = ScriptedChatModel(lambda messages: self._reply(read(messages)))

    def _reply(self, request: Request) -> str:
        if request.summing_up:
            return " ".join(sorted(set(re.findall(r"Answer \d has a fault\.", request.heard))))
        faults = self._faults(request)
        scores = [7 - 3 * (number in faults) for number in (1, 2)]
        scores[0] = min(10, scores[0] + self._liking)
        if not request.speaker:
            return "A" if scores[0] > scores[1] else "B" if scores[0] < scores[1] else "tie"
        why = " ".join(FAULT.format(number=number) for number in sorted(faults)) or "Both are fine."
        return marks(*scores, why=why) if request.last else why

    def _faults(self, request: Request) -> set[int]:
        """Numbers of the answers that the referee finds fault with, its own view and what it was convinced of."""
        pair = frozenset(request.shown)
        real = {number for number, text in enumerate(request.shown, 1) if text == self._worse[pair]}
        sees = self._eyes.get(request.speaker, next(iter(self._eyes.values())))
        now = self._chance(request.speaker, *request.shown)
        found = real if now.random() < 0.8 and self._flaw[pair] in sees else set()
        if now.random() < self._seeing_things:
            found = found | {now.choice((1, 2))}
        named = {int(number) for number in re.findall(r"Answer (\d) has a fault", request.heard)}
        for number in sorted(named - found):
            convincing = self._convinced if number in real else self._fooled
            if self._chance(request.speaker, *request.shown, number).random() < convincing:
                found = found | {number}
        return found

    def _chance(self, *key: object) -> random.Random:
        return random.Random("\n".join(map(str, (self._seed, *key))))


def _worse(task: Task) -> str:
    """Of a pair's answers the worse one; empty where none is."""
    first, second = pair_of(task).answers
    return {"A": second, "B": first, "tie": ""}[task.data["truth"]]
