"""Questions in two turns whose answers are known, in MT-Bench's eight categories, and answers of known quality to them.

All is drawn from templates: the numbers are worked out, the names are invented, so no model has read them and no table
has to be trusted. Questions and texts out; knows nothing of tasks or replies.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from evolvent.environments.invented_world import names

Category = Literal["writing", "roleplay", "extraction", "reasoning", "math", "coding", "stem", "humanities"]
CATEGORIES: tuple[Category, ...] = get_args(Category)
WITH_REFERENCE: tuple[Category, ...] = ("math", "reasoning", "coding")
"""Categories whose answers are either right or wrong: there a judge may be shown a reference."""

Spoiling = Literal["off-topic", "truncated", "repeated", "padded"]
"""What can be done to any text. `padded` leaves its content alone."""
Flaw = Literal["wrong", Spoiling, "none"]
SPOILINGS: tuple[Spoiling, ...] = get_args(Spoiling)
FLAWS: tuple[Flaw, ...] = ("wrong", *SPOILINGS, "none")
"""How the second answer of a pair differs from the good one; by `none` only the wording is another."""


@dataclass(frozen=True, slots=True)
class Turn:
    """What the user says, and what a good answer says to it."""

    question: str
    points: tuple[str, ...]
    """Sentences of the answer, in order; {r} stands for the result."""
    result: str
    """Without it an answer is not right."""
    wrong: str
    """Another result of the same kind."""
    barred: tuple[str, ...] = ()
    """What a right answer leaves out, though the question tells it."""
    close: str = "The answer is {r}."


@dataclass(frozen=True, slots=True)
class Question:
    category: Category
    turns: tuple[Turn, Turn]
    """The second one goes on from the first."""


def questions(category: Category, rng: random.Random) -> Iterator[Question]:
    """Questions of a category without end, its templates in turn; some may be alike."""
    unused = names(rng)
    while True:
        for template in _TEMPLATES[category]:
            yield Question(category, template(rng, unused))


def good_answer(turn: Turn, style: int = 0) -> str:
    """A right answer: an opening, a list, the result. Styles, 0 and 1, differ in wording and in nothing else."""
    return _text(turn, turn.result, style)


def reference(turn: Turn) -> str:
    """The same as plain sentences, for whoever judges answers to the turn."""
    return " ".join(each.replace("{r}", turn.result) for each in (*turn.points, turn.close))


def wrong_answer(turn: Turn) -> str:
    """The good answer of style 0 with the wrong result in it."""
    return _text(turn, turn.wrong, 0)


def spoilt(text: str, how: Spoiling, rng: random.Random, elsewhere: str) -> str:
    """A text made worse.

    Args:
        elsewhere: a text about something else, which is off topic here.
    """
    lines = text.split("\n")
    match how:
        case "off-topic":
            return elsewhere
        case "truncated":
            # Two to three fifths of the words: it breaks off in the middle.
            words = text.split(" ")
            return " ".join(words[: max(1, int(len(words) * rng.uniform(0.4, 0.6)))])
        case "repeated":
            # Its list is told once more, as if that were more: MT-Bench's attack on judges who like length.
            points = [line for line in lines if line.startswith("- ")] or lines
            again = [f"- Moreover: {line.removeprefix('- ')}" for line in points]
            return "\n".join((*again, "In other words:", *lines))
        case "padded":
            empty = rng.sample(_EMPTY, 6)
            return "\n".join((" ".join(empty[:3]), *lines, " ".join(empty[3:])))


_OPENINGS = ("Gladly. Point by point:", "Here it is, one after the other:")
_BULLETS = ("- ", "* ")
_EMPTY = (
    "This is a matter that deserves a careful look.",
    "There is much that could be said about it.",
    "It helps to keep the whole picture in mind.",
    "As so often, the details are what they are.",
    "One should never forget how interesting such things can be.",
    "With that being said, it is worth going on.",
    "All in all, everything fits together quite well.",
    "This shows how much there is to think about.",
)


def _text(turn: Turn, result: str, style: int) -> str:
    points = [f"{_BULLETS[style]}{point.replace('{r}', result)}" for point in turn.points]
    return "\n".join((_OPENINGS[style], *points, turn.close.replace("{r}", result)))


# -- templates ---------------------------------------------------------------------------------------------------------

_Template = Callable[[random.Random, Iterator[str]], tuple[Turn, Turn]]
_DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_GOODS = ("barrels", "bells", "carpets", "clocks", "jars", "kettles", "lamps", "mirrors", "saddles", "spades")


def _numeric(
    rng: random.Random, question: str, points: Sequence[str], result: int, close: str = "The answer is {r}."
) -> Turn:
    """A turn whose result is a number; the wrong one is off by a little."""
    off = rng.choice([step for step in (-10, -3, -2, -1, 1, 2, 3, 10) if result + step > 0])
    return Turn(question, tuple(points), str(result), str(result + off), close=close)


def _invitation(rng: random.Random, unused: Iterator[str]) -> tuple[Turn, Turn]:
    town, host = next(unused), next(unused)
    day, old, late = rng.sample(_DAYS, 3)
    event = rng.choice(("boat race", "harvest fair", "kite day", "lantern walk", "seed market"))
    close = "Come and bring a friend."
    first = Turn(
        f"Write a short invitation to the {event} of {town}. It is on {day}; last year it was on {old}, which nobody "
        f"needs to know. Visitors ask for {host} at the gate.",
        (f"The {event} of {town} is near, and all are welcome.", "It is held on {r}.", f"Ask for {host} at the gate."),
        day,
        late,
        (old,),
        close,
    )
    second = Turn(
        f"The {event} has been moved to {late}. Write the invitation again.",
        (f"Please note the new day of the {event} of {town}.", "It is now held on {r}.", f"Still ask for {host}."),
        late,
        old,
        ("Write the invitation",),
        close,
    )
    return first, second


def _notice(rng: random.Random, unused: Iterator[str]) -> tuple[Turn, Turn]:
    owner, street, finder = next(unused), next(unused), next(unused)
    thing = rng.choice(("a brass key", "a green umbrella", "a wool scarf", "a silver spoon", "a leather bag"))
    close = "Thank you for looking out."
    reward = rng.randint(5, 60)
    first = Turn(
        f"Write a notice in two or three sentences: {owner} lost {thing} in {street} Lane. It was not {finder} who "
        f"lost it, so leave that name out. The reward is {reward} pounds.",
        (f"{thing.capitalize()} was lost in {street} Lane.", "It belongs to {r}.", f"The reward is {reward} pounds."),
        owner,
        finder,
        (finder,),
        close,
    )
    second = _numeric(
        rng,
        "Double the reward and write the notice again.",
        (f"{thing.capitalize()} was lost in {street} Lane.", f"It belongs to {owner}.", "The reward is {r} pounds."),
        2 * reward,
        close,
    )
    return first, second


def _ferry(rng: random.Random, unused: Iterator[str]) -> tuple[Turn, Turn]:
    name, river, boat = next(unused), next(unused), next(unused)
    minutes, most, fare = rng.randint(7, 40), rng.randint(3, 12), rng.randint(2, 9)
    first = _numeric(
        rng,
        f"You are {name}, who ferries people over the river {river} in the boat {boat}. A crossing takes {minutes} "
        f"minutes. Speak as {name}: how many minutes do I need to go over and come back?",
        (
            f"I am {name}, and my boat is the {boat}.",
            f"One crossing of the {river} takes {minutes} minutes.",
            "There and back you need {r} minutes.",
        ),
        2 * minutes,
    )
    second = _numeric(
        rng,
        f"Stay in your part. We are {most} people, and each pays {fare} coins for one crossing. What do we owe you?",
        (f"Well, {most} of you fit into the {boat}.", f"It is {fare} coins a head.", "That makes {r} coins."),
        most * fare,
    )
    return first, second


def _keeper(rng: random.Random, unused: Iterator[str]) -> tuple[Turn, Turn]:
    name, town, left, right = (next(unused) for _ in range(4))
    safe, other = rng.sample((left, right), 2)
    first = Turn(
        f"You are {name}, keeper of the gate of {town}. You know two roads, to {left} and to {right}; the one to "
        f"{other} is flooded. Speak as {name} and name only the road that I should take.",
        (f"I am {name}, and I keep the gate of {town}.", "Take the road to {r}, it is dry.", "Mind the stones."),
        safe,
        other,
        (other,),
    )
    second = Turn(
        "Stay in your part. Which town do we stand at the gate of?",
        (f"I told you, I am {name}.", "You stand at the gate of {r}.", "I have kept it for long."),
        town,
        other,
        (other,),
    )
    return first, second


def _ledger(rng: random.Random, unused: Iterator[str]) -> tuple[Turn, Turn]:
    people = [next(unused) for _ in range(4)]
    goods = rng.sample(_GOODS, 4)
    prices = rng.sample(range(12, 99), 4)
    text = " ".join(
        f"{who} bought {what} for {price} pounds." for who, what, price in zip(people, goods, prices, strict=True)
    )
    dear, cheap = prices.index(max(prices)), prices.index(min(prices))
    others = tuple(who for who in people if who != people[dear])
    first = Turn(
        f"Read: {text} Who paid the most? Name nobody else.",
        ("The text tells what each of them paid.", f"The highest price is {max(prices)} pounds.", "{r} paid it."),
        people[dear],
        people[cheap],
        others,
    )
    second = Turn(
        "And what did the one buy who paid the least? Name only the thing.",
        ("The prices are in the same text.", f"The lowest price is {min(prices)} pounds.", "It was paid for {r}."),
        goods[cheap],
        goods[dear],
        tuple(each for each in goods if each != goods[cheap]),
    )
    return first, second


def _letter(rng: random.Random, unused: Iterator[str]) -> tuple[Turn, Turn]:
    writer, town, friend = next(unused), next(unused), next(unused)
    arrives, leaves = rng.sample(_DAYS, 2)
    nights = (_DAYS.index(leaves) - _DAYS.index(arrives)) % 7
    first = Turn(
        f"Read: {friend}, I come to {town} on {arrives} and leave on {leaves}. Yours, {writer}. On which day does the "
        "writer arrive? Name one day.",
        (f"The letter is from {writer}.", f"It is about a visit to {town}.", "The writer comes on {r}."),
        arrives,
        leaves,
        (leaves,),
    )
    second = _numeric(
        rng,
        "How many nights does the writer stay, within a week?",
        (f"The writer comes on {arrives}.", f"The writer leaves on {leaves}.", "Between them are {r} nights."),
        nights,
    )
    return first, second


def _ages(rng: random.Random, unused: Iterator[str]) -> tuple[Turn, Turn]:
    order = [next(unused) for _ in range(4)]
    clues = [f"{young} is younger than {old}." for young, old in itertools.pairwise(order)]
    told = " ".join(rng.sample(clues, len(clues)))
    chain = ", ".join(order)
    first = Turn(
        f"{told} Who is the youngest? Name one.",
        ("The sentences put the four in a row.", "Nobody is said to be younger than {r}.", "So {r} comes first."),
        order[0],
        order[2],
        tuple(order[1:]),
    )
    second = Turn(
        "And who is the second oldest? Name one.",
        (f"From young to old they are {chain}.", "The oldest is the last of the row.", "Before the last stands {r}."),
        order[2],
        order[1],
        (*order[:2], order[3]),
    )
    return first, second


def _weekday(rng: random.Random, unused: Iterator[str]) -> tuple[Turn, Turn]:
    name, start = next(unused), rng.choice(_DAYS)
    days, more = 7 * rng.randint(1, 8) + rng.randint(1, 6), rng.randint(8, 40)  # another day than it began on
    after, later = (_DAYS[(_DAYS.index(start) + count) % 7] for count in (days, days + more))
    first = Turn(
        f"{name} sets out on a {start} and arrives {days} days later. On which day of the week is that? Name one.",
        (f"{days} days are {days // 7} weeks and {days % 7} days.", f"Whole weeks lead to {start} again.",
         f"{days % 7} days on it is {{r}}."),
        after,
        _DAYS[(_DAYS.index(after) + rng.choice((1, 2, 5, 6))) % 7],
    )  # fmt: skip
    second = Turn(
        f"{name} stays for {more} days from then on. On which day of the week does the stay end? Name one.",
        (f"The stay begins on {after}.", f"{more} days are {more // 7} weeks and {more % 7} days.", "It ends on {r}."),
        later,
        _DAYS[(_DAYS.index(later) + rng.choice((1, 2, 5, 6))) % 7],
    )
    return first, second


def _purchase(rng: random.Random, unused: Iterator[str]) -> tuple[Turn, Turn]:
    name, goods = next(unused), rng.choice(_GOODS)
    count, price, rebate = rng.randint(3, 19), rng.randint(11, 48), rng.randint(2, 30)
    total = count * price
    first = _numeric(
        rng,
        f"{name} buys {count} {goods} at {price} pounds each and gets {rebate} pounds off the whole. "
        f"What does {name} pay, in pounds?",
        (f"{count} times {price} is {total}.", f"{rebate} pounds come off.", f"{total} less {rebate} is {{r}}."),
        total - rebate,
    )
    second = _numeric(
        rng,
        f"{name} sells all of them at {price + rebate} pounds each. What is the profit, in pounds?",
        (
            f"{count} times {price + rebate} is {count * (price + rebate)}.",
            f"{total - rebate} pounds were paid before.",
            "The difference is {r}.",
        ),
        count * (price + rebate) - total + rebate,
    )
    return first, second


def _garden(rng: random.Random, unused: Iterator[str]) -> tuple[Turn, Turn]:
    name, long, wide = next(unused), rng.randint(13, 60), rng.randint(4, 12)
    first = _numeric(
        rng,
        f"The garden of {name} is {long} metres long and {wide} metres wide. How many metres of fence go round it?",
        (f"One long and one short side are {long + wide} metres.", "There are two of each.", "So it takes {r} metres."),
        2 * (long + wide),
    )
    second = _numeric(
        rng,
        "And what is its area in square metres?",
        ("The area is the length times the width.", f"That is {long} times {wide}.", "This makes {r}."),
        long * wide,
    )
    return first, second


def _steps_of(start: int, step: int, end: int) -> list[int]:
    return list(range(start, end, step))


def _loop(rng: random.Random, unused: Iterator[str]) -> tuple[Turn, Turn]:
    name = next(unused).lower()
    step, end, start = rng.randint(2, 4), rng.randint(11, 24), rng.randint(0, 3)
    added = _steps_of(start, step, end)
    program = (
        f"def {name}(n):\n    total = 0\n    for i in range({start}, n, {step}):\n        total += i\n    return total"
    )
    first = _numeric(
        rng,
        f"What does {name}({end}) return?\n{program}",
        (f"The loop visits {', '.join(map(str, added))}.", "It adds them up.", "Their sum is {r}."),
        sum(added),
    )
    second = _numeric(
        rng,
        f"And if the line `total += i` were `total += 1`, what would {name}({end}) return?",
        ("Then the loop counts its turns.", f"It still visits {', '.join(map(str, added))}.", "These are {r} numbers."),
        len(added),
    )
    return first, second


def _slices(rng: random.Random, unused: Iterator[str]) -> tuple[Turn, Turn]:
    name, text = next(unused).lower(), f"{next(unused)}{next(unused)}".lower()
    cut = rng.randint(2, 4)
    program = f"def {name}(text):\n    return text[{cut}:][::-1]"
    value = text[cut:][::-1]
    first = Turn(
        f'What does {name}("{text}") return?\n{program}',
        (f"The slice leaves out the first {cut} letters.", f"{text[cut:]} is what remains.", "Backwards it reads {r}."),
        value,
        text[::-1][cut:] if text[::-1][cut:] != value else text,
    )
    second = _numeric(
        rng,
        "And how many letters does the returned text have?",
        (f"The argument has {len(text)} letters.", f"{cut} of them are left out.", "So {r} are returned."),
        len(value),
    )
    return first, second


def _speed(rng: random.Random, unused: Iterator[str]) -> tuple[Turn, Turn]:
    ship, speed, hours = next(unused), rng.randint(12, 45), rng.randint(3, 14)
    more = rng.randint(2, 6)
    first = _numeric(
        rng,
        f"The ship {ship} sails at a steady {speed} kilometres an hour. How many kilometres does it make in {hours} "
        "hours?",
        ("At a steady speed the distance is speed times time.", f"That is {speed} times {hours}.", "It makes {r} km."),
        speed * hours,
    )
    second = _numeric(
        rng,
        f"It goes on for {more} hours. How many kilometres is that in all?",
        (f"In the first {hours} hours it made {speed * hours} km.", f"{speed * more} km are added.", "In all: {r} km."),
        speed * (hours + more),
    )
    return first, second


def _circuit(rng: random.Random, unused: Iterator[str]) -> tuple[Turn, Turn]:
    lab, ohms, amperes = next(unused), rng.randint(3, 40), rng.randint(2, 9)
    volts = ohms * amperes
    first = _numeric(
        rng,
        f"In the workshop of {lab} a current of {amperes} amperes flows through {ohms} ohms. How many volts are "
        "applied?",
        ("By Ohm's law the voltage is current times resistance.", f"That is {amperes} times {ohms}.", "So {r} volts."),
        volts,
    )
    second = _numeric(
        rng,
        "And how many watts does it take?",
        ("The power is voltage times current.", f"That is {volts} times {amperes}.", "So it takes {r} watts."),
        volts * amperes,
    )
    return first, second


def _dynasty(rng: random.Random, unused: Iterator[str]) -> tuple[Turn, Turn]:
    town, *rulers = (next(unused) for _ in range(4))
    years = sorted(rng.sample(range(1100, 1890), 3))
    told = [f"{who} ruled {town} from {year} on." for who, year in zip(rulers, years, strict=True)]
    between = years[2] - years[0]
    first = Turn(
        f"A chronicle says: {' '.join(rng.sample(told, 3))} Who ruled first? Name one.",
        ("The chronicle gives a year for each.", f"The earliest is {years[0]}.", "In that year {r} began to rule."),
        rulers[0],
        rulers[1],
        tuple(rulers[1:]),
    )
    second = _numeric(
        rng,
        "How many years lie between the beginnings of the first and the last rule?",
        (f"The first began in {years[0]}.", f"The last began in {years[2]}.", "Between them lie {r} years."),
        between,
    )
    return first, second


def _crafts(rng: random.Random, unused: Iterator[str]) -> tuple[Turn, Turn]:
    guild, town, other, master = (next(unused) for _ in range(4))
    year, age = rng.randint(1200, 1700), rng.randint(31, 180)
    first = Turn(
        f"The guild of {guild} had its seat in {town}, though its charter was written in {other}. It was founded by "
        f"{master} in {year} and lasted {age} years. In which town did it have its seat? Name one.",
        (f"The guild was founded by {master}.", "Its charter does not tell its seat.", "The seat was in {r}."),
        town,
        other,
        (other,),
    )
    second = _numeric(
        rng,
        "And in which year did it end?",
        (f"It was founded in {year}.", f"It lasted {age} years.", "So it ended in {r}."),
        year + age,
    )
    return first, second


_TEMPLATES: Mapping[Category, tuple[_Template, ...]] = {
    "writing": (_invitation, _notice),
    "roleplay": (_ferry, _keeper),
    "extraction": (_ledger, _letter),
    "reasoning": (_ages, _weekday),
    "math": (_purchase, _garden),
    "coding": (_loop, _slices),
    "stem": (_speed, _circuit),
    "humanities": (_dynasty, _crafts),
}
