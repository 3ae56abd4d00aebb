"""The workshop's promises: hidden laws, disjoint splits, scores that count decisions, two seats with private goals."""

from __future__ import annotations

from collections import Counter

import pytest

from evolvent.environments.errors import BadOptionError
from evolvent.environments.types import Action
from evolvent.environments.workshop import Workshop

WORLDS = range(8)


def test_the_default_world_has_at_most_six_laws_and_four_tools() -> None:
    for world in WORLDS:
        shop = Workshop(world=world)
        assert len(shop.laws()) == 6
        assert len(shop.tools) == 4


@pytest.mark.parametrize("world", WORLDS)
def test_a_task_has_two_or_three_decisions_and_a_short_prompt(world: int) -> None:
    shop = Workshop(world=world)
    for task in shop.tasks("train", 40, 0):
        assert 2 <= len(shop.expert(task)) <= 3
        words = shop.instructions + task.prompt + shop.reset(task, 0)[0].text
        assert len(words) / 3 < 200  # no tokeniser makes tokens shorter than three characters of such text


def test_laws_are_drawn_by_the_world_and_by_nothing_else() -> None:
    assert Workshop(world=3).laws() == Workshop(world=3, distractors=4).laws()
    assert len({Workshop(world=world).laws() for world in WORLDS}) == len(WORLDS)


@pytest.mark.parametrize("world", WORLDS)
def test_half_of_the_test_tasks_combine_flaws_never_met_together(world: int) -> None:
    shop = Workshop(world=world)
    met = {task.tags for split in ("train", "validation") for task in shop.tasks(split, 200, 0)}
    tests = shop.tasks("test", 100, 0)
    assert sum(task.tags not in met for task in tests) == 50


@pytest.mark.parametrize("world", WORLDS)
def test_every_law_is_met_in_training(world: int) -> None:
    shop = Workshop(world=world)
    met: Counter[str] = Counter()
    for task in shop.tasks("train", 48, 0):
        met.update(law.text for law in shop.laws() if set(law.flaws) <= set(task.tags))
    assert set(met) == {law.text for law in shop.laws()}
    assert min(met.values()) >= 5


def test_the_score_is_the_share_of_decisions_that_were_right() -> None:
    shop = Workshop(world=1)
    task = next(task for task in shop.tasks("train", 40, 0) if len(shop.expert(task)) == 2)
    right, second = shop.expert(task)
    wrong = next(tool for tool in shop.tools if tool != second)
    shop.reset(task, 0)
    first = shop.step({"agent": Action(right)})
    last = shop.step({"agent": Action(wrong)})
    assert (first.rewards["agent"], last.rewards["agent"]) == (0.5, 0.0)
    assert last.done
    assert last.info == {"success": False}


def test_an_order_law_is_asked_before_its_flaws_are_cured() -> None:
    shop = Workshop(world=1)
    law = shop.laws()[-1]
    task = next(task for task in shop.tasks("train", 40, 0) if set(law.flaws) <= set(task.tags))
    (seen,) = shop.reset(task, 0)
    assert seen.frame == law.frame
    assert set(seen.actions or ()) == set(law.flaws)
    assert shop.expert(task)[0] == law.action


def test_an_illegal_action_costs_a_step_and_the_decision_stays_open() -> None:
    shop = Workshop(world=1)
    task = shop.tasks("train", 1, 0)[0]
    (before,) = shop.reset(task, 0)
    result = shop.step({"agent": Action("dynamite")})
    (after,) = result.observations
    assert "dynamite" in after.text
    assert all(action in after.text for action in before.actions or ())
    assert after.frame == before.frame
    assert not result.done


def test_drift_changes_as_many_cures_as_it_says() -> None:
    before, after = Workshop(world=2, drift=2), Workshop(world=2, drift=2, epoch=1)
    changed = set(before.laws()) - set(after.laws())
    assert len(changed) == 2
    assert {law.frame for law in before.laws()} == {law.frame for law in after.laws()}


def test_the_knobs_reach_eight_decisions_with_distractors() -> None:
    shop = Workshop(world=0, cures=12, orders=6, tools=8, flaws=6, distractors=3)
    task = max(shop.tasks("train", 80, 0), key=lambda task: len(shop.expert(task)))
    assert len(shop.expert(task)) >= 8
    assert task.prompt.count(".") == 4


def test_the_seats_see_what_is_theirs_alone() -> None:
    shop = Workshop(world=1, seats=2)
    task = shop.tasks("train", 1, 0)[0]
    client, mender = shop.reset(task, 0)
    assert client.must_act
    assert not mender.must_act
    assert "You want" in client.text
    assert mender.text == ""
    client, mender = shop.step({"client": Action((client.actions or ())[0])}).observations
    assert "spare" in mender.text
    assert "spare" not in client.text
    assert mender.actions == shop.tools


def test_the_mender_scores_less_for_a_cure_with_the_tool_it_would_spare() -> None:
    shop = Workshop(world=1, seats=2)
    cures = {law.flaws[0]: law.action for law in shop.laws() if len(law.flaws) == 1}
    seen = set()
    for seed in range(40):
        task = shop.tasks("train", 1, seed)[0]
        client, _ = shop.reset(task, seed)
        asked = (client.actions or ())[0]
        _, mender = shop.step({"client": Action(asked)}).observations
        spared = next(tool for tool in shop.tools if f"spare the {tool}." in mender.text)
        reward = shop.step({"mender": Action(cures[asked])}).rewards["mender"]
        assert reward == pytest.approx(0.375 if cures[asked] == spared else 0.5)
        seen.add(reward)
    assert len(seen) == 2


@pytest.mark.parametrize(
    "options", [{"cures": 1}, {"tools": 17}, {"flaws": 9}, {"seats": 3}, {"orders": 4}, {"drift": -1}]
)
def test_a_knob_outside_its_range_is_refused_with_the_range(options: dict[str, int]) -> None:
    (name,) = options
    with pytest.raises(BadOptionError, match=rf"{name} must be a whole number from \d+ to \d+, not"):
        Workshop(**options)
