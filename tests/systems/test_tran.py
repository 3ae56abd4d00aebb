"""TRAN's signature, line by line, through whole runs."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from systems.runs import calls, generations, memory_of, play, prompt, visited
from systems.signs import FAMILIES, Signs

from evolvent.agents.models.scripted import ScriptedChatModel
from evolvent.agents.recipes.tran import Config, build
from evolvent.agents.run import RunConfig, result
from evolvent.environments.types import Task
from evolvent.memory.types import Record

_SHOWN = re.compile(r"If the sign is (\w), then answer (\w+)")
_WRITING = ("That is not right", "Give the reasons", "more generally", "separate rules")


def config(tasks: int = 6, generations: int = 1, **settings: Any) -> RunConfig:
    return RunConfig(
        recipe="tran",
        environment="systems.signs:Signs",
        tasks=tasks,
        evaluated=8,
        generations=generations,
        settings=settings,
        embedder="hash",
    )


def stream(run: RunConfig) -> list[Task]:
    world = Signs()
    return [
        task for g in range(1, run.generations + 1) for task in world.tasks("train", run.tasks, run.seed * 1000 + g)
    ]


def meaning(sign: str) -> str:
    every = {task.prompt[0]: task.data["right"] for task in Signs().tasks("train", 48, 0)}
    return str(every[sign])


def other(colour: str) -> str:
    return next(each for each in FAMILIES["letters"][1] if each != colour)


def pupil(
    write: Callable[[str, str], str],
    *,
    agreed: Callable[[str], bool] = lambda question: False,
    summary: str = "",
) -> ScriptedChatModel:
    """Answers by the rules it is shown, wrongly where none speaks of the sign; `write(sign, right)` gives its rules."""

    def reply(messages: Any) -> str:
        said = [str(message.text) for message in messages]
        last, whole = said[-1], "\n".join(said)
        if "yes or no" in last:
            return "Yes." if agreed(last) else "No."
        if "in common" in last:
            return summary
        if any(each in whole for each in _WRITING):
            sign = re.search(r"Task: (\w)", whole)
            right = re.search(r"right answer is: (\w+)", whole)
            assert sign
            assert right
            return write(sign[1], right[1]) if "separate rules" in last else "I see."
        shown = dict(_SHOWN.findall(whole))
        (sign_asked,) = re.findall(r"^(\w)[^\w\s]\s*$", whole, re.MULTILINE)
        return shown.get(sign_asked, other(meaning(sign_asked)))

    return ScriptedChatModel(reply)


def rule(sign: str, colour: str) -> str:
    return f"If the sign is {sign}, then answer {colour}."


def rules(run: Path) -> list[Record]:
    with memory_of(run) as memory:
        return [record for record in memory.records().values() if record.kind == "rule"]


@pytest.mark.signature("tran", 0)
def test_a_mistake_costs_four_calls_and_a_check_a_rule_and_a_right_answer_costs_nothing(tmp_path: Path) -> None:
    asked = config(tasks=12)
    run = play(
        tmp_path / "run", asked, {"actor": pupil(lambda sign, right: f"{rule(sign, right)}\n{rule('z', 'red')}")}
    )
    seen: set[str] = set()
    for task in stream(asked):
        sign = task.prompt[0]
        writing = calls(run, phase="train", task=task.id, purpose="explain")
        checks = calls(run, phase="gate", task=task.id)
        assert (len(writing), len(checks)) == ((0, 0) if sign in seen else (4, 2)), task.prompt
        seen.add(sign)


@pytest.mark.signature("tran", 1)
def test_a_rule_that_does_not_mend_its_own_case_is_not_kept_and_no_label_is_told(tmp_path: Path) -> None:
    actor = pupil(
        lambda sign, right: f"{rule(sign, other(right))}\n{rule(sign, right)}" if sign < "h" else "Who knows."
    )
    run = play(tmp_path / "run", config(tasks=12), {"actor": actor})
    assert rules(run)
    assert {each.text for each in rules(run)} == {rule(each.text[15], meaning(each.text[15])) for each in rules(run)}
    answering = [row for row in calls(run) if row["purpose"] in ("act", "")]
    assert answering
    assert not [row for row in answering if "right answer" in prompt(row)]


@pytest.mark.signature("tran", 2)
def test_there_is_no_block_before_the_first_rule_and_never_more_than_three_rules_in_it(tmp_path: Path) -> None:
    asked = config(tasks=16)
    actor = pupil(
        lambda sign, right: "\n".join(f"{rule(sign, right)[:-1]} {word}." for word in ("now", "then", "ever", "again"))
    )
    run = play(tmp_path / "run", asked, {"actor": actor})
    first, *later = stream(asked)
    blocks = {task.id: prompt(calls(run, phase="train", task=task.id)[0]).count("- If ") for task in (first, *later)}
    assert blocks[first.id] == 0
    assert max(blocks.values()) == 3
    with memory_of(run) as memory:
        episodes = list(memory.ledger.episodes(phase="train"))
        shown = {each.record: number for number, e in enumerate(episodes, 1) for each in e.trajectories[0].recalled}
        last = memory.ledger.last_shown("train")
    assert shown
    assert {key: last[key].episode for key in shown} == shown


@pytest.mark.signature("tran", 3)
def test_the_least_recently_used_rule_gives_way_not_the_oldest(tmp_path: Path) -> None:
    asked = config(tasks=16, capacity=2)
    run = play(tmp_path / "run", asked, {"actor": pupil(rule)})
    used: list[str] = []  # signs whose rules live, least recently used first
    evicted: list[str] = []
    for task in stream(asked):
        sign = task.prompt[0]
        with memory_of(run) as memory:
            (episode,) = [e for e in memory.ledger.episodes(phase="train") if e.trajectories[0].task.id == task.id]
            found = [memory.records()[each.record].text[15] for each in episode.trajectories[0].recalled]
        for each in [*found, *([] if episode.trajectories[0].outcome.success else [sign])]:
            used = [*[old for old in used if old != each], each]
        if len(used) > 2:
            evicted.append(used.pop(0))
    assert evicted
    live = {record.text[15] for record in rules(run) if record.status == "active"}
    assert live == set(used)


@pytest.mark.signature("tran", 4)
@pytest.mark.parametrize("kind", ["contradict", "same"])
def test_a_contradicted_rule_dies_and_of_two_that_say_the_same_the_older_stays(tmp_path: Path, kind: str) -> None:
    asked = config(tasks=12, consistent_from=1)
    actor = pupil(rule, agreed=lambda question: kind in question)
    run = play(tmp_path / "run", asked, {"actor": actor})
    known = rules(run)
    by_age = sorted(known, key=lambda each: each.meta["at"])
    if kind == "contradict":
        assert len(by_age) > 2
        assert [each.status for each in by_age] == ["retired"] * (len(by_age) - 1) + ["active"]
    else:  # a rule about another sign does not mend the older one's case
        assert [each.status for each in by_age] == ["active"]
        assert len(calls(run, purpose="identical")) >= 1


@pytest.mark.signature("tran", 4)
def test_of_two_that_say_the_same_the_newer_stays_where_it_mends_the_older_one_s_case_too(tmp_path: Path) -> None:
    both = " ".join(rule(sign, meaning(sign)) for sign in "bdfhkmpt")
    first = iter([True])
    actor = pupil(
        lambda sign, right: rule(sign, right) if next(first, False) else both,
        agreed=lambda question: "same" in question and f"Rule 1: {both}" in question,
    )
    run = play(tmp_path / "run", config(tasks=12, consistent_from=1), {"actor": actor})
    assert {each.status for each in rules(run) if each.text == both} == {"active"}
    assert {each.status for each in rules(run) if each.text != both} == {"retired"}


@pytest.mark.signature("tran", 5)
def test_the_twelfth_failure_that_no_rule_mends_is_summarised_with_two_others(tmp_path: Path) -> None:
    asked = config(tasks=13)
    run = play(tmp_path / "run", asked, {"actor": pupil(lambda sign, right: "Who knows.", summary="If so, then so.")})
    summaries = calls(run, purpose="summarise")
    order = [task.id for task in stream(asked)]
    assert [row["task"] for row in summaries] == order[11:13]
    assert prompt(summaries[0]).count("The right answer:") == 3
    assert generations(run)[-1]["pool"] == 13
    assert {(row["model"]["adapter"], row["model"]["base"]) for row in generations(run)} == {("", "smollm2")}


def test_what_a_summary_mends_leaves_the_pool(tmp_path: Path) -> None:
    every = " ".join(rule(sign, meaning(sign)) for sign in "bdfhkmpt")
    actor = pupil(lambda sign, right: "Who knows.", summary=f"If anything, then this: {every}")
    run = play(tmp_path / "run", config(tasks=12), {"actor": actor})
    (kept,) = rules(run)
    assert len(kept.parents) == 3
    assert generations(run)[-1]["pool"] == 9


def test_verified_rules_lower_the_error_over_the_stream_and_the_held_out_tasks(tmp_path: Path) -> None:
    """The card's simulation: rules serve later tasks of the same kind; no memory stays where it was."""
    run = play(tmp_path / "run", config(tasks=10, generations=3), {"actor": pupil(rule)})
    told = result(run)
    assert told["verdict"] == "improved"
    first, *_, last = generations(run)[1:]
    assert sum(last["stream"].values()) > sum(first["stream"].values())


def test_rules_that_mend_nothing_bring_no_improvement_unless_verified(tmp_path: Path) -> None:
    """The negative control: unverified rules that are wrong stay wrong."""
    wrong = pupil(lambda sign, right: rule(sign, other(right)))
    run = play(tmp_path / "run", config(tasks=10, generations=2, verify=False), {"actor": wrong})
    assert rules(run)
    assert result(run)["verdict"] != "improved"


def test_with_proof_a_rule_waits_for_the_gate_and_what_it_proves_helps(tmp_path: Path) -> None:
    asked = config(tasks=10, generations=2, prove=True, gate_pairs=24)
    run = play(tmp_path / "run", asked, {"actor": pupil(rule)})
    statuses = {record.text: record.status for record in rules(run)}
    assert "active" in statuses.values() or "retired" in statuses.values()
    with memory_of(run) as memory:
        judged = [e for c in memory.ledger.commits() for e in memory.ledger.events_of(c.id) if "gate" in e.payload]
    assert len(judged) == len(statuses)
    assert {event.kind for event in judged} <= {"activate", "reject"}


def test_each_phase_is_a_node_of_its_own_and_tasks_come_one_by_one(tmp_path: Path) -> None:
    run = play(tmp_path / "run", config(tasks=2), {"actor": pupil(rule)})
    turn = ["answer", "explain", "check", "summarise", "store"]
    assert visited(run) == ["baseline", "tasks", *turn, *turn, "gate", "evaluate"]
    assert build(Config()) is not None
