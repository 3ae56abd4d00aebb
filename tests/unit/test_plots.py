"""Figures of a run: what they show is read back from the axes, and their SVG from its text."""

from __future__ import annotations

import json
import subprocess
import sys
import xml.etree.ElementTree as ET
from dataclasses import replace
from typing import Any, get_args

import pytest
from matplotlib.patches import Rectangle

from evolvent.agents.plots import learning_curve, lifts, records_by_status, svg
from evolvent.memory.types import Interval, Record, Status, new_record


def held_out(success: float) -> dict[str, float]:
    return {"success": success, "low": success - 0.1, "high": success + 0.1, "n": 80}


RESULT: dict[str, Any] = {
    "recipe": "lamarck",
    "judged_on": "held-out tasks",
    "frozen": held_out(0.4),
    "generations": [{"generation": number, "held_out": held_out(0.4 + number / 10)} for number in range(4)],
}


def test_the_curve_goes_through_the_success_of_every_generation_beside_the_frozen_agent() -> None:
    axes = learning_curve(RESULT).axes[0]
    lines = {line.get_label(): line.get_ydata() for line in axes.lines}
    assert list(lines["lamarck"]) == pytest.approx([0.4, 0.5, 0.6, 0.7])
    assert set(lines["frozen"]) == {0.4}
    assert axes.get_ylabel() == "Success on held-out tasks (0 to 1)"
    assert axes.get_xlabel() == "Generation"


def test_a_long_run_has_no_more_than_a_dozen_ticks() -> None:
    rows = [{"generation": number, "held_out": held_out(0.5)} for number in range(100)]
    assert len(learning_curve({**RESULT, "generations": rows}).axes[0].get_xticks()) <= 12


def test_bars_stack_up_to_all_records_of_a_generation() -> None:
    every: tuple[Status, ...] = get_args(Status)
    axes = records_by_status({1: dict.fromkeys(every, 2), 2: {"active": 4}}).axes[0]
    tops: dict[float, float] = {}
    for bar in axes.patches:
        assert isinstance(bar, Rectangle)
        middle = bar.get_x() + bar.get_width() / 2
        tops[middle] = max(tops.get(middle, 0), bar.get_y() + bar.get_height())
    assert tops == pytest.approx({1: 2 * len(every), 2: 4})


def rule(text: str, lift: Interval | None) -> Record:
    return replace(new_record("rule", text, status="active"), lift=lift)


def test_lifts_are_rows_with_intervals_the_highest_on_top() -> None:
    known = [rule("It costs $5.", Interval(0.1, -0.2, 0.4, 30)), rule("Use oil.\nAlways.", Interval(0.3, 0.1, 0.5, 80))]
    axes = lifts([*known, rule("Who knows?", None)]).axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == [r"It costs \$5.  n=30", "Use oil.  n=80"]
    _, *drawn = [list(line.get_xdata()) for line in axes.lines]
    assert drawn == [[-0.2, 0.4], [0.1], [0.1, 0.5], [0.3]]
    assert "Use oil." in svg(lifts(known), "lifts", "two rules")
    assert not lifts([]).axes[0].get_yticklabels()


def test_the_svg_is_one_element_with_a_description_and_takes_the_colour_of_the_page() -> None:
    drawn = svg(learning_curve(RESULT), "curve", 'success "rises" <by generation>')
    root = ET.fromstring(drawn)
    assert root.tag.endswith("svg")
    assert root.attrib["aria-label"] == 'success "rises" <by generation>'
    assert "currentColor" in drawn
    named = [each.attrib["id"] for each in root.iter() if "id" in each.attrib]
    assert named
    assert all(name.startswith("curve-") for name in named)


def test_the_same_figure_is_drawn_in_the_same_bytes() -> None:
    assert svg(learning_curve(RESULT), "curve", "d") == svg(learning_curve(RESULT), "curve", "d")


def test_drawing_leaves_the_global_interface_of_matplotlib_alone() -> None:
    # In an interpreter of its own: other tests' packages import pyplot.
    draw = "import json, sys; from evolvent.agents.plots import learning_curve; learning_curve(json.loads(sys.argv[1]))"
    told = "print('matplotlib.pyplot' in sys.modules)"
    command = [sys.executable, "-c", f"{draw}; {told}", json.dumps(RESULT)]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() == "False"
