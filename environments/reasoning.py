"""Reasoning Gym: generated questions of a hundred kinds, each kind with a verifier of its own. One reply an episode.

A task is a kind's generator and a seed. What differs from the package, and why:

- Some generators draw from the global generators; here those are seeded for one item and put back as they were.
- Some give up on a seed; here the next seed is taken.
- Three verifiers hand the reply to sympy's parser, which runs it as Python, and one accepts any reply: those kinds are
  refused. Others run only lists or sums; a reply that is neither scores 0 and never reaches them.

Some verifiers and generators take seconds and some iterate over sets of words: run it isolated.
"""

from __future__ import annotations

import difflib
import hashlib
import random
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields, replace
from typing import Any, get_args

from evolvent.environments.errors import BadOptionError, did_you_mean
from evolvent.environments.solo import SEAT, encodable, written
from evolvent.environments.splits import game_seed
from evolvent.environments.types import Action, Observation, Split, StepResult, Task

VERSION = 1
_RUNS_THE_REPLY = "its verifier runs the reply as Python"
REFUSED = {
    "codeio": "it runs code, and its questions are not part of the package",
    "composite": "it mixes other generators; take one of them",
    "game_of_life_halting": "its verifier accepts any reply",
    "intermediate_integration": _RUNS_THE_REPLY,
    "polynomial_multiplication": _RUNS_THE_REPLY,
    "simple_integration": _RUNS_THE_REPLY,
}
"""Kind → why it cannot be played."""
_SUM = re.compile(r"(?!.*\*\*)[\d\s.+\-*/()]*", re.DOTALL)
# Without dots and parentheses nothing can be called.
_LIST = re.compile(r"[\w\s,'\"\[\]]*")
_EVALUATED = dict.fromkeys(("countdown", "puzzle24"), _SUM) | dict.fromkeys(
    ("binary_matrix", "n_queens", "spiral_matrix", "string_insertion"), _LIST
)
"""Kinds whose verifier runs the reply as Python, and what it may hold there."""
_IN_VAIN = 1000
"""Draws in a row that gave no new question: the kind has no more."""
_LONGEST_REPLY = 4000
_TAGGED = re.compile(r"<answer>\s*(.*?)\s*</answer>", re.IGNORECASE | re.DOTALL)
_ANNOUNCED = re.compile(r".*\banswer(?:\b[^\n.:]{0,80}?\sis\b|\s*:)\s*:?(.+)", re.IGNORECASE | re.DOTALL)
_NUMBER = re.compile(r"(?<![\w.])[+-]?\d[\d,]*(?:\.\d+)?(?!\w)")
_MARKS = "*`$ "
_SPLITS: tuple[Split, ...] = get_args(Split)


class ReasoningGym:
    players = (SEAT,)
    instructions = "You are a calculator and a puzzle solver. You answer with the result alone."
    max_steps = 1

    def __init__(self, *, task: str = "chain_sum", level: int = 0, **options: Any) -> None:
        """One kind of question; with the default options, sums and differences of two one-digit numbers.

        Args:
            task: name of a generator of Reasoning Gym.
            level: of the generator's curriculum, 0 the easiest; one without a curriculum has level 0 alone.
            options: fields of the generator's configuration (`min_terms`, `max_digits` …), over those of the level.

        Raises:
            BadOptionError: an unknown or refused generator, a level or option it does not have, or a value it refuses.
        """
        self._kind = task
        with _global_randomness_kept():
            self._config = _configured(task, level, options)
        self._entry: dict[str, Any] | None = None

    def tasks(self, split: Split, n: int, seed: int) -> list[Task]:
        """`n` different questions. The text of a question decides its split, so none stands in two.

        Raises:
            BadOptionError: the generator has fewer questions with these options.
        """
        tasks: dict[str, Task] = {}
        index = in_vain = 0
        gave_up = ""
        while len(tasks) < n and in_vain < _IN_VAIN:
            item = game_seed(f"reasoning_gym/{self._kind}", split, seed, index)
            index += 1
            in_vain += 1
            try:
                entry = self._generated(item)
            except Exception as error:  # noqa: BLE001 (generators give up on some seeds, each in its own way)
                gave_up = f" Its last failure: {type(error).__name__}: {error}."
                continue
            question = entry["question"]
            if _split_of(question) == split and question not in tasks:
                data = {"seed": item, "answer": entry["answer"]}
                name = f"{self._kind}/{split}/{_digest(question).hex()[:12]}"
                tasks[question] = Task(name, question, "reasoning_gym", data, (self._kind,))
                in_vain = 0
        if len(tasks) < n:
            raise BadOptionError(
                f"reasoning_gym: {self._kind} has {len(tasks)} {split} questions with these options, not {n}. "
                f"Ask for fewer, or widen it: {', '.join(_options(self._config))}.{gave_up}"
            )
        return list(tasks.values())

    def reset(self, task: Task, seed: int) -> tuple[Observation, ...]:
        """Generate the task's question again; the task alone decides it, whatever `seed` is."""
        self._entry = self._generated(task.data["seed"])
        return (Observation(SEAT, "Answer:"),)

    def step(self, actions: Mapping[str, Action]) -> StepResult:
        if self._entry is None:
            raise RuntimeError("reset comes before step")
        answer = answer_in(written(actions)[:_LONGEST_REPLY], self._entry["answer"])
        score = self._score(answer)
        if not answer:
            told = "There was no answer. Write it as the last line, or as <answer>…</answer>."
        else:
            told = "That is right." if score == 1.0 else f"That is not right: the score is {score:.2f}."
        end = Observation(SEAT, told, None, must_act=False)
        return StepResult((end,), {SEAT: score}, True, {"success": score == 1.0, "answer": answer})

    def expert(self, task: Task) -> list[str]:
        """The stated answer.

        Raises:
            BadOptionError: the generator states none, because many are right.
        """
        if task.data["answer"] is None:
            raise BadOptionError(f"reasoning_gym: {self._kind} states no answer, only a rule that judges one.")
        return [task.data["answer"]]

    def close(self) -> None:
        self._entry = None

    def _generated(self, item: int) -> dict[str, Any]:
        from reasoning_gym.factory import DATASETS

        with _global_randomness_kept(item):
            entry: dict[str, Any] = DATASETS[self._kind][0](config=replace(self._config, seed=item, size=1))[0]
        return entry

    def _score(self, answer: str) -> float:
        from reasoning_gym.factory import DATASETS

        allowed = _EVALUATED.get(self._kind)
        if not answer or (allowed is not None and not allowed.fullmatch(answer)):
            return 0.0
        judge = DATASETS[self._kind][0](config=replace(self._config, seed=0, size=1))
        try:
            return min(1.0, max(0.0, float(judge.score_answer(answer, self._entry))))
        except Exception:  # noqa: BLE001 (verifiers raise whatever a malformed reply leads them to; such a reply is wrong)
            return 0.0


def answer_in(reply: str, stated: str | None) -> str:
    """The answer a reply ends in: what stands in its last <answer> tag, else behind "answer is", else its last line.

    `stated` lends its form and not its value. Where it is a number, that line's only number, or the one behind its
    last `=`, is the answer; where it has several lines, or there is none, so may the reply. Bold signs, code marks and
    a final full stop are left out.
    """
    tagged = _TAGGED.findall(reply)
    announced = _ANNOUNCED.match(reply)
    text = (tagged[-1] if tagged else announced[1] if announced else reply).strip().strip("`").strip()
    if not text or stated is None or "\n" in stated.strip():
        return str(text)
    lines = [line for line in text.splitlines() if line.strip()]
    line = (lines[0] if announced else lines[-1]).strip(_MARKS).removesuffix(".").strip(_MARKS)
    if _NUMBER.fullmatch(stated):
        numbers = _NUMBER.findall(line.rpartition("=")[2])
        return numbers[0] if len(numbers) == 1 else line
    return line


def _configured(kind: str, level: int, options: Mapping[str, Any]) -> Any:
    """The generator's own configuration, checked by the generator."""
    from reasoning_gym.factory import CURRICULA, DATASETS, create_curriculum

    if kind in REFUSED:
        raise BadOptionError(f"reasoning_gym: task {kind!r} is not played here: {REFUSED[kind]}.")
    if kind not in DATASETS:
        near = difflib.get_close_matches(str(kind), DATASETS, n=3)
        hint = f"Did you mean {' or '.join(map(repr, near))}?" if near else "For example 'chain_sum' or 'gcd'."
        count = len(DATASETS) - len(REFUSED)
        raise BadOptionError(f"reasoning_gym: task is one of {count} generators, not {kind!r}. {hint}")
    curriculum = create_curriculum(kind) if kind in CURRICULA else None
    levels = max(len(each.levels) for each in curriculum.attributes.values()) if curriculum else 1
    if not isinstance(level, int) or not 0 <= level < levels:
        raise BadOptionError(f"reasoning_gym: level of {kind} is a whole number from 0 to {levels - 1}, not {level!r}.")
    if curriculum is None:
        config = DATASETS[kind][1]()
    else:
        curriculum.set_global_level(level)
        config = curriculum.generate_configuration()
    _check_names(kind, options, _options(config))
    try:
        config = replace(config, seed=0, size=1, **options)
        if hasattr(config, "validate"):
            config.validate()
    except (AssertionError, TypeError, ValueError) as error:
        raise BadOptionError(f"reasoning_gym: {kind} with {_given(level, options)}: {error}.") from error
    return config


def _given(level: int, options: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}={value!r}" for key, value in {"level": level, **options}.items())


def _check_names(kind: str, options: Mapping[str, Any], known: list[str]) -> None:
    for option in options:
        if option not in known:
            hint = did_you_mean(option, known)
            names = ", ".join(["task", "level", *known])
            raise BadOptionError(f"reasoning_gym: {kind} has no option {option!r}. Known: {names}.{hint}")


def _options(config: Any) -> list[str]:
    return [each.name for each in fields(config) if each.name not in ("seed", "size")]


def _split_of(question: str) -> Split:
    return _SPLITS[int.from_bytes(_digest(question)[:4]) % len(_SPLITS)]


def _digest(question: str) -> bytes:
    return hashlib.sha256(encodable(question).encode()).digest()


@contextmanager
def _global_randomness_kept(seed: int | None = None) -> Iterator[None]:
    """Put the global generators back as they were, and start them at `seed` meanwhile."""
    import numpy as np

    ours, numpys = random.getstate(), np.random.get_state()
    try:
        if seed is not None:
            random.seed(seed)
            np.random.seed(seed)
        yield
    finally:
        random.setstate(ours)
        np.random.set_state(numpys)
