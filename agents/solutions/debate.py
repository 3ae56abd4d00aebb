"""A discussion: speakers with roles talk about one matter for some turns (ChatEval, arXiv 2308.07201, §3.3).

They speak one by one, and each has heard all that was said before; or all at once, and hear each other when the turn is
over; or all at once, and a summary of the turn is all that anybody hears. Every message is on the scratchpad under its
own key, so a killed run goes on in the middle of a discussion. What others say reaches a speaker as a user's text with
their names: its own words alone are its own.
"""

from __future__ import annotations

from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Literal

from evolvent.agents.solutions.scratchpad import Scratchpad, assistant, user
from evolvent.environments.types import Message, Task

Mode = Literal["one-by-one", "simultaneous", "summarized"]

SUMMARIZE = (
    "Sum up in a few sentences what was said in this turn: the main point of each speaker, and where they differ. "
    "Add no opinion of your own."
)


@dataclass(frozen=True, slots=True)
class Speaker:
    name: str
    role: str = ""
    """What it is, as it is told: sentences that begin with "You"."""


@dataclass(frozen=True, slots=True)
class Debate:
    """One discussion about a task. It holds nothing itself: what was said lies on the scratchpad."""

    pad: Scratchpad
    task: Task
    name: str
    """Tells the discussions about one task apart."""
    matter: str
    """What it is about; every speaker's prompt begins with it."""
    speakers: tuple[Speaker, ...]
    requests: tuple[str, ...]
    """What every speaker is asked in each turn; as many as there are turns."""
    mode: Mode = "one-by-one"
    temperature: float = 0.0
    max_tokens: int = 256
    """Of a message, and of a summary."""

    @property
    def last(self) -> int:
        """The last turn's number."""
        return len(self.requests) - 1

    @property
    def begun(self) -> bool:
        return self.pad.said(self.task, f"{self.name}/0", 0) is not None

    def speeches(self, turn: int) -> list[Awaitable[str]]:
        """The messages of a turn, from 0 on; those that need not wait for each other are one awaitable each."""
        if self.mode == "one-by-one":
            return [self._in_order(turn)]
        return [self._speech(turn, seat) for seat in range(len(self.speakers))]

    async def summary(self, turn: int) -> str:
        """What was said in a turn, in the words of somebody who does not take part."""
        told = [self._told(turn, seat) for seat in range(len(self.speakers))]
        messages = [user(self.matter), *told, user(SUMMARIZE)]
        return await self._ask(f"{self.name}/summary", turn, messages, role="summarizer")

    async def asked_again(self, turn: int, seat: int, request: str) -> str:
        """One more try of a speaker whose message of a turn was not what was asked for."""
        tries = self.tries(turn, seat)
        messages = self.prompt(turn, seat)
        for text in tries:
            messages += [assistant(text), user(request)]
        return await self._ask(f"{self.name}/{turn} again/{seat}", len(tries) - 1, messages)

    def tries(self, turn: int, seat: int) -> list[str]:
        """A speaker's message of a turn, and what it said each time that it was asked again."""
        return [self._said(turn, seat), *self.pad.every(self.task, f"{self.name}/{turn} again/{seat}")]

    def prompt(self, turn: int, seat: int) -> list[Message]:
        """All that a speaker has before it when its turn comes."""
        speaker = self.speakers[seat]
        head = [user(self.matter), user(f"You take part as {speaker.name}. {speaker.role}".strip())]
        if self.mode == "summarized":
            return [*head, *(self._summed_up(past) for past in range(turn)), user(self.requests[turn])]
        others = [other for other in range(len(self.speakers)) if other != seat]
        before = [other for other in others if other < seat] if self.mode == "one-by-one" else []
        after = [other for other in others if other not in before]
        messages = head
        for past in range(turn):
            messages += [*(self._told(past, other) for other in before), user(self.requests[past])]
            messages += [assistant(self._said(past, seat)), *(self._told(past, other) for other in after)]
        return [*messages, *(self._told(turn, other) for other in before), user(self.requests[turn])]

    async def _in_order(self, turn: int) -> str:
        return [await self._speech(turn, seat) for seat in range(len(self.speakers))][-1]

    async def _speech(self, turn: int, seat: int) -> str:
        return await self._ask(f"{self.name}/{turn}", seat, self.prompt(turn, seat))

    async def _ask(self, purpose: str, number: int, messages: list[Message], *, role: str = "actor") -> str:
        return await self.pad.ask(
            self.task,
            purpose,
            messages,
            number,
            role=role,
            temperature=self.temperature,
            max_tokens=self.max_tokens,
        )

    def _said(self, turn: int, seat: int) -> str:
        """Empty where nothing was, or the call failed."""
        return self.pad.said(self.task, f"{self.name}/{turn}", seat) or ""

    def _told(self, turn: int, seat: int) -> Message:
        """A message as the others hear it. One that says nothing is not heard: an empty part is in no prompt."""
        text = self._said(turn, seat)
        return user(f"{self.speakers[seat].name} said: {text}" if text else "")

    def _summed_up(self, turn: int) -> Message:
        text = self.pad.said(self.task, f"{self.name}/summary", turn)
        return user(f"What was said in turn {turn + 1}, summed up: {text}" if text else "")
