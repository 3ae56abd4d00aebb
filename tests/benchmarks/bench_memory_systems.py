"""What systems that remember gain, beside plain controls and two libraries: same model, tasks, seeds and token budget.

    python tests/benchmarks/bench_memory_systems.py [--env qa --env dialogue --env workshop] [--systems tran,langmem]
        [--model smollm2|scripted] [--embedder minilm|hash] [--seeds 2] [--tasks 8] [--eval 20] [--generations 2]
        --out DIR

Each row sees the same stream of `--tasks` tasks a generation, and is judged on the same held-out tasks; each seed is a
world of its own. An answer has at most 48 tokens and a prompt a window of 6,000, unless a system's preset says less.
The controls have one episode on each task of the stream; `random-rules` are those of the first system that wrote rules,
each with another one's action. `lamarck` also explores and proves on episodes of its own, which its tokens and calls
count in. The gain is over the plain `frozen` agent, task by task; each system's own generation 0 stands in the JSON.

`--model scripted` is `able_reader`: it is right exactly when the fact it needs is in its prompt, so what a row gains is
what its memory finds again. The embedded model is for the record. Every row of a seed has a folder, and one that has
its `row.json` is not played again. CPU is that of this process, all threads, from a loaded model on; rows share an
embedder, which remembers what it embedded. Success is the mean score: in qa and dialogue the token F1 of the answer.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import memory_peers
import pytest
from able_reader import AbleReader, facts

from evolvent.agents.errors import AgentError
from evolvent.agents.evaluation.controls import CONTROLS, Arm, Rival, play_controls, rules_misplaced
from evolvent.agents.evaluation.held_out import evaluate_held_out
from evolvent.agents.evaluation.statistics import interval, paired, verdict
from evolvent.agents.recipes.catalog import implemented, load_recipe
from evolvent.agents.run import Prepared, RunConfig, create, execute, opened, prepare
from evolvent.agents.solutions.seats import bare, learning_seat
from evolvent.agents.trace import read_lines
from evolvent.agents.types import derive_rng
from evolvent.environments.types import Cost
from evolvent.memory.embedding import HashEmbedder
from evolvent.memory.store import Memory

ENVIRONMENTS = ("qa", "dialogue", "workshop")
NINE = ("tran", "mot", "tim", "memorybank", "memgpt", "iml", "ice", "ua2-agent", "aesopagent")
SYSTEMS = (*NINE, "lamarck")
PLAIN = ("frozen", *CONTROLS)
ROWS = (*SYSTEMS, *memory_peers.PEERS, *PLAIN)
"""Controls come last: random rules are borrowed from a system that was played before."""
_KEPT = "row.json"


@dataclass(frozen=True, slots=True)
class Row:
    """What one row did on one seed."""

    scores: Mapping[str, Sequence[float]]
    """By held-out task."""
    prompt_tokens: float
    """Of a held-out episode, all its calls together."""
    tokens: int
    """In and out, of all it ever asked; without a generation 0 that a recipe plays for the comparison."""
    calls: int
    cpu_s: float
    own_frozen: Mapping[str, Sequence[float]] | None = None
    """Of its own generation 0: the same prompts with nothing remembered."""
    note: str = ""


def does_not_apply(row: str, environment: str) -> str:
    """Why a row has no figures in a world; empty where it has."""
    if row in PLAIN:
        return ""
    if row in memory_peers.PEERS:
        return memory_peers.missing(row)
    if row not in implemented():
        return "does not apply: no recipe yet"
    fits = load_recipe(row).ENVIRONMENTS
    return "" if environment in fits else f"does not apply: runs on {', '.join(fits)}"


# -- one row on one seed -----------------------------------------------------------------------------------------------


async def played(row: str, config: RunConfig, folder: Path, ready: Prepared, say: Callable[[str], None]) -> Row:
    """The row of a config in a folder: as it is there, or played now.

    Raises:
        AgentError: what the run raised; the folder can be gone on with.
    """
    if (folder / _KEPT).exists():
        kept = json.loads((folder / _KEPT).read_text("utf-8"))
        if kept.pop("config") != config.model_dump(mode="json"):
            raise SystemExit(f"{folder} holds a row of another size. Choose another --out, or remove it.")
        return Row(**kept)
    puzzled, started = _puzzled(ready), time.process_time()
    if row in SYSTEMS:
        if not (folder / "config.json").exists():
            create(config, folder)
        await execute(folder, say=say, models=ready.models, embedder=ready.embedder)
        found = _of_run(folder)
    elif row in memory_peers.PEERS:
        await _play_peer(row, config, folder, ready, say)
        found = _of_run(folder, time.process_time() - started)
    else:
        found = await _play_control(row, config, folder, ready, say)
    lost = _puzzled(ready) - puzzled
    if lost:
        found = Row(
            **{
                **asdict(found),
                "note": f"{found.note}; {lost} prompts held nothing the reader could write down".lstrip("; "),
            }
        )
    text = json.dumps({"config": config.model_dump(mode="json"), **asdict(found)})
    (folder / _KEPT).write_text(text, encoding="utf-8")
    return found


async def _play_peer(row: str, config: RunConfig, folder: Path, ready: Prepared, say: Callable[[str], None]) -> None:
    """From the beginning: what a peer holds in memory is gone with the process that was cut off."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    graph = memory_peers.build(row, folder / "peer").compile()
    async with opened(config, folder, ready, say=say) as context:
        await graph.ainvoke({"generation": 0}, {"recursion_limit": 100_000}, context=context)


async def _play_control(row: str, config: RunConfig, folder: Path, ready: Prepared, say: Callable[[str], None]) -> Row:
    started = time.process_time()
    folder.mkdir(parents=True, exist_ok=True)
    async with opened(config, folder, ready, say=say) as context:
        last = config.generations
        plain = await evaluate_held_out(
            context, bare(context, context.model("actor")), generation=0, player=learning_seat(context), world=last
        )
        if row == "frozen":
            cpu = time.process_time() - started
            return Row(
                plain.scores, plain.prompt_tokens, plain.cost.tokens_in + plain.cost.tokens_out, plain.cost.calls, cpu
            )
        started = time.process_time()
        rules, donor = _borrowed(folder, config) if row == "random-rules" else ([], "")
        rival = Rival(config.tasks * config.generations, 1.0, Arm(plain.scores, plain.cost), rules)
        (arm,) = (await play_controls(context, rival, [row])).values()
        note = f"{arm.note} of {donor}" if donor else arm.note
        prompt = _prompt_tokens(context.memory, row) or plain.prompt_tokens
    cpu = time.process_time() - started
    return Row(arm.scores, prompt, arm.cost.tokens_in + arm.cost.tokens_out, arm.cost.calls, cpu, note=note)


def _borrowed(folder: Path, config: RunConfig) -> tuple[list[Any], str]:
    """Misplaced rules of the first system beside this folder that has active ones, and its name."""
    for name in SYSTEMS:
        run = folder.parents[1] / name / folder.name
        if not (run / "ledger.sqlite").exists():
            continue
        with Memory.open(run, embedder=HashEmbedder(), read_only=True) as memory:
            rules = [record for record in memory.records().values() if record.kind == "rule"]
        active = [rule for rule in rules if rule.status == "active"]
        if active:
            return rules_misplaced(active, rules, derive_rng(config.seed, "misplaced rules")), name
    return [], ""


def _of_run(folder: Path, cpu_s: float | None = None) -> Row:
    """What the ledger, the trace and the metrics of a finished run say."""
    with Memory.open(folder, embedder=HashEmbedder(), read_only=True) as memory:
        first, *_, last = (json.loads(text) for _, text in sorted(memory.ledger.generations().items()))
        prompt = _prompt_tokens(memory, "", last["generation"])
        statuses = [record.status for record in memory.records().values() if record.kind != "trajectory"]
    spent = Cost()
    for call in read_lines(folder / "trace.jsonl"):
        if call["generation"]:
            spent += Cost(call["tokens_in"], call["tokens_out"], 1)
    if cpu_s is None:
        ends = [line for line in read_lines(folder / "metrics.jsonl") if line.get("event") == "process ended"]
        cpu_s = sum(line["core_seconds"] for line in ends)
    held = last.get("held", sum(status == "active" for status in statuses))
    note = f"holds {held}"
    return Row(last["scores"], prompt, spent.tokens_in + spent.tokens_out, spent.calls, cpu_s, first["scores"], note)


def _prompt_tokens(memory: Memory, arm: str, generation: int | None = None) -> float:
    """Mean prompt of a held-out episode: of a control's arm, or of a run's last generation."""
    phase = "control" if arm else "eval"
    episodes = [
        each
        for each in memory.ledger.episodes(phase=phase, generation=generation)
        if not arm or each.key.endswith(f"/{arm}")
    ]
    return sum(each.trajectories[0].cost.tokens_in for each in episodes) / max(1, len(episodes))


def _puzzled(ready: Prepared) -> int:
    return getattr(ready.models["actor"], "puzzled", 0)


# -- the table ---------------------------------------------------------------------------------------------------------


def measure(given: argparse.Namespace, say: Callable[[str], None]) -> dict[str, Any]:
    """All rows of all worlds as one JSON value; written to `table.json` after every world."""
    table: dict[str, Any] = {"sizes": {name: getattr(given, name) for name in SIZES}, "model": given.model, "rows": []}
    prepared: dict[int, Prepared] = {}
    for environment in given.env:
        rows: dict[str, list[Row]] = {}
        for name in given.systems:
            why = does_not_apply(name, environment)
            for seed in range(given.seeds) if not why else ():
                folder = given.out / environment / name / f"seed-{seed}"
                config = config_of(given, name, environment, seed)
                if seed not in prepared:
                    prepared[seed] = _ready(given, config)
                say(f"{environment}: {name}, seed {seed}")
                try:
                    rows.setdefault(name, []).append(
                        asyncio.run(played(name, config, folder, prepared[seed], lambda text: None))
                    )
                except AgentError as error:
                    rows.pop(name, None)
                    why = f"failed: {error}"
                    break
            table["rows"] += [{"env": environment, "row": name, "why": why}] if why else []
        table["rows"] += [
            {"env": environment, "row": name, **_figures(found, rows.get("frozen"))} for name, found in rows.items()
        ]
        order = {name: at for at, name in enumerate(ROWS)}
        table["rows"].sort(
            key=lambda each: (given.env.index(each["env"]) if each["env"] in given.env else 0, order[each["row"]])
        )
        (given.out / "table.json").write_text(json.dumps(table, indent=1), encoding="utf-8")
    return table


def config_of(given: argparse.Namespace, row: str, environment: str, seed: int) -> RunConfig:
    return RunConfig(
        recipe=row,
        environment=environment,
        options={"world": seed},
        model=given.model,
        tasks=given.tasks,
        evaluated=given.eval,
        generations=given.generations,
        seed=seed,
        embedder=given.embedder,
    )


def _ready(given: argparse.Namespace, config: RunConfig) -> Prepared:
    models = {"actor": AbleReader()} if given.model == "scripted" else None
    ready = prepare(config, models=models)
    ready.embedder.embed(["so that its weights are loaded before the clock runs"])
    return ready


def _figures(rows: Sequence[Row], frozen: Sequence[Row] | None) -> dict[str, Any]:
    """Pooled over seeds, clustered by seed and task."""
    scores = _pooled([row.scores for row in rows])
    own = _pooled([row.own_frozen or {} for row in rows])
    gain = paired(scores, _pooled([row.scores for row in frozen])) if frozen else None
    return {
        "success": asdict(interval(scores)),
        "gain": {**asdict(gain), "verdict": verdict(gain)} if gain else None,
        "gain_over_own_frozen": asdict(paired(scores, own)) if own else None,
        "prompt_tokens": sum(row.prompt_tokens for row in rows) / len(rows),
        "tokens": sum(row.tokens for row in rows),
        "calls": sum(row.calls for row in rows),
        "cpu_s": round(sum(row.cpu_s for row in rows), 2),
        "notes": [row.note for row in rows if row.note],
    }


def _pooled(seeds: Sequence[Mapping[str, Sequence[float]]]) -> dict[str, Sequence[float]]:
    return {f"{seed}/{task}": scores for seed, each in enumerate(seeds) for task, scores in each.items()}


def show(table: Mapping[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    shown = Table("env", "row", "success", "gain over frozen", "prompt tokens", "tokens", "calls", "CPU s", "notes")
    for each in table["rows"]:
        if each.get("why"):
            shown.add_row(each["env"], each["row"], *[""] * 6, each["why"])
            continue
        gain = each["gain"]
        shown.add_row(
            each["env"],
            each["row"],
            _between("{:.2f}", each["success"]),
            _between("{:+.2f}", gain) if gain and each["row"] != "frozen" else "",
            f"{each['prompt_tokens']:.0f}",
            str(each["tokens"]),
            str(each["calls"]),
            f"{each['cpu_s']:.1f}",
            "; ".join(each["notes"]),
        )
    Console(width=None if sys.stdout.isatty() else 180).print(shown)


def _between(form: str, found: Mapping[str, float]) -> str:
    mean, low, high = (form.format(found[name]) for name in ("mean", "low", "high"))
    return f"{mean} [{low}, {high}]"


# -- the command -------------------------------------------------------------------------------------------------------

SIZES = ("seeds", "tasks", "eval", "generations")


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--env", action="append", choices=ENVIRONMENTS, help="again for more; all three by default")
    parser.add_argument("--systems", default=",".join(ROWS), help="rows, with commas between them")
    parser.add_argument("--model", default="smollm2", help="a model of the catalogue, or scripted")
    parser.add_argument("--embedder", choices=("minilm", "hash"), default="minilm")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--tasks", type=int, default=8, help="of the stream, a generation")
    parser.add_argument("--eval", type=int, default=20, help="held-out tasks")
    parser.add_argument("--generations", type=int, default=2)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args(argv)
    asked = given.systems.split(",")
    unknown = [name for name in asked if name not in ROWS]
    if unknown:
        parser.error(f"--systems {unknown[0]!r}: no row is called that. Known: {', '.join(ROWS)}.")
    # In the order in which they are played, and with what the others are compared to.
    given.systems = [name for name in ROWS if name in asked or name == "frozen"]
    given.env = [name for name in ENVIRONMENTS if name in (given.env or ENVIRONMENTS)]
    return given


def main() -> None:
    given = arguments()
    given.out.mkdir(parents=True, exist_ok=True)
    show(measure(given, lambda text: print(text, file=sys.stderr, flush=True)))


# -- tests -------------------------------------------------------------------------------------------------------------


def test_rows_are_asked_for_by_name_and_come_with_what_they_are_compared_to(tmp_path: Path) -> None:
    given = arguments(["--systems", "langmem,tran", "--env", "qa", "--out", str(tmp_path)])
    assert given.systems == ["tran", "langmem", "frozen"]
    assert arguments(["--out", str(tmp_path)]).env == list(ENVIRONMENTS)
    with pytest.raises(SystemExit):
        arguments(["--systems", "memory-palace", "--out", str(tmp_path)])


def test_a_system_whose_worlds_are_others_does_not_apply_and_says_where_it_runs() -> None:
    assert does_not_apply("tran", "qa") == ""
    assert "moderation" in does_not_apply("tran", "workshop")
    assert does_not_apply("lamarck", "workshop") == ""
    assert not any(does_not_apply(name, "dialogue") for name in PLAIN)


def _tiny(out: Path, *more: str) -> dict[str, Any]:
    sizes = ["--seeds", "1", "--tasks", "6", "--eval", "12", "--generations", "2", "--embedder", "hash"]
    out.mkdir(exist_ok=True)
    given = arguments(["--model", "scripted", *sizes, "--out", str(out), *more])
    return measure(given, lambda text: None)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_table_is_complete_and_is_not_played_again(tmp_path: Path) -> None:
    asked = ["--systems", ",".join(["tran", "lamarck", *PLAIN])]
    table = _tiny(tmp_path / "bench", *asked)
    rows = {(each["env"], each["row"]): each for each in table["rows"]}
    assert set(rows) == {(env, row) for env in ENVIRONMENTS for row in ("tran", "lamarck", *PLAIN)}
    for (env, row), each in rows.items():
        if each.get("why"):
            assert each["why"] == does_not_apply(row, env)
            continue
        assert each["success"]["n"] == each["gain"]["n"] == 12
        assert each["tokens"] > each["prompt_tokens"] > 0
        assert each["calls"] >= 12
    assert rows["workshop", "lamarck"]["gain"]["verdict"] == "improved"
    assert rows["dialogue", "raw-retrieval"]["gain"]["mean"] > 0
    assert rows["workshop", "lamarck"]["prompt_tokens"] > rows["workshop", "frozen"]["prompt_tokens"]
    traces = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("trace.jsonl")}
    assert traces
    assert _tiny(tmp_path / "bench", *asked) == table
    assert {file: file.stat().st_mtime_ns for file in traces} == traces


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.filterwarnings("ignore:Importing Send")  # langmem's own import
@pytest.mark.parametrize("peer", memory_peers.PEERS)
def test_a_peer_holds_what_it_was_given_and_gains_by_what_it_finds_of_it(peer: str, tmp_path: Path) -> None:
    if memory_peers.missing(peer):
        pytest.skip(memory_peers.missing(peer))  # an extra that the core does without
    table = _tiny(tmp_path / "bench", "--env", "dialogue", "--systems", peer)
    found = next(each for each in table["rows"] if each["row"] == peer)
    assert found["gain"]["mean"] > 0
    (folder,) = tmp_path.glob(f"bench/dialogue/{peer}/seed-0")
    held = json.loads((folder / "held.json").read_text("utf-8"))
    with Memory.open(folder, embedder=HashEmbedder(), read_only=True) as memory:
        told = [each.trajectories[0].task for each in memory.ledger.episodes(phase="train")]
    assert len(told) == 12
    for task in told:
        if peer == "mem0ai":  # which keeps what was extracted: facts, and no small talk
            assert set(facts(task.prompt)) <= set(held[task.tags[0]])
        else:
            assert any(task.prompt in text for text in held[task.tags[0]])
    everything = "\n".join(text for texts in held.values() for text in texts)
    assert everything
    for task in told:  # nobody's memories are anybody else's
        others = [text for who, texts in held.items() if who != task.tags[0] for text in texts]
        assert not any(task.data["speaker"] in text for text in others)
    calls = [call for call in read_lines(folder / "trace.jsonl") if call["purpose"] == "remember"]
    assert len(calls) == (len(told) if peer == "mem0ai" else 0)


if __name__ == "__main__":
    main()
