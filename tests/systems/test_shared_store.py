"""One memory under all systems: what one wrote, `evolvent memory` reads and another system opens and uses."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from command_line import Evolvent, typing
from langchain_core.language_models import BaseChatModel
from systems import (
    test_aesopagent,
    test_ice,
    test_iml,
    test_memgpt,
    test_memorybank,
    test_mot,
    test_tim,
    test_tran,
    test_ua2_agent,
)
from systems.runs import calls, memory_of, play, prompt, resume

from evolvent.agents.models.scripted import ScriptedChatModel
from evolvent.agents.run import RunConfig, create
from evolvent.memory.embedding import HashEmbedder
from evolvent.memory.retrieval import LIVE
from evolvent.memory.store import Memory
from evolvent.memory.types import LEARNED, Event, Record

Made = tuple[RunConfig, Mapping[str, BaseChatModel]]


def _mot() -> Made:
    asked = test_mot.config()
    return asked, {"actor": test_mot.Thinker(asked, lambda task, k: test_mot.chain(7)).model()}


SYSTEMS: dict[str, Callable[[], Made]] = {
    "tran": lambda: (test_tran.config(), {"actor": test_tran.pupil(test_tran.rule)}),
    "mot": _mot,
    "tim": lambda: (test_tim.config(4, 1), {"actor": test_tim.listener()}),
    "memorybank": lambda: (test_memorybank.config(4, 1, 4), {"actor": test_memorybank.listener()}),
    "memgpt": lambda: (test_memgpt.config(4, 1, 4), {"actor": test_memgpt.able()}),
    "iml": lambda: (test_iml.config(9, 4), {"actor": test_iml.reader()}),
    "ice": lambda: (test_ice.config(3, 1, 2), {"actor": test_ice.runner(), "investigator": test_ice.runner()}),
    "ua2-agent": lambda: (test_ua2_agent.config(2, 2), {"actor": test_ua2_agent.shopper()}),
    "aesopagent": lambda: (
        test_aesopagent.config(2, 1, 2),
        {"actor": test_aesopagent.crew(test_aesopagent.knowing(but="images"))},
    ),
}


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A run of each system, played once."""
    folder = tmp_path_factory.mktemp("stores")

    def played(slug: str) -> Path:
        run = folder / slug
        if not run.exists():
            asked, models = SYSTEMS[slug]()
            play(run, asked, models)
        return run

    return played


@pytest.fixture
def evolvent(capsys: pytest.CaptureFixture[str]) -> Evolvent:
    return typing(capsys)


def learned(run: Path) -> list[Record]:
    with memory_of(run) as memory:
        return [each for each in memory.records().values() if each.kind in LEARNED and each.status in LIVE]


@pytest.mark.parametrize("slug", SYSTEMS)
def test_every_store_is_read_questioned_changed_and_moved_by_the_same_commands(
    slug: str, stores: Callable[[str], Path], evolvent: Evolvent, tmp_path: Path
) -> None:
    run = stores(slug)
    kept = learned(run)
    assert kept, f"{slug} learned nothing"
    listed = {row["id"] for row in evolvent("memory", "ls", run, "--json").json}
    assert {record.id for record in kept} <= listed
    one = kept[0]
    assert evolvent("memory", "show", run, one.id, "--json").json["text"] == one.text
    assert evolvent("memory", "why", run, one.id, "--json").code == 0
    assert evolvent("memory", "log", run, "--json").json
    assert evolvent("memory", "fsck", run).code == 0
    file, moved = tmp_path / "history.jsonl", tmp_path / "moved"
    assert evolvent("memory", "export", run, file).code == 0
    assert evolvent("memory", "import", file, moved, "--embedder", "hash").code == 0
    assert {row["id"] for row in evolvent("memory", "ls", moved, "--json").json} == listed
    assert evolvent("memory", "retire", moved, one.id, "--reason", "a test").code == 0
    with memory_of(moved) as memory:
        assert memory.records()[one.id].status == "retired"


ANOTHER: dict[tuple[str, str], Callable[[], Made]] = {
    ("tran", "lamarck"): lambda: (
        test_tran.config().model_copy(update={"recipe": "lamarck"}),
        {"actor": ScriptedChatModel(lambda messages: "red")},
    ),
    ("memorybank", "tim"): SYSTEMS["tim"],
    ("tim", "memgpt"): SYSTEMS["memgpt"],
    ("memgpt", "memorybank"): SYSTEMS["memorybank"],
}


@pytest.mark.parametrize(("first", "second"), ANOTHER)
def test_what_one_system_learned_another_opens_and_goes_on_with(
    first: str, second: str, stores: Callable[[str], Path], tmp_path: Path
) -> None:
    inherited = [replace(record, status="active", parents=()) for record in learned(stores(first))]
    asked, models = ANOTHER[first, second]()
    run = create(asked, tmp_path / "run")
    with Memory.open(run, embedder=HashEmbedder()) as memory:
        memory.commit("inherited", [Event("add", record.id, record) for record in inherited], generation=0)
    resume(run, models)
    with memory_of(run) as memory:
        records = memory.records()
        assert {record.id for record in inherited} <= records.keys(), "nothing is lost"
        assert records.keys() - {record.id for record in inherited}, "and more is learned"
    if first == "tran":
        shown = "\n".join(prompt(row) for row in calls(run, phase="eval"))
        assert any(record.text in shown for record in inherited)
