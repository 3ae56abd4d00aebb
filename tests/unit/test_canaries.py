from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import pytest
from langchain_core.messages import BaseMessage

from evolvent.agents.errors import AdapterMismatchError
from evolvent.agents.models.protocol import Scores
from evolvent.agents.models.verify import TOLERANCE, compare, verify
from evolvent.memory.errors import BadCanariesError
from evolvent.memory.weights.canaries import BASE, FILE, Canary, Logprobs, distance, read, separation, write


def canary(completion: str, logprobs: Logprobs, base: Logprobs, **rivals: Logprobs) -> Canary:
    messages = ({"role": "system", "content": "Be brief."}, {"role": "user", "content": "Tool?"})
    return Canary(messages, completion, logprobs, {BASE: base, **rivals})


TWO = (
    canary("oil can", (-0.5, -0.1), (-2.0, -1.0), parent=(-0.5, -0.2)),
    canary("file", (-0.3,), (-0.4,), parent=(-1.3,)),
)


class Server:
    """A scorer that has its log-probabilities by heart."""

    def __init__(self, **completions: Logprobs) -> None:
        self.completions = {name.replace("_", " "): logprobs for name, logprobs in completions.items()}
        self.roles: list[str] = []

    async def logprobs(self, messages: Sequence[BaseMessage], continuations: Sequence[str]) -> Scores:
        self.roles = [message.type for message in messages]
        return Scores(tuple(self.completions[text] for text in continuations), 0)


def test_a_distance_is_the_mean_per_token_and_infinite_between_unlike_things() -> None:
    assert distance((-1.0, -2.0), (-1.5, -1.9)) == pytest.approx(0.3)
    assert distance((-1.0,), (-1.0, -2.0)) == math.inf
    assert distance((-1.0,), (math.nan,)) == math.inf
    assert distance((), ()) == math.inf


def test_canaries_separate_by_the_one_that_shows_a_rival_best_and_the_rival_that_is_nearest() -> None:
    assert separation(TWO) == pytest.approx(1.0)  # parent by the second, 1.0; the base by the first, 1.2
    assert separation(TWO[:1]) == pytest.approx(0.05)
    assert separation(()) == 0


def test_canaries_survive_the_file_exactly(tmp_path: Path) -> None:
    odd = canary('"ü\n€"', (-1 / 3, -1e-9), (-2.0, -20.0 / 7))
    assert write(tmp_path, (*TWO, odd)) == tmp_path / FILE
    assert read(tmp_path) == (*TWO, odd)


def test_a_file_that_holds_no_canaries_names_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(BadCanariesError, match=r"No canaries at .* \(No such file or directory\)"):
        read(tmp_path)
    whole = write(tmp_path, TWO).read_bytes()
    for text, match in [
        (whole[: len(whole) // 2], "the file: Invalid JSON"),
        (b'[{"messages": [], "completion": "a"}]', r"0\.logprobs: Field required"),
        (b'[{"messages": [], "completion": "a", "logprobs": [NaN]}]', "finite"),
        (whole.replace(b'"base"', b'"bass"'), "without its base"),
        (b"[]", "has no canary"),
    ]:
        (tmp_path / FILE).write_bytes(text)
        with pytest.raises(BadCanariesError, match=match):
            read(tmp_path)


async def test_the_adapter_passes_within_the_tolerance() -> None:
    server = Server(oil_can=(-0.54, -0.14), file=(-0.3,))
    verified = await verify(server, TWO)
    assert verified.ok
    assert verified.worst == pytest.approx(0.04)
    assert server.roles == ["system", "human"]


async def test_one_canary_that_is_off_is_enough() -> None:
    verified = await compare(Server(oil_can=(-0.5, -0.1), file=(-0.3 - 1.1 * TOLERANCE,)), TWO)
    assert not verified.ok


@pytest.mark.parametrize(
    ("served", "match"),
    [
        (Server(oil_can=(-2.0, -1.0), file=(-0.4,)), "The base is served without it"),
        (Server(oil_can=(-0.5, -0.2), file=(-1.3,)), "The adapter 'parent' is served instead"),
        (Server(oil_can=(-0.5, -0.1), file=(-0.2, -0.1)), "other tokens: another base"),
        (Server(oil_can=(-1.25, -0.55), file=(-0.35,)), r"about 0\.5 times as much"),
        (Server(oil_can=(-3.0, -0.1), file=(-4.0,)), "neither the base nor a known adapter"),
        (Server(oil_can=(math.nan, -0.1), file=(-0.3,)), "inf nats per token off .* may be damaged"),
    ],
)
async def test_a_mismatch_says_what_is_served_and_what_to_do(served: Server, match: str) -> None:
    with pytest.raises(AdapterMismatchError, match=match):
        await verify(served, TWO)


async def test_a_known_adapter_without_canaries_is_never_named() -> None:
    verified = await compare(Server(oil_can=(-3.0, -0.1), file=(-4.0,)), TWO, known={"empty": ()})
    assert "empty" not in verified.diagnosis


async def test_canaries_that_would_pass_a_rival_prove_nothing() -> None:
    server = Server(oil_can=(-0.5, -0.1), file=(-0.3,))
    for canaries, tolerance in [(TWO[:1], 0.05), (TWO, 0.5), ((), 0.05)]:
        with pytest.raises(BadCanariesError, match="Measure others"):
            await verify(server, canaries, tolerance=tolerance)
