"""Figures of a run: matplotlib's object interface only, so nothing global changes and no display is needed.

A figure can be saved as any other; `svg` gives it as text for a page, with ink in the colour of the page's words.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from io import StringIO
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from evolvent.memory.types import Status

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from networkx import DiGraph

    from evolvent.memory.types import Interval, Record
    from evolvent.memory.weights.training import Step

BLUE, ORANGE, PINK, GREY = "#2f7fc1", "#d9822b", "#c35f9b", "#8a8f98"
_GREEN, _VIOLET = "#3f9b7f", "#8f6fc4"
"""Told apart by people with any kind of colour vision, on a light page and on a dark one."""
STATUS_COLOURS: dict[Status, str] = {"active": BLUE, "candidate": ORANGE, "quarantined": PINK, "retired": GREY}
_INK = "#010203"
"""Stands for the colour of the page's words, which only the page knows."""
_WORDS = 44
"""Letters of a record's text beside its row."""
_LINES = ((BLUE, "o"), (ORANGE, "s"), (PINK, "^"), (_GREEN, "D"), (_VIOLET, "v"), (GREY, "P"))
"""Of runs side by side: colour and mark."""
_FAINTEST = 0.05
"""A change that is drawn in full colour, where none is larger: the loss that forgetting tolerates."""


def learning_curve(result: Mapping[str, Any]) -> Figure:
    """Success by generation with its 95 % interval as a band, beside the frozen agent.

    Args:
        result: of a run, see `agents.run.result`.
    """
    rows = [(row["generation"], row["held_out"]) for row in result["generations"]]
    generations = [generation for generation, _ in rows]
    frozen = result["frozen"]
    figure, axes = _axes("Generation", f"Success on {result.get('judged_on', 'held-out tasks')} (0 to 1)")
    axes.axhspan(frozen["low"], frozen["high"], color=GREY, alpha=0.2, linewidth=0)
    axes.axhline(frozen["success"], color=GREY, linestyle="--", label="frozen")
    axes.fill_between(
        generations, [held["low"] for _, held in rows], [held["high"] for _, held in rows], color=BLUE, alpha=0.25
    )
    axes.plot(generations, [held["success"] for _, held in rows], color=BLUE, marker="o", label=result["recipe"])
    axes.set_ylim(0, 1.02)
    axes.set_xticks(_ticks(generations))
    figure.legend(loc="outside upper left", ncols=3, frameon=False, labelcolor=_INK)
    return figure


def learning_curves(results: Mapping[str, Mapping[str, Any]]) -> Figure:
    """Success by generation of several runs, each with its 95 % interval as a band.

    Args:
        results: of runs, see `agents.run.result`, by what to call them.
    """
    figure, axes = _axes("Generation", _success(results))
    most = 0
    for index, (name, result) in enumerate(results.items()):
        colour, mark = _LINES[index % len(_LINES)]
        at = [row["generation"] for row in result["generations"]]
        held = [row["held_out"] for row in result["generations"]]
        axes.fill_between(at, [each["low"] for each in held], [each["high"] for each in held], color=colour, alpha=0.2)
        axes.plot(at, [each["success"] for each in held], color=colour, marker=mark, label=plain(name))
        most = max(most, *at)
    axes.set_ylim(0, 1.02)
    axes.set_xticks(_ticks(list(range(most + 1))))
    if results:
        figure.legend(loc="outside upper left", ncols=3, frameon=False, labelcolor=_INK)
    return figure


def records_by_status(by_status: Mapping[int, Mapping[Status, int]]) -> Figure:
    """How many records memory held at the end of each generation, by status; see `Findings.by_status`."""
    from matplotlib.ticker import MaxNLocator

    figure, axes = _axes("Generation", "Records")
    generations = sorted(by_status)
    floor = [0] * len(generations)
    for status, colour in STATUS_COLOURS.items():
        counts = [by_status[generation].get(status, 0) for generation in generations]
        axes.bar(generations, counts, bottom=floor, color=colour, label=status, width=0.6)
        floor = [below + count for below, count in zip(floor, counts, strict=True)]
    axes.set_xticks(_ticks(generations))
    axes.set_ylim(0, max([1, *floor]) * 1.1)
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    figure.legend(loc="outside upper left", ncols=len(STATUS_COLOURS), frameon=False, labelcolor=_INK)
    return figure


def lifts(records: Iterable[Record]) -> Figure:
    """A forest plot: each record's lift with its 95 % interval, the highest lift on top, in the colour of its status.

    Records without an estimate are left out. The number of episodes behind an estimate stands after the text.
    """
    known = [(record, record.lift) for record in records if record.lift is not None]
    known.sort(key=lambda each: (each[1].mean, each[0].id))
    figure, axes = _axes("Lift (shown − withheld)", "", height=1.2 + 0.28 * len(known))
    axes.axvline(0, color=GREY, linestyle="--", linewidth=1)
    for row, (record, lift) in enumerate(known):
        colour = STATUS_COLOURS[record.status]
        axes.plot([lift.low, lift.high], [row, row], color=colour, linewidth=2, solid_capstyle="butt")
        axes.plot([lift.mean], [row], color=colour, marker="o")
    labels = [f"{plain(record.text)}  n={lift.n}" for record, lift in known]
    axes.set_yticks(range(len(known)), labels)
    axes.tick_params(axis="y", length=0, labelsize=8)
    axes.set_ylim(-0.6, len(known) - 0.4)
    return figure


def cost_against_success(results: Mapping[str, Mapping[str, Any]]) -> Figure:
    """What success had cost: a point a generation with its 95 % interval, a line a run, the frozen agent first.

    Tokens are counted from the beginning of a run, evaluations included, in and out.

    Args:
        results: of runs, see `agents.run.result`, by what to call them.
    """
    figure, axes = _axes("Tokens spent so far", _success(results))
    for index, (name, result) in enumerate(results.items()):
        rows = result["generations"]
        tokens = list(accumulate(row["tokens_in"] + row["tokens_out"] for row in rows))
        held = [row["held_out"] for row in rows]
        success = [each["success"] for each in held]
        ends = [[each["success"] - each["low"] for each in held], [each["high"] - each["success"] for each in held]]
        colour, mark = _LINES[index % len(_LINES)]
        axes.errorbar(tokens, success, yerr=ends, color=colour, marker=mark, capsize=3, label=plain(name))
        for row, at, height in zip(rows, tokens, success, strict=True):
            axes.annotate(
                str(row["generation"]), (at, height), (4, 5), textcoords="offset points", fontsize=7, color=_INK
            )
    axes.set_ylim(0, 1.06)
    axes.set_xlim(left=0)
    axes.xaxis.set_major_formatter(_thousands)
    if results:
        figure.legend(loc="outside upper left", ncols=3, frameon=False, labelcolor=_INK)
    return figure


def forgetting_matrix(changes: Mapping[str, Mapping[str, Interval]]) -> Figure:
    """How each ability changed with each distillation: blue was gained and orange was lost, the stronger the more.

    A number stands in every cell, its 95 % interval below it. Prose is in nats per token, the rest in success.

    Args:
        changes: by adapter, then by ability, see `agents.forgotten`.
    """
    from matplotlib.patches import Rectangle

    abilities = list(dict.fromkeys(ability for change in changes.values() for ability in change))
    figure, axes = _axes("", "", height=1.2 + 0.5 * len(changes))
    most = max([_FAINTEST, *(abs(each.mean) for change in changes.values() for each in change.values())])
    for row, change in enumerate(changes.values()):
        for column, ability in enumerate(abilities):
            found = change.get(ability)
            colour = GREY if found is None else BLUE if found.mean > 0 else ORANGE
            strength = 0.0 if found is None else 0.65 * abs(found.mean) / most
            place = (column - 0.48, row - 0.46)
            axes.add_patch(Rectangle(place, 0.96, 0.92, facecolor=(colour, strength), edgecolor=(GREY, 0.5)))
            words = "not measured" if found is None else f"{found.mean:+.3f}\n{found.low:+.3f} to {found.high:+.3f}"
            axes.text(column, row, words, ha="center", va="center", fontsize=8, color=_INK)
    axes.set_xticks(range(len(abilities)), [plain(each) for each in abilities])
    axes.set_yticks(range(len(changes)), [plain(each, 26) for each in changes])
    axes.tick_params(length=0, labelsize=8)
    axes.xaxis.tick_top()
    axes.set_xlim(-0.5, max(1, len(abilities)) - 0.5)
    axes.set_ylim(max(1, len(changes)) - 0.5, -0.5)
    for spine in axes.spines.values():
        spine.set_visible(False)
    return figure


def lineage(found: DiGraph[str]) -> Figure:
    """What a record came from and what came of it, from left to right; see `memory.graph.graph`.

    Raises:
        GraphTooLargeError: more nodes than a reader could tell apart.
    """
    from evolvent.memory.graph import drawing, folded

    return drawing(folded(found), ink=_INK, paper="none")


def loss_curve(steps: Sequence[Step]) -> Figure:
    """The loss of a training at each step of its optimizer, and that of its validation rows where it was measured."""
    figure, axes = _axes("Step", "Loss (nats per token)")
    axes.plot([each.step for each in steps], [each.loss for each in steps], color=BLUE, label="training")
    measured = [(each.step, each.validation) for each in steps if each.validation is not None]
    if measured:
        axes.plot(*zip(*measured, strict=True), color=ORANGE, marker="o", label="validation")
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
    with matplotlib.rc_context({"svg.hashsalt": name, "svg.fonttype": "none"}), warnings.catch_warnings():
        # Widths are measured with a font of our own, letters are drawn by the reader's, which has more of them.
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        figure.savefig(text, format="svg", transparent=True, metadata=dict.fromkeys(_METADATA))
    drawn = text.getvalue()

    def ours(tag: re.Match[str]) -> str:
        named = re.sub(r'( id="|url\(#|href="#)', rf"\g<1>{name}-", tag[0])
        return named.replace(_INK, "currentColor")

    # Within tags only: what stands between them may be words of a record.
    drawn = re.sub(r"<[^>]+>", ours, drawn[drawn.index("<svg") :])
    told = escape("".join(sign if sign.isprintable() else " " for sign in description))
    return drawn.replace("<svg ", f'<svg role="img" aria-label="{told}" ', 1)


def plain(text: str, most: int = _WORDS) -> str:
    """The first line of what a model may have written, cut, as matplotlib writes it letter by letter."""
    line = "".join(sign if sign.isprintable() else " " for sign in text.strip().split("\n", 1)[0])
    return (line if len(line) <= most else f"{line[: most - 1]}…").replace("$", r"\$")


_METADATA = ("Creator", "Date", "Format", "Type")


def _success(results: Mapping[str, Mapping[str, Any]]) -> str:
    """The axis' name; of which tasks, where all runs are judged on the same kind."""
    on = {str(result.get("judged_on", "held-out tasks")) for result in results.values()}
    return f"Success on {on.pop()} (0 to 1)" if len(on) == 1 else "Success (0 to 1)"


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


def _thousands(value: float, place: float) -> str:
    """12 345 678 as 12.3 M, wherever it stands."""
    for unit, sign in ((1e6, " M"), (1e3, " k")):
        if abs(value) >= unit:
            return f"{value / unit:.3g}{sign}"
    return f"{value:.3g}"


def _ticks(generations: list[int]) -> list[int]:
    """At most a dozen of them, evenly spaced."""
    return generations[:: max(1, -(-len(generations) // 12))]
