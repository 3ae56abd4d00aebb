"""Data sets from episodes: which steps, with what prompt, said once, in a fixed order, and where they came from."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from evolvent.agents.episode import Job, play
from evolvent.agents.models.role import RoleModel
from evolvent.agents.models.scripted import ScriptedChatModel, ScriptedScorer
from evolvent.agents.solutions.act import Policy
from evolvent.agents.solutions.recall import NO_RECALL, Recollection
from evolvent.agents.trace import Trace
from evolvent.environments.types import (
    Action,
    Failure,
    Message,
    Observation,
    Outcome,
    Phase,
    Recalled,
    Step,
    Task,
    Trajectory,
)
from evolvent.environments.workshop import Workshop
from evolvent.memory.embedding import HashEmbedder
from evolvent.memory.errors import BadDataSetError
from evolvent.memory.lineage import Lineage
from evolvent.memory.store import Memory
from evolvent.memory.types import Event, Record, Scope, new_record
from evolvent.memory.weights.dataset import DataSet, Example, Preference, dataset_record, read_jsonl, write_jsonl
from evolvent.memory.weights.examples import negatives, preferences, prompt, supervised
from evolvent.memory.weights.mixing import join, rehearsal, replay

RUST, ROT = "To mend rust, use the {action}.", "To mend rot, use the {action}."
TOOLS = ("oil", "wax")


def step(frame: str, action: str, reward: float, *, hint: str = "", first: bool = False) -> Step:
    head = (
        Message("system", "instructions", "You mend."),
        Message("user", "memory", "What you know: much."),
        Message("user", "task", "A clock."),
    )
    seen = f"How about {frame}"
    turn = (Message("user", "history", seen), Message("user", "memory", hint))
    reply = frame.replace("{action}", action)
    observation = Observation("agent", seen, TOOLS, frame=frame)
    return Step("agent", observation, (*(head if first else ()), *turn), reply, Action(action), reward=reward)


def episode(
    name: str,
    *done: tuple[str, str, float],
    task: str = "clock",
    score: float | None = None,
    failure: Failure = "",
    phase: Phase = "train",
    shown: Sequence[str] = (),
) -> Trajectory:
    """Steps as (frame, action, reward); each prompt holds what memory said."""
    steps = tuple(step(*each, hint="Remember: oil.", first=index == 0) for index, each in enumerate(done))
    total = sum(each.reward for each in steps) if score is None else score
    outcome = Outcome(total, total == 1, failure)
    recalled = tuple(Recalled(record, True) for record in shown)
    where = Task(task, "A clock.", "workshop")
    return Trajectory(name, where, "agent", steps, outcome, phase=phase, recalled=recalled)


GOOD = episode("t1", (RUST, "oil", 0.5), (ROT, "wax", 0.5), shown=("rule-1",))
HALF = episode("t2", (RUST, "oil", 0.5), (ROT, "oil", 0.0))
BAD = episode("t3", (RUST, "wax", 0.0), (ROT, "oil", 0.0))


def replies(found: DataSet) -> list[str]:
    return [each.completion for each in found.examples]


# -- prompts -----------------------------------------------------------------------------------------------------------


class Knows:
    """Remembers something before the task and after each observation."""

    recalled: tuple[Recalled, ...] = ()
    head = "What you know from earlier tasks:\nOil is good."

    def hint(self, observation: Observation) -> str:
        return f"Remember: {observation.frame.replace('{action}', 'oil')}"


def knowing(task: Task, player: str, rng: random.Random) -> Recollection:
    return Knows()


@pytest.mark.parametrize(
    "make",
    [
        lambda: ScriptedScorer([], score=lambda messages, options: [-len(each) for each in options]),
        lambda: ScriptedChatModel(lambda messages: str(messages[-1].text).rpartition("one of: ")[2].split(" | ")[0]),
    ],
    ids=["choosing", "writing"],
)
async def test_a_stripped_prompt_is_to_the_letter_what_a_policy_without_memory_sends(make: Any) -> None:
    world = Workshop(flaws=3)
    task = world.tasks("train", 1, 0)[0]
    with_memory, without = make(), make()
    told, untold = [
        (await play(Job(task, {"": Policy(RoleModel("m", model, Trace(None)), recall=recall)}, "train", 1), world))[0]
        for model, recall in ((with_memory, knowing), (without, NO_RECALL))
    ]
    roles = {"system": "system", "human": "user", "ai": "assistant"}

    def sent(model: ScriptedChatModel) -> list[tuple[dict[str, str], ...]]:
        return [tuple({"role": roles[m.type], "content": str(m.text)} for m in each) for each in model.requests]

    assert [each.reply for each in told.steps] == [each.reply for each in untold.steps]
    assert len(told.steps) >= 3
    steps = range(len(told.steps))
    assert [prompt(told, index) for index in steps] == sent(without) != sent(with_memory)
    assert [prompt(told, index, "kept") for index in steps] == sent(with_memory)


# -- supervised --------------------------------------------------------------------------------------------------------


def test_only_successful_episodes_are_imitated_unless_more_is_asked_for() -> None:
    everything = [GOOD, HALF, BAD]
    assert replies(supervised(everything)) == ["To mend rust, use the oil.", "To mend rot, use the wax."]
    assert [each.origins[0].trajectory for each in supervised([HALF, BAD], only="rewarded").examples] == ["t2"]
    assert replies(supervised([HALF], only="all")) == ["To mend rust, use the oil."], "the failed decision is left out"
    assert len(supervised([BAD], only="all", least_score=0.1)) == 0


def test_a_step_that_only_the_end_rewards_is_worth_what_its_episode_is() -> None:
    long = episode("t1", (RUST, "wax", 0.0), (ROT, "wax", 1.0))
    assert len(supervised([long])) == 2
    assert replies(supervised([long], only="rewarded")) == ["To mend rot, use the wax."]


def test_evaluations_and_episodes_that_infrastructure_failed_teach_nothing() -> None:
    held_out = episode("eval/1", (RUST, "oil", 1.0), phase="eval")
    broken = episode("t4", (RUST, "oil", 1.0), failure="timeout")
    assert len(supervised([held_out, broken])) == 0
    assert len(supervised([held_out], phases=("eval",))) == 1


def test_a_reply_that_named_no_admissible_action_is_not_imitated() -> None:
    assert replies(supervised([episode("t1", (RUST, "sing", 0.0), (ROT, "wax", 1.0))])) == ["To mend rot, use the wax."]


def test_what_was_said_twice_is_one_example_with_both_origins() -> None:
    again = episode("t0", (RUST, "oil", 0.5), (ROT, "wax", 0.5), shown=("rule-2",))
    found = supervised([GOOD, again])
    assert [[origin.trajectory for origin in each.origins] for each in found.examples] == [["t0", "t1"]] * 2
    assert [each.weight for each in found.examples] == [1.0, 1.0]
    assert found.parents == ("t0", "t1")


def test_with_memory_kept_the_records_in_the_prompt_are_parents_too() -> None:
    found = supervised([GOOD], memory="kept")
    assert "What you know: much." in str(found.examples[0].messages)
    assert found.parents == ("t1", "rule-1")
    assert "What you know" not in str(supervised([GOOD]).rows)


def test_examples_may_weigh_what_their_episode_scored() -> None:
    found = supervised([GOOD, HALF, BAD], only="all", weigh="score")
    assert [(each.completion, each.weight) for each in found.examples] == [
        ("To mend rust, use the oil.", 1.0),
        ("To mend rot, use the wax.", 1.0),
    ]
    assert [each.weight for each in supervised([HALF], only="all", weigh="score").examples] == [0.5]


def test_the_order_of_the_trajectories_makes_no_difference() -> None:
    many = [GOOD, HALF, BAD, episode("t9", (ROT, "oil", 1.0), task="chair")]
    sets = [supervised(many, only="all"), supervised(many[::-1], only="all")]
    assert sets[0] == sets[1]
    assert sets[0].hash == sets[1].hash
    assert preferences(many).hash == preferences(many[::-1]).hash


# -- negatives and preferences -----------------------------------------------------------------------------------------


def test_negatives_are_failed_decisions_and_all_of_a_lost_episode() -> None:
    assert [(each.completion, each.desired) for each in negatives([GOOD, HALF, BAD]).examples] == [
        ("To mend rot, use the oil.", False),
        ("To mend rust, use the wax.", False),
        ("To mend rot, use the oil.", False),
    ]


def test_what_worked_once_is_nothing_to_grow_out_of() -> None:
    lucky, unlucky = episode("t1", (RUST, "oil", 1.0)), episode("t2", (RUST, "oil", 0.0))
    both = join("both", negatives([unlucky]), supervised([lucky]))
    assert [(each.desired, [origin.trajectory for origin in each.origins]) for each in both.examples] == [
        (True, ["t1"])
    ]


def test_two_replies_in_one_situation_of_one_task_make_a_pair() -> None:
    (pair, later) = preferences([HALF, BAD, GOOD]).items
    assert isinstance(pair, Preference)
    assert (pair.chosen, pair.rejected) == ("To mend rust, use the oil.", "To mend rust, use the wax.")
    assert pair.margin == 0.5
    assert [origin.trajectory for origin in pair.origins] == ["t1", "t2", "t3"]
    assert isinstance(later, Preference)
    assert (later.chosen, later.messages) == ("To mend rot, use the wax.", prompt(GOOD, 1))


def test_attempts_at_different_tasks_and_at_none_better_make_no_pair() -> None:
    elsewhere = episode("t4", (RUST, "wax", 0.0), (ROT, "oil", 0.0), task="chair")
    assert len(preferences([HALF, elsewhere])) == 0
    assert len(preferences([BAD, episode("t5", (RUST, "wax", 0.0), (ROT, "wax", 0.0))])) == 0


def test_where_only_the_end_is_rewarded_attempts_are_compared_where_they_parted() -> None:
    won = episode("t1", (RUST, "oil", 0.0), (ROT, "wax", 1.0))
    lost = episode("t2", (RUST, "wax", 0.0), (ROT, "oil", 0.0))
    (pair,) = preferences([won, lost]).items
    assert isinstance(pair, Preference)
    assert (pair.chosen, pair.rejected, pair.margin) == (
        "To mend rust, use the oil.",
        "To mend rust, use the wax.",
        1.0,
    )
    assert pair.messages == prompt(won, 0)


def test_a_lucky_attempt_does_not_make_a_pair_against_the_mean() -> None:
    oil = [episode(f"oil/{index}", (RUST, "oil", reward)) for index, reward in enumerate((1.0, 1.0, 0.0))]
    wax = [episode(f"wax/{index}", (RUST, "wax", reward)) for index, reward in enumerate((1.0, 0.0, 0.0))]
    (pair,) = preferences([*oil, *wax]).items
    assert isinstance(pair, Preference)
    assert (pair.chosen, pair.margin) == ("To mend rust, use the oil.", pytest.approx(1 / 3))
    assert len(preferences([*oil, *wax], least_margin=0.5)) == 0


# -- mixing and splitting ----------------------------------------------------------------------------------------------


def told(count: int, word: str) -> DataSet:
    return rehearsal([(f"{word} {index}?", f"{word}!") for index in range(count)], name=word)


def test_replay_makes_up_its_share_of_the_whole_and_is_tagged() -> None:
    mixed = replay(told(30, "new"), told(90, "old"), 0.25, seed=0)
    assert len(mixed) == 40
    assert sum(each.source == "replay" for each in mixed.examples) == 10
    assert mixed == replay(told(30, "new"), told(90, "old"), 0.25, seed=0)
    assert mixed != replay(told(30, "new"), told(90, "old"), 0.25, seed=1)
    assert len(replay(told(30, "new"), told(3, "old"), 0.5, seed=0)) == 33
    with pytest.raises(ValueError, match=r"share is 1\.0"):
        replay(told(1, "new"), told(1, "old"), 1.0, seed=0)


def test_replay_brings_nothing_that_is_there_already() -> None:
    assert replay(told(5, "same"), told(5, "same"), 0.5, seed=0) == told(5, "same")


def test_a_split_leaves_no_task_on_both_sides() -> None:
    found = supervised(
        [episode(f"t{i}", (RUST, f"oil{i}", 0.0), (ROT, "wax", 1.0), task=f"task{i}") for i in range(10)]
    )
    training, validation = found.split(0.3, seed=1)
    tasks = [{each.task for each in part.examples} for part in (training, validation)]
    assert [len(each) for each in tasks] == [7, 3]
    assert not tasks[0] & tasks[1]
    assert found.split(0.3, seed=1) == (training, validation)
    assert found.split(0.0, seed=1)[0].items == found.items
    with pytest.raises(ValueError, match="validation_share is 2"):
        found.split(2, seed=0)


def test_examples_and_preferences_do_not_mix() -> None:
    with pytest.raises(BadDataSetError, match="mixes examples and preferences"):
        join("both", supervised([GOOD]), preferences([HALF, BAD]))


# -- files -------------------------------------------------------------------------------------------------------------

FORMS = {
    "supervised": lambda: join("supervised", supervised([GOOD], memory="kept"), told(2, "old")),
    "labelled": lambda: join("labelled", supervised([GOOD]), negatives([BAD])),
    "preference": lambda: preferences([GOOD, BAD]),
    "empty": lambda: DataSet("empty"),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_data_set_is_read_as_it_was_written_and_its_hash_is_that_of_the_file(form: str, tmp_path: Path) -> None:
    made = FORMS[form]()
    write_jsonl(made, tmp_path / "set")
    assert write_jsonl(made, tmp_path / "set").name == "data.jsonl"
    read = read_jsonl(tmp_path / "set")
    assert read == made
    assert read.hash == made.hash
    assert [each.name for each in tmp_path.iterdir()] == ["set"]
    with pytest.raises(BadDataSetError, match="holds the data set"):
        write_jsonl(DataSet(made.name, made.items[:-1] or told(1, "x").items), tmp_path / "set")


@pytest.mark.parametrize(
    ("form", "columns"),
    [
        ("supervised", ["prompt", "completion", "weight"]),
        ("labelled", ["prompt", "completion", "label", "weight"]),
        ("preference", ["prompt", "chosen", "rejected", "margin"]),
    ],
)
def test_rows_load_as_the_conversations_that_trl_knows(form: str, columns: list[str], tmp_path: Path) -> None:
    missing = "the extra `train` is not installed: pip install 'evolvent[train]'"
    datasets = pytest.importorskip("datasets", reason=missing)
    trl = pytest.importorskip("trl.data_utils", reason=missing)
    made = FORMS[form]()
    file = write_jsonl(made, tmp_path / "set")
    loaded = datasets.load_dataset("json", data_files=str(file), split="train", cache_dir=str(tmp_path / "cache"))
    assert loaded.column_names == [*columns, "source", "task", "origins", "records"]
    assert all(trl.is_conversational(row) for row in loaded)
    assert [row["prompt"] for row in loaded] == [list(item.messages) for item in made.items]
    assert made.form == form


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda text: text[:-10], "was cut off or changed"),
        (lambda text: text.replace("oil", "wax"), "was cut off or changed"),
    ],
)
def test_a_file_that_was_cut_off_or_changed_is_noticed(damage: Any, said: str, tmp_path: Path) -> None:
    file = write_jsonl(supervised([GOOD]), tmp_path / "set")
    file.write_text(damage(file.read_text()))
    with pytest.raises(BadDataSetError, match=said):
        read_jsonl(tmp_path / "set")


def test_a_folder_without_a_data_set_and_a_row_that_is_none_are_clear_errors(tmp_path: Path) -> None:
    with pytest.raises(BadDataSetError, match="No data set in"):
        read_jsonl(tmp_path)
    odd = DataSet("odd", (Example(({"role": "user", "content": "?"},), 7),))  # type: ignore[arg-type]  # a number where text belongs
    write_jsonl(odd, tmp_path / "odd")
    with pytest.raises(BadDataSetError, match="Line 1 of"):
        read_jsonl(tmp_path / "odd")


# -- lineage -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def trained(tmp_path: Path) -> tuple[Path, Record, Record]:
    """A memory with two episodes, a data set made of both, and an adapter trained on it."""
    data = dataset_record(supervised([GOOD, HALF], only="rewarded"))
    adapter = new_record("adapter", "mender@0123456789ab", parents=(data.id,))
    with Memory.open(tmp_path, embedder=HashEmbedder(64)) as memory:
        for each in (GOOD, HALF):
            memory.add_episode(each.id, [each])
        memory.commit("1/distil", [Event("add", each.id, each) for each in (data, adapter)], generation=1)
    return tmp_path, data, adapter


def test_impact_of_a_trajectory_names_the_data_set_and_the_adapter(trained: tuple[Path, Record, Record]) -> None:
    directory, data, adapter = trained
    assert data.parents == ("t1", "t2")
    with Memory.open(directory, embedder=HashEmbedder(64)) as memory:
        assert Lineage(memory.records(), memory.ledger).impact("t1").derived == (data.id, adapter.id)


def test_forgetting_one_of_many_trajectories_makes_the_data_set_and_the_adapter_unfit(
    trained: tuple[Path, Record, Record],
) -> None:
    directory, data, adapter = trained
    with Memory.open(directory, embedder=HashEmbedder(64)) as memory:
        commit = memory.forget("t1")
        assert [memory.records()[each.id].status for each in (data, adapter)] == ["retired", "retired"]
        assert memory.records()[data.id].parents == ("t1", "t2")
        assert memory.forget("t1") == commit, "nothing is left to be done"
        memory.revert(commit)
        assert memory.records()[adapter.id].status == "candidate"


@pytest.mark.parametrize("scope", [None, Scope("workshop")])
def test_no_search_finds_data_sets_and_adapters_but_one_that_asks_for_them(
    trained: tuple[Path, Record, Record], scope: Scope | None
) -> None:
    directory, data, adapter = trained
    with Memory.open(directory, embedder=HashEmbedder(64)) as memory:
        for mode in ("dense", "bm25", "hybrid", "mmr", "utility", "spreading"):
            assert memory.search("examples mender trajectories", k=5, scope=scope, mode=mode) == []
        found = memory.search("mender", k=5, kinds=["dataset", "adapter"], mode="dense")
        assert {each.record.id for each in found} == {data.id, adapter.id}


def test_the_record_says_what_is_in_the_data_set() -> None:
    found = supervised([GOOD, BAD], name="mender")
    record = dataset_record(found)
    assert record.text == f"mender@{found.hash}: 2 examples from 1 trajectory"
    assert json.loads(json.dumps(dict(record.meta))) == {
        **{"name": "mender", "hash": found.hash, "form": "supervised", "rows": 2, "sources": ["episode"]}
    }
