"""ISR-LLM's signature, line by line, through whole runs."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from systems.problems import questions
from systems.runs import calls, generations, handed_in, play, prompt, visited

from evolvent.agents.feedback import plan_check
from evolvent.agents.feedback.plan_check import REJECTED, VALIDATOR, objection, traced
from evolvent.agents.models.scripted import ScriptedChatModel
from evolvent.agents.recipes.isr_llm import PRESETS
from evolvent.agents.run import RunConfig, result
from evolvent.agents.solutions.formalize import TRANSLATOR, by_goals, shortest_plan
from evolvent.environments import planning
from evolvent.environments.planning import domain_pddl, parse_plan, problem_pddl, validate
from evolvent.environments.planning_domains import WORLDS
from evolvent.environments.strips import Call
from evolvent.environments.types import Task

IDLE = Call("wait")
"""No action of any domain: a flaw wherever it stands."""


def config(tasks: int = 1, **settings: Any) -> RunConfig:
    few = {"translate": False, "max_refinements": 10}
    return RunConfig(
        recipe="isr-llm",
        environment="planning",
        tasks=tasks,
        generations=1,
        settings={**few, **settings},
        embedder="hash",
    )


def told(plan: Any) -> str:
    return "\n".join(call.text for call in plan)


def wrong_at(task: Task, *positions: int) -> str:
    plan = list(shortest_plan(task))
    for position in positions:
        plan[position - 1] = IDLE
    return told(plan)


def system(messages: Any) -> str:
    return str(messages[0].text)


def parts(
    plan: Callable[[int], str],
    check: Callable[[int], str] = lambda _: "Verdict: no",
    pddl: str = "(define (problem p))",
) -> ScriptedChatModel:
    """Translator, planner and validator of one task: the k-th plan and the k-th check."""
    asked: Counter[str] = Counter()

    def reply(messages: Any) -> str:
        asked[system(messages)] += 1
        number = asked[system(messages)] - 1
        if system(messages) == TRANSLATOR:
            return pddl
        return check(number) if system(messages) == VALIDATOR else plan(number)

    return ScriptedChatModel(reply)


@pytest.fixture(scope="module")
def task() -> Task:
    """The one that runs of one task have: its shortest plan is long enough to be wrong twice."""
    (drawn,) = questions(config())
    assert len(shortest_plan(drawn)) > 5
    return drawn


@pytest.fixture(scope="module")
def failing(tmp_path_factory: pytest.TempPathFactory, task: Task) -> Path:
    """Ten plans fail, each at a position of its own and at the last; the eleventh is right."""

    def plan(number: int) -> str:
        return told(shortest_plan(task)) if number == 10 else wrong_at(task, 1 + number % 5, len(shortest_plan(task)))

    return play(tmp_path_factory.mktemp("failing") / "run", config(), {"actor": parts(plan)})


@pytest.mark.signature("isr-llm", 0)
def test_of_two_errors_the_first_alone_is_told(tmp_path: Path, task: Task) -> None:
    run = play(tmp_path / "run", config(max_refinements=1), {"actor": parts(lambda _: wrong_at(task, 2, 5))})
    said = calls(run, purpose="plan")[-1]["messages"][-1]["content"]
    assert "Action 2, (wait): there is no action 'wait'." in said
    assert len(re.findall(r"Action \d", said)) == 1


@pytest.mark.signature("isr-llm", 1)
def test_after_k_failures_the_conversation_holds_k_plans_each_with_its_objection(failing: Path) -> None:
    made = calls(failing, purpose="plan")
    assert len(made) == 11
    for number, (call, before) in enumerate(zip(made[1:], made[:-1], strict=True), 1):
        turns = call["messages"]
        assert turns[: len(before["messages"])] == before["messages"]
        assert [turn["role"] for turn in turns] == ["system", *["user", "assistant"] * number, "user"]
        objections = [turn["content"] for turn in turns[3::2]]
        assert [text.split("Action ")[1][0] for text in objections] == [str(1 + at % 5) for at in range(number)]
        assert turns[-2]["content"] == before["reply"]


@pytest.mark.signature("isr-llm", 2)
def test_a_task_takes_eleven_plans_at_most_and_one_where_the_first_holds(
    tmp_path: Path, failing: Path, task: Task
) -> None:
    assert generations(failing)[0]["refinements"] == {task.id: 10}
    assert handed_in(failing) == [told(shortest_plan(task))]
    hopeless = play(tmp_path / "hopeless", config(), {"actor": parts(lambda _: "(wait)")})
    assert len(calls(hopeless, purpose="plan")) == 11
    assert visited(hopeless) == ["tasks", "plan", *["validate", "replan"] * 11, "submit", "evaluate"]
    at_once = play(tmp_path / "at-once", config(), {"actor": parts(lambda _: told(shortest_plan(task)))})
    assert len(calls(at_once)) == 1


@pytest.mark.signature("isr-llm", 3)
def test_a_plan_that_goes_on_behind_its_goal_is_rejected(tmp_path: Path, task: Task) -> None:
    plan = shortest_plan(task)
    run = play(
        tmp_path / "run", config(), {"actor": parts(lambda number: told(plan if number else (*plan, Call("fly"))))}
    )
    made = calls(run, purpose="plan")
    assert len(made) == 2
    assert "goal already satisfied" in made[1]["messages"][-1]["content"]
    assert handed_in(run) == [told(plan)]


@pytest.mark.signature("isr-llm", 4)
@pytest.mark.parametrize("verdict", ["yes", "no"])
def test_the_model_s_own_verdict_decides_and_the_simulator_s_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, task: Task, verdict: str
) -> None:
    made = []
    for flipped in (False, True):
        if flipped:
            for module in (planning, plan_check):
                monkeypatch.setattr(module, "validate", _flipped)
        actor = parts(lambda _: wrong_at(task, 2), lambda _: f"Verdict: {verdict}")
        asked = config(validator="self", validator_examples=0, max_refinements=3)
        run = play(tmp_path / str(flipped), asked, {"actor": actor})
        assert generations(run)[0]["scores"] == {task.id: [float(flipped)]}
        made.append([row["purpose"] for row in calls(run)])
    assert made[0] == made[1] == (["plan", "validate"] if verdict == "yes" else ["plan", "validate"] * 3 + ["plan"])


@pytest.mark.signature("isr-llm", 5)
def test_the_planner_reads_pddl_and_never_the_task_in_words(tmp_path: Path, task: Task) -> None:
    pddl = f"{domain_pddl(task)}\n{problem_pddl(task)}".strip()
    run = play(
        tmp_path / "run",
        config(translate=True, max_refinements=2),
        {"actor": parts(lambda _: wrong_at(task, 2), pddl=pddl)},
    )
    (asked,) = calls(run, purpose="translate")
    assert task.prompt in prompt(asked)
    made = calls(run, purpose="plan")
    assert len(made) == 3
    for call in made:
        assert problem_pddl(task) in prompt(call)
        assert task.prompt not in prompt(call)
    assert [row["purpose"] for row in calls(run, phase="control")] == ["act"], "one direct plan, of the task in words"
    assert task.prompt in prompt(calls(run, phase="control")[0])
    assert generations(run)[0]["mistranslated"] == {task.id: 0}


@pytest.mark.signature("isr-llm", 5)
def test_the_direct_baseline_plans_once(tmp_path: Path, task: Task) -> None:
    run = play(tmp_path / "run", config(validator="none"), {"actor": parts(lambda _: "(wait)")})
    (call,) = calls(run)
    assert task.prompt in prompt(call)
    assert visited(run) == ["tasks", "plan", "submit", "evaluate"]


def test_plans_get_hotter_with_the_attempts_at_a_task_up_to_a_cap(tmp_path: Path) -> None:
    heats: list[float] = []

    class Heated(ScriptedChatModel):
        async def _agenerate(self, messages: Any, stop: Any = None, run_manager: Any = None, **settings: Any) -> Any:
            heats.append(settings["temperature"])
            return await super()._agenerate(messages, stop, run_manager, **settings)

    play(tmp_path / "run", config(max_refinements=6), {"actor": Heated(lambda _: "(wait)")})
    assert heats == pytest.approx([0, 0.1, 0.2, 0.3, 0.4, 0.4, 0.4])


def test_a_validator_hears_of_facts_where_there_is_a_translation_and_of_the_task_where_not(
    tmp_path: Path, task: Task
) -> None:
    for name, pddl, expected in (
        ("words", None, task.prompt),
        ("pddl", problem_pddl(task), "Goal facts: (on"),
        ("broken", "(define (problem oops", "(define (problem oops"),
    ):
        settings = {"translate": pddl is not None, "validator": "self", "max_refinements": 1}
        actor = parts(lambda _: "(wait)", lambda _: "Error: Action 1, (wait): no.\nVerdict: no", pddl or "")
        run = play(tmp_path / name, config(**settings), {"actor": actor})
        assert expected in calls(run, purpose="validate")[0]["messages"][-1]["content"]
        assert "Action 1, (wait): no." in calls(run, purpose="plan")[-1]["messages"][-1]["content"]


def test_an_empty_plan_replaces_none_and_an_empty_translation_leaves_the_words(tmp_path: Path, task: Task) -> None:
    actor = parts(lambda number: "" if number else "(wait)", pddl="")
    run = play(tmp_path / "run", config(translate=True, max_refinements=2), {"actor": actor})
    assert handed_in(run) == ["(wait)"]
    assert all(task.prompt in prompt(row) for row in calls(run, purpose="plan"))
    assert generations(run)[0]["mistranslated"] == {task.id: None}


@pytest.mark.parametrize(
    ("analysis", "said"),
    [
        ("1. (a): (b)\nVerdict: yes", ""),
        ("1. (a): (b)\nError: Action 2, (c): why.\nVerdict: no", "Action 2, (c): why."),
        ("**Verdict:** Yes.\nNo, wait.\nVerdict: no", "No, wait."),
        ("It looks good, yes", "It looks good, yes"),
        ("Verdict: no", REJECTED),
        ("", REJECTED),
    ],
)
def test_a_check_accepts_a_plan_by_its_last_verdict_alone(analysis: str, said: str) -> None:
    assert objection(analysis) == said


@pytest.mark.parametrize("domain", WORLDS)
def test_examples_are_told_by_goals_and_traced_truly(domain: str) -> None:
    for task in planning.Planning(domain=domain).tasks("validation", 5, 0):
        assert validate(task, parse_plan(by_goals(task))).valid
        named = re.findall(r"^Goal (.*?):", by_goals(task), re.MULTILINE)
        assert sorted(" and ".join(named).split(" and ")) == sorted(
            f"({' '.join(fact)})" for fact in planning.problem_of(task).goal
        )
        plan = shortest_plan(task)
        assert traced(task, plan).endswith("Verdict: yes")
        assert objection(traced(task, plan)) == ""
        assert objection(traced(task, plan[1:])) == validate(task, plan[1:]).text


def test_paper_preset_has_the_paper_s_figures() -> None:
    paper = PRESETS["paper"]
    assert (paper.max_refinements, paper.max_refine_temperature, paper.temperature_step) == (10, 0.4, 0.1)
    assert (paper.translator_examples, paper.planner_examples, paper.validator_examples) == (3, 4, 6)


# -- what it is worth --------------------------------------------------------------------------------------------------


def planner(tasks: list[Task], seed: int) -> ScriptedChatModel:
    """Plans right with 30 %, else with one flaw; mends an action that is named with 70 %, and nothing of itself.

    As a validator it overlooks a flaw every second time.
    """
    asked: Counter[str] = Counter()

    def reply(messages: Any) -> str:
        text = "\n".join(str(message.text) for message in messages)
        task = max(tasks, key=lambda each: text.rfind(each.prompt))
        asked[task.id] += 1
        rng = random.Random(f"{seed}/{task.id}/{asked[task.id]}")
        right = shortest_plan(task)
        if system(messages) == VALIDATOR:
            flaw = validate(task, parse_plan(text.rpartition("Plan to check:")[2])).text
            return f"Error: {flaw}\nVerdict: no" if "wait" in flaw and rng.random() < 0.5 else "Verdict: yes"
        named = re.search(r"Action (\d+), ", str(messages[-1].text))
        if named and messages[-2].type == "ai":
            plan = list(parse_plan(str(messages[-2].text)))
            place = int(named[1]) - 1
            if rng.random() < 0.7:
                plan[place] = right[place]
            return told(plan)
        return told(right) if rng.random() < 0.3 else wrong_at(task, rng.randint(1, len(right)))

    return ScriptedChatModel(reply)


def test_exact_objections_lift_a_planner_more_than_its_own_or_mere_retries(tmp_path: Path) -> None:
    """The card's direction on 30 cases: external > self > direct, and external > re-sampling."""
    tasks = questions(config(tasks=30))
    solved = {}
    for arm, settings in {"external": {}, "self": {"validator": "self"}, "fresh": {"replan": "fresh"}}.items():
        asked = config(tasks=30, max_refinements=2, planner_examples=0, **settings)
        run = play(tmp_path / arm, asked, {"actor": planner(tasks, seed=1)})
        (row,) = generations(run)
        solved[arm] = sum(score for (score,) in row["scores"].values())
        solved["direct"] = sum(score for (score,) in row["frozen_scores"].values())
        if arm == "external":
            assert result(run)["verdict"] == "improved"
    assert solved["external"] > solved["self"] + 3 > solved["direct"] + 6
    assert solved["external"] > solved["fresh"] + 3


def _flipped(task: Task, plan: Any) -> Any:
    from evolvent.environments import strips

    valid = strips.check(planning.domain_of(task), planning.problem_of(task), plan).valid
    return strips.Verdict("goal" if valid else "", len(plan), reason="Flipped.")
