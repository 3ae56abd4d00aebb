"""How a run did beside its controls, read back from what `evolvent bench` left in `controls/`. Plays nothing."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from evolvent.agents.evaluation.statistics import Verdict, interval, paired, verdict
from evolvent.environments.catalog import build_inline
from evolvent.environments.protocol import EnvironmentSpec
from evolvent.memory.episodes import Episodes
from evolvent.memory.types import Interval

if TYPE_CHECKING:
    from evolvent.agents.run import RunConfig

CONTROLS = ("full-history", "raw-retrieval", "random-rules")
"""Those of `evaluation.controls`, which loads what playing needs."""
FROZEN = "frozen"

Scores = Mapping[str, Sequence[float]]
"""By task that both sides were judged on."""


@dataclass(frozen=True, slots=True)
class Arm:
    """One side of a comparison: the recipe itself, the frozen model, or a control."""

    name: str
    scores: Scores = field(repr=False)
    tokens: int
    """Of its judged episodes, in and out."""


@dataclass(frozen=True, slots=True)
class Standing:
    """An arm beside the recipe."""

    name: str
    success: Interval
    tokens: int
    gain: Interval | None = None
    """Of the recipe over it, pair by pair; None for the recipe itself."""
    verdict: Verdict | None = None


def arms(rows: Sequence[Mapping[str, Any]], config: RunConfig, directory: Path) -> list[Arm]:
    """The recipe after its last generation, the frozen model, and every control that was judged in full.

    Args:
        rows: of the run's generations, as its ledger keeps them; not empty.
        directory: the run's; a run that stands beside no controls has no folder `controls`.
    """
    first, last = rows[0], rows[-1]
    before = last.get("frozen_scores") or first.get("frozen_scores") or first["scores"]
    found = [
        Arm(config.recipe, last["scores"], _tokens(last["evaluation_cost"])),
        Arm(FROZEN, before, _tokens(first["evaluation_cost"])),
    ]
    ledger = directory / "controls" / "ledger.sqlite"
    return [*found, *_controls(ledger, config, judged=len(last["scores"]))] if ledger.exists() else found


def pooled(by_seed: Mapping[int, Iterable[Arm]]) -> list[Arm]:
    """Arms of several runs of one recipe as one: tasks of different seeds are different tasks."""
    scores: dict[str, dict[str, Sequence[float]]] = defaultdict(dict)
    tokens: dict[str, int] = defaultdict(int)
    for seed, each in by_seed.items():
        for arm in each:
            scores[arm.name] |= {f"{seed}/{task}": values for task, values in arm.scores.items()}
            tokens[arm.name] += arm.tokens
    return [Arm(name, values, tokens[name]) for name, values in scores.items()]


def standings(found: Sequence[Arm], *, seed: int) -> list[Standing]:
    """Each arm with its success; the first is the recipe, and the others say what it gained over them."""
    recipe, *others = found
    told = [Standing(recipe.name, interval(recipe.scores, seed=seed), recipe.tokens)]
    for arm in others:
        gain = paired(recipe.scores, arm.scores, seed=seed)
        lost = 1 - gain.n / max(1, len(arm.scores))
        claim = verdict(gain, lost_share=lost)
        told.append(Standing(arm.name, interval(arm.scores, seed=seed), arm.tokens, gain, claim))
    return told


def rows_of(payloads: Mapping[int, str]) -> list[dict[str, Any]]:
    """Rows of generations from their payloads, see `Ledger.generations`."""
    return [json.loads(text) for _, text in sorted(payloads.items())]


def _controls(ledger: Path, config: RunConfig, *, judged: int) -> list[Arm]:
    with closing(Episodes(ledger, read_only=True)) as file:
        played = file.ended()
    seat = _judged_seat(config)
    scores: dict[str, dict[str, tuple[float, ...]]] = {name: {} for name in CONTROLS}
    tokens: dict[str, int] = defaultdict(int)
    for each in played:
        if each.arm in scores and each.generation == config.generations:
            tokens[each.arm] += each.tokens
            if not each.failure:
                scores[each.arm][each.task] = (fmean(each.scores if seat is None else each.scores[seat : seat + 1]),)
    counts = Counter(each.arm for each in played)
    # One that is still being played would be judged on its first tasks only.
    return [Arm(name, scores[name], tokens[name]) for name in CONTROLS if counts[name] >= max(1, judged)]


def _judged_seat(config: RunConfig) -> int | None:
    """The last seat where it meets an opponent, None for the mean of all; see `solutions.seats.learning_seat`."""
    if "opponent" not in config.roles:
        return None
    environment = build_inline(EnvironmentSpec(config.environment, dict(config.options)))
    try:
        return len(environment.players) - 1
    finally:
        environment.close()


def _tokens(cost: Mapping[str, Any]) -> int:
    return int(cost["tokens_in"]) + int(cost["tokens_out"])
