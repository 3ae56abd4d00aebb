"""What a notebook shows of a value: all that matters, whatever a model wrote as text, and never endlessly much."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import pytest
from IPython.core.formatters import DisplayFormatter

from evolvent.agents.display import Comparison, Result
from evolvent.environments.display import MOST_STEPS, SHOWN_STEPS, text
from evolvent.environments.types import (
    Action,
    Message,
    Observation,
    Outcome,
    Recalled,
    Sampling,
    Step,
    Task,
    ToolCall,
    Trajectory,
    dump,
    load,
)
from evolvent.memory.graph import MOST, LineageGraph
from evolvent.memory.history import Change, Changes, Field, diff
from evolvent.memory.lineage import Bearing, Cause, Decision, Impact, Source, Why
from evolvent.memory.types import Interval, Record, Scope, new_record

ELEMENTS = {
    *("b", "br", "details", "div", "i", "li", "path", "rect", "g", "span", "summary", "svg", "table", "tbody", "td"),
    *("text", "th", "thead", "tr", "tspan", "ul"),
}
ATTRIBUTES = {
    *("style", "scope", "role", "aria-label", "aria-hidden", "d", "fill", "font-size", "height", "opacity", "rx"),
    *("stroke", "stroke-dasharray", "stroke-width", "transform", "width", "x", "y"),
}
ATTACKS = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "</td></table><iframe src=javascript:alert(1)>",
    "<svg onload=alert(1)>",
    "' onmouseover='alert(1)",
    "<!-- ",
    "&lt;b&gt;",
    "</text></svg><style>*{display:none}</style>",
)


class Reader(HTMLParser):
    """The words of a page, its elements and attributes; fails where a tag is not closed."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.words = ""
        self.elements: Counter[str] = Counter()
        self.attributes: Counter[str] = Counter()
        self.styles: list[str] = []
        self.folded = ""
        self._open: list[str] = []
        self.feed(html)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements[tag] += 1
        self.attributes.update(name for name, _ in attrs)
        self.styles += [value or "" for name, value in attrs if name == "style"]
        if tag != "br":
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self._open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words += data
        if "details" in self._open and "summary" not in self._open:
            self.folded += data

    def handle_comment(self, data: str) -> None:
        raise AssertionError(f"a comment: {data!r}")


def shown(value: Any) -> Reader:
    """What a notebook makes of a value; refuses elements and attributes that no display of ours uses."""
    bundle, _ = DisplayFormatter().format(value)
    assert len(bundle["text/plain"]) < 2000
    assert "object at 0x" not in bundle["text/plain"]
    read = Reader(bundle["text/html"])
    assert set(read.elements) <= ELEMENTS
    assert set(read.attributes) <= ATTRIBUTES
    assert not [style for style in read.styles if re.search(r"url|#|rgb|(?<!opacity:)(?<![\w-])color:", style)]
    return read


# -- values --------------------------------------------------------------------------------------------------------


def step(seen: str = "How do you mend rust?", done: str = "oil", *, options: tuple[str, ...] = ("wax", "oil")) -> Step:
    head = (Message("system", "instructions", "You mend things."), Message("user", "memory", "Remember: oil."))
    likely = tuple(1 / len(options) for _ in options)
    chosen = Sampling(0.0, "choose", options, likely)
    return Step("agent", Observation("agent", seen), head, f"use {done}", Action(done), None, chosen, 0.5, "It worked.")


def trajectory(*steps: Step) -> Trajectory:
    return Trajectory(
        "train/1/rust/0",
        Task("rust", "Pia's clock has rust.", "workshop"),
        "agent",
        steps or (step(),),
        Outcome(0.5, False),
        generation=1,
        recalled=(Recalled("rule-1", True, 0.75), Recalled("rule-2", False, 0.25)),
        model="smollm2",
    )


def rule(words: str = "To mend rust, use oil.", **changes: Any) -> Record:
    made = new_record("rule", words, Scope("workshop", ("rust",)), parents=("train/1/rust/0",), status="active")
    return replace(made, **changes)


def why(words: str = "To mend rust, use oil.", name: str = "train/1/rust/0") -> Why:
    gate = {"wins": 9, "losses": 1, "ties": 14, "e_value": 31.0, "level": 0.05}
    source = Source(name, words, 1.0, True, 1, (name,), (Bearing(0, words, words, 0.5),))
    return Why(
        rule(words, lift=Interval(0.4, 0.3, 0.5, 40)),
        0.5,
        (
            Cause("rule-0", "merged", 1, record=rule(f"{words} {words}")),
            Cause(name, "derived", 2, source=source),
            Cause(f"{name}?", "derived", 1),
        ),
        (Decision("c0ffee", "1/gate", "activate", {"gate": gate}), Decision("c0fe", name, "retire", {"reason": words})),
    )


def lineage(words: str = "To mend rust, use oil.", name: str = "rule-1", episodes: int = 1) -> LineageGraph:
    found = LineageGraph()
    found.add_node(name, kind="rule", status="active", text=words, generation=1, trust=1.0)
    for number in range(episodes):
        key = f"train/1/{words}/{number}"
        found.add_node(key, kind="episode", status="", text=words, generation=1, trust=1.0)
        found.add_edge(key, name, edge="derived")
    return found


def changes(words: str = "To mend rust, use oil.", name: str = "status") -> Changes:
    return Changes(
        [
            Change("added", rule(words)),
            Change("changed", rule(words), (Field(name, "candidate", words), Field("parents.x", None, True))),
            Change("removed", new_record("trajectory", words)),
        ]
    )


def result(words: str = "workshop") -> Result:
    def held(success: float) -> dict[str, float]:
        return {"success": success, "low": success - 0.1, "high": success + 0.1, "n": 20}

    rows = [
        {"generation": n, "held_out": held(0.3 + n / 5), "tokens_in": 1000 * n, "tokens_out": 7, "calls": 5}
        for n in range(3)
    ]
    return Result(
        recipe="lamarck",
        preset="small",
        env=words,
        env_version=words,
        model=words,
        seed=0,
        task_set_hash="83a8",
        out=words,
        verdict="improved",
        generations=rows,
        frozen=held(0.3),
        gain={"mean": 0.4, "low": 0.2, "high": 0.6, "n": 20},
        records={"active": 3, "candidate": 0, "retired": 1},
        finished=True,
    )


def comparison(words: str = "workshop") -> Comparison:
    def arm(success: float) -> dict[str, float]:
        return {
            "success": success,
            "low": success,
            "high": success,
            "n": 8,
            "tokens_in": 1,
            "tokens_out": 2,
            "calls": 3,
        }

    return Comparison(
        recipe="lamarck",
        env=words,
        env_version=words,
        model=words,
        task_set_hash="83a8",
        arms={"lamarck": arm(0.9), "frozen": arm(0.4), words: arm(0.9), "random-rules": None},
        gain={
            "frozen": {"mean": 0.5, "low": 0.3, "high": 0.7, "n": 8, "verdict": "improved"},
            words: {"mean": 0.0, "low": -0.1, "high": 0.1, "n": 8, "verdict": "no evidence"},
            "random-rules": None,
        },
        power={words: {"n": 300, "diagnosis": "effect size"}},
        reasons={"random-rules": f"Not played: {words}"},
    )


def full_of(attack: str) -> Trajectory:
    """A trajectory in which every text is an attack."""
    odd = step(attack, attack, options=(attack, "oil"))
    odd = replace(odd, result=attack, messages=(Message("user", "task", attack),))
    called = replace(odd, action=Action(tool=ToolCall(attack, {attack: attack})))
    return replace(
        trajectory(odd, called),
        **{"id": attack, "player": attack, "model": attack, "task": Task(attack, attack, attack)},
        outcome=Outcome(0.0, False, "model", attack),
        recalled=(Recalled(attack, True),),
    )


# -- tests ---------------------------------------------------------------------------------------------------------


def test_a_trajectory_shows_what_was_seen_done_and_earned_and_what_the_prompt_was() -> None:
    words = shown(trajectory()).words
    for expected in ("Pia's clock has rust.", "How do you mend rust?", "oil", "It worked.", "Score 0.50 (no success)."):
        assert expected in words
    assert "0.50 wax" in words
    assert "1 shown, 1 withheld" in words
    assert "Remember: oil." in words
    assert "train/1/rust/0 · agent · generation 1 · attempt 0 · smollm2" in words


def test_steps_without_options_have_no_column_of_probabilities() -> None:
    written = replace(step(), sampling=Sampling(), action=Action(tool=ToolCall("search", {"q": "rust"})))
    words = shown(trajectory(written)).words
    assert "how likely" not in words
    assert "search(q='rust')" in words


def test_an_answer_that_the_next_observation_repeats_is_shown_once() -> None:
    words = shown(trajectory(step(), step("It worked."), step("And now?"))).words.split("The last prompt")[0]
    assert words.count("It worked.") == 3


def test_of_many_options_the_likeliest_and_the_chosen_are_shown() -> None:
    names = tuple(f"tool {number:02}" for number in range(30))
    odds = tuple((30 - number) / 465 for number in range(30))
    read = shown(trajectory(replace(step(done=names[29]), sampling=Sampling(1.0, "choose", names, odds))))
    assert [name for name in names if f" {name}" in read.words] == [*names[:3], names[29]]
    assert "and 26 less likely" in read.words


def test_a_long_trajectory_is_folded_and_an_endless_one_cut() -> None:
    read = shown(trajectory(*(step(f"Sight {number:04}.") for number in range(1000))))
    seen = [int(each) for each in re.findall(r"Sight (\d{4})", read.words.split("The last prompt")[0])]
    assert seen == list(range(MOST_STEPS))
    assert f"Sight {SHOWN_STEPS - 1:04}" not in read.folded.split("The last prompt")[0]
    assert f"Sight {SHOWN_STEPS:04}" in read.folded
    assert f"{1000 - MOST_STEPS} steps more are in the ledger." in read.words


def test_an_empty_trajectory_shows_why_it_ended() -> None:
    ended = replace(trajectory(), steps=(), outcome=Outcome(0.0, False, "timeout", "no answer"))
    assert "Score 0.00 (failed: timeout). no answer" in shown(ended).words


@pytest.mark.parametrize("make", [trajectory, rule, why, changes, lineage, result, comparison])
def test_what_a_newcomer_sees_is_small(make: Callable[[], Any]) -> None:
    assert len(make()._repr_html_()) < 8000


def test_a_text_without_end_is_folded_and_cut() -> None:
    for value in (trajectory(step("x" * 1_000_000)), rule("x" * 1_000_000), why("x" * 1_000_000)):
        assert len(value._repr_html_()) < 60_000
    assert "(1,000,000 letters in all)" in shown(rule("x" * 1_000_000)).folded


@pytest.mark.parametrize("attack", ATTACKS)
def test_what_a_model_wrote_is_shown_letter_by_letter_and_never_obeyed(attack: str) -> None:
    record = rule(attack, id=attack, meta={attack: attack}, parents=(attack,), scope=Scope(attack, (attack,), attack))
    touched = Impact(attack, (attack,), (attack,), (attack,))
    made = [full_of(attack), record, why(attack, attack), touched, changes(attack, attack), lineage(attack, attack)]
    for value in (*made, result(attack), comparison(attack)):
        assert attack in shown(value).words, type(value)


def test_no_letters_make_a_formula_or_turn_the_line_round() -> None:
    drawn = text("It costs $5 or $6, \\(x\\) \u202e\x00\ud800 👩‍🔧.")
    assert Reader(drawn).words == "It costs $5 or $6, \\(x\\)     👩‍🔧."
    assert re.search(r"\$[^<]", drawn) is None
    assert re.search(r"\\[^<]", drawn) is None
    assert drawn.encode()
    assert "<tspan>$</tspan>" in lineage("It costs $5.")._repr_html_()


def test_showing_itself_changes_nothing_of_a_value() -> None:
    known = trajectory()
    assert load(Trajectory, dump(known)) == known
    assert "_repr_html_" not in dump(known)
    assert repr(known).startswith("Trajectory(id='train/1/rust/0', task=Task(")
    assert not hasattr(known, "__dict__")
    assert hash(Recalled("rule-1", True)) == hash(Recalled("rule-1", True))


def test_the_types_load_no_rendering_before_something_is_shown() -> None:
    code = (
        "import sys, evolvent.environments.types, evolvent.memory.types; "
        "print([name for name in sys.modules if name.endswith('display')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"


def test_a_record_says_where_it_applies_what_it_is_worth_and_where_it_came_from() -> None:
    words = shown(rule(lift=Interval(0.4, 0.3, 0.5, 40), recalls=54, meta={"situation": "rust"})).words
    for expected in (
        "To mend rust, use oil.",
        "active rule since generation 0",
        "+0.40 (95 % interval +0.30 to +0.50, 40 episodes)",
        "54 times",
        "environment workshop, tags rust",
        "train/1/rust/0",
        "situation",
    ):
        assert expected in words
    assert "no estimate yet" in shown(rule()).words


def test_a_diff_is_a_list_that_shows_what_was_learned_and_counts_the_rest() -> None:
    old, new = rule(), rule(status="retired", recalls=3)
    lived = new_record("trajectory", "Task: rust")
    found = diff({old.id: old}, {new.id: new, lived.id: lived})
    assert found == list(found)
    assert diff({old.id: old}, {old.id: old}) == []
    words = shown(found).words
    assert "status active → retired" in words
    assert "recalls 0 → 3" in words
    assert "1 record differs; of the raw trajectories 1 added." in words
    assert "0 records differ." in shown(diff({}, {})).words


def test_a_large_diff_shows_its_first_rows_and_says_so() -> None:
    read = shown(Changes([Change("added", rule(f"Rule {number}.")) for number in range(500)]))
    assert read.elements["tr"] == 101
    assert "500 records differ, the first 100 are shown." in read.words


def test_why_leads_from_the_verdict_down_to_the_step() -> None:
    read = shown(why())
    for expected in ("activate", "9 pairs better, 1 worse, 14 equal; e-value 31, needed 20", "trust", "0.50"):
        assert expected in read.words
    assert "Came from: 1 trajectory" in read.words
    assert "merged, active rule" in read.words
    assert "train/1/rust/0? not in this ledger" in read.words
    assert "+0.50" in read.folded
    assert read.elements["ul"] == 2


def test_why_of_a_record_with_many_causes_is_cut() -> None:
    many = replace(why(), causes=tuple(Cause(f"train/{number}", "derived", 1) for number in range(5000)))
    assert "4,900 more causes" in shown(many).words


def test_impact_names_a_few_and_counts_all() -> None:
    episodes = tuple(f"train/1/{number}/0" for number in range(1234))
    words = shown(Impact("rule-1", ("rule-2",), (), episodes)).words
    assert "1,234 trajectories: train/1/0/0" in words
    assert "and 1228 more" in words
    assert "would fall with itnothing" in words


def test_a_graph_is_drawn_with_its_edges_in_words_beside_it() -> None:
    read = shown(lineage(episodes=3))
    assert read.elements["rect"] == 4
    assert "4 nodes (3 episode, 1 rule), 3 edges" in read.words
    assert read.folded.count("derived") == 3
    assert "active rule: rule-1" in read.words
    crowd = shown(lineage(episodes=MOST))
    assert "too many to draw" in crowd.words
    assert crowd.elements["svg"] == 0
    assert "0 nodes" in shown(LineageGraph()).words


def test_a_result_is_the_dict_it_was_and_shows_verdict_curve_and_cost() -> None:
    found = result()
    assert found == dict(found)
    assert json.loads(json.dumps(found)) == found
    words = shown(found).words
    assert "Improved: success on held-out tasks 0.30 → 0.70, gain +0.40" in words
    assert "0.50 (0.40 to 0.60)" in words
    assert "2,000" in words
    assert "3 active, 1 retired" in words


def test_a_comparison_says_what_was_not_shown_and_what_was_not_played() -> None:
    words = shown(comparison("sham")).words
    assert "+0.50 (+0.30 to +0.70)above" in words
    assert "+0.00 (-0.10 to +0.10)no evidence of a difference" in words
    assert "Against sham: 300 tasks would show a difference of this size (80 % power); diagnosis: effect size." in words
    assert "random-rules: Not played: sham" in words
