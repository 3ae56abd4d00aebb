"""Independent solutions of each task on the scratchpad, sampled from one and the same prompt (arXiv 2203.11171, §2)."""

from __future__ import annotations

from evolvent.agents.solutions.scratchpad import Scratchpad
from evolvent.agents.solutions.shots import Shots

PATH = "path"
"""Purpose of the calls; `pad.every(task, PATH)` gives a task's solutions."""


async def sample_paths(pad: Scratchpad, n: int, *, shots: Shots, temperature: float, reply_tokens: int) -> None:
    """`n` of every task of the generation."""
    prompts = {task.id: await pad.question(task, shots.text) for task in pad.tasks}
    await pad.each(
        pad.ask(task, PATH, prompts[task.id], number, temperature=temperature, max_tokens=reply_tokens, stop=shots.stop)
        for task in pad.tasks
        for number in range(n)
    )
