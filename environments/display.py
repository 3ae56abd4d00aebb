"""How values show themselves in a notebook: small pieces of HTML that stand alone, and a trajectory made of them.

No script, no style sheet, no colour of their own: they take the notebook's, light or dark. Every text is one that a
model or a stranger may have written, so it is escaped, cut where it is endless, and folded where it is long.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape

from evolvent.environments.types import Action, Message, Outcome, Step, Trajectory, merge

SHOWN_STEPS = 8
"""Of a trajectory; the rest is folded."""
MOST_STEPS = 200
"""Shown or folded; a notebook that keeps more becomes heavy."""
_SHOWN, _MOST = 400, 4000
"""Letters of one text, shown and in all."""
_OPTIONS = 4
"""Of a step: those most probable, and the one that was chosen."""
_LEFT = "text-align:left;vertical-align:top"  # a notebook's own tables are set to the right
_RIGHT = "text-align:right;vertical-align:top"
_NAME = f"{_LEFT};white-space:nowrap"


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


def trajectory(shown: Trajectory) -> Markup:
    """What one seat saw and did, step by step; folded below, what was recalled and the last prompt as it was sent."""
    last = min(len(shown.steps), MOST_STEPS)
    parts = [paragraph(bold(prose(shown.task.prompt))), _steps(shown, 0, min(last, SHOWN_STEPS))]
    if last > SHOWN_STEPS:
        parts.append(folded(count(last - SHOWN_STEPS, "more step"), _steps(shown, SHOWN_STEPS, last)))
    if len(shown.steps) > MOST_STEPS:
        parts.append(paragraph(soft(f"{len(shown.steps) - MOST_STEPS:,} steps more are in the ledger.")))
    parts.append(
        paragraph(bold(ended(shown.outcome)), soft(f" {shown.outcome.detail}") if shown.outcome.detail else "")
    )
    if shown.recalled:
        in_prompt = sum(each.shown for each in shown.recalled)
        rows = [
            (each.record, "shown" if each.shown else "withheld", f"{each.probability:.2f}") for each in shown.recalled
        ]
        words = f"From memory: {in_prompt} shown, {len(shown.recalled) - in_prompt} withheld"
        parts.append(folded(words, table(("record", "", "probability of being shown"), rows, numbers=(2,))))
    if shown.steps:
        parts.append(folded("The last prompt, as it was sent", turns(shown.prompt(-1))))
    where = [shown.id, shown.player, f"generation {shown.generation}", f"attempt {shown.attempt}", shown.model]
    return block(*parts, paragraph(soft(" · ".join(filter(None, where)))))


def turns(messages: Sequence[Message]) -> Markup:
    """A prompt as the model reads it, turn by turn."""
    return table(("role", "text"), [(role, prose(text)) for role, text in merge(messages)])


def acted(action: Action) -> str:
    """An action on one line, as a person writes it."""
    if action.tool is not None:
        arguments = ", ".join(f"{key}={value!r}" for key, value in action.tool.arguments.items())
        return f"{action.tool.name}({arguments})"
    if action.array is not None:
        return f"{action.array.tolist()}"
    return action.text


def ended(outcome: Outcome) -> str:
    """What came of an episode, in words."""
    verdict = f"failed: {outcome.failure}" if outcome.failure else "success" if outcome.success else "no success"
    return f"Score {outcome.score:.2f} ({verdict})."


def _steps(of: Trajectory, start: int, stop: int) -> Markup:
    """A row a step; how likely each option was has a column only where somebody chose among options."""
    chose = any(step.sampling.probabilities for step in of.steps)
    columns = ["", "seen", "done", *(["how likely"] if chose else []), "reward"]
    rows = [
        [
            str(index),
            prose(step.observation.text),
            Markup(bold(prose(acted(step.action) or step.reply)) + _answered(of, index)),
            *([_likely(step)] if chose else []),
            f"{step.reward:.2f}",
        ]
        for index, step in enumerate(of.steps[start:stop], start)
    ]
    return table(columns, rows, numbers=(0, len(columns) - 1))


def _answered(of: Trajectory, index: int) -> str:
    """What the environment said to a step, unless the next observation says the same."""
    said = of.steps[index].result
    seen = of.steps[index + 1].observation.text if index + 1 < len(of.steps) else ""
    return f"<br>{prose(said)}" if said and said != seen else ""


def _likely(step: Step) -> Markup:
    """The most probable options, each with its probability as a bar."""
    chosen = acted(step.action)
    pairs = list(zip(step.sampling.options, step.sampling.probabilities, strict=False))
    best = sorted(pairs, key=lambda pair: (pair[0] != chosen, -pair[1]))[:_OPTIONS]
    rows = [
        f"{bar(0, p)} {p:.2f} {bold(text(option)) if option == chosen else text(option)}"
        for option, p in pairs
        if (option, p) in best
    ]
    left = len(pairs) - len(best)
    return Markup("<br>".join([*rows, *([soft(f"and {left} less likely")] if left > 0 else [])]))


# -- pieces --------------------------------------------------------------------------------------------------------


def text(value: object, most: int = _MOST) -> Markup:
    """Any text as a reader sees it letter by letter, cut after `most` letters; line ends stay."""
    whole = str(value)
    cut = whole if len(whole) <= most else f"{whole[: most - 1]}…"
    shown = "".join(sign if sign.isprintable() or sign in "\n\u200d" else " " for sign in cut)
    # A notebook reads formulas out of its outputs; alone in an element, `$` and a backslash open none.
    guarded = re.sub(r"[$\\]", r"<span>\g<0></span>", escape(shown))
    return Markup(guarded.replace("\n", "<br>"))


def prose(value: str) -> Markup:
    """Text that may be long: its head, and folded behind it the rest as far as a notebook should hold it."""
    if len(value) <= _SHOWN:
        return text(value)
    end = f" <i>({len(value):,} letters in all)</i>" if len(value) > _MOST else ""
    return Markup(f"<details><summary>{text(value, _SHOWN // 4)}</summary>{text(value)}{end}</details>")


def bold(shown: object) -> Markup:
    return Markup(f"<b>{_markup(shown)}</b>")


def soft(shown: object) -> Markup:
    """Less important: the page's own ink, thinner."""
    return Markup(f'<span style="opacity:.7">{_markup(shown)}</span>')


def paragraph(*shown: object) -> Markup:
    return Markup(f'<div style="margin:.4em 0">{"".join(_markup(each) for each in shown)}</div>')


def folded(summary: object, body: Markup) -> Markup:
    return Markup(f'<details style="margin:.4em 0"><summary>{_markup(summary)}</summary>{body}</details>')


def block(*parts: Markup) -> Markup:
    """What one value shows; wide tables scroll in it."""
    return Markup(f'<div style="max-width:60em;overflow-x:auto">{"".join(parts)}</div>')


def bar(low: float, high: float, at: float | None = None, *, least: float = 0, most: float = 1) -> Markup:
    """A stretch of the line from `least` to `most`, with a mark `at`; without words, for they stand beside it."""

    def place(value: float) -> float:
        return 100 * min(1.0, max(0.0, (value - least) / (most - least)))

    start, end = place(low), place(high)
    inside = f'<span style="position:absolute;left:{start:.0f}%;width:{end - start:.0f}%;height:100%;{_INK}.4"></span>'
    if at is not None:
        inside += (
            f'<span style="position:absolute;left:calc({place(at):.0f}% - 1px);width:2px;height:100%;{_INK}1"></span>'
        )
    outside = "display:inline-block;position:relative;width:6em;height:.7em;border-bottom:1px solid"
    return Markup(f'<span aria-hidden="true" style="{outside}">{inside}</span>')


_INK = "background:currentColor;opacity:"


def table(columns: Sequence[object], rows: Iterable[Sequence[object]], *, numbers: Sequence[int] = ()) -> Markup:
    """Columns whose index is in `numbers` hold figures. Without any names, the first column names the row."""

    def cells(values: Sequence[object], header: bool) -> str:
        told = []
        for index, value in enumerate(values):
            names = header or (index == 0 and not any(columns))
            tag = ("th scope=col" if header else "th scope=row") if names else "td"
            style = _NAME if names and not header else _RIGHT if index in numbers else _LEFT
            told.append(f'<{tag} style="{style}">{_markup(value)}</{tag[:2]}>')
        return f"<tr>{''.join(told)}</tr>"

    head = f"<thead>{cells(columns, True)}</thead>" if any(columns) else ""
    return Markup(
        f'<table style="margin:.4em 0">{head}<tbody>{"".join(cells(row, False) for row in rows)}</tbody></table>'
    )


def facts(known: Mapping[str, object]) -> Markup:
    """Names and values, a pair a row; what is empty is left out."""
    return table((), [(name, value) for name, value in known.items() if value != ""])


def count(number: int, noun: str, nouns: str = "") -> str:
    """`1 rule`, `2 rules`."""
    return f"{number:,} {noun if number == 1 else nouns or noun + 's'}"


def _markup(value: object) -> str:
    return value if isinstance(value, Markup) else text(value)
