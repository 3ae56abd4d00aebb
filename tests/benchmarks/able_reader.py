"""A model of known skill: it answers right exactly when what it needs stands in its prompt, and says so when not.

It reads qa, dialogue and the workshop by the wordings of these worlds (their language, not their facts): a prompt is
all it knows. Where it does not know an option it guesses, by the task and nothing else. Asked for anything but an
answer, it writes down the facts that it finds in the prompt as it could read them again, in the form that is wanted:
lines, rules ("If …, then …"), triples, JSON, a number, or calls of functions (it searches, and saves what worked).
It keeps to the tokens it is given, four characters each. Prompts in which it finds nothing are counted in `puzzled`.

With `mistaken`, so many of the workshop's lessons that it writes down are wrong: another tool that the prompt names, or
the other flaw first. What it reads and answers is not touched.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.messages.ai import UsageMetadata
from langchain_core.outputs import ChatGeneration, ChatResult
from pydantic import PrivateAttr

from evolvent.agents.models.protocol import Scores
from evolvent.environments.dialogue_topics import ASKED_BEFORE, ASKED_DAY, CORRECTED, STOCKS, TOPICS

# How the world words its relations; what holds in it is drawn elsewhere.
from evolvent.environments.invented_world import _CALLED, _RELATIONS, _Relation
from evolvent.environments.workshop import TOOLS

CHARS_PER_TOKEN = 4
_SEARCHES = 3
"""Calls of functions before it speaks at most."""
_QUERY_CHARS = 120
_HOLES = {"{}": "(?P<value>.+?)", "{old}": ".+?"}
_WHO = r"([A-Z]\w+ [A-Z]\w+), (?:after )?day (\d+)(?::|(?: \|)? said(?: \|)?)"
_TURN = re.compile(rf"(?:(\d+)\. user: )?{_WHO} (.*?)(?={_WHO}|\n|$)")
_RULE = re.compile(r"If the question is: (.+?\?), then the answer is (.+?)\.")
_TOLD = re.compile(r"^(?:Task: |user: )?(\S[^\n]*\?)\n(?s:.*?)right answer is: The answer is (.+?)\.", re.MULTILINE)
_RIGHT = re.compile(
    r"^(?:Task: |user: )?(\S[^\n]*\?)\n(?:Answer:\n)?> The answer is (.+?)\.\n[^\n]* is right", re.MULTILINE
)
_LABEL = re.compile(r"right answer(?: is)?: (.+)")
_CAME = r"\n(?:\d+\. user: )?It (worked|did not work)(?!:)"
_MENDED = re.compile(
    r"(How do you mend|With) (.+?)(?:, what do you mend first)?\?\n(?:> |(?:\d+\. )?assistant: )(.+)" + _CAME
)
_LESSON = re.compile(r"To mend [^.,\n]+?, use the \w+\.|With [^.,\n]+?, first mend [^.,…\n]+?\.")
_NOTED_TOOL = re.compile(r"(To mend [^.,\n|]+?, (?:\| )?use (?:\| )?the )(\w+)(?=\.)")
_NOTED_ORDER = re.compile(r"(With ([^.,\n|]+?) and ([^.,\n|]+?), (?:\| )?first mend (?:\| )?)(\2|\3)(?=\.)")
"""A lesson as it is written down, in a sentence or in a triple."""
_SAID_SO = re.compile(rf"({_LESSON.pattern}){_CAME}")
_FAILED = re.compile(rf"It did not work: ({_LESSON.pattern})")
_CASE = re.compile(r"^- (.+…\S*) ([^:\n]+): (right|wrong)$", re.MULTILINE)
_TASK = re.compile(r"\w+'s \w+ has [^\n]+")


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
_OF_KIND = [
    (kind, each, re.compile(rf"(?<!\w){each.told.replace('{}', '(?P<value>.+)')}"))
    for kind, relations in _RELATIONS.items()
    for each in relations
]


class AbleReader(BaseChatModel):
    """See the module. Options are scored: what is known to be right, then the unknown, then what is known to be wrong.

    At temperature 0 it takes its guess of the unknown ones; above, it tries them all.
    """

    mistaken: float = 0.0
    _puzzled: int = PrivateAttr(0)

    @property
    def puzzled(self) -> int:
        """Prompts that were no question and held no fact."""
        return self._puzzled

    @property
    def _llm_type(self) -> str:
        return "evolvent-able-reader"

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        written = self._misread(self._read(messages), "\n".join(str(message.text) for message in messages))
        reply = written[: kwargs.get("max_tokens", 1024) * CHARS_PER_TOKEN]
        tokens_in, tokens_out = _tokens(messages), len(reply) // CHARS_PER_TOKEN
        usage = UsageMetadata(input_tokens=tokens_in, output_tokens=tokens_out, total_tokens=tokens_in + tokens_out)
        return ChatResult(generations=[ChatGeneration(message=AIMessage(reply, usage_metadata=usage))])

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        return self._generate(messages, stop, **kwargs)

    async def logprobs(self, messages: Sequence[BaseMessage], continuations: Sequence[str]) -> Scores:
        # What it said itself in this episode is no evidence.
        text = _heard(messages)
        right, wrong = _lessons(text)
        guessed = continuations[_guess(text, len(continuations))]
        found = ((0.0 if c in right else -20.0 if c in wrong else -10.0 + (c == guessed)) for c in continuations)
        tokens = _tokens(messages) + sum(len(each) // CHARS_PER_TOKEN for each in continuations)
        return Scores(tuple((each,) for each in found), tokens)

    def _misread(self, written: str, prompt: str) -> str:
        """Wrong or not by lesson and prompt: the same lesson, read elsewhere, may come out right."""
        if not self.mistaken:
            return written
        tools = [each for each in TOOLS if re.search(rf"\b{each}\b", prompt)]

        def wrong(lesson: str) -> float:
            """Between 0 and 1: below `mistaken` it is."""
            return int.from_bytes(hashlib.sha256(f"{lesson}\n{prompt}".encode()).digest()[:4]) / 2**32

        def another_tool(found: re.Match[str]) -> str:
            others = [each for each in tools if each != found[2]]
            chance = wrong(found[0])
            tool = others[int(chance / self.mistaken * len(others))] if others and chance < self.mistaken else found[2]
            return found[1] + tool

        def other_first(found: re.Match[str]) -> str:
            other = found[3] if found[4] == found[2] else found[2]
            return found[1] + (other if wrong(found[0]) < self.mistaken else found[4])

        return _NOTED_ORDER.sub(other_first, _NOTED_TOOL.sub(another_tool, written))

    def _read(self, messages: Sequence[BaseMessage]) -> str:
        said = [str(message.text) for message in messages]
        last, whole = said[-1].rstrip(), "\n".join(said)
        if "Memory Extractor" in said[0]:  # mem0: ours are the new messages alone
            new = last.partition("## New Messages")[2].partition("## Observation Date")[0]
            return json.dumps({"memory": [{"id": str(i), "text": fact} for i, fact in enumerate(facts(new))]})
        if "You remember by calling functions." in whole:
            return _call(messages)
        options = re.findall(r"Answer with one of: (.+)", last)
        if options:
            return _option(_heard(messages), options[-1].split(" | "))
        if last.endswith("Answer:"):
            return answer(whole)
        if "Reply with its number alone" in last:
            return _most_helpful(last)
        if "yes or no" in last:
            return "No."
        if "numbers alone" in last:  # which thoughts are to be forgotten: none that it knows of
            return "none"
        if not (found := facts(whole)):
            self._puzzled += 1
        if 'in the form "If ..., then ..."' in last:
            return "\n".join(_rules(whole)) or "Nothing."
        if " | " in last or "on one line" in last:
            return _triples(last, together="on one line" in last)
        return "\n".join(found) or "Nothing."


def facts(text: str) -> list[str]:
    """All it can read in a text, a sentence each or what is known of one thing, each once."""
    dialogue = [f"{who}, day {day}: {sentence}" for who, day, sentence in _turns(text) if _statement(sentence)]
    rules = [
        f"If the question is: {asked}, then the answer is {told}."
        for form in (_RIGHT, _TOLD, _RULE)
        for asked, told in form.findall(text)
        if not re.match(_WHO, asked)
    ]
    right, wrong = _lessons(re.sub(r"What failed: .*", "", text))
    failed = [f"It did not work: {each}" for each in sorted(wrong)]
    return list(dict.fromkeys((*dialogue, *rules, *_things(text), *right, *failed)))


def claims(text: str) -> list[str]:
    """The workshop's lessons that a text holds for right, however it words them."""
    return _lessons(text.replace(" | ", " "))[0]


def answer(text: str) -> str:
    """The answer to the question that stands last in a text, by what stands before it."""
    found, _ = _sought(text)
    return f"The answer is {found}." if found else "I do not know."


def _sought(text: str) -> tuple[str, str]:
    """The answer, empty where it is not known, and what one would have to look for to know (more of) it."""
    turns = _turns(_oldest_first(text))
    return _in_dialogue(turns) if turns and turns[-1][2].endswith("?") else _in_world(text)


def _heard(messages: Sequence[BaseMessage]) -> str:
    return "\n".join(str(each.text) for each in messages if each.type != "ai")


def _oldest_first(text: str) -> str:
    """What stands newest first turned round, the task at the end left there."""
    before, mark, after = text.partition("the newest first:")
    *episodes, task = after.split("\n\n")
    return "\n\n".join((before, *reversed(episodes), task)) if mark else text


def _tokens(messages: Sequence[BaseMessage]) -> int:
    return sum(len(message.text) for message in messages) // CHARS_PER_TOKEN + 1


# -- forms -------------------------------------------------------------------------------------------------------------


def _call(messages: Sequence[BaseMessage]) -> str:
    """One call of a function: a search where the window does not tell, a note of what worked, or the answer."""
    asked, _, since = _heard(messages).partition("You remember by calling functions.")
    made = next((at for at, each in enumerate(reversed(messages)) if "Call a function." in each.text), 0)
    calls = sum(each.type == "ai" for each in messages[len(messages) - made :])
    options = re.findall(r"Answer with one of: (.+)", f"{asked}\n{since}")
    if options:
        kept = "".join(re.findall(r"<persona>(.*?)</persona>", asked, re.DOTALL))
        new = [each for each in _lessons(f"{asked}\n{since}")[0] if each not in kept]
        if new and calls < _SEARCHES:
            return _written("core_memory_append", block="persona", text=" ".join(new[:2]), heartbeat=True)
        return _written("send_message", message=_option(f"{asked}\n{since}", options[-1].split(" | ")))
    found, query = _sought(f"{since}\n{asked.rstrip()}")
    pages = re.findall(r"Page (\d+) of (\d+)", since)
    through = "?" not in query and bool(pages) and pages[-1][0] == pages[-1][1]  # in dialogue it reads all there is
    if calls < _SEARCHES and query and (calls and not through if "?" not in query and found else not found):
        page = 1 if "?" in query else calls + 1  # a question names another thing each time, and gets its first page
        return _written("conversation_search", query=query[:_QUERY_CHARS], page=page, heartbeat=True)
    return _written("send_message", message=f"The answer is {found}." if found else "I do not know.")


def _written(name: str, **arguments: Any) -> str:
    given = (f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in arguments.items())
    return f"{name}({', '.join(given)})"


def _most_helpful(text: str) -> str:
    """The number of the question that tells what the one to be answered asks for."""
    question, _, listed = text.partition("These questions have been answered before:")
    question = question.partition(":\n")[2].rstrip()
    numbered = re.split(r"^(\d+)\. ", listed.rpartition("The solution of which")[0], flags=re.MULTILINE)[1:]
    pairs = zip(numbered[::2], numbered[1::2], strict=True)
    return next((number for number, told in pairs if _sought(f"{told}\n{question}")[0]), "none")


def _rules(text: str) -> list[str]:
    """What a right answer that was told comes to, as rules that set the same case right."""
    told = _LABEL.findall(text)
    if not told:
        return []
    label = told[0].strip()
    met = [(_lesson(opening, what, did), what) for opening, what, did, _ in _MENDED.findall(text)]
    if met:
        tried = list(zip(met, label.split("; "), strict=False))
        lines = [re.sub(r"(use the|first mend) .+\.", rf"\1 {did}.", line) for (line, _), did in tried]
        every = " and ".join(what for (_, what), _ in tried)
        single = [f"If there is {what}, then: {line}" for line, ((_, what), _) in zip(lines, tried, strict=True)]
        return [f"If there is {every}, then: {' '.join(lines)}", *single]
    turns = _turns(text.partition("right answer")[0])
    asked = next((each for each in reversed(turns) if each[2].endswith("?")), None)
    if asked is not None:
        fact = _as_told(*asked, label.removeprefix("The answer is ").rstrip("."))
        return [f"If {asked[0]} asks, then this holds: {fact}"] if fact else []
    return [each for each in facts(text) if each.startswith("If ")]


def _as_told(who: str, day: int, question: str, value: str) -> str:
    """What somebody would have said for this to be the answer; empty where one sentence does not say it."""
    for pattern, name, wanted in _ASKED:
        match = pattern.fullmatch(question)
        if match and wanted != "before" and not value.startswith("I do not"):
            said = value if wanted == "now" else match["value"]
            what = TOPICS.get(name) or STOCKS[name]
            return f"{who}, day {day if wanted == 'now' else value}: {what.told[0].format(said)}"
    return ""


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
    right, wrong = _lessons(text)
    made = [re.sub(r", (use|first mend) ", r", | \1 | ", each) for each in right]
    made += [re.sub(r", (use|first mend) ", r", | \1 | ", f"It did not work: {each}") for each in sorted(wrong)]
    known = [re.sub(r"^((?:The \w+ |The \w+ of )?[A-Z]\w+(?: [A-Z]\w+)?) ", r"\1 | ", each) for each in _things(text)]
    return "\n".join([f"{head} | said | {what}" for head, what in lines] + known + made) or "none"


# -- dialogue ----------------------------------------------------------------------------------------------------------


def _turns(text: str) -> list[tuple[str, int, str]]:
    """(speaker, day, sentence), in order; a sentence that comes again counts where it first stood.

    Messages with numbers are put in the order of these.
    """
    numbered = sorted(_TURN.finditer(text), key=lambda turn: int(turn[1] or 0) or 10**9)
    found = [
        (turn[2], int(turn[3]), sentence.strip())
        for turn in numbered
        for sentence in re.findall(r"[^.?]+[.?]", turn[4])
    ]
    return list(dict.fromkeys(found[:-1])) + found[-1:]


def _statement(sentence: str) -> tuple[str, str, str] | None:
    """(topic, what it does to it, value)."""
    every = ((pattern.fullmatch(sentence), name, does) for pattern, name, does in _SAID)
    return next(((name, does, match["value"]) for match, name, does in every if match), None)


def _in_dialogue(turns: Sequence[tuple[str, int, str]]) -> tuple[str, str]:
    (*earlier, (who, _, question)) = turns
    matches = ((pattern.fullmatch(question), name, wanted) for pattern, name, wanted in _ASKED)
    match, name, wanted = next((each for each in matches if each[0]), (None, "", ""))
    if match is None:
        return "", ""
    query = _words_of(name)
    told = sorted(((day, sentence) for speaker, day, sentence in earlier if speaker == who), key=lambda it: it[0])
    of_it = [(day, *each[1:]) for day, sentence in told if (each := _statement(sentence)) and each[0] == name]
    if not of_it:
        return "", query
    if name in STOCKS:
        total = None
        for _, does, value in of_it:
            total = int(value) if does == "is" else total and total + int(value) * (1 if does == "up" else -1)
        return "" if total is None else str(total), query
    values = [value for _, _, value in of_it]
    if wanted == "now":
        return values[-1], query
    meant = next((at for at, value in enumerate(values) if value.lower() == match["value"].lower()), None)
    if meant is None:
        return "", query
    return (str(of_it[meant][0]) if wanted == "day" else values[meant - 1] if meant else ""), query


def _words_of(name: str) -> str:
    """By which words one finds what was said of a topic."""
    what = TOPICS.get(name) or STOCKS[name]
    told = (*what.told, *what.changed, what.clause) if name in TOPICS else (*what.told, *what.up, *what.down)
    words = re.findall(r"[a-z]+", " ".join(told).replace("{}", "").lower())
    return " ".join(word for word in dict.fromkeys(words) if len(word) > 2)


# -- qa ----------------------------------------------------------------------------------------------------------------


def _told_of(text: str) -> Iterator[tuple[str, str, _Relation, str]]:
    """(thing as sentences begin with it, as questions name it, relation, value) for all that a text says."""
    for sentence in re.findall(r"[A-Z][^.?:|\n]*\.", text.replace(" | ", " ")):
        first, *more = sentence.rstrip(".").split(" and ")
        for kind, relation, pattern in _OF_KIND:
            found = pattern.search(first)
            if found and found.start() > 1:
                thing = first[: found.start() - 1]
                named = thing if kind in ("person", "town") else thing[0].lower() + thing[1:]
                yield thing, named, relation, found["value"]
                for piece in more:
                    every = ((each, told.fullmatch(piece)) for of, each, told in _OF_KIND if of == kind)
                    yield from ((thing, named, each, match["value"]) for each, match in every if match)
                break


def _things(text: str) -> list[str]:
    """What a text says of each thing, a line each."""
    lines: dict[str, list[str]] = {}
    for thing, _, relation, value in _told_of(text):
        lines.setdefault(thing, []).append(f"{thing} {relation.told.format(value)}.")
    return [" ".join(dict.fromkeys(each)) for each in lines.values()]


def _known(text: str) -> dict[str, str]:
    """Answers by question, as rules, told answers, right ones and passages give them."""
    found = {asked: told for form in (_RIGHT, _TOLD, _RULE) for asked, told in form.findall(text)}
    return found | {relation.asked.format(named): value for _, named, relation, value in _told_of(text)}


def _in_world(text: str) -> tuple[str, str]:
    lines = [line.strip() for line in text.splitlines() if line.strip().endswith("?")]
    question = lines[-1].removeprefix("Task: ") if lines else ""
    known = {asked.lower(): told for asked, told in _known(text).items()}
    if question.lower() in known:
        return known[question.lower()], question
    every = [each for relations in _RELATIONS.values() for each in relations]
    for second in every:
        inner = _pattern(second.asked).fullmatch(question)
        for first in every if inner else ():
            thing = _pattern(first.phrase).fullmatch(inner["value"]) if inner and first.phrase else None
            if thing is None:
                continue
            value = known.get(first.asked.format(thing["value"]).lower())
            if value:
                bare = value.removeprefix(_CALLED.get(first.of, "{}").format(""))
                asked = second.asked.format(_CALLED.get(first.of, "{}").format(bare))
                if told := known.get(asked.lower(), ""):
                    return told, asked
                return "", asked
    return "", question


# -- workshop ----------------------------------------------------------------------------------------------------------


def _lesson(opening: str, what: str, did: str) -> str:
    return f"With {what}, first mend {did}." if opening == "With" else f"To mend {what}, use the {did}."


def _lessons(text: str) -> tuple[list[str], set[str]]:
    """What is right and what is wrong, as the sentences that the workshop words it in."""
    right: list[str] = []
    wrong = {*re.findall(r"What failed: (.+)", text), *_FAILED.findall(text)}
    tried = [(_lesson(*each[:3]), each[3] == "worked") for each in _MENDED.findall(text)]
    tried += [(line, came == "worked") for line, came in _SAID_SO.findall(text)]
    tried += [(case.replace("…", label), came == "right") for case, label, came in _CASE.findall(text)]
    for line, came in tried:
        if came:
            right.append(line)
        else:
            wrong.add(line)
    rest = re.sub(r"What failed: .*", "", text)
    for told in (_FAILED, _SAID_SO):
        rest = told.sub("", rest)
    right += _LESSON.findall(rest)
    return list(dict.fromkeys(each for each in right if each not in wrong)), wrong


def _option(text: str, options: Sequence[str]) -> str:
    right, wrong = _lessons(text)
    asked: Any = re.findall(r"How do you mend (.+?)\?|(With .+?), what do you mend first\?", text)
    flaw, pair = asked[-1] if asked else ("", "")
    lines = {f"{pair}, first mend {each}." if pair else f"To mend {flaw}, use the {each}.": each for each in options}
    known = next((line for line in lines if line in right), "")
    left = [line for line in lines if line not in wrong] or list(lines)
    return lines[known or left[_guess(text, len(left))]]


def _guess(text: str, options: int) -> int:
    """Which of so many: by the task and the question, whatever is remembered."""
    tasks, asked = _TASK.findall(text), re.findall(r"How do you mend .+?\?|With .+?, what do you mend first\?", text)
    said = f"{tasks[-1] if tasks else ''} {asked[-1] if asked else ''}"
    return hashlib.sha256(said.encode()).digest()[0] % options
