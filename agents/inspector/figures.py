"""Figures for the page, as values that Plotly draws in the browser; `plots.py` draws the same for files.

Ink, paper and fonts are the page's and are set there. Plotly reads a little HTML in its texts: what comes from a run
goes through `words`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from itertools import accumulate
from typing import Any

from evolvent.agents.plots import BLUE, GREY, ORANGE, PINK, STATUS_COLOURS
from evolvent.memory.types import Interval, Status
from evolvent.memory.weights.training import Step

PALETTE = (BLUE, ORANGE, PINK, "#3f9b7f", "#8f6fc4", "#b0413e", GREY)
"""Of lines that stand for runs; statuses have `plots.STATUS_COLOURS`."""


@dataclass(frozen=True, slots=True)
class Figure:
    name: str
    """Of its place on the page; unique there."""
    description: str
    """Read out in the figure's place: what it shows, in numbers."""
    data: Sequence[Mapping[str, Any]]
    """Plotly's traces. A point with an address of this page as `customdata` leads there when it is clicked."""
    layout: Mapping[str, Any] = field(default_factory=dict)

    @property
    def json(self) -> str:
        return json.dumps({"data": self.data, "layout": self.layout})


def words(text: str, most: int = 60) -> str:
    """Text of a run as Plotly shows it letter by letter."""
    line = " ".join(text.split())
    return escape(line if len(line) <= most else f"{line[: most - 1]}…", quote=False)


def learning_curve(results: Mapping[str, Mapping[str, Any]]) -> Figure:
    """Success by generation, a line and its 95 % interval as a band for each run; of one alone, the frozen agent too.

    Args:
        results: of runs, see `agents.run.result`, by what to call them.
    """
    data: list[Mapping[str, Any]] = []
    told = []
    for index, (name, result) in enumerate(results.items()):
        colour = PALETTE[index % len(PALETTE)]
        rows = [(row["generation"], row["held_out"]) for row in result["generations"]]
        at = [generation for generation, _ in rows]
        low, high = ([held[end] for _, held in rows] for end in ("low", "high"))
        data.append(
            {
                **{"x": [*at, *reversed(at)], "y": [*high, *reversed(low)], "fill": "toself", "mode": "lines"},
                **{"line": {"width": 0}, "fillcolor": f"{colour}33", "hoverinfo": "skip", "showlegend": False},
            }
        )
        data.append(
            {
                **{"x": at, "y": [held["success"] for _, held in rows], "mode": "lines+markers"},
                **{"name": words(name), "line": {"color": colour}},
                "hovertemplate": "generation %{x}: %{y:.2f}",
            }
        )
        told += [f"{name}, generation {generation}: {held['success']:.2f}" for generation, held in rows]
    if len(results) == 1:
        frozen = next(iter(results.values()))["frozen"]
        ends = [at[0], at[-1]] if len(at) > 1 else [at[0] - 0.5, at[0] + 0.5]
        data.append(
            {
                **{"x": [*ends, *reversed(ends)], "y": [frozen["high"]] * 2 + [frozen["low"]] * 2, "fill": "toself"},
                **{"mode": "lines", "line": {"width": 0}, "fillcolor": f"{GREY}2e", "hoverinfo": "skip"},
                "showlegend": False,
            }
        )
        data.append(
            {
                **{"x": ends, "y": [frozen["success"]] * 2, "mode": "lines", "name": "frozen"},
                "line": {"color": GREY, "dash": "dash"},
            }
        )
        told.append(f"frozen: {frozen['success']:.2f}")
    layout = {
        "xaxis": {"title": {"text": "Generation"}, "dtick": 1 if len(data) < 30 else None},
        "yaxis": {"title": {"text": "Success (0 to 1)"}, "range": [0, 1.02]},
    }
    return Figure("learning-curve", f"Success by generation. {'; '.join(told)}", data, layout)


# -- runs, generations and adapters --------------------------------------------------------------------------------


def cost_against_success(results: Mapping[str, Mapping[str, Any]]) -> Figure:
    """Success by the tokens spent until then, a line of points for each run; a point is a generation.

    Args:
        results: as those of `learning_curve`.
    """
    data: list[Mapping[str, Any]] = []
    told = []
    for index, (name, result) in enumerate(results.items()):
        rows = result["generations"]
        spent = list(accumulate(row["tokens_in"] + row["tokens_out"] for row in rows))
        held = [row["held_out"] for row in rows]
        data.append(
            {
                **{"x": spent, "y": [each["success"] for each in held], "mode": "lines+markers"},
                **{"name": words(name), "line": {"color": PALETTE[index % len(PALETTE)], "dash": "dot", "width": 1}},
                "marker": {"size": 8},
                "error_y": _whiskers([(each["low"], each["success"], each["high"]) for each in held]),
                "text": [f"generation {row['generation']}" for row in rows],
                "hovertemplate": "%{text}: %{y:.2f} after %{x:,} tokens",
            }
        )
        told += [
            f"{name}, generation {row['generation']}: {row['held_out']['success']:.2f} after {tokens:,} tokens"
            for row, tokens in zip(rows, spent, strict=True)
        ]
    layout = {
        "xaxis": {"title": {"text": "Tokens so far, in and out"}, "rangemode": "tozero"},
        "yaxis": {"title": {"text": "Success (0 to 1)"}, "range": [0, 1.02]},
    }
    return Figure("cost", f"Success by tokens spent. {'; '.join(told)}", data, layout)


@dataclass(frozen=True, slots=True)
class Estimate:
    """A row of a forest plot."""

    label: str
    mean: float
    low: float
    high: float
    to: str = ""
    """Where a click leads; empty for nowhere."""


def forest(name: str, what: str, rows: Sequence[Estimate], *, axis: str, zero: float = 0.0) -> Figure:
    """Estimates with their 95 % intervals, one a row, the first on top, beside a line at `zero`.

    Args:
        what: begins the description.
    """
    estimates = [(row.low, row.mean, row.high) for row in rows]
    data = [
        {
            **{"x": [row.mean for row in rows], "y": list(range(len(rows))), "mode": "markers", "showlegend": False},
            "error_x": {**_whiskers(estimates), "color": GREY},
            "marker": {"size": 9, "color": [_sided(row, zero) for row in rows]},
            "customdata": [row.to for row in rows],
            "text": [words(row.label) for row in rows],
            "hovertemplate": "%{text}: %{x:+.2f}<extra></extra>",
        }
    ]
    labels = [words(row.label, 40) for row in rows]
    layout = {
        "xaxis": {"title": {"text": axis}},
        "yaxis": {**_rows(labels), "zeroline": False, "showgrid": False},
        "shapes": [
            {
                **{"type": "line", "x0": zero, "x1": zero, "yref": "paper", "y0": 0, "y1": 1},
                "line": {"color": GREY, "dash": "dash", "width": 1},
            }
        ],
        "height": 110 + 34 * len(rows),
    }
    told = "; ".join(f"{row.label}: {row.mean:+.2f} ({row.low:+.2f} to {row.high:+.2f})" for row in rows)
    return Figure(name, f"{what}. {told}", data, layout)


def records_by_status(by_status: Mapping[int, Mapping[Status, int]]) -> Figure:
    """How many records memory held at the end of each generation, by status; see `Findings.by_status`."""
    generations = sorted(by_status)
    data = [
        {
            **{"type": "bar", "name": status, "x": generations, "marker": {"color": colour}},
            "y": [by_status[generation].get(status, 0) for generation in generations],
            "hovertemplate": f"generation %{{x}}: %{{y}} {status}<extra></extra>",
        }
        for status, colour in STATUS_COLOURS.items()
        if any(by_status[generation].get(status, 0) for generation in generations)
    ]
    told = "; ".join(
        f"generation {generation}: "
        + (", ".join(f"{count} {status}" for status, count in by_status[generation].items() if count) or "none")
        for generation in generations
    )
    layout = {
        "barmode": "stack",
        "xaxis": {"title": {"text": "Generation"}, "dtick": 1 if len(generations) < 30 else None},
        "yaxis": {"title": {"text": "Records"}, "rangemode": "tozero"},
    }
    return Figure("records-by-status", f"Records by generation and status. {told}", data, layout)


def forgetting_map(changes: Mapping[str, Mapping[str, Interval]]) -> Figure:
    """What each distillation changed in each ability: below zero is forgotten. See `agents.forgotten`."""
    abilities = list(dict.fromkeys(name for each in changes.values() for name in each))
    values = [[each[name].mean if name in each else None for name in abilities] for each in changes.values()]
    told = "; ".join(
        f"{name} by {adapter}: {change:+.3f}" for adapter, each in changes.items() for name, change in each.items()
    )
    return _heat_map(
        "forgetting",
        f"Change of abilities. {told}",
        values,
        abilities,
        [_short(each) for each in changes],
        around_zero=True,
    )


def accuracy_map(by_stage: Mapping[int, Sequence[float]], tasks: Sequence[str]) -> Figure:
    """Accuracy on each task of a stream after each stage; see `evaluation.continual`."""
    values = [list(row) for row in by_stage.values()]
    told = "; ".join(
        f"after stage {stage}: {', '.join(f'{task} {value:.2f}' for task, value in zip(tasks, row, strict=True))}"
        for stage, row in by_stage.items()
    )
    stages = [f"stage {stage}" if stage else "frozen" for stage in by_stage]
    return _heat_map("continual", f"Accuracy by task and stage. {told}", values, tasks, stages)


def loss_curve(steps: Sequence[Step]) -> Figure:
    """The loss of a training at each step of its optimizer, and that of its validation rows where it was measured."""
    data: list[Mapping[str, Any]] = [
        {
            **{"x": [each.step for each in steps], "y": [each.loss for each in steps], "mode": "lines"},
            **{"name": "training", "line": {"color": BLUE}, "hovertemplate": "step %{x}: %{y:.3f}"},
        }
    ]
    measured = [(each.step, each.validation) for each in steps if each.validation is not None]
    if measured:
        at, validation = zip(*measured, strict=True)
        data.append(
            {
                **{"x": at, "y": validation, "mode": "lines+markers", "name": "validation"},
                **{"line": {"color": ORANGE}, "hovertemplate": "step %{x}: %{y:.3f}"},
            }
        )
    layout = {
        "xaxis": {"title": {"text": "Step"}},
        "yaxis": {"title": {"text": "Loss (nats per token)"}, "rangemode": "tozero"},
    }
    told = (
        f"Loss of the training: {steps[0].loss:.3f} at step {steps[0].step}, {steps[-1].loss:.3f} at {steps[-1].step}"
    )
    return Figure("loss", told, data, layout)


def _heat_map(
    name: str,
    told: str,
    values: Sequence[Sequence[float | None]],
    columns: Sequence[str],
    rows: Sequence[str],
    *,
    around_zero: bool = False,
) -> Figure:
    """Numbers as colours and as themselves, the first row on top. Around zero the colours part there."""
    known = [abs(value) for row in values for value in row if value is not None]
    ends = max([0.05, *known]) if around_zero else 1.0
    data = [
        {
            **{"type": "heatmap", "z": values},
            **{"zmin": -ends if around_zero else 0, "zmax": ends},
            "colorscale": [[0, ORANGE], [0.5, "#e9ebee"], [1, BLUE]] if around_zero else [[0, "#e9ebee"], [1, BLUE]],
            "texttemplate": "%{z:+.3f}" if around_zero else "%{z:.2f}",
            **{"textfont": {"color": "#14171a"}, "xgap": 2, "ygap": 2, "showscale": False},
            "hoverinfo": "skip",
        }
    ]
    # By number, because two labels that read alike would be one row.
    across = {"tickvals": list(range(len(columns))), "ticktext": [words(each, 24) for each in columns]}
    layout = {
        "xaxis": {**across, "showgrid": False, "zeroline": False},
        "yaxis": {**_rows([words(each, 24) for each in rows]), "showgrid": False, "zeroline": False},
        "height": 130 + 44 * len(rows),
    }
    return Figure(name, told, data, layout)


def _rows(labels: Sequence[str]) -> dict[str, Any]:
    """An axis with a label for each row, the first on top."""
    return {"tickvals": list(range(len(labels))), "ticktext": labels, "autorange": "reversed"}


def _short(adapter: str) -> str:
    """An adapter's full name, short enough for a phone and still its own."""
    name, _, content = adapter.rpartition("@")
    return f"{name[:9]}…@{content[:6]}" if len(name) > 10 else f"{name}@{content[:6]}"


def _whiskers(estimates: Sequence[tuple[float, float, float]]) -> dict[str, Any]:
    """(low, mean, high) as Plotly's error bars."""
    return {
        **{"type": "data", "symmetric": False, "thickness": 1.5, "width": 4},
        "array": [high - mean for _, mean, high in estimates],
        "arrayminus": [mean - low for low, mean, _ in estimates],
    }


def _sided(row: Estimate, zero: float) -> str:
    """Blue where the whole interval lies above, orange where it lies below."""
    return BLUE if row.low > zero else ORANGE if row.high < zero else GREY
