"""What an individual bred from words is made of, and how its record holds it: the task-prompts are the text."""

from __future__ import annotations

from dataclasses import dataclass, replace

from evolvent.agents.population import Birth
from evolvent.memory.types import Record

TASK_PROMPTS = 2
"""Of a genome."""
FIRST = "first"
"""In an operator's place: of one that nothing was bred from."""
COPY = "copy"
"""The same of one that is as its parent was."""


@dataclass(frozen=True, slots=True)
class Genome:
    task_prompts: tuple[str, ...]
    """`TASK_PROMPTS` of them, each on one line and none empty."""
    mutation_prompt: str
    """How its task-prompts are asked to be rewritten."""
    examples: tuple[str, ...] = ()
    """Correct workings that are shown before the first task-prompt."""

    def having(self, place: int, prompt: str) -> Genome:
        """With that task-prompt at `place`, counted from 0."""
        return replace(self, task_prompts=(*self.task_prompts[:place], prompt, *self.task_prompts[place + 1 :]))


@dataclass(frozen=True, slots=True)
class Bred:
    """A child of somebody, not born yet."""

    genome: Genome
    operator: str = COPY
    """That made it; `COPY` where nothing came of the one that was drawn."""
    also: tuple[str, ...] = ()
    """Ids of the records and trajectories it comes from beside its parent."""

    def birth(self, drawn: str, *parents: str) -> Birth:
        """Its record to be.

        Args:
            drawn: the operator that should have made it.
            parents: its parent's id, if it has one.
        """
        genome = self.genome
        own = {"mutation_prompt": genome.mutation_prompt, "examples": list(genome.examples)}
        made = {"drawn": drawn, "operator": self.operator}
        return Birth("\n".join(genome.task_prompts), (*parents, *self.also), own | made)


def genome_of(individual: Record) -> Genome:
    meta = individual.meta
    return Genome(tuple(individual.text.split("\n")), meta["mutation_prompt"], tuple(meta["examples"]))
