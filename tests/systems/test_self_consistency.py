"""Self-consistency's signature, line by line, through whole runs."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from systems.problems import last_question, questions
from systems.runs import calls, generations, handed_in, memory_of, play, prompt, visited

from evolvent.agents.models.scripted import ScriptedChatModel
from evolvent.agents.recipes.self_consistency import Config, build
from evolvent.agents.refinement.vote import final_answer, majority
from evolvent.agents.run import RunConfig, result
from evolvent.environments.types import Task


def config(tasks: int = 3, generations: int = 1, **settings: Any) -> RunConfig:
    return RunConfig(
        recipe="self-consistency",
        environment="word_problems",
        tasks=tasks,
        generations=generations,
        settings=settings,
        embedder="hash",
    )


def path(answer: object, reasoning: str = "Well.") -> str:
    return f"{reasoning}\nThe answer is {answer}."


def saying(*paths: str) -> ScriptedChatModel:
    """Whose k-th sample of a question is the k-th of these."""
    asked: dict[str, int] = {}

    def reply(messages: Any) -> str:
        question = str(messages[-1].text)
        asked[question] = asked.get(question, -1) + 1
        return paths[asked[question] % len(paths)]

    return ScriptedChatModel(reply)


def noisy(tasks: list[Task], p: float, seed: int) -> ScriptedChatModel:
    """Right with probability p, else one of six wrong answers."""
    rng = random.Random(seed)

    def reply(messages: Any) -> str:
        answer = last_question(messages, tasks).data["answer"]
        return path(answer if rng.random() < p else answer + rng.randint(1, 6))

    return ScriptedChatModel(reply)


@pytest.mark.signature("self-consistency", 0)
def test_m_calls_are_made_of_a_question_and_none_after_the_sampling(tmp_path: Path) -> None:
    run = play(tmp_path / "run", config(paths=5), {"actor": saying(path(1))})
    made = calls(run, phase="train")
    assert {row["purpose"] for row in made} == {"path"}
    assert [sum(row["task"] == task.id for row in made) for task in problems_of(run)] == [5, 5, 5]
    assert len(calls(run)) == 3 * 5 + 3, "and the control's direct answers"


@pytest.mark.signature("self-consistency", 1)
def test_all_prompts_of_a_question_are_alike_and_hold_no_sample(tmp_path: Path) -> None:
    paths = [path(number, f"Sample {number} it is.") for number in range(4)]
    run = play(tmp_path / "run", config(paths=4), {"actor": saying(*paths)})
    for task in problems_of(run):
        prompts = [prompt(row) for row in calls(run, phase="train", task=task.id)]
        assert len(prompts) == 4
        assert len(set(prompts)) == 1
        assert "Sample" not in prompts[0]


@pytest.mark.signature("self-consistency", 2)
def test_the_answer_of_most_paths_wins_whatever_they_reason(tmp_path: Path) -> None:
    said = [path(18, "Not 26!"), path(26), path(18, "26 and 26"), "It cannot be told.", path(26, "18 18 18"), path(18)]
    run = play(tmp_path / "run", config(tasks=1, paths=6), {"actor": saying(*said)})
    (row,) = generations(run)
    (vote,) = row["votes"].values()
    assert (vote["answer"], vote["parsed"], vote["agreement"]) == ("18", 5, 3 / 5)
    assert handed_in(run) == [said[0]]


@pytest.mark.signature("self-consistency", 3)
def test_the_same_answer_in_other_words_is_the_same_vote(tmp_path: Path) -> None:
    said = [path(17), path("$18", "One way."), path("18.0", "Another."), path(17.5)]
    run = play(tmp_path / "run", config(tasks=1, paths=4), {"actor": saying(*said)})
    (vote,) = generations(run)[0]["votes"].values()
    assert (vote["answer"], vote["supporters"], vote["tie"]) == ("18", [1, 2], False)


@pytest.mark.signature("self-consistency", 4)
def test_one_path_at_temperature_0_is_the_plain_chain_of_thought(tmp_path: Path) -> None:
    tasks = questions(config())
    answers = {task.prompt: path(number) for number, task in enumerate(tasks)}
    actor = ScriptedChatModel(lambda messages: answers[last_question(messages, tasks).prompt])
    run = play(tmp_path / "run", config(paths=1, temperature=0.0), {"actor": actor})
    for task in tasks:
        (sampled,), (plain,) = calls(run, phase="train", task=task.id), calls(run, phase="control", task=task.id)
        assert sampled["messages"] == plain["messages"]
    assert handed_in(run) == list(answers.values())
    assert generations(run)[0]["scores"] == generations(run)[0]["frozen_scores"]


@pytest.mark.signature("self-consistency", 5)
def test_no_truth_is_consulted_and_nothing_is_remembered(tmp_path: Path) -> None:
    said = [path(7), path(7), path(9)]
    run = play(tmp_path / "run", config(paths=3), {"actor": saying(*said)})
    assert handed_in(run) == [said[0]] * 3
    with memory_of(run) as memory:
        assert not memory.records()
        assert not memory.ledger.commits()
    assert {(row["model"]["adapter"], row["model"]["base"]) for row in generations(run)} == {("", "smollm2")}


def test_each_phase_is_a_node_of_its_own(tmp_path: Path) -> None:
    run = play(tmp_path / "run", config(generations=2, paths=2), {"actor": saying(path(1))})
    assert visited(run) == ["tasks", "sample", "vote", "submit", "evaluate"] * 2


def test_voting_lifts_a_noisy_solver_whose_errors_are_spread(tmp_path: Path) -> None:
    """The card's simulation: right with p = 0.45, errors over six values; more than 0.8 at forty paths."""
    solver = noisy(questions(config(tasks=30)), 0.45, seed=3)
    run = play(tmp_path / "run", config(tasks=30, paths=40), {"actor": solver})
    told = result(run)
    assert told["generations"][-1]["held_out"]["success"] > 0.8
    assert told["frozen"]["success"] < 0.7
    assert told["verdict"] == "improved"
    votes = generations(run)[0]["votes"]
    scores = generations(run)[0]["scores"]
    by_agreement = sorted(votes, key=lambda task: votes[task]["agreement"])
    weakest, strongest = by_agreement[:8], by_agreement[-8:]
    assert sum(scores[task][0] for task in strongest) >= sum(scores[task][0] for task in weakest)


def test_voting_makes_a_systematic_error_more_confident_and_no_better(tmp_path: Path) -> None:
    tasks = questions(config(tasks=20))
    rng = random.Random(5)

    def reply(messages: Any) -> str:
        return path(last_question(messages, tasks).data["answer"] + (rng.random() > 0.4))

    run = play(tmp_path / "run", config(tasks=20, paths=20), {"actor": ScriptedChatModel(reply)})
    assert result(run)["verdict"] != "improved"


def test_a_question_that_no_path_answers_is_answered_with_the_first_path(tmp_path: Path) -> None:
    run = play(tmp_path / "run", config(tasks=1, paths=2), {"actor": saying("Hm.", "Hum.")})
    assert generations(run)[0]["votes"] == {questions(config(tasks=1))[0].id: None}
    assert handed_in(run) == ["Hm."]


def test_a_later_generation_adds_questions_and_its_row_tells_of_all_of_them(tmp_path: Path) -> None:
    run = play(tmp_path / "run", config(tasks=4, generations=3, paths=1), {"actor": saying(path(1))})
    assert [len(row["scores"]) for row in generations(run)] == [4, 8, 12]
    assert [len(row["frozen_scores"]) for row in generations(run)] == [4, 8, 12]
    assert result(run)["gain"]["n"] == 12


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("The answer is $1,234.50 dollars.", "2469/2"),
        ("So the answer is 3 + 4 = 7.", "7"),
        ("The answer is 5. No: the answer is 6.", "6"),
        ("the answer is: Yes", "yes"),
        ("12", "12"),
        ("12 eggs", None),
        ("The answer is", None),
    ],
)
def test_the_final_answer_is_read_and_normalised(text: str, answer: str | None) -> None:
    assert final_answer(text) == answer


def test_a_tie_goes_to_the_first_and_is_told() -> None:
    vote = majority(["a", "b", None, "b", "a"])
    assert vote is not None
    assert (vote.answer, vote.tie, vote.agreement) == ("a", True, 0.5)
    assert majority([None]) is None


def test_paper_preset_has_the_paper_s_paths() -> None:
    from evolvent.agents.recipes.self_consistency import PRESETS

    assert PRESETS["paper"].paths == 40
    assert build(Config()) is not None


def problems_of(run: Path) -> list[Task]:
    with memory_of(run) as memory:
        return [episode.trajectories[0].task for episode in memory.ledger.episodes(phase="train")]
