"""What came of a run, for people: the verdict in words first, then what it rests on. For the terminal (rich).

`page.py` says the same as one HTML file, `run.result` as JSON.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evolvent.agents.findings import STATUSES, Decision, Findings, read_findings

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table
    from rich.text import Text

SHOWN_REJECTIONS = 3
SHOWN_NOTES = 5
_STYLES = {"improved": "bold green", "no evidence": "bold yellow", "worse": "bold red"}


def verdict_in_words(result: Mapping[str, Any]) -> str:
    """One or two sentences: what may be claimed, from what to what, and how sure that is."""
    gain, last = result["gain"], result["generations"][-1]["held_out"]
    claim = {
        "improved": "Improved",
        "no evidence": "No evidence of improvement",
        "worse": "Worse",
    }[result["verdict"]]
    words = (
        f"{claim}: success on {result.get('judged_on', 'held-out tasks')} "
        f"{result['frozen']['success']:.2f} → {last['success']:.2f}, "
        f"gain {_signed(gain)} over {gain.get('n', last['n'])} pairs."
    )
    lost = result.get("lost_pairs", 0)
    if lost:
        words += f" {lost} pairs were lost to failures of infrastructure."
    if not result.get("finished", True):
        words += " The run has not ended yet."
    return words


def render_report(result: Mapping[str, Any], directory: Path) -> RenderableType:
    """A run's report for the terminal.

    Args:
        result: of `agents.run.result`.
        directory: the run's; rules and costs are read there, and what cannot be read is said.
    """
    from rich.console import Group
    from rich.markup import escape
    from rich.text import Text

    found = read_findings(directory, known=result)
    named = f"{result['recipe']} on {result['env']} with {result['model']}, seed {result['seed']}"
    parts: list[RenderableType] = [
        Text(verdict_in_words(result), style=_STYLES[result["verdict"]]),
        Text(named, style="dim"),
        _generations(result),
        *_learned(found),
        _costs(found),
    ]
    parts += [Text(f"Could not be read. {problem}", style="red") for problem in found.problems]
    parts.append(f"[dim]The run is in[/] [bold]{escape(str(directory))}[/]")
    if not result.get("finished", True):
        parts.append(f"[dim]Go on with[/] evolvent resume {escape(str(directory))}")
    return Group(*parts)


def render_distilled(found: Mapping[str, Any]) -> RenderableType:
    """What came of `evolvent distill` for the terminal: of `distilled_run.distil_run`."""
    from rich.console import Group
    from rich.text import Text

    promoted = found["gate"]["verdict"] == "promoted"
    arms = _table("arm", "held-out success", "prompt tokens an episode", "of memory")
    rows = (
        ("base", "base", None, None),
        ("with memory", "with_rules", found["tokens_before"], found["memory_tokens_before"]),
        ("adapter alone", "without_rules", found["tokens_after"], found["memory_tokens_after"]),
    )
    for name, key, tokens, memory in rows:
        low, high = found["intervals"][key]
        success = f"{found[key]:.2f} ({low:.2f}–{high:.2f})"
        arms.add_row(name, success, *("–" if each is None else f"{each:.0f}" for each in (tokens, memory)))
    words = f"{found['adapter']} " + (
        f"is proved and in use; {found['retired']} records left the prompt."
        if found["retired"]
        else "is proved and in use; memory stays in the prompt, since doing without was not shown to be as good."
        if promoted
        else "was not shown to be better than what acts now, and is not used."
    )
    parts: list[RenderableType] = [Text(words, style=_STYLES["improved" if promoted else "no evidence"]), arms]
    if found["forgetting"]:
        lost = _table("ability", "items", "change (95 % interval)")
        for name, change in found["forgetting"].items():
            lost.add_row(name, str(change["n"]), _signed(change))
        parts.append(lost)
    return Group(*parts)


def render_bench(bench: Mapping[str, Any]) -> RenderableType:
    """A benchmark for the terminal: every arm with its interval, then the gain over each control.

    Args:
        bench: of `agents.bench.bench`; an arm or gain that is None does not apply.
    """
    from rich.console import Group
    from rich.text import Text

    recipe = bench["recipe"]
    arms = _table("arm", "success", "", "tasks", "tokens", "seconds")
    for name, arm in bench["arms"].items():
        if arm is not None:
            spent = [arm["n"], arm["tokens_in"] + arm["tokens_out"], arm["seconds"]]
            arms.add_row(name, interval_bar(arm), _success(arm), *(f"{each:,.0f}" for each in spent))
    gains = _table(f"{recipe} against", "gain", "")
    for name, gain in bench["gain"].items():
        if gain is not None:
            claim = gain.get("verdict") or _claim(gain)
            gains.add_row(name, _signed(gain), Text(AGAINST[claim], style=_STYLES[claim]))
    about = f"{recipe} on {bench['env']} ({bench['env_version']}) with {bench['model']}"
    head = Text.assemble((about, "bold"), (f"\nset of tasks {bench['task_set_hash']}", "dim"))
    return Group(head, arms, gains, Text("\n".join(bench_notes(bench))))


def bench_notes(bench: Mapping[str, Any]) -> list[str]:
    """What was not played and why, how many tasks would show what was not shown, whether raw experience is matched."""
    notes = [f"{', '.join(names)}: {reason}" for reason, names in _by_reason(bench.get("reasons", {})).items()]
    for name, power in bench.get("power", {}).items():
        needed = f"{power['n']:,} tasks" if power["n"] else "no number of tasks"
        shown = f"{needed} would show a difference of this size (80 % power)"
        notes.append(f"Against {name}: {shown}; diagnosis: {power['diagnosis']}.")
    equal = bench.get("equivalence") or {}
    if equal.get("low") is not None:
        shown = "Not below" if equal["not_below"] else "Not shown to be no worse than"
        notes.append(f"{shown} {equal['against']} by a margin of {equal['margin']}: lower end {equal['low']:+.2f}.")
    return notes


def write_html(directory: Path, file: Path) -> None:
    """The report of a run directory as one HTML file that needs nothing else; says what could not be read."""
    from evolvent.agents.details import read_details
    from evolvent.agents.page import page

    found = read_findings(directory)
    # Half of a pair of surrogates cannot be written; whatever else a model wrote can.
    file.write_text(page(found, read_details(found)), encoding="utf-8", errors="replace")


def interval_bar(interval: Mapping[str, float], *, width: int = 18) -> Text:
    """A success and its interval on a line from 0 to 1."""
    from rich.text import Text

    def cell(value: float) -> int:
        return min(width - 1, max(0, int(value * width)))

    low, at, high = (cell(interval[key]) for key in ("low", "success", "high"))
    bar = Text()
    for index in range(width):
        if index == at:
            bar.append("●", style="bold cyan")
        elif low <= index <= high:
            bar.append("━", style="cyan")
        else:
            bar.append("─", style="dim")
    return bar


def _generations(result: Mapping[str, Any]) -> Table:
    table = _table("model", "success", "", "tokens", "calls", "seconds")
    frozen = result["frozen"]
    table.add_row("frozen", interval_bar(frozen), _success(frozen))
    for row in result["generations"]:
        spent = [row["tokens_in"] + row["tokens_out"], row["calls"], row["seconds"]]
        numbers = [f"{each:,.0f}" for each in spent]
        table.add_row(f"gen. {row['generation']}", interval_bar(row["held_out"]), _success(row["held_out"]), *numbers)
    return table


def _learned(found: Findings) -> list[RenderableType]:
    from rich.text import Text

    if not found.decisions:
        notes = found.undecided[:SHOWN_NOTES]
        if not notes:
            return [Text("Nothing was learned that memory keeps.")]
        table = _table(f"newest of {len(found.undecided)} kept without a gate", "status", "generation")
        for record in notes:
            table.add_row(Text(one_line(record.text)), record.status, str(record.generation))
        return [table]
    parts: list[RenderableType] = []
    if found.active:
        parts.append(_decisions(f"learned, and proved ({len(found.active)})", found.active))
    else:
        parts.append(Text("No rule passed the gate."))
    if found.withdrawn:
        parts.append(_decisions(f"proved, and out of the prompt since ({len(found.withdrawn)})", found.withdrawn))
    if found.rejected:
        more = len(found.rejected) - SHOWN_REJECTIONS
        title = "turned away" + (f" (nearest {SHOWN_REJECTIONS}, and {more} more)" if more > 0 else "")
        parts.append(_decisions(title, found.rejected[:SHOWN_REJECTIONS]))
    return parts


def _decisions(title: str, decisions: Sequence[Decision]) -> Table:
    from rich.text import Text

    table = _table(title, "at the gate", "e-value")
    for each in decisions:
        first, *more = each.record.parents or ("–",)
        source = one_line(first) + (f" +{len(more)}" if more else "")
        rule = Text.assemble(one_line(each.record.text), (f"\n{source}", "dim"))
        table.add_row(rule, each.evidence, each.strength)
    return table


def _costs(found: Findings) -> RenderableType:
    from rich.text import Text

    if not found.spent:
        return Text("")
    told = [
        f"{each.phase} {f'{each.episodes} episodes, ' if each.episodes else ''}{each.cost.calls:,} calls, "
        f"{each.cost.tokens_in + each.cost.tokens_out:,} tokens"
        + (f", {each.failures} failed" if each.failures else "")
        for each in found.spent
    ]
    counts = found.result["records"] if found.result else {}
    records = ", ".join(f"{counts[status]} {status}" for status in STATUSES if status in counts)
    return Text(f"Spent on {'; '.join(told)}.\nRecords: {records}.")


def _table(*columns: str) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(*columns, box=box.SIMPLE_HEAD, pad_edge=False)
    for index, column in enumerate(table.columns[1:]):
        column.no_wrap = True
        column.justify = "right" if index > 1 else "left"
    return table


def _success(interval: Mapping[str, float]) -> str:
    return f"{interval['success']:.2f} ({interval['low']:.2f}–{interval['high']:.2f})"


def _signed(gain: Mapping[str, float]) -> str:
    return f"{gain['mean']:+.2f} (95 % interval {gain['low']:+.2f} to {gain['high']:+.2f})"


def _claim(gain: Mapping[str, float]) -> str:
    return "improved" if gain["low"] > 0 else "worse" if gain["high"] < 0 else "no evidence"


AGAINST = {"improved": "above", "worse": "below", "no evidence": "no evidence of a difference"}


def _by_reason(reasons: Mapping[str, str]) -> dict[str, list[str]]:
    names: dict[str, list[str]] = {}
    for name, reason in reasons.items():
        names.setdefault(reason, []).append(name)
    return names


def one_line(text: str, limit: int = 100) -> str:
    """What a model may have written on one line, without signs that a terminal would obey."""
    line = "".join(sign for sign in " ".join(text.split()) if sign.isprintable())
    return line if len(line) <= limit else line[: limit - 1] + "…"
