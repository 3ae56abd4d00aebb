"""What is kept stays kept: ten thousand turns of dialogue through the memory that all systems share."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from evolvent.environments.dialogue import Dialogue
from evolvent.memory.embedding import HashEmbedder
from evolvent.memory.forgetting import ebbinghaus_by_chance
from evolvent.memory.retrieval import LIVE
from evolvent.memory.store import Memory
from evolvent.memory.types import Event, Scope, new_record

DAYS, TURNS, PEOPLE = 50, 200, 20


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_no_fact_that_the_policy_keeps_is_lost_over_ten_thousand_turns(tmp_path: Path) -> None:
    rng = random.Random(0)
    kept: dict[str, tuple[str, Scope]] = {}
    used: dict[str, int] = {}
    gone: set[str] = set()
    with Memory.open(tmp_path / "memory", embedder=HashEmbedder()) as memory:
        for day in range(1, DAYS + 1):
            world = Dialogue(day=day, days=DAYS, turns=TURNS, characters=PEOPLE)
            turns = [
                new_record("note", task.prompt, Scope("dialogue", task.tags), status="active", generation=day)
                for task in world.tasks("train", TURNS, 0)
            ]
            recalled = rng.sample(sorted(kept), min(len(kept), 40))
            events = [Event("add", record.id, record) for record in turns]
            events += [Event("credit", key, payload={"recalls": 1}) for key in recalled]
            memory.commit(f"{day}/learn", events, generation=day)
            turns = [record for record in turns if record.id not in gone]
            kept |= {record.id: (record.text, record.scope) for record in turns}
            used |= {record.id: day for record in turns} | dict.fromkeys(recalled, day)
            forgotten = ebbinghaus_by_chance(memory.records(), used, day, seed=0, span=20)
            memory.commit(f"{day}/forget", forgotten, generation=day)
            gone |= {event.record_id for event in forgotten}
            kept = {key: value for key, value in kept.items() if key not in gone}
    with Memory.open(tmp_path / "memory", embedder=HashEmbedder()) as memory:
        records = memory.records()
        assert set(records) == {*kept, *gone}
        assert len(records) > 0.9 * DAYS * TURNS, "somebody may say the same twice in a day"
        assert {key for key, record in records.items() if record.status in LIVE} == set(kept)
        assert 500 < len(kept) < len(records) - 500, "the policy forgets, and keeps"
        for key in rng.sample(sorted(kept), 300):
            text, scope = kept[key]
            found = memory.search(text, k=1, scope=scope, mode="dense")
            assert [hit.record.id for hit in found] == [key]
        for key in rng.sample(sorted(gone), 100):
            hits = memory.search(records[key].text, k=5, scope=records[key].scope)
            assert key not in {hit.record.id for hit in hits}
