"""A trajectory as a record: the text that people read in the index and agents read when they recall raw experience."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Literal

from evolvent.environments.display import acted
from evolvent.environments.types import Trajectory
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


def spoken(trajectory: Trajectory) -> list[tuple[Literal["world", "agent"], str]]:
    """What was said after the task, in order, as a system that keeps conversations hears it.

    Of an episode of one reply that is the reply: what the world says to it is a verdict, for those who learn by
    verdicts. Of several moves it is what the agent saw, its replies as written, and what came of the last one.
    """
    if len(trajectory.steps) == 1:
        return [("agent", trajectory.steps[0].reply)]
    said: list[tuple[Literal["world", "agent"], str]] = []
    for step in trajectory.steps:
        said += [("world", step.observation.text), ("agent", step.reply)]
        said += [("world", step.result)] if step.result else []
    return said


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
