"""The command line as a person types it: what it prints, what it leaves behind, how it ends."""

from __future__ import annotations

import inspect
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path

import pytest
from command_line import Evolvent

from evolvent.agents import cli
from evolvent.agents.flags import read_environment, read_value
from evolvent.agents.run import RunConfig, read_config
from evolvent.environments.catalog import ENTRIES
from evolvent.memory.cache import cached

ROOT = Path(__file__).parents[2]
TINY = ("--tasks", "2", "--eval", "2", "--generations", "1", "--embedder", "hash")
RUN_KEYS = {"recipe", "env", "model", "seed", "out", "preset", "verdict", "generations", "frozen", "gain", "records"}
RECORD_KEYS = {"id", "kind", "text", "status", "scope", "parents", "score", "lift"}
SYSTEM_KEYS = {"slug", "name", "paper", "placements", "status", "signature"}
INTERVAL_KEYS = {"success", "low", "high", "n"}


@pytest.fixture
def script(tmp_path: Path) -> str:
    """A model that always reaches for the oil."""
    file = tmp_path / "script.yaml"
    file.write_text('{rules: [{match: "Begin with RULE:", reply: "RULE: Try something else."}], default: oil}')
    return f"scripted:{file}"


# -- runs ----------------------------------------------------------------------------------------------------------


def test_a_run_prints_one_json_document_and_leaves_a_whole_directory(
    evolvent: Evolvent, script: str, tmp_path: Path
) -> None:
    out = tmp_path / "runs" / "first"
    said = evolvent("run", "lamarck", "--model", script, *TINY, "--out", out, "--json")
    assert said.code == 0
    assert said.json.keys() >= RUN_KEYS
    assert said.json["frozen"].keys() >= INTERVAL_KEYS
    assert said.json["gain"].keys() >= {"mean", "low", "high"}
    assert said.json["records"].keys() == {"active", "candidate", "quarantined", "retired"}
    assert said.json["verdict"] in ("improved", "no evidence", "worse")
    for row in said.json["generations"]:
        assert row.keys() >= {"generation", "held_out", "tokens_in", "tokens_out", "calls", "seconds"}
        assert row["held_out"].keys() == INTERVAL_KEYS
    files = {"config.json", "trace.jsonl", "metrics.jsonl", "ledger.sqlite", "chroma", "checkpoints.sqlite"}
    assert {path.name for path in out.iterdir()} >= {*files, "report.html"}
    assert "generation 1: attempting tasks: 4 episodes, mean score" in said.err

    again = evolvent("resume", out, "--json")
    assert (again.code, again.json) == (0, said.json)
    assert "attempting" not in again.err, "a run that has ended is not run again"


def test_a_run_shows_its_verdict_and_where_to_look_next(
    evolvent: Evolvent, script: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    said = evolvent("run", "lamarck", "--model", script, "--seed", 3, *TINY)
    (directory,) = Path("runs").iterdir()
    assert said.code == 0
    assert "No evidence of improvement" in said.out
    assert re.fullmatch(r"lamarck-workshop-seed3-\d{8}-\d{6}", directory.name)
    assert f"evolvent memory ls {directory}" in said.err
    assert read_config(directory).options == {"world": 3}, "the workshop's world is the seed unless it is given"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_run_says_how_to_go_on_and_goes_on(
    evolvent: Evolvent, script: str, tmp_path: Path, number: signal.Signals
) -> None:
    out = tmp_path / "run"
    words = ["run", "lamarck", "--model", script, *TINY, "--tasks", "60", "--out", str(out)]
    command = [sys.executable, "-c", "from evolvent.agents.cli import main; main()", *words]
    # A shell starts its background jobs with SIGINT ignored, and children inherit that.
    heed = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    pipes = {"stderr": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, **pipes, text=True, preexec_fn=heed) as process:
        assert process.stderr is not None
        assert process.stdout is not None
        while "attempting" not in (line := process.stderr.readline()):
            assert line, "the run ended before it could be stopped"
        process.send_signal(number)
        told = process.stderr.read()
        assert process.stdout.read() == ""
    assert process.returncode == 1
    assert told.splitlines()[-1] == f"evolvent: Stopped. Go on with: evolvent resume {out}"
    assert "Traceback" not in told
    assert evolvent("report", out, "--json").json["finished"] is False

    resumed = evolvent("resume", out, "--json")
    assert resumed.code == 0
    assert resumed.json["finished"] is True
    assert "evaluating the frozen model" not in resumed.err


def test_a_run_whose_model_never_answers_fails_and_can_be_resumed(evolvent: Evolvent, tmp_path: Path) -> None:
    script = tmp_path / "silent.yaml"
    script.write_text("{rules: []}")
    out = tmp_path / "run"
    said = evolvent("run", "lamarck", "--model", f"scripted:{script}", *TINY, "--out", out)
    assert (said.code, said.out) == (1, "")
    assert said.last.startswith("evolvent: The run failed: No model call has succeeded yet.")
    assert said.last.endswith(f"Go on with: evolvent resume {out}")

    script.write_text("{default: oil}")
    assert evolvent("resume", out).code == 0


def test_another_model_may_play_a_role_and_the_environment_take_options(
    evolvent: Evolvent, script: str, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    env = "workshop:cures=4,orders=0,world=7"
    said = evolvent(
        *("run", "lamarck", "--env", env, "--model", script, "--role", f"reflector={script}"),
        *("--set", "attempts=1", "--set", "retrieval=bm25", *TINY, "--out", out, "--json"),
    )
    config = read_config(out)
    assert said.code == 0
    assert config.options == {"cures": 4, "orders": 0, "world": 7}
    assert config.roles == {"reflector": script}
    assert config.settings == {"attempts": 1, "retrieval": "bm25"}


def test_flags_left_out_mean_what_the_config_means_by_itself() -> None:
    names = {"env": "environment", "role": "roles", "set": "settings"}
    for command in (cli.run, cli.bench):
        for name, parameter in inspect.signature(command).parameters.items():
            field = RunConfig.model_fields.get(names.get(name, name))
            if field is not None and parameter.default not in (parameter.empty, None):
                assert parameter.default == field.default, name


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("run lamark", "Did you mean 'lamarck'?"),
        ("run spin", "'spin' has no recipe yet"),
        ("run lamarck --env workshp", "Did you mean 'workshop'?"),
        ("run lamarck --env workshop:world", "expected KEY=VALUE"),
        ("run lamarck --env workshop:wrld=1", "Did you mean 'world'?"),
        ("run lamarck --env workshop:cures=99", "from 2 to 16, not 99"),
        ("run lamarck --env=", "--env is empty"),
        ("run lamarck --model gpt", "No model named 'gpt'"),
        ("run lamarck --model scripted:none.yaml", "none.yaml is no script"),
        ("run lamarck --model hf:.", "Cannot load '.'"),
        ("run lamarck --role actr=smollm2", "Did you mean 'actor'?"),
        ("run lamarck --role reflector", "expected ROLE=SPEC"),
        ("run lamarck --set atempts=1", "Did you mean 'attempts'?"),
        ("run lamarck --set attempts", "expected KEY=VALUE"),
        ("run lamarck --set attempts=0", "greater than or equal to 1"),
        ("run lamarck --preset huge", "Known: paper, small"),
        ("run lamarck --tasks 0", "--tasks 0"),
        ("run lamarck --tasks many", "'--tasks'"),
        ("run lamarck --eval 1", "--eval 1"),
        ("run lamarck --env workshop:cures=2,orders=0 --tasks 500", "not 500"),
        ("run lamarck --embedder huge", "'minilm', 'hash'"),
        ("run lamarck --speed 3", "--speed"),
        ("run", "Missing argument"),
        ("bench lamarck", "--env"),
        ("bench lamarck --env workshop --seeds 0", "--seeds"),
        ("bench lamark --env workshop", "Did you mean 'lamarck'?"),
        ("resume nowhere", "nowhere is not a run"),
        ("report nowhere", "nowhere is not a run"),
        ("memory ls nowhere", "nowhere"),
        ("memory search nowhere oil --mode guess", "'dense', 'bm25', 'hybrid'"),
        ("systems show lamarck-2", "No system named"),
        ("models pull gpt-5", "No weights named"),
        ("remember", "No such command"),
    ],
)
def test_bad_usage_is_told_in_one_line_and_leaves_nothing_behind(
    evolvent: Evolvent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: str, expected: str
) -> None:
    monkeypatch.chdir(tmp_path)
    out = ["--out", "deep/er/run"] if words.startswith(("run lamarck", "bench lamarck")) else []
    said = evolvent(*shlex.split(words), *out)
    assert (said.code, said.out) == (2, "")
    assert said.err.startswith("evolvent: ")
    assert said.err.count("\n") == 1
    assert expected in said.err
    assert list(tmp_path.iterdir()) == []


def test_a_used_directory_is_not_used_again(evolvent: Evolvent, learned: Path) -> None:
    said = evolvent("run", "lamarck", "--out", learned)
    assert said.code == 2
    assert f"evolvent resume {learned}" in said.err


def test_an_error_shows_where_it_came_from_when_asked(evolvent: Evolvent) -> None:
    said = evolvent("report", "nowhere", "--debug")
    assert said.code == 2
    assert "Traceback" in said.err
    assert "Traceback" not in evolvent("report", "nowhere").err


# -- looking -------------------------------------------------------------------------------------------------------


def test_a_report_is_text_json_or_a_page(evolvent: Evolvent, learned: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    text = evolvent("report", learned)
    assert text.code == 0
    assert "won " in text.out
    assert evolvent("report", learned, "--json").json["records"]["active"] >= 1
    assert evolvent("report", learned, "--html", page).code == 0
    assert "<html" in page.read_text("utf-8")
    refused = evolvent("report", learned, "--html", tmp_path / "none" / "page.html")
    assert (refused.code, refused.err.count("\n")) == (2, 1)


def test_memory_lists_what_was_learned_before_what_was_lived(evolvent: Evolvent, learned: Path) -> None:
    rows = evolvent("memory", "ls", learned, "--json").json
    kinds = [row["kind"] for row in rows]
    assert all(row.keys() >= RECORD_KEYS for row in rows)
    assert kinds == sorted(kinds), "rule comes before trajectory"
    assert {"rule", "trajectory"} == set(kinds)
    active = evolvent("memory", "ls", learned, "--kind", "rule", "--status", "active", "--json").json
    assert active == [row for row in rows if (row["kind"], row["status"]) == ("rule", "active")]
    assert len(evolvent("memory", "ls", learned, "-k", 2, "--json").json) == 2
    assert evolvent("memory", "ls", learned, "--scope-env", "blackjack", "--json").json == []
    assert active[0]["id"] in evolvent("memory", "ls", learned).out


def test_memory_shows_why_a_rule_is_active_and_what_it_came_from(evolvent: Evolvent, learned: Path) -> None:
    rule = evolvent("memory", "ls", learned, "--status", "active", "--kind", "rule", "--json").json[0]
    shown = evolvent("memory", "show", learned, rule["id"])
    assert shown.code == 0
    assert rule["text"] in shown.out
    assert "promoted: won" in " ".join(shown.out.split())
    assert "workshop" in shown.out
    plain = evolvent("memory", "show", learned, rule["id"], "--json").json
    assert plain.keys() >= {*RECORD_KEYS, "events"}
    assert [event["kind"] for event in plain["events"]][:2] == ["add", "activate"]
    lived = evolvent("memory", "show", learned, rule["parents"][0])
    assert lived.out.startswith("Task: ")
    assert evolvent("memory", "show", learned, "rule-0").code == 2


@pytest.mark.parametrize("mode", ["dense", "bm25", "hybrid"])
def test_memory_is_searched_best_first(evolvent: Evolvent, learned: Path, mode: str) -> None:
    rule = evolvent("memory", "ls", learned, "--kind", "rule", "--status", "active", "--json").json[0]
    found = evolvent("memory", "search", learned, rule["text"], "--mode", mode, "--kind", "rule", "-k", 3, "--json")
    assert found.code == 0
    assert found.json[0]["id"] == rule["id"]
    assert all(row.keys() >= RECORD_KEYS for row in found.json)
    scores = [row["score"] for row in found.json]
    assert scores == sorted(scores, reverse=True)
    assert rule["id"] in evolvent("memory", "search", learned, rule["text"], "--mode", mode).out
    elsewhere = evolvent("memory", "search", learned, rule["text"], "--mode", mode, "--scope-env", "textcraft")
    assert "0 records" in elsewhere.out


def test_all_90_systems_are_listed_with_their_status(evolvent: Evolvent) -> None:
    rows = evolvent("systems", "--json").json
    assert len(rows) == 90
    assert all(row.keys() == SYSTEM_KEYS for row in rows)
    assert all(line.keys() == {"text", "test", "passed"} for row in rows for line in row["signature"])
    table = evolvent("systems").out
    assert all(row["slug"] in table for row in rows)


def test_one_system_is_shown_with_its_card_and_its_presets(evolvent: Evolvent) -> None:
    shown = evolvent("systems", "show", "reflexion")
    assert shown.code == 0
    for part in ("2303.11366", "feedback/environment", "alfworld_trials", "Presets of the recipe", "Signature"):
        assert part in shown.out
    plain = evolvent("systems", "show", "reflexion", "--json").json
    assert plain.keys() >= {*SYSTEM_KEYS, "card", "presets"}
    assert "Presets" not in evolvent("systems", "show", "spin").out


def test_environments_and_weights_are_listed(evolvent: Evolvent) -> None:
    assert [row["name"] for row in evolvent("envs", "--json").json] == list(ENTRIES)
    assert all(name in evolvent("envs").out for name in ENTRIES)
    assert {row["name"] for row in evolvent("models", "ls", "--json").json} == {"smollm2", "minilm"}
    assert "93 MB" in evolvent("models", "ls").out


def test_the_program_says_its_version_and_helps(evolvent: Evolvent) -> None:
    assert evolvent("--version").out.strip() == version("evolvent")
    commands = ("run", "resume", "report", "systems", "bench", "envs", "models", "memory")
    assert all(command in evolvent("--help").out for command in commands)
    assert evolvent().code == 0


def test_verbose_says_what_is_being_done_wherever_the_flag_stands(
    evolvent: Evolvent, script: str, tmp_path: Path
) -> None:
    said = evolvent("run", "lamarck", "--model", script, *TINY, "--out", tmp_path / "run", "-v")
    assert said.code == 0
    assert "INFO" in said.err
    assert "train/1/" in said.err
    assert "INFO" not in said.out


def test_the_readme_shows_the_help_that_is_printed(evolvent: Evolvent, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    blocks = re.findall(r"```\w*\n\$ evolvent (.*--help)\n(.*?)```", (ROOT / "README.md").read_text("utf-8"), re.DOTALL)
    for words, shown in blocks:
        assert plain_lines(evolvent(*words.split()).out) == plain_lines(shown)


def plain_lines(text: str) -> Sequence[str]:
    return [line.rstrip() for line in text.strip().splitlines() if line.strip()]


# -- comparing -----------------------------------------------------------------------------------------------------


def test_a_benchmark_names_every_arm_and_the_gain_over_each_control(
    evolvent: Evolvent, script: str, tmp_path: Path
) -> None:
    words = ("bench", "lamarck", "--env", "workshop", "--model", script, *TINY, "--out", tmp_path / "bench")
    said = evolvent(*words, "--json")
    controls = {"frozen", "full-history", "raw-retrieval", "random-rules"}
    assert said.code == 0
    assert said.json.keys() >= {"recipe", "env", "model", "env_version", "task_set_hash", "arms", "gain"}
    assert said.json["arms"].keys() == {"lamarck", *controls}
    assert said.json["gain"].keys() == controls
    assert all(
        arm.keys() >= {*INTERVAL_KEYS, "tokens_in", "tokens_out", "seconds"} for arm in said.json["arms"].values()
    )
    assert "raw-retrieval" in evolvent(*words).out, "what was played is used again"


# -- what the flags mean -------------------------------------------------------------------------------------------


def test_values_are_json_where_they_parse_and_text_elsewhere() -> None:
    values = ["3", "0.5", "true", "null", "[1, 2]", "hybrid", "NaN", "1e", '"3"']
    assert [read_value(value) for value in values] == [3, 0.5, True, None, [1, 2], "hybrid", "NaN", "1e", "3"]


def test_an_environment_of_ones_own_takes_options_too() -> None:
    assert read_environment("my.package:World") == ("my.package:World", {})
    assert read_environment("my.package:World:size=3,name=a,b") == ("my.package:World", {"size": 3, "name": "a,b"})
    assert read_environment("workshop:cures=6,world=2") == ("workshop", {"cures": 6, "world": 2})


@pytest.mark.model
@pytest.mark.skipif(cached("smollm2") is None, reason="its weights are not here: `evolvent models pull smollm2`")
def test_the_embedded_model_runs_from_nothing_to_a_report(evolvent: Evolvent, tmp_path: Path) -> None:
    few = ("--set", "candidates=1", "--set", "gate_pairs=1", "--set", "reflections=2")
    said = evolvent("run", "lamarck", *TINY, *few, "--out", tmp_path / "run", "--json")
    assert said.code == 0
    assert said.json["model"] == "smollm2"
    assert said.json["generations"][-1]["calls"] > 0
