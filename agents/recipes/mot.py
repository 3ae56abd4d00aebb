"""`mot`: memories made by thinking ahead over unlabelled questions, and chosen by the model as demonstrations.

MoT (arXiv 2305.05181). Before any test many chains of thought are sampled of each unlabelled question, and the first
chain that ends in the answer of most is kept where they hardly disagree, by the entropy of their answers. Memories are
clustered. For a new question the model picks out of each cluster's nearest ones, by their questions alone, the one
that would help most, and answers behind those. No label is used and no weight changes.

Where this differs:
- Each generation thinks over questions of its own, so memory grows and is clustered anew; the paper does it once. A
  question that is remembered already keeps the chain it has.
- The four examples before a chain are solved validation tasks, by the environment's expert; the paper's are written by
  hand. An environment without an expert wants `shots=0`.
- The answer of most chains is handed in as an episode: a note rests on it, and `stream` shows what such answers are
  worth. Nothing in the recipe reads that score.
- Tokens of a prompt are estimated at four characters each. An empty line within a chain is taken out, for it ends a
  demonstration.
- Where a reply names no memory the nearest one is taken; the reference code takes the second, and fails without one.
- What is drawn from one premise or passage is told by tags, which a world has to set (`chosen.same_source`).
- With `prove` each memory waits for the gate. Thinking ahead recalls nothing, so there is no dropout in training.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from functools import partial
from typing import Any, Literal

from langgraph.graph import StateGraph
from langgraph.runtime import Runtime
from pydantic import Field

from evolvent.agents.answering import submit
from evolvent.agents.context import Context
from evolvent.agents.evolution import State, cycle, keep
from evolvent.agents.refinement.vote import answer_entropy, final_answer, majority
from evolvent.agents.remembering import (
    Remembering,
    baseline_of,
    evaluation,
    experience,
    proof,
    scope_of,
    tasks,
    written,
)
from evolvent.agents.solutions.act import Policy
from evolvent.agents.solutions.chosen import QUESTION, Chosen, by_question, offered
from evolvent.agents.solutions.found import Found, Showing
from evolvent.agents.solutions.paths import PATH, sample_paths
from evolvent.agents.solutions.scratchpad import Scratchpad
from evolvent.agents.solutions.shots import examples
from evolvent.agents.types import derive_seed
from evolvent.environments.types import Task, Trajectory
from evolvent.memory.clusters import clusters
from evolvent.memory.retrieval import LIVE
from evolvent.memory.store import Snapshot
from evolvent.memory.types import Event, Record, new_record

ROLES = ("actor",)
ENVIRONMENTS = ("word_problems", "qa", "dialogue")
CARRIES_OVER = True
"""What was thought ahead serves questions that come later, so it is measured on held-out tasks."""

_VOTE = "vote"
_UNANSWERED = "There is no answer."
"""Handed in for a question of which not one chain was written."""
_ENDING = re.compile(r"\banswer\s+is\b", re.IGNORECASE)
_EMPTY_LINES = re.compile(r"\n\s*\n")


class Config(Remembering):
    paths: int = Field(8, ge=1)
    """Chains sampled of each question."""
    temperature: float = Field(0.7, ge=0)
    """Of these chains; everything else is greedy."""
    shots: int = Field(2, ge=0)
    """Solved examples before a chain. What answers later is shown memories in their place."""
    threshold: float | None = Field(0.7, ge=0)
    """Nats of entropy below which a question is kept. The paper's 0.3 asks for 15 of 16 chains, and of 8 for all; 0.7
    for 5 of 8. None keeps every question that has an answer: an ablation."""
    clusters: int = Field(4, ge=1)
    """Of all memories; a demonstration comes from each."""
    candidates: int = Field(10, ge=1)
    """Memories of one cluster, the nearest, of which one is chosen."""
    recall: Literal["chosen", "nearest", "random"] = "chosen"
    """Ablations: the nearest memories of all, or any, as many as there are clusters, without asking."""
    number_tokens: int = Field(16, ge=1)
    """Of a reply that chooses."""
    list_tokens: int = Field(1500, ge=1)
    """Of a prompt that chooses; beyond it the last candidates are left out."""
    prompt_tokens: int = Field(1500, ge=1)
    """Of the prompt that answers; beyond it the last demonstrations are left out."""
    reply_tokens: int = Field(64, ge=1)
    """Of a chain, and of an answer."""


PRESETS = {
    "small": Config(),
    "paper": Config(
        paths=16,
        temperature=1.2,
        shots=4,
        threshold=0.3,
        number_tokens=64,
        list_tokens=3300,
        prompt_tokens=3600,
        reply_tokens=512,
    ),
}


def build(config: Config) -> StateGraph[State, Context, State, State]:
    """baseline, then per generation: tasks → sample → filter → submit → remember → cluster → gate → evaluate."""

    def seat(context: Context, showing: Showing) -> Policy:
        def find(snapshot: Snapshot, task: Task, showing: Showing) -> list[Record]:
            near = by_question(snapshot, context.memory.embedder, task, kind="note", showing=showing)
            if config.recall == "chosen":
                return [record for group in _groups(near) for record in group[: config.candidates]]
            if config.recall == "random":
                near = context.rng("any memories", task.id).sample(near, len(near))
            return near[: config.clusters]

        def tell(shown: Sequence[Record]) -> str:
            return offered(_groups(shown) if config.recall == "chosen" else [[record] for record in shown])

        snapshot = context.memory.snapshot()
        manner = Chosen(
            snapshot.records,
            ask=config.recall == "chosen",
            number_tokens=config.number_tokens,
            list_tokens=config.list_tokens,
            prompt_tokens=config.prompt_tokens,
        )
        return Policy(
            context.model("actor"),
            Found(snapshot, find, tell, showing),
            max_reply_tokens=config.reply_tokens,
            written=True,
            manner=manner,
        )

    async def sample(state: State, runtime: Runtime[Context]) -> State:
        """Chains of thought of each question, from one and the same prompt."""
        context, pad = runtime.context, Scratchpad(runtime.context, state)
        context.say(f"generation {state['generation']}: thinking {len(pad.tasks)} questions ahead")
        await sample_paths(
            pad,
            config.paths,
            shots=examples(context, config.shots),
            temperature=config.temperature,
            reply_tokens=config.reply_tokens,
        )
        return {}

    async def filter_(state: State, runtime: Runtime[Context]) -> State:
        """Chains without an answer are dropped, then questions whose chains disagree."""
        pad = Scratchpad(runtime.context, state)
        for task in pad.tasks:
            pad.note(task, _VOTE, json.dumps(_judged(pad.every(task, PATH), config.threshold)))
        return {}

    async def remember(state: State, runtime: Runtime[Context]) -> State:
        """A note for each question that is left."""
        context, pad = runtime.context, Scratchpad(runtime.context, state)
        known = {note.meta[QUESTION] for note in _notes(context)}
        records: dict[str, Record] = {}
        for task in pad.tasks:
            judged = _said(pad, task)
            if judged is not None and judged["kept"] and task.prompt not in known:
                records.setdefault(task.prompt, _note(experience(context, state, task).trajectory, judged))
        keep(context, "remember", state["generation"], written(context, config, list(records.values())))
        return {}

    async def cluster(state: State, runtime: Runtime[Context]) -> State:
        """Every memory is told its cluster, by the embedding of its question."""
        context, notes = runtime.context, _notes(runtime.context)
        seed = derive_seed(context.seed, "cluster", state["generation"])
        vectors_ND = context.memory.embedder.embed([note.meta[QUESTION] for note in notes])
        found = zip(notes, clusters(vectors_ND, config.clusters, seed=seed), strict=True)
        moved = [(note, number) for note, number in found if note.meta.get("cluster") != number]
        events = [Event("update", note.id, payload={"meta": {"cluster": number}}) for note, number in moved]
        keep(context, "cluster", state["generation"], events)
        return {}

    return cycle(
        {"baseline": baseline_of(seat)},
        {
            "tasks": tasks,
            "sample": sample,
            "filter": filter_,
            "submit": partial(submit, answer=_answer),
            "remember": remember,
            "cluster": cluster,
            "gate": proof(seat, config, ("note",)),
            "evaluate": evaluation(seat, config, _row),
        },
    )


def _judged(chains: Sequence[str], threshold: float | None) -> dict[str, Any] | None:
    """What the chains of a question come to; None where none of them has an answer."""
    answers = [final_answer(chain) if _ENDING.search(chain) else None for chain in chains]
    vote = majority(answers)
    if vote is None:
        return None
    entropy = answer_entropy(answers)
    return {
        "predicted": vote.answer,
        "entropy": entropy,
        "path": vote.supporters[0],
        "kept": threshold is None or entropy < threshold,
    }


def _said(pad: Scratchpad, task: Task) -> dict[str, Any] | None:
    judged: dict[str, Any] | None = json.loads(pad.said(task, _VOTE) or "null")
    return judged


def _answer(pad: Scratchpad, task: Task) -> str:
    """The first chain that ends in the answer of most, whole; the first of all where none has an answer."""
    judged = _said(pad, task)
    chain = pad.every(task, PATH)[judged["path"] if judged else 0]
    return _EMPTY_LINES.sub("\n", chain) or _UNANSWERED


def _note(handed_in: Trajectory, judged: dict[str, Any]) -> Record:
    """Question, chain and predicted answer, as a demonstration reads: what asks for the answer stands between."""
    task = handed_in.task
    asked = [step.observation.text for step in handed_in.steps]
    chain = [step.reply for step in handed_in.steps]
    return new_record(
        "note",
        "\n".join(part for part in (task.prompt, *asked, *chain) if part),
        scope_of(task),
        parents=(handed_in.id,),
        meta={
            QUESTION: task.prompt,
            "predicted": judged["predicted"],
            "entropy": judged["entropy"],
            "tags": list(task.tags),
        },
        generation=handed_in.generation,
    )


def _notes(context: Context) -> list[Record]:
    """The memories that are live, by id."""
    found = context.memory.records().values()
    live = [each for each in found if each.kind == "note" and QUESTION in each.meta and each.status in LIVE]
    return sorted(live, key=lambda note: note.id)


def _groups(notes: Sequence[Record]) -> list[list[Record]]:
    """By cluster, in the order in which the clusters are met."""
    by_cluster: dict[int, list[Record]] = {}
    for note in notes:
        by_cluster.setdefault(note.meta.get("cluster", 0), []).append(note)
    return list(by_cluster.values())


def _row(context: Context, state: State) -> dict[str, Any]:
    """How many memories there are, and how far the chains of each question disagreed; None where none had an answer."""
    pad = Scratchpad(context, state)
    judged = {task.id: _said(pad, task) for task in pad.tasks}
    return {
        "memories": len(_notes(context)),
        "entropy": {task: each["entropy"] if each else None for task, each in judged.items()},
    }
