"""A run: one recipe, one directory. Made whole or not at all, resumed where it stopped, reported from its ledger.

A run directory holds `config.json`, `trace.jsonl`, `metrics.jsonl`, `ledger.sqlite`, `chroma/`, `checkpoints.sqlite`
and, once it has ended, `report.html`.
"""

from __future__ import annotations

import json
import logging
import os
import platform
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from evolvent.agents.display import Result
from evolvent.agents.errors import RunDirectoryError, SetupError, UnknownSettingError, unknown
from evolvent.agents.recipes.catalog import load_recipe

if TYPE_CHECKING:
    from langchain_core.language_models import BaseChatModel

    from evolvent.agents.context import Context, Objective
    from evolvent.agents.episode import Job
    from evolvent.agents.models.role import Limits
    from evolvent.agents.rollout import Episode
    from evolvent.memory.cache import Progress
    from evolvent.memory.embedding import Embedder
    from evolvent.memory.store import Memory

logger = logging.getLogger(__name__)
FORMAT = 1
EMBEDDERS = ("minilm", "hash")
"""`hash` compares words and needs no weights."""


@runtime_checkable
class Loadable(Protocol):
    """A model whose weights can be loaded ahead of its first call."""

    def load(self) -> None: ...


class RunConfig(BaseModel):
    """Everything a run is made from; two runs of one config give the same result."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    recipe: str
    environment: str = "workshop"
    options: Mapping[str, Any] = Field(default_factory=dict)
    """Of the environment."""
    shifts: Mapping[int, Mapping[str, Any]] = Field(default_factory=dict)
    """By generation: options of the environment that hold from then on."""
    model: str = "smollm2"
    roles: Mapping[str, str] = Field(default_factory=dict)
    """Role → model spec, for roles that are not the actor's model."""
    tasks: int = Field(24, ge=1)
    evaluated: int = Field(80, ge=2)
    generations: int = Field(3, ge=1)
    concurrency: int = Field(16, ge=1)
    seed: int = Field(0, ge=0)
    preset: str = "small"
    settings: Mapping[str, Any] = Field(default_factory=dict)
    """Of the recipe, over its preset."""
    embedder: str = "minilm"
    format: int = FORMAT

    def recipe_config(self) -> BaseModel:
        """The recipe's own configuration: the preset with this run's settings over it.

        Raises:
            UnknownSettingError: a preset or setting the recipe does not have, or a value it does not take.
        """
        recipe = load_recipe(self.recipe)
        if self.preset not in recipe.PRESETS:
            raise UnknownSettingError(unknown(f"preset of {self.recipe}", self.preset, recipe.PRESETS))
        preset: BaseModel = recipe.PRESETS[self.preset]
        known = type(preset).model_fields
        for name in self.settings:
            if name not in known:
                raise UnknownSettingError(unknown(f"setting of {self.recipe}", name, known))
        try:
            return type(preset).model_validate(preset.model_dump() | dict(self.settings))
        except ValidationError as error:
            first = error.errors()[0]
            name = ".".join(str(part) for part in first["loc"])
            raise UnknownSettingError(f"{self.recipe}: {name}={first['input']!r}: {first['msg']}.") from error


def create(config: RunConfig, directory: Path) -> Path:
    """A new run directory with its `config.json`, by one rename.

    Everything that can be wrong with the config is told here, before any work.

    Raises:
        SetupError: unknown recipe, environment, setting or role, an environment that does not fit, or a used directory.
    """
    check(config)
    if directory.exists() and not directory.is_dir():
        raise RunDirectoryError(f"{directory} is a file, not a directory. Choose another --out.")
    if directory.exists() and any(directory.iterdir()):
        hint = f"Resume it with `evolvent resume {directory}`" if (directory / "config.json").exists() else "Empty it"
        raise RunDirectoryError(f"{directory} already holds something. {hint}, or choose another --out.")
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=f".{directory.name}-", dir=directory.parent))
        (draft / "config.json").write_text(config.model_dump_json(indent=2) + "\n", encoding="utf-8")
        draft.chmod(0o755)
        if directory.exists():
            directory.rmdir()
        os.rename(draft, directory)
    except OSError as error:
        raise RunDirectoryError(f"Cannot make {directory}: {error.strerror}. Choose another --out.") from error
    return directory


def read_config(directory: Path) -> RunConfig:
    """The config a run was made with.

    Raises:
        RunDirectoryError: the directory is no run, or one of a newer format.
    """
    file = directory / "config.json"
    if not file.exists():
        raise RunDirectoryError(f"{directory} is not a run: it has no config.json. Start one with `evolvent run`.")
    try:
        return RunConfig.model_validate_json(file.read_text("utf-8"))
    except ValidationError as error:
        first = error.errors()[0]
        raise RunDirectoryError(f"{file} cannot be read: {first['loc']}: {first['msg']}.") from error


def check(config: RunConfig) -> None:
    """Everything that can be told to be wrong without loading a model.

    Raises:
        SetupError: says what is wrong and what would be right.
    """
    recipe = load_recipe(config.recipe)
    config.recipe_config()
    check_fit(config, recipe)


@dataclass(frozen=True, slots=True)
class Prepared:
    """What a run needs that may be missing on this machine, ready for work."""

    models: Mapping[str, BaseChatModel]
    """By role; roles of one spec share a model."""
    embedder: Embedder


def prepare(
    config: RunConfig,
    *,
    models: Mapping[str, BaseChatModel] | None = None,
    embedder: Embedder | None = None,
    progress: Progress | None = None,
) -> Prepared:
    """Load the models and find the embedder, but for those given. Weights are fetched at their first use.

    Raises:
        UnknownModelError: no such spec.
        ModelUnavailableError: weights, a file, a package or a key is missing.
    """
    from evolvent.agents.models.catalog import pull, resolve
    from evolvent.memory.embedding import HashEmbedder, MiniLM

    if config.embedder not in EMBEDDERS:
        raise SetupError(unknown("embedder", config.embedder, EMBEDDERS))
    if embedder is None and config.embedder == "minilm":
        pull("minilm", progress=progress)
    ready = dict(models or {})
    if "actor" in ready:
        ready = dict.fromkeys(earlier_selves(config), ready["actor"]) | ready
    loaded: dict[str, BaseChatModel] = {}
    for role, spec in _specs(config).items():
        if role in ready:
            continue
        if spec not in loaded:
            model = loaded[spec] = resolve(spec, seed=config.seed, progress=progress)
            if isinstance(model, Loadable):
                model.load()
        ready[role] = loaded[spec]
    return Prepared(ready, embedder or (HashEmbedder() if config.embedder == "hash" else MiniLM()))


def _specs(config: RunConfig) -> dict[str, str]:
    """Model specs by role; an earlier self is the actor's model with an earlier memory."""
    return {"actor": config.model, **config.roles} | dict.fromkeys(earlier_selves(config), config.model)


def check_fit(config: RunConfig, recipe: ModuleType) -> None:
    """Whether recipe, environment and roles go together.

    Raises:
        SetupError: they do not; says which would.
    """
    from evolvent.environments.catalog import ENTRIES, build_inline
    from evolvent.environments.errors import WorldError

    if config.environment in ENTRIES and config.environment not in recipe.ENVIRONMENTS:
        fits = ", ".join(recipe.ENVIRONMENTS)
        raise SetupError(f"{config.recipe} does not run on {config.environment!r}. It runs on: {fits}.")
    earlier_selves(config)
    for role in config.roles:
        if role not in recipe.ROLES:
            raise SetupError(unknown(f"role in {config.recipe}", role, recipe.ROLES))
    try:
        objective = _objective(config)
        for generation in (0, *sorted(config.shifts)):
            environment = build_inline(objective.environment_at(generation))
            # Too few tasks is told now, not after an hour.
            if config.environment == "workshop" or objective.history:
                environment.tasks("test", config.evaluated, config.seed * 1000)
                environment.tasks("train", config.tasks, config.seed * 1000 + 1)
            environment.close()
    except WorldError as error:
        raise SetupError(str(error)) from error


def _objective(config: RunConfig) -> Objective:
    from evolvent.agents.context import Objective
    from evolvent.environments.catalog import ENTRIES
    from evolvent.environments.protocol import EnvironmentSpec

    known = ENTRIES.get(config.environment)
    return Objective(
        f"Do well on tasks of {config.environment}.",
        EnvironmentSpec(config.environment, dict(config.options)),
        config.tasks,
        config.evaluated,
        config.generations,
        shifts=config.shifts,
        history=known is not None and known.history,
    )


def earlier_selves(config: RunConfig) -> dict[str, int]:
    """Roles that `generation:N` binds to an earlier generation of the run itself, and which.

    Raises:
        SetupError: N is no whole number, or the actor is bound so.
    """
    selves = {}
    for role, spec in {"actor": config.model, **config.roles}.items():
        form, _, number = spec.partition(":")
        if form != "generation":
            continue
        if role == "actor" or not number.isdigit():
            expected = "a model of its own" if role == "actor" else "generation:N with N from 0"
            raise SetupError(f"{role}={spec}: expected {expected}.")
        selves[role] = int(number)
    return selves


async def execute(
    directory: Path,
    *,
    say: Callable[[str], None] = lambda text: None,
    on_episode: Callable[[Job, Episode], None] = lambda job, episode: None,
    models: Mapping[str, BaseChatModel] | None = None,
    embedder: Embedder | None = None,
    limits: Limits | None = None,
) -> None:
    """Run, or go on with, the recipe of a run directory until it ends.

    Args:
        models: chat models by role to use instead of the config's specs (objects of your own).
        limits: of every model call, instead of the default ones.

    Raises:
        ModelUnavailableError: what `prepare` could not load, or no model call has succeeded.
        SetupError: see `create`.
    """
    from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver

    from evolvent.agents.metrics import catch_up, forward_tokens, metric, totals
    from evolvent.agents.trace import JsonLines

    config = read_config(directory)
    graph = load_recipe(config.recipe).build(config.recipe_config())
    ready = prepare(config, models=models, embedder=embedder)
    forward, cpu = forward_tokens(ready.models), time.process_time()

    def record(job: Job, episode: Episode) -> None:
        for each in episode:
            metrics.write(metric(job.key, each))
            logger.info("%s: score %.2f in %d steps", each.id, each.outcome.score, len(each.steps))
        on_episode(job, episode)

    async with opened(config, directory, ready, say=say, on_episode=record, limits=limits) as context:
        if context.memory.ledger.memo("versions") is None:
            context.memory.ledger.add_memo("versions", json.dumps(_versions(config.environment)))
        metrics = JsonLines(directory / "metrics.jsonl")
        catch_up(metrics, context.memory)
        try:
            async with AsyncSqliteSaver.from_conn_string(str(directory / "checkpoints.sqlite")) as saver:
                loop = graph.compile(checkpointer=saver)
                settings: Any = {"configurable": {"thread_id": "run"}, "recursion_limit": 100_000}
                begun = await saver.aget_tuple(settings) is not None
                await loop.ainvoke(None if begun else {"generation": 0}, settings, context=context, durability="sync")
        finally:
            metrics.write(totals(context.trace, forward_tokens(ready.models) - forward, time.process_time() - cpu))
            metrics.close()


@asynccontextmanager
async def opened(
    config: RunConfig,
    directory: Path,
    ready: Prepared,
    *,
    say: Callable[[str], None],
    on_episode: Callable[[Job, Episode], None] = lambda job, episode: None,
    limits: Limits | None = None,
) -> AsyncIterator[Context]:
    """What operators play in: a directory's memory and trace, the models of a config; all closed at the end."""
    from evolvent.agents.context import Context
    from evolvent.agents.models.openai import EndpointChatModel
    from evolvent.agents.models.role import Limits, RoleModel
    from evolvent.agents.rollout import Rollouts
    from evolvent.agents.trace import Trace
    from evolvent.memory.store import Memory

    specs = _specs(config)
    with Memory.open(directory, embedder=ready.embedder) as memory:
        trace = Trace(directory / "trace.jsonl")
        rollouts = Rollouts(memory, trace, concurrency=config.concurrency, on_episode=on_episode)
        try:
            yield Context(
                seed=config.seed,
                objective=_objective(config),
                models={
                    role: RoleModel(specs.get(role, role), model, trace, limits or Limits())
                    for role, model in ready.models.items()
                },
                memory=memory,
                rollouts=rollouts,
                trace=trace,
                directory=directory,
                say=say,
                earlier_selves=earlier_selves(config),
            )
        finally:
            for model in {id(model): model for model in ready.models.values()}.values():
                if isinstance(model, EndpointChatModel):
                    await model.hang_up()
            rollouts.close()
            trace.close()


def has_ended(directory: Path) -> bool:
    """Also False where there is no run."""
    try:
        return bool(result(directory)["finished"])
    except RunDirectoryError:
        return False


def result(directory: Path, memory: Memory | None = None) -> Result:
    """The report of a run as one JSON value, computed from its ledger: the same whenever it is asked for.

    Args:
        memory: the run's, when the caller has it open already.

    Raises:
        RunDirectoryError: not a run, or one with no generation finished yet.
    """
    from evolvent.agents.evaluation.statistics import interval, paired, verdict
    from evolvent.agents.evaluation.task_set import judged_tasks, task_set_hash
    from evolvent.memory.embedding import HashEmbedder
    from evolvent.memory.store import Memory
    from evolvent.memory.types import LEARNED

    config = read_config(directory)
    if not (directory / "ledger.sqlite").exists():
        raise RunDirectoryError(f"{directory} has not begun. Continue with `evolvent resume {directory}`.")
    with nullcontext(memory) if memory else Memory.open(directory, embedder=HashEmbedder(), read_only=True) as kept:
        rows = [json.loads(text) for _, text in sorted(kept.ledger.generations().items())]
        records = [record for record in kept.records().values() if record.kind in LEARNED]
        task_set = task_set_hash(judged_tasks(kept.ledger))
        versions = json.loads(kept.ledger.memo("versions") or "{}")
    if not rows:
        raise RunDirectoryError(f"{directory} has no finished generation. Continue with `evolvent resume {directory}`.")
    frozen = rows[0].get("frozen_scores", rows[0]["scores"])
    last = rows[-1]
    if "frozen_scores" in last:
        frozen = last["frozen_scores"]
    gain = paired(last["scores"], frozen, seed=config.seed)
    lost = 1 - gain.n / max(1, last.get("asked", config.evaluated))
    generations = [
        {
            "generation": row["generation"],
            "held_out": _interval_json(interval(row["scores"], seed=config.seed)),
            "solved": row["solved"],
            "tokens_in": row["cost"]["tokens_in"],
            "tokens_out": row["cost"]["tokens_out"],
            "calls": row["cost"]["calls"],
            "seconds": round(row["cost"]["seconds"], 3),
            "model": row["model"],
        }
        for row in rows
    ]
    found = {
        "recipe": config.recipe,
        "env": config.environment,
        "env_version": versions.get("environment", ""),
        "task_set_hash": task_set,
        "judged_on": "held-out tasks" if load_recipe(config.recipe).CARRIES_OVER else "its own tasks",
        "versions": versions,
        "model": config.model,
        "seed": config.seed,
        "out": str(directory),
        "preset": config.preset,
        "settings": dict(config.settings),
        "finished": last["generation"] >= config.generations,
        "verdict": verdict(gain, lost_share=lost),
        "generations": generations,
        "frozen": _interval_json(interval(frozen, seed=config.seed)),
        "gain": {"mean": gain.mean, "low": gain.low, "high": gain.high, "n": gain.n},
        "lost_pairs": max(0, round(lost * last.get("asked", config.evaluated))),
        "records": {
            status: sum(record.status == status for record in records)
            for status in ("active", "candidate", "quarantined", "retired")
        },
    }
    return Result(found)


def _interval_json(found: Any) -> dict[str, float]:
    return {"success": found.mean, "low": found.low, "high": found.high, "n": found.n}


def _versions(environment: str) -> dict[str, str]:
    """What a run is begun with; kept with it, because a report may be asked for after an upgrade."""
    from evolvent.environments.catalog import version

    packages = {name: metadata.version(name) for name in ("evolvent", "torch", "transformers", "langgraph", "chromadb")}
    return {"environment": version(environment), "python": platform.python_version(), **packages}
