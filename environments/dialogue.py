"""Turns of a long dialogue with invented people, each with a question about an earlier turn. One reply an episode.

The turn is all the agent is given: what was said before has to be remembered. Every question carries its true answer,
the answers that were right once, and the turns that hold it, so that recall, staleness and retrieval are checked
against the truth.
"""

from __future__ import annotations

import hashlib
import random
from collections import defaultdict
from collections.abc import Mapping
from itertools import chain, zip_longest
from typing import get_args

from evolvent.environments.dialogue_world import KINDS, NOT_TOLD, Asked, Kind, Turn, history
from evolvent.environments.errors import BadOptionError
from evolvent.environments.qa import exact_match, final_answer, token_f1
from evolvent.environments.solo import SEAT, written
from evolvent.environments.types import Action, Observation, Split, StepResult, Task

VERSION = 1
LONGEST = 100_000
"""Turns of a history."""
_MOST_PEOPLE = 1_000
_SPLITS: tuple[Split, ...] = get_args(Split)
_KNOWN_TO_ONE_UNKNOWN = 4
"""Held-out questions that were told, for one that was not: who never knows anything is right in a fifth at most."""


def speaker(task: Task) -> str:
    """Who speaks, and of whom the question is asked."""
    return str(task.data["speaker"])


def day_of(task: Task) -> int:
    """The day of the turn, from 1; of a held-out question the last day."""
    return int(task.data["day"])


def turn_id(task: Task) -> str:
    """`d2t5` for the fifth turn of the second day; empty for a held-out question, which is asked after all turns."""
    return f"d{day_of(task)}t{task.data['number']}" if task.data["number"] else ""


def holders(task: Task) -> tuple[str, ...]:
    """Ids of the turns from which the answer follows, in order; none where it was not told. Hidden: for judging."""
    return tuple(task.data["holders"])


class Dialogue:
    """People who talk to the agent day after day. The score is token F1 of the final answer, success an exact match.

    Training tasks are the turns of one day in their order, whatever the seed: zero or more statements and one question
    about an earlier turn, or about something not told, where `I do not know` is right and scores all or nothing.
    Validation and test tasks are questions alone, asked after the last day about any day; a question has wordings of
    its own for each split. Small talk may name things that only others were told.

    A task's tag is its speaker, `user:mara-lind`. Its hidden data hold the `answers` that count, the first one
    shortest, those that are `stale`, the `holders` (see `holders`), whether it is `known`, its `kind`
    (`changed`, `plain`, `count`, `before`, `day`, `unknown`), `speaker`, `day` and `number` in the day, from 1 (0
    for a held-out question). A step's info says with `stale` whether the answer was one that holds no more.

    Args:
        world: number that draws the people and what they say.
        day: the day whose turns are the training tasks, from 1.
        days: length of the history. A longer one begins as a shorter one does.
        turns: of a day, over all people: turn t is spoken by person (t − 1) modulo `characters`.
        characters: how many people speak; no more than `turns`.

    Raises:
        BadOptionError: a number out of range.
    """

    players = (SEAT,)
    instructions = (
        "People talk to you day after day. Answer the question at the end, by what that person told you earlier; the "
        "latest word counts. If it was never told, the answer is: I do not know. The last line is: The answer is X."
    )
    max_steps = 1

    def __init__(self, *, world: int = 0, day: int = 1, days: int = 2, turns: int = 12, characters: int = 3) -> None:
        _check("days", days, LONGEST)
        _check("day", day, days)
        _check("turns", turns, LONGEST)
        _check("characters", characters, _MOST_PEOPLE)
        if days * turns > LONGEST:
            raise BadOptionError(
                f"dialogue: {days} days of {turns} turns are {days * turns} turns, not {LONGEST} at most. "
                "Lower days or turns."
            )
        self._world, self._day, self._days, self._turns = world, day, days, turns
        self._people = min(characters, turns)
        self._playing: Task | None = None

    def tasks(self, split: Split, n: int, seed: int) -> list[Task]:
        """The day's first `n` turns, or `n` different questions about the whole history.

        The questions are of all kinds in turn, and none is asked in other words before all others are asked once.

        Raises:
            BadOptionError: there are fewer.
        """
        told = history(self._world, self._days, self._turns, self._people)
        if split == "train":
            if n > self._turns:
                raise BadOptionError(
                    f"dialogue: a day has {self._turns} turns, which are its training tasks, not {n}. "
                    f"Ask for fewer or set turns={n}."
                )
            return [self._spoken(turn) for turn in told.days[self._day - 1][:n]]
        rng = random.Random(f"dialogue/{self._world}/{split}/{seed}")
        drawn: dict[Kind, list[list[tuple[str, Asked]]]] = defaultdict(list)
        for name, wordings in told.questions(_SPLITS.index(split)):
            drawn[wordings[0].kind].append([(name, asked) for asked in rng.sample(wordings, len(wordings))])
        for facts in drawn.values():
            rng.shuffle(facts)
        dealt = {kind: [each for again in zip(*drawn[kind], strict=True) for each in again] for kind in KINDS}
        known = sum(len(dealt[kind]) for kind in KINDS if kind != "unknown")
        dealt["unknown"] = dealt["unknown"][: known // _KNOWN_TO_ONE_UNKNOWN]
        questions = [each for each in chain.from_iterable(zip_longest(*dealt.values())) if each is not None]
        if n > len(questions):
            raise BadOptionError(
                f"dialogue: world {self._world} has {len(questions)} {split} questions after {self._days} days of "
                f"{self._turns} turns by {self._people} people, not {n}. Ask for fewer, or raise days, turns or "
                "characters."
            )
        return [self._asked(split, name, asked) for name, asked in questions[:n]]

    def reset(self, task: Task, seed: int) -> tuple[Observation, ...]:
        """Ask for the answer; the task alone decides the episode, whatever `seed` is."""
        self._playing = task
        return (Observation(SEAT, "Answer:"),)

    def step(self, actions: Mapping[str, Action]) -> StepResult:
        if self._playing is None:
            raise RuntimeError("reset comes before step")
        hidden, answer = self._playing.data, final_answer(written(actions))
        right = any(exact_match(answer, each) for each in hidden["answers"])
        stale = any(exact_match(answer, each) for each in hidden["stale"])
        # A word in common with "I do not know" is worth nothing.
        score = max(token_f1(answer, each) for each in hidden["answers"]) if hidden["known"] else float(right)
        told = f"{answer[:80]} is {'right' if right else 'not right'}." if answer else "There was no answer."
        end = Observation(SEAT, told, None, must_act=False)
        return StepResult((end,), {SEAT: score}, True, {"success": right, "stale": stale})

    def expert(self, task: Task) -> list[str]:
        """The answer."""
        return [f"The answer is {task.data['answers'][0]}." if task.data["known"] else f"{NOT_TOLD[0]}."]

    def close(self) -> None:
        self._playing = None

    def _spoken(self, turn: Turn) -> Task:
        said = " ".join((*turn.statements, turn.asked.text))
        prompt = f"{turn.speaker}, day {turn.day}: {said}"
        return self._task(turn.id, prompt, turn.speaker, turn.asked, turn.day, turn.number)

    def _asked(self, split: Split, name: str, asked: Asked) -> Task:
        prompt = f"{name}, after day {self._days}: {asked.text}"
        digest = hashlib.sha256(prompt.encode()).hexdigest()[:12]
        return self._task(f"{split}-{digest}", prompt, name, asked, self._days, 0)

    def _task(self, place: str, prompt: str, name: str, asked: Asked, day: int, number: int) -> Task:
        return Task(
            id=f"dialogue-w{self._world}-{self._turns}x{self._people}-{place}",
            prompt=prompt,
            environment="dialogue",
            data={
                "answers": list(asked.answers),
                "stale": list(asked.stale),
                "holders": list(asked.holders),
                "known": asked.kind != "unknown",
                "kind": asked.kind,
                "speaker": name,
                "day": day,
                "number": number,
            },
            tags=(f"user:{name.lower().replace(' ', '-')}",),
        )


def _check(name: str, value: int, most: int) -> None:
    if not isinstance(value, int) or not 1 <= value <= most:
        raise BadOptionError(f"dialogue: {name} is a whole number from 1 to {most}, not {value!r}.")
