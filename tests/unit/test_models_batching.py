from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Sequence
from types import SimpleNamespace

import pytest

from evolvent.agents.models.batching import Batcher


def test_what_waits_together_is_answered_together() -> None:
    batches: list[Sequence[int]] = []
    busy, free = threading.Event(), threading.Event()

    def run(requests: Sequence[int]) -> list[int | Exception]:
        batches.append(tuple(requests))
        busy.set()
        free.wait(10)
        return [request * 10 for request in requests]

    batcher = Batcher(run, limit=3)
    first = batcher.submit(0)
    assert busy.wait(10)
    rest = [batcher.submit(i) for i in range(1, 6)]
    free.set()
    assert [future.result(10) for future in (first, *rest)] == [0, 10, 20, 30, 40, 50]
    assert batches == [(0,), (1, 2, 3), (4, 5)]
    batcher.close()


def test_a_request_that_fails_alone_leaves_the_others_be() -> None:
    batcher: Batcher[int, int] = Batcher(
        lambda requests: [i if i % 2 else ValueError(f"{i} is even") for i in requests]
    )
    odd, even = batcher.submit(1), batcher.submit(2)
    assert odd.result(10) == 1
    with pytest.raises(ValueError, match="2 is even"):
        even.result(10)
    batcher.close()


def test_a_batch_that_fails_fails_for_each_and_the_next_one_runs() -> None:
    def run(requests: Sequence[str]) -> list[str | Exception]:
        if "bad" in requests:
            raise RuntimeError("out of memory")
        return list(requests)

    batcher = Batcher(run)
    with pytest.raises(RuntimeError, match="out of memory"):
        batcher.submit("bad").result(10)
    assert batcher.submit("good").result(10) == "good"
    batcher.close()


def test_a_request_alone_is_not_kept_waiting() -> None:
    batcher: Batcher[int, int] = Batcher(lambda requests: list(requests), gap_s=5, window_s=5)
    started = time.monotonic()
    assert [batcher.submit(i).result(10) for i in range(3)] == [0, 1, 2]
    assert time.monotonic() - started < 4
    batcher.close()


def test_those_who_were_answered_together_are_waited_for_longer_when_that_took_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    batches: list[Sequence[int]] = []
    busy, free = threading.Event(), threading.Event()
    took_s = 0.0
    clock = SimpleNamespace(monotonic=lambda: time.monotonic() + took_s)
    monkeypatch.setattr("evolvent.agents.models.batching.time", clock)

    def run(requests: Sequence[int]) -> list[int | Exception]:
        nonlocal took_s
        batches.append(tuple(requests))
        busy.set()
        free.wait(10)
        took_s += 1000  # so a gap of ten seconds is waited for
        return list(requests)

    batcher = Batcher(run)
    answers = [batcher.submit(0)]
    assert busy.wait(10)
    answers += [batcher.submit(i) for i in (1, 2)]
    free.set()
    assert [future.result(10) for future in answers] == [0, 1, 2]
    late = [batcher.submit(3)]
    time.sleep(0.1)
    late.append(batcher.submit(4))
    assert [future.result(10) for future in late] == [3, 4]
    assert batches == [(0,), (1, 2), (3, 4)]
    batcher.close()


def test_one_batcher_serves_several_event_loops() -> None:
    batcher: Batcher[int, int] = Batcher(lambda requests: [i + 1 for i in requests])

    async def ask(i: int) -> int:
        return await asyncio.wrap_future(batcher.submit(i))

    results: dict[int, int] = {}
    threads = [threading.Thread(target=lambda i=i: results.update({i: asyncio.run(ask(i))})) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert results == {i: i + 1 for i in range(4)}
    batcher.close()


def test_closing_answers_what_was_submitted() -> None:
    def run(requests: Sequence[int]) -> list[int | Exception]:
        time.sleep(0.01)
        return list(requests)

    batcher = Batcher(run, limit=2)
    futures = [batcher.submit(i) for i in range(5)]
    batcher.close()
    assert [future.result(0) for future in futures] == list(range(5))
    with pytest.raises(RuntimeError, match="closed"):
        batcher.submit(5)


def test_a_cancelled_request_is_not_run() -> None:
    ran: list[int] = []
    free = threading.Event()

    def run(requests: Sequence[int]) -> list[int | Exception]:
        free.wait(10)
        ran.extend(requests)
        return list(requests)

    batcher = Batcher(run, limit=1)
    futures = [batcher.submit(i) for i in range(3)]
    assert futures[2].cancel()
    free.set()
    batcher.close()
    assert ran == [0, 1]
