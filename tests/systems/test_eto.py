"""ETO's signature, line by line, through a whole run: real trainings of a tiny model with a scripted tongue."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from langchain_core.messages import BaseMessage
from peft import PeftModel
from pupil import Pupil
from safetensors.torch import load_file
from systems.corridor import ROOMS, Corridor
from systems.runs import calls, generations, memory_of, play, resume, visited
from tiny_llama import write_base
from transformers import AutoModelForCausalLM
from workshop_scorer import first_option, repeats_or_guesses

from evolvent.agents.recipes import eto
from evolvent.agents.run import RunConfig, result
from evolvent.environments.types import Trajectory
from evolvent.memory.quiet import quiet_transformers
from evolvent.memory.weights.adapters import Adapter, Adapters
from evolvent.memory.weights.dataset import Preference, read_jsonl
from evolvent.memory.weights.examples import prompt
from evolvent.memory.weights.preference import train_dpo
from evolvent.memory.weights.training import Encoder, Training

QUICK = {"steps": 3, "learning_rate": 5e-3, "batch_size": 4, "rank": 4}
SETTINGS = {"cloning": QUICK, "contrasting": QUICK, "explore_temperature": 0.0}
CONFIG = RunConfig(
    recipe="eto",
    environment="systems.corridor:Corridor",
    tasks=6,
    evaluated=6,
    generations=3,
    settings=SETTINGS,
    embedder="hash",
)


def walker(messages: Sequence[BaseMessage], options: Sequence[str], adapter: str) -> list[float]:
    """The base only waits. A clone walks, but waits in long corridors, of which pairs tell it better."""
    said = [str(message.text) for message in messages if message.type == "ai"]
    long = "long" in str(messages[1].text)
    if not adapter or (long and adapter.startswith("eto-clone")):
        move = "wait"
    else:
        move = "on" if said.count("on") < ROOMS else "stop"
    return [float(option == move) for option in options]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_base(tmp_path_factory.mktemp("base"), max_position_embeddings=6_000)  # textcraft's prompts are long


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, base: str) -> Path:
    return play(tmp_path_factory.mktemp("eto") / "run", CONFIG, {"actor": pupil(base)})


def pupil(base: str) -> Pupil:
    return Pupil(path=base, script=lambda messages, *_: first_option(messages), score=walker)


def episodes(directory: Path, generation: int) -> dict[str, Trajectory]:
    """Training episodes of a generation, by task."""
    with memory_of(directory) as memory:
        found = [each.trajectories[0] for each in memory.ledger.episodes(phase="train", generation=generation)]
    assert len({each.task.id for each in found}) == len(found)
    return {each.task.id: each for each in found}


def adapters(directory: Path) -> list[Adapter]:
    """Those of the generations from the first on."""
    return [Adapters(directory).get(row["model"]["adapter"]) for row in generations(directory)[1:]]


def pairs(directory: Path, adapter: Adapter) -> dict[str, Preference]:
    """What an adapter was trained on, by task."""
    (folder,) = (directory / "datasets").glob(f"*@{adapter.card.dataset_hash}")
    found = {}
    for item in read_jsonl(folder).items:
        assert isinstance(item, Preference)
        found[item.task.removeprefix("corridor/")] = item
    return found


def turns(reply: Any, role: str = "assistant") -> list[str]:
    return [each["content"] for each in reply if each["role"] == role]


def replies(trajectory: Trajectory) -> list[str]:
    return [step.reply for step in trajectory.steps]


@pytest.mark.signature("eto", 0)
def test_the_better_of_explored_and_expert_is_chosen_and_equal_ones_make_no_pair(run: Path) -> None:
    experts, explored = episodes(run, 1), episodes(run, 2)
    found = pairs(run, adapters(run)[1])
    seen = Counter[str]()
    assert explored.keys() == experts.keys()
    for task, tried in explored.items():
        expert, pair = experts[task], found.get(task)
        gained = tried.outcome.score - expert.outcome.score
        if pair is None:
            assert gained == 0
            seen["equal"] += 1
        elif gained > 0:
            assert (turns(pair.chosen), turns(pair.rejected)) == (replies(tried), replies(expert))
            seen["better"] += 1
        else:
            assert turns(pair.chosen) == replies(expert)
            assert turns(pair.rejected) == replies(tried)[: len(turns(pair.rejected))]
            seen["worse"] += 1
        assert pair is None or pair.margin == abs(gained)
    assert seen == {"equal": 2, "better": 2, "worse": 2}


@pytest.mark.signature("eto", 1)
def test_a_rejected_episode_ends_five_rounds_after_the_experts_at_the_latest(run: Path) -> None:
    experts, explored = episodes(run, 1), episodes(run, 2)
    worse = [task for task, tried in explored.items() if tried.outcome.score < experts[task].outcome.score]
    for task in worse:
        pair = pairs(run, adapters(run)[1])[task]
        assert len(explored[task].steps) == Corridor.max_steps, "it was longer"
        assert len(pair.rejected) == len(pair.chosen) + 10
        assert pair.rejected[-1]["role"] == "assistant"
    assert worse


@pytest.mark.signature("eto", 2)
def test_a_pair_is_of_whole_episodes_after_the_instruction_and_the_first_observation(run: Path) -> None:
    experts = episodes(run, 1)
    for task, pair in pairs(run, adapters(run)[1]).items():
        assert pair.messages == prompt(experts[task], 0)
        assert [each["role"] for each in pair.messages] == ["system", "user"]
        assert "Room 0." in pair.messages[1]["content"]
        assert turns(pair.chosen)[-1] == "stop", "to the very end"
        assert all(text.startswith("Room ") for text in turns(pair.chosen, "user"))


@pytest.mark.signature("eto", 2)
def test_only_what_the_agent_said_counts_in_the_log_probabilities(run: Path, base: str, tmp_path: Path) -> None:
    """The loss of the second step follows from the weights after the first, worked out here without TRL."""
    (folder,) = (run / "datasets").glob(f"*@{adapters(run)[1].card.dataset_hash}")
    row = next(row for row in read_jsonl(folder).rows if len(row["chosen"]) > 3)
    once, twice = (Training(steps=steps, learning_rate=1e-3, batch_size=1, rank=4) for steps in (1, 2))
    train_dpo(base, [row], tmp_path / "once", once, beta=0.1)
    loss = train_dpo(base, [row], tmp_path / "twice", twice, beta=0.1).curve[1].loss
    with quiet_transformers():
        plain: Any = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
        tuned = PeftModel.from_pretrained(plain, str(tmp_path / "once"))
    by_hand = {}
    for counted in ("own", "all"):
        gains = []
        for side in ("chosen", "rejected"):
            ids, agents = spelled_out(base, row["prompt"], row[side])
            mask = agents if counted == "own" else [place >= agents.index(True) for place in range(len(ids))]
            with tuned.disable_adapter():
                before = logprob(tuned, ids, mask)
            gains.append(logprob(tuned, ids, mask) - before)
        by_hand[counted] = -math.log(1 / (1 + math.exp(-0.1 * (gains[0] - gains[1]))))
    assert loss == pytest.approx(by_hand["own"], abs=1e-4)
    assert abs(loss - by_hand["all"]) > 2e-3


def spelled_out(base: str, head: Sequence[Any], told: Sequence[Any]) -> tuple[list[int], list[bool]]:
    """A dialogue as token ids of its text, and which of them the agent made: its words and the ends of its turns."""
    tokenizer = Encoder(base).tokenizer
    ids: list[int] = []
    agents: list[bool] = []
    for message in [*head, *told]:
        own = message["role"] == "assistant"
        for text, made in (
            (f"<|im_start|>{message['role']}\n", False),
            (f"{message['content']}<|im_end|>", own),
            ("\n", False),
        ):
            new = tokenizer(text, add_special_tokens=False)["input_ids"]
            ids, agents = [*ids, *new], [*agents, *[made] * len(new)]
    return ids[:-1], agents[:-1]  # without the line after the last turn


@torch.no_grad()
def logprob(model: Any, ids: list[int], mask: Sequence[bool]) -> float:
    logprobs_TV = model(torch.tensor([ids])).logits[0].log_softmax(-1)
    return float(sum(logprobs_TV[at - 1, ids[at]] for at in range(1, len(ids)) if mask[at]))


@pytest.mark.signature("eto", 3)
def test_each_iteration_starts_from_the_policy_of_the_last_one_and_has_it_as_its_reference(run: Path) -> None:
    clone, first, second = adapters(run)
    assert len({each.full_name for each in (clone, first, second)}) == 3
    assert [each.card.parents for each in (clone, first, second)] == [(), (clone.full_name,), (first.full_name,)]
    for before, after in ((clone, first), (first, second)):
        explored = {each.model for each in episodes(run, generations(run).index(row_of(run, after))).values()}
        assert {name.rpartition("+")[2] for name in explored} == {before.full_name}
        # As likely under the policy as under its reference, so the loss of the first step is that of a coin.
        losses = [json.loads(line)["loss"] for line in (after.folder / "loss.jsonl").read_text().splitlines()]
        assert losses[0] == pytest.approx(math.log(2), abs=1e-4)
        # And that policy is the one before, not a new one: its matrices have hardly moved.
        was, now = (load_file(each.folder / "adapter_model.safetensors") for each in (before, after))
        for name, matrix in was.items():
            if "lora_A" in name:
                assert (now[name] - matrix).norm() < 0.2 * matrix.norm()


def row_of(directory: Path, adapter: Adapter) -> dict[str, Any]:
    return next(row for row in generations(directory) if row["model"]["adapter"] == adapter.full_name)


@pytest.mark.signature("eto", 4)
def test_every_training_task_is_explored_once_an_iteration_and_no_other_is_learned_from(run: Path) -> None:
    training = {task.id for task in Corridor().tasks("train", 6, 0)}
    with memory_of(run) as memory:
        played = Counter(
            (each.trajectories[0].generation, each.trajectories[0].task.id)
            for each in memory.ledger.episodes(phase="train")
        )
    assert played == {(generation, task): 1 for generation in (1, 2, 3) for task in training}
    for adapter in adapters(run)[1:]:
        assert pairs(run, adapter).keys() <= training
    with memory_of(run) as memory:
        data = [record for record in memory.records().values() if record.kind == "dataset"]
        sources = [memory.ledger.trajectory(parent) for record in data for parent in record.parents]
    assert len(data) == 3
    assert {source.phase for source in sources if source} == {"train"}


@pytest.mark.signature("eto", 5)
def test_beta_rises_and_the_learning_rate_halves_after_the_first_iteration(run: Path) -> None:
    clone, *iterations = adapters(run)
    assert [each.card.config["beta"] for each in iterations] == [0.1, 0.5]
    assert [each.card.config["learning_rate"] for each in iterations] == [5e-3, 2.5e-3]
    assert (clone.card.config["method"], iterations[0].card.config["method"]) == ("sft", "dpo")
    paper = eto.PRESETS["paper"]
    assert (paper.beta, paper.beta_later, paper.contrasting.learning_rate) == (0.1, 0.5, 1e-6)


def test_the_graph_clones_once_and_then_explores_pairs_and_contrasts(run: Path) -> None:
    once = ["baseline", "expert_tasks", "demonstrate", "clone", "evaluate_clone"]
    assert visited(run) == once + ["tasks", "explore", "feedback", "pair", "contrast", "evaluate"] * 2


def test_with_one_generation_it_only_clones(tmp_path: Path, base: str) -> None:
    config = CONFIG.model_copy(update={"tasks": 3, "evaluated": 3, "generations": 1})
    directory = play(tmp_path / "run", config, {"actor": pupil(base)})
    assert visited(directory)[-1] == "evaluate_clone"
    assert result(directory)["finished"]


def test_failures_of_its_own_make_it_better_than_cloning_alone(run: Path) -> None:
    frozen, cloned, *iterated = [sum(score for (score,) in row["scores"].values()) / 6 for row in generations(run)]
    assert frozen < cloned < iterated[0] == iterated[1]
    assert result(run)["verdict"] == "improved"


def test_experts_play_by_the_book_and_ask_no_model(run: Path) -> None:
    for task, shown in episodes(run, 1).items():
        assert replies(shown) == Corridor().expert(shown.task)
        assert shown.cost.calls == 0
        assert shown.model == "expert"
        assert prompt(shown, 0) == prompt(episodes(run, 2)[task], 0)
    assert not calls(run, phase="train", generation=1)


def test_a_policy_as_good_as_its_expert_is_left_as_it_is(tmp_path: Path, base: str) -> None:
    config = CONFIG.model_copy(update={"tasks": 3, "evaluated": 3, "options": {"kinds": ["plain"]}, "generations": 2})
    directory = play(tmp_path / "run", config, {"actor": pupil(base)})
    clone, after = [row["model"]["adapter"] for row in generations(directory)[1:]]
    assert clone == after


def test_without_an_expert_its_own_successes_are_what_it_clones(tmp_path: Path, base: str) -> None:
    def lucky(messages: Sequence[BaseMessage], options: Sequence[str], adapter: str) -> list[float]:
        return walker(messages, options, adapter) if adapter else [0.0 for _ in options]

    actor = Pupil(path=base, script=lambda messages, *_: first_option(messages), score=lucky)
    settings = {**SETTINGS, "experts": "own", "samples": 6, "explore_temperature": 1.0}
    config = CONFIG.model_copy(update={"tasks": 3, "evaluated": 3, "settings": settings, "generations": 1})
    directory = play(tmp_path / "run", config, {"actor": actor})
    with memory_of(directory) as memory:
        tried = [each.trajectories[0] for each in memory.ledger.episodes(phase="train", generation=1)]
    assert len(tried) == 18
    won = {each.task.id for each in tried if each.outcome.success}
    (cloned,) = (directory / "datasets").glob("eto-experts@*")
    assert won
    assert {item.task.removeprefix("corridor/") for item in read_jsonl(cloned).items} == won


def test_a_finished_run_that_is_resumed_trains_and_asks_nothing_again(run: Path, base: str) -> None:
    before, asked, trained = result(run), len(calls(run)), [each.full_name for each in Adapters(run).ls()]
    resume(run, {"actor": pupil(base)})
    assert (result(run), len(calls(run)), [each.full_name for each in Adapters(run).ls()]) == (before, asked, trained)


@pytest.mark.parametrize("environment", eto.ENVIRONMENTS)
@pytest.mark.filterwarnings("ignore:path is deprecated:DeprecationWarning")  # by textcraft's own import
def test_it_runs_to_a_report_on_each_of_its_environments(tmp_path: Path, base: str, environment: str) -> None:
    quick = {**QUICK, "steps": 1, "max_length": 6_000}
    config = RunConfig(
        recipe="eto",
        environment=environment,
        tasks=2,
        evaluated=2,
        generations=2,
        settings={"cloning": quick, "contrasting": quick},
        embedder="hash",
    )
    actor = Pupil(
        path=base,
        script=lambda messages, *_: first_option(messages),
        score=lambda messages, options, adapter: repeats_or_guesses(messages, options),
    )
    report = result(play(tmp_path / "run", config, {"actor": actor}))
    assert report["finished"]
    assert [row["generation"] for row in report["generations"]] == [0, 1, 2]
