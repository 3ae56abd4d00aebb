"""A jury for debates that calls no model: it counts what can be counted in what was said.

Each side gets a brief of its own: three surveys, each a town and a percentage. The jurors know both briefs and count

- words of the topic that a side used, as a share of them all;
- surveys of its own that it quoted, town and figure in one sentence;
- surveys of the other side that it answered, by naming their town once the other side had;
- towns of its own that it gave a figure they do not have, or two figures at once: a side that contradicts its brief.

That measures care with evidence and attention to the other side. It does not measure eloquence, reasoning or truth.
The first 80 words of a turn count, so that saying more wins nothing. Jurors weigh the counts differently and lean to
one side before a word is said; both are drawn once for each juror and topic, and the same in every run.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

_TOWNS = (
    "Harwick", "Milden", "Oakrest", "Penlow", "Quarley", "Ravenby", "Selton", "Thornmere", "Upwell", "Vexford",
    "Wexcombe", "Yarnley", "Ashmoor", "Brindle", "Coldharbour", "Dunmere",
)  # fmt: skip
_SIDES = ("Affirmative", "Negative")
_SURVEYS_A_SIDE = 3
_WORDS_A_TURN = 80
_TURN = re.compile(r"Player \d \((Affirmative|Negative)\): (.*)")
_SENTENCE = re.compile(r"(?<=[.!?;])\s+")
_FIGURE = re.compile(r"\b(\d+)\b")
_COMMON = frozenset(
    ("should", "would", "could", "does", "that", "with", "from", "than", "they", "their", "have", "been")
)


@dataclass(frozen=True, slots=True)
class Survey:
    town: str
    percent: int
    """Of those asked, who were on the side whose brief it is in; 55 to 95."""

    def words(self, side: str) -> str:
        return (
            f"A survey in {self.town} found {self.percent} percent {'for' if side == 'Affirmative' else 'against'} it."
        )


Briefs = Mapping[str, tuple[Survey, ...]]
"""By side."""


def deal_briefs(rng: random.Random) -> Briefs:
    """Three surveys for each side, in towns of their own."""
    towns = rng.sample(_TOWNS, len(_SIDES) * _SURVEYS_A_SIDE)
    surveys = [Survey(town, rng.randint(55, 95)) for town in towns]
    return {"Affirmative": tuple(surveys[:_SURVEYS_A_SIDE]), "Negative": tuple(surveys[_SURVEYS_A_SIDE:])}


def brief_of(side: str, briefs: Briefs) -> str:
    """What a debater on that side is given, and told of the jury."""
    surveys = "\n".join(survey.words(side) for survey in briefs[side])
    return (
        f"Your brief:\n{surveys}\nThe jury minds the topic's own words, your surveys quoted with town and figure, and "
        f"answers to the surveys of the other side. It hears the first {_WORDS_A_TURN} words of each turn."
    )


@dataclass(frozen=True, slots=True)
class Case:
    """What the jury counted in one side's turns."""

    topic: float
    """Share of the topic's words that were used, in [0, 1]."""
    quoted: int
    """Own surveys that were quoted rightly."""
    answered: int
    """Surveys of the other side that were answered."""
    contradicted: int
    """Own surveys whose figure was given wrongly or twice over."""


@dataclass(frozen=True)
class Jury:
    """What TextArena's debate asks of a jury: `evaluate` gives each option's share of the votes."""

    briefs: Briefs
    jurors: int
    options: Sequence[str] = field(default=_SIDES)

    def evaluate(self, context: str) -> dict[str, float]:
        topic = context.splitlines()[0].removeprefix("Debate Topic:").strip()
        cases = heard(topic, context, self.briefs)
        for_it = sum(_leans_to_affirmative(topic, juror, cases) for juror in range(self.jurors))
        return {"Affirmative": for_it / self.jurors, "Negative": 1 - for_it / self.jurors}


def heard(topic: str, transcript: str, briefs: Briefs) -> dict[str, Case]:
    """Each side's case. A turn is one line, `Player 0 (Negative): …`; nothing else is read."""
    turns = [(side, " ".join(said.split()[:_WORDS_A_TURN])) for side, said in _TURN.findall(transcript)]
    return {side: _case(side, topic, turns, briefs) for side in _SIDES}


def _case(side: str, topic: str, turns: list[tuple[str, str]], briefs: Briefs) -> Case:
    own = " ".join(said for speaker, said in turns if speaker == side)
    subject = _content(topic)
    figures = {survey: _figures(survey, own) for survey in briefs[side]}
    other = _SIDES[1 - _SIDES.index(side)]
    return Case(
        topic=len(subject & _content(own)) / max(1, len(subject)),
        quoted=sum(given == {survey.percent} for survey, given in figures.items()),
        answered=sum(_answered(survey.town, side, turns) for survey in briefs[other]),
        contradicted=sum(bool(given - {survey.percent}) for survey, given in figures.items()),
    )


def _figures(survey: Survey, said: str) -> set[int]:
    """The figures that were given for the survey's town: those in the sentences that name this town and no other."""
    figures: set[int] = set()
    for sentence in _SENTENCE.split(said):
        named = {town for town in _TOWNS if town.lower() in sentence.lower()}
        if named == {survey.town}:
            figures |= {int(figure) for figure in _FIGURE.findall(sentence)}
    return figures


def _answered(town: str, side: str, turns: list[tuple[str, str]]) -> bool:
    raised = False
    for speaker, said in turns:
        if town.lower() in said.lower():
            if speaker == side and raised:
                return True
            raised = raised or speaker != side
    return False


def _content(text: str) -> set[str]:
    return {word for word in re.findall(r"[a-z]{4,}", text.lower()) if word not in _COMMON}


def _leans_to_affirmative(topic: str, juror: int, cases: Mapping[str, Case]) -> bool:
    rng = random.Random(f"jury/{topic}/{juror}")
    leaning = rng.uniform(-2.0, 2.0)
    weights = [rng.uniform(0.5, 1.5) for _ in range(4)]

    def points(case: Case) -> float:
        topic_weight, quoted, answered, contradicted = weights
        told = topic_weight * case.topic + quoted * case.quoted + answered * case.answered
        return told - contradicted * case.contradicted

    return leaning + points(cases["Affirmative"]) - points(cases["Negative"]) > 0
