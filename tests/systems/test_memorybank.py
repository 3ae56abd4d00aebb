"""MemoryBank's signature, line by line, through whole runs."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from systems.listener import asked_about, heard, speaker_of
from systems.runs import calls, generations, memory_of, play, prompt, visited

from evolvent.agents.models.scripted import ScriptedChatModel
from evolvent.agents.recipes.memorybank import Config, build
from evolvent.agents.run import RunConfig, result
from evolvent.environments.dialogue import Dialogue
from evolvent.environments.types import Task
from evolvent.memory.forgetting import ebbinghaus_by_chance, retention
from evolvent.memory.retrieval import LIVE
from evolvent.memory.types import Record, Scope, new_record

_TURN = re.compile(r"^(?:\[day \d+\] )?(\w+ \w+, (?:after )?day \d+: .+)$", re.MULTILINE)


def config(tasks: int = 6, generations: int = 2, evaluated: int = 12, **settings: Any) -> RunConfig:
    return RunConfig(
        recipe="memorybank",
        environment="dialogue",
        options={"characters": 2},
        tasks=tasks,
        evaluated=evaluated,
        generations=generations,
        settings=settings,
        embedder="hash",
    )


def listener() -> ScriptedChatModel:
    """Answers by the newest turn in its prompt that tells what is asked, or else that it does not know."""

    def reply(messages: Any) -> str:
        whole = "\n".join(str(message.text) for message in messages)
        if "few short sentences" in whole or "Draw one portrait" in whole:
            return "All is well, on the whole." if "day by day" in whole else "They talked of this and that."
        if "character and mood" in whole:
            return "A cheerful sort. Be brief."
        *said, question = _TURN.findall(whole)
        of, who = asked_about(question), speaker_of(question)
        told = [value for turn in said if speaker_of(turn) == who for about, value in heard(turn) if about == of]
        return f"The answer is {told[-1].lstrip('=')}." if told else "I do not know."

    return ScriptedChatModel(reply)


def turns(run: RunConfig) -> list[Task]:
    days = range(1, run.generations + 1)
    worlds = [Dialogue(day=day, days=run.generations, turns=run.tasks, characters=2) for day in days]
    return [task for world in worlds for task in world.tasks("train", run.tasks, 0)]


def parts(run: Path, part: str) -> list[Record]:
    with memory_of(run) as memory:
        return [record for record in memory.records().values() if record.meta.get("part") == part]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return play(tmp_path_factory.mktemp("bank") / "run", config(forgetting=False), {"actor": listener()})


@pytest.mark.signature("memorybank", 0)
def test_what_is_recalled_gains_one_strength_and_a_new_clock_and_the_rest_keeps_both(run: Path) -> None:
    with memory_of(run) as memory:
        shown: dict[str, int] = {}
        for episode in memory.ledger.episodes(phase="train"):
            for each in episode.trajectories[0].recalled:
                shown[each.record] = shown.get(each.record, 0) + 1
        banked = {record.id: record.recalls for record in memory.records().values()}
        last = memory.ledger.last_shown("train")
    assert any(shown.values())
    assert banked == {key: shown.get(key, 0) for key in banked}
    assert set(last) == set(shown)


@pytest.mark.signature("memorybank", 1)
def test_a_stronger_memory_is_kept_better_for_the_same_time(tmp_path: Path) -> None:
    assert retention(5, 0, span=5) == pytest.approx(0.37, abs=0.005)
    assert retention(5, 1, span=5) == pytest.approx(0.61, abs=0.005)
    # And it is this curve that the recipe forgets by.
    forgot = play(tmp_path / "run", config(generations=3, span=0.8), {"actor": listener()})
    with memory_of(forgot) as memory:
        told = [e.payload for c in memory.ledger.commits() for e in memory.ledger.events_of(c.id) if "forget" in c.key]
    faded = [each for each in told if "retention" in each]
    assert faded
    assert all(each["retention"] < 1 for each in faded)
    assert all(each["now"] > each["last_used"] for each in faded)


@pytest.mark.signature("memorybank", 2)
def test_nothing_fades_on_the_day_itself_and_a_long_gap_takes_the_weak_from_store_and_index(tmp_path: Path) -> None:
    one = play(tmp_path / "one", config(generations=1, span=0.01), {"actor": listener()})
    assert {record.status for record in parts(one, "turn")} == {"active"}
    gap = play(tmp_path / "gap", config(tasks=10, generations=2, span=5.0, days=60, top_k=1), {"actor": listener()})
    first = [record for record in parts(gap, "turn") if record.meta["day"] == 1]
    gone = {record.id for record in first if record.status not in LIVE}
    never = {record.id for record in first if not record.recalls}
    assert never
    assert never <= gone
    with memory_of(gap) as memory:
        assert not [
            key for key, last in memory.ledger.last_shown("train").items() if last.generation == 2 and key in gone
        ]
        assert not {hit.record.id for hit in memory.search("day", k=100)} & gone
    # Of the same age, ten recalls usually keep what none would.
    weak, strong = (
        [new_record("note", f"{number}", Scope(tags=(name,))) for number in range(100)] for name in ("weak", "strong")
    )
    records = {r.id: r for r in [*weak, *(replace(r, recalls=9) for r in strong)]}
    lost = {e.record_id for e in ebbinghaus_by_chance(records, dict.fromkeys(records, 0), 20, seed=0, span=5)}
    assert sum(record.id in lost for record in weak) > 90
    assert sum(record.id in lost for record in strong) < 50


@pytest.mark.signature("memorybank", 3)
def test_a_reply_has_portrait_summary_and_dated_turns_and_who_has_no_history_has_none(run: Path) -> None:
    asked = turns(config())
    first, later = asked[0], asked[6]
    assert "remember" not in prompt(calls(run, phase="train", task=first.id, purpose="act")[0])
    text = prompt(calls(run, phase="train", task=later.id, purpose="act")[0])
    assert "Who this is and how to reply: All is well, on the whole." in text
    assert "What happened so far: All is well" in text
    assert "[day 1] " in text


@pytest.mark.signature("memorybank", 4)
def test_a_day_is_summed_up_once_and_the_whole_anew(tmp_path: Path) -> None:
    asked = RunConfig(**{**config().model_dump(), "options": {"characters": 2, "day": 1}})
    again = play(tmp_path / "run", asked, {"actor": listener()})  # the same day twice
    daily = [row for row in calls(again) if row["purpose"] in ("events of a day", "mood of a day")]
    whole = [row for row in calls(again) if row["purpose"] in ("all events", "portrait")]
    assert len(daily) == 2 * 2  # two users, two parts
    assert len(whole) == 2 * 2 * 2
    for part in ("events of a day", "mood of a day"):
        days = [(record.scope, record.meta["day"]) for record in parts(again, part)]
        assert len(days) == len(set(days))


@pytest.mark.signature("memorybank", 5)
def test_nobody_s_memories_reach_somebody_else(run: Path) -> None:
    with memory_of(run) as memory:
        records = memory.records()
        for phase in ("train", "eval"):
            for episode in memory.ledger.episodes(phase=phase):
                (user,) = episode.trajectories[0].task.tags
                assert {records[each.record].scope.tags for each in episode.trajectories[0].recalled} <= {(user,)}
    names = {speaker_of(task.prompt) for task in turns(config())}
    for row in calls(run, phase="eval"):
        (about,) = [name for name in names if f"{name}, after day" in prompt(row)]
        assert not [name for name in names - {about} if name in prompt(row)]


def test_the_bank_answers_more_than_nothing_and_more_than_the_last_turns(tmp_path: Path) -> None:
    """The card's comparison: correct with memory, hardly without; the last turns alone lie between."""
    sizes = {"tasks": 12, "generations": 2, "evaluated": 40, "forgetting": False, "recent": 2}
    whole = result(play(tmp_path / "bank", config(**sizes, top_k=6), {"actor": listener()}))
    last = result(play(tmp_path / "last", config(**sizes, bank=False), {"actor": listener()}))
    assert whole["verdict"] == "improved"
    success = [each["generations"][-1]["held_out"]["success"] for each in (whole, last)]
    assert success[0] > success[1]


def test_forgetting_shrinks_the_index_and_spares_what_is_recalled(tmp_path: Path) -> None:
    kept = play(tmp_path / "kept", config(generations=3, forgetting=False), {"actor": listener()})
    faded = play(tmp_path / "faded", config(generations=3, span=2.0), {"actor": listener()})
    assert generations(faded)[-1]["turns"] < generations(kept)[-1]["turns"]
    live = [record.recalls for record in parts(faded, "turn") if record.status in LIVE and record.meta["day"] == 1]
    gone = [record.recalls for record in parts(faded, "turn") if record.status not in LIVE]
    assert sum(live) / max(1, len(live)) > sum(gone) / len(gone)


def test_with_proof_turns_wait_for_the_gate_and_summaries_do_not(tmp_path: Path) -> None:
    proved = play(tmp_path / "run", config(generations=1, prove=True, gate_pairs=4), {"actor": listener()})
    assert {record.status for record in parts(proved, "turn")} <= {"active", "retired"}
    assert {record.status for record in parts(proved, "portrait")} == {"active"}


def test_each_phase_is_a_node_of_its_own(run: Path) -> None:
    turn = ["answer", "store"]
    day = ["tasks", *turn * 3, "summarise_day", "summarise_all", "forget", "gate", "evaluate"]
    assert visited(run) == ["baseline", *day, *day]
    assert build(Config()) is not None
