"""An answer checked with an outside tool (CRITIC, arXiv 2305.11738, §3): a search, an interpreter, or a scorer.

Each kind of task has its tool and its turns: how it is first answered, what the tool is used for, what is asked about
the answer and what the tool said, and which of the answers so far stands. None of them sees a reference.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from evolvent.agents.feedback.execution import executed, run_programs, told
from evolvent.agents.solutions.scratchpad import Scratchpad, assistant, user
from evolvent.environments import continuation, qa
from evolvent.environments.code import program_of
from evolvent.environments.execution import Execution, Limits
from evolvent.environments.types import Message, Task

SOLVE, CRITIQUE, REVISE = "solve", "critique", "revise"
"""Purposes of the model's calls; the k-th revision is made in round k, from 0 on."""
TOOL = "tool"
"""Purpose under which is kept what the tool said."""


class Check(Protocol):
    """What one kind of task is asked, and what its tool is for. It reads and writes the scratchpad and nothing else.

    - An answer that is empty or cannot be read never stands in place of an earlier one.
    - Rounds count from 0; in round r, r revisions have been made.
    """

    async def opening(self, pad: Scratchpad, task: Task) -> Sequence[Message]:
        """The prompt of the first answer."""

    async def consult(self, pad: Scratchpad, tasks: Sequence[Task], number: int) -> None:
        """Use the tool for what each task waits for in this round, if anything."""

    def settled(self, pad: Scratchpad, task: Task) -> bool:
        """Whether the answer is good enough, or has stayed the same long enough."""

    async def critique(self, pad: Scratchpad, task: Task, number: int) -> tuple[int, Sequence[Message]] | None:
        """Number and prompt of the model's next words on the answer that stands; None where the tool says it all."""

    def waits(self, pad: Scratchpad, task: Task, number: int) -> bool:
        """Whether the model's last words ask for the tool."""

    async def revision(self, pad: Scratchpad, task: Task, number: int) -> Sequence[Message]:
        """The prompt of a better answer."""

    def answer(self, pad: Scratchpad, task: Task, revisions: int | None = None) -> str:
        """What is handed in after so many revisions, by default after all that were made."""


@dataclass(frozen=True, slots=True)
class Search:
    """Questions: the model doubts its answer in words and looks things up; what it then takes for right stands.

    The conversation about a question grows over its rounds, so that what was found stays in view.
    """

    tool: bool
    """Off, the model is to write the evidence from what it knows."""
    interactions: int
    """Searches of one round at most."""
    evidence_chars: int
    """Shown of one passage."""

    async def opening(self, pad: Scratchpad, task: Task) -> Sequence[Message]:
        return await pad.question(task, _REASONED)

    async def consult(self, pad: Scratchpad, tasks: Sequence[Task], number: int) -> None:
        await pad.each(
            self._look_up(pad, task, number, query)
            for task in tasks
            if (query := self._query(pad, task, number)) is not None
        )

    def settled(self, pad: Scratchpad, task: Task) -> bool:
        answers = [qa.normal(qa.final_answer(self.answer(pad, task, at))) for at in range(_made(pad, task) + 1)]
        return _unchanged(answers)

    async def critique(self, pad: Scratchpad, task: Task, number: int) -> tuple[int, Sequence[Message]]:
        return self._place(pad, task, number), await self._conversation(pad, task, number)

    def waits(self, pad: Scratchpad, task: Task, number: int) -> bool:
        return self._query(pad, task, number) is not None

    async def revision(self, pad: Scratchpad, task: Task, number: int) -> Sequence[Message]:
        return (*await self._conversation(pad, task, number), user(_CONCLUDE))

    def answer(self, pad: Scratchpad, task: Task, revisions: int | None = None) -> str:
        return next((text for text in reversed(_answers(pad, task, revisions)) if qa.final_answer(text)), "")

    async def _conversation(self, pad: Scratchpad, task: Task, number: int) -> list[Message]:
        """All rounds up to this one, each with what was looked up in it."""
        turns = list(await pad.question(task, _DOUBTED if self.tool else ""))
        for at in range(number + 1):
            turns += [user(_CONCLUDE)] * (at > 0)
            turns += [assistant(self.answer(pad, task, at)), user(_DOUBT if self.tool else _DOUBT_ALONE)]
            for place in range(at * self._stride, (at + 1) * self._stride):
                words, found = pad.said(task, CRITIQUE, place), pad.said(task, TOOL, place)
                if words is None:
                    break
                turns.append(assistant(self._cut(words)))
                if found is not None:
                    turns.append(user(_evidence(found, self.evidence_chars)))
        return turns

    @property
    def _stride(self) -> int:
        return self.interactions + 1

    def _place(self, pad: Scratchpad, task: Task, number: int) -> int:
        """Number of the words that come next in a round: behind those whose query was answered."""
        place = number * self._stride
        while pad.said(task, TOOL, place) is not None:
            place += 1
        return place

    def _query(self, pad: Scratchpad, task: Task, number: int) -> str | None:
        """The one that is still to be answered, as long as there are searches left."""
        place = self._place(pad, task, number)
        if not self.tool or place == number * self._stride + self.interactions:
            return None
        asked = _QUERY.search(pad.said(task, CRITIQUE, place) or "")
        return asked[1].strip() if asked else None

    def _cut(self, words: str) -> str:
        """What a model writes behind its query before it has seen what is found rests on nothing."""
        asked = _QUERY.search(words) if self.tool else None
        return words[: asked.end()] if asked else words

    async def _look_up(self, pad: Scratchpad, task: Task, number: int, query: str) -> str:
        """The first passage that this question's searches have not given yet: a repeated query gets the next one."""
        seen = {each["title"] for each in self._found(pad, task, number)}

        async def tool() -> str:
            passages = qa.search(task, query, len(seen) + 1)
            new = next((each for each in passages if each.title not in seen), None)
            return json.dumps({"title": new.title, "text": new.text} if new else {"title": "", "text": ""})

        return await pad.run(task, TOOL, tool, self._place(pad, task, number))

    def _found(self, pad: Scratchpad, task: Task, number: int) -> list[dict[str, str]]:
        known = [pad.said(task, TOOL, place) for place in range((number + 1) * self._stride)]
        return [json.loads(each) for each in known if each is not None]


@dataclass(frozen=True, slots=True)
class Interpreter:
    """Word problems: the answer is what a program works out, and the model is told how its program ran."""

    tool: bool
    """Off, the model is not told how its program ran. What it gives is the answer all the same."""
    timeout_s: float
    """CPU seconds of one run."""

    async def opening(self, pad: Scratchpad, task: Task) -> Sequence[Message]:
        return (*await pad.question(task, _PROGRAMMED), user(_PROGRAM))

    async def consult(self, pad: Scratchpad, tasks: Sequence[Task], number: int) -> None:
        written = {task.id: program_of(_answers(pad, task, number)[-1]) for task in tasks}
        programs = {task: _printing(program) for task, program in written.items() if program.strip()}
        limits = Limits(test_s=self.timeout_s)
        await run_programs(pad, programs, number, purpose=TOOL, tests=lambda task: (), limits=limits)

    def settled(self, pad: Scratchpad, task: Task) -> bool:
        values = [self._value(pad, task, self._standing(pad, task, at)) for at in range(_made(pad, task) + 1)]
        return bool(values[-1]) and _unchanged(values)

    async def critique(self, pad: Scratchpad, task: Task, number: int) -> tuple[int, Sequence[Message]]:
        return number, await self._told(pad, task, number)

    def waits(self, pad: Scratchpad, task: Task, number: int) -> bool:
        return False

    async def revision(self, pad: Scratchpad, task: Task, number: int) -> Sequence[Message]:
        criticism = pad.said(task, CRITIQUE, number) or ""
        return (*await self._told(pad, task, number), assistant(criticism), user(_REPROGRAM))

    def answer(self, pad: Scratchpad, task: Task, revisions: int | None = None) -> str:
        value = self._value(pad, task, self._standing(pad, task, revisions))
        return f"The answer is {value}." if value else ""

    async def _told(self, pad: Scratchpad, task: Task, number: int) -> list[Message]:
        place = self._standing(pad, task, number)
        ran = executed(pad, task, place, purpose=TOOL) if self.tool else None
        asked = f"{_report(ran)}\n{_FAULT}" if ran else _FAULT
        program = assistant(_answers(pad, task, number)[place])
        return [*await pad.question(task, _PROGRAMMED), user(_PROGRAM), program, user(asked)]

    def _standing(self, pad: Scratchpad, task: Task, revisions: int | None) -> int:
        """The newest program with a value; where none has one, the newest that is not empty."""
        answers = _answers(pad, task, revisions)
        places = range(len(answers) - 1, -1, -1)
        valued = next((place for place in places if self._value(pad, task, place)), None)
        return valued if valued is not None else next((place for place in places if answers[place]), 0)

    def _value(self, pad: Scratchpad, task: Task, place: int) -> str:
        ran = executed(pad, task, place, purpose=TOOL)
        return value(ran) if ran else ""


@dataclass(frozen=True, slots=True)
class Scorer:
    """Continuations: a scorer says how rude one is and in what way; another is kept when it is less so."""

    tool: bool
    """Off, the model judges the continuation itself, and every other one is kept."""
    low: float
    """Toxicity, in [0, 1], below which a continuation is good enough."""

    async def opening(self, pad: Scratchpad, task: Task) -> Sequence[Message]:
        return await pad.question(task)

    async def consult(self, pad: Scratchpad, tasks: Sequence[Task], number: int) -> None:
        if self.tool:
            await pad.each(self._score(pad, task, number) for task in tasks)

    def settled(self, pad: Scratchpad, task: Task) -> bool:
        standing = self._standing(pad, task, None)
        return self.tool and self._readable(pad, task, standing) and self._toxicity(pad, task, standing) < self.low

    async def critique(self, pad: Scratchpad, task: Task, number: int) -> tuple[int, Sequence[Message]] | None:
        return None if self.tool else (number, (*await self._shown(pad, task, number), user(_RUDE)))

    def waits(self, pad: Scratchpad, task: Task, number: int) -> bool:
        return False

    async def revision(self, pad: Scratchpad, task: Task, number: int) -> Sequence[Message]:
        shown = await self._shown(pad, task, number)
        if self.tool:
            return (*shown, user(f"{self._report(pad, task, number)}\n{_RECONTINUE}"))
        return (*shown, user(_RUDE), assistant(pad.said(task, CRITIQUE, number) or ""), user(_RECONTINUE))

    def answer(self, pad: Scratchpad, task: Task, revisions: int | None = None) -> str:
        return _answers(pad, task, revisions)[self._standing(pad, task, revisions)]

    async def _shown(self, pad: Scratchpad, task: Task, number: int) -> list[Message]:
        return [*await pad.question(task), assistant(self.answer(pad, task, number))]

    async def _score(self, pad: Scratchpad, task: Task, number: int) -> str:
        async def tool() -> str:
            found = continuation.toxicity(_answers(pad, task, number)[-1])
            worst = found.attributes.get(found.worst, 0.0)
            return json.dumps({"overall": found.overall, "worst": found.worst, "share": worst})

        return await pad.run(task, TOOL, tool, number)

    def _report(self, pad: Scratchpad, task: Task, number: int) -> str:
        found = json.loads(pad.said(task, TOOL, self._standing(pad, task, number)) or "{}")
        most = f", above all by {found['share']:.0%} {found['worst']}" if found["worst"] else ""
        return f"A scorer finds this continuation {found['overall']:.0%} toxic{most}."

    def _standing(self, pad: Scratchpad, task: Task, revisions: int | None) -> int:
        """The first one, and from then on each that is less toxic than the one before it that stood."""
        standing = 0
        for place in range(1, len(_answers(pad, task, revisions))):
            better = not self.tool or self._toxicity(pad, task, place) < self._toxicity(pad, task, standing)
            if self._readable(pad, task, place) and (better or not self._readable(pad, task, standing)):
                standing = place
        return standing

    def _readable(self, pad: Scratchpad, task: Task, place: int) -> bool:
        return len(re.findall(r"\w+", _answers(pad, task, place)[-1])) >= continuation.FEWEST_WORDS

    def _toxicity(self, pad: Scratchpad, task: Task, place: int) -> float:
        """1 for what was not scored."""
        return float(json.loads(pad.said(task, TOOL, place) or '{"overall": 1}')["overall"])


def value(ran: Execution) -> str:
    """The number that a program printed last; empty where it ended otherwise."""
    said = ran.stdout.split("\n") if ran.passed else []
    try:
        number = float(next((line for line in reversed(said) if line.strip()), ""))
    except ValueError:
        return ""
    if not math.isfinite(number):
        return ""
    return str(int(number)) if number.is_integer() else str(round(number, 6))


# -- inside ------------------------------------------------------------------------------------------------------------

_QUERY = re.compile(r"^\W*search\b[^:\n]*:[ \t]*(\S.*)$", re.IGNORECASE | re.MULTILINE)
EVIDENCE = "Evidence:"
"""Where the model's words end that ask for some."""
_REASONED = (
    "Questions are answered in steps, for example:\n"
    "Question: Who was born first, Ada Roe or Tim Vale?\n"
    "Answer: Ada Roe was born in 1801 and Tim Vale in 1795, which is earlier. The answer is Tim Vale.\n"
)
_DOUBT = (
    "Is this answer plausible, and is it true? Check it against the sources. To look something up, end with a line "
    '"Search: ..."; you will be shown what is found.'
)
_DOUBT_ALONE = (
    "Is this answer plausible, and is it true? Write down the evidence for or against it, as far as you know it, "
    'in lines "Evidence: ...".'
)
_CONCLUDE = "What is the most probable answer now? The last line is: The answer is X."
_DOUBTED = (
    "How an answer is checked, for example:\nQuestion: Who built the mill of Orlo?\nAnswer: The answer is Tam Rudd.\n"
    "Check: A name is asked for and a name is given, so it is plausible. Whether it is true has to be looked up.\n"
    "Search: builder of the mill of Orlo\n"
    "Evidence: [Mill of Orlo] The mill of Orlo was built by Wenna Pask.\n"
    "Check: The source names another builder. The answer is Wenna Pask.\n"
)
_PROGRAMMED = (
    "Problems are solved by a short Python program, for example:\n"
    "Ada has 3 bags of 4 nuts and eats 5. How many are left?\n"
    "```python\nnuts = 3 * 4\nanswer = nuts - 5\n```\n"
)
_PROGRAM = "Write a Python program that assigns the result to `answer`. Write the program alone."
_FAULT = "Is anything wrong with the program? Say what, or say that it is right."
_REPROGRAM = "Write the better program, or the same one if it is right. Write the program alone."
_RUDE = "Is this continuation rude? Say in what way."
_RECONTINUE = "Write another continuation of the text that is friendlier. Write the continuation alone."
_SOLUTION = re.compile(r"^def solution\(", re.MULTILINE)


def _answers(pad: Scratchpad, task: Task, revisions: int | None = None) -> list[str]:
    """The first answer and so many revisions; all where no number is given."""
    revised = pad.every(task, REVISE)
    return [pad.said(task, SOLVE) or "", *revised[:revisions]]


def _made(pad: Scratchpad, task: Task) -> int:
    return len(pad.every(task, REVISE))


def _unchanged(answers: Sequence[str]) -> bool:
    """Whether two revisions in a row have left the answer as it was."""
    return len(answers) > 2 and len(set(answers[-3:])) == 1


def _evidence(found: str, chars: int) -> str:
    passage = json.loads(found)
    return f"{EVIDENCE} [{passage['title']}] {passage['text'][:chars]}" if passage["title"] else f"{EVIDENCE} none."


def _printing(program: str) -> str:
    """The program with its result on the last line that it prints."""
    return f"{program}\nprint({'solution()' if _SOLUTION.search(program) else 'answer'})\n"


def _report(ran: Execution) -> str:
    if not ran.passed:
        return told(ran)
    return f"The program ran to its end.\nanswer = {value(ran) or ran.stdout.strip()[-100:]}"
