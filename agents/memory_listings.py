"""What `evolvent memory` shows: tables and trees for a terminal, and the same as plain JSON values."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import TYPE_CHECKING, Any

from rich.console import Group, RenderableType
from rich.text import Text
from rich.tree import Tree

from evolvent.agents.listings import new_table, pairs, plain, status_text
from evolvent.environments.display import count
from evolvent.memory.lineage import head
from evolvent.memory.types import Interval

if TYPE_CHECKING:
    from networkx import DiGraph

    from evolvent.memory.audit import Audit
    from evolvent.memory.fsck import Problem
    from evolvent.memory.history import Change, Field, Logged, Origin
    from evolvent.memory.lineage import Cause, Impact, Why
    from evolvent.memory.types import Event, Record

_IDS_SHOWN = 12
"""In one place; --json has all."""
_SET = ("lift", "recalls", "meta", "parents", "status", "without_meta", "without_parents", "as_was")
"""What a payload sets, beside the grounds it gives."""


# -- records -------------------------------------------------------------------------------------------------------


def record_json(record: Record, score: float | None = None) -> dict[str, Any]:
    """The keys other tools read, and how often and since when."""
    return {
        "id": record.id,
        "kind": record.kind,
        "text": record.text,
        "status": record.status,
        "scope": asdict(record.scope),
        "parents": list(record.parents),
        "score": score,
        "lift": asdict(record.lift) if record.lift else None,
        "recalls": record.recalls,
        "generation": record.generation,
    }


def records_table(records: Iterable[Mapping[str, Any]]) -> RenderableType:
    """Records as `record_json` gives them, one a row."""
    rows = list(records)
    searched = any(row["score"] is not None for row in rows)
    table = new_table("id", "status", *(["score"] if searched else []), "lift", "recalled", "text")
    for row in rows:
        cells: list[RenderableType] = [Text(row["id"], no_wrap=True), status_text(row["status"])]
        if searched:
            cells.append(f"{row['score']:.3f}")
        lift = f"{row['lift']['mean']:+.2f}" if row["lift"] else ""
        table.add_row(*cells, lift, f"{row['recalls']}×", _line(row["text"]))
    return Group(table, Text(f"\n{len(rows)} record{'s' * (len(rows) != 1)}"))


def record_page(record: Record, origins: Sequence[Origin]) -> RenderableType:
    """One record, where it applies, what it came from, and by commit what was set and on what grounds."""
    scope = {key: value for key, value in asdict(record.scope).items() if value}
    facts: dict[str, Any] = {
        "id": record.id,
        "kind": record.kind,
        "status": record.status,
        "scope": ", ".join(f"{key} {plain(value)}" for key, value in scope.items()) or "everywhere",
        "parents": _some(record.parents) or "none",
        "lift": value_text(record.lift) if record.lift else "no estimate yet",
        "recalled": f"{record.recalls} times since generation {record.generation}",
    }
    # One event may set many fields: they stand together, in the order of their first.
    for commit, event in {id(each.event): (each.commit, each.event) for each in origins}.values():
        fields = _fields_set([each for each in origins if each.event is event])
        grounds = evidence_text({key: value for key, value in event.payload.items() if key not in _SET})
        told = [f"{event.kind} at {commit.key}: {fields}", *([grounds] if grounds else [])]
        facts[commit.id] = "\n".join([*([facts[commit.id]] if commit.id in facts else []), *told])
    return Group(Text(record.text, style="bold"), Text(""), pairs(facts))


def blame_json(origins: Sequence[Origin]) -> list[dict[str, Any]]:
    """One entry a field, in the order they were set."""
    return [
        {
            "field": each.field,
            "value": _json(each.value),
            **{"commit": each.commit.id, "key": each.commit.key, "generation": each.commit.generation},
            **{"event": each.event.kind, "evidence": dict(each.event.payload)},
        }
        for each in origins
    ]


def _fields_set(fields: Sequence[Origin]) -> str:
    parents = sum(each.field.startswith("parents.") for each in fields)
    told = [
        each.field if each.field == "added" else f"{each.field} {head(value_text(each.value))}"
        for each in fields
        if not each.field.startswith("parents.")
    ]
    return ", ".join([*told, *([f"{parents} parents"] if parents else [])])


def evidence_text(payload: Mapping[str, Any]) -> str:
    """Why something was decided, in one line."""
    told = []
    for key, value in payload.items():
        if key == "gate" and isinstance(value, Mapping):
            told.append(_gate_text(value))
        elif isinstance(value, Mapping):
            told.append(f"{key}: {evidence_text(value)}")
        else:
            told.append(f"{key} {value_text(value)}")
    return ", ".join(told)


def _gate_text(gate: Mapping[str, Any]) -> str:
    """Evidence of paired episodes in one sentence."""
    if not gate.keys() >= {"verdict", "wins", "losses", "ties", "e_value", "level"}:
        return f"gate: {plain(dict(gate))}"
    counts = "won {wins}, lost {losses}, tied {ties} of the pairs".format(**gate)
    return f"{gate['verdict']}: {counts}; e-value {gate['e_value']:.3g} against {1 / gate['level']:.3g} needed"


# -- history -------------------------------------------------------------------------------------------------------


def logged_json(logged: Logged) -> dict[str, Any]:
    return {
        **asdict(logged.commit),
        "events": dict(logged.counts),
        "branches": list(logged.branches),
        "reverted_by": logged.reverted_by,
    }


def log_table(rows: Sequence[Logged], branch: str) -> RenderableType:
    """One commit a row, newest first; those that do not count any more are dim."""
    table = new_table("commit", "step", "generation", "when", "events", "note")
    for row in rows:
        commit = row.commit
        heads = [f"[{'*' if name == branch else ''}{name}]" for name in row.branches]
        notes = [*heads, commit.note, f"merges {commit.merged}" if commit.merged else ""]
        notes.append(f"reverted by {row.reverted_by}" if row.reverted_by else "")
        when = datetime.fromtimestamp(commit.created_at).strftime("%Y-%m-%d %H:%M")
        events = ", ".join(f"{count} {kind}" for kind, count in row.counts.items()) or "nothing"
        told = Text(" ".join(filter(None, notes)))
        style = "dim" if row.reverted_by else ""
        table.add_row(commit.id, Text(commit.key), str(commit.generation), when, events, told, style=style)
    return table


def branches_table(heads: Mapping[str, str], current: str) -> RenderableType:
    table = new_table("branch", "head")
    for name, commit in heads.items():
        table.add_row(Text(f"{'*' if name == current else ' '} {name}"), commit)
    return table


def change_json(change: Change) -> dict[str, Any]:
    fields = [{"name": each.name, "before": _json(each.before), "after": _json(each.after)} for each in change.fields]
    return {"change": change.kind, "record": record_json(change.record), "fields": fields}


def changes_table(changes: Sequence[Change]) -> RenderableType:
    """What was learned and unlearned, one record a row; raw trajectories are counted only."""
    table = new_table("", "id", "what changed", "text")
    marks = {"added": Text("+", "green"), "removed": Text("-", "red"), "changed": Text("~", "yellow")}
    learned = [each for each in changes if each.record.kind != "trajectory"]
    for each in learned:
        what = "\n".join(_field_text(field) for field in each.fields if not field.name.startswith("parents."))
        parents = sum(field.name.startswith("parents.") for field in each.fields)
        what = "\n".join(filter(None, [what, f"{parents} parents" if parents else ""]))
        table.add_row(marks[each.kind], each.record.id, Text(what or each.record.status), _line(each.record.text))
    counts = Counter(each.kind for each in changes if each.record.kind == "trajectory")
    lived = ", ".join(f"{count} {kind}" for kind, count in counts.items())
    end = f"\n{len(learned)} records differ" + (f", and of the raw trajectories {lived}" if lived else "")
    return Group(table, Text(end)) if learned else Text(end.strip())


def _field_text(field: Field) -> str:
    return f"{field.name} {head(value_text(field.before))} → {head(value_text(field.after))}"


# -- lineage -------------------------------------------------------------------------------------------------------


def why_json(why: Why) -> dict[str, Any]:
    causes = [
        {
            **{"id": each.id, "edge": each.edge, "depth": each.depth},
            "record": record_json(each.record) if each.record else None,
            "source": asdict(each.source) if each.source else None,
        }
        for each in why.causes
    ]
    decisions = [asdict(each) for each in why.decisions]
    return {"record": record_json(why.record), "trust": why.trust, "decisions": decisions, "causes": causes}


def why_tree(why: Why) -> RenderableType:
    """The record at the root, what was decided about it, and below what it came from."""
    tree = Tree(_record_label(why.record, f"trust {why.trust:.2f}"), guide_style="dim")
    for decision in why.decisions:
        grounds = evidence_text(decision.evidence) or "no evidence given"
        tree.add(Text.assemble((decision.verdict, "bold"), f" at {decision.key} ({decision.commit}): {grounds}"))
    path = [tree]
    for cause in why.causes:
        del path[cause.depth :]
        path.append(path[-1].add(_cause_label(cause)))
    return tree


def _cause_label(cause: Cause) -> Text:
    if cause.record is not None:
        return _record_label(cause.record, cause.edge)
    if cause.source is None:
        return Text(f"{cause.id}  not in this ledger", "dim")
    source = cause.source
    outcome = "success" if source.success else "no success"
    lines = [f"{source.id}  generation {source.generation}, score {source.score:.2f} ({outcome})"]
    lines += [f"step {each.index}: {head(each.seen)} > {each.action} ({each.reward:+.2f})" for each in source.steps]
    lines += [f"shown there: {_some(source.shown)}"] if source.shown else []
    return Text("\n".join(lines))


def _record_label(record: Record, note: str) -> Text:
    status = status_text(record.status)
    return Text.assemble(f"{record.id}  ", status, f", generation {record.generation}, {note}\n{head(record.text)}")


def impact_page(impact: Impact) -> RenderableType:
    return Group(
        Text(impact.node, "bold"),
        pairs(
            {
                "derived from it": _some(impact.derived) or "nothing",
                "fall with it": _some(impact.only) or "nothing",
                "shown in": f"{len(impact.episodes)} trajectories: {_some(impact.episodes)}".removesuffix(": "),
            }
        ),
    )


def forget_json(node: str, events: Sequence[Event]) -> dict[str, Any]:
    """What goes, and what stays with one ground less."""
    return {
        "node": node,
        "forgotten": [event.record_id for event in events if event.kind == "forget"],
        "retired": [event.record_id for event in events if event.kind == "retire"],
        "kept": [event.record_id for event in events if event.kind == "update"],
    }


def forget_page(found: Mapping[str, Any]) -> RenderableType:
    return pairs(
        {
            "forgotten": _some(found["forgotten"]) or "nothing",
            **({"retired": f"{_some(found['retired'])} (made from it)"} if found["retired"] else {}),
            "kept": f"{_some(found['kept'])} (on other grounds)" if found["kept"] else "nothing rests on it in part",
        }
    )


def graph_json(found: DiGraph[str]) -> dict[str, Any]:
    nodes = [{"id": key, **facts} for key, facts in found.nodes(data=True)]
    edges = [{"from": cause, "to": effect, **facts} for cause, effect, facts in found.edges(data=True)]
    return {"nodes": nodes, "edges": edges}


def graph_page(found: DiGraph[str]) -> RenderableType:
    kinds = Counter(kind for _, kind in found.nodes(data="kind"))
    edges = Counter(facts["edge"] for _, _, facts in found.edges(data=True))
    return pairs(
        {
            f"{len(found)} nodes": ", ".join(f"{count} {kind}" for kind, count in kinds.most_common()) or "none",
            f"{found.number_of_edges()} edges": ", ".join(f"{n} {edge}" for edge, n in edges.most_common()) or "none",
        }
    )


# -- health --------------------------------------------------------------------------------------------------------


def audit_json(found: Audit) -> dict[str, Any]:
    return {**asdict(found), "counts": found.counts()}


def audit_table(found: Audit) -> RenderableType:
    """One finding a row: how many records it concerns, and which."""
    table = new_table("finding", "records", "ids")
    for name, number in found.counts().items():
        groups = getattr(found, name)
        told = [_grouped(each) for each in groups[:_IDS_SHOWN]]
        told += [f"and {len(groups) - _IDS_SHOWN} more"] if len(groups) > _IDS_SHOWN else []
        style = "yellow" if number else "green"
        table.add_row(name.replace("_", " "), Text(str(number), style), Text("\n".join(told)))
    return Group(table, Text(f"\nof {found.records} live records"))


def _grouped(finding: Any) -> str:
    if isinstance(finding, str):
        return finding
    return " = ".join(finding) if isinstance(finding, tuple) else f"{finding.record} without {_some(finding.parents)}"


def problems_table(problems: Sequence[Problem]) -> RenderableType:
    table = new_table("where", "problem", "name", "detail", "repaired")
    for each in problems:
        mended = Text("yes", "green") if each.repaired else Text("no", "red")
        table.add_row(each.place, Text(each.what), Text(each.name), Text(each.detail), mended)
    return table


# -- parts ---------------------------------------------------------------------------------------------------------


def value_text(value: Any) -> str:
    """A field's value as people read it."""
    if isinstance(value, Interval):
        return f"{value:+.3f}, {count(value.n, 'episode')}"
    if isinstance(value, float):
        return f"{value:.3g}"
    return "none" if value is None else plain(value)


def _json(value: Any) -> Any:
    """A field's value as JSON holds it."""
    return asdict(value) if isinstance(value, Interval) else json.loads(json.dumps(value))


def _line(text: str) -> Text:
    """All of it on one line, cut where the terminal ends, without signs that a terminal would obey."""
    line = "".join(sign if sign.isprintable() else " " for sign in text.replace("\n", " / "))
    return Text(line, no_wrap=True, overflow="ellipsis")


def _some(ids: Sequence[str]) -> str:
    """The first of them, and how many more there are."""
    left = len(ids) - _IDS_SHOWN
    return ", ".join(ids[:_IDS_SHOWN]) + (f" and {left} more" if left > 0 else "")
