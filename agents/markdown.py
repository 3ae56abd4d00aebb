"""A trajectory, a prompt and a search as Markdown: what a notebook shows of them."""

from __future__ import annotations

from collections.abc import Sequence

from evolvent.environments.types import Message, Step, Trajectory
from evolvent.memory.types import Scored


def steps_table(trajectory: Trajectory) -> str:
    """One row a step: what the seat saw, what it did and how likely that was, what it was told of it and earned."""
    rows = [
        [
            step.observation.text,
            f"**{step.action.text or step.reply}**",
            _probabilities(step),
            f"{step.reward:.2f}",
        ]
        for step in trajectory.steps
    ]
    outcome = trajectory.outcome
    ended = f"failed: {outcome.failure}" if outcome.failure else "success" if outcome.success else "no success"
    table = _table(("observation", "action", "probabilities", "reward"), rows)
    return f"**{_cell(trajectory.task.prompt)}**\n\n{table}\n\nScore {outcome.score:.2f} ({ended})."


def prompt_table(messages: Sequence[Message]) -> str:
    """The named parts of one prompt, in the order the model reads them; empty parts are left out."""
    return _table(("role", "part", "text"), [[each.role, each.part, each.text] for each in messages if each.text])


def hits_table(hits: Sequence[Scored]) -> str:
    """What a search of memory found, best first."""
    rows = [[hit.record.kind, hit.record.status, hit.record.text, f"{hit.score:.4f}"] for hit in hits]
    return _table(("kind", "status", "text", "score"), rows)


def _probabilities(step: Step) -> str:
    chosen = step.sampling
    return ", ".join(f"{o} {p:.2f}" for o, p in zip(chosen.options, chosen.probabilities, strict=False))


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(_cell(value) for value in line) + " |" for line in lines)


def _cell(text: str) -> str:
    """Text on one line that neither ends its cell nor passes for HTML."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace("|", "\\|").replace("\n", "<br>")
