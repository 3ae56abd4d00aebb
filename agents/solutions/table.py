"""A table at which one seat learns: who sits in the others, and how many hands make whole deals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from evolvent.agents.context import Context
from evolvent.agents.errors import SetupError
from evolvent.agents.solutions.seats import learning_seat
from evolvent.environments.catalog import ENTRIES, build_inline
from evolvent.environments.errors import BadOptionError
from evolvent.environments.protocol import EnvironmentSpec
from evolvent.environments.types import Trajectory


def one_learner(context: Context, opponent: str = "") -> Context:
    """The same context with one learner at the table, and with whole deals to be evaluated on.

    Without a model for the role `opponent` the first seat learns, and every other one that the environment's option
    `bots` does not fill has an opponent that the environment ships.

    Args:
        opponent: name of the one; empty takes the first.

    Raises:
        SetupError: several seats would learn, because nobody else is there for them.
    """
    spec = context.objective.environment
    if len(context.players) > 1 and "opponent" not in context.models:
        spec = _filled(spec, context.players[1:], opponent)
    evaluated = whole_deals(context, context.objective.evaluated)
    return replace(context, objective=replace(context.objective, environment=spec, evaluated=evaluated))


def _filled(spec: EnvironmentSpec, seats: Sequence[str], opponent: str) -> EnvironmentSpec:
    """The environment with a shipped opponent in these seats: the first that plays the game it is set to."""
    shipped = ENTRIES[spec.name].opponents if spec.name in ENTRIES else ()
    refusal = ""
    for name in (opponent,) if opponent else shipped:
        bots = dict.fromkeys(seats, name) | dict(spec.options.get("bots") or {})
        filled = replace(spec, options={**spec.options, "bots": bots})
        try:
            build_inline(filled).close()
        except BadOptionError as error:
            refusal = f" {error}"
            continue
        return filled
    raise SetupError(
        f"Nobody sits on {', '.join(seats)} of {spec.name}, and this recipe has one learner.{refusal} Seat a model "
        "there with --role opponent=SPEC."
    )


def whole_deals(context: Context, hands: int) -> int:
    """So many hands, or a few more, that every deal among them is played from all chairs."""
    spec = context.objective.environment
    everybody = {key: value for key, value in spec.options.items() if key != "bots"}
    environment = build_inline(replace(spec, options=everybody))
    try:
        chairs = len(environment.players)
    finally:
        environment.close()
    return -(-hands // chairs) * chairs


def learner(context: Context, episode: tuple[Trajectory, ...]) -> Trajectory:
    """What the learner saw and did in an episode at such a table."""
    (own,) = (each for each in episode if learning_seat(context) in ("", each.player))
    return own
