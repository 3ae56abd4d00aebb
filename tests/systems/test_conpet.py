"""ConPET's signature, line by line, through a stream of three tasks of two classes each, learned by real weights."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from math import exp, fsum
from pathlib import Path
from typing import Any

import pytest
import torch
from langchain_core.messages import BaseMessage
from safetensors.torch import load_file
from systems.problems import adapters, rows
from systems.runs import calls, generations, play, visited
from systems.streams import Chooser
from tiny_llama import write_base
from torch import nn

from evolvent.agents.run import RunConfig, result
from evolvent.environments.labelled import Labelled
from evolvent.memory.weights.adapters import Adapters
from evolvent.memory.weights.dataset import Messages
from evolvent.memory.weights.experts import HEAD, UNSELECTED, Budget, Case, Experts, forced, train_selector, widened
from evolvent.memory.weights.mixing import budgeted

STAGES, LABELS, EPOCHS, BATCHES = 3, 2, 5, 5
STREAM = [{"task": task, "labels": LABELS} for task in ("intents-1", "entities-1", "intents-2")]


def config(**settings: Any) -> RunConfig:
    budget = {"epochs": EPOCHS, "batches": BATCHES, "batch_size": 8, "learning_rate": 1e-2, "targets": []}
    return RunConfig(
        recipe="conpet",
        environment="labelled",
        tasks=12,
        evaluated=6,
        generations=STAGES,
        settings={"stream": STREAM, **budget, **settings},
        embedder="hash",
    )


def silent(messages: Sequence[BaseMessage], adapter: str, seed: int, temperature: float) -> str:
    raise AssertionError("a classifier writes nothing")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, base: str) -> Path:
    actor = Chooser(path=base, script=silent)
    return play(tmp_path_factory.mktemp("conpet") / "run", config(), {"actor": actor})


@pytest.fixture(scope="module")
def experts(run: Path, base: str) -> Experts:
    """What the last generation acted with."""
    *_, selector = adapters(run, "selector")
    folders = [each.folder for each in adapters(run, "expert")]
    return Experts(base, folders, [LABELS] * STAGES, selector=selector.folder)


def held_out(run: Path, generation: int = STAGES) -> list[tuple[int, Messages]]:
    """(place of its task in the stream, prompt) of each held-out episode."""
    found = []
    for row in calls(run, phase="eval", generation=generation):
        (place,) = (at for at, each in enumerate(STREAM) if row["task"].startswith(f"{each['task']}-w"))
        found.append((place, tuple(row["messages"])))
    return found


@pytest.mark.signature("conpet", 0)
@pytest.mark.parametrize("name", ["expert", "selector"])
def test_every_task_takes_the_same_number_of_steps(run: Path, name: str) -> None:
    steps = [each.card.metrics["steps"] for each in adapters(run, name)]
    assert steps == [EPOCHS * 4] * (STAGES if name == "expert" else STAGES - 1)
    seen = [each.card.metrics["rows"] for each in adapters(run, name)]
    assert seen == sorted(set(seen)), "though the data grow"


@pytest.mark.signature("conpet", 1)
def test_half_of_a_batch_is_new_and_every_earlier_task_is_drawn_as_often_whatever_its_size() -> None:
    old = [[f"a{i}" for i in range(3)], [f"b{i}" for i in range(300)], [f"c{i}" for i in range(30)]]
    new = [f"new{i}" for i in range(10)]
    batches = budgeted(new, old, batches=600, size=10, seed=0)
    assert all(sum(each.startswith("new") for each in batch) == 5 for batch in batches)
    drawn = Counter(each[0] for batch in batches for each in batch if not each.startswith("new"))
    assert all(abs(drawn[task] - 1000) < 100 for task in "abc"), drawn
    assert set(Counter(each for batch in batches for each in batch if each in new).values()) == {300}
    assert all(each in new for batch in budgeted(new, [], batches=5, size=10, seed=0) for each in batch)


@pytest.mark.signature("conpet", 2)
def test_each_task_adds_one_adapter_and_leaves_the_earlier_ones_bit_for_bit(run: Path) -> None:
    told = [row["experts"] for row in generations(run)[1:]]
    for number, names in enumerate(told, start=1):
        assert len(set(names)) == number
    assert all(later[:-1] == earlier for earlier, later in pairwise(told))
    for expert in adapters(run, "expert"):
        assert {HEAD, "adapter_model.safetensors"} <= set(Adapters(run).check(expert).card.files)
        assert expert.card.parents == ()


@pytest.mark.signature("conpet", 3)
def test_one_expert_and_the_selector_run_and_probabilities_are_over_all_classes(run: Path, experts: Experts) -> None:
    for _, messages in held_out(run):
        decision = experts.decide(messages)
        (selected,) = decision.selected
        assert decision.executed == ("selector", f"task-{selected}")
        own = slice(LABELS * selected, LABELS * (selected + 1))
        others = [*decision.logits[: own.start], *decision.logits[own.stop :]]
        assert others == [UNSELECTED] * (LABELS * (STAGES - 1))
        assert list(decision.logits[own]) == experts.own_logits(selected, messages)
        assert fsum(map(exp, decision.logprobs)) == pytest.approx(1, abs=1e-5)


@pytest.mark.signature("conpet", 4)
def test_the_true_task_runs_in_training_and_at_test_time_only_if_it_is_selected(run: Path, experts: Experts) -> None:
    assert forced((2,), 0) == (0,)
    assert forced((2, 1), 0) == (2, 0)
    assert forced((0, 2), 2) == (0, 2)
    for number, expert in enumerate(adapters(run, "expert")[:-1]):
        read = json.loads((run / "conpet" / f"{expert.full_name}.json").read_text())
        own = {repr(row.messages) for row in rows(run, expert) if f"/{name(number)}" in row.task}
        assert set(read) == own, "top-1: an earlier expert runs for the cases of its task, and for no others"
    for _, messages in held_out(run):
        assert experts.decide(messages).selected == experts.rank(messages)[:1]


def name(place: int) -> str:
    return f"{STREAM[place]['task']}-w"


@pytest.mark.signature("conpet", 5)
def test_a_wider_selector_goes_on_from_the_weights_it_had(run: Path, base: str, tmp_path: Path) -> None:
    before = nn.Linear(4, 2)
    after = widened(before, 3)
    assert torch.equal(after.weight[:2], before.weight)
    assert torch.equal(after.bias[:2], before.bias)
    first, second = adapters(run, "selector")
    assert (first.card.parents, second.card.parents) == ((), (first.full_name,))
    cases = [Case(row.messages, 2, 0) for row in rows(run, second)]
    standing = Budget(epochs=1, batches=2, batch_size=2, learning_rate=1e-9)
    train_selector(base, cases[:4], [cases[4:6], cases[6:8]], tmp_path / "wide", standing, start=first.folder)
    narrow, wide = load_file(first.folder / HEAD), load_file(tmp_path / "wide" / HEAD)
    assert wide["weight"].shape[0] == 3
    torch.testing.assert_close(wide["weight"][:2], narrow["weight"])
    torch.testing.assert_close(wide["bias"][:2], narrow["bias"])


def known(run: Path, experts: Experts, place: int, name: str) -> float:
    """Share of what a task taught whose class is, of all classes so far, still the likeliest."""
    seen = STREAM[: len(generations(run)) - 1]
    classes = [label for each in seen for label in Labelled(**each).tasks("train", 1, 0)[0].data["labels"]]
    right = []
    for row in rows(run, adapters(run, name)[-1]):
        if row.task.startswith(f"labelled/{STREAM[place]['task']}-w"):
            logprobs = experts.decide(row.messages).logprobs
            right.append(classes[max(range(len(classes)), key=lambda i: logprobs[i])] == row.completion)
    return sum(right) / len(right)


def test_one_adapter_that_sees_nothing_old_forgets_the_first_task_and_both_versions_keep_it(
    run: Path, experts: Experts, base: str, tmp_path: Path
) -> None:
    """On what was taught: weights so small say little of what was not."""
    kept = {"dynamic": known(run, experts, 0, "expert")}
    for version in ("static", "sequential"):
        asked = config(version=version, stream=STREAM[:2]).model_copy(update={"generations": 2})
        other = play(tmp_path / version, asked, {"actor": Chooser(path=base, script=silent)})
        *_, last = adapters(other, "static")
        one = Experts(base, [last.folder], [2 * LABELS], selector=None)
        kept[version] = known(other, one, 0, "static")
        assert [each.card.metrics["steps"] for each in adapters(other, "static")] == [EPOCHS * 4] * 2
    assert kept["sequential"] < 0.2, kept
    assert min(kept["dynamic"], kept["static"]) > 0.5, kept


def test_every_generation_goes_through_each_phase_in_turn_and_tells_how_often_the_right_expert_was_selected(
    run: Path,
) -> None:
    assert visited(run) == ["baseline", *["task", "demonstrate", "select", "specialise", "evaluate"] * STAGES]
    _, first, *others = generations(run)
    assert first["selected"] is None
    assert all(0 <= row["selected"] <= 1 for row in others)
    assert result(run)["finished"]
