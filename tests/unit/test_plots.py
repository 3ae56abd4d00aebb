"""Figures of a run: what they show is read back from the axes, and their SVG from its text."""

from __future__ import annotations

import json
import subprocess
import sys
import xml.etree.ElementTree as ET
from dataclasses import replace
from typing import Any, get_args

import networkx as nx
import pytest
from matplotlib.container import ErrorbarContainer
from matplotlib.patches import Rectangle

from evolvent.agents.plots import (
    cost_against_success,
    forgetting_matrix,
    learning_curve,
    learning_curves,
    lifts,
    lineage,
    records_by_status,
    svg,
)
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


def test_curves_of_several_runs_stand_together_each_through_its_own_success() -> None:
    shorter = {**RESULT, "generations": RESULT["generations"][:2], "judged_on": "its own tasks"}
    axes = learning_curves({"lamarck": RESULT, "costs $5": shorter}).axes[0]
    lines = {line.get_label(): list(line.get_ydata()) for line in axes.lines}
    assert lines == {
        "lamarck": pytest.approx([0.4, 0.5, 0.6, 0.7]),
        r"costs \$5": pytest.approx([0.4, 0.5]),
    }
    assert axes.get_ylabel() == "Success (0 to 1)", "they are judged on different tasks"
    assert list(axes.get_xticks()) == [0, 1, 2, 3]
    assert not learning_curves({}).axes[0].lines


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


def spending(*tokens: int) -> dict[str, Any]:
    rows = [
        {"generation": number, "held_out": held_out(0.4 + number / 10), "tokens_in": spent - 1, "tokens_out": 1}
        for number, spent in enumerate(tokens)
    ]
    return {**RESULT, "generations": rows}


def test_success_stands_over_all_tokens_spent_until_then_with_a_line_for_each_run() -> None:
    axes = cost_against_success({"one": spending(100, 200, 50), "$other$": spending(400)}).axes[0]
    one, other = (each for each in axes.containers if isinstance(each, ErrorbarContainer))
    assert list(one.lines[0].get_xdata()) == [100, 300, 350]
    assert list(one.lines[0].get_ydata()) == pytest.approx([0.4, 0.5, 0.6])
    (bars,) = one.lines[2]
    assert [(low[1], high[1]) for low, high in bars.get_segments()] == [
        pytest.approx((middle - 0.1, middle + 0.1)) for middle in (0.4, 0.5, 0.6)
    ]
    assert list(other.lines[0].get_xdata()) == [400]
    assert (one.get_label(), other.get_label()) == ("one", r"\$other\$")
    assert one.lines[0].get_marker() != other.lines[0].get_marker(), "not by colour alone"
    assert [each.get_text() for each in axes.texts] == ["0", "1", "2", "0"]
    assert not cost_against_success({}).axes[0].containers


def test_a_cell_of_forgetting_says_its_number_and_is_coloured_by_its_side_of_zero() -> None:
    changes = {
        "first@1": {"sums": Interval(0.2, 0.1, 0.3, 50), "prose": Interval(-0.1, -0.2, 0.0, 9)},
        "second@2": {"sums": Interval(0.0, -0.1, 0.1, 50)},
    }
    figure = forgetting_matrix(changes)
    axes = figure.axes[0]
    told = [each.get_text() for each in axes.texts]
    assert told == ["+0.200\n+0.100 to +0.300", "-0.100\n-0.200 to +0.000", "+0.000\n-0.100 to +0.100", "not measured"]
    gained, lost, same, none = (each.get_facecolor() for each in axes.patches)
    assert gained[2] > gained[0], "blue"
    assert lost[0] > lost[2], "orange"
    assert gained[3] == pytest.approx(2 * lost[3]), "twice as far from zero"
    assert same[3] == none[3] == 0
    assert "first@1" in svg(figure, "forgetting", "d")
    assert not forgetting_matrix({}).axes[0].patches


def test_a_lineage_is_drawn_with_every_node_in_the_ink_of_the_page() -> None:
    found: nx.DiGraph[str] = nx.DiGraph()
    facts = {"generation": 1, "trust": 1.0}
    found.add_node("train/1/a/0", kind="episode", status="", text="a, score 1.00", **facts)
    found.add_node("rule-1", kind="rule", status="active", text="It costs $5 or $6.", **facts)
    found.add_edge("train/1/a/0", "rule-1", edge="derived")
    drawn = svg(lineage(found), "lineage", "one rule")
    words = "".join(ET.fromstring(drawn).itertext())
    assert all(word in words for word in ("train/1/a/0", "rule-1", "It costs $5 or $6."))
    assert "currentColor" in drawn
    assert svg(lineage(nx.DiGraph()), "empty", "nothing")


EVIL = [
    "<script>alert(1)</script>",
    'say id="x" href="#y" url(#z) #010203',
    "$x$ and $y",
    "\x1b[31mred\x00\x08",
    "火を消す 🔥",
    "</text></svg><b>",
    "&amp; &#60;",
]


@pytest.mark.parametrize("text", EVIL)
def test_words_of_a_record_are_drawn_letter_by_letter_whatever_they_say(text: str) -> None:
    plain = "".join(sign if sign.isprintable() else " " for sign in text)
    drawn = svg(lifts([rule(text, Interval(0.1, 0.0, 0.2, 3))]), "evil", text)
    root = ET.fromstring(drawn)
    assert f"{plain}  n=3" in [each.text for each in root.iter() if each.tag.endswith("text")]
    assert not [each for each in root.iter() if each.tag.endswith(("script", "}b"))]


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
