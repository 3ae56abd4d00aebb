"""`agent-pro`: a player that rewrites its policy after lost hands, and keeps a text only if it earns more.

Agent-Pro: Learning to Evolve via Policy-Level Reflection and Optimization (arXiv 2402.17574). The policy is a text:
a guideline for behaviour and a model of the game and of the others. Before it acts the player writes down what it
believes of itself and of them. After a lost hand a critic goes over the whole hand, beliefs and revealed cards
included, and writes the policy anew. The same hand is replayed by the new text, and a text that mends it is tried on a
fixed set of other deals, all chairs rotated: where it earns more there than the text it was made of, the search goes on
from it, depth first. One generation plays hands by one policy and tries its children until one is accepted.

Deviations from the paper and its released code:
- The released code only plays; reflection, verification and search are as the paper tells them.
- The policy stands before the task and not among the instructions, which all hands and policies share.
- The selection deals are the same for the whole search, so the payoffs of all policies are comparable.
- A policy's children come from several lost hands, one from each, instead of several reflections on one hand.
- Where the model can score the options, the action is weighed behind the written beliefs and never illegal.
- The policy of a generation is the one with the highest payoff so far, also while the search looks at others.
- Without a model for the role `opponent`, every other seat has an opponent that the environment ships.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from langgraph.graph import StateGraph
from langgraph.runtime import Runtime
from pydantic import BaseModel, ConfigDict, Field

from evolvent.agents.context import Context
from evolvent.agents.episode import Job
from evolvent.agents.evaluation.held_out import evaluate_held_out
from evolvent.agents.evaluation.payoffs import BREAK_EVEN, Payoffs, earns_more, payoffs, total
from evolvent.agents.evolution import State, cycle, experiences, finish_generation, keep, spent_on
from evolvent.agents.models.role import RoleModel
from evolvent.agents.refinement.policy_reflection import PolicyText, read_policy, reflection, rewriting
from evolvent.agents.refinement.policy_search import (
    PolicyTree,
    accept,
    accepted_in,
    policy_record,
    policy_tree,
    refuse,
)
from evolvent.agents.solutions.act import Policy
from evolvent.agents.solutions.belief import believe
from evolvent.agents.solutions.recall import Fixed, Recall
from evolvent.agents.solutions.scratchpad import Scratchpad, tasks_of, thought
from evolvent.agents.solutions.seats import learning_seat, seated
from evolvent.agents.solutions.table import learner, one_learner, whole_deals
from evolvent.environments.types import Message, Recalled, Task, Trajectory
from evolvent.memory.rendering import recall_events
from evolvent.memory.store import Snapshot
from evolvent.memory.types import Event, Record

ROLES = ("actor", "critic", "opponent")
ENVIRONMENTS = ("cards", "blackjack")
CARRIES_OVER = True
"""A policy serves every hand, so it is measured on held-out deals."""

_HEAD = "Your policy:\n{text}"


class Config(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    guideline: str = (
        "Win as much as you can over many hands. Look at how good your hand is, risk more on a good one, and lose "
        "little on a bad one."
    )
    """The first part of the initial policy."""
    world: str = "The rules are those you were told. Nothing is known of the others yet."
    """The second part of it."""
    opponent: str = ""
    """One that the environment ships, for every other seat; empty takes the first. Not used where the role `opponent`
    is bound, nor for seats that the environment's option `bots` fills."""
    lost_below: float = Field(BREAK_EVEN, gt=0, le=1)
    """Score under which a hand is reflected on; 0.5 is break even."""
    candidates: int = Field(3, ge=1)
    """B: policies that are made of one policy at most."""
    max_depth: int = Field(4, ge=1)
    """Accepted policies one behind the other, with which the search ends."""
    max_reflections: int = Field(3, ge=1)
    """On one hand, until its replay comes out better."""
    selection_hands: int = Field(8, ge=1)
    """On which policies are compared; rounded up to whole deals, each played from all chairs."""
    temperature: float = Field(0.0, ge=0)
    """Of acting and of reflecting."""
    reply_tokens: int = Field(64, ge=1)
    """Of the beliefs and the action of one decision."""
    reflection_tokens: int = Field(48, ge=1)
    """Of what the critic says of one hand."""
    policy_tokens: int = Field(64, ge=1)
    """Of a whole policy."""
    verify: bool = True
    """Ablation: without it the hand is not replayed, nothing is compared, and every new text is accepted."""


PRESETS = {
    "small": Config(
        candidates=2, max_reflections=1, selection_hands=4, reply_tokens=40, reflection_tokens=32, policy_tokens=48
    ),
    "paper": Config(selection_hands=400, temperature=1.0, reply_tokens=512, reflection_tokens=512, policy_tokens=1024),
}


def build(config: Config) -> StateGraph[State, Context, State, State]:
    """initial, baseline, then per generation: tasks → play → feedback → (reflect → rewrite → verify)* → select* →
    evaluate."""

    async def initial(state: State, runtime: Runtime[Context]) -> State:
        """The initial policy enters memory, and what it earns on the selection deals is played out."""
        context = one_learner(runtime.context, config.opponent)
        text = str(PolicyText(config.guideline, config.world))
        first = policy_record(text, context.objective.environment.name, generation=0)
        keep(context, "initial", 0, [Event("add", first.id, first)])
        if config.verify:
            (earned,) = await _tried(context, config, 0, first)
            keep(context, "measured", 0, [Event("update", first.id, payload={"meta": _told(earned)})])
        return {"generation": 0, "tasks": []}

    async def baseline(state: State, runtime: Runtime[Context]) -> State:
        """Generation 0: the initial policy on held-out deals, in the world that the last generation will meet."""
        await _judge(runtime.context, config, state, world=runtime.context.objective.generations)
        return {}

    async def tasks(state: State, runtime: Runtime[Context]) -> State:
        """New hands for the policy whose children are tried; none while it has a child that waits for its trial."""
        context, generation = runtime.context, state["generation"] + 1
        tree = _tree(context, config)
        needed = tree.at is not None and not tree.waiting(tree.at)
        names = [task.id for task in tasks_of(context, generation)] if needed else []
        return {"generation": generation, "tasks": names, "episodes": [], "open": [], "round": 0}

    async def play(state: State, runtime: Runtime[Context]) -> State:
        """Hands by that policy."""
        context, generation = one_learner(runtime.context, config.opponent), state["generation"]
        policy = _tree(context, config).at
        if policy is None or not state["tasks"]:
            return {}
        context.say(f"generation {generation}: playing {len(state['tasks'])} hands")
        seats = _seats(context, config, policy.text, policy.id)
        jobs = [Job(task, seats, "train", generation, seed=context.seed) for task in tasks_of(context, generation)]
        await context.rollouts.run(context.objective.environment_at(generation), jobs)
        return {"episodes": [job.key for job in jobs]}

    async def feedback(state: State, runtime: Runtime[Context]) -> State:
        """The lost hands, the worst first: as many as the policy may still have children."""
        context = one_learner(runtime.context, config.opponent)
        tree, seat = _tree(context, config), learning_seat(context)
        scores: dict[str, float | None] = {}
        lost: list[tuple[float, str]] = []
        played = experiences(context, state["episodes"])
        keep(context, "played", state["generation"], recall_events(each.trajectory for each in played))
        for each in played:
            score = scores[each.trajectory.id] = each.feedback.score
            own = seat in ("", each.trajectory.player) and each.trajectory.steps
            if own and score is not None and score < config.lost_below:
                lost.append((score, each.task.id))
        # What is not verified is accepted: one text, and the search is elsewhere.
        room = config.candidates - len(tree.children(tree.at)) if tree.at and config.verify else 1
        return {"scores": scores, "open": [task for _, task in sorted(lost, key=lambda hand: hand[0])[:room]]}

    async def reflect(state: State, runtime: Runtime[Context]) -> State:
        """The critic says what went wrong in each, and why the texts that it made of it before did not mend it."""
        context = one_learner(runtime.context, config.opponent)
        pad, number = Scratchpad(context, state), state["round"]
        context.say(f"generation {state['generation']}: reflecting on {len(pad.open)} lost hands")
        await pad.each(
            pad.ask(
                task,
                "reflect",
                _asked(context, pad, state, task),
                number,
                role="critic",
                temperature=config.temperature,
                max_tokens=config.reflection_tokens,
            )
            for task in pad.open
        )
        return {}

    async def rewrite(state: State, runtime: Runtime[Context]) -> State:
        """And writes the whole policy anew."""
        context = one_learner(runtime.context, config.opponent)
        pad, number = Scratchpad(context, state), state["round"]
        replies = await pad.each(
            pad.ask(
                task,
                "rewrite",
                rewriting(_asked(context, pad, state, task), pad.said(task, "reflect", number) or ""),
                number,
                role="critic",
                temperature=config.temperature,
                max_tokens=config.policy_tokens,
            )
            for task in pad.open
        )
        for task, reply in zip(pad.open, replies, strict=True):
            before = _played_by(context, state, task).text
            text = str(read_policy(reply, read_policy(before))) if reply else ""
            pad.note(task, "policy", "" if text == before else text, number)
        return {}

    async def verify(state: State, runtime: Runtime[Context]) -> State:
        """The same hands by the new texts. One that goes better is a candidate; after the last try one that does not
        is refused."""
        context = one_learner(runtime.context, config.opponent)
        pad, generation, number = Scratchpad(context, state), state["generation"], state["round"]
        texts = {task.id: pad.said(task, "policy", number) or "" for task in pad.open}
        written = [task for task in pad.open if texts[task.id]]
        replays = [
            Job(
                task,
                _seats(context, config, texts[task.id]),
                "gate",
                generation,
                arm=_replay(number),
                seed=context.seed,
            )
            for task in written
        ]
        if config.verify:
            await context.rollouts.run(context.objective.environment_at(generation), replays)
        last, mended = number + 1 == config.max_reflections, set()
        events: list[Event] = []
        for task in written:
            before, after = _hand(context, state, task), _hand(context, state, task, replayed=number)
            better = not config.verify or _better(after, before)
            if better:
                mended.add(task.id)
            elif not last:
                continue
            record = policy_record(
                texts[task.id],
                context.objective.environment.name,
                generation,
                pad.tasks.index(task),
                of=_played_by(context, state, task).id,
                hands=[each.id for each in (before, after) if each],
                mends=better,
            )
            events.append(Event("add", record.id, record))
            if not better:
                scores = [each.outcome.score for each in (before, after) if each]
                events += refuse(record, {"reason": "the same hand went no better", "scores": scores})
        keep(context, f"verify/{number}", generation, events)
        left = [] if last else [task.id for task in pad.open if task.id not in mended]
        return {"open": left, "round": number + 1}

    async def select(state: State, runtime: Runtime[Context]) -> State:
        """The next child that waits, beside its parent on the selection deals. Open are those that wait after it."""
        context, generation = one_learner(runtime.context, config.opponent), state["generation"]
        tree = _tree(context, config)
        if tree.at is None or not (waiting := tree.waiting(tree.at)):
            return {"open": []}
        candidate = waiting[0]
        evidence: dict[str, Any] = {}
        accepted = best = True
        if config.verify:
            context.say(f"generation {generation}: trying a new policy on {config.selection_hands} hands")
            mine, parents, champions = await _tried(context, config, generation, candidate, tree.at, tree.acting)
            evidence = _told(mine) | {"parent_payoff": total(parents)}
            accepted = earns_more(mine, parents)
            best = earns_more(mine, champions)
        if accepted:
            events = accept(candidate, tree.acting, generation, evidence, best=best)
        else:
            events = refuse(candidate, {"reason": "it earns no more than its parent", **evidence})
        keep(context, f"select/{candidate.id}", generation, events)
        after = _tree(context, config)
        left = [] if accepted or after.at is None else after.waiting(after.at)
        return {"open": [each.id for each in left]}

    async def evaluate(state: State, runtime: Runtime[Context]) -> State:
        """The best policy so far on held-out deals, all chairs rotated; one that was judged before is not again."""
        await _judge(runtime.context, config, state, world=state["generation"])
        return {"episodes": [], "tasks": [], "scores": {}, "open": [], "round": 0}

    return cycle(
        {"initial": initial, "baseline": baseline},
        {
            "tasks": tasks,
            "play": play,
            "feedback": feedback,
            "reflect": reflect,
            "rewrite": rewrite,
            "verify": verify,
            "select": select,
            "evaluate": evaluate,
        },
        loops={"verify": "reflect", "select": "select"},
    )


def seat(config: Config, model: RoleModel, text: str, record: str = "") -> Policy:
    """Who acts by one policy text.

    Args:
        record: id of the record that the text is of, where it is of one.
    """
    return Policy(
        model,
        _shown(text, record),
        temperature=config.temperature,
        max_reply_tokens=config.reply_tokens,
        manner=believe,
    )


def contender(config: Config, model: RoleModel, snapshot: Snapshot) -> Policy:
    """A generation at another table: it acts by the best policy of its memory."""
    acting = _search(snapshot.records, config).acting
    return seat(config, model, acting.text, acting.id)


def _shown(text: str, record: str) -> Recall:
    recollection = Fixed((Recalled(record, True),) if record else (), _HEAD.format(text=text))
    return lambda task, player, rng: recollection


def _tree(context: Context, config: Config) -> PolicyTree:
    return _search(context.memory.records(), config)


def _search(records: Mapping[str, Record], config: Config) -> PolicyTree:
    return policy_tree(records.values(), breadth=config.candidates, depth=config.max_depth)


def _seats(context: Context, config: Config, text: str, record: str = "") -> dict[str, Policy]:
    """Every seat's policy, with this text for the one that learns."""

    def earlier(snapshot: Snapshot) -> Recall:
        acting = _search(snapshot.records, config).acting
        return _shown(acting.text, acting.id)

    return seated(context, seat(config, context.model("actor"), text, record), earlier)


def _replay(number: int) -> str:
    """The arm of the n-th replay of a hand: task, seed and random draws are those of the hand."""
    return f"replay-{number}"


def _hand(context: Context, state: State, task: Task, *, replayed: int | None = None) -> Trajectory | None:
    """The learner's side of a training hand, or of a replay of it; None where it was not played."""
    hand = Job(task, {}, "train", state["generation"], seed=context.seed)
    if replayed is not None:
        hand = replace(hand, phase="gate", arm=_replay(replayed))
    episode = context.memory.ledger.episode(hand.key)
    return learner(context, episode) if episode else None


def _better(after: Trajectory | None, before: Trajectory | None) -> bool:
    if after is None or before is None or after.outcome.failure:
        return False
    return after.outcome.score > before.outcome.score


def _played_by(context: Context, state: State, task: Task) -> Record:
    """The policy of a training hand."""
    hand = _hand(context, state, task)
    assert hand is not None
    return context.memory.records()[hand.recalled[0].record]


def _asked(context: Context, pad: Scratchpad, state: State, task: Task) -> list[Message]:
    """What the critic is asked about a hand this time."""
    hand = _hand(context, state, task)
    assert hand is not None
    earlier = [(pad.said(task, "policy", n), _hand(context, state, task, replayed=n)) for n in range(state["round"])]
    again = [(text, replay) for text, replay in earlier if text and replay]
    return reflection(_played_by(context, state, task).text, hand, again)


def _age(context: Context, policy: Record, generation: int) -> int:
    """The generation whose episodes tell of a policy: the one that accepted it, so that none is played twice. Where
    world or opponent change from generation to generation they tell nothing of the next one."""
    changing = context.objective.shifts or context.earlier_selves
    return generation if changing or accepted_in(policy) < 0 else accepted_in(policy)


async def _tried(context: Context, config: Config, generation: int, *policies: Record) -> list[Payoffs]:
    """What each policy earns on the selection deals."""
    tasks = context.tasks("validation", whole_deals(context, config.selection_hands), generation)

    def table(policy: Record) -> list[Job]:
        seats, age = _seats(context, config, policy.text, policy.id), _age(context, policy, generation)
        return [Job(task, seats, "gate", age, arm=f"policy-{policy.id}", seed=context.seed) for task in tasks]

    return await payoffs(context, generation, *map(table, policies))


def _told(earned: Payoffs) -> dict[str, Any]:
    return {"payoff": total(earned), "hands": len(earned)}


async def _judge(context: Context, config: Config, state: State, *, world: int) -> None:
    """The end of a generation, with where the search is and what was earned on the way there."""
    context, generation = one_learner(context, config.opponent), state["generation"]
    context.say(f"generation {generation}: evaluating on held-out deals")
    tree = _tree(context, config)
    acting = tree.acting
    found = await evaluate_held_out(
        context,
        _seats(context, config, acting.text, acting.id),
        generation=_age(context, acting, generation),
        player=learning_seat(context),
        world=world,
    )
    finish_generation(
        context,
        generation,
        found,
        spent=spent_on(context, generation) + thought(context.memory.ledger, generation),
        asked=context.objective.evaluated,
        policy=acting.id,
        payoffs=[each.meta.get("payoff") for each in tree.path(acting)],
        tried=sum(each.status != "candidate" for each in tree.policies) - 1,
        searching=tree.at is not None,
    )
