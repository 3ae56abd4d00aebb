"""A model of known skill: it answers right exactly when what it needs stands in its prompt, and says so when not.

It reads qa, dialogue and the workshop by the wordings of these worlds (their language, not their facts): a prompt is
all it knows. Asked for anything but an answer (notes, a summary, rules, thoughts), it writes down the facts that it
finds in the prompt, a line each, as it could read them again. What a system wants in a form of its own it does not know
how to write; prompts in which it finds nothing are counted in `puzzled`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from evolvent.agents.models.scripted import Messages, ScriptedScorer
from evolvent.environments.dialogue_topics import ASKED_BEFORE, ASKED_DAY, CORRECTED, STOCKS, TOPICS

# How the world words its relations; what holds in it is drawn elsewhere.
from evolvent.environments.invented_world import _CALLED, _RELATIONS

_HOLES = {"{}": "(?P<value>.+?)", "{old}": ".+?"}
_WHO = r"([A-Z]\w+ [A-Z]\w+), (?:after )?day (\d+)(?::|(?: \|)? said(?: \|)?)"
_TURN = re.compile(rf"{_WHO} (.*?)(?={_WHO}|\n|$)")
_MENDED = re.compile(r"(How do you mend|With) (.+?)(?:, what do you mend first)?\?\n> (.+)\nIt (worked|did not work)")
_LESSON = re.compile(r"To mend [^.\n]+?, use the \w+\.|With [^.\n]+?, first mend [^.\n]+?\.")
_RULE = re.compile(r"If the question is: (.+?\?), then the answer is (.+?)\.")
_TOLD = re.compile(r"^(?:Task: |user: )?(\S[^\n]*\?)\n(?s:.*?)right answer is: The answer is (.+?)\.", re.MULTILINE)
_RIGHT = re.compile(
    r"^(?:Task: |user: )?(\S[^\n]*\?)\n(?:Answer:\n)?> The answer is (.+?)\.\n[^\n]* is right", re.MULTILINE
)


def _pattern(wording: str) -> re.Pattern[str]:
    """A sentence of which one value is open."""
    parts = re.split(r"(\{\}|\{old\})", wording)
    return re.compile("".join(_HOLES.get(part, re.escape(part)) for part in parts), re.IGNORECASE)


def _said() -> list[tuple[re.Pattern[str], str, str]]:
    """(sentence, topic, what it does to it) for all that somebody may tell."""
    found = [(wording, name, "is") for name, topic in TOPICS.items() for wording in (*topic.told, *topic.changed)]
    for name, topic in TOPICS.items():
        before = topic.clause.replace("{}", "{old}")
        found += [(each.replace("{now}", topic.clause).replace("{before}", before), name, "is") for each in CORRECTED]
    for name, stock in STOCKS.items():
        found += [(each, name, "is") for each in (*stock.told, *stock.recounted)]
        found += [(each, name, "up") for each in stock.up] + [(each, name, "down") for each in stock.down]
    return [(_pattern(wording), name, does) for wording, name, does in found]


def _asked() -> list[tuple[re.Pattern[str], str, str]]:
    """(question, topic, what is wanted of it)."""
    found = [(wording, name, "now") for name, what in {**TOPICS, **STOCKS}.items() for wording in what.asked]
    for name, topic in TOPICS.items():
        for wanted, wordings in (("day", ASKED_DAY), ("before", ASKED_BEFORE)):
            for each in wordings:
                text = each.replace("{clause}", topic.clause).replace("{noun}", topic.noun).replace("{value}", "{}")
                found.append((text, name, wanted))
    return [(_pattern(wording), name, wanted) for wording, name, wanted in found]


_SAID, _ASKED = _said(), _asked()


class AbleReader(ScriptedScorer):
    """See the module. Options are scored: what is known to be right, then the unknown, then what is known to be wrong.

    At temperature 0 it takes the first of the unknown ones; above, it tries them all.
    """

    def __init__(self) -> None:
        super().__init__(self._read, score=_scores)

    _puzzled: int = 0

    @property
    def puzzled(self) -> int:
        """Prompts that were no question and held no fact."""
        return self._puzzled

    def _read(self, messages: Messages) -> str:
        said = [str(message.text) for message in messages]
        last, whole = said[-1].rstrip(), "\n".join(said)
        if "Memory Extractor" in said[0]:  # mem0: ours are the new messages alone
            new = last.partition("## New Messages")[2].partition("## Observation Date")[0]
            return json.dumps({"memory": [{"id": str(i), "text": fact} for i, fact in enumerate(facts(new))]})
        options = re.findall(r"Answer with one of: (.+)", last)
        if options:
            return _option(whole, options[-1].split(" | "))
        if last.endswith("Answer:"):
            return answer(whole)
        if "yes or no" in last:
            return "No."
        if "numbers alone" in last:  # which thoughts are to be forgotten: none that it knows of
            return "none"
        if not (found := facts(whole)):
            self._puzzled += 1
        if " | " in last or "on one line" in last:
            return _triples(last, together="on one line" in last)
        return "\n".join(found) or "Nothing."


def facts(text: str) -> list[str]:
    """All it can read in a text, a sentence each, each once."""
    dialogue = [f"{who}, day {day}: {sentence}" for who, day, sentence in _turns(text) if _statement(sentence)]
    rules = [f"If the question is: {asked}, then the answer is {told}." for asked, told in _known(text).items()]
    return list(dict.fromkeys((*dialogue, *rules, *_lessons(text)[0])))


def answer(text: str) -> str:
    """The answer to the question that stands last in a text, by what stands before it."""
    turns = _turns(text)
    found = _in_dialogue(turns) if turns and turns[-1][2].endswith("?") else _in_world(text)
    return f"The answer is {found}." if found else "I do not know."


# -- dialogue ----------------------------------------------------------------------------------------------------------


def _turns(text: str) -> list[tuple[str, int, str]]:
    """(speaker, day, sentence), in order; a sentence that comes again counts where it first stood."""
    found = [
        (turn[1], int(turn[2]), sentence.strip())
        for turn in _TURN.finditer(text)
        for sentence in re.findall(r"[^.?]+[.?]", turn[3])
    ]
    return list(dict.fromkeys(found[:-1])) + found[-1:]


def _triples(text: str, *, together: bool) -> str:
    """What was told, as `who, when | said | what`; all of one head on its line where that is wanted."""
    told: dict[str, list[str]] = {}
    for who, day, sentence in _turns(text):
        if _statement(sentence):
            told.setdefault(f"{who}, day {day}", []).append(sentence)
    lines = (
        [(head, " ".join(each)) for head, each in told.items()]
        if together
        else [(head, sentence) for head, each in told.items() for sentence in each]
    )
    return "\n".join(f"{head} | said | {what}" for head, what in lines) or "none"


def _statement(sentence: str) -> tuple[str, str, str] | None:
    """(topic, what it does to it, value)."""
    every = ((pattern.fullmatch(sentence), name, does) for pattern, name, does in _SAID)
    return next(((name, does, match["value"]) for match, name, does in every if match), None)


def _in_dialogue(turns: Sequence[tuple[str, int, str]]) -> str:
    (*earlier, (who, _, question)) = turns
    matches = ((pattern.fullmatch(question), name, wanted) for pattern, name, wanted in _ASKED)
    match, name, wanted = next((each for each in matches if each[0]), (None, "", ""))
    told = sorted(((day, sentence) for speaker, day, sentence in earlier if speaker == who), key=lambda it: it[0])
    of_it = [(day, *each[1:]) for day, sentence in told if (each := _statement(sentence)) and each[0] == name]
    if match is None or not of_it:
        return ""
    if name in STOCKS:
        total = None
        for _, does, value in of_it:
            total = int(value) if does == "is" else total and total + int(value) * (1 if does == "up" else -1)
        return "" if total is None else str(total)
    values = [value for _, _, value in of_it]
    if wanted == "now":
        return values[-1]
    meant = next((at for at, value in enumerate(values) if value.lower() == match["value"].lower()), None)
    if meant is None:
        return ""
    return str(of_it[meant][0]) if wanted == "day" else values[meant - 1] if meant else ""


# -- qa ----------------------------------------------------------------------------------------------------------------


def _known(text: str) -> dict[str, str]:
    """Answers by question, as rules, told answers, right ones and passages give them."""
    found = {asked: told for form in (_RIGHT, _TOLD, _RULE) for asked, told in form.findall(text)}
    for kind, relations in _RELATIONS.items():
        for pair in (relations[:2], relations[2:]):
            told = [each.told.format(f"(?P<v{at}>[^.\n]+?)") for at, each in enumerate(pair)]
            for match in re.finditer(rf"(?P<of>[A-Z][\w ]*?) {' and '.join(told)}\.", text) if pair else ():
                called = match["of"] if kind in ("person", "town") else match["of"][0].lower() + match["of"][1:]
                found |= {each.asked.format(called): match[f"v{at}"] for at, each in enumerate(pair)}
    return found


def _in_world(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip().endswith("?")]
    question = lines[-1] if lines else ""
    known = {asked.lower(): told for asked, told in _known(text).items()}
    if question.lower() in known:
        return known[question.lower()]
    every = [each for relations in _RELATIONS.values() for each in relations]
    for second in every:
        inner = _pattern(second.asked).fullmatch(question)
        for first in every if inner else ():
            thing = _pattern(first.phrase).fullmatch(inner["value"]) if inner and first.phrase else None
            value = known.get(first.asked.format(thing["value"]).lower()) if thing else None
            if value:
                bare = value.removeprefix(_CALLED.get(first.of, "{}").format(""))
                called = _CALLED.get(first.of, "{}").format(bare)
                return known.get(second.asked.format(called).lower(), "")
    return ""


# -- workshop ----------------------------------------------------------------------------------------------------------


def _lessons(text: str) -> tuple[list[str], set[str]]:
    """What is right and what is wrong, as the sentences that the workshop words it in."""
    shown = re.sub(r"What failed: .*", "", text)
    right, wrong = list(_LESSON.findall(shown)), set(re.findall(r"What failed: (.+)", text))
    for opening, what, did, came in _MENDED.findall(shown):
        line = f"To mend {what}, use the {did}." if opening != "With" else f"With {what}, first mend {did}."
        if came == "worked":
            right.append(line)
        else:
            wrong.add(line)
    return list(dict.fromkeys(right)), wrong


def _scores(messages: Messages, continuations: Sequence[str]) -> list[float]:
    # What it said itself in this episode is no evidence.
    right, wrong = _lessons("\n".join(str(each.text) for each in messages if each.type != "ai"))
    return [0.0 if each in right else -20.0 if each in wrong else -10.0 for each in continuations]


def _option(text: str, options: Sequence[str]) -> str:
    right, _ = _lessons(text)
    asked: Any = re.findall(r"How do you mend (.+?)\?|(With .+?), what do you mend first\?", text)
    flaw, pair = asked[-1] if asked else ("", "")
    lines = {f"{pair}, first mend {each}." if pair else f"To mend {flaw}, use the {each}.": each for each in options}
    return next((each for line, each in lines.items() if line in right), options[0])
