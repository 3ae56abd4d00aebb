"""A run's report as one HTML page: no script, no network, nothing beside it. Light or dark as the reader prefers.

Everything that comes from the run is escaped, whatever a model may have written.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from evolvent.agents.findings import STATUSES, Decision, Findings
from evolvent.agents.plots import learning_curve, records_by_status, svg
from evolvent.agents.report import verdict_in_words
from evolvent.memory.types import Record

SHOWN_RECORDS = 200
"""Of each table at most; the ledger holds them all."""

_STYLE = """
:root { color-scheme: light dark; --ink: #1d2127; --paper: #ffffff; --soft: #5d6673; --line: #d7dbe0;
  --improved: #1c7c3c; --no-evidence: #8a6100; --worse: #b3261e; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e8eb; --paper: #16191d; --soft: #9aa4b0; --line: #363c44;
  --improved: #63c684; --no-evidence: #e0b04a; --worse: #f2857d; } }
body { margin: 0 auto; max-width: 46rem; padding: 1rem; background: var(--paper); color: var(--ink);
  font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.4rem; } h2 { font-size: 1.1rem; margin-top: 2rem; }
.verdict { font-size: 1.15rem; font-weight: 600; }
.improved { color: var(--improved); } .no-evidence { color: var(--no-evidence); } .worse { color: var(--worse); }
.soft { color: var(--soft); }
svg { width: 100%; max-width: 32rem; height: auto; display: block; }
.wide { overflow-x: auto; }
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


def page(found: Findings) -> str:
    """The whole page. What could not be read is said where a reader begins."""
    config, result = found.config, found.result
    title = f"{config.recipe} on {config.environment}" if config else found.directory.name
    parts = [_HEAD.format(title=escape(title), style=_STYLE), f"<h1>{escape(title)}</h1>"]
    if result:
        kind = str(result["verdict"]).replace(" ", "-")
        parts.append(f'<p class="verdict {escape(kind)}">{escape(verdict_in_words(result))}</p>')
    else:
        parts.append('<p class="verdict no-evidence">There is no result to report yet.</p>')
    if found.problems:
        told = "".join(f"<li>{escape(problem)}</li>" for problem in found.problems)
        parts.append(f'<p class="worse">Not everything here could be read:</p><ul>{told}</ul>')
    if result:
        parts += ["<h2>Learning curve</h2>", _curve(result), _generations(result)]
    parts += _learned(found)
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
        return f'<div class="lesson">{escape(record.text)}</div>'
    told = "".join(
        f"<div>{escape(parent)}</div><pre>{escape(found.origins.get(parent) or 'cannot be read')}</pre>"
        for parent in record.parents
    )
    return f'<details class="lesson"><summary>{escape(record.text)}</summary>{told}</details>'


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
