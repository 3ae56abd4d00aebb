"""Contrasts: which pairs of attempts teach something, and what a model makes of one."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

from langchain_core.messages import BaseMessage

from evolvent.agents.feedback.environment import environment_feedback
from evolvent.agents.models.role import RoleModel
from evolvent.agents.models.scripted import ScriptedChatModel, ScriptedScorer
from evolvent.agents.refinement.contrast import contrasts
from evolvent.agents.refinement.lesson import learn_lesson, read_rule
from evolvent.agents.refinement.shuffle import shuffled
from evolvent.agents.trace import Trace
from evolvent.agents.types import CallTag
from evolvent.environments.types import Action, Experience, Failure, Observation, Outcome, Step, Task, Trajectory

TAG = CallTag("reflector", "train", 1)
RUST, ROT = "To mend rust, use the {action}.", "To mend rot, use the {action}."


def _step(frame: str, action: str, reward: float) -> Step:
    seen = Observation("agent", "?", ("oil", "wax"), frame=frame)
    return Step("agent", seen, (), frame.replace("{action}", action), Action(action), reward=reward)


def _attempt(task: str, attempt: int, *steps: Step, score: float | None = None, failure: Failure = "") -> Experience:
    total = sum(step.reward for step in steps) if score is None else score
    tags = ("rot", "rust")
    outcome = Outcome(total, total == 1, failure)
    trajectory = Trajectory(f"{task}/{attempt}", Task(task, "A clock.", "workshop", tags=tags), "agent", steps, outcome)
    return environment_feedback(replace(trajectory, attempt=attempt))


def test_two_attempts_that_differ_in_one_decision_make_one_contrast() -> None:
    good = _attempt("a", 0, _step(RUST, "oil", 0.5), _step(ROT, "wax", 0.5))
    bad = _attempt("a", 1, _step(RUST, "wax", 0.0), _step(ROT, "wax", 0.5))
    (pair,) = contrasts([bad, good])
    assert (pair.good.reply, pair.bad.reply) == ("To mend rust, use the oil.", "To mend rust, use the wax.")
    assert pair.margin == 0.5


def test_attempts_that_did_the_same_teach_nothing() -> None:
    same = [_attempt("a", index, _step(RUST, "oil", 1.0)) for index in range(2)]
    assert contrasts(same) == []


def test_two_wrong_ways_teach_nothing() -> None:
    assert contrasts([_attempt("a", 0, _step(RUST, "oil", 0.0)), _attempt("a", 1, _step(RUST, "wax", 0.0))]) == []


def test_where_only_the_end_is_rewarded_the_step_where_the_attempts_parted_is_contrasted() -> None:
    won = _attempt("a", 0, _step(RUST, "oil", 0.0), _step(ROT, "wax", 1.0))
    lost = _attempt("a", 1, _step(RUST, "wax", 0.0), _step(ROT, "oil", 0.0))
    pairs = contrasts([won, lost])
    assert pairs[0].good.reply == "To mend rust, use the oil."


def test_other_tasks_help_only_where_no_pair_of_the_same_task_does() -> None:
    good = _attempt("a", 0, _step(RUST, "oil", 1.0))
    bad = _attempt("b", 0, _step(RUST, "wax", 0.0))
    assert [pair.situation for pair in contrasts([good, bad])] == [RUST]
    worse = _attempt("a", 1, _step(RUST, "wax", 0.0))
    (pair,) = contrasts([good, bad, worse])
    assert pair.worse is worse


def test_an_attempt_that_infrastructure_failed_takes_no_part() -> None:
    good = _attempt("a", 0, _step(RUST, "oil", 1.0))
    dead = _attempt("a", 1, _step(RUST, "wax", 0.0), failure="model")
    assert contrasts([good, dead]) == []


async def test_a_scoring_model_chooses_the_lesson_among_lines_the_situation_admits() -> None:
    good, bad = _attempt("a", 0, _step(RUST, "oil", 1.0)), _attempt("a", 1, _step(RUST, "wax", 0.0))
    (pair,) = contrasts([good, bad])

    def score(messages: Sequence[BaseMessage], options: Sequence[str]) -> list[float]:
        assert "What failed: To mend rust, use the wax.\nWhat worked: To mend rust, use the oil." in str(
            [message.content for message in messages]
        ).replace("\\n", "\n")
        return [0.0 if "oil" in each else -1.0 for each in options]

    model = RoleModel("scripted", ScriptedScorer(replies=[], score=score), Trace(None))
    lesson = await learn_lesson(model, pair, TAG, random.Random(0))
    assert lesson is not None
    assert lesson.text == "To mend rust, use the oil."
    assert lesson.scope.tags == ("rust",)
    assert lesson.situation == RUST
    assert lesson.parents == ("a/0", "a/1")


async def test_a_chat_model_writes_one_line_and_a_reply_without_a_rule_is_dropped() -> None:
    good, bad = _attempt("a", 0, _step(RUST, "oil", 1.0)), _attempt("a", 1, _step(RUST, "wax", 0.0))
    (pair,) = contrasts([good, bad])
    model = RoleModel("scripted", ScriptedChatModel(["RULE: Rust wants oil.\nBye.", "?"]), Trace(None))
    lesson = await learn_lesson(model, pair, TAG, random.Random(0))
    assert lesson is not None
    assert (lesson.text, lesson.situation) == ("Rust wants oil.", "")
    assert await learn_lesson(model, pair, TAG, random.Random(0)) is None


def test_a_rule_is_one_line_of_sensible_length() -> None:
    assert read_rule('RULE: "Look before you leap."\nmore') == "Look before you leap."
    assert read_rule("") is None
    assert read_rule("RULE: " + "x" * 300) is None


def test_shuffling_keeps_the_outcomes_and_breaks_their_bond_to_the_actions() -> None:
    found = [_attempt(str(i), 0, _step(RUST, "oil" if i % 2 else "wax", float(i % 2))) for i in range(60)]
    mixed = shuffled(found, random.Random(0))
    rewards = [each.trajectory.steps[0].reward for each in mixed]
    assert sorted(rewards) == sorted(each.trajectory.steps[0].reward for each in found)
    agree = sum(
        (each.trajectory.steps[0].action.text == "oil") == (r == 1.0) for each, r in zip(mixed, rewards, strict=True)
    )
    assert 15 <= agree <= 45
