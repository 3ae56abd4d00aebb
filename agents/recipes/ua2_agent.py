"""`ua2-agent`: a shopper with a structured memory of each user's requests, which counts its own time and money too.

UA² (arXiv 2402.07744). Each user has a list of requests that rely on earlier ones. A ReAct agent sees an example, the
user's last ten requests and, where one of those it fulfilled is like the new one, that request and its important
actions. After a task an analyzer names the key and the redundant actions, and where an earlier request was shown, says
whether it helped. What was rewarded is kept: the request, its key clicks, and what it followed from. Nothing is shared
between users. Every page step and every model call has its price.

Where this differs:
- The analyzer's calls are in the time and the money, as the paper means it; the reference code leaves them out.
- Whether an earlier request helped is kept: its reason on the link, and how often on the request itself. The reference
  code throws it away. Nothing is recalled by it.
- A request's likeness is its BM25 score over that of the new request itself. `small` compares embeddings, the paper's
  alternative: words of politeness recur more often than the thing that is wanted. In six worlds of the shop, of 162
  requests for a thing that the user had asked for before, BM25 found such a one for 76, and embeddings for 143.
- A request in the same words as an earlier one of its user renews that record, and does not stand beside it.
- The analyzer sees neither score nor the shop's word on the purchase: both come from what the user keeps to himself.
- A model that can score what is on offer chooses among it, and then has no thoughts and no searches of its own.
- Tokens of a prompt are estimated, and the window holds turns alone: the paper's 4097 tokens are these and the rest.
- Prices are stated in the settings; nothing is metered. Gaps in alignment would need what users hide: not reported.
- The paper measures the lists themselves; that is `stream` in each generation's row, and held-out tasks are judged
  beside.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from random import Random
from typing import Any, Literal

from langgraph.graph import StateGraph
from langgraph.runtime import Runtime
from pydantic import Field

from evolvent.agents.context import Context
from evolvent.agents.evolution import State, cycle
from evolvent.agents.remembering import (
    Remembering,
    attempt,
    baseline_of,
    evaluation,
    experience,
    finished,
    learned,
    proof,
    tasks,
    written,
)
from evolvent.agents.remembering import user as whose
from evolvent.agents.solutions.act import Policy
from evolvent.agents.solutions.found import Found, Showing
from evolvent.agents.solutions.recall import Recollection
from evolvent.agents.solutions.scratchpad import Scratchpad, agreed, tasks_of, user
from evolvent.agents.solutions.shots import Shots
from evolvent.environments.shop import cost
from evolvent.environments.types import Experience, Observation, Recalled, Task
from evolvent.memory.likeness import likeness
from evolvent.memory.retrieval import LIVE
from evolvent.memory.store import Snapshot
from evolvent.memory.types import Event, Kind, Record, Scope, new_record

ROLES = ("actor", "analyzer")
ENVIRONMENTS = ("shop",)
CARRIES_OVER = True
"""A user's later requests rely on the earlier ones, so it is measured on those that come last."""

_EXAMPLE = (
    "An example of how a request is met:\n"
    "I need a kettle of tin, size small. My taste: Arvo, pink. Otherwise as I like them.\n"
    "think[I search for the brand and what it is made of.]\nOK.\n"
    "search[Arvo kettle tin]\nResults 1 to 2 of 2:\nK31 Arvo kettle, 19 dollars\nK07 Arvo kettle, 58 dollars\n"
    "click[K31]\nK31 Arvo kettle, 19 dollars.\nColour: white, pink.\nSize: small, large.\n"
    "click[pink]\nclick[small]\nclick[buy now]\nThat is the end of the example."
)
_HISTORY = "The latest requests of this user, oldest first:\n{requests}"
_RECORD = "An earlier request like this one: {request}\nIts important actions: {actions}"
_NONE_KNOWN = "none known"
_ANALYSE = (
    "A shopper was asked:\n{request}\n\nThis was seen and done; the actions are numbered.\n{done}\n\n"
    "Which actions were the key to the purchase, and which were redundant? Write two lines, numbers first:\n"
    "Key: NUMBERS, because REASON\nRedundant: NUMBERS or none, because REASON"
)
_IMPACT = (
    "A shopper was asked:\n{request}\n\nBefore it stood this:\n{shown}\n\nThis was seen and done:\n{done}\n\n"
    "Did it help to buy the right thing, and to be quick? Begin with yes or no, then give the reason in one sentence."
)
_SKILL: tuple[Kind, ...] = ("skill",)
_IMPORTANT = "important"
_NUMBERS = r"(?:[ \t]+\w+)?[^\w\n]*(\d+(?:[ \t,;&#\[\]]+(?:and[ \t]+)?\d+)*)\b"
"""After a title and at most one more word, as in `Key actions: 2, 4 and 5`; a number in a reason is none of them."""


class Config(Remembering):
    history_window: int = Field(10, ge=0)
    """Latest requests of the user that are shown; 0 with `records` off is ReAct alone."""
    retrieval_threshold: float = Field(0.9, ge=0, le=1)
    """Likeness from which the most similar earlier request is shown: 1 is the same, by words or by meaning."""
    retrieval: Literal["bm25", "dense"] = "bm25"
    """By shared words (`memory.likeness`), or by the cosine of embeddings."""
    write_reward_threshold: float = Field(0.5, ge=0, lt=1)
    """Reward above which a request is kept."""
    records: bool = True
    """Ablation: without it nothing is analysed, kept or found, which leaves ReAct with the history."""
    shared: bool = False
    """Ablation: what one user's requests taught is found for all of them. The history stays each user's own."""
    max_steps: int = Field(15, ge=1)
    """Page steps and thoughts of one task."""
    window_tokens: int = Field(3000, ge=1)
    """Of the turns in a prompt; beyond it the oldest are left out, but for the first observation."""
    reply_tokens: int = Field(100, ge=1)
    """Of an action that is written."""
    analysis_tokens: int = Field(256, ge=1)
    """Of a reply of the analyzer."""
    dollars_in: float = Field(0.0015, ge=0)
    """Price of 1000 tokens that a model reads."""
    dollars_out: float = Field(0.002, ge=0)
    """Price of 1000 tokens that it writes."""
    call_seconds: float = Field(1.0, ge=0)
    """Time that one model call is counted with, whatever it took."""


PRESETS = {
    "small": Config(
        retrieval="dense",
        retrieval_threshold=0.6,
        max_steps=8,
        window_tokens=1500,
        reply_tokens=32,
        analysis_tokens=48,
    ),
    "paper": Config(),
}


def build(config: Config) -> StateGraph[State, Context, State, State]:
    """baseline, then per generation: tasks → (attempt → analyse → store)* → gate → evaluate."""

    def seat(context: Context, showing: Showing) -> Policy:
        def find(snapshot: Snapshot, task: Task, showing: Showing) -> list[Record]:
            return most_like(snapshot, task, showing, config) if config.records else []

        found = Found(context.memory.snapshot(), find, _told, showing)
        return Policy(
            context.model("actor"),
            _Remembered(found, cache(lambda: _requests(context)), config.history_window),
            max_reply_tokens=config.reply_tokens,
            stop=("\n",),
            window_tokens=config.window_tokens,
            keep_first=True,
            thought="think[",
            max_steps=config.max_steps,
        )

    async def analyse(state: State, runtime: Runtime[Context]) -> State:
        """Which actions were key, and whether the earlier request helped that was shown."""
        context, pad = runtime.context, Scratchpad(runtime.context, state)
        questions = []
        for each in finished(context, state) if config.records else []:
            told = {"request": each.task.prompt, "done": _done(each)}
            questions.append((each.task, "analyse", _ANALYSE.format(**told)))
            if used := _used(context, each):
                questions.append((each.task, "impact", _IMPACT.format(shown=_told([used]), **told)))
        await pad.each(
            pad.ask(task, purpose, [user(text)], role="analyzer", max_tokens=config.analysis_tokens)
            for task, purpose, text in questions
        )
        return {}

    async def store(state: State, runtime: Runtime[Context]) -> State:
        """What was rewarded is kept; the request joins the history by having been played."""
        context, pad = runtime.context, Scratchpad(runtime.context, state)
        events: list[Event] = []
        helped: dict[str, int] = {}
        for each in finished(context, state) if config.records else []:
            used, impact = _used(context, each), pad.said(each.task, "impact") or ""
            if used and agreed(impact):
                helped[used.id] = helped.get(used.id, int(used.meta.get("helped", 0))) + 1
            if (each.feedback.score or 0.0) > config.write_reward_threshold:
                events += _kept(context, config, each, pad.said(each.task, "analyse") or "", used, impact)
        events += [Event("update", key, payload={"meta": {"helped": times}}) for key, times in helped.items()]
        return learned(context, state, events)

    def row(context: Context, state: State) -> Mapping[str, Any]:
        """Time and money of the generation's training tasks: pages, the actor's calls, and the analyzer's."""
        stream = [experience(context, state, task) for task in tasks_of(context, state["generation"])]
        pages = [cost(step.action.text) for each in stream for step in each.trajectory.steps]
        calls = sum((each.trajectory.cost for each in stream), Scratchpad(context, state).cost())
        dollars = (config.dollars_in * calls.tokens_in + config.dollars_out * calls.tokens_out) / 1000
        return {
            "seconds": round(sum(seconds for seconds, _ in pages) + config.call_seconds * calls.calls, 3),
            "dollars": round(sum(paid for _, paid in pages) + dollars, 6),
            "steps": {each.task.id: len(each.trajectory.steps) for each in stream},
            "records": sum(_ours(record) and record.status in LIVE for record in context.memory.records().values()),
        }

    return cycle(
        {"baseline": baseline_of(seat, Shots(_EXAMPLE))},
        {
            "tasks": tasks,
            "attempt": attempt(seat, config),
            "analyse": analyse,
            "store": store,
            "gate": proof(seat, config, _SKILL),
            "evaluate": evaluation(seat, config, row),
        },
        loops={"store": "attempt"},
    )


def most_like(snapshot: Snapshot, task: Task, showing: Showing, config: Config) -> list[Record]:
    """The one earlier request that is most like the task's, if it is enough like it."""
    scope, everything = Scope(task.environment, task.tags), len(snapshot.records)
    hits = snapshot.search(task.prompt, k=everything, scope=scope, kinds=_SKILL, mode=config.retrieval)
    hits = [hit for hit in hits if _ours(hit.record) and showing.counts(hit.record)]
    alike = [hit.score for hit in hits]
    if config.retrieval == "bm25":
        alike = likeness(task.prompt, [hit.record.text for hit in hits])
    best = max(range(len(hits)), key=lambda at: alike[at], default=None)
    return [hits[best].record] if best is not None and alike[best] >= config.retrieval_threshold else []


def numbered(reply: str, title: str, count: int) -> list[int]:
    """Places, from 0, of the actions that lines of that title name by number; none where there is no such line."""
    named = re.findall(rf"^\W*{title}{_NUMBERS}", reply, re.IGNORECASE | re.MULTILINE)
    numbers = {int(number) for line in named for number in re.findall(r"\d+", line)}
    return sorted(number - 1 for number in numbers if 1 <= number <= count)


@dataclass(frozen=True, slots=True)
class _Remembered:
    """A recall: the example, the user's latest requests, and what is found."""

    found: Found
    requests: Callable[[], Mapping[str, Sequence[str]]]
    """By user, oldest first. Reads episodes, so it is asked only when a prompt is written."""
    window: int

    def __call__(self, task: Task, player: str, rng: Random) -> Recollection:
        return _Placed(self, task, self.found(task, player, rng))


@dataclass(frozen=True, slots=True)
class _Placed:
    remembered: _Remembered
    task: Task
    found: Recollection

    @property
    def recalled(self) -> tuple[Recalled, ...]:
        return self.found.recalled

    @property
    def head(self) -> str:
        window = self.remembered.window
        latest = self.remembered.requests().get(whose(self.task), ())[-window:] if window else ()
        history = _HISTORY.format(requests="\n".join(f"- {request}" for request in latest)) if latest else ""
        return "\n".join(part for part in (_EXAMPLE, history, self.found.head) if part)

    def hint(self, observation: Observation) -> str:
        return ""


def _requests(context: Context) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for episode in context.memory.ledger.episodes(phase="train"):
        task = episode.trajectories[0].task
        found.setdefault(whose(task), []).append(task.prompt)
    return found


def _told(records: Sequence[Record]) -> str:
    (record,) = records
    return _RECORD.format(request=record.text, actions=", ".join(record.meta[_IMPORTANT]) or _NONE_KNOWN)


def _ours(record: Record) -> bool:
    return record.kind == "skill" and _IMPORTANT in record.meta


def _used(context: Context, each: Experience) -> Record | None:
    """The earlier request that stood in the prompt."""
    known = context.memory.records()
    return next((known[it.record] for it in each.trajectory.recalled if it.shown and it.record in known), None)


def _done(each: Experience) -> str:
    """Pages and numbered actions; what the last one was answered is left out, for it tells what the user wanted."""
    lines: list[str] = []
    for number, step in enumerate(each.trajectory.steps, 1):
        lines += [step.observation.text, f"{number}. {step.action.text}"]
    return "\n".join(lines)


def _kept(
    context: Context, config: Config, each: Experience, analysis: str, used: Record | None, impact: str
) -> list[Event]:
    """The request with its key clicks; one that is there already has the newest of them, where there are any."""
    steps = each.trajectory.steps
    redundant = numbered(analysis, "redundant", len(steps))
    key = [steps[at].action.text for at in numbered(analysis, "key", len(steps)) if at not in redundant]
    important = [action for action in key if action.lower().startswith("click[")]
    tags = (whose(each.task),) if whose(each.task) and not config.shared else ()
    record = new_record(
        "skill",
        each.task.prompt,
        Scope(each.task.environment, tags),
        parents=(each.trajectory.id, *([used.id] if used else [])),
        meta={_IMPORTANT: important, "because": {used.id: impact} if used else {}},
        generation=each.trajectory.generation,
    )
    known = context.memory.records().get(record.id)
    if known is None:
        return written(context, config, [record])
    # It follows from what it followed from at first: a link to a later one would lead in a circle.
    again = new_record("skill", record.text, record.scope, parents=(each.trajectory.id,), generation=record.generation)
    renewed = [Event("update", record.id, payload={"meta": {_IMPORTANT: important}})] if important else []
    return [*written(context, config, [again]), *renewed]
