"""AesopAgent's signature, line by line, through whole runs: a simulated crew that does as its prompts say."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from systems.runs import calls, generations, handed_in, memory_of, play, prompt, visited

from evolvent.agents.models.scripted import ScriptedChatModel
from evolvent.agents.recipes.aesopagent import PRESETS, Config, build
from evolvent.agents.run import RunConfig, result
from evolvent.environments.story import Story
from evolvent.environments.story_pipeline import best_settings, knowledge, usage
from evolvent.environments.storyboard import LONGEST_SHOT, STEPS, parse_storyboard, proposal
from evolvent.memory.types import Record

USAGE = dict(usage())
ADVICE = {
    "cast": "cast: all",
    "places": "places: all",
    "length": "length: proposal",
    "pace": "longest shot: 40",
    "establishing": "establishing shot: yes",
    "likeness": "reference sheet: yes",
    "style": "style: ink",
    "spoken": "every shot: yes",
    "speed": "words per second: 9",
    "order": "order: story",
}
"""Aspect → what an actor sets who was told of it by an expert alone, who names no limit."""
BOOKS = {
    "3 words per second": "words per second: 3",
    "establishing shot, wide": "establishing shot: yes",
    "order of the story unless": "order: story",
}
SPOILT = "Feel free."
"""A prompt with which an actor sets nothing."""
TAUGHT = "Consult the sheet, and draw in ink."
"""A prompt with which it draws as it should, whatever it remembers."""
Reply = Callable[[str], str]


def obedient(step: str, asked: str) -> str:
    """Sets what passages and records in the prompt say, and nothing else."""
    if SPOILT in asked:
        return ""
    if TAUGHT in asked:
        return f"{ADVICE['likeness']}\n{ADVICE['style']}"
    lines = [ADVICE[aspect] for aspect in re.findall(rf"^- {step}, (\w+): ", asked, re.MULTILINE)]
    lines += [setting for passage, setting in BOOKS.items() if passage in asked]
    genre = re.search(r"An? (\w+) story of", asked)
    if "matter of genre" in asked and genre:
        lines.append(f"longest shot: {LONGEST_SHOT[genre[1]]}")  # type: ignore[index] # a genre of the environment
    return "\n".join(lines)


def knowing(*, but: str = "") -> Callable[[str, str], str]:
    """Sets everything right, except for a step of which nobody has told it."""

    def settings(step: str, asked: str) -> str:
        best = {step: dict(keys) for step, keys in best_settings(PROPOSAL).items()}
        genre = re.search(r"An? (\w+) story of", asked)
        best["shots"]["longest shot"] = str(LONGEST_SHOT[genre[1]])  # type: ignore[index] # as above
        return obedient(step, asked) if step == but else "\n".join(f"{key}: {best[step][key]}" for key in best[step])

    return settings


PROPOSAL = proposal(Story().tasks("train", 1, 0)[0])


def crew(
    actor: Callable[[str, str], str] = obedient,
    *,
    rewrite: Reply = lambda asked: "",
    rewire: Reply = lambda asked: "",
    plan: str = ", ".join(STEPS),
) -> ScriptedChatModel:
    """All roles in one; the critic sums comments up as the expert's last sentence."""

    def reply(messages: Any) -> str:
        asked = "\n".join(str(message.text) for message in messages)
        if "Which are needed" in asked:
            return plan
        if "an expert says" in asked:
            return re.findall(r"[^.]+\.", asked.split("Write one sentence")[0])[-1].strip()
        if "Write better" in asked:
            return rewrite(asked)
        if "Insert a step" in asked:
            return rewire(asked)
        (step,) = [step for step in STEPS if USAGE[step] in asked]
        return actor(step, asked)

    return ScriptedChatModel(reply)


def config(tasks: int = 3, generations: int = 1, evaluated: int = 3, **settings: Any) -> RunConfig:
    return RunConfig(
        recipe="aesopagent",
        environment="story",
        tasks=tasks,
        evaluated=evaluated,
        generations=generations,
        settings={"proposals": 2, "rewrites": 0, "rewire": False, "summaries": 10, **settings},
        embedder="hash",
    )


def records(run: Path, kind: str = "note") -> list[Record]:
    with memory_of(run) as memory:
        return [record for record in memory.records().values() if record.kind == kind]


def films(run: Path, step: str, generation: int, phase: str = "eval") -> dict[str, str]:
    """Task → prompt of a step."""
    return {row["task"]: prompt(row) for row in calls(run, phase=phase, generation=generation, purpose=step)}


def quality(run: Path) -> list[float]:
    """Mean held-out score by generation."""
    return [fmean(score for scores in row["scores"].values() for score in scores) for row in generations(run)]


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with TemporaryDirectory() as name:
        yield Path(name)


@pytest.fixture(scope="module")
def arms(folder: Path) -> Callable[..., Path]:
    """Runs of the obedient crew, by what they may use; each played once."""

    @cache
    def run(*, knowledge: bool, experience: bool) -> Path:
        asked = config(tasks=4, generations=2, knowledge=knowledge, experience=experience)
        return play(folder / f"{knowledge}-{experience}", asked, {"actor": crew()})

    return run


@pytest.mark.signature("aesopagent", 0)
def test_a_low_step_is_recorded_and_told_of_in_its_own_next_prompt_alone(tmp_path: Path) -> None:
    run = play(tmp_path / "run", config(tasks=6), {"actor": crew(knowing(but="images"))})
    notes = records(run)
    assert {(note.meta["step"], note.meta["aspect"]) for note in notes} == {("images", "likeness"), ("images", "style")}
    assert all(note.text.startswith("images, ") and note.parents for note in notes)
    for step in STEPS:
        before, after = films(run, step, 0), films(run, step, 1)
        assert before.keys() == after.keys()
        for task, told in after.items():
            added = set(told.splitlines()) - set(before[task].splitlines())
            genre = next(each.tags for each in Story().tasks("test", 3, 0) if each.id == task)
            applying = {f"- {note.text}" for note in notes if set(note.scope.tags) <= set(genre)}
            expected = applying if step == "images" else set()
            assert {line for line in added if line.startswith("- ")} == expected
            assert (told == before[task]) == (not expected)
    assert any(films(run, "images", 0)[task] != told for task, told in films(run, "images", 1).items())


@pytest.mark.signature("aesopagent", 1)
@pytest.mark.parametrize(
    ("words", "verdict"),
    [(TAUGHT, "better"), ("Draw well.", "as good"), (SPOILT, "worse"), ("", "empty")],
    ids=["better", "as good", "worse", "empty"],
)
def test_a_rewritten_prompt_takes_over_only_if_it_does_no_worse_on_other_proposals(
    tmp_path: Path, words: str, verdict: str
) -> None:
    # One record of two aspects, so that there is something left for a prompt to teach, and to spoil.
    asked = config(tasks=3, evaluated=2, rewrites=1, proposals=4, summaries=1)
    run = play(tmp_path / "run", asked, {"actor": crew(knowing(but="images"), rewrite=lambda asked: words)})
    (row,) = generations(run)[1:]
    version = 2 if verdict in ("better", "as good") else 1
    assert row["versions"] == dict.fromkeys(("workflow", *STEPS), 1) | {"images": version}
    known = {record.meta["version"]: record for record in records(run, "prompt") if record.meta["part"] == "images"}
    assert [number for number, record in known.items() if record.status == "active"] == [version]
    with memory_of(run) as memory:
        tried = {episode.trajectories[0].task.id for episode in memory.ledger.episodes(phase="gate")}
        events = [event for each in memory.ledger.commits() for event in memory.ledger.events_of(each.id)]
    trials = [event.payload["trial"] for event in events if "trial" in event.payload]
    assert tried == ({task.id for task in Story().tasks("validation", 4, 0)} if words else set())
    gains = [round(each["new"] - each["old"], 3) for each in trials]
    signs = [(gain > 0) - (gain < 0) for gain in gains]
    assert signs == {"better": [1], "as good": [0], "worse": [-1], "empty": []}[verdict]
    if words:
        assert (words in "\n".join(films(run, "images", 1).values())) == (version == 2)
        (note,) = records(run)
        assert known[2].parents == (known[1].id, note.id)


def test_without_the_comparison_every_rewritten_prompt_takes_over(tmp_path: Path) -> None:
    asked = config(tasks=6, evaluated=2, rewrites=1, select=False)
    run = play(tmp_path / "run", asked, {"actor": crew(knowing(but="images"), rewrite=lambda asked: SPOILT)})
    assert generations(run)[-1]["versions"]["images"] == 2
    assert not calls(run, phase="gate")


@pytest.mark.signature("aesopagent", 2)
def test_knowledge_and_experience_are_apart_and_each_removes_its_own_passages_alone(
    arms: Callable[..., Path],
) -> None:
    both, unread, unlearned = (
        arms(knowledge=known, experience=lived) for known, lived in ((True, True), (False, True), (True, False))
    )
    passages = {"From books on the craft:", *(f"- {text}" for _, text in knowledge())}
    learned = {"What experts said of earlier films:", *(f"- {note.text}" for note in records(both))}
    with memory_of(both) as memory:
        assert not [text for _, text in knowledge() for each in memory.records().values() if text in each.text]
    assert records(both)
    assert not records(unlearned)
    removed: set[str] = set()
    for gone, less, generation, phase in ((passages, unread, 1, "train"), (learned, unlearned, 2, "eval")):
        for step in STEPS:
            for task, told in films(both, step, generation, phase).items():
                kept = [line for line in told.splitlines() if line not in gone]
                assert films(less, step, generation, phase)[task].splitlines() == kept
                removed |= gone & set(told.splitlines())
    assert removed == passages | learned


@pytest.mark.signature("aesopagent", 3)
def test_the_workflow_gets_a_missing_step_back_and_both_versions_are_in_the_log(tmp_path: Path) -> None:
    def rewire(asked: str) -> str:
        assert "Experts complain:\n- " in asked
        return "script, then shots, images; narration and assembly" if "order: script, shots" in asked else "assembly"

    crewed = crew(knowing(), plan="1. script 2. shots 3. narration 4. assembly", rewire=rewire)
    run = play(tmp_path / "run", config(tasks=2, generations=2, evaluated=2, rewire=True), {"actor": crewed})
    _, first, second = generations(run)
    assert first["workflow"] == second["workflow"] == list(STEPS)
    assert (first["versions"]["workflow"], second["versions"]["workflow"]) == (2, 2)
    old, new = sorted(records(run, "skill"), key=lambda record: record.meta["version"])
    assert (old.text, old.status) == ("workflow: script, shots, narration, assembly", "retired")
    assert (new.text, new.status) == (f"workflow: {', '.join(STEPS)}", "active")
    assert new.parents == (old.id,)
    assert not films(run, "images", 1, "train")
    assert films(run, "images", 2, "train")


@pytest.mark.signature("aesopagent", 3)
def test_a_workflow_that_does_worse_is_turned_away(tmp_path: Path) -> None:
    crewed = crew(knowing(but="images"), rewire=lambda asked: "shots, script, images, narration, assembly")
    run = play(tmp_path / "run", config(tasks=2, evaluated=2, rewire=True), {"actor": crewed})
    assert generations(run)[-1]["workflow"] == list(STEPS)
    assert {record.meta["version"]: record.status for record in records(run, "skill")} == {1: "active", 2: "retired"}


@pytest.mark.signature("aesopagent", 4)
def test_every_frame_shows_its_characters_as_on_their_one_sheet_once_that_was_learned(
    arms: Callable[..., Path],
) -> None:
    run = arms(knowledge=True, experience=True)
    tasks = {task.id: task for g in (1, 2) for task in Story().tasks("train", 4, g)}
    with memory_of(run) as memory:
        first, second = (
            [e.trajectories[0] for e in memory.ledger.episodes(phase="train", generation=g)] for g in (1, 2)
        )
    assert [note.scope.tags for note in records(run) if note.meta["aspect"] == "likeness"] == [()]

    def alike(trajectory: Any) -> list[bool]:
        sheets = {figure.name: figure for figure in proposal(tasks[trajectory.task.id]).cast}
        board = parse_storyboard(trajectory.steps[0].action.text)
        return [figure == sheets[figure.name] for shot in board for figure in shot.figures]

    assert not any(any(alike(trajectory)) for trajectory in first)
    assert all(alike(trajectory) and all(alike(trajectory)) for trajectory in second)


def test_both_stores_do_better_than_either_and_films_of_unseen_proposals_get_better(
    arms: Callable[..., Path],
) -> None:
    """The card's directions; the run with neither is the negative control."""
    every = {
        (known, lived): quality(arms(knowledge=known, experience=lived))
        for known in (True, False)
        for lived in (True, False)
    }
    assert every[True, True][-1] > max(every[True, False][-1], every[False, True][-1])
    assert min(every[True, False][-1], every[False, True][-1]) > every[False, False][-1]
    assert every[True, True][0] < every[True, True][1] <= every[True, True][2]
    assert result(arms(knowledge=True, experience=True))["verdict"] == "improved"
    assert len(set(every[False, False])) == len(set(every[True, False])) == 1


@pytest.mark.parametrize("select", [True, False])
def test_the_comparison_keeps_a_careless_critic_from_making_films_worse(tmp_path: Path, select: bool) -> None:
    asked = config(tasks=3, generations=2, rewrites=5, select=select)
    run = play(tmp_path / "run", asked, {"actor": crew(rewrite=lambda asked: SPOILT)})
    scores = quality(run)
    assert (scores == sorted(scores)) == select


def test_a_record_that_says_what_an_old_one_does_is_not_written_again(tmp_path: Path) -> None:
    deaf = crew(lambda step, asked: "")
    run = play(tmp_path / "run", config(tasks=3, generations=2, evaluated=2), {"actor": deaf})
    first, second = generations(run)[1:]
    assert first["records"] == second["records"] == len(records(run)) == 10
    assert all({parent.split("/")[1] for parent in note.parents} == {"1", "2"} for note in records(run))


def test_what_two_genres_teach_becomes_one_record_for_all(tmp_path: Path) -> None:
    first, second = (Story().tasks("train", 1, number)[0].tags for number in (1, 2))
    assert first != second
    run = play(tmp_path / "run", config(tasks=1, generations=2), {"actor": crew(lambda step, asked: "")})
    by_scope = {tags: {n.text for n in records(run) if n.scope.tags == tags and n.status == "active"}
                for tags in ((), first, second)}  # fmt: skip
    assert len(by_scope[()]) == 10
    assert not by_scope[first] | by_scope[second]
    merged = [note for note in records(run) if note.status == "retired"]
    assert {note.scope.tags for note in merged} == {first}
    assert {note.id for note in merged} <= {parent for note in records(run) for parent in note.parents}


def test_with_proof_records_wait_for_the_gate(tmp_path: Path) -> None:
    asked = config(tasks=1, generations=2, evaluated=2, prove=True, gate_pairs=12, knowledge=False)
    run = play(tmp_path / "run", asked, {"actor": crew(knowing(but="assembly"))})
    assert {record.status for record in records(run)} <= {"active", "retired"}
    with memory_of(run) as memory:
        judged = [e for c in memory.ledger.commits() for e in memory.ledger.events_of(c.id) if "gate" in e.payload]
    assert {event.record_id for event in judged} == {record.id for record in records(run)} != set()


def test_what_the_models_say_amiss_loses_nothing(tmp_path: Path) -> None:
    babble = ScriptedChatModel(lambda messages: "```\n{]\n: = no\n" * 3)
    run = play(tmp_path / "run", config(tasks=2, evaluated=2, rewrites=1, rewire=True), {"actor": babble})
    assert generations(run)[-1]["workflow"] == list(STEPS)
    assert records(run)
    assert all(json.loads(board)["shots"] for board in handed_in(run))


def test_each_phase_is_a_node_of_its_own(tmp_path: Path) -> None:
    run = play(tmp_path / "run", config(tasks=1, evaluated=2), {"actor": crew(knowing())})
    phases = ["tasks", "plan", "fill", "comment", "summarise", "evolve_prompts", "evolve_workflow", "gate", "evaluate"]
    assert visited(run) == ["baseline", *phases]
    assert not records(run)
    assert build(Config()) is not None
    assert PRESETS["small"].rewrites == 1
