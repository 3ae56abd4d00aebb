"""Elastic reset's signature, line by line: a tiny model is trained by reward, with resets and without."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from systems.letters import TOKENS, Letters
from systems.runs import generations, memory_of, play, resume, visited
from tiny_llama import write_base
from torch import Tensor

from evolvent.agents.errors import SetupError
from evolvent.agents.feedback.verifier import Verifier, key
from evolvent.agents.models.local import LocalChatModel
from evolvent.agents.recipes import elastic_reset
from evolvent.agents.run import RunConfig, result
from evolvent.environments.workshop import Workshop
from evolvent.memory.weights.adapters import Adapters
from evolvent.memory.weights.dataset import read_jsonl
from evolvent.memory.weights.ppo import train_ppo
from evolvent.memory.weights.ppo_step import Ppo
from evolvent.memory.weights.regularize import Elastic, ElasticReset
from evolvent.memory.weights.training import Training

Weights = dict[str, Tensor]
WINDOW, DECAY = 3, 0.8
CONFIG = RunConfig(
    recipe="elastic-reset",
    environment="systems.letters:Letters",
    tasks=6,
    evaluated=4,
    generations=4,  # of one update each, so that every generation shows what an update made
    settings={
        **{"updates": 1, "reset_every": WINDOW, "decay": DECAY, "kl": 0.05, "prose": 0},
        **{"batch_size": 32, "minibatch": 16, "reply_tokens": TOKENS, "learning_rate": 3e-2, "rank": 4},
    },
    embedder="hash",
)
PLAIN = CONFIG.model_copy(update={"settings": {**CONFIG.settings, "reset_every": 0}})


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Nearly undecided, so that replies differ."""
    return write_base(tmp_path_factory.mktemp("base"), initializer_range=0.1, num_hidden_layers=1)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, base: str) -> Path:
    return play(tmp_path_factory.mktemp("elastic") / "run", CONFIG, {"actor": LocalChatModel(path=base)})


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory, base: str) -> Path:
    """The same without resets."""
    return play(tmp_path_factory.mktemp("plain") / "run", PLAIN, {"actor": LocalChatModel(path=base)})


Train = Callable[..., Path]


@pytest.fixture(scope="module")
def train(tmp_path_factory: pytest.TempPathFactory, base: str, run: Path) -> Train:
    """The training of `run`, on the prompts of that and stopped after so many updates, with another window."""
    (folder,) = (run / "datasets").iterdir()
    rows = read_jsonl(folder).rows
    training = Training(steps=4, batch_size=32, learning_rate=3e-2, rank=4)
    asked = {key(row["prompt"]): task for row in rows for task in tasks() if f"/{task.id}" in row["task"]}
    settings = Ppo(beta=0.05, epochs=1, minibatch=16, reply_tokens=TOKENS)

    def stopped(until: int, elastic: Elastic | None) -> Path:
        out = tmp_path_factory.mktemp("training") / "a"
        reward = Verifier(Letters(), asked, 0)
        train_ppo(base, rows, out, training, reward=reward, settings=settings, elastic=elastic, until=until)
        return out

    return stopped


def tasks() -> list[Any]:
    return Letters().tasks("train", CONFIG.tasks, 0)


def policies(directory: Path) -> list[Weights]:
    """After each update, from the first on."""
    names = [row["model"]["adapter"] for row in generations(directory)[1:]]
    return [weights(Adapters(directory).get(name).folder) for name in names]


def weights(folder: Path) -> Weights:
    return load_file(folder / "adapter_model.safetensors")


def kept(folder: Path) -> Any:
    """What a stopped training goes on from."""
    return torch.load(folder / "checkpoints" / "ppo.pt", weights_only=True)


@pytest.fixture(scope="module")
def initial(train: Train) -> Weights:
    """The policy before any update: what a reset leaves that forgets all but nothing."""
    return weights(train(1, Elastic(decay=1 - 1e-12, every=1)))


def same(one: Weights, other: Weights) -> bool:
    return one.keys() == other.keys() and all(torch.allclose(one[name], other[name], atol=1e-6) for name in one)


def norm(one: Weights, other: Weights) -> float:
    return float(torch.cat([(one[name] - other[name]).flatten() for name in one]).norm())


@pytest.mark.signature("elastic-reset", 0)
def test_after_a_window_the_policy_is_the_average_of_that_window(run: Path, plain: Path, initial: Weights) -> None:
    """Until its reset a window is that of plain PPO, whose policies give the average by hand."""
    average = initial
    for policy in policies(plain)[:WINDOW]:
        average = {name: DECAY * average[name] + (1 - DECAY) * policy[name] for name in average}
    assert same(policies(run)[WINDOW - 1], average)
    assert not same(policies(run)[WINDOW - 1], policies(plain)[WINDOW - 1])


@pytest.mark.signature("elastic-reset", 0)
def test_after_a_reset_the_average_is_the_initial_policy(train: Train, initial: Weights) -> None:
    state = kept(train(WINDOW, Elastic(decay=DECAY, every=WINDOW)))
    started = dict(zip(state["policy"], state["elastic"]["average"], strict=True))
    assert same({name.replace(".default", ""): each for name, each in started.items()}, initial)
    before = kept(train(WINDOW - 1, Elastic(decay=DECAY, every=WINDOW)))
    assert any(not torch.equal(*pair) for pair in zip(before["elastic"]["average"], started.values(), strict=True))


@pytest.mark.signature("elastic-reset", 1)
def test_a_reset_changes_neither_critic_nor_optimizer(train: Train) -> None:
    reset, without = (kept(train(WINDOW, each)) for each in (Elastic(decay=DECAY, every=WINDOW), None))
    torch.testing.assert_close(reset["head"], without["head"], rtol=0, atol=0)
    torch.testing.assert_close(reset["optimizer"], without["optimizer"], rtol=0, atol=0)
    assert reset["head"]["weight"].any(), "the critic had learned something"
    assert all(state["exp_avg"].any() for state in reset["optimizer"]["state"].values())
    assert any(not torch.equal(each, without["policy"][name]) for name, each in reset["policy"].items())


@pytest.mark.signature("elastic-reset", 2)
def test_until_the_first_reset_the_run_is_that_of_plain_ppo(run: Path, plain: Path) -> None:
    ours, theirs = policies(run), policies(plain)
    for update in range(WINDOW - 1):
        assert all(torch.equal(ours[update][name], theirs[update][name]) for name in theirs[update])
    curves = [[point for row in generations(each)[1:] for point in row["curve"]] for each in (run, plain)]
    for one, other in zip(*curves, strict=True):
        if one["update"] <= WINDOW:
            assert (one["reward"], one["kl"]) == (other["reward"], other["kl"])


@pytest.mark.signature("elastic-reset", 2)
def test_a_window_longer_than_the_training_changes_nothing(train: Train) -> None:
    ours, theirs = (weights(train(4, each)) for each in (Elastic(decay=DECAY, every=5), None))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.signature("elastic-reset", 3)
def test_a_reset_goes_a_part_of_the_way_back_and_the_kl_falls(run: Path, plain: Path, initial: Weights) -> None:
    went = [norm(policy, initial) for policy in policies(plain)[:WINDOW]]
    assert 0 < norm(policies(run)[WINDOW - 1], initial) <= max(went)
    points = [point for row in generations(run)[1:] for point in row["curve"]]
    assert [point["reset"] for point in points] == [False, False, True, False]
    *_, before, after = [point["kl"] for point in points]
    assert 0 < after < before
    assert after < generations(plain)[4]["curve"][0]["kl"]


@pytest.mark.signature("elastic-reset", 4)
def test_a_slow_average_resets_all_and_a_fast_one_nothing(train: Train, initial: Weights, plain: Path) -> None:
    third = policies(plain)[WINDOW - 1]
    assert same(weights(train(WINDOW, Elastic(decay=1 - 1e-12, every=WINDOW))), initial)
    assert same(weights(train(WINDOW, Elastic(decay=0, every=WINDOW))), third)
    assert not same(third, initial)


@pytest.mark.signature("elastic-reset", 4)
def test_each_window_of_the_average_starts_from_the_initial_policy() -> None:
    policy = torch.tensor([2.0])
    elastic = ElasticReset([policy], Elastic(decay=0.5, every=2))
    seen = []
    for _ in range(4):
        policy += 4
        elastic.after_update()
        seen.append(policy.item())
    # The average of the first window: 2, then (2 + 6) / 2 = 4, then (4 + 10) / 2 = 7. The second begins at 2 again,
    # not at 7: (2 + 11) / 2 = 6.5, then (6.5 + 15) / 2 = 10.75.
    assert seen == [6, 7, 11, 10.75]


def test_each_generation_goes_through_every_phase(run: Path) -> None:
    assert visited(run) == ["baseline"] + ["tasks", "solve", "feedback", "optimise", "evaluate"] * 4


def test_one_training_goes_on_through_the_generations_and_each_leaves_an_adapter(run: Path) -> None:
    adapters = [Adapters(run).get(row["model"]["adapter"]) for row in generations(run)[1:]]
    assert [len(each.card.parents) for each in adapters] == [0, 1, 1, 1]
    assert [each.card.parents[0] for each in adapters[1:]] == [each.full_name for each in adapters[:-1]]
    assert [each.card.metrics["steps"] for each in adapters] == [1, 2, 3, 4]
    assert {each.card.config["method"] for each in adapters} == {"ppo"}
    with memory_of(run) as memory:
        (data,) = [each for each in memory.records().values() if each.kind == "dataset"]
        sources = [memory.ledger.trajectory(parent) for parent in data.parents]
    assert {(each.phase, each.generation) for each in sources if each} == {("train", 1)}


def test_a_finished_run_that_is_resumed_trains_nothing_again(run: Path, base: str) -> None:
    before, trained = result(run), [each.full_name for each in Adapters(run).ls()]
    resume(run, {"actor": LocalChatModel(path=base)})
    assert (result(run), [each.full_name for each in Adapters(run).ls()]) == (before, trained)
    assert not list((run / "training").iterdir())


def test_an_episode_of_several_steps_is_no_reward_for_one_reply() -> None:
    with pytest.raises(SetupError, match="Episodes of Workshop have 6 steps"):
        Verifier(Workshop(), {}, 0)


@pytest.mark.parametrize("environment", elastic_reset.ENVIRONMENTS)
def test_it_runs_to_a_report_on_each_of_its_environments(tmp_path: Path, base: str, environment: str) -> None:
    settings = {**CONFIG.settings, "prose": 1, "batch_size": 4, "minibatch": 4, "reply_tokens": 4}
    config = RunConfig(
        recipe="elastic-reset",
        environment=environment,
        tasks=2,
        evaluated=2,
        generations=1,
        settings=settings,
        embedder="hash",
    )
    directory = play(tmp_path / "run", config, {"actor": LocalChatModel(path=base)})
    assert result(directory)["finished"]
    drift = generations(directory)[-1]["drift"]
    assert drift["nats"] > 0
    assert drift["frozen_nats"] > 0
