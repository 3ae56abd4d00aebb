"""FanOutQA's 310 questions about many articles at once (arXiv 2402.14116), with the answers to their parts or without.

The articles are a download and are not used: the answered sub-questions that come with the data stand in for them, so
what is asked is to put found facts together, not to find them. The data (CC BY-SA 4.0) are read from the installed
package, whose code is not imported: it would make a folder in the user's home and needs a spaCy model to score.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import json
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

from evolvent.environments.errors import BadOptionError, MissingPackageError
from evolvent.environments.solo import SEAT, written
from evolvent.environments.types import Action, Observation, Split, StepResult, Task

VERSION = 1
Evidence = Literal["sub", "none"]
_SPLITS: tuple[Split, ...] = get_args(Split)
_ANNOUNCED = re.compile(r"\banswer(?:\s+is\b|\s*:)\s*:?", re.IGNORECASE)
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}\b)")
_WORD = re.compile(r"\d+\.\d+|\w+")
_ARTICLES = frozenset(("a", "an", "the"))
SPARE_WORDS = 10
"""An answer is read up to twice the words of the references and so many more.

Where all of it is read, repeating the prompt of `sub` passes 92 in 100 questions; so, 12. A reply that says "the value
of NAME is VALUE" for each part is read to its end in every question.
"""


def stated(reply: str) -> str:
    """What a reply gives as its answer: all behind the last "answer is" or "Answer:", else the whole reply."""
    announced = list(_ANNOUNCED.finditer(reply))
    return (reply[announced[-1].end() :] if announced else reply).strip()


def contained(answer: str, references: Sequence[str]) -> float:
    """Share of the references that stand in an answer as whole words, in [0, 1]: FanOutQA's loose accuracy.

    Case, punctuation, articles and commas in numbers do not count; words are not lemmatised as FanOutQA does. Only so
    much of the answer is read as `SPARE_WORDS` says. As in FanOutQA, which value goes with which name is not checked.

    Raises:
        ValueError: no reference has a word.
    """
    wanted = [" ".join(_words(each)) for each in references]
    wanted = [each for each in wanted if each]
    if not wanted:
        raise ValueError(f"References need words, and there are none in {list(references)!r}.")
    limit = 2 * sum(len(each.split()) for each in wanted) + SPARE_WORDS
    read = f" {' '.join(_words(answer)[:limit])} "
    return sum(f" {each} " in read for each in wanted) / len(wanted)


class FanOutQA:
    """Questions in free text. The score is the share of reference answers that the reply contains; success is all.

    A task's hidden data hold the `references`, names and values alike, and the `answer` in which they stand.

    Args:
        evidence: `sub` puts the answered sub-questions into the prompt, `none` asks from memory alone.

    Raises:
        BadOptionError: other evidence.
    """

    players = (SEAT,)
    max_steps = 1

    def __init__(self, *, evidence: Evidence = "sub") -> None:
        if evidence not in get_args(Evidence):
            raise BadOptionError(f"fanoutqa: evidence is sub or none, not {evidence!r}.")
        self._evidence = evidence
        facts = " from the facts that are given" if evidence == "sub" else ""
        self.instructions = (
            f"You answer questions with several parts{facts}. "
            "The last line is: The answer is X. There X holds every name that is asked about with its value."
        )
        self._playing: Task | None = None

    def tasks(self, split: Split, n: int, seed: int) -> list[Task]:
        """`n` different questions; what decides a question's split is its id.

        Raises:
            BadOptionError: there are fewer.
            MissingPackageError: the package that holds the data is not installed.
        """
        known = [each for each in _questions() if _SPLITS[hashlib.sha256(each["id"].encode()).digest()[0] % 3] == split]
        if n > len(known):
            raise BadOptionError(f"fanoutqa: there are {len(known)} {split} questions, not {n}. Ask for fewer.")
        rng = random.Random(f"fanoutqa/{split}/{seed}")
        return [self._task(split, question) for question in rng.sample(known, n)]

    def reset(self, task: Task, seed: int) -> tuple[Observation, ...]:
        """Ask for the answer; the task alone decides the episode, whatever `seed` is."""
        self._playing = task
        return (Observation(SEAT, "Answer:"),)

    def step(self, actions: Mapping[str, Action]) -> StepResult:
        if self._playing is None:
            raise RuntimeError("reset comes before step")
        references = self._playing.data["references"]
        share = contained(stated(written(actions)), references)
        told = f"{share * len(references):.0f} of {len(references)} parts of the answer are there."
        end = Observation(SEAT, told, None, must_act=False)
        return StepResult((end,), {SEAT: share}, True, {"success": share == 1})

    def expert(self, task: Task) -> list[str]:
        """The answer."""
        return [f"The answer is {task.data['answer']}."]

    def close(self) -> None:
        self._playing = None

    def _task(self, split: Split, question: Mapping[str, Any]) -> Task:
        prompt = question["question"]
        if self._evidence == "sub":
            facts = [f"- {each['question']} {_text(each['answer'])}" for each in _parts(question["decomposition"])]
            prompt = "\n".join(("Facts:", *facts, f"Question: {prompt}"))
        return Task(
            id=f"fanoutqa-{self._evidence}-{split}-{question['id']}",
            prompt=prompt,
            environment="fanoutqa",
            data={"references": list(_references(question["answer"])), "answer": _text(question["answer"])},
            tags=tuple(question["categories"]),
        )


@functools.lru_cache(maxsize=1)
def _questions() -> tuple[Mapping[str, Any], ...]:
    # The package is found, not imported: see the top.
    found = importlib.util.find_spec("fanoutqa")
    if found is None or not found.submodule_search_locations:
        raise MissingPackageError(
            "fanoutqa needs the package 'fanoutqa', which holds the questions. "
            'Install it: pip install "evolvent[questions]"'
        )
    path = Path(found.submodule_search_locations[0]) / "data" / "fanout-final-dev.json"
    return tuple(json.loads(path.read_text(encoding="utf-8")))


def _parts(decomposition: Sequence[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    """Sub-questions that have an answer, those of a sub-question before itself."""
    for part in decomposition:
        yield from _parts(part["decomposition"])
        if _text(part["answer"]):
            yield part


def _references(answer: Any) -> Iterator[str]:
    """Names and values of an answer, each one as text; the one value that the data leave empty is no reference."""
    match answer:
        case dict():
            for name, value in answer.items():
                yield name
                yield from _references(value)
        case list():
            for each in answer:
                yield from _references(each)
        case _ if text := _text(answer):
            yield text


def _text(answer: Any) -> str:
    match answer:
        case dict():
            return "; ".join(f"{name}: {_text(value)}" for name, value in answer.items())
        case list():
            return "; ".join(map(_text, answer))
        case bool():
            return "yes" if answer else "no"
        case _:
            return str(answer)


def _words(text: str) -> list[str]:
    words = _WORD.findall(_THOUSANDS.sub("", text.lower()))
    plain = [word.rstrip("0").rstrip(".") if "." in word else word for word in words]
    return [word for word in plain if word not in _ARTICLES]
