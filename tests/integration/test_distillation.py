"""Distil, verify, retire: whole runs of `lamarck` whose actor has real, tiny weights and a scripted tongue."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from langchain_core.messages import BaseMessage
from pupil import Pupil
from systems.runs import calls, generations, memory_of, play, prompt, resume, visited
from tiny_llama import write_base
from workshop_scorer import first_option, repeats_or_guesses

from evolvent.agents.errors import AdapterMismatchError
from evolvent.agents.run import RunConfig, create
from evolvent.environments.workshop import Workshop
from evolvent.memory.embedding import HashEmbedder
from evolvent.memory.store import Memory
from evolvent.memory.types import Event, Record
from evolvent.memory.weights.adapters import Adapters

CONFIG = RunConfig(
    recipe="lamarck",
    tasks=8,
    evaluated=10,
    generations=2,
    embedder="hash",
    settings={"distil_every": 2, "distillation": {"steps": 12, "learning_rate": 5e-3, "pairs": 40, "rehearse": 2}},
)
LAWS = [law.text for law in Workshop().laws()]


def knowing(laws: Sequence[str]) -> Callable[[Sequence[BaseMessage], Sequence[str], str], list[float]]:
    """Scores of an actor whose adapter has learned just these laws; its prompt is believed first."""

    def score(messages: Sequence[BaseMessage], options: Sequence[str], adapter: str) -> list[float]:
        plain = repeats_or_guesses(messages, options)
        return [value + 6.0 * bool(adapter and line in laws) for value, line in zip(plain, options, strict=True)]

    return score


def pupil(base: str, laws: Sequence[str], kind: type[Pupil] = Pupil) -> Pupil:
    return kind(path=base, script=lambda messages, *_: first_option(messages), score=knowing(laws))


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, base: str) -> Path:
    return play(tmp_path_factory.mktemp("distilled") / "run", CONFIG, {"actor": pupil(base, LAWS)})


def records(directory: Path, kind: str) -> list[Record]:
    with memory_of(directory) as memory:
        return [record for record in memory.records().values() if record.kind == kind]


def verdict(directory: Path) -> tuple[str, Event]:
    """The commit in which the adapter was judged, and the judgement."""
    with memory_of(directory) as memory:
        (commit,) = [each for each in memory.ledger.commits() if each.key.startswith("2/distil-")]
        return commit.id, memory.ledger.events_of(commit.id)[0]


def test_what_weights_know_leaves_the_prompt_and_success_stays(run: Path) -> None:
    assert visited(run)[-2:] == ["distil", "evaluate"]
    (adapter,) = records(run, "adapter")
    assert adapter.status == "active"
    assert "active" not in {record.status for record in records(run, "rule")}
    assert "retired" in {record.status for record in records(run, "rule")}
    assert {record.status for record in records(run, "trajectory")} == {"retired"}
    last = generations(run)[-1]
    assert last["model"]["adapter"] == adapter.text
    assert last["scores"] == {task: [1.0] for task in last["scores"]}
    evaluated = calls(run, phase="eval", generation=2)
    assert evaluated
    assert all(call["model"].endswith(adapter.text) for call in evaluated)
    assert not any("Remember: " in prompt(call) or "What you know" in prompt(call) for call in evaluated)


def test_the_adapter_is_proved_by_paired_episodes_without_memory(run: Path) -> None:
    (adapter,) = records(run, "adapter")
    _, decided = verdict(run)
    with memory_of(run) as memory:
        pairs = [each.key for each in memory.ledger.episodes(phase="gate") if "/bare-" in each.key]
    evidence = decided.payload["gate"]
    assert evidence["e_value"] >= 1 / evidence["level"]
    ours = [key for key in pairs if key.endswith(f"bare-{adapter.text}")]
    theirs = [key for key in pairs if key.endswith("bare-base")]
    assert len(theirs) == evidence["wins"] + evidence["losses"] + evidence["ties"]
    assert len(ours) == 40  # the others are those in which doing without memory was tried


def test_an_adapter_can_be_traced_to_the_episodes_that_taught_it(run: Path) -> None:
    (adapter,), (dataset,) = records(run, "adapter"), records(run, "dataset")
    assert adapter.parents == (dataset.id,)
    with memory_of(run) as memory:
        sources = [memory.ledger.trajectory(parent) for parent in dataset.parents]
    assert {source.phase for source in sources if source} == {"train"}
    (entry,) = Adapters(run).ls()
    assert (entry.card.dataset, entry.card.dataset_hash) == (dataset.id, dataset.meta["hash"])
    assert (run / "datasets" / f"{dataset.meta['name']}@{dataset.meta['hash']}").is_dir()


def test_one_revert_brings_memory_back_and_puts_the_adapter_aside(run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    with Memory.open(copy, embedder=HashEmbedder()) as memory:
        memory.revert(verdict(copy)[0])
        standing = {
            kind: {r.status for r in memory.records().values() if r.kind == kind} for kind in ("rule", "adapter")
        }
    assert "active" in standing["rule"]
    assert standing["adapter"] == {"candidate"}


def test_a_forgotten_trajectory_takes_its_adapters_out_of_use(run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    (dataset,) = records(run, "dataset")
    source = dataset.parents[0]
    with Memory.open(copy, embedder=HashEmbedder()) as memory:
        memory.forget(source)
        left = {
            record.kind: record.status for record in memory.records().values() if record.kind in ("dataset", "adapter")
        }
    assert "active" not in left.values()


def test_an_adapter_that_has_learned_nothing_is_not_used(tmp_path: Path, base: str) -> None:
    directory = play(tmp_path / "run", CONFIG, {"actor": pupil(base, [])})
    (adapter,) = records(directory, "adapter")
    assert adapter.status == "retired"
    assert "active" in {record.status for record in records(directory, "rule")}
    assert generations(directory)[-1]["model"]["adapter"] == ""
    assert verdict(directory)[1].payload["without_memory"] is None


def test_memory_stays_in_the_prompt_when_doing_without_is_not_shown_to_be_as_good(tmp_path: Path, base: str) -> None:
    directory = play(tmp_path / "run", CONFIG, {"actor": pupil(base, LAWS[:2])})
    (adapter,) = records(directory, "adapter")
    assert adapter.status == "active"
    assert "active" in {record.status for record in records(directory, "rule")}
    assert verdict(directory)[1].payload["without_memory"]["low"] <= -0.10


class Forgetful(Pupil):
    """A server that says it serves an adapter, and serves its base."""

    def with_adapter(self, folder: str | Path) -> Pupil:
        view = super().with_adapter(folder)
        view._real = self._real
        return view


def test_a_server_that_serves_the_base_instead_stops_the_promotion(tmp_path: Path, base: str) -> None:
    directory = tmp_path / "run"
    create(CONFIG, directory)
    with pytest.raises(AdapterMismatchError, match="The base is served without it"):
        resume(directory, {"actor": pupil(base, LAWS, Forgetful)})
    (adapter,) = records(directory, "adapter")
    assert adapter.status == "candidate"
    resume(directory, {"actor": pupil(base, LAWS)})
    (adapter,) = records(directory, "adapter")
    assert adapter.status == "active"


def test_training_ends_with_the_stage_after_which_nothing_is_gained(tmp_path: Path, base: str) -> None:
    settings = {**CONFIG.settings, "distillation": {**CONFIG.settings["distillation"], "stages": 4}}
    config = CONFIG.model_copy(update={"settings": settings})
    directory = play(tmp_path / "run", config, {"actor": pupil(base, LAWS)})
    names = [each.card.name for each in Adapters(directory).ls()]
    assert len(names) == 2  # the second knew no more than the first
    standing = {record.text: record.status for record in records(directory, "adapter")}
    (first, second) = (each.full_name for each in Adapters(directory).ls())
    assert (standing[first], standing[second]) == ("active", "candidate")
    assert Adapters(directory).get(second).card.parents == (first,)
