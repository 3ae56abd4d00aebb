"""`memorybank`: dated turns, summaries and a portrait of each user, forgotten along a curve that recall flattens.

MemoryBank (arXiv 2305.10250). Every turn is kept with its day. At the end of a day its events are summarised and the
user's mood and character are noted, once; the summary of all days and the portrait are written anew. A reply has before
it the portrait, the summary, the turns of the bank most like the question, and the last few turns. What is recalled
gains strength; what is not fades with exp(-t / (c S)), t days after its last recall at strength S.

Where this differs:
- A generation is a day, and turns of one user are answered in their order. The clock is simulated (`days`).
- The curve divides by the strength, as in the paper; the authors' code multiplies, which forgets strong memories first.
- Forgetting is a commit of `retire` events with the retention that decided: what has faded can be restored.
- Forgetting is drawn from the run's seed, so a resumed run forgets the same.
- No model is tuned on dialogues before, and no judge scores coherence: `dialogue` checks answers against the truth.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from langgraph.graph import StateGraph
from langgraph.runtime import Runtime
from pydantic import Field

from evolvent.agents.context import Context
from evolvent.agents.evolution import State, cycle, keep
from evolvent.agents.proving import retired, trained
from evolvent.agents.remembering import (
    Remembering,
    attempt,
    baseline_of,
    evaluation,
    experience,
    learned,
    proof,
    scope_of,
    tasks,
    turn,
    written,
)
from evolvent.agents.solutions.act import Policy
from evolvent.agents.solutions.found import Found, Showing, nearest, parts
from evolvent.agents.solutions.recall import Fixed, Recollection
from evolvent.agents.solutions.scratchpad import Scratchpad, tasks_of, user
from evolvent.environments.types import Task, Trajectory
from evolvent.memory.forgetting import ebbinghaus_by_chance, last_used
from evolvent.memory.rendering import spoken
from evolvent.memory.retrieval import LIVE
from evolvent.memory.store import Snapshot
from evolvent.memory.types import Event, Kind, Record, Scope, new_record

ROLES = ("actor", "summariser")
ENVIRONMENTS = ("dialogue", "qa", "workshop")
CARRIES_OVER = True
"""What was told one day is asked on later ones, so it is measured on held-out questions."""

_EVENTS = "This was said on day {day}:\n{turns}\n\nSum up what happened and what was told, in a few short sentences."
_MOOD = (
    "This was said on day {day}:\n{turns}\n\n"
    "What does it show of this person's character and mood? Say it in two sentences, and in a third how to reply to "
    "them."
)
_ALL_EVENTS = "What happened, day by day:\n{days}\n\nSum it all up in a few short sentences. The latest word counts."
_PORTRAIT = (
    "What was noticed of a person, day by day:\n{days}\n\n"
    "Draw one portrait of their character in a few sentences, and say how best to reply to them."
)
_NOTE: tuple[Kind, ...] = ("note",)
_PROFILE: tuple[Kind, ...] = ("profile",)
_TURN, _DAY, _MOODS, _ALL, _WHO = "turn", "events of a day", "mood of a day", "all events", "portrait"
"""What a record is a part of: `meta["part"]`."""
_LED = {_WHO: "Who this is and how to reply", _ALL: "What happened so far"}
_UNPROVED = Remembering()
"""Summaries and portraits are no claims of their own: what they rest on is proved, not they."""


class Config(Remembering):
    top_k: int = Field(3, ge=0)
    """Turns and daily summaries recalled for a reply at most."""
    recent: int = Field(7, ge=0)
    """Of the user's last turns that stand before a reply whatever they say."""
    bank: bool = True
    """Ablation: without it only the last turns are shown."""
    forgetting: bool = True
    span: float = Field(5.0, gt=0)
    """c: days in which what was never recalled falls to 1/e."""
    days: int = Field(1, ge=1)
    """From one generation to the next: a simulated clock."""
    summary_tokens: int = Field(64, ge=1)
    """Of a summary or a portrait."""
    reply_tokens: int = Field(48, ge=1)


PRESETS = {"small": Config(), "paper": Config(top_k=6, summary_tokens=400, reply_tokens=256)}


def build(config: Config) -> StateGraph[State, Context, State, State]:
    """baseline, then per day: tasks → (answer → store)* → summarise_day → summarise_all → forget → gate → evaluate."""

    def seat(context: Context, showing: Showing) -> Policy:
        bank = Found(context.memory.snapshot(), find, _told, showing)
        before = _history(context)

        def recall(task: Task, player: str, rng: random.Random) -> Recollection:
            """The bank, and the last turns, which are no recall: they gain no strength by it."""
            banked = bank(task, player, rng)
            last = "\n".join(before.get(scope_of(task), [])[-config.recent :]) if config.recent else ""
            return Fixed(banked.recalled, "\n".join(part for part in (banked.head, last) if part))

        return Policy(context.model("actor"), recall, max_reply_tokens=config.reply_tokens)

    def find(snapshot: Snapshot, task: Task, showing: Showing) -> list[Record]:
        """Portrait and summary of the user, then what is most like the question."""
        if not config.bank:
            return []
        of_all = [r for r in parts(snapshot.records.values(), scope_of(task), _WHO, _ALL) if showing.counts(r)]
        return [
            *of_all,
            *nearest(snapshot, task.prompt, task, k=config.top_k, kinds=_NOTE, mode="dense", showing=showing),
        ]

    async def store(state: State, runtime: Runtime[Context]) -> State:
        """Every turn enters the bank under its user and day."""
        context = runtime.context
        played = [experience(context, state, task) for task in turn(context, state)]
        day = _date(context, state["generation"])
        records = [_turn(each.trajectory, day) for each in played if each.feedback.score is not None]
        return learned(context, state, written(context, config, records))

    async def summarise_day(state: State, runtime: Runtime[Context]) -> State:
        """What happened that day and how the user seemed, once for each user and day."""
        context, pad, generation = runtime.context, Scratchpad(runtime.context, state), state["generation"]
        day = _date(context, generation)
        first = {scope_of(task): task for task in reversed(tasks_of(context, generation))}
        known = context.memory.records().values()
        open_days = [
            (task, scope, turns)
            for scope, task in first.items()
            if (turns := [r for r in parts(known, scope, _TURN) if r.meta["day"] == day])
            and not any(r.meta["day"] == day for r in parts(known, scope, _DAY))
        ]
        asked = [
            pad.ask(
                task,
                part,
                [user(wording.format(day=day, turns="\n".join(r.text for r in turns)))],
                role="summariser",
                max_tokens=config.summary_tokens,
            )
            for task, _, turns in open_days
            for part, wording in ((_DAY, _EVENTS), (_MOODS, _MOOD))
        ]
        texts = iter(await pad.each(asked))
        events: list[Event] = []
        for _, scope, turns in open_days:
            if text := next(texts):
                told = f"Day {day} in short: {text}"
                events += written(context, config, [_record("note", told, scope, _DAY, turns, day)])
            if text := next(texts):
                told = f"Day {day}, as they seemed: {text}"
                events += written(context, _UNPROVED, [_record("profile", told, scope, _MOODS, turns, day)])
        keep(context, "summarise_day", generation, events)
        return {}

    async def summarise_all(state: State, runtime: Runtime[Context]) -> State:
        """The summary of all days and the portrait are written anew from those of the days."""
        context, pad, generation = runtime.context, Scratchpad(runtime.context, state), state["generation"]
        first = {scope_of(task): task for task in reversed(tasks_of(context, generation))}
        known = context.memory.records().values()
        wanted = [
            (task, scope, part, wording, days)
            for scope, task in first.items()
            for part, of_days, wording in ((_ALL, _DAY, _ALL_EVENTS), (_WHO, _MOODS, _PORTRAIT))
            if (days := parts(known, scope, of_days))
        ]
        texts = await pad.each(
            pad.ask(
                task,
                part,
                [user(wording.format(days="\n".join(r.text for r in days)))],
                role="summariser",
                max_tokens=config.summary_tokens,
            )
            for task, _, part, wording, days in wanted
        )
        events: list[Event] = []
        for (_, scope, part, _, days), text in zip(wanted, texts, strict=True):
            if not text:
                continue  # the old one stands
            led = f"{_LED[part]}: {text}"
            new = _record("profile", led, scope, part, days, _date(context, generation))
            events += written(context, _UNPROVED, [new])
            olds = [old for old in parts(known, scope, part) if old.id != new.id]
            events += [Event("merge", old.id, payload={"into": new.id, "reason": "written anew"}) for old in olds]
        keep(context, "summarise_all", generation, events)
        return {}

    async def forget(state: State, runtime: Runtime[Context]) -> State:
        """Once a day: what fades is retired, and a day of which no turn is left loses its summary."""
        context, day = runtime.context, state["generation"]
        if config.forgetting:
            keep(context, "forget", day, faded(context, config, day))
        return {}

    return cycle(
        {"baseline": baseline_of(seat)},
        {
            "tasks": tasks,
            "answer": attempt(seat, config),
            "store": store,
            "summarise_day": summarise_day,
            "summarise_all": summarise_all,
            "forget": forget,
            "gate": proof(seat, config, _NOTE),
            "evaluate": evaluation(seat, config, _row),
        },
        loops={"store": "answer"},
    )


def faded(context: Context, config: Config, day: int) -> list[Event]:
    """What is forgotten at the end of a day."""
    records = context.memory.records()
    turns = {record.id: record for record in records.values() if record.meta.get("part") == _TURN}
    used = last_used(turns, context.memory.ledger)
    span = config.span / config.days  # the ledger's clock ticks in generations
    events = ebbinghaus_by_chance(turns, used, day, seed=context.seed, span=span, kinds=_NOTE)
    gone = {event.record_id for event in events}
    left = {(r.scope, r.meta["day"]) for r in turns.values() if r.status in LIVE and r.id not in gone}
    empty = [
        record
        for record in records.values()
        if record.meta.get("part") == _DAY and record.status in LIVE and (record.scope, record.meta["day"]) not in left
    ]
    return [*events, *(retired(record.id, "no turn of its day is left") for record in empty)]


def _told(found: Sequence[Record]) -> str:
    """Portrait, summary, then what was recalled by its day."""
    by_part = {record.meta["part"]: record.text for record in found if record.kind == "profile"}
    dated = sorted((record for record in found if record.kind == "note"), key=lambda record: record.meta["day"])
    parts = [
        by_part.get(_WHO, ""),
        by_part.get(_ALL, ""),
        "\n".join(["What you remember:", *(f"[day {r.meta['day']}] {r.text}" for r in dated)]) if dated else "",
    ]
    return "\n".join(part for part in parts if part)


def _date(context: Context, generation: int) -> int:
    """The day on which a generation's turns are spoken: the world's, where it has days."""
    return int(context.objective.environment_at(generation).options.get("day", generation))


def _turn(trajectory: Trajectory, day: int) -> Record:
    return replace(
        _record("note", _said(trajectory), scope_of(trajectory.task), _TURN, (), day), parents=(trajectory.id,)
    )


def _said(trajectory: Trajectory) -> str:
    heard = (text if who == "world" else f"Reply: {text}" for who, text in spoken(trajectory))
    return "\n".join([trajectory.task.prompt, *heard])


def _record(kind: Kind, text: str, scope: Scope, part: str, parents: Iterable[Record], day: int) -> Record:
    origin = tuple(parent.id for parent in parents)
    return new_record(kind, text, scope, parents=origin, meta={"part": part, "day": day})


def _history(context: Context) -> dict[Scope, list[str]]:
    """What was said by each user so far, in their order."""
    played = {each.trajectories[0].task.id: each.trajectories[0] for each in trained(context)}
    told: dict[Scope, list[str]] = {}
    for day in range(1, max((each.generation for each in played.values()), default=0) + 1):
        for task in tasks_of(context, day):
            if task.id in played and not played[task.id].outcome.failure:
                told.setdefault(scope_of(task), []).append(_said(played[task.id]))
    return told


def _row(context: Context, state: State) -> Mapping[str, Any]:
    turns = [record for record in context.memory.records().values() if record.meta.get("part") == _TURN]
    live = sum(record.status in LIVE for record in turns)
    return {"turns": live, "forgotten": len(turns) - live}
