"""Questions over a generated knowledge base that no model has read, and a search over it. One reply an episode.

The question is all the agent is given: whoever may look things up calls `search`. One-hop questions follow from one
passage, two-hop questions from two, of which the second is found by what the first says.
"""

from __future__ import annotations

import functools
import hashlib
import random
import re
import string
from collections import Counter
from collections.abc import Mapping
from typing import get_args

from evolvent.environments.bm25 import Bm25
from evolvent.environments.errors import BadOptionError
from evolvent.environments.invented_world import Evidence, Question, invented_world
from evolvent.environments.solo import SEAT, written
from evolvent.environments.types import Action, Observation, Split, StepResult, Task

VERSION = 1
_SPLITS: tuple[Split, ...] = get_args(Split)
_ANNOUNCED = re.compile(r"\banswer(?:\s+is\b|\s*:)\s*:?\s*(.*)", re.IGNORECASE)
_SENTENCE_END = re.compile(r"[.!?](?:\s|$)")
_ARTICLES = re.compile(r"\b(?:a|an|the)\b")
_PUNCTUATION = str.maketrans(dict.fromkeys(string.punctuation + "“”‘’", " "))


def search(where: Task | int, query: str, n: int = 3) -> tuple[Evidence, ...]:
    """At most `n` passages of a world's knowledge base for a query, best first (BM25 over title and text).

    Deterministic and local. Empty where no passage shares a word with the query.

    Args:
        where: a task, whose world is searched, or the number of a world.
    """
    world = where if isinstance(where, int) else int(where.data["world"])
    passages = invented_world(world).passages
    return tuple(passages[at] for at in _index(world).search(query, n))


def final_answer(reply: str) -> str:
    """What a reply gives as its answer: what stands behind the last "answer is" or "Answer:", else its last line.

    To the end of that sentence, without quotes around it; empty when there is none.
    """
    announced = [found[1] for found in _ANNOUNCED.finditer(reply) if found[1].strip()]
    lines = [line for line in reply.splitlines() if line.strip()]
    answer = announced[-1] if announced else (lines[-1] if lines else "")
    return _SENTENCE_END.split(answer)[0].strip(" \t.*_`\"'“”")


def normal(answer: str) -> str:
    """What is compared, as SQuAD does (arXiv 1606.05250): lower case without punctuation and articles."""
    return " ".join(_ARTICLES.sub(" ", answer.lower().translate(_PUNCTUATION)).split())


def exact_match(answer: str, reference: str) -> bool:
    return normal(answer) == normal(reference)


def token_f1(answer: str, reference: str) -> float:
    """Harmonic mean of the precision and recall of an answer's normalised words, in [0, 1]."""
    given, wanted = Counter(normal(answer).split()), Counter(normal(reference).split())
    shared = (given & wanted).total()
    return 2 * shared / (given.total() + wanted.total()) if shared else 0.0


class QA:
    """Questions in free text. The score is the token F1 of the reply's final answer, success is an exact match.

    A task's hidden data hold the `answers` that count, the first one shortest, the `world`, the `hops` and the
    `support`: titles of the passages from which the answer follows.

    Args:
        world: number that draws the knowledge base.
        hops: 1 or 2; 0 for both kinds, as many of each.
        about: questions follow from so many passages of the world, from 1 to 310: the fewer, the more often one
            question tells something of another.
        evidence: a training task comes with the passages from which it follows, to be read and remembered; held-out
            questions, which ask for other facts of the same passages, come without.

    Raises:
        BadOptionError: another number of hops, or of passages.
    """

    players = (SEAT,)
    instructions = "You answer questions with a name, a number or a few words. The last line is: The answer is X."
    max_steps = 1

    def __init__(self, *, world: int = 0, hops: int = 0, about: int = 310, evidence: bool = False) -> None:
        if hops not in (0, 1, 2):
            raise BadOptionError(f"qa: hops is 1, 2, or 0 for both, not {hops!r}.")
        passages = invented_world(world).passages
        if not isinstance(about, int) or not 1 <= about <= len(passages):
            raise BadOptionError(f"qa: about is a whole number of passages from 1 to {len(passages)}, not {about!r}.")
        self._world, self._hops, self._evidence = world, (hops,) if hops else (1, 2), evidence
        self._about = {passage.title: passage.text for passage in passages[:about]}
        self._playing: Task | None = None

    def tasks(self, split: Split, n: int, seed: int) -> list[Task]:
        """`n` different questions; what decides a question's split is its text.

        Raises:
            BadOptionError: the world has fewer.
        """
        rng = random.Random(f"qa/{self._world}/{self._hops}/{split}/{seed}")
        every = [_questions(self._world, hops, split) for hops in self._hops]
        kinds = [[question for question in kind if self._about.keys() >= set(question.support)] for kind in every]
        dealt = [rng.sample(kind, len(kind)) for kind in kinds]
        least = min(map(len, dealt)) * len(dealt)
        if n > least:
            raise BadOptionError(f"qa: world {self._world} has {least} {split} questions, not {n}. Ask for fewer.")
        return [self._task(split, question) for turn in zip(*dealt, strict=False) for question in turn][:n]

    def reset(self, task: Task, seed: int) -> tuple[Observation, ...]:
        """Ask for the answer; the task alone decides the episode, whatever `seed` is."""
        self._playing = task
        return (Observation(SEAT, "Answer:"),)

    def step(self, actions: Mapping[str, Action]) -> StepResult:
        if self._playing is None:
            raise RuntimeError("reset comes before step")
        answer, answers = final_answer(written(actions)), self._playing.data["answers"]
        right = any(exact_match(answer, each) for each in answers)
        score = max(token_f1(answer, each) for each in answers)
        told = f"{answer[:80]} is {'right' if right else 'not right'}." if answer else "There was no answer."
        end = Observation(SEAT, told, None, must_act=False)
        return StepResult((end,), {SEAT: score}, True, {"success": right})

    def expert(self, task: Task) -> list[str]:
        """The answer."""
        return [f"The answer is {task.data['answers'][0]}."]

    def close(self) -> None:
        self._playing = None

    def _task(self, split: Split, question: Question) -> Task:
        digest = hashlib.sha256(question.text.encode()).hexdigest()[:12]
        read = [self._about[title] for title in question.support] if self._evidence and split == "train" else []
        return Task(
            id=f"qa-w{self._world}-{split}-{digest}{'-read' if read else ''}",
            prompt="\n".join([*read, question.text]),
            environment="qa",
            data={
                "answers": list(question.answers),
                "world": self._world,
                "hops": question.hops,
                "support": list(question.support),
            },
            tags=(f"{question.hops}-hop",),
        )


@functools.lru_cache(maxsize=16)
def _index(world: int) -> Bm25:
    return Bm25([f"{passage.title} {passage.text}" for passage in invented_world(world).passages])


def _questions(world: int, hops: int, split: Split) -> list[Question]:
    return [
        question
        for question in invented_world(world).questions
        if question.hops == hops and _SPLITS[hashlib.sha256(question.text.encode()).digest()[0] % 3] == split
    ]
