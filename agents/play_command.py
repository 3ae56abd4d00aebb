"""`evolvent play`: matches between agents, and who is better."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console, Group, RenderableType
from rich.text import Text

from evolvent.agents.browsing import AsJson
from evolvent.agents.errors import SetupError
from evolvent.agents.terminal import note, print_json, show


def play(
    env: Annotated[str, typer.Argument(metavar="ENV", help="NAME or NAME:key=value; see `evolvent envs`.")],
    seat: Annotated[
        list[str] | None,
        typer.Option("--seat", metavar="SEAT=SPEC", help="A model, bot:NAME (shipped), or run:DIR@GENERATION."),
    ] = None,
    all_generations: Annotated[
        Path | None, typer.Option("--all-generations", metavar="DIR", help="A tournament of a run's generations.")
    ] = None,
    matches: Annotated[int, typer.Option("--matches", min=1, help="Of each pairing, rounded up to whole deals.")] = 20,
    temperature: Annotated[float, typer.Option("--temperature", min=0, help="Of every model's moves.")] = 0.0,
    reply_tokens: Annotated[int, typer.Option("--reply-tokens", min=1, help="Of one written move at most.")] = 48,
    concurrency: Annotated[int, typer.Option("--concurrency", min=1, help="Matches at once.")] = 16,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the deals and all randomness.")] = 0,
    out: Annotated[Path | None, typer.Option("--out", metavar="DIR", help="Instead of a new folder in runs/.")] = None,
    as_json: AsJson = False,
) -> None:
    """Let agents play each other: the same deals from every chair, scores with intervals, ratings."""
    from evolvent.agents.flags import new_folder, read_environment, read_pair
    from evolvent.agents.play import Match, play_matches
    from evolvent.agents.progress import Watch
    from evolvent.agents.rollout import run_sync

    name, options = read_environment(env)
    seats = dict(read_pair(each, "--seat", "SEAT=SPEC, as in a=smollm2") for each in seat or ())
    if bool(seats) == bool(all_generations):
        raise SetupError("Say who plays: --seat a=SPEC --seat b=SPEC, or --all-generations DIR; one of the two.")
    match = Match(
        environment=name,
        options=options,
        seats=seats,
        tournament=str(all_generations or ""),
        matches=matches,
        temperature=temperature,
        reply_tokens=reply_tokens,
        seed=seed,
        concurrency=concurrency,
    )
    directory = out or new_folder(f"play-{name}")
    with Watch(Console(stderr=True), generations=0, evaluated=matches) as watch:
        found = run_sync(play_matches(match, directory, say=watch.say, on_episode=watch.on_episode))
    if as_json:
        print_json(found)
        return
    show(_page(found))
    note(f"The matches are in {directory}")


def _page(found: Mapping[str, Any]) -> RenderableType:
    from evolvent.agents.listings import new_table

    rated = any(each["rating"] for each in found["standings"])
    table = new_table("player", "score", "won", *(["rating"] if rated else []), "tokens", "calls")
    for each in sorted(found["standings"], key=lambda each: -each["score"]["mean"]):
        rating = [_within(each["rating"], ".1f")] if rated else []
        tokens = f"{each['tokens_in'] + each['tokens_out']:,}"
        won = f"{each['won']} of {each['matches']}"
        table.add_row(Text(each["name"]), _within(each["score"], ".2f"), won, *rating, tokens, str(each["calls"]))
    parts: list[RenderableType] = [table]
    if "table" in found:
        names = list(found["table"])
        against = new_table("score of … against", *names)
        for one in names:
            row = [found["table"][one].get(two) for two in names]
            against.add_row(one, *("—" if score is None else f"{score:.2f}" for score in row))
        parts += [Text(), against]
    parts.append(Text(f"\n{_conclusion(found)}"))
    return Group(*parts)


def _within(value: Mapping[str, float], form: str) -> str:
    return f"{value['mean']:{form}} ({value['low']:{form}} to {value['high']:{form}})"


def _conclusion(found: Mapping[str, Any]) -> str:
    lost = f" {found['failed']} failed." if found["failed"] else ""
    played = f"{found['matches']} matches over {found['deals']} deals.{lost}"
    if "difference" not in found:
        return played
    first, second = (each["name"] for each in found["standings"])
    said = {"improved": f"{first} is better", "worse": f"{second} is better"}
    gain = found["difference"]
    interval = f"{gain['mean']:+.2f} (95 % interval {gain['low']:+.2f} to {gain['high']:+.2f}) over {gain['n']} deals"
    verdict = said.get(found["verdict"], "No evidence of a difference")
    return f"{verdict}: score of {first} minus {second} {interval}.\n{played}"
