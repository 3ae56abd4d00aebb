"""Few-shot prompting: solved tasks stand before the task, and so does an answer that is given away.

Both are parts of memory, so a data set is made with or without them by one word (`examples.supervised(memory=...)`).
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from evolvent.agents.context import Context
from evolvent.agents.errors import SetupError
from evolvent.agents.solutions.demonstration import Expert
from evolvent.agents.solutions.recall import Fixed, Recollection
from evolvent.environments.catalog import build_inline
from evolvent.environments.types import Task

END = "\n\n"
"""Between two solved tasks; a model that goes on after its solution has begun a task of its own."""
HINT = "Hint: the answer is {answer}."
"""What gives an answer away. It stands before the question: a small model that reads it last repeats it and explains
nothing (SmolLM2-135M, 24 problems of one step: 16 right answers, of which 3 with sound equations, against 9 and 8)."""


@dataclass(frozen=True, slots=True)
class Shots:
    """A recall that shows the same solved tasks in every episode."""

    text: str = ""
    """Of the solved tasks; empty for none."""
    hints: Mapping[str, str] = field(default_factory=dict)
    """By task id: the sentence before the question. A task without one is asked plainly."""

    @property
    def stop(self) -> tuple[str, ...]:
        """Where a reply ends that follows solved tasks."""
        return (END,) if self.text else ()

    def __call__(self, task: Task, player: str, rng: random.Random) -> Recollection:
        return Fixed(head="\n".join(each for each in (self.text, self.hints.get(task.id, "")) if each))


def solved(context: Context, tasks: Sequence[Task], *, hinted: bool = False) -> str:
    """These tasks with their expert's solutions, an empty line after each; empty where there are no tasks.

    Args:
        hinted: each with its answer given away, to show what is done with one.

    Raises:
        SetupError: the environment has no expert.
    """
    if not tasks:
        return ""
    world = build_inline(context.objective.environment)
    try:
        if not isinstance(world, Expert):
            name = context.objective.environment.name
            raise SetupError(f"{name} has no expert whose solutions could be shown. Set shots=0.")
        shown = []
        for task in tasks:
            given = [hint(task)] if hinted else []
            seen = [each.text for each in world.reset(task, 0)]
            shown.append("\n".join([*given, task.prompt, *seen, *world.expert(task)]))
    finally:
        world.close()
    return END.join(shown) + "\n"  # a prompt's parts stand on lines of their own, so an empty line follows


def examples(context: Context, n: int) -> Shots:
    """So many solved validation tasks: recipes that learn nothing have no other use for these.

    Raises:
        SetupError: the environment has no expert.
    """
    return Shots(solved(context, context.tasks("validation", n) if n else []))


def hint(task: Task) -> str:
    """The sentence that gives the task's answer away."""
    return HINT.format(answer=task.data["answer"])
