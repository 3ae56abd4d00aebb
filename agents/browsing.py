"""The commands that look at what there is: `systems`, `envs` and `models`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from evolvent.agents.terminal import answer

systems_app = typer.Typer(help="The 90 systems of the survey and what is shown of each.")
models_app = typer.Typer(help="Open weights on this machine.", no_args_is_help=True)

Directory = Annotated[Path, typer.Argument(metavar="DIR", help="A run directory.")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON document on stdout and nothing else.")]


@systems_app.callback(invoke_without_command=True)
def systems(context: typer.Context, as_json: AsJson = False) -> None:
    if context.invoked_subcommand is not None:
        return
    from evolvent.agents.listings import systems_table
    from evolvent.agents.recipes.catalog import systems as listed

    answer(as_json, [system.as_json() for system in listed()], lambda: systems_table(listed()))


@systems_app.command("show")
def show_system(slug: Annotated[str, typer.Argument(metavar="SLUG")], as_json: AsJson = False) -> None:
    """One system: its card, its presets and its signature."""
    from evolvent.agents.listings import system_page
    from evolvent.agents.recipes.catalog import card, implemented, load_recipe
    from evolvent.agents.recipes.catalog import systems as listed

    found = card(slug)
    system = next(each for each in listed() if each.slug == slug)
    presets = load_recipe(slug).PRESETS if slug in implemented() else {}
    plain = {name: preset.model_dump(mode="json") for name, preset in presets.items()}
    document = {**system.as_json(), "card": found.model_dump(mode="json"), "presets": plain}
    answer(as_json, document, lambda: system_page(system, found, presets))


def envs(as_json: AsJson = False) -> None:
    """List the environments and what each needs."""
    from evolvent.agents.listings import environments_table
    from evolvent.environments.catalog import entries

    answer(as_json, [asdict(each) for each in entries()], lambda: environments_table(entries()))


@models_app.command("ls")
def list_weights(as_json: AsJson = False) -> None:
    """List the weights that can be pulled, and where those that were pulled are."""
    from evolvent.agents.listings import models_table
    from evolvent.agents.models.catalog import FORMS, list_models

    answer(
        as_json,
        [{**asdict(each), "path": str(each.path) if each.path else None} for each in list_models()],
        lambda: models_table(list_models(), FORMS),
    )


@models_app.command("pull")
def pull_weights(name: Annotated[str, typer.Argument(metavar="NAME", help="See `evolvent models ls`.")]) -> None:
    """Fetch weights unless they are here, and print their folder."""
    from evolvent.agents.models.catalog import progress_bar, pull

    with progress_bar(name) as progress:
        print(pull(name, progress=progress))
