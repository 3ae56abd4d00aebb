"""The plain agents that a recipe has to beat, each with as many episodes to learn from as the recipe had.

`full-history` reads its newest episodes whole, `raw-retrieval` the episodes nearest to the task, `random-rules` rules
that were learned of something else. Which run they stand beside is for `agents/bench.py` to say.
"""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

from evolvent.agents.context import Context
from evolvent.agents.episode import Job
from evolvent.agents.evaluation.held_out import evaluate_held_out
from evolvent.agents.models.role import RoleModel
from evolvent.agents.rollout import Episode
from evolvent.agents.solutions.act import Policy
from evolvent.agents.solutions.recall import NO_RECALL, Fixed, FromMemory, Recall, Recollection
from evolvent.agents.solutions.seats import learning_seat, seated
from evolvent.environments.types import Cost, Recalled, Task, Trajectory
from evolvent.memory.rendering import trajectory_record
from evolvent.memory.store import Snapshot
from evolvent.memory.types import Event, Kind, Record, Scope, Scored, new_record
from evolvent.memory.working import WorkingMemory

HISTORY_TOKENS = 6_000
"""Of earlier episodes in one prompt at most."""
WINDOW_TOKENS = HISTORY_TOKENS + 1_500
"""Of a control's whole prompt: what it remembers must not push its own first turns out."""
CHOICES_OF_K = (1, 3, 5)
_CHOOSING_SHARE = 0.25
"""Of the episodes that retrieval may learn from, spent at most on choosing k."""
_CHOOSING_TASKS = 20
"""Validation tasks for each k at most."""
_NEWEST_FIRST, _LIKEST_FIRST = "Earlier tasks, the newest first:", "Earlier tasks, the most similar first:"
_TRAJECTORIES: tuple[Kind, ...] = ("trajectory",)

TokenCounter = Callable[[str], int]


@dataclass(frozen=True, slots=True)
class FullHistory:
    """The newest episodes, whole, before every task: the same text each time, so that its cache is shared."""

    heads: Mapping[str, str]
    """By seat."""

    def __call__(self, task: Task, player: str, rng: random.Random) -> Recollection:
        return Fixed(head=self.heads.get(player, ""))


def full_history(
    trajectories: Sequence[Trajectory], count: TokenCounter, *, budget: int = HISTORY_TOKENS
) -> FullHistory:
    """What fits of a history, given oldest first and told newest first; episodes that read alike are told once."""
    heads = {}
    for player in sorted({each.player for each in trajectories}):
        newest_first = [trajectory_record(each) for each in reversed(trajectories) if each.player == player]
        once = list({record.id: record for record in newest_first}.values())
        heads[player] = _told(once, count, budget, introduction=_NEWEST_FIRST)
    return FullHistory(heads)


@dataclass(frozen=True, slots=True)
class RawRetrieval:
    """The k episodes nearest to the task, whole, before it; the nearest stands first."""

    snapshot: Snapshot
    k: int
    count: TokenCounter
    budget: int = HISTORY_TOKENS

    def __call__(self, task: Task, player: str, rng: random.Random) -> Recollection:
        seat = Scope(task.environment, player=player)
        found = self.snapshot.search(task.prompt, k=self.k, scope=seat, kinds=_TRAJECTORIES, mode="hybrid")
        records = [hit.record for hit in found]
        shown = tuple(Recalled(record.id, True) for record in records)
        return Fixed(shown, _told(records, self.count, self.budget, introduction=_LIKEST_FIRST))


def rules_from_elsewhere(own: Sequence[Record], foreign: Sequence[Record]) -> list[Record]:
    """As many rules as `own`, shown where those are shown, that say what was learned in another world.

    Foreign rules come round again when they are fewer. One that says what ours says is passed over.
    """
    true = {record.text for record in own}
    texts = [record.text for record in foreign if record.text not in true]
    return [_reworded(record, text) for record, text in zip(own, itertools.cycle(texts), strict=False)] if texts else []


def rules_misplaced(own: Sequence[Record], known: Sequence[Record], rng: random.Random) -> list[Record]:
    """The same rules, each with an action that another rule of the run names; left out where no other action is known.

    For a world that has no other world of its kind. A rule of free wording gets another rule's whole text.
    """
    misplaced = []
    for record in own:
        wording = record.meta.get("situation") or "{action}"
        named = {
            _action(each) for each in known if bool(each.meta.get("situation")) == bool(record.meta.get("situation"))
        }
        others = sorted(named - {_action(record)})
        if others:
            misplaced.append(_reworded(record, wording.replace("{action}", rng.choice(others))))
    return misplaced


@dataclass(frozen=True, slots=True)
class Arm:
    """One side of a benchmark on one seed."""

    scores: Mapping[str, tuple[float, ...]]
    """By held-out task."""
    cost: Cost
    """Learning and the evaluation; seconds are those of the clock."""
    learning_episodes: int = 0
    note: str = ""
    """What a reader has to know of how it came about; empty when there is nothing."""


@dataclass(frozen=True, slots=True)
class Rival:
    """What the controls have to be equal to, and what they may borrow."""

    learning_episodes: int
    """Training and gate episodes of the recipe."""
    temperature: float
    """At which it explored."""
    frozen: Arm
    random_rules: Sequence[Record] = field(default_factory=tuple)
    """Stand-ins for the recipe's active rules."""
    history_tokens: int = HISTORY_TOKENS
    """Of earlier episodes in one prompt at most."""


CONTROLS = ("full-history", "raw-retrieval", "random-rules")


async def play_controls(context: Context, rival: Rival, names: Collection[str] = CONTROLS) -> dict[str, Arm]:
    """Controls on the held-out tasks. What the context's ledger already holds is not played again."""
    explored: list[Episode] = []
    exploring = Cost()
    if {"full-history", "raw-retrieval"} & set(names):
        explored, exploring = await _explore(context, rival)
    count = token_counter(context.model("actor"))
    arms: dict[str, Arm] = {}
    if "full-history" in names:
        arms["full-history"] = await _full_history(context, rival, explored, exploring, count)
    if "raw-retrieval" in names:
        arms["raw-retrieval"] = await _raw_retrieval(context, rival, explored, exploring, count)
    if "random-rules" in names:
        arms["random-rules"] = await _random_rules(context, rival)
    return arms


def choosing_tasks(episodes: int) -> int:
    """Validation tasks on which each k is tried, such that exploring keeps the greater part of the episodes."""
    return min(_CHOOSING_TASKS, int(episodes * _CHOOSING_SHARE) // len(CHOICES_OF_K))


def token_counter(model: RoleModel) -> TokenCounter:
    """The model's own count where it has one, else four characters a token."""
    count: TokenCounter | None = getattr(model.model, "count_tokens", None)
    return count or (lambda text: len(text) // 4 + 1)


async def _explore(context: Context, rival: Rival) -> tuple[list[Episode], Cost]:
    """The frozen model's episodes on the recipe's own training tasks, as often round as it takes, oldest first."""
    context.say("controls: exploring")
    started = time.perf_counter()
    objective = context.objective
    acting = _seats(context, NO_RECALL, temperature=rival.temperature)
    tasks = [
        (generation, task)
        for generation in range(1, objective.generations + 1)
        for task in context.tasks("train", objective.tasks, generation)
    ]
    rounds = ((attempt, *each) for attempt in itertools.count() for each in tasks)
    chosen = list(itertools.islice(rounds, rival.learning_episodes))
    episodes: list[Episode] = []
    for world in range(1, objective.generations + 1):
        jobs = [
            Job(task, acting, "control", generation, attempt, arm="explore", seed=context.seed)
            for attempt, generation, task in chosen
            if generation == world
        ]
        episodes += await context.rollouts.run(objective.environment_at(world), jobs)
    return episodes, _cost(context, "explore", episodes, started)


async def _full_history(
    context: Context, rival: Rival, explored: Sequence[Episode], exploring: Cost, count: TokenCounter
) -> Arm:
    sound = [each for episode in explored for each in episode if not each.outcome.failure]
    recall = full_history(sound, count, budget=rival.history_tokens)
    return await _evaluated(context, "full-history", recall, len(explored), exploring)


async def _raw_retrieval(
    context: Context, rival: Rival, explored: Sequence[Episode], exploring: Cost, count: TokenCounter
) -> Arm:
    """Choosing k costs episodes too, and they are taken from those it may learn from."""
    per_k = choosing_tasks(len(explored))
    kept = explored[: len(explored) - per_k * len(CHOICES_OF_K)]
    records = [trajectory_record(each) for episode in kept for each in episode if not each.outcome.failure]
    events = [Event("add", record.id, record) for record in records]
    snapshot = context.memory.snapshot(context.memory.commit("history", events, generation=0))

    context.say("controls: choosing k for raw-retrieval")
    started = time.perf_counter()
    recalls = {k: RawRetrieval(snapshot, k, count, rival.history_tokens) for k in CHOICES_OF_K}
    last = context.objective.generations
    tasks = context.tasks("validation", per_k, last) if per_k else []
    jobs = [
        Job(task, _seats(context, recall), "control", 0, arm=f"k-{k}", seed=context.seed)
        for k, recall in recalls.items()
        for task in tasks
    ]
    episodes = await context.rollouts.run(context.objective.environment_at(last), jobs)
    seat = learning_seat(context)
    means = {
        k: _mean(episodes[index * len(tasks) : (index + 1) * len(tasks)], seat) for index, k in enumerate(CHOICES_OF_K)
    }
    best = max(CHOICES_OF_K, key=lambda k: (means[k], -k))
    choosing = _cost(context, "choose-k", episodes, started)
    share = len(kept) / max(1, len(explored))
    learning = sum((each.cost for episode in kept for each in episode), Cost()) + choosing
    learning = replace(learning, seconds=exploring.seconds * share + choosing.seconds)
    arm = await _evaluated(context, "raw-retrieval", recalls[best], len(kept) + len(jobs), learning)
    return replace(arm, note=f"k = {best}, the best on {len(tasks)} validation tasks")


async def _random_rules(context: Context, rival: Rival) -> Arm:
    if not rival.random_rules:
        return replace(rival.frozen, note="No rule was active, or none could be replaced: this is the frozen agent.")
    events = [Event("add", record.id, record) for record in rival.random_rules]
    snapshot = context.memory.snapshot(context.memory.commit("random-rules", events, generation=0))
    shown = len(rival.random_rules)
    recall = FromMemory(snapshot, rules=shown, trajectories=0)
    arm = await _evaluated(context, "random-rules", recall, 0, Cost())
    return replace(arm, note=f"{shown} rules")


async def _evaluated(context: Context, name: str, recall: Recall, episodes: int, learning: Cost) -> Arm:
    context.say(f"controls: evaluating {name}")
    started = time.perf_counter()
    found = await evaluate_held_out(
        context,
        _seats(context, recall),
        generation=context.objective.generations,
        phase="control",
        arm=name,
        player=learning_seat(context),
    )
    cost = replace(found.cost, seconds=_seconds(context, name, started))
    return Arm(found.scores, learning + cost, episodes)


def _seats(context: Context, recall: Recall, *, temperature: float = 0.0) -> dict[str, Policy]:
    acting = Policy(context.model("actor"), recall, temperature=temperature, window_tokens=WINDOW_TOKENS)
    return seated(context, acting, lambda snapshot: NO_RECALL)


def _told(records: Sequence[Record], count: TokenCounter, budget: int, *, introduction: str) -> str:
    memory = WorkingMemory(budget - count(introduction), count, order="best_first", separator_tokens=2)
    text = memory.text([Scored(record, 0.0) for record in records], separator="\n\n")
    return f"{introduction}\n{text}\n" if text else ""


def _reworded(record: Record, text: str) -> Record:
    return new_record("rule", text, record.scope, meta=record.meta, status="active", generation=record.generation)


def _action(rule: Record) -> str:
    """What fills the frame of a rule; the whole text of one in free wording."""
    before, _, after = (rule.meta.get("situation") or "{action}").partition("{action}")
    return rule.text[len(before) : len(rule.text) - len(after)]


def _mean(episodes: Sequence[Episode], seat: str) -> float:
    scores = [
        each.outcome.score
        for episode in episodes
        for each in episode
        if not each.outcome.failure
        if seat in ("", each.player)
    ]
    return sum(scores) / len(scores) if scores else 0.0


def _cost(context: Context, name: str, episodes: Sequence[Episode], started: float) -> Cost:
    total = sum((each.cost for episode in episodes for each in episode), Cost())
    return replace(total, seconds=_seconds(context, name, started))


def _seconds(context: Context, name: str, started: float) -> float:
    """Of the clock, as first measured, so that a benchmark asked for again gives the same figures."""
    ledger = context.memory.ledger
    known = ledger.memo(f"seconds/{name}")
    if known is None:
        known = f"{time.perf_counter() - started:.3f}"
        ledger.add_memo(f"seconds/{name}", known)
    return float(known)
