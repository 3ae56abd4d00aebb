"""Storyboards: how a proposal and a storyboard look, how one is read, and what a rule-based expert says of it.

The expert goes through ten aspects and sees nothing but the proposal and the storyboard. It names symptoms and what to
care for in plain words, never a limit: how long a shot may last is told by `story_pipeline.knowledge` alone.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from evolvent.environments.errors import MalformedStoryboardError
from evolvent.environments.types import Task

Step = Literal["script", "shots", "images", "narration", "assembly"]
STEPS: tuple[Step, ...] = get_args(Step)
"""Of the pipeline, in their usual order."""
Genre = Literal["action", "comedy", "drama"]
LONGEST_SHOT: Mapping[Genre, int] = {"action": 4, "comedy": 6, "drama": 8}
"""Seconds."""
WORDS_PER_SECOND = 3
"""Of narration, at most."""
LOOKS = ("hair", "coat", "age")
"""The attributes on a reference sheet."""
MOST_SHOTS = 200
_TRAILING = re.compile(r'("(?:[^"\\]|\\.)*")|,(?=\s*[\]}])')
"""A comma before a closing bracket; strings are matched first, so that commas within them stay."""
_FAULTS_TOLD = 2
_PROMPT = re.compile(
    rf"An? ({'|'.join(get_args(Genre))}) story of (\d+) to (\d+) seconds\. Places, in order: (.+?)\. Characters: (.+)\."
)
_SHEET = re.compile(r"(\w+) \(([^)]*)\)")


@dataclass(frozen=True, slots=True)
class Figure:
    """A character in a shot, or on a reference sheet."""

    name: str
    looks: Mapping[str, str]
    """Attribute → value."""


@dataclass(frozen=True, slots=True)
class Shot:
    place: str
    figures: tuple[Figure, ...] = ()
    style: str = ""
    camera: str = ""
    """`wide` is an establishing shot; `medium` and `close` are others."""
    seconds: float = 0.0
    narration: str = ""


Storyboard = tuple[Shot, ...]


@dataclass(frozen=True, slots=True)
class Proposal:
    genre: Genre
    shortest: int
    """Seconds of the whole film, at least."""
    longest: int
    """Seconds of the whole film, at most."""
    places: tuple[str, ...]
    """In the order of the story."""
    cast: tuple[Figure, ...]
    """Each with its reference sheet."""


@dataclass(frozen=True, slots=True)
class Comment:
    step: Step
    """The step of the pipeline that is to blame, or to praise."""
    aspect: str
    score: float
    """Share of what there was to judge that is right, in [0, 1]; below 1 is a violation."""
    text: str


def proposal(task: Task) -> Proposal:
    """What the task's prompt says, as a value."""
    data = task.data
    cast = tuple(Figure(each["name"], {look: each[look] for look in LOOKS}) for each in data["cast"])
    return Proposal(data["genre"], data["shortest"], data["longest"], tuple(data["places"]), cast)


def proposal_in(prompt: str) -> Proposal:
    """The same, read from the words of the prompt: for who has nothing else.

    Raises:
        ValueError: they are no proposal's.
    """
    found = _PROMPT.fullmatch(prompt.strip())
    if found is None:
        raise ValueError(f"{prompt[:80]!r} is no prompt of the environment `story`, which alone tells a proposal.")
    genre, shortest, longest, places, sheets = found.groups()
    figures = tuple(
        Figure(name, {look: value for look, _, value in (each.partition(" ") for each in looks.split(", "))})
        for name, looks in _SHEET.findall(sheets)
    )
    return Proposal(cast("Genre", genre), int(shortest), int(longest), tuple(places.split(", ")), figures)


# -- reading and writing -----------------------------------------------------------------------------------------------


class _Shot(BaseModel):
    """A shot as a reply writes it. What else a model adds is passed over: it is a remark, and no fault of the film."""

    model_config = ConfigDict(frozen=True, extra="ignore", coerce_numbers_to_str=True)
    place: str
    seconds: float = Field(gt=0, le=3600, allow_inf_nan=False)
    characters: tuple[dict[str, str], ...] = ()
    style: str = ""
    camera: str = ""
    narration: str = ""


def parse_storyboard(text: str) -> Storyboard:
    """The storyboard in a reply: JSON with `shots`, or a list of shots, with or without words and a fence round it.

    Trailing commas and unknown fields are passed over. A shot needs its place and seconds; what else is missing is
    empty, and judged so.

    Raises:
        MalformedStoryboardError: there is none; says what is wrong where.
    """
    start = min((at for at in map(text.find, "{[") if at >= 0), default=-1)
    end = max(text.rfind("}"), text.rfind("]"))
    if start < 0 or end < start:
        raise MalformedStoryboardError('A storyboard is JSON, like {"shots": […]}; there is none in the reply.')
    try:
        found = json.loads(_TRAILING.sub(r"\1", text[start : end + 1]), parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise MalformedStoryboardError(f"The storyboard is no JSON that can be read: {str(error)[:120]}.") from error
    shots: Any = found.get("shots") if isinstance(found, dict) else found
    if not isinstance(shots, list) or len(shots) > MOST_SHOTS:
        raise MalformedStoryboardError(f'A storyboard holds "shots", a list of at most {MOST_SHOTS}.')
    return tuple(_shot(number, shot) for number, shot in enumerate(shots, 1))


def write_storyboard(board: Storyboard) -> str:
    """JSON that `parse_storyboard` gives back, a shot a line."""
    shots = [
        {
            "place": shot.place,
            "camera": shot.camera,
            "style": shot.style,
            "seconds": shot.seconds,
            "characters": [{"name": figure.name, **figure.looks} for figure in shot.figures],
            "narration": shot.narration,
        }
        for shot in board
    ]
    return '{"shots": [\n' + ",\n".join(json.dumps(shot, ensure_ascii=False) for shot in shots) + "\n]}"


def _shot(number: int, found: Any) -> Shot:
    try:
        shot = _Shot.model_validate(found)
    except ValidationError as error:
        fault = error.errors()[0]
        where = ".".join(["shot", str(number), *map(str, fault["loc"])])
        raise MalformedStoryboardError(f"{where[:80]}: {fault['msg']}.") from error
    figures = tuple(
        Figure(each.get("name", ""), {look: value for look, value in each.items() if look != "name"})
        for each in shot.characters
    )
    return Shot(shot.place, figures, shot.style, shot.camera, shot.seconds, shot.narration)


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is no number of seconds")


# -- the expert --------------------------------------------------------------------------------------------------------

_Faults = Sequence[str]
"""What there was to judge: a fault in words each, empty where it is right."""


def comments(task: Task, board: Storyboard) -> tuple[Comment, ...]:
    """One comment on each aspect of the checklist, in the pipeline's order; praise has score 1.

    Where there is nothing to judge, the score is 0.
    """
    return tuple(
        _comment(step, aspect, check(proposal(task), board), advice) for step, aspect, check, advice in _CHECKLIST
    )


def _comment(step: Step, aspect: str, faults: _Faults, advice: str) -> Comment:
    found = [fault for fault in faults if fault]
    if not faults:
        return Comment(step, aspect, 0.0, f"There is nothing to see of it. {advice}")
    if not found:
        return Comment(step, aspect, 1.0, "This is right.")
    left = len(found) - _FAULTS_TOLD
    more = f" And {left} more." if left > 0 else ""
    text = f"{' '.join(found[:_FAULTS_TOLD])}{more} {advice}"
    return Comment(step, aspect, 1 - len(found) / len(faults), text)


def _cast(wanted: Proposal, board: Storyboard) -> _Faults:
    seen = {_plain(figure.name) for shot in board for figure in shot.figures}
    return [f"{each.name} never appears." if _plain(each.name) not in seen else "" for each in wanted.cast]


def _places(wanted: Proposal, board: Storyboard) -> _Faults:
    seen = {_plain(shot.place): shot.place for shot in board}
    missing = [f"The {place} is never seen." if _plain(place) not in seen else "" for place in wanted.places]
    known = set(map(_plain, wanted.places))
    return [*missing, *(f"{place[:40]!r} is not in the proposal." for key, place in seen.items() if key not in known)]


def _length(wanted: Proposal, board: Storyboard) -> _Faults:
    if not board:
        return []
    total = sum(shot.seconds for shot in board)
    told = f"The film lasts {total:g} seconds instead of {wanted.shortest} to {wanted.longest}."
    return ["" if wanted.shortest <= total <= wanted.longest else told]


def _pace(wanted: Proposal, board: Storyboard) -> _Faults:
    limit = LONGEST_SHOT[wanted.genre]
    return [
        f"Shot {number} lasts {shot.seconds:g} seconds and drags for {wanted.genre}." if shot.seconds > limit else ""
        for number, shot in enumerate(board, 1)
    ]


def _establishing(wanted: Proposal, board: Storyboard) -> _Faults:
    faults: dict[str, str] = {}
    for number, shot in enumerate(board, 1):
        wide = "wide" in shot.camera.casefold()
        faults.setdefault(_plain(shot.place), "" if wide else f"Shot {number} opens too near at a new place.")
    return list(faults.values())


def _likeness(wanted: Proposal, board: Storyboard) -> _Faults:
    sheets = {_plain(each.name): each for each in wanted.cast}
    return [
        _unlike(number, figure, sheets.get(_plain(figure.name)))
        for number, shot in enumerate(board, 1)
        for figure in shot.figures
    ]


def _unlike(number: int, drawn: Figure, sheet: Figure | None) -> str:
    if sheet is None:
        return f"In shot {number} there is {drawn.name[:40]!r}, whom the proposal does not know."
    for look, value in sheet.looks.items():
        shown = drawn.looks.get(look, "")
        if _plain(shown) != _plain(value):
            return f"In shot {number} {sheet.name}'s {look} is {shown[:40] or 'forgotten'}, not {value}."
    return ""


def _style(wanted: Proposal, board: Storyboard) -> _Faults:
    first = _plain(board[0].style) if board else ""
    return [
        f"Shot {number} is drawn otherwise than the first." if not first or _plain(shot.style) != first else ""
        for number, shot in enumerate(board, 1)
    ]


def _spoken(wanted: Proposal, board: Storyboard) -> _Faults:
    return ["" if shot.narration.strip() else f"Shot {number} is silent." for number, shot in enumerate(board, 1)]


def _speed(wanted: Proposal, board: Storyboard) -> _Faults:
    return [
        f"Shot {number} is spoken too fast." if len(shot.narration.split()) > WORDS_PER_SECOND * shot.seconds else ""
        for number, shot in enumerate(board, 1)
        if shot.narration.strip()
    ]


def _order(wanted: Proposal, board: Storyboard) -> _Faults:
    ranks = {_plain(place): rank for rank, place in enumerate(wanted.places)}
    seen = [ranks[place] for place in dict.fromkeys(_plain(shot.place) for shot in board) if place in ranks]
    if not seen:
        return []
    return ["The places come in another order than in the proposal." if seen != sorted(seen) else ""]


_CHECKLIST: tuple[tuple[Step, str, Callable[[Proposal, Storyboard], _Faults], str], ...] = (
    ("script", "cast", _cast, "Write a part for all of the cast."),
    ("script", "places", _places, "The script goes to all of the places, and to no other."),
    ("script", "length", _length, "Keep to the length of the proposal."),
    ("shots", "pace", _pace, "Say how many seconds the longest shot may last in this genre."),
    ("shots", "establishing", _establishing, "Begin each new place with an establishing shot."),
    ("images", "likeness", _likeness, "Draw everyone from the reference sheet."),
    ("images", "style", _style, "Choose one style for all shots."),
    ("narration", "spoken", _spoken, "Narrate every shot."),
    ("narration", "speed", _speed, "Say how many words per second may be spoken."),
    ("assembly", "order", _order, "Keep the order of the story."),
)
ASPECTS: tuple[tuple[Step, str], ...] = tuple((step, aspect) for step, aspect, _, _ in _CHECKLIST)
"""(step, aspect) of every check, in the order of `comments`."""


def _plain(text: str) -> str:
    return " ".join(text.casefold().split()).removeprefix("the ")
