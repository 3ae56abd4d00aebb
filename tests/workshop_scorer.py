"""A scripted model that plays the workshop and can learn in it: repeats what its prompt tells it, else guesses."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from langchain_core.messages import BaseMessage

from evolvent.agents.models.scripted import ScriptedScorer


def learner(*, latency_s: float = 0.0) -> ScriptedScorer:
    return ScriptedScorer(first_option, score=repeats_or_guesses, latency_s=latency_s)


def repeats_or_guesses(messages: Sequence[BaseMessage], continuations: Sequence[str]) -> list[float]:
    """The line that stands last in the prompt scores best; without one, each line has a score that never changes."""
    prompt = str(messages[-1].text)
    told = [prompt.rfind(line) for line in continuations]
    return [12.0 * (at == max(told) >= 0) - 3 * _guess(line) for at, line in zip(told, continuations, strict=True)]


def first_option(messages: Sequence[BaseMessage]) -> str:
    """What it writes where it cannot score: the first of the options it is told, else a rule that says nothing."""
    _, told, options = str(messages[-1].text).rpartition("Answer with one of: ")
    return options.split(" | ")[0] if told else "RULE: Try another tool."


def _guess(line: str) -> float:
    return hashlib.sha256(line.encode()).digest()[0] / 256
