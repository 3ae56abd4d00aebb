"""How long one program with three tests takes behind each boundary, beside a bare `python -c`.

    pytest -m slow -s tests/benchmarks/bench_sandbox.py

Medians of 51 runs in one process, warm: monty's workers are up and bubblewrap has been probed.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Literal

import pytest

from evolvent.environments.execution import Sandbox, available

RUNS = 51
PROGRAM = "def middle(numbers):\n    ordered = sorted(numbers)\n    return ordered[len(ordered) // 2]\n"
TESTS = ("assert middle([3, 1, 2]) == 2", "assert middle([5]) == 5", "assert middle([2, 9, 4, 4, 1]) == 4")


def median_ms(run: Callable[[], object]) -> float:
    run()
    times = []
    for _ in range(RUNS):
        started = time.perf_counter()
        run()
        times.append(time.perf_counter() - started)
    return 1000 * statistics.median(times)


@pytest.mark.slow
@pytest.mark.parametrize(("boundary", "most"), [("monty", 0.25), ("bubblewrap", 2.5)])
def test_a_warm_run_stays_within_its_time(boundary: Literal["monty", "bubblewrap"], most: float) -> None:
    if available()[boundary]:
        pytest.skip(available()[boundary])  # it says what is missing and how to get it
    bare = median_ms(lambda: subprocess.run([sys.executable, "-c", PROGRAM], check=True))
    with Sandbox(boundary) as sandbox:
        taken = median_ms(lambda: sandbox.run(PROGRAM, TESTS))
        loaded = median_ms(lambda: sandbox.run(PROGRAM))
        many = median_ms(lambda: sandbox.run_all([PROGRAM] * 10, TESTS * 4)) / 120
    print(
        f"\n{boundary}: {taken:.1f} ms with three tests, {loaded:.1f} ms loaded only, {taken / bare:.1f} times a bare"
        f" python -c ({bare:.1f} ms); {many:.2f} ms a pair of 10 programs by 12 tests in one start"
    )
    assert taken < most * bare  # 10 and 100 ms where a bare one takes 40; a busy machine slows both
