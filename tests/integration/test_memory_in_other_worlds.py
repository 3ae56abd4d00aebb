"""Memory systems outside the worlds that their papers had in mind: what they keep there, and of whom."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from benchmarks.able_reader import AbleReader
from langchain_core.language_models import BaseChatModel
from systems.runs import calls, memory_of, play, prompt

from evolvent.agents.models.scripted import ScriptedChatModel
from evolvent.agents.run import RunConfig
from evolvent.environments.types import Action, Observation, Outcome, Step, Task, Trajectory
from evolvent.environments.workshop import Workshop
from evolvent.memory.rendering import spoken
from evolvent.memory.types import Record


def config(recipe: str, environment: str, **settings: Any) -> RunConfig:
    return RunConfig(
        recipe=recipe,
        environment=environment,
        tasks=6,
        evaluated=3,
        generations=1,
        settings=settings,
        embedder="hash",
    )


def kept(run: Path) -> list[Record]:
    with memory_of(run) as memory:
        return [record for record in memory.records().values() if record.kind != "trajectory"]


def laws() -> set[str]:
    return {law.text for law in Workshop().laws()}


def step(question: str, reply: str, result: str = "") -> Step:
    return Step("agent", Observation("agent", question), (), reply, Action(reply), result=result)


def test_a_conversation_of_several_moves_is_heard_whole_and_a_single_reply_without_its_verdict() -> None:
    moves = (step("How do you mend rust?", "glue"), step("It worked. And a dent?", "saw", "It did not work."))
    task = Task("t", "Ada's kettle has rust.", "workshop")
    heard = spoken(Trajectory("1", task, "agent", moves, Outcome(0.5, False)))
    assert [who for who, _ in heard] == ["world", "agent", "world", "agent", "world"]
    assert [text for _, text in heard][-3:] == ["It worked. And a dent?", "saw", "It did not work."]
    single = Trajectory("2", task, "agent", (step("Answer:", "Oslo", "Oslo is not right."),), Outcome(0.0, False))
    assert spoken(single) == [("agent", "Oslo")]


@pytest.mark.parametrize("recipe", ["tran", "tim", "memorybank", "iml"])
def test_what_an_episode_of_several_decisions_showed_is_kept_and_read_before_the_next(
    recipe: str, tmp_path: Path
) -> None:
    run = play(tmp_path / "run", config(recipe, "workshop"), {"actor": AbleReader()})
    held = "\n".join(record.text for record in kept(run))
    assert any(law in held for law in laws())
    if recipe != "tim":  # which looks into one bucket alone
        shown = "\n".join(prompt(call) for call in calls(run, phase="eval", generation=1))
        assert any(law in shown for law in laws())


def test_a_seat_that_calls_functions_takes_its_options_by_a_message_and_hears_what_came_of_it(tmp_path: Path) -> None:
    run = play(tmp_path / "run", config("memgpt", "workshop", chain=4, reply_tokens=48), {"actor": AbleReader()})
    messages = [record.text for record in kept(run) if record.meta.get("part") == "message"]
    assert any("user: It worked." in text or "user: It did not work." in text for text in messages)
    with memory_of(run) as memory:
        episodes = [each.trajectories[0] for each in memory.ledger.episodes(phase="train")]
    assert all(step.action.text in (step.observation.actions or ()) for each in episodes for step in each.steps)
    (core,) = (
        record.text for record in kept(run) if record.meta.get("part") == "persona" and record.status == "active"
    )
    assert any(law in core for law in laws())


def test_a_long_episode_keeps_to_the_window_and_goes_on_telling_the_functions(tmp_path: Path) -> None:
    rambling = ScriptedChatModel(lambda messages: "I would rather think about it for a while. " * 6)
    run = play(tmp_path / "run", config("memgpt", "workshop", window_tokens=1000, chain=2), {"actor": rambling})
    asked = [call for call in calls(run, phase="train", generation=1) if call["purpose"].startswith("act")]
    assert max(len(prompt(call)) for call in asked) > 3600  # so that there was something to leave out
    assert all(len(prompt(call)) <= 4000 for call in asked)
    assert all("You remember by calling functions." in prompt(call) for call in asked)


def test_two_decisions_of_one_episode_are_two_samples_for_the_notes(tmp_path: Path) -> None:
    run = play(tmp_path / "run", config("iml", "workshop"), {"actor": AbleReader()})
    induced = [prompt(call) for call in calls(run, purpose="induce")]
    cases = [line for text in induced for line in text.splitlines() if line.startswith("- ")]
    assert all(" …" in line and line.endswith((": right", ": wrong")) for line in cases)
    with memory_of(run) as memory:
        steps = [step for each in memory.ledger.episodes(phase="train") for step in each.trajectories[0].steps]
    assert sum(line.endswith(": right") for line in cases) == sum(step.reward > 0 for step in steps)


@pytest.mark.parametrize(
    ("recipe", "kind", "model"),
    [("tran", "rule", AbleReader()), ("mot", "note", ScriptedChatModel(lambda messages: "The answer is Oslo."))],
    ids=["tran", "mot"],
)
def test_what_somebody_said_is_kept_for_them_alone(
    recipe: str, kind: str, model: BaseChatModel, tmp_path: Path
) -> None:
    run = play(tmp_path / "run", config(recipe, "dialogue"), {"actor": model})
    records = [record for record in kept(run) if record.kind == kind]
    assert records
    for record in records:
        (tag,) = record.scope.tags
        assert tag.removeprefix("user:").replace("-", " ") in record.text.lower()


def test_documents_that_come_with_the_tasks_do_not_lie_in_archives_too(tmp_path: Path) -> None:
    asked = config("memgpt", "qa").model_copy(update={"options": {"evidence": True, "about": 80}})
    run = play(tmp_path / "run", asked, {"actor": AbleReader()})
    assert not [record for record in kept(run) if record.meta.get("part") == "archive"]
