"""Distil, verify, retire: what external memory has proved moves into weights, and out of the prompt.

An adapter is trained on what went well, with memory stripped from the prompts. It becomes active when paired validation
episodes without any memory prove it better than the weights that act now. With it in place memory leaves the prompt
as a whole, if episodes without it are shown to be no worse than those with it by more than a margin; not shown is not
retired. All of it is one commit of memory, so `evolvent memory revert` takes it back.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Literal

from pydantic import Field, TypeAdapter

from evolvent.agents.context import Context
from evolvent.agents.episode import Job
from evolvent.agents.errors import SetupError
from evolvent.agents.evaluation.gate import Side, tests_so_far, try_candidate
from evolvent.agents.evaluation.held_out import Evaluation, evaluation
from evolvent.agents.evaluation.statistics import paired
from evolvent.agents.evolution import keep
from evolvent.agents.models.role import RoleModel
from evolvent.agents.solutions.act import Policy
from evolvent.agents.solutions.rehearsal import rehearsed
from evolvent.agents.solutions.seats import bare, learning_seat
from evolvent.agents.weights import Method, active_adapter, served, train
from evolvent.environments.types import Trajectory
from evolvent.memory.gate import Evidence, level
from evolvent.memory.retrieval import LIVE
from evolvent.memory.types import Event, Interval, Record
from evolvent.memory.weights.adapters import Adapter, adapter_record
from evolvent.memory.weights.dataset import DataSet
from evolvent.memory.weights.examples import negatives, preferences, supervised
from evolvent.memory.weights.mixing import join
from evolvent.memory.weights.training import Training


class Distillation(Training):
    """How memory is distilled; the settings of the training itself among them."""

    method: Method = "sft"
    only: Literal["success", "rewarded"] = "rewarded"
    """Steps to imitate (`sft` and `kto`): those of successful episodes, or those that were rewarded, in any episode."""
    rehearse: int = Field(128, ge=0)
    """Exchanges of the base model with itself that are mixed in (`sft`), so that it forgets less; no more than there
    are examples. With `anchor` they are not imitated: a small model that practises its own poor answers forgets more,
    not less."""
    stages: int = Field(1, ge=1)
    """The epochs, or steps, are trained in so many parts. After each of them validation episodes are played without
    memory; the first part that brings nothing more is left out, with those after it (early stopping)."""
    pairs: int = Field(100, ge=2)
    """Validation tasks that gate and retirement play at most."""
    margin: float = Field(0.10, gt=0, lt=1)
    """Loss in score that retirement tolerates."""
    false_discoveries: float = Field(0.05, gt=0, lt=1)
    """Bound for the whole run, as that of its rules."""
    epochs: float = Field(3, gt=0)
    learning_rate: float | None = Field(4e-4, gt=0)
    anchor: float = Field(2.0, ge=0)

    @property
    def training(self) -> Training:
        return Training(**self.model_dump(include=set(Training.model_fields)))

    @property
    def key(self) -> str:
        """Eight hex digits that tell these settings from others."""
        return hashlib.sha256(self.model_dump_json(exclude_defaults=True).encode()).hexdigest()[:8]


Remembering = Callable[[RoleModel], Mapping[str, Policy]]
"""Every seat's policy with that model in the learning seats: greedy, and recalling as its recipe does."""
ABSORBED = "absorbed"
"""Why a record left the prompt: weights know it."""


@dataclass(frozen=True, slots=True)
class Distilled:
    adapter: str
    """Full name."""
    gate: Evidence
    """With the adapter minus without, both with no memory in the prompt."""
    retirement: Interval | None
    """Score without memory minus with it, with the adapter in place; None where it was not tried."""
    retired: tuple[str, ...]
    """Ids of the records that left the prompt."""
    tokens_before: float
    """Of prompts, an episode, with memory; 0 where retirement was not tried."""
    tokens_after: float
    commit: str
    """Of memory: what to revert."""


def material(trajectories: Sequence[Trajectory], config: Distillation) -> DataSet:
    """The data set of a method. Held-out and validation episodes never enter it.

    Raises:
        SetupError: the episodes hold nothing of the kind.
    """
    if config.method == "dpo":
        found = preferences(trajectories)
    else:
        found = supervised(trajectories, only=config.only)
        if config.method == "kto":
            found = join("labelled", found, negatives(trajectories))
    if not len(found) or (config.method == "kto" and found.form != "labelled"):
        raise SetupError(
            f"{len(trajectories)} training episodes hold nothing that {config.method} could learn from. "
            "Run more generations, or take another method."
        )
    return found


async def distil(context: Context, config: Distillation, remembering: Remembering, *, generation: int) -> Distilled:
    """Train, verify, gate and retire; done once for the same episodes and settings, and gone on with after a kill.

    Raises:
        SetupError: the actor's weights cannot be trained, or there is nothing to train on.
        AdapterMismatchError: the adapter that was trained is not the one that is served; nothing is promoted.
    """
    ledger = context.memory.ledger
    episodes = sorted(ledger.episodes(phase="train"), key=lambda each: each.key)
    dataset = material([each for episode in episodes for each in episode.trajectories], config)
    name = f"{context.objective.environment.name}-{config.method}"
    step = f"distil-{dataset.hash}-{config.key}"
    done = ledger.memo(f"{generation}/{step}")
    if done is not None:
        return _DISTILLED.validate_json(done)
    if config.rehearse and config.method == "sft":
        exchanges = min(config.rehearse, len(dataset))
        dataset = join(dataset.name, dataset, await rehearsed(context, exchanges, generation=generation))
    adapter = await _trained(context, config, f"{name}-{config.key}", dataset, generation)
    acting = active_adapter(context)
    evidence = await _gate(context, config, adapter, acting, generation)
    promoted = evidence.verdict == "promoted"
    record = adapter_record(adapter)
    change, before, after = None, 0.0, 0.0
    retired: list[Record] = []
    if promoted:
        context.say("trying without memory")
        model = await served(context, adapter)
        change, before, after = await _without_memory(context, config, model, remembering, generation)
        if change is not None and change.n >= 2 and change.low > -config.margin:
            retired = _in_prompts(context)
    kind: Literal["activate", "reject"] = "activate" if promoted else "reject"
    payload = {"gate": asdict(evidence), "without_memory": asdict(change) if change else None}
    events = [Event(kind, record.id, payload=payload)]
    if promoted and acting:
        events.append(Event("retire", adapter_record(acting).id, payload={"reason": "replaced", "by": record.id}))
    reason = {"reason": ABSORBED, "by": adapter.full_name}
    events += [Event("retire", each.id, payload=reason) for each in retired]
    commit = keep(context, step, generation, events)
    found = Distilled(adapter.full_name, evidence, change, tuple(each.id for each in retired), before, after, commit)
    ledger.add_memo(f"{generation}/{step}", json.dumps(asdict(found)))
    return found


def absorbed_records(context: Context) -> set[str]:
    """Ids of what weights have taken over from the prompt, as memory says now."""
    retired = {record.id for record in context.memory.records().values() if record.status == "retired"}
    events = context.memory.ledger.events()
    return retired & {event.record_id for event in events if event.payload.get("reason") == ABSORBED}


_DISTILLED = TypeAdapter(Distilled)


# -- inside ------------------------------------------------------------------------------------------------------------


async def _trained(context: Context, config: Distillation, name: str, dataset: DataSet, generation: int) -> Adapter:
    """The adapter after the last stage that was worth it."""
    steps = max(1, config.steps // config.stages) if config.steps else None
    training = config.training.model_copy(update={"epochs": config.epochs / config.stages, "steps": steps})
    part = partial(train, context, dataset=dataset, generation=generation, method=config.method, training=training)
    adapter = await part(name)
    if config.stages == 1:
        return adapter
    reached = await _bare_score(context, config, adapter, generation)
    for stage in range(2, config.stages + 1):
        longer = await part(f"{name}-{stage}", start=adapter)
        score = await _bare_score(context, config, longer, generation)
        if score <= reached:
            break
        adapter, reached = longer, score
    return adapter


async def _bare_score(context: Context, config: Distillation, adapter: Adapter, generation: int) -> float:
    """On validation tasks, without memory; the gate plays these very episodes, and need not play them again."""
    context.say(f"validation tasks by {adapter.full_name}")
    policies = bare(context, await served(context, adapter))
    played = await _played(context, config, policies, f"bare-{adapter.full_name}", generation)
    return played.success.mean


async def _played(
    context: Context, config: Distillation, policies: Mapping[str, Policy], arm: str, generation: int
) -> Evaluation:
    """One episode on each validation task."""
    tasks = context.tasks("validation", config.pairs, generation)
    jobs = [Job(task, policies, "gate", generation, arm=arm, seed=context.seed) for task in tasks]
    episodes = await context.rollouts.run(context.objective.environment_at(generation), jobs)
    return evaluation(jobs, episodes, player=learning_seat(context), seed=context.seed)


async def _gate(
    context: Context,
    config: Distillation,
    adapter: Adapter,
    acting: Adapter | None,
    generation: int,
) -> Evidence:
    """The adapter against what acts now, by the test that rules must pass, and counted among the tests of the run."""
    context.say(f"{adapter.full_name} at the gate")
    tested, promoted = tests_so_far(context)
    ours = Side(f"bare-{adapter.full_name}", bare(context, await served(context, adapter)))
    present = f"bare-{acting.full_name if acting else 'base'}"
    theirs = Side(present, bare(context, await served(context, acting)))
    return await try_candidate(
        context,
        adapter_record(adapter),
        ours,
        theirs,
        context.tasks("validation", config.pairs, generation),
        generation=generation,
        level=level(tested + 1, promoted, fdr=config.false_discoveries),
        most=config.pairs,
    )


async def _without_memory(
    context: Context, config: Distillation, model: RoleModel, remembering: Remembering, generation: int
) -> tuple[Interval | None, float, float]:
    """(score without memory minus with it, prompt tokens an episode with it, and without)."""
    if not _in_prompts(context):
        return None, 0.0, 0.0
    head = context.memory.ledger.head()[:8]
    name = model.name.rpartition("+")[2]
    with_it = await _played(context, config, remembering(model), f"recalling-{head}-{name}", generation)
    # The gate has played some of these already.
    without = await _played(context, config, bare(context, model), f"bare-{name}", generation)
    change = paired(without.scores, with_it.scores, seed=context.seed)
    return change, with_it.prompt_tokens, without.prompt_tokens


def _in_prompts(context: Context) -> list[Record]:
    """What the agent can still be reminded of."""
    records = context.memory.records().values()
    return [
        each
        for each in records
        if (each.kind == "trajectory" and each.status in LIVE) or (each.kind == "rule" and each.status == "active")
    ]
