"""Ratings of players from the matches they played, by a kept library: Plackett-Luce, a Bayesian kin of TrueSkill."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from evolvent.memory.types import Interval

_WIDTH = 1.96
"""Standard deviations of a 95 % interval."""


def ratings(matches: Iterable[Mapping[str, float]], players: Sequence[str]) -> dict[str, Interval]:
    """Mean skill of each player with a 95 % interval, 25 being that of a stranger; n counts its matches.

    A rating learns from match to match, so the order counts a little: give the same one for the same answer.

    Args:
        matches: each the scores of its players by name; a higher score wins, equal ones draw. By how much does not
            count.
        players: all names, those without a match included.
    """
    from openskill.models import PlackettLuce

    model = PlackettLuce()
    known = {player: model.rating(name=player) for player in players}
    played = dict.fromkeys(players, 0)
    for scores in matches:
        names = list(scores)
        teams = model.rate([[known[name]] for name in names], scores=[scores[name] for name in names])
        for name, (rating,) in zip(names, teams, strict=True):
            known[name] = rating
            played[name] += 1
    return {
        name: Interval(each.mu, each.mu - _WIDTH * each.sigma, each.mu + _WIDTH * each.sigma, played[name])
        for name, each in known.items()
    }
