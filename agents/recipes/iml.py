"""`iml`: notes as the learnable parameter, a step of learning written in words.

In-Memory Learning (arXiv 2403.02757). A generation is a step. Inference: all its tasks are answered with one text of
notes in the prompt, at first "no idea". Induction: for each class, what was rightly answered with it is gone over in
minibatches, each with what the ones before it showed (the gradient). Revision: the class's note is adjusted to these
findings (the update); with momentum it begins as it began and is told how many samples it rests on, so that what it
says changes slowly. The notes of all classes, one after the other, are those of the next step; nothing else is kept.

Where this differs:
- A class is what the agent answered. A minibatch counts the right answers; a few wrong ones stand beside it, marked as
  wrong. What would have been right is told nowhere, not even where the world tells it.
- Where an episode is several decisions, each of them is a sample, right if it was rewarded.
- Options are chosen by their likelihood where the model can score them, as the card advises for small models. Otherwise
  the answer is asked for as `Finish[...]`, with an example of that form from elsewhere; so it is for worlds that offer
  options, which free text (an `instructions` task of `labelled`) does not.
- Not every chat server goes on from a reply that was begun, so momentum asks for the opening words and puts them before
  a reply that lacks them.
- A class that was never answered rightly has no note. The first note of a class revises "no idea" and is free to begin
  as it likes: these words open nothing.
- The paper does not say how many minibatches or momentum words it took; `paper` has our guess.
- Accuracy over the steps is `stream` in each generation's row, and held-out tasks are judged beside. Any notes can be
  given as `initial_notes`: generation 0 then scores a reader with them, true notes (its ceiling) or induced ones.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from langgraph.graph import StateGraph
from langgraph.runtime import Runtime
from pydantic import Field

from evolvent.agents.context import Context
from evolvent.agents.evolution import State, cycle, keep
from evolvent.agents.models.role import RoleModel
from evolvent.agents.phases import baseline
from evolvent.agents.proving import retired
from evolvent.agents.remembering import Remembering, evaluation, experience, play, proof, tasks, written
from evolvent.agents.solutions.act import Policy
from evolvent.agents.solutions.found import Find, Found, Showing
from evolvent.agents.solutions.scratchpad import Scratchpad, tasks_of, user
from evolvent.environments.creatures import finished
from evolvent.environments.types import Experience, Step, Task
from evolvent.memory.rendering import recall_events
from evolvent.memory.store import Snapshot
from evolvent.memory.types import Event, Record, Scope, new_record

ROLES = ("actor", "inducer", "reviser")
ENVIRONMENTS = ("creatures", "moderation", "labelled", "workshop")
CARRIES_OVER = True
"""The notes of one step serve the next, so they are measured on held-out tasks."""

_FORM = "Answer in the form of this example.\nExample: Which season is the coldest?\nFinish[winter]"
_BLOCK = "Notes:\n{notes}"
_INDUCE = "These were answered with {label}, some rightly, some wrongly:\n{cases}\n"
_CARRIED = "What earlier ones showed:\n{findings}\n"
_ASKED = "Sum up in a few sentences what marks {label}: what the right ones have in common and the wrong ones lack."
_REVISE = "The note on {label}:\n{note}\nNew findings:\n{findings}\nAdjust the note to the findings. Write it alone."
_MOMENTUM = "The note rests on {seen} samples, the findings on {new}: let each count for as much as it rests on."
_BEGIN = 'Begin with its own words: "{opening}"'


class Config(Remembering):
    initial_notes: str = Field("no idea", min_length=1)
    """What stands in the place of the notes until there are some."""
    minibatch: int = Field(8, ge=1)
    """Right answers of a class that one induction call goes over."""
    mistakes: int = Field(2, ge=0)
    """Wrong answers, marked as such, beside a minibatch at most."""
    momentum: int = Field(8, ge=0)
    """Words of the old note that the revised one begins with; 0 rewrites freely, and no sample counts are told."""
    reply_tokens: int = Field(24, ge=1)
    """Of an answer that is written."""
    note_tokens: int = Field(64, ge=1)
    """Of findings, and of a note."""


PRESETS = {
    "small": Config(),
    "paper": Config(minibatch=20, mistakes=20, momentum=16, reply_tokens=256, note_tokens=512),
}


def build(config: Config) -> StateGraph[State, Context, State, State]:
    """baseline, then per step: tasks → infer → induce* → revise → remember → gate → evaluate."""

    def seat(context: Context, showing: Showing, find: Find = _find) -> Policy:
        model = context.model("actor")
        nothing = _BLOCK.format(notes=config.initial_notes)
        form = "" if model.can_choose else _FORM
        recall = Found(context.memory.snapshot(), find, _told, showing, prompt=form, otherwise=nothing)
        return Policy(model, recall, max_reply_tokens=config.reply_tokens)

    async def frozen(state: State, runtime: Runtime[Context]) -> State:
        """Generation 0: the notes as they begin."""

        def seats(context: Context, model: RoleModel) -> Mapping[str, Policy]:
            return {"": seat(context, Showing(), lambda snapshot, task, showing: ())}

        return await baseline(state, runtime, seats=seats)

    async def infer(state: State, runtime: Runtime[Context]) -> State:
        """All tasks of the step are answered with the same notes."""
        context = runtime.context
        keys = await play(context, state, tasks_of(context, state["generation"]), seat(context, config.training))
        right = [each.task.id for answers in _classes(context, state) for each in answers.right]
        return {"episodes": keys, "open": list(dict.fromkeys(right))}

    async def induce(state: State, runtime: Runtime[Context]) -> State:
        """The next minibatch of each class, with what its earlier ones showed."""
        context, pad, at = runtime.context, Scratchpad(runtime.context, state), state["round"]
        due = [answers for answers in _classes(context, state) if at < len(answers.batches(config))]
        await pad.each(_induced(pad, config, answers, at) for answers in due)
        left = {each.task.id for answers in due for batch in answers.batches(config)[at + 1 :] for each in batch}
        return {"open": [name for name in state["open"] if name in left], "round": at + 1}

    async def revise(state: State, runtime: Runtime[Context]) -> State:
        """Each class's note is adjusted to what was found of it in this step."""
        context, pad = runtime.context, Scratchpad(runtime.context, state)
        notes = _notes(context, config, state)
        found = [answers for answers in _classes(context, state) if _findings(pad, config, answers)]
        await pad.each(_revised(pad, config, answers, notes.get(answers.label)) for answers in found)
        return {}

    async def remember(state: State, runtime: Runtime[Context]) -> State:
        """The step is over: revised notes take the place of the old ones, all at once."""
        context, pad = runtime.context, Scratchpad(runtime.context, state)
        before, known = _notes(context, config, state), context.memory.records()
        after = dict(before)
        for answers in _classes(context, state):
            old = before.get(answers.label)
            if text := _note_text(pad, config, answers, old):
                note = _note(answers, text, old, state, order=len(after))
                # What was said before does not come from what was said since: lineage has no circles.
                came_from = () if old is None or note.id in known else (old.id,)
                after[answers.label] = replace(note, parents=(*came_from, *note.parents))
        new = [note for label, note in after.items() if note is not before.get(label)]
        events = written(context, config, new)
        # What is said again rests on more samples than before.
        events += [Event("update", note.id, payload={"meta": dict(note.meta)}) for note in new if note.id in known]
        standing = {note.meta["class"]: note.id for note in (before if config.prove else after).values()}
        events += [
            retired(note.id, "revised", by=standing[note.meta["class"]])
            for note in _ours(context.memory.snapshot(), tasks_of(context, state["generation"])[0])
            if note.status == "active" and note.id != standing[note.meta["class"]]
        ]
        stream = [experience(context, state, task) for task in tasks_of(context, state["generation"])]
        shown = recall_events([each.trajectory for each in stream])
        keep(context, "remember", state["generation"], [*events, *shown])
        return {"open": []}

    def row(context: Context, state: State) -> Mapping[str, Any]:
        notes, generation = _notes(context, config, state), state["generation"]
        return {
            "notes": len(notes),
            "samples": {label: note.meta["seen"] for label, note in notes.items()},
            "right": {answers.label: len(answers.right) for answers in _classes(context, state) if answers.right},
            # The paper's local minimum: a note that says, against all evidence, what it said before.
            "copied": sum(note.meta["step"] == generation > note.generation for note in notes.values()),
        }

    return cycle(
        {"baseline": frozen},
        {
            "tasks": tasks,
            "infer": infer,
            "induce": induce,
            "revise": revise,
            "remember": remember,
            "gate": proof(seat, config, ("note",)),
            "evaluate": evaluation(seat, config, row),
        },
        loops={"induce": "induce"},
    )


# -- what was answered -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Sample:
    """One answer. Where an episode is several decisions, each of them is an answer."""

    task: Task
    trajectory: str
    text: str
    """What was to be answered."""
    number: int = 0
    """Of the decision in its episode."""


@dataclass(frozen=True, slots=True)
class _Answers:
    """What a step answered with one class."""

    label: str
    right: tuple[_Sample, ...] = ()
    wrong: tuple[_Sample, ...] = ()

    def batches(self, config: Config) -> list[tuple[_Sample, ...]]:
        return [self.right[at : at + config.minibatch] for at in range(0, len(self.right), config.minibatch)]


def _classes(context: Context, state: State) -> list[_Answers]:
    """By class, in the order of their names. An answer that names none teaches nothing, nor does a failed episode."""
    found: dict[str, _Answers] = {}
    for task in tasks_of(context, state["generation"]):
        each = experience(context, state, task)
        for label, right, sample in _samples(each) if each.feedback.score is not None else ():
            known = found.get(label, _Answers(label))
            if right:
                found[label] = replace(known, right=(*known.right, sample))
            else:
                found[label] = replace(known, wrong=(*known.wrong, sample))
    return [found[label] for label in sorted(found)]


def _samples(each: Experience) -> Iterator[tuple[str, bool, _Sample]]:
    """Class, whether it was right, and the sample; of several decisions those are right that were rewarded."""
    task, steps, source = each.task, each.trajectory.steps, each.trajectory.id
    for number, step in enumerate(steps):
        if not (label := _answered(step)):
            continue
        if len(steps) == 1:
            yield label, each.trajectory.outcome.success, _Sample(task, source, task.prompt)
        else:
            # The observation would also tell what came of the decision before.
            seen = step.observation
            text = seen.text if seen.frame == "{action}" else seen.frame.replace("{action}", "…")
            yield label, step.reward > 0, _Sample(task, source, text, number)


def _answered(step: Step) -> str:
    """The class that was answered: an option by its name or the last word of it, free text as it is."""
    said = finished(step.action.text) or step.action.text.strip()
    names = {option: (option.lower(), *option.lower().split()[-1:]) for option in step.observation.actions or (said,)}
    return next((option for option, called in names.items() if said.lower() in called), "")


# -- the two calls -----------------------------------------------------------------------------------------------------


async def _induced(pad: Scratchpad, config: Config, answers: _Answers, at: int) -> str:
    """What a minibatch and those before it show. The call is kept under the minibatch's first sample."""
    batch = answers.batches(config)[at]
    cases = [f"- {each.text} {answers.label}: right" for each in batch]
    wrong = answers.wrong[at * config.mistakes :][: config.mistakes]
    cases += [f"- {each.text} {answers.label}: wrong" for each in wrong]
    earlier = _findings(pad, config, answers, until=at)
    parts = [
        _INDUCE.format(label=answers.label, cases="\n".join(cases)),
        _CARRIED.format(findings=earlier) if earlier else "",
        _ASKED.format(label=answers.label),
    ]
    asked, first = user("".join(parts)), batch[0]
    return await pad.ask(first.task, "induce", [asked], first.number, role="inducer", max_tokens=config.note_tokens)


def _findings(pad: Scratchpad, config: Config, answers: _Answers, *, until: int | None = None) -> str:
    """The running summary of a class: that of the last minibatch whose call came to anything."""
    said = [pad.said(batch[0].task, "induce", batch[0].number) for batch in answers.batches(config)[:until]]
    return next((text for text in reversed(said) if text), "")


async def _revised(pad: Scratchpad, config: Config, answers: _Answers, old: Record | None) -> str:
    parts = {"label": answers.label, "findings": _findings(pad, config, answers)}
    lines = [_REVISE.format(note=_text(old) if old else config.initial_notes, **parts)]
    if config.momentum:
        lines.append(_MOMENTUM.format(seen=old.meta["seen"] if old else 0, new=len(answers.right)))
    if opening := _opening(config, old):
        lines.append(_BEGIN.format(opening=opening))
    asked = user("\n".join(lines))
    first = answers.right[0]
    return await pad.ask(first.task, "revise", [asked], first.number, role="reviser", max_tokens=config.note_tokens)


def _note_text(pad: Scratchpad, config: Config, answers: _Answers, old: Record | None) -> str:
    """The revised note. Where revision came to nothing the old one stays, and findings stand in for a first one."""
    if not answers.right:
        return ""
    first = answers.right[0]
    said = pad.said(first.task, "revise", first.number) or ("" if old else _findings(pad, config, answers))
    text = " ".join(said.split()).removeprefix(f"{answers.label}:").strip()
    opening = _opening(config, old)
    return text if not text or text.lower().startswith(opening.lower()) else f"{opening} {text}"


def _opening(config: Config, old: Record | None) -> str:
    return " ".join(_text(old).split()[: config.momentum]) if old else ""


# -- the notes ---------------------------------------------------------------------------------------------------------


def _note(answers: _Answers, text: str, old: Record | None, state: State, *, order: int) -> Record:
    seen = len(answers.right) + (old.meta["seen"] if old else 0)
    return new_record(
        "note",
        f"{answers.label}: {text}",
        Scope(answers.right[0].task.environment),
        parents=tuple(dict.fromkeys(each.trajectory for each in answers.right)),
        meta={
            "class": answers.label,
            "order": old.meta["order"] if old else order,
            "seen": seen,
            "step": state["generation"],
        },
        generation=state["generation"],
    )


def _text(note: Record) -> str:
    """Without the class, which stands before it."""
    return note.text.removeprefix(f"{note.meta['class']}: ")


def _ours(snapshot: Snapshot, task: Task) -> list[Record]:
    """The notes of classes in the task's world: other systems keep notes too."""
    found = [record for record in snapshot.records.values() if record.kind == "note" and "class" in record.meta]
    return [record for record in found if record.scope.environment == task.environment]


def _find(snapshot: Snapshot, task: Task, showing: Showing) -> list[Record]:
    """The newest note of each class that counts, in the order in which they are read."""
    counting = [record for record in _ours(snapshot, task) if showing.counts(record)]
    newest = {record.meta["class"]: record for record in sorted(counting, key=lambda it: (it.meta["step"], it.id))}
    return sorted(newest.values(), key=lambda note: (note.meta["order"], note.id))


def _notes(context: Context, config: Config, state: State) -> dict[str, Record]:
    """The note of each class that stands now, in that order."""
    first, *_ = tasks_of(context, state["generation"])
    return {note.meta["class"]: note for note in _find(context.memory.snapshot(), first, config.judging)}


def _told(notes: Sequence[Record]) -> str:
    return _BLOCK.format(notes="\n".join(note.text for note in notes))
