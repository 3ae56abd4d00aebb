"""A trajectory as a record: the text that people read in the index and agents read when they recall raw experience."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from evolvent.environments.types import Action, Trajectory
from evolvent.memory.types import Event, Record, Scope, new_record


def render(trajectory: Trajectory) -> str:
    """Task, what was done and what came of it, score; without the instructions and memory that stood in the prompt."""
    lines = [f"Task: {trajectory.task.prompt}"]
    seen = trajectory.task.prompt
    for step in trajectory.steps:
        if step.observation.text != seen:
            lines.append(step.observation.text)
            seen = step.observation.text
        lines.append(f"> {acted(step.action)}")
        if step.result:
            lines.append(step.result)
            seen = step.result  # the next observation says the same
    outcome = trajectory.outcome
    verdict = f"failed: {outcome.failure}" if outcome.failure else "success" if outcome.success else "no success"
    return "\n".join([*lines, f"Score: {outcome.score:.2f} ({verdict})"])


def trajectory_record(trajectory: Trajectory) -> Record:
    """The record of one seat's episode, active at once: raw evidence needs no proof.

    It applies to its environment and seat, whatever the task: which ones are near is for the search to say.
    Episodes that read the same word for word become one record with several parents.
    """
    outcome = trajectory.outcome
    return new_record(
        "trajectory",
        render(trajectory),
        Scope(trajectory.task.environment, player=trajectory.player),
        parents=(trajectory.id,),
        meta={
            "score": outcome.score,
            "success": outcome.success,
            "task": trajectory.task.id,
            "task_tags": ", ".join(trajectory.task.tags),
            "phase": trajectory.phase,
            "attempt": trajectory.attempt,
            "steps": len(trajectory.steps),
            "framed": any(step.observation.frame != "{action}" for step in trajectory.steps),
            "worked": _worked(trajectory),
            "model": trajectory.model,
        },
        status="active",
        generation=trajectory.generation,
    )


def recall_events(trajectories: Iterable[Trajectory]) -> list[Event]:
    """One `credit` event per record that was shown in these episodes, with how often."""
    shown = Counter(each.record for trajectory in trajectories for each in trajectory.recalled if each.shown)
    return [Event("credit", record, payload={"recalls": times}) for record, times in sorted(shown.items())]


def acted(action: Action) -> str:
    """An action on one line, as a person writes it."""
    if action.tool is not None:
        arguments = ", ".join(f"{key}={value!r}" for key, value in action.tool.arguments.items())
        return f"{action.tool.name}({arguments})"
    if action.array is not None:
        return f"{action.array.tolist()}"
    return action.text


def _worked(trajectory: Trajectory) -> list[list[str]]:
    """[situation, line] of the steps that were rewarded, in worlds that word their situations (`Observation.frame`).

    Where reward comes only with the end, every step of a success counts.
    """
    early = any(step.reward for step in trajectory.steps[:-1])
    good = [step for step in trajectory.steps if step.reward > 0 or (trajectory.outcome.success and not early)]
    return [
        [step.observation.frame, step.observation.frame.replace("{action}", step.action.text)]
        for step in good
        if step.observation.frame != "{action}"
    ]
