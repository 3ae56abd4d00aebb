"""What a person sees while a run goes on: a live line on a terminal, plain lines anywhere else."""

from __future__ import annotations

import time
from types import TracebackType
from typing import TYPE_CHECKING, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Column
from rich.text import Text

if TYPE_CHECKING:
    from evolvent.agents.episode import Job
    from evolvent.agents.rollout import Episode


class Watch:
    """Shows phases as they begin and what their episodes scored.

    The bar is of generations: it moves while a generation is evaluated, because how long it will explore and how many
    pairs its gate needs is not known before.
    """

    def __init__(self, console: Console, *, generations: int, evaluated: int) -> None:
        self._console = console
        self._evaluated = evaluated
        self._started = time.monotonic()
        self._phase = ""
        self._phase_started = self._started
        self._scores: list[float] = []
        """Of the phase's episodes that infrastructure did not fail."""
        self._failed = 0
        self._episodes = 0
        self._held_out: dict[int, int] = {}
        """Evaluated episodes by generation."""
        columns = (
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(10, table_column=Column(min_width=10)),
            TextColumn("{task.fields[tally]}", markup=False, table_column=Column(min_width=26, no_wrap=True)),
            TimeElapsedColumn(table_column=Column(min_width=7, no_wrap=True)),
        )
        self._bar = Progress(*columns, console=console, transient=True)
        self._line = self._bar.add_task("starting", total=generations + 1, tally="")

    def say(self, text: str) -> None:
        """A phase begins."""
        self._close_phase()
        self._phase, self._phase_started = text, time.monotonic()
        self._scores, self._failed = [], 0
        self._bar.update(self._line, description=text)
        if not self._console.is_terminal:
            self._print(text)

    def on_episode(self, job: Job, episode: Episode) -> None:
        self._episodes += 1
        if any(each.outcome.failure for each in episode):
            self._failed += 1
        else:
            self._scores.append(sum(each.outcome.score for each in episode) / len(episode))
        done = float(job.generation)
        if job.phase == "eval":
            self._held_out[job.generation] = self._held_out.get(job.generation, 0) + 1
            done += min(1.0, self._held_out[job.generation] / self._evaluated)
        rate = self._episodes / max(1e-9, time.monotonic() - self._started)
        mean = f"mean {sum(self._scores) / len(self._scores):.2f}" if self._scores else f"{self._failed} failed"
        self._bar.update(self._line, completed=done, tally=f"{self._episodes} episodes · {mean} · {rate:.1f}/s")

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._console.is_terminal:
            self._bar.stop()
        self._close_phase()

    def _close_phase(self) -> None:
        if not self._phase:
            return
        seconds = time.monotonic() - self._phase_started
        count = len(self._scores) + self._failed
        if count:
            self._print(f"{self._phase}: {self._tally()} in {seconds:.1f} s ({count / max(1e-9, seconds):.1f}/s)")
        self._phase = ""

    def _tally(self) -> str:
        count = len(self._scores) + self._failed
        parts = [f"{count} episode{'s' * (count != 1)}"]
        if self._scores:
            parts.append(f"mean score {sum(self._scores) / len(self._scores):.2f}")
        if self._failed:
            parts.append(f"{self._failed} failed")
        return ", ".join(parts)

    def _print(self, text: str) -> None:
        minutes, seconds = divmod(int(time.monotonic() - self._started), 60)
        self._console.print(Text(f"{minutes:3d}:{seconds:02d}  {text}"), soft_wrap=True)
