"""Lists to be extracted from generated clinical notes and trial abstracts, with known truth. One reply an episode.

`medications`: notes that name 3 to 8 medications of the patient, each `active`, `discontinued` or `neither`, beside
what must stay out: medicines of relatives, ones never used, devices, symptoms. `trial_arms`: abstracts with 2 to 4
arms, which have no label. The task's prompt is the note, word for word (see `clinical_notes`). Some names begin with
"non", over which the list reader stumbles that was published with arXiv 2306.00024.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Literal, get_args

from evolvent.environments.clinical_notes import Item, drug_names, medication_note, trial_abstract
from evolvent.environments.errors import BadOptionError
from evolvent.environments.solo import SEAT, written
from evolvent.environments.splits import game_seed
from evolvent.environments.types import Action, Observation, Split, StepResult, Task

VERSION = 1
Kind = Literal["medications", "trial_arms"]
Label = Literal["active", "discontinued", "neither"]
LABELS: tuple[Label, ...] = get_args(Label)
_NO_ITEMS = {"none", "none found", "no medications", "no medication", "no items", "nothing", "n/a", "not applicable"}
_EMPHASIS = re.compile(r"\*\*|__|`")
_BULLET = re.compile(r"^(?:[-*•–+]+|\(?\d{1,2}[.)])\s*")
_DOSE = re.compile(r"\s+\d[\d.,]*\s*(?:mg|mcg|µg|g|ml|units?|iu|%)\b.*$")
_WRAPPING = " \t*_`'\"“”‘’.,;"
_SEPARATOR = re.compile(rf"\s*(?::|\s[-–—]\s|\(|,(?=\s*(?:{'|'.join(LABELS)})\b))\s*", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Match:
    """A list held against the truth. Names are the truth's, `wrong` ones as they were written."""

    found: tuple[str, ...]
    missed: tuple[str, ...]
    wrong: tuple[str, ...]
    """Listed, but not in the truth."""
    mislabelled: tuple[str, ...]
    """Found with another label, or with none where one is wanted."""

    @property
    def precision(self) -> float:
        """Of names, in [0, 1]; 0 for an empty list."""
        return len(self.found) / max(len(self.found) + len(self.wrong), 1)

    @property
    def recall(self) -> float:
        """Of names, in [0, 1]."""
        return len(self.found) / max(len(self.found) + len(self.missed), 1)

    @property
    def f1(self) -> float:
        """Of names, in [0, 1]: 2·found / (2·found + missed + wrong)."""
        return 2 * len(self.found) / max(2 * len(self.found) + len(self.missed) + len(self.wrong), 1)

    @property
    def perfect(self) -> bool:
        return not (self.missed or self.wrong or self.mislabelled)


# -- lists, as models write them ---------------------------------------------------------------------------------------


def key(name: str) -> str:
    """What makes two spellings one item: lower case, single spaces, no quotes or stops around it, no dose behind it."""
    return _DOSE.sub("", " ".join(name.lower().split()).strip(_WRAPPING)).strip(_WRAPPING)


def label_of(text: str) -> Label | None:
    """The one label that stands in the text as a word, in any case; None for no label or for more than one."""
    said = [label for label in LABELS if re.search(rf"\b{label}\b", text.lower())]
    return said[0] if len(said) == 1 else None


def parse_items(reply: str) -> dict[str, str]:
    """Name → label from a bulleted list, in the list's order; the label is empty where there is none of `LABELS`.

    Lenient: any bullet or number; `name: label`, `name - label`, `name (label)` or `name, label`. A line without a
    bullet counts when it ends in a label; other lines are passed over and never end the list. Of two lines with one
    `key`, the first spelling stays and the last label holds. A bullet that says there is nothing ("none") is no item.
    """
    items: dict[str, str] = {}
    for line in reply.splitlines():
        stripped = _EMPHASIS.sub("", line).strip()
        entry = _BULLET.sub("", stripped)
        name, rest = _parted(entry)
        label = label_of(rest)
        if entry == stripped and label is None:
            continue
        name = " ".join(name.split()).strip(_WRAPPING)
        if key(name) and key(name) not in _NO_ITEMS:
            items = merge_items(items, {name: label or ""})
    return items


def merge_items(current: Mapping[str, str], new: Mapping[str, str]) -> dict[str, str]:
    """The union by `key`: order and spelling of `current` first, a non-empty label of `new` wins."""
    merged, spelling = dict(current), {key(name): name for name in current}
    for name, label in new.items():
        known = spelling.setdefault(key(name), name)
        merged[known] = label or merged.get(known, "")
    return merged


def render_items(items: Mapping[str, str]) -> str:
    """The list as it is to be written: `- name: label` a line, `- name` where the label is empty."""
    return "\n".join(f"- {name}: {label}" if label else f"- {name}" for name, label in items.items())


# -- holding a list and its evidence against a note --------------------------------------------------------------------


def truth(task: Task) -> tuple[Item, ...]:
    """What belongs in the list, in the note's order. Hidden from the agent: for scores and scripted models alone."""
    return tuple(Item(**item) for item in task.data["items"])


def compare(task: Task, items: Mapping[str, str]) -> Match:
    """A list (as `parse_items` gives it) against the task's truth."""
    listed = {key(name): label for name, label in items.items()}
    wanted = {item.name: item.label for item in truth(task)}
    keys = {key(name): name for name in wanted}
    found = [name for known, name in keys.items() if known in listed]
    return Match(
        found=tuple(found),
        missed=tuple(name for known, name in keys.items() if known not in listed),
        wrong=tuple(name for name in items if key(name) not in keys),
        mislabelled=tuple(name for name in found if wanted[name] and listed[key(name)] != wanted[name]),
    )


def locate(note: str, quote: str) -> tuple[tuple[int, int], ...]:
    """Where a quote stands in a note, as (start, end) of characters; in any case, with any spaces between its words.

    Empty for a quote that is not there, and for one without a letter or digit.
    """
    words = quote.strip(_WRAPPING).split()
    if not any(map(str.isalnum, "".join(words))):
        return ()
    pattern = r"\s+".join(map(re.escape, words))
    before, behind = (r"\b" if edge.isalnum() else "" for edge in (words[0][0], words[-1][-1]))
    return tuple(found.span() for found in re.finditer(f"{before}{pattern}{behind}", note, re.IGNORECASE))


def overlap(task: Task, name: str, quote: str) -> float:
    """Share of a quote's characters that lie in the sentence which shows the item, at its best place; in [0, 1].

    0 for a quote that the note does not hold and for a name that does not belong in the list.
    """
    spans = [(item.start, item.end) for item in truth(task) if key(item.name) == key(name)]
    shares = [
        max(min(end, until) - max(start, begin), 0) / (end - start)
        for start, end in locate(task.prompt, quote)
        for begin, until in spans
    ]
    return max(shares, default=0.0)


class Extraction:
    """Lists out of generated notes: the score is the F1 of names, success is a list without any fault, labels included.

    A task's prompt is the note; its hidden data hold the `items` (see `truth`).

    Args:
        kind: `medications` or `trial_arms`.
        world: number that draws which drug names there are.

    Raises:
        BadOptionError: no such kind.
    """

    players = (SEAT,)
    max_steps = 1

    def __init__(self, *, kind: Kind = "medications", world: int = 0) -> None:
        if kind not in get_args(Kind):
            raise BadOptionError(f"extraction: kind is {' or '.join(get_args(Kind))}, not {kind!r}.")
        self.instructions = _INSTRUCTIONS[kind]
        self._kind, self._world = kind, world
        self._drugs = drug_names(world)
        self._playing: Task | None = None

    def tasks(self, split: Split, n: int, seed: int) -> list[Task]:
        dealt: dict[str, Task] = {}
        index = 0
        while len(dealt) < n:
            task = self._task(split, game_seed(f"extraction/{self._kind}/{self._world}", split, seed, index))
            dealt.setdefault(task.id, task)
            index += 1
        return list(dealt.values())

    def reset(self, task: Task, seed: int) -> tuple[Observation, ...]:
        """Ask for the list; the task alone decides the episode, whatever `seed` is."""
        self._playing = task
        return (Observation(SEAT, "The list:"),)

    def step(self, actions: Mapping[str, Action]) -> StepResult:
        if self._playing is None:
            raise RuntimeError("reset comes before step")
        match = compare(self._playing, parse_items(written(actions)))
        told = (
            f"Found {len(match.found)} of {len(match.found) + len(match.missed)}; {len(match.wrong)} listed do not "
            f"belong; {len(match.mislabelled)} have a wrong label."
        )
        end = Observation(SEAT, told, None, must_act=False)
        return StepResult((end,), {SEAT: match.f1}, True, {"success": match.perfect})

    def expert(self, task: Task) -> list[str]:
        """The true list."""
        return [render_items({item.name: item.label for item in truth(task)})]

    def close(self) -> None:
        self._playing = None

    def _task(self, split: Split, seed: int) -> Task:
        rng = random.Random(f"extraction/{self._kind}/{self._world}/{seed}")
        make = medication_note if self._kind == "medications" else trial_abstract
        note = make(rng, self._drugs)
        return Task(
            id=f"{self._kind}-w{self._world}-{split}-{seed}",
            prompt=note.text,
            environment="extraction",
            data={"items": [asdict(item) for item in note.items]},
            tags=(self._kind,),
        )


_INSTRUCTIONS: Mapping[Kind, str] = {
    "medications": (
        "You list the patient's medications in a clinical note, each with one label: active (taken now), discontinued "
        "(stopped) or neither (an allergy, or only considered). Leave out medicines of relatives, ones never used, "
        "symptoms and devices. One a line, like this:\n- aspirin: active"
    ),
    "trial_arms": (
        "You list the arms of a trial: what each group of patients was assigned to. Leave out what all groups had, "
        "outcomes, and other trials. One a line, like this:\n- aspirin"
    ),
}


def _parted(entry: str) -> tuple[str, str]:
    """Name and what is said of it, of a list's line."""
    found = _SEPARATOR.search(entry)
    return (entry[: found.start()], entry[found.end() :]) if found else (entry, "")
