"""Memory that is proved, in a workshop whose laws are known: poison, junk, drift and decay against the truth.

The actor is scripted: it does what its prompt says last, and guesses where nothing is said.
"""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest
from systems.runs import generations, memory_of, play
from workshop_scorer import learner

from evolvent.agents.evaluation.gate import Side, try_candidate
from evolvent.agents.rollout import run_sync
from evolvent.agents.run import RunConfig, create, execute, opened, prepare
from evolvent.agents.solutions.act import Policy
from evolvent.agents.solutions.recall import FromMemory
from evolvent.environments.workshop import Workshop
from evolvent.memory.embedding import HashEmbedder
from evolvent.memory.gate import level
from evolvent.memory.store import Memory
from evolvent.memory.types import Event, Record, Scope, new_record

WIDE = {"cures": 16, "orders": 0, "tools": 16}


def rule(frame: str, action: str, flaws: tuple[str, ...]) -> Record:
    return new_record("rule", frame.replace("{action}", action), Scope("workshop", flaws), meta={"situation": frame})


def claims(world: Workshop) -> tuple[list[Record], list[Record]]:
    """(what is true of this world, everything of the same wording that is false)"""
    true = [rule(law.frame, law.action, law.flaws) for law in world.laws()]
    false = [rule(law.frame, tool, law.flaws) for law in world.laws() for tool in world.tools if tool != law.action]
    return true, false


async def at_the_gate(directory: Path, candidates: list[Record], *, episodes: int) -> tuple[list[Record], int]:
    """(the promoted, how many were tried) of candidates judged in turn, until so many episodes were played."""
    config = RunConfig(recipe="lamarck", options=WIDE, embedder="hash", evaluated=2)
    played = 0
    promoted: list[Record] = []
    tried = 0
    async with opened(config, directory, prepare(config, models={"actor": learner()}), say=str) as context:
        context.memory.commit("candidates", [Event("add", r.id, r) for r in candidates], generation=0)
        tasks = context.tasks("validation", 400)  # a flaw is met in one task of eight
        for record in candidates:
            if played >= episodes:
                break
            recall = FromMemory(context.memory.snapshot(), trajectories=0)
            forced = FromMemory(context.memory.snapshot(), trajectories=0, forced=(record.id,))
            acting = {"temperature": 2.0}
            with_it = Side(f"with-{record.id}", {"": Policy(context.model("actor"), forced, **acting)})
            without = Side(f"memory-{len(promoted)}", {"": Policy(context.model("actor"), recall, **acting)})
            tried += 1
            at = level(tried, len(promoted))
            evidence = await try_candidate(context, record, with_it, without, tasks, generation=1, level=at, most=48)
            played += 2 * evidence.pairs
            if evidence.verdict == "promoted":
                promoted.append(record)
                context.memory.commit(f"promote {record.id}", [Event("activate", record.id)], generation=1)
    return promoted, tried


def test_of_200_poisoned_rules_none_is_promoted(tmp_path: Path) -> None:
    _, false = claims(Workshop(**WIDE))
    poison = random.Random(0).sample(false, 200)
    promoted, tried = asyncio.run(at_the_gate(tmp_path, poison, episodes=1_000_000))
    assert tried == 200
    assert promoted == []


def test_with_one_candidate_in_ten_true_2000_episodes_leave_hardly_any_junk_and_find_what_is_true(
    tmp_path: Path,
) -> None:
    true, false = claims(Workshop(**WIDE))
    rng = random.Random(1)
    stream = true + rng.sample(false, 9 * len(true))
    rng.shuffle(stream)
    promoted, tried = asyncio.run(at_the_gate(tmp_path, stream, episodes=2000))
    junk = [record for record in promoted if record not in true]
    met = [record for record in stream[:tried] if record in true]
    assert len(junk) <= 0.1 * len(promoted)
    assert len(promoted) >= 0.8 * len(met)


DRIFT = RunConfig(
    recipe="lamarck",
    tasks=12,
    evaluated=4,
    generations=4,
    embedder="hash",
    options={"drift": 2},
    shifts={3: {"epoch": 1}},
)


@pytest.fixture(scope="module")
def drifted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return play(tmp_path_factory.mktemp("drift") / "run", DRIFT, {"actor": learner()})


def active_at(run: Path, generation: int) -> set[str]:
    row = generations(run)[generation]
    with memory_of(run) as memory:
        records = memory.records(row["model"]["memory"]).values()
    return {record.text for record in records if record.kind == "rule" and record.status == "active"}


def test_when_laws_drift_stale_rules_are_replaced_within_two_generations(drifted: Path) -> None:
    old, new = ({law.text for law in Workshop(drift=2, epoch=epoch).laws()} for epoch in (0, 1))
    before, after = active_at(drifted, 2), active_at(drifted, 4)
    assert before & (old - new), "rules that are about to go stale had been proved"
    assert not after & (old - new)
    assert after & (new - old)
    assert after <= new
    with memory_of(drifted) as memory:
        lived = [e for e in memory.ledger.episodes() if e.trajectories[0].phase != "eval"]
        retired = [event for event in memory.ledger.events() if event.kind == "retire"]
        kinds = {event.record_id: event.payload["reason"] for event in retired}
        assert all(memory.records()[event.payload["by"]].status == "active" for event in retired)
    assert set(kinds.values()) == {"replaced"}
    # 48 training episodes and the gate's: the count that the README states.
    assert sum(each.trajectories[0].generation >= 3 for each in lived) <= 200


def test_every_rule_of_a_long_run_has_its_lift_with_an_interval(drifted: Path) -> None:
    with memory_of(drifted) as memory:
        rules = [
            r for r in memory.records().values() if r.kind == "rule" and r.status == "active" and r.generation <= 2
        ]
    assert rules
    for record in rules:
        assert record.lift is not None
        assert -1 <= record.lift.low <= record.lift.mean <= record.lift.high <= 1
        assert record.lift.n > 0


def test_a_rule_that_does_harm_is_doubted_by_dropout_tried_again_and_retired(tmp_path: Path) -> None:
    # Nothing is learned here that could replace it: only its own record speaks against it.
    config = RunConfig(
        recipe="lamarck", tasks=24, evaluated=2, generations=6, embedder="hash", settings={"candidates": 0}
    )
    create(config, tmp_path / "run")
    law = next(law for law in Workshop().laws() if "rust" in law.frame)
    bad = rule(law.frame, "glue", law.flaws)
    with Memory.open(tmp_path / "run", embedder=HashEmbedder()) as memory:
        memory.commit("by hand", [Event("add", bad.id, bad), Event("activate", bad.id)], generation=0)
    run_sync(execute(tmp_path / "run", models={"actor": learner()}, embedder=HashEmbedder()))
    with memory_of(tmp_path / "run") as memory:
        record = memory.records()[bad.id]
        event = next(event for event in memory.ledger.events() if event.kind == "retire")
    assert record.status == "retired"
    assert event.payload["staleness"]["stale"]
    assert event.payload["retrial"]["worth"] == "retire"
    assert record.lift is not None
    assert record.lift.high < 0
