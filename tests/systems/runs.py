"""What tests of recipes share: a whole run through `agents.run`, and what it left behind."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from langchain_core.language_models import BaseChatModel
from langgraph.checkpoint.sqlite import SqliteSaver

from evolvent.agents.recipes.catalog import load_recipe
from evolvent.agents.rollout import run_sync
from evolvent.agents.run import RunConfig, create, execute, read_config
from evolvent.agents.trace import read_lines
from evolvent.memory.embedding import HashEmbedder
from evolvent.memory.store import Memory


def play(directory: Path, config: RunConfig, models: Mapping[str, BaseChatModel]) -> Path:
    """A finished run; every model call in it was answered."""
    create(config, directory)
    resume(directory, models)
    return directory


def resume(directory: Path, models: Mapping[str, BaseChatModel]) -> None:
    run_sync(execute(directory, models=models))
    errors = [row["error"] for row in calls(directory) if "error" in row]
    assert not errors, errors[0]


def calls(directory: Path, **fields: Any) -> list[dict[str, Any]]:
    """Lines of the trace whose fields have these values, in order."""
    rows = read_lines(directory / "trace.jsonl")
    return [row for row in rows if all(row[name] == value for name, value in fields.items())]


def prompt(call: Mapping[str, Any]) -> str:
    """All messages of a call."""
    return "\n".join(message["content"] for message in call["messages"])


def visited(directory: Path) -> list[str]:
    """Nodes of the recipe's graph in the order they ran, as its checkpoints tell."""
    config = read_config(directory)
    with SqliteSaver.from_conn_string(str(directory / "checkpoints.sqlite")) as saver:
        graph = load_recipe(config.recipe).build(config.recipe_config()).compile(checkpointer=saver)
        history = list(graph.get_state_history({"configurable": {"thread_id": "run"}}))
    return [node for state in reversed(history) for node in state.next if node != "__start__"]


def memory_of(directory: Path) -> Memory:
    return Memory.open(directory, embedder=HashEmbedder(), read_only=True)


def generations(directory: Path) -> list[dict[str, Any]]:
    with memory_of(directory) as memory:
        return [json.loads(text) for text in memory.ledger.generations().values()]


def handed_in(directory: Path) -> list[str]:
    """The replies that were submitted, in the order of the tasks."""
    with memory_of(directory) as memory:
        return [episode.trajectories[0].steps[0].reply for episode in memory.ledger.episodes(phase="train")]
