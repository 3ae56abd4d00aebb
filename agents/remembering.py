"""Systems whose gain is what they keep: what their graphs share.

A generation is a stretch of a stream of tasks. Each is answered with memory as it stands and then learned from, in
order, so that what a task taught serves the next one; users of a world that has several go side by side, each in order.
At the end of it held-out tasks are answered, and nothing is written then.

What a system writes counts at once, as its paper has it. With `prove` it waits for Evolvent's gate, and what is active
is withheld now and then (`proving.py`): so the benchmark shows what proof adds to each of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from langgraph.runtime import Runtime
from pydantic import BaseModel, ConfigDict, Field

from evolvent.agents.answering import tasks
from evolvent.agents.context import Context
from evolvent.agents.episode import Job
from evolvent.agents.evaluation.held_out import evaluate_held_out
from evolvent.agents.evolution import Node, State, experiences, finish_generation, keep, spent_on
from evolvent.agents.phases import baseline
from evolvent.agents.proving import prove
from evolvent.agents.solutions.act import Policy
from evolvent.agents.solutions.found import Showing
from evolvent.agents.solutions.recall import NO_RECALL, Recall
from evolvent.agents.solutions.scratchpad import Scratchpad, tasks_of
from evolvent.environments.types import Experience, Task
from evolvent.memory.gate import LEAST
from evolvent.memory.rendering import recall_events
from evolvent.memory.types import Event, Kind, Record, Scope

__all__ = [
    "Remembering",
    "Seat",
    "attempt",
    "baseline_of",
    "evaluation",
    "experience",
    "finished",
    "learned",
    "now",
    "play",
    "proof",
    "scope_of",
    "tasks",
    "turn",
    "user",
    "written",
]


class Remembering(BaseModel):
    """What the settings of all of them hold."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    prove: bool = False
    """What is written waits as a candidate until the gate proves it, and is withheld now and then once it is active."""
    withhold: float = Field(0.25, ge=0, lt=1)
    """With `prove`: probability that an active record is left out of a training episode (rule dropout)."""
    gate_pairs: int = Field(48, ge=1)
    """With `prove`: paired validation episodes for one record at most."""
    false_discoveries: float = Field(0.05, gt=0, lt=1)
    """With `prove`: bound on the expected share of false records among the promoted, over the whole run."""

    @property
    def training(self) -> Showing:
        """How records are shown in training episodes."""
        return Showing(proved=True, withhold=self.withhold) if self.prove else Showing()

    @property
    def judging(self) -> Showing:
        """How they are shown on held-out tasks."""
        return Showing(proved=self.prove)


Seat = Callable[[Context, Showing], Policy]
"""Who plays, with memory as it is now. What it does without any memory is the frozen control."""


def user(task: Task) -> str:
    """Whose task it is, in a world with users; empty elsewhere."""
    return next((tag for tag in task.tags if tag.startswith("user:")), "")


def turn(context: Context, state: State) -> list[Task]:
    """The tasks whose turn it is: the next one of each user."""
    first: dict[str, Task] = {}
    for task in tasks_of(context, state["generation"]):
        if task.id in state["open"]:
            first.setdefault(user(task), task)
    return list(first.values())


def scope_of(task: Task) -> Scope:
    """Of what a user told: nobody else's prompt ever holds it."""
    return Scope(task.environment, (user(task),) if user(task) else ())


def now(context: Context) -> int:
    """Training episodes so far: the clock of a stream."""
    return max(context.memory.ledger.episodes_until("train").values(), default=0)


async def play(context: Context, state: State, stream: Sequence[Task], policy: Policy) -> list[str]:
    """Keys of these training episodes, one a task."""
    generation = state["generation"]
    jobs = [_job(context, task, generation, {"": policy}) for task in stream]
    await context.rollouts.run(context.objective.environment_at(generation), jobs)
    return [job.key for job in jobs]


def attempt(seat: Seat, config: Remembering) -> Node:
    """The node that answers the tasks whose turn it is, with memory as it stands."""

    async def answer(state: State, runtime: Runtime[Context]) -> State:
        """The next task of each user, answered before anything is learned from it."""
        context = runtime.context
        keys = await play(context, state, turn(context, state), seat(context, config.training))
        return {"episodes": [*state["episodes"], *keys]}

    return answer


def experience(context: Context, state: State, task: Task) -> Experience:
    """What came of a task of this generation."""
    (found,) = experiences(context, [_job(context, task, state["generation"], {}).key])
    return found


def finished(context: Context, state: State) -> list[Experience]:
    """What came of the tasks whose turn it is; what infrastructure failed teaches nothing."""
    found = [experience(context, state, task) for task in turn(context, state)]
    return [each for each in found if each.feedback.score is not None]


def learned(context: Context, state: State, events: Sequence[Event]) -> State:
    """Commit what this turn taught, with what was recalled in it; the next turn begins."""
    done = turn(context, state)
    shown = recall_events([experience(context, state, task).trajectory for task in done])
    known = context.memory.records()  # without what this turn forgot
    credit = [each for each in shown if each.record_id in known]
    keep(context, f"learn/{state['round']}", state["generation"], [*credit, *events])
    left = [name for name in state["open"] if name not in {task.id for task in done}]
    return {"open": left, "round": state["round"] + 1}


def written(context: Context, config: Remembering, records: Sequence[Record]) -> list[Event]:
    """What a system writes down: active at once, or a candidate with `prove`.

    What was put away and is said again comes back, but with `prove`: there the gate has had its word.
    """
    known = context.memory.records()
    events: list[Event] = []
    for record in records:
        entering = record if config.prove else replace(record, status="active")
        events.append(Event("add", record.id, entering))
        if not config.prove and record.id in known and known[record.id].status != "active":
            events.append(Event("activate", record.id, payload={"reason": "said again"}))
    return events


def proof(seat: Seat, config: Remembering, kinds: Sequence[Kind]) -> Node:
    """The node at the end of a stretch: the gate for this generation's records, where it is asked for."""

    async def gate(state: State, runtime: Runtime[Context]) -> State:
        """Evolvent's gate, where it is asked for."""
        context, generation = runtime.context, state["generation"]
        if not config.prove:
            return {}
        known = context.memory.records().values()
        candidates = [each for each in known if each.status == "candidate" and each.kind in kinds]

        def bears_on(record: Record, task: Task) -> bool:
            beside = seat(context, Showing(proved=True, beside=(record.id,)))
            recalled = beside.recall(task, "", context.rng("bears on", record.id, task.id)).recalled
            return any(each.record == record.id for each in recalled)

        await prove(
            context,
            candidates,
            lambda showing: {"": seat(context, showing)},
            bears_on,
            generation=generation,
            pairs=config.gate_pairs,
            false_discoveries=config.false_discoveries,
            minimum=LEAST,
        )
        return {}

    return gate


def baseline_of(seat: Seat, recall: Recall = NO_RECALL) -> Node:
    """The node that plays held-out tasks as the system does, without anything it keeps.

    Args:
        recall: what stands before a task all the same, an example of an episode for one.
    """

    async def frozen(state: State, runtime: Runtime[Context]) -> State:
        """Generation 0: the same model and prompts, and nothing remembered."""

        def seats(context: Context, model: Any) -> Mapping[str, Policy]:
            return {"": replace(seat(context, Showing()), recall=recall)}

        return await baseline(state, runtime, seats=seats)

    return frozen


def evaluation(seat: Seat, config: Remembering, more: Callable[[Context, State], Mapping[str, Any]]) -> Node:
    """The node that ends a generation.

    Args:
        more: fields of its row beside the scores; `stream` is there already: the scores of its training tasks, each
            from before it was learned from.
    """

    async def evaluate(state: State, runtime: Runtime[Context]) -> State:
        """Held-out tasks, with memory as it stands and nothing written."""
        context, generation = runtime.context, state["generation"]
        context.say(f"generation {generation}: evaluating on held-out tasks")
        found = await evaluate_held_out(context, {"": seat(context, config.judging)}, generation=generation)
        stream = [experience(context, state, task) for task in tasks_of(context, generation)]
        finish_generation(
            context,
            generation,
            found,
            spent=spent_on(context, generation) + Scratchpad(context, state).cost(),
            stream={each.task.id: each.feedback.score for each in stream},
            **more(context, state),
        )
        return {"episodes": [], "tasks": [], "open": [], "round": 0}

    return evaluate


def _job(context: Context, task: Task, generation: int, policies: Mapping[str, Policy]) -> Job:
    return Job(task, policies, "train", generation, seed=context.seed)
