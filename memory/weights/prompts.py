"""Prompts to act on and what the replies are worth: what the trainers by reward share.

A reward is any function of prompts and replies: a verifier, a judge, or a `RewardScorer`. Loads no library of its own
weight.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence

from evolvent.memory.errors import BadTrainingError
from evolvent.memory.weights.training import Encoded, Encoder, Row, Training, fit

Prompt = Sequence[Row]
"""Its messages."""
Reward = Callable[[Sequence[Prompt], Sequence[str]], Sequence[float]]
"""What each reply is worth, from the prompts and the replies to them; a finite number, and more is better. Nothing
else may decide it, or a training that was killed goes on to another adapter."""


def fit_prompts(
    rows: Sequence[Row], encoder: Encoder, config: Training, reply_tokens: int
) -> list[tuple[Row, list[int]]]:
    """Those rows that leave room for a reply, in their order, and the token ids of their prompts.

    Raises:
        BadTrainingError: there is no row, one has no `prompt`, or none leaves room.
    """

    def encode(row: Row) -> tuple[Encoded, ...]:
        encoded = encoder.encode(row["prompt"], [{"role": "assistant", "content": ""}])
        return (Encoded(encoded.prompt, encoded.completion * reply_tokens),)

    return [(row, each.prompt) for row, (each,) in fit(rows, ("prompt",), encode, config)]


def schedule(rows: int, count: int, seed: int) -> list[int]:
    """Which row comes when, of so many rows: all of them in a random order, then all again in another."""
    order: list[int] = []
    while len(order) < count:
        order += random.Random(f"prompts/{seed}/{len(order)}").sample(range(rows), rows)
    return order[:count]


def worth(reward: Reward, prompts: Sequence[Prompt], replies: Sequence[str]) -> list[float]:
    """
    Raises:
        BadTrainingError: not one finite number for each reply.
    """
    rewards = [float(each) for each in reward(prompts, replies)]
    if len(rewards) != len(replies):
        raise BadTrainingError(
            f"The reward {name_of(reward)} gave {len(rewards)} numbers for {len(replies)} replies; expected one each."
        )
    for value, reply in zip(rewards, replies, strict=True):
        if not math.isfinite(value):
            raise BadTrainingError(
                f"The reward {name_of(reward)} of the reply {reply[:60]!r} is {value}; expected a finite number, also "
                "for a reply that cannot be read."
            )
    return rewards


def name_of(reward: Reward) -> str:
    """How a journal tells one reward from another: it cannot see what a function does."""
    return getattr(reward, "__qualname__", type(reward).__qualname__)
