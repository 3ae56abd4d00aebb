"""Lists out of notes: how replies are read, what counts as found, and that the truth is in the note."""

from __future__ import annotations

import random
import re
import statistics

import pytest

from evolvent.environments.clinical_notes import DEVICES, SYMPTOMS
from evolvent.environments.errors import BadOptionError
from evolvent.environments.extraction import (
    LABELS,
    Extraction,
    compare,
    key,
    label_of,
    locate,
    merge_items,
    overlap,
    parse_items,
    render_items,
    truth,
)
from evolvent.environments.types import Action, StepResult, Task

NOTE = "Takes metformin 20 mg every morning. Off Nonacog alfa since May. Allergic to codeine. Uses a knee brace."
TASK = Task(
    "note",
    NOTE,
    "extraction",
    {
        "items": [
            {"name": "metformin", "label": "active", "start": 0, "end": 36},
            {"name": "nonacog alfa", "label": "discontinued", "start": 37, "end": 64},
            {"name": "codeine", "label": "neither", "start": 65, "end": 85},
        ]
    },
)
RIGHT = {"metformin": "active", "nonacog alfa": "discontinued", "codeine": "neither"}


def answered(reply: str, task: Task = TASK, kind: str = "medications") -> StepResult:
    world = Extraction(kind=kind)  # type: ignore[arg-type]  # a plain string, as an option comes from the command line
    world.reset(task, 0)
    return world.step({"agent": Action(reply)})


# -- reading lists -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reply", "items"),
    [
        ("- metformin: active\n- codeine: neither", {"metformin": "active", "codeine": "neither"}),
        ("- codeine: neither\n- metformin: active", {"codeine": "neither", "metformin": "active"}),
        ("* Metformin: ACTIVE\n2) codeine - neither\n• x (discontinued)",
         {"Metformin": "active", "codeine": "neither", "x": "discontinued"}),
        ("Here is the list:\n\n1. **metformin**: active.\nI hope this helps!", {"metformin": "active"}),
        ("metformin: active\ncodeine: currently neither", {"metformin": "active", "codeine": "neither"}),
        ("- metformin, Active\n- calcium, iron: neither", {"metformin": "active", "calcium, iron": "neither"}),
        ("- metformin (500 mg): active\n- codeine: allergy", {"metformin": "active", "codeine": ""}),
        ("- placebo\n- sham massage", {"placebo": "", "sham massage": ""}),
        ("- non-sedating loratadine: active\n- x: active", {"non-sedating loratadine": "active", "x": "active"}),
        ("- None\n- n/a\nnothing else", {}),
        ("The patient takes no medicines.", {}),
        ("- \n-\n:\n- : active", {}),
        ("", {}),
    ],
)  # fmt: skip
def test_a_list_is_read_in_order_however_it_is_written(reply: str, items: dict[str, str]) -> None:
    assert list(parse_items(reply).items()) == list(items.items())


def test_a_name_that_begins_with_non_ends_nothing() -> None:
    reply = "- Nonsteroidal gel: active\nnon-drug: nothing\n- none\n- nonivamide: neither\n- metformin: active"
    assert list(parse_items(reply)) == ["Nonsteroidal gel", "nonivamide", "metformin"]


def test_spellings_of_one_name_are_one_item_with_the_label_said_last() -> None:
    assert parse_items("- Metformin 500 mg: active\n- x: active\n- metformin: discontinued\n- METFORMIN") == {
        "Metformin 500 mg": "discontinued",
        "x": "active",
    }
    assert key(" *Metformin* 1,000 mg twice ") == key("metformin") == "metformin"
    assert key("vitamin d3") == "vitamin d3"


def test_lists_are_united_by_name_and_the_new_label_wins() -> None:
    current = {"Metformin": "active", "codeine": "neither"}
    assert merge_items(current, {"x": "active", "metformin": "discontinued", "Codeine": ""}) == {
        "Metformin": "discontinued",
        "codeine": "neither",
        "x": "active",
    }
    assert current == {"Metformin": "active", "codeine": "neither"}


def test_what_is_written_is_read_back() -> None:
    items = {"Metformin": "active", "placebo": "", "nonacog alfa": "neither"}
    assert parse_items(render_items(items)) == items


def test_a_label_is_one_of_the_three_words_or_none() -> None:
    assert label_of("It is Active.") == "active"
    assert label_of("inactive") is None
    assert label_of("active or discontinued") is None
    assert label_of("") is None


# -- scores ------------------------------------------------------------------------------------------------------------


def test_the_score_is_the_f1_of_names_and_success_wants_the_labels_too() -> None:
    perfect = answered(render_items(RIGHT))
    assert (perfect.rewards["agent"], perfect.info["success"]) == (1.0, True)
    mislabelled = answered(render_items(RIGHT | {"codeine": "active"}))
    assert (mislabelled.rewards["agent"], mislabelled.info["success"]) == (1.0, False)
    # Two of three found, one wrong: precision 2/3, recall 2/3.
    partly = answered("- Metformin: active\n- NONACOG ALFA: discontinued\n- knee brace: active")
    assert partly.rewards["agent"] == pytest.approx(2 / 3)
    assert partly.info["success"] is False
    assert partly.observations[0].text == "Found 2 of 3; 1 listed do not belong; 0 have a wrong label."
    assert answered("").rewards["agent"] == 0


def test_a_comparison_names_what_was_found_missed_wrong_and_mislabelled() -> None:
    match = compare(TASK, {"Metformin 20 mg": "active", "codeine": "", "aspirin": "active", "Knee brace": "active"})
    assert match.found == ("metformin", "codeine")
    assert match.missed == ("nonacog alfa",)
    assert match.wrong == ("aspirin", "Knee brace")
    assert match.mislabelled == ("codeine",)
    assert (match.precision, match.recall) == (1 / 2, 2 / 3)
    assert match.f1 == pytest.approx(2 * (1 / 2) * (2 / 3) / (1 / 2 + 2 / 3))
    assert not match.perfect


def test_a_repeated_item_costs_no_precision() -> None:
    assert answered(render_items(RIGHT) + "\n- METFORMIN: active").info["success"] is True


# -- evidence ----------------------------------------------------------------------------------------------------------


def test_a_quote_is_found_in_any_case_and_with_any_spaces() -> None:
    assert locate(NOTE, "takes  METFORMIN\n20 mg") == ((0, 21),)
    assert locate(NOTE, '"Off nonacog alfa since May."') == ((37, 63),)
    assert [NOTE[start:end] for start, end in locate(NOTE, "a")] == ["a"]
    for absent in ("takes codeine", "", " .", "metfor"):
        assert locate(NOTE, absent) == ()


def test_evidence_overlaps_by_the_share_of_the_quote_that_shows_the_item() -> None:
    assert overlap(TASK, "Metformin", "metformin 20 mg every morning") == 1
    assert overlap(TASK, "nonacog alfa", "metformin 20 mg") == 0
    assert overlap(TASK, "nonacog alfa", "Off nonacog alfa since June") == 0  # not in the note
    assert overlap(TASK, "knee brace", "Uses a knee brace") == 0  # not in the list
    half = "every morning. Off Nonacog"
    assert overlap(TASK, "nonacog alfa", half) == pytest.approx(len("Off Nonacog") / len(half))


def test_a_random_word_is_poor_evidence_and_the_sentence_is_perfect() -> None:
    rng = random.Random(0)
    shares, whole = [], []
    for task in Extraction().tasks("train", 60, 0):
        for item in truth(task):
            shares.append(overlap(task, item.name, rng.choice(re.findall(r"[a-z]{5,}", task.prompt))))
            whole.append(overlap(task, item.name, task.prompt[item.start : item.end]))
    assert statistics.mean(shares) < 0.25
    assert set(whole) == {1.0}


# -- notes -------------------------------------------------------------------------------------------------------------


def test_every_item_is_named_in_the_sentence_that_shows_it() -> None:
    for kind in ("medications", "trial_arms"):
        for task in Extraction(kind=kind, world=4).tasks("test", 200, 0):  # type: ignore[arg-type]  # one of the two
            for item in truth(task):
                shown = task.prompt[item.start : item.end]
                assert item.name in shown.lower()
                assert shown[0].isupper() or shown[0].isdigit()
                assert shown.endswith(".")
                assert shown.count(". ") == 0


def test_notes_name_three_to_eight_medications_of_every_label_beside_things_that_stay_out() -> None:
    tasks = Extraction().tasks("train", 300, 0)
    sizes = [len(truth(task)) for task in tasks]
    assert set(sizes) == set(range(3, 9))
    assert {item.label for task in tasks for item in truth(task)} == set(LABELS)
    notes = " ".join(task.prompt for task in tasks)
    for distractor in (*DEVICES, *SYMPTOMS, "mother takes", "Denies ever having used", "Began to wear"):
        assert distractor in notes
    named = [{key(item.name) for item in truth(task)} for task in tasks]
    assert not any(key(device) in names for names in named for device in (*DEVICES, *SYMPTOMS))
    assert 0.3 < statistics.mean(any(name.startswith("non") for name in names) for names in named) < 0.7


def test_what_a_relative_takes_is_not_in_the_truth() -> None:
    found = 0
    for task in Extraction().tasks("train", 200, 0):
        for name in re.findall(r"The \w+ takes (\S+) for the heart", task.prompt):
            found += 1
            assert name not in {item.name for item in truth(task)}
    assert found > 20


def test_trials_have_two_to_four_arms_and_earlier_trials_are_none_of_them() -> None:
    tasks = Extraction(kind="trial_arms").tasks("train", 200, 0)
    assert {len(truth(task)) for task in tasks} == {2, 3, 4}
    for task in tasks:
        names = {item.name for item in truth(task)}
        assert f"to {len(names)} groups" in task.prompt
        assert not names & set(re.findall(r"earlier trial of (\S+) had", task.prompt))
    listed = render_items(dict.fromkeys((item.name for item in truth(tasks[0])), ""))
    assert answered(listed, tasks[0], "trial_arms").info["success"] is True


def test_another_world_has_other_drug_names() -> None:
    names = [
        {item.name for task in Extraction(world=world).tasks("train", 200, 0) for item in truth(task)}
        for world in (0, 1)
    ]
    assert len(names[0] - names[1]) > 10


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(BadOptionError, match="extraction: kind is medications or trial_arms, not 'recipes'"):
        Extraction(kind="recipes")  # type: ignore[arg-type]  # what a user may type


def test_step_comes_after_reset() -> None:
    with pytest.raises(RuntimeError, match="reset comes before step"):
        Extraction().step({})
