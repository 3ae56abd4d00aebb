"""Scripted solvers of word problems, and what recipes that train on solutions left behind."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from langchain_core.messages import BaseMessage
from systems.runs import memory_of

from evolvent.agents.run import RunConfig
from evolvent.environments.catalog import build_inline
from evolvent.environments.protocol import EnvironmentSpec
from evolvent.environments.types import Split, Task
from evolvent.memory.weights.adapters import Adapter, Adapters
from evolvent.memory.weights.dataset import DataSet, Example, read_jsonl
from evolvent.memory.weights.sft import train_sft
from evolvent.memory.weights.training import TENSORS, Training

WRONG = "In all: <<1+1=2>>\nThe answer is 0."


def problems(config: RunConfig, split: Split = "train", more: int = 0) -> list[Task]:
    """The run's training problems and `more` of them, or its held-out ones."""
    world = build_inline(EnvironmentSpec(config.environment, config.options))
    return world.tasks(split, (config.tasks if split == "train" else config.evaluated) + more, config.seed * 1000)


def questions(config: RunConfig) -> list[Task]:
    """The training tasks of all generations of a run that has others in each, in order."""
    world = build_inline(EnvironmentSpec(config.environment, config.options))
    drawn = [
        world.tasks("train", config.tasks, config.seed * 1000 + number) for number in range(1, config.generations + 1)
    ]
    return [task for tasks in drawn for task in tasks]


def last_question(messages: Sequence[BaseMessage], tasks: Sequence[Task]) -> Task:
    """The problem that is asked, behind any that are shown solved."""
    text = str(messages[-1].text)
    return max(tasks, key=lambda task: text.rfind(task.prompt))


def adapters(run: Path, name: str) -> list[Adapter]:
    """Those that each generation in turn trained under that name."""
    with memory_of(run) as memory:
        keys = [f"{generation}/train/{name}" for generation in sorted(memory.ledger.generations())]
        known = [memory.ledger.memo(key) for key in keys]
    return [Adapters(run).get(each) for each in known if each]


def data_of(run: Path, adapter: Adapter) -> DataSet:
    """What it was trained on."""
    (folder,) = (run / "datasets").glob(f"*@{adapter.card.dataset_hash}")
    return read_jsonl(folder)


def rows(run: Path, adapter: Adapter) -> tuple[Example, ...]:
    return data_of(run, adapter).examples


def trained_from(base: str, run: Path, adapter: Adapter, out: Path) -> bytes:
    """The weights that the adapter's data and settings make of the base and nothing else."""
    settings = {key: value for key, value in adapter.card.config.items() if key in Training.model_fields}
    train_sft(base, data_of(run, adapter).rows, out, Training.model_validate(settings))
    return (out / TENSORS).read_bytes()


def weights(adapter: Adapter) -> bytes:
    return (adapter.folder / TENSORS).read_bytes()


def generation_of(example: Example) -> set[int]:
    """In which its attempts were made."""
    return {int(origin.trajectory.split("/")[1]) for origin in example.origins}


def task_of(example: Example) -> str:
    """The id of its problem."""
    return example.task.partition("/")[2]
