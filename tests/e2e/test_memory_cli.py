"""`evolvent memory`: questions put to a memory and changes made to it, as a person types them."""

from __future__ import annotations

import json
import shlex
import shutil
import sqlite3
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import get_args

import pytest
from command_line import Evolvent

from evolvent.agents.memory_commands import Mode
from evolvent.memory.embedding import HashEmbedder
from evolvent.memory.retrieval import RETRIEVERS
from evolvent.memory.store import Memory
from evolvent.memory.types import Event, Scope, new_record

COMMANDS = (
    *("ls", "search", "show", "log", "diff", "why", "impact", "graph", "audit", "fsck", "export", "retire", "restore"),
    *("forget", "import", "revert", "branch", "checkout", "merge"),
)


@pytest.fixture
def run(learned: Path, tmp_path: Path) -> Path:
    """A copy of it, to be changed."""
    return Path(shutil.copytree(learned, tmp_path / "run"))


@pytest.fixture
def rule(learned: Path) -> str:
    """Id of an active rule."""
    with Memory.open(learned, embedder=HashEmbedder(), read_only=True) as memory:
        return next(each.id for each in memory.records().values() if (each.kind, each.status) == ("rule", "active"))


def records(directory: Path) -> str:
    """All that memory holds, as text that is equal where memories are."""
    with Memory.open(directory, embedder=HashEmbedder(), read_only=True) as memory:
        return "\n".join(f"{key} {record!r}" for key, record in sorted(memory.records().items()))


# -- looking -------------------------------------------------------------------------------------------------------


def test_the_log_names_each_step_newest_first_and_what_it_wrote(evolvent: Evolvent, learned: Path) -> None:
    rows = evolvent("memory", "log", learned, "--json").json
    assert [row["key"] for row in rows] == ["2/gate", "2/remember", "1/gate", "1/remember"]
    assert rows[0]["branches"] == ["main"]
    assert rows[3]["events"].keys() == {"add"}
    assert evolvent("memory", "log", learned, "--at", "1/gate", "-k", 1, "--json").json == [rows[2] | {"branches": []}]
    shown = evolvent("memory", "log", learned).out
    assert all(row["id"] in shown for row in rows)
    assert "[*main]" in shown


def test_a_diff_tells_what_the_gate_changed_and_counts_raw_trajectories_only(
    evolvent: Evolvent, learned: Path, rule: str
) -> None:
    gate = evolvent("memory", "diff", learned, "1/remember", "1/gate", "--json").json
    changes = {change["record"]["id"]: change for change in gate["changes"]}
    assert changes[rule]["change"] == "changed"
    assert {"name": "status", "before": "candidate", "after": "active"} in changes[rule]["fields"]
    shown = evolvent("memory", "diff", learned, "1/remember", "1/gate").out
    assert "status candidate → active" in shown
    assert rule in shown

    remember = evolvent("memory", "diff", learned, "1/gate", "2/remember").out
    assert "of the raw trajectories" in remember
    assert "trajectory-" not in remember
    (newest, before, *_) = evolvent("memory", "log", learned, "--json").json
    assert evolvent("memory", "diff", learned, "--json").json["from"] == before["id"]
    assert evolvent("memory", "diff", learned, "--json").json["to"] == newest["id"]


def test_show_blames_the_commit_that_set_each_field(evolvent: Evolvent, learned: Path, rule: str) -> None:
    blame = {each["field"]: each for each in evolvent("memory", "show", learned, rule, "--json").json["blame"]}
    assert (blame["added"]["key"], blame["added"]["event"]) == ("1/remember", "add")
    assert (blame["status"]["key"], blame["status"]["value"]) == ("1/gate", "active")
    assert blame["status"]["evidence"]["gate"]["verdict"] == "promoted"
    assert blame["lift"]["value"].keys() == {"mean", "low", "high", "n"}
    shown = " ".join(evolvent("memory", "show", learned, rule).out.split())
    assert "activate at 1/gate: status active promoted: won" in shown


def test_why_goes_down_to_the_steps_of_the_trajectories(evolvent: Evolvent, learned: Path, rule: str) -> None:
    why = evolvent("memory", "why", learned, rule, "--json").json
    assert why["trust"] == 1
    assert [each["verdict"] for each in why["decisions"]] == ["activate"]
    source = why["causes"][0]["source"]
    assert why["causes"][0]["id"] in why["record"]["parents"]
    assert source["steps"][0].keys() == {"index", "seen", "action", "reward"}
    shown = evolvent("memory", "why", learned, rule).out
    assert "activate at 1/gate" in shown
    assert source["id"] in shown
    assert source["steps"][0]["action"] in shown


def test_impact_lists_what_came_of_a_trajectory_and_where_a_rule_was_shown(
    evolvent: Evolvent, learned: Path, rule: str
) -> None:
    parent = evolvent("memory", "show", learned, rule, "--json").json["parents"][0]
    of_episode = evolvent("memory", "impact", learned, parent, "--json").json
    assert rule in of_episode["derived"]
    assert set(of_episode["only"]) <= set(of_episode["derived"])
    of_rule = evolvent("memory", "impact", learned, rule, "--json").json
    assert of_rule["derived"] == []
    assert any(episode.startswith("train/2/") for episode in of_rule["episodes"])
    assert f"{len(of_rule['episodes'])} trajectories" in evolvent("memory", "impact", learned, rule).out


def test_memory_can_be_listed_and_searched_as_it_was(evolvent: Evolvent, learned: Path, rule: str) -> None:
    then = evolvent("memory", "ls", learned, "--at", "1/remember", "--json").json
    assert {row["status"] for row in then if row["kind"] == "rule"} == {"candidate"}
    assert evolvent("memory", "ls", learned, "--at", "HEAD~4", "--json").json == []
    text = next(row["text"] for row in then if row["id"] == rule)
    found = evolvent("memory", "search", learned, text, "--at", "1/remember", "--json").json
    assert (found[0]["id"], found[0]["status"]) == (rule, "candidate")


@pytest.mark.parametrize("mode", get_args(Mode))
def test_a_search_finds_what_was_learned_and_raw_trajectories_when_asked(
    evolvent: Evolvent, learned: Path, rule: str, mode: str
) -> None:
    text = evolvent("memory", "show", learned, rule, "--json").json["text"]
    search = ("memory", "search", learned, text, "-k", 50, "--mode", mode)
    kinds = {row["kind"] for row in evolvent(*search, "--json").json}
    assert kinds == {"rule"}
    assert rule in evolvent(*search).out
    assert {row["kind"] for row in evolvent(*search, "--kind", "trajectory", "--json").json} == {"trajectory"}
    both = evolvent(*search, "--kind", "trajectory", "--kind", "rule", "--json").json
    assert {row["kind"] for row in both} == {"rule", "trajectory"}
    scores = [row["score"] for row in both]
    assert mode == "mmr" or scores == sorted(scores, reverse=True)


def test_every_way_of_searching_has_its_name_on_the_command_line() -> None:
    assert get_args(Mode) == tuple(RETRIEVERS)


def test_where_nothing_was_learned_a_search_gives_raw_trajectories(evolvent: Evolvent, tmp_path: Path) -> None:
    record = new_record("trajectory", "Task: mend rust. > oil", status="active")
    with Memory.open(tmp_path, embedder=HashEmbedder()) as memory:
        memory.commit("1/remember", [Event("add", record.id, record)], generation=1)
    assert [row["id"] for row in evolvent("memory", "search", tmp_path, "rust", "--json").json] == [record.id]


def test_the_graph_is_json_graphml_or_a_drawing(evolvent: Evolvent, learned: Path, rule: str, tmp_path: Path) -> None:
    near = evolvent("memory", "graph", learned, "--around", rule, "--depth", 1, "--json").json
    assert rule in {node["id"] for node in near["nodes"]}
    assert near["file"] is None
    parents = evolvent("memory", "show", learned, rule, "--json").json["parents"]
    assert {"from": parents[0], "to": rule, "edge": "derived"} in near["edges"]
    for name, root in {"near.svg": "svg", "near.graphml": "graphml"}.items():
        words = ("memory", "graph", learned, "--around", rule, "--depth", 1, "--out", tmp_path / name)
        assert evolvent(*words, "--json").json["file"] == str(tmp_path / name)
        assert ET.parse(tmp_path / name).getroot().tag.endswith(root)
    whole = evolvent("memory", "graph", learned)
    assert "rule" in whole.out
    assert "--out FILE.svg" in whole.err


def test_an_audit_counts_what_it_finds_by_id(evolvent: Evolvent, run: Path, rule: str) -> None:
    sound = evolvent("memory", "audit", run, "--json").json
    assert sound["counts"].keys() == sound.keys() - {"records", "counts"}
    assert (sound["counts"]["duplicates"], sound["counts"]["orphaned"]) == (0, 0)
    twin = new_record("rule", "Use the OIL.", parents=("nowhere",))
    other = new_record("rule", "use the oil", parents=(rule,))
    with Memory.open(run, embedder=HashEmbedder()) as memory:
        memory.commit("hand", [Event("add", each.id, each) for each in (twin, other)], generation=2)
    found = evolvent("memory", "audit", run, "--json").json
    assert found["duplicates"] == [[twin.id, other.id]]
    assert found["orphaned"] == [{"record": twin.id, "parents": ["nowhere"]}]
    assert f"{twin.id} = {other.id}" in evolvent("memory", "audit", run).out


# -- changing ------------------------------------------------------------------------------------------------------


def test_a_retired_rule_is_not_found_until_its_retirement_is_reverted(evolvent: Evolvent, run: Path, rule: str) -> None:
    before = records(run)
    text = evolvent("memory", "show", run, rule, "--json").json["text"]
    search = ("memory", "search", run, text, "--json")
    said = evolvent("memory", "retire", run, rule, "--reason", "the oil is gone")
    assert said.code == 0
    assert f"Retired {rule}: commit " in said.out
    commit = said.out.split()[-1]
    assert said.last == f"Undo: evolvent memory revert {run} {commit}"
    assert rule not in {row["id"] for row in evolvent(*search).json}
    assert rule in {row["id"] for row in evolvent(*search, "--status", "retired").json}
    assert "the oil is gone" in evolvent("memory", "why", run, rule).out

    undo = shlex.split(said.last.removeprefix("Undo: evolvent "))
    reverted = evolvent(*undo, "--note", "it is back", "--json").json
    assert (reverted["reverted"], records(run)) == (commit, before)
    assert evolvent(*search).json[0]["id"] == rule
    top, below, *_ = evolvent("memory", "log", run, "--json").json
    assert (top["id"], top["note"], below["reverted_by"]) == (reverted["commit"], "it is back", top["id"])
    assert evolvent("memory", "fsck", run, "--json").json == {"sound": True, "problems": []}


def test_a_restored_rule_is_a_candidate_again(evolvent: Evolvent, run: Path, rule: str) -> None:
    evolvent("memory", "retire", run, rule, "--reason", "by mistake")
    restored = evolvent("memory", "restore", run, rule, "--reason", "was right", "--json").json
    shown = evolvent("memory", "show", run, rule, "--json").json
    assert shown["status"] == "candidate"
    status = next(each for each in shown["blame"] if each["field"] == "status")
    assert (status["commit"], status["evidence"]["reason"]) == (restored["commit"], "was right")


def test_forgetting_a_trajectory_takes_what_rests_on_it_alone_and_can_be_undone(
    evolvent: Evolvent, run: Path, rule: str
) -> None:
    before = records(run)
    parent, *others = evolvent("memory", "show", run, rule, "--json").json["parents"]
    dry = evolvent("memory", "forget", run, parent, "--dry-run", "--json").json
    assert (dry["commit"], records(run)) == (None, before)
    assert rule in dry["kept"]
    assert len(dry["forgotten"]) == 1
    done = evolvent("memory", "forget", run, parent, "--json").json
    assert (done["forgotten"], done["kept"]) == (dry["forgotten"], dry["kept"])
    assert evolvent("memory", "show", run, rule, "--json").json["parents"] == others
    assert evolvent("memory", "show", run, dry["forgotten"][0]).code == 2
    assert evolvent("memory", "show", run, parent).code == 0, "the episode itself stays in the ledger"
    again = evolvent("memory", "forget", run, parent)
    assert (again.code, again.out.splitlines()[-1]) == (0, "Nothing was written")

    assert evolvent("memory", "revert", run, done["commit"]).code == 0
    assert records(run) == before


def test_branches_go_their_own_ways_and_are_merged(evolvent: Evolvent, run: Path, rule: str) -> None:
    assert "Branch trial begins at commit" in evolvent("memory", "branch", run, "trial").out
    assert evolvent("memory", "checkout", run, "trial").code == 0
    assert evolvent("memory", "branch", run, "--json").json["current"] == "trial"
    assert "* trial" in evolvent("memory", "branch", run).out
    evolvent("memory", "retire", run, rule, "--reason", "on trial")
    assert evolvent("memory", "checkout", run, "main", "--json").json["left"] == "trial"
    assert evolvent("memory", "show", run, rule, "--json").json["status"] == "active"

    other = new_record("rule", "Oil the hinge.")
    with Memory.open(run, embedder=HashEmbedder()) as memory:
        memory.commit("hand", [Event("add", other.id, other)], generation=2)
    merged = evolvent("memory", "merge", run, "trial")
    assert "Merged trial into main: commit" in merged.out
    assert evolvent("memory", "show", run, rule, "--json").json["status"] == "retired"
    assert evolvent("memory", "show", run, other.id).code == 0
    assert "Nothing to merge" in evolvent("memory", "merge", run, "trial").out
    assert evolvent("memory", "revert", run, "HEAD").code == 0
    assert evolvent("memory", "show", run, rule, "--json").json["status"] == "active"


def test_what_both_branches_changed_is_reported_and_settled_by_a_side(evolvent: Evolvent, run: Path) -> None:
    record = new_record("rule", "Oil the hinge.", Scope("workshop"), status="quarantined")
    with Memory.open(run, embedder=HashEmbedder()) as memory:
        memory.commit("hand", [Event("add", record.id, record)], generation=2)
    evolvent("memory", "branch", run, "trial")
    evolvent("memory", "restore", run, record.id)
    evolvent("memory", "checkout", run, "trial")
    evolvent("memory", "retire", run, record.id, "--reason", "no hinge here")
    before = records(run)
    refused = evolvent("memory", "merge", run, "main", "--json")
    assert (refused.code, refused.out, refused.err.count("\n")) == (2, "", 1)
    assert f"{record.id} status: 'quarantined' became 'retired' here and 'candidate' there" in refused.err
    assert "--prefer ours or --prefer theirs" in refused.err
    assert records(run) == before
    assert evolvent("memory", "merge", run, "main", "--prefer", "theirs").code == 0
    assert evolvent("memory", "show", run, record.id, "--json").json["status"] == "candidate"


# -- moving and mending --------------------------------------------------------------------------------------------


def test_a_history_is_exported_and_imported_whole(evolvent: Evolvent, learned: Path, tmp_path: Path) -> None:
    file, copy = tmp_path / "history.jsonl", tmp_path / "deep" / "copy"
    written = evolvent("memory", "export", learned, file, "--json").json
    assert written == {"file": str(file), "lines": len(file.read_text("utf-8").splitlines())}
    assert evolvent("memory", "export", learned, "-").out == file.read_text("utf-8")
    assert evolvent("memory", "import", file, copy, "--embedder", "hash").code == 0
    assert evolvent("memory", "export", copy, "-").out == file.read_text("utf-8")
    assert evolvent("memory", "log", copy, "--json").json == evolvent("memory", "log", learned, "--json").json
    assert evolvent("memory", "fsck", copy).out == "No problem in ledger or index.\n"
    # A directory without a config is searched and written with the embedder that its ledger knows.
    assert evolvent("memory", "search", copy, "rust", "--json").json
    assert evolvent("memory", "revert", copy, "HEAD").code == 0
    assert evolvent("memory", "fsck", copy).code == 0


def test_a_strangers_records_stay_quarantined_until_they_are_restored(
    evolvent: Evolvent, learned: Path, tmp_path: Path, rule: str
) -> None:
    file, own = tmp_path / "records.jsonl", tmp_path / "own"
    assert evolvent("memory", "export", learned, file, "--records").code == 0
    assert evolvent("memory", "export", learned, "-", "--records").out == file.read_text("utf-8")
    with Memory.open(own, embedder=HashEmbedder()) as memory:
        mine = new_record("rule", "Oil the hinge.")
        memory.commit("hand", [Event("add", mine.id, mine)], generation=0)
    taken = evolvent("memory", "import", file, own, "--records", "--json").json
    assert rule in taken["added"]
    text = evolvent("memory", "show", own, rule, "--json").json["text"]
    assert [row["id"] for row in evolvent("memory", "search", own, text, "--json").json] == [mine.id]
    evolvent("memory", "restore", own, rule)
    assert rule in [row["id"] for row in evolvent("memory", "search", own, text, "--json").json]
    again = evolvent("memory", "import", file, own, "--records")
    assert "Took in 0 records" in again.out
    assert evolvent("memory", "revert", own, taken["commit"]).code == 2, "the restored one is built on it"


def test_fsck_finds_a_lost_index_and_makes_it_anew(evolvent: Evolvent, run: Path) -> None:
    assert evolvent("memory", "fsck", run).code == 0
    shutil.rmtree(run / "chroma")
    found = evolvent("memory", "fsck", run, "--json")
    assert (found.code, found.json["sound"]) == (1, False)
    assert [problem["place"] for problem in found.json["problems"]] == ["index"]
    mended = evolvent("memory", "fsck", run, "--repair")
    assert (mended.code, "is not there" in mended.out, "yes" in mended.out) == (0, True, True)
    assert evolvent("memory", "fsck", run, "--repair", "--json").json == {"sound": True, "problems": []}


def test_fsck_knows_that_chroma_moves_the_last_digit_of_a_number(evolvent: Evolvent, run: Path, rule: str) -> None:
    lift = {"mean": 0.21465844402277046, "low": 0.10389331127638185, "high": 0.42875325022569316, "n": 40}
    with Memory.open(run, embedder=HashEmbedder()) as memory:
        memory.commit("hand", [Event("credit", rule, payload={"lift": lift})], generation=2)
    assert evolvent("memory", "fsck", run).code == 0


def test_a_damaged_ledger_is_named_and_left_alone(evolvent: Evolvent, run: Path) -> None:
    db = sqlite3.connect(run / "ledger.sqlite")
    db.execute("DROP TRIGGER events_never_update")
    db.execute("UPDATE events SET body = 'no event' WHERE seq = 1")
    db.commit()
    db.close()
    broken = (run / "ledger.sqlite").read_bytes()
    looked = evolvent("memory", "ls", run)
    assert (looked.code, looked.out, looked.err.count("\n")) == (2, "", 1)
    assert f"`evolvent memory fsck {run}` says where" in looked.err
    found = evolvent("memory", "fsck", run, "--repair", "--json")
    assert found.code == 1
    assert "unreadable event in commit" in {problem["what"] for problem in found.json["problems"]}
    assert (run / "ledger.sqlite").read_bytes() == broken


# -- what is refused -----------------------------------------------------------------------------------------------


def test_while_a_run_is_writing_changes_are_refused_and_questions_answered(
    evolvent: Evolvent, run: Path, rule: str, tmp_path: Path
) -> None:
    file = tmp_path / "records.jsonl"
    evolvent("memory", "export", run, file, "--records")
    with Memory.open(run, embedder=HashEmbedder()):
        for words in (
            f"retire RUN {rule} --reason none",
            f"forget RUN {rule}",
            "revert RUN HEAD",
            "branch RUN trial",
            "checkout RUN main",
            "merge RUN main",
            f"import {file} RUN --records",
        ):
            said = evolvent("memory", *(run if word == "RUN" else word for word in shlex.split(words)))
            assert (said.code, said.out, said.err.count("\n")) == (2, "", 1), words
            assert "open for writing by process" in said.err
        assert evolvent("memory", "log", run).code == 0
        assert evolvent("memory", "forget", run, rule, "--dry-run").code == 0


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("log RUN --at 3/gate", "Did you mean '2/gate'?"),
        ("log nowhere", "No ledger at nowhere"),
        ("diff RUN HEAD~9", "before the first commit"),
        ("show RUN rule-0", "evolvent memory ls"),
        ("why RUN rule-0", "No record 'rule-0'"),
        ("impact RUN rule-0", "Neither a record nor a trajectory"),
        ("forget RUN rule-0", "Neither a record nor a trajectory"),
        ("retire RUN rule-0 --reason none", "No record 'rule-0'"),
        ("retire RUN RULE", "Missing option '--reason'"),
        ("retire nowhere rule-0 --reason none", "No ledger at nowhere"),
        ("restore RUN RULE", "expected one that is retired or quarantined"),
        ("revert RUN 3/gate", "Did you mean '2/gate'?"),
        ("branch RUN main", "is there already"),
        ("branch RUN HEAD", "no name for a branch"),
        ("checkout RUN trial", "No branch 'trial'"),
        ("merge RUN trial", "No commit, branch or step 'trial'"),
        ("graph RUN --out lineage.bmp", "expected a name that ends in one of .graphml"),
        ("graph RUN --out none/lineage.svg", "Cannot write none/lineage.svg"),
        ("graph RUN --around rule-0", "Neither a record nor a trajectory"),
        ("export RUN none/file.jsonl", "Cannot write none/file.jsonl"),
        ("export RUN - --json", "goes to stdout"),
        ("import none.jsonl new --embedder hash", "Cannot read none.jsonl"),
        ("import none.jsonl RUN --embedder hash", "not an empty directory"),
        ("import none.jsonl nowhere --records", "No ledger at nowhere"),
        ("import none.jsonl RUN --records --trust 2", "Trust is 2.0"),
        ("search RUN oil --mode guess", "'spreading'"),
        ("ls RUN --kind guess", "'guess' is not one of"),
    ],
)
def test_bad_usage_is_told_in_one_line_and_changes_nothing(
    evolvent: Evolvent,
    learned: Path,
    rule: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: str,
    expected: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    before = records(learned)
    typed = [str(learned) if word == "RUN" else rule if word == "RULE" else word for word in shlex.split(words)]
    said = evolvent("memory", *typed)
    assert (said.code, said.out) == (2, "")
    assert said.err.count("\n") == 1
    assert expected in said.err
    assert list(tmp_path.iterdir()) == []
    assert records(learned) == before


class Foreign(HashEmbedder):
    """An embedder that only its owner has."""

    def __init__(self) -> None:
        super().__init__(8)
        self.name = "foreign"


def test_a_memory_of_another_embedder_can_be_read_but_not_changed(evolvent: Evolvent, tmp_path: Path) -> None:
    record = new_record("rule", "Oil the hinge.")
    with Memory.open(tmp_path, embedder=Foreign()) as memory:
        memory.commit("hand", [Event("add", record.id, record)], generation=0)
    assert evolvent("memory", "search", tmp_path, "hinge", "--mode", "bm25", "--json").json[0]["id"] == record.id
    for words in (["search", tmp_path, "hinge"], ["retire", tmp_path, record.id, "--reason", "none"]):
        said = evolvent("memory", *words)
        assert (said.code, said.err.count("\n")) == (2, 1)
        assert "'foreign', which is none of ours" in said.err


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself_and_speaks_json(evolvent: Evolvent, command: str) -> None:
    said = evolvent("memory", command, "--help")
    assert said.code == 0
    assert "--json" in said.out
    assert command in evolvent("memory", "--help").out


def test_questions_are_answered_with_one_json_document(evolvent: Evolvent, learned: Path, rule: str) -> None:
    for words in (
        *("ls RUN", "search RUN oil", "show RUN RULE", "log RUN", "diff RUN", "why RUN RULE", "impact RUN RULE"),
        *("graph RUN", "audit RUN", "fsck RUN", "branch RUN", "forget RUN RULE --dry-run"),
    ):
        typed = [str(learned) if word == "RUN" else rule if word == "RULE" else word for word in words.split()]
        said = evolvent("memory", *typed, "--json")
        assert said.code == 0, words
        assert said.err == ""
        assert json.loads(said.out) is not None
