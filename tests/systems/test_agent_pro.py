"""Agent-Pro's signature, line by line, through whole runs at a card table."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from systems.card_player import STYLES, player, policy
from systems.runs import calls, generations, memory_of, play, prompt, visited

from evolvent.agents.errors import SetupError
from evolvent.agents.models.scripted import ScriptedChatModel
from evolvent.agents.recipes import agent_pro
from evolvent.agents.rollout import run_sync
from evolvent.agents.run import RunConfig, create, execute, result
from evolvent.environments.types import Trajectory
from evolvent.memory.types import Record

WEAK = {"bots": {"b": "folds-to-raises"}}
"""An opponent that gives up nearly every hand that is raised."""


def config(
    style: str = "timid", *, tasks: int = 6, evaluated: int = 8, generations: int = 2, **settings: Any
) -> RunConfig:
    return RunConfig(
        recipe="agent-pro",
        environment="cards",
        options=WEAK,
        tasks=tasks,
        evaluated=evaluated,
        generations=generations,
        settings={"guideline": policy(style), "candidates": 2, "max_reflections": 2} | settings,
        embedder="hash",
    )


def upwards(style: str, again: int, hand: str) -> str:
    """A critic who first goes one step up, and then to the other end."""
    ways = {"timid": ("calm", "bold"), "calm": ("bold", "timid"), "bold": ("calm", "timid")}[style]
    return f"Behavioural guideline: {policy(ways[again % 2])}"


def stubborn(style: str, again: int, hand: str) -> str:
    """A critic who first puts the same in other words, and then goes from bold to calm."""
    return f"Behavioural guideline: {policy('calm' if again else style)} Think twice."


@pytest.fixture(scope="module")
def climb(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two better policies are found one after the other."""
    return play(tmp_path_factory.mktemp("climb") / "run", config(selection_hands=16), {"actor": player(upwards)})


@pytest.fixture(scope="module")
def stay(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The policy is the best from the beginning; one of the critic's mends no hand, the other one some."""
    run = config("bold", tasks=32, generations=1, selection_hands=16, candidates=32)
    return play(tmp_path_factory.mktemp("stay") / "run", run, {"actor": player(stubborn)})


def policies(run: Path) -> list[Record]:
    with memory_of(run) as memory:
        return [record for record in memory.records().values() if record.kind == "prompt"]


def played(run: Path, phase: Any = None, arm: str = "") -> list[Trajectory]:
    """In the order of the tasks."""
    with memory_of(run) as memory:
        found = [each for e in memory.ledger.episodes(phase=phase) if arm in e.key for each in e.trajectories]
    return sorted(found, key=lambda hand: hand.id)


def payoff(hands: Sequence[Trajectory]) -> float:
    return sum(hand.outcome.score - 0.5 for hand in hands)


def decisions(run: Path) -> dict[str, list[dict[str, Any]]]:
    """Calls for decisions by episode, in order."""
    found: dict[str, list[dict[str, Any]]] = {}
    for row in calls(run, purpose="act"):
        found.setdefault(row["episode"], []).append(row)
    return found


def beliefs(text: str) -> list[str]:
    return re.findall(r"(?:self|world) \d+", text)


@pytest.mark.signature("agent-pro", 0)
def test_an_action_follows_two_beliefs_which_the_next_decision_of_the_hand_is_told_and_no_other_hand(
    climb: Path,
) -> None:
    several = 0
    for rows in decisions(climb).values():
        told: list[str] = []
        for row in rows:
            assert [line.split(":")[0] for line in row["reply"].splitlines()] == [
                "Self-belief",
                "World-belief",
                "Action",
            ]
            assert beliefs(prompt(row)) == told
            told += beliefs(row["reply"])
            several += len(told) > 2
    assert several


@pytest.mark.signature("agent-pro", 1)
def test_lost_hands_are_reflected_on_and_no_other_ones(stay: Path) -> None:
    hands = played(stay, "train")
    lost = {hand.task.id for hand in hands if hand.outcome.score < 0.5}
    assert 1 < len(lost) < len(hands)
    assert {row["task"] for row in calls(stay, purpose="reflect")} == lost
    assert {row["role"] for row in calls(stay, purpose="reflect")} == {"critic"}


@pytest.mark.signature("agent-pro", 1)
def test_the_critic_reads_the_whole_hand_with_its_beliefs_and_changes_the_text_of_the_policy(climb: Path) -> None:
    hands = {hand.task.id: hand for hand in played(climb, "train")}
    for row in calls(climb, purpose="reflect"):
        hand = hands[row["task"]]
        for step in hand.steps:
            assert f"{step.reply.splitlines()[1]}\n> {step.action.text}\n" in prompt(row)
            assert set(beliefs(step.reply)) <= set(beliefs(prompt(row)))
        assert hand.steps[-1].result in prompt(row), "what was shown in the end"
    first, *later = policies(climb)
    assert all(each.text != first.text and each.text.startswith("Behavioural guideline: ") for each in later)
    texts = {each.id: each.text for each in policies(climb)}
    for hand in played(climb):
        (told,) = [message.text for message in hand.steps[0].messages if message.part == "memory" and message.text]
        assert told.removeprefix("Your policy:\n") in texts.values()
        assert not any(
            message.part == "memory" and message.text for step in hand.steps[1:] for message in step.messages
        )


def test_where_no_hand_is_lost_nobody_is_asked_for_a_policy(tmp_path: Path) -> None:
    settled = config(generations=1, tasks=2, evaluated=2, selection_hands=2, lost_below=0.01)
    run = play(tmp_path / "run", settled, {"actor": player(upwards), "critic": ScriptedChatModel([])})
    assert [each.text for each in policies(run)] == [
        f"Behavioural guideline: {policy('timid')}\nWorld modelling: {agent_pro.Config().world}"
    ]


@pytest.mark.signature("agent-pro", 2)
def test_a_policy_is_accepted_that_mends_its_hand_and_earns_more_than_its_parent_on_the_same_deals(
    climb: Path,
) -> None:
    hands = {hand.id: hand for hand in played(climb)}
    accepted = [each for each in policies(climb) if each.meta.get("accepted", 0) > 0]
    assert len(accepted) == 2
    for each in accepted:
        parent, lost, replay = each.parents
        assert hands[lost].recalled[0].record == parent
        assert hands[lost].task == hands[replay].task
        assert hands[lost].outcome.score < hands[replay].outcome.score
        own, others = (played(climb, "gate", f"policy-{name}") for name in (each.id, parent))
        assert [hand.task for hand in own] == [hand.task for hand in others]
        assert payoff(own) > payoff(others)
        assert {hand.task.id for hand in own}.isdisjoint(hand.task.id for hand in played(climb, "train"))
    assert [each.id for each in policies(climb) if each.status == "active"] == [accepted[-1].id]


@pytest.mark.signature("agent-pro", 2)
def test_a_policy_that_mends_nothing_or_earns_no_more_is_refused_and_the_old_one_goes_on_acting(stay: Path) -> None:
    first, *refused = policies(stay)
    assert first.status == "active"
    assert {each.status for each in refused} == {"retired"}
    assert {each["policy"] for each in generations(stay)} == {first.id}
    tried = [each for each in refused if each.meta["mends"]]
    assert tried
    for each in tried:
        assert each.meta["payoff"] == pytest.approx(payoff(played(stay, "gate", f"policy-{each.id}")))
        assert each.meta["payoff"] < each.meta["parent_payoff"] == first.meta["payoff"]
    in_other_words = f"{policy('bold')} Think twice."
    replays = [hand for hand in played(stay, "gate") if in_other_words in prompt_of(hand)]
    assert replays, "it was tried on its own hand"
    assert all("/replay-0" in hand.id for hand in replays), "and on no other"


def prompt_of(hand: Trajectory) -> str:
    return "\n".join(message.text for message in hand.prompt(0))


def test_a_critic_who_tries_again_reads_what_the_last_text_did_to_the_hand(stay: Path) -> None:
    again = [row for row in calls(stay, purpose="reflect") if "went no better" in prompt(row)]
    assert again
    for row in again:
        (replay,) = [hand for hand in played(stay, "gate", "replay-0") if hand.task.id == row["task"]]
        assert f"{policy('bold')} Think twice." in prompt(row)
        assert set(beliefs(replay.steps[-1].reply)) <= set(beliefs(prompt(row)))


@pytest.mark.signature("agent-pro", 3)
def test_the_payoff_on_the_selection_deals_rises_along_the_path_of_the_search(climb: Path) -> None:
    rows = generations(climb)
    assert len(rows[-1]["payoffs"]) == 3
    for row in rows:
        assert all(low < high for low, high in pairwise(row["payoffs"]))
    for before, after in pairwise(rows):
        assert after["payoffs"][-1] >= before["payoffs"][-1]
    path = sorted((each for each in policies(climb) if "accepted" in each.meta), key=lambda each: each.meta["accepted"])
    earned = [payoff(played(climb, "gate", f"policy-{each.id}")) for each in path]
    assert earned == pytest.approx(rows[-1]["payoffs"])
    assert {hand.task.id for each in path for hand in played(climb, "gate", f"policy-{each.id}")} == {
        hand.task.id for hand in played(climb, "gate", f"policy-{path[0].id}")
    }


@pytest.mark.signature("agent-pro", 4)
def test_a_deal_is_judged_from_all_chairs_so_four_players_who_are_alike_end_at_zero(tmp_path: Path) -> None:
    def play_it_straight(messages: Sequence[Any]) -> str:
        seen = str(messages[-1].text)
        strong = re.search(r"You hold [^.]*\b(?:ace|king)", seen)
        return f"Action: {'raise' if strong and 'raise' in seen.split('Answer with')[1] else 'call'}"

    table = RunConfig(
        recipe="agent-pro",
        environment="cards",
        options={"game": "limit", "seats": 4},
        roles={"opponent": "scripted"},
        tasks=1,
        evaluated=5,
        generations=1,
        settings={"selection_hands": 3, "lost_below": 0.001},
        embedder="hash",
    )
    straight = ScriptedChatModel(play_it_straight)
    run = play(tmp_path / "run", table, {"actor": straight, "opponent": straight})
    for phase, expected in (("eval", 8), ("gate", 4)):
        hands = played(run, phase)
        deals: dict[str, set[str]] = {}
        for hand in hands:
            (deal,) = [tag for tag in hand.task.tags if tag.startswith("deal:")]
            deals.setdefault(deal, set()).add(str(hand.task.data["order"]))
        assert len(hands) == 4 * expected
        assert {len(chairs) for chairs in deals.values()} == {4}
        for seat in "abcd":
            own = [hand for hand in hands if hand.player == seat]
            assert payoff(own) == pytest.approx(0)
            assert any(hand.outcome.score != 0.5 for hand in own)


@pytest.mark.signature("agent-pro", 5)
def test_there_are_as_many_policies_in_play_as_the_search_is_deep_and_siblings_were_tried(
    climb: Path, stay: Path
) -> None:
    for run in (climb, stay):
        rows = generations(run)
        assert {(row["model"]["base"], row["model"]["adapter"]) for row in rows} == {("smollm2", "")}
        depth = len(rows[-1]["payoffs"]) - 1
        refused = [each for each in policies(run) if each.meta["mends"] and each.status != "candidate"]
        siblings = sum("accepted" not in each.meta for each in refused)
        shown = {recalled.record for hand in played(run) for recalled in hand.recalled}
        assert len(shown) == 1 + depth + siblings
        assert rows[-1]["tried"] == depth + siblings


def test_each_phase_is_a_node_and_a_hand_goes_back_to_the_critic(climb: Path, stay: Path) -> None:
    assert visited(climb)[:2] == ["initial", "baseline"]
    again, trial = ["reflect", "rewrite", "verify"], ["select"]
    tried = sum(each.meta["mends"] for each in policies(stay)[1:])
    assert visited(stay)[2:] == ["tasks", "play", "feedback", *again * 2, *trial * tried, "evaluate"]


# -- what it is worth --------------------------------------------------------------------------------------------------


def guessing() -> Callable[[str, int, str], str]:
    """A critic who knows nothing: one style after the other."""
    styles = itertools.cycle(STYLES)
    return lambda style, again, hand: f"World modelling: who knows?\nBehavioural guideline: {policy(next(styles))}"


def held_out(run: Path) -> list[float]:
    return [sum(score for (score,) in row["scores"].values()) / len(row["scores"]) for row in generations(run)]


def test_with_verification_a_guessing_critic_helps_and_without_it_the_payoff_fluctuates(tmp_path: Path) -> None:
    """The card's simulation: an opponent with a planted weakness, deals that nobody learned from."""
    sizes: dict[str, Any] = {"tasks": 24, "evaluated": 32, "generations": 4, "selection_hands": 16}
    verified = play(tmp_path / "verified", config(**sizes), {"actor": player(guessing())})
    told = result(verified)
    assert told["verdict"] == "improved", told["gain"]
    earned = [row["payoffs"][-1] for row in generations(verified)]
    assert earned == sorted(earned)
    assert held_out(verified) == sorted(held_out(verified))
    blind = play(tmp_path / "blind", config(verify=False, **sizes), {"actor": player(guessing())})
    assert not played(blind, "gate")
    changes = [after - before for before, after in pairwise(held_out(blind))]
    assert min(changes) < 0 < max(changes)


def test_the_best_policy_is_not_replaced_by_chance(stay: Path) -> None:
    """The negative control: nothing better can be found, so nothing is gained and nothing lost."""
    told = result(stay)
    assert told["gain"]["mean"] == 0
    assert told["verdict"] == "no evidence"


# -- around it ---------------------------------------------------------------------------------------------------------


def test_a_policy_that_was_judged_once_is_not_judged_again(stay: Path) -> None:
    before, after = generations(stay)
    assert before["scores"] == after["scores"]
    assert {hand.generation for hand in played(stay, "eval")} == {0}


def test_a_run_that_was_killed_again_and_again_goes_on_and_asks_nothing_twice(climb: Path, tmp_path: Path) -> None:
    model, run = player(upwards), tmp_path / "run"
    create(config(selection_hands=16), run)
    phrases = iter(range(1000))

    def stop(at: int) -> Callable[[str], None]:
        def say(phrase: str) -> None:
            if next(phrases) == at:
                raise KeyboardInterrupt

        return say

    for at in (3, 6, 8, 11):  # phrases said: in each process the last one is said again
        with pytest.raises(KeyboardInterrupt):
            run_sync(execute(run, models={"actor": model}, say=stop(at)))
    run_sync(execute(run, models={"actor": model}))
    assert len(model.requests) == len(calls(climb))
    whole, resumed = (
        [{key: row[key] for key in ("scores", "policy", "payoffs", "tried")} for row in generations(each)]
        for each in (climb, run)
    )
    assert resumed == whole


def test_an_opponent_that_is_an_earlier_self_plays_by_the_policy_of_its_time(tmp_path: Path) -> None:
    table = config(generations=2, tasks=4, evaluated=4, selection_hands=4).model_copy(
        update={"options": {}, "roles": {"opponent": "generation:1"}}
    )
    run = play(tmp_path / "run", table, {"actor": player(upwards)})
    known = {row["generation"]: row["policy"] for row in generations(run)}
    for hand in played(run):
        if hand.player == "a" and hand.steps:
            before = min(1, max(0, hand.generation - 1))
            expected = known[1] if hand.generation == 2 else None
            assert [each.record for each in hand.recalled] == ([expected] if expected and before else [])


def test_the_policy_of_a_generation_can_sit_down_at_another_table(climb: Path) -> None:
    settings = agent_pro.Config()
    with memory_of(climb) as memory:
        for row in generations(climb):
            snapshot = memory.snapshot(row["model"]["memory"])
            seated = agent_pro.contender(settings, None, snapshot)  # type: ignore[arg-type]  # asks nobody
            shown = seated.recall(played(climb, "eval")[0].task, "a", None)  # type: ignore[arg-type]  # draws nothing
            assert [each.record for each in shown.recalled] == [row["policy"]]
            assert memory.records()[row["policy"]].text in shown.head


def test_a_table_where_nobody_else_would_sit_is_refused(tmp_path: Path) -> None:
    lonely = config().model_copy(update={"environment": "duel_world:Duel", "options": {}})
    create(lonely, tmp_path / "run")
    with pytest.raises(SetupError, match="--role opponent=SPEC"):
        run_sync(execute(tmp_path / "run", models={"actor": player(upwards)}))


@pytest.mark.parametrize(("environment", "options"), [("cards", {}), ("cards", {"game": "limit"}), ("blackjack", {})])
def test_it_runs_to_a_report_on_each_of_its_environments_whatever_the_model_says(
    tmp_path: Path, environment: str, options: dict[str, Any]
) -> None:
    assert environment in agent_pro.ENVIRONMENTS
    mumbling = ScriptedChatModel(lambda messages: "Hm. Whatever you say.")
    table = config(tasks=2, evaluated=2, generations=1, selection_hands=2).model_copy(
        update={"environment": environment, "options": options}
    )
    run = play(tmp_path / "run", table, {"actor": mumbling})
    assert result(run)["finished"]
    for hand in played(run):
        assert all(step.action.text == (step.observation.actions or ("",))[0] for step in hand.steps)
