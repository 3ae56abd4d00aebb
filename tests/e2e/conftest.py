"""What the tests of the command line share: typing a line, and a run that has learned something."""

from __future__ import annotations

from pathlib import Path

import pytest
from command_line import Evolvent, typing
from workshop_scorer import learner

from evolvent.agents.rollout import run_sync
from evolvent.agents.run import RunConfig, create, execute


@pytest.fixture
def evolvent(capsys: pytest.CaptureFixture[str]) -> Evolvent:
    return typing(capsys)


@pytest.fixture(scope="session")
def learned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of two generations that proved some rules. Only to be read."""
    config = RunConfig(
        recipe="lamarck",
        options={"world": 0},
        tasks=8,
        evaluated=4,
        generations=2,
        embedder="hash",
        settings={"candidates": 3, "gate_pairs": 16, "false_discoveries": 0.5, "trajectories": 1},
    )
    directory = create(config, tmp_path_factory.mktemp("learned") / "run")
    run_sync(execute(directory, models={"actor": learner()}))
    return directory
