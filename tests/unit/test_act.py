"""Acting: prompts in named parts, options by probability, replies read leniently, windows that overflow."""

from __future__ import annotations

import random
from typing import Any

import pytest

from evolvent.agents.models.role import RoleModel
from evolvent.agents.models.scripted import ScriptedChatModel, ScriptedScorer
from evolvent.agents.solutions.act import Policy, act, first_messages, read_action
from evolvent.agents.trace import Trace
from evolvent.agents.types import CallTag
from evolvent.environments.types import Action, Message, Observation, Step, Task, merge

TAG = CallTag("actor", "train", 0)
SEEN = Observation("agent", "How do you mend rust?", ("oil", "wax"), frame="To mend rust, use the {action}.")
HEAD = first_messages("You mend things.", Task("t", "A clock has rust.", "workshop"), "")


def _policy(model: ScriptedChatModel, **more: Any) -> Policy:
    return Policy(RoleModel("scripted", model, Trace(None)), **more)


def _prefers(word: str) -> ScriptedScorer:
    return ScriptedScorer(
        replies=[], score=lambda messages, options: [0.0 if word in each else -3.0 for each in options]
    )


async def test_the_likeliest_option_is_taken_and_worded_as_the_environment_words_it() -> None:
    acted = await act(_policy(_prefers("wax")), SEEN, HEAD, "", (), TAG, random.Random(0))
    assert acted.step.reply == "To mend rust, use the wax."
    assert acted.step.action.text == "wax"
    assert acted.step.sampling.probabilities[1] == pytest.approx(0.9526, abs=1e-4)  # 1 / (1 + exp(-3))


async def test_instructions_lead_then_memory_task_observation_and_the_hint_nearest_the_action() -> None:
    head = first_messages("You mend things.", Task("t", "A clock has rust.", "workshop"), "Known: much.")
    acted = await act(_policy(_prefers("oil")), SEEN, head, "Remember: oil.", (), TAG, random.Random(0))
    assert merge(acted.step.messages) == [
        ("system", "You mend things."),
        ("user", "Known: much.\nA clock has rust.\nHow do you mend rust?\nRemember: oil."),
    ]
    assert [message.part for message in acted.step.messages] == ["instructions", "memory", "task", "history", "memory"]


async def test_at_a_temperature_every_option_comes_up_as_often_as_its_probability() -> None:
    policy = _policy(_prefers("wax"), temperature=3.0)
    drawn = [(await act(policy, SEEN, HEAD, "", (), TAG, random.Random(i))).step.action.text for i in range(400)]
    assert drawn.count("wax") / 400 == pytest.approx(0.731, abs=0.067)  # 1 / (1 + exp(-1)), three standard errors


async def test_calibration_judges_an_option_by_what_the_situation_adds() -> None:
    def score(messages: object, options: list[str]) -> list[float]:
        told = "rust" in str(messages)
        return [
            (-1.0 if "oil" in each else -2.0) if not told else (-0.9 if "oil" in each else -1.0) for each in options
        ]

    common = _policy(ScriptedScorer(replies=[], score=score))
    calibrated = _policy(ScriptedScorer(replies=[], score=score), calibrate=True)
    assert (await act(common, SEEN, HEAD, "", (), TAG, random.Random(0))).step.action.text == "oil"
    assert (await act(calibrated, SEEN, HEAD, "", (), TAG, random.Random(0))).step.action.text == "wax"


async def test_a_model_that_cannot_score_is_told_its_options_and_its_reply_is_read() -> None:
    model = ScriptedChatModel(replies=["I would use the WAX."])
    acted = await act(_policy(model), SEEN, HEAD, "", (), TAG, random.Random(0))
    assert acted.step.action.text == "wax"
    assert not acted.malformed
    assert "Answer with one of: oil | wax" in str(model.requests[0][-1].content)


@pytest.mark.parametrize(
    ("reply", "action", "admissible"),
    [
        ("oil", "oil", True),
        ("To mend rust, use the oil.", "oil", True),
        ("  Oil!\nBecause it is slippery.", "oil", True),
        ("oil or wax", "oil or wax", False),
        ("", "", False),
        ("turmoil", "turmoil", False),
        ("x" * 500, "x" * 200, False),
    ],
)
def test_a_reply_is_read_as_the_one_action_it_names_or_handed_on_as_it_is(
    reply: str, action: str, admissible: bool
) -> None:
    assert read_action(reply, SEEN) == (action, admissible)


def test_where_any_text_may_be_tried_the_whole_reply_is_the_action() -> None:
    seen = Observation("agent", "")
    assert read_action(" In all: 12\nThe answer is 12.\n", seen) == ("In all: 12\nThe answer is 12.", True)
    assert read_action(" \n", seen) == ("", False)


def test_of_two_actions_one_inside_the_other_the_longer_is_meant() -> None:
    seen = Observation("agent", "", ("open door", "open door with key"))
    assert read_action("I open door with key now", seen) == ("open door with key", True)


async def test_oldest_turns_leave_a_full_window_and_the_head_stays() -> None:
    model = ScriptedChatModel(replies=["oil"])
    first = (*HEAD, Message("user", "history", "first " * 40))
    later = [(Message("user", "history", f"turn {index} " * 40),) for index in range(1, 5)]
    earlier = [Step("agent", SEEN, messages, "oil", Action("oil")) for messages in (first, *later)]
    acted = await act(_policy(model, window_tokens=250), SEEN, (), "", earlier, TAG, random.Random(0))
    sent = "\n".join(str(message.content) for message in model.requests[0])
    assert acted.step.history_from > 0
    assert "You mend things." in sent
    assert "A clock has rust." in sent
    assert "turn 4" in sent
    assert "turn 1 " not in sent
    assert "first" not in sent


async def test_the_first_observation_stays_in_a_full_window_where_that_is_asked_for() -> None:
    model = ScriptedChatModel(replies=["oil"] * 6)
    policy = _policy(model, window_tokens=60, keep_first=True)
    steps: list[Step] = []
    for index in range(6):
        seen = Observation("agent", f"Page {index}. " * 8)
        head = HEAD if not steps else ()
        steps.append((await act(policy, seen, head, "", steps, TAG, random.Random(0))).step)
    sent = "\n".join(str(message.content) for message in model.requests[-1])
    assert steps[-1].history_from > 1
    assert [index for index in range(6) if f"Page {index}." in sent] == [0, *range(steps[-1].history_from, 6)]


async def test_a_thought_is_handed_on_whatever_actions_it_names() -> None:
    thought = "think[The oil, I would say.]"
    for told, action in (("", "oil"), ("think[", thought)):
        policy = _policy(ScriptedChatModel(replies=[f" {thought}\nMore."]), thought=told)
        acted = await act(policy, SEEN, HEAD, "", (), TAG, random.Random(0))
        assert (acted.step.action.text, acted.malformed) == (action, False)
