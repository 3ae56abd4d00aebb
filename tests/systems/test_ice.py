"""ICE's signature, line by line, through whole runs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from langchain_core.language_models import BaseChatModel
from systems.errands import right, runner
from systems.runs import calls, generations, memory_of, play, prompt, visited

from evolvent.agents.feedback.goal_check import call_of
from evolvent.agents.models.scripted import ScriptedChatModel
from evolvent.agents.recipes.ice import Config, build
from evolvent.agents.run import RunConfig
from evolvent.agents.solutions.plans import Course, course
from evolvent.environments.tool_calls import read_call
from evolvent.environments.toolbox import subgoals
from evolvent.environments.types import Phase, Task, Trajectory
from evolvent.memory.types import Record

SHEEP = "count the sheep in both files"
LOOK = "see what there is to do"


def config(train: int = 6, generations: int = 1, evaluated: int = 6, **settings: Any) -> RunConfig:
    return RunConfig(
        recipe="ice",
        environment="toolbox",
        tasks=train,
        evaluated=evaluated,
        generations=generations,
        preset="paper",
        settings={"threshold": 0.7, **settings},  # of this embedder, see the setting
        embedder="hash",
    )


def episodes(run: Path, phase: Phase, generation: int) -> list[Trajectory]:
    with memory_of(run) as memory:
        return [each.trajectories[0] for each in memory.ledger.episodes(phase=phase, generation=generation)]


def went(trajectory: Trajectory) -> Course:
    return course(trajectory.steps, call_of)


def skills(run: Path, fact: str) -> list[Record]:
    with memory_of(run) as memory:
        return [record for record in memory.records().values() if fact in record.meta]


def of(family: str, played: Sequence[Trajectory]) -> Trajectory:
    return next(each for each in played if family in each.task.tags)


def used(run: Path, generation: int) -> dict[str, int]:
    """Model calls by held-out task."""
    return {each.task.id: each.cost.calls for each in episodes(run, "eval", generation)}


def score(run: Path, generation: int) -> float:
    played = episodes(run, "eval", generation)
    return sum(each.outcome.score for each in played) / len(played)


def stumbling(task: Task, goal: str, chain: list[str]) -> list[str]:
    """Right in the end, with a failed and a repeated call; gives up on the sheep; lies about the last of a letter."""
    if goal == SHEEP:
        return [right(task)[subgoals(task)[0]][0], "failed"]
    if goal.startswith("overwrite"):
        return (
            ["done"] if len(chain) == 1 and "sent" not in goal else ["sort_table(table='none', column='a', order='b')"]
        )
    if "order" in task.tags and len(chain) == 3:
        return ['read_file(path="nowhere.txt")', chain[0], chain[0], *chain[1:], "done"]
    return [*chain, "done"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A strong investigator that stumbles, and an actor that does not."""
    investigator = runner(
        way=stumbling,
        plan=lambda task, shown: [SHEEP, "do the rest"] if "sum" in task.tags else subgoals(task),
        revise=lambda task, said: subgoals(task) if "sum" in task.tags else (),
    )
    actor = runner(plan=lambda task, shown: [LOOK, *subgoals(task)] if "lightest" in task.tags else subgoals(task))
    return play(tmp_path_factory.mktemp("ice") / "run", config(), {"actor": actor, "investigator": investigator})


@pytest.mark.signature("ice", 0)
def test_a_workflow_holds_the_goals_that_were_met_in_order_and_no_tool_argument(run: Path) -> None:
    played = of("sum", episodes(run, "train", 1))
    assert [goal.status for goal in went(played).plan] == ["failed", "met", "met"]
    assert [goal.text for goal in went(played).plans[0]] == [SHEEP, "do the rest"]
    (workflow,) = [each for each in skills(run, "workflow") if played.id in each.parents]
    assert workflow.text == (
        "1. add up the amounts in … and … (by read_file, calculate)\n2. write the sum into … (by write_file)"
    )
    for each in episodes(run, "train", 1):
        (kept,) = [record for record in skills(run, "workflow") if each.id in record.parents]
        handed = {str(value) for call in went(each).calls[:-1] for value in call.arguments.values()}
        assert not handed & set(kept.text.replace("(by ", " ").split())


@pytest.mark.signature("ice", 1)
def test_a_failed_goal_has_no_pipeline_and_failed_and_repeated_calls_are_in_none(run: Path) -> None:
    kept = {record.meta["question"]: record.meta["pipeline"] for record in skills(run, "pipeline")}
    assert SHEEP not in kept
    order = of("order", episodes(run, "train", 1))
    leaf = went(order).leaves[0]
    assert [(call.tool, call.failed) for call in leaf.calls[:3]] == [
        ("read_file", True),
        ("read_file", False),
        ("read_file", False),
    ]
    assert [node["tool"] for node in kept[leaf.goal.text]["nodes"]] == ["read_file", "lookup", "calculate"]


def test_what_an_abandoned_goal_found_is_part_of_the_pipeline_that_used_it(run: Path) -> None:
    leaf = went(of("sum", episodes(run, "train", 1))).leaves[1]
    assert [call.tool for call in leaf.calls] == ["read_file", "calculate"]
    kept = {record.meta["question"]: record.meta["pipeline"] for record in skills(run, "pipeline")}
    assert [node["tool"] for node in kept[leaf.goal.text]["nodes"]] == ["read_file", "read_file", "calculate"]
    assert of("sum", episodes(run, "eval", 1)).outcome.success


def test_a_goal_that_was_only_said_to_be_met_leaves_nothing(run: Path) -> None:
    letter = of("letter", episodes(run, "train", 1))
    said = went(letter).leaves[-1]
    assert said.goal.status == "met"
    assert said.goal.text not in {record.meta["question"] for record in skills(run, "pipeline")}
    (workflow,) = [each for each in skills(run, "workflow") if letter.id in each.parents]
    assert workflow.meta["workflow"] == len(subgoals(letter.task)) - 1


@pytest.mark.signature("ice", 2)
def test_a_pipeline_without_branches_whose_slots_can_be_copied_makes_its_calls_and_asks_nobody(run: Path) -> None:
    played = of("letter", episodes(run, "eval", 1))
    known = {record.id: record.meta["pipeline"] for record in skills(run, "pipeline")}
    read, send, write = went(played).leaves
    for leaf in (read, send):
        nodes = known[leaf.goal.way]["nodes"]
        assert all(slot["sources"] for node in nodes for slot in node["slots"])
        assert [call.tool for call in leaf.calls] == [node["tool"] for node in nodes]
    assert not write.goal.way
    rows = calls(run, phase="eval", generation=1, task=played.task.id)
    assert [row["purpose"] for row in rows] == ["plan", "act", "act", "act"]
    assert [read_call(row["reply"]).name for row in rows[1:] if row["reply"] != "done"] == ["write_file", "submit"]
    assert "for: " in played.steps[0].result
    assert played.outcome.success


def test_what_stood_nowhere_is_asked_for_and_never_copied(run: Path) -> None:
    played = of("order", episodes(run, "eval", 1))
    rows = calls(run, phase="eval", generation=1, task=played.task.id)
    assert [row["purpose"] for row in rows] == ["plan", "slot", "act"]
    assert "What is its operator?" in prompt(rows[1])
    assert played.outcome.success


@pytest.fixture(scope="module")
def shifted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """From the second generation on a tool has another name."""
    asked = config(generations=2).model_copy(update={"shifts": {2: {"renamed": True}}})
    return play(tmp_path_factory.mktemp("ice") / "shifted", asked, {"actor": runner(branch="2")})


@pytest.mark.signature("ice", 3)
def test_a_tool_that_fails_in_mid_replay_hands_the_goal_to_the_actor_who_goes_on_from_there(shifted: Path) -> None:
    for family in ("order", "letter"):
        played = went(of(family, episodes(shifted, "train", 2)))
        broken = played.leaves[0]
        assert [(call.tool, call.failed) for call in broken.calls][:3] == [
            ("read_file", False),
            ("lookup", True),
            ("consult", False),
        ]
        made = [(call.tool, json.dumps(call.arguments, sort_keys=True)) for call in played.calls]
        assert len(set(made)) == len(made)
        assert any(plan[0].way for plan in played.plans)
        assert (broken.goal.way, broken.goal.status) == ("", "met")
    # As good as without memory, which meets them all.
    assert all(each.outcome.success for each in episodes(shifted, "train", 2))
    assert generations(shifted)[2]["abandoned"] == 5


def test_where_the_traces_of_a_goal_part_the_model_is_asked_which_way_to_go(shifted: Path) -> None:
    played = of("order", episodes(shifted, "eval", 2))
    (row,) = calls(shifted, phase="eval", generation=2, task=played.task.id, purpose="branch")
    taught = [subgoals(of("order", episodes(shifted, "train", at)).task)[0] for at in (1, 2)]
    assert f"1. lookup, as for: {taught[0]}\n2. consult, as for: {taught[1]}\n" in prompt(row)
    assert [call.tool for call in went(played).leaves[0].calls] == ["read_file", "consult", "calculate"]
    assert played.outcome.success
    (joined,) = [
        each
        for each in skills(shifted, "pipeline")
        if "(lookup, then calculate | consult" in each.text and "total" in each.text
    ]
    (old,) = [each for each in skills(shifted, "pipeline") if each.id in joined.parents]
    assert (old.status, joined.status) == ("retired", "active")


@pytest.mark.signature("ice", 4)
def test_the_planner_is_shown_the_nearest_workflow_and_writes_a_plan_of_its_own(run: Path) -> None:
    flows = {family: of(family, episodes(run, "train", 1)) for family in ("order", "sum", "lightest", "cargo")}
    for family, taught in flows.items():
        played = of(family, episodes(run, "eval", 1))
        (row,) = calls(run, phase="eval", generation=1, task=played.task.id, purpose="plan")
        (workflow,) = [each for each in skills(run, "workflow") if taught.id in each.parents]
        assert workflow.text in prompt(row)
        first = [goal.text for goal in went(played).plans[0]]
        assert first == ([LOOK] if family == "lightest" else []) + list(subgoals(played.task))
        assert "much like this one" not in prompt(calls(run, generation=0, task=played.task.id, purpose="plan")[0])


@pytest.mark.signature("ice", 5)
def test_without_memory_every_near_duplicate_takes_strictly_more_model_calls(run: Path) -> None:
    before, after = used(run, 0), used(run, 1)
    assert before.keys() == after.keys()
    assert all(after[task] < before[task] for task in before)
    assert sum(after.values()) < 0.5 * sum(before.values())
    row = generations(run)[1]
    assert sum(tasks for tasks, _ in row["calls_by_likeness"].values()) == len(after)


def forgetful(skill: float = 0.5) -> BaseChatModel:
    """Muses now and then, and forgets all goals but the first where no workflow reminds it of the others."""
    return runner(
        plan=lambda task, shown: subgoals(task) if "much like this one" in shown else subgoals(task)[:1], skill=skill
    )


def test_workflows_and_pipelines_help_a_weak_actor_and_both_help_most(tmp_path: Path) -> None:
    """The card's comparison; with neither nothing changes, which is the negative control."""
    arms = {"none": (0, 0), "workflow": (1, 0), "pipeline": (0, 16), "both": (1, 16)}
    scores, cost = {}, {}
    for arm, (workflows, pipelines) in arms.items():
        asked = config(evaluated=12, workflows=workflows, pipelines=pipelines)
        directory = play(tmp_path / arm, asked, {"actor": forgetful(), "investigator": runner()})
        scores[arm], cost[arm] = score(directory, 1), sum(used(directory, 1).values())
        assert score(directory, 0) == pytest.approx(scores.setdefault("frozen", score(directory, 0)))
    assert scores["none"] == pytest.approx(scores["frozen"])  # the same scores, added up in another order
    assert scores["both"] > max(scores["workflow"], scores["pipeline"]) >= scores["none"]
    assert scores["workflow"] > scores["none"]
    assert cost["pipeline"] < 0.6 * cost["none"]
    assert cost["both"] < 0.6 * cost["workflow"]


def test_a_call_that_cannot_be_undone_waits_for_a_yes_where_that_is_asked_for(tmp_path: Path) -> None:
    models = {"actor": runner(yes=False), "investigator": runner()}
    directory = play(tmp_path / "run", config(confirm=True), models)
    asked = calls(directory, phase="eval", generation=1, purpose="confirm")
    assert {prompt(row).rpartition("The next call is ")[2].partition("(")[0] for row in asked} == {
        "write_file",
        "send_note",
    }
    acted = [row["reply"] for row in calls(directory, phase="eval", generation=1, purpose="act")]
    assert sum(text.startswith(("write_file", "send_note")) for text in acted) == len(asked)
    assert score(directory, 1) == 1


def test_with_proof_skills_wait_for_the_gate_and_only_what_it_proves_is_used(tmp_path: Path) -> None:
    asked = config(train=1, evaluated=4, prove=True, gate_pairs=24).model_copy(update={"options": {"family": "cargo"}})
    directory = play(tmp_path / "run", asked, {"actor": forgetful(skill=1), "investigator": runner()})
    (workflow,) = skills(directory, "workflow")
    assert workflow.status == "active"
    # They save calls, and the gate asks for score.
    assert {record.status for record in skills(directory, "pipeline")} == {"retired"}
    played = episodes(directory, "eval", 1)
    assert {each.record for trajectory in played for each in trajectory.recalled} == {workflow.id}
    assert score(directory, 1) == 1 > score(directory, 0)


@pytest.mark.parametrize("reply", ["", "1. do it\n2. done [met]\nPlan:\n1. x [met]", "done", "failed"])
def test_replies_that_are_no_plan_and_no_call_cost_steps_and_leave_nothing(tmp_path: Path, reply: str) -> None:
    asked = config(train=1, evaluated=2, calls=3)
    directory = play(tmp_path / "run", asked, {"actor": ScriptedChatModel(lambda messages: reply)})
    assert not skills(directory, "question")
    assert all(trajectory.steps and not trajectory.outcome.failure for trajectory in episodes(directory, "train", 1))


def test_each_phase_is_a_node_of_its_own_and_tasks_come_one_by_one(tmp_path: Path) -> None:
    directory = play(tmp_path / "run", config(train=2, evaluated=2), {"actor": runner()})
    turn = ["answer", "investigate", "consolidate_workflow", "consolidate_pipeline", "store"]
    assert visited(directory) == ["baseline", "tasks", *turn, *turn, "gate", "evaluate"]
    assert build(Config()) is not None
