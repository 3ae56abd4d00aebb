"""`evolvent top`: what a running job is doing, in the terminal. Reads only; `pulse.py` says from where."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from evolvent.agents.browsing import AsJson
from evolvent.agents.terminal import print_json, show

if TYPE_CHECKING:
    from rich.console import RenderableType

    from evolvent.agents.chronicle import Verdict
    from evolvent.agents.pulse import Follower, Progress, Pulse

_STYLES = {"running": "bold green", "stalled?": "bold yellow", "ended": "bold", "stopped": "bold red"}
_WIDE = 72
"""Columns from which bars have room."""


def top(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="A run directory, or one that holds runs.")],
    once: Annotated[
        bool, typer.Option("--once", help="Show one frame and leave, as where stdout is no terminal.")
    ] = False,
    every: Annotated[float, typer.Option("--every", min=0.2, metavar="SECONDS", help="Between two looks.")] = 2.0,
    as_json: AsJson = False,
) -> None:
    """Watch a running job: its phase and pace, success so far, failures, what is learned. Ctrl-C ends the watching."""
    from evolvent.agents.pulse import Follower

    with ExitStack() as stack:
        runs = _runs(directory)
        followers = []
        for path in runs.values():
            followers.append(Follower(path))
            stack.callback(followers[-1].close)
        if as_json:
            pulses = [_json(name, follower.look()) for name, follower in zip(runs, followers, strict=True)]
            print_json(pulses[0] if directory in runs.values() else pulses)
            return
        frame = partial(_frame, list(runs), followers)
        if once or not sys.stdout.isatty():
            show(frame(_columns()))
        else:
            _watch(frame, every)


def _runs(directory: Path) -> dict[str, Path]:
    """The run itself, or those below, by name.

    Raises:
        SetupError: there is none.
    """
    from evolvent.agents.inspector.library import Library
    from evolvent.agents.run import read_config

    if (directory / "config.json").exists():
        return {directory.resolve().name: directory}
    library = Library(directory)
    try:
        found = {run.name: run.path for run in library.runs() if (run.path / "config.json").exists()}
    finally:
        library.close()
    if not found:
        read_config(directory)  # says what is wrong with it
    return found


def _watch(frame: Callable[[int], RenderableType], every_s: float) -> None:
    """Until Ctrl-C; the last frame stays on the terminal."""
    from rich.console import Console
    from rich.live import Live

    console = Console()
    last: RenderableType = ""
    with suppress(KeyboardInterrupt), Live(console=console, screen=True, auto_refresh=False) as live:
        while True:
            last = frame(console.width)
            live.update(last, refresh=True)
            time.sleep(every_s)
    console.print(last)


def _columns() -> int:
    from rich.console import Console

    return Console().width


# -- what is shown -----------------------------------------------------------------------------------------------------


def _frame(names: Sequence[str], followers: Sequence[Follower], width: int) -> RenderableType:
    pulses = [follower.look() for follower in followers]
    return render(pulses[0], width) if len(pulses) == 1 else render_all(dict(zip(names, pulses, strict=True)))


def render(pulse: Pulse, width: int = 80) -> RenderableType:
    """One run, what matters most first: a low terminal cuts the rest off."""
    from rich.console import Group
    from rich.text import Text

    parts: list[RenderableType] = [_title(pulse), _state(pulse)]
    if pulse.state in ("running", "stalled?"):
        parts.append(_now(pulse, width))
    parts += [Text(f"cannot be read: {problem}", style="red") for problem in map(_plain, pulse.problems)]
    if pulse.held_out or pulse.progress:
        parts += [Text(), _success(pulse, width)]
    parts += [Text(), *_counts(pulse)]
    parts += _learned(pulse, width)
    return Group(*parts)


def render_all(pulses: Mapping[str, Pulse]) -> RenderableType:
    """Several runs, one line each."""
    from rich.text import Text

    from evolvent.agents.listings import new_table

    table = new_table("run", "state", "gen.", "doing", "progress", "success", "written")
    for name, pulse in pulses.items():
        config = pulse.config
        generation = _generation(pulse)
        of = f"{'–' if generation is None else generation}/{config.generations if config else '?'}"
        live = pulse.progress if pulse.writer is not None else None
        told = f"{live.done}{_of(live)} {live.unit}" if live else ""
        last = pulse.held_out[max(pulse.held_out)] if pulse.held_out else None
        success = f"{last.mean:.2f} ({last.low:.2f}–{last.high:.2f})" if last else ""
        doing = (pulse.node or (live.what if live else "")) if pulse.writer is not None else ""
        state = Text(pulse.state + (" !" if pulse.problems else ""), style=_STYLES[pulse.state])
        table.add_row(Text(_plain(name)), state, of, Text(_plain(doing)), told, success, f"{_ago(pulse.quiet_s)} ago")
    return table


def _title(pulse: Pulse) -> RenderableType:
    from rich.text import Text

    config = pulse.config
    if config is None:
        return Text(_plain(str(pulse.directory)), style="bold")
    about = f"on {config.environment} with {config.model}, preset {config.preset}, seed {config.seed}"
    return Text.assemble((_plain(config.recipe), "bold"), " ", _plain(about))


def _state(pulse: Pulse) -> RenderableType:
    from rich.text import Text

    parts = [(pulse.state, _STYLES[pulse.state])]
    if pulse.writer is not None:
        parts.append((f" as process {pulse.writer}", ""))
    parts.append((f", last written {_ago(pulse.quiet_s)} ago", ""))
    if pulse.state == "stopped":
        parts.append((f"; go on with evolvent resume {_plain(str(pulse.directory))}", ""))
    return Text.assemble(*parts)


def _now(pulse: Pulse, width: int) -> RenderableType:
    """Where the run is, and how far that has come."""
    from rich.text import Text

    live, config = pulse.progress, pulse.config
    generation = _generation(pulse)
    of = f" of {config.generations}" if config else ""
    told = [f"generation {generation}{of}" if generation is not None else "beginning"]
    told += [pulse.node] if pulse.node else []
    told += [f"newest call: {pulse.doing}"] if pulse.doing else []
    text = Text(_plain(" · ".join(told)))
    if live is None:
        return text
    text.append(f"\n{_plain(live.what, 40)}  ")
    if live.expected and width >= _WIDE:
        full = min(24, round(24 * live.done / live.expected))
        text.append("━" * full, style="cyan")
        text.append("─" * (24 - full) + "  ", style="dim")
    text.append(f"{live.done:,}{_of(live)} {live.unit}")
    if live.per_second:
        text.append(f" · {_rate(live.per_second)}")
    if live.left_s is not None and live.done < (live.expected or 0):
        text.append(f" · {_ago(live.left_s)} left")
    return text


def _success(pulse: Pulse, width: int) -> RenderableType:
    """By generation, and of the phase that goes on."""
    from rich.text import Text

    from evolvent.agents.listings import new_table
    from evolvent.agents.report import interval_bar

    table = new_table("", "success", "", "")
    held = {f"gen. {number}": found for number, found in list(pulse.held_out.items())[-8:]}
    live = pulse.progress if pulse.writer is not None else None
    if live is not None and live.score is not None:
        held[f"{_plain(live.what, 24)} (preliminary)"] = live.score
    for name, found in held.items():
        bar = interval_bar({"low": found.low, "success": found.mean, "high": found.high}) if width >= _WIDE else Text()
        style = "dim" if name.endswith("(preliminary)") else ""
        words = f"{found.mean:.2f} ({found.low:.2f}–{found.high:.2f})"
        table.add_row(Text(name), words, bar, f"{found.n} tasks", style=style)
    return table


def _counts(pulse: Pulse) -> list[RenderableType]:
    from rich.text import Text

    lines = [f"{pulse.episodes:,} episodes, {pulse.calls:,} calls, {pulse.tokens:,} tokens so far"]
    if pulse.calls_per_s is not None and pulse.tokens_per_s is not None:
        lines[0] += f" · now {_rate(pulse.calls_per_s, 'calls')}, {_rate(pulse.tokens_per_s, 'tokens')}"
    failed = ", ".join(f"{count} {kind}" for kind, count in pulse.failures.items())
    tries = ", ".join(f"{count} {kind}" for kind, count in pulse.failed_tries.items())
    lines.append(
        f"failed episodes: {failed or 'none'} · failed tries in the last {pulse.looked_at:,} calls: {tries or 'none'}"
    )
    lines.append(
        "memory: " + (", ".join(f"{count:,} {status}" for status, count in pulse.records.items()) or "nothing learned")
    )
    return [Text(_plain(line), style="red" if failed and line.startswith("failed") else "") for line in lines]


def _learned(pulse: Pulse, width: int) -> list[RenderableType]:
    """The newest verdicts, then the newest records."""
    from rich.text import Text

    from evolvent.agents.listings import status_text

    parts: list[RenderableType] = []
    if pulse.verdicts:
        parts.append(Text("\nnewest verdicts", style="bold"))
        for verdict in pulse.verdicts:
            style = {"activate": "green", "restore": "green"}.get(verdict.kind, "yellow")
            line = Text.assemble((f"{verdict.kind:<9}", style), _plain(verdict.text, max(20, width - 46)))
            line.append(f"  {_evidence(verdict)}", style="dim")
            parts.append(line)
    if pulse.newest:
        parts.append(Text("\nnewest records", style="bold"))
        for record in pulse.newest:
            line = status_text(f"{record.status:<12}")
            line.stylize(status_text(record.status).style)
            line.append(_plain(record.text, max(20, width - 26)), style="default")
            line.append(f"  gen. {record.generation}", style="dim")
            parts.append(line)
    return parts


def _evidence(verdict: Verdict) -> str:
    gate = verdict.evidence.get("gate")
    if isinstance(gate, Mapping):
        return "won {wins}, lost {losses}, tied {ties}".format_map({"wins": "?", "losses": "?", "ties": "?", **gate})
    return _plain(str(verdict.evidence.get("reason", "")), 30)


def _generation(pulse: Pulse) -> int | None:
    if pulse.progress is not None and pulse.writer is not None:
        return pulse.progress.generation
    return max(pulse.held_out, default=None)


def _of(live: Progress) -> str:
    return f" of {'about ' if live.about else ''}{live.expected:,}" if live.expected else ""


def _rate(per_second: float, unit: str = "") -> str:
    """A slow one by the minute."""
    if per_second >= 1 or per_second == 0:
        return f"{per_second:,.0f} {unit}/s".replace(" /", "/")
    return f"{60 * per_second:.1f} {unit}/min".replace(" /", "/")


def _ago(seconds: float) -> str:
    """`42 s`, `7 min`, `3 h`, `2 days`."""
    for size, unit in ((86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def _plain(text: str, most: int = 400) -> str:
    from evolvent.agents.report import one_line

    return one_line(text, most)


# -- for programs ------------------------------------------------------------------------------------------------------


def _json(name: str, pulse: Pulse) -> dict[str, Any]:
    return {
        "run": name,
        "state": pulse.state,
        **asdict(pulse),
        "directory": str(pulse.directory),
        "config": pulse.config.model_dump(mode="json") if pulse.config else None,
        "progress": {**asdict(pulse.progress), "left_s": pulse.progress.left_s} if pulse.progress else None,
    }
