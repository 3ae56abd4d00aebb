"""What threads that have computed before cost whoever computes now.

    python tests/benchmarks/bench_compute.py

The same products, small ones as a training has them, are timed alone, beside threads that computed once and wait since
(as a model's, an embedder's and an event loop's would), and beside the same work done by `compute`, whose threads end.
"""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from evolvent.memory.compute import compute

OTHERS = 3
REPEATS = 9


def work() -> None:
    x_NI, w_IO = torch.ones(128, 576), torch.ones(576, 576) / 576
    for _ in range(200):
        x_NI = torch.relu(x_NI @ w_IO).mul(1.0)


def seconds() -> float:
    """Of the work, the median."""

    def timed() -> float:
        begun = time.perf_counter()
        work()
        return time.perf_counter() - begun

    def repeated() -> float:
        work()
        return statistics.median(timed() for _ in range(REPEATS))

    return compute(repeated)


def beside(other: Callable[[], None]) -> float:
    """Speed after `other`, as a multiple of the speed before."""
    before = seconds()
    other()
    return before / seconds()


def threads_that_stay() -> float:
    with ThreadPoolExecutor(OTHERS) as pool:
        together = threading.Barrier(OTHERS)  # one piece of work for each thread

        def each() -> None:
            together.wait()
            work()

        return beside(lambda: [pool.submit(each) for _ in range(OTHERS)][-1].result())


def threads_that_end() -> float:
    def others() -> None:
        for _ in range(OTHERS):
            compute(work)

    return beside(others)


@pytest.mark.slow
@pytest.mark.skipif(torch.get_num_threads() < 2, reason="one core has no workers")
def test_whoever_has_computed_before_costs_next_to_nothing() -> None:
    found = max(threads_that_end() for _ in range(3))
    print(f"beside threads that ended {found:.2f}, that stay {threads_that_stay():.2f} of the speed alone")
    assert found >= 0.9


if __name__ == "__main__":
    for _ in range(3):
        print(f"ended {threads_that_end():.2f}  stay {threads_that_stay():.2f}")
