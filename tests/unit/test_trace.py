"""What was written down is read again whole, whatever text a model or a kill put into it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from evolvent.agents.trace import JsonLines, Trace, read_lines
from evolvent.agents.types import CallTag
from evolvent.environments.types import Cost

TAG = CallTag("actor", "train", 1, "task-1", 0, "train/1/task-1/0")


def written(path: Path, *rows: dict[str, object]) -> None:
    lines = JsonLines(path)
    for row in rows:
        lines.write(row)
    lines.close()


def test_a_line_torn_by_a_kill_is_dropped_and_the_next_one_stands_alone(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    written(path, {"n": 1})
    with path.open("a") as file:
        file.write('{"n": 2, "text": "half')
    assert read_lines(path) == [{"n": 1}]
    written(path, {"n": 3})
    assert path.read_text() == '{"n":1}\n{"n":3}\n'


def test_a_file_that_is_one_torn_line_becomes_empty(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    path.write_text('{"n":')
    written(path)
    assert path.read_bytes() == b""


@pytest.mark.parametrize("text", ["a\u2028b\x85c\x0cd\r\ne", "\x00\x1b", "Über 🐟", "\\n", '"'])
def test_any_text_is_one_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "trace.jsonl"
    written(path, {"text": text}, {"n": 2})
    assert read_lines(path) == [{"text": text}, {"n": 2}]


def test_a_lone_surrogate_does_not_stop_the_file(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    written(path, {"text": "a\ud83db"}, {"n": 2})
    assert read_lines(path)[-1] == {"n": 2}
    assert path.read_bytes().decode("utf-8")


def test_an_absent_file_is_empty(tmp_path: Path) -> None:
    assert read_lines(tmp_path / "nothing.jsonl") == []


def test_a_call_is_one_object_with_whom_it_was_for_what_was_said_and_what_it_cost(tmp_path: Path) -> None:
    trace = Trace(tmp_path / "trace.jsonl")
    turns = [("system", "Mend."), ("user", "Rust.")]
    trace.call(TAG, "m", turns, "oil", Cost(7, 1, 1, 0.25), options=["oil", "wax"], probabilities=[0.75, 0.25])
    trace.call(TAG, "m", turns, "", Cost(calls=1), error="TimeoutError: late")
    trace.close()
    first, second = read_lines(tmp_path / "trace.jsonl")
    assert first == {
        "role": "actor",
        "phase": "train",
        "generation": 1,
        "task": "task-1",
        "attempt": 0,
        "episode": "train/1/task-1/0",
        "purpose": "act",
        "model": "m",
        "messages": [{"role": "system", "content": "Mend."}, {"role": "user", "content": "Rust."}],
        "reply": "oil",
        "tokens_in": 7,
        "tokens_out": 1,
        "seconds": 0.25,
        "options": ["oil", "wax"],
        "probabilities": [0.75, 0.25],
    }
    assert second["error"] == "TimeoutError: late"
    assert trace.answered == 1
    assert trace.total == Cost(7, 1, 2, 0.25)
    assert json.dumps(first)


def test_a_trace_without_a_file_still_counts() -> None:
    trace = Trace(None)
    trace.call(TAG, "m", [], "oil", Cost(7, 1, 1, 0.25))
    trace.close()
    assert (trace.answered, trace.total.calls) == (1, 1)
