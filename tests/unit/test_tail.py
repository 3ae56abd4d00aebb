"""The end of a growing file: whole lines, each once, and of a long past none."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from evolvent.agents import tail
from evolvent.agents.tail import Tail


def line(number: int) -> bytes:
    return json.dumps({"n": number, "reply": "a\u2028b\u0085c\r"}, ensure_ascii=False).encode() + b"\n"


def numbers(found: list[dict[str, int]]) -> list[int]:
    return [row["n"] for row in found]


def test_every_whole_line_is_given_once_and_a_torn_one_when_it_is_whole(tmp_path: Path) -> None:
    file = tmp_path / "trace.jsonl"
    new = Tail(file).new
    assert new() == []
    file.write_bytes(line(1) + line(2) + line(3)[:9])
    assert numbers(new()) == [1, 2]
    assert new() == []
    file.write_bytes(line(1) + line(2) + line(3) + line(4))
    assert numbers(new()) == [3, 4]


def test_a_file_that_became_shorter_is_read_from_its_beginning(tmp_path: Path) -> None:
    file = tmp_path / "trace.jsonl"
    new = Tail(file).new
    file.write_bytes(line(1) + line(2))
    new()
    file.write_bytes(line(5))
    assert numbers(new()) == [5]


def test_of_what_is_longer_than_a_tail_the_end_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tail, "TAIL_BYTES", 3 * len(line(1)))
    file = tmp_path / "trace.jsonl"
    new = Tail(file).new
    file.write_bytes(b"".join(line(number) for number in range(8)))
    # The first line within the tail may have lost its beginning; here it has not, and is passed over all the same.
    assert numbers(new()) == [6, 7]
    with file.open("ab") as more:
        more.write(b"".join(line(number) for number in (8, 9)))
    assert numbers(new()) == [8, 9], "what is short is read whole"
    with file.open("ab") as more:
        more.write(b"".join(line(number) for number in range(10, 90)))
    assert numbers(new()) == [88, 89]


def test_what_is_no_json_object_is_left_out(tmp_path: Path) -> None:
    file = tmp_path / "trace.jsonl"
    file.write_bytes(b"\xff\xfe\n[1]\nnull\n{\n" + line(7) + b"\n")
    assert numbers(Tail(file).new()) == [7]
