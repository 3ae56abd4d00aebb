"""What systems that remember gain, beside plain controls and two libraries: same model, tasks, seeds and token budget.

    python tests/benchmarks/bench_memory_systems.py [--env qa --env dialogue --env workshop] [--systems tran,langmem]
        [--model smollm2|scripted|mistaken] [--embedder minilm|hash] [--seeds 2] [--tasks 8] [--eval 20]
        [--generations 2] [--window 2000] --out DIR

Each row sees the same stream of `--tasks` tasks a generation, and is judged on the same held-out tasks; each seed is a
world of its own. In qa the tasks of the stream come with the passages they follow from, and held-out questions ask for
other facts of the same 80. `tran`, the peers in qa, and nobody else, are told right answers, as their papers have it.
The controls have one episode on each task of the stream; `random-rules` are those of the first system that wrote rules,
each with another one's action. `lamarck` also explores and proves on episodes of its own, which its tokens and calls
count in. `NAME+proof` is a system with `prove`: what it writes waits for Evolvent's gate.
The gain is over the plain `frozen` agent, task by task; each system's own generation 0 stands in the JSON.

The budget of every row: a prompt of `--window` tokens at most, 48 for an answer (each, where a system makes several
calls for one), 64 for what a system writes for itself, and in all as many tokens as one full prompt with its answer for
each task of the stream and each held-out one. The settings of the systems are set to it, and what was spent is read
from the trace: a row that went beyond says so, with the figure. Nothing is cut off for it.

`--model scripted` is `able_reader`: it is right exactly when the fact it needs is in its prompt, so what a row gains is
what its memory finds again. With `--model mistaken` half of the workshop's lessons that it writes down are wrong:
there one sees what proof is worth. The embedded model is for the record. Every row of a seed has a folder, and one that
has its `row.json` is not played again. CPU is that of this process, all threads, from a loaded model on; rows share an
embedder, which remembers what it embedded. Success is the mean score: in qa and dialogue the token F1 of the answer.
`table.json` and `table.md` hold the table.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import memory_peers
import pytest
from able_reader import AbleReader, claims, facts

from evolvent.agents.errors import AgentError
from evolvent.agents.evaluation.controls import (
    CONTROLS,
    Arm,
    Rival,
    play_controls,
    rules_from_elsewhere,
    rules_misplaced,
)
from evolvent.agents.evaluation.held_out import evaluate_held_out
from evolvent.agents.evaluation.statistics import interval, paired, verdict
from evolvent.agents.recipes.catalog import implemented, load_recipe
from evolvent.agents.run import Prepared, RunConfig, create, execute, opened, prepare
from evolvent.agents.solutions.seats import bare, learning_seat
from evolvent.agents.trace import read_lines
from evolvent.agents.types import derive_rng
from evolvent.environments.types import Cost
from evolvent.environments.workshop import FLAWS, TOOLS, Workshop
from evolvent.memory.embedding import HashEmbedder
from evolvent.memory.store import Memory
from evolvent.memory.types import Record

ENVIRONMENTS = ("qa", "dialogue", "workshop")
NINE = ("tran", "mot", "tim", "memorybank", "memgpt", "iml", "ice", "ua2-agent", "aesopagent")
SYSTEMS = (*NINE, "lamarck")
PROVED = {f"{name}+proof": name for name in ("tran", "mot", "tim", "memorybank", "memgpt", "iml")}
PLAIN = ("frozen", *CONTROLS)
ROWS = (*SYSTEMS, *PROVED, *memory_peers.PEERS, *PLAIN)
"""Controls come last: random rules are borrowed from a system that was played before."""
ANSWER_TOKENS, NOTE_TOKENS = 48, 64
"""Of an answer, and of what a system writes for itself."""
READERS = {"scripted": 0.0, "mistaken": 0.5}
"""Scripted models, and how many of the lessons that they write down are wrong."""
_BESIDE_HISTORY = 500
"""Tokens of a window that a control keeps for instructions and task."""
_QA = {"about": 80, "evidence": True}
_KEPT = "row.json"
_NOT_FOR = {
    "ice": "it keeps workflows of subgoals and pipelines of tool calls, and here are no tools and no subgoals",
    "ua2-agent": "it keeps a shopper's requests with the clicks that met them and counts money; nothing is bought here",
    "aesopagent": "it rewrites the steps of a production line by an expert's comments on each; here is no such line",
    "iml": "it keeps a note for each class of answers, and these are names and numbers without classes",
    "mot": "it votes over chains that end in one answer; an episode here is several decisions, each answered at once",
}
"""Why a system has no row in a world that its recipe does not name."""


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
    widest: int = 0
    """Tokens of its longest prompt, whoever wrote it and for what."""
    over: Mapping[str, Sequence[int]] = field(default_factory=dict)
    """Where it went beyond the budget: tokens, and tokens allowed."""


def does_not_apply(row: str, environment: str) -> str:
    """Why a row has no figures in a world; empty where it has."""
    if row in PLAIN:
        return ""
    if row in memory_peers.PEERS:
        return memory_peers.missing(row)
    recipe = PROVED.get(row, row)
    if recipe not in implemented():
        return "does not apply: no recipe yet"
    if environment in load_recipe(recipe).ENVIRONMENTS:
        return ""
    return f"does not apply: {_NOT_FOR.get(recipe, 'its recipe names other worlds')}"


# -- one row on one seed -----------------------------------------------------------------------------------------------


async def played(
    row: str, config: RunConfig, folder: Path, ready: Prepared, window: int, say: Callable[[str], None]
) -> Row:
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
    if row in SYSTEMS or row in PROVED:
        if not (folder / "config.json").exists():
            create(config, folder)
        await execute(folder, say=say, models=ready.models, embedder=ready.embedder)
        found = _of_run(folder)
        if config.environment == "workshop":
            found = replace(found, note=f"{found.note}; {_false(folder, config)}")
    elif row in memory_peers.PEERS:
        await _play_peer(row, config, folder, ready, say)
        found = _of_run(folder, time.process_time() - started)
    else:
        found = await _play_control(row, config, folder, ready, window, say)
    lost = _puzzled(ready) - puzzled
    if lost:
        note = f"{found.note}; {lost} prompts held nothing the reader could write down".lstrip("; ")
        found = replace(found, note=note)
    found = _held_to_budget(found, row, config, folder, window)
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


async def _play_control(
    row: str, config: RunConfig, folder: Path, ready: Prepared, window: int, say: Callable[[str], None]
) -> Row:
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
        learning = config.tasks * config.generations
        arm_of_frozen = Arm(plain.scores, plain.cost)
        rival = Rival(learning, 1.0, arm_of_frozen, rules, history_tokens=window - _BESIDE_HISTORY)
        (arm,) = (await play_controls(context, rival, [row])).values()
        note = f"{arm.note} of {donor}" if rules else arm.note
        prompt = _prompt_tokens(context.memory, row) or plain.prompt_tokens
    cpu = time.process_time() - started
    return Row(arm.scores, prompt, arm.cost.tokens_in + arm.cost.tokens_out, arm.cost.calls, cpu, note=note)


def _borrowed(folder: Path, config: RunConfig) -> tuple[list[Record], str]:
    """As many rules as the first system beside this folder has active ones, and its name and what was done to them.

    They are those it learned in the next world that was played; where there is none, its own with other actions.
    """
    for name in SYSTEMS:
        seeds = sorted((folder.parents[1] / name).glob("seed-*"))
        by_seed = {run.name: _rules(run) for run in seeds if (run / _KEPT).exists()}
        own = by_seed.pop(folder.name, [])
        active = [rule for rule in own if rule.status == "active"]
        foreign = [rule for rules in by_seed.values() for rule in rules if rule.status == "active"]
        if active and foreign:
            return rules_from_elsewhere(active, foreign), f"{name} in another world"
        if active:
            return rules_misplaced(active, own, derive_rng(config.seed, "misplaced rules")), f"{name}, misplaced"
    return [], ""


def _rules(run: Path) -> list[Record]:
    with Memory.open(run, embedder=HashEmbedder(), read_only=True) as memory:
        return [record for record in memory.records().values() if record.kind == "rule"]


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
    if last.get("missed"):  # nothing is missed where nothing is held
        buckets = load_recipe("tim").PRESETS["small"].buckets
        note += f"; looking into one of {buckets} buckets misses {last['missed'][str(buckets)]:.0%} of the nearest"
    return Row(last["scores"], prompt, spent.tokens_in + spent.tokens_out, spent.calls, cpu_s, first["scores"], note)


def _false(folder: Path, config: RunConfig) -> str:
    """How many of the records in use claim what the laws of the world do not say; raw trajectories are no claims."""
    laws = {law.text for law in Workshop(**config.options).laws()}
    with Memory.open(folder, embedder=HashEmbedder(), read_only=True) as memory:
        used = [each for each in memory.records().values() if each.status == "active" and each.kind != "trajectory"]
    claimed = [found for each in used if (found := claims(each.text))]
    return f"{sum(not laws.issuperset(each) for each in claimed)} of {len(claimed)} that claim something are false"


def _held_to_budget(found: Row, row: str, config: RunConfig, folder: Path, window: int) -> Row:
    """With its longest prompt, and where that, a reply or all of it together is beyond the budget."""
    every = read_lines(folder / "trace.jsonl")
    # Generation 0 is the comparison, and the row of `frozen` alone.
    calls = [each for each in every if each["generation"] or each["phase"] != "eval" or row == "frozen"]
    widest = max((each["tokens_in"] for each in calls), default=0)
    replies = [(each["purpose"].startswith("act"), each["tokens_out"]) for each in calls]
    acted, noted = (max((out for acts, out in replies if acts is which), default=0) for which in (True, False))
    allowed = (window + ANSWER_TOKENS) * (config.tasks * config.generations + config.evaluated)
    spent = (
        ("a prompt", widest, window),
        ("an answer", acted, ANSWER_TOKENS),
        ("what it writes for itself", noted, NOTE_TOKENS),
        ("all in all", found.tokens, allowed),
    )
    over = {what: [tokens, most] for what, tokens, most in spent if tokens > most}
    return replace(found, widest=widest, over=over)


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
                        asyncio.run(played(name, config, folder, prepared[seed], given.window, lambda text: None))
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
        (given.out / "table.md").write_text(markdown(table), encoding="utf-8")
    return table


def settings_of(row: str, window: int) -> dict[str, Any]:
    """A system's settings where they hold it to the budget, and nothing else that its preset does not say."""
    match PROVED.get(row, row):
        case "tran":
            found: dict[str, Any] = {"reply_tokens": ANSWER_TOKENS, "rule_tokens": NOTE_TOKENS}
        case "mot":
            found = {"reply_tokens": ANSWER_TOKENS, "prompt_tokens": window, "list_tokens": window}
        case "tim":
            found = {"reply_tokens": ANSWER_TOKENS, "thought_tokens": NOTE_TOKENS}
        case "memorybank":
            found = {"reply_tokens": ANSWER_TOKENS, "summary_tokens": NOTE_TOKENS}
        case "memgpt":
            # Of the chain's calls each may hold an answer; its searches need room for more than the two of its preset.
            budget = {"window_tokens": window, "reply_tokens": ANSWER_TOKENS, "summary_tokens": NOTE_TOKENS}
            found = {**budget, "chain": 4}
        case "iml":
            found = {"reply_tokens": ANSWER_TOKENS, "note_tokens": NOTE_TOKENS}
        case _:
            found = {}
    return found | ({"prove": True} if row in PROVED else {})


def config_of(given: argparse.Namespace, row: str, environment: str, seed: int) -> RunConfig:
    return RunConfig(
        recipe=PROVED.get(row, row),
        environment=environment,
        options={"world": seed, **(_QA if environment == "qa" else {})},
        settings=settings_of(row, given.window),
        model=given.model,
        tasks=given.tasks,
        evaluated=given.eval,
        generations=given.generations,
        seed=seed,
        embedder=given.embedder,
    )


def _ready(given: argparse.Namespace, config: RunConfig) -> Prepared:
    models = {"actor": AbleReader(mistaken=READERS[given.model])} if given.model in READERS else None
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
        "widest_prompt": max(row.widest for row in rows),
        "over_budget": {what: max(row.over[what] for row in rows if what in row.over) for what in _kinds_over(rows)},
        "notes": [row.note for row in rows if row.note],
    }


def _kinds_over(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(what for row in rows for what in row.over))


def _pooled(seeds: Sequence[Mapping[str, Sequence[float]]]) -> dict[str, Sequence[float]]:
    return {f"{seed}/{task}": scores for seed, each in enumerate(seeds) for task, scores in each.items()}


COLUMNS = (
    *("world", "row", "success", "gain over frozen", "verdict"),
    *("prompt", "widest", "tokens", "calls", "CPU s", "notes"),
)


def cells(each: Mapping[str, Any]) -> list[str]:
    """Of one row, by `COLUMNS`: `prompt` is the mean prompt of a held-out episode, `widest` the longest of any call."""
    if each.get("why"):
        return [each["env"], each["row"], *[""] * (len(COLUMNS) - 3), each["why"]]
    gain = each["gain"] if each["row"] != "frozen" else None
    over = [f"{what} {tokens:,} tokens of {most:,}" for what, (tokens, most) in each["over_budget"].items()]
    beyond = [f"over budget: {', '.join(over)}"] if over else []
    return [
        each["env"],
        each["row"],
        _between("{:.2f}", each["success"]),
        _between("{:+.2f}", gain) if gain else "",
        gain["verdict"] if gain else "",
        f"{each['prompt_tokens']:.0f}",
        str(each["widest_prompt"]),
        str(each["tokens"]),
        str(each["calls"]),
        f"{each['cpu_s']:.1f}",
        "; ".join(dict.fromkeys((*beyond, *each["notes"]))),
    ]


def markdown(table: Mapping[str, Any]) -> str:
    """The whole table, under the sizes it was played with."""
    sizes = ", ".join(f"{name} {value}" for name, value in table["sizes"].items())
    lines = [COLUMNS, ["---"] * len(COLUMNS), *(cells(each) for each in table["rows"])]
    rows = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return f"Model {table['model']}; {sizes}.\n\n{rows}\n"


def show(table: Mapping[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    shown = Table(*COLUMNS)
    for each in table["rows"]:
        shown.add_row(*cells(each))
    Console(width=None if sys.stdout.isatty() else 220).print(shown)


def _between(form: str, found: Mapping[str, float]) -> str:
    mean, low, high = (form.format(found[name]) for name in ("mean", "low", "high"))
    return f"{mean} [{low}, {high}]"


# -- the command -------------------------------------------------------------------------------------------------------

SIZES = ("seeds", "tasks", "eval", "generations", "window")


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--env", action="append", choices=ENVIRONMENTS, help="again for more; all three by default")
    parser.add_argument("--systems", default=",".join(ROWS), help="rows, with commas between them")
    parser.add_argument("--model", default="smollm2", help=f"a model of the catalogue, or {' or '.join(READERS)}")
    parser.add_argument("--embedder", choices=("minilm", "hash"), default="minilm")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--tasks", type=int, default=8, help="of the stream, a generation")
    parser.add_argument("--eval", type=int, default=20, help="held-out tasks")
    parser.add_argument("--generations", type=int, default=2)
    parser.add_argument("--window", type=int, default=2000, help="tokens of a prompt")
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


def test_a_system_either_runs_in_a_world_or_says_why_it_is_not_for_it() -> None:
    for name in (*SYSTEMS, *PROVED):
        for environment in ENVIRONMENTS:
            why = does_not_apply(name, environment)
            assert not why or why.removeprefix("does not apply: ") == _NOT_FOR[PROVED.get(name, name)]
    assert {name for name in NINE if not does_not_apply(name, "workshop")} == {
        *("tran", "tim", "memorybank", "memgpt", "iml"),
    }
    assert not any(does_not_apply(name, "dialogue") for name in PLAIN)


def test_the_budget_is_in_settings_that_every_system_knows(tmp_path: Path) -> None:
    given = arguments(["--out", str(tmp_path), "--window", "1234"])
    for name in (*SYSTEMS, *PROVED):
        config = config_of(given, name, "qa", 0).recipe_config()
        assert getattr(config, "prove", False) is (name in PROVED)
        assert getattr(config, "reply_tokens", ANSWER_TOKENS) == ANSWER_TOKENS or name in _NOT_FOR
    assert config_of(given, "memgpt", "qa", 0).settings["window_tokens"] == 1234


def test_what_goes_beyond_the_budget_is_told_with_its_figure(tmp_path: Path) -> None:
    calls = [
        {"phase": "eval", "generation": 0, "purpose": "act", "tokens_in": 5000, "tokens_out": 9},
        {"phase": "train", "generation": 1, "purpose": "remember", "tokens_in": 1100, "tokens_out": 80},
        {"phase": "eval", "generation": 1, "purpose": "act-1", "tokens_in": 900, "tokens_out": 48},
    ]
    (tmp_path / "trace.jsonl").write_text("".join(f"{json.dumps(call)}\n" for call in calls), encoding="utf-8")
    config = config_of(arguments(["--out", str(tmp_path), "--tasks", "1", "--eval", "2"]), "tran", "qa", 0)
    found = _held_to_budget(Row({}, 0.0, 2128, 2, 0.0), "tran", config, tmp_path, 1000)
    assert found.widest == 1100
    assert found.over == {"a prompt": [1100, 1000], "what it writes for itself": [80, 64]}
    assert _held_to_budget(found, "frozen", config, tmp_path, 1000).widest == 5000
    beyond = _held_to_budget(replace(found, tokens=99_999), "tran", config, tmp_path, 9000)
    assert beyond.over["all in all"] == [99_999, 36_192]
    figures = _figures([replace(found, scores={"a": (1.0,), "b": (0.0,)})], None)
    assert cells({"env": "qa", "row": "frozen", **figures})[-1].startswith(
        "over budget: a prompt 1,100 tokens of 1,000, what it writes"
    )


def test_a_mistaken_reader_writes_wrong_lessons_and_reads_and_answers_as_the_other() -> None:
    told = "\n".join(f"How do you mend {flaw}?\n> {tool}\nIt worked." for flaw, tool in zip(FLAWS, TOOLS, strict=True))
    asked = "\n\nHow do you mend rust?\nAnswer with one of: lamp | oil | salt"
    able, mistaken = AbleReader(), AbleReader(mistaken=0.5)
    assert mistaken.invoke(told + asked).text == able.invoke(told + asked).text == "oil"
    right = claims(able.invoke(told).text)
    assert len(right) == len(FLAWS)
    first, other = (claims(mistaken.invoke(f"{told}\n{more}").text) for more in ("", "Once more."))
    assert first != other  # by what it reads it in, and not by the lesson alone
    wrong = [set(each) - set(right) for each in (first, other)]
    assert all(0.2 * len(FLAWS) < len(each) < 0.8 * len(FLAWS) for each in wrong)
    order = "With rot and rust, what do you mend first?\n> rust\nIt worked."
    assert claims(AbleReader(mistaken=1.0).invoke(order).text) == ["With rot and rust, first mend rot."]


def _tiny(out: Path, *more: str) -> dict[str, Any]:
    sizes = ["--seeds", "1", "--tasks", "6", "--eval", "12", "--generations", "2", "--embedder", "hash"]
    out.mkdir(exist_ok=True)
    given = arguments(["--model", "scripted", *sizes, "--out", str(out), *more])
    return measure(given, lambda text: None)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_reader_who_is_right_when_it_sees_the_fact_shows_what_each_memory_finds(tmp_path: Path) -> None:
    """The directions that follow from how the systems and the worlds are made; what each is worth is not asserted."""
    systems = ["tran", "mot", "tim", "memorybank", "memgpt", "iml", "lamarck", "mot+proof", *PLAIN]
    out, sizes = tmp_path / "bench", ["--tasks", "9", "--eval", "20"]
    table = _tiny(out, *sizes, "--systems", ",".join(systems))
    rows = {(each["env"], each["row"]): each for each in table["rows"]}
    assert set(rows) == {(env, row) for env in ENVIRONMENTS for row in systems}
    gains = {key: each["gain"]["mean"] for key, each in rows.items() if not each.get("why")}
    for (env, row), each in rows.items():
        if each.get("why"):
            assert each["why"] == does_not_apply(row, env)
            continue
        assert each["success"]["n"] == each["gain"]["n"] == 20
        assert each["widest_prompt"] <= 2000
        assert set(each["over_budget"]) <= {"all in all"}
        assert each["tokens"] > each["prompt_tokens"] > 0
    for env in ("qa", "dialogue"):  # the whole history fits in the window, and there is no more to know
        best = max(gain for (where, _), gain in gains.items() if where == env)
        assert gains[env, "full-history"] == pytest.approx(best)
    for env in ENVIRONMENTS:
        assert gains[env, "full-history"] > 0
        assert gains[env, "memorybank"] > 0
        assert gains[env, "memgpt"] > 0
        assert gains[env, "lamarck"] > 0
    assert rows["qa", "frozen"]["success"]["mean"] == 0  # nobody can know
    assert gains["qa", "mot"] > 0
    assert gains["qa", "mot+proof"] <= gains["qa", "mot"]  # one fact a memory: the gate has nothing to see
    assert gains["qa", "tran"] == 0  # it learns from mistakes, and with the passages before it makes none
    assert gains["dialogue", "tran"] > 0
    assert gains["dialogue", "tim"] > 0
    assert gains["dialogue", "mot"] == 0  # thinking ahead finds no fact that was never told
    assert gains["workshop", "tran"] > 0
    assert gains["workshop", "iml"] > 0
    for system in ("lamarck", "tran", "full-history"):
        assert rows["workshop", system]["gain"]["verdict"] == "improved"
    text = (out / "table.md").read_text("utf-8")
    assert all(f"| {env} | {row} |" in text for env, row in rows)
    traces = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("trace.jsonl")}
    assert traces
    assert _tiny(out, *sizes, "--systems", ",".join(systems)) == table  # and is not played again
    assert {file: file.stat().st_mtime_ns for file in traces} == traces


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_with_proof_nothing_false_is_in_use(tmp_path: Path) -> None:
    table = _tiny(tmp_path, "--model", "mistaken", "--env", "workshop", "--tasks", "12", "--systems", "iml,iml+proof")
    notes = {each["row"]: each["notes"][0] for each in table["rows"] if each["notes"]}
    counts = {name: [int(n) for n in re.findall(r"(\d+) of (\d+) that claim", note)[0]] for name, note in notes.items()}
    assert counts["iml"][0] > 0
    assert counts["iml+proof"][0] == 0 < counts["iml+proof"][1]


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
