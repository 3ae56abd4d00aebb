from __future__ import annotations

import asyncio
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

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


def test_the_event_loop_goes_on_meanwhile() -> None:
    free = threading.Event()

    async def both() -> str:
        waiting = asyncio.create_task(computed(free.wait, 10))
        await asyncio.sleep(0.01)
        free.set()
        return f"{await waiting}"

    assert asyncio.run(both()) == "True"
