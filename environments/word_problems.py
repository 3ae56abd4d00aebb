"""Arithmetic word problems: drawn from templates, each with several worked solutions. One reply an episode.

A solution is a line for each equation, `Picked: <<3*4=12>>`, and a last line `The answer is 12.`; it comes in every
order and grouping that its template knows. What decides a problem's split is its template with its numbers, so the
same sum never stands in two splits under other names.
"""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import get_args

from evolvent.environments.derivation import answer_of, equations, evaluate
from evolvent.environments.errors import BadOptionError
from evolvent.environments.solo import SEAT, written
from evolvent.environments.types import Action, Observation, Split, StepResult, Task

VERSION = 2
NAMES = (
    "Ada", "Ben", "Cora", "Dan", "Edith", "Finn", "Greta", "Hugo", "Ida", "Jonas", "Kit", "Lena",
    "Max", "Nora", "Otto", "Pia", "Rosa", "Sven", "Tilda", "Ugo", "Vera", "Wim", "Yann", "Zoe",
)  # fmt: skip
THINGS = (
    "apples", "beads", "candles", "cards", "coins", "cups", "eggs", "figs", "keys", "lemons", "marbles", "mugs",
    "nuts", "pears", "pencils", "pins", "plums", "ribbons", "roses", "shells", "spoons", "stamps", "stones", "tiles",
)  # fmt: skip
_IN_A_WORLD = 12
"""Names, and things, that the problems of one world speak of."""
_SPLITS: tuple[Split, ...] = get_args(Split)
_IN_VAIN = 5000
"""Draws in a row that gave no new problem: the world has no more."""
_LARGEST = 300
"""Value of an equation."""

FEW, SOME, MANY = (2, 9), (5, 30), (30, 99)
"""Ranges that numbers are drawn from."""


@dataclass(frozen=True, slots=True)
class Template:
    name: str
    text: str
    """Holds {who}, {other} and {things}, and its numbers by their letters."""
    numbers: Mapping[str, tuple[int, int]]
    """Letter → range."""
    labels: Mapping[str, str]
    """Letter of a value that is worked out → what it is."""
    derivations: tuple[str, ...]
    """Each `letter=expression` steps with semicolons between; the last one gives the answer.

    The first has as many steps as the template counts. One that meets a fraction, nothing or less is left out of the
    problem.
    """

    @property
    def steps(self) -> int:
        return len(self.derivations[0].split(";"))


TEMPLATES = (
    Template(
        "boxes",
        "{who} fills {a} boxes with {b} {things} each. How many {things} are in the boxes?",
        {"a": FEW, "b": FEW},
        {"t": "In all"},
        ("t=a*b", "t=b*a"),
    ),
    Template(
        "together",
        "{who} has {a} {things} and {other} has {b}. How many {things} do they have together?",
        {"a": SOME, "b": SOME},
        {"t": "In all"},
        ("t=a+b", "t=b+a"),
    ),
    Template(
        "mislaid",
        "{who} had {a} {things}, gave {b} to {other} and lost {c}. How many {things} are left?",
        {"a": MANY, "b": FEW, "c": FEW},
        {"t": "Left"},
        ("t=a-b-c", "t=a-c-b", "t=a-(b+c)"),
    ),
    Template(
        "three days",
        "{who} found {a} {things} on Monday, {b} on Tuesday and {c} on Friday. How many {things} is that?",
        {"a": FEW, "b": FEW, "c": FEW},
        {"t": "In all"},
        ("t=a+b+c", "t=c+b+a", "t=a+(b+c)"),
    ),
    Template(
        "boxes and more",
        "{who} fills {a} boxes with {b} {things} each and keeps {c} more in a drawer. "
        "How many {things} does {who} have?",
        {"a": FEW, "b": FEW, "c": SOME},
        {"p": "In boxes", "t": "In all"},
        ("p=a*b;t=p+c", "p=b*a;t=c+p"),
    ),
    Template(
        "shared out",
        "{a} bags hold {b} {things} each. {who} shares them equally among {c} children. "
        "How many {things} does each child get?",
        {"a": FEW, "b": FEW, "c": FEW},
        {"p": "In bags", "s": "A bag", "t": "Each"},
        ("p=a*b;t=p/c", "p=b*a;t=p/c", "s=b/c;t=s*a", "s=b/c;t=a*s"),
    ),
    Template(
        "purse",
        "{who} has {a} pounds and buys {b} {things} at {c} pounds each. How many pounds are left?",
        {"a": MANY, "b": FEW, "c": FEW},
        {"p": "Paid", "t": "Left"},
        ("p=b*c;t=a-p", "p=c*b;t=a-p"),
    ),
    Template(
        "basket",
        "A basket holds {a} {things}. {who} takes {b} and {other} takes {c}. How many {things} stay in the basket?",
        {"a": MANY, "b": SOME, "c": SOME},
        {"l": "Then", "s": "Taken", "t": "Left"},
        ("l=a-b;t=l-c", "s=b+c;t=a-s", "l=a-c;t=l-b", "s=c+b;t=a-s"),
    ),
    Template(
        "times as many",
        "{who} has {a} {things}. {other} has {b} times as many. How many {things} do they have together?",
        {"a": SOME, "b": (2, 5)},
        {"p": "The other", "k": "Times", "t": "In all"},
        ("p=a*b;t=a+p", "p=b*a;t=p+a", "k=b+1;t=a*k"),
    ),
    Template(
        "rows",
        "{who} lays {a} rows of {b} {things}. The wind takes {c} away. How many {things} remain?",
        {"a": FEW, "b": FEW, "c": FEW},
        {"p": "Laid", "t": "Left"},
        ("p=a*b;t=p-c", "p=b*a;t=p-c"),
    ),
    Template(
        "two sizes",
        "{who} packs {a} small boxes of {b} {things} and {c} large boxes of {d}. How many {things} are packed?",
        {"a": FEW, "b": FEW, "c": FEW, "d": FEW},
        {"p": "Small", "q": "Large", "t": "In all"},
        ("p=a*b;q=c*d;t=p+q", "q=c*d;p=a*b;t=q+p", "p=b*a;q=d*c;t=p+q"),
    ),
    Template(
        "resold",
        "{who} buys {a} {things} at {b} pounds each and sells them at {c} pounds each. How many pounds are gained?",
        {"a": FEW, "b": (2, 9), "c": (5, 19)},
        {"p": "Paid", "q": "Got", "g": "On each", "t": "Gained"},
        ("p=a*b;q=a*c;t=q-p", "q=a*c;p=a*b;t=q-p", "g=c-b;t=a*g"),
    ),
    Template(
        "split bill",
        "{who} and {other} buy {a} {things} at {b} pounds each and a bag for {c} pounds. Each pays half. "
        "How many pounds does each pay?",
        {"a": FEW, "b": FEW, "c": FEW},
        {"p": "Price", "s": "In all", "h": "Half", "k": "Half the bag", "t": "Each"},
        ("p=a*b;s=p+c;t=s/2", "p=b*a;s=c+p;t=s/2", "p=a*b;h=p/2;k=c/2;t=h+k"),
    ),
    Template(
        "jar",
        "A jar holds {a} {things}. {who} takes {b} out, {other} puts {c} in, and then {d} are sold. "
        "How many {things} are in the jar?",
        {"a": MANY, "b": SOME, "c": SOME, "d": FEW},
        {"l": "Then", "m": "Then", "g": "Out", "t": "Left"},
        ("l=a-b;m=l+c;t=m-d", "m=a+c;l=m-b;t=l-d", "g=b+d;l=a-g;t=l+c", "m=a+c;g=b+d;t=m-g"),
    ),
    Template(
        "shelves",
        "{who} has {a} {things}, buys {b} bags of {c} and puts all of them on {d} shelves, as many on each. "
        "How many {things} stand on a shelf?",
        {"a": SOME, "b": FEW, "c": FEW, "d": (2, 6)},
        {"p": "Bought", "s": "In all", "t": "A shelf"},
        ("p=b*c;s=a+p;t=s/d", "p=c*b;s=p+a;t=s/d"),
    ),
    Template(
        "harvest",
        "{who} and {other} each pick {a} {things} before noon and {b} after it, and give {c} of them away. "
        "How many {things} do they keep together?",
        {"a": SOME, "b": SOME, "c": FEW},
        {"s": "One picks", "p": "Both", "m": "Before", "n": "After", "t": "Kept"},
        ("s=a+b;p=s*2;t=p-c", "s=b+a;p=2*s;t=p-c", "m=a*2;n=b*2;t=m+n-c"),
    ),
    Template(
        "long walk",
        "{who} walks {a} miles a day for {b} days and {c} miles a day for {d} days. The way is {e} miles long. "
        "How many miles are left?",
        {"a": FEW, "b": FEW, "c": FEW, "d": FEW, "e": (90, 180)},
        {"p": "First", "q": "Second", "s": "Walked", "l": "Then", "t": "Left"},
        ("p=a*b;q=c*d;s=p+q;t=e-s", "q=c*d;p=a*b;s=q+p;t=e-s", "p=a*b;l=e-p;q=c*d;t=l-q", "q=c*d;l=e-q;p=a*b;t=l-p"),
    ),
    Template(
        "wages",
        "{who} earns {a} pounds a day for {b} days and {other} earns {c} pounds a day for {d} days. "
        "They spend {e} pounds on {things}. How many pounds are left?",
        {"a": FEW, "b": FEW, "c": FEW, "d": FEW, "e": SOME},
        {"p": "One", "q": "The other", "s": "Earned", "l": "Then", "t": "Left"},
        ("p=a*b;q=c*d;s=p+q;t=s-e", "q=c*d;p=a*b;s=q+p;t=s-e", "p=a*b;l=p-e;q=c*d;t=l+q"),
    ),
    Template(
        "pooled",
        "{who} has {a} bowls of {b} {things} and {other} has {c} bowls of {d}. They share all of them equally "
        "among {e} friends. How many {things} does each friend get?",
        {"a": FEW, "b": FEW, "c": FEW, "d": FEW, "e": (2, 6)},
        {"p": "One", "q": "The other", "s": "In all", "t": "Each"},
        ("p=a*b;q=c*d;s=p+q;t=s/e", "q=c*d;p=a*b;s=q+p;t=s/e", "p=b*a;q=d*c;s=p+q;t=s/e"),
    ),
    Template(
        "workshop sale",
        "{who} makes {a} trays of {b} {things}, breaks {c}, sells {d} and packs the rest in bags of {e}. "
        "How many bags are packed?",
        {"a": FEW, "b": FEW, "c": FEW, "d": FEW, "e": (2, 6)},
        {"p": "Made", "l": "Whole", "m": "Rest", "n": "Unsold", "g": "Gone", "t": "Bags"},
        ("p=a*b;l=p-c;m=l-d;t=m/e", "p=a*b;n=p-d;m=n-c;t=m/e", "p=a*b;g=c+d;m=p-g;t=m/e", "g=c+d;p=a*b;m=p-g;t=m/e"),
    ),
)


class WordProblems:
    """Arithmetic word problems, graded by the exact match of the final answer.

    A task's hidden data hold the `answer`, its `derivations` (texts, the gold one first), `template` and `numbers`.
    Which of the derivations with as many equations as `steps` is gold differs from problem to problem, as teachers do.

    Args:
        steps: equations of the gold derivation, from 1 to 4.
        world: number that draws the names and things its problems speak of.

    Raises:
        BadOptionError: `steps` outside its range.
    """

    players = (SEAT,)
    instructions = "You solve word problems. An example of how you answer:\nIn all: <<3*4=12>>\nThe answer is 12."
    max_steps = 1

    def __init__(self, *, steps: int = 2, world: int = 0) -> None:
        if not isinstance(steps, int) or not 1 <= steps <= 4:
            raise BadOptionError(f"word_problems: steps is a whole number from 1 to 4, not {steps!r}.")
        self._steps, self._world = steps, world
        rng = random.Random(f"word_problems/{world}")
        self._names, self._things = rng.sample(NAMES, _IN_A_WORLD), rng.sample(THINGS, _IN_A_WORLD)
        self._templates = [template for template in TEMPLATES if template.steps == steps]
        self._task: Task | None = None

    def tasks(self, split: Split, n: int, seed: int) -> list[Task]:
        """`n` different problems, of all templates about equally many.

        Raises:
            BadOptionError: the world has fewer.
        """
        rng = random.Random(f"word_problems/{self._world}/{self._steps}/{split}/{seed}")
        tasks: dict[str, Task] = {}
        in_vain = 0
        while len(tasks) < n and in_vain < _IN_VAIN:
            template = self._templates[len(tasks) % len(self._templates)]
            numbers = {letter: rng.randint(*span) for letter, span in template.numbers.items()}
            worked = _worked(template, numbers) if _split_of(template, numbers) == split else []
            task = self._task_of(split, template, numbers, worked, rng) if len(worked) > 1 else None
            in_vain = in_vain + 1 if task is None or task.id in tasks else 0
            if task is not None:
                tasks.setdefault(task.id, task)
        if len(tasks) < n:
            raise BadOptionError(
                f"word_problems: world {self._world} has {len(tasks)} {split} problems, not {n}. Ask for fewer."
            )
        return list(tasks.values())

    def reset(self, task: Task, seed: int) -> tuple[Observation, ...]:
        self._task = task
        return (Observation(SEAT, "Answer:"),)

    def step(self, actions: Mapping[str, Action]) -> StepResult:
        if self._task is None:
            raise RuntimeError("reset comes before step")
        answer = answer_of(written(actions))
        right = answer == self._task.data["answer"]
        if answer is None:
            told = "There was no final answer. The last line should be: The answer is N."
        else:
            told = f"{answer} is right." if right else f"{answer} is not right."
        end = Observation(SEAT, told, None, must_act=False)
        return StepResult((end,), {SEAT: float(right)}, True, {"success": right})

    def expert(self, task: Task) -> list[str]:
        """The gold derivation."""
        return [task.data["derivations"][0]]

    def close(self) -> None:
        self._task = None

    def _task_of(
        self, split: Split, template: Template, numbers: Mapping[str, int], worked: list[_Worked], rng: random.Random
    ) -> Task:
        who, other = rng.sample(self._names, 2)
        things = rng.choice(self._things)
        key = "-".join(map(str, (template.name.replace(" ", "-"), *numbers.values(), who, other, things))).lower()
        full = [each for each in worked if len(equations(each.text)) == template.steps]
        gold = full[hashlib.sha256(key.encode()).digest()[0] % len(full)]
        return Task(
            id=f"w{self._world}-{split}-{key}",
            prompt=template.text.format(who=who, other=other, things=things, **numbers),
            environment="word_problems",
            data={
                "answer": gold.answer,
                "derivations": [gold.text, *(each.text for each in worked if each is not gold)],
                "template": template.name,
                "numbers": dict(numbers),
            },
            tags=(template.name,),
        )


@dataclass(frozen=True, slots=True)
class _Worked:
    text: str
    answer: int


def _worked(template: Template, numbers: Mapping[str, int]) -> list[_Worked]:
    """The derivations that meet whole positive numbers alone and say something new; none when the gold one does not."""
    found: dict[tuple[str, ...], _Worked] = {}
    for place, derivation in enumerate(template.derivations):
        worked = _work_out(template, derivation, numbers)
        if worked is not None:
            found.setdefault(equations(worked.text), worked)
        elif place == 0:
            return []
    return list(found.values())


def _work_out(template: Template, derivation: str, numbers: Mapping[str, int]) -> _Worked | None:
    values, lines, value = dict(numbers), [], 0
    for step in derivation.split(";"):
        letter, _, formula = step.partition("=")
        expression = re.sub("[a-z]", lambda found: str(values[found[0]]), formula)
        exact = evaluate(expression)
        if exact.denominator != 1 or not 0 < exact <= _LARGEST:
            return None
        value = values[letter] = exact.numerator
        lines.append(f"{template.labels[letter]}: <<{expression}={value}>>")
    return _Worked("\n".join([*lines, f"The answer is {value}."]), value)


def _split_of(template: Template, numbers: Mapping[str, int]) -> Split:
    digest = hashlib.sha256(f"{template.name}/{sorted(numbers.items())}".encode()).digest()
    return _SPLITS[int.from_bytes(digest[:4]) % len(_SPLITS)]
