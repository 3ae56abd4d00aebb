"""Storyboards: how they are read, what the expert says, and which setting mends which planted fault."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evolvent.environments.errors import BadOptionError, MalformedStoryboardError
from evolvent.environments.story import Story
from evolvent.environments.story_pipeline import (
    best_settings,
    knowledge,
    parse_settings,
    produce,
    usage,
)
from evolvent.environments.storyboard import (
    ASPECTS,
    LONGEST_SHOT,
    STEPS,
    Figure,
    Shot,
    Step,
    Storyboard,
    comments,
    parse_storyboard,
    proposal,
    proposal_in,
    write_storyboard,
)
from evolvent.environments.types import Action, StepResult, Task

MIRA, TOM = ({"name": "Mira", "hair": "red", "coat": "green", "age": "old"},
             {"name": "Tom", "hair": "black", "coat": "blue", "age": "child"})  # fmt: skip
TASK = Task(
    "s",
    "",
    "story",
    {"genre": "comedy", "shortest": 10, "longest": 16, "places": ["mill", "harbour"], "cast": [MIRA, TOM]},
)
FIGURES = proposal(TASK).cast
RIGHT: Storyboard = (
    Shot("mill", (), "ink", "wide", 2, "A mill."),
    Shot("mill", FIGURES, "ink", "close", 4, "Mira meets Tom."),
    Shot("harbour", FIGURES[:1], "ink", "wide", 6, "She leaves."),
)
SETTINGS = [(step, key) for step, keys in best_settings(proposal(TASK)).items() for key in keys]


def answered(reply: str, task: Task = TASK) -> StepResult:
    world = Story()
    world.reset(task, 0)
    return world.step({"agent": Action(reply)})


def faulty(board: Storyboard, task: Task = TASK) -> dict[str, str]:
    return {each.aspect: each.text for each in comments(task, board) if each.score < 1}


# -- reading -----------------------------------------------------------------------------------------------------------


def test_a_storyboard_that_was_written_is_read_again() -> None:
    assert parse_storyboard(write_storyboard(RIGHT)) == RIGHT
    assert parse_storyboard(write_storyboard(())) == ()


@pytest.mark.parametrize(
    "reply",
    [
        '{"shots": [{"place": "mill", "seconds": 2}]}',
        '[{"place": "mill", "seconds": "2"}]',
        'Here it is:\n```json\n{"shots": [{"place": "mill", "seconds": 2,},],}\n```\nI hope you like it.',
        '{"title": "x", "shots": [{"place": "mill", "seconds": 2.0, "mood": "sad"}]}',
    ],
)
def test_a_storyboard_is_read_however_it_is_wrapped(reply: str) -> None:
    assert parse_storyboard(reply) == (Shot("mill", seconds=2),)


def test_commas_in_words_stay_and_numbers_become_words() -> None:
    (shot,) = parse_storyboard(
        '[{"place": "mill", "seconds": 2, "narration": "a,] \\"b,}", "characters": [{"name": "Mira", "age": 12}]}]'
    )
    assert shot.narration == 'a,] "b,}'
    assert shot.figures == (Figure("Mira", {"age": "12"}),)


@pytest.mark.parametrize(
    ("reply", "fault"),
    [
        ("", "there is none in the reply"),
        ("The mill, then the harbour.", "there is none in the reply"),
        ("}{", "there is none"),
        ('{"shots": [}', "no JSON that can be read"),
        ('{"shots": []} {"shots": []}', "no JSON that can be read: Extra data"),
        ("[" * 100_000 + "]" * 100_000, "no JSON that can be read"),
        ('{"shots": {"place": "mill"}}', 'holds "shots", a list of at most 200'),
        ('{"scenes": []}', 'holds "shots", a list'),
        ("[" + ",".join(["1"] * 201) + "]", "a list of at most 200"),
        ('[{"place": "mill", "seconds": 2}, 3]', "shot.2: Input should be a valid"),
        ('[{"place": "mill"}]', "shot.1.seconds: Field required"),
        ('[{"place": "mill", "seconds": 0}]', "shot.1.seconds: Input should be greater than 0"),
        ('[{"place": "mill", "seconds": NaN}]', "NaN is no number of seconds"),
        ('[{"place": "mill", "seconds": 2, "characters": ["Mira"]}]', "shot.1.characters.0: .*valid dictionary"),
    ],
)
def test_what_is_no_storyboard_is_told_its_fault(reply: str, fault: str) -> None:
    with pytest.raises(MalformedStoryboardError, match=fault):
        parse_storyboard(reply)
    result = answered(reply)
    assert (result.rewards["agent"], result.info["success"]) == (0, False)
    assert 0 < len(result.observations[0].text) < 300


@settings(deadline=None, derandomize=True)
@given(st.text('[]{}",:\\ae1.-"shotplacn ', max_size=60))
def test_any_text_is_a_storyboard_or_told_its_fault(text: str) -> None:
    try:
        board = parse_storyboard(text)
    except MalformedStoryboardError as error:
        fault = str(error)
    else:
        fault = "" if isinstance(board, tuple) else "no storyboard"
    assert fault == "" or fault.endswith(".")


# -- the expert --------------------------------------------------------------------------------------------------------


def test_a_storyboard_without_fault_is_praised_in_every_aspect() -> None:
    said = comments(TASK, RIGHT)
    assert tuple((each.step, each.aspect) for each in said) == ASPECTS
    assert len(ASPECTS) == 10
    assert tuple(dict.fromkeys(step for step, _ in ASPECTS)) == STEPS
    assert all(each.score == 1 and each.text == "This is right." for each in said)
    result = answered(write_storyboard(RIGHT))
    assert (result.rewards["agent"], result.info["success"], result.observations[0].text) == (1, True, "All is right.")


@pytest.mark.parametrize(
    ("at", "change", "aspect", "told"),
    [
        (1, {"figures": FIGURES[:1]}, "cast", "Tom never appears."),
        (2, {"seconds": 1}, "length", "The film lasts 7 seconds instead of 10 to 16."),
        (2, {"seconds": 7}, "pace", "Shot 3 lasts 7 seconds and drags for comedy."),
        (2, {"camera": "close"}, "establishing", "Shot 3 opens too near"),
        (1, {"figures": (Figure("mira", {}), FIGURES[1])}, "likeness", "In shot 2 Mira's hair is forgotten, not red."),
        (1, {"figures": (*FIGURES, Figure("Bob", {}))}, "likeness", "'Bob', whom the proposal does not know"),
        (2, {"style": "oil"}, "style", "Shot 3 is drawn otherwise than the first."),
        (1, {"style": ""}, "style", "Shot 2 is drawn otherwise"),
        (2, {"narration": " "}, "spoken", "Shot 3 is silent."),
        (0, {"narration": "a b c d e f g"}, "speed", "Shot 1 is spoken too fast."),
    ],
)
def test_one_fault_gives_one_comment_that_names_it(at: int, change: dict[str, object], aspect: str, told: str) -> None:
    board = tuple(replace(shot, **change) if number == at else shot for number, shot in enumerate(RIGHT))  # type: ignore[arg-type]  # fields by name
    assert list(faulty(board)) == [aspect]
    assert told in faulty(board)[aspect]
    result = answered(write_storyboard(board))
    assert (result.rewards["agent"], result.info["success"]) == (pytest.approx(0.9), False)
    assert f"{aspect}: " in result.observations[0].text


def test_places_are_all_there_and_no_others_in_the_order_of_the_proposal() -> None:
    assert "'moon' is not in the proposal." in faulty((*RIGHT, Shot("moon", (), "ink", "wide", 2, "Oh.")))["places"]
    assert "The harbour is never seen." in faulty(RIGHT[:2])["places"]
    assert list(faulty((RIGHT[2], *RIGHT[:2]))) == ["order"]
    assert not faulty((replace(RIGHT[0], place="The Mill"), *RIGHT[1:]))
    # To come back to a place is no fault, and needs no second establishing shot.
    assert not faulty((*RIGHT, replace(RIGHT[1], seconds=2)))


def test_nothing_at_all_is_right_nowhere() -> None:
    assert {each.score for each in comments(TASK, ())} == {0}
    assert answered("[]").rewards["agent"] == 0
    # Nobody to be drawn, nobody to speak: no aspect is right for want of anything to judge.
    bare = tuple(replace(shot, figures=(), narration="") for shot in RIGHT)
    assert set(faulty(bare)) == {"cast", "likeness", "spoken", "speed"}


def test_a_score_is_the_share_of_what_there_was_to_judge_and_two_faults_are_told() -> None:
    silent = tuple(replace(shot, narration="") for shot in RIGHT)
    (spoken,) = (each for each in comments(TASK, (*silent, RIGHT[0])) if each.aspect == "spoken")
    assert spoken.score == pytest.approx(1 / 4)
    assert spoken.text == "Shot 1 is silent. Shot 2 is silent. And 1 more. Narrate every shot."


# -- the utilities -----------------------------------------------------------------------------------------------------


def test_left_to_themselves_the_utilities_fail_in_every_aspect_and_well_told_in_none() -> None:
    for task in Story().tasks("test", 100, 0):
        wanted = proposal(task)
        assert len(faulty(produce(wanted), task)) == 10
        assert not faulty(produce(wanted, best_settings(wanted)), task)


@pytest.mark.parametrize(("step", "key"), SETTINGS, ids=str)
def test_each_setting_mends_one_fault_of_its_own_step(step: Step, key: str) -> None:
    for task in Story().tasks("train", 30, 0):
        wanted = proposal(task)
        best = best_settings(wanted)
        alone = comments(task, produce(wanted, {step: {key: best[step][key]}}))
        (mended,) = (each for each in alone if each.score == 1)
        without = {each: {name: said for name, said in best[each].items() if name != key} for each in best}
        assert list(faulty(produce(wanted, without), task)) == [mended.aspect]
        assert mended.step == step


def test_a_workflow_may_leave_out_steps_and_change_their_order_and_it_shows() -> None:
    (task,) = Story().tasks("train", 1, 0)
    wanted = proposal(task)
    best = best_settings(wanted)
    silent = produce(wanted, best, [step for step in STEPS if step != "narration"])
    assert set(faulty(silent, task)) == {"spoken", "speed"}
    early = produce(wanted, best, ("script", "narration", "shots", "images", "assembly"))
    assert set(faulty(early, task)) == {"speed"}
    assert produce(wanted, best, ("images", "assembly")) == ()
    with pytest.raises(BadOptionError, match=r"story: a step is one of script, .* not 'music'"):
        produce(wanted, best, ("script", "music"))  # type: ignore[arg-type]  # what a model may propose


@pytest.mark.parametrize(
    ("said", "mended"),
    [("yes", True), ("Always.", True), ("use it: yes", True), ("no", False), ("not always", False), ("", False)],
)
def test_a_switch_is_understood_in_several_words(said: str, mended: bool) -> None:
    assert ("likeness" not in faulty(produce(proposal(TASK), {"images": {"reference sheet": said}}))) is mended


@pytest.mark.parametrize(
    ("said", "mended"), [("6", True), ("at most 6 s", True), ("0", True), ("7", False), ("short", False)]
)
def test_a_number_is_found_in_its_value(said: str, mended: bool) -> None:
    assert ("pace" not in faulty(produce(proposal(TASK), {"shots": {"longest shot": said}}))) is mended


def test_settings_are_read_leniently() -> None:
    reply = "Here are they:\n- **Longest_Shot**: 6 seconds.\n* establishing shot = `yes`\nstyle:ink\nstyle: oil\nDone"
    assert parse_settings(reply) == {"longest shot": "6 seconds", "establishing shot": "yes", "style": "oil"}
    assert parse_settings("") == {}


def test_comments_name_every_setting_without_a_limit_and_knowledge_has_the_limits() -> None:
    (task,) = Story().tasks("train", 1, 0)
    for step, key in SETTINGS:
        aspects = [each.text for each in comments(task, ()) if each.step == step]
        assert any(key in text for text in aspects)
        assert any(key in text for known, text in usage() if known == step)
    pace, speed = (text for aspect, text in faulty((), task).items() if aspect in ("pace", "speed"))
    assert not re.search(r"\d", pace + speed)
    told = " ".join(text for _, text in knowledge())
    assert {key for _, key in SETTINGS if key in told.lower()} == {
        *("longest shot", "establishing shot", "words per second", "order")
    }
    assert all(str(seconds) in told for seconds in LONGEST_SHOT.values())
    assert [step for step, _ in usage()] == list(STEPS)
    assert {step for step, _ in knowledge()} == set(STEPS)


def written(task: Task, passages: list[tuple[Step, str]]) -> Mapping[Step, Mapping[str, str]]:
    """A writer of settings that knows what stands in its passages and in the usage, and guesses no figure."""
    genre, settings = proposal(task).genre, {step: dict[str, str]() for step in STEPS}
    for step, use in usage():
        for key, choices in re.findall(r"(?:Settings: |, )([a-z ]+?) \(([^)]+)\)", use):
            told = " ".join(text for where, text in passages if where == step and key in text.lower())
            figures = re.findall(rf"(\d+)(?: seconds)? in {genre}|(\d+) words", told)
            if told and choices.startswith("a number"):
                settings[step][key] = "".join(figures[0]) if figures else ""
            elif told:
                settings[step][key] = choices.removeprefix("a ").split(" or ")[0]
    return settings


def test_knowledge_and_experience_together_mend_more_than_either() -> None:
    told, unseen = Story().tasks("train", 1, 0)[0], Story().tasks("test", 20, 0)
    experience = [(each.step, each.text) for each in comments(told, produce(proposal(told)))]
    left = {
        name: {len(faulty(produce(proposal(task), written(task, passages)), task)) for task in unseen}
        for name, passages in {
            "neither": [],
            "knowledge": list(knowledge()),
            "experience": experience,
            "both": [*knowledge(), *experience],
        }.items()
    }
    assert left == {"neither": {10}, "knowledge": {6}, "experience": {2}, "both": {0}}


# -- the environment ---------------------------------------------------------------------------------------------------


def test_a_prompt_says_all_that_is_asked_for() -> None:
    for task in Story().tasks("validation", 50, 0):
        wanted = proposal(task)
        assert f"{wanted.genre} story of {wanted.shortest} to {wanted.longest} seconds" in task.prompt
        assert ", ".join(wanted.places) in task.prompt
        for figure in wanted.cast:
            looks = ", ".join(f"{look} {value}" for look, value in figure.looks.items())
            assert f"{figure.name} ({looks})" in task.prompt


def test_no_name_stands_in_the_casts_of_two_splits() -> None:
    train, validation, test = (
        {figure.name for task in Story().tasks(split, 60, 0) for figure in proposal(task).cast}
        for split in ("train", "validation", "test")
    )
    assert len(train | validation | test) == len(train) + len(validation) + len(test)


def test_step_comes_after_reset() -> None:
    with pytest.raises(RuntimeError, match="reset comes before step"):
        Story().step({})


def test_the_words_of_a_prompt_tell_all_that_its_proposal_is() -> None:
    for split in ("train", "validation", "test"):
        for task in Story().tasks(split, 30, 0):
            assert proposal_in(task.prompt) == proposal(task)
    with pytest.raises(ValueError, match="is no prompt of the environment"):
        proposal_in("A film.")
