"""`lamarck`, the flagship: acquired traits become inherited.

One generation: attempt training tasks more than once, with what memory holds, each rule withheld now and then; contrast
success with failure in the same situation; have the reflector word a candidate rule; promote it only when paired
validation episodes prove it; try a rule again once dropout casts doubt on it, and retire it when it has lost its worth;
every so many generations distil what went well into an adapter, and retire from the prompt what it has absorbed;
evaluate on held-out tasks. Raw trajectories are kept whole and recalled where no rule applies.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import Any, Literal

from langgraph.graph import StateGraph
from langgraph.runtime import Runtime
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from evolvent.agents.context import Context
from evolvent.agents.distillation import Distillation, absorbed_records, distil
from evolvent.agents.episode import Job
from evolvent.agents.errors import ModelCallError
from evolvent.agents.evaluation.gate import Side, tests_so_far, try_candidate
from evolvent.agents.evaluation.held_out import evaluate_held_out
from evolvent.agents.evolution import State, cycle, experiences, finish_generation, keep, once, spent_on
from evolvent.agents.models.role import RoleModel
from evolvent.agents.phases import baseline, tasks
from evolvent.agents.proving import retired, retrials, trained, validation
from evolvent.agents.refinement.contrast import Contrast, contrasts
from evolvent.agents.refinement.lesson import Proposal, learn_lesson
from evolvent.agents.refinement.shuffle import shuffled, sign_flipped
from evolvent.agents.solutions.act import Policy, framed
from evolvent.agents.solutions.recall import FromMemory
from evolvent.agents.solutions.seats import learning_seat, seated
from evolvent.agents.types import CallTag
from evolvent.agents.weights import active_adapter, served
from evolvent.environments.types import Cost, Experience
from evolvent.memory.credit import credit_events, exposures
from evolvent.memory.gate import LEAST, level
from evolvent.memory.rendering import recall_events, trajectory_record
from evolvent.memory.store import Snapshot
from evolvent.memory.types import Event, Record, Scope, new_record

ROLES = ("actor", "reflector", "opponent")
ENVIRONMENTS = (
    "workshop",
    "blackjack",
    "textworld",
    "textcraft",
    "household",
    "moderation",
    "creatures",
    "dialogue",
    "qa",
)
CARRIES_OVER = True
"""What it learns on some tasks serves others, so it is measured on held-out ones."""


class Config(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    attempts: int = Field(2, ge=1)
    """At each training task; contrasts need two."""
    explore_temperature: float = Field(5.0, ge=0)
    """Of training episodes: enough randomness to meet what the model would never try."""
    gate_temperature: float = Field(2.0, ge=0)
    """Of gate episodes: enough that a rule which agrees with the model's own bias can still show its worth."""
    rules: int = Field(6, ge=0)
    """Recalled for an episode at most."""
    trajectories: int = Field(3, ge=0)
    """Raw ones recalled for an episode at most."""
    retrieval: Literal["dense", "bm25", "hybrid", "mmr", "utility", "spreading"] = "hybrid"
    withhold: float = Field(0.25, ge=0, lt=1)
    """Probability that a rule is left out of a training episode (rule dropout): what credit and retirement rest on."""
    minimum_lift: float = Field(LEAST, ge=0, lt=1)
    """Gain in score below which a rule is retired."""
    candidates: int = Field(8, ge=0)
    """New rules tried at the gate in one generation at most."""
    reflections: int = Field(32, ge=0)
    """Contrasts handed to the reflector in one generation at most."""
    gate_pairs: int = Field(48, ge=1)
    """Paired validation episodes for one candidate at most."""
    false_discoveries: float = Field(0.05, gt=0, lt=1)
    """Bound on the expected share of false rules among the promoted, over the whole run."""
    distil_every: int = Field(0, ge=0)
    """Generations between two distillations into weights; 0 keeps everything in memory (`evolvent distill` can follow).
    Takes minutes on two cores."""
    distillation: Distillation = Distillation()
    extractor: Literal["reflect", "count"] = "reflect"
    """`count` proposes what most often succeeded, without asking a model: the plain comparison."""
    shuffle_outcomes: bool = False
    """Ablation: outcomes are permuted before anything learns from them. Must learn nothing."""


PRESETS = {
    "small": Config(),
    "paper": Config(
        attempts=4, explore_temperature=1.0, candidates=32, reflections=128, gate_pairs=200, distil_every=2
    ),
}
"""`lamarck` has no paper; `paper` is the form for a capable model on a server."""


def seats(
    context: Context, config: Config, model: RoleModel, *, temperature: float = 0.0, raw: bool = True, **recall: Any
) -> dict[str, Policy]:
    """Every seat's policy with that model in the learning seats, recalling from memory as it is now."""
    plain = _recall(config, context.memory.snapshot(), raw=raw)
    policy = Policy(model, replace(plain, **recall), temperature=temperature)
    return seated(context, policy, lambda snapshot: replace(plain, snapshot=snapshot))


def contender(config: Config, model: RoleModel, snapshot: Snapshot) -> Policy:
    """A generation at a table where nothing is learned: with that model, recalling from memory as it was."""
    return Policy(model, _recall(config, snapshot))


def _recall(config: Config, snapshot: Snapshot, *, raw: bool = True) -> FromMemory:
    trajectories = config.trajectories if raw else 0
    return FromMemory(snapshot, rules=config.rules, trajectories=trajectories, mode=config.retrieval)


def build(config: Config) -> StateGraph[State, Context, State, State]:
    """baseline, then per generation: tasks → solve → feedback → reflect → remember → gate → distil → evaluate."""

    async def acting(context: Context, **how: Any) -> dict[str, Policy]:
        """Every seat's policy with the weights and the memory of now."""
        return seats(context, config, await served(context, active_adapter(context)), **how)

    async def solve(state: State, runtime: Runtime[Context]) -> State:
        """Several attempts at each task, with enough randomness to differ."""
        context, generation = runtime.context, state["generation"]
        context.say(f"generation {generation}: attempting tasks")
        exploring = await acting(context, temperature=config.explore_temperature, withhold=config.withhold)
        jobs = [
            Job(task, exploring, "train", generation, attempt, seed=context.seed)
            for task in context.tasks("train", context.objective.tasks, generation)
            for attempt in range(config.attempts)
        ]
        await context.rollouts.run(context.objective.environment_at(generation), jobs)
        return {"episodes": [job.key for job in jobs]}

    async def feedback(state: State, runtime: Runtime[Context]) -> State:
        found = experiences(runtime.context, state["episodes"])
        return {"scores": {each.trajectory.id: each.feedback.score for each in found}}

    async def reflect(state: State, runtime: Runtime[Context]) -> State:
        """Contrasts become proposals, those most often reached first."""
        context, generation = runtime.context, state["generation"]
        context.say(f"generation {generation}: reflecting")
        seat = learning_seat(context)
        found = [each for each in _seen(context, config, state) if seat in ("", each.trajectory.player)]
        known = context.memory.records()
        absorbed = absorbed_records(context)
        proved = {
            record.text
            for record in known.values()
            if record.kind == "rule" and (record.status == "active" or record.id in absorbed)
        }
        # What says again what is proved needs no reflection; what contradicts it does.
        pairs = [p for p in contrasts(found) if framed(p.good.observation, p.good.action.text) not in proved]
        if config.extractor == "count":
            proposals = _counted(pairs)
        else:
            proposals = await _reflected(context, _spread(pairs, config.reflections), generation)
        by_record: dict[str, list[Proposal]] = {}
        for each in proposals:
            by_record.setdefault(_candidate(each, generation).id, []).append(each)
        order = sorted(by_record, key=lambda key: (-len(by_record[key]), key))
        fresh = [key for key in order if key not in known or (key not in absorbed and _open(context, known[key]))]
        return {
            "proposals": [asdict(_together(by_record[key])) for key in fresh[: config.candidates]],
            "asked": asdict(sum((each.cost for each in proposals), Cost())),
        }

    async def remember(state: State, runtime: Runtime[Context]) -> State:
        """Raw trajectories and candidates enter memory, with their lineage."""
        context, generation = runtime.context, state["generation"]
        found = _seen(context, config, state)
        sound = [each.trajectory for each in found if each.feedback.score is not None]
        records = [trajectory_record(trajectory) for trajectory in sound]
        records += [_candidate(_proposal(each), generation) for each in state["proposals"]]
        events = [Event("add", record.id, record) for record in records] + recall_events(sound)
        if not config.shuffle_outcomes:
            events += credit_events(exposures(trained(context)), context.memory.records())
        keep(context, "remember", generation, events)
        return {}

    async def gate(state: State, runtime: Runtime[Context]) -> State:
        """Each candidate meets paired validation episodes; only the proved ones become active.

        One that contradicts an active rule is tried against it, and takes its place. Rules in doubt are tried again.
        """
        context, generation = runtime.context, state["generation"]
        before = context.memory.ledger.head()
        tasks = validation(context, generation)
        if any(commit.key == f"{generation}/gate" for commit in context.memory.ledger.commits()):
            return {}  # A resumed run finds the verdicts there; the memory they were reached against is past.
        tested, promoted = tests_so_far(context)
        events: list[Event] = []
        active = {r.id: r for r in context.memory.records().values() if r.kind == "rule" and r.status == "active"}

        async def side(arm: str, **recall: Any) -> Side:
            return Side(arm, await acting(context, temperature=config.gate_temperature, raw=False, **recall))

        as_it_is = await side(f"memory-{before[:8]}")
        candidates = [_candidate(_proposal(each), generation) for each in state["proposals"]]
        settled: set[str] = set()
        for index, record in enumerate(candidates):
            if record.meta["situation"] in settled:
                continue  # Its situation has a proved rule now; it stays a candidate.
            context.say(f"generation {generation}: candidate {index + 1} of {len(candidates)} at the gate")
            tested += 1
            evidence = await try_candidate(
                context,
                record,
                await side(f"with-{record.id}", forced=(record.id,)),
                as_it_is,
                tasks,
                generation=generation,
                level=level(tested, promoted, fdr=config.false_discoveries),
                most=config.gate_pairs,
                differences=sign_flipped(context, record.id) if config.shuffle_outcomes else list,
            )
            passed = evidence.verdict == "promoted"
            promoted += passed
            settled |= {record.meta["situation"]} - {""} if passed else set()
            events.append(Event("activate" if passed else "reject", record.id, payload={"gate": asdict(evidence)}))
            if passed:
                replaced = [each for each in active.values() if _same_place(each, record)]
                events += [retired(each.id, "replaced", by=record.id) for each in replaced]
                active = {key: each for key, each in active.items() if each not in replaced}
        watched = active if config.withhold and not config.shuffle_outcomes else {}
        events += await retrials(
            context,
            watched,
            as_it_is,
            lambda record: side(f"barred-{record.id}", barred=(record.id,)),
            lambda record: tasks,
            generation=generation,
            pairs=config.gate_pairs,
            minimum=config.minimum_lift,
        )
        keep(context, "gate", generation, events)
        return {}

    async def inherit(state: State, runtime: Runtime[Context]) -> State:
        """Every so many generations: what went well becomes weights, and memory leaves the prompt if it may."""
        context, generation = runtime.context, state["generation"]
        if config.distil_every and generation % config.distil_every == 0:
            await distil(context, config.distillation, partial(seats, context, config), generation=generation)
        return {}

    async def evaluate(state: State, runtime: Runtime[Context]) -> State:
        context, generation = runtime.context, state["generation"]
        context.say(f"generation {generation}: evaluating on held-out tasks")
        evaluation = await evaluate_held_out(
            context, await acting(context), generation=generation, player=learning_seat(context)
        )
        adapter = active_adapter(context)
        finish_generation(
            context,
            generation,
            evaluation,
            spent=spent_on(context, generation) + Cost(**state["asked"]),
            adapter=adapter.full_name if adapter else "",
        )
        return {"episodes": [], "proposals": [], "scores": {}, "tasks": []}

    return cycle(
        {"baseline": baseline},
        {
            "tasks": tasks,
            "solve": solve,
            "feedback": feedback,
            "reflect": reflect,
            "remember": remember,
            "gate": gate,
            "distil": inherit,
            "evaluate": evaluate,
        },
    )


_PROPOSAL = TypeAdapter(Proposal)


def _seen(context: Context, config: Config, state: State) -> list[Experience]:
    found = experiences(context, state["episodes"])
    return shuffled(found, context.rng("shuffle", state["generation"])) if config.shuffle_outcomes else found


def _spread(pairs: Sequence[Contrast], most: int) -> list[Contrast]:
    """At most so many, taken round the situations, so that none crowds out the others."""
    by_situation: dict[str, list[Contrast]] = {}
    for pair in pairs:
        by_situation.setdefault(pair.situation, []).append(pair)
    rounds = max((len(each) for each in by_situation.values()), default=0)
    spread = [each[turn] for turn in range(rounds) for each in by_situation.values() if turn < len(each)]
    return spread[:most]


async def _reflected(context: Context, pairs: Sequence[Contrast], generation: int) -> list[Proposal]:
    """One call a contrast; its reply is memorised, so that a resumed run does not ask again."""

    async def one(index: int, pair: Contrast) -> Proposal | None:
        key = f"{generation}/reflect/{index}"

        async def ask() -> str:
            tag = CallTag("reflector", "train", generation, pair.better.task.id, purpose="reflect", episode=key)
            rng = context.rng("reflect", generation, index)
            try:
                lesson = await learn_lesson(context.model("reflector"), pair, tag, rng)
            except ModelCallError:
                lesson = None
            return json.dumps(asdict(lesson) if lesson else None)

        found = json.loads(await once(context, key, ask))
        return _proposal(found) if found else None

    found = await context.rollouts.calls(one(index, pair) for index, pair in enumerate(pairs))
    return [each for each in found if each is not None]


def _together(same: Sequence[Proposal]) -> Proposal:
    """One proposal that came out of several contrasts: all their trajectories are its parents."""
    return replace(same[0], parents=tuple(sorted({parent for each in same for parent in each.parents})))


def _counted(pairs: Sequence[Contrast]) -> list[Proposal]:
    """The line that did better, counted: what an extractor without a model would propose."""
    return [
        Proposal(
            framed(pair.good.observation, pair.good.action.text),
            Scope(pair.better.task.environment, tuple(t for t in pair.better.task.tags if t in pair.situation)),
            pair.good.observation.frame if pair.good.observation.frame != "{action}" else "",
            tuple(sorted((pair.better.trajectory.id, pair.worse.trajectory.id))),
        )
        for pair in pairs
    ]


def _candidate(proposal: Proposal, generation: int) -> Record:
    meta = {"situation": proposal.situation}
    return new_record("rule", proposal.text, proposal.scope, parents=proposal.parents, meta=meta, generation=generation)


def _proposal(values: dict[str, Any]) -> Proposal:
    return _PROPOSAL.validate_python(values)


def _open(context: Context, record: Record) -> bool:
    """Whether a rule that memory knows may be tried (again).

    One that was set aside may once a rule of its situation has been proved: that its rival is contradicted now says
    that the world has changed, or that the gate was wrong.
    """
    if record.status == "candidate":
        return True
    events = context.memory.ledger.events()
    proved = {event.record_id for event in events if event.kind == "activate"}
    known = context.memory.records()
    return record.status == "retired" and any(_same_place(known[key], record) for key in proved)


def _same_place(one: Record, other: Record) -> bool:
    """Whether two rules speak in the same situation, so that only one of them can be shown."""
    situation = one.meta["situation"]
    return bool(situation) and situation == other.meta["situation"] and one.scope.player == other.scope.player
