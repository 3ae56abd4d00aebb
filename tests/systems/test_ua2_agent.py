"""UA²'s signature, line by line, through whole runs."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import pytest
from systems.runs import calls, generations, memory_of, play, prompt, visited
from systems.shopper import earlier_request, requests, shop

from evolvent.agents.models.scripted import Messages, ScriptedChatModel
from evolvent.agents.recipes.ua2_agent import Config, build, numbered
from evolvent.agents.rollout import run_sync
from evolvent.agents.run import RunConfig, create, execute
from evolvent.environments.shop import Shop, cost
from evolvent.environments.shop_catalogue import MATERIALS, SIZES
from evolvent.environments.types import Split, Task, Trajectory
from evolvent.memory.embedding import Floats
from evolvent.memory.types import Record

_TURNING = r"(?:previous page|next page|back to search|description)"


def config(tasks: int, users: int = 4, generations: int = 1, evaluated: int = 2, **settings: Any) -> RunConfig:
    return RunConfig(
        recipe="ua2-agent",
        environment="shop",
        options={"users": users},
        tasks=tasks,
        evaluated=evaluated,
        generations=generations,
        preset="paper",
        settings={"retrieval_threshold": 0.0, **settings},
        embedder="hash",
    )


def analysis(asked: str) -> str:
    """All that was not turning pages was key; turning them was redundant."""
    done = re.findall(r"^(\d+)\. (.+)$", asked, re.MULTILINE)
    redundant = [number for number, action in done if re.fullmatch(rf"click\[{_TURNING}\]", action)]
    key = [number for number, _ in done if number not in redundant]
    return f"Key: {', '.join(key)}, because they led to it.\nRedundant: {', '.join(redundant) or 'none'}, of 99 clicks."


def shopper(
    act: Callable[[Messages], str] = shop,
    analyse: Callable[[str], str] = analysis,
    helped: str = "Yes, it was quicker.",
) -> ScriptedChatModel:
    def reply(messages: Messages) -> str:
        last = str(messages[-1].text)
        if "Write two lines" in last:
            return analyse(last)
        return helped if "Begin with yes or no" in last else act(messages)

    return ScriptedChatModel(reply)


def trained(run: Path) -> list[Trajectory]:
    """In the order of the lists: of those side by side any may end first."""
    with memory_of(run) as memory:
        found = [episode.trajectories[0] for episode in memory.ledger.episodes(phase="train")]
    return sorted(found, key=lambda each: (each.generation, int(each.task.id.rpartition("-")[2]), each.task.id))


def kept(run: Path) -> list[Record]:
    with memory_of(run) as memory:
        return [record for record in memory.records().values() if record.kind == "skill"]


def remembered(trajectory: Trajectory) -> str:
    """What stood before the task."""
    return "\n".join(message.text for message in trajectory.prompt(0) if message.part == "memory")


def actions(record: Record) -> list[str]:
    return list(record.meta["important"])


def dithering(messages: Messages) -> str:
    """Takes whatever is offered first when another of something is wanted, and so buys nothing."""
    if re.search(r"^user-\d+: .*another", str(messages[1].text), re.MULTILINE):
        return str(messages[-1].text).rpartition("Answer with one of: ")[2].split(" | ")[0]
    return shop(messages)


@pytest.fixture(scope="module")
def stream(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Thirteen requests of each of two users, in two days."""
    asked = config(tasks=13, users=2, generations=2, max_steps=8, retrieval_threshold=0.4)
    return play(tmp_path_factory.mktemp("stream") / "run", asked, {"actor": shopper(dithering)})


class Twins(Shop):
    """Every user asks for the same thing in the same words; the second day brings one more user, then one of before."""

    def tasks(self, split: Split, n: int, seed: int) -> list[Task]:
        (asked,) = Shop(users=1, turns=1).tasks("train", 1, 0)
        users = {1: (1, 2), 2: (3, 1)}[self._day] * n
        return [replace(asked, id=f"{split}-{self._day}-{k}", tags=(f"user:{who}",)) for k, who in enumerate(users[:n])]


def twins(**settings: Any) -> RunConfig:
    return config(tasks=2, generations=2, **settings).model_copy(
        update={"environment": "systems.test_ua2_agent:Twins", "options": {"days": 2}, "shifts": {2: {"day": 2}}}
    )


@pytest.mark.signature("ua2-agent", 0)
@pytest.mark.parametrize("shared", [False, True])
def test_a_user_s_first_task_finds_nothing_though_the_same_was_solved_for_another(tmp_path: Path, shared: bool) -> None:
    run = play(tmp_path / "run", twins(retrieval_threshold=0.99, shared=shared), {"actor": shopper()})
    first, second, third, again = trained(run)
    assert first.outcome.score > 0.5
    assert first.task.prompt == third.task.prompt
    assert [bool(each.recalled) for each in (first, second, third, again)] == [False, False, shared, True]
    assert [bool(earlier_request(remembered(each))[0]) for each in (third, again)] == [shared, True]
    assert len(kept(run)) == (1 if shared else 3)


@pytest.mark.signature("ua2-agent", 1)
def test_what_earned_more_than_a_half_is_kept_with_its_key_clicks_and_nothing_else_is(stream: Path) -> None:
    clicks = {
        each.id: [step.action.text for step in each.steps if step.action.text.startswith("click[")]
        for each in trained(stream)
    }
    good = [each for each in trained(stream) if each.outcome.score > 0.5]
    assert 0 < len(good) < len(trained(stream)), "the stream has both"
    with memory_of(stream) as memory:
        known: set[str] = set()
        for commit in memory.ledger.commits():
            records = memory.records(commit.id)
            done = [parent for key in set(records) - known for parent in records[key].parents if parent in clicks]
            assert len(done) == len(set(records) - known), "one trajectory taught each new record"
            known = set(records)
        assert known == {record.id for record in kept(stream)}
    taught = [parent for record in kept(stream) for parent in record.parents if parent in clicks]
    assert sorted(taught) == sorted(each.id for each in good)
    for each in good:
        (record,) = [record for record in kept(stream) if each.id in record.parents]
        assert record.text == each.task.prompt
        assert record.scope.tags == each.task.tags[:1]
        assert actions(record) == [click for click in clicks[each.id] if not re.search(_TURNING, click)]
        assert actions(record)[-1] == "click[buy now]"


@pytest.mark.signature("ua2-agent", 2)
def test_a_prompt_shows_one_earlier_request_with_its_important_actions_and_no_trajectory(stream: Path) -> None:
    by_id = {record.id: record for record in kept(stream)}
    before = {
        record.id: [parent for parent in record.parents if parent.startswith("train/")] for record in kept(stream)
    }
    trajectories = {each.id: each for each in trained(stream)}
    shown = [each for each in trained(stream) if each.recalled]
    assert shown
    for each in shown:
        (recalled,) = each.recalled
        record, seen = by_id[recalled.record], remembered(each)
        assert earlier_request(seen) == (record.text, ", ".join(actions(record)))
        assert seen.rstrip().endswith(", ".join(actions(record))), "nothing else is told of it"
        (past,) = [trajectories[key] for key in before[record.id]]
        assert not [step for step in past.steps[1:] if step.observation.text in seen]
        assert not [step for step in past.steps if step.action.text.startswith("search[") and step.action.text in seen]


@pytest.mark.signature("ua2-agent", 3)
def test_a_prompt_holds_the_last_ten_requests_of_its_own_user(stream: Path) -> None:
    for user in ("user:1", "user:2"):
        own = [each for each in trained(stream) if each.task.tags[0] == user]
        asked = [each.task.prompt for each in own]
        assert len(own) == 13
        for place, each in enumerate(own):
            assert requests(remembered(each)) == asked[max(0, place - 10) : place]
    last = calls(stream, phase="eval", generation=2)[0]
    assert len(requests(prompt(last))) == 10


@pytest.mark.signature("ua2-agent", 4)
def test_time_and_money_grow_by_every_call_of_the_analyzer(stream: Path) -> None:
    prices = Config()
    for generation in (1, 2):
        row = generations(stream)[generation]
        pages = [
            cost(step.action.text) for each in trained(stream) if each.generation == generation for step in each.steps
        ]
        every = calls(stream, phase="train", generation=generation)
        asked = [call for call in every if call["role"] == "analyzer"]
        assert len(asked) >= 13

        def money(calls: Sequence[dict[str, Any]]) -> float:
            sides = ((prices.dollars_in, "tokens_in"), (prices.dollars_out, "tokens_out"))
            return sum(price * call[side] / 1000 for price, side in sides for call in calls)

        acting = [call for call in every if call["role"] == "actor"]
        rest = row["dollars"] - sum(paid for _, paid in pages) - money(acting)
        assert all(money([call]) > 0 for call in asked)
        assert rest == pytest.approx(sum(money([call]) for call in asked), abs=1e-5)
        assert row["seconds"] - sum(taken for taken, _ in pages) == len(acting) + len(asked)


@pytest.mark.signature("ua2-agent", 5)
def test_a_finished_task_is_analysed_once_and_once_more_where_a_record_was_shown(stream: Path) -> None:
    rows = calls(stream)
    for each in trained(stream):
        own = [row for row in rows if row["task"] == each.task.id and row["phase"] == "train"]
        roles = [row["role"] for row in own]
        assert roles == ["actor"] * len(each.steps) + ["analyzer"] * (1 + bool(each.recalled))
        assert [row["purpose"] for row in own[len(each.steps) :]] == ["analyse", "impact"][: 1 + bool(each.recalled)]
    assert not [row for row in rows if row["role"] == "analyzer" and row["phase"] != "train"]


def test_the_analyzer_is_not_told_what_the_user_keeps_to_himself(stream: Path) -> None:
    asked = [prompt(row) for row in calls(stream, role="analyzer")]
    assert not [text for text in asked if re.search(r"is happy|wanted|asked for\.|Score|You bought", text)]


def test_a_record_leads_to_the_one_that_was_shown_with_the_reason_and_that_one_counts_its_help(stream: Path) -> None:
    records = {record.id: record for record in kept(stream)}
    followed = {record.id: [key for key in record.parents if key in records] for record in records.values()}
    assert any(followed.values())
    shown = {each.id: [recalled.record for recalled in each.recalled] for each in trained(stream)}
    for key, record in records.items():
        assert followed[key] == shown[record.parents[0]]
        assert record.meta["because"] == dict.fromkeys(followed[key], "Yes, it was quicker.")
        assert record.meta.get("helped", 0) == record.recalls == sum(key in each for each in shown.values())


def test_a_request_in_the_same_words_renews_its_record(tmp_path: Path) -> None:
    answers = iter(["Key: 99", "Key: 2", "", "Key actions: 1, 2, 3 and 4\nRedundant: 4", "Key: none"])
    run = play(tmp_path / "run", twins(shared=True), {"actor": shopper(analyse=lambda asked: next(answers))})
    (record,) = kept(run)
    assert len(record.parents) == 4
    assert actions(record) == [step.action.text for step in trained(run)[3].steps[1:3]]


@pytest.mark.parametrize(
    ("reply", "key", "redundant"),
    [
        ("Key: 1, 3, because 2 dollars.\nRedundant: 2, because of 1.", [0, 2], [1]),
        ("**Key actions:** [2], #4 and 5\nRedundant: none, because 3 was cheap.", [1, 3, 4], []),
        ("key: 2\nKey: 3", [1, 2], []),
        ("Key: NUMBERS, because REASON", [], []),
        ("Key: 0, 6, 77", [], []),
        ("The keys are 1 and 2.", [], []),
        ("", [], []),
    ],
)
def test_actions_are_named_by_the_numbers_before_the_reason(reply: str, key: list[int], redundant: list[int]) -> None:
    assert (numbered(reply, "key", 5), numbered(reply, "redundant", 5)) == (key, redundant)


def test_with_proof_a_request_waits_for_the_gate(tmp_path: Path) -> None:
    asked = config(tasks=2, users=1, generations=2, prove=True, gate_pairs=2)
    run = play(tmp_path / "run", asked, {"actor": shopper()})
    assert kept(run)
    with memory_of(run) as memory:
        judged = [e for c in memory.ledger.commits() for e in memory.ledger.events_of(c.id) if "gate" in e.payload]
    assert {event.record_id for event in judged} == {record.id for record in kept(run)}
    assert not [each for each in trained(run) for it in each.recalled if it.probability == 1.0]


def test_what_a_model_that_understands_nothing_says_is_no_more_than_a_bad_purchase(tmp_path: Path) -> None:
    for number, said in enumerate(("", "Key Key 1 click[", "think[click[buy now]]")):
        run = play(
            tmp_path / f"run{number}", config(tasks=1, max_steps=3), {"actor": ScriptedChatModel(lambda _, s=said: s)}
        )
        assert [each.outcome.score for each in trained(run)] == [0.0]
        assert len(calls(run, role="analyzer")) == 1
        assert not kept(run)


def test_each_phase_is_a_node_of_its_own_and_users_go_side_by_side(tmp_path: Path) -> None:
    run = play(tmp_path / "run", config(tasks=4, users=2), {"actor": shopper()})
    turn = ["attempt", "analyse", "store"]
    assert visited(run) == ["baseline", "tasks", *turn, *turn, "gate", "evaluate"]
    assert build(Config()) is not None


class Meaning:
    """An embedder that knows what a request is about: first the thing, then what it is made of and its size."""

    name = "meaning"
    _words = (*MATERIALS, *dict.fromkeys(each for three in MATERIALS.values() for each in three), *SIZES)
    dim = len(_words) + 1

    def embed(self, texts: Sequence[str]) -> Floats:
        vectors = np.zeros((len(texts), self.dim), np.float32)
        for vector, text in zip(vectors, texts, strict=True):
            found = [word for word in re.findall(r"\w+", text) if word in self._words]
            for word in found:
                vector[self._words.index(word)] = 2 if word in MATERIALS else 1
            vector[-1] = not found
        unit: Floats = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        return unit


Arm = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def arm(tmp_path_factory: pytest.TempPathFactory) -> Arm:
    """The row of a run over twelve requests of each of four users, as it is set."""

    def play_arm(actor: ScriptedChatModel | None = None, **settings: Any) -> dict[str, Any]:
        directory = tmp_path_factory.mktemp("arm") / "run"
        settings = {"retrieval": "dense", "retrieval_threshold": 0.6, "history_window": 3, **settings}
        create(config(tasks=48, **settings), directory)
        run_sync(execute(directory, models={"actor": actor or shopper()}, embedder=Meaning()))
        return generations(directory)[-1]

    return play_arm


@pytest.fixture(scope="module")
def history_alone(arm: Arm) -> dict[str, Any]:
    return arm(records=False)


def mean_of(what: dict[str, float], first: int, last: int) -> float:
    """Over the tasks at these places in a user's list, from 1."""
    return fmean(value for task, value in what.items() if first <= int(task.rpartition("-")[2]) + 1 <= last)


def test_the_later_requests_earn_most_with_a_memory_of_one_s_own(arm: Arm, history_alone: dict[str, Any]) -> None:
    """The card's comparison. Three requests are as soon past in a list of twelve as the paper's ten in one of fifty."""
    late = [
        mean_of(row["stream"], 7, 12)
        for row in (arm(records=False, history_window=0), history_alone, arm(shared=True), arm())
    ]
    react, history, shared, full = late
    assert full > history + 0.05 > react + 0.05
    assert full > shared + 0.05


def test_steps_per_task_fall_as_the_list_goes_on(arm: Arm) -> None:
    steps = arm(history_window=10)["steps"]
    assert mean_of(steps, 1, 3) > mean_of(steps, 4, 8) > mean_of(steps, 9, 12)


def test_records_without_actions_are_worth_nothing(arm: Arm, history_alone: dict[str, Any]) -> None:
    """The negative control: an analyzer that names no action leaves the shopper with the history."""
    row = arm(shopper(analyse=lambda asked: "I cannot tell."))
    assert row["records"] > 20
    assert row["stream"] == history_alone["stream"]
    assert row["dollars"] > history_alone["dollars"]
