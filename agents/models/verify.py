"""Is the adapter that was trained the one that is served? Asked of the server itself, by canaries.

Strings and numbers only: any `Scorer` can be verified, the embedded model and a remote server alike.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from langchain_core.messages import convert_to_messages

from evolvent.agents.errors import AdapterMismatchError
from evolvent.agents.models.protocol import Scorer
from evolvent.memory.errors import BadCanariesError
from evolvent.memory.weights.canaries import BASE, Canary, Logprobs, distance, separation

TOLERANCE = 0.05
"""Nats per token: what another engine or a shorter float may be off."""


@dataclass(frozen=True, slots=True)
class Verified:
    ok: bool
    worst: float
    """Of the canaries' distances between what was measured and what is served, in nats per token; may be infinite."""
    diagnosis: str
    """What is served, as one sentence."""


async def verify(
    model: Scorer,
    canaries: Sequence[Canary],
    *,
    tolerance: float = TOLERANCE,
    base: Scorer | None = None,
    known: Mapping[str, Sequence[Canary]] = {},
) -> Verified:
    """`compare`, for who must not go on otherwise.

    Raises:
        AdapterMismatchError: what is served is not the adapter; names what it seems to be and what to do.
        BadCanariesError: as `compare`.
    """
    verified = await compare(model, canaries, tolerance=tolerance, base=base, known=known)
    if not verified.ok:
        raise AdapterMismatchError(
            f"The served model is {verified.worst:.3g} nats per token off the trained adapter; expected {tolerance} "
            f"at most. {verified.diagnosis}"
        )
    return verified


async def compare(
    model: Scorer,
    canaries: Sequence[Canary],
    *,
    tolerance: float = TOLERANCE,
    base: Scorer | None = None,
    known: Mapping[str, Sequence[Canary]] = {},
) -> Verified:
    """Score the canaries on what is served and say what it is.

    Args:
        base: the same server without the adapter, where it can be asked: tells another base from another adapter.
        known: canaries of adapters that may be served instead, by name.

    Raises:
        BadCanariesError: none were given, or they tell the adapter from a rival by less than twice the tolerance.
    """
    apart = separation(canaries)
    if apart <= 2 * tolerance:
        raise BadCanariesError(
            f"{len(canaries)} canaries tell the adapter from its nearest rival by {apart:.3g} nats per token; a "
            f"tolerance of {tolerance} needs more than {2 * tolerance}. Measure others, or be less tolerant."
        )
    served = await asyncio.gather(*(_logprobs(model, canary) for canary in canaries))
    worst = max(distance(canary.logprobs, now) for canary, now in zip(canaries, served, strict=True))
    if worst <= tolerance:
        return Verified(True, worst, "The trained adapter is served.")
    if any(len(canary.logprobs) != len(now) for canary, now in zip(canaries, served, strict=True)):
        return Verified(False, worst, "It cuts text into other tokens: another base is served. Serve the one it names.")
    if base is not None and not await _is(base, [(c, c.rivals[BASE]) for c in canaries], tolerance):
        return Verified(
            False, worst, "Without the adapter it is not the base either: another base is served. Serve the right one."
        )
    rivals = sorted({name for canary in canaries for name in canary.rivals})
    for name in rivals:
        pairs = [(c.rivals[name], now) for c, now in zip(canaries, served, strict=True) if name in c.rivals]
        if max(distance(expected, now) for expected, now in pairs) <= tolerance:
            return Verified(False, worst, _instead(name))
    for name, theirs in known.items():
        if theirs and await _is(model, [(canary, canary.logprobs) for canary in theirs], tolerance):
            return Verified(False, worst, _instead(name))
    return Verified(False, worst, _neither(canaries, served))


async def _logprobs(model: Scorer, canary: Canary) -> Logprobs:
    scores = await model.logprobs(convert_to_messages([dict(m) for m in canary.messages]), [canary.completion])
    return scores.logprobs[0]


async def _is(model: Scorer, expected: Sequence[tuple[Canary, Logprobs]], tolerance: float) -> bool:
    return all([distance(logprobs, await _logprobs(model, canary)) <= tolerance for canary, logprobs in expected])


def _instead(name: str) -> str:
    what = "The base is served without it" if name == BASE else f"The adapter {name!r} is served instead"
    return f"{what}: load the trained adapter and verify again."


def _neither(canaries: Sequence[Canary], served: Sequence[Logprobs]) -> str:
    """To first order a wrong scale multiplies what the adapter adds to every log-probability; that can be seen."""
    trained = [a - b for c in canaries for a, b in zip(c.logprobs, c.rivals[BASE], strict=True)]
    found = [a - b for c, now in zip(canaries, served, strict=True) for a, b in zip(now, c.rivals[BASE], strict=True)]
    inner = math.fsum(a * b for a, b in zip(trained, found, strict=True))
    lengths = math.hypot(*trained), math.hypot(*found)
    if inner > 0.9 * math.prod(lengths):
        return (
            f"It changes the base as the adapter does, about {inner / lengths[0] ** 2:.1f} times as much: check "
            "lora_alpha and the rank in adapter_config.json, and that it is not merged twice."
        )
    return "It is neither the base nor a known adapter: it may be damaged or over another base. Load it again."
