from __future__ import annotations

import asyncio
import os
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

from evolvent.agents.models.engine import _apart
from evolvent.memory.compute import compute, computed


def _threads() -> int:
    return len(list(Path("/proc/self/task").iterdir()))


@pytest.mark.skipif(sys.platform != "linux", reason="threads are counted in /proc")
def test_workers_end_with_the_work_they_were_for() -> None:
    usual = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        before = _threads()
        during = compute(lambda: (torch.ones(3_000_000).exp().sum(), _threads())[1])
    finally:
        torch.set_num_threads(usual)
    assert during == before + 3  # its own thread and two workers
    until = time.monotonic() + 10  # the system takes a moment to end them
    while _threads() > before and time.monotonic() < until:
        time.sleep(0.01)
    assert _threads() <= before


def test_the_caller_gets_what_it_gives_and_what_it_raises() -> None:
    assert compute(divmod, 7, 2) == (3, 1)
    with pytest.raises(ZeroDivisionError):
        compute(divmod, 7, 0)
    names = compute(lambda: (threading.current_thread().name, compute(lambda: 5)))
    assert names == ("compute", 5)


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read in /proc")
def test_a_prefix_that_is_kept_apart_is_the_same_and_gives_its_pages_back() -> None:
    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    values = torch.randn(4, 2, 64, 512)
    before = resident()
    kept = [_apart(values[:, :, :, 64:320]) for _ in range(200)]
    size = len(kept) * kept[0].nbytes
    assert resident() - before > 0.9 * size
    assert all(torch.equal(each, values[:, :, :, 64:320]) for each in kept)
    del kept
    assert resident() - before < 0.1 * size


def test_the_event_loop_goes_on_meanwhile() -> None:
    free = threading.Event()

    async def both() -> str:
        waiting = asyncio.create_task(computed(free.wait, 10))
        await asyncio.sleep(0.01)
        free.set()
        return f"{await waiting}"

    assert asyncio.run(both()) == "True"
