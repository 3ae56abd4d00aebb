"""What came of a run and of a benchmark, as they show themselves in a notebook."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from evolvent.environments.display import Markup, bar, block, bold, facts, folded, paragraph, soft, table, text


class Result(dict[str, Any]):
    """What `agents.run.result` gives."""

    def _repr_html_(self) -> str:
        return result(self)

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        from evolvent.agents.report import verdict_in_words

        printer.text(verdict_in_words(self))


class Comparison(dict[str, Any]):
    """What `agents.bench.bench` gives."""

    def _repr_html_(self) -> str:
        return comparison(self)

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        printer.text(f"{self['recipe']} against {', '.join(name for name, gain in self['gain'].items() if gain)}")


def result(shown: Mapping[str, Any]) -> Markup:
    """The verdict in words, each generation with its interval and cost, and what was compared with what."""
    from evolvent.agents.report import verdict_in_words

    rows = [("frozen", *_success(shown["frozen"]), "", "", "")]
    for row in shown["generations"]:
        spent = [f"{row[what]:,}" for what in ("tokens_in", "tokens_out", "calls")]
        rows.append((f"{row['generation']}", *_success(row["held_out"]), *spent))
    columns = ("generation", "", "success (95 % interval)", "tasks", "tokens in", "tokens out", "calls")
    records = ", ".join(f"{count} {status}" for status, count in shown["records"].items() if count)
    known = {
        "recipe": f"{shown['recipe']}, preset {shown['preset']}",
        "world": f"{shown['env']} ({shown['env_version']})",
        "model": shown["model"],
        "seed": f"{shown['seed']}",
        "set of tasks": shown["task_set_hash"],
        "records learned": records or "none",
    }
    return block(
        paragraph(bold(verdict_in_words(shown))),
        table(columns, rows, numbers=(0, 3, 4, 5, 6)),
        folded(f"{shown['recipe']} on {shown['env']}, seed {shown['seed']}", facts(known)),
    )


def comparison(shown: Mapping[str, Any]) -> Markup:
    """Every arm with its interval and what it cost, the recipe's gain over each, and what nothing was shown of."""
    from evolvent.agents.report import AGAINST, bench_notes

    arms = [
        (name, *_success(arm), f"{arm['tokens_in'] + arm['tokens_out']:,}", f"{arm['calls']:,}")
        for name, arm in shown["arms"].items()
        if arm is not None
    ]
    gains = [
        (name, bar(gain["low"], gain["high"], gain["mean"], least=-1), *_gain(gain), AGAINST[gain["verdict"]])
        for name, gain in shown["gain"].items()
        if gain is not None
    ]
    about = f"{shown['recipe']} on {shown['env']} ({shown['env_version']}) with {shown['model']}"
    return block(
        paragraph(bold(about)),
        table(("arm", "", "success (95 % interval)", "tasks", "tokens", "calls"), arms, numbers=(3, 4, 5)),
        table((f"{shown['recipe']} against", "−1 to +1", "gain (95 % interval)", ""), gains),
        _listed(bench_notes(shown)),
        paragraph(soft(f"set of tasks {shown['task_set_hash']}")),
    )


def _success(interval: Mapping[str, float]) -> Sequence[object]:
    low, high, mean = interval["low"], interval["high"], interval["success"]
    return bar(low, high, mean), f"{mean:.2f} ({low:.2f} to {high:.2f})", f"{interval['n']}"


def _gain(gain: Mapping[str, float]) -> Sequence[object]:
    return (f"{gain['mean']:+.2f} ({gain['low']:+.2f} to {gain['high']:+.2f})",)


def _listed(notes: Iterable[str]) -> Markup:
    return Markup(f"<ul>{''.join(f'<li>{text(note)}</li>' for note in notes)}</ul>")
