"""RCI's signature, line by line, through whole runs."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from systems.problems import questions
from systems.runs import calls, generations, handed_in, memory_of, play, prompt, visited

from evolvent.agents.models.scripted import ScriptedChatModel
from evolvent.agents.recipes.rci import CRITICISE_PLAN, IMPROVE, PLAN, PRESETS
from evolvent.agents.run import RunConfig, result
from evolvent.agents.solutions.grounded import GAVE_UP, NEXT, ON_PAGE
from evolvent.environments.types import Task, Trajectory
from evolvent.environments.web import Web

FINE = "It is correct."
FAULT = "The fault is fault number 7."
NOWHERE = "clickxpath //a[@id='nowhere']"
"""An instruction that does nothing on any page."""


def config(tasks: int = 1, environment: str = "web", **settings: Any) -> RunConfig:
    options = {"task": "log-in"} if environment == "web" else {}
    return RunConfig(
        recipe="rci",
        environment=environment,
        options=options,
        tasks=tasks,
        generations=1,
        settings=settings,
        embedder="hash",
    )


def plan_of(instructions: Sequence[str]) -> str:
    return "\n".join(f"{number}. {each}" for number, each in enumerate(instructions, 1))


def purpose(messages: Any) -> str:
    """Of a call, by how its prompt ends."""
    last = str(messages[-1].text)
    asked = {PLAN: "propose", CRITICISE_PLAN: "criticise", "still the one above": "improve", NEXT: "act"}
    return next((name for words, name in asked.items() if words in last), "ground" if ON_PAGE in last else "repair")


def agent(**said: Callable[[int], str]) -> ScriptedChatModel:
    """Of one task: its k-th reply for each purpose, by default one that is fit for it."""
    fit = {
        "propose": lambda _: "1. first\n2. plan",
        "criticise": lambda _: FAULT,
        "improve": lambda _: "1. better\n2. plan\n3. here",
        "act": lambda _: NOWHERE,
        "ground": lambda _: NOWHERE,
        "repair": lambda _: NOWHERE,
    }
    asked: Counter[str] = Counter()

    def reply(messages: Any) -> str:
        kind = purpose(messages)
        asked[kind] += 1
        return {**fit, **said}[kind](asked[kind] - 1)

    return ScriptedChatModel(reply)


def episode(run: Path, phase: Any = "train") -> Trajectory:
    with memory_of(run) as memory:
        (found,) = memory.ledger.episodes(phase=phase)
    return found.trajectories[0]


def made(run: Path, **fields: Any) -> list[str]:
    return [row["purpose"] for row in calls(run, **{"phase": "train", **fields})]


@pytest.fixture(scope="module")
def walk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One task: a plan of two lines, bettered to three, and followed to its end by steps that do nothing."""
    steps = agent(act=lambda number: NOWHERE.replace("nowhere", f"x{number}"))
    return play(tmp_path_factory.mktemp("walk") / "run", config(state_grounding=False), {"actor": steps})


@pytest.mark.signature("rci", 0)
def test_the_plan_is_criticised_and_bettered_once_and_only_the_better_one_is_followed(walk: Path) -> None:
    assert made(walk) == ["propose", "criticise", "improve", "act", "act", "act"]
    assert FAULT in prompt(calls(walk, purpose="improve")[0])
    for call in calls(walk, phase="train", purpose="act"):
        assert "1. better\n2. plan\n3. here" in prompt(call)
        assert "1. first" not in prompt(call)
    assert visited(walk) == ["tasks", "propose", "criticise", "improve", "act", "evaluate"]


@pytest.mark.signature("rci", 0)
def test_two_loops_grow_one_transcript(tmp_path: Path) -> None:
    settings = {"explicit_rci_loops": 2, "state_grounding": False}
    steps = agent(criticise=lambda number: f"Fault {number}.", improve=lambda number: f"1. a\n2. better {number}")
    run = play(tmp_path / "run", config(**settings), {"actor": steps})
    assert made(run)[:5] == ["propose", *["criticise", "improve"] * 2]
    turns = calls(run, purpose="improve")[1]["messages"]
    assert [turn["content"] for turn in turns if turn["role"] == "assistant"] == [
        "1. first\n2. plan",
        "Fault 0.",
        "1. a\n2. better 0",
        "Fault 1.",
    ]
    assert "better 1" in prompt(calls(run, purpose="act")[0])


@pytest.mark.signature("rci", 1)
def test_an_action_is_asked_for_with_all_that_was_executed_in_order(walk: Path) -> None:
    for number, call in enumerate(calls(walk, phase="train", purpose="act")):
        told = prompt(call).partition("Instructions executed so far: ")[2].rpartition(f"\n{NEXT}")[0]
        executed = [NOWHERE.replace("nowhere", f"x{each}") for each in range(number)]
        assert told.split("\n") == (["", *plan_of(executed).split("\n")] if executed else ["none executed"])
        assert [message["role"] for message in call["messages"]] == ["system", "user"], "earlier pages are left out"
        assert prompt(call).count("<body>") == 1


@pytest.mark.signature("rci", 2)
def test_a_bad_instruction_is_repaired_once_and_a_good_one_not(tmp_path: Path) -> None:
    steps = agent(act=lambda number: "I click it." if number == 1 else NOWHERE)
    run = play(tmp_path / "run", config(state_grounding=False), {"actor": steps})
    assert made(run)[3:] == ["act", "act", "repair", "act"]
    asked = calls(run, purpose="repair")[0]["messages"]
    assert asked[-2]["content"] == "I click it."
    assert "press KEY" in asked[-1]["content"]
    assert [step.action.text for step in episode(run).steps] == [NOWHERE] * 3
    assert all("I click it." not in prompt(row) for row in calls(run, purpose="act")[2:])


@pytest.mark.signature("rci", 2)
def test_two_bad_ones_in_a_row_end_the_episode_without_a_step(tmp_path: Path) -> None:
    steps = agent(act=lambda number: NOWHERE if number == 0 else "I click it.", repair=lambda _: "I really do.")
    run = play(tmp_path / "run", config(state_grounding=True), {"actor": agent_without_grounding(steps)})
    assert made(run)[3:] == ["act", "ground", "act", "ground", "repair"]
    played = episode(run)
    assert [step.result != "" for step in played.steps] == [True, False], "what the page answered"
    assert (played.outcome.success, played.outcome.score, played.outcome.detail) == (False, 0.0, GAVE_UP)
    assert played.cost.calls == 5
    assert generations(run)[0]["cost"]["calls"] == 3 + 5
    assert [message.text for message in played.prompt(1)][-1] == calls(run, purpose="repair")[0]["messages"][-1][
        "content"
    ]


@pytest.mark.signature("rci", 3)
@pytest.mark.parametrize(
    ("plan", "steps"),
    [("1. one", 4), ("1. one\n2. two", 2), ("1. one\n\n2. two\n3. three", 3), (plan_of([NOWHERE] * 30), 15)],
)
def test_an_episode_has_a_step_for_each_line_of_the_plan_and_four_for_a_single_line(
    tmp_path: Path, plan: str, steps: int
) -> None:
    settings = {"state_grounding": False, "reply_tokens": 2000}
    run = play(tmp_path / "run", config(**settings), {"actor": agent(improve=lambda _: plan)})
    assert len(episode(run).steps) == steps
    assert not episode(run).outcome.success


@pytest.mark.signature("rci", 4)
def test_a_critic_sees_the_first_page_and_no_reward(walk: Path) -> None:
    (task,) = questions(config())
    (asked,) = calls(walk, purpose="criticise")
    (seen,) = Web(task="log-in").reset(task, 0)
    shown = prompt(asked).rpartition(task.prompt)[2]
    assert shown.count("<body>") == 1
    assert seen.text in shown
    assert all(words not in prompt(asked) for words in ("That was", "is focused", "Nothing on the page"))
    before = [row["purpose"] for row in calls(walk)]
    assert before.index("act") > before.index("criticise")


def test_every_instruction_is_made_to_fit_the_page_where_that_is_asked_for(tmp_path: Path) -> None:
    steps = agent(act=lambda _: "the link, of course", ground=lambda _: NOWHERE)
    run = play(tmp_path / "run", config(state_grounding=True), {"actor": steps})
    assert made(run)[3:] == ["act", "ground"] * 3, "and what fits is not repaired"
    turns = calls(run, purpose="ground")[1]["messages"]
    assert turns[-2]["content"] == "the link, of course"


def test_the_direct_arm_follows_the_first_plan_without_grounding_or_repairs(walk: Path) -> None:
    control = calls(walk, phase="control")
    assert [row["purpose"] for row in control] == ["act", "act"]
    assert all("1. first" in prompt(row) for row in control)


def test_an_empty_plan_replaces_none(tmp_path: Path) -> None:
    steps = agent(improve=lambda _: "")
    run = play(tmp_path / "run", config(state_grounding=False), {"actor": steps})
    assert "1. first\n2. plan" in prompt(calls(run, purpose="act")[0])


# -- where one reply answers -------------------------------------------------------------------------------------------


def reasoner(says: Callable[[int], str]) -> ScriptedChatModel:
    asked: Counter[str] = Counter()

    def reply(messages: Any) -> str:
        last = str(messages[-1].text)
        kind = "review" if "Criticise" in last else "again" if IMPROVE in last else "first"
        asked[kind] += 1
        return says(asked["review"] - 1) if kind == "review" else f"The answer is {asked['again']}."

    return ScriptedChatModel(reply)


def test_an_answer_is_reviewed_and_improved_until_nothing_is_found(tmp_path: Path) -> None:
    says = reasoner(lambda number: FINE if number == 2 else FAULT)
    run = play(tmp_path / "run", config(environment="word_problems", reasoning_rounds=5), {"actor": says})
    assert [row["purpose"] for row in calls(run)] == ["propose", *["criticise", "improve"] * 2, "criticise"]
    assert handed_in(run) == ["The answer is 2."]
    assert list(generations(run)[0]["rounds"].values()) == [2]
    asked = calls(run, purpose="improve")[1]["messages"]
    assert [turn["content"] for turn in asked if turn["role"] == "assistant"] == [
        "The answer is 0.",
        FAULT,
        "The answer is 1.",
        FAULT,
    ]
    once = play(tmp_path / "once", config(environment="word_problems"), {"actor": reasoner(lambda _: FAULT)})
    assert [row["purpose"] for row in calls(once)] == ["propose", "criticise", "improve"]


def test_a_label_decides_nothing_while_it_reasons(tmp_path: Path) -> None:
    """A right answer is improved like a wrong one when its review finds fault."""
    (task,) = questions(config(environment="word_problems"))

    def reply(messages: Any) -> str:
        return FAULT if "Criticise" in str(messages[-1].text) else f"The answer is {task.data['answer']}."

    run = play(tmp_path / "run", config(environment="word_problems"), {"actor": ScriptedChatModel(reply)})
    assert [row["purpose"] for row in calls(run)] == ["propose", "criticise", "improve"]


# -- what it is worth --------------------------------------------------------------------------------------------------


def clerk(tasks: list[Task], seed: int) -> ScriptedChatModel:
    """Leaves the last step out of half of its plans and writes 40 % of its instructions in no form that there is.

    It notices a plan that lacks its end with 80 %.
    """
    asked: Counter[str] = Counter()

    def reply(messages: Any) -> str:
        text = "\n".join(str(message.text) for message in messages)
        task = max(tasks, key=lambda each: text.rfind(each.prompt))
        kind = purpose(messages)
        asked[f"{task.id} {kind}"] += 1
        rng = random.Random(f"{seed}/{task.id}/{kind}/{asked[f'{task.id} {kind}']}")
        whole = Web().expert(task)
        if kind == "propose":
            return plan_of(whole[:-1] if rng.random() < 0.5 else whole)
        if kind == "criticise":
            lacks = plan_of(whole) not in text
            return "The last click is missing." if lacks and rng.random() < 0.8 else "Nothing is."
        if kind == "improve":
            found = "is missing" in str(messages[-2].text)
            return plan_of(whole) if found else str(messages[-4].text)
        plan = re.findall(r"^\d+\. (.*)$", text.partition("Your plan:\n")[2].partition(task.prompt)[0], re.MULTILINE)
        done = text.partition("Instructions executed so far:")[2].partition(NEXT)[0].count("\n") - 1
        told = plan[done] if done < len(plan) else NOWHERE
        return f"Now {told}" if kind != "ground" and rng.random() < 0.4 else told

    return ScriptedChatModel(reply)


def test_criticism_of_plans_and_repairs_of_actions_each_help_and_both_help_most(tmp_path: Path) -> None:
    """The card's direction on 40 tasks: explicit > none, implicit > none, both > either."""
    forms = config(tasks=40).model_copy(update={"options": {"task": "pick-option"}})
    tasks = questions(forms)
    solved = {}
    for name, explicit, implicit in (("explicit", 1, 0), ("implicit", 0, 1), ("both", 1, 1)):
        settings = {"explicit_rci_loops": explicit, "implicit_rci_limit": implicit, "state_grounding": False}
        arm = forms.model_copy(update={"settings": settings})
        run = play(tmp_path / name, arm, {"actor": clerk(tasks, seed=1)})
        (row,) = generations(run)
        solved[name] = sum(score for (score,) in row["scores"].values())
        solved["none"] = sum(score for (score,) in row["frozen_scores"].values())
        if name == "both":
            assert result(run)["verdict"] == "improved"
    assert solved["both"] > max(solved["explicit"], solved["implicit"]) + 2
    assert min(solved["explicit"], solved["implicit"]) > solved["none"]


def test_paper_preset_has_the_paper_s_figures() -> None:
    paper = PRESETS["paper"]
    assert (paper.explicit_rci_loops, paper.implicit_rci_limit, paper.default_steps) == (1, 1, 4)
    assert (paper.state_grounding, paper.temperature, paper.reply_tokens) == (True, 0, 256)


def agent_without_grounding(steps: ScriptedChatModel) -> ScriptedChatModel:
    """The same, saying once more what it proposed when it is asked to make it fit the page."""

    def reply(messages: Any) -> str:
        script: Any = steps.replies
        return str(messages[-2].text) if purpose(messages) == "ground" else str(script(messages))

    return ScriptedChatModel(reply)
