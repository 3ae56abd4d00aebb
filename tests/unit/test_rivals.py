"""Controls read back from their ledger: which seats count, and which are not finished."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from evolvent.agents.rivals import Arm, arms, pooled, standings
from evolvent.agents.run import RunConfig
from evolvent.environments.types import Action, Cost, Failure, Message, Observation, Outcome, Step, Task, Trajectory
from evolvent.memory.ledger import Ledger

ROW: dict[str, Any] = {
    "scores": {"t0": [1.0], "t1": [0.5]},
    "evaluation_cost": {"tokens_in": 10, "tokens_out": 2},
}


def seat(player: str, task: str, score: float, *, arm: str, failure: Failure = "", generation: int = 1) -> Trajectory:
    step = Step(player, Observation(player, "?"), (Message("user", "task", "?"),), "!", Action("!"))
    outcome = Outcome(score, score == 1, failure=failure)
    key = f"control/{generation}/{task}/0/{arm}"
    about = Task(task, "?", "kitchen")
    return Trajectory(
        f"{key}/{player}", about, player, (step,), outcome, "control", generation=generation, cost=Cost(7, 1, 1, 0.1)
    )


def played(directory: Path, *episodes: tuple[Trajectory, ...]) -> None:
    ledger = Ledger(directory / "controls" / "ledger.sqlite")
    for seats in episodes:
        ledger.add_episode(seats[0].id.rpartition("/")[0], seats)
    ledger.close()


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "controls").mkdir()
    return tmp_path


def config(**more: Any) -> RunConfig:
    return RunConfig(**{"recipe": "lamarck", "environment": "kitchen", "generations": 1, "evaluated": 2} | more)


def test_a_control_is_judged_on_its_last_generation_and_what_it_explored_is_left_out(directory: Path) -> None:
    played(
        directory,
        *((seat("a", f"t{i}", 0.5, arm="full-history"),) for i in range(2)),
        (seat("a", "t0", 1.0, arm="explore"),),
        (seat("a", "t0", 1.0, arm="full-history", generation=0),),
    )
    names = {arm.name: arm for arm in arms([ROW, ROW], config(), directory)}
    assert list(names) == ["lamarck", "frozen", "full-history"]
    assert names["full-history"] == Arm("full-history", {"t0": (0.5,), "t1": (0.5,)}, 16)


def test_a_control_that_is_still_played_is_left_out_and_one_that_lost_an_episode_is_not(directory: Path) -> None:
    played(
        directory,
        (seat("a", "t0", 1.0, arm="full-history"),),
        (seat("a", "t0", 0.0, arm="raw-retrieval", failure="model"),),
        (seat("a", "t1", 1.0, arm="raw-retrieval"),),
    )
    names = {arm.name: arm for arm in arms([ROW], config(), directory)}
    assert list(names) == ["lamarck", "frozen", "raw-retrieval"]
    assert names["raw-retrieval"].scores == {"t1": (1.0,)}


@pytest.mark.parametrize(("roles", "score"), [({}, 0.5), ({"opponent": "smollm2"}, 1.0)])
def test_all_seats_count_unless_the_last_meets_an_opponent(
    directory: Path, roles: dict[str, str], score: float
) -> None:
    judged = config(roles=roles)
    played(
        directory,
        *((seat("a", f"t{i}", 0.0, arm="random-rules"), seat("b", f"t{i}", 1.0, arm="random-rules")) for i in range(2)),
    )
    *_, last = arms([ROW], judged, directory)
    assert last.scores == {"t0": (score,), "t1": (score,)}


def test_gains_are_paired_and_pooled_by_seed() -> None:
    ours, theirs = {"t0": [1.0], "t1": [0.5]}, {"t0": [0.5], "t1": [0.5]}
    both = [Arm("lamarck", ours, 5), Arm("frozen", theirs, 3)]
    told = standings(pooled({0: both, 1: both}), seed=0)
    assert [(each.name, each.tokens, each.success.n) for each in told] == [("lamarck", 10, 4), ("frozen", 6, 4)]
    assert told[0].gain is None
    assert told[1].gain is not None
    assert (told[1].gain.mean, told[1].gain.n) == (0.25, 4)
    assert told[1].verdict == "no evidence"
