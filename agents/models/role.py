"""A model in a role: the one way operators call a language model.

Adds to a chat model what every call needs: named prompt parts, retries, a time limit, counting and the trace.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage

from evolvent.agents.errors import ModelCallError, ModelUnavailableError
from evolvent.agents.models.protocol import Scorer, Scores
from evolvent.agents.trace import Trace
from evolvent.agents.types import CallTag, Choice, Reply
from evolvent.environments.solo import encodable
from evolvent.environments.types import Cost, Message, merge

logger = logging.getLogger(__name__)
_CLASSES: dict[str, type[BaseMessage]] = {"system": SystemMessage, "user": HumanMessage, "assistant": AIMessage}
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Limits:
    """What one call may take."""

    attempts: int = 4
    """Tries of a call that failed for a passing reason."""
    backoff_s: float = 0.5
    """Before the second try; doubles from try to try."""
    timeout_s: float = 120.0
    """Of one try."""
    max_reply_chars: int = 20_000
    """A longer reply is cut there and kept as it is: a runaway is data."""


class RoleModel:
    """Calls one chat model on behalf of one role.

    Raises:
        ModelCallError: from any call that failed for good; the episode that made it records the failure.
    """

    def __init__(self, name: str, model: BaseChatModel, trace: Trace, limits: Limits = Limits()) -> None:
        self.name = name
        """Of the whole model, as trajectories name it."""
        self.model = model
        self.can_choose = isinstance(model, Scorer)  # once: a protocol takes long to check
        """Whether options can be scored instead of generated."""
        self._trace = trace
        self._limits = limits

    def serving(self, name: str, model: BaseChatModel) -> RoleModel:
        """The same role played by another model: same trace, same limits."""
        return RoleModel(name, model, self._trace, self._limits)

    async def generate(
        self,
        messages: Sequence[Message],
        tag: CallTag,
        *,
        temperature: float = 0.0,
        max_tokens: int = 256,
        stop: Sequence[str] = (),
        seed: int = 0,
    ) -> Reply:
        """The model's next turn, as it wrote it."""
        turns = merge(messages)
        sent = _to_langchain(turns)

        async def once() -> AIMessage:
            message = await self.model.ainvoke(
                sent, temperature=temperature, max_tokens=max_tokens, stop=list(stop) or None, seed=seed % 2**31
            )
            if not isinstance(message, AIMessage):
                raise ModelCallError(f"Model {self.name} answered with {type(message).__name__}, not an AIMessage.")
            return message

        message, seconds = await self._retried(once, tag, turns)
        text = encodable(str(message.text))[: self._limits.max_reply_chars]
        cost = _cost(message, sent, text, seconds)
        self._trace.call(tag, self.name, turns, text, cost)
        return Reply(text, cost)

    async def choose(
        self,
        messages: Sequence[Message],
        options: Sequence[str],
        tag: CallTag,
        *,
        rng: random.Random,
        temperature: float = 0.0,
        neutral: Sequence[Message] | None = None,
    ) -> Choice:
        """One of `options` by the log-probability of writing it whole.

        At temperature 0 the likeliest wins, ties going to the earlier, and `probabilities` are those of temperature 1.
        With `neutral`, log-probabilities under that uninformative prompt are subtracted first, so that an option is
        judged by what the situation adds and not by how common it is (PMI, arXiv 2104.08315 §3).
        """
        if not isinstance(self.model, Scorer):
            raise TypeError(f"Model {self.name} cannot score options; ask `can_choose` first.")
        scorer = self.model
        turns = merge(messages)

        async def once() -> tuple[list[float], int]:
            given = await scorer.logprobs(_to_langchain(turns), options)
            logprobs, tokens = _sums(given, options), given.tokens_in
            if neutral is not None:
                prior = await scorer.logprobs(_to_langchain(merge(neutral)), options)
                logprobs = [a - b for a, b in zip(logprobs, _sums(prior, options), strict=True)]
                tokens += prior.tokens_in
            return logprobs, tokens

        (logprobs, tokens), seconds = await self._retried(once, tag, turns)
        probabilities = _softmax(logprobs, temperature or 1.0)
        index = _draw(probabilities, rng) if temperature else max(range(len(options)), key=lambda i: logprobs[i])
        cost = Cost(tokens_in=tokens, tokens_out=0, calls=1, seconds=seconds)
        self._trace.call(tag, self.name, turns, options[index], cost, options=options, probabilities=probabilities)
        return Choice(index, probabilities, cost)

    async def _retried(
        self, once: Callable[[], Awaitable[_T]], tag: CallTag, turns: Sequence[tuple[str, str]]
    ) -> tuple[_T, float]:
        from evolvent.agents.models.openai import is_transient

        started = time.perf_counter()
        for attempt in range(1, self._limits.attempts + 1):
            try:
                async with asyncio.timeout(self._limits.timeout_s):  # wait_for would make a task of it
                    result = await once()
                return result, time.perf_counter() - started
            except ModelUnavailableError:
                raise
            except Exception as error:  # the one place where a model's failure becomes a record
                cost = Cost(calls=1, seconds=time.perf_counter() - started)
                said = encodable(f"{type(error).__name__}: {error}")[:500]
                self._trace.call(tag, self.name, turns, "", cost, error=said)
                transient = isinstance(error, TimeoutError) or is_transient(error)
                if not transient or attempt == self._limits.attempts:
                    self._trace.failed_calls += 1
                    raise ModelCallError(
                        f"Call to {self.name} failed after {attempt} of {self._limits.attempts} tries: {said}"
                    ) from error
                self._trace.retries += 1
                logger.info("call to %s failed (%s), try %d follows", self.name, type(error).__name__, attempt + 1)
                await asyncio.sleep(self._limits.backoff_s * 2 ** (attempt - 1))
        raise AssertionError("unreachable: the loop returns or raises")


def _to_langchain(turns: Sequence[tuple[str, str]]) -> list[BaseMessage]:
    return [_CLASSES[role](content=text) for role, text in turns]


def _cost(message: AIMessage, sent: Sequence[BaseMessage], text: str, seconds: float) -> Cost:
    usage: Any = message.usage_metadata
    if usage:
        return Cost(usage["input_tokens"], usage["output_tokens"], 1, seconds)
    # A server that reports no usage: about four characters a token.
    return Cost(sum(len(str(m.content)) for m in sent) // 4, len(text) // 4, 1, seconds)


def _sums(scores: Scores, options: Sequence[str]) -> list[float]:
    sums = [sum(tokens) for tokens in scores.logprobs]
    if len(sums) != len(options) or not all(math.isfinite(each) for each in sums):
        raise ModelCallError(f"{len(options)} options were given the scores {sums}; expected one number each.")
    return sums


def _softmax(logits: Sequence[float], temperature: float) -> tuple[float, ...]:
    top = max(logits)
    weights = [math.exp((logit - top) / temperature) for logit in logits]
    total = sum(weights)
    return tuple(weight / total for weight in weights)


def _draw(probabilities: Sequence[float], rng: random.Random) -> int:
    point, cumulative = rng.random(), 0.0
    for index, probability in enumerate(probabilities):
        cumulative += probability
        if point < cumulative:
            return index
    return len(probabilities) - 1
