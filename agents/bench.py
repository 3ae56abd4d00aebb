"""A recipe beside its controls: the same tasks and seeds, as many episodes to learn from, paired differences.

One folder holds a benchmark: `seed-N` is an ordinary run, `seed-N/controls` the ledger of what its controls played.
What is there already is used again, so a benchmark that was cut off goes on where it stopped.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evolvent.agents.answering import DIRECT
from evolvent.agents.display import Comparison
from evolvent.agents.errors import RunDirectoryError, SetupError
from evolvent.agents.evaluation.controls import CONTROLS as PLAYED
from evolvent.agents.evaluation.controls import Arm, Rival, play_controls, rules_from_elsewhere, rules_misplaced
from evolvent.agents.evaluation.statistics import diagnose, interval, n_for_power, paired, verdict
from evolvent.agents.evaluation.task_set import judged_tasks, task_set_hash
from evolvent.agents.recipes.catalog import load_recipe
from evolvent.agents.run import Prepared, RunConfig, create, execute, has_ended, opened, prepare, read_config
from evolvent.agents.trace import read_lines
from evolvent.agents.types import derive_rng
from evolvent.environments.catalog import version
from evolvent.environments.types import Cost, Task
from evolvent.memory.embedding import HashEmbedder
from evolvent.memory.store import Memory
from evolvent.memory.types import Record

if TYPE_CHECKING:
    from langchain_core.language_models import BaseChatModel

    from evolvent.memory.embedding import Embedder

CONTROLS = ("frozen", *PLAYED)
RETRY = "retry"
"""The control of a recipe from which nothing carries over: as many attempts without the mechanism."""
MARGIN = 0.05
""""Not below" means a lower end above minus this."""
_ELSEWHERE = 1000
"""Added to a world's number for the world that a lone seed's random rules are learned in."""


@dataclass(frozen=True, slots=True)
class Played:
    """A finished run, as far as its controls and the comparison need it."""

    config: RunConfig
    folder: Path
    rows: Sequence[Mapping[str, Any]]
    """One per generation."""
    rules: Sequence[Record]
    """Every rule it ever proposed, the best proved first."""
    learning_episodes: int
    tasks: Sequence[Task]
    """On which it is judged."""
    illegal: float
    """Share of its last generation's actions that the environment did not admit."""

    @property
    def active(self) -> list[Record]:
        return [rule for rule in self.rules if rule.status == "active"]


async def bench(
    config: RunConfig,
    seeds: int,
    directory: Path,
    *,
    say: Callable[[str], None] = lambda text: None,
    models: Mapping[str, BaseChatModel] | None = None,
    embedder: Embedder | None = None,
    variants: Mapping[str, Mapping[str, Any]] | None = None,
    controls: Collection[str] = CONTROLS,
) -> Comparison:
    """The comparison of `config`'s recipe with its controls, over the seeds from `config.seed` on, as one JSON value.

    In the workshop each seed has a world of its own, counted up from the configured one.

    Args:
        controls: those to play, of `CONTROLS`; `frozen` comes with every run. The others can be asked for later.
        variants: further arms by name, each the recipe with these settings over its own (an ablation); one run a seed.

    Raises:
        SetupError: see `run.create`; also when a folder of `directory` holds a run of another config.
        ModelUnavailableError: no model call has succeeded. The benchmark can be started again.
    """
    ready = prepare(config, models=models, embedder=embedder)
    configs = [_for_seed(config, index) for index in range(seeds)]
    runs = []
    for each in configs:
        folder = directory / f"seed-{each.seed}"
        runs.append(await _finished(each, folder, _prefixed(say, f"seed {each.seed}"), ready))
    carries_over: bool = load_recipe(config.recipe).CARRIES_OVER
    arms: list[dict[str, Arm]] = []
    for index, run in enumerate(runs):
        speak = _prefixed(say, f"seed {run.config.seed}")
        if not carries_over:
            arms.append(_own_task_arms(run))
            continue
        beside = runs[(index + 1) % seeds] if seeds > 1 else None
        found = await _held_out_arms(run, beside, speak, ready, controls)
        for name, settings in (variants or {}).items():
            changed = run.config.model_copy(update={"settings": {**run.config.settings, **settings}})
            folder = directory / f"seed-{run.config.seed}-{name}"
            found[name] = _recipe_arm(await _finished(changed, folder, speak, ready))
        arms.append(found)
    return _comparison(config, runs, arms)


def read_controls(text: str) -> tuple[str, ...]:
    """Controls from their names with commas between them; all of them from nothing.

    Raises:
        SetupError: no such control.
    """
    names = tuple(name.strip() for name in text.split(",")) if text else CONTROLS
    for name in names:
        if name not in CONTROLS:
            raise SetupError(f"--controls {name!r}: no control is called that. Known: {', '.join(CONTROLS)}.")
    return names


def _for_seed(config: RunConfig, index: int) -> RunConfig:
    options = dict(config.options)
    if config.environment == "workshop":
        options["world"] = options.get("world", config.seed) + index
    return config.model_copy(update={"seed": config.seed + index, "options": options})


def _prefixed(say: Callable[[str], None], prefix: str) -> Callable[[str], None]:
    return lambda text: say(f"{prefix}: {text}")


# -- runs ----------------------------------------------------------------------------------------------------------


async def _finished(
    config: RunConfig,
    folder: Path,
    say: Callable[[str], None],
    ready: Prepared,
) -> Played:
    """The run of a config in a folder: as it is there, or run to its end."""
    if not (folder / "config.json").exists():
        create(config, folder)
    elif read_config(folder) != config:
        raise RunDirectoryError(f"{folder} holds a run of another config. Choose another --out, or remove it.")
    if not has_ended(folder):
        await execute(folder, say=say, models=ready.models, embedder=ready.embedder)
    return _read(folder)


def _read(folder: Path) -> Played:
    with Memory.open(folder, embedder=HashEmbedder(), read_only=True) as memory:
        ledger = memory.ledger
        rows = [json.loads(text) for _, text in sorted(ledger.generations().items())]
        proof = {event.record_id: event.payload["gate"]["mean"] for event in ledger.events() if "gate" in event.payload}
        rules = [record for record in memory.records().values() if record.kind == "rule"]
        rules.sort(key=lambda rule: (rule.status != "active", -proof.get(rule.id, -1.0), rule.id))
        learning = [episode for phase in ("train", "gate") for episode in ledger.episodes(phase=phase)]
        last = rows[-1]["generation"]
        judged = list(ledger.episodes(phase="eval", generation=last)) or list(ledger.episodes(generation=last))
        legal = [
            step.observation.actions is None or step.action.text in step.observation.actions
            for episode in judged
            for trajectory in episode.trajectories
            for step in trajectory.steps
        ]
        return Played(
            read_config(folder),
            folder,
            rows,
            rules,
            len(learning),
            judged_tasks(ledger),
            1 - sum(legal) / max(1, len(legal)),
        )


# -- arms ----------------------------------------------------------------------------------------------------------


async def _held_out_arms(
    run: Played,
    beside: Played | None,
    say: Callable[[str], None],
    ready: Prepared,
    names: Collection[str],
) -> dict[str, Arm]:
    frozen = _frozen_arm(run)
    settings = run.config.recipe_config()
    rival = Rival(
        run.learning_episodes,
        temperature=getattr(settings, "explore_temperature", 1.0),
        frozen=frozen,
        random_rules=await _random_rules(run, beside, say, ready) if "random-rules" in names else (),
    )
    async with opened(run.config, run.folder / "controls", ready, say=say) as context:
        controls = await play_controls(context, rival, names)
    return {run.config.recipe: _recipe_arm(run), "frozen": frozen, **controls}


async def _random_rules(
    run: Played,
    beside: Played | None,
    say: Callable[[str], None],
    ready: Prepared,
) -> list[Record]:
    """Stand-ins for the run's active rules: what the next seed's world taught, or one of its own for a lone seed."""
    if not run.active:
        return []
    if run.config.environment != "workshop":
        return rules_misplaced(run.active, run.rules, derive_rng(run.config.seed, "misplaced rules"))
    if beside is None:
        options = {**run.config.options, "world": run.config.options["world"] + _ELSEWHERE}
        config = run.config.model_copy(update={"options": options, "evaluated": 2})
        folder = run.folder.with_name(f"{run.folder.name}-elsewhere")
        beside = await _finished(config, folder, _prefixed(say, "another world"), ready)
    return rules_from_elsewhere(run.active, beside.rules)


def _recipe_arm(run: Played) -> Arm:
    """Everything it learned by and its last evaluation; seconds are the whole run's after generation 0."""
    last = run.rows[-1]
    cost = _called(run, lambda call: call["phase"] in ("train", "gate") or call["generation"] == last["generation"])
    seconds = sum(row["cost"]["seconds"] for row in run.rows[1:])
    note = f"{len(run.active)} active rules"
    return Arm(_scores(last["scores"]), replace(cost, seconds=seconds), run.learning_episodes, note)


def _frozen_arm(run: Played) -> Arm:
    first = run.rows[0]
    cost = Cost(**{**first["evaluation_cost"], "seconds": first["cost"]["seconds"]})
    return Arm(_scores(first["scores"]), cost)


def _own_task_arms(run: Played) -> dict[str, Arm]:
    """The recipe and its controls, all of which it played itself: one attempt at each task, or its direct answer, and
    for a recipe that tries again as many attempts without the mechanism.

    The clock ran for both sides at once, so its seconds are shared out by tokens.
    """
    first, last = run.rows[0], run.rows[-1]
    seconds = sum(row["cost"]["seconds"] for row in run.rows)
    begun = first["generation"]

    def opening(call: Mapping[str, Any]) -> bool:
        return bool(call["generation"] == begun and call["role"] == "actor")

    def answered_directly(call: Mapping[str, Any]) -> bool:
        return bool(call["phase"] == "control" or (call["purpose"] == last["direct"] and call["attempt"] == 0))

    costs = {run.config.recipe: _called(run, lambda call: call["phase"] != "control")}
    scores = {run.config.recipe: last["scores"]}
    if last.get("control") == DIRECT:
        costs["frozen"], scores["frozen"] = _called(run, answered_directly), last["frozen_scores"]
    else:
        costs["frozen"], scores["frozen"] = _called(run, opening), first["scores"]
        # Both sides share the first attempt.
        costs[RETRY] = _called(run, lambda call: call["phase"] == "control" or opening(call))
        scores[RETRY] = last["frozen_scores"]
    every = max(1, _called(run, lambda call: True).tokens_in)
    return {
        name: Arm(_scores(scores[name]), replace(cost, seconds=seconds * cost.tokens_in / every))
        for name, cost in costs.items()
    }


def _called(run: Played, wanted: Callable[[Mapping[str, Any]], bool]) -> Cost:
    """Cost of the traced calls that are wanted, retries and reflection included."""
    total = Cost()
    for call in read_lines(run.folder / "trace.jsonl"):
        if wanted(call):
            total += Cost(call["tokens_in"], call["tokens_out"], 1, call["seconds"])
    return total


def _scores(plain: Mapping[str, Sequence[float]]) -> dict[str, tuple[float, ...]]:
    return {task: tuple(scores) for task, scores in plain.items()}


# -- the comparison ------------------------------------------------------------------------------------------------


def _comparison(config: RunConfig, runs: Sequence[Played], arms: Sequence[Mapping[str, Arm]]) -> Comparison:
    """Arms pooled over seeds, clustered by seed and task."""
    recipe = config.recipe
    names = [recipe, *dict.fromkeys((*CONTROLS, *(name for each in arms for name in each if name != recipe)))]
    seeds = [run.config.seed for run in runs]
    pooled = {
        name: {
            f"{seed}/{task}": s for seed, each in zip(seeds, arms, strict=True) for task, s in each[name].scores.items()
        }
        for name in names
        if name in arms[0]
    }
    asked = sum(len(run.tasks) for run in runs)
    gains = {name: paired(pooled[recipe], pooled[name], seed=config.seed) for name in pooled if name != recipe}
    claims = {name: verdict(gain, lost_share=1 - gain.n / max(1, asked)) for name, gain in gains.items()}
    illegal = sum(run.illegal for run in runs) / len(runs)
    raw = gains.get("raw-retrieval")
    found = {
        "recipe": recipe,
        "env": config.environment,
        "model": config.model,
        "env_version": version(config.environment),
        "task_set_hash": task_set_hash([task for run in runs for task in run.tasks]),
        "preset": config.preset,
        "settings": dict(config.settings),
        "arms": {name: _arm_json(name, pooled, arms, config.seed) for name in names},
        "gain": {
            name: _gain_json(gains[name], claims[name]) if name in gains else None for name in names if name != recipe
        },
        "power": {
            name: {
                "n": n_for_power(_differences(pooled[recipe], pooled[name])),
                "diagnosis": diagnose(_mean(pooled[recipe]), _mean(pooled[name]), illegal=illegal),
            }
            for name, claim in claims.items()
            if claim == "no evidence"
        },
        "equivalence": {
            "against": "raw-retrieval",
            "margin": MARGIN,
            "low": raw.low if raw else None,
            "not_below": raw.low > -MARGIN if raw else None,
        },
        "reasons": {
            name: _NOT_ASKED_FOR if load_recipe(config.recipe).CARRIES_OVER else _NOTHING_CARRIES_OVER
            for name in CONTROLS
            if name not in pooled
        },
        "illegal_actions": illegal,
        "seeds": [_seed_json(run, each) for run, each in zip(runs, arms, strict=True)],
    }
    return Comparison(found)


_NOT_ASKED_FOR = "Not played: --controls leaves it out."
_NOTHING_CARRIES_OVER = (
    "Nothing carries over between tasks: the control is the direct answer, "
    f"or as many attempts ({RETRY!r}) for a recipe that tries again."
)


def _arm_json(
    name: str, pooled: Mapping[str, Mapping[str, Sequence[float]]], arms: Sequence[Mapping[str, Arm]], seed: int
) -> dict[str, Any] | None:
    if name not in pooled:
        return None
    success = interval(pooled[name], seed=seed)
    cost = sum((each[name].cost for each in arms), Cost())
    return {
        "success": success.mean,
        "low": success.low,
        "high": success.high,
        "n": success.n,
        **asdict(cost),
        "learning_episodes": sum(each[name].learning_episodes for each in arms),
    }


def _gain_json(gain: Any, claim: str) -> dict[str, Any]:
    return {"mean": gain.mean, "low": gain.low, "high": gain.high, "n": gain.n, "verdict": claim}


def _seed_json(run: Played, arms: Mapping[str, Arm]) -> dict[str, Any]:
    recipe = run.config.recipe
    seed = run.config.seed
    gains = {name: paired(arms[recipe].scores, arm.scores, seed=seed) for name, arm in arms.items() if name != recipe}
    return {
        "seed": seed,
        "out": str(run.folder),
        "success": {name: _mean(arm.scores) for name, arm in arms.items()},
        "gain": {name: _gain_json(gain, verdict(gain)) for name, gain in gains.items()},
        "learning_episodes": {name: arm.learning_episodes for name, arm in arms.items()},
        "notes": {name: arm.note for name, arm in arms.items() if arm.note},
    }


def _differences(ours: Mapping[str, Sequence[float]], theirs: Mapping[str, Sequence[float]]) -> list[float]:
    return [_average(ours[task]) - _average(theirs[task]) for task in sorted(set(ours) & set(theirs))]


def _mean(scores: Mapping[str, Sequence[float]]) -> float:
    """Over tasks, each counting once."""
    return _average([_average(each) for each in scores.values()])


def _average(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0
