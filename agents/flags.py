"""What a person types becomes a `RunConfig`: flags are read and checked here, before any work."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from evolvent.agents.distillation import Distillation
from evolvent.agents.errors import SetupError, unknown
from evolvent.agents.recipes.catalog import load_recipe
from evolvent.agents.run import RunConfig
from evolvent.environments.catalog import ENTRIES

_FLAGS = {"evaluated": "eval", "environment": "env", "roles": "role", "settings": "set"}
"""Fields of `RunConfig` that are called something else on the command line."""
_ENVIRONMENT = re.compile(r"(?P<name>.+?)(?::(?P<options>[A-Za-z_]\w*=.*))?", re.DOTALL)
_NEXT_OPTION = re.compile(r",(?=[A-Za-z_]\w*=)")


def read_config_flags(
    recipe: str,
    *,
    env: str | None,
    roles: Iterable[str],
    settings: Iterable[str],
    flags: Mapping[str, Any],
    shifts: Iterable[str] = (),
) -> RunConfig:
    """The config that `evolvent run` or `bench` was asked for.

    Args:
        env: `NAME` or `NAME:key=value,key=value`; None is the first of the recipe's own.
        roles: each `ROLE=SPEC`.
        settings: each `key=value`, of the recipe.
        shifts: each `GENERATION:key=value,key=value`, options of the environment from then on.
        flags: the other fields of `RunConfig`.

    Raises:
        SetupError: one line that names the flag, its value and what was expected.
        UnknownRecipeError: no such recipe.
    """
    environment, options = read_environment(load_recipe(recipe).ENVIRONMENTS[0] if env is None else env)
    chosen = dict(read_pair(each, "--role", "ROLE=SPEC, as in reflector=smollm2") for each in roles)
    over = dict(read_pair(each, "--set", "KEY=VALUE, as in attempts=2") for each in settings)
    try:
        return RunConfig(
            recipe=recipe,
            environment=environment,
            options=options,
            shifts=dict(read_shift(each) for each in shifts),
            roles=chosen,
            settings={key: read_value(value) for key, value in over.items()},
            **flags,
        )
    except ValidationError as error:
        first = error.errors()[0]
        field = str(first["loc"][0])
        raise SetupError(
            f"--{_FLAGS.get(field, field)} {first['input']!r}: {first['msg'].lower()}. See `evolvent run --help`."
        ) from error


def read_distillation(method: str, settings: Iterable[str]) -> Distillation:
    """How `evolvent distill` was asked to go about it.

    Raises:
        SetupError: one line that names the setting, its value and what was expected.
    """
    chosen = dict(read_pair(each, "--set", "KEY=VALUE, as in epochs=3") for each in settings)
    try:
        return Distillation.model_validate(
            {"method": method, **{key: read_value(value) for key, value in chosen.items()}}
        )
    except ValidationError as error:
        first = error.errors()[0]
        field = str(first["loc"][0]) if first["loc"] else "settings"
        if first["type"] == "extra_forbidden":
            raise SetupError(unknown("setting of a distillation", field, Distillation.model_fields)) from error
        raise SetupError(f"--set {field}={first['input']!r}: {first['msg'][0].lower()}{first['msg'][1:]}.") from error


def read_environment(text: str) -> tuple[str, dict[str, Any]]:
    """Name and options of `NAME:key=value,key=value`; a name may be `package.module:Class`."""
    found = _ENVIRONMENT.fullmatch(text)
    if found is None:
        raise SetupError("--env is empty: expected NAME or NAME:KEY=VALUE. `evolvent envs` lists the names.")
    name, options = found["name"], found["options"]
    known, colon, rest = name.partition(":")
    if colon and known in ENTRIES:
        raise SetupError(f"--env {text!r}: {rest!r} is no option; expected KEY=VALUE, as in workshop:cures=6.")
    pairs = [read_pair(each, "--env", "KEY=VALUE") for each in _NEXT_OPTION.split(options or "") if each]
    return name, {key: read_value(value) for key, value in pairs}


def read_shift(text: str) -> tuple[int, dict[str, Any]]:
    """Generation and options of `GENERATION:key=value,key=value`."""
    expected = "GENERATION:KEY=VALUE with GENERATION from 1, as in 4:epoch=1"
    number, _, options = text.partition(":")
    if not number.strip().isdigit() or int(number) < 1:
        raise SetupError(f"--shift {text!r}: expected {expected}.")
    pairs = [read_pair(each, f"--shift {number}:", expected) for each in _NEXT_OPTION.split(options)]
    return int(number), {key: read_value(value) for key, value in pairs}


def read_pair(text: str, flag: str, expected: str) -> tuple[str, str]:
    key, equals, value = (part.strip() for part in text.partition("="))
    if not (key and equals and value):
        raise SetupError(f"{flag} {text!r}: expected {expected}.")
    return key, value


def read_value(text: str) -> Any:
    """JSON where it parses, else the text as it stands."""
    try:
        return json.loads(text, parse_constant=_no_constant)
    except ValueError:
        return text


def run_directory(config: RunConfig) -> Path:
    """Where a run goes that was not told where."""
    return new_folder(f"{config.recipe}-{config.environment}-seed{config.seed}")


def new_folder(name: str) -> Path:
    """A folder in runs/ called so, and after the time."""
    plain = re.sub(r"[^\w.-]+", "-", name)
    return Path("runs") / f"{plain}-{time.strftime('%Y%m%d-%H%M%S')}"


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")
