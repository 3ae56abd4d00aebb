from __future__ import annotations

import random

import pytest

from evolvent.environments.blackjack import Blackjack
from evolvent.environments.types import Action, Observation, StepResult, Task

pytest.importorskip("rlcard", reason="the extra `games` is not installed: pip install 'evolvent[games]'")


def play(world: Blackjack, task: Task, moves: list[str]) -> list[StepResult]:
    world.reset(task, 0)
    return [world.step({"agent": Action(move)}) for move in moves]


FIFTEEN = Task("blackjack/train/889098444", "", "blackjack", {"deck": 889098444})
"""You are dealt a 6 and a 9. The dealer shows a 6."""


def test_the_frame_names_the_total_and_the_dealers_card() -> None:
    (seen,) = Blackjack().reset(FIFTEEN, 0)
    assert seen == Observation(
        "agent", "You have 15.", ("hit", "stand"), frame="With 15 against a 6, the best move is to {action}."
    )


def test_an_ace_that_counts_eleven_makes_a_soft_hand() -> None:
    world = Blackjack()
    task = next(t for t in world.tasks("train", 400, 0) if "an ace and a 6." in t.prompt)
    assert world.reset(task, 0)[0].text == "You have soft 17."


def test_the_banded_frame_names_only_the_bands() -> None:
    world = Blackjack(situation="banded")
    frames = {world.reset(task, 0)[0].frame for task in world.tasks("train", 300, 0)}
    assert "With 12 to 16 against a high card, the best move is to {action}." in frames
    assert len(frames) <= 12


def test_two_policies_draw_from_the_same_shoe() -> None:
    world = Blackjack()
    one, other = play(world, FIFTEEN, ["hit"]), play(world, FIFTEEN, ["fold", "hit"])
    assert one[-1].observations[0].text == other[-1].observations[0].text


def test_the_payoff_is_halved_into_a_score() -> None:
    world = Blackjack()
    ends = [play(world, task, ["stand"])[-1] for task in world.tasks("test", 200, 0)]
    assert all(end.done for end in ends)
    words = {0.0: "You lose.", 0.5: "It is a tie.", 1.0: "You win."}
    assert {end.rewards["agent"] for end in ends} == set(words)
    for end in ends:
        assert end.observations[0].text.endswith(words[end.rewards["agent"]])
        assert end.info["success"] == (end.rewards["agent"] == 1.0)


def test_standing_and_random_play_score_what_rlcard_alone_gives() -> None:
    """Over 4,000 hands of bare RLCard, always standing pays −0.182 and random play −0.389: scores of 0.41 and 0.305."""
    world = Blackjack()
    tasks = world.tasks("train", 800, 1)
    stand = sum(play(world, task, ["stand"])[-1].rewards["agent"] for task in tasks) / len(tasks)
    assert stand == pytest.approx(0.41, abs=0.05)
    random_score = sum(_random(world, task) for task in tasks) / len(tasks)
    assert random_score == pytest.approx(0.305, abs=0.05)


def _random(world: Blackjack, task: Task) -> float:
    rng = random.Random(task.id)
    world.reset(task, 0)
    while not (result := world.step({"agent": Action(rng.choice(("hit", "stand")))})).done:
        pass
    return result.rewards["agent"]
