"""Which tasks a report speaks of: two figures may be compared only where environment version and task set agree."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable

from evolvent.environments.types import Task
from evolvent.memory.ledger import Ledger


def task_set_hash(tasks: Iterable[Task]) -> str:
    """Twelve hex digits of the SHA-256 of ids, prompts and hidden data, whatever the order of the tasks."""
    rows = {task.id: [task.id, task.prompt, dict(task.data)] for task in tasks}
    text = json.dumps([row for _, row in sorted(rows.items())], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def judged_tasks(ledger: Ledger) -> list[Task]:
    """The tasks a run is judged on, each once: the held-out ones, or its own where nothing carries over to others."""
    first = min(ledger.generations(), default=0)
    held_out = ledger.episodes(phase="eval", generation=first)  # they are the same in every generation
    tasks = {episode.trajectories[0].task.id: episode.trajectories[0].task for episode in held_out}
    if not tasks:
        own = ledger.episodes(phase="train")
        tasks = {episode.trajectories[0].task.id: episode.trajectories[0].task for episode in own}
    return list(tasks.values())
