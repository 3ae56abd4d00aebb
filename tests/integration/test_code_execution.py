"""Programs, tests and traces through the sandbox, on each boundary."""

# ruff: noqa: E501 (programs in one line are read at a glance)
from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from evolvent.environments.errors import BadOptionError, NoBoundaryError
from evolvent.environments.execution import Limits, Sandbox, available, sandbox

SQUARE = "def square(x):\n    return x * x\n"


def opened(boundary: str, limits: Limits | None = None) -> Sandbox:
    lacking = available()
    for name in lacking if boundary == "auto" else (boundary,):
        if lacking[name]:
            pytest.skip(lacking[name])  # it says what is missing and how to get it; `make install` gets it
    return Sandbox(boundary, limits)  # type: ignore[arg-type]  # a parameter of the test


@pytest.fixture(scope="module", params=["monty", "bubblewrap"])
def box(request: pytest.FixtureRequest) -> Iterator[Sandbox]:
    with opened(request.param) as made:
        yield made


@pytest.fixture(scope="module")
def full() -> Iterator[Sandbox]:
    """Bubblewrap, where tracing is."""
    with opened("bubblewrap") as made:
        yield made


def test_each_assertion_has_its_own_result_with_what_was_observed(box: Sandbox) -> None:
    ran = box.run(
        SQUARE, ["assert square(3) == 9", "assert square(3) == 6", "assert square('a') == 1", "assert square(2) > 3"]
    )
    assert [each.outcome for each in ran.tests] == ["passed", "failed", "exception", "passed"]
    assert ran.tests[1].observed == "9"
    assert ran.tests[2].message.startswith("TypeError: ")
    assert (ran.outcome, ran.passes, ran.passed) == ("failed", 3 - 1, False)
    assert ran.message == "AssertionError"


def test_a_message_of_an_assertion_is_told(box: Sandbox) -> None:
    ran = box.run(SQUARE, ["assert square(3) == 6, 'three times three'"])
    assert ran.message == "AssertionError: three times three"


def test_a_failing_or_hanging_or_dying_test_hides_no_other() -> None:
    program = (
        "def f(x):\n    while x == 1:\n        pass\n    if x == 2:\n        raise KeyError('two')\n    return x\n"
    )
    with opened("monty", Limits(test_s=0.2)) as one, opened("bubblewrap", Limits(test_s=0.2)) as other:
        for each in (one, other):
            ran = each.run(program, [f"assert f({x}) == {x}" for x in range(4)])
            assert [result.outcome for result in ran.tests] == ["passed", "timeout", "exception", "passed"]
            assert ran.tests[2].message == "KeyError: 'two'"


def test_every_test_meets_a_freshly_loaded_program(box: Sandbox) -> None:
    program = "seen = []\ndef f(x):\n    seen.append(x)\n    return len(seen)\n"
    assert box.run(program, ["assert f(5) == 1"] * 3).passed


def test_a_program_that_does_not_load_fails_every_test(box: Sandbox) -> None:
    for program, said in (("def f(:\n", "SyntaxError"), ("1 / 0\n", "ZeroDivisionError: division by zero")):
        ran = box.run(program, ["assert f(1) == 1", "assert 1 == 1"])
        assert [each.outcome for each in ran.tests] == ["exception", "exception"]
        assert said in ran.message or box.boundary == "monty"


def test_without_tests_a_program_is_only_loaded_and_its_output_kept(box: Sandbox) -> None:
    ran = box.run("print('loading')\nif __name__ == '__main__':\n    print('no')\n")
    assert (ran.outcome, ran.stdout, ran.tests) == ("passed", "loading\n", ())


def test_plain_data_arrives_as_it_was_sent(box: Sandbox) -> None:
    values = [
        *(None, True, 0, -1, 10**30, 1.5, float("inf"), 1 + 2j, "é\n'\"", b"\x00\xff", [], (), set(), {}),
        *([1, [2, (3,)]], {1: {"a": {2, 3}}, (1, 2): None}, frozenset({1})),
    ]
    tests = [f"assert type(same({value!r})) == type({value!r})" for value in values if value != float("inf")]
    tests += [f"assert same({value!r}) == {value!r}" for value in values if value != float("inf")]
    ran = box.run("def same(x): return x", tests)
    assert [each.test for each in ran.tests if not each.passed] == []


def test_one_is_not_true_enough_for_is(box: Sandbox) -> None:
    ran = box.run(
        "def f(): return 1", ["assert f() is True", "assert f() is not None", "assert f() in (1, 2)", "assert f()"]
    )
    assert [each.passed for each in ran.tests] == [False, True, True, True]


def test_a_test_may_be_more_than_an_assertion(box: Sandbox) -> None:
    check = (
        "def check(candidate):\n    for n in range(5):\n        assert candidate(n) == n * n, str(n)\n\ncheck(square)"
    )
    assert box.run(SQUARE, [check]).passed
    ran = box.run("def square(x): return 2 * x", [check])
    assert (ran.outcome, ran.message) == ("failed", "AssertionError: 1")


def test_a_test_sees_other_functions_and_constants_of_the_program(box: Sandbox) -> None:
    program = "LIMIT = 7\ndef coded(x): return x + LIMIT\ndef decoded(x): return x - LIMIT\n"
    ran = box.run(program, ["assert decoded(coded(3)) == 3", "assert LIMIT == 7", "assert missing(1) == 1"])
    assert [each.outcome for each in ran.tests] == ["passed", "passed", "exception"]
    assert "missing" in ran.message


def test_the_builtins_of_a_test_are_its_own(box: Sandbox) -> None:
    ran = box.run("def abs(x): return 0\ndef f(): return 5", ["assert abs(f() - 1) < 1e-6", "assert len([f()]) == 1"])
    assert [each.passed for each in ran.tests] == [False, True]


def test_a_test_that_is_no_python_is_an_exception_of_its_own(box: Sandbox) -> None:
    ran = box.run(SQUARE, ["assert square(", "assert square(1) == 1"])
    assert [each.outcome for each in ran.tests] == ["exception", "passed"]


def test_objects_and_generators_are_used_where_full_python_runs(full: Sandbox) -> None:
    program = (
        "class Stack:\n    def __init__(self): self.kept = []\n    def push(self, x): self.kept.append(x)\n"
        "    def size(self): return len(self.kept)\ndef upto(n):\n    yield from range(n)\ndef made(): return Stack()\n"
    )
    tests = ["stack = Stack()\nstack.push(3)\nassert stack.size() == 1", "assert list(upto(3)) == [0, 1, 2]"]
    tests += ["assert made().kept == []", "assert list(upto(2)) != range(2)", "assert same(range(3)) == range(3)"]
    assert full.run(f"{program}def same(x): return x", tests).passed
    assert not full.run(program, ["assert made() == made()"]).passed


def test_what_monty_lacks_is_run_by_bubblewrap_and_what_fails_is_not() -> None:
    with opened("auto") as auto:
        lacking = auto.run("def f(n):\n    yield n\n", ["assert list(f(1)) == [1]"])
        assert (lacking.boundary, lacking.outcome) == ("bubblewrap", "passed")
        assert auto.run("import heapq\ndef f(x): return heapq.nsmallest(1, x)", ["assert f([2, 1]) == [1]"]).passed
        for failing in (
            "def f(x): return x + 'a'",
            "def f(x): return y",
            "def f(x): return x.upper()",
            "def f(x: return",
        ):
            assert auto.run(failing, ["assert f(1) == 1"]).boundary == "monty"
    with opened("monty") as alone:
        assert alone.run("def f(n):\n    yield n\n", ["assert list(f(1)) == [1]"]).outcome == "unsupported"


def test_many_programs_meet_many_tests_in_one_start(box: Sandbox) -> None:
    programs = [f"def f(x): return x + {k}" for k in range(6)] + ["def f(x): raise ValueError(x)", "nonsense("]
    tests = [f"assert f({x}) == {x + 2}" for x in range(5)]
    assert [ran.passes for ran in box.run_all(programs, tests)] == [0, 0, 5, 0, 0, 0, 0, 0]
    assert box.run_all([], tests) == []


def test_randomness_and_the_order_of_sets_are_the_same_every_time(full: Sandbox) -> None:
    program = "import random\nprint(random.random(), list({'a', 'b', 'c', 'd', 'e'}), hash('a'))"
    assert full.run(program).stdout == full.run(program).stdout != ""


def test_a_sandbox_is_used_from_several_threads_at_once(box: Sandbox) -> None:
    found: list[bool] = []

    def work(k: int) -> None:
        found.append(box.run(SQUARE, [f"assert square({k}) == {k * k}"]).passed)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [True] * 12


def test_a_refusal_names_what_is_missing_and_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        sandbox, "available", lambda: {"monty": "no monty: pip install it", "bubblewrap": "no bwrap: apt"}
    )
    with pytest.raises(NoBoundaryError, match=r"none is run.*no monty: pip install it\. no bwrap: apt\."):
        Sandbox()
    monkeypatch.setattr(sandbox, "available", lambda: {"monty": "", "bubblewrap": "no bwrap: apt"})
    with pytest.raises(NoBoundaryError, match="no bwrap"):
        Sandbox("bubblewrap")
    Sandbox("auto").close()


def test_limits_and_boundaries_out_of_range_are_refused() -> None:
    for limits in (Limits(test_s=0), Limits(wall_s=-1), Limits(memory_bytes=1000), Limits(output_bytes=1)):
        with pytest.raises(BadOptionError, match="is at least"):
            Sandbox(limits=limits)
    with pytest.raises(BadOptionError, match="docker"):
        Sandbox("docker")  # type: ignore[arg-type]  # that is what is tested


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("runs", [100, pytest.param(1000, marks=pytest.mark.slow)])
def test_benign_runs_leave_nothing_behind(box: Sandbox, runs: int, tmp_path: Path) -> None:
    runs = runs if box.boundary == "monty" or runs > 100 else 30

    def kept() -> tuple[int, int, int]:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        children = sum(
            stat.read_text().rpartition(")")[2].split()[1] == str(os.getpid())
            for stat in Path("/proc").glob("[0-9]*/stat")
        )
        return len(os.listdir("/proc/self/fd")), children, pages * os.sysconf("SC_PAGE_SIZE") // 2**20

    for _ in range(10):
        box.run(SQUARE, ["assert square(3) == 9"])
    files = set(os.listdir("/tmp"))
    before = kept()
    assert all(box.run(SQUARE, ["assert square(3) == 9"]).passed for _ in range(runs))
    deadline = time.monotonic() + 5
    while kept()[:2] != before[:2] and time.monotonic() < deadline:
        time.sleep(0.05)
    after = kept()
    assert after[:2] == before[:2]
    assert after[2] - before[2] < 20  # MiB
    assert not [name for name in set(os.listdir("/tmp")) - files if "evolvent" in name or "bwrap" in name]


# --- traces -----------------------------------------------------------------------------------------------------------

LOOP = """def total(n):
    found = 0
    doubled = 0
    for k in range(n):
        found += k
        if found > 2: doubled = 2 * found
    return doubled
"""


def test_a_trace_holds_the_values_that_only_a_run_can_give(full: Sandbox) -> None:
    trace = full.trace(LOOP, "assert total(3) == 4")
    assert (trace.outcome, trace.returned, trace.reason, trace.left_out) == ("passed", "6", "", 0)
    assert trace.blocks[0].before == {"n": "3"}
    assert [line.number for line in trace.blocks[0].lines][:2] == [2, 3]
    sums = [line.values["found"] for block in trace.blocks for line in block.lines if line.number == 5]
    assert sums == ["0", "1", "3"]
    assert trace.blocks[-1].lines[-1].source == "return doubled"
    for one, following in zip(trace.blocks, trace.blocks[1:], strict=False):
        assert one.after == following.before


def test_a_branch_that_is_not_taken_is_in_no_block(full: Sandbox) -> None:
    program = "def f(x):\n    if x > 0:\n        y = 1\n        y += 1\n    else:\n        y = 2\n        y += 3\n    return y\n"
    trace = full.trace(program, "f(1)")
    assert [[line.number for line in block.lines] for block in trace.blocks] == [[2], [3, 4], [8]]


def test_a_long_loop_keeps_its_beginning_and_its_end(full: Sandbox) -> None:
    trace = full.trace(LOOP, "total(1000)")
    assert len(trace.blocks) == 400
    assert trace.left_out > 1000
    assert trace.blocks[0].lines[0].number == 2
    assert trace.blocks[-1].lines[-1].number == 7


def test_long_values_keep_their_two_ends(full: Sandbox) -> None:
    trace = full.trace("def f(n):\n    x = 'a' * n + 'z' * n\n    return x\n", "f(500)")
    shown = trace.blocks[-1].after["x"]
    assert len(shown) == 100
    assert shown.startswith("'aaa")
    assert shown.endswith("zzz'")


def test_recursion_shows_the_outermost_run_and_early_returns_end_it(full: Sandbox) -> None:
    program = "def fact(n):\n    if n < 2: return 1\n    rest = fact(n - 1)\n    return n * rest\n"
    trace = full.trace(program, "fact(4)")
    assert trace.returned == "24"
    assert [line.number for block in trace.blocks for line in block.lines] == [2, 3, 4]
    assert trace.blocks[-1].after == {"n": "4", "rest": "6"}


def test_a_run_that_raises_is_traced_up_to_there(full: Sandbox) -> None:
    trace = full.trace("def f(x):\n    y = x + 1\n    return y / 0\n", "assert f(1) == 1")
    assert (trace.outcome, trace.returned) == ("exception", "ZeroDivisionError: division by zero")
    assert trace.blocks[-1].after == {"x": "1", "y": "2"}


@pytest.mark.parametrize(
    ("program", "call", "outcome", "reason"),
    [
        ("def f(n):\n    while True: pass\n", "f(1)", "timeout", "longer than"),
        ("import os\ndef f(n):\n    os._exit(3)\n", "f(1)", "crashed", "exit status 3"),
        ("def f(n):\n    yield n\n", "list(f(1))", "unsupported", "generator"),
        ("async def f(n):\n    return n\n", "f(1)", "unsupported", "coroutine"),
        ("def f(n): return n\n", "1 + 1", "unsupported", "calls no function"),
        ("f = len\n", "f([1])", "unsupported", "no function written in Python"),
        ("def f(n: return n\n", "f(1)", "exception", "SyntaxError"),
        ("def f(n): return n\n", "f(", "exception", "SyntaxError"),
    ],
)
def test_what_cannot_be_traced_says_why(full: Sandbox, program: str, call: str, outcome: str, reason: str) -> None:
    trace = full.trace(program, call)
    assert (trace.outcome, trace.blocks) == (outcome, ())
    assert reason in trace.reason
