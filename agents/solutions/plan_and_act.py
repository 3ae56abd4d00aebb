"""Planning first, then acting goal by goal, one call of a tool a step; a goal like a known one is met by its pipeline.

The plan-and-act agent of ICE (arXiv 2401.13996, §2) with what §3.3 exploits: the planner sees what recall puts before
the task; the goal that comes next is met by the pipeline of the most similar known goal, node by node and without the
model, except for slots that cannot be copied and where ways part. A call that fails, and a value that nobody has, hand
the goal to the one that acts, who goes on from there.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from evolvent.agents.refinement.pipeline import END, Call, Pipeline, as_call, as_example, copied, reached
from evolvent.agents.solutions.act import Acted, Policy, history_from
from evolvent.agents.solutions.chosen import number_in
from evolvent.agents.solutions.plans import (
    Course,
    Goal,
    Plan,
    Status,
    at_work,
    begun,
    changed,
    course,
    goals_in,
    revised,
    told,
)
from evolvent.agents.solutions.recall import Recall, Recollection
from evolvent.agents.solutions.scratchpad import agreed, assistant
from evolvent.agents.types import CallTag
from evolvent.environments.errors import MalformedCallError
from evolvent.environments.tool_calls import read_call, write_call
from evolvent.environments.types import (
    Action,
    Cost,
    Message,
    Observation,
    Recalled,
    Sampling,
    Step,
    Task,
    ToolCall,
    conversation,
)
from evolvent.memory.embedding import Embedder

PLAN, REVISE, SLOT, BRANCH, CONFIRM = "plan", "revise", "slot", "branch", "confirm"
"""Purposes of the calls that are no action."""
_PLAN = (
    "Do not act yet. Which goals have to be reached, one after the other? Write them as a numbered list, a goal a "
    "line, in the words of the task. To hand in is no goal."
)
_WORK = "Work on goal {number}. Write one call each time; write done once the goal is met, or failed if it cannot be."
_CLOSE = "No goal is left to work on. Write the call that hands in what was asked for."
_ENDED = "Goal {number} is {status}."
_REVISE = "Write the goals that are still to be reached, as a numbered list, or: unchanged"
_SLOT = (
    'For the goal "{goal}" the next call is {tool}. What is its {slot}? For the goal "{learned}" it was {example}. '
    "Write the value alone."
)
_BRANCH = 'Which call comes next for the goal "{goal}"?\n{ways}\nReply with its number alone.'
_CONFIRM = "The next call is {call}, which cannot be undone. Is it right? Answer with yes or no."
_WORD = re.compile(r"\W*(done|failed)\W*", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Apart:
    """Two recalls in one: what the first finds stands before the task, what the second finds is at hand each step."""

    before: Recall
    at_hand: Recall

    def __call__(self, task: Task, player: str, rng: random.Random) -> Recollection:
        before, at_hand = self.before(task, player, rng), self.at_hand(task, player, rng)
        return _Both((*before.recalled, *at_hand.recalled), before.head, at_hand.head)


@dataclass(frozen=True, slots=True)
class _Both:
    recalled: tuple[Recalled, ...]
    head: str
    each: str

    def hint(self, observation: Observation) -> str:
        return self.each


def most_similar(embedder: Embedder, goal: str, known: Mapping[str, str], threshold: float) -> str | None:
    """Name of the text most similar to a goal, of those whose cosine to it is no less than the threshold."""
    if not known:
        return None
    goal_D, *texts_ND = embedder.embed([goal, *known.values()])
    near = {name: round(float(text_D @ goal_D), 6) for name, text_D in zip(known, texts_ND, strict=True)}
    best = min(near, key=lambda name: (-near[name], name))
    return best if near[best] >= threshold else None


@dataclass(frozen=True, slots=True)
class PlanAndAct:
    """A manner of acting by plan and pipelines. Recall's hint names the pipelines at hand; no model reads it."""

    pipelines: Mapping[str, Pipeline]
    """By record id: at least all that may be at hand."""
    embedder: Embedder
    call_of: Callable[[Step], Call]
    """What a step's call and its result were."""
    threshold: float
    """Cosine of two goals from which on one's pipeline is gone for the other."""
    confirmed: Callable[[str], bool] = lambda tool: False
    """Whether a pipeline's call of this tool is made only after the model has said yes."""
    plan_tokens: int = 128
    """Of a reply that lists goals."""
    most_goals: int = 8
    """Of one reply."""
    most_calls: int = 8
    """For one goal; beyond it the goal has failed."""
    revisions: int = 4
    """Times at most that the planner is asked once more, in an episode."""

    async def __call__(
        self,
        policy: Policy,
        observation: Observation,
        new: tuple[Message, ...],
        earlier: Sequence[Step],
        tag: CallTag,
        rng: random.Random,
    ) -> Acted:
        messages, at_hand = _at_hand(new)
        turn = _Turn(policy, observation, messages, earlier, tag, rng)
        past = course(earlier, self.call_of)
        plan = past.plan or self._said(turn, await self._planned(turn), at_hand)
        while (at := at_work(plan)) is not None:
            calls = past.leaves[at].calls if at < len(past.leaves) else ()
            if plan[at].way:
                step = await self._replayed(turn, plan[at], past, calls)
                if isinstance(step, ToolCall):
                    return turn.replay(write_call(step))
                now = replace(plan[at], status="met") if step else replace(plan[at], way="")
                plan = self._said(turn, changed(plan, at, now), at_hand)
                continue
            ended: Status = "failed"
            if len(calls) < self.most_calls:
                reply = await turn.ask()
                word = _WORD.fullmatch(_first_line(reply))
                if word is None:
                    return turn.act(reply)
                turn.messages.append(assistant(reply))
                ended = "met" if word[1].lower() == "done" else "failed"
            plan = await self._refined(turn, changed(plan, at, replace(plan[at], status=ended)), at)
            plan = self._said(turn, plan, at_hand)
        return turn.act(await turn.ask())

    async def _planned(self, turn: _Turn) -> Plan:
        turn.messages.append(Message("user", "history", _PLAN))
        reply = await turn.ask(PLAN, self.plan_tokens)
        turn.messages.append(assistant(reply))
        # Who writes no list is left with the task as it is.
        goals = goals_in(reply, self.most_goals) or [" ".join(turn.task.split())]
        return tuple(map(Goal, goals))

    async def _refined(self, turn: _Turn, plan: Plan, at: int) -> Plan:
        """The plan as the planner has it now that a goal has ended; a last one that was met leaves nothing to plan."""
        nothing_left = plan[at].status == "met" and all(goal.status != "open" for goal in plan)
        if nothing_left or turn.revisions() >= self.revisions:
            return plan
        ended = _ENDED.format(number=at + 1, status=plan[at].status)
        turn.messages += [Message("user", "history", ended), Message("user", "history", _REVISE)]
        reply = await turn.ask(REVISE, self.plan_tokens)
        turn.messages.append(assistant(reply))
        goals = goals_in(reply, self.most_goals)
        return revised(plan, goals) if goals else plan

    def _said(self, turn: _Turn, plan: Plan, at_hand: Sequence[str]) -> Plan:
        """The next goal is begun, if none is at work, and the plan as it is now stands in the conversation."""
        if at_work(plan) is None:
            plan = begun(plan, lambda goal: self._way_for(goal, at_hand))
        at = at_work(plan)
        turn.messages.append(told(plan, _CLOSE if at is None else _WORK.format(number=at + 1)))
        return plan

    def _way_for(self, goal: str, at_hand: Sequence[str]) -> str:
        known = {name: self.pipelines[name].goal for name in at_hand if name in self.pipelines}
        return most_similar(self.embedder, goal, known, self.threshold) or ""

    async def _replayed(self, turn: _Turn, goal: Goal, past: Course, calls: Sequence[Call]) -> ToolCall | bool:
        """The pipeline's next call for a goal; True where it is at its end, False where it leads no further."""
        pipeline = self.pipelines.get(goal.way)
        before = past.calls[: len(past.calls) - len(calls)]
        here = None if pipeline is None else reached(pipeline, goal.text, before, calls)
        if pipeline is None or here is None:
            return False
        ways = pipeline.following(here)
        if len(ways) > 1:
            names = [pipeline.nodes[way.end].tool if way.end != END else "none, it is met" for way in ways]
            listed = "\n".join(
                f"{number}. {name}, as for: {way.when}"
                for number, (name, way) in enumerate(zip(names, ways, strict=True), 1)
            )
            reply = await turn.aside(BRANCH, _BRANCH.format(goal=goal.text, ways=listed))
            number = number_in(reply, len(ways))
            if number is None:
                return False
            ways = [ways[number - 1]]
        if ways[0].end == END:
            return True
        node, values = pipeline.nodes[ways[0].end], []
        for slot in node.slots:
            value = copied(slot, pipeline, goal.text, past.calls)
            if value is None:
                asked = _SLOT.format(
                    goal=goal.text, tool=node.tool, slot=slot.name, learned=pipeline.goal, example=slot.example
                )
                value = as_example(slot, _first_line(await turn.aside(SLOT, asked)).strip(" \"'`"))
            if value is None:
                return False
            values.append(value)
        call = as_call(node, values)
        if self.confirmed(call.name):
            reply = await turn.aside(CONFIRM, _CONFIRM.format(call=write_call(call)))
            if not agreed(reply):
                return False
        return call


@dataclass(slots=True)
class _Turn:
    """One step on its way: what was said in it so far, and what that cost."""

    policy: Policy
    observation: Observation
    messages: list[Message]
    earlier: Sequence[Step]
    tag: CallTag
    rng: random.Random
    cost: Cost = field(default_factory=Cost)

    @property
    def task(self) -> str:
        """The task as the first step was told it."""
        first = self.earlier[0].messages if self.earlier else self.messages
        return next((message.text for message in first if message.part == "task"), "")

    def revisions(self) -> int:
        """How often the planner was asked once more in this episode."""
        said = [*(message for step in self.earlier for message in step.messages), *self.messages]
        return sum(message.text == _REVISE for message in said)

    async def ask(self, purpose: str = "", max_tokens: int | None = None) -> str:
        """The model's reply to the conversation so far."""
        return await self._reply(self.messages, purpose or self.tag.purpose, max_tokens)

    async def aside(self, purpose: str, question: str) -> str:
        """The reply to a question that leaves no trace in the conversation."""
        return await self._reply([*self.messages, Message("user", "history", question)], purpose, None)

    def act(self, reply: str) -> Acted:
        call, malformed = _call_in(reply)
        sampling = Sampling(self.policy.temperature, "generate")
        return Acted(self._step(reply, call, sampling), self.cost, malformed=malformed)

    def replay(self, call: str) -> Acted:
        return Acted(self._step(call, call, Sampling()), self.cost)

    async def _reply(self, messages: Sequence[Message], purpose: str, max_tokens: int | None) -> str:
        new = tuple(messages)
        reply = await self.policy.write(
            conversation(self.earlier, new, history_from(self.policy, self.earlier, new)),
            replace(self.tag, purpose=purpose),
            self.rng,
            max_tokens=max_tokens,
            stop=() if max_tokens else None,
        )
        self.cost += reply.cost
        return reply.text

    def _step(self, reply: str, call: str, sampling: Sampling) -> Step:
        new = tuple(self.messages)
        return Step(
            self.observation.player,
            self.observation,
            new,
            reply,
            Action(call),
            sampling=sampling,
            history_from=history_from(self.policy, self.earlier, new),
        )


def _at_hand(new: Sequence[Message]) -> tuple[list[Message], list[str]]:
    """What a step adds to the conversation, and the ids that recall's hint behind the observation holds."""
    seen = next(at for at, message in enumerate(new) if message.part == "history")
    hints = [message.text for message in new[seen:] if message.part == "memory"]
    return [m for at, m in enumerate(new) if at <= seen or m.part != "memory"], " ".join(hints).split()


def _call_in(reply: str) -> tuple[str, bool]:
    """(the first line of a reply that is a call, or all of it where none is; whether none is)."""
    for text in (reply, *reply.splitlines()):
        try:
            return write_call(read_call(text)), False
        except MalformedCallError:
            continue
    return reply.strip(), True


def _first_line(reply: str) -> str:
    return next((line.strip() for line in reply.splitlines() if line.strip()), "")
