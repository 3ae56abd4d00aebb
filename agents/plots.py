"""Figures of a run: matplotlib's object interface only, so nothing global changes and no display is needed.

A figure can be saved as any other; `svg` gives it as text for a page, with ink in the colour of the page's words.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from io import StringIO
from typing import TYPE_CHECKING, Any

from evolvent.memory.types import Status

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from evolvent.memory.types import Record
    from evolvent.memory.weights.training import Step

_BLUE, _ORANGE, _PINK, _GREY = "#2f7fc1", "#d9822b", "#c35f9b", "#8a8f98"
"""Told apart by people with any kind of colour vision, on a light page and on a dark one."""
_COLOURS: dict[Status, str] = {"active": _BLUE, "candidate": _ORANGE, "quarantined": _PINK, "retired": _GREY}
_INK = "#010203"
"""Stands for the colour of the page's words, which only the page knows."""
_WORDS = 44
"""Letters of a record's text beside its row."""


def learning_curve(result: Mapping[str, Any]) -> Figure:
    """Success by generation with its 95 % interval as a band, beside the frozen agent.

    Args:
        result: of a run, see `agents.run.result`.
    """
    rows = [(row["generation"], row["held_out"]) for row in result["generations"]]
    generations = [generation for generation, _ in rows]
    frozen = result["frozen"]
    figure, axes = _axes("Generation", f"Success on {result.get('judged_on', 'held-out tasks')} (0 to 1)")
    axes.axhspan(frozen["low"], frozen["high"], color=_GREY, alpha=0.2, linewidth=0)
    axes.axhline(frozen["success"], color=_GREY, linestyle="--", label="frozen")
    axes.fill_between(
        generations, [held["low"] for _, held in rows], [held["high"] for _, held in rows], color=_BLUE, alpha=0.25
    )
    axes.plot(generations, [held["success"] for _, held in rows], color=_BLUE, marker="o", label=result["recipe"])
    axes.set_ylim(0, 1.02)
    axes.set_xticks(_ticks(generations))
    figure.legend(loc="outside upper left", ncols=3, frameon=False, labelcolor=_INK)
    return figure


def records_by_status(by_status: Mapping[int, Mapping[Status, int]]) -> Figure:
    """How many records memory held at the end of each generation, by status; see `Findings.by_status`."""
    from matplotlib.ticker import MaxNLocator

    figure, axes = _axes("Generation", "Records")
    generations = sorted(by_status)
    floor = [0] * len(generations)
    for status, colour in _COLOURS.items():
        counts = [by_status[generation].get(status, 0) for generation in generations]
        axes.bar(generations, counts, bottom=floor, color=colour, label=status, width=0.6)
        floor = [below + count for below, count in zip(floor, counts, strict=True)]
    axes.set_xticks(_ticks(generations))
    axes.set_ylim(0, max([1, *floor]) * 1.1)
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    figure.legend(loc="outside upper left", ncols=len(_COLOURS), frameon=False, labelcolor=_INK)
    return figure


def lifts(records: Iterable[Record]) -> Figure:
    """A forest plot: each record's lift with its 95 % interval, the highest lift on top, in the colour of its status.

    Records without an estimate are left out. The number of episodes behind an estimate stands after the text.
    """
    known = [(record, record.lift) for record in records if record.lift is not None]
    known.sort(key=lambda each: (each[1].mean, each[0].id))
    figure, axes = _axes("Lift (shown − withheld)", "", height=1.2 + 0.28 * len(known))
    axes.axvline(0, color=_GREY, linestyle="--", linewidth=1)
    for row, (record, lift) in enumerate(known):
        colour = _COLOURS[record.status]
        axes.plot([lift.low, lift.high], [row, row], color=colour, linewidth=2, solid_capstyle="butt")
        axes.plot([lift.mean], [row], color=colour, marker="o")
    words = [record.text.split("\n", 1)[0] for record, _ in known]
    cut = [text if len(text) <= _WORDS else f"{text[: _WORDS - 1]}…" for text in words]
    labels = [f"{text}  n={lift.n}".replace("$", r"\$") for text, (_, lift) in zip(cut, known, strict=True)]
    axes.set_yticks(range(len(known)), labels)
    axes.tick_params(axis="y", length=0, labelsize=8)
    axes.set_ylim(-0.6, len(known) - 0.4)
    return figure


def loss_curve(steps: Sequence[Step]) -> Figure:
    """The loss of a training at each step of its optimizer, and that of its validation rows where it was measured."""
    figure, axes = _axes("Step", "Loss (nats per token)")
    axes.plot([each.step for each in steps], [each.loss for each in steps], color=_BLUE, label="training")
    measured = [(each.step, each.validation) for each in steps if each.validation is not None]
    if measured:
        axes.plot(*zip(*measured, strict=True), color=_ORANGE, marker="o", label="validation")
    axes.set_ylim(bottom=0)
    figure.legend(loc="outside upper left", ncols=2, frameon=False, labelcolor=_INK)
    return figure


def svg(figure: Figure, name: str, description: str) -> str:
    """The figure as one `<svg>` element.

    Args:
        name: leads the ids inside, which must be unique on a page.
        description: read out in the figure's place.
    """
    import matplotlib

    text = StringIO()
    with matplotlib.rc_context({"svg.hashsalt": name, "svg.fonttype": "none"}):
        figure.savefig(text, format="svg", transparent=True, metadata=dict.fromkeys(_METADATA))
    drawn = text.getvalue()
    drawn = drawn[drawn.index("<svg") :].replace(_INK, "currentColor")
    drawn = re.sub(r'( id="|url\(#|href="#)', rf"\g<1>{name}-", drawn)
    return drawn.replace("<svg ", f'<svg role="img" aria-label="{escape(description)}" ', 1)


_METADATA = ("Creator", "Date", "Format", "Type")


def _axes(x: str, y: str, height: float = 3.2) -> tuple[Figure, Axes]:
    """Empty ones; `height` in inches."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.2, height), layout="constrained")
    axes = figure.add_subplot()
    axes.set_xlabel(x, color=_INK)
    axes.set_ylabel(y, color=_INK)
    axes.tick_params(colors=_INK)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(_INK)
    return figure, axes


def _ticks(generations: list[int]) -> list[int]:
    """At most a dozen of them, evenly spaced."""
    return generations[:: max(1, -(-len(generations) // 12))]
