"""`tim`: thoughts in place of dialogue, in buckets, put in order after every answer.

Think-in-Memory (arXiv 2311.08719). After each answer the model thinks once more and writes down what the turn comes to,
as sentences that state a relation. Each falls into the bucket of its own text by locality-sensitive hashing. In the
buckets that a turn touched, what is contradicted or pointless is forgotten, and thoughts of one head become one. The
next question looks into one bucket, its own, and the nearest thoughts there stand before it; no turn is told again.

Where this differs:
- There is no reference code, so every prompt and the rhythm are ours: forget and merge come after every turn.
- A merged thought stays in the bucket of those it replaces, wherever its own words would fall: an operation on one
  bucket changes no other. Where its words are in another bucket already, nothing is merged.
- Forgetting is asked about from two thoughts on, and a reply that names them all forgets none: the last word stands.
- Thoughts belong to the user of the turn, by the tag of the task, so that people of one name stay apart.
- What lies in the bucket is chosen from an exact search over all thoughts: the time that one bucket saves is not shown.
- The model is not tuned for its operations on thoughts; the paper does so with LoRA.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from statistics import fmean
from typing import Any

from langgraph.graph import StateGraph
from langgraph.runtime import Runtime
from pydantic import Field

from evolvent.agents.context import Context
from evolvent.agents.evolution import State, cycle, keep
from evolvent.agents.refinement.thought import Thought, plain, thoughts_in
from evolvent.agents.remembering import (
    Remembering,
    attempt,
    baseline_of,
    evaluation,
    finished,
    learned,
    now,
    proof,
    scope_of,
    tasks,
    written,
)
from evolvent.agents.solutions.act import Policy
from evolvent.agents.solutions.found import Found, Showing, nearest
from evolvent.agents.solutions.scratchpad import Scratchpad, user
from evolvent.environments.types import Experience, Task
from evolvent.memory.buckets import Buckets, missed
from evolvent.memory.rendering import spoken
from evolvent.memory.retrieval import LIVE
from evolvent.memory.store import Snapshot
from evolvent.memory.types import Event, Kind, Record, new_record

ROLES = ("actor", "thinker")
ENVIRONMENTS = ("dialogue", "qa", "workshop")
CARRIES_OVER = True
"""Thoughts of one day serve the next, so they are measured on held-out questions."""

_THINK = (
    "This was said:\n{said}\n\nThis was answered:\n{reply}\n\n"
    "What in this is worth remembering? Write each thought on a line of its own, as: who or what | relation | to what. "
    "Give people their names. If there is nothing, write: none."
)
_FORGET = (
    "These thoughts are remembered, oldest first:\n{thoughts}\n\n"
    "Which of them does a later one contradict, and which are pointless? Answer with their numbers alone, or none."
)
_MERGE = (
    "These thoughts are all about {head}, oldest first:\n{thoughts}\n\n"
    "Write one thought in their place, on one line, with everything in them that still holds."
)
_BLOCK = "What is remembered:\n{thoughts}"
_NOTE: tuple[Kind, ...] = ("note",)
_NUMBERS = re.compile(r"\d+(?:[\s,;&]+(?:and\s+)?\d+)*\b")
_COUNTS = (2, 4, 8, 16, 32, 64)
"""Of buckets, for which a report tells what a look into one of them misses."""


class Config(Remembering):
    top_k: int = Field(10, ge=1)
    """Thoughts shown before a task at most."""
    buckets: int = Field(16, ge=2, multiple_of=2)
    """What is kept stays in its bucket: a store goes on with the number, and the `hash_seed`, that it began with."""
    hash_seed: int = Field(0, ge=0)
    """Draws the directions that tell buckets apart; not the run's own, so that a store may serve other runs."""
    organise: bool = True
    """Ablation: without it thoughts are inserted, and neither forgotten nor merged."""
    thoughts: int = Field(8, ge=1)
    """Of one turn at most: a reply that repeats itself is cut there."""
    reply_tokens: int = Field(48, ge=1)
    """Of an answer."""
    thought_tokens: int = Field(96, ge=1)
    """Of the reply after an answer, and of a merged thought."""


PRESETS = {
    "small": Config(buckets=8, thoughts=4, thought_tokens=64),
    "paper": Config(reply_tokens=256, thought_tokens=256),
}


def build(config: Config) -> StateGraph[State, Context, State, State]:
    """baseline, then per generation: tasks → (answer → post_think → insert → forget → merge)* → gate → evaluate."""

    def buckets_of(context: Context, texts: Sequence[str]) -> list[int]:
        embedder = context.memory.embedder
        return Buckets.drawn(config.buckets, embedder.dim, config.hash_seed).of(embedder.embed(texts))

    def seat(context: Context, showing: Showing) -> Policy:
        def find(snapshot: Snapshot, task: Task, showing: Showing) -> list[Record]:
            """The nearest thoughts in the bucket of the question, and in no other."""
            (bucket,) = buckets_of(context, [task.prompt])
            return nearest(
                snapshot,
                task.prompt,
                task,
                k=config.top_k,
                kinds=_NOTE,
                mode="dense",
                showing=showing,
                also=lambda thought: thought.meta.get("bucket") == bucket,
            )

        recall = Found(context.memory.snapshot(), find, _told, showing)
        return Policy(context.model("actor"), recall, max_reply_tokens=config.reply_tokens)

    async def post_think(state: State, runtime: Runtime[Context]) -> State:
        """What a turn and its answer come to, thought over once."""
        context, pad = runtime.context, Scratchpad(runtime.context, state)
        await pad.each(
            pad.ask(
                each.task,
                "post_think",
                [user(_THINK.format(said=each.task.prompt, reply=_reply(each)))],
                role="thinker",
                max_tokens=config.thought_tokens,
            )
            for each in finished(context, state)
        )
        return {}

    async def insert(state: State, runtime: Runtime[Context]) -> State:
        """Each thought goes into the bucket of its own text, and is as new as when it was said last."""
        context, pad = runtime.context, Scratchpad(runtime.context, state)
        known, at = context.memory.records(), now(context)
        events: list[Event] = []
        for each in finished(context, state):
            repeated = {plain(each.task.prompt), plain(_reply(each))}
            read = thoughts_in(pad.said(each.task, "post_think") or "")
            new = [thought for thought in read if plain(thought.text) not in repeated][: config.thoughts]
            fallen = buckets_of(context, [thought.text for thought in new])
            records = [_record(each, thought, bucket, at) for thought, bucket in zip(new, fallen, strict=True)]
            held = [known.get(record.id, record).meta for record in records]  # a merged thought may lie elsewhere
            touched = {meta.get("bucket", bucket) for meta, bucket in zip(held, fallen, strict=True)}
            pad.note(each.task, "touched", json.dumps(sorted(touched)))
            events += written(context, config, records)
            events += [Event("update", record.id, payload={"meta": {"turn": at}}) for record in records]
        keep(context, f"insert/{state['round']}", state["generation"], events)
        return {}

    async def forget(state: State, runtime: Runtime[Context]) -> State:
        """What is contradicted or pointless in the buckets of this turn is gone."""
        context, pad = runtime.context, Scratchpad(runtime.context, state)
        if not config.organise:
            return {}
        asked = [(task, bucket, kept) for task, bucket, kept in _touched(context, pad, state) if len(kept) > 1]
        replies = await pad.each(
            pad.ask(
                task, "forget", [user(_FORGET.format(thoughts=_numbered(kept)))], bucket, role="thinker", max_tokens=24
            )
            for task, bucket, kept in asked
        )
        events = [
            Event("forget", kept[number].id, payload={"reason": "contradicted or pointless"})
            for (_, _, kept), reply in zip(asked, replies, strict=True)
            for number in named(reply, len(kept))
        ]
        keep(context, f"forget/{state['round']}", state["generation"], events)
        return {}

    async def merge(state: State, runtime: Runtime[Context]) -> State:
        """Thoughts of one head in one bucket become one."""
        context, pad = runtime.context, Scratchpad(runtime.context, state)
        groups = _of_one_head(_touched(context, pad, state)) if config.organise else []
        replies = await pad.each(
            pad.ask(
                task,
                "merge",
                [user(_MERGE.format(head=group[-1].meta["head"], thoughts=_numbered(group)))],
                number,
                role="thinker",
                max_tokens=config.thought_tokens,
            )
            for number, (task, group) in enumerate(groups)
        )
        events: list[Event] = []
        for (_, group), reply in zip(groups, replies, strict=True):
            events += _merged(context, config, group, reply, {event.record_id for event in events})
        return learned(context, state, events)

    def row(context: Context, state: State) -> Mapping[str, Any]:
        every = [record for record in context.memory.records().values() if "bucket" in record.meta]
        live = [record for record in every if record.status in LIVE]
        sizes = Counter(record.meta["bucket"] for record in live)
        return {
            "thoughts": len(live),
            "merged_away": len(every) - len(live),
            "buckets_used": len(sizes),
            "fullest_bucket": max(sizes.values(), default=0),
            "missed": _missed(context, config, live, state["generation"]),
        }

    return cycle(
        {"baseline": baseline_of(seat)},
        {
            "tasks": tasks,
            "answer": attempt(seat, config),
            "post_think": post_think,
            "insert": insert,
            "forget": forget,
            "merge": merge,
            "gate": proof(seat, config, _NOTE),
            "evaluate": evaluation(seat, config, row),
        },
        loops={"merge": "answer"},
    )


def named(reply: str, count: int) -> list[int]:
    """Places, from 0, of the thoughts that a reply names by number: the first numbers of each line.

    None where they are all of them.
    """
    runs = [match[0] for line in reply.splitlines() if (match := _NUMBERS.search(line))]
    numbers = {int(number) for run in runs for number in re.findall(r"\d+", run)}
    places = sorted(number - 1 for number in numbers if 1 <= number <= count)
    return places if len(places) < count else []


def _reply(answered: Experience) -> str:
    return "\n".join(text for _, text in spoken(answered.trajectory))


def _record(answered: Experience, thought: Thought, bucket: int, now: int) -> Record:
    return new_record(
        "note",
        thought.text,
        scope_of(answered.task),
        parents=(answered.trajectory.id,),
        meta={**_triple(thought), "bucket": bucket, "turn": now},
        generation=answered.trajectory.generation,
    )


def _triple(thought: Thought) -> dict[str, str]:
    return {"head": thought.head, "relation": thought.relation, "tail": thought.tail}


def _touched(context: Context, pad: Scratchpad, state: State) -> list[tuple[Task, int, list[Record]]]:
    """The buckets that this turn's thoughts went into, with what its user keeps there now, oldest first."""
    found = []
    for each in finished(context, state):
        for bucket in json.loads(pad.said(each.task, "touched") or "[]"):
            kept = [
                record
                for record in context.memory.records().values()
                if record.kind == "note" and record.status in LIVE
                if record.scope == scope_of(each.task) and record.meta.get("bucket") == bucket
            ]
            found.append((each.task, bucket, sorted(kept, key=lambda record: record.meta["turn"])))
    return found


def _of_one_head(touched: Sequence[tuple[Task, int, list[Record]]]) -> list[tuple[Task, list[Record]]]:
    """Groups of two and more that can become one."""
    found = []
    for task, _, kept in touched:
        groups: dict[str, list[Record]] = {}
        for record in kept:
            groups.setdefault(plain(record.meta["head"]), []).append(record)
        found += [(task, group) for group in groups.values() if len(group) > 1]
    return found


def _merged(
    context: Context, config: Config, group: Sequence[Record], reply: str, taken: Collection[str]
) -> list[Event]:
    """One thought in place of a group; none where the reply holds none, or its words are kept or `taken` elsewhere."""
    thought, newest = next(iter(thoughts_in(reply)), None), group[-1]
    if thought is None:
        return []
    meta = {**newest.meta, **_triple(thought), "head": newest.meta["head"]}
    parents = tuple(record.id for record in group)
    new = new_record("note", thought.text, newest.scope, parents=parents, meta=meta, generation=newest.generation)
    known = context.memory.records().get(new.id)
    away = known is not None and (known.status in LIVE or config.prove)  # with `prove`: the gate has turned it away
    if new.id in taken or (away and new.id not in parents):
        return []
    entering = [] if new.id in parents else written(context, config, [new])
    gone = [each for each in parents if each != new.id]
    return [
        *entering,
        Event("update", new.id, payload={"meta": meta}),
        *(Event("merge", each, payload={"into": new.id, "reason": "same head"}) for each in gone),
    ]


def _missed(context: Context, config: Config, thoughts: Sequence[Record], generation: int) -> dict[str, float]:
    """By number of buckets: share of the nearest thoughts that the held-out questions miss by looking into one."""
    embedder, shares = context.memory.embedder, {count: list[float]() for count in _COUNTS}
    drawn = {count: Buckets.drawn(count, embedder.dim, config.hash_seed) for count in _COUNTS}
    scopes = {each.scope for each in thoughts}
    kept = {scope: embedder.embed([each.text for each in thoughts if each.scope == scope]) for scope in scopes}
    for task in context.tasks("test", context.objective.evaluated, generation):
        if scope_of(task) in kept:
            (query_D,) = embedder.embed([task.prompt])
            for count, buckets in drawn.items():
                shares[count].append(missed(buckets, query_D, kept[scope_of(task)], config.top_k))
    return {str(count): round(fmean(each), 4) for count, each in shares.items() if each}


def _told(thoughts: Sequence[Record]) -> str:
    return _BLOCK.format(thoughts="\n".join(f"- {thought.text}" for thought in thoughts))


def _numbered(thoughts: Sequence[Record]) -> str:
    return "\n".join(f"{number}. {thought.text}" for number, thought in enumerate(thoughts, 1))
