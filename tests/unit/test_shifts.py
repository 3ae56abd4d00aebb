"""A world that changes under the agent: what is asked for, and when it holds."""

from __future__ import annotations

import pytest

from evolvent.agents.context import Objective
from evolvent.agents.errors import SetupError
from evolvent.agents.flags import read_config_flags, read_shift
from evolvent.agents.run import RunConfig, check
from evolvent.environments.protocol import EnvironmentSpec


def test_a_shift_holds_from_its_generation_on_and_later_ones_are_laid_over_it() -> None:
    world = EnvironmentSpec("workshop", {"drift": 2, "tools": 4})
    objective = Objective("", world, 1, 1, 9, shifts={5: {"epoch": 2}, 3: {"epoch": 1, "tools": 5}})
    assert objective.environment_at(2) == world
    assert objective.environment_at(4).options == {"drift": 2, "tools": 5, "epoch": 1}
    assert objective.environment_at(9).options == {"drift": 2, "tools": 5, "epoch": 2}


def test_a_shift_is_read_from_its_flag() -> None:
    assert read_shift("4:epoch=1,drift=2") == (4, {"epoch": 1, "drift": 2})
    config = read_config_flags("lamarck", env="workshop", roles=(), settings=(), shifts=["2:epoch=1"], flags={})
    assert config.shifts == {2: {"epoch": 1}}
    assert RunConfig.model_validate_json(config.model_dump_json()) == config


@pytest.mark.parametrize("text", ["epoch=1", "0:epoch=1", "2", "2:", "two:epoch=1", "2:epoch"])
def test_a_shift_that_cannot_be_read_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(SetupError, match=r"--shift.*as in 4:epoch=1"):
        read_shift(text)


def test_options_that_the_environment_will_not_take_are_told_before_any_work() -> None:
    with pytest.raises(SetupError, match="epoch"):
        check(RunConfig(recipe="lamarck", shifts={2: {"epoch": -1}}))


def test_without_an_environment_the_recipe_s_first_is_taken() -> None:
    config = read_config_flags("self-debug", env=None, roles=(), settings=(), flags={})
    assert (config.environment, config.options) == ("code", {})
