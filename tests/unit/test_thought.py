"""Thoughts out of replies: triples and sentences are read, and what says nothing is passed over."""

from __future__ import annotations

import pytest

from evolvent.agents.refinement.thought import Thought, plain, thoughts_in


@pytest.mark.parametrize(
    ("line", "thought"),
    [
        ("Mara Lind | lives in | Oslo", Thought("Mara Lind lives in Oslo.", "Mara Lind", "lives in", "Oslo")),
        ("2) | Mara | likes | tea | a lot. |", Thought("Mara likes tea a lot.", "Mara", "likes", "tea a lot")),
        ("- Thought 1: (the stock | is 12)", Thought("the stock is 12.", "the stock", "is 12", "")),
        ("* Mara Lind lives in Oslo.", Thought("Mara Lind lives in Oslo.", "Mara Lind")),
        ("The apples are 12!", Thought("The apples are 12!", "apples")),
        ("Mara's sister sings", Thought("Mara's sister sings.", "Mara")),
        ("3 eggs are left", Thought("3 eggs are left.", "3")),
    ],
)
def test_a_line_is_a_triple_or_a_sentence(line: str, thought: Thought) -> None:
    assert thoughts_in(line) == [thought]


@pytest.mark.parametrize(
    "reply", ["", "none", "None of this matters.", "- nothing to keep", "Oslo. Yes", "| | |", "---"]
)
def test_what_says_nothing_is_no_thought(reply: str) -> None:
    assert thoughts_in(reply) == []


def test_a_thought_that_is_said_twice_is_one() -> None:
    found = thoughts_in("Mara | lives in | Oslo\n1. Mara lives in Oslo!\nMara lives in Bergen")
    assert [each.text for each in found] == ["Mara lives in Oslo.", "Mara lives in Bergen."]


def test_words_alone_are_compared() -> None:
    assert plain("  The Apples, are 12!") == "the apples are 12"
