"""The flagship through whole runs in the workshop, with an actor that can learn and nothing else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from systems.runs import calls, generations, memory_of, play, prompt, visited
from workshop_scorer import learner

from evolvent.agents.run import RunConfig, result
from evolvent.environments.workshop import Workshop

CONFIG = RunConfig(recipe="lamarck", tasks=8, evaluated=10, generations=2, embedder="hash")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return play(tmp_path_factory.mktemp("lamarck") / "run", CONFIG, {"actor": learner()})


def test_each_generation_goes_through_every_phase_in_turn(run: Path) -> None:
    phases = ["tasks", "solve", "feedback", "reflect", "remember", "gate", "distil", "evaluate"]
    assert visited(run) == ["baseline", *phases, *phases]


def test_nothing_of_held_out_or_validation_tasks_enters_memory(run: Path) -> None:
    world = Workshop()
    unseen = {task.prompt for task in world.tasks("test", CONFIG.evaluated, 0) + world.tasks("validation", 120, 0)}
    with memory_of(run) as memory:
        records = list(memory.records().values())
        for record in records:
            sources = [memory.ledger.trajectory(parent) for parent in record.parents]
            assert {source.phase for source in sources if source} == {"train"}
            assert not any(text in record.text for text in unseen)
    assert {record.kind for record in records} == {"trajectory", "rule"}


def test_a_rule_becomes_active_only_by_paired_episodes_that_proved_it(run: Path) -> None:
    with memory_of(run) as memory:
        rules = {key: record for key, record in memory.records().items() if record.kind == "rule"}
        decided = [event for event in memory.ledger.events() if "gate" in event.payload]
        pairs = [episode.key for episode in memory.ledger.episodes(phase="gate")]
    assert {key for key, rule in rules.items() if rule.status == "active"} == {
        event.record_id for event in decided if event.kind == "activate"
    }
    assert any(event.kind == "activate" for event in decided)
    for event in decided:
        evidence = event.payload["gate"]
        assert (event.kind == "activate") == (evidence["e_value"] >= 1 / evidence["level"])
        played = [key for key in pairs if key.endswith(f"with-{event.record_id}")]
        assert len(played) == evidence["wins"] + evidence["losses"] + evidence["ties"] + evidence["dropped"]


def test_held_out_tasks_are_met_with_active_rules_and_raw_successes_only(run: Path) -> None:
    with memory_of(run) as memory:
        for row in generations(run)[1:]:
            records = memory.records(row["model"]["memory"]).values()
            rules = {record.text for record in records if record.status == "active" and record.kind == "rule"}
            raw = {line for record in records for _, line in record.meta.get("worked", ())}
            for call in calls(run, phase="eval", generation=row["generation"]):
                hints = [line for line in prompt(call).splitlines() if line.startswith("Remember: ")]
                assert {hint.removeprefix("Remember: ") for hint in hints} <= rules | raw


def test_it_learns_the_hidden_laws_and_does_better_for_it(run: Path) -> None:
    laws = {law.text for law in Workshop().laws()}
    with memory_of(run) as memory:
        active = {record.text for record in memory.records().values() if record.status == "active"} & {
            record.text for record in memory.records().values() if record.kind == "rule"
        }
    assert active <= laws
    assert len(active) >= len(laws) / 2
    assert result(run)["verdict"] == "improved"


def test_with_shuffled_outcomes_nothing_is_promoted(tmp_path: Path) -> None:
    config = CONFIG.model_copy(update={"settings": {"shuffle_outcomes": True}})
    shuffled = play(tmp_path / "run", config, {"actor": learner()})
    report = result(shuffled)
    assert calls(shuffled, phase="gate"), "candidates were tried"
    assert report["records"]["active"] == 0
    assert report["verdict"] != "improved"


def test_against_its_first_self_only_the_learning_seat_learns_and_each_seat_keeps_its_trajectory(
    tmp_path: Path,
) -> None:
    config = CONFIG.model_copy(update={"options": {"seats": 2}, "roles": {"opponent": "generation:0"}})
    run = play(tmp_path / "run", config, {"actor": learner()})
    with memory_of(run) as memory:
        episodes = list(memory.ledger.episodes())
        rules = [record for record in memory.records().values() if record.kind == "rule"]
        kept = {record.scope.player for record in memory.records().values() if record.kind == "trajectory"}
    for episode in episodes:
        assert [each.player for each in episode.trajectories] == ["client", "mender"]
        client, mender = episode.trajectories
        assert {each.id for each in episode.trajectories} == {f"{episode.key}/client", f"{episode.key}/mender"}
        # A seat's trajectory holds what that seat saw: the client's wish is told to nobody else.
        assert "You want" in client.steps[0].observation.text
        assert not any("You want" in step.observation.text for step in mender.steps)
        assert not client.recalled, "the first self has no memory"
    assert kept >= {"mender"}
    assert {rule.scope.player for rule in rules} == {"mender"}
    assert any(each.trajectories[1].recalled for each in episodes)
    assert result(run)["verdict"] == "improved"


def test_the_same_config_gives_the_same_run(run: Path, tmp_path: Path) -> None:
    again = play(tmp_path / "run", CONFIG, {"actor": learner()})

    def outcome(directory: Path) -> list[str]:
        return [json.dumps([row["scores"], row["model"]], sort_keys=True) for row in generations(directory)]

    assert outcome(again) == outcome(run)
