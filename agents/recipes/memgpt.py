"""`memgpt`: the prompt as main memory, and everything else behind calls that the model makes itself.

MemGPT (arXiv 2310.08560). Before each inference stand two core blocks that only calls change, a queue of messages led
by a summary of those that left it, and how many items lie in recall and archival storage. The model speaks to the user
by a call and searches by calls; one that asks for a heartbeat, or fails, is followed by another inference. Under memory
pressure it is warned once; on overflow the oldest messages leave the queue and are summed up with the summary before.

Where this differs:
- A turn of the world is one event, and an episode the chain of calls it sets off. A chain ends after `chain` calls.
- Calls are written as `name(argument="…")` or in JSON, after any thought; the model is not tuned for them.
- What a chain writes holds at once in its own prompts and is committed after the episode. On held-out tasks nothing is.
- Overflow is met before the inference that would not fit, not by an error of the server after it; search results are
  cut to the room that is left, which the reference code does not.
- Documents of a world (`key_values`, `qa`) lie in archival storage from the start, unless they come with the tasks.
- In an episode of several moves each answer of the world is a message that comes in. Its turns stand in the prompt, and
  the oldest of them leave it where the window would overflow.
- With `prove` the gate judges core memory; messages and archives are evidence, and stay.
- Frozen is the plain answer, without functions: the control that a user would take.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from langgraph.graph import StateGraph
from langgraph.runtime import Runtime
from pydantic import Field

from evolvent.agents.context import Context
from evolvent.agents.evolution import State, cycle, keep
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
from evolvent.agents.solutions.found import Showing, nearest, parts
from evolvent.agents.solutions.paged import BLOCKS, CHARS_PER_TOKEN, FAILED, NEXT, TOLD, Chain, Window, calls_of, tokens
from evolvent.agents.solutions.recall import Fixed, Recollection
from evolvent.agents.solutions.scratchpad import Scratchpad, user
from evolvent.environments.invented_world import invented_world
from evolvent.environments.key_values import documents
from evolvent.environments.protocol import EnvironmentSpec
from evolvent.environments.types import Recalled, Task, Trajectory
from evolvent.memory.paging import chunks, evicted
from evolvent.memory.retrieval import LIVE
from evolvent.memory.store import Snapshot
from evolvent.memory.types import Event, Kind, Record, Scope, new_record

ROLES = ("actor", "summariser")
ENVIRONMENTS = ("dialogue", "key_values", "qa", "workshop")
CARRIES_OVER = True
"""What was stored is searched for later, so it is measured on held-out questions."""

_ALERT = "Memory is nearly full: old messages will soon leave your sight. Save what matters now."
_SUM_UP = (
    "Summary so far: {summary}\n\nThese messages leave your sight:\n{messages}\n\n"
    "Sum up the earlier summary and these messages together, in a few short sentences. Keep names, places and numbers."
)
_NOTE: tuple[Kind, ...] = ("note",)
_MESSAGE, _ARCHIVE, _SUMMARY = "message", "archive", "summary"
"""What a record is a part of: `meta["part"]`; else it is a core block, by its name."""
_UNPROVED = Remembering()


class Config(Remembering):
    window_tokens: int = Field(8192, ge=256)
    """Of a prompt, four characters each."""
    warning: float = Field(0.7, gt=0, le=1)
    """Share of the window at which the model is warned; the paper's, 0.75 in its code."""
    evict: float = Field(0.75, gt=0, le=1)
    """Share of the queue's tokens that leaves it on overflow; the code's, the paper has about half of the window."""
    keep_last: int = Field(3, ge=0)
    """Messages that never leave."""
    chain: int = Field(8, ge=1)
    """Inferences of one event at most."""
    functions: bool = True
    """Ablation: without them the queue and its summary are all there is, and plain text is heard."""
    retrieval: Literal["dense", "bm25", "hybrid"] = "hybrid"
    """Of archival storage; messages are searched by their words."""
    reply_tokens: int = Field(96, ge=1)
    """Of one inference."""
    summary_tokens: int = Field(96, ge=1)


PRESETS = {
    "small": Config(window_tokens=1500, chain=2, reply_tokens=40, summary_tokens=48),
    "paper": Config(reply_tokens=512, summary_tokens=512),
}


def build(config: Config) -> StateGraph[State, Context, State, State]:
    """load, baseline, then per generation: tasks → (press → flush → answer → store)* → gate → evaluate."""

    def seat(context: Context, showing: Showing) -> Policy:
        snapshot, windows = context.memory.snapshot(), dict[str, Window]()

        def recall(task: Task, player: str, rng: random.Random) -> Recollection:
            window = windows[task.id] = _window(snapshot, task, showing, config)
            core = [r for name in BLOCKS for r in parts(snapshot.records.values(), scope_of(task), name)]
            found = [
                *(record for record in core if showing.counts(record)),
                *parts(snapshot.records.values(), scope_of(task), _SUMMARY),
            ]
            return Fixed(tuple(Recalled(record.id, True) for record in found), window.text())

        manner = Chain(windows, config.chain, config.window_tokens) if config.functions else None
        # What it sends is written, also where options could be scored.
        return Policy(
            context.model("actor"),
            recall,
            max_reply_tokens=config.reply_tokens,
            written=config.functions,
            manner=manner,
        )

    def plain(context: Context, showing: Showing) -> Policy:
        return Policy(context.model("actor"), max_reply_tokens=config.reply_tokens)

    async def load(state: State, runtime: Runtime[Context]) -> State:
        """The documents of the world enter archival storage."""
        context = runtime.context
        scope = Scope(context.objective.environment.name)
        records = [_archived(text, scope, ()) for text in _documents(context.objective.environment)]
        keep(context, "load", 0, written(context, _UNPROVED, records))
        return {}

    async def press(state: State, runtime: Runtime[Context]) -> State:
        """Whose window is nearly full is told so, once until the next flush."""
        context, pad = runtime.context, Scratchpad(runtime.context, state)
        events: list[Event] = []
        for task in turn(context, state):
            queue = _queue(context.memory.records().values(), scope_of(task))
            warned = any(each.meta["role"] == "alert" for each in queue)
            if not warned and await _used(context, pad, task, config) > config.warning * config.window_tokens:
                number = _last(context, scope_of(task)) + 1
                events += written(context, _UNPROVED, [_message(number, "alert", _ALERT, task, context, state, ())])
        keep(context, f"press/{state['round']}", state["generation"], events)
        return {}

    async def flush(state: State, runtime: Runtime[Context]) -> State:
        """What would not fit leaves the queue, oldest first, into a summary that holds the one before."""
        context, pad = runtime.context, Scratchpad(runtime.context, state)
        events: list[Event] = []
        for task in turn(context, state):
            if await _used(context, pad, task, config) + config.reply_tokens > config.window_tokens:
                events += await _flushed(context, pad, task, config)
        keep(context, f"flush/{state['round']}", state["generation"], events)
        return {}

    async def store(state: State, runtime: Runtime[Context]) -> State:
        """Every message enters recall storage, and what the chain wrote is kept."""
        context, events = runtime.context, list[Event]()
        for task in turn(context, state):
            found = experience(context, state, task)
            if found.feedback.score is not None:
                events += _stored(context, config, state, found.trajectory)
        return learned(context, state, events)

    return cycle(
        {"load": load, "baseline": baseline_of(plain)},
        {
            "tasks": tasks,
            "press": press,
            "flush": flush,
            "answer": attempt(seat, config),
            "store": store,
            "gate": proof(seat, config, ("profile",)),
            "evaluate": evaluation(seat, config, _row),
        },
        loops={"store": "press"},
    )


def _window(snapshot: Snapshot, task: Task, showing: Showing, config: Config) -> Window:
    records, scope = snapshot.records.values(), scope_of(task)
    summaries = parts(records, scope, _SUMMARY)

    def search(function: str, query: str) -> list[str]:
        if function == "conversation_search_date":
            return [each.text for each in parts(records, scope, _MESSAGE) if str(each.meta["day"]) == query]
        part, mode = (_ARCHIVE, config.retrieval) if function == "archival_memory_search" else (_MESSAGE, "bm25")
        found = nearest(
            snapshot,
            query,
            task,
            k=len(records),
            kinds=_NOTE,
            mode=mode,
            also=lambda each: each.meta.get("part") == part,
        )
        return [each.text for each in found]

    return Window(
        core={name: block[-1].text for name in BLOCKS if (block := _counting(parts(records, scope, name), showing))},
        summary=summaries[-1].text if summaries else "",
        queue=[each.text for each in _queue(records, scope)],
        outside={
            "recall storage": len(parts(records, scope, _MESSAGE)),
            "archival storage": len(parts(records, scope, _ARCHIVE))
            + (len(parts(records, Scope(task.environment), _ARCHIVE)) if scope.tags else 0),
        },
        search=search,
    )


async def _used(context: Context, pad: Scratchpad, task: Task, config: Config) -> int:
    """Tokens of the prompt with which a task would begin."""
    window = _window(context.memory.snapshot(), task, Showing(), config)
    return tokens([*await pad.opening(task, window.text()), user(f"{TOLD}\n{NEXT}")])


async def _flushed(context: Context, pad: Scratchpad, task: Task, config: Config) -> list[Event]:
    records, scope = context.memory.records().values(), scope_of(task)
    queue = _queue(records, scope)
    sizes = [len(each.text) // CHARS_PER_TOKEN + 1 for each in queue]
    count = evicted(
        sizes, share=config.evict, keep=config.keep_last, user=[each.meta["role"] == "user" for each in queue]
    )
    if not count:
        return []
    olds = parts(records, scope, _SUMMARY)
    gone = queue[:count]
    summary = str(olds[-1].meta["said"]) if olds else "nothing yet."
    # The summariser has a window as well: what does not fit in one call is summed up in several, each with the last.
    for number, (start, end) in enumerate(chunks(sizes[:count], config.window_tokens // 2)):
        messages = "\n".join(each.text for each in gone[start:end])[: config.window_tokens // 2 * CHARS_PER_TOKEN]
        asked = user(_SUM_UP.format(summary=summary, messages=messages))
        said = await pad.ask(task, "summarise", [asked], number, role="summariser", max_tokens=config.summary_tokens)
        summary = said or summary
    until = gone[-1].meta["number"]
    new = new_record(
        "profile",
        f"Summary of the first {until} messages: {summary}",
        scope,
        parents=tuple(each.id for each in (*olds, *gone)),
        meta={"part": _SUMMARY, "until": until, "said": summary},
    )
    superseded = [Event("merge", old.id, payload={"into": new.id, "reason": "summed up again"}) for old in olds]
    return [*written(context, _UNPROVED, [new]), *superseded]


def _stored(context: Context, config: Config, state: State, trajectory: Trajectory) -> list[Event]:
    """Messages in and out, the calls with what came of them, and what core memory and archives are now."""
    task, scope = trajectory.task, scope_of(trajectory.task)
    said: list[tuple[str, str]] = [("user", task.prompt)]
    window = _window(context.memory.snapshot(), task, Showing(), config)
    before, several = dict(window.core), len(trajectory.steps) > 1
    for step in trajectory.steps:
        if several:  # in an episode of several moves, what the world answers is what comes in next
            said.append(("user", step.observation.text))
        for call in calls_of(step) if config.functions else []:
            if call.name == "send_message":
                continue
            try:
                came = window.call(call)
            except ValueError as error:
                came = f"{FAILED} {error}"
            said.append(("function", f"{call.name}: {came}"))
        if step.action.text:
            said.append(("assistant", step.action.text))
        if several and step.result:
            said.append(("user", step.result))
    first = _last(context, scope) + 1
    messages = [
        _message(first + number, role, text, task, context, state, (trajectory.id,))
        for number, (role, text) in enumerate(said)
    ]
    archives = [_archived(text, scope, (trajectory.id,)) for text in window.inserted]
    events = written(context, _UNPROVED, [*messages, *archives])
    for name, text in window.core.items():
        if text == before.get(name):
            continue
        new = new_record("profile", text, scope, parents=(trajectory.id,), meta={"part": name})
        olds = [old for old in parts(context.memory.records().values(), scope, name) if old.id != new.id]
        events += written(context, config, [new])
        events += [Event("merge", old.id, payload={"into": new.id, "reason": "edited"}) for old in olds]
    return events


def _message(
    number: int, role: str, text: str, task: Task, context: Context, state: State, parents: Iterable[str]
) -> Record:
    day = int(context.objective.environment_at(state["generation"]).options.get("day", state["generation"]))
    return new_record(
        "note",
        f"{number}. {role}: {text}",
        scope_of(task),
        parents=tuple(parents),
        meta={"part": _MESSAGE, "role": role, "number": number, "day": day},
    )


def _archived(text: str, scope: Scope, parents: tuple[str, ...]) -> Record:
    return new_record("note", text, scope, parents=parents, meta={"part": _ARCHIVE})


def _queue(records: Iterable[Record], scope: Scope) -> list[Record]:
    """The messages that are still in sight, oldest first."""
    known = list(records)
    until = max((each.meta["until"] for each in parts(known, scope, _SUMMARY)), default=0)
    messages = [each for each in parts(known, scope, _MESSAGE) if each.meta["number"] > until]
    return sorted(messages, key=lambda each: each.meta["number"])


def _last(context: Context, scope: Scope) -> int:
    """Number of the user's newest message."""
    numbers = [each.meta["number"] for each in parts(context.memory.records().values(), scope, _MESSAGE)]
    return max(numbers, default=0)


def _counting(records: Sequence[Record], showing: Showing) -> list[Record]:
    return [record for record in records if showing.counts(record)]


def _documents(environment: EnvironmentSpec) -> Sequence[str]:
    """What can be read in a world beside what its people say."""
    match environment.name:
        case "key_values":
            return documents(environment.options)
        case "qa" if not environment.options.get("evidence"):  # else they come with the tasks
            return [passage.text for passage in invented_world(environment.options.get("world", 0)).passages]
        case _:
            return ()


def _row(context: Context, state: State) -> Mapping[str, Any]:
    """How much lies where, and how many calls of this generation could not be read or failed."""
    records = [record for record in context.memory.records().values() if record.status in LIVE]
    told = [message.text for task in _played(context, state) for step in task.steps for message in step.messages]
    return {
        "messages": sum(record.meta.get("part") == _MESSAGE for record in records),
        "archived": sum(record.meta.get("part") == _ARCHIVE for record in records),
        "failed_calls": sum(text.startswith(FAILED) for text in told),
    }


def _played(context: Context, state: State) -> list[Trajectory]:
    episodes = (context.memory.ledger.episode(key) for key in state["episodes"])
    return [trajectory for episode in episodes for trajectory in episode or ()]
