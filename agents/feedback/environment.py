"""Feedback that the environment itself gives: the score of the episode, and nothing that a model thinks of it."""

from __future__ import annotations

from evolvent.environments.types import Experience, Feedback, Trajectory


def environment_feedback(trajectory: Trajectory) -> Experience:
    """The seat's score as feedback; None where infrastructure failed, which says nothing of skill."""
    outcome = trajectory.outcome
    if outcome.failure:
        feedback = Feedback(None, verdict=f"failed: {outcome.failure}", text=outcome.detail)
    else:
        feedback = Feedback(outcome.score, verdict="success" if outcome.success else "no success", text=outcome.detail)
    return Experience(trajectory.task, trajectory, feedback)
