"""Matches between agents: models, shipped opponents, generations of a run, at one table or in a tournament.

Every pairing plays the same deals with the chairs rotated, so what is compared is the players and not their cards.
Matches are episodes in a ledger of their own: a folder that was cut off goes on where it stopped.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from evolvent.agents.episode import Job
from evolvent.agents.errors import RunDirectoryError, SetupError, unknown
from evolvent.agents.evaluation.rating import ratings
from evolvent.agents.evaluation.statistics import interval, paired, verdict
from evolvent.agents.models.catalog import resolve
from evolvent.agents.models.protocol import Adaptable
from evolvent.agents.models.role import RoleModel
from evolvent.agents.recipes.catalog import load_recipe
from evolvent.agents.rollout import Episode, Rollouts
from evolvent.agents.run import read_config
from evolvent.agents.solutions.act import Policy
from evolvent.agents.trace import Trace
from evolvent.environments.catalog import ENTRIES, build_inline, version
from evolvent.environments.protocol import EnvironmentSpec
from evolvent.environments.types import Cost, Task
from evolvent.memory.embedding import Embedder, HashEmbedder, MiniLM
from evolvent.memory.store import Memory
from evolvent.memory.types import Interval
from evolvent.memory.weights.adapters import Adapters

_FILE = "match.json"
"""What was asked for, in the folder of the matches."""
_DEAL = "deal:"


class Match(BaseModel):
    """What is played; two of one value give the same result."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    environment: str
    options: Mapping[str, Any] = Field(default_factory=dict)
    seats: Mapping[str, str] = Field(default_factory=dict)
    """Seat → `MODEL`, `bot:NAME` or `run:DIR@GENERATION`. Empty in a tournament."""
    tournament: str = ""
    """A run directory: each of its generations plays each other one."""
    matches: int = Field(20, ge=1)
    """Of each pairing; rounded up to whole deals."""
    temperature: float = Field(0.0, ge=0)
    reply_tokens: int = Field(48, ge=1)
    """Of one reply of a model at most, where it is written; a run's generation has its recipe's."""
    seed: int = Field(0, ge=0)
    concurrency: int = Field(16, ge=1)


@dataclass(frozen=True, slots=True)
class Contender:
    name: str
    """Tells it from the others."""
    spec: str
    bot: str = ""
    """A shipped opponent, which the environment plays itself; then there is no policy."""
    policy: Policy | None = None


@dataclass(frozen=True, slots=True)
class Played:
    deal: str
    """Matches of one deal differ in who sat where."""
    scores: Mapping[str, float]
    """By contender's name, in [0, 1]. What a shipped opponent got is the score that the seats share, or what the others
    left of a constant sum."""
    won: Mapping[str, bool]
    costs: Mapping[str, Cost]


async def play_matches(
    match: Match,
    directory: Path,
    *,
    say: Callable[[str], None] = lambda text: None,
    on_episode: Callable[[Job, Episode], None] = lambda job, episode: None,
) -> dict[str, Any]:
    """What `evolvent play --json` prints.

    Raises:
        SetupError: seats, opponents or generations that are not there; the folder holds other matches.
        ModelUnavailableError: no model call has succeeded. The same command goes on.
    """
    seats = _seats(match)
    new = _claim(match, directory)
    try:
        return await _found(match, seats, directory, say, on_episode)
    except SetupError:
        if new:
            shutil.rmtree(directory)
        raise


async def _found(
    match: Match,
    seats: Sequence[str],
    directory: Path,
    say: Callable[[str], None],
    on_episode: Callable[[Job, Episode], None],
) -> dict[str, Any]:
    with Memory.open(directory, embedder=HashEmbedder()) as memory:
        trace = Trace(directory / "trace.jsonl")
        rollouts = Rollouts(memory, trace, concurrency=match.concurrency, on_episode=on_episode)
        try:
            async with _contenders(match, trace) as contenders:
                found: list[Played] = []
                asked = 0
                for table in _tables(match, seats, contenders):
                    say(" against ".join(each.name for each in table.values()))
                    played, begun = await _play(match, table, rollouts)
                    found += played
                    asked += begun
        finally:
            rollouts.close()
            trace.close()
    return _told(match, contenders, found, asked) | {"out": str(directory)}


# -- who plays -----------------------------------------------------------------------------------------------------


def _seats(match: Match) -> tuple[str, ...]:
    """All seats of the environment, those of bots included.

    Raises:
        SetupError: one that is not there, one that nobody sits on, or too few for a match.
    """
    environment = build_inline(EnvironmentSpec(match.environment, dict(match.options)))
    try:
        seats = environment.players
    finally:
        environment.close()
    if len(seats) < 2:
        raise SetupError(f"{match.environment} has one seat; a match needs two. `evolvent envs` lists players.")
    if match.tournament:
        if len(seats) != 2:
            raise SetupError(f"{match.environment} has {len(seats)} seats; a tournament is of pairs.")
        return seats
    for name in match.seats:
        if name not in seats:
            raise SetupError(unknown(f"seat of {match.environment}", name, seats))
    empty = [name for name in seats if name not in match.seats]
    if empty:
        raise SetupError(f"Nobody sits on {', '.join(empty)}. Add --seat {empty[0]}=SPEC.")
    if all(spec.startswith("bot:") for spec in match.seats.values()):
        raise SetupError("Every seat has a shipped opponent; expected one model or generation at least.")
    return seats


@asynccontextmanager
async def _contenders(match: Match, trace: Trace) -> AsyncIterator[dict[str, Contender]]:
    """By seat, or in a tournament by generation."""
    opened: list[Memory] = []
    models: dict[str, Any] = {}

    def policy(spec: str) -> Policy:
        form, _, rest = spec.partition(":")
        if form == "run":
            found = _generation(rest, match, trace, models, opened)
        else:
            if spec not in models:
                models[spec] = resolve(spec, seed=match.seed)
            found = Policy(RoleModel(spec, models[spec], trace), max_reply_tokens=match.reply_tokens)
        return replace(found, temperature=match.temperature)

    try:
        if match.tournament:
            config = read_config(Path(match.tournament))
            specs = {f"generation {n}": f"run:{match.tournament}@{n}" for n in range(config.generations + 1)}
        else:
            specs = dict(match.seats)
        several = len(set(specs.values())) < len(specs)
        yield {
            key: _bot(match, name, spec) if spec.startswith("bot:") else Contender(name, spec, policy=policy(spec))
            for key, spec in specs.items()
            for name in [key if match.tournament else f"{key}: {spec}" if several else spec]
        }
    finally:
        for memory in opened:
            memory.close()


def _bot(match: Match, name: str, spec: str) -> Contender:
    bot = spec.partition(":")[2]
    entry = ENTRIES.get(match.environment)
    shipped = entry.opponents if entry else ()
    if bot not in shipped:
        raise SetupError(unknown(f"opponent in {match.environment}", bot, shipped))
    return Contender(name, spec, bot=bot)


def _generation(text: str, match: Match, trace: Trace, models: dict[str, Any], opened: list[Memory]) -> Policy:
    """A run's generation as it acts when it is judged: its weights, its memory, its way to recall.

    Raises:
        SetupError: the run has no such generation yet, or its recipe keeps nothing that could sit down here.
    """
    place, at, number = text.rpartition("@")
    directory = Path(place if at and number.isdigit() else text)
    config = read_config(directory)
    memory = Memory.open(directory, embedder=_embedder(config.embedder), read_only=True)
    opened.append(memory)
    rows = {finished: json.loads(row) for finished, row in memory.ledger.generations().items()}
    wanted = int(number) if at and number.isdigit() else max(rows, default=0)
    if wanted not in rows:
        raise SetupError(f"{directory} has no generation {wanted}; it has finished {_range(rows)}.")
    model = rows[wanted]["model"]
    if config.model not in models:
        models[config.model] = resolve(config.model, seed=config.seed)
    acting = RoleModel(f"{config.model}@{wanted}", models[config.model], trace)
    if model["adapter"]:
        if not isinstance(acting.model, Adaptable):
            raise SetupError(f"Model {config.model} serves no adapters, and generation {wanted} has one.")
        folder = Adapters(directory).get(model["adapter"]).folder
        acting = acting.serving(acting.name, acting.model.with_adapter(folder))
    recipe = load_recipe(config.recipe)
    if hasattr(recipe, "contender"):
        policy: Policy = recipe.contender(config.recipe_config(), acting, memory.snapshot(model["memory"]))
        return policy
    if wanted and not model["adapter"]:
        raise SetupError(f"A generation of {config.recipe} cannot sit at another table: it acts in its own loop only.")
    return Policy(acting)


def _range(rows: Mapping[int, Any]) -> str:
    return f"0 to {max(rows)}" if rows else "none"


def _embedder(name: str) -> Embedder:
    return HashEmbedder() if name == "hash" else MiniLM()


# -- what they play ------------------------------------------------------------------------------------------------


def _claim(match: Match, directory: Path) -> bool:
    """The folder is that of these matches, or becomes it; then true."""
    file = directory / _FILE
    asked = match.model_dump_json(indent=2, exclude={"concurrency"}) + "\n"
    if file.exists():
        if file.read_text(encoding="utf-8") != asked:
            raise RunDirectoryError(f"{directory} holds other matches. Choose another --out.")
        return False
    if directory.exists() and any(directory.iterdir()):
        raise RunDirectoryError(f"{directory} already holds something. Choose another --out.")
    try:
        directory.mkdir(parents=True, exist_ok=True)
        file.write_text(asked, encoding="utf-8")
    except OSError as error:
        raise RunDirectoryError(f"Cannot make {directory}: {error.strerror}. Choose another --out.") from error
    return True


def _tables(match: Match, seats: Sequence[str], contenders: Mapping[str, Contender]) -> list[dict[str, Contender]]:
    """Who sits where, by seat; one table for each pairing."""
    if not match.tournament:
        return [{seat: contenders[seat] for seat in seats}]
    return [dict(zip(seats, pair, strict=True)) for pair in combinations(contenders.values(), 2)]


async def _play(match: Match, table: Mapping[str, Contender], rollouts: Rollouts) -> tuple[list[Played], int]:
    """The matches of one table that came to an end, and how many there should have been."""
    bots = {seat: each.bot for seat, each in table.items() if each.bot}
    spec = EnvironmentSpec(match.environment, {**match.options, **({"bots": bots} if bots else {})})
    policies = {seat: each.policy for seat, each in table.items() if each.policy is not None}
    arm = ",".join(f"{seat}={each.spec}" for seat, each in table.items())
    tasks = _deals(spec, match, len(table))
    jobs = [Job(task, policies, "eval", 0, arm=arm, seed=match.seed) for task in tasks]
    episodes = await rollouts.run(spec, jobs) if policies else []
    found = []
    for task, episode in zip(tasks, episodes, strict=True):
        if any(each.outcome.failure for each in episode):
            continue
        scores = {table[each.player].name: each.outcome.score for each in episode}
        won = {table[each.player].name: each.outcome.success for each in episode}
        if bots:
            own = episode[0].outcome.score
            left = own if _shared(match) else (len(table) / 2 - sum(scores.values())) / len(bots)
            scores |= {table[seat].name: left for seat in bots}
            won |= {table[seat].name: any(won.values()) if _shared(match) else left > 0.5 for seat in bots}
        costs = {table[each.player].name: each.cost for each in episode}
        found.append(Played(_deal(task), scores, won, costs))
    return found, len(tasks)


def _deals(spec: EnvironmentSpec, match: Match, seats: int) -> list[Task]:
    whole = -(-match.matches // seats) * seats
    environment = build_inline(spec)
    try:
        return environment.tasks("test", whole, match.seed * 1000)
    finally:
        environment.close()


def _deal(task: Task) -> str:
    return next((tag for tag in task.tags if tag.startswith(_DEAL)), task.id)


# -- what came out -------------------------------------------------------------------------------------------------


def _told(match: Match, contenders: Mapping[str, Contender], found: Sequence[Played], asked: int) -> dict[str, Any]:
    names = [each.name for each in contenders.values()]
    rated = None if _shared(match) else ratings([each.scores for each in found], names)
    standings = [
        {
            "name": each.name,
            "seat": "" if match.tournament else seat,
            "spec": each.spec,
            "score": asdict(_score(found, each.name, seed=match.seed)),
            "won": sum(one.won.get(each.name, False) for one in found),
            "matches": sum(each.name in one.scores for one in found),
            "rating": asdict(rated[each.name]) if rated else None,
            **{
                field: sum(getattr(one.costs.get(each.name, Cost()), field) for one in found)
                for field in ("tokens_in", "tokens_out", "calls")
            },
        }
        for seat, each in contenders.items()
    ]
    entry = ENTRIES.get(match.environment)
    told: dict[str, Any] = {
        "env": match.environment,
        "env_version": version(match.environment) if entry else "",
        "options": dict(match.options),
        "matches": len(found),
        "failed": asked - len(found),
        "deals": len({each.deal for each in found}),
        "seed": match.seed,
        "standings": standings,
    }
    if len(names) == 2 and rated:
        first, second = (_by_deal(found, name) for name in names)
        gain = paired(first, second, seed=match.seed)
        told |= {"difference": asdict(gain), "verdict": verdict(gain, lost_share=1 - len(found) / max(1, asked))}
    if match.tournament:
        told["table"] = {one: {two: _against(found, one, two) for two in names if two != one} for one in names}
    return told


def _shared(match: Match) -> bool:
    entry = ENTRIES.get(match.environment)
    return entry is not None and entry.together


def _by_deal(found: Sequence[Played], name: str) -> dict[str, list[float]]:
    """Scores of one contender, deal by deal: over the chairs of a deal luck cancels."""
    scores: dict[str, list[float]] = {}
    for each in found:
        if name in each.scores:
            scores.setdefault(each.deal, []).append(each.scores[name])
    return scores


def _score(found: Sequence[Played], name: str, *, seed: int) -> Interval:
    return interval(_by_deal(found, name), seed=seed)


def _against(found: Sequence[Played], one: str, two: str) -> float | None:
    """Mean score of one in its matches with the other."""
    scores = [each.scores[one] for each in found if one in each.scores and two in each.scores]
    return float(np.mean(scores)) if scores else None
