"""What the controls of a benchmark remember, and what a benchmark says of its differences."""

from __future__ import annotations

import random

import pytest

from evolvent.agents.evaluation.controls import (
    CHOICES_OF_K,
    RawRetrieval,
    choosing_tasks,
    full_history,
    rules_from_elsewhere,
    rules_misplaced,
)
from evolvent.agents.evaluation.statistics import diagnose, n_for_power
from evolvent.environments.types import Action, Observation, Outcome, Step, Task, Trajectory
from evolvent.memory.corpus import Corpus, Shelf
from evolvent.memory.embedding import HashEmbedder
from evolvent.memory.rendering import trajectory_record
from evolvent.memory.store import Snapshot
from evolvent.memory.types import Record, Scope, new_record

RNG = random.Random(0)


def words(text: str) -> int:
    return len(text.split())


def episode(flaw: str, tool: str, *, player: str = "agent", score: float = 1.0, name: str = "") -> Trajectory:
    task = Task(name or f"task-{flaw}", f"A chair has {flaw}.", "workshop", {}, (flaw,))
    step = Step(player, Observation(player, f"How do you mend {flaw}?"), (), tool, Action(tool))
    return Trajectory(f"{task.id}/{tool}", task, player, (step,), Outcome(score, score == 1.0))


def rule(flaw: str, tool: str) -> Record:
    frame = f"To mend {flaw}, use the {{action}}."
    text = frame.replace("{action}", tool)
    return new_record("rule", text, Scope("workshop", (flaw,)), meta={"situation": frame}, status="active")


def test_full_history_tells_the_newest_episode_first_and_the_same_text_before_every_task() -> None:
    recall = full_history([episode("rust", "oil"), episode("soot", "wax"), episode("frost", "lamp")], words)
    heads = {recall(Task(str(n), "any", "workshop"), "agent", RNG).head for n in range(3)}
    (head,) = heads
    assert head.index("frost") < head.index("soot") < head.index("rust")


def test_full_history_drops_the_oldest_episodes_at_its_budget() -> None:
    history = [episode("rust", f"tool{n}") for n in range(50)]
    head = full_history(history, words, budget=60)(history[0].task, "agent", RNG).head
    assert words(head) <= 60
    assert "tool49" in head
    assert "tool0\n" not in head


def test_full_history_tells_episodes_that_read_alike_once() -> None:
    same = [episode("rust", "oil"), episode("soot", "wax"), episode("rust", "oil")]
    head = full_history(same, words)(same[0].task, "agent", RNG).head
    assert head.count("rust?") == 1
    assert head.index("rust") < head.index("soot")


def test_a_seat_reads_the_history_of_its_own_seat_only() -> None:
    recall = full_history([episode("rust", "oil", player="client"), episode("soot", "wax", player="mender")], words)
    task = Task("t", "any", "workshop")
    assert "soot" not in recall(task, "client", RNG).head
    assert "rust" not in recall(task, "mender", RNG).head


def test_raw_retrieval_shows_the_k_nearest_episodes_and_names_them() -> None:
    records = {r.id: r for r in (trajectory_record(episode(f, "oil")) for f in ("rust", "soot", "frost", "woodworm"))}
    embedder = HashEmbedder()
    corpus = Corpus(records, Shelf(lambda some: embedder.embed([record.text for record in some])))
    snapshot = Snapshot("head", records, corpus, embedder)
    recall = RawRetrieval(snapshot, 1, words)
    recollection = recall(Task("t", "A clock has woodworm.", "workshop"), "agent", RNG)
    assert "woodworm" in recollection.head
    assert "rust" not in recollection.head
    assert [records[each.record].meta["task"] for each in recollection.recalled] == ["task-woodworm"]


def test_rules_from_elsewhere_are_as_many_and_shown_in_the_same_places() -> None:
    own = [rule("rust", "oil"), rule("soot", "wax"), rule("frost", "lamp")]
    foreign = [rule("a leak", "glue"), rule("a dent", "hammer")]
    shown = rules_from_elsewhere(own, foreign)
    assert [each.scope for each in shown] == [each.scope for each in own]
    assert [each.meta["situation"] for each in shown] == [each.meta["situation"] for each in own]
    assert [each.text for each in shown] == [foreign[0].text, foreign[1].text, foreign[0].text]


def test_a_foreign_rule_that_says_what_ours_says_is_passed_over() -> None:
    own = [rule("rust", "oil")]
    assert rules_from_elsewhere(own, [rule("rust", "oil"), rule("rust", "saw")])[0].text == "To mend rust, use the saw."
    assert rules_from_elsewhere(own, [rule("rust", "oil")]) == []


def test_misplaced_rules_keep_their_situation_and_never_their_action() -> None:
    own = [rule("rust", "oil"), rule("soot", "wax"), rule("frost", "lamp")]
    for seed in range(20):
        shown = rules_misplaced(own, own, random.Random(seed))
        assert len(shown) == len(own)
        for before, after in zip(own, shown, strict=True):
            assert after.text != before.text
            assert after.text.startswith(before.text.split(" the ")[0])


def test_a_rule_with_the_only_action_known_has_no_misplaced_stand_in() -> None:
    own = [rule("rust", "oil"), rule("soot", "oil")]
    assert rules_misplaced(own, own, RNG) == []


@pytest.mark.parametrize("episodes", [0, 1, 11, 12, 100, 500, 5000])
def test_choosing_k_takes_at_most_a_quarter_of_the_episodes(episodes: int) -> None:
    assert choosing_tasks(episodes) * len(CHOICES_OF_K) <= episodes / 4


def test_n_for_power_agrees_with_a_calculation_by_hand() -> None:
    # Mean 0.25, sd √(4 · 0.25² / 3) = 0.2887, z = 1.9600 + 0.8416: (2.8016 · 0.2887 / 0.25)² = 10.47.
    assert n_for_power([0.0, 0.5, 0.0, 0.5]) == 11
    assert n_for_power([0.0, -0.5, 0.0, -0.5]) == 11
    # z = 1.9600 + 1.2816 for 90 % power: (3.2415 · 0.2887 / 0.25)² = 14.01.
    assert n_for_power([0.0, 0.5, 0.0, 0.5], power=0.9) == 15


def test_no_number_of_pairs_shows_a_difference_of_nothing() -> None:
    assert n_for_power([0.5, -0.5]) is None
    assert n_for_power([0.5]) is None
    assert n_for_power([]) is None


@pytest.mark.parametrize(
    ("ours", "theirs", "illegal", "expected"),
    [
        (0.95, 0.97, 0.0, "ceiling"),
        (0.02, 0.05, 0.0, "floor"),
        (0.02, 0.05, 0.4, "parsing"),
        (0.55, 0.50, 0.0, "effect size"),
        (0.95, 0.50, 0.0, "effect size"),
    ],
)
def test_a_difference_not_shown_gets_one_diagnosis(ours: float, theirs: float, illegal: float, expected: str) -> None:
    assert diagnose(ours, theirs, illegal=illegal) == expected
