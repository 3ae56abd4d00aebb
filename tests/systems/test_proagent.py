"""ProAgent's signature, line by line, through whole runs."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from systems.cooks import FAILED, asked_why, newest, planner
from systems.runs import calls, generations, memory_of, play, prompt, visited

from evolvent.agents import episode
from evolvent.agents.models.role import RoleModel
from evolvent.agents.models.scripted import ScriptedChatModel
from evolvent.agents.recipes.proagent import PRESETS, Config
from evolvent.agents.run import RunConfig
from evolvent.agents.solutions.act import Policy
from evolvent.agents.solutions.proactive import Planned, Proactive, asked, library, read_plan
from evolvent.agents.solutions.shots import Shots
from evolvent.agents.trace import Trace
from evolvent.environments.kitchen import Kitchen
from evolvent.environments.kitchen_skills import Skill
from evolvent.environments.types import Trajectory

SOUP = "Plan: deliver_soup()"
"""Cannot be carried out with empty hands."""
_HANDS = re.compile(r"You hold ([a-z ]+) and stand")


def config(tasks: int = 1, bots: dict[str, str] | None = None, **settings: Any) -> RunConfig:
    return RunConfig(
        recipe="proagent",
        environment="kitchen",
        options={"horizon": 60, "bots": {"b": "greedy"} if bots is None else bots},
        tasks=tasks,
        generations=1,
        concurrency=1,
        preset="paper",
        settings=settings,
        embedder="hash",
    )


def says(
    plan: Callable[[int], str], why: Callable[[int], str] = lambda number: f"Reason {number}."
) -> ScriptedChatModel:
    """The k-th reply of the planner and of the explainer, both from 0 on."""
    asked_for: Counter[bool] = Counter()

    def reply(messages: Any) -> str:
        explainer = asked_why(messages)
        asked_for[explainer] += 1
        return (why if explainer else plan)(asked_for[explainer] - 1)

    return ScriptedChatModel(reply)


def trajectories(run: Path) -> list[Trajectory]:
    with memory_of(run) as memory:
        return [each for found in memory.ledger.episodes(phase="train") for each in found.trajectories]


def hands(trajectory: Trajectory) -> list[str]:
    """What the cook held at each step, as it was told."""
    found = (_HANDS.search(step.observation.text) for step in trajectory.steps)
    return [each[1] for each in found if each is not None]


def planned(run: Path, **fields: Any) -> list[dict[str, Any]]:
    return calls(run, phase="train", purpose="plan", **fields)


def scene(call: Any) -> str:
    """The newest message of a call without the head that stands before an episode's first."""
    text: str = call["messages"][-1]["content"]
    return text[text.index("Step ") :]


@pytest.fixture(scope="module")
def slipping(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two kitchens with a planner that slips at three of ten plans."""
    return play(tmp_path_factory.mktemp("slipping") / "run", config(tasks=2), {"actor": planner(0.3, 0.8)})


@pytest.mark.signature("proagent", 0)
def test_the_planner_is_asked_when_a_skill_ends_and_at_no_other_step(slipping: Path) -> None:
    for trajectory in trajectories(slipping):
        held, steps = hands(trajectory), trajectory.steps
        assert asked(steps[0])
        assert sum(map(asked, steps)) < len(steps) / 2
        begun, skill = 0, read_plan(steps[0].reply).own
        for number in range(1, len(steps)):
            assert skill is not None
            waited = skill.name == "wait" and number - begun >= skill.steps
            ended = held[number] != held[begun] or waited
            # The partner may have filled the pot, or emptied it.
            useless = {"put_onion_in_pot": r"cooks a soup|has a soup", "fill_dish": r"holds \d of 3"}.get(
                skill.name, "$^"
            )
            spoilt = re.search(useless, steps[number].observation.text) is not None
            assert asked(steps[number]) >= ended
            assert not asked(steps[number]) or ended or spoilt
            if asked(steps[number]):
                begun, skill = number, read_plan(steps[number].reply).own
    assert sum(each.cost.calls for each in trajectories(slipping)) == len(calls(slipping, phase="train"))


@pytest.mark.signature("proagent", 1)
def test_what_cannot_be_done_is_explained_planned_anew_and_after_the_fourth_time_waited_out(tmp_path: Path) -> None:
    run = play(tmp_path / "run", config(queries=2), {"actor": says(lambda number: SOUP)})
    made = calls(run, phase="train")
    assert [row["purpose"] for row in made] == ["plan", *["explain", "plan"] * 3] * 2
    for number, row in enumerate(planned(run)[1:4]):
        assert f"deliver_soup() cannot be carried out now. Reason {number}." in scene(row)
    for row in calls(run, phase="train", purpose="explain"):
        assert "You hold nothing and stand at" in scene(row)
        assert "Which precondition of deliver_soup() fails" in scene(row)
        assert "deliver_soup(): hand a soup over at the serving hatch. You must hold a soup." in prompt(row)
    (cook,) = trajectories(run)
    assert [asked(step) for step in cook.steps[:4]] == [True, True, False, False]
    assert {step.action.text for step in cook.steps} == {"stay"}


@pytest.mark.signature("proagent", 1)
def test_a_skill_that_is_spoilt_on_the_way_is_explained_too_and_counts_as_the_first_failure(tmp_path: Path) -> None:
    """The partner fills the pot while the cook waits with an onion: what it held on to fails under its hands."""

    def plan(number: int) -> str:
        return ["Plan: pickup(onion)", "Plan: wait(20)"][number] if number < 2 else "Plan: put_onion_in_pot()"

    asked_for = config(bots={"b": "onion-only"}, queries=9, skill_limit=60).model_copy(
        update={"options": {"horizon": 90, "bots": {"b": "onion-only"}, "layout": "sides"}}
    )
    run = play(tmp_path / "run", asked_for, {"actor": says(plan)})
    failed = [row for row in planned(run) if "cannot be carried out" in scene(row)]
    assert failed, "the pot was full"
    (cook,) = trajectories(run)
    assert generations(run)[0]["illegal_steps"][cook.id] == 0
    for step in cook.steps:
        if asked(step) and "cooks a soup" in step.observation.text:
            assert step.action.text == "stay", "an onion for a full pot is not carried on with"


@pytest.mark.signature("proagent", 2)
@pytest.mark.parametrize("k", [0, 1, 3])
def test_earlier_messages_are_shown_after_a_failure_alone_and_the_last_k_of_them(tmp_path: Path, k: int) -> None:
    replies = ["Plan: pickup(onion)", "Plan: fill_dish()", SOUP, "Plan: place_on_counter()"]
    run = play(tmp_path / "run", config(memory_k=k, queries=2), {"actor": says(lambda number: replies[number % 4])})
    first, second, third, fourth = planned(run)
    knowledge = library(intention=False, wait_limit=20)
    for row in (first, second):
        _, user = row["messages"]
        assert knowledge.strip() in user["content"]
        assert user["content"].count("soups served:") == 1, "the state as it is, and no other"
    memory = [scene(first), replies[0], scene(second), replies[1]]
    for row, reply in ((third, replies[2]), (fourth, "")):
        shown = "\n".join(message["content"] for message in row["messages"])
        expected = [*memory[len(memory) - k :], scene(row)]
        assert shown.endswith("\n".join(expected))
        assert shown.removesuffix("\n".join(expected)).count("Step ") == 0
        memory += [scene(row), reply]
    assert not any("cannot be carried out" in scene(row) for row in (first, second))


@pytest.mark.signature("proagent", 3)
def test_what_was_expected_of_the_partner_and_what_it_did_are_listed_apart_with_their_steps(tmp_path: Path) -> None:
    def reply(messages: Any) -> str:
        held = re.findall(_HANDS, newest(messages))[-1]
        plan = {"nothing": "pickup(onion)", "an onion": "put_onion_in_pot()"}[held]
        return f"Intention: wait(7)\nPlan: {'wait(20)' if ') cooks a soup' in newest(messages) else plan}"

    settings = {"intention": True, "belief_correction": True, "verification": "code"}
    run = play(tmp_path / "run", config(bots={}, **settings), {"actor": ScriptedChatModel(reply)})
    cooks = {each.player: each for each in trajectories(run)}
    for me, partner in (("a", "b"), ("b", "a")):
        told = [step.messages[-1].text for step in cooks[me].steps if asked(step)]
        assert len(told) >= 3
        for text in told:
            now = int(re.findall(r"Step (\d+) of", text)[-1])
            plans = [at for at, step in enumerate(cooks[me].steps[:now]) if asked(step)]
            expected = "; ".join(f"step {at}: wait(7)" for at in plans) or "nothing yet"
            assert f"You expected your partner to do: {expected}." in text
            held = hands(cooks[partner])[: now + 1]
            names = {"nothing": "put_onion_in_pot()", "an onion": "pickup(onion)"}
            changes = [(at, names[new]) for at, (old, new) in enumerate(pairwise(held), 1) if old != new]
            really = "; ".join(f"step {at}: {name}" for at, name in changes) or "nothing yet"
            assert f"Your partner really finished: {really}." in text
        assert "pickup(onion)" in told[-1]
        assert "wait(7)" not in told[-1].partition("really finished")[2]


def test_without_belief_correction_nothing_is_listed(slipping: Path) -> None:
    assert not any("really finished" in prompt(row) for row in calls(slipping))


@pytest.mark.signature("proagent", 4)
def test_of_two_skills_in_a_plan_the_first_alone_is_done(tmp_path: Path) -> None:
    both = "Plan: pickup(onion) and then put_onion_in_pot()"
    run = play(tmp_path / "run", config(queries=1), {"actor": says(lambda number: both)})
    (cook,) = trajectories(run)
    held = hands(cook)
    assert held[0] == "nothing"
    assert held[-1] == "an onion", "it was picked up, and put nowhere"
    assert asked(cook.steps[0])
    assert not any(map(asked, cook.steps[1:]))


@pytest.mark.parametrize(
    ("reply", "own", "partner"),
    [
        (
            "Analysis: x\nIntention: fill_dish()\nPlan: pickup(onion), put_onion_in_pot()",
            "pickup(onion)",
            "fill_dish()",
        ),
        ("**Plan**: wait(3)\nIntention: deliver_soup()", "wait(3)", "deliver_soup()"),
        ("pickup(dish)", "pickup(dish)", ""),
        ("I will fill_dish().\nIntention: deliver_soup()", "fill_dish()", "deliver_soup()"),
        ("Intention: deliver_soup()", "", "deliver_soup()"),
        ("Plan: pickup(dish)\n\nExample.\nIntention: wait(5)\nPlan: wait(9)", "pickup(dish)", "wait(5)"),
        ("Plan: cook well\nAnalysis: pickup(onion) is good", "", ""),
        ("", "", ""),
    ],
)
def test_a_plan_is_read_leniently_and_the_partner_s_skill_is_never_taken_for_one(
    reply: str, own: str, partner: str
) -> None:
    assert _texts(read_plan(reply)) == (own, partner)


def _texts(plan: Planned) -> tuple[str, str]:
    return plan.own.text if plan.own else "", plan.partner.text if plan.partner else ""


@pytest.mark.signature("proagent", 5)
def test_an_episode_begins_with_an_empty_memory(tmp_path: Path) -> None:
    """Every plan of both kitchens fails, so memory is shown wherever there is any."""
    settings = {"memory_k": 50, "queries": 1, "intention": True, "belief_correction": True}
    run = play(
        tmp_path / "run", config(tasks=2, **settings), {"actor": says(lambda number: f"Analysis: {number}. {SOUP}")}
    )
    made = planned(run)
    tasks = list(dict.fromkeys(row["task"] for row in made))
    assert len(tasks) == 2
    for task, number in zip(tasks, (0, 4), strict=True):
        own = planned(run, task=task)
        assert [len(row["messages"]) for row in own] == [2, 4, 6, 8]
        assert not re.search(r"Analysis: \d", prompt(own[0]))
        assert "to do: nothing yet." in prompt(own[0])
        assert "finished: nothing yet." in prompt(own[0])
        assert re.findall(r"Analysis: (\d)", prompt(own[-1])) == [str(number + each) for each in range(3)]


# -- beside the signature ----------------------------------------------------------------------------------------------


def test_every_phase_is_a_node_and_the_control_is_the_same_model_unchecked(slipping: Path) -> None:
    assert visited(slipping) == ["tasks", "cook", "evaluate"]
    assert {row["purpose"] for row in calls(slipping, phase="control")} == {"plan"}
    assert not any("cannot be carried out" in prompt(row) for row in calls(slipping, phase="control"))


@pytest.mark.parametrize("reply", ["", "No idea.", "\ud800", "Plan: cook"])
def test_a_reply_without_a_plan_waits_a_step_and_asks_nobody_why(tmp_path: Path, reply: str) -> None:
    run = play(tmp_path / "run", config(queries=3), {"actor": says(lambda number: reply)})
    (cook,) = trajectories(run)
    assert [row["purpose"] for row in calls(run, phase="train")] == ["plan"] * 3
    assert [asked(step) for step in cook.steps[:4]] == [True, True, True, False]
    assert {step.action.text for step in cook.steps} == {"stay"}


@pytest.mark.parametrize(
    ("verification", "why"), [("code", " You must hold a soup, and you hold nothing."), ("silent", "")]
)
def test_explanations_in_code_ask_no_model(tmp_path: Path, verification: str, why: str) -> None:
    settings = {"verification": verification, "queries": 1}
    run = play(tmp_path / "run", config(**settings), {"actor": says(lambda number: SOUP)})
    assert [row["purpose"] for row in calls(run, phase="train")] == ["plan"] * 4
    assert [FAILED.findall(scene(row)) for row in planned(run)] == [[], *[[why]] * 3]


def test_an_explainer_that_says_nothing_leaves_that_it_failed(tmp_path: Path) -> None:
    run = play(tmp_path / "run", config(queries=1), {"actor": says(lambda number: SOUP, lambda number: " \n")})
    assert [FAILED.findall(scene(row)) for row in planned(run)] == [[], *[[""]] * 3]


def test_a_skill_that_comes_to_nothing_is_given_up_after_its_limit(tmp_path: Path) -> None:
    """The partner stands before the only pot for good."""

    def reply(messages: Any) -> str:
        if "Step 0 of" in newest(messages):
            return "Plan: wait(8)"
        return "Plan: put_onion_in_pot()" if "You hold an onion" in newest(messages) else "Plan: pickup(onion)"

    asked_for = config(tasks=2, bots={"b": "blocks-pot"}, skill_limit=10)
    run = play(tmp_path / "run", asked_for, {"actor": ScriptedChatModel(reply)})
    _, cook = trajectories(run)
    assert "to a pot. The pot at" in cook.steps[-1].observation.text, "the partner got there"
    gaps = [later - at for at, later in pairwise(n for n, step in enumerate(cook.steps) if asked(step))]
    assert max(gaps) == 10
    assert gaps[-3:] == [10] * 3


def test_a_wait_stands_still_for_its_steps(tmp_path: Path) -> None:
    run = play(tmp_path / "run", config(bots={}), {"actor": says(lambda number: "Plan: wait(6)")})
    for cook in trajectories(run):
        assert [n for n, step in enumerate(cook.steps) if asked(step)] == list(range(0, 60, 6))
        assert {step.action.text for step in cook.steps} == {"stay"}


def test_beliefs_are_corrected_only_where_there_are_any() -> None:
    with pytest.raises(ValidationError, match="set intention=true as well"):
        Config(belief_correction=True)


def test_paper_preset_has_the_paper_s_figures() -> None:
    paper = PRESETS["paper"]
    assert (paper.memory_k, paper.max_replans, paper.wait_limit, paper.reply_tokens) == (1, 3, 20, 256)
    assert (paper.intention, paper.belief_correction, paper.verification) == (False, False, "model")


# -- what it is worth --------------------------------------------------------------------------------------------------


def cooked(model: ScriptedChatModel, manner: Proactive, partner: str, tasks: int = 3) -> list[Trajectory]:
    """Episodes of 120 steps beside a partner, without a run around them."""
    world = Kitchen(bots={"b": partner})
    knowledge = Shots(library(intention=manner.intention, wait_limit=manner.wait_limit))
    policy = Policy(RoleModel("cook", model, Trace(None)), knowledge, manner=manner)
    played: list[Trajectory] = []

    async def every() -> None:
        for task in world.tasks("train", tasks, 0):
            played.extend(await episode.play(episode.Job(task, {"": policy}, "train", 1), world))

    asyncio.run(every())
    assert not any(each.outcome.failure for each in played)
    return played


def score(played: Sequence[Trajectory]) -> float:
    return sum(each.outcome.score for each in played) / len(played)


def test_checking_plans_takes_away_the_steps_that_are_spent_on_what_cannot_be_done(slipping: Path) -> None:
    (row,) = generations(slipping)
    own = [count for name, count in row["illegal_steps"].items() if name.startswith("train/")]
    direct = [count for name, count in row["illegal_steps"].items() if name.startswith("control/")]
    assert len(own) == len(direct) == 2
    assert sum(own) == 0 < 40 < sum(direct)


def test_explanations_lower_the_replans_that_a_failure_takes() -> None:
    """One who slips every second time and heeds nine of ten explanations."""
    replans = {}
    for verification in ("silent", "code"):
        model = planner(0.5, 0.9)
        failing = [
            step
            for each in cooked(model, Proactive(verification), "greedy")
            for step in each.steps
            if asked(step) and FAILED.search(step.messages[-1].text)
        ]
        assert len(failing) > 15
        told = [request for request in model.requests if FAILED.search(newest(request))]
        replans[verification] = len(told) / len(failing)
    assert replans["code"] < 1.25 < 1.4 < replans["silent"]


def test_beside_one_who_only_brings_onions_corrected_beliefs_turn_a_cook_to_dishes_and_score() -> None:
    """The cook trusts its partner with the dishes until it is told what that one really did.

    Negative control: beside a partner who does fetch dishes there is nothing to correct.
    """
    scores, dishes = {}, {}
    for partner in ("onion-only", "greedy"):
        for belief in (False, True):
            played = cooked(planner(trusting=True), Proactive("code", intention=belief, belief=belief), partner)
            skills = Counter(read_plan(s.reply).own or Skill("") for each in played for s in each.steps if asked(s))
            scores[partner, belief] = score(played)
            dishes[partner, belief] = sum(skills[Skill(*each)] for each in DISHES) / sum(skills.values())
    assert scores["onion-only", False] == 0
    assert scores["onion-only", True] > 0.6
    assert dishes["onion-only", False] == 0
    assert dishes["onion-only", True] > 0.3
    assert scores["greedy", False] > 0.6
    assert abs(scores["greedy", True] - scores["greedy", False]) < 0.35


DISHES = (("pickup", "dish"), ("fill_dish",), ("deliver_soup",))
