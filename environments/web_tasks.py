"""Draws the tasks of `web`: what a site holds, what is to be done on it, in words and as a goal."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

WORDS = (
    "amber", "basil", "cedar", "delta", "ember", "fjord", "grove", "heron", "indigo", "juniper", "kestrel", "lagoon",
    "maple", "nectar", "opal", "pebble", "quartz", "raven", "saffron", "thistle", "umber", "velvet", "willow", "zephyr",
)  # fmt: skip
BUTTONS = ("Save", "Send", "Search", "Print", "Share", "Delete", "Open", "Copy", "Next", "Help", "Reset", "Archive")
SENDERS = ("Submit", "Send", "Save", "Confirm")
NAMES = ("Ada", "Ben", "Cora", "Dan", "Edith", "Finn", "Greta", "Hugo", "Ida", "Jonas", "Lena", "Max", "Nora", "Otto")
CITIES = ("Athens", "Bergen", "Cork", "Dover", "Essen", "Faro", "Ghent", "Lyon", "Malmo", "Oslo", "Porto", "Turin")
TOPICS = ("Orders", "Members", "Letters", "Visits", "Parcels", "Lessons", "Repairs", "Tickets")


@dataclass(frozen=True, slots=True)
class Drawn:
    """One page and what is to be done on it."""

    words: str
    """The last clause of the instruction, beginning in lower case."""
    controls: list[dict[str, Any]]
    """`web_pages.Control`'s fields each."""
    button: str
    """Id of the button to send with."""
    values: Mapping[str, str | bool] = field(default_factory=dict)
    """What is to be set, in the order of the words; everything else stays as it is."""


def site(drawn: Drawn, pages: int, rng: random.Random) -> tuple[str, list[list[dict[str, Any]]], str]:
    """Instruction, pages, and the link to follow first, empty with one page.

    With two, the first page links to three, of which one is the drawn page.
    """
    if pages == 1:
        return f"{drawn.words[0].upper()}{drawn.words[1:]}.", [drawn.controls], ""
    topics = rng.sample(TOPICS, 3)
    right = rng.randrange(3)
    home = [_control("link", f"l{place}", topic, to=1 if place == right else 2) for place, topic in enumerate(topics)]
    back = [_control("link", "l3", "Back")]
    return f"On the page {topics[right]}, {drawn.words}.", [home, [*drawn.controls, *_renamed(back)], back], f"l{right}"


def _renamed(controls: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{**control, "id": "l4"} for control in controls]


def _control(kind: str, id: str, label: str, **more: Any) -> dict[str, Any]:
    return {"kind": kind, "id": id, "label": label, **more}


def _sent(rng: random.Random, label: str = "") -> tuple[list[dict[str, Any]], str]:
    """A form's buttons and the label of the one that sends it, which comes first."""
    label = label or rng.choice(SENDERS)
    return [_control("button", "b0", label), _control("button", "b1", "Cancel")], label


def _click_button(rng: random.Random) -> Drawn:
    labels = rng.sample(BUTTONS, rng.randint(4, 6))
    right = rng.randrange(len(labels))
    controls = [_control("button", f"b{place}", label) for place, label in enumerate(labels)]
    return Drawn(f'click the button "{labels[right]}"', controls, f"b{right}")


def _tick_boxes(rng: random.Random) -> Drawn:
    labels = rng.sample(WORDS, rng.randint(4, 6))
    ticked = sorted(rng.sample(range(len(labels)), rng.randint(1, 3)))
    buttons, send = _sent(rng)
    boxes = [_control("checkbox", f"c{place}", label) for place, label in enumerate(labels)]
    words = f'tick {_listed(labels[place] for place in ticked)}, then click "{send}"'
    return Drawn(words, [*boxes, *buttons], "b0", {f"c{place}": True for place in ticked})


def _enter_text(rng: random.Random) -> Drawn:
    labels, right = rng.sample(("Title", "Note", "Subject", "Street"), 2), rng.randrange(2)
    text = " ".join(rng.sample(WORDS, rng.randint(1, 3)))
    buttons, send = _sent(rng)
    fields = [_control("text", f"t{place}", label) for place, label in enumerate(labels)]
    words = f'type "{text}" into the field {labels[right]}, then click "{send}"'
    return Drawn(words, [*fields, *buttons], "b0", {f"t{right}": text})


def _pick_option(rng: random.Random) -> Drawn:
    choices = rng.sample(CITIES, rng.randint(4, 6))
    choice = rng.choice(choices[1:])
    buttons, send = _sent(rng)
    words = f'choose {choice} from the list City, then click "{send}"'
    return Drawn(words, [_control("options", "s0", "City", choices=choices), *buttons], "b0", {"s0": choice})


def _log_in(rng: random.Random) -> Drawn:
    name, password = f"{rng.choice(NAMES).lower()}{rng.randint(10, 99)}", f"{rng.choice(WORDS)}{rng.randint(100, 999)}"
    buttons, send = _sent(rng, "Log in")
    fields = [_control("text", "t0", "Name"), _control("password", "t1", "Password")]
    words = f'log in with the name "{name}" and the password "{password}", then click "{send}"'
    return Drawn(words, [*fields, *buttons], "b0", {"t0": name, "t1": password})


def _fill_form(rng: random.Random) -> Drawn:
    choices = rng.sample(CITIES, 4)
    name, choice, wish = rng.choice(NAMES), rng.choice(choices[1:]), rng.sample(WORDS, 2)
    buttons, send = _sent(rng)
    controls = [
        _control("text", "t0", "First name"),
        _control("options", "s0", "City", choices=choices),
        *(_control("checkbox", f"c{place}", label) for place, label in enumerate(wish)),
    ]
    words = f'set First name to "{name}" and City to {choice}, tick {wish[1]}, then click "{send}"'
    return Drawn(words, [*controls, *buttons], "b0", {"t0": name, "s0": choice, "c1": True})


KINDS: Mapping[str, Callable[[random.Random], Drawn]] = {
    "click-button": _click_button,
    "tick-boxes": _tick_boxes,
    "enter-text": _enter_text,
    "pick-option": _pick_option,
    "log-in": _log_in,
    "fill-form": _fill_form,
}


def _listed(texts: Iterable[str]) -> str:
    *most, last = texts
    return f"{', '.join(most)} and {last}" if most else last
