"""`evolvent adapters`: what a run has distilled, as a person asks for it and takes it away."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from command_line import Evolvent
from safetensors.numpy import save_file

from evolvent.memory.embedding import HashEmbedder
from evolvent.memory.store import Memory
from evolvent.memory.types import Event, new_record
from evolvent.memory.weights.adapters import Adapters, adapter_id, adapter_record

DATA = new_record("dataset", "mender@aaaaaaaaaaaa: 2 examples", meta={"hash": "aaaaaaaaaaaa"})


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A directory with a memory and two adapters, of which the ledger knows the first, and that it is active."""
    directory = tmp_path / "run"
    for name, value in (("mender", 0.5), ("joiner", 0.75)):
        folder = tmp_path / name
        folder.mkdir()
        save_file({"q.lora_A.weight": np.full((4, 8), value, np.float32)}, folder / "adapter_model.safetensors")
        (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 4}))
    registry = Adapters(directory)
    mender = registry.register(
        tmp_path / "mender", "mender", base="smollm2", created="2026-01-01", dataset=DATA, config={"rank": 4, "seed": 0}
    )
    registry.register(
        tmp_path / "joiner", "joiner", base="smollm2", created="2026-01-02", parents=[mender], config={"rank": 4}
    )
    record = adapter_record(mender)
    with Memory.open(directory, embedder=HashEmbedder()) as memory:
        added = [Event("add", each.id, each) for each in (DATA, record)]
        memory.commit("1/distil", [*added, Event("activate", record.id)], generation=1)
    return directory


def names(directory: Path) -> list[str]:
    return [each.full_name for each in Adapters(directory).ls()]


def test_the_list_shows_each_adapter_its_origin_and_its_standing(evolvent: Evolvent, run: Path) -> None:
    mender, joiner = names(run)
    rows = evolvent("adapters", "ls", run, "--json").json
    assert [(row["adapter"], row["status"]) for row in rows] == [(mender, "active"), (joiner, "unknown")]
    assert (rows[0]["dataset"], rows[0]["parents"]) == (DATA.id, [])
    assert (rows[1]["dataset"], rows[1]["parents"]) == ("", [mender])
    said = evolvent("adapters", "ls", run)
    assert said.last == "2 adapters"
    assert mender in said.out


def test_a_directory_without_adapters_lists_none_and_no_directory_is_a_clear_error(
    evolvent: Evolvent, tmp_path: Path
) -> None:
    assert evolvent("adapters", "ls", tmp_path, "--json").json == []
    said = evolvent("adapters", "ls", tmp_path / "nowhere")
    assert (said.code, "is no directory; expected that of a run" in said.err) == (2, True)


def test_show_tells_where_an_adapter_comes_from_and_that_its_files_are_whole(evolvent: Evolvent, run: Path) -> None:
    mender = names(run)[0]
    row = evolvent("adapters", "show", run, "mender", "--json").json
    assert (row["adapter"], row["record"], row["problem"]) == (mender, adapter_id(mender), "")
    assert row["config"] == {"rank": 4, "seed": 0}
    said = evolvent("adapters", "show", run, mender)
    assert (said.code, '{"rank": 4, "seed": 0}' in said.out) == (0, True)


def test_show_says_that_files_were_changed_and_leaves_with_one(evolvent: Evolvent, run: Path) -> None:
    folder = Adapters(run).get("mender").folder
    weights = folder / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4])
    said = evolvent("adapters", "show", run, "mender", "--json")
    assert (said.code, "adapter_model.safetensors was changed" in said.json["problem"]) == (1, True)


def test_diff_shows_what_two_cards_say_differently(evolvent: Evolvent, run: Path) -> None:
    found = evolvent("adapters", "diff", run, "mender", "joiner", "--json").json
    assert found["name"] == ["mender", "joiner"]
    assert found["config.seed"] == [0, None]
    assert "config.rank" not in found
    assert "config.seed" in evolvent("adapters", "diff", run, "mender", "joiner").out


def test_rm_retires_the_adapter_in_the_ledger_and_moves_its_files_aside(evolvent: Evolvent, run: Path) -> None:
    mender, joiner = names(run)
    said = evolvent("adapters", "rm", run, "mender", "--reason", "stale", "--json")
    assert said.json["adapter"] == mender
    assert (Path(said.json["folder"]) / "adapter_model.safetensors").is_file()
    assert names(run) == [joiner]
    shown = evolvent("memory", "show", run, adapter_id(mender), "--json").json
    assert shown["status"] == "retired"
    assert shown["events"][-1] == {"kind": "retire", "payload": {"by": "hand", "reason": "stale"}}
    again = evolvent("adapters", "rm", run, mender)
    assert (again.code, f"{mender} was removed" in again.err) == (2, True)


def test_rm_of_one_that_the_ledger_does_not_know_says_there_that_it_was(evolvent: Evolvent, run: Path) -> None:
    joiner = names(run)[1]
    said = evolvent("adapters", "rm", run, joiner)
    assert (said.code, said.out.startswith(f"Removed {joiner}: commit ")) == (0, True)
    assert evolvent("memory", "show", run, adapter_id(joiner), "--json").json["status"] == "retired"


def test_an_adapter_that_nobody_knows_is_told_in_one_line(evolvent: Evolvent, run: Path) -> None:
    for command in (["show", run, "nobody"], ["rm", run, "nobody"], ["diff", run, "mender", "nobody"]):
        said = evolvent("adapters", *command)
        assert (said.code, said.last.startswith("evolvent: No adapter named 'nobody'. Known: joiner@")) == (2, True)


def test_the_memory_lists_data_sets_and_adapters_by_kind_and_searches_past_them(evolvent: Evolvent, run: Path) -> None:
    kinds = evolvent("memory", "ls", run, "--kind", "dataset", "--kind", "adapter", "--json").json
    assert [row["kind"] for row in kinds] == ["dataset", "adapter"]
    assert evolvent("memory", "search", run, "mender examples", "--json").json == []
