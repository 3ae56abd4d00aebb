"""`aesopagent`: a production workflow whose prompts and steps evolve from an expert's comments.

AesopAgent (arXiv 2403.07952). A proposal becomes a storyboard in steps, each a utility that does as its settings say.
The prompt of a step holds passages on the craft (K-RAG, which nothing ever writes to) and experience records of that
step (E-RAG). An expert comments on each aspect of the storyboards; what scored low becomes an experience record, and
the prompt of its step is written anew. The old and the new prompt make the same held-out proposals, and the new one
takes over if it does no worse. The workflow changes in the same way.

There is no public code, and the paper gives no sizes: this follows the card, a reconstruction. Where it differs:
- Nothing is drawn or spoken. What is shown is the evolution and nothing of pictures: see `story_pipeline`.
- The expert is a rule-based one, and so is the judge between two prompts: a model would praise what it wrote itself.
- Steps pass the storyboard on from utility to utility; a prompt does not show what earlier steps made.
- A record holds for the genre it was learned in until another genre teaches the same, lest records contradict.
- What was tried as a prompt or a workflow is never tried again.
- The frozen control has the usual workflow, for planning is the first thing the system keeps. It has the knowledge.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from statistics import fmean
from typing import Any, cast

from langgraph.graph import StateGraph
from langgraph.runtime import Runtime
from pydantic import Field

from evolvent.agents.context import Context
from evolvent.agents.episode import Job
from evolvent.agents.evaluation.held_out import evaluation as judged
from evolvent.agents.evolution import State, cycle, keep
from evolvent.agents.proving import retired
from evolvent.agents.remembering import Remembering, baseline_of, evaluation, experience, play, proof, tasks, written
from evolvent.agents.solutions.act import Policy
from evolvent.agents.solutions.found import Found, Showing, nearest
from evolvent.agents.solutions.scratchpad import Scratchpad, user
from evolvent.agents.solutions.staged import Staged
from evolvent.agents.types import derive_seed
from evolvent.environments.bm25 import Bm25
from evolvent.environments.story_pipeline import Settings, knowledge, parse_settings, produce, usage
from evolvent.environments.storyboard import (
    STEPS,
    Comment,
    Step,
    comments,
    parse_storyboard,
    proposal_in,
    write_storyboard,
)
from evolvent.environments.types import Message, Task
from evolvent.memory.likeness import likeness
from evolvent.memory.rendering import recall_events
from evolvent.memory.store import Snapshot
from evolvent.memory.types import Event, Kind, Record, Scope, new_record, record_id

ROLES = ("actor", "planner", "critic")
ENVIRONMENTS = ("story",)
CARRIES_OVER = True
"""Records, prompts and workflow of one round make the films of the next, so they are measured on unseen proposals."""

_FIRST: Mapping[str, str] = {
    "script": "You write the script: which scenes there are, who plays in them, and how long it all takes.",
    "shots": "You are the director: you cut scenes into shots and place the camera.",
    "images": "You draw the shots: the same person looks the same in all of them.",
    "narration": "You write what the narrator says over the pictures.",
    "assembly": "You join the shots into the film.",
}
"""Version 1 of each step's prompt."""
_SET = "{usage}\nWrite the settings of this step, one a line, in the form `key: value`."
_KNOWN = "From books on the craft:\n{passages}"
_LEARNED = "What experts said of earlier films:\n{records}"
_PLAN = (
    "A film is made from a proposal in steps. These can be taken:\n{usage}\n"
    "Which are needed, and in which order? Write their names, separated by commas."
)
_SUMMARY = (
    "{usage}\nOf films of this kind ({tags}) an expert says, about {aspect}:\n{comments}\n"
    "Write one sentence that tells whoever takes this step next what to do."
)
_REWRITE = (
    "This is what somebody is told before the step `{step}` of making a film:\n{old}\n"
    "Since then this was learned:\n{records}\nWrite better what to tell them, in one or two sentences."
)
_REWIRE = (
    "Films are made in these steps, in this order: {workflow}.\nThese can be taken:\n{usage}\n"
    "Experts complain:\n{comments}\nInsert a step, leave one out or change the order, if that helps. Write the names "
    "of all steps, separated by commas."
)
_WORKFLOW = "workflow"
_NOTE: tuple[Kind, ...] = ("note",)
_QUOTED = 3
"""Comments that the critic is shown at most."""
_USAGE: Mapping[str, str] = dict(usage())


class Config(Remembering):
    knowledge: bool = True
    """K-RAG; an ablation is without it."""
    experience: bool = True
    """E-RAG; without it nothing is summarised, so no prompt is rewritten either."""
    select: bool = True
    """A rewritten prompt or workflow has to do no worse than the old one; without it every one takes over."""
    rewire: bool = True
    """The workflow may change."""
    retrieved: int = Field(3, ge=0)
    """Passages, and records, in the prompt of a step at most."""
    low: float = Field(1.0, gt=0, le=1)
    """Score of an aspect below which it is low; 1 is flawless."""
    summaries: int = Field(10, ge=0)
    """Aspects that a record is written about in a round at most, the lowest first."""
    alike: float = Field(0.8, gt=0, le=1)
    """Likeness from which on a new record says what an old one of its step does."""
    rewrites: int = Field(5, ge=0)
    """Prompts rewritten in a round at most, those of the lowest steps."""
    proposals: int = Field(8, ge=1)
    """Validation tasks that an old and a new prompt are compared on."""
    reply_tokens: int = Field(96, ge=1)
    """Of the settings of one step."""
    critic_tokens: int = Field(128, ge=1)
    """Of a record, a prompt or a workflow."""


PRESETS = {
    "small": Config(summaries=4, rewrites=1, proposals=1, reply_tokens=24, critic_tokens=24),
    "paper": Config(),
}


def build(config: Config) -> StateGraph[State, Context, State, State]:
    """baseline, then per round: tasks → plan → fill → comment → summarise → evolve_prompts → evolve_workflow → gate →
    evaluate."""

    def seat(context: Context, showing: Showing, parts: Mapping[str, Record] | None = None) -> Policy:
        now = parts or _parts(context)
        steps = _steps_in(now[_WORKFLOW].text)

        def find(snapshot: Snapshot, task: Task, showing: Showing) -> list[Record]:
            if not config.experience:
                return []
            every = len(snapshot.records)
            found = nearest(snapshot, task.prompt, task, k=every, kinds=_NOTE, mode="dense", showing=showing)
            return [each for step in steps for each in _of(step, found)[: config.retrieved]]

        def brief(step: str, task: str, memory: str) -> list[Message]:
            passages = _passages(step, task, config.retrieved) if config.knowledge else []
            learned = [line for line in memory.splitlines() if line.startswith(f"{step}, ")]
            return [
                Message("system", "instructions", _words(now[step])),
                Message("user", "memory", _KNOWN.format(passages=_listed(passages)) if passages else ""),
                Message("user", "memory", _LEARNED.format(records=_listed(learned)) if learned else ""),
                user(task),
                Message("user", "history", _SET.format(usage=_USAGE[step])),
            ]

        def film(task: str, said: Mapping[str, str]) -> str:
            settings = {cast("Step", step): parse_settings(reply) for step, reply in said.items()}
            return write_storyboard(produce(proposal_in(task), cast("Mapping[Step, Settings]", settings), steps))

        return Policy(
            context.model("actor"),
            Found(context.memory.snapshot(), find, lambda found: "\n".join(each.text for each in found), showing),
            max_reply_tokens=config.reply_tokens,
            manner=Staged(steps, brief, film),
        )

    async def plan(state: State, runtime: Runtime[Context]) -> State:
        """The workflow, once; and the first version of every prompt."""
        context, pad = runtime.context, Scratchpad(runtime.context, state)
        known = context.memory.records()
        parts = _parts(context)
        missing = [part for part in parts.values() if part.id not in known]
        if parts[_WORKFLOW] in missing and pad.tasks:
            asked = user(_PLAN.format(usage=_listed(f"{step}: {text}" for step, text in usage())))
            reply = await pad.ask(pad.tasks[0], "plan", [asked], role="planner", max_tokens=config.critic_tokens)
            planned = _part(_WORKFLOW, ", ".join(_steps_in(reply) or STEPS), 1)
            missing = [planned if part is parts[_WORKFLOW] else part for part in missing]
        if missing:
            keep(context, "plan", state["generation"], [Event("add", part.id, part) for part in missing])
        return {}

    async def fill(state: State, runtime: Runtime[Context]) -> State:
        """Every step's settings are written and its utility is run; the storyboards are handed in."""
        context = runtime.context
        own = Scratchpad(context, state).tasks
        return {"episodes": await play(context, state, own, seat(context, config.training))}

    async def comment(state: State, runtime: Runtime[Context]) -> State:
        """The expert goes through each storyboard: a score and a comment for every step and aspect."""
        context, pad = runtime.context, Scratchpad(runtime.context, state)
        for task in pad.tasks:
            made = experience(context, state, task)
            if made.feedback.score is not None:  # what infrastructure failed is no film
                said = comments(task, parse_storyboard(made.trajectory.steps[0].action.text))
                pad.note(task, "comments", json.dumps([asdict(each) for each in said]))
        return {}

    async def summarise(state: State, runtime: Runtime[Context]) -> State:
        """What scored low becomes an experience record of its step, unless an old one says so already."""
        context, pad = runtime.context, Scratchpad(runtime.context, state)
        cases: dict[tuple[str, str], list[tuple[Task, Comment]]] = {}
        for task, each in _low(pad, config) if config.experience else ():
            cases.setdefault((each.step, each.aspect), []).append((task, each))
        lowest = sorted(cases.values(), key=lambda of: fmean(each.score for _, each in of))[: config.summaries]
        fixes = await pad.each(_fix(pad, config, of, number) for number, of in enumerate(lowest))
        played = {task.id: experience(context, state, task).trajectory for task in pad.tasks}
        known = context.memory.records()
        events = [each for each in recall_events(list(played.values())) if each.record_id in known]
        for of, fix in zip(lowest, fixes, strict=True):
            films = [played[task.id].id for task, _ in of]
            events += _entering(context, config, _note(of, fix, films, state["generation"]))
        keep(context, "learn", state["generation"], events)
        return {}

    async def evolve_prompts(state: State, runtime: Runtime[Context]) -> State:
        """The prompts of low steps are rewritten with what was learned, and each is tried against the old one."""
        context, pad = runtime.context, Scratchpad(runtime.context, state)
        low = {each.step for _, each in _low(pad, config)}.intersection(_steps_in(_parts(context)[_WORKFLOW].text))
        means = _by_step(_said(pad))
        for step in sorted(low, key=lambda step: (means[step], step))[: config.rewrites]:
            counting = [each for each in context.memory.records().values() if config.judging.counts(each)]
            learned = sorted(_of(step, counting), key=lambda each: -each.generation)[: config.retrieved]
            if learned:
                old = _words(_parts(context)[step])
                records = _listed(each.text for each in learned)
                asked = user(_REWRITE.format(step=step, old=old, records=records))
                reply = await pad.ask(
                    pad.tasks[0], "rewrite", [asked], STEPS.index(step), role="critic", max_tokens=config.critic_tokens
                )
                await take_over(context, state, step, reply, learned)
        return {}

    async def evolve_workflow(state: State, runtime: Runtime[Context]) -> State:
        """Steps are inserted, left out or moved, and the new workflow is tried against the old one."""
        context, pad = runtime.context, Scratchpad(runtime.context, state)
        low = _low(pad, config)
        if config.rewire and low:
            asked = _REWIRE.format(
                workflow=_words(_parts(context)[_WORKFLOW]),
                usage=_listed(f"{step}: {text}" for step, text in usage()),
                comments=_listed({(each.step, each.aspect): f"{each.step}: {each.text}" for _, each in low}.values()),
            )
            reply = await pad.ask(pad.tasks[0], "rewire", [user(asked)], role="critic", max_tokens=config.critic_tokens)
            await take_over(context, state, _WORKFLOW, ", ".join(_steps_in(reply)), ())
        return {}

    async def take_over(context: Context, state: State, name: str, words: str, grounds: Sequence[Record]) -> None:
        """A new version of a part replaces the old one, if it does no worse on held-out proposals."""
        parts, generation = _parts(context), state["generation"]
        old = parts[name]
        new = _part(name, words, old.meta["version"] + 1, (old, *grounds), generation)
        if not words.strip() or new.id in context.memory.records():  # also where a resumed run has decided already
            return
        events = [Event("add", new.id, new), retired(old.id, "rewritten", by=new.id)]
        if config.select:
            sides = (parts, {**parts, name: new})
            before, after = await asyncio.gather(*(trial(context, generation, each) for each in sides))
            both = before.keys() & after.keys()
            means = {"old": _mean(before, both), "new": _mean(after, both), "proposals": len(both)}
            worse = Event("reject", new.id, payload={"trial": means})
            better = retired(old.id, "rewritten", by=new.id, trial=means)
            events = [events[0], better if both and means["new"] >= means["old"] else worse]
        keep(context, f"evolve/{name}", generation, events)

    async def trial(context: Context, generation: int, parts: Mapping[str, Record]) -> Mapping[str, Sequence[float]]:
        """Scores by validation task. One set of parts plays once in a round, whatever it is compared with."""
        policies = {"": seat(context, config.judging, parts)}
        arm = f"parts-{derive_seed(0, *(part.id for part in parts.values())):x}"
        drawn = context.tasks("validation", config.proposals, generation)
        jobs = [Job(task, policies, "gate", generation, arm=arm, seed=context.seed) for task in drawn]
        episodes = await context.rollouts.run(context.objective.environment_at(generation), jobs)
        return judged(jobs, episodes, seed=context.seed).scores

    return cycle(
        {"baseline": baseline_of(seat)},
        {
            "tasks": tasks,
            "plan": plan,
            "fill": fill,
            "comment": comment,
            "summarise": summarise,
            "evolve_prompts": evolve_prompts,
            "evolve_workflow": evolve_workflow,
            "gate": proof(seat, config, _NOTE),
            "evaluate": evaluation(seat, config, _row),
        },
    )


# -- prompts and workflow: records that take each other's place ------------------------------------------------------


def _part(name: str, words: str, version: int, parents: Sequence[Record] = (), generation: int = 0) -> Record:
    """The prompt of a step, or the workflow; its name leads the text, so that no two parts are one record."""
    return new_record(
        "skill" if name == _WORKFLOW else "prompt",
        f"{name}: {' '.join(words.split())}",
        Scope("story"),
        parents=tuple(each.id for each in parents),
        meta={"part": name, "version": version},
        status="active",
        generation=generation,
    )


def _parts(context: Context) -> dict[str, Record]:
    """The active version of every part; the first one where memory holds none."""
    first = {name: _part(name, words, 1) for name, words in {**_FIRST, _WORKFLOW: ", ".join(STEPS)}.items()}
    active = [each for each in context.memory.records().values() if each.status == "active" and "part" in each.meta]
    return first | {each.meta["part"]: each for each in sorted(active, key=lambda each: each.meta["version"])}


def _words(part: Record) -> str:
    return part.text.removeprefix(f"{part.meta['part']}: ")


def _steps_in(text: str) -> tuple[Step, ...]:
    """The steps that a text names, in order, each once."""
    found = re.findall(rf"\b({'|'.join(STEPS)})\b", text.lower())
    return tuple(dict.fromkeys(found))


# -- what goes into a prompt -----------------------------------------------------------------------------------------


def _passages(step: str, task: str, most: int) -> list[str]:
    texts = [text for of, text in knowledge() if of == step]
    return [texts[at] for at in Bm25(texts).search(f"{_USAGE[step]} {task}", most)]


def _of(step: str, records: Iterable[Record]) -> list[Record]:
    """Experience records of a step."""
    return [each for each in records if each.kind == "note" and each.meta.get("step") == step]


def _listed(lines: Iterable[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


# -- experience ------------------------------------------------------------------------------------------------------


def _said(pad: Scratchpad) -> list[tuple[Task, Comment]]:
    """All of the expert's comments in this round."""
    return [(task, Comment(**each)) for task in pad.tasks for each in json.loads(pad.said(task, "comments") or "[]")]


def _low(pad: Scratchpad, config: Config) -> list[tuple[Task, Comment]]:
    return [(task, each) for task, each in _said(pad) if each.score < config.low]


def _by_step(said: Iterable[tuple[Task, Comment]]) -> dict[str, float]:
    """Mean score of each step."""
    scores: dict[str, list[float]] = {}
    for _, each in said:
        scores.setdefault(each.step, []).append(each.score)
    return {step: fmean(of) for step, of in scores.items()}


async def _fix(pad: Scratchpad, config: Config, of: Sequence[tuple[Task, Comment]], number: int) -> str:
    """What the critic makes of the comments on one aspect; the expert's own words where it says nothing."""
    task, said = of[0]
    tags = ", ".join(dict.fromkeys(tag for task, _ in of for tag in task.tags))
    quoted = _listed(each.text for _, each in of[:_QUOTED])
    asked = _SUMMARY.format(usage=_USAGE[said.step], tags=tags, aspect=said.aspect, comments=quoted)
    reply = await pad.ask(task, "summarise", [user(asked)], number, role="critic", max_tokens=config.critic_tokens)
    return next((line.strip() for line in reply.splitlines() if line.strip()), said.text)


def _note(of: Sequence[tuple[Task, Comment]], fix: str, films: Sequence[str], generation: int) -> Record:
    """An experience record. It holds for films with the tags that all of these have: for one genre, or for any."""
    task, said = of[0]
    return new_record(
        "note",
        f"{said.step}, {said.aspect}: {' '.join(fix.split())}",
        Scope(task.environment, _shared(*(each.tags for each, _ in of))),
        parents=tuple(films),
        meta={"step": said.step, "aspect": said.aspect, "problem": said.text, "fix": fix, "example": films[0]},
        generation=generation,
    )


def _entering(context: Context, config: Config, note: Record) -> list[Event]:
    """A new record's events. Where an old one of its step says the same, that one gains its lineage; where it says so
    of another genre, one record for both takes its place."""
    known = context.memory.records().values()
    old = [each for each in _of(note.meta["step"], known) if Showing().counts(each)]
    like = likeness(note.text, [each.text for each in old])
    at = max(range(len(old)), key=like.__getitem__, default=0)
    if not old or like[at] < config.alike:
        return written(context, config, [note])
    same, tags = old[at], _shared(old[at].scope.tags, note.scope.tags)
    if tags == same.scope.tags:
        return [Event("update", same.id, payload={"parents": note.parents})]
    scope = Scope(note.scope.environment, tags)
    wider = replace(note, id=record_id("note", note.text, scope), scope=scope)
    # What the gate has proved does not give way to what it has not seen.
    merged = [] if config.prove else [Event("merge", same.id, payload={"into": wider.id})]
    return [*written(context, config, [wider]), *merged]


def _shared(*tags: Sequence[str]) -> tuple[str, ...]:
    first, *others = tags
    return tuple(tag for tag in first if all(tag in each for each in others))


def _mean(scores: Mapping[str, Sequence[float]], among: Iterable[str]) -> float:
    return fmean([fmean(scores[task]) for task in among] or [0.0])


def _row(context: Context, state: State) -> Mapping[str, Any]:
    parts, known = _parts(context), context.memory.records().values()
    return {
        "steps": _by_step(_said(Scratchpad(context, state))),
        "versions": {name: part.meta["version"] for name, part in parts.items()},
        "workflow": list(_steps_in(parts[_WORKFLOW].text)),
        "records": sum(Showing().counts(each) for step in STEPS for each in _of(step, known)),
    }
