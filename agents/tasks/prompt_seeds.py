"""What prompts are first bred from: styles of thinking, and ways to ask for another wording. Both are fixed."""

from __future__ import annotations

THINKING_STYLES = (
    "Take the smallest step that is surely right, then the next.",
    "Draw the situation in words before you work on it.",
    "Write down what is given, what is asked, and what is missing.",
    "Begin at the end: what would the answer have to look like?",
    "Look for a problem like this one that you could solve at once.",
    "Think of two ways to go about it and take the shorter one.",
    "Guess first, then find out how far off the guess is.",
    "Explain it to somebody who has never seen such a problem.",
    "Name the one thing in it that is easy to get wrong.",
    "Put every quantity into a table and fill the table in.",
    "Doubt each line until the line before it proves it.",
    "Leave out everything that does not change the answer.",
)
"""How somebody may think about any problem, a sentence each."""

MUTATION_PROMPTS = (
    "Say this instruction in other words.",
    "Make this instruction shorter and keep what matters.",
    "Add to this instruction one piece of advice that a teacher would give.",
    "Rewrite this instruction as steps in the order in which they are taken.",
    "Rewrite this instruction so that no mistake can go unnoticed.",
    "Make this instruction more precise where it is vague.",
    "Rewrite this instruction for somebody who is in a hurry.",
    "Rewrite this instruction as an expert in the field would give it.",
    "Keep the aim of this instruction and replace its method.",
    "Turn this instruction round: say what must not be done.",
    "Write the instruction that should be followed after this one.",
    "Write a bolder instruction that this one only hints at.",
)
"""What a mutation begins with: a request about the instruction that follows it."""
