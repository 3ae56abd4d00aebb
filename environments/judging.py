"""Two answers to one question, of which it is known which is better; or the questions themselves, in two turns.

Pairs are for judges: a good answer stands beside one that was made worse in a known way, or worded anew, so a judge's
agreement, position bias and verbosity bias are measured against the truth, as MT-Bench (arXiv 2306.05685) measures them
against people. Questions are for the model that is judged. Both come in MT-Bench's eight categories.

MT-Bench's own questions (`source="mt-bench"`) are for evaluation only. They are held-out tasks and nothing else, so no
recipe, gate, memory or training set can meet them, and carry the tag `evaluation-only`.
"""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any, Literal, cast, get_args

from evolvent.environments.errors import BadOptionError
from evolvent.environments.fanoutqa import stated
from evolvent.environments.judged_questions import (
    CATEGORIES,
    FLAWS,
    SPOILINGS,
    WITH_REFERENCE,
    Category,
    Flaw,
    Question,
    good_answer,
    questions,
    reference,
    spoilt,
    wrong_answer,
)
from evolvent.environments.mtbench import open_questions
from evolvent.environments.solo import SEAT, refusal, said, written
from evolvent.environments.types import EVALUATION_ONLY, Action, Observation, Split, StepResult, Task

VERSION = 1
Kind = Literal["pairs", "questions"]
Source = Literal["generated", "mt-bench"]
Padded = Literal["plain", "tie"]
Verdict = Literal["A", "B", "tie"]
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)
_FRAME = "The better answer is {action}."
_TOLD = re.compile(r"\bthe truth is (A|B|tie)\.$")
_SPLITS: tuple[Split, ...] = get_args(Split)
_NUMBER = re.compile(r"\d+")
_IN_VAIN = 5000
"""Draws in a row that gave no new question: there are no more."""


@dataclass(frozen=True, slots=True)
class Pair:
    """What a judge may be shown; nothing of the truth."""

    question: str
    """What both answers answer."""
    turns: tuple[str, ...]
    """Everything that the user of this question says, turn by turn; the first is the question."""
    answers: tuple[str, str]
    """A and B."""
    reference: str
    """A right answer, in mathematics, reasoning and coding; empty in other categories."""
    category: Category


def pair_of(task: Task) -> Pair:
    """The pair that a task is about.

    Raises:
        ValueError: the task is a question to be answered.
    """
    if "answers" not in task.data:
        raise ValueError(f"{task.id} is no pair of answers. Pairs are the tasks of judging with kind=pairs.")
    first, second = task.data["answers"]
    return Pair(task.prompt, tuple(task.data["turns"]), (first, second), task.data["reference"], task.data["category"])


def turns_of(task: Task) -> tuple[str, str]:
    """What the user says in both turns of a question; an agent may be shown it turn by turn."""
    first, second = task.data["turns"]
    return first, second


def category_of(task: Task) -> Category:
    """One of the eight, of a pair or a question."""
    return cast(Category, task.data["category"])


def flaw_of(task: Task) -> Flaw:
    """How the worse answer of a pair came about. For measuring: who judges is not told."""
    return cast(Flaw, next(tag for tag in task.tags if tag.startswith("flaw:")).removeprefix("flaw:"))


def deal_of(task: Task) -> str:
    """What both orders of one pair share, and no other task."""
    return next(tag for tag in task.tags if tag.startswith("deal:"))


def truth_told(answer: str) -> Verdict:
    """The truth, from what the environment answers to a verdict.

    Raises:
        ValueError: it does not tell.
    """
    found = _TOLD.search(answer)
    if found is None:
        raise ValueError(f"No verdict is told in {answer[:80]!r}.")
    return cast(Verdict, found[1])


class Judging:
    """Pairs of answers, one verdict each; or questions in two turns.

    Of a pair the verdict is A, B or tie, and the score is 1 where that is the truth. The two orders of a pair are
    neighbouring tasks with the tag `deal:…`, so a judge who prefers a place gains nothing by it. Deals come in all
    categories in turn, with all flaws in turn: a wrong number, name or day (`wrong`), another question's answer
    (`off-topic`), half of it (`truncated`), its list once more (`repeated`), empty words (`padded`), or only another
    wording (`none`), which is a tie.

    Of a question each turn is worth one half where the answer is right; success is both. Nobody but a judge can tell
    whether an open question of MT-Bench was answered well: those score 0 and their last info says `open`.

    Tags are `category:…`, `flaw:…` and `deal:…` of pairs, `evaluation-only` of MT-Bench's data.

    Args:
        kind: `pairs` or `questions`.
        source: `generated`, or `mt-bench`: 80 questions, of which 30 come with the answers that pairs are made of.
        padded: the truth of a pair of which one answer has more words and nothing more: the `plain` one or a `tie`.
        folder: the wheel with MT-Bench's data, or a folder with its files; empty takes the installed package.
        world: number that draws the generated questions.

    Raises:
        BadOptionError: another value.
        MissingPackageError: MT-Bench's data are asked for and not there.
    """

    players = (SEAT,)

    def __init__(
        self,
        *,
        kind: Kind = "pairs",
        source: Source = "generated",
        padded: Padded = "plain",
        folder: str = "",
        world: int = 0,
    ) -> None:
        for name, value, known in (
            ("kind", kind, get_args(Kind)),
            ("source", source, get_args(Source)),
            ("padded", padded, get_args(Padded)),
        ):
            if value not in known:
                raise BadOptionError(f"judging: {name} is one of {', '.join(known)}, not {value!r}.")
        self._open = open_questions(folder) if source == "mt-bench" else ()
        self._kind, self._source, self._padded, self._world = kind, source, padded, world
        if kind == "pairs":
            self.instructions = (
                "You judge answers. Two answers to one question are shown; say which is better, A or B, or tie. "
                "What counts is whether an answer is right, complete and to the point; its length and its place do not."
            )
            self.max_steps = 1
        else:
            self.instructions = (
                "You answer a user who asks you two things, one after the other. Say how you come to your answer, and "
                "end with it: The answer is X."
            )
            self.max_steps = 2
        self._task: Task | None = None
        self._given: list[bool] = []

    def tasks(self, split: Split, n: int, seed: int) -> list[Task]:
        """`n` different tasks; what decides a generated question's split is its text.

        An odd number ends with one order of a pair.

        Raises:
            BadOptionError: there are fewer, or another split than `test` is asked for where all data are held out.
        """
        if self._source == "mt-bench" and split != "test":
            raise BadOptionError(
                f"judging: MT-Bench's questions are for evaluation only, so there are no {split} tasks of them, only "
                "test tasks. Learn on source=generated."
            )
        rng = random.Random(f"judging/{self._world}/{self._kind}/{self._source}/{split}/{seed}")
        if self._source == "mt-bench":
            found = self._open_pairs(n, rng) if self._kind == "pairs" else self._open_tasks(n, rng)
        elif self._kind == "pairs":
            found = self._pairs(split, n, rng)
        else:
            found = [self._question(split, question) for question in _drawn(self._world, split, n, rng)]
        if len(found) < n:
            raise BadOptionError(f"judging: {self._source} has {len(found)} {split} {self._kind}, not {n}. Ask fewer.")
        return found[:n]

    def reset(self, task: Task, seed: int) -> tuple[Observation, ...]:
        """Show the answers, or ask; the task alone decides the episode, whatever `seed` is."""
        self._task, self._given = task, []
        if self._kind == "questions":
            return (Observation(SEAT, "Your answer:"),)
        first, second = task.data["answers"]
        text = f"Answer A:\n{first}\n\nAnswer B:\n{second}\n\nWhich answer is better, A or B? Say tie if none is."
        return (Observation(SEAT, text, VERDICTS, frame=_FRAME),)

    def step(self, actions: Mapping[str, Action]) -> StepResult:
        if self._task is None:
            raise RuntimeError("reset comes before step")
        if self._kind == "pairs":
            return self._judged(self._task, said(actions))
        return self._answered(self._task, written(actions))

    def expert(self, task: Task) -> list[str]:
        """The truth; or good answers, where any are known."""
        return [task.data["truth"]] if "truth" in task.data else list(task.data["good"])

    def close(self) -> None:
        self._task = None

    def _judged(self, task: Task, text: str) -> StepResult:
        named = {each.lower(): each for each in VERDICTS}
        named |= {_FRAME.format(action=each).lower().rstrip("."): each for each in VERDICTS}
        verdict, truth = named.get(text), task.data["truth"]
        told = f"{'Right' if verdict == truth else 'Wrong'}: the truth is {truth}."
        if verdict is None:
            told = f"{refusal(text, VERDICTS)} And the truth is {truth}."
        end = Observation(SEAT, told, (), must_act=False)
        return StepResult((end,), {SEAT: float(verdict == truth)}, True, {"success": verdict == truth})

    def _answered(self, task: Task, reply: str) -> StepResult:
        turn, checks = len(self._given), task.data["checks"]
        right = bool(checks) and _is_right(reply, checks[turn])
        self._given.append(right)
        rewards = {SEAT: 0.5 if right else 0.0}
        if turn == 0:
            return StepResult((Observation(SEAT, task.data["turns"][1]),), rewards, False)
        told = f"{sum(self._given)} of 2 answers are right." if checks else "Only a judge can tell how good that was."
        end = Observation(SEAT, told, None, must_act=False)
        info = {"success": all(self._given)} | ({} if checks else {"open": True})
        return StepResult((end,), rewards, True, info)

    def _pairs(self, split: Split, n: int, rng: random.Random) -> list[Task]:
        dealt: list[Task] = []
        for number, question in enumerate(_drawn(self._world, split, (n + 1) // 2, rng)):
            turn = question.turns[0]
            flaw = FLAWS[(number % len(CATEGORIES) + number // len(CATEGORIES)) % len(FLAWS)]
            good = good_answer(turn)
            match flaw:
                case "wrong":
                    second = wrong_answer(turn)
                case "none":
                    second = good_answer(turn, style=1)
                case _:
                    other = rng.choice([each for each in CATEGORIES if each != question.category])
                    elsewhere = next(questions(other, rng)).turns[0]
                    second = spoilt(good, flaw, rng, good_answer(elsewhere))
            told = reference(turn) if question.category in WITH_REFERENCE else ""
            turns = (turn.question, question.turns[1].question)
            dealt += self._deal(split, question.category, turns, flaw, (good, second), told, rng)
        return dealt

    def _open_pairs(self, n: int, rng: random.Random) -> list[Task]:
        """Of the answers that come with the questions: the more reliable one, spoilt; the other is the reference.

        Nothing is made wrong in them: who says that it was right?
        """
        dealt: list[Task] = []
        known = [question for question in self._open if len(question.answers) > 1]
        drawn = rng.sample(known, len(known))
        for number, question in enumerate(drawn[: (n + 1) // 2]):
            (good, _), (told, _) = question.answers
            flaw = SPOILINGS[number % len(SPOILINGS)]
            second = spoilt(good, flaw, rng, drawn[number - 1].answers[0][0])
            dealt += self._deal("test", question.category, question.turns, flaw, (good, second), told, rng)
        return dealt

    def _deal(
        self,
        split: Split,
        category: Category,
        turns: tuple[str, str],
        flaw: Flaw,
        answers: tuple[str, str],
        told: str,
        rng: random.Random,
    ) -> Iterator[Task]:
        """Both orders of a pair, the good answer's place in the first one drawn."""
        tie = flaw == "none" or (flaw == "padded" and self._padded == "tie")
        name = f"{self._id(split)}-{_digest(*answers)}"
        for good_first in rng.choice(((True, False), (False, True))):
            truth: Verdict = "tie" if tie else "A" if good_first else "B"
            data = {
                "turns": list(turns),
                "answers": list(answers if good_first else answers[::-1]),
                "reference": told,
                "category": category,
                "truth": truth,
            }
            tags = (f"category:{category}", f"flaw:{flaw}", f"deal:{name}")
            order = "good-first" if good_first else "good-last"
            yield self._task_of(f"{name}-{_digest(order)[:4]}", turns[0], data, tags)

    def _question(self, split: Split, question: Question) -> Task:
        turns = [each.question for each in question.turns]
        data = {
            "turns": turns,
            "checks": [{"result": each.result, "barred": list(each.barred)} for each in question.turns],
            "good": [good_answer(each) for each in question.turns],
            "category": question.category,
        }
        return self._task_of(f"{self._id(split)}-{_digest(*turns)}", turns[0], data, (f"category:{question.category}",))

    def _open_tasks(self, n: int, rng: random.Random) -> list[Task]:
        """All categories in turn."""
        by_category = [[each for each in self._open if each.category == name] for name in CATEGORIES]
        queues = [rng.sample(found, len(found)) for found in by_category]
        drawn = [each for turn in zip_longest(*queues) for each in turn if each is not None]
        return [
            self._task_of(
                f"{self._id('test')}-{each.number}",
                each.turns[0],
                {"turns": list(each.turns), "checks": [], "good": [], "category": each.category},
                (f"category:{each.category}",),
            )
            for each in drawn
        ]

    def _id(self, split: Split) -> str:
        place = "mt-bench" if self._source == "mt-bench" else f"w{self._world}"
        return f"judging-{place}-{self._kind}-{split}"

    def _task_of(self, name: str, prompt: str, data: dict[str, Any], tags: tuple[str, ...]) -> Task:
        marked = (*tags, EVALUATION_ONLY) if self._source == "mt-bench" else tags
        return Task(id=name, prompt=prompt, environment="judging", data=data, tags=marked)


def _drawn(world: int, split: Split, n: int, rng: random.Random) -> list[Question]:
    """`n` different questions of a split, all categories in turn, beginning anywhere."""
    streams = {name: questions(name, random.Random(f"{rng.random()}/{world}")) for name in CATEGORIES}
    start = rng.randrange(len(CATEGORIES))
    found: dict[str, Question] = {}
    in_vain = 0
    while len(found) < n and in_vain < _IN_VAIN:
        question = next(streams[CATEGORIES[(start + len(found)) % len(CATEGORIES)]])
        text = question.turns[0].question
        digest = hashlib.sha256(text.encode()).digest()
        fits = _SPLITS[digest[0] % len(_SPLITS)] == split and text not in found
        in_vain = 0 if fits else in_vain + 1
        if fits:
            found[text] = question
    return list(found.values())


def _is_right(reply: str, check: Mapping[str, Any]) -> bool:
    """Whether what a reply gives as its answer holds the result and nothing that is barred.

    Of numbers the last one counts, so that listing many of them is no answer.
    """
    given, result = stated(reply), str(check["result"])
    if result.isdigit():
        return _NUMBER.findall(given.replace(",", ""))[-1:] == [result]
    return _has(given, result) and not any(_has(given, each) for each in check["barred"])


def _has(text: str, words: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(words)}(?!\w)", text, re.IGNORECASE) is not None


def _digest(*texts: str) -> str:
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:12]
