"""Seats of a match, and which of them the opponents take that an environment ships: its option `bots`."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from evolvent.environments.errors import BadOptionError, did_you_mean


def among(world: str, what: str, value: object, known: Collection[str]) -> None:
    """
    Raises:
        BadOptionError: the value is none of those known; names them, and the nearest.
    """
    if value not in list(known):
        raise BadOptionError(f"{world}: no {what} {value!r}. Known: {', '.join(known)}.{did_you_mean(value, known)}")


def bots_seated(
    world: str, bots: Mapping[str, str] | None, seats: Collection[str], shipped: Collection[str], *, game: str
) -> tuple[dict[str, str], tuple[str, ...]]:
    """Who plays where: (opponent by seat, seats that are left to players).

    Args:
        shipped: opponents of this `game`.

    Raises:
        BadOptionError: `bots` is no mapping, names a seat or an opponent that is not there, or leaves no seat.
    """
    if bots is not None and not isinstance(bots, Mapping):
        raise BadOptionError(f'{world}: bots gives seats to opponents, as in {{"b": "random"}}, not {bots!r}.')
    given = dict(bots or {})
    for seat, name in given.items():
        among(world, "seat in bots", seat, seats)
        if not shipped:
            raise BadOptionError(f"{world}: {game} ships no opponent {name!r}. Give all seats to agents.")
        among(world, f"opponent in {game}", name, shipped)
    players = tuple(seat for seat in seats if seat not in given)
    if not players:
        raise BadOptionError(f"{world}: bots on every seat ({', '.join(seats)}); leave one of them to play.")
    return given, players
