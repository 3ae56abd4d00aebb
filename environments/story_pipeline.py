"""From a proposal to a storyboard in five steps, each a deterministic utility that does as its settings say.

Left to themselves the utilities fail in planted ways: the script forgets the last of the cast and the last place and
runs too long, a scene is one overlong shot without an establishing one, the renderer forgets the hair and changes
style, the narrator talks too fast and leaves out the end, the assembly turns the places round. A setting is a line
`key: value`. What demonstrates evolution here says nothing about pictures: nothing is drawn.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

from evolvent.environments.errors import BadOptionError
from evolvent.environments.storyboard import (
    LONGEST_SHOT,
    STEPS,
    WORDS_PER_SECOND,
    Figure,
    Proposal,
    Shot,
    Step,
    Storyboard,
)

Settings = Mapping[str, str]
"""Key → value of one step, as `parse_settings` gives them. Utilities pass over keys that they do not know."""
STYLES = ("watercolour", "ink", "crayon")
_ESTABLISHING_S = 3
_SPARE_S = 15
"""By which a script outruns the proposal when nothing holds it back."""
_TALKATIVE = 4.0
"""Words a second when nothing is said about it."""
_LINE = re.compile(r"^[\s\-*•>]*([A-Za-z][A-Za-z _]{0,40}?)[*`]*\s*[:=][*`]*\s*(.+)$")
_DENIED = {"no", "not", "never", "none", "off", "false"}
_GRANTED = {"yes", "true", "always", "on"}


def parse_settings(text: str) -> dict[str, str]:
    """Key → value of the `key: value` lines in a reply; keys in lower case, with spaces for underscores.

    Bullets, emphasis, quotes, a full stop and `=` for the colon are allowed; other lines are passed over; of two lines
    with one key the last holds.
    """
    found = (_LINE.match(line) for line in text.splitlines())
    pairs = ((each[1], each[2]) for each in found if each)
    return {key.replace("_", " ").strip().lower(): value.strip(" \t*`\"'.") for key, value in pairs}


def usage() -> tuple[tuple[Step, str], ...]:
    """What each step's utility does and which settings it reads."""
    return tuple(_USAGE.items())


def knowledge() -> tuple[tuple[Step, str], ...]:
    """(step, advice): short passages on the craft, some of no use here. They know nothing of the utilities' faults."""
    return _KNOWLEDGE


def best_settings(wanted: Proposal) -> dict[Step, dict[str, str]]:
    """What a perfect memory would tell each step; the storyboard passes every check."""
    return {
        "script": {"cast": "all", "places": "all", "length": "proposal"},
        "shots": {"longest shot": f"{LONGEST_SHOT[wanted.genre]} seconds", "establishing shot": "yes"},
        "images": {"reference sheet": "yes", "style": STYLES[0]},
        "narration": {"every shot": "yes", "words per second": str(WORDS_PER_SECOND)},
        "assembly": {"order": "story"},
    }


def produce(
    wanted: Proposal, settings: Mapping[Step, Settings] | None = None, steps: Sequence[Step] = STEPS
) -> Storyboard:
    """The storyboard of a workflow: its steps one after another, each with its settings, or left to itself.

    Any order will run, and any step may be missing or come twice; the storyboard shows it.

    Raises:
        BadOptionError: no such step.
    """
    shots: Storyboard = ()
    for step in steps:
        if step not in UTILITIES:
            raise BadOptionError(f"story: a step is one of {', '.join(STEPS)}, not {step!r}.")
        shots = UTILITIES[step](wanted, shots, (settings or {}).get(step, {}))
    return shots


# -- the utilities -----------------------------------------------------------------------------------------------------


def script(wanted: Proposal, shots: Storyboard, settings: Settings) -> Storyboard:
    """One scene for each place, as one shot without a picture. Reads `cast`, `places` and `length`."""
    cast = wanted.cast if _is(settings, "cast", "all") else wanted.cast[:-1]
    places = wanted.places if _is(settings, "places", "all") else wanted.places[:-1]
    fits = _is(settings, "length", "proposal")
    total = (wanted.shortest + wanted.longest) // 2 if fits else wanted.longest + _SPARE_S
    return tuple(
        Shot(place, _pair(cast, at), seconds=seconds)
        for at, (place, seconds) in enumerate(zip(places, _shares(total, len(places)), strict=True))
    )


def compose(wanted: Proposal, shots: Storyboard, settings: Settings) -> Storyboard:
    """Scenes cut into shots with a camera each. Reads `longest shot` (seconds) and `establishing shot`."""
    longest = _number(settings, "longest shot", math.inf, low=1)
    cut: list[Shot] = []
    for scene in shots:
        left = int(scene.seconds)
        opening = min(_ESTABLISHING_S, int(min(longest, left)))
        if _is(settings, "establishing shot", "yes") and left > opening:
            cut.append(replace(scene, figures=(), camera="wide", seconds=opening))
            left -= opening
        pieces = _shares(left, max(1, math.ceil(left / longest)))
        cameras = itertools.cycle(("medium", "close"))
        cut += [replace(scene, camera=next(cameras), seconds=seconds) for seconds in pieces]
    return tuple(cut)


def render(wanted: Proposal, shots: Storyboard, settings: Settings) -> Storyboard:
    """Everyone's looks and the style of each shot. Reads `reference sheet` and `style`."""
    hidden = () if _is(settings, "reference sheet", "yes") else ("hair",)
    sheets = {
        figure.name: Figure(figure.name, {look: value for look, value in figure.looks.items() if look not in hidden})
        for figure in wanted.cast
    }
    styles = itertools.cycle([settings["style"]] if settings.get("style") else STYLES)
    return tuple(
        replace(shot, figures=tuple(sheets.get(each.name, each) for each in shot.figures), style=next(styles))
        for shot in shots
    )


def narrate(wanted: Proposal, shots: Storyboard, settings: Settings) -> Storyboard:
    """Words for the shots. Reads `every shot` and `words per second`."""
    speed = _number(settings, "words per second", _TALKATIVE, low=0.5)
    last = len(shots) if _is(settings, "every shot", "yes") else len(shots) - 1
    return tuple(
        replace(shot, narration=_words(shot, int(speed * shot.seconds)) if at < last else "")
        for at, shot in enumerate(shots)
    )


def assemble(wanted: Proposal, shots: Storyboard, settings: Settings) -> Storyboard:
    """The shots joined. Reads `order`: without `story` the last place comes first."""
    scenes = [tuple(scene) for _, scene in itertools.groupby(shots, lambda shot: shot.place)]
    ordered = scenes if _is(settings, "order", "story") else scenes[::-1]
    return tuple(itertools.chain.from_iterable(ordered))


Utility = Callable[[Proposal, Storyboard, Settings], Storyboard]
UTILITIES: Mapping[Step, Utility] = {
    "script": script,
    "shots": compose,
    "images": render,
    "narration": narrate,
    "assembly": assemble,
}

_USAGE: Mapping[Step, str] = {
    "script": "Turns the proposal into scenes. Settings: cast (all or leads), places (all or main), "
    "length (proposal or free).",
    "shots": "Cuts scenes into shots. Settings: longest shot (a number of seconds), establishing shot (yes or no).",
    "images": "Draws each shot. Settings: reference sheet (yes or no), style (a name).",
    "narration": "Writes the spoken words. Settings: every shot (yes or no), words per second (a number).",
    "assembly": "Joins the shots. Settings: order (story or free).",
}
_KNOWLEDGE: tuple[tuple[Step, str], ...] = (
    ("script", "Give each scene one turn: somebody wants a thing and leaves with another."),
    ("script", "Let people say less than they mean; the audience likes to guess."),
    (
        "shots",
        f"The longest shot is a matter of genre: {LONGEST_SHOT['action']} seconds in action, "
        f"{LONGEST_SHOT['comedy']} in comedy, {LONGEST_SHOT['drama']} in drama.",
    ),
    ("shots", "An establishing shot, wide and short, tells the audience where they are before anybody speaks."),
    ("shots", "Keep to one side of the line between two speakers, or they seem to change seats."),
    ("images", "Light from one side gives a face its shape."),
    ("images", "Leave room in the direction in which a figure looks."),
    ("narration", f"An audience follows {WORDS_PER_SECOND} words per second at most; slower is never wrong."),
    ("narration", "Do not tell what the picture shows; tell what it cannot show."),
    ("assembly", "Keep the order of the story unless the film is about memory; a jump back costs attention."),
    ("assembly", "Cut on a movement, and the cut goes unseen."),
)
_TALE = "come to the {place} and look about while the day goes on and none of them knows yet what it will bring"


def _is(settings: Settings, key: str, word: str) -> bool:
    said = set(re.findall(r"[a-z]+", settings.get(key, "").lower()))
    return bool(said & (_GRANTED | {word})) and not said & _DENIED


def _number(settings: Settings, key: str, default: float, *, low: float) -> float:
    """The first number of a value, at least `low`; the default where there is none."""
    found = re.search(r"\d{1,4}(?:\.\d{1,4})?", settings.get(key, ""))
    return max(float(found[0]), low) if found else default


def _shares(total: int, parts: int) -> Iterable[int]:
    """Whole numbers that sum to the total, as equal as they can be."""
    each, rest = divmod(total, parts)
    return [each + (at < rest) for at in range(parts)]


def _pair(cast: Sequence[Figure], at: int) -> tuple[Figure, ...]:
    """Two neighbours of the cast, still without looks; over the scenes everybody has a turn."""
    names = dict.fromkeys(cast[(at + turn) % len(cast)].name for turn in range(2))
    return tuple(Figure(name, {}) for name in names)


def _words(shot: Shot, count: int) -> str:
    who = " and ".join(figure.name for figure in shot.figures) or "We"
    words = itertools.cycle(f"{who} {_TALE.format(place=shot.place)}".split())
    return " ".join(itertools.islice(words, max(count, 1)))
