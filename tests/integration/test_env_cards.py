from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evolvent.agents.episode import Job
from evolvent.agents.episode import play as play_episode
from evolvent.agents.models.role import RoleModel
from evolvent.agents.models.scripted import ScriptedChatModel
from evolvent.agents.solutions.act import Policy
from evolvent.agents.trace import Trace
from evolvent.environments.card_opponents import OPPONENTS
from evolvent.environments.cards import PATIENCE, Cards, payoff
from evolvent.environments.catalog import ENTRIES
from evolvent.environments.errors import BadOptionError
from evolvent.environments.poker import MADE, made, named
from evolvent.environments.types import Action, Observation, StepResult, Task

pytest.importorskip("rlcard", reason="the extra `games` is not installed: pip install 'evolvent[games]'")

TABLES = {"leduc": ("leduc", 2), "limit": ("limit", 2), "limit for three": ("limit", 3), "limit for four": ("limit", 4)}
Player = Callable[[Observation, Cards], str]


def first(seen: Observation, *moves: str) -> str:
    return next(move for move in moves if move in (seen.actions or ()))


def by_situation(seen: Observation, world: Cards) -> str:
    """One fixed move for each situation that the frame tells apart, whatever the seat is called."""
    return random.Random(seen.frame).choice(seen.actions or ())


def raises(seen: Observation, world: Cards) -> str:
    return first(seen, "raise", "call", "check")


def calls(seen: Observation, world: Cards) -> str:
    return first(seen, "check", "call")


def values(seen: Observation, world: Cards) -> str:
    """Raises a pair, or a king before the public card; pays to stay in with that king, and for little else."""
    if "a pair" in seen.frame or "a king, no" in seen.frame:
        return first(seen, "raise", "call", "check")
    return first(seen, "check", "call" if "a king" in seen.frame or "no public" in seen.frame else "fold", "fold")


def like(name: str) -> Player:
    return lambda seen, world: world.suggest(name)


def hand(world: Cards, task: Task, player: Player, seed: int = 0) -> Iterator[tuple[Observation, ...] | StepResult]:
    """What every seat sees, step by step, and last the whole result."""
    observations = world.reset(task, seed)
    while True:
        yield observations
        result = world.step({seen.player: Action(player(seen, world)) for seen in observations if seen.must_act})
        observations = result.observations
        if result.done:
            yield observations
            yield result
            return


def end(world: Cards, task: Task, player: Player, seed: int = 0) -> StepResult:
    (*_, result) = hand(world, task, player, seed)
    assert isinstance(result, StepResult)
    return result


def mean_chips(world: Cards, player: Player, hands: int) -> float:
    """Of seat a, a hand."""
    return float(np.mean([end(world, task, player).info["chips"]["a"] for task in world.tasks("test", hands, 0)]))


@pytest.fixture(params=TABLES)
def table(request: pytest.FixtureRequest) -> Cards:
    game, seats = TABLES[request.param]
    return Cards(game=game, seats=seats)


@pytest.mark.parametrize("player", [by_situation, like("rule-v1"), like("random")], ids=("fixed", "rule-v1", "random"))
def test_over_a_deal_the_payoffs_of_identical_players_cancel_exactly(table: Cards, player: Player) -> None:
    seats = len(table.players)
    tasks = table.tasks("train", 12 * seats, 0)
    assert len({task.tags for task in tasks}) == 12
    for deal in (tasks[at : at + seats] for at in range(0, len(tasks), seats)):
        assert len({task.tags for task in deal}) == 1
        scores = [end(table, task, player).rewards for task in deal]
        for seat in table.players:
            assert sum(table.payoff(score[seat]) for score in scores) == 0


def test_over_a_deal_every_seat_holds_every_hand(table: Cards) -> None:
    deal = table.tasks("train", len(table.players), 3)
    held = [[seen.text.split(". ")[0] for seen in table.reset(task, 0)] for task in deal]
    assert len({frozenset(hands) for hands in held}) == 1
    assert all(len({hands[seat] for hands in held}) == len(table.players) for seat in range(len(table.players)))


def test_what_one_wins_the_others_lose_and_the_score_gives_it_back(table: Cards) -> None:
    for task in table.tasks("train", 30, 1):
        result = end(table, task, like("random"))
        chips = result.info["chips"]
        assert sum(chips.values()) == 0
        assert {seat: table.payoff(score) for seat, score in result.rewards.items()} == chips
        assert {seat: payoff(score, task.data["span"]) for seat, score in result.rewards.items()} == chips
        assert result.info["success"] == {seat: chips[seat] > 0 for seat in table.players}


@pytest.mark.parametrize("name", ["leduc", "limit"])
def test_raised_to_the_end_a_hand_pays_the_whole_range_of_scores(name: str) -> None:
    world = Cards(game=name)
    ends = [end(world, task, raises) for task in world.tasks("train", 40, 0)]
    assert {score for result in ends for score in result.rewards.values()} >= {0.0, 1.0}
    assert {abs(chips) for result in ends for chips in result.info["chips"].values()} <= {0, world.span}


def hidden_from(world: Cards, seat: str) -> list[str]:
    return [named(card) for other in world._seats if other != seat for card in world._cards(other)]


@pytest.mark.parametrize("player", [by_situation, calls], ids=("folds at times", "to the showdown"))
def test_before_the_end_no_seat_is_told_a_card_of_another(table: Cards, player: Player) -> None:
    for task in table.tasks("test", 25, 0):
        *seen, last, _ = hand(table, task, player)
        assert isinstance(last, tuple)
        for observations in seen:
            assert isinstance(observations, tuple)
            for each in observations:
                assert not any(card in str(each) for card in hidden_from(table, each.player))
        standing = table._standing()
        for each in last:
            for other in table.players:
                told = all(named(card) in each.text for card in table._cards(other))
                assert told is (other == each.player or (len(standing) > 1 and other in standing))


def test_everybody_is_told_all_hands_in_the_end_where_that_was_asked_for() -> None:
    world = Cards(game="limit", seats=3, reveal="always")
    for task in world.tasks("test", 10, 0):
        *_, last, _ = hand(world, task, by_situation)
        assert isinstance(last, tuple)
        assert all(card in each.text for each in last for card in hidden_from(world, each.player))


def test_a_seat_is_told_the_betting_as_its_own() -> None:
    world = Cards()
    (task,) = world.tasks("train", 1, 0)
    world.reset(task, 0)
    world.step({"a": Action("call")})
    a, b = world.step({"b": Action("Raise.")}).observations
    assert "First round: you put in 1, player b puts in 2, you call, player b raises." in a.text
    assert "First round: player a puts in 1, you put in 2, player a calls, you raise." in b.text
    assert a.text.endswith(
        "The pot holds 6 chips, 2 of them yours. It is your turn: call (2 chips), raise (4 chips) or fold."
    )
    assert a.actions == ("call", "raise", "fold")
    assert a.frame == "With a queen, no public card yet and 2 chips to call, the best move is to {action}."
    assert b.text.endswith("The pot holds 6 chips, 4 of them yours. It is player a's turn.")
    assert not b.must_act


def test_a_seat_that_names_no_move_folds_at_last_and_the_others_play_on() -> None:
    world = Cards(game="limit", seats=3)
    (task,) = world.tasks("train", 1, 0)
    seat = next(seen.player for seen in world.reset(task, 0) if seen.must_act)
    results = [world.step({seat: Action("fly to the moon")}) for _ in range(PATIENCE)]
    assert [result.info["legal"] for result in results] == [False] * PATIENCE
    answered = {seen.player: seen.text for seen in results[-1].observations}
    assert '"fly to the moon" is not possible here. You can: call; raise; fold.' in answered[seat]
    assert "you fold" in answered[seat]
    assert not results[-1].done
    others = {seen.player for seen in results[-1].observations if seen.must_act}
    assert others
    assert seat not in others


def test_after_a_fold_a_round_ends_when_those_who_are_left_agree() -> None:
    """RLCard itself waits for three to agree, and asks the raiser whether it would raise its own raise."""
    world = Cards(game="limit", seats=3)
    (task,) = world.tasks("train", 1, 0)
    observations = world.reset(task, 0)
    for move in ("raise", "fold", "call"):
        (seat,) = (seen.player for seen in observations if seen.must_act)
        observations = world.step({seat: Action(move)}).observations
    assert all(" Flop the " in seen.text for seen in observations)
    for move in ("raise", "raise", "call"):
        (seat,) = (seen.player for seen in observations if seen.must_act)
        observations = world.step({seat: Action(move)}).observations
    assert all(" Turn the " in seen.text for seen in observations)


def test_a_fold_that_ends_the_hand_lays_no_card_open() -> None:
    world = Cards(game="limit", seats=3)
    (task,) = world.tasks("train", 1, 0)
    observations = world.reset(task, 0)
    for move in ("raise", "fold", "fold"):
        (seat,) = (seen.player for seen in observations if seen.must_act)
        observations = world.step({seat: Action(move)}).observations
    assert world._play.is_over()
    assert not any("Flop" in seen.text for seen in observations)


OPPONENT = [(game, name) for game, names in OPPONENTS.items() for name in names]


@pytest.mark.parametrize(("game", "name"), OPPONENT, ids="-".join)
def test_an_opponent_plays_by_task_and_seed_and_draws_from_nothing_else(game: str, name: str) -> None:
    def stories() -> list[str]:
        world = Cards(game=game, bots={"b": name}, reveal="always")
        return [end(world, task, by_situation, seed=5).observations[0].text for task in world.tasks("train", 20, 0)]

    np.random.seed(0)  # RLCard's own classes draw from there
    random.seed(0)
    before = np.random.get_state()[1].tolist(), random.getstate()  # as above
    once = stories()
    assert (np.random.get_state()[1].tolist(), random.getstate()) == before  # as above
    np.random.seed(1)  # as above
    assert stories() == once


def test_another_seed_draws_other_moves_of_an_opponent_and_no_other_cards() -> None:
    world = Cards(bots={"b": "random"}, reveal="always")
    tasks = world.tasks("train", 20, 0)
    one, other = ([end(world, task, calls, seed).observations[0].text for task in tasks] for seed in (0, 1))
    assert one != other
    assert [text.split(".")[0] for text in one] == [text.split(".")[0] for text in other]


def test_shipped_opponents_import_neither_torch_nor_the_agents_of_rlcard() -> None:
    code = (
        "import sys\n"
        "from evolvent.environments.cards import Cards\n"
        "for game, name in (('leduc', 'cfr'), ('leduc', 'rule-v1'), ('limit', 'rule-v1')):\n"
        "    world = Cards(game=game, bots={'b': name})\n"
        "    [world.reset(task, 0) for task in world.tasks('train', 4, 0)]\n"
        "    world.suggest(name)\n"
        "print([name for name in ('torch', 'rlcard.agents', 'rlcard.models') if name in sys.modules])\n"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_cfr_wins_of_random_play_what_rlcard_alone_gives() -> None:
    """Bare RLCard: +0.64 big blinds a hand, which is 1.28 chips; the standard error here is 0.14."""
    assert mean_chips(Cards(bots={"b": "random"}), like("cfr"), 500) == pytest.approx(1.28, abs=0.4)


def test_the_first_rules_raise_whenever_they_may_and_the_second_fold_at_once() -> None:
    """What RLCard ships as its second rules looks for a king in the place of the suit."""
    for name, move in (("rule-v1", "raise"), ("rule-v2", "fold")):
        world = Cards()
        for task in world.tasks("train", 10, 0):
            world.reset(task, 0)
            assert world.suggest(name) == move


@pytest.mark.parametrize(
    ("weak", "counter"), [("calls-all", values), ("folds-to-raises", raises), ("never-bluffs", values)]
)
def test_who_knows_the_weakness_of_an_opponent_wins_more_of_it_than_cfr_does(weak: str, counter: Player) -> None:
    world = Cards(bots={"b": weak})
    assert mean_chips(world, counter, 600) > mean_chips(world, like("cfr"), 600) + 0.2


def test_an_opponent_never_bluffs_who_is_called_so() -> None:
    world = Cards()
    raised = set()
    for task in world.tasks("train", 300, 0):
        world.reset(task, 0)
        if world.suggest("never-bluffs") == "raise":
            raised.add(world._cards(world._on_turn())[0][1])
    assert raised == {"K"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"game": "leduk"}, "no game 'leduk'. Known: leduc, limit. Did you mean 'leduc'?"),
        ({"seats": 3}, "leduc is played by 2, not by 3."),
        ({"game": "limit", "seats": 5}, "limit is played by 2, 3 or 4, not by 5."),
        ({"bots": {"c": "cfr"}}, "no seat in bots 'c'. Known: a, b."),
        ({"bots": {"b": "cfg"}}, "no opponent in leduc 'cfg'.* Did you mean 'cfr'?"),
        ({"game": "limit", "bots": {"b": "cfr"}}, "no opponent in limit 'cfr'. Known: rule-v1, random"),
        ({"bots": {"a": "cfr", "b": "random"}}, "bots on every seat"),
        ({"bots": "cfr"}, "cards: bots gives seats to opponents, as in .* not 'cfr'"),
        ({"reveal": "never"}, "no reveal 'never'"),
    ],
)
def test_a_table_that_cannot_be_laid_is_refused(options: Mapping[str, Any], message: str) -> None:
    with pytest.raises(BadOptionError, match=message.replace("?", r"\?")):
        Cards(**options)


def test_the_catalogue_names_the_opponents_that_are_shipped() -> None:
    assert set(ENTRIES["cards"].opponents) == {name for names in OPPONENTS.values() for name in names}


@pytest.mark.parametrize(
    ("cards", "expected"),
    [
        ("SA H2 D3 C4 S5 HK DK", "a straight"),
        ("SA HK DQ CJ ST H2 D2", "a straight"),
        ("SA SK SQ SJ ST H2 D2", "a straight flush"),
        ("SA S2 S9 SJ ST H2 D2", "a flush"),
        ("SA HA DA CA ST H2 D2", "four of a kind"),
        ("SA HA DA CT ST HT D2", "a full house"),
        ("SA HA DA C9 ST H7 D2", "three of a kind"),
        ("SA HA DT CT S9 H9 D2", "two pairs"),
        ("SA HA DT C4", "a pair"),
        ("SQ HK DA C2 S3 H8 D9", "a high card"),
    ],
)
def test_a_hand_is_called_what_it_makes(cards: str, expected: str) -> None:
    assert MADE[made(cards.split())] == expected


# -- at the table of an episode --------------------------------------------------------------------------------------


@pytest.fixture
def trace(tmp_path: Path) -> Iterator[Trace]:
    opened = Trace(tmp_path / "trace.jsonl")
    yield opened
    opened.close()


def scripted(move: str, trace: Trace) -> Policy:
    return Policy(RoleModel("m", ScriptedChatModel(lambda messages: move), trace))


async def test_a_seat_that_had_nothing_to_decide_keeps_what_it_won(trace: Trace) -> None:
    (task,) = Cards().tasks("train", 1, 0)
    folded, won = await play_episode(Job(task, {"": scripted("fold", trace)}, "eval", 0), Cards())
    assert len(folded.steps) == 1
    assert won.steps == ()
    assert (folded.outcome.success, won.outcome.success) == (False, True)
    assert payoff(folded.outcome.score, task.data["span"]) == -1
    assert payoff(won.outcome.score, task.data["span"]) == 1


async def test_a_hand_that_an_opponent_ends_at_once_is_an_episode_without_steps(trace: Trace) -> None:
    task = Cards().tasks("train", 2, 0)[1]
    world = Cards(bots={"b": "rule-v2"})
    (own,) = await play_episode(Job(task, {"": scripted("check", trace)}, "eval", 0), world)
    assert (own.steps, own.outcome.success, world.payoff(own.outcome.score)) == ((), True, 1)


async def test_the_last_step_of_every_seat_tells_how_the_hand_ended(trace: Trace) -> None:
    (task,) = Cards().tasks("train", 1, 0)
    policies = {"a": scripted("raise", trace), "b": scripted("call", trace)}
    for trajectory in await play_episode(Job(task, policies, "eval", 0), Cards(reveal="always")):
        assert "held the" in trajectory.steps[-1].result
        assert "chips." in trajectory.steps[-1].result
