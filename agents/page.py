"""A run's report as one HTML page: no script, no network, nothing beside it. Light or dark as the reader prefers.

Everything that comes from the run is escaped, whatever a model may have written.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from itertools import accumulate
from typing import Any

from evolvent.agents.details import DRAWN_LIFTS, Details, Distillate
from evolvent.agents.evaluation.forgetting import MARGIN, kept
from evolvent.agents.findings import STATUSES, Decision, Findings
from evolvent.agents.plots import (
    cost_against_success,
    forgetting_matrix,
    learning_curve,
    lifts,
    lineage,
    records_by_status,
    svg,
)
from evolvent.agents.report import AGAINST, one_line, verdict_in_words
from evolvent.memory.types import Interval, Record

SHOWN_RECORDS = 200
"""Of each table at most; the ledger holds them all."""
SHOWN_PARENTS = 6
"""Of each record, told in full."""

_STYLE = """
:root { color-scheme: light dark; --ink: #1d2127; --paper: #ffffff; --soft: #5d6673; --line: #d7dbe0;
  --improved: #1c7c3c; --no-evidence: #8a6100; --worse: #b3261e; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e8eb; --paper: #16191d; --soft: #9aa4b0; --line: #363c44;
  --improved: #63c684; --no-evidence: #e0b04a; --worse: #f2857d; } }
body { margin: 0 auto; max-width: 46rem; padding: 1rem; background: var(--paper); color: var(--ink);
  font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.4rem; } h2 { font-size: 1.1rem; margin-top: 2rem; } h3 { font-size: 1rem; }
.verdict { font-size: 1.15rem; font-weight: 600; }
.improved { color: var(--improved); } .no-evidence { color: var(--no-evidence); } .worse { color: var(--worse); }
.soft { color: var(--soft); }
svg { width: 100%; max-width: 32rem; height: auto; display: block; }
.wide { overflow-x: auto; }
.lineage svg { width: auto; max-width: none; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; }
th, td { text-align: left; vertical-align: top; padding: .35rem .6rem .35rem 0; border-bottom: 1px solid var(--line); }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
th, td { overflow-wrap: break-word; } .lesson { min-width: 14rem; }
pre { white-space: pre-wrap; font-size: .85rem; margin: .3rem 0; padding-left: .6rem;
  border-left: 2px solid var(--line); }
summary { cursor: pointer; }
"""
_HEAD = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
"""


def page(found: Findings, details: Details = Details()) -> str:
    """The whole page. What could not be read is said where a reader begins."""
    config, result = found.config, found.result
    title = f"{config.recipe} on {config.environment}" if config else found.directory.name
    parts = [_HEAD.format(title=escape(title), style=_STYLE), f"<h1>{escape(title)}</h1>"]
    if result:
        kind = str(result["verdict"]).replace(" ", "-")
        parts.append(f'<p class="verdict {escape(kind)}">{escape(verdict_in_words(result))}</p>')
    else:
        parts.append('<p class="verdict no-evidence">There is no result to report yet.</p>')
    problems = (*found.problems, *details.problems)
    if problems:
        told = "".join(f"<li>{escape(problem)}</li>" for problem in problems)
        parts.append(f'<p class="worse">Not everything here could be read:</p><ul>{told}</ul>')
    if result:
        parts += ["<h2>Learning curve</h2>", _curve(result), _generations(result)]
        parts += ["<h2>Cost against success</h2>", _bought(result)]
    parts += _controls(details)
    parts += _learned(found)
    parts += _lifts(details)
    parts += _lineages(details)
    parts += _weights(details)
    if found.spent:
        parts += ["<h2>Cost by phase</h2>", _spent(found)]
    parts += _setup(found)
    return "\n".join([*parts, "</body>\n</html>\n"])


def _curve(result: Mapping[str, Any]) -> str:
    told = ", ".join(f"generation {row['generation']}: {_success(row['held_out'])}" for row in result["generations"])
    return svg(learning_curve(result), "curve", f"Success by generation. {told}; frozen: {_success(result['frozen'])}")


def _generations(result: Mapping[str, Any]) -> str:
    rows = [["frozen", _success(result["frozen"]), result["frozen"]["n"], "", "", "", ""]]
    for row in result["generations"]:
        held = row["held_out"]
        spent = [f"{row[what]:,.0f}" for what in ("tokens_in", "tokens_out", "calls", "seconds")]
        rows.append([row["generation"], _success(held), held["n"], *spent])
    return _table(
        ("Generation", "Success (95 % interval)", "Tasks", "Tokens in", "Tokens out", "Calls", "Seconds"), rows, 2
    )


def _bought(result: Mapping[str, Any]) -> str:
    """Success by what all generations so far had cost."""
    tokens = list(accumulate(row["tokens_in"] + row["tokens_out"] for row in result["generations"]))
    told = ", ".join(
        f"generation {row['generation']}: {_success(row['held_out'])} for {spent:,} tokens"
        for row, spent in zip(result["generations"], tokens, strict=True)
    )
    drawn = cost_against_success({str(result["recipe"]): result})
    return svg(drawn, "cost", f"Success by tokens spent so far. {told}")


def _controls(details: Details) -> list[str]:
    if not details.standings:
        return []
    rows = []
    for each in details.standings:
        gain = f"{each.gain:+.2f}" if each.gain else ""
        claim = AGAINST[each.verdict] if each.verdict else ""
        rows.append([each.name, claim, f"{each.success:.2f}", gain, f"{each.tokens:,}"])
    columns = ("Arm", "The run beside it", "Success (95 % interval)", "Gain of the run (95 % interval)", "Tokens")
    return ["<h2>Beside its controls</h2>", _table(columns, rows, 2)]


def _learned(found: Findings) -> list[str]:
    parts = []
    if found.by_status:
        counts = found.by_status[max(found.by_status)]
        told = ", ".join(f"{counts.get(status, 0)} {status}" for status in STATUSES)
        drawn = svg(records_by_status(found.by_status), "status", f"Records by generation. At the end {told}")
        parts += ["<h2>Records by status</h2>", drawn]
    if found.decisions:
        parts.append(f"<h2>Learned, and proved ({len(found.active)})</h2>")
        parts.append(_decisions(found, found.active) if found.active else "<p>No rule passed the gate.</p>")
    if found.withdrawn:
        parts.append(f"<h2>Proved, and out of the prompt since ({len(found.withdrawn)})</h2>")
        parts.append(_decisions(found, found.withdrawn))
    if found.rejected:
        parts.append(f"<h2>Turned away ({len(found.rejected)})</h2>")
        parts.append(_decisions(found, found.rejected))
    if found.undecided:
        parts.append(f"<h2>Kept without a gate ({len(found.undecided)})</h2>")
        rows = [
            [record.kind, _Markup(_lesson(found, record)), record.status, record.generation]
            for record in found.undecided[:SHOWN_RECORDS]
        ]
        parts.append(_table(("Kind", "Text, and where it comes from", "Status", "Generation"), rows, 3))
    return parts


def _lifts(details: Details) -> list[str]:
    """Whether having a record in the prompt helps, by rule dropout."""
    if not details.lifted:
        return []
    drawn = sorted(details.lifted[:DRAWN_LIFTS], key=lambda each: -each.lift.mean if each.lift else 0.0)
    rows = [
        [
            _Markup(_text(each)),
            each.status,
            f"{each.lift:+.2f}",
            each.lift.n,
        ]
        for each in drawn
        if each.lift is not None
    ]
    more = len(details.lifted) - len(drawn)
    note = f'<p class="soft">The {len(drawn)} farthest from zero; {more} more are in memory.</p>' if more else ""
    described = f"Lift of {len(drawn)} records with intervals, the highest on top; the table below has the numbers"
    table = _table(("Record", "Status", "Lift (95 % interval)", "Episodes"), rows, 2)
    return ["<h2>Does it help when it is shown?</h2>", svg(lifts(drawn), "lifts", described), note, table]


def _lineages(details: Details) -> list[str]:
    """Of the strongest rules: what stands one step before and after each."""
    parts = []
    for index, (rule, graph) in enumerate(details.lineages):
        told = f"Lineage of {rule.id}: {graph.in_degree(rule.id)} causes, {graph.out_degree(rule.id)} effects"
        drawn = svg(lineage(graph), f"lineage-{index}", told)
        parts.append(f"<h3>{escape(one_line(rule.text))}</h3>")
        parts.append(f'<div class="wide lineage">{drawn}</div>')
    if not parts:
        return []
    note = '<p class="soft">Solid: derived. Dashed: merged. Dotted: shown in a prompt.</p>'
    return ["<h2>Where the strongest rules come from</h2>", note, *parts]


def _weights(details: Details) -> list[str]:
    """What was distilled, and what that made the model forget."""
    parts = []
    if details.adapters:
        rows = [
            [_Markup(_adapter(each)), each.status, *_gate(each), each.adapter.card.base] for each in details.adapters
        ]
        columns = ("Adapter, and how it was made", "Status", "Paired episodes", "E-value", "Base")
        parts += [f"<h2>Adapters ({len(rows)})</h2>", _table(columns, rows)]
    if details.forgetting:
        changed = [
            [adapter, ability, _kept(change), f"{change:+.3f}", change.n]
            for adapter, changes in details.forgetting.items()
            for ability, change in changes.items()
        ]
        told = "; ".join(f"{row[0]}, {row[1]}: {row[3]}" for row in changed)
        drawn = svg(forgetting_matrix(details.forgetting), "forgetting", f"Change of each ability. {told}")
        table = _table(("Adapter", "Ability", "Kept?", "Change (95 % interval)", "Items"), changed, 3)
        note = f"A loss of {MARGIN} is tolerated: of success, or of nats per token for prose."
        parts += ["<h2>What distilling made it forget</h2>", drawn, f'<p class="soft">{note}</p>', table]
    return parts


def _gate(each: Distillate) -> list[str]:
    return [each.decision.evidence, each.decision.strength] if each.decision else ["no verdict", ""]


def _adapter(each: Distillate) -> str:
    card = each.adapter.card
    told = {
        "data set": f"{card.dataset} ({card.dataset_hash})" if card.dataset else "none: merged",
        "parents": ", ".join(card.parents) or "none",
        "made": card.created,
        "size": f"{card.parameters:,} parameters, {card.bytes / 1e6:.1f} MB",
        **{name: _value(value) for name, value in (card.config | card.metrics).items()},
    }
    lines = "".join(f"<div>{escape(name)}: {escape(str(value))}</div>" for name, value in told.items())
    return f'<details class="lesson"><summary>{escape(each.adapter.full_name)}</summary>{lines}</details>'


def _kept(change: Interval) -> str:
    return "kept" if kept(change) else "lost" if change.high < -MARGIN else "not shown to be kept"


def _decisions(found: Findings, decisions: Sequence[Decision]) -> str:
    rows = [
        [
            _Markup(_lesson(found, each.record)),
            each.evidence,
            f"{float(each.gate.get('mean', 0)):+.2f}",
            each.strength,
            each.generation,
        ]
        for each in decisions[:SHOWN_RECORDS]
    ]
    columns = ("Rule, and where it comes from", "Paired episodes", "Mean gain", "E-value", "Generation")
    return _table(columns, rows, 2)


def _lesson(found: Findings, record: Record) -> str:
    """A record's text; below it, folded, each of its parents with what happened there."""
    if not record.parents:
        return _text(record)
    told = "".join(
        f"<div>{escape(parent)}</div><pre>{escape(found.origins.get(parent) or 'cannot be read')}</pre>"
        for parent in record.parents[:SHOWN_PARENTS]
    )
    if len(record.parents) > SHOWN_PARENTS:
        told += f"<div>and {len(record.parents) - SHOWN_PARENTS} more</div>"
    return f'<details class="lesson"><summary>{escape(record.text)}</summary>{told}</details>'


def _text(record: Record) -> str:
    return f'<div class="lesson">{escape(record.text)}</div>'


def _spent(found: Findings) -> str:
    rows = [
        [
            each.phase,
            f"{each.episodes:,}",
            each.failures,
            f"{each.cost.calls:,}",
            f"{each.cost.tokens_in:,}",
            f"{each.cost.tokens_out:,}",
            f"{each.cost.seconds:,.0f}",
        ]
        for each in found.spent
    ]
    columns = ("Phase", "Episodes", "Failed", "Calls", "Tokens in", "Tokens out", "Seconds of episodes")
    return _table(columns, rows, 1)


def _setup(found: Findings) -> list[str]:
    parts = []
    if found.config:
        rows = [[name, _value(value)] for name, value in found.config.model_dump(mode="json").items()]
        parts += ["<h2>Configuration</h2>", _table(("Setting", "Value"), rows)]
    if found.result:
        named = {
            "environment": found.result.get("env_version") or "not recorded",
            "set of tasks": found.result.get("task_set_hash", "not recorded"),
        }
        others = {name: version for name, version in found.result.get("versions", {}).items() if name != "environment"}
        rows = [[name, version] for name, version in (named | others).items()]
        parts += ["<h2>Versions</h2>", _table(("Of", "Version"), rows)]
    parts.append(f'<p class="soft">Run directory: {escape(str(found.directory))}</p>')
    return parts


class _Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


def _table(columns: Sequence[str], rows: Iterable[Sequence[object]], numbers_from: int | None = None) -> str:
    """An HTML table; columns from `numbers_from` on hold figures."""

    def cells(tag: str, values: Sequence[object]) -> str:
        texts = [value if isinstance(value, _Markup) else escape(str(value)) for value in values]
        first = len(texts) if numbers_from is None else numbers_from
        plain = [f"<{tag}>{text}</{tag}>" for text in texts[:first]]
        return "".join([*plain, *(f'<{tag} class="number">{text}</{tag}>' for text in texts[first:])])

    body = "".join(f"<tr>{cells('td', row)}</tr>\n" for row in rows)
    return (
        f'<div class="wide"><table><thead><tr>{cells("th", columns)}</tr></thead>\n<tbody>{body}</tbody></table></div>'
    )


def _success(interval: Mapping[str, float]) -> str:
    return f"{interval['success']:.2f} ({interval['low']:.2f} to {interval['high']:.2f})"


def _value(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)
