"""The toolbox's errands: six families, each a chain of tools with drawn arguments, files and tables.

What an argument is, is said in the goal or comes out of an earlier result; only what makes the family, such as an
operator or a column, is the same in all of its errands.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from evolvent.environments.toolbox_tools import converted, shown
from evolvent.environments.types import ToolCall

Family = Literal["order", "sum", "parcel", "cargo", "lightest", "letter"]
FAMILIES: tuple[Family, ...] = get_args(Family)
PEOPLE = (
    "ada", "ben", "cora", "dan", "edith", "finn", "greta", "hugo", "ida", "jonas", "kit", "lena", "max", "nora", "otto",
)  # fmt: skip
SHIPS = (
    "otter", "heron", "petrel", "walrus", "plover", "narwhal", "curlew", "beaver", "gannet", "marlin", "osprey",
    "puffin",
)  # fmt: skip
THINGS = (
    "lamp", "kettle", "anchor", "saddle", "barrel", "ladder", "mirror", "anvil", "stove", "wheel", "drum", "chest",
)  # fmt: skip
PORTS = ("Oslo", "Genoa", "Porto", "Gdansk")
MESSAGES = (
    "bring the blue rope", "the tide is late", "keep the red key", "the bell is mended", "count the sacks again",
    "leave the gate open", "the cook is ill", "paint the third door",
)  # fmt: skip

Directory = Mapping[str, Mapping[str, str]]
"""Name → field → value."""


@dataclass(frozen=True, slots=True)
class Subgoal:
    """A leaf goal, and what shows that it was met."""

    text: str
    kind: Literal["found", "file", "note"]
    """`found`: a call returned the value. Else the file at `target` says it, or a note to the mailbox `target`."""
    value: str
    target: str = ""


@dataclass(frozen=True, slots=True)
class Errand:
    subgoals: tuple[Subgoal, ...]
    submit: str
    """What to hand in, in words."""
    answer: str
    calls: tuple[ToolCall, ...]
    """The chain of an expert, without the submission."""
    files: Mapping[str, str]
    tables: Mapping[str, list[dict[str, str]]]


def directory_of(world: int) -> Directory:
    rng = random.Random(f"toolbox/{world}")
    boxes = rng.sample(range(10, 100), len(PEOPLE) + len(SHIPS))
    prices, weights = rng.sample(range(5, 99), len(THINGS)), rng.sample(range(2, 60), len(THINGS))
    things = {
        thing: {"price": shown(price / 2), "kilograms": str(weight)}
        for thing, price, weight in zip(THINGS, prices, weights, strict=True)
    }
    owners = zip((*PEOPLE, *SHIPS), boxes, strict=True)
    return things | {owner: {"mailbox": f"box-{box}"} for owner, box in owners}


def _order(rng: random.Random, number: int, directory: Directory) -> Errand:
    source, target = f"orders/{number}.txt", f"totals/{number}.txt"
    thing, count = rng.choice(THINGS), rng.randint(3, 29)
    price = directory[thing]["price"]
    total = shown(count * float(price))
    return Errand(
        (
            Subgoal(f"find the total of the order in {source}, its count times the price of its thing", "found", total),
            Subgoal(f"write the total into {target}", "file", total, target),
        ),
        "the total",
        total,
        (
            ToolCall("read_file", {"path": source}),
            ToolCall("lookup", {"name": thing, "field": "price"}),
            ToolCall("calculate", {"left": count, "operator": "*", "right": json.loads(price)}),
            ToolCall("write_file", {"path": target, "text": total}),
        ),
        {source: f"thing: {thing}\ncount: {count}"},
        {},
    )


def _sum(rng: random.Random, number: int, directory: Directory) -> Errand:
    first, second, target = f"sales/{number}-spring.txt", f"sales/{number}-autumn.txt", f"years/{number}.txt"
    amounts = rng.sample(range(100, 1000), 2)
    total = shown(sum(amounts))
    return Errand(
        (
            Subgoal(f"add up the amounts in {first} and {second}", "found", total),
            Subgoal(f"write the sum into {target}", "file", total, target),
        ),
        "the sum",
        total,
        (
            ToolCall("read_file", {"path": first}),
            ToolCall("read_file", {"path": second}),
            ToolCall("calculate", {"left": amounts[0], "operator": "+", "right": amounts[1]}),
            ToolCall("write_file", {"path": target, "text": total}),
        ),
        {first: f"amount: {amounts[0]}", second: f"amount: {amounts[1]}"},
        {},
    )


def _parcel(rng: random.Random, number: int, directory: Directory) -> Errand:
    source, person, weight = f"parcels/{number}.txt", rng.choice(PEOPLE), rng.randint(2, 90)
    pounds, box = shown(converted(weight, "kg", "lb")), directory[person]["mailbox"]
    return Errand(
        (
            Subgoal(f"find the weight in lb of the parcel in {source}", "found", pounds),
            Subgoal("send that weight to the mailbox of the person it is for", "note", pounds, box),
        ),
        "the weight in lb",
        pounds,
        (
            ToolCall("read_file", {"path": source}),
            ToolCall("convert", {"amount": weight, "unit": "kg", "to": "lb"}),
            ToolCall("lookup", {"name": person, "field": "mailbox"}),
            ToolCall("send_note", {"to": box, "text": pounds}),
        ),
        {source: f"for: {person}\nkilograms: {weight}"},
        {},
    )


def _cargo(rng: random.Random, number: int, directory: Directory) -> Errand:
    table, ships = f"fleet-{number}", rng.sample(SHIPS, 7)
    port, *others = rng.sample(PORTS, 3)
    loads = sorted(rng.sample(range(10, 100), 7))
    # The largest load of all lies elsewhere, so the rows of the port have to be picked out first.
    ports = [*rng.sample([port, port, *others], 4), port, others[0], others[1]]
    rows = [
        {"ship": ship, "port": where, "load": str(load)} for ship, where, load in zip(ships, ports, loads, strict=True)
    ]
    largest = ships[4]
    box = directory[largest]["mailbox"]
    rng.shuffle(rows)
    return Errand(
        (
            Subgoal(f"find the ship with the largest load of those whose port is {port} in {table}", "found", largest),
            Subgoal("send a note with the ship's name to the ship's mailbox", "note", largest, box),
        ),
        "the ship's name",
        largest,
        (
            ToolCall("filter_table", {"table": table, "column": "port", "equals": port}),
            ToolCall("sort_table", {"table": f"{table}-{port.lower()}", "column": "load", "order": "falling"}),
            ToolCall("lookup", {"name": largest, "field": "mailbox"}),
            ToolCall("send_note", {"to": box, "text": largest}),
        ),
        {},
        {table: rows},
    )


def _lightest(rng: random.Random, number: int, directory: Directory) -> Errand:
    table, things = f"stock-{number}", rng.sample(THINGS, 5)
    counts = rng.sample(range(1, 60), 5)
    scarce = things[counts.index(min(counts))]
    weight = directory[scarce]["kilograms"]
    pounds = shown(converted(float(weight), "kg", "lb"))
    return Errand(
        (
            Subgoal(f"find the thing with the smallest count in {table}", "found", scarce),
            Subgoal("find what that thing weighs in lb", "found", pounds),
        ),
        "the weight in lb",
        pounds,
        (
            ToolCall("sort_table", {"table": table, "column": "count", "order": "rising"}),
            ToolCall("lookup", {"name": scarce, "field": "kilograms"}),
            ToolCall("convert", {"amount": json.loads(weight), "unit": "kg", "to": "lb"}),
        ),
        {},
        {table: [{"thing": thing, "count": str(count)} for thing, count in zip(things, counts, strict=True)]},
    )


def _letter(rng: random.Random, number: int, directory: Directory) -> Errand:
    path, person, message = f"letters/{number}.txt", rng.choice(PEOPLE), rng.choice(MESSAGES)
    box = directory[person]["mailbox"]
    return Errand(
        (
            Subgoal(f"find the mailbox of the person whom {path} is for", "found", box),
            Subgoal("send the letter's text to that mailbox", "note", message, box),
            Subgoal(f"overwrite {path} with the word sent", "file", "sent", path),
        ),
        "the mailbox",
        box,
        (
            ToolCall("read_file", {"path": path}),
            ToolCall("lookup", {"name": person, "field": "mailbox"}),
            ToolCall("send_note", {"to": box, "text": message}),
            ToolCall("write_file", {"path": path, "text": "sent"}),
        ),
        {path: f"for: {person}\ntext: {message}"},
        {},
    )


ERRANDS: Mapping[Family, Callable[[random.Random, int, Directory], Errand]] = {
    "order": _order,
    "sum": _sum,
    "parcel": _parcel,
    "cargo": _cargo,
    "lightest": _lightest,
    "letter": _letter,
}
