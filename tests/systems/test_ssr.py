"""SSR's signature, line by line, through a stream of four commands, each a task of its own.

The scripted model signs what it says: inputs that it makes up, and answers to them. It also gives an output with every
input, and copies a real one in every reply; neither may be learned from.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from langchain_core.messages import BaseMessage
from pupil import Pupil
from systems.problems import adapters, rows, weights
from systems.runs import calls, generations, play, prompt, visited
from systems.streams import Chooser, nats
from tiny_llama import write_base

from evolvent.agents.run import RunConfig, result
from evolvent.agents.tasks.synthesis import central, inputs_of
from evolvent.environments.labelled import Labelled
from evolvent.environments.types import Task
from evolvent.memory.weights.dataset import Example, read_jsonl
from evolvent.memory.weights.sft import train_sft
from evolvent.memory.weights.training import TENSORS, Training

STAGES = 4
STREAM = [{"task": f"instructions-{number}"} for number in range(1, STAGES + 1)]
UNLEARNED = "an output that nobody may learn"


def config(stream: Sequence[dict[str, Any]] = STREAM, **settings: Any) -> RunConfig:
    return RunConfig(
        recipe="ssr",
        environment="labelled",
        tasks=8,
        evaluated=2 * len(stream),
        generations=len(stream),
        settings={
            **{"stream": list(stream), "demonstrations": 3, "rehearsal": 6, "clusters": 3},
            **{"epochs": 2, "batch_size": 8, "learning_rate": 1e-2, "targets": []},
            **settings,
        },
        embedder="hash",
    )


def signing(messages: Sequence[BaseMessage], adapter: str, seed: int, temperature: float) -> str:
    name, asked = adapter or "base", str(messages[-1].text)
    if asked.endswith("Input:"):
        copied = asked.split("Input: ")[1].split("\n")[0]
        return f" {name} made up {seed}\nOutput: {UNLEARNED}\n\nInput: {copied}\nOutput: {UNLEARNED}"
    return f"{name} says {len(asked)}"


def real_tasks(generation: int) -> list[Task]:
    """Training tasks of that stage."""
    return Labelled(**STREAM[generation - 1]).tasks("train", 8, generation)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, base: str) -> Path:
    actor = Pupil(path=base, script=signing)
    return play(tmp_path_factory.mktemp("ssr") / "run", config(), {"actor": actor})


def pool(run: Path, name: str) -> tuple[Example, ...]:
    return read_jsonl(run / "datasets" / name).examples


def trained_on(run: Path, generation: int) -> tuple[Example, ...]:
    return rows(run, adapters(run, "ssr")[generation - 1])


@pytest.mark.signature("ssr", 0)
def test_the_frozen_model_makes_up_the_inputs_and_the_newest_weights_answer_them(run: Path) -> None:
    names = generations(run)[-1]["pools"]
    assert len(names) == STAGES - 1
    for name, adapter in zip(names, adapters(run, "ssr"), strict=False):
        for row in pool(run, name):
            assert row.messages[-1]["content"].startswith("base made up")
            assert row.completion.startswith(f"{adapter.full_name} says")
    assert {row["model"] for row in calls(run, purpose="synthesise")} == {"smollm2"}
    for generation, adapter in enumerate(adapters(run, "ssr")[:-1], start=1):
        answered = calls(run, purpose="relabel", generation=generation)
        assert {row["model"] for row in answered} == {f"smollm2+{adapter.full_name}"}


@pytest.mark.signature("ssr", 1)
def test_what_came_out_together_with_an_input_is_never_trained_on(run: Path) -> None:
    assert all(UNLEARNED in row["reply"] for row in calls(run, purpose="synthesise"))
    for generation in range(1, STAGES + 1):
        assert not any(UNLEARNED in str(row) for row in trained_on(run, generation))


@pytest.mark.signature("ssr", 2)
def test_no_real_example_of_an_earlier_task_is_trained_on_though_a_reply_copied_one(run: Path) -> None:
    for generation in range(1, STAGES + 1):
        own = trained_on(run, generation)
        real = {f"labelled/{task.id}" for task in real_tasks(generation)}
        assert {row.task for row in own if row.source == "episode"} == real
        earlier = [task.prompt for number in range(1, generation) for task in real_tasks(number)]
        assert not any(text in row.messages[-1]["content"] for row in own for text in earlier)
        assert sum(row.source == "rehearsal" for row in own) == 6 * (generation - 1)
    shown = real_tasks(1)[:3]
    for row in calls(run, purpose="synthesise", generation=1):
        assert sum(task.prompt in prompt(row) for task in shown) == 2
        assert any(task.prompt in row["reply"] for task in shown)


@pytest.mark.signature("ssr", 3)
def test_a_pool_is_made_once_right_after_its_task_and_stays_as_it_is(run: Path) -> None:
    made = Counter(row["generation"] for row in calls(run, purpose="synthesise"))
    assert made == {1: 6, 2: 6, 3: 6}, "each ordered pair of three demonstrations, and none at stage 4"
    for generation in (1, 2, 3):
        (task,) = {each["task"] for each in calls(run, purpose="relabel", generation=generation)}
        assert task in {each.id for each in real_tasks(generation)}
    rows_of = generations(run)[1:]
    for earlier, later in pairwise(rows_of):
        assert later["pools"][: len(earlier["pools"])] == earlier["pools"]
    third, fourth = ({row for row in _said(run, number) if "made up" in row[0]} for number in (3, 4))
    assert third < fourth


@pytest.mark.signature("ssr", 4)
def test_each_cluster_gives_a_share_like_its_size_of_what_is_nearest_to_its_centre(run: Path) -> None:
    random = np.random.default_rng(0)
    sizes, places = (60, 30, 10), np.eye(3, 8) * 50
    vectors = np.concatenate([place + random.normal(size=(size, 8)) for size, place in zip(sizes, places, strict=True)])
    chosen = central(vectors.astype(np.float32), clusters=3, wanted=20, seed=0)
    for first, size, share in ((0, 60, 12), (60, 30, 6), (90, 10, 2)):
        members = vectors[first : first + size]
        far = np.linalg.norm(members - members.mean(0), axis=1)
        assert [each - first for each in chosen if first <= each < first + size] == sorted(np.argsort(far)[:share])
    crowded = central(vectors.astype(np.float32), clusters=3, wanted=4, seed=0)
    assert any(each >= 90 for each in crowded), "the smallest cluster is not left out"
    assert [len(pool(run, name)) for name in generations(run)[-1]["pools"]] == [6, 6, 6]


@pytest.mark.signature("ssr", 5)
def test_every_stage_goes_on_from_the_weights_of_the_one_before(run: Path, base: str, tmp_path: Path) -> None:
    made = adapters(run, "ssr")
    for earlier, later in pairwise(made):
        assert later.card.parents == (earlier.full_name,)
    second = made[1]
    settings = {key: value for key, value in second.card.config.items() if key in Training.model_fields}
    data = [dict(each) for each in _rows(run, second.card.dataset_hash)]
    again = Training.model_validate(settings)
    train_sft(base, data, tmp_path / "on", again, start=made[0].folder)
    train_sft(base, data, tmp_path / "anew", again)
    assert (tmp_path / "on" / TENSORS).read_bytes() == weights(second)
    assert (tmp_path / "anew" / TENSORS).read_bytes() != weights(second)


def _said(run: Path, generation: int) -> set[tuple[str, str]]:
    return {(row.messages[-1]["content"], row.completion) for row in trained_on(run, generation)}


def _rows(run: Path, digest: str) -> tuple[Any, ...]:
    (folder,) = (run / "datasets").glob(f"*@{digest}")
    return read_jsonl(folder).rows


def test_a_reply_is_cut_into_inputs_and_its_outputs_are_left_out() -> None:
    text = " Blark: tin rope\nOutput: rope\n\nInput: Blark: lamp\nOutput: lamp\n\nInput:\nOutput: nothing\nInput: Blark"
    assert inputs_of(text) == ["Blark: tin rope", "Blark: lamp", "Blark"]
    assert inputs_of("Input: once\n\nSome talk.") == ["once"]


def test_every_generation_goes_through_each_phase_in_turn_and_tells_how_the_stream_is_known(run: Path) -> None:
    once = ["task", "demonstrate", "mix", "update", "synthesise", "relabel", "evaluate"]
    assert visited(run) == ["baseline", *once * STAGES]
    assert result(run)["finished"]
    for generation, row in enumerate(generations(run)):
        assert len(row["by_task"]) == STAGES
        assert ("transfer" in row) == (generation > 0)


INTENTS = [{"task": "intents-1"}, {"task": "intents-2"}]


def test_an_earlier_task_is_forgotten_without_rehearsal_and_far_less_with_it(tmp_path: Path, base: str) -> None:
    """Told by the weights themselves: what an answer to the first task costs them, in nats per token.

    Nothing as small can make up inputs, so it takes what the environment would ask.
    """

    def after(rehearsed: int) -> tuple[float, float, float]:
        """Before the first task, after it and after the second."""
        invented = iter([task.prompt for task in Labelled(task="intents-1").tasks("validation", 18, 0)])

        def inventing(messages: Sequence[BaseMessage], adapter: str, seed: int, temperature: float) -> str:
            return f" {next(invented)}\nOutput: {UNLEARNED}"

        asked = config(INTENTS, rehearsal=rehearsed, epochs=14, demonstrations=3, samples=3)
        asked = asked.model_copy(update={"tasks": 12})
        run = play(tmp_path / str(rehearsed), asked, {"actor": Chooser(path=base, script=inventing)})
        first, second = adapters(run, "ssr")
        real = rows(run, first)
        return nats(base, None, real), nats(base, first, real), nats(base, second, real)

    unknown, learned, forgotten = after(0)
    assert learned < 1
    assert forgotten > learned + 1
    same, again, kept = after(10)
    assert (same, again) == (unknown, learned)
    assert kept - learned < (forgotten - learned) / 2
