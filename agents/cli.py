"""The command line: flags become a config, one function is called, its result is shown and becomes an exit code.

0 is a result, 1 a run that failed and can be resumed, 2 bad usage or set-up, told in one line before any work.
Heavy libraries are imported by the command that needs them, so `--help` is quick.
"""

from __future__ import annotations

import json
import logging
import shutil
import signal
import sqlite3
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console

from evolvent.agents.adapter_commands import adapters_app
from evolvent.agents.browsing import AsJson, Directory, envs, models_app, systems_app
from evolvent.agents.errors import AgentError, ModelUnavailableError, SetupError
from evolvent.agents.inspector.command import inspect
from evolvent.agents.memory_commands import memory_app
from evolvent.agents.play_command import play
from evolvent.agents.terminal import note, print_json, show, told
from evolvent.agents.top import top
from evolvent.environments.errors import WorldError
from evolvent.memory.errors import LedgerLockedError, MemoryStoreError

if TYPE_CHECKING:
    from evolvent.agents.run import Prepared, RunConfig

app = typer.Typer(
    name="evolvent",
    help="Agents that learn in a sandbox and prove every lesson before they trust it.",
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(systems_app, name="systems")
app.add_typer(models_app, name="models")
app.add_typer(memory_app, name="memory")
app.add_typer(adapters_app, name="adapters")

_ANYWHERE = ("-v", "--verbose", "--debug")
"""Flags of the whole program that may stand after a command too."""
_INTERRUPTED = 130
"""What typer makes of Ctrl-C; ours is 1, like everything that can be gone on with."""

Recipe = Annotated[str, typer.Argument(help="lamarck, or the slug of a system that has a recipe.")]
Env = Annotated[str, typer.Option("--env", help="NAME or NAME:key=value,key=value; see `evolvent envs`.")]
EnvOrFirst = Annotated[
    str | None, typer.Option("--env", help="NAME or NAME:key=value,key=value; by default the recipe's first.")
]
Model = Annotated[str, typer.Option("--model", help="smollm2, hf:…, openai:MODEL@URL, vllm:MODEL, scripted:FILE.")]
Roles = Annotated[list[str] | None, typer.Option("--role", metavar="ROLE=SPEC", help="Another model for a role.")]
Tasks = Annotated[int, typer.Option("--tasks", help="Training tasks a generation.")]
Evaluated = Annotated[int, typer.Option("--eval", help="Held-out tasks.")]
Generations = Annotated[int, typer.Option("--generations", help="Turns of the loop.")]
Concurrency = Annotated[int, typer.Option("--concurrency", help="Episodes at once.")]
Seed = Annotated[int, typer.Option("--seed", help="Of all randomness; also the workshop's world.")]
Preset = Annotated[str, typer.Option("--preset", help="small, or paper for the published figures.")]
Settings = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="A setting of the recipe.")]
Shifts = Annotated[
    list[str] | None,
    typer.Option("--shift", metavar="GEN:KEY=VALUE", help="The world changes from that generation on."),
]
Out = Annotated[Path | None, typer.Option("--out", metavar="DIR", help="Instead of a new folder in runs/.")]
Embeds = Annotated[Literal["minilm", "hash"], typer.Option("--embedder", help="hash needs no weights.")]


def main() -> None:
    signal.signal(signal.SIGTERM, _stop)
    sys.exit(invoke(sys.argv[1:]))


def _stop(number: int, frame: FrameType | None) -> None:
    """What ends a container or a batch job ends a run as Ctrl-C does: all that is finished is kept."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # a background job
        raise KeyboardInterrupt
    signal.raise_signal(signal.SIGINT)


def invoke(arguments: Sequence[str]) -> int:
    """Run one command line and give its exit code; what went wrong is told in one line on stderr."""
    own = list(arguments)
    passed_on = own[own.index("--") :] if "--" in own else []
    own = own[: len(own) - len(passed_on)]
    anywhere = [each for each in own if each in _ANYWHERE]
    try:
        line = [*anywhere, *(each for each in own if each not in _ANYWHERE), *passed_on]
        code = app(line, prog_name="evolvent", standalone_mode=False)
        if code == _INTERRUPTED:
            print("evolvent: Stopped.", file=sys.stderr)
            return 1
        return code if isinstance(code, int) else 0
    except typer.TyperException as error:
        context = getattr(error, "ctx", None)
        command = context.command_path if context else "evolvent"
        return told(f"{error.format_message().rstrip('.')}. See `{command} --help`.", error, 2)
    except (AgentError, WorldError, MemoryStoreError) as error:
        return told(str(error), error, 2)


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Say what is being done, on stderr.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show where an error came from.")] = False,
    version: Annotated[bool, typer.Option("--version", help="Print the version and leave.")] = False,
) -> None:
    from rich.logging import RichHandler

    logger = logging.getLogger("evolvent")
    logger.handlers = [RichHandler(console=Console(stderr=True), show_path=debug)]
    logger.setLevel(logging.DEBUG if debug else logging.INFO if verbose else logging.WARNING)
    if version:
        from importlib.metadata import version as version_of

        print(version_of("evolvent"))
        raise typer.Exit
    if context.invoked_subcommand is None:
        print(context.get_help())


# -- runs ----------------------------------------------------------------------------------------------------------


@app.command()
def run(
    recipe: Recipe,
    env: EnvOrFirst = None,
    model: Model = "smollm2",
    role: Roles = None,
    tasks: Tasks = 24,
    evaluated: Evaluated = 80,
    generations: Generations = 3,
    concurrency: Concurrency = 16,
    seed: Seed = 0,
    preset: Preset = "small",
    settings: Settings = None,
    shift: Shifts = None,
    embedder: Embeds = "minilm",
    out: Out = None,
    as_json: AsJson = False,
) -> None:
    """Run a recipe in an environment, from nothing to a report."""
    from evolvent.agents.flags import read_config_flags, run_directory
    from evolvent.agents.run import create

    flags = {
        **{"model": model, "tasks": tasks, "evaluated": evaluated, "generations": generations},
        **{"concurrency": concurrency, "seed": seed, "preset": preset, "embedder": embedder},
    }
    config = read_config_flags(
        recipe, env=env, roles=role or (), settings=settings or (), shifts=shift or (), flags=flags
    )
    if config.environment == "workshop":
        config = config.model_copy(update={"options": {"world": config.seed, **config.options}})
    directory = out or run_directory(config)
    new = [each for each in (directory, *directory.parents) if not each.exists()]
    create(config, directory)
    with _resumable(f"evolvent resume {directory}"):
        try:
            ready = _ready(config)
        except SetupError:
            shutil.rmtree(directory)
            for parent in new[1:]:
                parent.rmdir()
            raise
        _play(directory, config, ready)
    _conclude(directory, as_json=as_json)


@app.command()
def resume(directory: Directory, as_json: AsJson = False) -> None:
    """Go on with a run that was stopped; one that has ended is only reported."""
    from evolvent.agents.run import check, has_ended, read_config

    config = read_config(directory)
    check(config)
    if not has_ended(directory):
        with _resumable(f"evolvent resume {directory}"):
            _play(directory, config, _ready(config))
    _conclude(directory, as_json=as_json)


@app.command()
def report(
    directory: Directory,
    html: Annotated[Path | None, typer.Option("--html", metavar="FILE", help="Write a page of its own.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show what a run found, as far as it has come."""
    from evolvent.agents.run import read_config, result

    read_config(directory)
    found = None if html and not as_json else result(directory)
    if html:
        _write_page(directory, html)
        note(f"{html} is written.")
    if found is None:
        return
    if as_json:
        print_json(found)
    else:
        from evolvent.agents.report import render_report

        show(render_report(found, directory))


@app.command()
def bench(
    recipe: Recipe,
    env: Env,
    seeds: Annotated[int, typer.Option("--seeds", min=1, metavar="K", help="Runs, with seeds counted up.")] = 1,
    controls: Annotated[
        str, typer.Option("--controls", metavar="NAME,…", help="Those to play; all when left out. More can follow.")
    ] = "",
    model: Model = "smollm2",
    role: Roles = None,
    tasks: Tasks = 24,
    evaluated: Evaluated = 80,
    generations: Generations = 3,
    concurrency: Concurrency = 16,
    seed: Seed = 0,
    preset: Preset = "small",
    settings: Settings = None,
    shift: Shifts = None,
    embedder: Embeds = "minilm",
    out: Out = None,
    as_json: AsJson = False,
) -> None:
    """Compare a recipe with its controls on the same tasks: frozen, full history, raw retrieval, random rules."""
    from evolvent.agents.bench import read_controls
    from evolvent.agents.flags import read_config_flags, run_directory
    from evolvent.agents.run import check

    flags = {
        **{"model": model, "tasks": tasks, "evaluated": evaluated, "generations": generations},
        **{"concurrency": concurrency, "seed": seed, "preset": preset, "embedder": embedder},
    }
    config = read_config_flags(
        recipe, env=env, roles=role or (), settings=settings or (), shifts=shift or (), flags=flags
    )
    check(config)
    chosen = read_controls(controls)
    directory = out or run_directory(config).with_name(f"bench-{run_directory(config).name}")
    with _resumable(f"the same command and --out {directory}"):
        ready = _ready(config)

        from evolvent.agents.bench import bench as compare
        from evolvent.agents.progress import Watch
        from evolvent.agents.rollout import run_sync

        with Watch(Console(stderr=True), generations=0, evaluated=config.evaluated) as watch:
            work = compare(
                config,
                seeds,
                directory,
                say=watch.say,
                models=ready.models,
                embedder=ready.embedder,
                controls=chosen,
            )
            found = run_sync(work)
    if as_json:
        print_json(found)
        return
    from evolvent.agents.report import render_bench

    show(render_bench(found))
    note(f"The runs are in {directory}")


@app.command()
def distill(
    directory: Directory,
    method: Annotated[
        Literal["sft", "dpo", "kto"], typer.Option("--method", help="How the adapter is trained.")
    ] = "sft",
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="epochs, learning_rate, rank, margin, …")
    ] = None,
    evaluated: Evaluated = 100,
    forgetting: Annotated[bool, typer.Option(help="Measure what the training makes the model forget.")] = True,
    as_json: AsJson = False,
) -> None:
    """Distil a finished run into an adapter: train, verify, gate, and retire from the prompt what weights know now.

    `evolvent memory revert` of the commit it names takes all of it back.
    """
    from evolvent.agents.distilled_run import ELSEWHERE, PROSE, distil_run
    from evolvent.agents.flags import read_distillation
    from evolvent.agents.progress import Watch
    from evolvent.agents.report import render_distilled
    from evolvent.agents.rollout import run_sync
    from evolvent.agents.run import check, read_config

    config = read_config(directory)
    check(config)
    chosen = read_distillation(method, settings or ())
    with (
        _resumable(f"the same command on {directory}"),
        Watch(Console(stderr=True), generations=config.generations, evaluated=evaluated) as watch,
    ):
        work = distil_run(
            directory,
            chosen,
            _ready(config),
            evaluated=evaluated,
            elsewhere=ELSEWHERE if forgetting else (),
            texts=PROSE if forgetting else 0,
            say=watch.say,
            on_episode=watch.on_episode,
        )
        found = run_sync(work)
    if as_json:
        print(json.dumps(found))
        return
    show(render_distilled(found))
    note(f"Next: evolvent adapters show {directory} {found['adapter']}")
    note(f"To take it back: evolvent memory revert {directory} {found['commit']}")


app.command()(envs)
app.command()(play)
app.command()(inspect)
app.command()(top)


def _ready(config: RunConfig) -> Prepared:
    """Models and embedder, loaded; what is missing is a fault of the set-up."""
    from evolvent.agents.models.catalog import progress_bar
    from evolvent.agents.run import prepare

    if sys.stderr.isatty():
        note(f"loading {config.model}")
    try:
        with progress_bar("fetching weights") as progress:
            return prepare(config, progress=progress)
    except ModelUnavailableError as error:
        raise SetupError(str(error)) from error


def _play(directory: Path, config: RunConfig, ready: Prepared) -> None:
    from evolvent.agents.progress import Watch
    from evolvent.agents.rollout import run_sync
    from evolvent.agents.run import execute

    with Watch(Console(stderr=True), generations=config.generations, evaluated=config.evaluated) as watch:
        work = execute(
            directory, say=watch.say, on_episode=watch.on_episode, models=ready.models, embedder=ready.embedder
        )
        run_sync(work)


def _conclude(directory: Path, *, as_json: bool) -> None:
    from evolvent.agents.run import result

    found = result(directory)
    _write_page(directory, directory / "report.html")
    if as_json:
        print_json(found)
        return
    from evolvent.agents.report import render_report

    show(render_report(found, directory))
    note(f"Next: evolvent memory ls {directory} --kind rule | evolvent report {directory} --html FILE")


def _write_page(directory: Path, file: Path) -> None:
    from evolvent.agents.report import write_html

    try:
        write_html(directory, file)
    except OSError as error:
        raise SetupError(f"Cannot write {file}: {error.strerror}. Choose another place with --html.") from error


@contextmanager
def _resumable(how: str) -> Iterator[None]:
    """Whatever ends the work inside is told in one line with how to go on; faults of the set-up pass."""
    try:
        yield
    except (SetupError, LedgerLockedError):
        raise
    except KeyboardInterrupt as error:
        raise typer.Exit(told(f"Stopped. Go on with: {how}", error, 1)) from error
    except (AgentError, WorldError, MemoryStoreError, OSError, sqlite3.Error) as error:
        raise typer.Exit(told(f"The run failed: {error} Go on with: {how}", error, 1)) from error
    except Exception:
        note(f"The run failed, and it should not have: please report the lines below. Go on with: {how}")
        raise
