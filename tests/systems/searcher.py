"""Scripted players of known skill: actors that heed what they read, and reflectors that say what was tried in vain."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from langchain_core.messages import BaseMessage

from evolvent.agents.models.scripted import ScriptedChatModel, ScriptedScorer, UnscriptedError

Messages = Sequence[BaseMessage]


def searcher(known: Mapping[str, str] = {}) -> ScriptedScorer:
    """Of `rooms`: looks in the usual room first, never where its prompt says that the thing is not.

    `known` gives the right room by task prompt, for tasks it needs no search for.
    """

    def score(messages: Messages, options: Sequence[str]) -> list[float]:
        prompt = _text(messages)
        task = re.search(r"Bring the (\w+) to the (\w+)\. It is usually in the (\w+)\.", prompt)
        if task is None:
            raise UnscriptedError(f"No task in the prompt: {prompt!r}")
        thing, wanted, usual = task.groups()
        empty = set(re.findall(r"in the (\w+)\. The \w+ is not here", prompt))
        empty |= {room for told in re.findall(r"not in the ([\w ]+)\.", prompt) for room in told.split(" or the ")}
        likely = known.get(task.group(0), usual)

        def worth(option: str) -> float:
            if option == f"take the {thing}":
                return 20.0
            if f"put down the {thing}" in options:
                there = f"go to the {wanted}" not in options
                return 20.0 * (option == (f"put down the {thing}" if there else f"go to the {wanted}"))
            room = option.removeprefix("go to the ")
            return 4.0 * (room == likely) - 12.0 * (room in empty)

        return [worth(option) for option in options]

    return ScriptedScorer(_no_words, score=score)


def repeater() -> ScriptedScorer:
    """Takes the line that stands last in its whole prompt; where none does, always the same one."""

    def score(messages: Messages, lines: Sequence[str]) -> list[float]:
        prompt = _text(messages)
        return [prompt.rfind(line) - ord(line[-2]) / 256 for line in lines]

    return ScriptedScorer(_no_words, score=score)


def reflector() -> ScriptedChatModel:
    """Of `rooms`: names the rooms in which the failed attempt it reads found nothing, and no others."""

    def reply(messages: Messages) -> str:
        seen = re.findall(r"You are in the (\w+)\. The (\w+) is not here", _text(messages))
        if not seen:
            raise UnscriptedError(f"No fruitless search in the prompt: {_text(messages)!r}")
        rooms = " or the ".join(room for room, _ in seen)
        return f"The {seen[0][1]} is not in the {rooms}. Look elsewhere first."

    return ScriptedChatModel(reply)


def counting_reflector() -> ScriptedChatModel:
    """A new lesson at each call, which names its task's thing and room."""
    calls = iter(range(1, 1000))

    def reply(messages: Messages) -> str:
        task = re.search(r"Task: (Bring the [^.]+)\.", _text(messages))
        if task is None:
            raise UnscriptedError(f"No failed attempt in the prompt: {_text(messages)!r}")
        return f"Plan {next(calls)}, to {task.group(1).lower()}: begin with another room."

    return ScriptedChatModel(reply)


def _no_words(messages: Messages) -> str:
    raise UnscriptedError(f"The actor chooses; it was asked to write: {_text(messages)!r}")


def _text(messages: Messages) -> str:
    return "\n".join(str(message.text) for message in messages)
