"""Story: a proposal is answered by a storyboard, judged by a checklist (after AesopAgent, arXiv 2403.07952).

The checklist and its expert are `storyboard.comments`; the simulated utilities with their planted faults, which a
recipe runs to make a storyboard, are in `story_pipeline`.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import get_args

from evolvent.environments.errors import MalformedStoryboardError
from evolvent.environments.solo import SEAT, written
from evolvent.environments.splits import game_seed
from evolvent.environments.story_pipeline import best_settings, produce
from evolvent.environments.storyboard import (
    LOOKS,
    Figure,
    Genre,
    comments,
    parse_storyboard,
    proposal,
    write_storyboard,
)
from evolvent.environments.types import Action, Observation, Split, StepResult, Task

VERSION = 1
NAMES = (
    "Mira", "Tom", "Ines", "Olaf", "Rhea", "Emil", "Nuri", "Vida", "Karl", "Suna", "Piet", "Alma",
    "Joss", "Lore", "Enzo", "Hana", "Bram", "Tess",
)  # fmt: skip
PLACES = (
    "harbour", "market", "mill", "tower", "garden", "bakery", "station", "bridge", "attic", "forest", "library",
    "quarry",
)  # fmt: skip
_VALUES: Mapping[str, tuple[str, ...]] = {
    "hair": ("red", "black", "white", "brown", "fair"),
    "coat": ("green", "blue", "yellow", "grey", "white"),
    "age": ("child", "young", "old"),
}


class Story:
    """One reply an episode: the storyboard, as JSON. The score is the share of the ten checks that it passes.

    Success is all of them. A task's hidden data are its proposal (see `storyboard.proposal`), which its prompt tells in
    words. The casts of two splits have no name in common.
    """

    players = (SEAT,)
    max_steps = 1
    instructions = (
        "You make films. Answer a proposal with a storyboard in JSON, like "
        '{"shots": [{"place": "mill", "camera": "wide", "style": "ink", "seconds": 3, '
        '"characters": [{"name": "Ada", "hair": "red", "coat": "blue", "age": "old"}], "narration": "Words."}]}. '
        "The camera is wide, medium or close."
    )

    def __init__(self) -> None:
        self._playing: Task | None = None

    def tasks(self, split: Split, n: int, seed: int) -> list[Task]:
        dealt: dict[str, Task] = {}
        index = 0
        while len(dealt) < n:
            task = _task(split, game_seed("story", split, seed, index))
            dealt.setdefault(task.id, task)
            index += 1
        return list(dealt.values())

    def reset(self, task: Task, seed: int) -> tuple[Observation, ...]:
        """Ask for the storyboard; the task alone decides the episode, whatever `seed` is."""
        self._playing = task
        return (Observation(SEAT, "The storyboard:"),)

    def step(self, actions: Mapping[str, Action]) -> StepResult:
        if self._playing is None:
            raise RuntimeError("reset comes before step")
        try:
            board = parse_storyboard(written(actions))
        except MalformedStoryboardError as error:
            return _ended(str(error), 0.0)
        said = comments(self._playing, board)
        faults = [f"{each.step}, {each.aspect}: {each.text}" for each in said if each.score < 1]
        return _ended("\n".join(faults) or "All is right.", 1 - len(faults) / len(said))

    def expert(self, task: Task) -> list[str]:
        """What the pipeline makes with the best settings."""
        wanted = proposal(task)
        return [write_storyboard(produce(wanted, best_settings(wanted)))]

    def close(self) -> None:
        self._playing = None


def _ended(told: str, score: float) -> StepResult:
    end = Observation(SEAT, told, None, must_act=False)
    return StepResult((end,), {SEAT: score}, True, {"success": score == 1})


def _task(split: Split, key: int) -> Task:
    rng = random.Random(f"story/{key}")
    genre = rng.choice(get_args(Genre))
    shortest = rng.choice((40, 50, 60))
    places = rng.sample(PLACES, rng.choice((3, 4)))
    # Names are split three ways, so no task can stand in two splits.
    names = rng.sample(NAMES[get_args(Split).index(split) :: 3], rng.choice((2, 3)))
    cast = [Figure(name, {look: rng.choice(_VALUES[look]) for look in LOOKS}) for name in names]
    sheets = (
        f"{figure.name} ({', '.join(f'{look} {value}' for look, value in figure.looks.items())})" for figure in cast
    )
    article = "An" if genre == "action" else "A"
    return Task(
        id=f"story-{split}-{key}",
        prompt=(
            f"{article} {genre} story of {shortest} to {shortest + 10} seconds. Places, in order: {', '.join(places)}. "
            f"Characters: {', '.join(sheets)}."
        ),
        environment="story",
        data={
            "genre": genre,
            "shortest": shortest,
            "longest": shortest + 10,
            "places": places,
            "cast": [{"name": figure.name, **figure.looks} for figure in cast],
        },
        tags=(genre,),
    )
