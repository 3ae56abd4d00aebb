"""TextArena's games as they run here. The contract suite plays three of them in their worker processes."""

from __future__ import annotations

import importlib.util
import random
import re
import socket
from collections.abc import Callable, Iterator

import pytest

from evolvent.environments.errors import BadOptionError
from evolvent.environments.game_bots import nim_sum, noughts
from evolvent.environments.game_rules import GAMES, Position
from evolvent.environments.games import Games
from evolvent.environments.types import Action, Observation, StepResult, Task

if importlib.util.find_spec("textarena") is None:
    pytest.skip("games needs the package textarena, of the extra textarena", allow_module_level=True)

SLOW = {"LinesOfAction", "SpiteAndMalice", "Stratego"}
"""Hundreds of moves, each looked for among many or told with a long board."""
EVERY_GAME = [pytest.param(game, marks=pytest.mark.slow if game in SLOW else ()) for game in GAMES]
BABBLE = (
    "",
    "fly to the moon",
    "\x00\ud800",
    "x" * 10_000,
    "[",
    "[]",
    "[-1 -1]",
    "[99 99]",
    "[[0]]",
    "None",
    "²",
    "{}",
)

Player = Callable[[Observation, random.Random], str]


@pytest.fixture(autouse=True)
def _luck_of_other_tests() -> Iterator[None]:
    """TextArena seeds the global generator; here it runs in the process of the tests."""
    before = random.getstate()
    yield
    random.setstate(before)


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> None:
        raise AssertionError("a game reached for the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)


def likely(game: str, text: str, rng: random.Random) -> str:
    """What somebody might say who has read the rules, in games whose moves are not told."""
    match game:
        case "ColonelBlotto":
            first = rng.randint(0, 10)
            second = rng.randint(0, 10)
            return f"[A{first} B{second} C{20 - first - second}]"
        case "IteratedTwoThirdsAverage":
            return f"[{rng.randint(0, 100)}]"
        case "IteratedUltimatumGame":
            return rng.choice(["[Accept]", "[Reject]"]) if "[Offer: $3]" in text[-400:] else "[Offer: $3]"
        case "MemoryGame":
            return f"[{' '.join(str(rng.randint(0, 3)) for _ in range(4))}]"
        case "NewRecruit":
            return rng.choice(["I think so. [Propose] CCAACCCC", "[Accept]"])
        case "SimpleBlindAuction":
            return rng.choice(["Let us not bid too high.", f"[Bid on Item {rng.randint(0, 4)}: {rng.randint(1, 300)}]"])
        case "SimpleNegotiation":
            return rng.choice(["[Offer: 1 Sheep -> 1 Ore]", "[Accept]", "[Deny]"])
        case "Tak":
            return f"[place () {{({rng.randint(0, 3)},{rng.randint(0, 3)}): [F0]}}]"
        case "TruthAndDeception":
            return rng.choice(["[Fact 1]", "[Fact 2]"])
        case "TwoDollar":
            return rng.choice(["Half for each. [Propose] $1.00", "[Accept]", "[Reject]"])
        case _:
            return "I have nothing to add."


def played(
    world: Games, task: Task, players: Callable[[Observation], str], seed: int = 0
) -> tuple[list[Observation], list[StepResult]]:
    """A whole match: who was on turn, seeing what, and what came of it."""
    observations, turns, results = world.reset(task, seed), [], []
    while not (results and results[-1].done):
        (on_turn,) = [seen for seen in observations if seen.must_act]
        turns.append(on_turn)
        results.append(world.step({on_turn.player: Action(players(on_turn))}))
        observations = results[-1].observations
    return turns, results


@pytest.mark.parametrize("game", EVERY_GAME)
def test_every_game_is_played_to_its_end_by_random_players(game: str) -> None:
    world = Games(game=game)
    for key, task in enumerate(world.tasks("train", 2, 0)):
        rng = random.Random(key)
        turns, results = played(
            world,
            task,
            lambda seen, rng=rng: rng.choice(seen.actions) if seen.actions else likely(game, seen.text, rng),
        )
        steps = [sum(seen.player == seat for seen in turns) for seat in world.players]
        assert max(steps) <= world.max_steps
        assert all(result.info["legal"] for seen, result in zip(turns, results, strict=True) if seen.actions), (
            "a move that was offered is legal"
        )
        rewards, won = results[-1].rewards, results[-1].info["success"]
        assert sum(rewards.values()) == 1
        assert won == {seat: rewards[seat] > 0.5 for seat in world.players}
        assert not any(any(result.rewards.values()) for result in results[:-1])
        assert all(seen.text and not seen.must_act for seen in results[-1].observations)


@pytest.mark.parametrize("game", EVERY_GAME)
def test_no_game_is_broken_by_what_a_player_says(game: str) -> None:
    world = Games(game=game)
    (task,) = world.tasks("train", 1, 1)
    for first in range(0, len(BABBLE), 4):
        said = iter(BABBLE[first:] * 200)
        turns, results = played(world, task, lambda seen, said=said: next(said))
        assert len(turns) <= 2 * world.max_steps
        assert sum(results[-1].rewards.values()) == 1


def test_every_game_of_textarena_that_two_can_play_here_is_offered_by_its_own_name() -> None:
    from textarena.envs.registration import ENV_REGISTRY

    assert {f"{game}-v0-raw" for game in GAMES} <= set(ENV_REGISTRY)


def test_an_unknown_game_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(BadOptionError, match=r"no game 'conect-four'.*Did you mean 'ConnectFour'\?"):
        Games(game="conect-four")
    with pytest.raises(BadOptionError, match="no game 'Chess' for two players"):
        Games(game="Chess")


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"game": "Nim", "bots": {"b": "careful"}}, "no opponent in Nim 'careful'. Known: random, perfect."),
        ({"game": "Tak", "bots": {"b": "random"}}, "Tak ships no opponent 'random'. Give all seats to agents."),
        ({"bots": "random"}, """bots gives seats to opponents, as in {"b": "random"}, not 'random'."""),
        ({"game": 3}, "no game 3 for two players"),
        ({"bots": {"c": "random"}}, "no seat in bots 'c'. Known: a, b."),
        ({"bots": {"a": "random", "b": "perfect"}}, "bots on every seat (a, b); leave one of them to play."),
        ({"game": "Nim", "points": True}, "Points are counted in IteratedPrisonersDilemma"),
    ],
)
def test_options_that_cannot_be_are_refused_by_name(options: dict[str, object], told: str) -> None:
    with pytest.raises(BadOptionError, match=re.escape(told)):
        Games(**options)  # type: ignore[arg-type]  # options of every kind, wrong ones among them


def test_two_tasks_are_one_deal_with_the_chairs_changed() -> None:
    world = Games(game="KuhnPoker")
    first, second, other, _ = world.tasks("test", 4, 0)
    assert first.tags == second.tags != other.tags
    cards = []
    for task, seat in ((first, "b"), (second, "a")):
        (on_turn,) = [seen for seen in world.reset(task, 5) if seen.must_act]
        assert on_turn.player == seat, "Player 1 begins in Kuhn poker"
        assert "You are Player 1" in on_turn.text
        cards.append(re.findall(r"Your card is: '(.)'", on_turn.text)[0])
    assert cards[0] == cards[1]


def test_a_game_without_chance_begins_elsewhere_in_every_deal() -> None:
    world = Games(game="ConnectFour")
    tasks = world.tasks("train", 20, 0)
    openings = {world.reset(task, 0)[0].text for task in tasks[::2]}
    assert len(openings) > 5
    assert "first 2 moves were drawn by lot" in tasks[0].prompt


def test_an_illegal_move_is_answered_once_and_then_loses() -> None:
    world = Games(game="Nim")
    (task,) = world.tasks("train", 1, 0)
    world.reset(task, 0)
    once = world.step({"a": Action("[9 9]")})
    assert "Pile index 9 is out of range" in once.observations[0].text
    assert '"[9 9]" is not possible here. You can: [0 1];' in once.observations[0].text
    assert not once.done
    twice = world.step({"a": Action("[9 9]")})
    assert twice.rewards == {"a": 0.0, "b": 1.0}
    assert twice.info == {"success": {"a": False, "b": True}, "legal": False}
    assert [seen.text.splitlines()[-1] for seen in twice.observations] == ["You lose.", "You win."]


def test_three_illegal_moves_lose_where_the_game_itself_goes_on() -> None:
    world = Games(game="SantoriniBaseFixed")
    (task,) = world.tasks("train", 1, 0)
    _, results = played(world, task, lambda seen: "I pass")
    assert len(results) == 3
    assert "made 3 illegal moves in a row" in results[-1].observations[0].text


def test_a_move_is_understood_without_its_brackets() -> None:
    world = Games(game="ConnectFour")
    (task,) = world.tasks("train", 1, 0)
    world.reset(task, 0)
    assert world.step({"a": Action("COL 3")}).info["legal"]


def test_a_waiting_player_is_told_what_happened_when_its_turn_comes_and_never_its_own_words() -> None:
    world = Games(game="Nim")
    (task,) = world.tasks("train", 1, 0)
    mine = world.reset(task, 0)[0].actions or ()
    after = world.step({"a": Action(mine[0])})
    waiting, on_turn = after.observations
    assert (waiting.must_act, waiting.text) == (False, "The other player is on turn.")
    assert f"Player 0: {mine[0]}" in on_turn.text
    theirs = on_turn.actions or ()
    again = world.step({"b": Action(theirs[0])}).observations[0]
    assert f"Player 1: {theirs[0]}" in again.text
    assert f"Player 0: {mine[0]}" not in again.text


def test_looking_for_moves_leaves_the_luck_of_the_match_alone() -> None:
    world = Games(game="LiarsDice")
    (task,) = world.tasks("train", 1, 0)
    (on_turn, _) = world.reset(task, 0)
    before = random.getstate()
    world._options = None
    assert world._moves() == on_turn.actions
    assert random.getstate() == before


def test_a_lost_position_in_nim_is_never_saved_from_the_perfect_opponent() -> None:
    world, rng, lost = Games(game="Nim", bots={"b": "perfect"}), random.Random(0), 0
    for task in world.tasks("train", 24, 0):
        (seen,) = world.reset(task, 0)
        first, second, third = (int(pile) for pile in re.findall(r"pile \d: (\d)", seen.text)[-3:])
        if first ^ second ^ third == 0:  # Bouton 1901: whoever is on turn has lost.
            lost += 1
            _, results = played(world, task, lambda seen: rng.choice(seen.actions or ()))
            assert results[-1].rewards["a"] == 0.0
    assert lost >= 10


def test_a_match_that_is_over_stays_over() -> None:
    world = Games(game="Nim", bots={"b": "perfect"})
    (task,) = world.tasks("train", 1, 0)
    _, results = played(world, task, lambda seen: (seen.actions or ("",))[0])
    again = world.step({"a": Action("[0 1]")})
    assert (again.done, again.rewards, again.info["success"]) == (
        True,
        results[-1].rewards,
        results[-1].info["success"],
    )
    assert again.observations[0].text


def test_the_nim_bot_leaves_an_exclusive_or_of_zero() -> None:
    position = Position({"piles": [3, 4, 5]}, 0, ())
    assert nim_sum(position, (), random.Random(0)) == "[0 2]"  # 1 ^ 4 ^ 5 = 0


def test_two_perfect_players_of_noughts_and_crosses_draw() -> None:
    board = [[""] * 3 for _ in range(3)]
    for turn in range(9):
        move = noughts(Position({"board": board}, turn % 2, ()), (), random.Random(0))
        row, column = divmod(int(move.strip("[]")), 3)
        assert not board[row][column]
        board[row][column] = "OX"[turn % 2]
    lines = [*board, *zip(*board, strict=True), [board[i][i] for i in range(3)], [board[i][2 - i] for i in range(3)]]
    assert not any(len(set(line)) == 1 for line in lines)


@pytest.mark.parametrize(("game", "bot"), [("TicTacToe", "perfect"), ("ConnectFour", "careful")])
def test_a_better_opponent_beats_a_random_player_over_paired_deals(game: str, bot: str) -> None:
    world = Games(game=game, bots={"b": bot})
    rng = random.Random(0)
    scores = [
        played(world, task, lambda seen: rng.choice(seen.actions or ()))[1][-1].rewards["a"]
        for task in world.tasks("test", 20, 0)
    ]
    assert sum(scores) / len(scores) < 0.25


def test_tit_for_tat_does_what_was_done_to_it_a_round_ago() -> None:
    world = Games(game="IteratedPrisonersDilemma", bots={"b": "tit_for_tat"}, points=True)
    (task,) = world.tasks("train", 1, 0)
    plan = iter(["[Defect]", "[Cooperate]"] + ["[Cooperate]"] * 8)
    turns, results = played(world, task, lambda seen: next(plan) if seen.actions else "Hello.")
    assert "After the other player's defect, I answer {action}." in [seen.frame for seen in turns]
    # 5 for the defection, 0 for the answer to it, then eight rounds of mutual cooperation at 3: 29 of 50.
    assert results[-1].rewards["a"] == pytest.approx(29 / 50)
    assert results[-1].info["success"] == {"a": False}


def test_the_dilemma_counts_wins_unless_it_is_asked_for_points() -> None:
    for points, expected in ((False, {"a": 1.0, "b": 0.0}), (True, {"a": 1.0, "b": 0.0}), (None, {"a": 0.5, "b": 0.5})):
        world = Games(game="IteratedPrisonersDilemma", points=bool(points))
        (task,) = world.tasks("train", 1, 0)
        moves = {"a": "[Defect]", "b": "[Cooperate]"} if points is not None else dict.fromkeys("ab", "[Cooperate]")
        _, results = played(world, task, lambda seen, moves=moves: moves[seen.player] if seen.actions else "Hello.")
        assert results[-1].rewards == expected


def test_a_debater_reads_its_own_brief_alone_and_wins_by_it_against_silence() -> None:
    world = Games(game="Debate")
    for task in world.tasks("train", 4, 0):
        briefs: dict[str, list[str]] = {}

        def say(seen: Observation, briefs: dict[str, list[str]] = briefs) -> str:
            own = re.findall(r"A survey in \w+ found \d+ percent \w+ it\.", seen.text.split("The jury")[0])
            briefs.setdefault(seen.player, own)
            return briefs["b"].pop() if seen.player == "b" else "I do not know."

        _, results = played(world, task, say)
        assert len(briefs["a"]) == 3
        assert briefs["b"] == []
        assert results[-1].rewards["b"] >= 0.5
        assert not results[-1].info["success"]["a"]


def test_the_debater_that_ships_reads_out_its_brief() -> None:
    world = Games(game="Debate", bots={"a": "briefed"})
    task, _ = world.tasks("train", 2, 0)
    turns, _ = played(world, task, lambda seen: "No.")
    heard = [re.findall(r"Player 0: .*found \d+ percent (\w+) it\.", seen.text) for seen in turns]
    assert [len(each) for each in heard] == [1, 1, 1]
    assert len({each[0] for each in heard}) == 1
