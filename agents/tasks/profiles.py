"""Characters for agents to play: short lists of dispositions, values and habits, drawn from a pool of opposites.

Whoever has one side of a pair lacks the other. Nothing in the pool speaks of the rules of any society.
"""

from __future__ import annotations

import random
from itertools import count

from evolvent.agents.refinement.breeding import genome_of

DISPOSITIONS: tuple[tuple[str, str], ...] = (
    ("I take time for people before I come to my business.", "I come straight to the point."),
    ("What is said of others behind their backs is none of my business.", "I love to hear what people are up to."),
    ("I am glad to give of what I have.", "I save for the days to come."),
    ("What is not mine weighs on me until it is back.", "I settle things when somebody asks me to."),
    ("I say openly what I see.", "I would rather not embarrass anybody."),
    ("I do not like to seem eager.", "I am simple and take what comes."),
    ("I honour those who are older than me.", "To me everybody has the same rights."),
    ("I cannot bear a quarrel near me.", "I mind my own business."),
    ("I trust my first thought.", "I think twice before I do anything."),
    ("I like the company of many.", "I like to be by myself."),
)
"""Pairs of opposites."""


def profiles(n: int, traits: int, rng: random.Random) -> list[str]:
    """`n` genomes of so many traits each, or as many as there are pairs; all different while the pool allows it."""
    each = min(traits, len(DISPOSITIONS))
    drawn: list[str] = []
    for attempt in count():
        genome = genome_of([rng.choice(pair) for pair in rng.sample(DISPOSITIONS, each)])
        if genome not in drawn or attempt > 100 * n:
            drawn.append(genome)
        if len(drawn) >= n:
            return drawn
    raise AssertionError("unreachable: the loop returns")
