"""`tran`: rules learned from mistakes, each checked on the case that taught it.

Failures Pave the Way (arXiv 2310.15746). A stream of tasks is answered with up to three rules at hand. After a mistake
the model is told the right answer, explains its own, and condenses that into "if …, then …" rules; a rule is kept when
it sets its own case right. Cases that no rule sets right are pooled, and summarised with others like them. Rules are
found by BM25 over the cases that taught them, held free of contradictions, and the least recently used one gives way.

Where this differs:
- A mistake is told as the whole attempt, so that worlds of several moves have rules too. Where a world has users, each
  has rules of their own.
- A case is checked by an episode of the environment, which judges it; the paper compares texts.
- Cases lie in memory as notes, so that a rule is traced to what taught it; the pool is the notes no rule came from.
- BM25 is the store's own, which grows without being indexed anew.
- The paper measures the stream itself; that is `stream` in each generation's row, and held-out tasks are judged beside.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from langgraph.graph import StateGraph
from langgraph.runtime import Runtime
from pydantic import Field

from evolvent.agents.context import Context
from evolvent.agents.episode import Job
from evolvent.agents.evolution import State, cycle
from evolvent.agents.proving import retired
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
from evolvent.agents.solutions.demonstration import right_actions
from evolvent.agents.solutions.found import Found, Showing, nearest
from evolvent.agents.solutions.scratchpad import Scratchpad, agreed, assistant, user
from evolvent.agents.solutions.shots import Shots
from evolvent.environments.types import Experience, Task
from evolvent.memory.fold import apply
from evolvent.memory.forgetting import least_recently_used
from evolvent.memory.rendering import render
from evolvent.memory.retrieval import LIVE
from evolvent.memory.store import Snapshot
from evolvent.memory.types import Event, Kind, Record, Scope, new_record, record_id

ROLES = ("actor", "reflector")
ENVIRONMENTS = ("moderation", "qa", "labelled", "creatures", "dialogue", "workshop")
CARRIES_OVER = True
"""Rules of one stretch of the stream serve the next, so they are measured on held-out tasks."""

_TOLD = "That is not right. The right answer is: {answer}."
_REASONS = "Why is that the right answer here, and what misled you? Give the reasons."
_GENERAL = "Say this more generally and in fewer words, so that it serves other cases as well."
_RULES = 'Now write it as separate rules, one a line, each in the form "If ..., then ...".'
_SUMMARY = (
    "These cases were answered wrongly, and no rule found so far sets them right:\n{cases}\n"
    'What do they have in common? Write at most {most} rules, one a line, in the form "If ..., then ...".'
)
_CONTRADICT = "Rule 1: {new}\nRule 2: {old}\nDo these two rules contradict each other? Answer with yes or no."
_IDENTICAL = "Rule 1: {new}\nRule 2: {old}\nDo these two rules say the same? Answer with yes or no."
_BLOCK = "Rules from earlier mistakes:\n{rules}"
_NOTE: tuple[Kind, ...] = ("note",)
_RULE: tuple[Kind, ...] = ("rule",)
_IF_THEN = re.compile(r"\bif\b.*\bthen\b", re.IGNORECASE)
_NUMBERING = re.compile(r"^\W*(?:\d+\s*[.):]\s*)?(?:rule\s*\d*\s*:\s*)?", re.IGNORECASE)


class Config(Remembering):
    rules: int = Field(3, ge=0)
    """Shown before a task at most."""
    similar_inputs: int = Field(5, ge=1)
    """Past mistakes whose rules are considered."""
    capacity: int = Field(100, ge=1)
    """Live rules; beyond it the least recently used one goes."""
    shortest: int = Field(10, ge=1)
    """Characters of a line that may be a rule."""
    candidates: int = Field(8, ge=1)
    """Rules of one mistake that are checked at most: a reply that repeats itself is cut there."""
    pooled: int = Field(10, ge=0)
    """Failures in the pool up to which one more is only added; beyond, the most similar ones are summarised."""
    similar_failures: int = Field(2, ge=1)
    """Pooled failures that a summary takes in beside the new one."""
    summary_rules: int = Field(4, ge=1)
    """Of one summary that are checked at most."""
    consistent_from: int = Field(20, ge=0)
    """Cases that hold rules, from which on a new rule is compared with the nearest old one."""
    verify: bool = True
    """Ablation: without it every rule that is written is kept."""
    reply_tokens: int = Field(48, ge=1)
    """Of an answer."""
    rule_tokens: int = Field(96, ge=1)
    """Of one turn of the conversation about a mistake."""


PRESETS = {"small": Config(candidates=4, rule_tokens=64), "paper": Config(reply_tokens=256, rule_tokens=512)}


def build(config: Config) -> StateGraph[State, Context, State, State]:
    """baseline, then per generation: tasks → (answer → explain → check → summarise → store)* → gate → evaluate."""

    def seat(context: Context, showing: Showing) -> Policy:
        def find(snapshot: Snapshot, task: Task, showing: Showing) -> list[Record]:
            return rules_for(snapshot, task, showing, config)

        recall = Found(context.memory.snapshot(), find, _told, showing)
        return Policy(context.model("actor"), recall, max_reply_tokens=config.reply_tokens)

    async def explain(state: State, runtime: Runtime[Context]) -> State:
        """After a mistake the right answer is told, and four turns turn it into rules."""
        context, pad = runtime.context, Scratchpad(runtime.context, state)
        wrong = _mistakes(context, state)
        answers = await _answers(context, [each.task for each in wrong], state)
        await pad.each(_conversation(pad, config, each, right) for each, right in zip(wrong, answers, strict=True))
        return {}

    async def check(state: State, runtime: Runtime[Context]) -> State:
        """A rule is kept when it alone sets the case right that taught it."""
        context, pad = runtime.context, Scratchpad(runtime.context, state)
        for each in _mistakes(context, state):
            texts = _rules_in(pad.said(each.task, "explain", 3) or "", config.shortest)[: config.candidates]
            kept = await _that_fix(context, config, state, texts, [each.task])
            pad.note(each.task, "kept", json.dumps(kept))
        return {}

    async def summarise(state: State, runtime: Runtime[Context]) -> State:
        """A case that no rule sets right is summarised with others like it, once the pool holds enough of them."""
        context, pad = runtime.context, Scratchpad(runtime.context, state)
        for each in _mistakes(context, state):
            pool = _pool(context)
            if json.loads(pad.said(each.task, "kept") or "{}") or len(pool) <= config.pooled:
                continue
            like = _cases(context.memory.snapshot(), each.task, config.similar_failures, among=pool)
            cases = [each.task, *(_case(context, note) for note in like)]
            answers = await _answers(context, cases, state)
            listed = "\n".join(
                f"{number}. {case.prompt}\nThe right answer: {right}"
                for number, (case, right) in enumerate(zip(cases, answers, strict=True), 1)
            )
            asked = user(_SUMMARY.format(cases=listed, most=config.summary_rules))
            reply = await pad.ask(each.task, "summarise", [asked], role="reflector", max_tokens=config.rule_tokens)
            texts = _rules_in(reply, config.shortest)[: config.summary_rules]
            pad.note(each.task, "kept_of_summary", json.dumps(await _that_fix(context, config, state, texts, cases)))
        return {}

    async def store(state: State, runtime: Runtime[Context]) -> State:
        """Mistakes and rules enter memory: contradictions are settled, and the least recently used rule gives way."""
        context, pad = runtime.context, Scratchpad(runtime.context, state)
        events: list[Event] = []
        for each in _mistakes(context, state):
            note = _note(each)
            events.append(Event("add", note.id, note))
            kept = json.loads(pad.said(each.task, "kept_of_summary") or pad.said(each.task, "kept") or "{}")
            notes = {**_notes(context), each.task.id: note}
            for number, (text, cases) in enumerate(kept.items()):
                parents = [notes[case].id for case in cases]
                rule = _rule(context, text, each.task, parents, state["generation"])
                events += await _admitted(context, config, state, each.task, rule, number)
        return learned(context, state, [*events, *_evicted(context, config, events)])

    return cycle(
        {"baseline": baseline_of(seat)},
        {
            "tasks": tasks,
            "answer": attempt(seat, config),
            "explain": explain,
            "check": check,
            "summarise": summarise,
            "store": store,
            "gate": proof(seat, config, ("rule",)),
            "evaluate": evaluation(seat, config, _row),
        },
        loops={"store": "answer"},
    )


def rules_for(snapshot: Snapshot, task: Task, showing: Showing, config: Config) -> list[Record]:
    """The rules that the most similar mistakes taught, those nearest to the task first."""
    holders = {parent for each in snapshot.records.values() if _live(each, showing) for parent in each.parents}
    among = {note.id for note in _cases(snapshot, task, config.similar_inputs, among=holders)}
    taught = {
        record.id: record
        for record in snapshot.records.values()
        if _live(record, showing) and not among.isdisjoint(record.parents)
    }
    ranked = nearest(
        snapshot,
        task.prompt,
        task,
        k=len(taught),
        kinds=_RULE,
        mode="bm25",
        showing=showing,
        also=lambda record: record.id in taught,
    )
    return list({record.id: record for record in (*ranked, *taught.values())}.values())[: config.rules]


def _cases(snapshot: Snapshot, task: Task, k: int, *, among: Collection[str]) -> list[Record]:
    """The k past mistakes, of those among, whose inputs share most words with the task's."""
    return nearest(snapshot, task.prompt, task, k=k, kinds=_NOTE, mode="bm25", also=lambda note: note.id in among)


def _told(rules: Sequence[Record]) -> str:
    return _BLOCK.format(rules="\n".join(f"- {rule.text}" for rule in rules))


def _live(record: Record, showing: Showing) -> bool:
    return record.kind == "rule" and showing.counts(record)


def _mistakes(context: Context, state: State) -> list[Experience]:
    """Of this turn."""
    return [each for each in finished(context, state) if not each.trajectory.outcome.success]


async def _answers(context: Context, cases: Sequence[Task], state: State) -> list[str]:
    """The label of each case."""
    plans = await right_actions(context, cases, context.objective.environment_at(state["generation"]))
    return ["; ".join(plan) for plan in plans]


async def _conversation(pad: Scratchpad, config: Config, wrong: Experience, right: str) -> str:
    """The four turns; each is kept under its number, the last one holds the rules."""
    messages = [user(render(wrong.trajectory))]
    reply = ""
    for number, says in enumerate((_TOLD.format(answer=right), _REASONS, _GENERAL, _RULES)):
        messages.append(user(says))
        reply = await pad.ask(wrong.task, "explain", messages, number, role="reflector", max_tokens=config.rule_tokens)
        messages.append(assistant(reply))
    return reply


def _rules_in(reply: str, shortest: int) -> list[str]:
    """Its lines that are rules, each once, without numbers in front."""
    lines = [_NUMBERING.sub("", line).strip() for line in reply.splitlines()]
    return list(dict.fromkeys(line for line in lines if len(line) >= shortest and _IF_THEN.search(line)))


async def _that_fix(
    context: Context, config: Config, state: State, texts: Sequence[str], cases: Sequence[Task]
) -> dict[str, list[str]]:
    """By rule: the cases that it sets right; rules that set none right are left out."""
    if not config.verify:
        return {text: [cases[0].id] for text in texts}
    found = {text: [case.id for case in cases if await _fixed(context, config, state, text, case)] for text in texts}
    return {text: fixed for text, fixed in found.items() if fixed}


async def _fixed(context: Context, config: Config, state: State, text: str, case: Task) -> bool:
    """Whether a case comes out right with this rule alone before it."""
    recall = Shots(_BLOCK.format(rules=f"- {text}"))
    policy = Policy(context.model("actor"), recall, max_reply_tokens=config.reply_tokens)
    arm = f"alone-{record_id('rule', text, Scope())}"
    job = Job(case, {"": policy}, "gate", state["generation"], arm=arm, seed=context.seed)
    (episode,) = await context.rollouts.run(context.objective.environment_at(state["generation"]), [job])
    return all(each.outcome.success for each in episode)


def _note(wrong: Experience) -> Record:
    """The case as memory keeps it: the input alone is its text, for it is found by that."""
    return new_record(
        "note",
        wrong.task.prompt,
        scope_of(wrong.task),
        parents=(wrong.trajectory.id,),
        meta={"case": wrong.task.id, "trajectory": wrong.trajectory.id},
        status="active",
        generation=wrong.trajectory.generation,
    )


def _notes(context: Context) -> dict[str, Record]:
    """Past mistakes, by task id."""
    found = context.memory.records().values()
    return {record.meta["case"]: record for record in found if record.kind == "note" and "case" in record.meta}


def _pool(context: Context) -> set[str]:
    """Ids of the past mistakes that no rule ever came from."""
    taught = {parent for each in context.memory.records().values() if each.kind == "rule" for parent in each.parents}
    return {note.id for note in _notes(context).values()} - taught


def _case(context: Context, note: Record) -> Task:
    trajectory = context.memory.ledger.trajectory(note.meta["trajectory"])
    if trajectory is None:
        raise LookupError(f"The ledger holds no trajectory {note.meta['trajectory']!r}, of which {note.id} is a note.")
    return trajectory.task


def _rule(context: Context, text: str, case: Task, notes: Sequence[str], generation: int) -> Record:
    return new_record(
        "rule",
        text,
        scope_of(case),
        parents=tuple(notes),
        meta={"situation": "", "at": now(context)},
        generation=generation,
    )


async def _admitted(
    context: Context, config: Config, state: State, case: Task, new: Record, number: int
) -> list[Event]:
    """The events that let a rule in, beside or in place of the old one most like it."""
    known, pad = context.memory.records(), Scratchpad(context, state)
    events = written(context, config, [new])
    if new.id in known:
        events.append(Event("update", new.id, payload={"meta": {"at": now(context)}}))
        if _live(known[new.id], Showing()):
            return events
    holders = {parent for each in known.values() if _live(each, Showing()) for parent in each.parents}
    like = nearest(context.memory.snapshot(), new.text, case, k=1, kinds=_RULE, mode="bm25")
    if not like or len(holders) < config.consistent_from:
        return events
    (old,) = like
    pair = {"new": new.text, "old": old.text}
    if await _agreed(pad, case, "contradict", _CONTRADICT.format(**pair), number):
        return [*events, retired(old.id, "contradicted", by=new.id)]
    if await _agreed(pad, case, "identical", _IDENTICAL.format(**pair), number):
        source = _case(context, known[old.parents[0]])
        fixed = await _fixed(context, config, state, new.text, source)
        return [*events, retired(old.id, "said better", by=new.id)] if fixed else []
    return events


async def _agreed(pad: Scratchpad, case: Task, purpose: str, question: str, number: int) -> bool:
    reply = await pad.ask(case, purpose, [user(question)], number, role="reflector", max_tokens=4)
    return agreed(reply)


def _evicted(context: Context, config: Config, events: Sequence[Event]) -> list[Event]:
    """What has to go for the new rules: those least recently used, where being written counts as a use."""
    records = dict(context.memory.records())
    apply(records, events, generation=0)  # which is not looked at
    shown = context.memory.ledger.last_shown("train")
    used = {
        key: max(record.meta.get("at", 0), shown[key].episode if key in shown else 0) for key, record in records.items()
    }
    return least_recently_used(records, used, now(context), capacity=config.capacity, kinds=_RULE)


def _row(context: Context, state: State) -> Mapping[str, Any]:
    rules = [record for record in context.memory.records().values() if record.kind == "rule"]
    live = [record for record in rules if record.status in LIVE]
    return {"rules": len(live), "evicted": len(rules) - len(live), "pool": len(_pool(context))}
